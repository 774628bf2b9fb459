//! One queue's replicated state: which messages are in it, and what has been promised of them.
//!
//! Invariants:
//! - ids ascend in the order of arrival and are never used again;
//! - a reference is retained in the message store from the moment that it is made until it goes;
//! - every method is a pure function of state and arguments: replicas that do the same end the
//!   same (but for places, which nobody compares).
//!
//! Who holds which message is the leader's affair: `crate::delivery`.

pub(crate) mod blocks;
pub(crate) mod reference;

use std::ops::RangeInclusive;

use warren_cluster_core::ids::{Place, Time};
use warren_cluster_core::machine::{Bodies, LiveRef};

use crate::ids::QueueId;

use blocks::Blocks;
use reference::MessageRef;

/// The replicated state of a queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) messages: Blocks<MessageRef>,
    /// The id that the next message takes; the first has 1.
    pub(crate) next: u64,
    /// Messages below this id may have been delivered (rule 12).
    pub(crate) reserved: u64,
    /// Options of later versions, as they came.
    pub(crate) options: Option<Box<[u8]>>,
    /// Goes with its last consumer.
    pub(crate) auto_delete: bool,
    /// Since it was last empty a message came that expires: else nobody need look for one.
    pub(crate) expires: bool,
    /// Gives and takes nothing any more; waits to be dropped.
    pub(crate) closed: bool,
    /// The checkpoint in which its header is written, or which it came too late for.
    pub(crate) epoch: u32,
}

impl Queue {
    pub(crate) fn new(id: QueueId, epoch: u32) -> Self {
        Self {
            id,
            messages: Blocks::default(),
            next: 1,
            reserved: 0,
            options: None,
            auto_delete: false,
            expires: false,
            closed: false,
            epoch,
        }
    }

    /// Takes a message; its id.
    pub(crate) fn enqueue(
        &mut self,
        place: Place,
        len: u32,
        expiry: Option<Time>,
        epoch: u32,
        bodies: &mut dyn Bodies,
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        self.expires |= expiry.is_some();
        let message = MessageRef::new(place, len, expiry);
        self.messages.push(id, message, epoch);
        bodies.retain(self.id.0, id, place, len);
        id
    }

    /// Removes the messages in `ids`; `gone` hears of each, ascending.
    pub(crate) fn remove(
        &mut self,
        ids: RangeInclusive<u64>,
        bodies: &mut dyn Bodies,
        mut gone: impl FnMut(u64),
    ) {
        if ids.start() == ids.end() {
            if let Some(message) = self.messages.remove(*ids.start()) {
                bodies.release(message.place, message.len);
                gone(*ids.start());
            }
        } else {
            self.messages.remove_range(ids, |id, message| {
                bodies.release(message.place, message.len);
                gone(id);
                true
            });
        }
        self.expires &= self.messages.len() > 0;
    }

    /// Sets how often the messages in `ids` have failed to be delivered.
    pub(crate) fn set_delivery_count(&mut self, ids: RangeInclusive<u64>, count: u16) {
        self.messages
            .for_range(ids, |_, message| message.delivery_count = count);
    }

    /// Gives up all references: the queue is forgotten.
    pub(crate) fn release_all(&mut self, bodies: &mut dyn Bodies) {
        for (_, message) in self.messages.range(0..=u64::MAX) {
            bodies.release(message.place, message.len);
        }
        self.messages = Blocks::default();
    }

    /// Read from a checkpoint.
    pub(crate) fn restored(&mut self) {
        let mut all = self.messages.range(0..=u64::MAX);
        self.expires = all.any(|(_, message)| message.expiry().is_some());
    }

    /// Tells the message store of all references.
    pub(crate) fn retain_all(&self, bodies: &mut dyn Bodies) {
        for (id, message) in self.messages.range(0..=u64::MAX) {
            bodies.retain(self.id.0, id, message.place, message.len);
        }
    }

    pub(crate) fn live(&self, ids: RangeInclusive<u64>, out: &mut Vec<LiveRef>) {
        let live = self.messages.range(ids);
        out.extend(live.map(|(id, message)| LiveRef {
            id,
            place: message.place,
            len: message.len,
        }));
    }

    /// The bytes of message `id` were copied: refers to the copy from here on.
    pub(crate) fn relocate(&mut self, id: u64, from: Place, to: Place, bodies: &mut dyn Bodies) {
        let Some(message) = self.messages.get_mut(id) else {
            return;
        };
        if message.place != from {
            return;
        }
        message.place = to;
        bodies.retain(self.id.0, id, to, message.len);
        bodies.release(from, message.len);
    }
}

/// The options as they are kept: nothing for none.
pub(crate) fn keep_options(options: &[u8]) -> Option<Box<[u8]>> {
    (!options.is_empty()).then(|| Box::from(options))
}
