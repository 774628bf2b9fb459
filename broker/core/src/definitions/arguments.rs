//! Arguments of queues and exchanges.

use warren_protocol::table::FieldValue;

/// A value as Erlang's `~tp` prints it in RabbitMQ's texts.
#[must_use]
pub fn erlang_value(value: &FieldValue) -> String {
    match value {
        FieldValue::LongStr(text) | FieldValue::Binary(text) => {
            format!("<<\"{}\">>", String::from_utf8_lossy(text))
        }
        FieldValue::Bool(value) => value.to_string(),
        other => other
            .as_i64()
            .map_or_else(|| format!("{other:?}"), |value| value.to_string()),
    }
}
