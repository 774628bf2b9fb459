//! The AMQP 0-9-1 wire format with RabbitMQ's extensions: bytes in, values out.
//!
//! Invariants:
//! - no I/O, clock, randomness or threads; nothing is kept between calls;
//! - what is decoded borrows from the input, nothing is copied until the caller asks;
//! - no input makes it panic, and each way to be malformed is a value of [`DecodeError`] that knows
//!   the reply code to close with;
//! - message properties and bodies are never re-encoded: they travel and are stored in wire form.
//!
//! The way in: [`preamble::parse`] for the first eight bytes, then [`frame::parse`] again and
//! again, [`Method::parse`] (or [`hot::parse`] first) for method frames, [`ContentHeader::parse`]
//! for header frames. The way out: [`Method::encode_frame`], [`hot`]'s encoders,
//! [`content::encode`] or [`content::body_frames`].

pub mod content;
pub mod error;
pub mod frame;
pub mod hot;
pub mod limits;
pub mod methods;
pub mod preamble;
pub mod properties;
pub mod reply;
pub mod strings;
pub mod table;
mod wire;

pub use content::ContentHeader;
pub use error::{DecodeError, FrameSnippet};
pub use frame::{Frame, FrameKind};
pub use methods::Method;
pub use properties::{Properties, PropertiesEditor, Property, PropertyError};
pub use reply::{ReplyCode, ReplyScope, reply_text};
pub use strings::{LongStr, ShortStr, ShortString, ShortStringTooLong};
pub use table::{Array, FieldTable, FieldValue, Table, TableError, Value};

/// Who sends a method: the client, the server (broker), or either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
    Both,
}
