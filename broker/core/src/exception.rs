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
}
