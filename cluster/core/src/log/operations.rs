//! What the log asks of its disk, and what the answers mean.
//!
//! Invariants:
//! - every operation handed out is in `jobs` until it is answered;
//! - a failure is fatal unless nothing was promised that depends on the operation.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::{Instant, SegmentId, ShardId};
use crate::log::checkpoints::Progress;
use crate::log::disk::{Completion, Data, DiskError, FileName, Op, Token};
use crate::log::{Error, Event, Job, Log};

/// A disk with room for so many segments can do without those that may be used again.
const ROOMY_SEGMENTS: u64 = 32;

impl Log {
    pub(super) fn token(last: &mut u64) -> Token {
        *last += 1;
        Token(*last)
    }

    /// Hands out what the disk should do: at the end of every step, and at [`Log::deadline`].
    pub fn submit(&mut self, now: Instant, ops: &mut Vec<Op>) {
        self.store.young.trim(self.main.written());
        self.make_file(now, ops);
        let token = Self::token(&mut self.last_token);
        if let Some(op) = self.main.submit(now, token) {
            self.hand_out(Job::Log, op, ops);
        }
        self.submit_copies(ops);
        self.make_survivor_file(ops);
        let token = Self::token(&mut self.last_token);
        if let Some(op) = self.survivors.submit(now, token) {
            self.hand_out(Job::Survivors, op, ops);
        }
        self.drop_dead(now, ops);
        self.look_for_checkpoint();
        self.submit_checkpoint(ops);
        self.submit_checkpoint_reads(ops);
        self.submit_reads(ops);
    }

    fn make_file(&mut self, now: Instant, ops: &mut Vec<Op>) {
        if self.creating.is_some() {
            return;
        }
        let Some(number) = self.main.wants_file() else {
            return;
        };
        let zeroed = self.main.zeroed_bytes(number);
        let usual = zeroed <= u64::from(self.options.segment_bytes);
        let file = FileName::Segment(SegmentId(number));
        self.spares.wanted(now);
        let spare = if usual { self.spares.take() } else { None };
        let token = Self::token(&mut self.last_token);
        let (op, taken) = match spare {
            Some(spare) => {
                let from = FileName::Segment(SegmentId(spare));
                let to = file;
                (Op::Rename { from, to, token }, 0)
            }
            None if self.full => return,
            None => (
                Op::Create {
                    file,
                    zeroed,
                    token,
                },
                zeroed,
            ),
        };
        self.spend(taken);
        self.main.asked_for(number);
        self.creating = Some(taken);
        self.hand_out(Job::NextFile { number }, op, ops);
    }

    /// A new file takes its room at once; how much there is, is looked at more seldom.
    fn spend(&mut self, bytes: u64) {
        self.free_disk_bytes = self.free_disk_bytes.saturating_sub(bytes);
    }

    /// The disk said so; what it has left is not known before it is looked at again.
    fn found_full(&mut self) {
        self.full = true;
        self.free_disk_bytes = 0;
    }

    fn make_survivor_file(&mut self, ops: &mut Vec<Op>) {
        if self.creating_survivors || self.full {
            return;
        }
        if let Some(number) = self.survivors.wants_file() {
            let op = Op::Create {
                file: FileName::Segment(SegmentId::survivor(number)),
                zeroed: self.survivors.zeroed_bytes(number),
                token: Self::token(&mut self.last_token),
            };
            self.spend(self.survivors.zeroed_bytes(number));
            self.creating_survivors = true;
            self.hand_out(Job::SurvivorFile { number }, op, ops);
        }
    }

    pub(super) fn hand_out(&mut self, job: Job, op: Op, ops: &mut Vec<Op>) {
        self.jobs.insert(op.token(), (job, op.file()));
        ops.push(op);
    }

    fn drop_dead(&mut self, now: Instant, ops: &mut Vec<Op>) {
        if self.store.segments.take_changed() {
            self.copies.look = true;
            self.looking = true;
            let covers = &self.checkpoints.covers;
            for (number, used) in self.store.segments.take_dead(covers) {
                self.store.extents.forget(SegmentId(number));
                let usual = number >= self.first && used <= self.options.segment_bytes;
                if usual {
                    self.spares.add(number);
                } else {
                    self.remove(FileName::Segment(SegmentId(number)), ops);
                }
            }
            let sealed = self.store.segments.sealed_count();
            self.spares.are_beside(sealed);
        }
        let roomy = self.free_disk_bytes / ROOMY_SEGMENTS > u64::from(self.options.segment_bytes);
        while let Some(number) = self.spares.surplus(now, roomy) {
            self.remove(FileName::Segment(SegmentId(number)), ops);
        }
        if self.store.survivors.take_changed() {
            self.copies.look = true;
            for (number, _) in self.store.survivors.take_dead(&BTreeMap::new()) {
                let segment = SegmentId::survivor(number);
                self.store.extents.forget(segment);
                self.remove(FileName::Segment(segment), ops);
            }
        }
    }

    fn remove(&mut self, file: FileName, ops: &mut Vec<Op>) {
        let token = Self::token(&mut self.last_token);
        self.hand_out(Job::Remove, Op::Remove { file, token }, ops);
    }

    fn submit_checkpoint(&mut self, ops: &mut Vec<Op>) {
        let synced = self.main.synced();
        let last = &mut self.last_token;
        while let Some(op) = self.checkpoints.submit(synced, || Self::token(last)) {
            let removal = matches!(op, Op::Remove { .. });
            let job = if removal {
                Job::Remove
            } else {
                Job::Checkpoint
            };
            self.jobs.insert(op.token(), (job, op.file()));
            ops.push(op);
        }
    }

    fn submit_reads(&mut self, ops: &mut Vec<Op>) {
        if !self.store.extents.has_wants() {
            return;
        }
        let end = |segment: SegmentId| {
            let (table, series) = if segment.is_survivor() {
                (&self.store.survivors, &self.survivors)
            } else {
                (&self.store.segments, &self.main)
            };
            let written = series.written();
            let open = if segment.number() == written.number() {
                written.offset()
            } else {
                0
            };
            table.sealed_bytes(segment.number()).unwrap_or(open)
        };
        let last = &mut self.last_token;
        let mut resumes = Vec::new();
        let first = ops.len();
        self.store
            .extents
            .plan(end, || Self::token(last), ops, &mut resumes);
        for op in &ops[first..] {
            self.jobs.insert(op.token(), (Job::Read, op.file()));
        }
        self.resume(&resumes);
    }

    fn resume(&mut self, resumes: &[(ShardId, u64)]) {
        let resume = |&(shard, key): &(ShardId, u64)| Event::Resume { shard, key };
        self.events.extend(resumes.iter().map(resume));
    }

    /// Takes what came of an operation.
    ///
    /// # Errors
    /// What the log cannot survive: a failed write, sync or read. The process must end.
    pub fn complete(&mut self, completion: Completion) -> Result<(), Error> {
        let Some((job, file)) = self.jobs.remove(&completion.token) else {
            return Ok(());
        };
        match (job, completion.result) {
            (Job::Read, Ok(Data::Bytes(bytes))) => self.read(completion.token, file, bytes),
            (Job::SurvivorRead, Ok(Data::Bytes(bytes))) => self.survivor_read(file, bytes),
            (
                Job::CheckpointRead {
                    shard,
                    number,
                    offset,
                },
                Ok(Data::Bytes(bytes)),
            ) => {
                if self.is_newest_checkpoint(shard, number) {
                    self.events.push_back(Event::CheckpointRead {
                        shard,
                        offset,
                        bytes,
                    });
                }
                Ok(())
            }
            (job, Ok(_)) => {
                self.done(&job);
                Ok(())
            }
            (job, Err(source)) => self.failed(completion.token, &job, file, source),
        }
    }

    pub(super) fn exists(&self, file: FileName) -> bool {
        let FileName::Segment(id) = file else {
            return false;
        };
        let segments = if id.is_survivor() {
            &self.store.survivors
        } else {
            &self.store.segments
        };
        segments.exists(id.number())
    }

    fn read(&mut self, token: Token, file: FileName, bytes: Bytes) -> Result<(), Error> {
        let mut resumes = Vec::new();
        if !self.exists(file) {
            self.store.extents.give_up(token, &mut resumes);
            self.resume(&resumes);
            return Ok(());
        }
        let read = self.store.extents.complete(token, bytes, &mut resumes);
        self.resume(&resumes);
        read.map_err(|short| Error::Corrupt {
            file: short.file,
            offset: short.end,
            cause: "the file ends before a body does".to_owned(),
        })
    }

    fn done(&mut self, job: &Job) {
        match job {
            Job::Log => {
                self.syncs += 1;
                let before = self.main.durable();
                self.main.complete();
                if self.main.durable() > before {
                    self.events.push_back(Event::Persisted(self.main.durable()));
                }
                while let Some((number, end)) = self.main.take_sealed() {
                    self.store.segments.seal(number, end);
                }
            }
            Job::NextFile { number } => {
                self.creating = None;
                self.main.prepared(*number);
            }
            Job::Survivors => {
                self.survivors.complete();
                self.survivors_written();
            }
            Job::SurvivorFile { number } => {
                self.creating_survivors = false;
                self.survivors.prepared(*number);
            }
            Job::Remove => {
                self.looking |= self.full;
                self.full = false;
            }
            Job::Checkpoint => {
                if let Progress::Durable { shard, index } = self.checkpoints.complete() {
                    self.store.segments.look_again();
                    self.events
                        .push_back(Event::CheckpointDurable { shard, index });
                }
            }
            Job::Read | Job::SurvivorRead | Job::CheckpointRead { .. } => {}
        }
    }

    /// A full disk is survived where nothing was promised: the next file comes later, the
    /// checkpoint is given up.
    fn failed(
        &mut self,
        token: Token,
        job: &Job,
        file: FileName,
        source: DiskError,
    ) -> Result<(), Error> {
        let action = match job {
            Job::NextFile { .. } if source == DiskError::Full => {
                self.creating = None;
                self.found_full();
                return Ok(());
            }
            Job::Checkpoint if source == DiskError::Full => {
                self.found_full();
                if let Some(shard) = self.checkpoints.failed() {
                    self.checkpoint_failed(shard);
                    self.events.push_back(Event::CheckpointFailed { shard });
                }
                return Ok(());
            }
            Job::SurvivorFile { .. } | Job::Survivors if source == DiskError::Full => {
                self.creating_survivors = false;
                self.found_full();
                self.abandon_copies();
                self.adopted_losses += 1;
                return Ok(());
            }
            // What was to be read went while it was on its way: so did all who referred to it.
            Job::Read if !self.exists(file) => {
                let mut resumes = Vec::new();
                self.store.extents.give_up(token, &mut resumes);
                self.resume(&resumes);
                return Ok(());
            }
            Job::SurvivorRead if !self.exists(file) => {
                self.give_up_read();
                return Ok(());
            }
            Job::CheckpointRead { shard, number, .. }
                if !self.is_newest_checkpoint(*shard, *number) =>
            {
                return Ok(());
            }
            Job::Log | Job::Survivors | Job::Checkpoint => "write",
            Job::NextFile { .. } | Job::SurvivorFile { .. } => "creation",
            Job::Remove => "removal",
            Job::Read | Job::SurvivorRead | Job::CheckpointRead { .. } => "read",
        };
        Err(Error::Disk {
            action,
            file,
            source,
        })
    }
}
