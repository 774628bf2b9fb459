//! What a lane does besides moving its shards: what the log tells, checkpoints, the end.

use super::{Course, Error, Lane, queue_at, rows_at};
use crate::ids::{Now, ShardId};
use crate::inbox::Outputs;
use crate::log::disk::Completion;
use crate::log::{Event, Relocation};
use crate::machine::Machine;
use crate::replica::{Head, Replica};

/// The kind of a checkpoint's part that holds a replica's [`Head`].
pub(super) const HEAD_PART: u8 = 1;

impl<M: Machine, T: Copy> Lane<M, T> {
    pub(super) fn completed(&mut self, completion: Completion, now: Now) -> Result<(), Error> {
        self.store.log.complete(completion)?;
        self.take_events(now)
    }

    /// Takes what the log has to tell.
    pub(super) fn take_events(&mut self, now: Now) -> Result<(), Error> {
        while let Some(event) = self.store.log.pop_event() {
            match event {
                Event::Persisted(position) => {
                    while let Some((shard, number)) = self.store.persisted(position) {
                        self.persisted(shard, number);
                    }
                }
                Event::Resume { shard, key } => self.resume(shard, key, now),
                Event::Relocate(relocation) => self.relocate(relocation),
                Event::CheckpointDurable { shard, index } => {
                    self.touched.insert(shard);
                    self.installed_is_saved(shard, Some(index));
                    self.vacated_is_saved(shard, true)?;
                }
                Event::CheckpointFailed { shard } => {
                    self.checkpoint_failed(shard);
                    self.installed_is_saved(shard, None);
                    self.vacated_is_saved(shard, false)?;
                }
                Event::CheckpointRead {
                    shard,
                    offset,
                    bytes,
                } => self.checkpoint_read(shard, offset, bytes),
            }
        }
        Ok(())
    }

    fn persisted(&mut self, shard: ShardId, number: u64) {
        self.touched.insert(shard);
        if let Some(at) = rows_at(shard) {
            self.rows[at].on_persisted(number);
        } else if let Some(at) = queue_at(shard, &self.options) {
            self.queues[at].on_persisted(number);
        }
    }

    fn resume(&mut self, shard: ShardId, key: u64, now: Now) {
        // Rows are always in memory.
        let Some(at) = queue_at(shard, &self.options) else {
            return;
        };
        self.touched.insert(shard);
        let mut turn = self.store.turn(shard, now, &mut self.emitted[at]);
        self.queues[at].resume(key, &mut turn);
        self.answer_bodies(shard);
    }

    fn relocate(&mut self, relocation: Relocation) {
        let Relocation {
            shard,
            key,
            id,
            from,
            to,
        } = relocation;
        let Some(at) = queue_at(shard, &self.options) else {
            return;
        };
        let mut bodies = self.store.log.bodies(shard);
        let machine = self.queues[at].machine_mut();
        machine.relocate(key, id, from, to, &mut bodies);
    }

    fn checkpoint_failed(&mut self, shard: ShardId) {
        if let Some(at) = rows_at(shard) {
            self.rows[at].machine_mut().checkpoint_abort();
        } else if let Some(at) = queue_at(shard, &self.options) {
            self.queues[at].machine_mut().checkpoint_abort();
        }
        // The log is whole without it; the next start replays more.
        self.checkpoints_at_end = false;
    }

    /// A slice of work that nobody waits for; true when there is more of it to do at once.
    pub(super) fn work_in_background(&mut self, outputs: &mut Outputs<M::Effect, T>) -> bool {
        self.close_open();
        if let Some(shard) = self.store.log.checkpoint_shard() {
            if self.checkpoint_on(shard) {
                return true;
            }
        } else if let Some(shard) = self.store.log.checkpoint_wanted() {
            self.checkpoint(shard);
            return true;
        }
        if self.store.log.wants_copying() {
            self.copy();
            return true;
        }
        self.course == Course::Stopping && self.end(outputs)
    }

    /// Goes on copying what is live in segments that are mostly dead.
    fn copy(&mut self) {
        let (queues, options) = (&self.queues, &self.options);
        self.store.log.copy_survivors(|shard, key, ids, out| {
            if let Some(at) = queue_at(shard, options) {
                queues[at].machine().live(key, ids, out);
            }
        });
    }

    /// Begins a checkpoint.
    pub(super) fn checkpoint(&mut self, shard: ShardId) {
        let log = &mut self.store.log;
        if let Some(at) = rows_at(shard) {
            begin(&mut self.rows[at], log);
        } else if let Some(at) = queue_at(shard, &self.options) {
            begin(&mut self.queues[at], log);
        }
    }

    /// Goes on with the checkpoint under way, as far as the disk keeps up.
    fn checkpoint_on(&mut self, shard: ShardId) -> bool {
        if !self.store.log.checkpoint_is_hungry() {
            return false;
        }
        let Some(writer) = self.store.log.checkpoint_writer(shard) else {
            return false;
        };
        let budget = self.options.checkpoint_step_bytes;
        let whole = if let Some(at) = rows_at(shard) {
            self.rows[at].machine_mut().checkpoint_step(budget, writer)
        } else if let Some(at) = queue_at(shard, &self.options) {
            self.queues[at]
                .machine_mut()
                .checkpoint_step(budget, writer)
        } else {
            true
        };
        if whole {
            self.store.log.checkpoint_finish();
        }
        !whole
    }

    /// Takes nothing any more and finishes what is under way.
    pub(super) fn stop(&mut self) {
        if self.course == Course::Running {
            self.course = Course::Stopping;
            self.checkpoints_at_end = true;
            self.rows.iter_mut().for_each(Replica::hurry);
            self.queues.iter_mut().for_each(Replica::hurry);
            self.touched.extend(self.shards());
        }
    }

    /// What the start found in a shard's log and did not know to be agreed on is applied, or gone:
    /// a checkpoint before that would keep the log that it is to free.
    fn close_open(&mut self) {
        self.open.retain(|shard, found| {
            let open = with_replica!(self, *shard, it => {
                it.applied().0 < (*found).min(it.consensus().last().0)
            });
            if open != Some(true) {
                self.store.log.release_checkpoint(*shard);
            }
            open == Some(true)
        });
    }

    /// When all is answered and on disk: the checkpoints that shorten the next start, one by
    /// one, then the end. True when a checkpoint was begun.
    fn end(&mut self, outputs: &mut Outputs<M::Effect, T>) -> bool {
        let busy = self.rows.iter().any(waits) || self.queues.iter().any(waits);
        let busy = busy || self.shared.is_busy() || self.hosts_are_busy();
        if busy || !self.store.is_quiet() || !self.store.log.checkpoint_is_idle() {
            return false;
        }
        let worth = self.options.last_checkpoint_bytes_min;
        let unsaved = |shard: &ShardId| self.store.log.bytes_since_checkpoint(*shard) >= worth;
        if self.checkpoints_at_end
            && let Some(shard) = self.shards().find(unsaved)
        {
            self.checkpoint(shard);
            return true;
        }
        self.course = Course::Stopped;
        outputs.stopped = true;
        false
    }

    /// The logged shards.
    fn shards(&self) -> impl Iterator<Item = ShardId> + use<M, T> {
        (0..=self.options.shards).map(ShardId)
    }
}

/// Whether something of this node waits in a shard, and for somebody who may answer: the last nodes
/// of a cluster that stops are no majority.
fn waits<M: Machine, T: Copy>(replica: &Replica<M, T>) -> bool {
    replica.is_busy() && (replica.leads().is_some() || replica.leader().is_some())
}

fn begin<M: Machine, T: Copy>(replica: &mut Replica<M, T>, log: &mut crate::log::Log) {
    let (index, term) = replica.applied();
    let shard = replica.shard();
    log.checkpoint_begin(shard, index, term);
    let head: Head = replica.head();
    let writer = log.checkpoint_writer(shard).expect("begun above");
    writer.part(HEAD_PART, &head.encode());
    replica.machine_mut().checkpoint_begin(writer);
}
