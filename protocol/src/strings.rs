//! Short and long strings. On the wire both are bytes; that they are text is checked where it
//! matters.
//!
//! Invariant: a [`ShortStr`] and a [`ShortString`] hold at most 255 bytes, so encoding cannot fail.

use std::fmt;

use crate::DecodeError;
use crate::limits::SHORTSTR_BYTES_MAX;

/// A borrowed short string: at most 255 bytes, not necessarily UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShortStr<'a>(&'a [u8]);

/// More bytes than a short string can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("short string of {bytes} bytes is longer than {SHORTSTR_BYTES_MAX}")]
pub struct ShortStringTooLong {
    pub bytes: usize,
}

impl<'a> ShortStr<'a> {
    /// No bytes at all.
    pub const EMPTY: ShortStr<'static> = ShortStr(b"");

    /// Takes the bytes if there are at most 255.
    ///
    /// # Errors
    /// [`ShortStringTooLong`] when there are more.
    pub const fn new(bytes: &'a [u8]) -> Result<Self, ShortStringTooLong> {
        if bytes.len() > SHORTSTR_BYTES_MAX {
            return Err(ShortStringTooLong { bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// A string known when compiling; a longer one than 255 bytes does not compile in a constant.
    #[must_use]
    pub const fn from_static(text: &'static str) -> ShortStr<'static> {
        assert!(text.len() <= SHORTSTR_BYTES_MAX);
        ShortStr(text.as_bytes())
    }

    /// The first 255 bytes of `text`, cut at a character. For reply texts and reasons.
    #[must_use]
    pub fn truncated(text: &'a str) -> Self {
        Self(&text.as_bytes()[..text.floor_char_boundary(SHORTSTR_BYTES_MAX)])
    }

    /// For bytes that the wire format has already limited to 255.
    pub(crate) const fn from_wire(bytes: &'a [u8]) -> Self {
        debug_assert!(bytes.len() <= SHORTSTR_BYTES_MAX);
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The string as text.
    ///
    /// # Errors
    /// [`DecodeError::NotUtf8`], which RabbitMQ answers with 501, when the bytes are not UTF-8.
    pub fn as_str(self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.0).map_err(|_| DecodeError::NotUtf8)
    }

    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// An owned copy.
    #[must_use]
    pub fn to_short_string(self) -> ShortString {
        ShortString(self.0.into())
    }
}

impl<'a> TryFrom<&'a [u8]> for ShortStr<'a> {
    type Error = ShortStringTooLong;

    fn try_from(bytes: &'a [u8]) -> Result<Self, Self::Error> {
        Self::new(bytes)
    }
}

impl<'a> TryFrom<&'a str> for ShortStr<'a> {
    type Error = ShortStringTooLong;

    fn try_from(text: &'a str) -> Result<Self, Self::Error> {
        Self::new(text.as_bytes())
    }
}

impl AsRef<[u8]> for ShortStr<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl PartialEq<[u8]> for ShortStr<'_> {
    fn eq(&self, other: &[u8]) -> bool {
        self.0 == other
    }
}

impl PartialEq<str> for ShortStr<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for ShortStr<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Debug for ShortStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for ShortStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&String::from_utf8_lossy(self.0), f)
    }
}

/// An owned short string.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShortString(Box<[u8]>);

impl ShortString {
    #[must_use]
    pub fn as_short_str(&self) -> ShortStr<'_> {
        ShortStr(&self.0)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for ShortString {
    type Error = ShortStringTooLong;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        ShortStr::new(bytes).map(ShortStr::to_short_string)
    }
}

impl TryFrom<&str> for ShortString {
    type Error = ShortStringTooLong;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        Self::try_from(text.as_bytes())
    }
}

impl fmt::Debug for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_short_str(), f)
    }
}

impl fmt::Display for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_short_str(), f)
    }
}

/// A borrowed long string: bytes, up to 4 GiB by the format and a frame in practice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LongStr<'a>(pub &'a [u8]);

impl<'a> LongStr<'a> {
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The string as text, if it is UTF-8.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

impl<'a> From<&'a str> for LongStr<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl fmt::Debug for LongStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_strings_hold_255_bytes_and_no_more() {
        assert!(ShortStr::new(&[b'x'; 255]).is_ok());
        assert_eq!(
            ShortStr::new(&[b'x'; 256]),
            Err(ShortStringTooLong { bytes: 256 })
        );
        let long = "ä".repeat(200);
        assert_eq!(ShortStr::truncated(&long).len(), 254);
        assert_eq!(ShortStr::truncated("ok"), "ok");
    }

    #[test]
    fn text_is_checked_when_asked_for() {
        assert_eq!(ShortStr::from_static("käse").as_str(), Ok("käse"));
        let latin1 = ShortStr::new(b"k\xe4se").expect("short");
        assert_eq!(latin1.as_str(), Err(DecodeError::NotUtf8));
        assert_eq!(format!("{latin1:?}"), "\"k\\xe4se\"");
    }
}
