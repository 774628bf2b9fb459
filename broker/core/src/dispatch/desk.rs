//! What this node's sessions have and hold in one shard: consumers, messages, questions.
//!
//! Kept where inputs leave and effects arrive, not in the sessions, so that a new leader gets one
//! atomic answer (rule 7).
//!
//! Always holds:
//! - a message is held by the seat that it was delivered to until its session settles it;
//! - an acknowledgement stays here until the leader says that the log has it, and so does a
//!   consumer that went;
//! - a question stays here until it is answered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use warren_cluster_core::ids::{NodeId, Seq};
use warren_cluster_core::machine::{self, Malformed};
use warren_cluster_core::parts::Parts;

use crate::ids::{Holder, QueueId, SessionId, Token};
use crate::shard::effect::{Delivered, Effect, Refusal, Reply};
use crate::shard::input::{Attach, Claim, ClaimedSeat, Input, Settle, Verdict};
use crate::shard::wire;

use super::departed::Departed;

/// See the module.
#[derive(Debug, Default)]
pub struct Desk {
    /// By session first, so that one's are found when it goes.
    seats: BTreeMap<(SessionId, QueueId, u32), Seat>,
    unpaid: VecDeque<(Seq, Settle)>,
    departed: Departed,
    /// In the order in which they were asked.
    questions: BTreeMap<u64, Input>,
    /// Where the question of a session with this token is.
    asked: BTreeMap<(SessionId, Token), u64>,
    next_question: u64,
    /// What settles itself as it is delivered is settled from here, where it is known to have
    /// arrived, and not by the leader, as it hands it out.
    careful: bool,
}

/// A consumer, or somebody who holds messages.
#[derive(Debug, Default)]
struct Seat {
    /// Its terms while it is a consumer, as its session gave them; with the window that is left.
    consumer: Option<Attach>,
    /// Runs of ids, first to last.
    held: BTreeMap<u64, u64>,
}

impl Seat {
    fn hold(&mut self, id: u64) {
        match self.held.last_entry() {
            Some(mut last) if *last.get() + 1 == id => *last.get_mut() = id,
            _ => drop(self.held.insert(id, id)),
        }
    }

    /// Lets go of a run, whatever of it is held.
    fn release(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let touched: Vec<(u64, u64)> = self
            .held
            .range(..=last)
            .rev()
            .take_while(|(_, end)| **end >= first)
            .map(|(start, end)| (*start, *end))
            .collect();
        for (start, end) in touched {
            self.held.remove(&start);
            if start < first {
                self.held.insert(start, first - 1);
            }
            if end > last {
                self.held.insert(last + 1, end);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.consumer.is_none() && self.held.is_empty()
    }
}

fn key(queue: QueueId, holder: Holder) -> (SessionId, QueueId, u32) {
    (holder.session, queue, holder.number)
}

/// How a consumer's terms go to the leader.
fn outward(attach: &Attach, careful: bool) -> Attach {
    let mut attach = attach.clone();
    if careful && attach.auto_ack {
        attach.auto_ack = false;
        attach.prefetch = 0;
    }
    attach
}

impl Desk {
    fn ask(&mut self, session: SessionId, token: Token, input: &Input) {
        let number = self.next_question;
        self.next_question += 1;
        if let Some(before) = self.asked.insert((session, token), number) {
            self.questions.remove(&before);
        }
        self.questions.insert(number, input.clone());
    }

    fn answered(&mut self, session: SessionId, token: Token) -> Option<Input> {
        let number = self.asked.remove(&(session, token))?;
        self.questions.remove(&number)
    }

    fn settle(&mut self, seq: Seq, settle: &Settle) {
        let key = key(settle.queue, settle.holder);
        if let Some(seat) = self.seats.get_mut(&key) {
            seat.release(settle.first.0, settle.last.0);
            if seat.is_idle() {
                self.seats.remove(&key);
            }
        }
        if !matches!(settle.verdict, Verdict::Requeue { .. }) {
            self.unpaid.push_back((seq, *settle));
        }
    }

    fn holder_gone(&mut self, seq: Seq, queue: QueueId, holder: Holder) {
        let seat = self.seats.remove(&key(queue, holder));
        if let Some(consumer) = seat.and_then(|seat| seat.consumer) {
            self.departed.left(seq, &consumer);
        }
    }

    fn session_gone(&mut self, seq: Seq, session: SessionId) {
        let from = (session, QueueId(0), 0);
        let to = (session, QueueId(u64::MAX), u32::MAX);
        let gone: Vec<_> = self.seats.range(from..=to).map(|(key, _)| *key).collect();
        for (session, queue, number) in gone {
            self.holder_gone(seq, queue, Holder { session, number });
        }
        let range = (session, Token(0))..=(session, Token(u64::MAX));
        let asked: Vec<_> = self
            .asked
            .range(range)
            .map(|(key, at)| (*key, *at))
            .collect();
        for (key, number) in asked {
            // What an operation in progress asked is answered still: it must come to its end.
            let ends = |input: &Input| {
                matches!(
                    input,
                    Input::Attach(_) | Input::Get { .. } | Input::SettleBarrier { .. }
                )
            };
            if self.questions.get(&number).is_none_or(ends) {
                self.asked.remove(&key);
                self.questions.remove(&number);
            }
        }
    }

    fn delivered(
        &mut self,
        (queue, holder): (QueueId, Holder),
        messages: &[Delivered],
        inputs: &mut Vec<Input>,
    ) -> bool {
        let Some(seat) = self.seats.get_mut(&key(queue, holder)) else {
            return false;
        };
        let Some(consumer) = &mut seat.consumer else {
            return false;
        };
        let bytes: u64 = messages.iter().map(|it| it.message.len() as u64).sum();
        let window = &mut consumer.window;
        window.messages = window.messages.saturating_sub(messages.len() as u32);
        window.bytes = window.bytes.saturating_sub(bytes);
        let auto_ack = consumer.auto_ack;
        if auto_ack && !self.careful {
            return true;
        }
        messages.iter().for_each(|message| seat.hold(message.id.0));
        if auto_ack {
            settle_all(messages, queue, holder, inputs);
        }
        true
    }

    fn got(
        &mut self,
        session: SessionId,
        token: Token,
        message: Option<&Delivered>,
        inputs: &mut Vec<Input>,
    ) -> bool {
        let Some(Input::Get {
            queue,
            holder,
            auto_ack,
            ..
        }) = self.answered(session, token)
        else {
            return false;
        };
        let settled = auto_ack && !self.careful;
        if let Some(message) = message.filter(|_| !settled) {
            self.seats
                .entry(key(queue, holder))
                .or_default()
                .hold(message.id.0);
            if auto_ack {
                settle_all(std::slice::from_ref(message), queue, holder, inputs);
            }
        }
        true
    }

    fn attached(&mut self, session: SessionId, token: Token) -> bool {
        let Some(Input::Attach(attach)) = self.answered(session, token) else {
            return false;
        };
        let key = key(attach.queue, attach.holder);
        self.seats.entry(key).or_default().consumer = Some(attach);
        true
    }

    fn detached(&mut self, session: SessionId, token: Token) -> bool {
        let Some(Input::Detach { queue, holder, .. }) = self.answered(session, token) else {
            return false;
        };
        self.stop(queue, holder);
        true
    }

    /// The consumer is none any more; what it holds it keeps.
    fn stop(&mut self, queue: QueueId, holder: Holder) {
        let key = key(queue, holder);
        if let Some(seat) = self.seats.get_mut(&key) {
            seat.consumer = None;
            if seat.is_idle() {
                self.seats.remove(&key);
            }
        }
    }
}

/// Sorts runs of ids, and makes one of those that have ids in common: a message that is settled
/// here may have come again from a leader that did not hear of it.
fn join(runs: &mut Vec<(u64, u64)>) {
    runs.sort_unstable();
    runs.dedup_by(|next, run| {
        let joins = next.0 <= run.1;
        if joins {
            run.1 = run.1.max(next.1);
        }
        joins
    });
}

/// Acknowledges messages as they arrive.
fn settle_all(messages: &[Delivered], queue: QueueId, holder: Holder, inputs: &mut Vec<Input>) {
    let mut runs: Vec<Settle> = Vec::new();
    for message in messages {
        match runs.last_mut() {
            Some(run) if run.last.0 + 1 == message.id.0 => run.last = message.id,
            _ => runs.push(Settle {
                queue,
                holder,
                first: message.id,
                last: message.id,
                verdict: Verdict::Ack,
            }),
        }
    }
    inputs.extend(runs.into_iter().map(Input::Settle));
}

impl machine::Desk<Input, Effect> for Desk {
    fn is_of_session(input: &Input) -> bool {
        !matches!(input, Input::Create { .. } | Input::Drop { .. })
    }

    fn send(&mut self, seq: Seq, input: Input) -> Input {
        match &input {
            Input::Create { .. } | Input::Drop { .. } | Input::Claim(_) => {}
            Input::Attach(attach) => {
                self.ask(attach.holder.session, attach.token, &input);
                return Input::Attach(outward(attach, self.careful));
            }
            Input::Detach {
                queue,
                holder,
                token,
            } => {
                if self.departed.sent_again(seq, *token) {
                    return input;
                }
                let seat = self.seats.get(&key(*queue, *holder));
                if let Some(consumer) = seat.and_then(|seat| seat.consumer.as_ref()) {
                    self.departed.left(seq, consumer);
                }
                self.ask(holder.session, *token, &input);
            }
            Input::Get {
                queue,
                holder,
                auto_ack,
                token,
            } => {
                self.ask(holder.session, *token, &input);
                return Input::Get {
                    queue: *queue,
                    holder: *holder,
                    auto_ack: *auto_ack && !self.careful,
                    token: *token,
                };
            }
            Input::Close { asker, token, .. }
            | Input::Purge { asker, token, .. }
            | Input::Count { asker, token, .. } => self.ask(*asker, *token, &input),
            Input::SettleBarrier { session, token } => self.ask(*session, *token, &input),
            Input::Gone { queue, holder } => self.holder_gone(seq, *queue, *holder),
            Input::SessionGone { session } => self.session_gone(seq, *session),
            Input::Credit {
                queue,
                holder,
                messages,
                bytes,
            } => {
                let seat = self.seats.get_mut(&key(*queue, *holder));
                if let Some(attach) = seat.and_then(|seat| seat.consumer.as_mut()) {
                    let window = &mut attach.window;
                    window.messages = window.messages.saturating_add(*messages);
                    window.bytes = window.bytes.saturating_add(*bytes);
                }
            }
            Input::Settle(settle) => self.settle(seq, settle),
        }
        input
    }

    fn receive(&mut self, effect: &Effect, inputs: &mut Vec<Input>) -> bool {
        match effect {
            Effect::Deliver {
                session,
                number,
                queue,
                messages,
            } => {
                let (session, number) = (*session, *number);
                let holder = Holder { session, number };
                self.delivered((*queue, holder), messages, inputs)
            }
            Effect::Got {
                session,
                token,
                message,
                ..
            } => self.got(*session, *token, message.as_ref(), inputs),
            Effect::Attached { session, token } => self.attached(*session, *token),
            Effect::Detached { session, token } => self.detached(*session, *token),
            Effect::Refused { session, token, .. } | Effect::Settled { session, token } => {
                self.answered(*session, *token).is_some()
            }
            Effect::Reply { asker, token, .. } => self.answered(*asker, *token).is_some(),
            Effect::Cancelled {
                session,
                number,
                queue,
            } => {
                let (session, number) = (*session, *number);
                let holder = Holder { session, number };
                let known = self.seats.contains_key(&key(*queue, holder));
                self.seats.remove(&key(*queue, holder));
                known
            }
            Effect::Closed { .. } | Effect::Dropped { .. } => true,
        }
    }

    fn paid(&mut self, seq: Seq) {
        while self.unpaid.front().is_some_and(|(of, _)| *of <= seq) {
            self.unpaid.pop_front();
        }
        self.departed.paid(seq);
    }

    fn owes(&self) -> bool {
        !self.unpaid.is_empty() || !self.departed.is_empty()
    }

    fn claim(&mut self, node: NodeId, careful: bool) -> Option<Input> {
        self.careful = careful;
        let mut seats = BTreeMap::new();
        for (&(session, queue, number), seat) in &self.seats {
            let claimed = ClaimedSeat {
                queue,
                holder: Holder { session, number },
                consumer: seat.consumer.as_ref().map(|it| outward(it, careful)),
                held: seat
                    .held
                    .iter()
                    .map(|(first, last)| (*first, *last))
                    .collect(),
            };
            seats.insert((session, queue, number), claimed);
        }
        let none = |queue, holder| ClaimedSeat {
            queue,
            holder,
            consumer: None,
            held: Vec::new(),
        };
        // What is settled and not known to be in the log is out too, until the settles come that
        // follow the claim: nobody else may get it in between.
        for (_, settle) in &self.unpaid {
            let seat = seats.entry(key(settle.queue, settle.holder));
            let seat = seat.or_insert_with(|| none(settle.queue, settle.holder));
            seat.held.push((settle.first.0, settle.last.0));
        }
        for attach in self.departed.claims() {
            let seat = seats.entry(key(attach.queue, attach.holder));
            let seat = seat.or_insert_with(|| none(attach.queue, attach.holder));
            seat.consumer
                .get_or_insert_with(|| outward(&attach, careful));
        }
        let mut seats: Vec<ClaimedSeat> = seats.into_values().collect();
        for seat in &mut seats {
            join(&mut seat.held);
        }
        Some(Input::Claim(Claim { node, seats }))
    }

    /// The leader may settle some of it itself still; to settle it again does no harm, and is
    /// paid when its own settle is.
    fn be_careful(&mut self) {
        self.careful = true;
    }

    fn take_unsettled(&mut self) -> Vec<Input> {
        let unpaid = std::mem::take(&mut self.unpaid).into_iter();
        let mut all: Vec<_> = unpaid.map(|(_, settle)| Input::Settle(settle)).collect();
        all.extend(self.departed.take());
        self.asked.clear();
        all.extend(std::mem::take(&mut self.questions).into_values());
        all
    }

    fn abandon(&mut self) -> Vec<Effect> {
        self.asked.clear();
        let questions = std::mem::take(&mut self.questions).into_values();
        let mut effects: Vec<_> = questions
            .filter_map(|question| Self::refuse(&question))
            .collect();
        for ((session, queue, number), seat) in std::mem::take(&mut self.seats) {
            if seat.consumer.is_some() {
                effects.push(Effect::Cancelled {
                    session,
                    number,
                    queue,
                });
            }
        }
        self.unpaid.clear();
        self.departed.clear();
        effects
    }

    fn refuse(input: &Input) -> Option<Effect> {
        match *input {
            Input::Attach(Attach { holder, token, .. }) => Some(Effect::Refused {
                session: holder.session,
                token,
                refusal: Refusal::NoQueue,
            }),
            Input::Get { holder, token, .. } => Some(Effect::Reply {
                asker: holder.session,
                token,
                reply: Reply::NoQueue,
            }),
            Input::Detach { holder, token, .. } => Some(Effect::Detached {
                session: holder.session,
                token,
            }),
            Input::SettleBarrier { session, token } => Some(Effect::Settled { session, token }),
            Input::Close { asker, token, .. }
            | Input::Purge { asker, token, .. }
            | Input::Count { asker, token, .. } => Some(Effect::Reply {
                asker,
                token,
                reply: Reply::NoQueue,
            }),
            Input::Create { .. }
            | Input::Drop { .. }
            | Input::Gone { .. }
            | Input::Credit { .. }
            | Input::Settle(_)
            | Input::SessionGone { .. }
            | Input::Claim(_) => None,
        }
    }

    fn node_of(effect: &Effect) -> Option<NodeId> {
        match effect {
            Effect::Deliver { session, .. }
            | Effect::Got { session, .. }
            | Effect::Attached { session, .. }
            | Effect::Refused { session, .. }
            | Effect::Detached { session, .. }
            | Effect::Cancelled { session, .. }
            | Effect::Settled { session, .. }
            | Effect::Reply { asker: session, .. } => Some(session.node()),
            Effect::Closed { .. } | Effect::Dropped { .. } => None,
        }
    }

    fn encode_input(input: &Input, out: &mut Parts) {
        wire::encode_input(input, out);
    }

    fn encode_effect(effect: &Effect, out: &mut Parts) {
        wire::encode_effect(effect, out);
    }

    fn decode_input(bytes: &Bytes) -> Result<Input, Malformed> {
        wire::decode_input(bytes)
    }

    fn decode_effect(bytes: &Bytes) -> Result<Effect, Malformed> {
        wire::decode_effect(bytes)
    }
}

#[cfg(test)]
impl Desk {
    fn is_idle(&self) -> bool {
        self.seats.is_empty() && !machine::Desk::owes(self) && self.questions.is_empty()
    }
}

#[cfg(test)]
mod tests;
