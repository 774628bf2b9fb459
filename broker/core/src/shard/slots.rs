//! The queues of a shard by id: a slab and an index into it.
//!
//! Invariants: every id in the index names a slot with that queue, and every other slot is free.
//! An empty queue costs its slot and its place in the index, no allocation of its own. Slots lie in
//! pieces of one size: a shard that grows copies none, and has few that are empty. A shard
//! without queues keeps one.

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

const PIECE: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Slots {
    pieces: Vec<Box<[Option<Slot>; PIECE]>>,
    /// Slots that have been in use: those behind are free, and not listed.
    end: u32,
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
        self.end
    }

    pub(super) fn find(&self, id: QueueId) -> Option<u32> {
        self.index.get(&id).copied()
    }

    pub(super) fn at(&self, slot: u32) -> Option<&Slot> {
        let slot = slot as usize;
        self.pieces.get(slot / PIECE)?[slot % PIECE].as_ref()
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut Slot> {
        self.place(slot)?.as_mut()
    }

    pub(super) fn get(&self, id: QueueId) -> Option<&Slot> {
        self.at(self.find(id)?)
    }

    pub(super) fn get_mut(&mut self, id: QueueId) -> Option<&mut Slot> {
        let slot = self.find(id)?;
        self.at_mut(slot)
    }

    fn place(&mut self, slot: u32) -> Option<&mut Option<Slot>> {
        let slot = slot as usize;
        Some(&mut self.pieces.get_mut(slot / PIECE)?[slot % PIECE])
    }

    /// A slot that was never in use.
    fn begin(&mut self) -> u32 {
        let slot = self.end;
        if slot as usize == self.pieces.len() * PIECE {
            self.pieces.push(Box::new([const { None }; PIECE]));
        }
        self.end += 1;
        slot
    }

    pub(super) fn insert(&mut self, queue: Queue) -> &mut Slot {
        let id = queue.id;
        let entry = Slot {
            queue,
            delivery: None,
            suspect: 0,
        };
        let slot = self.free.pop().unwrap_or_else(|| self.begin());
        self.index.insert(id, slot);
        let place = self.place(slot).expect("begun");
        place.insert(entry)
    }

    pub(super) fn remove(&mut self, id: QueueId) -> Option<Slot> {
        let slot = self.index.remove(&id)?;
        let removed = self.place(slot).and_then(Option::take);
        self.free.push(slot);
        if self.index.is_empty() {
            self.clear();
        }
        removed
    }

    /// No queue is left: all memory goes but one piece, which a shard whose queues come and go one
    /// by one finds again.
    fn clear(&mut self) {
        self.pieces.truncate(1);
        self.pieces.shrink_to(1);
        self.end = 0;
        self.free.clear();
        self.free.shrink_to(PIECE);
        self.index.shrink_to(PIECE);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        let all = self.pieces.iter().flat_map(|piece| piece.iter());
        all.flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        let all = self.pieces.iter_mut().flat_map(|piece| piece.iter_mut());
        all.flatten()
    }

    /// The ids in ascending order.
    pub(super) fn ids(&self) -> Vec<QueueId> {
        let mut ids: Vec<_> = self.iter().map(|slot| slot.queue.id).collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_the_last_queue_goes_one_piece_is_kept_and_begun_anew() {
        let mut slots = Slots::default();
        for round in 0..2 {
            let ids = (1..=1000).map(|number| QueueId(round * 1000 + number));
            for id in ids.clone() {
                slots.insert(Queue::new(id, 0));
            }
            assert_eq!((slots.len(), slots.end()), (1000, 1000));
            for id in ids {
                assert_eq!(slots.remove(id).map(|slot| slot.queue.id), Some(id));
            }
            assert_eq!((slots.len(), slots.end()), (0, 0));
            assert_eq!((slots.pieces.len(), slots.pieces.capacity()), (1, 1));
            assert!(slots.free.is_empty() && slots.free.capacity() <= PIECE);
            assert!(slots.index.capacity() <= 2 * PIECE);
            assert!(slots.iter().next().is_none());
        }
    }
}
