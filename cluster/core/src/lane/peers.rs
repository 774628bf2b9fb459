//! A lane among other nodes: envelopes, ticks, who leads, where replicas are.

use bytes::Bytes;

use super::{Error, Lane, NEVER, committed_of, queue_at, rows_at};
use crate::consensus::{MemberChange, Members, TICK_MILLIS};
use crate::ids::{Index, Instant, NodeId, Now, ReplicaId, ShardId, Term};
use crate::inbox::Outputs;
use crate::link::{self, Parcel};
use crate::machine::Machine;
use crate::replica::Replica;

/// A shard as this node knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardStatus {
    pub shard: ShardId,
    /// This node's replica, if it has one.
    pub replica: Option<ReplicaId>,
    pub leader: Option<(Term, NodeId)>,
    pub members: Members,
    pub applied: (Index, Term),
    pub committed: Index,
    /// How far the others have the log; empty unless this node leads.
    pub matched: Vec<(ReplicaId, Index)>,
}

/// Calls a method on the replica of a shard, whatever its machine.
macro_rules! with_replica {
    ($lane:expr, $shard:expr, $replica:ident => $call:expr) => {
        if let Some(at) = rows_at($shard) {
            let $replica = &mut $lane.rows[at];
            Some($call)
        } else if let Some(at) = queue_at($shard, $lane.options.shards) {
            let $replica = &mut $lane.queues[at];
            Some($call)
        } else {
            None
        }
    };
}

impl<M: Machine, T: Copy> Lane<M, T> {
    /// Takes an envelope of another node.
    pub(super) fn receive(
        &mut self,
        from: NodeId,
        envelope: &Bytes,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        let parcels = match link::open(envelope) {
            Ok(parcels) => parcels,
            Err(malformed) => {
                outputs.foreign.push((from, malformed));
                return;
            }
        };
        for (shard, parcel) in parcels {
            if !shard.is_unlogged() {
                self.deliver(from, shard, parcel, now, outputs);
            }
        }
    }

    fn deliver(
        &mut self,
        from: NodeId,
        shard: ShardId,
        parcel: Parcel,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        let parcel = match parcel {
            Parcel::Transfer(transfer) => {
                self.touched.insert(shard);
                if transfer.is_of_sender() {
                    self.offered_or_sent(from, shard, transfer, now.mono, outputs);
                } else {
                    self.asked(from, shard, transfer, now.mono);
                }
                return;
            }
            parcel => parcel,
        };
        let room = self.course == super::Course::Running && self.store.log.room_for_publishes();
        let mail = &mut self.store.mail;
        if let Some(at) = rows_at(shard) {
            let mut settled = Vec::new();
            self.rows[at].receive(from, parcel, now, room, mail, &mut settled);
            for (ticket, outcome) in settled {
                let committed = committed_of(self.rows[at].machine_mut(), outcome);
                outputs.committed.push((ticket, committed));
            }
        } else if let Some(at) = queue_at(shard, self.options.shards) {
            let settled = &mut outputs.done;
            self.queues[at].receive(from, parcel, now, room, mail, settled);
        } else {
            return;
        }
        self.touched.insert(shard);
    }

    /// Ticks the replicas that have peers.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.next_tick.is_some_and(|tick| now < tick) {
            return;
        }
        let mut any = false;
        for replica in &mut self.queues {
            any |= tick(replica, now, &mut self.touched);
        }
        for replica in &mut self.rows {
            any |= tick(replica, now, &mut self.touched);
        }
        self.next_tick = Some(if any {
            now.plus_millis(TICK_MILLIS)
        } else {
            NEVER
        });
    }

    /// Other nodes hear of what this one leads from here on.
    pub(super) fn tell_roles(&mut self, outputs: &Outputs<M::Effect, T>) {
        let node = self.options.node;
        for (shard, leads) in &outputs.roles {
            let Some(term) = leads.filter(|_| !shard.is_unlogged()) else {
                continue;
            };
            for to in &self.nodes {
                let parcel = Parcel::Leader { node, term };
                self.store.mail.send(*to, *shard, &parcel);
            }
        }
    }

    pub(super) fn connected(&mut self, node: NodeId) {
        self.nodes.insert(node);
        let mail = &mut self.store.mail;
        for replica in &mut self.queues {
            replica.connected(node, mail);
            self.touched.insert(replica.shard());
        }
        for replica in &mut self.rows {
            replica.connected(node, mail);
            self.touched.insert(replica.shard());
        }
    }

    pub(super) fn disconnected(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.queues.iter_mut().for_each(|it| it.disconnected(node));
        self.rows.iter_mut().for_each(|it| it.disconnected(node));
    }

    pub(super) fn host(&mut self, shard: ShardId, replica: ReplicaId) -> Result<(), Error> {
        let seed = self.options.seed.wrapping_add(u64::from(shard.0));
        let here = replica.node() == self.options.node;
        let hosted = with_replica!(self, shard, it => {
            if here && !it.is_here() { it.host(replica, seed) } else { Ok(()) }
        });
        self.touched.insert(shard);
        self.next_tick = None;
        hosted
            .unwrap_or(Ok(()))
            .map_err(|cause| Error::Consensus { shard, cause })
    }

    pub(super) fn change_members(&mut self, shard: ShardId, changes: &[MemberChange]) {
        // Refused where somebody else leads or a change is under way: the plan is made anew.
        let _ = with_replica!(self, shard, it => it.consensus_mut().propose_members(changes));
        self.touched.insert(shard);
        self.next_tick = None;
    }

    pub(super) fn transfer(&mut self, shard: ShardId, to: ReplicaId) {
        let _ = with_replica!(self, shard, it => it.consensus_mut().transfer(to));
        self.touched.insert(shard);
    }

    /// What this node knows of a logged shard.
    #[must_use]
    pub fn status(&self, shard: ShardId) -> Option<ShardStatus> {
        if let Some(at) = rows_at(shard) {
            return Some(status(&self.rows[at]));
        }
        let at = queue_at(shard, self.options.shards)?;
        Some(status(&self.queues[at]))
    }
}

fn tick<M: Machine, T: Copy>(
    replica: &mut Replica<M, T>,
    now: Instant,
    touched: &mut std::collections::BTreeSet<ShardId>,
) -> bool {
    if replica.consensus().is_alone() {
        return false;
    }
    replica.consensus_mut().tick(now);
    touched.insert(replica.shard());
    true
}

fn status<M: Machine, T: Copy>(replica: &Replica<M, T>) -> ShardStatus {
    let consensus = replica.consensus();
    let members = consensus.members();
    let matched = members.all();
    let matched = matched.filter_map(|peer| Some((peer, consensus.matched(peer)?)));
    ShardStatus {
        shard: replica.shard(),
        replica: replica.is_here().then(|| replica.id()),
        leader: replica.leader(),
        matched: matched.collect(),
        applied: replica.applied(),
        committed: consensus.hard().commit,
        members,
    }
}
