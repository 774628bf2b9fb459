//! The barrier of a new leader, and what nodes claim before it (rule 7).
//!
//! Always holds:
//! - before the barrier is passed nothing is handed out, answered or decided (but that queues are
//!   made);
//! - a message that a claim names is out with whom it says, and nobody else gets it;
//! - one that lies below such a message and that nobody claims was out and is back.

use std::collections::BTreeSet;

use warren_cluster_core::ids::NodeId;
use warren_cluster_core::machine::Context;

use crate::ids::SessionId;

use super::Shard;
use super::effect::Effect;
use super::input::{Claim, ClaimedSeat};

/// Whom a new leader waits for, and what it has heard.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    nodes: BTreeSet<NodeId>,
    claims: Vec<Claim>,
}

impl Shard {
    /// Waits for the claims of these nodes before anything is handed out.
    pub(super) fn raise_barrier(&mut self, nodes: &[NodeId], context: &mut Context<'_, Effect>) {
        let nodes = if cfg!(warren_break = "no_barrier") {
            BTreeSet::new()
        } else {
            nodes.iter().copied().collect()
        };
        self.leader.barrier = Some(Barrier {
            nodes,
            claims: Vec::new(),
        });
        self.pass_barrier(context);
    }

    /// A node says what its sessions have and hold.
    pub(super) fn take_claim(&mut self, claim: Claim, context: &mut Context<'_, Effect>) {
        // What an earlier process of the node asked is asked no more.
        self.leader.forget_inputs_of(claim.node);
        let Some(barrier) = &mut self.leader.barrier else {
            self.take_late_claim(&claim, context);
            return;
        };
        barrier.nodes.remove(&claim.node);
        barrier.claims.retain(|other| other.node != claim.node);
        barrier.claims.push(claim);
        self.pass_barrier(context);
    }

    /// The node is ruled out: it is waited for no more, and what its sessions held goes back.
    pub(super) fn rule_out(&mut self, node: NodeId, context: &mut Context<'_, Effect>) {
        self.leader.forget_inputs_of(node);
        if let Some(barrier) = &mut self.leader.barrier {
            barrier.nodes.remove(&node);
            barrier.claims.retain(|claim| claim.node != node);
            self.pass_barrier(context);
            return;
        }
        self.forget_sessions_of(node, context);
    }

    fn forget_sessions_of(&mut self, node: NodeId, context: &mut Context<'_, Effect>) {
        let (first, last) = SessionId::all_of(node);
        for session in crate::delivery::sessions_between(&self.leader.sessions, first, last) {
            self.session_gone(session, context);
        }
    }

    /// When all have spoken: what they hold is out, and the leader acts from here on.
    fn pass_barrier(&mut self, context: &mut Context<'_, Effect>) {
        let passed = |barrier: &mut Barrier| barrier.nodes.is_empty();
        let Some(barrier) = self.leader.barrier.take_if(passed) else {
            return;
        };
        self.leader.leads = true;
        #[cfg(warren_break = "reconcile_absence")]
        for queue in self.slots.ids() {
            if self.options.logged && !self.leader.wanted.contains(&queue) {
                let drop = |out: &mut _| super::command::encode_drop(out, queue);
                context.proposals.push(drop);
            }
        }
        let mut claimed = BTreeSet::new();
        for seat in barrier.claims.iter().flat_map(|claim| &claim.seats) {
            if let Some(at) = self.seat(seat, context)
                && let Some(slot) = self.slots.at_mut(at)
                && let Some(delivery) = &mut slot.delivery
            {
                delivery.claim(seat.holder, &seat.held);
                claimed.insert(at);
            }
        }
        for at in claimed {
            if let Some(slot) = self.slots.at_mut(at)
                && let Some(delivery) = &mut slot.delivery
            {
                delivery.settle_claims(&slot.queue, &mut self.leader.sessions);
                self.leader.activate(at, delivery);
            }
        }
        for input in std::mem::take(&mut self.leader.waiting) {
            self.take_input(input, context);
        }
    }

    /// A node that was ruled out, or is a new process: what is out again stays where it is.
    fn take_late_claim(&mut self, claim: &Claim, context: &mut Context<'_, Effect>) {
        self.forget_sessions_of(claim.node, context);
        for seat in &claim.seats {
            if let Some(at) = self.seat(seat, context)
                && let Some(slot) = self.slots.at_mut(at)
                && let Some(delivery) = &mut slot.delivery
            {
                delivery.claim_late(seat.holder, &seat.held);
                delivery.vacate(seat.holder, slot.queue.id, &mut self.leader.sessions);
                self.leader.activate(at, delivery);
            }
        }
    }

    /// Seats the holder in its queue's delivery. Where the queue is gone, a consumer is told.
    fn seat(&mut self, seat: &ClaimedSeat, context: &mut Context<'_, Effect>) -> Option<u32> {
        let found = self.slots.find(seat.queue);
        let slot = found.and_then(|at| Some((at, self.slots.at_mut(at)?)));
        let Some((at, slot)) = slot.filter(|(_, slot)| !slot.queue.closed) else {
            if seat.consumer.is_some() {
                context.effects.push(Effect::Cancelled {
                    session: seat.holder.session,
                    number: seat.holder.number,
                    queue: seat.queue,
                });
            }
            return None;
        };
        let delivery = slot.delivery.get_or_insert_default();
        let consumer = seat.consumer.as_ref();
        let sessions = &mut self.leader.sessions;
        delivery.seat(seat.holder, seat.queue, consumer, sessions);
        Some(at)
    }
}
