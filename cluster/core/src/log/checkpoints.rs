//! The checkpoint that is being written, and those that are durable.
//!
//! Invariants:
//! - one checkpoint of a lane is written at a time, and one write of it is in flight;
//! - it becomes durable by its rename, which comes after its own sync and after the log before
//!   its beginning was synced;
//! - the one that it replaces is removed after that.

use std::collections::BTreeMap;

use crate::checkpoint::{Header, Writer};
use crate::ids::{Index, ShardId};
use crate::log::disk::{FileName, Op, Token};
use crate::log::position::Position;
use crate::log::segments::Cover;
use crate::log::transfer::DurableCheckpoint;
use crate::machine::CheckpointWriter;

/// Bytes that gather before they are written.
const WRITE_BYTES: usize = 256 << 10;
/// With more than this waiting for the disk, the machine should pause.
const WAITING_BYTES_LIMIT: usize = 2 << 20;

#[derive(Default)]
pub(super) struct Checkpoints {
    pub(super) writing: Option<Writing>,
    durable: BTreeMap<ShardId, Durable>,
    /// Of the largest of `durable`: asked for with each entry.
    bytes_max: u64,
    pub(super) covers: BTreeMap<ShardId, Cover>,
    last_number: u64,
    /// Parts of checkpoints that were given up, to be removed.
    litter: Vec<FileName>,
}

#[derive(Clone, Copy)]
struct Durable {
    number: u64,
    bytes: u64,
}

pub(super) struct Writing {
    header: Header,
    writer: Writer,
    offset: u64,
    bytes: u64,
    phase: Phase,
    /// The operation in flight.
    token: Option<Token>,
    finished: bool,
    aborted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The file is not there yet.
    New,
    Writing,
    /// All of it is on disk under its temporary name.
    Synced,
    Renaming,
}

/// What a completion meant.
pub(super) enum Progress {
    None,
    Durable { shard: ShardId, index: Index },
}

impl Checkpoints {
    pub(super) fn shard(&self) -> Option<ShardId> {
        let writing = self.writing.as_ref().filter(|writing| !writing.aborted);
        writing.map(|writing| writing.header.shard)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.writing.is_none()
    }

    pub(super) fn writer(&mut self, shard: ShardId) -> Option<&mut Writer> {
        let writing = self.writing.as_mut()?;
        let open = !writing.aborted && !writing.finished && writing.header.shard == shard;
        open.then_some(&mut writing.writer)
    }

    pub(super) fn is_hungry(&self) -> bool {
        let pending = |writing: &Writing| writing.writer.pending();
        self.writing.as_ref().map_or(0, pending) < WAITING_BYTES_LIMIT
    }

    /// Begins; `header.number` is filled in here.
    pub(super) fn begin(&mut self, header: Header) {
        assert!(self.writing.is_none(), "one checkpoint at a time");
        self.last_number += 1;
        let header = Header {
            number: self.last_number,
            ..header
        };
        self.writing = Some(Writing {
            header,
            writer: Writer::new(&header),
            offset: 0,
            bytes: 0,
            phase: Phase::New,
            token: None,
            finished: false,
            aborted: false,
        });
    }

    pub(super) fn finish(&mut self) {
        if let Some(writing) = &mut self.writing {
            writing.writer.finish();
            writing.finished = true;
            writing.bytes = writing.writer.written();
        }
    }

    /// Gives the checkpoint up; its file goes when nothing of it is in flight.
    pub(super) fn abort(&mut self) {
        if let Some(writing) = &mut self.writing {
            writing.aborted = true;
        }
        self.clear_aborted();
    }

    fn clear_aborted(&mut self) {
        let idle = |writing: &Writing| writing.aborted && writing.token.is_none();
        if self.writing.as_ref().is_some_and(idle)
            && let Some(writing) = self.writing.take()
        {
            self.litter.push(writing.part());
        }
    }

    /// A durable checkpoint found at the start.
    pub(super) fn found(&mut self, header: &Header, bytes: u64) {
        self.saw_number(header.number);
        self.record(header, bytes);
    }

    /// A number that may not be used again.
    pub(super) fn saw_number(&mut self, number: u64) {
        self.last_number = self.last_number.max(number);
    }

    fn record(&mut self, header: &Header, bytes: u64) {
        let cover = Cover {
            index: header.index,
            term: header.term,
            begun: header.begun,
        };
        self.covers.insert(header.shard, cover);
        let number = header.number;
        if let Some(old) = self.durable.insert(header.shard, Durable { number, bytes }) {
            self.litter.push(FileName::Checkpoint {
                shard: header.shard,
                number: old.number,
            });
        }
        let sizes = self.durable.values().map(|durable| durable.bytes);
        self.bytes_max = sizes.max().unwrap_or(0);
    }

    /// The shard's checkpoint on disk.
    pub(super) fn durable(&self, shard: ShardId) -> Option<DurableCheckpoint> {
        let durable = self.durable.get(&shard)?;
        let cover = self.covers.get(&shard)?;
        Some(DurableCheckpoint {
            index: cover.index,
            number: durable.number,
            bytes: durable.bytes,
        })
    }

    /// Bytes of the shard's durable checkpoint; 0 when there is none.
    pub(super) fn bytes(&self, shard: ShardId) -> u64 {
        self.durable.get(&shard).map_or(0, |durable| durable.bytes)
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Hands out the next operation. `synced`: how far the log is on disk.
    pub(super) fn submit(
        &mut self,
        synced: Position,
        mut token: impl FnMut() -> Token,
    ) -> Option<Op> {
        if let Some(file) = self.litter.pop() {
            let token = token();
            return Some(Op::Remove { file, token });
        }
        let writing = self.writing.as_mut().filter(|w| w.token.is_none())?;
        let op = writing.next(synced, token)?;
        writing.token = Some(op.token());
        Some(op)
    }

    /// The operation in flight succeeded.
    pub(super) fn complete(&mut self) -> Progress {
        let Some(writing) = &mut self.writing else {
            return Progress::None;
        };
        writing.token = None;
        if writing.phase == Phase::Renaming {
            if let Some(writing) = self.writing.take() {
                self.record(&writing.header, writing.bytes);
                let Header { shard, index, .. } = writing.header;
                return Progress::Durable { shard, index };
            }
            return Progress::None;
        }
        if writing.phase == Phase::New {
            writing.phase = Phase::Writing;
        } else if writing.finished && writing.writer.pending() == 0 {
            writing.phase = Phase::Synced;
        }
        self.clear_aborted();
        Progress::None
    }

    /// The operation in flight found the disk full. Gives the shard, if it was not given up yet.
    pub(super) fn failed(&mut self) -> Option<ShardId> {
        let shard = self.shard();
        if let Some(writing) = &mut self.writing {
            writing.token = None;
        }
        self.abort();
        shard
    }
}

impl Writing {
    fn part(&self) -> FileName {
        FileName::CheckpointPart {
            shard: self.header.shard,
            number: self.header.number,
        }
    }

    fn next(&mut self, synced: Position, mut token: impl FnMut() -> Token) -> Option<Op> {
        let file = self.part();
        match self.phase {
            Phase::New => Some(Op::Create {
                file,
                zeroed: 0,
                token: token(),
            }),
            Phase::Writing if self.writer.pending() >= WRITE_BYTES || self.finished => {
                let (offset, bytes) = (self.offset, self.writer.take());
                self.offset += bytes.len() as u64;
                Some(Op::Write {
                    file,
                    offset,
                    buffers: vec![bytes],
                    sync: self.finished,
                    token: token(),
                })
            }
            Phase::Synced if synced >= self.header.begun => {
                self.phase = Phase::Renaming;
                Some(Op::Rename {
                    from: file,
                    to: FileName::Checkpoint {
                        shard: self.header.shard,
                        number: self.header.number,
                    },
                    token: token(),
                })
            }
            Phase::Writing | Phase::Synced | Phase::Renaming => None,
        }
    }
}
