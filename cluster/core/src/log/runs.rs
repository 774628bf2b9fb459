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

/// An unordered list of runs that is sorted and merged before it grows.
#[derive(Default)]
pub(super) struct Runs {
    list: Vec<Run>,
}

impl Runs {
    pub(super) fn note(&mut self, shard: ShardId, key: u64, id: u64) {
        if let Some(last) = self.list.last_mut()
            && last.key == key
            && last.shard == shard
        {
            last.max = last.max.max(id);
            last.min = last.min.min(id);
            return;
        }
        if self.list.len() >= 64 && self.list.len() == self.list.capacity() {
            merge(&mut self.list);
            // Growing as soon as merging helps little keeps its cost constant per note.
            if self.list.len() > self.list.capacity() / 2 {
                self.list.reserve_exact(self.list.capacity());
            }
        }
        self.list.push(Run {
            shard,
            key,
            min: id,
            max: id,
        });
    }

    pub(super) fn clear(&mut self) {
        self.list = Vec::new();
    }

    /// One run per shard and queue, in their order.
    pub(super) fn merged(&self) -> Vec<Run> {
        let mut list = self.list.clone();
        merge(&mut list);
        list
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
