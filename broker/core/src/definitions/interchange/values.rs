//! Arguments between AMQP's types and JSON's.
//!
//! JSON has fewer types: every integer becomes a `long`, every float a `double`, timestamps are
//! numbers, byte arrays and strings are text (what is not UTF-8 in them is replaced), a decimal is
//! a float. The fields of a table are in the order of their names.

use serde_json::{Map, Number, Value};
use warren_protocol::ShortString;
use warren_protocol::limits::TABLE_DEPTH_MAX;
use warren_protocol::table::{FieldTable, FieldValue};

use super::ARGUMENTS_BYTES_MAX;

/// What is wrong with arguments, and in which of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct WrongValue {
    /// `.name` or `[index]`, from the outermost on.
    pub(super) path: String,
    pub(super) cause: String,
}

/// What reading back gives after these arguments were written.
#[must_use]
pub fn normalized(arguments: &FieldTable) -> FieldTable {
    if arguments.is_empty() {
        return FieldTable::new();
    }
    let mut lossy = false;
    let json = table_to_json(arguments, &mut lossy);
    // A table that was taken from a client is never deeper or larger than one of a file may be.
    table(&json).unwrap_or_else(|_| super::super::canonical_arguments(arguments))
}

/// Arguments as JSON text. Sets `lossy` where text is not UTF-8.
pub(super) fn write(arguments: &FieldTable, out: &mut String, lossy: &mut bool) {
    if arguments.is_empty() {
        out.push_str("{}");
    } else {
        out.push_str(&table_to_json(arguments, lossy).to_string());
    }
}

/// Arguments as JSON text, for people.
pub(in crate::definitions) fn to_text(arguments: &FieldTable) -> String {
    let mut text = String::new();
    write(arguments, &mut text, &mut false);
    text
}

/// Bytes as text; sets `lossy` where they are not UTF-8.
pub(super) fn text(bytes: &[u8], lossy: &mut bool) -> String {
    let text = String::from_utf8_lossy(bytes);
    *lossy |= matches!(text, std::borrow::Cow::Owned(_));
    text.into_owned()
}

fn table_to_json(table: &FieldTable, lossy: &mut bool) -> Value {
    let mut fields = Map::new();
    for (name, value) in table.iter() {
        let name = text(name.as_bytes(), lossy);
        // Look-ups find the first of a name.
        if !fields.contains_key(&name) {
            let value = to_json(value, lossy);
            fields.insert(name, value);
        }
    }
    fields.sort_keys();
    Value::Object(fields)
}

fn to_json(value: &FieldValue, lossy: &mut bool) -> Value {
    let float = |value: f64| Number::from_f64(value).map_or(Value::Null, Value::Number);
    match value {
        FieldValue::Bool(value) => Value::Bool(*value),
        FieldValue::Float(value) => float(f64::from(*value)),
        FieldValue::Double(value) => float(*value),
        FieldValue::Decimal { scale, value } => {
            float(f64::from(*value) / 10_f64.powi(i32::from(*scale)))
        }
        FieldValue::LongStr(bytes) | FieldValue::Binary(bytes) => Value::String(text(bytes, lossy)),
        FieldValue::Timestamp(seconds) => i64::try_from(*seconds).unwrap_or(i64::MAX).into(),
        FieldValue::Array(values) => {
            let values = values.iter().map(|value| to_json(value, lossy));
            Value::Array(values.collect())
        }
        FieldValue::Table(table) => table_to_json(table, lossy),
        FieldValue::Void => Value::Null,
        FieldValue::Byte(_)
        | FieldValue::UnsignedByte(_)
        | FieldValue::Short(_)
        | FieldValue::UnsignedShort(_)
        | FieldValue::SignedInt(_)
        | FieldValue::UnsignedInt(_)
        | FieldValue::Long(_) => value.as_i64().map_or(Value::Null, Value::from),
    }
}

/// A table of a file. An empty list and a list of pairs are tables as well: RabbitMQ writes them.
///
/// # Errors
/// What does not fit into a table of AMQP.
pub(super) fn table(json: &Value) -> Result<FieldTable, WrongValue> {
    let table = match pairs(json) {
        Some(pairs) => fields(pairs, 0)?,
        None => return Err(WrongValue::new("it must be an object")),
    };
    let bytes = table.to_bytes().len();
    if bytes > ARGUMENTS_BYTES_MAX {
        return Err(WrongValue::new(format!(
            "{bytes} bytes, at most {ARGUMENTS_BYTES_MAX} are taken"
        )));
    }
    Ok(table)
}

/// The fields of an object, or of a list of pairs.
pub(super) fn pairs(json: &Value) -> Option<Vec<(&str, &Value)>> {
    match json {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.as_str(), value));
            Some(fields.collect())
        }
        Value::Array(pairs) => pairs
            .iter()
            .map(|pair| match pair.as_array()?.as_slice() {
                [Value::String(name), value] => Some((name.as_str(), value)),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn fields(mut fields: Vec<(&str, &Value)>, depth: usize) -> Result<FieldTable, WrongValue> {
    fields.sort_by_key(|(name, _)| *name);
    let field = |(name, value): (&str, &Value)| {
        let short = ShortString::try_from(name);
        let short = short.map_err(|_| WrongValue {
            path: format!(".{}", shortened(name)),
            cause: "the name is longer than 255 bytes".to_owned(),
        })?;
        let value = from_json(value, depth).map_err(|wrong| wrong.inside(format!(".{name}")))?;
        Ok((short, value))
    };
    fields.into_iter().map(field).collect()
}

fn from_json(value: &Value, depth: usize) -> Result<FieldValue, WrongValue> {
    Ok(match value {
        Value::Null => FieldValue::Void,
        Value::Bool(value) => FieldValue::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => FieldValue::Long(integer),
            (None, Some(float)) if !number.is_u64() => FieldValue::Double(float),
            _ => {
                let cause = format!("the integer {number} is larger than {}", i64::MAX);
                return Err(WrongValue::new(cause));
            }
        },
        Value::String(text) => FieldValue::LongStr(text.clone().into_bytes()),
        Value::Array(values) => {
            let depth = deeper(depth)?;
            let value = |(at, value): (usize, &Value)| {
                from_json(value, depth).map_err(|wrong| wrong.inside(format!("[{at}]")))
            };
            FieldValue::Array(
                values
                    .iter()
                    .enumerate()
                    .map(value)
                    .collect::<Result<_, _>>()?,
            )
        }
        Value::Object(table) => {
            let table = table.iter().map(|(name, value)| (name.as_str(), value));
            FieldValue::Table(fields(table.collect(), deeper(depth)?)?)
        }
    })
}

fn deeper(depth: usize) -> Result<usize, WrongValue> {
    if depth >= TABLE_DEPTH_MAX {
        let cause = format!("nested deeper than {TABLE_DEPTH_MAX}");
        return Err(WrongValue::new(cause));
    }
    Ok(depth + 1)
}

/// A name that may be of any length, for an error text.
pub(super) fn shortened(name: &str) -> String {
    const CHARACTERS_MAX: usize = 64;
    match name.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}..", &name[..end]),
        None => name.to_owned(),
    }
}

impl WrongValue {
    fn new(cause: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            cause: cause.into(),
        }
    }

    fn inside(mut self, outer: String) -> Self {
        self.path = outer + &self.path;
        self
    }
}
