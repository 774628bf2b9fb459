//! Bodies read back from segments, a stretch at a time, and the reads that are under way.
//!
//! Invariants:
//! - extents have ascending starts and ascending ends: the last that starts at or before a place
//!   is the one to look in;
//! - reads in flight are at most half of the cache's budget (or one) and [`READS_MAX`], so what
//!   they bring is still there when those who wait are resumed;
//! - who wants something is told exactly once, when it is in memory.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::ids::{Place, SegmentId, ShardId};
use crate::log::disk::{FileName, Op, Token};

/// What the first read at a new place takes; a read that goes on where one ended takes four
/// times as much as that one, up to the limit.
const READ_BYTES_MIN: u32 = 64 << 10;
const READ_BYTES_MAX: u32 = 1 << 20;
/// Bytes between two bodies that are read rather than skipped: another read costs more.
const GAP_BYTES: u32 = 16 << 10;
/// Stretches and bodies that one want may lead to reads of.
const STRETCHES_MAX: usize = 32;
const BODIES_MAX: usize = 4096;
/// Reads under way at most.
const READS_MAX: usize = 256;
/// Keys whose last read-ahead is remembered.
const RAMPS_MAX: usize = 1024;
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
    /// How many bytes of each key were read ahead the last time.
    ramps: BTreeMap<(ShardId, u64), u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Want {
    place: Place,
    len: u32,
    shard: ShardId,
    key: u64,
    /// Bytes from `place` on that are wanted; 0 when nobody said.
    stretch: u32,
    /// Nobody waits for it yet.
    ahead: bool,
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
            ramps: BTreeMap::new(),
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
            stretch: 0,
            ahead: false,
        };
        if self.wants.back() != Some(&want) {
            self.wants.push_back(want);
        }
    }

    /// What follows the last want, in that order.
    pub(super) fn want_next(
        &mut self,
        shard: ShardId,
        key: u64,
        next: &mut dyn Iterator<Item = (Place, u32)>,
    ) {
        let is_last = |want: &Want| want.shard == shard && want.key == key && want.stretch == 0;
        let Some(mut stretch) = self.wants.pop_back_if(|want| is_last(want)) else {
            return;
        };
        let budget = self.ramp(shard, key);
        let (mut bytes, mut stretches) = (0, 1);
        stretch.stretch = stretch.len;
        for (place, len) in next.take(BODIES_MAX) {
            let end = stretch.place.offset + stretch.stretch;
            let gap = place.offset.checked_sub(end);
            let longer = gap.map(|gap| stretch.stretch + gap + len);
            let joins = place.segment == stretch.place.segment
                && gap.is_some_and(|gap| gap <= GAP_BYTES)
                && longer.is_some_and(|longer| longer <= READ_BYTES_MAX);
            match longer.filter(|_| joins) {
                Some(longer) => stretch.stretch = longer,
                None => {
                    bytes += stretch.stretch;
                    self.wants.push_back(stretch);
                    stretches += 1;
                    stretch = Want {
                        place,
                        len,
                        shard,
                        key,
                        stretch: len,
                        ahead: true,
                    };
                }
            }
            if bytes + stretch.stretch >= budget || stretches > STRETCHES_MAX {
                break;
            }
        }
        self.wants.push_back(stretch);
    }

    /// How much to read ahead for a key: more each time, as long as all that do so have room.
    fn ramp(&mut self, shard: ShardId, key: u64) -> u32 {
        if self.ramps.len() >= RAMPS_MAX {
            self.ramps.clear();
        }
        let share = self.bytes_limit / 2 / (self.ramps.len() as u64 + 1);
        let most = share.clamp(READ_BYTES_MIN.into(), READ_BYTES_MAX.into()) as u32;
        let ramp = self.ramps.entry((shard, key)).or_insert(READ_BYTES_MIN / 4);
        *ramp = (*ramp * 4).min(most);
        *ramp
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
                if !want.ahead {
                    resumes.push((want.shard, want.key));
                }
            } else if let Some(read) = self.reads.iter_mut().find(|read| read.covers(&want)) {
                read.join(&want);
            } else if self.is_busy() {
                if !want.ahead {
                    self.wants.push_back(want);
                }
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
        let much = reading + u64::from(READ_BYTES_MAX) > self.bytes_limit / 2;
        !self.reads.is_empty() && (much || self.reads.len() >= READS_MAX)
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
        let len = match want.stretch {
            0 => ahead.clamp(READ_BYTES_MIN, READ_BYTES_MAX),
            stretch => stretch,
        };
        let left = end.saturating_sub(want.place.offset);
        Reading {
            token,
            place: want.place,
            len: len.min(left).max(want.len),
            needed: want.len,
            waiters: if want.ahead {
                Vec::new()
            } else {
                vec![(want.shard, want.key)]
            },
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
        if want.ahead {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u32) -> Place {
        Place {
            segment: SegmentId(1),
            offset,
        }
    }

    /// Bodies of 1,000 bytes, ten of them side by side every 100,000 bytes.
    fn bodies() -> impl Iterator<Item = (Place, u32)> {
        let entries = (0..).map(|entry| 100_000 * entry);
        entries.flat_map(|entry| (0..10).map(move |body| (at(entry + 1000 * body), 1000)))
    }

    fn plan(extents: &mut Extents) -> (Vec<Op>, Vec<(ShardId, u64)>) {
        let (mut ops, mut resumes, mut token) = (Vec::new(), Vec::new(), 0);
        let tokens = || {
            token += 1;
            Token(token)
        };
        extents.plan(|_| u32::MAX, tokens, &mut ops, &mut resumes);
        (ops, resumes)
    }

    fn spans(ops: &[Op]) -> Vec<(u64, u32)> {
        let span = |op: &Op| match op {
            Op::Read { offset, len, .. } => (*offset, *len),
            other => panic!("{other:?}"),
        };
        ops.iter().map(span).collect()
    }

    #[test]
    fn what_lies_between_the_bodies_of_a_key_is_not_read() {
        let mut extents = Extents::new(32 << 20);
        extents.want(ShardId(1), 7, at(0), 1000);
        extents.want_next(ShardId(1), 7, &mut bodies().skip(1));
        let (ops, resumes) = plan(&mut extents);
        assert!(resumes.is_empty());
        let expected: Vec<_> = (0..6).map(|entry| (100_000 * entry, 10_000)).collect();
        assert_eq!(spans(&ops)[..6], expected[..]);
        // 64 KiB at first.
        assert_eq!(spans(&ops)[6..], [(600_000, 6000)]);
        let mut resumes = Vec::new();
        for op in &ops {
            let Op::Read { len, .. } = op else { continue };
            let bytes = Bytes::from(vec![0; *len as usize]);
            extents.complete(op.token(), bytes, &mut resumes).unwrap();
        }
        assert_eq!(resumes, [(ShardId(1), 7)], "nobody waits for the rest");
        assert!(
            bodies()
                .take(66)
                .all(|(place, len)| extents.get(place, len).is_some())
        );
        // More the next time, and what is there is not read again.
        extents.want(ShardId(1), 7, at(606_000), 1000);
        extents.want_next(ShardId(1), 7, &mut bodies().skip(67));
        let (ops, _) = plan(&mut extents);
        let read: u32 = spans(&ops).iter().map(|(_, len)| len).sum();
        assert_eq!((spans(&ops)[0], read), ((606_000, 4000), 263_000));
    }

    #[test]
    fn many_keys_read_less_ahead_each() {
        let mut extents = Extents::new(1 << 20);
        for key in 0..100 {
            extents.want(ShardId(1), key, at(0), 1000);
            extents.want_next(ShardId(1), key, &mut bodies().skip(1));
        }
        assert!(
            extents
                .ramps
                .values()
                .skip(8)
                .all(|ramp| *ramp == READ_BYTES_MIN)
        );
        let (ops, _) = plan(&mut extents);
        let read: u32 = spans(&ops).iter().map(|(_, len)| len).sum();
        assert!(read <= 70_000, "all want the same: {read}");
    }

    #[test]
    fn wants_without_a_sequel_read_what_lies_behind() {
        let mut extents = Extents::new(32 << 20);
        extents.want(ShardId(1), 7, at(0), 1000);
        let (ops, _) = plan(&mut extents);
        assert_eq!(spans(&ops), [(0, READ_BYTES_MIN)]);
    }
}
