//! A node's numbered stream of batches into one shard: the sender's side (rule 2).
//!
//! Batches wait until the origin is open, are numbered and kept until their outcome is known,
//! and are sent again under their numbers, in order, after a leader was lost or did not answer in
//! time. Nothing here knows where the leader is: [`Origin::next_entry`] gives what it should get
//! next.
//!
//! Always holds:
//! - numbers ascend without gaps, and what is unpaid is in the order of its numbers;
//! - a ticket is given back once, with its outcome;
//! - small batches that wait go into one entry, and share its outcome (where that is allowed);
//! - `bytes` is the sum of what waits and what is unpaid, and stays within its limit.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::batch::{Batch, HEADER_BYTES, Header, Kind};
use crate::ids::{Instant, Life, NodeId, Now, OriginId, Seq, Time};

/// Batches that may wait for their outcome: half of what a shard remembers.
const UNPAID_MAX: usize = crate::origins::UNPAID_MAX / 2;

/// Beyond so many entries on their way, batches wait for others, until they come to so many bytes:
/// what an entry costs on all nodes is more than what a small message does.
const ON_THEIR_WAY: usize = 2;
const COMPANY_BYTES: usize = 32 << 10;
/// Batches are not copied into a larger entry than this.
const MERGED_BYTES_MAX: usize = 64 << 10;

/// How a stream behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    pub node: NodeId,
    pub life: Life,
    /// Bytes of batches that may wait for their outcome; more are refused. Sessions' credit keeps
    /// the sum far below.
    pub unpaid_bytes_limit: usize,
    /// Milliseconds after which a batch without an outcome is sent again; doubled each time.
    pub resend_after_millis: u64,
    /// Batches may share an entry. Not so where each is looked at by itself.
    pub merges: bool,
}

/// Who waits for an entry.
#[derive(Debug)]
pub struct Tickets<T> {
    first: T,
    more: Vec<T>,
}

impl<T> Tickets<T> {
    pub(crate) fn one(first: T) -> Self {
        Self {
            first,
            more: Vec::new(),
        }
    }
}

impl<T> IntoIterator for Tickets<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::iter::Once<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.more)
    }
}

/// One stream. `T` names who waits for a batch.
#[derive(Debug)]
pub struct Origin<T> {
    options: Options,
    state: State,
    /// Not numbered yet: the origin is not open, or they wait for others.
    waiting: VecDeque<(Batch, T)>,
    waiting_bytes: usize,
    unpaid: VecDeque<Unpaid<T>>,
    /// How many of `unpaid` are on their way, and how many bytes those are.
    sent: usize,
    sent_bytes: usize,
    /// The number of the first of `unpaid` (of the next batch when there is none).
    first: Seq,
    bytes: usize,
    /// When the oldest of what is on its way was sent.
    sent_at: Instant,
    /// How often what is on its way was sent again without an answer.
    resends: u32,
    /// The newest of ours that the shard had closed.
    closed: OriginId,
    /// To be opened without a batch.
    wanted: bool,
}

#[derive(Debug)]
struct Unpaid<T> {
    entry: Bytes,
    tickets: Tickets<T>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing was sent: opened by the first batch.
    Closed,
    /// The entry that opens it is on its way.
    Opening,
    Open(OriginId),
}

impl<T: Copy> Origin<T> {
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            state: State::Closed,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            unpaid: VecDeque::new(),
            sent: 0,
            sent_bytes: 0,
            first: Seq(1),
            bytes: 0,
            sent_at: Instant(0),
            resends: 0,
            closed: OriginId(0),
            wanted: false,
        }
    }

    /// Takes a batch; false when too much is unpaid already.
    #[must_use]
    pub fn push(&mut self, batch: Batch, ticket: T, time: Time) -> bool {
        let bytes = batch.len() + HEADER_BYTES;
        let has_some = self.bytes > 0;
        if has_some && self.bytes + bytes > self.options.unpaid_bytes_limit {
            return false;
        }
        if self.unpaid.len() + self.waiting.len() >= UNPAID_MAX {
            return false;
        }
        self.bytes += bytes;
        match self.state {
            State::Open(origin) if !self.options.merges => {
                self.number(origin, batch, Tickets::one(ticket), time);
            }
            _ => {
                self.waiting_bytes += bytes;
                self.waiting.push_back((batch, ticket));
            }
        }
        true
    }

    fn number(&mut self, origin: OriginId, batch: Batch, tickets: Tickets<T>, time: Time) {
        let entry = batch.seal(Header {
            kind: Kind::Numbered,
            commands: 0,
            origin,
            seq: Seq(self.first.0 + self.unpaid.len() as u64),
            paid: self.first,
            time,
        });
        self.unpaid.push_back(Unpaid { entry, tickets });
    }

    /// Numbers what waits, as far as it goes into one entry.
    fn number_waiting(&mut self, origin: OriginId, time: Time) {
        let merges = self.options.merges;
        if merges && self.sent >= ON_THEIR_WAY && self.waiting_bytes < COMPANY_BYTES {
            return;
        }
        let Some((mut batch, first)) = self.waiting.pop_front() else {
            return;
        };
        self.waiting_bytes -= batch.len() + HEADER_BYTES;
        let mut tickets = Tickets::one(first);
        while let Some((next, ticket)) = self
            .waiting
            .pop_front_if(|(next, _)| merges && batch.len() + next.len() <= MERGED_BYTES_MAX)
        {
            self.waiting_bytes -= next.len() + HEADER_BYTES;
            self.bytes -= HEADER_BYTES;
            batch.append(&next);
            tickets.more.push(ticket);
        }
        self.number(origin, batch, tickets, time);
    }

    /// The next entry for the leader, if there is one; it counts as sent. Beyond `window` bytes on
    /// their way there is none. `time`: of an entry that is made now.
    pub fn next_entry(&mut self, now: Now, time: Time, window: usize) -> Option<Bytes> {
        match self.state {
            State::Closed if self.waiting.is_empty() && !self.wanted => None,
            State::Closed => {
                self.state = State::Opening;
                self.sent_at = now.mono;
                Some(self.opening(now.wall))
            }
            State::Opening => None,
            State::Open(origin) => {
                if self.sent == self.unpaid.len() {
                    self.number_waiting(origin, time);
                }
                let entry = self.unpaid.get(self.sent)?.entry.clone();
                if self.sent == 0 {
                    self.sent_at = now.mono;
                } else if self.sent_bytes + entry.len() > window {
                    return None;
                }
                self.sent += 1;
                self.sent_bytes += entry.len();
                Some(entry)
            }
        }
    }

    fn opening(&self, time: Time) -> Bytes {
        Batch::default().seal(Header {
            kind: Kind::Open,
            commands: 0,
            origin: OriginId(self.options.node.0),
            seq: Seq(self.options.life.0),
            paid: Seq(0),
            time,
        })
    }

    /// The shard opened an origin of this node's life `life`. News of an earlier life, or of an
    /// origin that was closed since, are late and mean nothing.
    pub fn opened(&mut self, origin: OriginId, life: Life, time: Time) {
        let open = matches!(self.state, State::Open(_));
        if open || life != self.options.life || origin <= self.closed {
            return;
        }
        self.state = State::Open(origin);
        self.first = Seq(1);
        (self.sent, self.sent_bytes) = (0, 0);
        self.resends = 0;
        while !self.options.merges && !self.waiting.is_empty() {
            self.number_waiting(origin, time);
        }
    }

    /// The outcome of `seq` of `origin` is known: whose batches those were, unless that was told.
    pub fn outcome(&mut self, origin: OriginId, seq: Seq, now: Now) -> Option<Tickets<T>> {
        if self.state != State::Open(origin) || seq != self.first {
            return None;
        }
        let paid = self.unpaid.pop_front()?;
        self.first.0 += 1;
        if self.sent > 0 {
            self.sent -= 1;
            self.sent_bytes -= paid.entry.len();
        }
        self.bytes -= paid.entry.len();
        self.sent_at = now.mono;
        self.resends = 0;
        Some(paid.tickets)
    }

    /// Numbers of `origin` were missing when a later one arrived: if it is ours, all that is
    /// unpaid goes again.
    pub fn gap(&mut self, origin: OriginId) {
        if self.state == State::Open(origin) {
            self.lost();
        }
    }

    /// The shard does not have `origin` open (any more): this node was removed. If it is ours,
    /// what is unpaid of it may have been stored or not and is never sent again; gives those who
    /// wait for it.
    pub fn closed(&mut self, origin: OriginId) -> Vec<T> {
        if self.state != State::Open(origin) {
            return Vec::new();
        }
        self.lost();
        self.state = State::Closed;
        self.closed = origin;
        let unpaid = std::mem::take(&mut self.unpaid);
        self.bytes -= unpaid.iter().map(|it| it.entry.len()).sum::<usize>();
        unpaid.into_iter().flat_map(|it| it.tickets).collect()
    }

    /// Whoever has the shard is gone, with all that it had: gives those who wait, in order.
    pub fn abandon(&mut self) -> Vec<T> {
        (self.bytes, self.waiting_bytes) = (0, 0);
        let unpaid = std::mem::take(&mut self.unpaid).into_iter();
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let unpaid = unpaid.flat_map(|it| it.tickets);
        unpaid.chain(waiting.map(|(_, ticket)| ticket)).collect()
    }

    /// The origin that is open and the first number of it without an outcome.
    #[must_use]
    pub fn standing(&self) -> Option<(OriginId, Seq)> {
        match self.state {
            State::Open(origin) => Some((origin, self.first)),
            State::Closed | State::Opening => None,
        }
    }

    /// Has the origin opened though there is no batch: the shard is to know this node. True when
    /// nobody wanted that yet.
    pub fn want_open(&mut self) -> bool {
        !std::mem::replace(&mut self.wanted, true)
    }

    /// The life that it is opened for.
    #[must_use]
    pub fn life(&self) -> Life {
        self.options.life
    }

    /// Whose stream it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.options.node
    }

    /// The leader is lost, or misses a number: all that is unpaid goes again.
    pub fn lost(&mut self) {
        (self.sent, self.sent_bytes) = (0, 0);
        if self.state == State::Opening {
            self.state = State::Closed;
        }
    }

    /// When [`Self::expire`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let waits = self.sent > 0 || self.state == State::Opening;
        let after = self.options.resend_after_millis << self.resends.min(10);
        waits.then(|| self.sent_at.plus_millis(after))
    }

    /// Sends again what had no answer in time.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.resends += 1;
            self.lost();
        }
    }

    /// Bytes that wait for their outcome.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin<u32> {
        Origin::new(Options {
            node: NodeId(9),
            life: Life(5),
            unpaid_bytes_limit: 200,
            resend_after_millis: 100,
            merges: false,
        })
    }

    fn at(millis: u64) -> Now {
        Now {
            mono: Instant(millis * 1000),
            wall: Time(millis),
        }
    }

    fn batch(text: &[u8]) -> Batch {
        let mut batch = Batch::new(text.len());
        batch.push(|out| out.extend_from_slice(text));
        batch
    }

    fn paid(tickets: Option<Tickets<u32>>) -> Option<Vec<u32>> {
        tickets.map(|tickets| tickets.into_iter().collect())
    }

    fn sent(origin: &mut Origin<u32>, now: Now) -> Vec<(Kind, u64, u64, u64)> {
        let entries = std::iter::from_fn(|| origin.next_entry(now, now.wall, usize::MAX));
        let header = |entry: Bytes| Header::decode(&entry).expect("sealed");
        let short = |it: Header| (it.kind, it.origin.0, it.seq.0, it.paid.0);
        entries.map(header).map(short).collect()
    }

    #[test]
    fn the_first_batch_opens_and_the_rest_is_numbered() {
        let mut origin = origin();
        assert!(origin.push(batch(b"a"), 1, Time(0)));
        assert!(origin.push(batch(b"b"), 2, Time(0)));
        assert_eq!(sent(&mut origin, at(0)), [(Kind::Open, 9, 5, 0)]);
        origin.opened(OriginId(6), Life(4), Time(0));
        assert!(sent(&mut origin, at(0)).is_empty(), "an earlier life's");
        origin.opened(OriginId(7), Life(5), Time(0));
        let both = [(Kind::Numbered, 7, 1, 1), (Kind::Numbered, 7, 2, 1)];
        assert_eq!(sent(&mut origin, at(0)), both);
        assert_eq!(
            paid(origin.outcome(OriginId(7), Seq(1), at(1))),
            Some(vec![1])
        );
        assert_eq!(paid(origin.outcome(OriginId(7), Seq(1), at(1))), None);
        assert_eq!(
            paid(origin.outcome(OriginId(7), Seq(2), at(1))),
            Some(vec![2])
        );
        assert_eq!(origin.bytes(), 0);
        assert!(origin.push(batch(b"c"), 3, Time(0)));
        assert_eq!(sent(&mut origin, at(2)), [(Kind::Numbered, 7, 3, 3)]);
    }

    #[test]
    fn what_has_no_answer_is_sent_again_ever_more_rarely() {
        let mut origin = origin();
        assert_eq!(origin.deadline(), None);
        assert!(origin.push(batch(b"a"), 1, Time(0)));
        let open = [(Kind::Open, 9, 5, 0)];
        assert_eq!(sent(&mut origin, at(0)), open);
        origin.expire(at(99).mono);
        assert!(sent(&mut origin, at(99)).is_empty());
        origin.expire(at(100).mono);
        assert_eq!(sent(&mut origin, at(100)), open);
        assert_eq!(origin.deadline(), Some(at(300).mono));
        origin.opened(OriginId(7), Life(5), Time(0));
        let batch = [(Kind::Numbered, 7, 1, 1)];
        assert_eq!(sent(&mut origin, at(300)), batch);
        origin.lost();
        assert_eq!(sent(&mut origin, at(301)), batch);
    }

    #[test]
    fn a_window_holds_entries_back_but_never_the_first() {
        let mut origin = origin();
        assert!(origin.push(batch(b"a"), 1, Time(0)));
        assert!(origin.push(batch(b"b"), 2, Time(0)));
        sent(&mut origin, at(0));
        origin.opened(OriginId(7), Life(5), Time(0));
        assert!(origin.next_entry(at(0), Time(0), 1).is_some());
        assert_eq!(origin.next_entry(at(0), Time(0), 1), None);
        assert_eq!(
            paid(origin.outcome(OriginId(7), Seq(1), at(1))),
            Some(vec![1])
        );
        assert!(origin.next_entry(at(1), Time(0), 1).is_some());
    }

    #[test]
    fn what_a_closed_origin_left_unpaid_is_never_sent_again() {
        let mut origin = origin();
        assert!(origin.push(batch(b"a"), 1, Time(0)));
        sent(&mut origin, at(0));
        origin.opened(OriginId(7), Life(5), Time(0));
        sent(&mut origin, at(0));
        assert!(origin.closed(OriginId(6)).is_empty(), "not ours");
        assert_eq!(origin.closed(OriginId(7)), [1]);
        assert_eq!(origin.bytes(), 0);
        assert!(origin.push(batch(b"b"), 2, Time(0)));
        assert_eq!(sent(&mut origin, at(1)), [(Kind::Open, 9, 5, 0)]);
        origin.opened(OriginId(7), Life(5), Time(0));
        assert!(sent(&mut origin, at(2)).is_empty(), "late news");
        origin.opened(OriginId(8), Life(5), Time(0));
        assert_eq!(sent(&mut origin, at(2)), [(Kind::Numbered, 8, 1, 1)]);
        origin.opened(OriginId(9), Life(5), Time(0));
        assert_eq!(paid(origin.outcome(OriginId(7), Seq(1), at(3))), None);
        assert_eq!(
            paid(origin.outcome(OriginId(8), Seq(1), at(3))),
            Some(vec![2])
        );
    }

    #[test]
    fn small_batches_that_wait_share_an_entry_and_its_outcome() {
        let mut origin = origin();
        (origin.options.merges, origin.options.unpaid_bytes_limit) = (true, 1 << 20);
        let push = |origin: &mut Origin<u32>, ticket, bytes| {
            assert!(origin.push(batch(&vec![0; bytes]), ticket, Time(0)));
        };
        push(&mut origin, 1, 10);
        push(&mut origin, 2, 10);
        sent(&mut origin, at(0));
        origin.opened(OriginId(7), Life(5), Time(0));
        let entry = |seq| (Kind::Numbered, 7, seq, 1);
        assert_eq!(sent(&mut origin, at(0)), [entry(1)]);
        assert_eq!(origin.bytes(), 20 + HEADER_BYTES);
        push(&mut origin, 3, 10);
        assert_eq!(sent(&mut origin, at(0)), [entry(2)]);
        // With two on their way the rest waits for company, and large ones come alone.
        push(&mut origin, 4, 10);
        push(&mut origin, 5, 10);
        assert_eq!(sent(&mut origin, at(0)), []);
        push(&mut origin, 6, 65_530);
        push(&mut origin, 7, 10);
        assert_eq!(sent(&mut origin, at(0)), [entry(3), entry(4)]);
        assert_eq!(sent(&mut origin, at(0)), []);
        // What is sent again is what was sent.
        origin.lost();
        let again = [entry(1), entry(2), entry(3), entry(4)];
        assert_eq!(sent(&mut origin, at(0)), again);
        for (seq, tickets) in [(1, vec![1, 2]), (2, vec![3]), (3, vec![4, 5])] {
            let outcome = origin.outcome(OriginId(7), Seq(seq), at(1));
            assert_eq!(paid(outcome), Some(tickets));
        }
        assert_eq!(sent(&mut origin, at(1)), [(Kind::Numbered, 7, 5, 4)]);
        let outcome = origin.outcome(OriginId(7), Seq(4), at(1));
        assert_eq!(paid(outcome), Some(vec![6]));
        push(&mut origin, 8, 10);
        assert_eq!(origin.abandon(), [7, 8]);
        assert_eq!((origin.bytes(), origin.waiting_bytes), (0, 0));
    }

    #[test]
    fn too_much_unpaid_is_refused_but_one_batch_always_fits() {
        let mut origin = origin();
        assert!(origin.push(batch(&[0; 500]), 1, Time(0)));
        assert!(!origin.push(batch(b"b"), 2, Time(0)));
        sent(&mut origin, at(0));
        origin.opened(OriginId(7), Life(5), Time(0));
        assert_eq!(
            paid(origin.outcome(OriginId(7), Seq(1), at(0))),
            Some(vec![1])
        );
        assert!(origin.push(batch(b"b"), 2, Time(0)));
    }
}
