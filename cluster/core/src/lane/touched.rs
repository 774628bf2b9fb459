//! The shards that something happened to since they were moved last.
//!
//! Always holds: each stands once, in their order. They are few in most steps, and there are many
//! steps: their room is kept.

use crate::ids::ShardId;

#[derive(Debug, Default)]
pub(super) struct Touched {
    shards: Vec<ShardId>,
    /// Empty room, while no turn is on its way.
    room: Vec<ShardId>,
}

impl Touched {
    pub(super) fn insert(&mut self, shard: ShardId) {
        if let Err(at) = self.shards.binary_search(&shard) {
            self.shards.insert(at, shard);
        }
    }

    pub(super) fn remove(&mut self, shard: ShardId) {
        if let Ok(at) = self.shards.binary_search(&shard) {
            self.shards.remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// All of them, each to be moved; leaves none.
    pub(super) fn begin_turn(&mut self) -> Vec<ShardId> {
        std::mem::replace(&mut self.shards, std::mem::take(&mut self.room))
    }

    /// Takes back what [`Self::begin_turn`] gave.
    pub(super) fn end_turn(&mut self, mut turn: Vec<ShardId>) {
        turn.clear();
        self.room = turn;
    }
}

impl Extend<ShardId> for Touched {
    fn extend<I: IntoIterator<Item = ShardId>>(&mut self, shards: I) {
        shards.into_iter().for_each(|shard| self.insert(shard));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_moved_once_and_in_order() {
        let mut touched = Touched::default();
        touched.extend([5, 1, 5, 3, 1].map(ShardId));
        touched.remove(ShardId(3));
        touched.remove(ShardId(4));
        let turn = touched.begin_turn();
        assert_eq!(turn, [1, 5].map(ShardId));
        assert!(touched.is_empty());
        touched.insert(ShardId(2));
        touched.end_turn(turn);
        assert_eq!(touched.begin_turn(), [ShardId(2)]);
    }
}
