//! The table of a headers exchange: every binding is looked at for every message.
//!
//! As RabbitMQ matches: integers of all types are one class, a binding's void value asks for the
//! header's presence alone, and fields beginning with `x-` count only for the `-with-x` forms.

use std::sync::Arc;

use imbl::OrdMap;
use warren_protocol::table::{FieldTable, FieldValue, Table as RawTable, Value};

use super::Binding;
use super::table::{Link, Target};
use crate::exception::Exception;

const X_MATCH: &str = "x-match";

/// The bindings by link.
#[derive(Clone, Default)]
pub(super) struct HeadersTable(OrdMap<Link, Matcher>);

/// What a message's headers must be for one binding.
#[derive(Clone)]
struct Matcher {
    mode: Mode,
    binding: Arc<Binding>,
}

/// The meaning of `x-match`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mode {
    any: bool,
    with_x: bool,
}

impl HeadersTable {
    pub(super) fn insert(&mut self, binding: &Arc<Binding>, link: Link) {
        // Bindings are checked where they are made; what is not understood matches like "all".
        let mode = Mode::of(&binding.arguments).unwrap_or(Mode::ALL);
        let binding = Arc::clone(binding);
        self.0.insert(link, Matcher { mode, binding });
    }

    pub(super) fn remove(&mut self, link: &Link) {
        self.0.remove(link);
    }

    /// Shows the targets of the bindings that these headers satisfy.
    pub(super) fn for_each<'a>(&'a self, headers: RawTable<'_>, mut show: impl FnMut(&'a Target)) {
        for (link, matcher) in &self.0 {
            if matcher.accepts(headers) {
                show(&link.target);
            }
        }
    }
}

/// Refuses a binding to a headers exchange whose `x-match` means nothing.
///
/// # Errors
/// 406 in RabbitMQ's words.
pub fn check_binding(arguments: &FieldTable) -> Result<(), Exception> {
    Mode::of(arguments).map(|_| ())
}

impl Mode {
    const ALL: Self = Self {
        any: false,
        with_x: false,
    };

    fn of(arguments: &FieldTable) -> Result<Self, Exception> {
        let Some(value) = arguments.get(X_MATCH) else {
            return Ok(Self::ALL);
        };
        let Some(text) = value.as_long_str() else {
            return Err(Exception::precondition(format!(
                "Invalid x-match field type {} (value {}); expected longstr",
                value.type_name(),
                crate::definitions::arguments::erlang_value(value),
            )));
        };
        let (any, with_x) = match text {
            b"all" => (false, false),
            b"any" => (true, false),
            b"all-with-x" => (false, true),
            b"any-with-x" => (true, true),
            _ => {
                return Err(Exception::precondition(format!(
                    "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
                    crate::definitions::arguments::erlang_value(value),
                )));
            }
        };
        Ok(Self { any, with_x })
    }
}

impl Matcher {
    fn accepts(&self, headers: RawTable<'_>) -> bool {
        for (name, wanted) in self.binding.arguments.iter() {
            let name = name.as_bytes();
            if name == X_MATCH.as_bytes() || (!self.mode.with_x && name.starts_with(b"x-")) {
                continue;
            }
            // Headers were validated when the message came in; what cannot be read is not there.
            let found = headers.get(name).ok().flatten();
            let matches = found.is_some_and(|found| value_matches(wanted, found));
            if matches == self.mode.any {
                return matches;
            }
        }
        !self.mode.any
    }
}

fn value_matches(wanted: &FieldValue, found: Value<'_>) -> bool {
    if let (Some(wanted), Some(found)) = (wanted.as_i64(), found.as_i64()) {
        return wanted == found;
    }
    match (wanted, found) {
        (FieldValue::Void, _) => true,
        (FieldValue::LongStr(wanted), Value::LongStr(found)) => wanted == found.as_bytes(),
        (FieldValue::Binary(wanted), Value::Binary(found)) => wanted == found,
        (FieldValue::Bool(wanted), Value::Bool(found)) => *wanted == found,
        (FieldValue::Timestamp(wanted), Value::Timestamp(found)) => *wanted == found,
        (FieldValue::Float(wanted), Value::Float(found)) => *wanted == found,
        (FieldValue::Double(wanted), Value::Double(found)) => *wanted == found,
        (
            FieldValue::Decimal { scale, value },
            Value::Decimal {
                scale: found_scale,
                value: found_value,
            },
        ) => *scale == found_scale && *value == found_value,
        (FieldValue::Table(wanted), Value::Table(found)) => wanted.to_bytes() == found.as_bytes(),
        (FieldValue::Array(_), Value::Array(found)) => {
            let mut bytes = Vec::new();
            wanted.encode(&mut bytes);
            // Behind the type letter and the length.
            bytes.get(5..) == Some(found.as_bytes())
        }
        _ => false,
    }
}
