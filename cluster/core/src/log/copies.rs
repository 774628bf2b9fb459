//! Survivors: live bodies of mostly dead segments are copied to a series of their own, so that
//! the segment can go. Also finds the copies again after a restart.
//!
//! Invariants:
//! - a machine learns of a copy only when the copy is on disk;
//! - one segment is emptied at a time, and what is read and written for it in one step is bounded;
//! - a copy's record names shard, queue and message: whoever refers to a segment that is gone
//!   finds the body by them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::ids::{Place, SegmentId, ShardId};
use crate::log::disk::{FileName, Op, RecoveryDisk, Token};
use crate::log::record::{self, At, HEAD_BYTES, Head, Kind, SEGMENT_HEAD_BYTES};
use crate::log::recovery::disk_error;
use crate::log::runs::Run;
use crate::log::segments::Segments;
use crate::log::{Error, Event, Job, Log, Position, Relocation};
use crate::machine::LiveRef;

/// References looked up in one turn, about.
const REFS_A_TURN: usize = 4096;
/// Queues asked in one turn.
const RUNS_A_TURN: usize = 512;
/// Bytes copied in one turn, about.
const BYTES_A_TURN: u64 = 1 << 20;
/// Copies that wait for the disk, in bytes.
const WAITING_BYTES_LIMIT: u64 = 4 << 20;
const READ_BYTES: u32 = 1 << 20;

pub(super) struct Copies {
    victim: Option<Victim>,
    /// Copies in memory that their machines have not taken over yet.
    fresh: Vec<Place>,
    /// Segments or entries may have become sparse since the last look.
    pub(super) look: bool,
}

impl Copies {
    pub(super) fn new() -> Self {
        Self {
            victim: None,
            fresh: Vec::new(),
            look: true,
        }
    }
}

struct Victim {
    segment: SegmentId,
    /// Queues still to be asked, the last first.
    runs: Vec<Run>,
    /// What is to be copied; by offset once all were asked.
    refs: VecDeque<Copy>,
    asked: bool,
    reading: Option<Token>,
    chunk: Option<(u32, Bytes)>,
    /// Appended, by the position behind the copy.
    appended: VecDeque<(Position, Relocation)>,
}

#[derive(Clone, Copy)]
struct Copy {
    shard: ShardId,
    key: u64,
    id: u64,
    place: Place,
    len: u32,
}

impl Victim {
    fn new(segment: SegmentId, runs: Vec<Run>) -> Self {
        Self {
            segment,
            runs,
            refs: VecDeque::new(),
            asked: false,
            reading: None,
            chunk: None,
            appended: VecDeque::new(),
        }
    }

    /// Asks some more queues what of the segment is live.
    fn ask(&mut self, live: &mut impl FnMut(ShardId, u64, RangeInclusive<u64>, &mut Vec<LiveRef>)) {
        let before = self.refs.len();
        let mut found = Vec::new();
        for _ in 0..RUNS_A_TURN {
            let Some(run) = self.runs.pop() else {
                self.refs.make_contiguous().sort_by_key(|copy| copy.place);
                self.asked = true;
                return;
            };
            live(run.shard, run.key, run.min..=run.max, &mut found);
            let here = found
                .drain(..)
                .filter(|live| live.place.segment == self.segment);
            self.refs.extend(here.map(|live| Copy {
                shard: run.shard,
                key: run.key,
                id: live.id,
                place: live.place,
                len: live.len,
            }));
            if self.refs.len() - before > REFS_A_TURN {
                return;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.asked && self.refs.is_empty() && self.appended.is_empty() && self.reading.is_none()
    }

    fn chunk_part(&self, copy: &Copy) -> Option<Bytes> {
        let (start, chunk) = self.chunk.as_ref()?;
        let from = copy.place.offset.checked_sub(*start)? as usize;
        let to = from + copy.len as usize;
        (to <= chunk.len()).then(|| chunk.slice(from..to))
    }
}

impl Log {
    /// Whether [`Log::copy_survivors`] has something to do.
    #[must_use]
    pub fn wants_copying(&self) -> bool {
        match &self.copies.victim {
            Some(victim) => !victim.asked || victim.is_done(),
            None => self.copies.look || self.store.memory.has_sparse(),
        }
    }

    /// Goes on with copying live bodies out of segments (and entries in memory) that are mostly
    /// dead. One bounded turn; `live` is the machines' [`crate::machine::Machine::live`]. What
    /// was copied comes as [`Event::Relocate`].
    pub fn copy_survivors(
        &mut self,
        mut live: impl FnMut(ShardId, u64, RangeInclusive<u64>, &mut Vec<LiveRef>),
    ) {
        self.copy_memory(&mut live);
        if let Some(victim) = &self.copies.victim
            && victim.is_done()
            && self.events.is_empty()
        {
            self.leave_victim();
        }
        if self.copies.victim.is_none() {
            self.copies.look = false;
            self.copies.victim = self.choose_victim();
        }
        if let Some(victim) = &mut self.copies.victim
            && !victim.asked
        {
            victim.ask(&mut live);
        }
    }

    fn choose_victim(&self) -> Option<Victim> {
        if self.full {
            return None;
        }
        let spared = self.segments_spared();
        let main = &self.store.segments;
        if let Some(number) = main.victim(spared, &self.checkpoints.covers) {
            return Some(Victim::new(SegmentId(number), main.runs(number)));
        }
        let survivors = &self.store.survivors;
        let number = survivors.victim(1, &BTreeMap::new())?;
        let id = SegmentId::survivor(number);
        Some(Victim::new(id, survivors.runs(number)))
    }

    /// Everything found in the victim was copied; when something still refers to it, it is left
    /// alone.
    fn leave_victim(&mut self) {
        if let Some(victim) = self.copies.victim.take() {
            let number = victim.segment.number();
            let series = self.store.series(victim.segment);
            if series.live_count(number) > 0 {
                series.give_up(number);
            }
        }
        self.copies.look = true;
    }

    fn copy_memory(
        &mut self,
        live: &mut impl FnMut(ShardId, u64, RangeInclusive<u64>, &mut Vec<LiveRef>),
    ) {
        let (mut found, mut copied) = (Vec::new(), 0);
        while copied < BYTES_A_TURN
            && let Some((segment, runs)) = self.store.memory.next_sparse()
        {
            for run in runs {
                live(run.shard, run.key, run.min..=run.max, &mut found);
                for live in found.drain(..).filter(|live| live.place.segment == segment) {
                    let Some(bytes) = self.store.memory.get(live.place, live.len) else {
                        continue;
                    };
                    copied += u64::from(live.len) + 64;
                    let to = self.store.memory.insert(Bytes::copy_from_slice(&bytes));
                    self.copies.fresh.push(to);
                    self.events.push_back(Event::Relocate(Relocation {
                        shard: run.shard,
                        key: run.key,
                        id: live.id,
                        from: live.place,
                        to,
                    }));
                }
            }
        }
    }

    /// Copies some more, asks for what has to be read, and hands out writes.
    pub(super) fn submit_copies(&mut self, ops: &mut Vec<Op>) {
        if self.events.is_empty() {
            for place in std::mem::take(&mut self.copies.fresh) {
                self.store.memory.applied(place);
            }
        }
        let Some(mut victim) = self.copies.victim.take() else {
            return;
        };
        if victim.asked {
            self.append_copies(&mut victim, ops);
        }
        self.copies.victim = Some(victim);
    }

    fn append_copies(&mut self, victim: &mut Victim, ops: &mut Vec<Op>) {
        let series = self.store.series(victim.segment);
        if series.live_count(victim.segment.number()) == 0 {
            victim.refs.clear();
        }
        let mut copied = 0;
        while copied < BYTES_A_TURN
            && self.survivors.pending_bytes() < WAITING_BYTES_LIMIT
            && victim.reading.is_none()
            && let Some(copy) = victim.refs.front().copied()
        {
            let young = self.store.get(copy.place, copy.len);
            let Some(bytes) = victim.chunk_part(&copy).or(young) else {
                self.read_chunk(victim, &copy, ops);
                return;
            };
            copied += u64::from(copy.len) + u64::from(HEAD_BYTES);
            victim.refs.pop_front();
            let relocation = self.append_copy(&copy, &bytes);
            let behind = self.survivors.tail();
            victim.appended.push_back((behind, relocation));
        }
    }

    fn read_chunk(&mut self, victim: &mut Victim, copy: &Copy, ops: &mut Vec<Op>) {
        let token = Self::token(&mut self.last_token);
        let op = Op::Read {
            file: FileName::Segment(victim.segment),
            offset: u64::from(copy.place.offset),
            len: copy.len.max(READ_BYTES),
            token,
        };
        self.hand_out(Job::SurvivorRead, op, ops);
        victim.reading = Some(token);
        victim.chunk = Some((copy.place.offset, Bytes::new()));
    }

    fn append_copy(&mut self, copy: &Copy, bytes: &Bytes) -> Relocation {
        let head = Head {
            kind: Kind::Survivor,
            entry_kind: 0,
            shard: copy.shard,
            term: copy.key,
            index: copy.id,
        };
        let to = self.survivors.append(&head, bytes);
        self.store.survivors.begin_through(to.segment.number());
        Relocation {
            shard: copy.shard,
            key: copy.key,
            id: copy.id,
            from: copy.place,
            to,
        }
    }

    pub(super) fn survivor_read(&mut self, file: FileName, bytes: Bytes) -> Result<(), Error> {
        if !self.exists(file) {
            self.give_up_read();
            return Ok(());
        }
        let Some(victim) = &mut self.copies.victim else {
            return Ok(());
        };
        victim.reading = None;
        let start = victim.chunk.as_ref().map_or(0, |(start, _)| *start);
        let needed = victim.refs.front().map_or(0, |copy| copy.len);
        if bytes.len() < needed as usize {
            return Err(Error::Corrupt {
                file,
                offset: u64::from(start) + bytes.len() as u64,
                cause: "the file ends before a body does".to_owned(),
            });
        }
        victim.chunk = Some((start, bytes));
        Ok(())
    }

    /// The victim went while it was being read: nothing of it is live any more.
    pub(super) fn give_up_read(&mut self) {
        if let Some(victim) = &mut self.copies.victim {
            victim.reading = None;
            victim.refs.clear();
        }
    }

    /// Copies were synced: their machines may take them over.
    pub(super) fn survivors_written(&mut self) {
        let durable = self.survivors.durable();
        while let Some((number, end)) = self.survivors.take_sealed() {
            self.store.survivors.seal(number, end);
        }
        let Some(victim) = &mut self.copies.victim else {
            return;
        };
        while let Some((_, copied)) = victim
            .appended
            .pop_front_if(|(behind, _)| *behind <= durable)
        {
            self.events.push_back(Event::Relocate(copied));
        }
    }

    /// The disk is full: what is copied so far is left where it is, the rest waits.
    pub(super) fn abandon_copies(&mut self) {
        self.copies.victim = None;
        let last = self.survivors.tail().number();
        let left = self.survivors.abandon();
        self.store.survivors.seal(left.number(), left.offset());
        for number in left.number() + 1..=last {
            self.store.survivors.seal(number, SEGMENT_HEAD_BYTES);
        }
    }
}

/// Where the copies lie of everything that is referred to in segments that are gone. In shards
/// that `may_lack` some, what has no copy lies nowhere.
pub(super) fn find(
    log: &Log,
    disk: &mut dyn RecoveryDisk,
    mut live: impl FnMut(ShardId, u64, RangeInclusive<u64>, &mut Vec<LiveRef>),
    may_lack: &dyn Fn(ShardId) -> bool,
) -> Result<Vec<Relocation>, Error> {
    let mut missing = BTreeMap::new();
    let mut found = Vec::new();
    let main = &log.store.segments;
    let survivors = &log.store.survivors;
    let mut ask = |series: &Segments, number: u32, id: SegmentId| {
        for run in series.runs(number) {
            live(run.shard, run.key, run.min..=run.max, &mut found);
            for live in found.drain(..).filter(|live| live.place.segment == id) {
                missing.insert((run.shard, run.key, live.id), (live.place, live.len, None));
            }
        }
    };
    for number in main.ghosts() {
        ask(main, number, SegmentId(number));
    }
    for number in survivors.ghosts() {
        ask(survivors, number, SegmentId::survivor(number));
    }
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    for number in survivors.existing_numbers() {
        scan(log, number, disk, |head, to, len| {
            let owner = (head.shard, head.term, head.index);
            if let Some((_, wanted, copy)) = missing.get_mut(&owner)
                && *wanted == len
            {
                *copy = Some(to);
            }
        })?;
    }
    let relocation = |((shard, key, id), (from, _, copy)): (_, (Place, u32, Option<Place>))| {
        let nowhere = Place {
            segment: SegmentId::NOWHERE,
            offset: 0,
        };
        let copy = copy.or_else(|| may_lack(shard).then_some(nowhere));
        let to = copy.ok_or_else(|| Error::Corrupt {
            file: FileName::Segment(from.segment),
            offset: u64::from(from.offset),
            cause: format!("message {id} of queue {key} in shard {shard} has no copy"),
        })?;
        Ok(Relocation {
            shard,
            key,
            id,
            from,
            to,
        })
    };
    missing.into_iter().map(relocation).collect()
}

/// Calls `take` with every whole record of a survivors' segment. It ends where a record is bad:
/// whoever needs one behind that has no copy, and says so.
fn scan(
    log: &Log,
    number: u32,
    disk: &mut dyn RecoveryDisk,
    mut take: impl FnMut(&Head, Place, u32),
) -> Result<(), Error> {
    let segment = SegmentId::survivor(number);
    let file = FileName::Segment(segment);
    let mut at = At {
        log: log.options.log,
        segment,
        offset: SEGMENT_HEAD_BYTES,
    };
    let mut want = READ_BYTES as usize;
    loop {
        let chunk = disk
            .read(file, u64::from(at.offset), want)
            .map_err(disk_error("read", file))?;
        let mut rest = &chunk[..];
        loop {
            match record::parse(at, rest) {
                Ok(record) => {
                    let place = Place {
                        segment,
                        offset: at.offset + HEAD_BYTES,
                    };
                    if record.head.kind == Kind::Survivor {
                        take(&record.head, place, record.payload.len() as u32);
                    }
                    rest = &rest[record.size as usize..];
                    at.offset += record.size;
                }
                Err(record::Error::Short(size)) if chunk.len() == want => {
                    want = want.max(size as usize);
                    break;
                }
                Err(_) => return Ok(()),
            }
        }
    }
}
