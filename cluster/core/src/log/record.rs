//! The log's bytes: segment headers and records.
//!
//! Every record begins at a multiple of 8 and has a head of 32 bytes, little endian: length of
//! the payload u32, CRC32C u32, kind u8, entry kind u8, zero u16, shard u32, term u64, index u64.
//! The checksum begins with the log's identity, the segment and the offset, so that what lies in
//! the wrong place, or is left over from a file's former life, is never taken for a record.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::{Index, SegmentId, ShardId, Term};
use crate::log::position::Position;

/// The format that this build writes.
pub const VERSION: u32 = 1;
/// Bytes in front of a segment's first record.
pub const SEGMENT_HEAD_BYTES: u32 = 4096;
/// Bytes in front of a record's payload.
pub const HEAD_BYTES: u32 = 32;
/// A record's payload is never longer. Entries stay far below (≤ 1 MiB but for large messages).
pub const PAYLOAD_BYTES_LIMIT: u32 = 1 << 30;

const MAGIC: [u8; 8] = *b"WARRENSG";
const SEGMENT_HEAD_USED: usize = 32;

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An entry of a shard's log.
    Entry = 1,
    /// A shard's term, vote and commit.
    HardState = 2,
    /// How far the series is known to be synced. Begins each batch.
    Mark = 3,
    /// The last record of a segment that was left behind full.
    Seal = 4,
    /// A message body that outlived its segment. Shard, queue (term) and message id (index).
    Survivor = 5,
}

/// A record's head without length and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub kind: Kind,
    /// The consensus layer's own kind of an entry; else 0.
    pub entry_kind: u8,
    pub shard: ShardId,
    /// A term, or for [`Kind::Survivor`] the queue's key.
    pub term: u64,
    /// An index, or for [`Kind::Survivor`] the message's id.
    pub index: u64,
}

/// A record and where it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub head: Head,
    pub payload: &'a [u8],
    /// Bytes to the next record.
    pub size: u32,
}

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// So many bytes are needed to tell.
    #[error("record needs {0} bytes")]
    Short(u32),
    #[error("record length {0} is beyond the limit of {PAYLOAD_BYTES_LIMIT}")]
    Length(u32),
    #[error("record has checksum {found:#010x}, expected {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("record has unknown kind {0}")]
    Kind(u8),
}

/// Where a record lies: part of its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At {
    /// The log's identity: the node's, mixed with the lane's.
    pub log: u64,
    pub segment: SegmentId,
    pub offset: u32,
}

impl At {
    fn seed(self) -> u32 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.log.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.segment.0.to_le_bytes());
        bytes[12..].copy_from_slice(&self.offset.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// Bytes that a record with such a payload takes in a segment.
#[must_use]
pub fn size(payload: u32) -> u32 {
    (HEAD_BYTES + payload).next_multiple_of(8)
}

/// Appends the head of a record with this payload; the payload and [`padding`] follow it.
pub fn encode_head(at: At, head: &Head, payload: &[u8], out: &mut BytesMut) {
    let mut rest = [0; 24];
    rest[0] = head.kind as u8;
    rest[1] = head.entry_kind;
    rest[4..8].copy_from_slice(&head.shard.0.to_le_bytes());
    rest[8..16].copy_from_slice(&head.term.to_le_bytes());
    rest[16..24].copy_from_slice(&head.index.to_le_bytes());
    let length = u32::try_from(payload.len()).expect("payloads are below their limit");
    out.put_u32_le(length);
    out.put_u32_le(checksum(at, length, &rest, payload));
    out.put_slice(&rest);
}

/// Zeros between the end of a payload and the next record.
#[must_use]
pub fn padding(payload: u32) -> &'static [u8] {
    let used = HEAD_BYTES + payload;
    &[0; 8][..(used.next_multiple_of(8) - used) as usize]
}

fn checksum(at: At, length: u32, rest: &[u8; 24], payload: &[u8]) -> u32 {
    let mut front = [0; 28];
    front[..4].copy_from_slice(&length.to_le_bytes());
    front[4..].copy_from_slice(rest);
    crc32c::crc32c_append(crc32c::crc32c_append(at.seed(), &front), payload)
}

/// Reads the record at the start of `bytes`, which lie at `at`.
///
/// # Errors
/// When there is no whole, valid record; [`Error::Short`] says how many bytes to come back with.
pub fn parse(at: At, bytes: &[u8]) -> Result<Record<'_>, Error> {
    let Some(front) = bytes.first_chunk::<{ HEAD_BYTES as usize }>() else {
        return Err(Error::Short(HEAD_BYTES));
    };
    let length = u32_at(front, 0);
    if length > PAYLOAD_BYTES_LIMIT {
        return Err(Error::Length(length));
    }
    let size = size(length);
    if bytes.len() < size as usize {
        return Err(Error::Short(size));
    }
    let payload = &bytes[HEAD_BYTES as usize..(HEAD_BYTES + length) as usize];
    let mut rest = [0; 24];
    rest.copy_from_slice(&front[8..]);
    let (found, expected) = (u32_at(front, 4), checksum(at, length, &rest, payload));
    if found != expected {
        return Err(Error::Checksum { found, expected });
    }
    let head = Head {
        kind: kind(front[8])?,
        entry_kind: front[9],
        shard: ShardId(u32_at(front, 12)),
        term: u64_at(front, 16),
        index: u64_at(front, 24),
    };
    Ok(Record {
        head,
        payload,
        size,
    })
}

fn kind(byte: u8) -> Result<Kind, Error> {
    match byte {
        1 => Ok(Kind::Entry),
        2 => Ok(Kind::HardState),
        3 => Ok(Kind::Mark),
        4 => Ok(Kind::Seal),
        5 => Ok(Kind::Survivor),
        other => Err(Error::Kind(other)),
    }
}

/// Looks at one place for a valid mark; cheap where there is none. Gives the synced position.
#[must_use]
pub fn mark_at(at: At, bytes: &[u8]) -> Option<Position> {
    let front = bytes.first_chunk::<{ HEAD_BYTES as usize }>()?;
    if u32_at(front, 0) != 0 || front[8] != Kind::Mark as u8 {
        return None;
    }
    parse(at, front).ok().and_then(|record| record.mark())
}

impl Head {
    /// The head of a mark.
    #[must_use]
    pub fn mark(synced: Position) -> Self {
        Self {
            kind: Kind::Mark,
            entry_kind: 0,
            shard: ShardId(0),
            term: 0,
            index: synced.as_u64(),
        }
    }

    /// The head of a seal.
    #[must_use]
    pub fn seal() -> Self {
        Self {
            kind: Kind::Seal,
            entry_kind: 0,
            shard: ShardId(0),
            term: 0,
            index: 0,
        }
    }
}

impl Record<'_> {
    /// The synced position that a mark carries.
    #[must_use]
    pub fn mark(&self) -> Option<Position> {
        (self.head.kind == Kind::Mark).then_some(Position::from_u64(self.head.index))
    }
}

/// A shard's term, vote and commit, as consensus wants them kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    pub term: Term,
    /// The replica voted for in `term`; 0 is none.
    pub vote: u64,
    pub commit: Index,
}

impl HardState {
    pub(crate) fn parts(self, shard: ShardId) -> (Head, [u8; 8]) {
        let head = Head {
            kind: Kind::HardState,
            entry_kind: 0,
            shard,
            term: self.term.0,
            index: self.commit.0,
        };
        (head, self.vote.to_le_bytes())
    }

    /// Reads the record's hard state; `None` when it has another length than one.
    pub(crate) fn from_record(head: &Head, payload: &[u8]) -> Option<Self> {
        Some(Self {
            term: Term(head.term),
            vote: u64::from_le_bytes(payload.try_into().ok()?),
            commit: Index(head.index),
        })
    }
}

/// The first bytes of a segment's file.
#[must_use]
pub fn encode_segment_head(log: u64, segment: SegmentId) -> Bytes {
    let mut out = BytesMut::with_capacity(SEGMENT_HEAD_BYTES as usize);
    out.put_slice(&MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(segment.0);
    out.put_u64_le(log);
    out.put_u32_le(0);
    out.put_u32_le(crc32c::crc32c(&out));
    out.resize(SEGMENT_HEAD_BYTES as usize, 0);
    out.freeze()
}

/// What stands at the start of a segment's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentHead {
    /// Nothing, or what another segment left in a file that was to be used again.
    Unused,
    /// Written by a log with this identity, in this version of the format.
    Written { log: u64, version: u32 },
}

/// Reads the start of the file of `segment`.
#[must_use]
pub fn parse_segment_head(segment: SegmentId, bytes: &[u8]) -> SegmentHead {
    let Some(front) = bytes.first_chunk::<SEGMENT_HEAD_USED>() else {
        return SegmentHead::Unused;
    };
    let whole = front[..8] == MAGIC && u32_at(front, 28) == crc32c::crc32c(&front[..28]);
    if !whole || u32_at(front, 12) != segment.0 {
        return SegmentHead::Unused;
    }
    SegmentHead::Written {
        version: u32_at(front, 8),
        log: u64_at(front, 16),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
