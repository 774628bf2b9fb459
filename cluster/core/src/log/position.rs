//! How far a series of segments has come.

use std::fmt;

/// A point in a series of segments: positions are ordered as their bytes were appended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(u64);

impl Position {
    /// The byte `offset` of the `number`-th segment.
    #[must_use]
    pub const fn new(number: u32, offset: u32) -> Self {
        Self((number as u64) << 32 | offset as u64)
    }

    /// The segment's number within its series.
    #[must_use]
    pub const fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bytes from the start of the segment's file.
    #[must_use]
    pub const fn offset(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }

    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn from_u64(word: u64) -> Self {
        Self(word)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number(), self.offset())
    }
}
