//! The queues that a shard has dropped last: they are not made again.
//!
//! A leader whose definitions lag behind still has the row of a queue that was deleted; its shard
//! has dropped the queue and the tombstone is gone. Ids are never used again, so that whoever
//! asks for such a queue is late. Replicated state: bounded, in the order of the drops.

use std::collections::VecDeque;

use crate::ids::QueueId;

/// Drops that are remembered: leaders lag behind by seconds.
const GONE_MAX: usize = 1024;

const _: () = assert!(
    GONE_MAX * size_of::<QueueId>() < 32 * 1024,
    "part of one chunk"
);

#[derive(Debug, Default)]
pub(super) struct Gone(VecDeque<QueueId>);

impl Gone {
    pub(super) fn push(&mut self, queue: QueueId) {
        if self.0.len() == GONE_MAX {
            self.0.pop_front();
        }
        self.0.push_back(queue);
    }

    pub(super) fn contains(&self, queue: QueueId) -> bool {
        self.0.contains(&queue)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = QueueId> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered() {
        let mut gone = Gone::default();
        (1..=GONE_MAX as u64 + 1).for_each(|id| gone.push(QueueId(id)));
        assert_eq!(gone.len(), GONE_MAX);
        assert!(!gone.contains(QueueId(1)));
        assert!(gone.contains(QueueId(2)));
    }
}
