//! Entries of unlogged shards: held in memory for as long as something of them is referred to.
//!
//! Invariants:
//! - an entry goes as soon as nothing of it is live (after it was applied);
//! - the table is no longer than the largest number of entries that were held at a time, and
//!   empty when none is;
//! - an entry of which less than a quarter is live is listed for copying out, once.

use bytes::Bytes;

use crate::ids::{Place, SegmentId, ShardId};
use crate::log::runs::{Run, Runs};

/// Smaller entries are not worth copying out of.
const SPARSE_BYTES: usize = 4096;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 160;

#[derive(Default)]
pub(super) struct Memory {
    slots: Vec<Slot>,
    free: Vec<u32>,
    held: usize,
    bytes: u64,
    sparse: Vec<u32>,
}

#[derive(Default)]
struct Slot {
    bytes: Bytes,
    live_bytes: u64,
    live_count: u32,
    /// Not applied yet: stays though nothing refers to it.
    fresh: bool,
    listed: bool,
    used: bool,
    runs: Runs,
}

impl Memory {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes an entry; it stays at least until [`Memory::applied`].
    pub(super) fn insert(&mut self, bytes: Bytes) -> Place {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer entries than memory")
        });
        self.bytes += bytes.len() as u64 + ENTRY_BYTES;
        self.held += 1;
        self.slots[number as usize] = Slot {
            bytes,
            fresh: true,
            used: true,
            ..Slot::default()
        };
        Place {
            segment: SegmentId::memory(number),
            offset: 0,
        }
    }

    /// What was to be retained of the entry has been.
    pub(super) fn applied(&mut self, place: Place) {
        let number = place.segment.number();
        if let Some(slot) = self.slots.get_mut(number as usize) {
            slot.fresh = false;
            self.settle(number);
        }
    }

    pub(super) fn get(&self, place: Place, len: u32) -> Option<Bytes> {
        let slot = self.slots.get(place.segment.number() as usize)?;
        let (from, to) = (place.offset as usize, place.offset as usize + len as usize);
        (slot.used && to <= slot.bytes.len()).then(|| slot.bytes.slice(from..to))
    }

    pub(super) fn retain(&mut self, shard: ShardId, key: u64, id: u64, place: Place, len: u32) {
        if let Some(slot) = self.slots.get_mut(place.segment.number() as usize) {
            debug_assert!(slot.used);
            slot.live_bytes += u64::from(len);
            slot.live_count += 1;
            slot.runs.note(shard, key, id);
        }
    }

    pub(super) fn release(&mut self, place: Place, len: u32) {
        let number = place.segment.number();
        if let Some(slot) = self.slots.get_mut(number as usize) {
            debug_assert!(slot.live_count > 0);
            slot.live_bytes = slot.live_bytes.saturating_sub(u64::from(len));
            slot.live_count = slot.live_count.saturating_sub(1);
            self.settle(number);
        }
    }

    /// Frees the slot when nothing is live, lists it when little is.
    fn settle(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        if slot.fresh || !slot.used {
            return;
        }
        if slot.live_count > 0 {
            let large = slot.bytes.len() >= SPARSE_BYTES;
            if large && !slot.listed && slot.live_bytes * 4 < slot.bytes.len() as u64 {
                slot.listed = true;
                self.sparse.push(number);
            }
            return;
        }
        self.bytes -= slot.bytes.len() as u64 + ENTRY_BYTES;
        *slot = Slot::default();
        self.held -= 1;
        if self.held == 0 {
            self.slots = Vec::new();
            self.free = Vec::new();
            self.sparse = Vec::new();
        } else {
            self.free.push(number);
        }
    }

    pub(super) fn has_sparse(&self) -> bool {
        !self.sparse.is_empty()
    }

    /// An entry that is mostly dead, and what of it may be live.
    pub(super) fn next_sparse(&mut self) -> Option<(SegmentId, Vec<Run>)> {
        while let Some(number) = self.sparse.pop() {
            if let Some(slot) = self.slots.get(number as usize)
                && slot.listed
            {
                return Some((SegmentId::memory(number), slot.runs.merged()));
            }
        }
        None
    }
}
