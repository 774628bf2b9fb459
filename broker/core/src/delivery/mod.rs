//! Who gets which message of one queue: the leader's own state, never replicated.
//!
//! Invariants:
//! - a live message below `cursor` has a grip, but for the doomed: those that a purge on its way
//!   removes, and those that have expired and never were out;
//!   one at or above `cursor` has none: it is ready and this leader has not handed it out;
//! - a message has one holder at most; one whose removal is proposed has none and gets none;
//! - a consumer holds no more messages than its prefetch, and was handed no more than its window;
//! - returned messages go out before newer ones, in the order of their ids;
//! - in a logged shard nothing at or above the queue's reservation goes out.
//!
//! Reads the queue. What has to be replicated goes out as proposals; only an unlogged shard's
//! queue, which has no log to wait for, is changed here at once.

mod claims;
mod closing;
mod expiring;
mod grips;
mod holders;
mod settling;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use warren_cluster_core::ids::Time;
use warren_cluster_core::machine::{Bodies, Context};

use crate::ids::{Holder, MessageId, QueueId, SessionId, Token};
use crate::queue::Queue;
use crate::queue::blocks::Blocks;
use crate::shard::command;
use crate::shard::effect::{Delivered, Effect, Refusal, Reply};
use crate::shard::input::Attach;

pub(crate) use claims::sessions_between;
pub(crate) use settling::holders_of;

use closing::Purge;
use grips::{Grip, State};
use holders::Holders;

/// How far a reservation reaches ahead at first, in messages, and at most.
pub(crate) const RESERVE_AHEAD: u64 = 4096;
const RESERVE_AHEAD_MAX: u64 = 65_536;

/// Where each session has holders: (session, queue, the holder's number).
pub(crate) type Sessions = BTreeSet<(SessionId, QueueId, u32)>;

/// What delivery must know of the shard and the term.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Changes go through the log; else they are made at once.
    pub(crate) logged: bool,
    /// Messages below this id may have been delivered by an earlier leader.
    pub(crate) suspect: u64,
    /// The clock that entries are stamped with.
    pub(crate) now: Time,
}

/// What is out of a queue and who wants more of it.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    grips: Blocks<Grip>,
    /// The first id that this leader has not looked at.
    cursor: u64,
    returned: BTreeSet<u64>,
    /// What nodes claim to hold, until all have: first id to last id and the holder's slot.
    claimed: BTreeMap<u64, (u64, u32)>,
    /// Grips that are held.
    held: u64,
    /// Grips that are leaving.
    leaving: u64,
    /// Messages without a grip whose removal is on its way.
    doomed: u64,
    /// Messages from this id on came while somebody waited: they go to those who do, expired or
    /// not.
    fresh: Option<u64>,
    holders: Holders,
    gets: VecDeque<Get>,
    purges: VecDeque<Purge>,
    /// A close is on its way; who waits for it.
    closing: bool,
    closers: Vec<(SessionId, Token)>,
    /// A body is being read: nothing goes out before it is there.
    suspended: bool,
    /// Stands in the shard's list of queues to serve at the end of the step.
    pub(crate) active: bool,
    reserve_ahead: u64,
    /// The reservation that is on its way.
    reserving: u64,
    /// Ids whose removal is to be proposed, as runs.
    settles: Vec<(u64, u64)>,
    /// Ids with the failed deliveries to be proposed, as runs.
    returns: Vec<(u64, u64, u16)>,
}

/// A `basic.get` that waits for its message.
#[derive(Debug)]
struct Get {
    slot: u32,
    auto_ack: bool,
    token: Token,
}

/// What came of looking for the next message.
enum Next {
    Message {
        delivered: Delivered,
        returned: bool,
    },
    Nothing,
    /// Its body or its reservation has to come first.
    Later,
}

impl Delivery {
    /// Messages that wait to be handed out.
    pub(crate) fn ready(&self, queue: &Queue) -> u64 {
        queue.messages.len() - self.held - self.leaving - self.doomed
    }

    pub(crate) fn unacked(&self) -> u64 {
        self.held
    }

    pub(crate) fn consumers(&self) -> u32 {
        self.holders.consumers()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether something could go out now.
    pub(crate) fn wants(&self) -> bool {
        !self.suspended && !self.closing && (self.holders.wants() || !self.gets.is_empty())
    }

    /// Nothing is known here that a new `Delivery` would not know.
    pub(crate) fn is_idle(&self) -> bool {
        self.holders.is_empty()
            && self.grips.len() == 0
            && self.purges.is_empty()
            && self.doomed == 0
            && self.fresh.is_none()
            && self.settles.is_empty()
            && self.returns.is_empty()
            && !self.closing
            && !self.active
    }

    /// Takes a consumer in, or says why not.
    pub(crate) fn attach(
        &mut self,
        attach: &Attach,
        sessions: &mut Sessions,
    ) -> Result<(), Refusal> {
        if self.closing {
            return Err(Refusal::NoQueue);
        }
        let others = self.holders.consumers() > 0;
        if self.holders.has_exclusive() || (attach.exclusive && others) {
            return Err(Refusal::ExclusiveUse);
        }
        let slot = self.enter(attach.holder, attach.queue, sessions);
        self.holders.consume(slot, attach);
        Ok(())
    }

    /// The consumer wants no more; what it holds it keeps. True when it was one.
    pub(crate) fn detach(
        &mut self,
        holder: Holder,
        queue: QueueId,
        sessions: &mut Sessions,
    ) -> bool {
        let Some(slot) = self.holders.find(holder) else {
            return false;
        };
        let stopped = self.holders.stop(slot);
        self.leave(slot, queue, sessions);
        stopped
    }

    pub(crate) fn credit(&mut self, holder: Holder, messages: u32, bytes: u64) {
        if let Some(slot) = self.holders.find(holder) {
            self.holders.credit(slot, messages, bytes);
        }
    }

    /// A `basic.get`: answered by [`Delivery::serve`].
    pub(crate) fn get(
        &mut self,
        holder: Holder,
        auto_ack: bool,
        token: Token,
        queue: QueueId,
        sessions: &mut Sessions,
    ) {
        let slot = self.enter(holder, queue, sessions);
        if let Some(party) = self.holders.party_mut(slot) {
            party.waiting += 1;
        }
        self.gets.push_back(Get {
            slot,
            auto_ack,
            token,
        });
    }

    /// Bytes that were asked for are there.
    pub(crate) fn resume(&mut self) {
        self.suspended = false;
    }

    /// Hands out what can go out, and lets go of what has expired.
    pub(crate) fn serve(
        &mut self,
        queue: &mut Queue,
        terms: Terms,
        sessions: &mut Sessions,
        context: &mut Context<'_, Effect>,
    ) {
        if self.closing {
            return;
        }
        let waits = self.suspended
            || self.serve_gets(queue, terms, sessions, context)
            || self.serve_consumers(queue, terms, context);
        if !waits {
            self.fresh = None;
        }
        self.expire(queue, terms, context.bodies);
    }

    /// Answers gets; true when the next one has to wait.
    fn serve_gets(
        &mut self,
        queue: &mut Queue,
        terms: Terms,
        sessions: &mut Sessions,
        context: &mut Context<'_, Effect>,
    ) -> bool {
        while let Some(get) = self.gets.front() {
            let (slot, auto_ack, token) = (get.slot, get.auto_ack, get.token);
            let message = match self.next(queue, terms, context) {
                Next::Later => return true,
                Next::Nothing => None,
                Next::Message {
                    delivered,
                    returned,
                } => {
                    let holder = (!auto_ack).then_some(slot);
                    self.hand_out(queue, terms, context.bodies, &delivered, returned, holder);
                    Some(delivered)
                }
            };
            self.gets.pop_front();
            let Some(party) = self.holders.party_mut(slot) else {
                continue;
            };
            party.waiting -= 1;
            party.held += u32::from(message.is_some() && !auto_ack);
            let session = party.holder.session;
            self.leave(slot, queue.id, sessions);
            self.expire(queue, terms, context.bodies);
            let ready = self.ready(queue);
            context.effects.push(Effect::Got {
                session,
                token,
                message,
                ready,
            });
        }
        false
    }

    /// Serves consumers; true when the next message has to wait.
    fn serve_consumers(
        &mut self,
        queue: &mut Queue,
        terms: Terms,
        context: &mut Context<'_, Effect>,
    ) -> bool {
        let mut touched = Vec::new();
        let mut waits = false;
        while let Some((slot, auto_ack)) = self.holders.turn() {
            let holder = (!auto_ack).then_some(slot);
            let (delivered, returned) = match self.next(queue, terms, context) {
                Next::Message {
                    delivered,
                    returned,
                } => (delivered, returned),
                Next::Nothing => break,
                Next::Later => {
                    waits = true;
                    break;
                }
            };
            self.hand_out(queue, terms, context.bodies, &delivered, returned, holder);
            if self.holders.give(slot, delivered) {
                touched.push(slot);
            }
        }
        for slot in touched {
            let Some(party) = self.holders.party_mut(slot) else {
                continue;
            };
            let Some(consumer) = &mut party.consumer else {
                continue;
            };
            context.effects.push(Effect::Deliver {
                session: party.holder.session,
                number: party.holder.number,
                queue: queue.id,
                messages: std::mem::take(&mut consumer.batch),
            });
        }
        waits
    }

    /// The message to hand out next, with its body.
    fn next(&mut self, queue: &mut Queue, terms: Terms, context: &mut Context<'_, Effect>) -> Next {
        self.expire(queue, terms, context.bodies);
        let Some(head) = self.head(queue) else {
            return Next::Nothing;
        };
        let (id, message, returned) = (head.id, head.message, head.returned);
        if !returned && terms.logged && !self.is_reserved(id, queue, context) {
            return Next::Later;
        }
        let Some(bytes) = context.bodies.get(message.place, message.len) else {
            context.bodies.want(queue.id.0, message.place, message.len);
            if !returned {
                let next = queue.messages.range(id + 1..=u64::MAX);
                let mut next = next.map(|(_, message)| (message.place, message.len));
                context.bodies.want_next(queue.id.0, &mut next);
            }
            self.suspended = true;
            return Next::Later;
        };
        let grip = returned.then(|| self.grips.get(id)).flatten();
        let count = grip.map_or(message.delivery_count, |grip| grip.delivery_count);
        Next::Message {
            delivered: Delivered {
                id: MessageId(id),
                redelivered: returned || id < terms.suspect,
                delivery_count: u32::from(count),
                message: bytes,
            },
            returned,
        }
    }

    /// The message goes out: to `holder`, or for good when there is none.
    fn hand_out(
        &mut self,
        queue: &mut Queue,
        terms: Terms,
        bodies: &mut dyn Bodies,
        message: &Delivered,
        returned: bool,
        holder: Option<u32>,
    ) {
        let id = message.id.0;
        let state = holder.map_or(State::Leaving, State::Held);
        if returned {
            self.returned.remove(&id);
        } else {
            self.cursor = id + 1;
        }
        if holder.is_none() && !terms.logged {
            if returned {
                self.grips.remove(id);
            }
            queue.remove(id..=id, bodies, |_| {});
            return;
        }
        if returned {
            if let Some(grip) = self.grips.get_mut(id) {
                grip.state = state;
            }
        } else {
            let grip = Grip::new(state, message.delivery_count as u16);
            self.grips.push(id, grip, 0);
        }
        if holder.is_some() {
            self.held += 1;
        } else {
            self.leaving += 1;
            settling::add_to_runs(&mut self.settles, id);
        }
    }

    /// Whether the message may go out; keeps the reservation ahead of what is asked for.
    fn is_reserved(&mut self, id: u64, queue: &Queue, context: &mut Context<'_, Effect>) -> bool {
        let ahead = self.reserve_ahead.max(RESERVE_AHEAD);
        let reserved = id < queue.reserved;
        if !reserved && self.reserving > queue.reserved {
            // The log is slower than the consumers: ask for more at once from here on.
            self.reserve_ahead = (ahead * 2).min(RESERVE_AHEAD_MAX);
            context.urgent = true;
        } else if queue.reserved.saturating_sub(id) < ahead / 2 && self.reserving <= queue.reserved
        {
            if !reserved {
                self.reserve_ahead = (ahead * 2).min(RESERVE_AHEAD_MAX);
                context.urgent = true;
            }
            self.reserving = queue.reserved.max(id) + ahead;
            let reserved = MessageId(self.reserving);
            let write = |out: &mut _| command::encode_reserve(out, queue.id, reserved);
            context.proposals.push(write);
        }
        reserved
    }

    fn enter(&mut self, holder: Holder, queue: QueueId, sessions: &mut Sessions) -> u32 {
        let (slot, new) = self.holders.enter(holder);
        if new {
            sessions.insert((holder.session, queue, holder.number));
        }
        slot
    }

    fn leave(&mut self, slot: u32, queue: QueueId, sessions: &mut Sessions) {
        if let Some(holder) = self.holders.leave(slot) {
            sessions.remove(&(holder.session, queue, holder.number));
        }
    }
}

fn reply(asker: SessionId, token: Token, reply: Reply) -> Effect {
    Effect::Reply {
        asker,
        token,
        reply,
    }
}
