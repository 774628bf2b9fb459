//! One series of segments being appended to: the log proper, or the survivors.
//!
//! Invariants:
//! - a batch lies in one segment and is one write with its sync; one is in flight at most, so a
//!   valid record in a batch means that every batch before it is on disk;
//! - a batch begins with a mark of what was synced when it was handed out;
//! - a segment that is left behind ends with a seal, for which there is always room;
//! - a batch is handed out only when its segment's file exists; the file of a segment of the log
//!   proper was made with room for all that goes into it, so that no write makes it longer.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::ids::{Instant, Place, SegmentId};
use crate::log::disk::{FileName, Op, Token};
use crate::log::position::Position;
use crate::log::record::{self, At, HEAD_BYTES, Head, PAYLOAD_BYTES_LIMIT, SEGMENT_HEAD_BYTES};

/// Payloads up to this are copied beside their heads: cheaper than one more buffer in a write.
const GATHER_BYTES: usize = 2048;
/// Room that stays for a mark and a seal.
const RESERVED_BYTES: u32 = 2 * HEAD_BYTES;
/// When nothing was appended for so long, a mark of its own says that all is synced.
const IDLE_MARK_MILLIS: u64 = 100;
/// How often a log that leaves syncs to the operating system syncs all the same.
const OS_SYNC_MICROS: u64 = 1_000_000;
/// The first segment after a start is small: the start waits until its file is there.
const FIRST_SEGMENT_BYTES: u32 = 8 << 20;

pub(super) struct Series {
    survivors: bool,
    log: u64,
    segment_bytes: u32,
    /// Writes count as durable before they are synced (`log.sync = "os"`).
    unsynced: bool,
    tail: Position,
    /// Bytes that the tail's segment may take.
    capacity: u32,
    /// The first segment of this process, and its size.
    first: (u32, u32),
    batches: VecDeque<Batch>,
    in_flight: Option<InFlight>,
    /// Since when the next write waits for its file.
    file_wanted_since: Option<Instant>,
    pending_bytes: u64,
    written: Position,
    synced: Position,
    synced_at: Instant,
    /// When the last records were synced without a mark behind them that says so.
    unmarked_since: Option<Instant>,
    /// Files exist for all segments up to this number.
    prepared: u32,
    /// Files were asked for, with the size that they have, up to this number.
    asked: u32,
    /// Segments that are larger than usual, and their bytes, until their files exist.
    large: VecDeque<(u32, u32)>,
    /// Where segments ended that were left behind.
    ends: VecDeque<Position>,
}

struct Batch {
    start: Position,
    end: Position,
    buffers: Vec<Bytes>,
    gather: BytesMut,
    records: u32,
}

struct InFlight {
    end: Position,
    since: Instant,
    bytes: u64,
    sync: bool,
    records: u32,
}

/// What a series is made with.
pub(super) struct Setup {
    pub(super) survivors: bool,
    pub(super) log: u64,
    pub(super) segment_bytes: u32,
    pub(super) unsynced: bool,
    /// The first segment to write; its file does not exist.
    pub(super) number: u32,
}

impl Series {
    pub(super) fn new(setup: &Setup) -> Self {
        let tail = Position::new(setup.number, SEGMENT_HEAD_BYTES);
        let first_bytes = setup.segment_bytes.min(FIRST_SEGMENT_BYTES);
        Self {
            survivors: setup.survivors,
            log: setup.log,
            segment_bytes: setup.segment_bytes,
            unsynced: setup.unsynced,
            tail,
            capacity: first_bytes,
            first: (setup.number, first_bytes),
            batches: VecDeque::new(),
            in_flight: None,
            file_wanted_since: None,
            pending_bytes: 0,
            written: tail,
            synced: tail,
            synced_at: Instant(0),
            unmarked_since: None,
            prepared: setup.number - 1,
            asked: setup.number - 1,
            large: VecDeque::new(),
            ends: VecDeque::new(),
        }
    }

    /// Where the next byte goes; everything appended lies before it.
    pub(super) fn tail(&self) -> Position {
        self.tail
    }

    /// Everything before this may be told to be durable.
    pub(super) fn durable(&self) -> Position {
        if self.unsynced {
            self.written
        } else {
            self.synced
        }
    }

    /// Everything before this is on disk.
    pub(super) fn synced(&self) -> Position {
        self.synced
    }

    /// Everything before this is at least in the file.
    pub(super) fn written(&self) -> Position {
        self.written
    }

    /// Bytes appended that are not on disk.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Since when something waits to be on disk: a write, or the file that it is to go into.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let written = self.in_flight.as_ref().map(|write| write.since);
        written.or(self.file_wanted_since)
    }

    pub(super) fn id(&self, number: u32) -> SegmentId {
        if self.survivors {
            SegmentId::survivor(number)
        } else {
            SegmentId(number)
        }
    }

    /// Appends a record and gives the place of its payload's first byte.
    pub(super) fn append(&mut self, head: &Head, payload: &Bytes) -> Place {
        let length = u32::try_from(payload.len()).expect("payloads are below their limit");
        assert!(
            length <= PAYLOAD_BYTES_LIMIT,
            "payloads are below their limit"
        );
        self.make_room(record::size(length));
        self.open_batch();
        let at = self.at();
        let batch = self.batches.back_mut().expect("a batch is open");
        let gathers = payload.len() <= GATHER_BYTES;
        if gathers {
            batch.gather.reserve(record::size(length) as usize);
        }
        record::encode_head(at, head, payload, &mut batch.gather);
        if gathers {
            batch.gather.extend_from_slice(payload);
        } else {
            batch.buffers.push(batch.gather.split().freeze());
            batch.buffers.push(payload.clone());
        }
        batch.gather.extend_from_slice(record::padding(length));
        batch.records += 1;
        self.advance(record::size(length));
        Place {
            segment: at.segment,
            offset: at.offset + HEAD_BYTES,
        }
    }

    fn at(&self) -> At {
        At {
            log: self.log,
            segment: self.id(self.tail.number()),
            offset: self.tail.offset(),
        }
    }

    fn advance(&mut self, bytes: u32) {
        self.tail = Position::new(self.tail.number(), self.tail.offset() + bytes);
        self.pending_bytes += u64::from(bytes);
        if let Some(batch) = self.batches.back_mut() {
            batch.end = self.tail;
        }
    }

    /// Leaves the segment when a record of `size` bytes does not fit any more. One that fits in
    /// no segment gets one of its own size, the next whose file has not been asked for.
    fn make_room(&mut self, size: u32) {
        let needed = HEAD_BYTES + size + RESERVED_BYTES;
        while self.tail.offset() + needed > self.capacity {
            let number = self.tail.number();
            let open = self.survivors || number > self.asked;
            if self.tail.offset() == SEGMENT_HEAD_BYTES && open {
                self.capacity = SEGMENT_HEAD_BYTES + needed;
                self.large.push_back((number, self.capacity));
                return;
            }
            self.seal();
        }
    }

    fn seal(&mut self) {
        self.open_batch();
        let at = self.at();
        let batch = self.batches.back_mut().expect("a batch is open");
        record::encode_head(at, &Head::seal(), &[], &mut batch.gather);
        batch.records += 1;
        self.advance(HEAD_BYTES);
        self.ends.push_back(self.tail);
        self.tail = Position::new(self.tail.number() + 1, SEGMENT_HEAD_BYTES);
        self.capacity = self.segment_bytes;
    }

    /// Sees to it that the last batch is one of the tail's segment, with room for its mark.
    fn open_batch(&mut self) {
        let open = self
            .batches
            .back()
            .is_some_and(|batch| batch.start.number() == self.tail.number());
        if open {
            return;
        }
        let mut buffers = Vec::with_capacity(4);
        buffers.push(Bytes::new());
        self.batches.push_back(Batch {
            start: self.tail,
            end: self.tail,
            // The mark's place, filled when the batch is handed out.
            buffers,
            gather: BytesMut::new(),
            records: 0,
        });
        self.advance(HEAD_BYTES);
    }

    /// A segment that was left behind and is in its file to its end: its number and its length.
    pub(super) fn take_sealed(&mut self) -> Option<(u32, u32)> {
        let written = self.written;
        let end = self.ends.pop_front_if(|end| *end <= written)?;
        Some((end.number(), end.offset()))
    }

    /// The segment whose file should be made next, if any.
    pub(super) fn wants_file(&self) -> Option<u32> {
        let last = self.tail.number();
        let used = self.tail.offset() - SEGMENT_HEAD_BYTES;
        let ahead = !self.survivors && used > self.capacity / 2;
        let begun = !self.survivors || !self.batches.is_empty();
        let wanted = if ahead { last + 1 } else { last };
        (begun && self.prepared < wanted).then_some(self.prepared + 1)
    }

    /// The file of segment `number` is being made, with as many bytes as it has now.
    pub(super) fn asked_for(&mut self, number: u32) {
        self.asked = self.asked.max(number);
    }

    /// The file of segment `number` exists, with its directory synced.
    pub(super) fn prepared(&mut self, number: u32) {
        self.prepared = self.prepared.max(number);
        self.asked = self.asked.max(number);
        while self.large.pop_front_if(|it| it.0 <= number).is_some() {}
    }

    /// Bytes that the files will have which are still to be asked for.
    pub(super) fn unasked_bytes(&self) -> u64 {
        let unasked = self.asked + 1..=self.tail.number();
        unasked.map(|number| self.zeroed_bytes(number)).sum()
    }

    /// Bytes of zeros that the file of segment `number` is made with.
    pub(super) fn zeroed_bytes(&self, number: u32) -> u64 {
        let large = self.large.iter().find(|it| it.0 == number);
        let (first, first_bytes) = self.first;
        match (self.survivors, large) {
            (true, _) => 0,
            (false, Some(large)) => u64::from(large.1),
            (false, None) if number == first => u64::from(first_bytes),
            (false, None) => u64::from(self.segment_bytes),
        }
    }

    /// The first segment gets a file of the usual size.
    pub(super) fn widen(&mut self) {
        self.first.1 = self.segment_bytes;
        self.capacity = self.segment_bytes;
    }

    /// Whether the file of the segment that is to be written next is missing.
    pub(super) fn waits_for_file(&self) -> bool {
        let first = self.batches.front();
        first.is_some_and(|batch| batch.start.number() > self.prepared)
    }

    /// Hands out the next batch when none is in flight; `token` is used only then.
    pub(super) fn submit(&mut self, now: Instant, token: Token) -> Option<Op> {
        if self.in_flight.is_some() {
            return None;
        }
        if self.waits_for_file() {
            self.file_wanted_since.get_or_insert(now);
            return None;
        }
        self.file_wanted_since = None;
        if self.batches.is_empty() && self.mark_due().is_some_and(|due| due <= now) {
            self.make_room(0);
            self.open_batch();
        }
        let mut batch = self.batches.pop_front()?;
        let sync = self.syncs_now(now, batch.records == 0);
        self.in_flight = Some(InFlight {
            end: batch.end,
            since: now,
            bytes: batch.bytes(),
            sync,
            records: batch.records,
        });
        let (front, offset) = self.front(batch.start);
        batch.buffers[0] = front;
        if !batch.gather.is_empty() {
            batch.buffers.push(batch.gather.freeze());
        }
        Some(Op::Write {
            file: FileName::Segment(self.id(batch.start.number())),
            offset,
            buffers: batch.buffers,
            sync,
            token,
        })
    }

    fn syncs_now(&self, now: Instant, idle: bool) -> bool {
        if cfg!(warren_break = "no_fsync") {
            return false;
        }
        !self.unsynced || idle || now.micros_since(self.synced_at) > OS_SYNC_MICROS
    }

    /// What a batch begins with, and where in the file.
    fn front(&self, start: Position) -> (Bytes, u64) {
        let at = At {
            log: self.log,
            segment: self.id(start.number()),
            offset: start.offset(),
        };
        let mut front = BytesMut::with_capacity((SEGMENT_HEAD_BYTES + HEAD_BYTES) as usize);
        let mut offset = start.offset();
        if offset == SEGMENT_HEAD_BYTES {
            front.extend_from_slice(&record::encode_segment_head(self.log, at.segment));
            offset = 0;
        }
        record::encode_head(at, &Head::mark(self.synced), &[], &mut front);
        (front.freeze(), u64::from(offset))
    }

    /// Begins with a segment of at least this number. Only before the first append.
    pub(super) fn skip_to(&mut self, number: u32) {
        if number > self.tail.number() {
            debug_assert!(self.batches.is_empty() && self.in_flight.is_none());
            self.tail = Position::new(number, SEGMENT_HEAD_BYTES);
            self.written = self.tail;
            self.synced = self.tail;
            self.prepared = number - 1;
            self.asked = number - 1;
        }
    }

    /// Gives up what is not in its file and goes on in a new segment; gives the end of what is.
    pub(super) fn abandon(&mut self) -> Position {
        let left = self.written;
        self.in_flight = None;
        self.file_wanted_since = None;
        self.batches.clear();
        self.ends.clear();
        self.pending_bytes = 0;
        self.tail = Position::new(self.tail.number() + 1, SEGMENT_HEAD_BYTES);
        self.capacity = self.segment_bytes;
        self.prepared(self.tail.number() - 1);
        self.written = self.tail;
        self.synced = self.tail;
        left
    }

    /// When an idle series should say that all it has is synced.
    pub(super) fn mark_due(&self) -> Option<Instant> {
        let since = self.unmarked_since.filter(|_| !self.survivors)?;
        let idle = self.in_flight.is_none() && self.batches.is_empty();
        idle.then(|| since.plus_millis(IDLE_MARK_MILLIS))
    }

    /// The write in flight is done; true when something other than a mark became durable.
    pub(super) fn complete(&mut self) -> bool {
        let Some(write) = self.in_flight.take() else {
            return false;
        };
        debug_assert!(write.bytes > 0);
        self.pending_bytes -= write.bytes;
        self.written = write.end;
        if write.sync || cfg!(warren_break = "no_fsync") {
            self.synced = write.end;
            self.synced_at = write.since;
        }
        self.unmarked_since = (write.records > 0).then_some(write.since);
        write.records > 0
    }
}

impl Batch {
    fn bytes(&self) -> u64 {
        u64::from(self.end.offset() - self.start.offset())
    }
}
