//! What the log does for the rebuilding of replicas: checkpoints read back and kept for that
//! long, bodies of other nodes taken in among the survivors.

use bytes::Bytes;

use crate::ids::{Index, Place, ShardId};
use crate::log::disk::{FileName, Op};
use crate::log::record::{Head, Kind};
use crate::log::{Job, Log, Position};

/// Part of a checkpoint's file, to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    shard: ShardId,
    offset: u64,
    len: u32,
}

/// A checkpoint on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DurableCheckpoint {
    pub index: Index,
    pub number: u64,
    pub bytes: u64,
}

impl Log {
    /// The shard's newest checkpoint on disk.
    #[must_use]
    pub fn durable_checkpoint(&self, shard: ShardId) -> Option<DurableCheckpoint> {
        self.checkpoints.durable(shard)
    }

    /// Keeps the shard's checkpoint until [`Log::release_checkpoint`], as often as it was held: no
    /// new one is begun but by [`Log::request_checkpoint`].
    pub fn hold_checkpoint(&mut self, shard: ShardId) {
        *self.held.entry(shard).or_default() += 1;
        self.wanted = self.wanted.filter(|wanted| *wanted != shard);
    }

    /// See [`Log::hold_checkpoint`].
    pub fn release_checkpoint(&mut self, shard: ShardId) {
        if let Some(times) = self.held.get_mut(&shard) {
            *times -= 1;
            if *times == 0 {
                self.held.remove(&shard);
            }
        }
        self.looking = true;
    }

    /// The shard's next checkpoint is due now.
    pub fn request_checkpoint(&mut self, shard: ShardId) {
        if !self.full && self.checkpoints.shard() != Some(shard) {
            self.wanted = Some(shard);
        }
    }

    /// Reads part of the shard's newest checkpoint: [`crate::log::Event::CheckpointRead`], unless
    /// a newer one is there by then.
    pub fn read_checkpoint(&mut self, shard: ShardId, offset: u64, len: u32) {
        let wanted = Wanted { shard, offset, len };
        self.checkpoint_reads.push_back(wanted);
    }

    pub(super) fn submit_checkpoint_reads(&mut self, ops: &mut Vec<Op>) {
        while let Some(Wanted { shard, offset, len }) = self.checkpoint_reads.pop_front() {
            let Some(durable) = self.checkpoints.durable(shard) else {
                continue;
            };
            let number = durable.number;
            let op = Op::Read {
                file: FileName::Checkpoint { shard, number },
                offset,
                len,
                token: Self::token(&mut self.last_token),
            };
            let job = Job::CheckpointRead {
                shard,
                number,
                offset,
            };
            self.hand_out(job, op, ops);
        }
    }

    /// Whether this is the shard's newest checkpoint still: the next one takes its place, and its
    /// file goes, whatever is being read of it.
    pub(super) fn is_newest_checkpoint(&self, shard: ShardId, number: u64) -> bool {
        let newest = self.checkpoints.durable(shard);
        newest.is_some_and(|newest| newest.number == number)
    }

    /// Takes in a message body that another node had. It lies where this says, and is on disk
    /// when [`Log::adopted_durable`] has come to [`Log::adopted_tail`].
    pub fn adopt(&mut self, shard: ShardId, key: u64, id: u64, bytes: &Bytes) -> Place {
        let head = Head {
            kind: Kind::Survivor,
            entry_kind: 0,
            shard,
            term: key,
            index: id,
        };
        let to = self.survivors.append(&head, bytes);
        self.store.survivors.begin_through(to.segment.number());
        to
    }

    /// All that was adopted so far lies before this.
    #[must_use]
    pub fn adopted_tail(&self) -> Position {
        self.survivors.tail()
    }

    /// What was adopted before this is on disk.
    #[must_use]
    pub fn adopted_durable(&self) -> Position {
        self.survivors.durable()
    }

    /// Bytes that were adopted and are not on disk.
    #[must_use]
    pub fn adopted_pending(&self) -> u64 {
        self.survivors.pending_bytes()
    }

    /// How often a full disk has lost what was adopted and not on disk yet.
    #[must_use]
    pub fn adopted_losses(&self) -> u64 {
        self.adopted_losses
    }

    #[cfg(test)]
    pub(crate) fn lose_adopted(&mut self) {
        self.adopted_losses += 1;
    }
}
