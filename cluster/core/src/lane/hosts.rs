//! Other nodes' unlogged queues, as this node's clients use them.
//!
//! Such a shard is led by its node alone, for as long as that node's process lives: the term says
//! which process it is. This node has no replica of it, but a stream of batches and a desk as for
//! every shard that is led elsewhere.
//!
//! Always holds:
//! - what a process had is never asked of another: when the node comes back as a new one, or is
//!   out of reach for longer than any lease, all that waits is refused and consumers are cancelled;
//! - what is asked while the node is gone is refused at once: nobody's window sticks (rule 11).

use std::collections::BTreeMap;

use super::peers::RULE_OUT_MILLIS;
use super::{Lane, run};
use crate::batch::{Batch, Outcome};
use crate::consensus::Consensus;
use crate::ids::{Instant, Life, NodeId, Now, ShardId};
use crate::inbox::Outputs;
use crate::link::Parcel;
use crate::machine::{Desk, Machine, Malformed};
use crate::origin::{self, Origin};
use crate::replica::{Replica, State};

/// Times that what is between this node and a host can begin anew in a life of this process.
const BEGINNINGS_BITS: u32 = 24;

/// All hosts that this node has to do with.
pub(super) struct Hosts<M: Machine, T> {
    all: BTreeMap<NodeId, Replica<M, T>>,
    /// How often one began.
    beginnings: u64,
    /// What hosts want done; empty between turns.
    emitted: Vec<M::Effect>,
}

impl<M: Machine, T> Default for Hosts<M, T> {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            beginnings: 0,
            emitted: Vec::new(),
        }
    }
}

impl<M: Machine, T: Copy> Lane<M, T> {
    /// The other node whose unlogged queues the shard is.
    pub(super) fn other_host(&self, shard: ShardId) -> Option<NodeId> {
        shard.host().filter(|node| *node != self.options.node)
    }

    /// Whether there has been no way to a node, or no word of it, for longer than any lease lasts.
    #[must_use]
    pub fn is_gone(&self, node: NodeId, now: Instant) -> bool {
        let heard = self.shared.heard(node);
        let since = match heard.filter(|_| self.nodes.contains(&node)) {
            Some(heard) => Some(heard),
            None => self.seen.get(&node).copied().or(self.born),
        };
        since.is_some_and(|since| since.plus_millis(RULE_OUT_MILLIS) <= now)
    }

    fn host_of(&mut self, node: NodeId) -> &mut Replica<M, T> {
        let (options, hosts) = (&self.options, &mut self.hosts);
        let machine = self.queues[0].machine();
        // Somebody must look whether it comes, or is gone.
        self.next_tick.take_if(|tick| *tick == super::NEVER);
        hosts.all.entry(node).or_insert_with(|| {
            hosts.beginnings += 1;
            // A host that has heard of an earlier beginning must not take it for this one.
            let life = Life(options.life.0 << BEGINNINGS_BITS | hosts.beginnings);
            let state = State::new(ShardId::queues_of(node), machine.blank());
            let origin = Origin::new(origin::Options {
                node: options.node,
                life,
                unpaid_bytes_limit: options.unpaid_bytes_limit,
                resend_after_millis: options.resend_after_millis,
                merges: true,
            });
            Replica::new(state, Consensus::vacant(), origin)
        })
    }

    #[must_use]
    pub(super) fn propose_to_host(
        &mut self,
        node: NodeId,
        batch: Batch,
        ticket: T,
        now: Now,
    ) -> bool {
        if self.course != super::Course::Running || self.is_gone(node, now.mono) {
            return false;
        }
        self.touched.insert(ShardId::queues_of(node));
        self.host_of(node).push(batch, ticket, now)
    }

    pub(super) fn ask_host(
        &mut self,
        node: NodeId,
        input: M::Input,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        // What follows from rows is for that node's own lane.
        if !M::Desk::is_of_session(&input) {
            return;
        }
        if self.is_gone(node, now.mono) {
            outputs.effects.extend(M::Desk::refuse(&input));
            return;
        }
        let shard = ShardId::queues_of(node);
        self.touched.insert(shard);
        self.host_of(node);
        let Hosts { all, emitted, .. } = &mut self.hosts;
        if let Some(replica) = all.get_mut(&node) {
            let mut turn = self.store.turn(shard, now, emitted);
            replica.ask(input, &mut turn);
        }
    }

    /// Sends what waits for a host, if it is known.
    pub(super) fn move_host(
        &mut self,
        node: NodeId,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) -> Result<bool, Malformed> {
        let Hosts { all, emitted, .. } = &mut self.hosts;
        let Some(replica) = all.get_mut(&node) else {
            return Ok(false);
        };
        let mut turn = self.store.turn(replica.shard(), now, emitted);
        let known = turn.known;
        replica.send_inputs(known, &mut turn);
        let done = &mut outputs.done;
        let mut out = run::Out {
            effects: emitted,
            roles: &mut outputs.roles,
            answer: &mut |_: &mut M, ticket, outcome| done.push((ticket, outcome)),
        };
        let more = run::run(replica, &mut self.store, now, &mut out)?;
        replica.tell_got(&mut self.store.mail);
        Ok(more)
    }

    pub(super) fn host_deadline(&self, node: NodeId) -> Option<Instant> {
        self.hosts.all.get(&node)?.deadline()
    }

    /// Takes what the host says of its own queues.
    pub(super) fn hear_host(
        &mut self,
        node: NodeId,
        parcel: Parcel,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        let shard = ShardId::queues_of(node);
        if let Parcel::Leader { node: leads, term } = parcel {
            let known = self.hosts.all.get(&node).and_then(Replica::leader);
            if leads != node || known.is_some_and(|(known, _)| known > term) {
                return;
            }
            // Another process: whatever was asked of the one before is lost with it.
            if known.is_some_and(|(known, _)| known < term) {
                self.reset_host(node, outputs);
            }
            self.host_of(node);
        }
        let Hosts { all, emitted, .. } = &mut self.hosts;
        let Some(replica) = all.get_mut(&node) else {
            return;
        };
        self.touched.insert(shard);
        match parcel {
            Parcel::Dealing {
                term,
                life,
                dealing,
            } => {
                let mut turn = self.store.turn(shard, now, emitted);
                let (known, effects) = (turn.known, &mut outputs.effects);
                let dealing = (term, life, dealing);
                let taken = replica.take_dealing(node, dealing, known, effects, &mut turn);
                if let Err(malformed) = taken {
                    outputs.foreign.push((node, malformed));
                }
            }
            Parcel::Opened { .. }
            | Parcel::Outcome { .. }
            | Parcel::Again { .. }
            | Parcel::Closed { .. }
            | Parcel::Leader { .. } => {
                let (mail, settled) = (&mut self.store.mail, &mut outputs.done);
                replica.receive(node, parcel, now, true, mail, settled);
            }
            // Nothing else is said by a host.
            Parcel::Raft(_)
            | Parcel::Propose { .. }
            | Parcel::Transfer(_)
            | Parcel::Room { .. }
            | Parcel::Rows(_)
            | Parcel::RowsGot { .. }
            | Parcel::Known { .. }
            | Parcel::Ask { .. }
            | Parcel::Fresh { .. }
            | Parcel::Post { .. } => {}
        }
    }

    /// The host's process is gone, or cannot be told from one that is: nothing of it counts.
    pub(super) fn reset_host(&mut self, node: NodeId, outputs: &mut Outputs<M::Effect, T>) {
        let Some(mut replica) = self.hosts.all.remove(&node) else {
            return;
        };
        let refused = replica.abandon(&mut outputs.effects).into_iter();
        outputs
            .done
            .extend(refused.map(|ticket| (ticket, Outcome::Refused)));
        let shard = ShardId::queues_of(node);
        self.touched.remove(shard);
        self.deadlines.remove(&shard);
    }

    /// Sends again what had no answer; hosts that are gone for long are given up. Whether there
    /// are any.
    pub(super) fn tick_hosts(&mut self, now: Now, outputs: &mut Outputs<M::Effect, T>) -> bool {
        let gone = self.hosts.all.keys().copied();
        let gone: Vec<_> = gone.filter(|node| self.is_gone(*node, now.mono)).collect();
        for node in gone {
            self.reset_host(node, outputs);
        }
        for replica in self.hosts.all.values_mut() {
            replica.resend(None, &mut self.store.mail, now.mono);
        }
        !self.hosts.all.is_empty()
    }

    pub(super) fn host_connected(&mut self, node: NodeId, now: Instant) {
        if let Some(replica) = self.hosts.all.get_mut(&node) {
            let mail = &mut self.store.mail;
            replica.connected(node, mail);
            replica.resend(Some(node), mail, now);
            self.touched.insert(replica.shard());
        }
    }

    /// Whether anybody waits for a host.
    pub(super) fn hosts_are_busy(&self) -> bool {
        self.hosts.all.values().any(Replica::is_busy)
    }
}
