//! Groups the publishes of a session by shard and follows their batches until they have an outcome.
//!
//! Invariants:
//! - at most one batch a shard is open, and only while its session takes its turn;
//! - batches are numbered in the order in which they were begun; one shard gets its batches in that
//!   order;
//! - a batch that is handed over is in flight until its outcome comes, in whatever order they come.

use std::collections::VecDeque;

use bytes::BytesMut;
use warren_cluster_core::batch::Batch;
use warren_cluster_core::ids::ShardId;

use crate::dispatch::work::{Item, Work};

/// A batch is handed over when it holds this many bytes.
const BATCH_BYTES: usize = 512 * 1024;

/// What a publish costs in flight beside its bytes.
const COMMAND_BYTES: usize = 32;

/// Publishes of one channel that went into one batch, by their confirm numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfirmRun {
    pub channel: u16,
    /// The channel's incarnation: a number that is closed and opened again is another channel.
    pub incarnation: u32,
    pub first: u64,
    pub count: u32,
    /// The one publish of this run is in other batches too.
    pub spread: bool,
}

/// A batch without an outcome.
#[derive(Debug)]
struct Flight {
    bytes: usize,
    done: bool,
    runs: Vec<ConfirmRun>,
}

#[derive(Debug)]
struct Open {
    shard: ShardId,
    number: u64,
    batch: Batch,
}

/// The batches of a session.
#[derive(Debug, Default)]
pub struct Publisher {
    open: Vec<Open>,
    /// Batches from `first_number` on, open ones included.
    flights: VecDeque<Flight>,
    first_number: u64,
    bytes_in_flight: usize,
    /// How many bytes of commands the rest of the turn may come to.
    room_hint: usize,
}

impl Publisher {
    /// A turn begins with so many bytes to read: a good guess at what the batches need.
    #[inline]
    pub fn begin(&mut self, input_bytes: usize) {
        self.room_hint = input_bytes.min(BATCH_BYTES);
    }

    /// Appends one command for the shard, written by `write`, and gives the number of its batch.
    #[inline]
    pub fn push(
        &mut self,
        shard: ShardId,
        run: Option<ConfirmRun>,
        work: &mut Work,
        write: impl FnOnce(&mut BytesMut),
    ) -> u64 {
        let at = match self.open.iter().position(|open| open.shard == shard) {
            Some(at) => at,
            None => self.begin_batch(shard),
        };
        let open = &mut self.open[at];
        let number = open.number;
        let before = open.batch.len();
        open.batch.push(write);
        let bytes = open.batch.len() - before + COMMAND_BYTES;
        let full = open.batch.len() >= BATCH_BYTES;
        let flight = &mut self.flights[(number - self.first_number) as usize];
        flight.bytes += bytes;
        self.bytes_in_flight += bytes;
        if let Some(run) = run {
            match flight.runs.last_mut() {
                Some(last) if last.joins(&run) => last.count += 1,
                _ => flight.runs.push(run),
            }
        }
        if full {
            let open = self.open.swap_remove(at);
            hand_over(open, work);
        }
        number
    }

    fn begin_batch(&mut self, shard: ShardId) -> usize {
        let number = self.first_number + self.flights.len() as u64;
        // The first shard of a turn most likely gets all of it.
        let room = if self.open.is_empty() {
            self.room_hint
        } else {
            self.room_hint.min(1024)
        };
        self.flights.push_back(Flight {
            bytes: 0,
            done: false,
            runs: Vec::new(),
        });
        self.open.push(Open {
            shard,
            number,
            batch: Batch::new(room),
        });
        self.open.len() - 1
    }

    /// Hands over what is open; at the end of a turn.
    #[inline]
    pub fn flush(&mut self, work: &mut Work) {
        for open in self.open.drain(..) {
            hand_over(open, work);
        }
    }

    /// A batch has its outcome; gives the publishes that waited for it.
    pub fn done(&mut self, number: u64) -> Vec<ConfirmRun> {
        let at = number.checked_sub(self.first_number);
        let at = at.and_then(|at| usize::try_from(at).ok());
        let Some(flight) = at.and_then(|at| self.flights.get_mut(at)) else {
            return Vec::new();
        };
        if flight.done {
            return Vec::new();
        }
        flight.done = true;
        self.bytes_in_flight -= flight.bytes;
        let runs = std::mem::take(&mut flight.runs);
        while self.flights.front().is_some_and(|flight| flight.done) {
            self.flights.pop_front();
            self.first_number += 1;
        }
        runs
    }

    /// Whether every batch up to and including this one has its outcome.
    #[must_use]
    pub fn is_done_through(&self, number: u64) -> bool {
        number < self.first_number
    }

    /// The number of the newest batch, if any is without an outcome.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        let count = self.flights.len() as u64;
        count.checked_sub(1).map(|last| self.first_number + last)
    }

    /// Bytes that are handed over, or about to be, and have no outcome.
    #[must_use]
    pub fn bytes_in_flight(&self) -> usize {
        self.bytes_in_flight
    }

    /// Gives spare memory back when nothing is in flight.
    pub fn trim(&mut self) {
        if self.flights.is_empty() {
            self.flights = VecDeque::new();
            self.open = Vec::new();
        }
    }
}

impl ConfirmRun {
    #[inline]
    fn joins(&self, next: &Self) -> bool {
        self.channel == next.channel
            && self.incarnation == next.incarnation
            && !self.spread
            && !next.spread
            && self.first + u64::from(self.count) == next.first
            && self.count < u32::MAX
    }
}

fn hand_over(open: Open, work: &mut Work) {
    work.items.push(Item::Propose {
        shard: open.shard,
        batch: open.batch,
        number: open.number,
    });
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

    fn run(channel: u16, first: u64) -> ConfirmRun {
        ConfirmRun {
            channel,
            incarnation: 1,
            first,
            count: 1,
            spread: false,
        }
    }

    fn push(publisher: &mut Publisher, work: &mut Work, shard: u32, run: ConfirmRun) -> u64 {
        publisher.push(ShardId(shard), Some(run), work, |out| out.put_slice(b"x"))
    }

    #[test]
    fn one_batch_a_shard_and_runs_of_confirms() {
        let mut publisher = Publisher::default();
        let mut work = Work::default();
        publisher.begin(100);
        for seq in 1..=3 {
            assert_eq!(push(&mut publisher, &mut work, 1, run(1, seq)), 0);
        }
        assert_eq!(push(&mut publisher, &mut work, 2, run(1, 4)), 1);
        assert_eq!(push(&mut publisher, &mut work, 1, run(1, 5)), 0);
        publisher.flush(&mut work);
        let proposed = |item: &Item| match item {
            Item::Propose {
                shard,
                batch,
                number,
            } => (shard.0, batch.commands(), *number),
            other => panic!("{other:?}"),
        };
        let items: Vec<_> = work.items.iter().map(proposed).collect();
        assert_eq!(items, [(1, 4, 0), (2, 1, 1)]);
        assert_eq!(publisher.newest(), Some(1));
        assert_eq!(publisher.done(1), [run(1, 4)]);
        assert!(!publisher.is_done_through(1));
        let first = ConfirmRun {
            count: 3,
            ..run(1, 1)
        };
        assert_eq!(publisher.done(0), [first, run(1, 5)]);
        assert!(publisher.is_done_through(1));
        assert_eq!(publisher.done(0), []);
        assert_eq!(publisher.done(99), []);
        assert_eq!(publisher.bytes_in_flight(), 0);
        assert_eq!(push(&mut publisher, &mut work, 1, run(1, 6)), 2);
    }

    #[test]
    fn a_large_batch_goes_at_once() {
        let mut publisher = Publisher::default();
        let mut work = Work::default();
        for _ in 0..3 {
            publisher.push(ShardId(1), None, &mut work, |out| {
                out.put_bytes(0, BATCH_BYTES);
            });
        }
        assert_eq!(work.items.len(), 3);
        assert!(publisher.bytes_in_flight() > 3 * BATCH_BYTES);
    }
}
