//! Arguments of queues and exchanges: which ones we know, what values they take, and the texts
//! of RabbitMQ when they do not.
//!
//! Invariant: there are three ways for an argument that RabbitMQ knows, obeyed, accepted because it
//! changes nothing here, or refused with 540; none is ignored. What RabbitMQ does not know either
//! is accepted.

use warren_protocol::ReplyCode;
use warren_protocol::table::{FieldTable, FieldValue};

use super::{QueueKind, VhostRow};
use crate::dispatch::operation::DeclareQueue;
use crate::exception::{Exception, resource};

/// The longest time that RabbitMQ takes for a timer: ten years.
const EXPIRY_MS_MAX: i64 = 10 * 365 * 86_400 * 1000;
const PRIORITY_MAX: i64 = 255;
const STREAM_SEGMENT_BYTES_MAX: i64 = 3_000_000_000;
/// The longest prefix of a server-named queue.
const NAME_PREFIX_BYTES_MAX: usize = 64;

const QUEUE_TYPE: &str = "x-queue-type";
const NAME_PREFIX: &str = "x-name-prefix";
const ALTERNATE_EXCHANGE: &str = "alternate-exchange";

/// What is wrong with a value, as the Erlang term that RabbitMQ's text ends with.
type Checked = Result<(), String>;

/// A queue argument that RabbitMQ knows.
pub(super) struct Rule {
    pub(super) key: &'static str,
    /// Which queue types take it.
    types: Types,
    check: fn(&FieldValue, &FieldTable) -> Checked,
    /// Whether a value is obeyed, or changes nothing.
    supported: fn(&FieldValue) -> bool,
}

#[derive(Clone, Copy)]
struct Types {
    classic: bool,
    quorum: bool,
}

const BOTH: Types = Types {
    classic: true,
    quorum: true,
};
const CLASSIC: Types = Types {
    classic: true,
    quorum: false,
};
const QUORUM: Types = Types {
    classic: false,
    quorum: true,
};
const STREAM: Types = Types {
    classic: false,
    quorum: false,
};

/// In the order in which RabbitMQ looks at them.
pub(super) const RULES: &[Rule] = &[
    Rule::refused("x-expires", BOTH, expires),
    Rule::refused("x-message-ttl", BOTH, expiry),
    Rule::refused("x-dead-letter-exchange", BOTH, text),
    Rule::refused("x-dead-letter-routing-key", BOTH, dead_letter_key),
    Rule::refused("x-dead-letter-strategy", QUORUM, dead_letter_strategy),
    Rule::refused("x-max-length", BOTH, not_negative),
    Rule::refused("x-max-length-bytes", BOTH, not_negative),
    Rule::accepted("x-max-in-memory-length", QUORUM, not_negative),
    Rule::accepted("x-max-in-memory-bytes", QUORUM, not_negative),
    Rule::refused("x-max-priority", CLASSIC, max_priority),
    Rule::refused("x-overflow", BOTH, overflow),
    Rule::accepted("x-queue-mode", CLASSIC, queue_mode),
    Rule::accepted("x-queue-version", CLASSIC, queue_version),
    Rule {
        key: "x-single-active-consumer",
        types: BOTH,
        check: boolean,
        supported: |value| value.as_bool() == Some(false),
    },
    Rule::accepted(QUEUE_TYPE, BOTH, queue_type),
    Rule::accepted("x-quorum-initial-group-size", QUORUM, positive),
    Rule::refused("x-max-age", STREAM, max_age),
    Rule::refused("x-stream-max-segment-size-bytes", STREAM, segment_size),
    Rule::refused("x-stream-filter-size-bytes", STREAM, filter_size),
    Rule::refused("x-initial-cluster-size", STREAM, positive),
    Rule::accepted("x-queue-leader-locator", BOTH, leader_locator),
    Rule::refused("x-delivery-limit", QUORUM, integer),
    Rule::refused("x-consumer-timeout", QUORUM, not_negative),
    Rule::refused("x-consumer-disconnected-timeout", QUORUM, not_negative),
    Rule::refused("x-delayed-retry-type", QUORUM, retry_type),
    Rule::refused("x-delayed-retry-min", QUORUM, not_negative),
    Rule::refused("x-delayed-retry-max", QUORUM, not_negative),
    Rule::refused("x-member-placement-tag", QUORUM, not_empty),
];

impl Rule {
    const fn refused(
        key: &'static str,
        types: Types,
        check: fn(&FieldValue, &FieldTable) -> Checked,
    ) -> Self {
        Self {
            key,
            types,
            check,
            supported: |_| false,
        }
    }

    const fn accepted(
        key: &'static str,
        types: Types,
        check: fn(&FieldValue, &FieldTable) -> Checked,
    ) -> Self {
        Self {
            key,
            types,
            check,
            supported: |_| true,
        }
    }

    pub(super) fn is_known_to(&self, kind: QueueKind) -> bool {
        match kind {
            QueueKind::Classic => self.types.classic,
            QueueKind::Quorum => self.types.quorum,
        }
    }
}

/// Checks the declaration of a queue that does not exist yet, and says which type it has.
///
/// # Errors
/// 406 for values, keys and properties that RabbitMQ refuses, 540 for what we do not have.
pub fn check_queue(
    vhost: &str,
    vhost_row: &VhostRow,
    wanted: &DeclareQueue,
) -> Result<QueueKind, Exception> {
    let name = resource("queue", &wanted.name, vhost);
    for rule in RULES {
        if let Some(value) = wanted.arguments.get(rule.key) {
            (rule.check)(value, &wanted.arguments).map_err(|reason| {
                let key = rule.key;
                Exception::precondition(format!("invalid arg '{key}' for {name}: {reason}"))
            })?;
        }
    }
    let kind = queue_kind(vhost_row, wanted)?;
    if kind == QueueKind::Quorum {
        check_quorum_properties(&name, wanted)?;
    }
    for rule in RULES {
        let Some(value) = wanted.arguments.get(rule.key) else {
            continue;
        };
        if !rule.is_known_to(kind) {
            return Err(Exception::precondition(format!(
                "invalid arg '{}' for {name} of queue type rabbit_{}_queue",
                rule.key,
                kind.name()
            )));
        }
        if !(rule.supported)(value) {
            return Err(Exception::new(
                ReplyCode::NotImplemented,
                format!("argument '{}' is not supported yet", rule.key),
            ));
        }
    }
    Ok(kind)
}

/// The type that a declaration asks for, or the vhost's default where the queue can have it.
///
/// # Errors
/// 540 for streams.
pub fn queue_kind(vhost: &VhostRow, wanted: &DeclareQueue) -> Result<QueueKind, Exception> {
    match wanted
        .arguments
        .get(QUEUE_TYPE)
        .and_then(FieldValue::as_str)
    {
        Some("quorum") => Ok(QueueKind::Quorum),
        Some("stream") => Err(Exception::new(
            ReplyCode::NotImplemented,
            "queue type 'stream' is not supported yet",
        )),
        Some(_) => Ok(QueueKind::Classic),
        None => {
            let can_be_quorum = wanted.durable && !wanted.exclusive && !wanted.auto_delete;
            if vhost.default_queue_type == "quorum" && can_be_quorum {
                return Ok(QueueKind::Quorum);
            }
            Ok(QueueKind::Classic)
        }
    }
}

/// Whether the server may name the queue.
///
/// # Errors
/// 406 for a quorum queue, 540 for a stream.
pub fn check_server_named(vhost: &VhostRow, wanted: &DeclareQueue) -> Result<(), Exception> {
    match queue_kind(vhost, wanted)? {
        QueueKind::Classic => Ok(()),
        QueueKind::Quorum => Err(Exception::precondition(
            "Cannot declare a server-named queue for type rabbit_quorum_queue",
        )),
    }
}

fn check_quorum_properties(name: &str, wanted: &DeclareQueue) -> Result<(), Exception> {
    let wrong = if wanted.auto_delete {
        "auto-delete"
    } else if wanted.exclusive {
        "exclusive-owner"
    } else if !wanted.durable {
        "non-durable"
    } else {
        return Ok(());
    };
    Err(Exception::precondition(format!(
        "invalid property '{wrong}' for {name}"
    )))
}

/// Takes `x-name-prefix` out of the arguments: what stands in front of a server's name, `amq.gen`
/// without it.
///
/// # Errors
/// 406 when it is no long string or too long.
pub fn take_name_prefix(
    vhost: &str,
    arguments: &mut FieldTable,
) -> Result<Option<Vec<u8>>, Exception> {
    let reason = match arguments.remove(NAME_PREFIX) {
        None => return Ok(None),
        Some(FieldValue::LongStr(prefix)) if prefix.len() <= NAME_PREFIX_BYTES_MAX => {
            return Ok(Some(prefix));
        }
        Some(FieldValue::LongStr(prefix)) => format!("{{value_too_long,{}}}", prefix.len()),
        Some(value) => unacceptable(&value),
    };
    let name = resource("queue", b"", vhost);
    Err(Exception::precondition(format!(
        "invalid arg '{NAME_PREFIX}' for {name}: {reason}"
    )))
}

/// Checks the arguments of an exchange that does not exist yet.
///
/// # Errors
/// 406 when the alternate exchange is no long string.
pub fn check_exchange(vhost: &str, name: &[u8], arguments: &FieldTable) -> Result<(), Exception> {
    match arguments.get(ALTERNATE_EXCHANGE) {
        None | Some(FieldValue::LongStr(_)) => Ok(()),
        Some(other) => Err(Exception::precondition(format!(
            "invalid type '{}' for arg '{ALTERNATE_EXCHANGE}' in {}",
            other.type_name(),
            resource("exchange", name, vhost)
        ))),
    }
}

/// 403 for a new queue or exchange (`kind`) whose name begins with `amq.`.
#[must_use]
pub fn reserved(kind: &str, name: &[u8]) -> Exception {
    let name = String::from_utf8_lossy(name);
    let text = format!("{kind} name '{name}' contains reserved prefix 'amq.*'");
    Exception::new(ReplyCode::AccessRefused, text)
}

/// A value as Erlang's `~tp` prints it in RabbitMQ's texts.
#[must_use]
pub fn erlang_value(value: &FieldValue) -> String {
    match value {
        FieldValue::LongStr(text) | FieldValue::Binary(text) => {
            format!("<<\"{}\">>", String::from_utf8_lossy(text))
        }
        FieldValue::Bool(value) => value.to_string(),
        FieldValue::Timestamp(seconds) => seconds.to_string(),
        FieldValue::Float(value) => format!("{value:?}"),
        FieldValue::Double(value) => format!("{value:?}"),
        FieldValue::Decimal { scale, value } => format!("{{{scale},{value}}}"),
        FieldValue::Void => "undefined".to_owned(),
        FieldValue::Array(values) => {
            let typed =
                |value: &FieldValue| format!("{{{},{}}}", value.type_name(), erlang_value(value));
            let values: Vec<_> = values.iter().map(typed).collect();
            format!("[{}]", values.join(","))
        }
        FieldValue::Table(table) => {
            let fields = table.iter().map(|(name, value)| {
                let (kind, value) = (value.type_name(), erlang_value(value));
                format!("{{<<\"{name}\">>,{kind},{value}}}")
            });
            format!("[{}]", fields.collect::<Vec<_>>().join(","))
        }
        FieldValue::Byte(_)
        | FieldValue::UnsignedByte(_)
        | FieldValue::Short(_)
        | FieldValue::UnsignedShort(_)
        | FieldValue::SignedInt(_)
        | FieldValue::UnsignedInt(_)
        | FieldValue::Long(_) => value.as_i64().unwrap_or_default().to_string(),
    }
}

fn unacceptable(value: &FieldValue) -> String {
    format!("{{unacceptable_type,{}}}", value.type_name())
}

fn number(value: &FieldValue) -> Result<i64, String> {
    value.as_i64().ok_or_else(|| unacceptable(value))
}

fn one_of(value: &FieldValue, known: &[&str], reason: &str) -> Checked {
    let text = value.as_long_str().ok_or_else(|| unacceptable(value))?;
    let found = known.iter().any(|known| known.as_bytes() == text);
    found.then_some(()).ok_or_else(|| reason.to_owned())
}

fn integer(value: &FieldValue, _: &FieldTable) -> Checked {
    number(value).map(|_| ())
}

fn boolean(value: &FieldValue, _: &FieldTable) -> Checked {
    value
        .as_bool()
        .map(|_| ())
        .ok_or_else(|| unacceptable(value))
}

fn text(value: &FieldValue, _: &FieldTable) -> Checked {
    let text = value.as_long_str().map(|_| ());
    text.ok_or_else(|| unacceptable(value))
}

fn not_empty(value: &FieldValue, arguments: &FieldTable) -> Checked {
    text(value, arguments)?;
    if value.as_long_str().is_some_and(<[u8]>::is_empty) {
        return Err("empty_value".to_owned());
    }
    Ok(())
}

fn not_negative(value: &FieldValue, _: &FieldTable) -> Checked {
    match number(value)? {
        found if found < 0 => Err(format!("{{value_negative,{found}}}")),
        _ => Ok(()),
    }
}

fn positive(value: &FieldValue, arguments: &FieldTable) -> Checked {
    not_negative(value, arguments)?;
    match number(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        _ => Ok(()),
    }
}

fn expiry(value: &FieldValue, arguments: &FieldTable) -> Checked {
    not_negative(value, arguments)?;
    match number(value)? {
        found if found > EXPIRY_MS_MAX => Err(format!("{{value_too_large,{found}}}")),
        _ => Ok(()),
    }
}

fn expires(value: &FieldValue, arguments: &FieldTable) -> Checked {
    if number(value)? == 0 {
        return Err("{value_zero,0}".to_owned());
    }
    expiry(value, arguments)
}

fn max_priority(value: &FieldValue, arguments: &FieldTable) -> Checked {
    not_negative(value, arguments)?;
    match number(value)? {
        found if found > PRIORITY_MAX => Err(format!("{{max_value_exceeded,{found}}}")),
        _ => Ok(()),
    }
}

fn dead_letter_key(value: &FieldValue, arguments: &FieldTable) -> Checked {
    text(value, arguments)?;
    let exchange = arguments.get("x-dead-letter-exchange");
    let known = exchange.map(|_| ());
    known.ok_or_else(|| "routing_key_but_no_dlx_defined".to_owned())
}

fn dead_letter_strategy(value: &FieldValue, _: &FieldTable) -> Checked {
    let known = ["at-most-once", "at-least-once"];
    one_of(value, &known, "invalid_dlx_strategy")
}

fn overflow(value: &FieldValue, _: &FieldTable) -> Checked {
    let known = ["drop-head", "reject-publish", "reject-publish-dlx"];
    one_of(value, &known, "invalid_overflow")
}

fn queue_mode(value: &FieldValue, _: &FieldTable) -> Checked {
    one_of(value, &["default", "lazy"], "invalid_queue_mode")
}

fn queue_version(value: &FieldValue, arguments: &FieldTable) -> Checked {
    not_negative(value, arguments)?;
    match number(value)? {
        2 => Ok(()),
        found => Err(format!("{{unsupported_queue_version,{found}}}")),
    }
}

fn queue_type(value: &FieldValue, arguments: &FieldTable) -> Checked {
    text(value, arguments)?;
    let found = value.as_long_str().unwrap_or_default();
    match found {
        b"classic" | b"quorum" | b"stream" => Ok(()),
        _ => {
            let found = String::from_utf8_lossy(found);
            Err(format!("\"unsupported queue type '{found}'\""))
        }
    }
}

fn leader_locator(value: &FieldValue, _: &FieldTable) -> Checked {
    const KNOWN: [&str; 5] = [
        "client-local",
        "balanced",
        "random",
        "least-leaders",
        "min-masters",
    ];
    one_of(value, &KNOWN, "invalid_queue_locator_arg")
}

fn retry_type(value: &FieldValue, _: &FieldTable) -> Checked {
    let known = ["disabled", "all", "failed", "returned"];
    one_of(value, &known, "invalid_delayed_retry_type")
}

fn max_age(value: &FieldValue, arguments: &FieldTable) -> Checked {
    text(value, arguments)?;
    let whole = value.as_str().unwrap_or_default();
    let number = whole.strip_suffix(['Y', 'M', 'D', 'h', 'm', 's']);
    let number = number.and_then(|number| number.parse::<u64>().ok());
    match number {
        Some(number) if number > 0 => Ok(()),
        _ => Err("invalid_max_age".to_owned()),
    }
}

fn segment_size(value: &FieldValue, arguments: &FieldTable) -> Checked {
    not_negative(value, arguments)?;
    match number(value)? {
        found if found > STREAM_SEGMENT_BYTES_MAX => Err(format!(
            "{{error,\"Exceeded max value for x-stream-max-segment-size-bytes: {found}\"}}"
        )),
        _ => Ok(()),
    }
}

fn filter_size(value: &FieldValue, _: &FieldTable) -> Checked {
    match number(value)? {
        16..=255 => Ok(()),
        found if found < 16 => Err(format!("{{value_too_low,{found}}}")),
        found => Err(format!("{{value_too_big,{found}}}")),
    }
}
