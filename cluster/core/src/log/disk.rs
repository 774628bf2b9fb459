//! What the log asks of a disk, as values: operations go out, completions come back.
//!
//! Invariants on which the log builds:
//! - every operation is answered exactly once, with its token, in any order;
//! - an operation that depends on another is handed out only after the other's completion;
//! - `Create`, `Rename` and `Remove` complete after their directory is synced, a `Write` that says
//!   `sync` after its file's data is; the file of a checkpoint that is being written may be gone
//!   after a power cut until it is renamed;
//! - a failed operation is never tried again by the driver.

use std::fmt;

use bytes::Bytes;

use crate::ids::{SegmentId, ShardId};

/// A file of a lane's folder. Its name on disk is its `Display` form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FileName {
    Segment(SegmentId),
    /// A whole, durable checkpoint.
    Checkpoint {
        shard: ShardId,
        number: u64,
    },
    /// A checkpoint that is being written; worth nothing after a crash.
    CheckpointPart {
        shard: ShardId,
        number: u64,
    },
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(id) if id.is_survivor() => {
                write!(f, "survivors-{:010}.segment", id.number())
            }
            Self::Segment(id) => write!(f, "log-{:010}.segment", id.number()),
            Self::Checkpoint { shard, number } => write!(f, "shard-{shard}-{number}.checkpoint"),
            Self::CheckpointPart { shard, number } => write!(f, "shard-{shard}-{number}.part"),
        }
    }
}

impl FileName {
    /// The file that has this name; `None` when it is none of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let found = Self::parse_loosely(name)?;
        (found.to_string() == name).then_some(found)
    }

    fn parse_loosely(name: &str) -> Option<Self> {
        let (stem, kind) = name.rsplit_once('.')?;
        if kind == "segment" {
            let (series, number) = stem.split_once('-')?;
            let number: u32 = number.parse().ok()?;
            let id = match series {
                "log" => SegmentId(number),
                "survivors" => SegmentId::survivor(number),
                _ => return None,
            };
            return (id.number() == number && !id.is_memory()).then_some(Self::Segment(id));
        }
        let (shard, number) = stem.strip_prefix("shard-")?.split_once('-')?;
        let (shard, number) = (ShardId(shard.parse().ok()?), number.parse().ok()?);
        match kind {
            "checkpoint" => Some(Self::Checkpoint { shard, number }),
            "part" => Some(Self::CheckpointPart { shard, number }),
            _ => None,
        }
    }
}

/// Joins an operation and its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Token(pub u64);

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Op {
    /// Makes the file (an old one of that name goes), writes `zeroed` bytes of zeros, syncs it
    /// and its directory (not those of a checkpoint that is being written).
    Create {
        file: FileName,
        zeroed: u64,
        token: Token,
    },
    /// Writes the buffers one behind the other from `offset`; the file grows when it must.
    Write {
        file: FileName,
        offset: u64,
        buffers: Vec<Bytes>,
        /// Complete only when the data is on disk (`fdatasync`).
        sync: bool,
        token: Token,
    },
    /// Reads `len` bytes, fewer when the file ends before.
    Read {
        file: FileName,
        offset: u64,
        len: u32,
        token: Token,
    },
    /// Renames, replacing what has the new name, and syncs the directory.
    Rename {
        from: FileName,
        to: FileName,
        token: Token,
    },
    /// Removes; a file that is not there is as good as removed.
    Remove { file: FileName, token: Token },
}

/// Which of a lane's disk threads an operation belongs to, so that nothing slow stands in front
/// of the log's sync. Within a queue the order of hand-out is kept; between them there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// Writes of the log proper.
    Log,
    /// Everything that takes long and that nobody waits for.
    Bulk,
    Read,
}

impl Op {
    #[must_use]
    pub fn token(&self) -> Token {
        match self {
            Self::Create { token, .. }
            | Self::Write { token, .. }
            | Self::Read { token, .. }
            | Self::Rename { token, .. }
            | Self::Remove { token, .. } => *token,
        }
    }

    /// The file that it is about; of a rename, the new name.
    #[must_use]
    pub fn file(&self) -> FileName {
        match self {
            Self::Create { file, .. }
            | Self::Write { file, .. }
            | Self::Read { file, .. }
            | Self::Rename { to: file, .. }
            | Self::Remove { file, .. } => *file,
        }
    }

    #[must_use]
    pub fn queue(&self) -> Queue {
        match self {
            Self::Write {
                file: FileName::Segment(id),
                ..
            } if !id.is_survivor() => Queue::Log,
            Self::Read { .. } => Queue::Read,
            _ => Queue::Bulk,
        }
    }
}

/// What came of an operation.
#[derive(Clone, Debug)]
pub struct Completion {
    pub token: Token,
    pub result: Result<Data, DiskError>,
}

/// What a completed operation gives.
#[derive(Clone, Debug)]
pub enum Data {
    Done,
    /// The bytes of a `Read`.
    Bytes(Bytes),
}

/// Why an operation failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskError {
    #[error("no space left on the device")]
    Full,
    #[error("{0}")]
    Io(String),
}

/// The synchronous side of a disk, for the start: nobody waits for a lane then.
pub trait RecoveryDisk {
    /// All files of the lane's folder with their length in bytes.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError>;

    /// Up to `len` bytes from `offset`; fewer only where the file ends.
    ///
    /// # Errors
    /// When the file is not there or cannot be read.
    fn read(&mut self, file: FileName, offset: u64, len: usize) -> Result<Bytes, DiskError>;

    /// Cuts the file to `len` bytes (never makes it longer) and syncs it.
    ///
    /// # Errors
    /// When that fails: the start must be given up.
    fn truncate(&mut self, file: FileName, len: u64) -> Result<(), DiskError>;

    /// Removes the file, if it is there.
    ///
    /// # Errors
    /// When that fails: the start must be given up.
    fn remove(&mut self, file: FileName) -> Result<(), DiskError>;
}
