//! Giving up a replica that is no member of its shard any more, so that its log and its messages
//! cost the disk nothing.
//!
//! Always holds:
//! - what it held stays referred to until a checkpoint that says that it is gone is on disk: after
//!   a crash before that it is there again, and is given up again;
//! - what the log has of it is never taken for another replica's ([`crate::checkpoint::Header`]);
//! - the next replica of the shard on this node has a larger id, and begins without a past.

use super::background::HEAD_PART;
use super::install::Missing;
use super::{Error, Lane, queue_at, rows_at};
use crate::consensus::{Hard, Members};
use crate::ids::{Index, ReplicaId, ShardId, Term};
use crate::log::Log;
use crate::machine::Machine;
use crate::replica::{Replica, State};

/// A replica that is given up.
pub(super) struct Vacating {
    replica: ReplicaId,
    held: Option<Held>,
    /// The one that is to come after it.
    host: Option<ReplicaId>,
}

/// What it had, until the disk knows that it has it no more.
struct Held {
    refs: Missing,
    begun: bool,
}

impl Vacating {
    pub(super) fn replica(&self) -> ReplicaId {
        self.replica
    }

    pub(super) fn host_after(&mut self, replica: ReplicaId) {
        if replica != self.replica {
            self.host = Some(replica);
        }
    }
}

impl<M: Machine, T: Copy> Lane<M, T> {
    pub(super) fn vacate(&mut self, shard: ShardId, replica: ReplicaId) {
        let here = with_replica!(self, shard, it => it.id());
        if here == Some(replica) && replica != ReplicaId(0) && !shard.is_unlogged() {
            self.vacating.entry(shard).or_insert(Vacating {
                replica,
                held: None,
                host: None,
            });
        }
    }

    /// Goes on giving up what is to be given up, one after the other.
    pub(super) fn go_on_vacating(&mut self) {
        if self.vacating.is_empty() {
            return;
        }
        let shards: Vec<ShardId> = self.vacating.keys().copied().collect();
        for shard in shards {
            self.begin_vacating(shard);
            self.save_vacated(shard);
        }
    }

    /// Takes it out of the shard, once nothing of it is under way.
    fn begin_vacating(&mut self, shard: ShardId) {
        let Some(vacating) = self.vacating.get_mut(&shard) else {
            return;
        };
        if vacating.held.is_some() {
            return;
        }
        if self.installing_shard() == Some(shard) {
            self.give_up_install();
        }
        let busy = self.sending.contains_key(&shard) || self.store.awaits(shard);
        let log = &mut self.store.log;
        let held = with_replica!(self, shard, it => take_out(it, busy, log)).flatten();
        if let (Some(held), Some(vacating)) = (held, self.vacating.get_mut(&shard)) {
            vacating.held = Some(held);
            self.touched.insert(shard);
        }
    }

    /// Begins the checkpoint that makes it so.
    fn save_vacated(&mut self, shard: ShardId) {
        let idle = self.store.log.checkpoint_is_idle();
        let Some(vacating) = self.vacating.get_mut(&shard) else {
            return;
        };
        let replica = vacating.replica;
        let held = vacating.held.as_mut();
        let Some(held) = held.filter(|held| idle && !held.begun) else {
            return;
        };
        held.begun = true;
        let log = &mut self.store.log;
        with_replica!(self, shard, it => begin(it, replica, log));
    }

    /// A checkpoint of the shard is on disk, or failed.
    ///
    /// # Errors
    /// The consensus library's own, about the replica that comes next.
    pub(super) fn vacated_is_saved(&mut self, shard: ShardId, saved: bool) -> Result<(), Error> {
        let vacating = self.vacating.get_mut(&shard);
        let Some(held) = vacating.and_then(|it| it.held.as_mut()) else {
            return Ok(());
        };
        if !saved || !held.begun {
            held.begun = false;
            return Ok(());
        }
        let Some(vacating) = self.vacating.remove(&shard) else {
            return Ok(());
        };
        if let Some(held) = vacating.held {
            held.refs.release(&mut self.store.log, shard);
            self.store.log.given_up(shard);
        }
        match vacating.host {
            Some(next) => self.host(shard, next),
            None => Ok(()),
        }
    }
}

/// What the replica held; `None` while it cannot be taken out.
fn take_out<M: Machine, T: Copy>(
    replica: &mut Replica<M, T>,
    busy: bool,
    log: &mut Log,
) -> Option<Held> {
    let leads = replica.consensus().leads().is_some() || replica.leads().is_some();
    if busy || leads {
        return None;
    }
    let state: State<M> = replica.vacate();
    log.give_up(replica.shard());
    let mut refs = Missing::default();
    state.machine().retain_all(&mut refs);
    Some(Held { refs, begun: false })
}

fn begin<M: Machine, T: Copy>(replica: &mut Replica<M, T>, vote: ReplicaId, log: &mut Log) {
    let shard = replica.shard();
    // Of no entry: those of the next replica may begin with the first.
    let (index, term) = (Index(0), Term(0));
    log.checkpoint_begin(shard, index, term);
    let mut head = replica.head();
    head.replica = ReplicaId(0);
    head.applied = (index, term);
    // Whom it was, so that no older row brings it back.
    head.hard = Hard {
        vote,
        ..Hard::default()
    };
    head.members = Members::default();
    let writer = log.checkpoint_writer(shard).expect("begun above");
    writer.part(HEAD_PART, &head.encode());
    replica.machine_mut().checkpoint_begin(writer);
}
