//! Whether what a queue hands out is what was published: nothing lost, doubled, out of order or
//! never sent.
//!
//! Invariants:
//! - judged per queue and stream (a producer and one of its routing keys), by sequence number;
//! - a message counts once as seen, whoever of the queue's consumers got it;
//! - the broker may hand out again what it marks as redelivered, and may hold twice what was sent
//!   again over a new connection: both are counted apart;
//! - memory: a bit a message between the oldest not seen and the newest seen, and an entry for
//!   each that was sent again.

use std::collections::{BTreeSet, VecDeque};

use serde::Serialize;

use super::stamp::Stamp;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Findings {
    /// Confirmed (or sent, without confirms), and not received.
    pub(super) lost: u64,
    /// Received twice, and neither marked as redelivered nor sent twice.
    pub(super) duplicated: u64,
    /// Received twice because it was sent again over a new connection.
    pub(super) duplicated_by_resend: u64,
    /// Received again, marked as redelivered.
    pub(super) duplicated_by_redelivery: u64,
    /// First received behind a later one of its stream, by the same consumer, without a mark.
    pub(super) reordered: u64,
    /// The same for messages that were sent again over a new connection.
    pub(super) reordered_by_resend: u64,
    /// Received, but never sent.
    pub(super) ghosts: u64,
}

impl Findings {
    /// Whether all is as it must be.
    pub(super) const fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.reordered == 0 && self.ghosts == 0
    }

    pub(super) const fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.duplicated_by_resend += other.duplicated_by_resend;
        self.duplicated_by_redelivery += other.duplicated_by_redelivery;
        self.reordered += other.reordered;
        self.reordered_by_resend += other.reordered_by_resend;
        self.ghosts += other.ghosts;
    }
}

/// What a publisher says of a stream in the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    /// Sequence numbers below this were sent.
    pub(super) count: u64,
    /// Those of them of which the broker did not take charge; sorted.
    pub(super) unconfirmed: Vec<u64>,
}

/// What was seen of one queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Sorted by stream.
    streams: Vec<(u32, Stream)>,
    /// Where the last message's stream was.
    last: usize,
    findings: Findings,
}

#[derive(Debug, Default)]
struct Stream {
    /// All below were seen.
    base: u64,
    /// One bit for each from `base` on.
    seen: VecDeque<u64>,
    /// The highest first delivery of each consumer.
    highest: Vec<(u32, u64)>,
    /// Those of which the copy that was sent again came first.
    resent: BTreeSet<u64>,
}

impl Queue {
    /// A message has arrived at `consumer`; true when it was not seen before.
    pub(super) fn received(&mut self, consumer: u32, stamp: &Stamp, redelivered: bool) -> bool {
        let at = match self.streams.get(self.last) {
            Some((stream, _)) if *stream == stamp.stream => self.last,
            _ => self.find(stamp.stream),
        };
        self.last = at;
        let stream = &mut self.streams[at].1;
        let findings = &mut self.findings;
        if !stream.see(stamp.sequence) {
            let sent_twice = stamp.resent || stream.resent.contains(&stamp.sequence);
            match (redelivered, sent_twice) {
                (true, _) => findings.duplicated_by_redelivery += 1,
                (false, true) => findings.duplicated_by_resend += 1,
                (false, false) => findings.duplicated += 1,
            }
            return false;
        }
        if stamp.resent {
            stream.resent.insert(stamp.sequence);
        }
        let in_order = stream.is_in_order(consumer, stamp.sequence);
        match (in_order || redelivered, stamp.resent) {
            (true, _) => {}
            (false, true) => findings.reordered_by_resend += 1,
            (false, false) => findings.reordered += 1,
        }
        true
    }

    fn find(&mut self, stream: u32) -> usize {
        match self
            .streams
            .binary_search_by_key(&stream, |(stream, _)| *stream)
        {
            Ok(at) => at,
            Err(at) => {
                self.streams.insert(at, (stream, Stream::default()));
                at
            }
        }
    }

    /// The verdict: `sent` gives of each stream that leads to this queue what was sent.
    pub(super) fn judge<'a>(&self, sent: impl Iterator<Item = (u32, &'a Sent)>) -> Findings {
        let mut findings = self.findings;
        let mut known = 0;
        let nothing = Stream::default();
        for (number, sent) in sent {
            let found = self
                .streams
                .binary_search_by_key(&number, |(stream, _)| *stream);
            known += usize::from(found.is_ok());
            let stream = found.map_or(&nothing, |at| &self.streams[at].1);
            let unconfirmed = |at: u64| sent.unconfirmed.binary_search(&at).is_ok();
            let missing = (stream.base..sent.count).filter(|at| !stream.has(*at));
            findings.lost += missing.filter(|at| !unconfirmed(*at)).count() as u64;
            findings.ghosts += stream.seen_from(sent.count);
        }
        if known < self.streams.len() {
            // Of a stream that does not lead here; which one does not matter.
            findings.ghosts += (self.streams.len() - known) as u64;
        }
        findings
    }
}

impl Stream {
    /// Marks it; false when it was marked before.
    #[inline]
    fn see(&mut self, sequence: u64) -> bool {
        let Some(bit) = sequence.checked_sub(self.base) else {
            return false;
        };
        if bit == 0 && self.seen.is_empty() {
            self.base += 1;
            return true;
        }
        self.see_ahead(bit)
    }

    fn see_ahead(&mut self, bit: u64) -> bool {
        let word = (bit / 64) as usize;
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let mask = 1 << (bit % 64);
        if self.seen[word] & mask != 0 {
            return false;
        }
        self.seen[word] |= mask;
        while self.seen.front() == Some(&u64::MAX) {
            self.seen.pop_front();
            self.base += 64;
        }
        if let [only] = self.seen.make_contiguous()
            && (*only & (*only + 1)) == 0
        {
            // No gap: back to the cheap way.
            self.base += u64::from(only.trailing_ones());
            self.seen.clear();
        }
        true
    }

    fn has(&self, sequence: u64) -> bool {
        let Some(bit) = sequence.checked_sub(self.base) else {
            return true;
        };
        let word = self.seen.get((bit / 64) as usize).copied().unwrap_or(0);
        word >> (bit % 64) & 1 != 0
    }

    /// How many were seen from `first` on.
    fn seen_from(&self, first: u64) -> u64 {
        let ahead = self.base.saturating_sub(first);
        let end = self.base + self.seen.len() as u64 * 64;
        let set = (first.max(self.base)..end)
            .filter(|at| self.has(*at))
            .count();
        ahead + set as u64
    }

    fn is_in_order(&mut self, consumer: u32, sequence: u64) -> bool {
        match self
            .highest
            .iter_mut()
            .find(|(known, _)| *known == consumer)
        {
            Some((_, highest)) if sequence < *highest => false,
            Some((_, highest)) => {
                *highest = sequence;
                true
            }
            None => {
                self.highest.push((consumer, sequence));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u64) -> Stamp {
        Stamp {
            resent: false,
            stream: 5,
            sequence,
            due_ns: 0,
        }
    }

    /// What is found when these arrive, each as (consumer, sequence), of 10 confirmed ones.
    fn find(arrivals: &[(u32, u64)]) -> Findings {
        let mut queue = Queue::default();
        for (consumer, sequence) in arrivals {
            queue.received(*consumer, &stamp(*sequence), false);
        }
        judge(&queue, 10, &[])
    }

    fn judge(queue: &Queue, count: u64, unconfirmed: &[u64]) -> Findings {
        let sent = Sent {
            count,
            unconfirmed: unconfirmed.to_vec(),
        };
        queue.judge(std::iter::once((5, &sent)))
    }

    #[test]
    fn all_in_order_is_clean() {
        let arrivals: Vec<_> = (0..10).map(|sequence| (0, sequence)).collect();
        assert_eq!(find(&arrivals), Findings::default());
        let two: Vec<_> = (0..10).map(|at| ((at % 2) as u32, at ^ 1)).collect();
        assert!(
            find(&two).is_clean(),
            "each consumer sees its share in order"
        );
    }

    #[test]
    fn each_fault_is_found() {
        let all_but = |missing: u64| (0..10).filter(move |at| *at != missing).map(|at| (0, at));
        let lost: Vec<_> = all_but(4).collect();
        assert_eq!(
            find(&lost),
            Findings {
                lost: 1,
                ..Findings::default()
            }
        );
        assert_eq!(
            find(&[]),
            Findings {
                lost: 10,
                ..Findings::default()
            }
        );
        let doubled: Vec<_> = (0..10).chain([3, 3]).map(|at| (0, at)).collect();
        assert_eq!(
            find(&doubled),
            Findings {
                duplicated: 2,
                ..Findings::default()
            }
        );
        let late: Vec<_> = all_but(4).chain([(0, 4)]).collect();
        assert_eq!(
            find(&late),
            Findings {
                reordered: 1,
                ..Findings::default()
            }
        );
        let ghosts: Vec<_> = (0..12).map(|at| (0, at)).collect();
        assert_eq!(
            find(&ghosts),
            Findings {
                ghosts: 2,
                ..Findings::default()
            }
        );
        let far: Vec<_> = (0..10).chain([700]).map(|at| (0, at)).collect();
        assert_eq!(
            find(&far),
            Findings {
                ghosts: 1,
                ..Findings::default()
            }
        );
    }

    #[test]
    fn unconfirmed_may_be_missing() {
        let mut queue = Queue::default();
        for sequence in [0, 1, 3] {
            queue.received(0, &stamp(sequence), false);
        }
        assert_eq!(judge(&queue, 6, &[2, 4, 5]), Findings::default());
        assert_eq!(judge(&queue, 6, &[2, 4]).lost, 1);
    }

    #[test]
    fn redelivered_and_resent_are_counted_apart() {
        let mut queue = Queue::default();
        for sequence in 0..4 {
            assert!(queue.received(0, &stamp(sequence), false));
        }
        assert!(!queue.received(0, &stamp(2), true));
        let again = Stamp {
            resent: true,
            ..stamp(3)
        };
        assert!(!queue.received(0, &again, false));
        assert!(queue.received(0, &stamp(6), false));
        assert!(
            queue.received(0, &stamp(5), true),
            "first seen when redelivered"
        );
        let late = Stamp {
            resent: true,
            ..stamp(4)
        };
        assert!(queue.received(0, &late, false));
        let expected = Findings {
            duplicated_by_redelivery: 1,
            duplicated_by_resend: 1,
            reordered_by_resend: 1,
            ..Findings::default()
        };
        assert_eq!(judge(&queue, 7, &[]), expected);
    }

    #[test]
    fn of_two_copies_either_may_come_first() {
        let mut queue = Queue::default();
        let again = Stamp {
            resent: true,
            ..stamp(0)
        };
        assert!(queue.received(0, &again, false));
        assert!(
            !queue.received(1, &stamp(0), false),
            "the first copy, by another consumer"
        );
        let expected = Findings {
            duplicated_by_resend: 1,
            ..Findings::default()
        };
        assert_eq!(judge(&queue, 1, &[]), expected);
    }

    #[test]
    fn memory_goes_when_gaps_close() {
        let mut stream = Stream::default();
        assert!((1..1000).all(|sequence| stream.see(sequence)));
        assert_eq!(
            (stream.base, stream.has(0), stream.has(999)),
            (0, false, true)
        );
        assert!(stream.see(0));
        assert!(!stream.see(500));
        assert_eq!((stream.base, stream.seen.len()), (1000, 0));
    }
}
