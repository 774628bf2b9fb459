//! Who holds messages of a queue, who wants more, and whose turn it is.
//!
//! Invariants:
//! - a consumer that may be given a message stands in the ring of its priority;
//! - `held` of a holder is the number of grips that name its slot;
//! - a holder that neither consumes, holds nor waits has no slot.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::Holder;
use crate::shard::effect::Delivered;
use crate::shard::input::Attach;

/// A consumer's terms, and what it may still be given.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) auto_ack: bool,
    pub(crate) exclusive: bool,
    priority: i32,
    /// Messages out at once; 0 is no limit.
    prefetch: u32,
    window_messages: u64,
    /// Below 1: the last message was larger than what was left.
    window_bytes: i64,
    in_ring: bool,
    /// What this flush hands to it.
    pub(crate) batch: Vec<Delivered>,
}

/// One holder: a consumer, a consumer that was cancelled and still holds messages, or a channel's
/// `basic.get`.
#[derive(Debug)]
pub(crate) struct Party {
    pub(crate) holder: Holder,
    pub(crate) held: u32,
    /// Gets of this holder that are not answered yet.
    pub(crate) waiting: u32,
    pub(crate) consumer: Option<Consumer>,
}

/// All holders of a queue.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    parties: Vec<Option<Party>>,
    free: Vec<u32>,
    slots: BTreeMap<Holder, u32>,
    consumers: u32,
    /// Consumers that may be given a message, by priority, the highest first.
    rings: Vec<Ring>,
}

#[derive(Debug)]
struct Ring {
    priority: i32,
    slots: VecDeque<u32>,
}

impl Consumer {
    fn has_credit(&self, held: u32) -> bool {
        let room = self.auto_ack || self.prefetch == 0 || held < self.prefetch;
        room && self.window_messages > 0 && self.window_bytes > 0
    }
}

impl Holders {
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(crate) fn consumers(&self) -> u32 {
        self.consumers
    }

    /// Whether some consumer may be given a message.
    pub(crate) fn wants(&self) -> bool {
        self.rings.iter().any(|ring| !ring.slots.is_empty())
    }

    pub(crate) fn has_exclusive(&self) -> bool {
        self.consumers == 1 && self.all_consumers().any(|(_, consumer)| consumer.exclusive)
    }

    fn all_consumers(&self) -> impl Iterator<Item = (Holder, &Consumer)> {
        let parties = self.slots.values().filter_map(|slot| self.party(*slot));
        parties.filter_map(|party| Some((party.holder, party.consumer.as_ref()?)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Holder, bool)> {
        let parties = self.slots.values().filter_map(|slot| self.party(*slot));
        parties.map(|party| (party.holder, party.consumer.is_some()))
    }

    pub(crate) fn find(&self, holder: Holder) -> Option<u32> {
        self.slots.get(&holder).copied()
    }

    pub(crate) fn party(&self, slot: u32) -> Option<&Party> {
        self.parties.get(slot as usize)?.as_ref()
    }

    pub(crate) fn party_mut(&mut self, slot: u32) -> Option<&mut Party> {
        self.parties.get_mut(slot as usize)?.as_mut()
    }

    /// The holder's slot; makes one. Tells whether it is new.
    pub(crate) fn enter(&mut self, holder: Holder) -> (u32, bool) {
        if let Some(slot) = self.find(holder) {
            return (slot, false);
        }
        let party = Some(Party {
            holder,
            held: 0,
            waiting: 0,
            consumer: None,
        });
        let slot = if let Some(slot) = self.free.pop() {
            self.parties[slot as usize] = party;
            slot
        } else {
            self.parties.push(party);
            (self.parties.len() - 1) as u32
        };
        self.slots.insert(holder, slot);
        (slot, true)
    }

    /// Makes the holder of `slot` a consumer.
    pub(crate) fn consume(&mut self, slot: u32, attach: &Attach) {
        let Some(party) = self.party_mut(slot) else {
            return;
        };
        if party.consumer.is_some() {
            return;
        }
        party.consumer = Some(Consumer {
            auto_ack: attach.auto_ack,
            exclusive: attach.exclusive,
            priority: attach.priority,
            prefetch: attach.prefetch,
            window_messages: u64::from(attach.window.messages),
            window_bytes: i64::try_from(attach.window.bytes).unwrap_or(i64::MAX),
            in_ring: false,
            batch: Vec::new(),
        });
        self.consumers += 1;
        self.queue_up(slot);
    }

    /// The holder of `slot` wants no more messages; true when it was a consumer.
    pub(crate) fn stop(&mut self, slot: u32) -> bool {
        let Some(consumer) = self.party_mut(slot).and_then(|party| party.consumer.take()) else {
            return false;
        };
        self.consumers -= 1;
        for ring in &mut self.rings {
            if ring.priority == consumer.priority {
                ring.slots.retain(|other| *other != slot);
            }
        }
        self.rings.retain(|ring| !ring.slots.is_empty());
        true
    }

    /// Forgets the holder of `slot` when nothing ties it to the queue any more.
    pub(crate) fn leave(&mut self, slot: u32) -> Option<Holder> {
        let party = self.party(slot)?;
        if party.consumer.is_some() || party.held > 0 || party.waiting > 0 {
            return None;
        }
        let holder = party.holder;
        self.parties[slot as usize] = None;
        self.slots.remove(&holder);
        self.free.push(slot);
        Some(holder)
    }

    /// The session has written some of what the consumer was given.
    pub(crate) fn credit(&mut self, slot: u32, messages: u32, bytes: u64) {
        let Some(consumer) = self
            .party_mut(slot)
            .and_then(|party| party.consumer.as_mut())
        else {
            return;
        };
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        consumer.window_messages = consumer.window_messages.saturating_add(u64::from(messages));
        consumer.window_bytes = consumer.window_bytes.saturating_add(bytes);
        self.queue_up(slot);
    }

    /// `count` messages of the holder came back or are settled.
    pub(crate) fn freed(&mut self, slot: u32, count: u32) {
        let Some(party) = self.party_mut(slot) else {
            return;
        };
        party.held -= count;
        self.queue_up(slot);
    }

    /// The holder of `slot` had a message before, as its node says.
    pub(crate) fn took(&mut self, slot: u32) {
        if let Some(party) = self.party_mut(slot) {
            party.held += 1;
        }
    }

    /// Whose turn it is, and whether messages are settled as it gets them. One that used its
    /// credit up otherwise (a `basic.get` of the same holder) loses its place.
    pub(crate) fn turn(&mut self) -> Option<(u32, bool)> {
        for ring in &mut self.rings {
            while let Some(&slot) = ring.slots.front() {
                let party = self.parties.get_mut(slot as usize)?.as_mut()?;
                let held = party.held;
                let consumer = party.consumer.as_mut()?;
                if consumer.has_credit(held) {
                    return Some((slot, consumer.auto_ack));
                }
                consumer.in_ring = false;
                ring.slots.pop_front();
            }
        }
        None
    }

    /// The consumer of `slot`, whose turn it is, is given a message: the next one's turn.
    /// True when it is the first of its batch.
    pub(crate) fn give(&mut self, slot: u32, message: Delivered) -> bool {
        let Some(party) = self.parties.get_mut(slot as usize).and_then(Option::as_mut) else {
            return false;
        };
        let Some(consumer) = &mut party.consumer else {
            return false;
        };
        if !consumer.auto_ack {
            party.held += 1;
        }
        consumer.window_messages -= 1;
        consumer.window_bytes -= message.message.len() as i64;
        consumer.batch.push(message);
        let first = consumer.batch.len() == 1;
        let stays = consumer.has_credit(party.held);
        consumer.in_ring = stays;
        let priority = consumer.priority;
        if let Some(ring) = self.rings.iter_mut().find(|ring| ring.priority == priority) {
            if !stays {
                ring.slots.pop_front();
            } else if ring.slots.len() > 1 {
                ring.slots.rotate_left(1);
            }
        }
        first
    }

    /// Puts a consumer with credit at the end of its ring, if it is not in it.
    fn queue_up(&mut self, slot: u32) {
        let Some(party) = self.parties.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(consumer) = &mut party.consumer else {
            return;
        };
        if consumer.in_ring || !consumer.has_credit(party.held) {
            return;
        }
        consumer.in_ring = true;
        let priority = consumer.priority;
        let found = self
            .rings
            .binary_search_by(|ring| priority.cmp(&ring.priority));
        let at = found.unwrap_or_else(|at| {
            let slots = VecDeque::new();
            self.rings.insert(at, Ring { priority, slots });
            at
        });
        self.rings[at].slots.push_back(slot);
    }
}
