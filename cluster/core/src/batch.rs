//! The fixed header in front of every entry's commands.
//!
//! A batch is one entry: it is numbered, stored and answered as a whole. The one who writes
//! commands leaves room for the header ([`Batch::new`]); the lane fills it in, so that the
//! bytes of a publish are copied once, from the socket's buffer into their batch.
//!
//! Layout, little endian: version u8, kind u8, zero u16, commands u32, origin u64, seq u64,
//! paid u64, time u64.

use bytes::{Bytes, BytesMut};

use crate::ids::{OriginId, Seq, Time};

/// The version that this build writes.
pub const VERSION: u8 = 1;

/// Who made the commands of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Commands of an origin, numbered; dropped as a whole when seen before.
    Numbered = 1,
    /// Commands of the shard's leader itself, not numbered: each is idempotent.
    Leader = 2,
    /// Opens an origin for a node and closes those of that node's earlier lives. No commands; its
    /// number is the life's.
    Open = 3,
    /// A numbered batch that the leader refused; recorded so that its number has an outcome.
    Refused = 4,
}

/// What came of a numbered batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Applied as a whole: every destination that still exists has the message.
    Stored,
    /// Not applied: the leader could not take it (limits, alarms).
    Refused,
}

/// The decoded header of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: Kind,
    /// How many commands follow.
    pub commands: u32,
    /// 0 for kinds without one; for [`Kind::Open`] the node's id.
    pub origin: OriginId,
    pub seq: Seq,
    /// Every number of the origin below this one has had its outcome told: it may be forgotten.
    pub paid: Seq,
    /// The leader's wall clock when it proposed, never less than the entry's before.
    pub time: Time,
}

/// An entry whose header is not one of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    #[error("entry of {0} bytes is shorter than its header")]
    Short(usize),
    #[error("entry has version {0}, this build reads up to {VERSION}")]
    Version(u8),
    #[error("entry has unknown kind {0}")]
    Kind(u8),
}

/// Bytes that a header takes.
pub const HEADER_BYTES: usize = 40;

/// Commands on their way to a shard, with room in front for the header.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: BytesMut,
    commands: u32,
}

impl Batch {
    /// An empty batch with room for `capacity` bytes of commands.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + capacity);
        bytes.resize(HEADER_BYTES, 0);
        Self { bytes, commands: 0 }
    }

    /// Appends one command that `write` encodes.
    pub fn push(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_BYTES, 0);
        }
        write(&mut self.bytes);
        self.commands += 1;
    }

    /// Appends the commands of another.
    pub fn append(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_BYTES, 0);
        }
        self.bytes.extend_from_slice(&other.bytes[HEADER_BYTES..]);
        self.commands += other.commands;
    }

    /// How many commands it holds.
    #[must_use]
    pub fn commands(&self) -> u32 {
        self.commands
    }

    /// Bytes of commands, without the header.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(HEADER_BYTES)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// Writes the header (its `commands` is taken from the batch) and gives the entry's bytes.
    #[must_use]
    pub fn seal(mut self, header: Header) -> Bytes {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_BYTES, 0);
        }
        let header = Header {
            commands: self.commands,
            ..header
        };
        self.bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        if self.bytes.len() * 4 < self.bytes.capacity() {
            // The entry stays in memory for a while: it must not keep a mostly empty buffer.
            return Bytes::copy_from_slice(&self.bytes);
        }
        self.bytes.freeze()
    }
}

impl Header {
    /// The header's wire form.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0] = VERSION;
        out[1] = self.kind as u8;
        out[4..8].copy_from_slice(&self.commands.to_le_bytes());
        out[8..16].copy_from_slice(&self.origin.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.seq.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.paid.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.time.0.to_le_bytes());
        out
    }

    /// Reads the header at the start of an entry.
    ///
    /// # Errors
    /// When the entry is too short, or of a version or kind that this build does not know.
    pub fn decode(entry: &[u8]) -> Result<Self, Error> {
        let Some(head) = entry.first_chunk::<HEADER_BYTES>() else {
            return Err(Error::Short(entry.len()));
        };
        if head[0] != VERSION {
            return Err(Error::Version(head[0]));
        }
        let kind = match head[1] {
            1 => Kind::Numbered,
            2 => Kind::Leader,
            3 => Kind::Open,
            4 => Kind::Refused,
            other => return Err(Error::Kind(other)),
        };
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Ok(Self {
            kind,
            commands: u32::from_le_bytes([head[4], head[5], head[6], head[7]]),
            origin: OriginId(word(8)),
            seq: Seq(word(16)),
            paid: Seq(word(24)),
            time: Time(word(32)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_batch_reads_back() {
        let mut batch = Batch::new(8);
        batch.push(|out| out.extend_from_slice(b"abc"));
        batch.push(|out| out.extend_from_slice(b"d"));
        assert_eq!((batch.commands(), batch.len()), (2, 4));
        let (mut both, empty) = (Batch::default(), Batch::default());
        both.append(&batch);
        both.append(&empty);
        both.append(&batch);
        assert_eq!((both.commands(), both.len()), (4, 8));
        let header = Header {
            kind: Kind::Numbered,
            commands: 0,
            origin: OriginId(7),
            seq: Seq(8),
            paid: Seq(6),
            time: Time(99),
        };
        let entry = batch.seal(header);
        assert_eq!(
            Header::decode(&entry),
            Ok(Header {
                commands: 2,
                ..header
            })
        );
        assert_eq!(&entry[HEADER_BYTES..], b"abcd");
    }

    #[test]
    fn foreign_headers_are_refused() {
        assert_eq!(Header::decode(b"short"), Err(Error::Short(5)));
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = 9;
        assert_eq!(Header::decode(&bytes), Err(Error::Version(9)));
        bytes[0] = VERSION;
        bytes[1] = 77;
        assert_eq!(Header::decode(&bytes), Err(Error::Kind(77)));
    }
}
