//! The messages that a channel's client has and has not settled, by delivery tag.
//!
//! Invariants:
//! - entries are in ascending order of their tags; the first one is outstanding;
//! - at least half of the entries are outstanding once there are more than a few;
//! - messages that need no acknowledgement are not here, but have used up their tags.

use std::collections::VecDeque;

use crate::ids::MessageId;

/// Dead entries are not worth removing below this many.
const COMPACT_FROM: usize = 64;

/// A message that is out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unacked {
    pub(super) tag: u64,
    pub(super) message: MessageId,
    /// The number of its holder.
    pub(super) holder: u32,
    /// Cleared when it is settled before older ones are.
    outstanding: bool,
}

/// The table of a channel.
#[derive(Debug, Default)]
pub(super) struct UnackedTable {
    entries: VecDeque<Unacked>,
    outstanding: usize,
}

impl UnackedTable {
    /// How many messages are out.
    pub(super) fn len(&self) -> usize {
        self.outstanding
    }

    /// A message went out; `tag` is above all earlier ones.
    #[inline]
    pub(super) fn push(&mut self, tag: u64, holder: u32, message: MessageId) {
        debug_assert!(self.entries.back().is_none_or(|last| last.tag < tag));
        self.entries.push_back(Unacked {
            tag,
            message,
            holder,
            outstanding: true,
        });
        self.outstanding += 1;
    }

    /// Takes the message of that tag out.
    #[inline]
    pub(super) fn take(&mut self, tag: u64) -> Option<Unacked> {
        let front = self.entries.front()?;
        if front.tag == tag {
            let taken = self.entries.pop_front()?;
            self.outstanding -= 1;
            self.drop_dead_front();
            return Some(taken);
        }
        let at = self.position(tag)?;
        let entry = &mut self.entries[at];
        if !entry.outstanding {
            return None;
        }
        entry.outstanding = false;
        let taken = *entry;
        self.outstanding -= 1;
        self.compact();
        Some(taken)
    }

    /// Takes out everything up to and including `tag`, oldest first; 0 stands for everything.
    /// `false` (and nothing taken) when `tag` is neither 0 nor that of a message that is out.
    pub(super) fn take_through(&mut self, tag: u64, mut each: impl FnMut(&Unacked)) -> bool {
        let count = if tag == 0 {
            self.entries.len()
        } else {
            match self.position(tag) {
                Some(at) if self.entries[at].outstanding => at + 1,
                _ => return false,
            }
        };
        for entry in self.entries.drain(..count) {
            if entry.outstanding {
                self.outstanding -= 1;
                each(&entry);
            }
        }
        self.drop_dead_front();
        true
    }

    /// Puts messages back that were taken (a transaction rolled back). `restored` is in any order.
    pub(super) fn restore(&mut self, restored: impl Iterator<Item = Unacked>) {
        self.entries.retain(|entry| entry.outstanding);
        self.entries.extend(restored.map(|entry| Unacked {
            outstanding: true,
            ..entry
        }));
        self.entries
            .make_contiguous()
            .sort_unstable_by_key(|e| e.tag);
        self.outstanding = self.entries.len();
    }

    /// Gives spare memory back.
    pub(super) fn trim(&mut self) {
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    #[inline]
    fn position(&self, tag: u64) -> Option<usize> {
        let front = self.entries.front()?;
        // Without gaps between the tags the place can be computed.
        let guess = usize::try_from(tag.checked_sub(front.tag)?).ok()?;
        if self.entries.get(guess).is_some_and(|e| e.tag == tag) {
            return Some(guess);
        }
        self.entries.binary_search_by_key(&tag, |e| e.tag).ok()
    }

    fn drop_dead_front(&mut self) {
        while self.entries.front().is_some_and(|e| !e.outstanding) {
            self.entries.pop_front();
        }
    }

    fn compact(&mut self) {
        if self.entries.len() > COMPACT_FROM && self.outstanding * 2 < self.entries.len() {
            self.entries.retain(|entry| entry.outstanding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(tags: impl IntoIterator<Item = u64>) -> UnackedTable {
        let mut table = UnackedTable::default();
        for tag in tags {
            table.push(tag, 1, MessageId(tag * 10));
        }
        table
    }

    fn through(table: &mut UnackedTable, tag: u64) -> Option<Vec<u64>> {
        let mut taken = Vec::new();
        table
            .take_through(tag, |entry| taken.push(entry.tag))
            .then_some(taken)
    }

    #[test]
    fn tags_are_taken_once_in_any_order() {
        let mut table = table([1, 2, 3, 5, 8]);
        assert_eq!(table.take(3).map(|e| e.message), Some(MessageId(30)));
        assert_eq!(table.take(3), None);
        assert_eq!(table.take(4), None);
        assert_eq!(table.take(9), None);
        assert_eq!(table.take(0), None);
        assert_eq!(through(&mut table, 4), None);
        assert_eq!(through(&mut table, 3), None);
        assert_eq!(through(&mut table, 5), Some(vec![1, 2, 5]));
        assert_eq!(table.len(), 1);
        assert_eq!(through(&mut table, 0), Some(vec![8]));
        assert_eq!(through(&mut table, 0), Some(vec![]));
        assert_eq!(through(&mut table, 8), None);
    }

    #[test]
    fn what_was_taken_can_come_back() {
        let mut table = table(1..=4);
        let mut taken = Vec::new();
        table.take_through(2, |entry| taken.push(*entry));
        taken.extend(table.take(4));
        table.restore(taken.into_iter().rev());
        assert_eq!(table.len(), 4);
        assert_eq!(through(&mut table, 0), Some(vec![1, 2, 3, 4]));
    }

    #[test]
    fn one_old_message_does_not_keep_the_settled_ones() {
        let mut table = table([1]);
        for tag in 2..10_000 {
            table.push(tag, 1, MessageId(tag));
            assert!(table.take(tag).is_some());
            assert!(table.entries.len() <= COMPACT_FROM + 1);
        }
        assert_eq!(table.len(), 1);
    }
}
