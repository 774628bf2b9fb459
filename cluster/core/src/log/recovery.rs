//! The start: checkpoints, then the log behind them, then what refers to segments that are gone.
//!
//! A bad record below a position that a later mark says was synced is corruption, and the start
//! is given up with the file and the offset. One at or above it is the tail that the crash tore:
//! it is cut off, the rest is synced, and the log goes on in a new segment under a number that
//! was never used. So what is valid but torn off can never come back.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::checkpoint::{self, Header, Reader, Step};
use crate::ids::{Index, Place, SegmentId, ShardId, Term};
use crate::log::disk::{DiskError, FileName, RecoveryDisk};
use crate::log::record::{self, At, HEAD_BYTES, HardState, Head, Kind, SEGMENT_HEAD_BYTES};
use crate::log::record::{SegmentHead, VERSION};
use crate::log::{Error, Log, Options, Position, Relocation, copies};
use crate::machine::LiveRef;

const READ_BYTES: usize = 1 << 20;

/// A log that is being brought back. See the module.
pub struct Recovery {
    log: Log,
    checkpoints: BTreeMap<ShardId, Found>,
    /// Segments still to be read, the oldest first, with the lengths of their files.
    segments: VecDeque<(u32, u64)>,
    /// The last entry seen of each shard.
    last: BTreeMap<ShardId, Index>,
    cursor: Cursor,
}

struct Found {
    header: Header,
    file_bytes: u64,
}

/// Where in the first of the segments the reading is.
struct Cursor {
    offset: u32,
    chunk: Bytes,
    chunk_at: u32,
}

/// Something the log holds beyond the checkpoints, in the order in which it was appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// Replaces what came before with the same index or a later one.
    Entry {
        shard: ShardId,
        term: Term,
        index: Index,
        entry_kind: u8,
        payload: Bytes,
        place: Place,
    },
    HardState {
        shard: ShardId,
        state: HardState,
    },
}

/// Why a checkpoint could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError<E> {
    #[error(transparent)]
    Log(Error),
    /// Its taker refused a part.
    #[error("{file}: {cause}")]
    Part { file: FileName, cause: E },
}

impl Recovery {
    /// Looks at what there is. Changes nothing but for removing parts of unfinished checkpoints.
    ///
    /// # Errors
    /// A disk that cannot be read, or files that are damaged or of another log or version.
    pub fn open(options: Options, disk: &mut dyn RecoveryDisk) -> Result<Self, Error> {
        let files = disk.list().map_err(|source| Error::List { source })?;
        let mut main = BTreeMap::new();
        let mut survivors = BTreeMap::new();
        let mut found = Vec::new();
        for (file, len) in files {
            match file {
                FileName::Segment(id) if id.is_survivor() => {
                    survivors.insert(id.number(), len);
                }
                FileName::Segment(id) => {
                    main.insert(id.number(), len);
                }
                FileName::Checkpoint { number, .. } => found.push((number, file, len)),
                FileName::CheckpointPart { .. } => {
                    disk.remove(file).map_err(disk_error("removal", file))?;
                }
            }
        }
        found.sort_unstable();
        let checkpoints = found
            .into_iter()
            .map(|(number, file, len)| Ok((read_header(number, file, options.log, disk)?, len)))
            .collect::<Result<Vec<_>, Error>>()?;
        // No number may come again that a file has or a checkpoint may name.
        let last = |numbers: &BTreeMap<u32, u64>, named: fn(&Header) -> u32| {
            let files = numbers.keys().next_back().copied();
            let named = checkpoints.iter().map(|(header, _)| named(header)).max();
            files.max(named).unwrap_or(0)
        };
        let main_last = last(&main, |header| header.begun.number());
        let survivors_last = last(&survivors, |header| header.survivors);
        let mut recovery = Self {
            log: Log::starting_at(options, main_last + 1, survivors_last + 1),
            checkpoints: BTreeMap::new(),
            segments: VecDeque::new(),
            last: BTreeMap::new(),
            cursor: Cursor::start(),
        };
        for (header, file_bytes) in checkpoints {
            recovery.log.checkpoints.found(&header, file_bytes);
            recovery.log.floors.insert(header.shard, header.floor);
            recovery.last.insert(header.shard, header.index);
            let found = Found { header, file_bytes };
            recovery.checkpoints.insert(header.shard, found);
        }
        for (number, len) in survivors {
            // The process before may have died ahead of its sync, and no copy may be relied on
            // that a power cut can still take away.
            let file = FileName::Segment(SegmentId::survivor(number));
            disk.truncate(file, len).map_err(disk_error("sync", file))?;
            let used = u32::try_from(len).unwrap_or(u32::MAX);
            recovery.log.store.survivors.found(number, used);
        }
        recovery.find_segments(&main, disk)?;
        Ok(recovery)
    }

    /// Sorts the log's files into those to be read, those that nothing is to be read from, and
    /// those that were made and never written.
    fn find_segments(
        &mut self,
        main: &BTreeMap<u32, u64>,
        disk: &mut dyn RecoveryDisk,
    ) -> Result<(), Error> {
        let mut unused = Vec::new();
        let from = self
            .checkpoints
            .values()
            .map(|found| found.header.replay_from);
        let from = from.max().unwrap_or(0);
        for (&number, &len) in main {
            if self.is_unused(number, disk)? {
                unused.push((number, len));
                continue;
            }
            for (hole, len) in unused.drain(..) {
                // What lies behind a head that cannot be read may still be needed.
                self.segments.push_back((hole, len));
            }
            self.segments.push_back((number, len));
        }
        for (number, len) in unused {
            let at = Position::new(number, SEGMENT_HEAD_BYTES);
            if self.newest_mark(number, 0, len, disk)? > at {
                let file = FileName::Segment(SegmentId(number));
                return Err(corrupt(file, 0, "its head is damaged"));
            }
            let usual = len == u64::from(self.log.options.segment_bytes);
            if usual && self.log.spares.is_empty() {
                self.log.spares.add(number);
                self.log.main.widen();
                self.log.first = self.log.main.tail().number();
            } else {
                let file = FileName::Segment(SegmentId(number));
                disk.remove(file).map_err(disk_error("removal", file))?;
            }
        }
        for (number, len) in &self.segments {
            let used = u32::try_from(*len).unwrap_or(u32::MAX);
            self.log.store.segments.found(*number, used);
        }
        self.segments.retain(|(number, _)| *number >= from);
        let next = self.log.main.tail().number();
        self.log.store.segments.begin(next);
        Ok(())
    }

    fn is_unused(&self, number: u32, disk: &mut dyn RecoveryDisk) -> Result<bool, Error> {
        let file = FileName::Segment(SegmentId(number));
        let bytes = disk.read(file, 0, 64).map_err(disk_error("read", file))?;
        match record::parse_segment_head(SegmentId(number), &bytes) {
            SegmentHead::Unused => Ok(true),
            SegmentHead::Written { version, .. } if version != VERSION => {
                let cause = format!("it has format version {version}, this build reads {VERSION}");
                Err(corrupt(file, 0, cause))
            }
            SegmentHead::Written { log, .. } if log != self.log.options.log => {
                Err(corrupt(file, 0, "it belongs to another log"))
            }
            SegmentHead::Written { .. } => Ok(false),
        }
    }

    /// The log, for the bodies of machines that are restored or replayed.
    pub fn log(&mut self) -> &mut Log {
        &mut self.log
    }

    /// The durable checkpoints: one a shard at most.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<Header> {
        self.checkpoints
            .values()
            .map(|found| found.header)
            .collect()
    }

    /// Reads the shard's checkpoint, part by part with their kinds, in the order in which they
    /// were written.
    ///
    /// # Errors
    /// When it is damaged, or `take` refuses a part.
    pub fn read_checkpoint<E>(
        &mut self,
        shard: ShardId,
        disk: &mut dyn RecoveryDisk,
        mut take: impl FnMut(u8, &[u8]) -> Result<(), E>,
    ) -> Result<(), CheckpointError<E>> {
        let Some(found) = self.checkpoints.get(&shard) else {
            return Ok(());
        };
        let number = found.header.number;
        let file = FileName::Checkpoint { shard, number };
        let damaged = |at, cause: checkpoint::Error| {
            CheckpointError::Log(corrupt(file, at, cause.to_string()))
        };
        let mut reader = Reader::new(number);
        let (mut chunk, mut chunk_at, mut want) = (Bytes::new(), 0, 0);
        loop {
            let at = reader.offset();
            let skipped = (at - chunk_at) as usize;
            match reader.step(&chunk[skipped..]).map_err(|e| damaged(at, e))? {
                Step::Need(bytes) if bytes == want && chunk_at == at => {
                    return Err(damaged(at, checkpoint::Error::Short { at }));
                }
                Step::Need(bytes) => {
                    (chunk_at, want) = (at, bytes);
                    chunk = disk
                        .read(file, at, bytes.max(READ_BYTES))
                        .map_err(|source| CheckpointError::Log(disk_error("read", file)(source)))?;
                }
                Step::Header(_) => {}
                Step::Part { kind, bytes } => {
                    take(kind, bytes).map_err(|cause| CheckpointError::Part { file, cause })?;
                }
                Step::End if reader.offset() == found.file_bytes => return Ok(()),
                Step::End => {
                    let cause = "something follows the footer";
                    return Err(damaged(at, checkpoint::Error::Malformed { at, cause }));
                }
            }
        }
    }

    /// The next record beyond the checkpoints, or `None` when all were given.
    ///
    /// # Errors
    /// A disk that cannot be read, or a damaged record that is not the torn tail.
    pub fn next(&mut self, disk: &mut dyn RecoveryDisk) -> Result<Option<Item>, Error> {
        while let Some(&(number, len)) = self.segments.front() {
            match self.read_record(number, len, disk)? {
                Read::Item(item) => return Ok(Some(item)),
                Read::Nothing => {}
                Read::Sealed => self.leave_segment(number, disk)?,
                Read::Bad(cause) => self.stop_or_cut(number, len, cause, disk)?,
            }
        }
        Ok(None)
    }

    fn read_record(
        &mut self,
        number: u32,
        len: u64,
        disk: &mut dyn RecoveryDisk,
    ) -> Result<Read, Error> {
        let file = FileName::Segment(SegmentId(number));
        let offset = self.cursor.offset;
        if offset == 0 {
            // Only a head that cannot be read makes a segment unused here.
            if self.is_unused(number, disk)? {
                return Ok(Read::Bad(record::Error::Kind(0)));
            }
            self.cursor.offset = SEGMENT_HEAD_BYTES;
            return Ok(Read::Nothing);
        }
        let at = At {
            log: self.log.options.log,
            segment: SegmentId(number),
            offset,
        };
        let skipped = (offset - self.cursor.chunk_at) as usize;
        let rest = self.cursor.chunk.get(skipped..).unwrap_or_default();
        let record = match record::parse(at, rest) {
            Ok(record) => record,
            Err(record::Error::Short(size)) if u64::from(offset) + u64::from(size) <= len => {
                let bytes = (size as usize).max(READ_BYTES);
                self.cursor.chunk = disk
                    .read(file, u64::from(offset), bytes)
                    .map_err(disk_error("read", file))?;
                self.cursor.chunk_at = offset;
                if self.cursor.chunk.len() < size as usize {
                    return Err(corrupt(file, u64::from(offset), "the file became shorter"));
                }
                return Ok(Read::Nothing);
            }
            Err(cause) => return Ok(Read::Bad(cause)),
        };
        let from = skipped + HEAD_BYTES as usize;
        let to = from + record.payload.len();
        let (head, size) = (record.head, record.size);
        self.cursor.offset += size;
        let payload = part(&self.cursor.chunk, from, to);
        self.take(at, &head, payload)
    }

    fn take(&mut self, at: At, head: &Head, payload: Bytes) -> Result<Read, Error> {
        let file = FileName::Segment(at.segment);
        match head.kind {
            Kind::Mark => Ok(Read::Nothing),
            Kind::Seal => Ok(Read::Sealed),
            Kind::Entry => self.take_entry(at, head, payload),
            Kind::HardState => {
                let state = HardState::from_record(head, &payload).ok_or_else(|| {
                    corrupt(
                        file,
                        u64::from(at.offset),
                        "its hard state has another length",
                    )
                })?;
                let position = Position::new(at.segment.number(), at.offset);
                let found = self.checkpoints.get(&head.shard);
                if found.is_some_and(|found| position < found.header.begun) {
                    return Ok(Read::Nothing);
                }
                self.log.store.segments.note_state(position, head.shard);
                let shard = head.shard;
                Ok(Read::Item(Item::HardState { shard, state }))
            }
            Kind::Survivor => Err(corrupt(
                file,
                u64::from(at.offset),
                "it holds a survivor's record",
            )),
        }
    }

    fn take_entry(&mut self, at: At, head: &Head, payload: Bytes) -> Result<Read, Error> {
        let (shard, index, term) = (head.shard, Index(head.index), Term(head.term));
        let position = Position::new(at.segment.number(), at.offset);
        // What was replaced must not come back, though what did so may be gone with its segment:
        // this replica would take it for the end of its log, and vote for others that have no more.
        let cover = self.log.checkpoints.covers.get(&shard);
        let floor = self.log.floors.get(&shard);
        if cover.is_some_and(|it| it.covers(index, term)) || floor.is_some_and(|it| position < *it)
        {
            return Ok(Read::Nothing);
        }
        let last = self.last.entry(shard).or_default();
        if index.0 > last.0 + 1 {
            let cause = format!("entry {index} of shard {shard} follows entry {last}");
            let file = FileName::Segment(at.segment);
            return Err(corrupt(file, u64::from(at.offset), cause));
        }
        *last = index;
        let place = Place {
            segment: at.segment,
            offset: at.offset + HEAD_BYTES,
        };
        self.log
            .recovered_entry(shard, (index, term), place, &payload);
        Ok(Read::Item(Item::Entry {
            shard,
            term,
            index,
            entry_kind: head.entry_kind,
            payload,
            place,
        }))
    }

    /// The record at the cursor is bad: the torn tail, or corruption.
    fn stop_or_cut(
        &mut self,
        number: u32,
        len: u64,
        cause: record::Error,
        disk: &mut dyn RecoveryDisk,
    ) -> Result<(), Error> {
        let offset = self.cursor.offset;
        let last = self.segments.len() == 1;
        if u64::from(offset) == len && !last {
            return self.leave_segment(number, disk);
        }
        let bad = Position::new(number, offset);
        let file = FileName::Segment(SegmentId(number));
        let damaged = || corrupt(file, u64::from(offset), cause.to_string());
        if self.newest_mark(number, offset, len, disk)? > bad {
            return Err(damaged());
        }
        let later: Vec<(u32, u64)> = self.segments.iter().skip(1).copied().collect();
        for (later, len) in &later {
            if self.newest_mark(*later, 0, *len, disk)? > bad {
                return Err(damaged());
            }
        }
        for (later, _) in later {
            let file = FileName::Segment(SegmentId(later));
            disk.remove(file).map_err(disk_error("removal", file))?;
            self.log.store.segments.lost(later);
        }
        self.segments.truncate(1);
        self.leave_segment(number, disk)
    }

    /// The segment ends at the cursor. The last one is synced: what it holds counts from here on.
    fn leave_segment(&mut self, number: u32, disk: &mut dyn RecoveryDisk) -> Result<(), Error> {
        let file = FileName::Segment(SegmentId(number));
        let end = self.cursor.offset;
        if self.segments.len() == 1 {
            disk.truncate(file, u64::from(end))
                .map_err(disk_error("truncation", file))?;
        }
        self.log.store.segments.seal(number, end);
        self.segments.pop_front();
        self.cursor = Cursor::start();
        Ok(())
    }

    /// The newest synced position that a valid mark at or behind `from` tells.
    fn newest_mark(
        &self,
        number: u32,
        from: u32,
        len: u64,
        disk: &mut dyn RecoveryDisk,
    ) -> Result<Position, Error> {
        let file = FileName::Segment(SegmentId(number));
        let mut newest = Position::default();
        let mut offset = u64::from(from.max(SEGMENT_HEAD_BYTES)).next_multiple_of(8);
        while offset < len {
            let chunk = disk
                .read(file, offset, READ_BYTES + HEAD_BYTES as usize)
                .map_err(disk_error("read", file))?;
            for skipped in (0..READ_BYTES.min(chunk.len())).step_by(8) {
                let at = At {
                    log: self.log.options.log,
                    segment: SegmentId(number),
                    offset: u32::try_from(offset).unwrap_or(u32::MAX) + skipped as u32,
                };
                if let Some(found) = record::mark_at(at, &chunk[skipped..]) {
                    newest = newest.max(found);
                }
            }
            offset += READ_BYTES as u64;
        }
        Ok(newest)
    }

    /// Finds the copies of bodies that machines refer to in segments that are gone. Called when
    /// every entry known to be committed has been applied; `live` is the machines'
    /// [`crate::machine::Machine::live`]. In shards that `may_lack` bodies (entries of theirs are
    /// not applied yet that were before), one without a copy lies in [`SegmentId::NOWHERE`].
    ///
    /// # Errors
    /// When a body has no copy, or the copies cannot be read.
    pub fn relocations(
        &mut self,
        disk: &mut dyn RecoveryDisk,
        live: impl FnMut(ShardId, u64, RangeInclusive<u64>, &mut Vec<LiveRef>),
        may_lack: &dyn Fn(ShardId) -> bool,
    ) -> Result<Vec<Relocation>, Error> {
        copies::find(&self.log, disk, live, may_lack)
    }

    /// The log, ready to be appended to.
    ///
    /// # Panics
    /// When [`Recovery::next`] was not called to its end.
    #[must_use]
    pub fn finish(self) -> Log {
        assert!(self.segments.is_empty(), "the whole log was read");
        let mut log = self.log;
        // A checkpoint may name survivors that were begun after it was, and are gone again.
        log.survivors.skip_to(log.store.survivors.named() + 1);
        let next = log.survivors.tail().number();
        log.store.survivors.skip_to(next);
        log
    }
}

/// The header of a checkpoint of the log with the identity `log`.
fn read_header(
    number: u64,
    file: FileName,
    log: u64,
    disk: &mut dyn RecoveryDisk,
) -> Result<Header, Error> {
    let bytes = disk.read(file, 0, 4096).map_err(disk_error("read", file))?;
    let header = match Reader::new(number).step(&bytes) {
        Ok(Step::Header(header)) => header,
        Ok(_) => return Err(corrupt(file, 0, "it has no header")),
        Err(error) => return Err(corrupt(file, 0, error.to_string())),
    };
    let shard = header.shard;
    let named = FileName::Checkpoint { shard, number };
    if header.log != log || named != file || header.number != number {
        return Err(corrupt(file, 0, "it belongs to another log"));
    }
    Ok(header)
}

enum Read {
    Item(Item),
    /// Something that is nobody's business, or more of the file was read.
    Nothing,
    Sealed,
    Bad(record::Error),
}

impl Cursor {
    fn start() -> Self {
        Self {
            offset: 0,
            chunk: Bytes::new(),
            chunk_at: 0,
        }
    }
}

/// Part of a chunk: by reference only when it is a good part of it.
pub(super) fn part(chunk: &Bytes, from: usize, to: usize) -> Bytes {
    if (to - from) * 4 < chunk.len() {
        return Bytes::copy_from_slice(&chunk[from..to]);
    }
    chunk.slice(from..to)
}

pub(super) fn disk_error(action: &'static str, file: FileName) -> impl FnOnce(DiskError) -> Error {
    move |source| Error::Disk {
        action,
        file,
        source,
    }
}

fn corrupt(file: FileName, offset: u64, cause: impl Into<String>) -> Error {
    Error::Corrupt {
        file,
        offset,
        cause: cause.into(),
    }
}
