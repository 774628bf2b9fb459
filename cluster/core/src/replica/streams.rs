//! A stream of things between a leader and a node, whole and in order, over a way that loses some.
//!
//! Always holds:
//! - numbers ascend from 1 without gaps;
//! - what the other end has not said it has is kept, and can be sent again.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::ids::{Instant, Seq};

/// What had no answer is sent again after this.
const AGAIN_MILLIS: u64 = 1_000;

/// The sending end.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    /// The last number that was given.
    last: Seq,
    unacked: VecDeque<Vec<Bytes>>,
    sent_at: Instant,
}

/// The receiving end.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    /// The last one that came, in order.
    pub(crate) got: Seq,
    /// The last one that the other end was told has come.
    told: Seq,
    /// One came that does not follow it.
    gap: bool,
}

impl Sender {
    /// Takes the next thing and gives its number.
    pub(crate) fn push(&mut self, bytes: Vec<Bytes>, now: Instant) -> Seq {
        if self.unacked.is_empty() {
            self.sent_at = now;
        }
        self.last.0 += 1;
        self.unacked.push_back(bytes);
        self.last
    }

    /// The other end has all up to this one.
    pub(crate) fn acked(&mut self, upto: Seq, now: Instant) {
        let first = self.first().0;
        let count = upto.0.saturating_add(1).saturating_sub(first);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > 0 {
            self.unacked.drain(..count.min(self.unacked.len()));
            self.sent_at = now;
        }
    }

    /// All that the other end may not have.
    pub(crate) fn again(&mut self, now: Instant) -> Vec<(Seq, Vec<Bytes>)> {
        self.sent_at = now;
        let first = self.first().0;
        (first..)
            .map(Seq)
            .zip(self.unacked.iter().cloned())
            .collect()
    }

    /// The first number that the other end may not have.
    pub(crate) fn first(&self) -> Seq {
        Seq(self.last.0 + 1 - self.unacked.len() as u64)
    }

    /// How many things the other end may not have.
    pub(crate) fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// Whether something waits too long for its answer.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        !self.unacked.is_empty() && self.sent_at.plus_millis(AGAIN_MILLIS) <= now
    }
}

impl Receiver {
    /// Whether the thing with this number is the next one; else it is dropped.
    pub(crate) fn take(&mut self, seq: Seq) -> bool {
        let next = seq.0 == self.got.0 + 1;
        if next {
            self.got = seq;
        } else {
            self.gap |= seq > self.got;
            // It is told again what has come: the word of it may have been lost.
            self.told = Seq(0);
        }
        next
    }

    /// What the other end is to be told: what has come, and whether all behind it is to be sent
    /// again.
    pub(crate) fn news(&mut self) -> Option<(Seq, bool)> {
        if self.told == self.got && !self.gap {
            return None;
        }
        self.told = self.got;
        Some((self.got, std::mem::take(&mut self.gap)))
    }

    /// It was told by something that went its way in any case.
    pub(crate) fn told(&mut self) -> Seq {
        if !self.gap {
            self.told = self.got;
        }
        self.got
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(text: &'static str) -> Vec<Bytes> {
        vec![Bytes::from_static(text.as_bytes())]
    }

    #[test]
    fn what_is_not_acknowledged_can_be_sent_again() {
        let mut sender = Sender::default();
        let now = Instant(0);
        for (number, text) in ["a", "b", "c"].into_iter().enumerate() {
            assert_eq!(sender.push(thing(text), now), Seq(number as u64 + 1));
        }
        assert!(!sender.is_overdue(now));
        assert!(sender.is_overdue(now.plus_millis(AGAIN_MILLIS)));
        sender.acked(Seq(1), now);
        let again = [(Seq(2), thing("b")), (Seq(3), thing("c"))];
        assert_eq!(sender.again(now), again);
        sender.acked(Seq(1), now);
        sender.acked(Seq(u64::MAX), now);
        assert!(sender.again(now).is_empty());
        assert_eq!(sender.push(thing("d"), now), Seq(4));
    }

    #[test]
    fn what_does_not_follow_is_dropped_and_asked_for() {
        let mut receiver = Receiver::default();
        assert!(receiver.take(Seq(1)));
        assert_eq!(receiver.news(), Some((Seq(1), false)));
        assert_eq!(receiver.news(), None);
        assert!(!receiver.take(Seq(3)));
        assert_eq!(receiver.news(), Some((Seq(1), true)));
        assert!(receiver.take(Seq(2)));
        assert!(!receiver.take(Seq(2)), "twice");
        assert_eq!(receiver.news(), Some((Seq(2), false)));
    }
}
