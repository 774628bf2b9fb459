//! Holders and messages that an earlier leader gave out, as their nodes tell a new one.
//!
//! Claims come from several nodes in any order, and grips lie in the order of their ids: so they
//! are gathered first and made all at once.

use std::collections::BTreeMap;

use crate::ids::{Holder, QueueId, SessionId};
use crate::queue::Queue;
use crate::shard::input::Attach;

use super::grips::{Grip, State};
use super::{Delivery, Sessions};

impl Delivery {
    /// Takes a holder in that another leader had, and its terms if it is a consumer.
    pub(crate) fn seat(
        &mut self,
        holder: Holder,
        queue: QueueId,
        consumer: Option<&Attach>,
        sessions: &mut Sessions,
    ) {
        let slot = self.enter(holder, queue, sessions);
        if let Some(attach) = consumer {
            self.holders.consume(slot, attach);
        }
    }

    /// The holder has these messages: runs of ids. Until [`Delivery::settle_claims`].
    pub(crate) fn claim(&mut self, holder: Holder, held: &[(u64, u64)]) {
        let Some(slot) = self.holders.find(holder) else {
            return;
        };
        let claimed = held.iter().map(|(first, last)| (*first, (*last, slot)));
        self.claimed.extend(claimed);
    }

    /// All claims are in: what they name and the queue still has is out; what lies below and
    /// nobody named was out, and is back.
    pub(crate) fn settle_claims(&mut self, queue: &Queue, sessions: &mut Sessions) {
        let claimed: BTreeMap<u64, (u64, u32)> = std::mem::take(&mut self.claimed);
        let Some(newest) = claimed.values().map(|(last, _)| *last).max() else {
            return;
        };
        debug_assert_eq!(self.grips.len(), 0, "a new leader has handed nothing out");
        let newest = newest.min(queue.next.saturating_sub(1));
        for (id, message) in queue.messages.range(0..=newest) {
            let run = claimed.range(..=id).next_back();
            let slot = run.and_then(|(_, (last, slot))| (id <= *last).then_some(*slot));
            let state = slot.map_or(State::Returned, State::Held);
            let count = message.delivery_count;
            self.grips.push(id, Grip::new(state, count), 0);
            match slot {
                Some(slot) => {
                    self.held += 1;
                    self.holders.took(slot);
                }
                None => drop(self.returned.insert(id)),
            }
        }
        self.cursor = newest + 1;
        // Those whose messages are all settled, and who do not consume, have nothing here.
        let slots: Vec<u32> = claimed.values().map(|(_, slot)| *slot).collect();
        for slot in slots {
            self.leave(slot, queue.id, sessions);
        }
    }

    /// The holder says so late: it gets back what nobody has by now.
    pub(crate) fn claim_late(&mut self, holder: Holder, held: &[(u64, u64)]) {
        let Some(slot) = self.holders.find(holder) else {
            return;
        };
        for (first, last) in held {
            let mut taken = Vec::new();
            self.grips.for_range(*first..=*last, |id, grip| {
                if grip.state == State::Returned {
                    grip.state = State::Held(slot);
                    taken.push(id);
                }
            });
            for id in taken {
                self.returned.remove(&id);
                self.held += 1;
                self.holders.took(slot);
            }
        }
    }

    /// Forgets the holder if nothing ties it to the queue.
    pub(crate) fn vacate(&mut self, holder: Holder, queue: QueueId, sessions: &mut Sessions) {
        if let Some(slot) = self.holders.find(holder) {
            self.leave(slot, queue, sessions);
        }
    }
}

/// The sessions that have holders, from `first` to `last`.
pub(crate) fn sessions_between(
    sessions: &Sessions,
    first: SessionId,
    last: SessionId,
) -> Vec<SessionId> {
    let from = (first, QueueId(0), 0);
    let to = (last, QueueId(u64::MAX), u32::MAX);
    let mut found: Vec<_> = sessions.range(from..=to).map(|it| it.0).collect();
    found.dedup();
    found
}
