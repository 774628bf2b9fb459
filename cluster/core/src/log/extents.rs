//! Bodies read back from segments, a stretch at a time, and the reads that are under way.
//!
//! Invariants:
//! - extents have ascending starts and ascending ends: the last that starts at or before a place
//!   is the one to look in;
//! - reads in flight are at most half of the cache's budget (or one), so what they bring is still
//!   there when those who wait are resumed;
//! - who wants something is told exactly once, when it is in memory.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::ids::{Place, SegmentId, ShardId};
use crate::log::disk::{FileName, Op, Token};

/// What the first read at a new place takes; a read that goes on where one ended takes four
/// times as much as that one, up to the limit.
const READ_BYTES_MIN: u32 = 64 << 10;
const READ_BYTES_MAX: u32 = 1 << 20;
/// Wants looked at in one turn.
const WANTS_A_TURN: usize = 1024;

pub(super) struct Extents {
    cache: BTreeMap<Place, Bytes>,
    /// In the order in which they came, the oldest first.
    order: VecDeque<Place>,
    bytes: u64,
    bytes_limit: u64,
    /// Where the last body was found.
    last: Option<(Place, Bytes)>,
    wants: VecDeque<Want>,
    reads: Vec<Reading>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Want {
    place: Place,
    len: u32,
    shard: ShardId,
    key: u64,
}

struct Reading {
    token: Token,
    place: Place,
    len: u32,
    /// The shortest answer that serves all who wait.
    needed: u32,
    waiters: Vec<(ShardId, u64)>,
}

/// A read came back shorter than what the log had written there.
#[derive(Debug)]
pub(super) struct Truncated {
    pub(super) file: FileName,
    pub(super) end: u64,
}

impl Extents {
    pub(super) fn new(bytes_limit: u64) -> Self {
        Self {
            cache: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            bytes_limit,
            last: None,
            wants: VecDeque::new(),
            reads: Vec::new(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&mut self, place: Place, len: u32) -> Option<Bytes> {
        if let Some((start, bytes)) = &self.last
            && let Some(found) = body(*start, bytes, place, len)
        {
            return Some(found);
        }
        let (start, bytes) = self.cache.range(..=place).next_back()?;
        let found = body(*start, bytes, place, len)?;
        self.last = Some((*start, bytes.clone()));
        Some(found)
    }

    pub(super) fn want(&mut self, shard: ShardId, key: u64, place: Place, len: u32) {
        let want = Want {
            place,
            len,
            shard,
            key,
        };
        if self.wants.back() != Some(&want) {
            self.wants.push_back(want);
        }
    }

    /// Whether something wanted may be answered or read now.
    pub(super) fn has_wants(&self) -> bool {
        !self.wants.is_empty()
    }

    /// Turns wants into reads. `end` tells where the last byte of a segment that may be read
    /// lies; who wants what is in memory by now is put into `resumes`.
    pub(super) fn plan(
        &mut self,
        end: impl Fn(SegmentId) -> u32,
        mut token: impl FnMut() -> Token,
        ops: &mut Vec<Op>,
        resumes: &mut Vec<(ShardId, u64)>,
    ) {
        if self.is_busy() {
            return;
        }
        let turn = self.wants.len().min(WANTS_A_TURN);
        let mut wants: Vec<Want> = self.wants.drain(..turn).collect();
        wants.sort_unstable();
        wants.dedup();
        for want in wants {
            if self.has(want.place, want.len) {
                resumes.push((want.shard, want.key));
            } else if let Some(read) = self.reads.iter_mut().find(|read| read.covers(&want)) {
                read.join(&want);
            } else if self.is_busy() {
                self.wants.push_back(want);
            } else {
                let read = self.start(&want, end(want.place.segment), token());
                ops.push(read.op());
                self.reads.push(read);
            }
        }
    }

    fn has(&self, place: Place, len: u32) -> bool {
        let before = self.cache.range(..=place).next_back();
        before.is_some_and(|(start, bytes)| span(*start, bytes, place, len).is_some())
    }

    fn is_busy(&self) -> bool {
        let reading: u64 = self.reads.iter().map(|read| u64::from(read.len)).sum();
        !self.reads.is_empty() && reading + u64::from(READ_BYTES_MAX) > self.bytes_limit / 2
    }

    fn start(&self, want: &Want, end: u32, token: Token) -> Reading {
        let before = self.cache.range(..=want.place).next_back();
        // A body that begins in an extent and ends behind it, or right behind it, goes on there.
        let ahead = match before {
            Some((start, bytes))
                if start.segment == want.place.segment
                    && u64::from(want.place.offset - start.offset) <= bytes.len() as u64 =>
            {
                (bytes.len() as u32).saturating_mul(4)
            }
            _ => READ_BYTES_MIN,
        };
        let len = ahead.clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        let left = end.saturating_sub(want.place.offset);
        Reading {
            token,
            place: want.place,
            len: len.min(left).max(want.len),
            needed: want.len,
            waiters: vec![(want.shard, want.key)],
        }
    }

    /// Takes what a read brought; who waited for it is put into `resumes`.
    pub(super) fn complete(
        &mut self,
        token: Token,
        bytes: Bytes,
        resumes: &mut Vec<(ShardId, u64)>,
    ) -> Result<(), Truncated> {
        let Some(at) = self.reads.iter().position(|read| read.token == token) else {
            return Ok(());
        };
        let read = self.reads.swap_remove(at);
        if bytes.len() < read.needed as usize {
            return Err(Truncated {
                file: FileName::Segment(read.place.segment),
                end: u64::from(read.place.offset) + bytes.len() as u64,
            });
        }
        resumes.extend(read.waiters);
        self.insert(read.place, bytes);
        Ok(())
    }

    /// What was to be read is gone: who waited looks again.
    pub(super) fn give_up(&mut self, token: Token, resumes: &mut Vec<(ShardId, u64)>) {
        if let Some(at) = self.reads.iter().position(|read| read.token == token) {
            resumes.extend(self.reads.swap_remove(at).waiters);
        }
    }

    fn insert(&mut self, place: Place, bytes: Bytes) {
        let end = place.plus(bytes.len() as u32);
        let covered: Vec<Place> = self
            .cache
            .range(place..=end)
            .filter(|(start, bytes)| start.plus(bytes.len() as u32) <= end)
            .map(|(start, _)| *start)
            .collect();
        for start in covered {
            self.remove(start);
        }
        self.bytes += bytes.len() as u64;
        self.cache.insert(place, bytes);
        self.order.push_back(place);
        while self.bytes > self.bytes_limit && self.order.len() > 1 {
            if let Some(oldest) = self.order.pop_front() {
                self.remove(oldest);
            }
        }
    }

    fn remove(&mut self, start: Place) {
        if let Some(bytes) = self.cache.remove(&start) {
            self.bytes -= bytes.len() as u64;
        }
        if self.last.as_ref().is_some_and(|(last, _)| *last == start) {
            self.last = None;
        }
        self.order.retain(|place| *place != start);
    }

    /// The segment is gone.
    pub(super) fn forget(&mut self, segment: SegmentId) {
        let of_segment = |offset| Place { segment, offset };
        let starts: Vec<Place> = self
            .cache
            .range(of_segment(0)..=of_segment(u32::MAX))
            .map(|(start, _)| *start)
            .collect();
        for start in starts {
            self.remove(start);
        }
    }
}

impl Reading {
    fn covers(&self, want: &Want) -> bool {
        self.place.segment == want.place.segment
            && self.place.offset <= want.place.offset
            && u64::from(want.place.offset) + u64::from(want.len)
                <= u64::from(self.place.offset) + u64::from(self.len)
    }

    fn join(&mut self, want: &Want) {
        let needed = want.place.offset - self.place.offset + want.len;
        self.needed = self.needed.max(needed);
        let waiter = (want.shard, want.key);
        if !self.waiters.contains(&waiter) {
            self.waiters.push(waiter);
        }
    }

    fn op(&self) -> Op {
        Op::Read {
            file: FileName::Segment(self.place.segment),
            offset: u64::from(self.place.offset),
            len: self.len,
            token: self.token,
        }
    }
}

fn span(start: Place, bytes: &Bytes, place: Place, len: u32) -> Option<std::ops::Range<usize>> {
    if start.segment != place.segment {
        return None;
    }
    let from = place.offset.checked_sub(start.offset)? as usize;
    let to = from + len as usize;
    (to <= bytes.len()).then_some(from..to)
}

/// A body out of an extent: by reference only when it is a good part of it, so that a small
/// message that waits for a slow socket does not keep the whole stretch in memory.
fn body(start: Place, bytes: &Bytes, place: Place, len: u32) -> Option<Bytes> {
    let span = span(start, bytes, place, len)?;
    if span.len() * 4 < bytes.len() {
        return Some(Bytes::copy_from_slice(&bytes[span]));
    }
    Some(bytes.slice(span))
}
