//! What a publisher has sent and the broker has not confirmed.
//!
//! Invariants:
//! - tags count from 1 on each connection, in the order in which messages were encoded;
//! - a message leaves once: confirmed, refused, or taken back when the connection is lost.

use std::collections::VecDeque;

use super::stamp::Stamp;

/// How many confirmed messages may lie behind an unconfirmed one, in windows: brokers confirm out
/// of order, and the memory for it is bounded.
const WINDOWS_KEPT: usize = 64;

#[derive(Debug)]
pub(super) struct Confirms {
    /// The messages from `first_tag` on; `None` for those that are done.
    waiting: VecDeque<Option<Stamp>>,
    first_tag: u64,
    outstanding: usize,
    window: usize,
}

impl Confirms {
    pub(super) fn new(window: usize) -> Self {
        Self {
            waiting: VecDeque::with_capacity(window + 1),
            first_tag: 1,
            outstanding: 0,
            window,
        }
    }

    /// Whether another message may be sent.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.outstanding < self.window && self.waiting.len() < self.window * WINDOWS_KEPT
    }

    pub(super) const fn outstanding(&self) -> usize {
        self.outstanding
    }

    #[inline]
    pub(super) fn sent(&mut self, stamp: Stamp) {
        self.waiting.push_back(Some(stamp));
        self.outstanding += 1;
    }

    /// The broker has spoken on `tag`, with `multiple` on all up to it (0: on all). Unknown tags
    /// are passed over.
    pub(super) fn settle(&mut self, tag: u64, multiple: bool, mut done: impl FnMut(Stamp)) {
        let last = match (tag, multiple) {
            (0, true) => self.waiting.len(),
            _ => match (tag + 1).checked_sub(self.first_tag) {
                Some(count) if count > 0 && count <= self.waiting.len() as u64 => count as usize,
                _ => return,
            },
        };
        let first = if multiple { 0 } else { last - 1 };
        for stamp in self.waiting.range_mut(first..last).filter_map(Option::take) {
            self.outstanding -= 1;
            done(stamp);
        }
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            self.first_tag += 1;
        }
    }

    /// The connection is lost: gives what was outstanding, in order, and begins again at tag 1.
    pub(super) fn take_back(&mut self) -> impl Iterator<Item = Stamp> {
        self.outstanding = 0;
        self.first_tag = 1;
        self.waiting.drain(..).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_sent(count: u64) -> Confirms {
        let mut confirms = Confirms::new(4);
        for sequence in 0..count {
            confirms.sent(stamp(sequence));
        }
        confirms
    }

    fn stamp(sequence: u64) -> Stamp {
        Stamp {
            resent: false,
            stream: 0,
            sequence,
            due_ns: 0,
        }
    }

    /// The sequence numbers that are done.
    fn settle(confirms: &mut Confirms, tag: u64, multiple: bool) -> Vec<u64> {
        let mut done = Vec::new();
        confirms.settle(tag, multiple, |stamp| done.push(stamp.sequence));
        done
    }

    #[test]
    fn one_by_one_and_in_any_order() {
        let mut confirms = with_sent(4);
        assert!(!confirms.has_room());
        assert_eq!(settle(&mut confirms, 3, false), [2]);
        assert_eq!(settle(&mut confirms, 3, false), [0; 0], "once");
        assert!(confirms.has_room());
        assert_eq!(settle(&mut confirms, 1, false), [0]);
        assert_eq!(settle(&mut confirms, 4, true), [1, 3]);
        assert_eq!((confirms.outstanding(), confirms.waiting.len()), (0, 0));
        confirms.sent(stamp(9));
        assert_eq!(settle(&mut confirms, 5, false), [9]);
    }

    #[test]
    fn all_and_unknown() {
        let mut confirms = with_sent(3);
        assert_eq!(settle(&mut confirms, 4, false), [0; 0], "not sent yet");
        assert_eq!(settle(&mut confirms, 0, false), [0; 0]);
        assert_eq!(settle(&mut confirms, 0, true), [0, 1, 2]);
        assert_eq!(settle(&mut confirms, 2, true), [0; 0], "long done");
    }

    #[test]
    fn a_lost_connection_gives_back_what_was_outstanding() {
        let mut confirms = with_sent(4);
        settle(&mut confirms, 2, false);
        let back: Vec<u64> = confirms.take_back().map(|stamp| stamp.sequence).collect();
        assert_eq!(back, [0, 2, 3]);
        confirms.sent(stamp(0));
        assert_eq!(settle(&mut confirms, 1, false), [0]);
    }
}
