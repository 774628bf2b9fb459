//! The queues of a shard by id: a slab and an index into it.
//!
//! Invariants: every id in the index names a slot with that queue, and every other slot is free.
//! An empty queue costs its slot and its place in the index, no allocation of its own.

// tidy: allow hash-map: looked up by id only, never walked; the hash has no seed.
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::delivery::Delivery;
use crate::ids::QueueId;
use crate::queue::Queue;

/// A queue, and what the leader knows of it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) queue: Queue,
    /// Made when somebody consumes or gets, gone when nothing is out any more.
    pub(super) delivery: Option<Box<Delivery>>,
    /// Messages below this id may have been delivered by an earlier leader.
    pub(super) suspect: u64,
}

// A million queues have to fit.
const _: () = assert!(size_of::<Option<Slot>>() <= 176);

#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    index: HashMap<QueueId, u32, BuildHasherDefault<IdHasher>>,
}

/// Spreads the ids, which are dense: one multiplication, both halves folded.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Slots {
    /// How many queues there are.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Slots, free ones included: numbers below this may name a queue.
    pub(super) fn end(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn find(&self, id: QueueId) -> Option<u32> {
        self.index.get(&id).copied()
    }

    pub(super) fn at(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn get(&self, id: QueueId) -> Option<&Slot> {
        self.at(self.find(id)?)
    }

    pub(super) fn get_mut(&mut self, id: QueueId) -> Option<&mut Slot> {
        let slot = self.find(id)?;
        self.at_mut(slot)
    }

    pub(super) fn insert(&mut self, queue: Queue) -> &mut Slot {
        let id = queue.id;
        let entry = Slot {
            queue,
            delivery: None,
            suspect: 0,
        };
        let slot = if let Some(slot) = self.free.pop() {
            slot
        } else {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        };
        self.index.insert(id, slot);
        self.slots[slot as usize].insert(entry)
    }

    pub(super) fn remove(&mut self, id: QueueId) -> Option<Slot> {
        let slot = self.index.remove(&id)?;
        let removed = self.slots[slot as usize].take();
        self.free.push(slot);
        if self.index.is_empty() {
            *self = Self::default();
        }
        removed
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().flatten()
    }

    /// The ids in ascending order.
    pub(super) fn ids(&self) -> Vec<QueueId> {
        let mut ids: Vec<_> = self.iter().map(|slot| slot.queue.id).collect();
        ids.sort_unstable();
        ids
    }
}
