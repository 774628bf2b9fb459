//! The only way in which a client's error leaves the core.

use warren_protocol::reply::ReplyCode;

/// How far an error reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// `channel.close`: the other channels go on.
    Channel,
    /// `connection.close`.
    Connection,
}

/// An error with AMQP's own code and RabbitMQ's text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exception {
    pub code: ReplyCode,
    pub scope: Scope,
    /// Without the code's name in front; the session adds it and cuts the whole to 255 bytes.
    pub text: String,
}

impl Exception {
    /// An error whose scope is that of its code (soft: channel, hard: connection).
    #[must_use]
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        let scope = if code.is_hard() {
            Scope::Connection
        } else {
            Scope::Channel
        };
        Self {
            code,
            scope,
            text: text.into(),
        }
    }

    /// 404 for an exchange or a queue (`kind`) that is not there.
    #[must_use]
    pub fn no_such(kind: &str, name: &[u8], vhost: &str) -> Self {
        let name = String::from_utf8_lossy(name);
        Self::new(
            ReplyCode::NotFound,
            format!("no {kind} '{name}' in vhost '{vhost}'"),
        )
    }

    /// 406 with this text.
    #[must_use]
    pub fn precondition(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::PreconditionFailed, text)
    }
}

/// A resource as RabbitMQ's texts name it: `queue 'q' in vhost '/'`.
#[must_use]
pub fn resource(kind: &str, name: &[u8], vhost: &str) -> String {
    format!(
        "{kind} '{}' in vhost '{vhost}'",
        String::from_utf8_lossy(name)
    )
}
