//! Publisher confirms of one channel: which publishes still have no answer, and how to say it in
//! few frames.
//!
//! Invariants:
//! - every publish is answered exactly once, by an ack if all its destinations have it (or it had
//!   none), by a nack if any refused it;
//! - `multiple` is only used for an ack of which all earlier publishes have been answered;
//! - nothing waits for an earlier publish: what cannot be folded is answered one by one.

use std::collections::BTreeMap;

use bytes::BytesMut;
use warren_protocol::hot;

/// Publishes `first..end` of a channel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) end: u64,
}

/// A publish with destinations in several batches.
#[derive(Clone, Copy, Debug)]
struct Spread {
    batches_left: u32,
    refused: bool,
}

/// The confirm mode of a channel.
#[derive(Debug)]
pub(super) struct Confirms {
    /// The number of the next publish; the first is 1.
    next: u64,
    /// Every publish below this one has been answered.
    low: u64,
    /// Answered publishes from `low` on: disjoint, ascending, none touches `low` or another.
    answered: Vec<Range>,
    /// Outcomes that are not told yet.
    acks: Vec<Range>,
    nacks: Vec<Range>,
    spread: BTreeMap<u64, Spread>,
}

impl Default for Confirms {
    fn default() -> Self {
        Self {
            next: 1,
            low: 1,
            answered: Vec::new(),
            acks: Vec::new(),
            nacks: Vec::new(),
            spread: BTreeMap::new(),
        }
    }
}

impl Confirms {
    /// The number of a new publish.
    #[inline]
    pub(super) fn issue(&mut self) -> u64 {
        let seq = self.next;
        self.next += 1;
        seq
    }

    /// Publishes without an answer.
    pub(super) fn unconfirmed(&self) -> u64 {
        let answered: u64 = self.answered.iter().map(|r| r.end - r.first).sum();
        self.next - self.low - answered
    }

    /// The publish `seq` went into this many batches, more than one.
    pub(super) fn spread(&mut self, seq: u64, batches: u32) {
        let spread = Spread {
            batches_left: batches,
            refused: false,
        };
        self.spread.insert(seq, spread);
    }

    /// One of the batches of a spread publish has its outcome.
    pub(super) fn settle_spread(&mut self, seq: u64, refused: bool) {
        let Some(spread) = self.spread.get_mut(&seq) else {
            return;
        };
        spread.batches_left -= 1;
        spread.refused |= refused;
        if spread.batches_left == 0 {
            let refused = spread.refused;
            self.spread.remove(&seq);
            let end = seq + 1;
            self.settle(Range { first: seq, end }, refused);
        }
    }

    /// Publishes have their outcome; it is told by [`Confirms::flush`].
    #[inline]
    pub(super) fn settle(&mut self, range: Range, refused: bool) {
        let list = if refused {
            &mut self.nacks
        } else {
            &mut self.acks
        };
        match list.last_mut() {
            Some(last) if last.end == range.first => last.end = range.end,
            _ => list.push(range),
        }
    }

    /// Whether [`Confirms::flush`] has something to say.
    pub(super) fn is_dirty(&self) -> bool {
        !self.acks.is_empty() || !self.nacks.is_empty()
    }

    /// Writes what is known.
    pub(super) fn flush(&mut self, channel: u16, out: &mut BytesMut) {
        for at in 0..self.nacks.len() {
            let range = self.nacks[at];
            for seq in range.first..range.end {
                hot::encode_nack(out, channel, seq, false, false);
            }
            self.answer(range);
        }
        self.nacks.clear();
        self.acks.sort_unstable();
        for at in 0..self.acks.len() {
            let range = self.acks[at];
            self.answer(range);
            if range.end <= self.low {
                // Ranges that have come together are told by the last of them.
                let next = self.acks.get(at + 1);
                if next.is_none_or(|next| next.first != range.end) {
                    let multiple = at > 0 || range.end - range.first > 1;
                    hot::encode_ack(out, channel, range.end - 1, multiple);
                }
            } else {
                for seq in range.first..range.end {
                    hot::encode_ack(out, channel, seq, false);
                }
            }
        }
        self.acks.clear();
    }

    /// Notes that the range is answered and moves `low` as far as it goes.
    fn answer(&mut self, range: Range) {
        if range.first == self.low {
            self.low = range.end;
            let mut joined = 0;
            while let Some(next) = self.answered.get(joined) {
                if next.first != self.low {
                    break;
                }
                self.low = next.end;
                joined += 1;
            }
            self.answered.drain(..joined);
            return;
        }
        let at = self.answered.partition_point(|r| r.first < range.first);
        let touches_before = at > 0 && self.answered[at - 1].end == range.first;
        let touches_after = self.answered.get(at).is_some_and(|r| r.first == range.end);
        match (touches_before, touches_after) {
            (true, true) => {
                self.answered[at - 1].end = self.answered[at].end;
                self.answered.remove(at);
            }
            (true, false) => self.answered[at - 1].end = range.end,
            (false, true) => self.answered[at].first = range.first,
            (false, false) => self.answered.insert(at, range),
        }
    }
}

#[cfg(test)]
mod tests {
    use warren_protocol::hot::Hot;
    use warren_protocol::methods::{BasicAck, BasicNack};
    use warren_protocol::{Method, frame};

    use super::*;

    fn said(confirms: &mut Confirms) -> String {
        let mut out = BytesMut::new();
        confirms.flush(7, &mut out);
        let mut text = String::new();
        let mut rest = &out[..];
        while let Ok(Some((frame, used))) = frame::parse(rest, 4096) {
            assert_eq!(frame.channel, 7);
            match Method::parse(frame.payload) {
                Ok(Method::BasicAck(BasicAck {
                    delivery_tag,
                    multiple,
                })) => text += &format!("a{delivery_tag}{} ", if multiple { "*" } else { "" }),
                Ok(Method::BasicNack(BasicNack { delivery_tag, .. })) => {
                    text += &format!("n{delivery_tag} ");
                }
                other => panic!(
                    "{other:?} {:?}",
                    hot::parse(frame.payload).map(|_: Hot<'_>| ())
                ),
            }
            rest = &rest[used..];
        }
        text.trim_end().to_owned()
    }

    fn issued(count: u64) -> Confirms {
        let mut confirms = Confirms::default();
        for seq in 1..=count {
            assert_eq!(confirms.issue(), seq);
        }
        confirms
    }

    fn range(first: u64, end: u64) -> Range {
        Range { first, end }
    }

    #[test]
    fn runs_become_one_ack() {
        let mut confirms = issued(10);
        confirms.settle(range(1, 2), false);
        assert_eq!(said(&mut confirms), "a1");
        confirms.settle(range(2, 6), false);
        assert_eq!(said(&mut confirms), "a5*");
        assert_eq!(confirms.unconfirmed(), 5);
        // Out of order within a turn, together without a gap.
        confirms.settle(range(8, 11), false);
        confirms.settle(range(6, 8), false);
        assert_eq!(said(&mut confirms), "a10*");
        assert_eq!(confirms.unconfirmed(), 0);
        assert!(!confirms.is_dirty());
    }

    #[test]
    fn behind_a_gap_each_is_told_alone_and_once() {
        let mut confirms = issued(8);
        confirms.settle(range(3, 5), false);
        assert_eq!(said(&mut confirms), "a3 a4");
        confirms.settle(range(7, 8), false);
        confirms.settle(range(5, 6), true);
        assert_eq!(said(&mut confirms), "n5 a7");
        assert_eq!(confirms.unconfirmed(), 4);
        confirms.settle(range(1, 3), false);
        assert_eq!(said(&mut confirms), "a2*");
        confirms.settle(range(6, 7), false);
        assert_eq!(said(&mut confirms), "a6");
        confirms.settle(range(8, 9), false);
        assert_eq!(said(&mut confirms), "a8");
        assert_eq!(confirms.unconfirmed(), 0);
    }

    #[test]
    fn a_spread_publish_is_the_sum_of_its_batches() {
        let mut confirms = issued(2);
        confirms.spread(1, 2);
        confirms.spread(2, 3);
        confirms.settle_spread(1, false);
        assert_eq!(said(&mut confirms), "");
        confirms.settle_spread(2, true);
        confirms.settle_spread(1, false);
        assert_eq!(said(&mut confirms), "a1");
        confirms.settle_spread(2, false);
        confirms.settle_spread(2, false);
        assert_eq!(said(&mut confirms), "n2");
    }
}
