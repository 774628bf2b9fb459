//! A lane's message store: who refers to which bytes, and which bytes are in memory.

use bytes::Bytes;

use crate::ids::{Place, SegmentId, ShardId};
use crate::log::extents::Extents;
use crate::log::memory::Memory;
use crate::log::segments::Segments;
use crate::log::young::Young;
use crate::machine;

/// All that bodies need of the log, apart from what writes it.
pub(super) struct Store {
    pub(super) segments: Segments,
    pub(super) survivors: Segments,
    pub(super) memory: Memory,
    pub(super) young: Young,
    pub(super) extents: Extents,
}

impl Store {
    pub(super) fn get(&mut self, place: Place, len: u32) -> Option<Bytes> {
        if place.segment.is_memory() {
            return self.memory.get(place, len);
        }
        if !place.segment.is_survivor()
            && let Some(found) = self.young.get(place, len)
        {
            return Some(found);
        }
        self.extents.get(place, len)
    }

    pub(super) fn series(&mut self, segment: SegmentId) -> &mut Segments {
        if segment.is_survivor() {
            &mut self.survivors
        } else {
            &mut self.segments
        }
    }
}

/// The store as the machine of one shard sees it.
pub struct View<'a> {
    pub(super) store: &'a mut Store,
    pub(super) shard: ShardId,
}

impl machine::Bodies for View<'_> {
    fn get(&mut self, place: Place, len: u32) -> Option<Bytes> {
        self.store.get(place, len)
    }

    fn want(&mut self, key: u64, place: Place, len: u32) {
        // What is in memory and not found there was released: nothing could bring it back.
        debug_assert!(!place.segment.is_memory(), "{place} was released");
        if !place.segment.is_memory() && place.segment != SegmentId::NOWHERE {
            self.store.extents.want(self.shard, key, place, len);
        }
    }

    fn want_next(&mut self, key: u64, next: &mut dyn Iterator<Item = (Place, u32)>) {
        let Store { young, extents, .. } = &mut *self.store;
        // Young bodies are in memory, and the next ones of the queue are younger still.
        let old = |(place, _): &(Place, u32)| place.segment.is_survivor() || !young.reaches(*place);
        extents.want_next(self.shard, key, &mut next.take_while(old));
    }

    fn retain(&mut self, key: u64, id: u64, place: Place, len: u32) {
        if place.segment == SegmentId::NOWHERE {
            return;
        }
        if place.segment.is_memory() {
            self.store.memory.retain(self.shard, key, id, place, len);
        } else {
            let shard = self.shard;
            self.store
                .series(place.segment)
                .retain(shard, key, id, place, len);
        }
    }

    fn release(&mut self, place: Place, len: u32) {
        if place.segment == SegmentId::NOWHERE {
            return;
        }
        if place.segment.is_memory() {
            self.store.memory.release(place, len);
        } else {
            self.store.series(place.segment).release(place, len);
        }
    }
}
