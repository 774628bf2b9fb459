//! What can be wrong with a peer's bytes, and the reply code that each closes the connection with.

use std::fmt;

use crate::properties::PropertyError;
use crate::{ReplyCode, TableError};

/// A violation of the wire format. Each closes the connection with [`DecodeError::reply_code`]; the
/// `Display` text is the explanation behind the code's name and follows RabbitMQ's wording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error(
        "type {kind}, all octets = <<>>: {{frame_too_large,{payload_bytes},{payload_bytes_limit}}}"
    )]
    FrameTooLarge {
        kind: u8,
        payload_bytes: u32,
        payload_bytes_limit: u32,
    },
    #[error("type {kind}, {payload}: {{invalid_frame_end_marker,{found}}}")]
    FrameEnd {
        kind: u8,
        found: u8,
        payload: FrameSnippet,
    },
    /// Of no known type, or too short to be what its type says.
    #[error("type {kind}, {payload}: unknown_frame")]
    UnknownFrame { kind: u8, payload: FrameSnippet },
    /// Heartbeats belong to channel 0 (AMQP 0-9-1, 4.2.7).
    #[error("type 8, all octets = <<>>")]
    HeartbeatOnChannel { channel: u16 },
    #[error("unimplemented method")]
    UnknownMethod { class_id: u16, method_id: u16 },
    #[error("cannot decode method {class_id},{method_id}: it ends before its fields do")]
    MethodTruncated { class_id: u16, method_id: u16 },
    #[error("cannot decode method {class_id},{method_id}: {bytes} bytes behind its fields")]
    MethodTrailing {
        class_id: u16,
        method_id: u16,
        bytes: usize,
    },
    #[error("content header of {bytes} bytes is too short")]
    HeaderTruncated { bytes: usize },
    #[error("expected content header of weight 0, got one of weight {weight} instead")]
    HeaderWeight { weight: u16 },
    #[error(
        "content body size {bytes} exceeds maximum allowed size {}",
        crate::limits::BODY_BYTES_MAX
    )]
    BodyTooLarge { bytes: u64 },
    #[error("cannot decode content properties: {0}")]
    Properties(#[from] PropertyError),
    #[error("cannot decode table: {0}")]
    Table(#[from] TableError),
    #[error("Malformed UTF-8 in shortstr")]
    NotUtf8,
}

impl DecodeError {
    /// The code to close the connection with. All of them are hard errors.
    #[must_use]
    pub const fn reply_code(&self) -> ReplyCode {
        match self {
            Self::FrameTooLarge { .. }
            | Self::FrameEnd { .. }
            | Self::UnknownFrame { .. }
            | Self::HeaderTruncated { .. }
            | Self::BodyTooLarge { .. }
            | Self::NotUtf8 => ReplyCode::FrameError,
            Self::MethodTruncated { .. }
            | Self::MethodTrailing { .. }
            | Self::Properties(_)
            | Self::Table(_) => ReplyCode::SyntaxError,
            Self::UnknownMethod { .. } => ReplyCode::CommandInvalid,
            Self::HeartbeatOnChannel { .. } | Self::HeaderWeight { .. } => {
                ReplyCode::UnexpectedFrame
            }
        }
    }

    /// Class and method id for the close method: those of the method at fault, else 0 and 0.
    #[must_use]
    pub const fn ids(&self) -> (u16, u16) {
        match *self {
            Self::UnknownMethod {
                class_id,
                method_id,
            }
            | Self::MethodTruncated {
                class_id,
                method_id,
            }
            | Self::MethodTrailing {
                class_id,
                method_id,
                ..
            } => (class_id, method_id),
            Self::FrameTooLarge { .. }
            | Self::FrameEnd { .. }
            | Self::UnknownFrame { .. }
            | Self::HeartbeatOnChannel { .. }
            | Self::HeaderTruncated { .. }
            | Self::HeaderWeight { .. }
            | Self::BodyTooLarge { .. }
            | Self::Properties(_)
            | Self::Table(_)
            | Self::NotUtf8 => (0, 0),
        }
    }
}

/// The first bytes of a frame's payload, printed as RabbitMQ prints them in its frame errors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameSnippet {
    head: [u8; Self::BYTES_MAX],
    head_bytes: u8,
    /// There is more than `head`.
    cut: bool,
}

impl FrameSnippet {
    const BYTES_MAX: usize = 16;

    /// Keeps the first 16 bytes.
    #[must_use]
    pub fn new(payload: &[u8]) -> Self {
        let head_bytes = payload.len().min(Self::BYTES_MAX);
        let mut head = [0; Self::BYTES_MAX];
        head[..head_bytes].copy_from_slice(&payload[..head_bytes]);
        Self {
            head,
            head_bytes: head_bytes as u8,
            cut: payload.len() > Self::BYTES_MAX,
        }
    }
}

impl fmt::Display for FrameSnippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = &self.head[..usize::from(self.head_bytes)];
        f.write_str(if self.cut { "first 16" } else { "all" })?;
        f.write_str(" octets = <<")?;
        let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        if !head.is_empty() && head.iter().all(printable) {
            write!(f, "\"{}\"", head.escape_ascii())?;
        } else {
            for (at, byte) in head.iter().enumerate() {
                write!(f, "{}{byte}", if at == 0 { "" } else { "," })?;
            }
        }
        f.write_str(">>")
    }
}

impl fmt::Debug for FrameSnippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_rabbitmqs() {
        let error = DecodeError::FrameTooLarge {
            kind: 206,
            payload_bytes: 1_342_177_289,
            payload_bytes_limit: 131_064,
        };
        assert_eq!(
            error.to_string(),
            "type 206, all octets = <<>>: {frame_too_large,1342177289,131064}"
        );
        assert_eq!(error.reply_code(), ReplyCode::FrameError);
        let error = DecodeError::FrameEnd {
            kind: 1,
            found: 0,
            payload: FrameSnippet::new(&[0, 10, 0, 11]),
        };
        assert_eq!(
            error.to_string(),
            "type 1, all octets = <<0,10,0,11>>: {invalid_frame_end_marker,0}"
        );
        assert_eq!(
            FrameSnippet::new(b"seventeen letters").to_string(),
            "first 16 octets = <<\"seventeen letter\">>"
        );
    }
}
