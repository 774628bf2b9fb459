//! The file of a checkpoint: a header, parts, a footer.
//!
//! Each lies in a frame of its own, 16 bytes of head, little endian: length u32, CRC32C u32, frame
//! kind u8, part kind u8, zero u16, zero u32. The checksum begins with the file's number and the
//! frame's, so that frames of other files or places are never taken for these. A file is whole
//! when its footer is there, counts what came before it, and nothing follows.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::{Index, ShardId, Term};
use crate::log::Position;
use crate::machine::CheckpointWriter;

/// The format that this build writes.
pub const VERSION: u32 = 1;
/// The kind of the parts that a machine writes; a replica's own parts have others.
pub const MACHINE_PART: u8 = 0;
/// No part is longer.
pub const PART_BYTES_LIMIT: u32 = 64 << 20;

const MAGIC: [u8; 8] = *b"WARRENCP";
const FRAME_BYTES: usize = 16;
const HEADER_BYTES: usize = 72;
const FOOTER_BYTES: usize = 16;

/// What a checkpoint is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub shard: ShardId,
    /// The last entry that it contains, and its term.
    pub index: Index,
    pub term: Term,
    /// The identity of the log that it belongs to.
    pub log: u64,
    /// Later checkpoints of a lane have larger numbers.
    pub number: u64,
    /// The log's tail when it was begun: it contains all hard states before.
    pub begun: Position,
    /// The log's segment from which entries beyond `index` may lie.
    pub replay_from: u32,
    /// The survivors' segment that was being written when it was begun: it names no later one.
    pub survivors: u32,
    /// What lies before this in the log is of an earlier replica of the shard and counts no more.
    pub floor: Position,
}

/// Why a file is no checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    #[error("frame at {at} is cut short")]
    Short { at: u64 },
    #[error("frame at {at} has checksum {found:#010x}, expected {expected:#010x}")]
    Checksum { at: u64, found: u32, expected: u32 },
    #[error("frame at {at}: {cause}")]
    Malformed { at: u64, cause: &'static str },
    #[error("checkpoint has format version {found}, this build reads {VERSION}")]
    Version { found: u32 },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    Header = 1,
    Part = 2,
    Footer = 3,
}

/// Encodes a checkpoint into a buffer that its owner empties from time to time.
pub struct Writer {
    number: u64,
    frames: u64,
    part_bytes: u64,
    taken: u64,
    buffer: BytesMut,
}

impl Writer {
    #[must_use]
    pub fn new(header: &Header) -> Self {
        let mut writer = Self {
            number: header.number,
            frames: 0,
            part_bytes: 0,
            taken: 0,
            buffer: BytesMut::new(),
        };
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES);
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(header.shard.0);
        bytes.put_u64_le(header.index.0);
        bytes.put_u64_le(header.term.0);
        bytes.put_u64_le(header.log);
        bytes.put_u64_le(header.number);
        bytes.put_u64_le(header.begun.as_u64());
        bytes.put_u32_le(header.replay_from);
        bytes.put_u32_le(header.survivors);
        bytes.put_u64_le(header.floor.as_u64());
        bytes.resize(HEADER_BYTES, 0);
        writer.frame(Frame::Header, 0, &bytes);
        writer
    }

    /// Appends a part of the given kind, of at most [`PART_BYTES_LIMIT`] bytes.
    pub fn part(&mut self, kind: u8, bytes: &[u8]) {
        self.part_bytes += bytes.len() as u64;
        self.frame(Frame::Part, kind, bytes);
    }

    /// Appends the footer: nothing may follow.
    pub fn finish(&mut self) {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(&(self.frames - 1).to_le_bytes());
        bytes[8..].copy_from_slice(&self.part_bytes.to_le_bytes());
        self.frame(Frame::Footer, 0, &bytes);
    }

    fn frame(&mut self, frame: Frame, part: u8, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("parts are below their limit");
        assert!(length <= PART_BYTES_LIMIT, "parts are below their limit");
        let mut kinds = [0; 8];
        (kinds[0], kinds[1]) = (frame as u8, part);
        let sum = checksum(self.number, self.frames, kinds, bytes);
        self.buffer.put_u32_le(length);
        self.buffer.put_u32_le(sum);
        self.buffer.put_slice(&kinds);
        self.buffer.put_slice(bytes);
        self.frames += 1;
    }

    /// Bytes encoded and not yet taken.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Takes what is encoded: the next bytes of the file.
    pub fn take(&mut self) -> Bytes {
        self.taken += self.buffer.len() as u64;
        self.buffer.split().freeze()
    }
}

impl CheckpointWriter for Writer {
    fn chunk(&mut self, bytes: &[u8]) {
        self.part(MACHINE_PART, bytes);
    }

    fn written(&self) -> u64 {
        self.taken + self.buffer.len() as u64
    }
}

fn checksum(number: u64, frame: u64, kinds: [u8; 8], bytes: &[u8]) -> u32 {
    let mut front = [0; 28];
    front[..8].copy_from_slice(&number.to_le_bytes());
    front[8..16].copy_from_slice(&frame.to_le_bytes());
    front[16..24].copy_from_slice(&kinds);
    front[24..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&front), bytes)
}

/// What a [`Reader`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// Come back with so many bytes from [`Reader::offset`] on.
    Need(usize),
    Header(Header),
    Part {
        kind: u8,
        bytes: &'a [u8],
    },
    /// The footer, and it agrees with all before: the checkpoint is whole if the file ends here.
    End,
}

/// Decodes a checkpoint frame by frame.
pub struct Reader {
    number: u64,
    frames: u64,
    part_bytes: u64,
    offset: u64,
}

impl Reader {
    /// For the file with this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self {
            number,
            frames: 0,
            part_bytes: 0,
            offset: 0,
        }
    }

    /// Where in the file the next frame begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the frame at the start of `bytes`, which lie at [`Reader::offset`].
    ///
    /// # Errors
    /// Bytes that are not the next frame of a checkpoint with this number.
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, Error> {
        let at = self.offset;
        let Some(front) = bytes.first_chunk::<FRAME_BYTES>() else {
            return Ok(Step::Need(FRAME_BYTES));
        };
        let length = u32_at(front, 0);
        if length > PART_BYTES_LIMIT {
            let cause = "its length is beyond the limit";
            return Err(Error::Malformed { at, cause });
        }
        let end = FRAME_BYTES + length as usize;
        let Some(payload) = bytes.get(FRAME_BYTES..end) else {
            return Ok(Step::Need(end));
        };
        let mut kinds = [0; 8];
        kinds.copy_from_slice(&front[8..]);
        let expected = checksum(self.number, self.frames, kinds, payload);
        let found = u32_at(front, 4);
        if found != expected {
            return Err(Error::Checksum {
                at,
                found,
                expected,
            });
        }
        let step = self.decode(front[8], front[9], payload)?;
        self.offset += end as u64;
        self.frames += 1;
        Ok(step)
    }

    fn decode<'a>(&mut self, frame: u8, kind: u8, bytes: &'a [u8]) -> Result<Step<'a>, Error> {
        let at = self.offset;
        let malformed = |cause| Error::Malformed { at, cause };
        if (self.frames == 0) != (frame == Frame::Header as u8) {
            return Err(malformed("the header is not the first frame"));
        }
        if frame == Frame::Header as u8 {
            return header(at, bytes).map(Step::Header);
        }
        if frame == Frame::Part as u8 {
            self.part_bytes += bytes.len() as u64;
            return Ok(Step::Part { kind, bytes });
        }
        if frame != Frame::Footer as u8 || bytes.len() != FOOTER_BYTES {
            return Err(malformed("it is neither part nor footer"));
        }
        if u64_at(bytes, 0) != self.frames - 1 || u64_at(bytes, 8) != self.part_bytes {
            return Err(malformed("the footer counts other parts"));
        }
        Ok(Step::End)
    }
}

fn header(at: u64, bytes: &[u8]) -> Result<Header, Error> {
    let cause = "the header is not one of a checkpoint";
    if bytes.len() < 12 || bytes[..8] != MAGIC {
        return Err(Error::Malformed { at, cause });
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return Err(Error::Version { found: version });
    }
    if bytes.len() != HEADER_BYTES {
        return Err(Error::Malformed { at, cause });
    }
    Ok(Header {
        shard: ShardId(u32_at(bytes, 12)),
        index: Index(u64_at(bytes, 16)),
        term: Term(u64_at(bytes, 24)),
        log: u64_at(bytes, 32),
        number: u64_at(bytes, 40),
        begun: Position::from_u64(u64_at(bytes, 48)),
        replay_from: u32_at(bytes, 56),
        survivors: u32_at(bytes, 60),
        floor: Position::from_u64(u64_at(bytes, 64)),
    })
}

/// A checkpoint in memory: its parts with their kinds, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint<'a> {
    pub header: Header,
    pub parts: Vec<(u8, &'a [u8])>,
}

/// Reads a checkpoint that is in memory as a whole.
///
/// # Errors
/// When it is not whole, or something follows its footer.
pub fn read(number: u64, bytes: &[u8]) -> Result<Checkpoint<'_>, Error> {
    let mut reader = Reader::new(number);
    let mut header = None;
    let mut parts = Vec::new();
    loop {
        let at = reader.offset();
        match reader.step(&bytes[at as usize..])? {
            Step::Need(_) => return Err(Error::Short { at }),
            Step::Header(found) => header = Some(found),
            Step::Part { kind, bytes } => parts.push((kind, bytes)),
            Step::End => break,
        }
    }
    let at = reader.offset();
    let cause = "something follows the footer";
    match header {
        Some(header) if at == bytes.len() as u64 => Ok(Checkpoint { header, parts }),
        _ => Err(Error::Malformed { at, cause }),
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
