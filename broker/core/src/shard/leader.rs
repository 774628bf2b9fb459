//! The leader's half: inputs, and what goes out at the end of a step.
//!
//! Invariants:
//! - inputs for a queue whose create is on its way wait for it, in order, so that nothing that
//!   follows a create finds its queue missing;
//! - a queue with something to hand out or to propose stands in `active`, once.

use std::collections::{BTreeMap, VecDeque};

use warren_cluster_core::ids::{Instant, NodeId, Time};
use warren_cluster_core::machine::Context;

use crate::delivery::{Delivery, RESERVE_AHEAD, Sessions, Terms};
use crate::ids::{Holder, MessageId, QueueId, SessionId, Token};

use super::Shard;
use super::claims::Barrier;
use super::command::{self, Create};
use super::effect::{Effect, Refusal, Reply};
use super::expiries::Expiries;
use super::input::{Attach, Input, QueueConfig, Settle};
use super::slots::Slot;

/// Inputs that a replica keeps while it is about to lead.
const WAITING_MAX: usize = 65_536;

/// What the leader of a shard knows beside its queues.
#[derive(Debug, Default)]
pub(super) struct Leader {
    /// It acts: its barrier is passed.
    pub(super) leads: bool,
    /// Set from when consensus says so until all nodes have made their claims.
    pub(super) barrier: Option<Barrier>,
    pub(super) sessions: Sessions,
    active: Vec<u32>,
    barriers: Vec<(SessionId, Token)>,
    /// Queues whose create is proposed, and what waits for it.
    creating: BTreeMap<QueueId, Vec<Input>>,
    #[cfg(warren_break = "reconcile_absence")]
    pub(super) wanted: std::collections::BTreeSet<QueueId>,
    /// Inputs whose queue is there now.
    unparked: Vec<Input>,
    /// Inputs that came before this replica could act.
    pub(super) waiting: VecDeque<Input>,
    pub(super) expiries: Expiries,
    /// When the first of `expiries` is due, by the clock that deadlines are told in.
    wake: Option<Instant>,
}

impl Leader {
    /// Whether this replica leads, inside its lease or not: what follows from the log alone is
    /// told by whoever applies it as the leader, or by nobody.
    pub(super) fn is_here(&self) -> bool {
        self.leads || self.barrier.is_some()
    }

    /// Has the queue served at the end of the step.
    pub(super) fn activate(&mut self, slot: u32, delivery: &mut Delivery) {
        if !delivery.active {
            delivery.active = true;
            self.active.push(slot);
        }
    }

    /// A message that expires was put into the queue.
    pub(super) fn expiring(&mut self, slot: &mut Slot, message: u64, expiry: Time) {
        if !self.leads {
            return;
        }
        let ready = match &mut slot.delivery {
            Some(delivery) => {
                delivery.expects(message);
                delivery.ready(&slot.queue)
            }
            None => slot.queue.messages.len(),
        };
        if ready == 1 {
            self.expiries.set(slot.queue.id, Some(expiry));
        }
    }

    /// When the next message expires at the head of its queue.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.wake
    }

    /// Forgets inputs of a node's sessions that wait.
    pub(super) fn forget_inputs_of(&mut self, node: NodeId) {
        let stays = |input: &Input| input.session().is_none_or(|it| it.node() != node);
        self.waiting.retain(stays);
        self.unparked.retain(stays);
        self.creating.values_mut().for_each(|it| it.retain(stays));
        self.barriers.retain(|(session, _)| session.node() != node);
    }

    /// Inputs wait for the barrier, for a queue to be made, or for the lease.
    pub(super) fn has_parked(&self) -> bool {
        !self.leads
            || !self.creating.is_empty()
            || !self.unparked.is_empty()
            || !self.active.is_empty()
    }

    /// The queue is there, whoever made it.
    pub(super) fn created(&mut self, queue: QueueId) {
        if let Some(inputs) = self.creating.remove(&queue) {
            self.unparked.extend(inputs);
        }
    }

    /// Gives a delivery's room back that has nothing to remember.
    pub(super) fn tidy(&self, slot: &mut Slot) {
        if slot
            .delivery
            .as_ref()
            .is_some_and(|delivery| delivery.is_idle())
        {
            slot.delivery = None;
        }
    }
}

impl Input {
    /// The queue that it is about.
    fn queue(&self) -> Option<QueueId> {
        match self {
            Self::Create { queue, .. }
            | Self::Drop { queue }
            | Self::Close { queue, .. }
            | Self::Detach { queue, .. }
            | Self::Gone { queue, .. }
            | Self::Credit { queue, .. }
            | Self::Get { queue, .. }
            | Self::Purge { queue, .. }
            | Self::Count { queue, .. } => Some(*queue),
            Self::Attach(attach) => Some(attach.queue),
            Self::Settle(settle) => Some(settle.queue),
            Self::SettleBarrier { .. } | Self::SessionGone { .. } | Self::Claim(_) => None,
        }
    }

    /// The session that it comes from.
    fn session(&self) -> Option<SessionId> {
        match self {
            Self::Create { .. } | Self::Drop { .. } | Self::Claim(_) => None,
            Self::Attach(attach) => Some(attach.holder.session),
            Self::Settle(settle) => Some(settle.holder.session),
            Self::Detach { holder, .. }
            | Self::Gone { holder, .. }
            | Self::Credit { holder, .. }
            | Self::Get { holder, .. } => Some(holder.session),
            Self::Close { asker, .. } | Self::Purge { asker, .. } | Self::Count { asker, .. } => {
                Some(*asker)
            }
            Self::SettleBarrier { session, .. } | Self::SessionGone { session } => Some(*session),
        }
    }

    /// Whether it makes its session a holder.
    fn is_of(&self, gone: SessionId) -> bool {
        match self {
            Self::Attach(attach) => attach.holder.session == gone,
            Self::Get { holder, .. } => holder.session == gone,
            _ => false,
        }
    }
}

impl Shard {
    pub(super) fn begin_to_lead(&mut self, nodes: &[NodeId], context: &mut Context<'_, Effect>) {
        for slot in self.slots.iter_mut() {
            // Nobody can have delivered what was not there yet.
            slot.suspect = slot.queue.reserved.min(slot.queue.next);
            if slot.queue.expires && !slot.queue.closed {
                let head = slot.queue.messages.first_from(0);
                let expiry = head.and_then(|(_, message)| message.expiry());
                self.leader.expiries.set(slot.queue.id, expiry);
            }
            if slot.queue.closed {
                let queue = slot.queue.id;
                let asked = false;
                context.effects.push(Effect::Closed { queue, asked });
            }
        }
        self.raise_barrier(nodes, context);
    }

    pub(super) fn cease_to_lead(&mut self) {
        self.leader = Leader::default();
        for slot in self.slots.iter_mut() {
            slot.delivery = None;
        }
    }

    pub(super) fn take_input(&mut self, input: Input, context: &mut Context<'_, Effect>) {
        if let Input::Claim(claim) = input {
            if self.leader.is_here() {
                self.take_claim(claim, context);
            }
            return;
        }
        if !self.leader.leads {
            if let Input::Create { queue, config } = &input
                && self.leader.barrier.is_some()
            {
                // Publishes do not wait for the barrier: none may come before its queue.
                #[cfg(warren_break = "reconcile_absence")]
                self.leader.wanted.insert(*queue);
                self.ask_create(*queue, config, context);
                return;
            }
            if self.leader.waiting.len() < WAITING_MAX {
                self.leader.waiting.push_back(input);
            }
            return;
        }
        if let Some(queue) = input.queue()
            && let Some(parked) = self.leader.creating.get_mut(&queue)
        {
            parked.push(input);
            return;
        }
        self.handle(input, context);
    }

    /// The end of a step: serves the queues that something happened to, and proposes.
    pub(super) fn hand_out(&mut self, context: &mut Context<'_, Effect>) {
        if !self.leader.leads || context.leads.is_none() {
            self.leader.wake = None;
            return;
        }
        for input in std::mem::take(&mut self.leader.unparked) {
            self.take_input(input, context);
        }
        self.activate_due(context.now.wall);
        for at in std::mem::take(&mut self.leader.active) {
            self.serve(at, context);
        }
        let now = context.now;
        let first = self.leader.expiries.first();
        self.leader.wake =
            first.map(|time| now.mono.plus_millis(time.0.saturating_sub(now.wall.0)));
        for (session, token) in std::mem::take(&mut self.leader.barriers) {
            let write = |out: &mut _| command::encode_barrier(out, session, token);
            context.proposals.push(write);
            context.urgent = true;
        }
    }

    /// Queues whose head has expired are served, which removes it.
    fn activate_due(&mut self, now: Time) {
        while let Some(queue) = self.leader.expiries.take_due(now) {
            if let Some(at) = self.slots.find(queue)
                && let Some(slot) = self.slots.at_mut(at)
                && !slot.queue.closed
            {
                let delivery = slot.delivery.get_or_insert_default();
                self.leader.activate(at, delivery);
            }
        }
    }

    fn serve(&mut self, at: u32, context: &mut Context<'_, Effect>) {
        let Some(slot) = self.slots.at_mut(at) else {
            return;
        };
        let terms = terms(self.options.logged, slot, context.now.wall);
        let Some(delivery) = &mut slot.delivery else {
            return;
        };
        if !std::mem::take(&mut delivery.active) {
            return;
        }
        delivery.serve(&mut slot.queue, terms, &mut self.leader.sessions, context);
        delivery.propose(slot.queue.id, context);
        let expiry = delivery.next_expiry(&slot.queue);
        self.leader.expiries.set(slot.queue.id, expiry);
        self.leader.tidy(slot);
    }

    /// Removes what has expired at the head of the queue: what is asked next does not see it.
    fn expire(&mut self, queue: QueueId, context: &mut Context<'_, Effect>) {
        let logged = self.options.logged;
        let Some(at) = self.slots.find(queue) else {
            return;
        };
        if let Some(slot) = self.slots.at_mut(at)
            && slot.queue.expires
            && !slot.queue.closed
        {
            let terms = terms(logged, slot, context.now.wall);
            let delivery = slot.delivery.get_or_insert_default();
            delivery.expire(&mut slot.queue, terms, context.bodies);
            self.leader.activate(at, delivery);
        }
    }

    fn handle(&mut self, input: Input, context: &mut Context<'_, Effect>) {
        match input {
            Input::Create { queue, config } => self.ask_create(queue, &config, context),
            Input::Drop { queue } => self.ask_drop(queue, context),
            Input::Close {
                queue,
                if_unused,
                if_empty,
                asker,
                token,
            } => {
                let refusal = self.ask_close(queue, if_unused, if_empty, (asker, token), context);
                if let Some(reply) = refusal {
                    answer(asker, token, reply, context);
                }
            }
            Input::Attach(attach) => self.attach(&attach, context),
            Input::Detach {
                queue,
                holder,
                token,
            } => {
                self.detach(queue, holder, context);
                let session = holder.session;
                context.effects.push(Effect::Detached { session, token });
            }
            Input::Gone { queue, holder } => self.holder_gone(queue, holder, context),
            Input::Credit {
                queue,
                holder,
                messages,
                bytes,
            } => self.with_delivery(queue, |delivery| delivery.credit(holder, messages, bytes)),
            Input::Settle(settle) => self.take_settle(&settle, context),
            Input::SettleBarrier { session, token } => {
                if self.options.logged {
                    self.leader.barriers.push((session, token));
                } else {
                    context.effects.push(Effect::Settled { session, token });
                }
            }
            Input::Get {
                queue,
                holder,
                auto_ack,
                token,
            } => self.get(queue, holder, auto_ack, token, context),
            Input::Purge {
                queue,
                asker,
                token,
            } => self.ask_purge(queue, asker, token, context),
            Input::Count {
                queue,
                asker,
                token,
            } => {
                self.expire(queue, context);
                if let Some(reply) = self.count(queue, asker, token) {
                    answer(asker, token, reply, context);
                }
            }
            Input::SessionGone { session } => self.session_gone(session, context),
            Input::Claim(claim) => self.take_claim(claim, context),
        }
    }

    fn take_settle(&mut self, settle: &Settle, context: &mut Context<'_, Effect>) {
        let logged = self.options.logged;
        let Some(at) = self.slots.find(settle.queue) else {
            return;
        };
        if let Some(slot) = self.slots.at_mut(at) {
            let terms = terms(logged, slot, context.now.wall);
            if let Some(delivery) = &mut slot.delivery {
                let sessions = &mut self.leader.sessions;
                delivery.settle(&mut slot.queue, settle, terms, sessions, context.bodies);
                self.leader.activate(at, delivery);
            }
        }
    }

    fn ask_create(
        &mut self,
        queue: QueueId,
        config: &QueueConfig,
        context: &mut Context<'_, Effect>,
    ) {
        let asked = self.leader.creating.contains_key(&queue);
        if asked || self.slots.find(queue).is_some() {
            return;
        }
        self.leader.creating.insert(queue, Vec::new());
        let create = Create {
            queue,
            auto_delete: config.auto_delete,
            reserved: MessageId(if self.options.logged {
                RESERVE_AHEAD
            } else {
                0
            }),
            options: &config.options,
        };
        context
            .proposals
            .push(|out| command::encode_create(out, &create));
        context.urgent = true;
    }

    fn ask_drop(&mut self, queue: QueueId, context: &mut Context<'_, Effect>) {
        let Some(slot) = self.slots.get_mut(queue) else {
            context.effects.push(Effect::Dropped { queue });
            return;
        };
        if let Some(delivery) = &mut slot.delivery {
            delivery.stop();
        }
        context
            .proposals
            .push(|out| command::encode_drop(out, queue));
    }

    /// Proposes a close, or says at once why not (or that it is closed).
    fn ask_close(
        &mut self,
        queue: QueueId,
        if_unused: bool,
        if_empty: bool,
        asker: (SessionId, Token),
        context: &mut Context<'_, Effect>,
    ) -> Option<Reply> {
        self.expire(queue, context);
        let Some(slot) = self.slots.get_mut(queue) else {
            return Some(Reply::NoQueue);
        };
        if slot.queue.closed {
            let messages = slot.queue.messages.len();
            return Some(Reply::Closed { messages });
        }
        let delivery = slot.delivery.get_or_insert_default();
        let refusal = if if_unused && delivery.consumers() > 0 {
            Some(Reply::InUse)
        } else if if_empty && delivery.ready(&slot.queue) > 0 {
            Some(Reply::NotEmpty)
        } else {
            None
        };
        if refusal.is_some() {
            self.leader.tidy(slot);
            return refusal;
        }
        delivery.await_close(asker.0, asker.1);
        if !delivery.is_closing() {
            let if_next = MessageId(if if_empty { slot.queue.next } else { 0 });
            delivery.close(queue, false, if_next, context);
        }
        None
    }

    fn attach(&mut self, attach: &Attach, context: &mut Context<'_, Effect>) {
        let (session, token) = (attach.holder.session, attach.token);
        let result = self.try_attach(attach);
        context.effects.push(match result {
            Ok(()) => Effect::Attached { session, token },
            Err(refusal) => Effect::Refused {
                session,
                token,
                refusal,
            },
        });
    }

    fn try_attach(&mut self, attach: &Attach) -> Result<(), Refusal> {
        let at = self.slots.find(attach.queue).ok_or(Refusal::NoQueue)?;
        let slot = self.slots.at_mut(at).ok_or(Refusal::NoQueue)?;
        if slot.queue.closed {
            return Err(Refusal::NoQueue);
        }
        let delivery = slot.delivery.get_or_insert_default();
        let result = delivery.attach(attach, &mut self.leader.sessions);
        if result.is_ok() {
            self.leader.activate(at, delivery);
        }
        self.leader.tidy(slot);
        result
    }

    fn detach(&mut self, queue: QueueId, holder: Holder, context: &mut Context<'_, Effect>) {
        let Some(slot) = self.slots.get_mut(queue) else {
            return;
        };
        let Some(delivery) = &mut slot.delivery else {
            return;
        };
        let stopped = delivery.detach(holder, queue, &mut self.leader.sessions);
        if stopped {
            close_unused(slot, context);
        }
        self.leader.tidy(slot);
    }

    fn holder_gone(&mut self, queue: QueueId, holder: Holder, context: &mut Context<'_, Effect>) {
        let logged = self.options.logged;
        let Some(at) = self.slots.find(queue) else {
            return;
        };
        let Some(slot) = self.slots.at_mut(at) else {
            return;
        };
        let terms = terms(logged, slot, context.now.wall);
        let Some(delivery) = &mut slot.delivery else {
            return;
        };
        let sessions = &mut self.leader.sessions;
        let stopped = delivery.gone(&mut slot.queue, holder, terms, sessions);
        self.leader.activate(at, delivery);
        if stopped {
            close_unused(slot, context);
        }
    }

    pub(super) fn session_gone(&mut self, session: SessionId, context: &mut Context<'_, Effect>) {
        for (queue, holder) in crate::delivery::holders_of(&self.leader.sessions, session) {
            self.holder_gone(queue, holder, context);
        }
        for parked in self.leader.creating.values_mut() {
            parked.retain(|input| !input.is_of(session));
        }
        self.leader.unparked.retain(|input| !input.is_of(session));
        self.leader.barriers.retain(|(asker, _)| *asker != session);
    }

    fn with_delivery(&mut self, queue: QueueId, change: impl FnOnce(&mut Delivery)) {
        let Some(at) = self.slots.find(queue) else {
            return;
        };
        if let Some(delivery) = self
            .slots
            .at_mut(at)
            .and_then(|slot| slot.delivery.as_mut())
        {
            change(delivery);
            if delivery.wants() {
                self.leader.activate(at, delivery);
            }
        }
    }

    fn get(
        &mut self,
        queue: QueueId,
        holder: Holder,
        auto_ack: bool,
        token: Token,
        context: &mut Context<'_, Effect>,
    ) {
        let found = self.slots.find(queue);
        let slot = found.and_then(|at| Some((at, self.slots.at_mut(at)?)));
        let Some((at, slot)) = slot.filter(|(_, slot)| !slot.queue.closed) else {
            answer(holder.session, token, Reply::NoQueue, context);
            return;
        };
        let delivery = slot.delivery.get_or_insert_default();
        if delivery.is_closing() {
            answer(holder.session, token, Reply::NoQueue, context);
            return;
        }
        delivery.get(holder, auto_ack, token, queue, &mut self.leader.sessions);
        self.leader.activate(at, delivery);
    }

    fn ask_purge(
        &mut self,
        queue: QueueId,
        asker: SessionId,
        token: Token,
        context: &mut Context<'_, Effect>,
    ) {
        self.expire(queue, context);
        let Some(slot) = self.slots.get_mut(queue).filter(|slot| !slot.queue.closed) else {
            answer(asker, token, Reply::NoQueue, context);
            return;
        };
        let delivery = slot.delivery.get_or_insert_default();
        if delivery.ready(&slot.queue) == 0 {
            answer(asker, token, Reply::Purged { messages: 0 }, context);
            self.leader.tidy(slot);
            return;
        }
        delivery.purge(&slot.queue, asker, token, context);
    }

    /// Counts at once; whoever asks for a queue that is closing hears how that ends.
    fn count(&mut self, queue: QueueId, asker: SessionId, token: Token) -> Option<Reply> {
        let Some(slot) = self.slots.get_mut(queue) else {
            return Some(Reply::NoQueue);
        };
        let messages = slot.queue.messages.len();
        if slot.queue.closed {
            return Some(Reply::Closed { messages });
        }
        let Some(delivery) = &mut slot.delivery else {
            return Some(Reply::Counts {
                ready: messages,
                unacked: 0,
                consumers: 0,
            });
        };
        if delivery.is_closing() {
            delivery.await_close(asker, token);
            return None;
        }
        Some(Reply::Counts {
            ready: delivery.ready(&slot.queue),
            unacked: delivery.unacked(),
            consumers: delivery.consumers(),
        })
    }
}

fn terms(logged: bool, slot: &Slot, now: Time) -> Terms {
    Terms {
        logged,
        suspect: slot.suspect,
        now,
    }
}

/// A consumer went: closes an auto-delete queue that has none left.
fn close_unused(slot: &mut Slot, context: &mut Context<'_, Effect>) {
    let Some(delivery) = &mut slot.delivery else {
        return;
    };
    if slot.queue.auto_delete && delivery.consumers() == 0 && !delivery.is_closing() {
        delivery.close(slot.queue.id, true, MessageId(0), context);
    }
}

fn answer(asker: SessionId, token: Token, reply: Reply, context: &mut Context<'_, Effect>) {
    context.effects.push(Effect::Reply {
        asker,
        token,
        reply,
    });
}
