//! Which messages a segment may hold: ranges of ids by shard and queue.
//!
//! A range only says where to look: what is live is the machine's to tell.

use crate::ids::ShardId;

/// Messages `min..=max` of the queue `key`, some of which may lie in the segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Run {
    pub(super) shard: ShardId,
    pub(super) key: u64,
    pub(super) min: u64,
    pub(super) max: u64,
}

/// With fewer runs than this it is quickest to push and merge.
const RECENT_FROM: usize = 16;
/// Queues whose runs are found again without a search.
const RECENT: usize = 256;

/// An unordered list of runs that is sorted and merged before it grows.
#[derive(Default)]
pub(super) struct Runs {
    list: Vec<Run>,
    /// Where the run of a queue was last, by the low bits of its key. Only a guess.
    recent: Vec<u32>,
}

impl Runs {
    pub(super) fn note(&mut self, shard: ShardId, key: u64, id: u64) {
        if let Some(last) = self.list.last_mut()
            && last.is_of(shard, key)
        {
            last.add(id);
            return;
        }
        let slot = key as usize % RECENT;
        if let Some(at) = self.recent.get(slot)
            && let Some(run) = self.list.get_mut(*at as usize)
            && run.is_of(shard, key)
        {
            run.add(id);
            return;
        }
        if self.list.len() >= 64 && self.list.len() == self.list.capacity() {
            merge(&mut self.list);
            // Growing as soon as merging helps little keeps its cost constant per note.
            if self.list.len() > self.list.capacity() / 2 {
                self.list.reserve_exact(self.list.capacity());
            }
        }
        if self.list.len() == RECENT_FROM {
            self.recent.resize(RECENT, 0);
        }
        if let Some(recent) = self.recent.get_mut(slot) {
            *recent = self.list.len() as u32;
        }
        self.list.push(Run {
            shard,
            key,
            min: id,
            max: id,
        });
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// One run per shard and queue, in their order.
    pub(super) fn merged(&self) -> Vec<Run> {
        let mut list = self.list.clone();
        merge(&mut list);
        list
    }
}

impl Run {
    fn is_of(&self, shard: ShardId, key: u64) -> bool {
        self.key == key && self.shard == shard
    }

    fn add(&mut self, id: u64) {
        self.min = self.min.min(id);
        self.max = self.max.max(id);
    }
}

fn merge(list: &mut Vec<Run>) {
    list.sort_unstable();
    list.dedup_by(|next, kept| {
        let same = next.shard == kept.shard && next.key == kept.key;
        if same {
            kept.max = kept.max.max(next.max);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_run_covers_every_message_noted(
            notes in proptest::collection::vec((0..3_u32, 0..700_u64, 0..1000_u64), 0..3000),
        ) {
            let mut runs = Runs::default();
            let mut expected = BTreeMap::new();
            for (shard, key, id) in notes {
                let shard = ShardId(shard);
                runs.note(shard, key, id);
                let (min, max) = expected.entry((shard, key)).or_insert((id, id));
                (*min, *max) = (id.min(*min), id.max(*max));
            }
            let merged = runs.merged();
            let found = merged.iter().map(|run| ((run.shard, run.key), (run.min, run.max)));
            prop_assert!(found.eq(expected));
        }
    }
}
