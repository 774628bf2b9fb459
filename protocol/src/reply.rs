//! Reply codes of `channel.close`, `connection.close` and `basic.return`, and how their text is
//! made.

use crate::limits::SHORTSTR_BYTES_MAX;

/// What an error closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyScope {
    /// No error: 200.
    None,
    /// A soft error closes the channel (the connection, when it is channel 0's).
    Channel,
    /// A hard error closes the connection.
    Connection,
}

macro_rules! reply_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $scope:ident;)*) => {
        /// AMQP 0-9-1 reply codes (section 1.2 of the specification's generated reference).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ReplyCode {
            $($(#[$doc])* $variant = $code,)*
        }

        impl ReplyCode {
            /// All codes, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name at the front of reply texts, such as `PRECONDITION_FAILED`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether the code closes a channel or the connection.
            #[must_use]
            pub const fn scope(self) -> ReplyScope {
                match self { $(Self::$variant => ReplyScope::$scope,)* }
            }

            /// The code with this number.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reply_codes! {
    Success = 200, "REPLY_SUCCESS", None;
    ContentTooLarge = 311, "CONTENT_TOO_LARGE", Channel;
    NoRoute = 312, "NO_ROUTE", Channel;
    NoConsumers = 313, "NO_CONSUMERS", Channel;
    ConnectionForced = 320, "CONNECTION_FORCED", Connection;
    InvalidPath = 402, "INVALID_PATH", Connection;
    AccessRefused = 403, "ACCESS_REFUSED", Channel;
    NotFound = 404, "NOT_FOUND", Channel;
    ResourceLocked = 405, "RESOURCE_LOCKED", Channel;
    PreconditionFailed = 406, "PRECONDITION_FAILED", Channel;
    FrameError = 501, "FRAME_ERROR", Connection;
    SyntaxError = 502, "SYNTAX_ERROR", Connection;
    CommandInvalid = 503, "COMMAND_INVALID", Connection;
    ChannelError = 504, "CHANNEL_ERROR", Connection;
    UnexpectedFrame = 505, "UNEXPECTED_FRAME", Connection;
    ResourceError = 506, "RESOURCE_ERROR", Connection;
    NotAllowed = 530, "NOT_ALLOWED", Connection;
    NotImplemented = 540, "NOT_IMPLEMENTED", Connection;
    InternalError = 541, "INTERNAL_ERROR", Connection;
}

impl ReplyCode {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// Whether the code closes the connection and not only a channel.
    #[must_use]
    pub const fn is_hard(self) -> bool {
        matches!(self.scope(), ReplyScope::Connection)
    }
}

/// The reply text of an error, `NAME - explanation`, in at most 255 bytes: a longer one is cut and
/// ends in `...` as RabbitMQ's does, but never inside a UTF-8 sequence.
#[must_use]
pub fn reply_text(code: ReplyCode, explanation: &str) -> String {
    const DOTS: &str = "...";
    let mut text = format!("{} - {explanation}", code.name());
    if text.len() > SHORTSTR_BYTES_MAX {
        text.truncate(text.floor_char_boundary(SHORTSTR_BYTES_MAX - DOTS.len()));
        text.push_str(DOTS);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_names_and_scopes_agree() {
        for &code in ReplyCode::ALL {
            assert_eq!(ReplyCode::from_code(code.code()), Some(code));
        }
        assert_eq!(ReplyCode::from_code(999), None);
        assert!(!ReplyCode::PreconditionFailed.is_hard());
        assert!(ReplyCode::NotAllowed.is_hard());
        assert!(!ReplyCode::Success.is_hard());
    }

    #[test]
    fn texts_carry_the_name_and_fit_a_short_string() {
        assert_eq!(
            reply_text(ReplyCode::NotFound, "no queue 'q' in vhost '/'"),
            "NOT_FOUND - no queue 'q' in vhost '/'"
        );
        let long = reply_text(ReplyCode::NotFound, &"x".repeat(300));
        assert_eq!(long.len(), 255);
        assert!(long.ends_with("x..."));
        let umlauts = reply_text(ReplyCode::NotFound, &"ä".repeat(300));
        assert!(umlauts.len() <= 255);
        assert!(umlauts.ends_with("ä..."));
    }
}
