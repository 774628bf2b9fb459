//! The log of a lane: one series of segments for the entries of all its shards, which at the
//! same time is the store of their messages' bodies.
//!
//! Stepped like everything here: appends and completions go in, disk operations
//! ([`Log::submit`]) and events ([`Log::pop_event`]) come out. Invariants:
//! - what [`Event::Persisted`] tells is on disk;
//! - a segment's file goes only when every shard's records in it are covered by that shard's
//!   durable checkpoint and no machine refers to a body in it;
//! - every body that a machine refers to is in memory, in its segment's file, or in a survivors'
//!   segment whose record says where it belongs.

mod bodies;
mod checkpoints;
mod copies;
pub mod disk;
mod extents;
mod memory;
mod operations;
mod position;
pub mod record;
mod recovery;
mod runs;
mod segments;
mod series;
pub mod sim;
mod spares;
mod transfer;
mod young;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::checkpoint::{Header, Writer};
use crate::ids::{Index, Instant, Place, ShardId, Term};
use crate::log::bodies::Store;
use crate::log::checkpoints::Checkpoints;
use crate::log::copies::Copies;
use crate::log::disk::{DiskError, FileName, Token};
use crate::log::extents::Extents;
use crate::log::memory::Memory;
use crate::log::record::{HEAD_BYTES, Head, Kind};
use crate::log::segments::{Cover, Segments};
use crate::log::series::{Series, Setup};
use crate::log::spares::Spares;
use crate::log::young::Young;

pub use bodies::View;
pub use position::Position;
pub use record::HardState;
pub use recovery::{CheckpointError, Item, Recovery};
pub use transfer::DurableCheckpoint;

/// Log bytes after which it is worth a look whether a checkpoint is due.
const LOOK_BYTES: u64 = 1 << 20;
/// What a segment holds beside the payload of an only entry: its head, marks and a seal.
const LARGE_MARGIN_BYTES: u64 = 1024;

/// How a lane's log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// The log's identity: part of every checksum. Never changes for a folder.
    pub log: u64,
    /// Bytes of a segment's file.
    pub segment_bytes: u32,
    /// Sealed segments that are not worth a checkpoint or copying.
    pub segments_target: usize,
    /// Recent entries kept in memory, in bytes.
    pub young_bytes: u64,
    /// Bodies read back from disk and kept for a while, in bytes.
    pub read_cache_bytes: u64,
    /// A shard's checkpoint is due after so many bytes of log, or twice its size if that is more.
    pub checkpoint_bytes: u64,
    /// Entries count as persisted when they are written, not when they are synced.
    pub sync_is_left_to_the_os: bool,
}

impl Options {
    /// The defaults for a log with this identity.
    #[must_use]
    pub fn new(log: u64) -> Self {
        Self {
            log,
            segment_bytes: 64 << 20,
            segments_target: 4,
            young_bytes: 64 << 20,
            read_cache_bytes: 32 << 20,
            checkpoint_bytes: 64 << 20,
            sync_is_left_to_the_os: false,
        }
    }
}

/// What the log has to tell its lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Everything appended before this position ([`Log::tail`] after the append) is durable.
    Persisted(Position),
    /// What the machine wanted under this key is in memory: call its `resume`.
    Resume { shard: ShardId, key: u64 },
    /// A body was copied: call the machine's `relocate`.
    Relocate(Relocation),
    /// The checkpoint is durable: entries up to `index` may be forgotten.
    CheckpointDurable { shard: ShardId, index: Index },
    /// The disk was full; the log gave the checkpoint up: call the machine's `checkpoint_abort`.
    CheckpointFailed { shard: ShardId },
    /// Part of the shard's newest checkpoint ([`Log::read_checkpoint`]).
    CheckpointRead {
        shard: ShardId,
        offset: u64,
        bytes: Bytes,
    },
}

/// A body that lies elsewhere now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relocation {
    pub shard: ShardId,
    pub key: u64,
    pub id: u64,
    pub from: Place,
    pub to: Place,
}

/// Why the log cannot go on. Each of them ends the process.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot list the log's files: {source}")]
    List { source: DiskError },
    #[error("{action} of {file} failed: {source}")]
    Disk {
        action: &'static str,
        file: FileName,
        source: DiskError,
    },
    #[error("{file} is damaged at byte {offset}: {cause}")]
    Corrupt {
        file: FileName,
        offset: u64,
        cause: String,
    },
}

/// Figures for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Bytes of segment files, log and survivors together.
    pub log_bytes: u64,
    pub segments: u32,
    /// Recent entries in memory, in bytes.
    pub young_bytes: u64,
    /// Bodies read back and kept, in bytes.
    pub read_cache_bytes: u64,
    /// Entries of unlogged shards, in bytes.
    pub memory_bytes: u64,
    /// Syncs of the log that were answered.
    pub syncs: u64,
}

/// See the module.
pub struct Log {
    options: Options,
    main: Series,
    survivors: Series,
    copies: Copies,
    store: Store,
    checkpoints: Checkpoints,
    /// Log bytes of each shard since its last checkpoint began.
    appended: BTreeMap<ShardId, u64>,
    /// The same, before the checkpoint under way began: it may fail.
    appended_before: u64,
    /// Before these the log is of earlier replicas of their shards.
    floors: BTreeMap<ShardId, Position>,
    /// The shard to write a checkpoint of, as of the last look.
    wanted: Option<ShardId>,
    looking: bool,
    unlooked_bytes: u64,
    events: VecDeque<Event>,
    jobs: BTreeMap<Token, (Job, FileName)>,
    last_token: u64,
    /// From this segment on files have the usual size.
    first: u32,
    /// The next file is being made, which takes so many bytes that the disk may not show yet.
    creating: Option<u64>,
    creating_survivors: bool,
    spares: Spares,
    free_disk_bytes: u64,
    /// A file could not be made or written for want of space.
    full: bool,
    /// See [`Log::adopted_losses`].
    adopted_losses: u64,
    syncs: u64,
    /// Shards whose checkpoints are held, and how often.
    held: BTreeMap<ShardId, u32>,
    checkpoint_reads: VecDeque<transfer::Wanted>,
}

/// What an operation was for.
enum Job {
    Log,
    NextFile {
        number: u32,
    },
    Survivors,
    SurvivorFile {
        number: u32,
    },
    SurvivorRead,
    Remove,
    Checkpoint,
    CheckpointRead {
        shard: ShardId,
        number: u64,
        offset: u64,
    },
    Read,
}

impl Log {
    /// A log in an empty folder.
    #[must_use]
    pub fn blank(options: Options) -> Self {
        let mut log = Self::starting_at(options, 1, 1);
        log.store.segments.begin(1);
        log
    }

    /// A log that goes on with these segments, which were never used.
    fn starting_at(options: Options, number: u32, survivors: u32) -> Self {
        let series = |survivors, number| {
            Series::new(&Setup {
                survivors,
                log: options.log,
                segment_bytes: options.segment_bytes,
                // What was synced once must not depend on a copy that is not.
                unsynced: options.sync_is_left_to_the_os && !survivors,
                number,
            })
        };
        Self {
            main: series(false, number),
            survivors: series(true, survivors),
            copies: Copies::new(),
            store: Store {
                segments: Segments::new(number),
                survivors: Segments::new(survivors),
                memory: Memory::default(),
                young: Young::new(options.young_bytes),
                extents: Extents::new(options.read_cache_bytes),
            },
            checkpoints: Checkpoints::default(),
            appended: BTreeMap::new(),
            appended_before: 0,
            floors: BTreeMap::new(),
            wanted: None,
            looking: false,
            unlooked_bytes: 0,
            events: VecDeque::new(),
            jobs: BTreeMap::new(),
            last_token: 0,
            first: number + 1,
            creating: None,
            creating_survivors: false,
            spares: Spares::default(),
            free_disk_bytes: u64::MAX,
            full: false,
            adopted_losses: 0,
            syncs: 0,
            held: BTreeMap::new(),
            checkpoint_reads: VecDeque::new(),
            options,
        }
    }

    /// Appends an entry and gives the place of the payload's first byte. The payload is kept by
    /// reference: it must fill most of its buffer. `entry_kind` is the consensus layer's own.
    pub fn append_entry(
        &mut self,
        shard: ShardId,
        term: Term,
        index: Index,
        entry_kind: u8,
        payload: &Bytes,
    ) -> Place {
        let head = Head {
            kind: Kind::Entry,
            entry_kind,
            shard,
            term: term.0,
            index: index.0,
        };
        let place = self.append(shard, &head, payload);
        let number = place.segment.number();
        self.store.segments.note_entry(number, shard, index, term);
        if has_bodies(shard, payload) {
            self.store.young.push(place, payload);
        }
        place
    }

    /// Appends a shard's term, vote and commit.
    pub fn append_hard_state(&mut self, shard: ShardId, state: HardState) {
        let (head, vote) = state.parts(shard);
        let place = self.append(shard, &head, &Bytes::copy_from_slice(&vote));
        let position = Position::new(place.segment.number(), place.offset - HEAD_BYTES);
        self.store.segments.note_state(position, shard);
    }

    fn append(&mut self, shard: ShardId, head: &Head, payload: &Bytes) -> Place {
        let place = self.main.append(head, payload);
        self.store.segments.begin_through(place.segment.number());
        let bytes = u64::from(HEAD_BYTES) + payload.len() as u64;
        *self.appended.entry(shard).or_default() += bytes;
        self.unlooked_bytes += bytes;
        place
    }

    /// An entry that recovery found.
    fn recovered_entry(
        &mut self,
        shard: ShardId,
        (index, term): (Index, Term),
        place: Place,
        payload: &Bytes,
    ) {
        let number = place.segment.number();
        self.store.segments.note_entry(number, shard, index, term);
        let bytes = u64::from(HEAD_BYTES) + payload.len() as u64;
        *self.appended.entry(shard).or_default() += bytes;
        self.unlooked_bytes += bytes;
        if has_bodies(shard, payload) {
            self.store.young.push(place, payload);
            self.store.young.trim(Position::from_u64(u64::MAX));
        }
    }

    /// Takes an entry of an unlogged shard into memory, until [`Log::memory_applied`] at least.
    pub fn append_memory(&mut self, payload: Bytes) -> Place {
        self.store.memory.insert(payload)
    }

    /// The entry at this place was applied: it goes when nothing of it is retained.
    pub fn memory_applied(&mut self, place: Place) {
        self.store.memory.applied(place);
    }

    /// Everything appended so far lies before this.
    #[must_use]
    pub fn tail(&self) -> Position {
        self.main.tail()
    }

    /// Everything before this is durable.
    #[must_use]
    pub fn persisted(&self) -> Position {
        self.main.durable()
    }

    /// Bytes appended that are not durable.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.main.pending_bytes()
    }

    /// How long the oldest write waits to be on disk, in microseconds; 0 when none does.
    #[must_use]
    pub fn sync_age(&self, now: Instant) -> u64 {
        let since = self.main.waits_since();
        since.map_or(0, |since| now.micros_since(since))
    }

    /// When [`Log::submit`] should be called though nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let mark = self.main.mark_due();
        mark.into_iter().chain(self.spares.deadline()).min()
    }

    /// The bodies as the machine of `shard` sees them.
    pub fn bodies(&mut self, shard: ShardId) -> View<'_> {
        View {
            store: &mut self.store,
            shard,
        }
    }

    /// The bodies, and the writer of the shard's checkpoint while one is being written.
    pub fn split(&mut self, shard: ShardId) -> (View<'_>, Option<&mut Writer>) {
        let view = View {
            store: &mut self.store,
            shard,
        };
        (view, self.checkpoints.writer(shard))
    }

    /// The next thing to tell.
    pub fn pop_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Bytes of disk that publishes may take; `None` when they may not come: settles and votes
    /// may always, and find two segments and a checkpoint's room kept for them.
    #[must_use]
    pub fn room_for_publishes(&self) -> Option<u64> {
        let segment = u64::from(self.options.segment_bytes);
        let checkpoint = 2 * self.checkpoints.bytes_max();
        let kept = 2 * segment + checkpoint + self.main.unasked_bytes();
        // No entry that wants a segment of its own finds room there.
        let spare = segment * self.spares.len() as u64;
        let enough = self.free_disk_bytes.saturating_add(spare) >= kept;
        (enough && !self.full).then(|| self.free_disk_bytes.saturating_sub(kept))
    }

    /// Whether a publish of so many bytes finds room.
    #[must_use]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        let room = self.room_for_publishes();
        room.is_some_and(|room| room >= self.room_wanted(bytes))
    }

    /// Bytes that a publish of so many wants on this disk, and on those of other voters, beside
    /// what is kept: none where it fits into a segment, else a segment of its own.
    #[must_use]
    pub fn room_wanted(&self, bytes: usize) -> u64 {
        let fits = bytes as u64 + LARGE_MARGIN_BYTES <= u64::from(self.options.segment_bytes);
        if fits { 0 } else { 2 * bytes as u64 }
    }

    /// What the file system has left.
    pub fn set_free_disk(&mut self, bytes: u64) {
        self.free_disk_bytes = bytes.saturating_sub(self.creating.unwrap_or(0));
        self.looking |= self.full;
        if self.free_disk_bytes > u64::from(self.options.segment_bytes) {
            self.full = false;
        }
        self.looking |= self.room_for_publishes().is_none();
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let (segments, bytes) = self.store.segments.totals(self.options.segment_bytes);
        let (survivors, survivor_bytes) = self.store.survivors.totals(0);
        Status {
            log_bytes: bytes + survivor_bytes,
            segments: segments + survivors,
            young_bytes: self.store.young.bytes(),
            read_cache_bytes: self.store.extents.bytes(),
            memory_bytes: self.store.memory.bytes(),
            syncs: self.syncs,
        }
    }
}

/// Whether anybody may ask for a part of the payload again: rows are copied out when applied.
fn has_bodies(shard: ShardId, payload: &Bytes) -> bool {
    !payload.is_empty() && !shard.is_rows()
}

/// Checkpoints.
impl Log {
    /// Log bytes of the shard since its last checkpoint began.
    #[must_use]
    pub fn bytes_since_checkpoint(&self, shard: ShardId) -> u64 {
        self.appended.get(&shard).copied().unwrap_or(0)
    }

    /// The shard whose checkpoint should be written next, if one should and none is under way:
    /// one that pins an old segment with little in it, or one with much log since its last.
    #[must_use]
    pub fn checkpoint_wanted(&self) -> Option<ShardId> {
        self.wanted.filter(|_| self.checkpoints.is_idle())
    }

    /// Looks for one when enough has happened since the last look.
    fn look_for_checkpoint(&mut self) {
        if !self.looking && self.unlooked_bytes < LOOK_BYTES {
            return;
        }
        self.looking = false;
        self.unlooked_bytes = 0;
        self.wanted = if self.has_room_for_a_checkpoint() {
            self.due()
        } else {
            None
        };
    }

    /// It is what makes room: it is tried as well where a segment found none.
    fn has_room_for_a_checkpoint(&self) -> bool {
        !self.full || self.free_disk_bytes > 2 * self.checkpoints.bytes_max()
    }

    /// Sealed segments that are left alone though little in them lives: none where room is scarce.
    fn segments_spared(&self) -> usize {
        let roomy = self.room_for_publishes().is_some();
        if roomy {
            self.options.segments_target
        } else {
            0
        }
    }

    fn due(&self) -> Option<ShardId> {
        let covers = &self.checkpoints.covers;
        let spared = self.segments_spared();
        // What is being written need not be written again.
        let writing = self.checkpoints.shard();
        let may = |shard| writing != Some(shard) && !self.held.contains_key(&shard);
        // One begun since the tail came here covers all that can be covered now.
        let helps = |shard: ShardId| {
            let begun = covers.get(&shard).map_or(0, |cover| cover.begun.number());
            begun < self.main.tail().number() && may(shard)
        };
        let pinning = self.store.segments.pinning(spared, covers, helps);
        pinning.or_else(|| {
            let due = |(shard, bytes): &(&ShardId, &u64)| {
                let twice = 2 * self.checkpoints.bytes(**shard);
                may(**shard) && **bytes > self.options.checkpoint_bytes.max(twice)
            };
            self.appended.iter().find(due).map(|(shard, _)| *shard)
        })
    }

    /// The shard of the checkpoint under way.
    #[must_use]
    pub fn checkpoint_shard(&self) -> Option<ShardId> {
        self.checkpoints.shard()
    }

    /// Whether a checkpoint can be begun: the last one is done with, also on disk.
    #[must_use]
    pub fn checkpoint_is_idle(&self) -> bool {
        self.checkpoints.is_idle()
    }

    /// Begins the checkpoint of `shard` with everything up to the entry `index` applied. Its
    /// hard state and what else the replica keeps go in as parts of kinds other than 0.
    ///
    /// # Panics
    /// When one is under way ([`Log::checkpoint_is_idle`]).
    pub fn checkpoint_begin(&mut self, shard: ShardId, index: Index, term: Term) {
        let begun = self.main.tail();
        let covers = &mut self.checkpoints.covers;
        let before = covers.insert(shard, Cover { index, term, begun });
        let pinned = self.store.segments.first_pinned(covers);
        // It covers nothing before it is durable.
        match before {
            Some(before) => covers.insert(shard, before),
            None => covers.remove(&shard),
        };
        self.checkpoints.begin(Header {
            shard,
            index,
            term,
            log: self.options.log,
            number: 0,
            begun,
            replay_from: pinned.unwrap_or(u32::MAX).min(begun.number()),
            survivors: self.survivors.tail().number(),
            floor: self.floors.get(&shard).copied().unwrap_or_default(),
        });
        self.appended_before = self.appended.insert(shard, 0).unwrap_or(0);
        self.wanted = None;
        self.looking = true;
    }

    /// What the log has of the shard so far counts no more: its replica is given up. In force once
    /// a checkpoint of nothing that begins after this is durable: [`Log::given_up`].
    pub fn give_up(&mut self, shard: ShardId) {
        if self.checkpoint_shard() == Some(shard) {
            self.checkpoint_abort();
        }
        self.floors.insert(shard, self.main.tail());
    }

    /// The checkpoint of nothing is durable, and nothing came after it: the entries of the next
    /// replica may begin anew, with any index.
    pub fn given_up(&mut self, shard: ShardId) {
        self.store.segments.unpin(shard);
    }

    /// The writer of the shard's checkpoint while it is under way and not finished.
    pub fn checkpoint_writer(&mut self, shard: ShardId) -> Option<&mut Writer> {
        self.checkpoints.writer(shard)
    }

    /// Whether the disk keeps up: when not, write no more of the checkpoint in this step.
    #[must_use]
    pub fn checkpoint_is_hungry(&self) -> bool {
        self.checkpoints.is_hungry()
    }

    /// All of it is written; it becomes durable later ([`Event::CheckpointDurable`]).
    pub fn checkpoint_finish(&mut self) {
        self.checkpoints.finish();
    }

    /// Gives it up, if one is under way. No event follows.
    pub fn checkpoint_abort(&mut self) {
        if let Some(shard) = self.checkpoints.shard() {
            self.checkpoints.abort();
            self.checkpoint_failed(shard);
        }
    }

    fn checkpoint_failed(&mut self, shard: ShardId) {
        *self.appended.entry(shard).or_default() += self.appended_before;
        self.looking = true;
    }
}

#[cfg(test)]
mod tests;
