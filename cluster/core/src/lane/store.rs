//! A lane's log as its shards use it, and who waits for which part of it to be on disk.

use std::collections::VecDeque;

use super::Figures;
use crate::consensus::{Entry, Hard};
use crate::ids::{Instant, Now, Place, ShardId};
use crate::link::Mail;
use crate::log::disk::Op;
use crate::log::{HardState, Log, Position};
use crate::machine::CheckpointWriter;
use crate::replica::Turn;
use crate::rows::Version;

pub(super) struct Store {
    pub(super) log: Log,
    /// What goes to other nodes at the end of the step.
    pub(super) mail: Mail,
    /// The definitions that were told of before this step: what follows from them has been asked.
    pub(super) known: Version,
    /// Readies that count as persisted when the log is, up to the position; in its order.
    awaited: VecDeque<Awaited>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Awaited {
    position: Position,
    shard: ShardId,
    number: u64,
}

impl Store {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            mail: Mail::default(),
            known: Version(0),
            awaited: VecDeque::new(),
        }
    }

    /// What a replica may use for a while.
    pub(super) fn turn<'a, E>(
        &'a mut self,
        shard: ShardId,
        now: Now,
        effects: &'a mut Vec<E>,
    ) -> Turn<'a, E> {
        let (bodies, writer) = self.log.split(shard);
        Turn {
            now,
            bodies,
            effects,
            mail: &mut self.mail,
            known: self.known,
            checkpoint: writer.map(|writer| writer as &mut dyn CheckpointWriter),
        }
    }

    pub(super) fn append(&mut self, shard: ShardId, entry: &Entry) -> Place {
        if shard.is_unlogged() {
            return self.log.append_memory(entry.data.clone());
        }
        let kind = entry.kind as u8;
        self.log
            .append_entry(shard, entry.term, entry.index, kind, &entry.data)
    }

    pub(super) fn promise(&mut self, shard: ShardId, hard: Hard) {
        let state = HardState {
            term: hard.term,
            vote: hard.vote.0,
            commit: hard.commit,
        };
        self.log.append_hard_state(shard, state);
    }

    /// The shard's ready `number` is persisted when all that was appended so far is.
    pub(super) fn await_disk(&mut self, shard: ShardId, number: u64) {
        if shard.is_unlogged() {
            return;
        }
        self.awaited.push_back(Awaited {
            position: self.log.tail(),
            shard,
            number,
        });
    }

    /// Whether something of the shard waits for the disk.
    pub(super) fn awaits(&self, shard: ShardId) -> bool {
        self.awaited.iter().any(|awaited| awaited.shard == shard)
    }

    /// The next ready that is persisted now that the log is, up to `position`.
    pub(super) fn persisted(&mut self, position: Position) -> Option<(ShardId, u64)> {
        self.awaited
            .pop_front_if(|awaited| awaited.position <= position)
            .map(|awaited| (awaited.shard, awaited.number))
    }

    /// The entry at `place` was applied.
    pub(super) fn applied(&mut self, shard: ShardId, place: Place) {
        if shard.is_unlogged() {
            self.log.memory_applied(place);
        }
    }

    /// Whether all that was appended is on disk and told.
    pub(super) fn is_quiet(&self) -> bool {
        self.awaited.is_empty() && self.log.pending_bytes() == 0
    }

    pub(super) fn submit(&mut self, now: Instant, ops: &mut Vec<Op>) {
        self.log.submit(now, ops);
    }

    pub(super) fn figures(&self) -> Figures {
        let status = self.log.status();
        Figures {
            log_bytes: status.log_bytes,
            segments: status.segments,
            young_bytes: status.young_bytes + status.read_cache_bytes,
            memory_bytes: status.memory_bytes,
        }
    }
}
