//! What a declaration of something that exists must agree with; the first mismatch is the answer.
//!
//! As in RabbitMQ: all integer types are one class, so that arguments are compared by value alone,
//! and only arguments that mean something to the type are compared.

use warren_protocol::ReplyCode;
use warren_protocol::table::{FieldTable, FieldValue};

use super::arguments::{RULES, erlang_value, queue_kind};
use super::{ExchangeRow, QueueRow, VhostRow};
use crate::dispatch::operation::{DeclareExchange, DeclareQueue};
use crate::exception::{Exception, resource};
use crate::ids::SessionId;

/// Compared by the types that stand in the rows, not as an argument.
const QUEUE_TYPE: &str = "x-queue-type";

/// Whether a queue may be declared again like this, by this connection (`None`: not by one).
///
/// # Errors
/// 405 for an exclusive queue of another connection, and where one declaration says exclusive and
/// the other does not; 406 naming the first field or argument that differs.
pub fn check_queue(
    vhost: &str,
    vhost_row: &VhostRow,
    present: &QueueRow,
    wanted: &DeclareQueue,
    session: Option<SessionId>,
) -> Result<(), Exception> {
    let owner = present.owner.as_ref().map(|owner| owner.session);
    let wanted_owner = session.filter(|_| wanted.exclusive);
    if owner != wanted_owner || (wanted.exclusive && owner.is_none()) {
        return Err(locked(vhost, &wanted.name));
    }
    let name = resource("queue", &wanted.name, vhost);
    field(&name, "durable", &present.durable, &wanted.durable)?;
    field(
        &name,
        "auto_delete",
        &present.auto_delete,
        &wanted.auto_delete,
    )?;
    for rule in RULES {
        if rule.key == QUEUE_TYPE {
            let wanted = queue_kind(vhost_row, wanted)?;
            field(&name, rule.key, present.kind.name(), wanted.name())?;
        } else if rule.is_known_to(present.kind) {
            argument(&name, rule.key, &present.arguments, &wanted.arguments)?;
        }
    }
    Ok(())
}

/// Whether a connection may use a queue at all.
///
/// # Errors
/// 405 for an exclusive queue of another connection.
pub fn check_exclusive(
    vhost: &str,
    name: &[u8],
    queue: &QueueRow,
    session: Option<SessionId>,
) -> Result<(), Exception> {
    match &queue.owner {
        Some(owner) if Some(owner.session) != session => Err(locked(vhost, name)),
        _ => Ok(()),
    }
}

/// Whether an exchange may be declared again like this.
///
/// # Errors
/// 406 naming the first field or argument that differs.
pub fn check_exchange(
    vhost: &str,
    present: &ExchangeRow,
    wanted: &DeclareExchange,
) -> Result<(), Exception> {
    let name = resource("exchange", &wanted.name, vhost);
    let wanted_kind = String::from_utf8_lossy(&wanted.kind);
    field(&name, "type", present.kind.name(), &*wanted_kind)?;
    field(&name, "durable", &present.durable, &wanted.durable)?;
    field(
        &name,
        "auto_delete",
        &present.auto_delete,
        &wanted.auto_delete,
    )?;
    field(&name, "internal", &present.internal, &wanted.internal)?;
    let key = "alternate-exchange";
    argument(&name, key, &present.arguments, &wanted.arguments)
}

fn locked(vhost: &str, name: &[u8]) -> Exception {
    let name = resource("queue", name, vhost);
    Exception::new(
        ReplyCode::ResourceLocked,
        format!(
            "cannot obtain exclusive access to locked {name}. It could be originally declared on \
             another connection or the exclusive property value does not match that of the \
             original declaration."
        ),
    )
}

fn field<T: PartialEq + std::fmt::Display + ?Sized>(
    name: &str,
    key: &str,
    present: &T,
    wanted: &T,
) -> Result<(), Exception> {
    if present == wanted {
        return Ok(());
    }
    Err(inequivalent(
        name,
        key,
        &format!("'{wanted}'"),
        &format!("'{present}'"),
    ))
}

fn argument(
    name: &str,
    key: &str,
    present: &FieldTable,
    wanted: &FieldTable,
) -> Result<(), Exception> {
    match (present.get(key), wanted.get(key)) {
        (None, None) => Ok(()),
        (Some(present), Some(wanted)) => {
            if same_value(present, wanted) {
                return Ok(());
            }
            let quoted = |value: &FieldValue| format!("'{}'", printed(value));
            Err(inequivalent(name, key, &quoted(wanted), &quoted(present)))
        }
        (present, wanted) => Err(inequivalent(name, key, &typed(wanted), &typed(present))),
    }
}

fn same_value(a: &FieldValue, b: &FieldValue) -> bool {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A string as it is, everything else as Erlang prints it.
fn printed(value: &FieldValue) -> String {
    match value {
        FieldValue::LongStr(text) | FieldValue::Binary(text) => {
            String::from_utf8_lossy(text).into_owned()
        }
        other => erlang_value(other),
    }
}

fn typed(value: Option<&FieldValue>) -> String {
    let Some(value) = value else {
        return "none".to_owned();
    };
    let kind = value.type_name();
    format!("the value '{}' of type '{kind}'", printed(value))
}

fn inequivalent(name: &str, key: &str, wanted: &str, present: &str) -> Exception {
    Exception::precondition(format!(
        "inequivalent arg '{key}' for {name}: received {wanted} but current is {present}"
    ))
}

#[cfg(test)]
mod tests;
