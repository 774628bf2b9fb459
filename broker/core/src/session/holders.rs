//! Everything of a session that holds messages: consumers, and what `basic.get` took.
//!
//! Invariants:
//! - numbers ascend and are never reused within a session;
//! - a holder stays until nothing of it is outstanding, so that its messages can be settled.

use warren_cluster_core::ids::ShardId;
use warren_protocol::ShortString;

use crate::ids::QueueId;

/// A holder as its session knows it.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) number: u32,
    pub(super) channel: u16,
    pub(super) auto_ack: bool,
    pub(super) exclusive: bool,
    /// The shard has said that no more comes.
    pub(super) detached: bool,
    pub(super) prefetch: u32,
    pub(super) priority: i32,
    pub(super) queue: QueueId,
    pub(super) shard: ShardId,
    /// Empty for `basic.get`.
    pub(super) tag: ShortString,
    /// Messages in the channel's table of unacknowledged ones (or in a transaction).
    pub(super) outstanding: u32,
    /// Written, and not yet told to the shard.
    pub(super) written_messages: u32,
    pub(super) written_bytes: u64,
}

/// Holders by number.
#[derive(Debug, Default)]
pub(super) struct HolderTable {
    holders: Vec<Holding>,
    last_number: u32,
}

impl HolderTable {
    /// The number for a new holder, from 1.
    pub(super) fn issue(&mut self) -> u32 {
        self.last_number += 1;
        self.last_number
    }

    /// Adds a holder with a number just issued.
    pub(super) fn insert(&mut self, holding: Holding) {
        debug_assert!(
            self.holders
                .last()
                .is_none_or(|last| last.number < holding.number)
        );
        self.holders.push(holding);
    }

    #[inline]
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Holding> {
        let at = self.position(number)?;
        Some(&mut self.holders[at])
    }

    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&Holding> {
        Some(&self.holders[self.position(number)?])
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<Holding> {
        let at = self.position(number)?;
        Some(self.holders.remove(at))
    }

    /// Removes the holder if it is detached (or a `basic.get`) and nothing is outstanding.
    pub(super) fn remove_if_spent(&mut self, number: u32) {
        if let Some(at) = self.position(number)
            && self.holders[at].detached
            && self.holders[at].outstanding == 0
        {
            self.holders.remove(at);
        }
    }

    /// Takes out those that `goes` picks.
    pub(super) fn extract(
        &mut self,
        mut goes: impl FnMut(&Holding) -> bool,
    ) -> impl Iterator<Item = Holding> {
        self.holders.extract_if(.., move |holding| goes(holding))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Holding> {
        self.holders.iter()
    }

    #[inline]
    fn position(&self, number: u32) -> Option<usize> {
        if let [only] = self.holders.as_slice() {
            return (only.number == number).then_some(0);
        }
        self.holders
            .binary_search_by_key(&number, |holding| holding.number)
            .ok()
    }
}
