//! What each segment of a series still is good for: live bodies, and records that no durable
//! checkpoint covers.
//!
//! Invariants:
//! - `live_count` is the number of references into the segment that machines hold;
//! - a segment is pinned by a shard whose durable checkpoint does not cover the shard's last
//!   entry or hard state in it; what is behind the checkpoint and of an older term than it was
//!   replaced ([`Cover::covers`]), and pins nothing;
//! - references into segments that are gone are counted apart: after a restart a checkpoint may
//!   name segments whose live bodies were copied, or consumed by entries still to be replayed.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{Index, Place, ShardId, Term};
use crate::log::position::Position;
use crate::log::runs::{Run, Runs};

/// How far a shard's durable checkpoint reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Cover {
    /// The last entry that it contains.
    pub(super) index: Index,
    pub(super) term: Term,
    /// The log's tail when it was begun: it contains all hard states before.
    pub(super) begun: Position,
}

impl Cover {
    /// Whether the entry is in the checkpoint, or what replaced it is: terms never fall along a
    /// log, so one that follows the checkpoint's entry is not of an older term.
    pub(super) fn covers(&self, index: Index, term: Term) -> bool {
        index <= self.index || term < self.term
    }
}

pub(super) struct Segments {
    first: u32,
    table: VecDeque<Segment>,
    ghosts: BTreeMap<u32, Segment>,
    /// The largest number that a reference named and that does not exist.
    named: u32,
    /// Some segment may have become free or sparse since the last look.
    changed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Being written.
    Open,
    /// Never written again.
    Sealed,
    Gone,
}

pub(super) struct Segment {
    state: State,
    /// Bytes from the file's start to the last record's end; 0 while it is open.
    used: u32,
    live_bytes: u64,
    live_count: u64,
    /// Its live bodies could not be copied: not tried again.
    stuck: bool,
    runs: Runs,
    shards: Vec<Pin>,
}

#[derive(Clone, Copy)]
struct Pin {
    shard: ShardId,
    /// The largest index and the largest term of its entries here.
    index: Index,
    term: Term,
    /// Position of the last hard state; the smallest position when there is none.
    state: Position,
}

impl Segment {
    fn new(state: State, used: u32) -> Self {
        Self {
            state,
            used,
            live_bytes: 0,
            live_count: 0,
            stuck: false,
            runs: Runs::default(),
            shards: Vec::new(),
        }
    }

    fn retain(&mut self, shard: ShardId, key: u64, id: u64, len: u32) {
        self.live_bytes += u64::from(len);
        self.live_count += 1;
        self.runs.note(shard, key, id);
    }

    /// True when that was the last reference.
    fn release(&mut self, len: u32) -> bool {
        debug_assert!(self.live_count > 0);
        self.live_bytes = self.live_bytes.saturating_sub(u64::from(len));
        self.live_count = self.live_count.saturating_sub(1);
        if self.live_count == 0 {
            self.live_bytes = 0;
            self.runs.clear();
        }
        self.live_count == 0
    }

    fn is_sparse(&self) -> bool {
        self.live_bytes * 4 < u64::from(self.used)
    }

    fn pin(&mut self, shard: ShardId) -> &mut Pin {
        let at = match self.shards.iter().position(|pin| pin.shard == shard) {
            Some(at) => at,
            None => {
                self.shards.push(Pin {
                    shard,
                    index: Index(0),
                    term: Term(0),
                    state: Position::default(),
                });
                self.shards.len() - 1
            }
        };
        &mut self.shards[at]
    }

    /// The shards whose checkpoints do not cover what they have here.
    fn pinned_by(&self, covers: &BTreeMap<ShardId, Cover>) -> impl Iterator<Item = ShardId> {
        let uncovered = |pin: &&Pin| {
            let cover = covers.get(&pin.shard).copied().unwrap_or_default();
            let state_uncovered = pin.state != Position::default() && pin.state >= cover.begun;
            !cover.covers(pin.index, pin.term) || state_uncovered
        };
        self.shards.iter().filter(uncovered).map(|pin| pin.shard)
    }

    fn is_pinned(&self, covers: &BTreeMap<ShardId, Cover>) -> bool {
        self.pinned_by(covers).next().is_some()
    }
}

impl Segments {
    /// A series whose next segment is `number`.
    pub(super) fn new(number: u32) -> Self {
        Self {
            first: number,
            table: VecDeque::new(),
            ghosts: BTreeMap::new(),
            named: 0,
            changed: false,
        }
    }

    fn existing(&mut self, number: u32) -> Option<&mut Segment> {
        let at = number.wrapping_sub(self.first) as usize;
        self.table
            .get_mut(at)
            .filter(|segment| segment.state != State::Gone)
    }

    /// The tail came to this segment: it and those on the way there were begun.
    pub(super) fn begin_through(&mut self, number: u32) {
        while self.next() <= number {
            self.begin(self.next());
        }
    }

    /// Where the table ends.
    fn next(&self) -> u32 {
        self.first + self.table.len() as u32
    }

    /// The next segment to be begun has this number; those before it never existed.
    pub(super) fn skip_to(&mut self, number: u32) {
        if self.table.is_empty() {
            self.first = self.first.max(number);
        }
        while self.next() < number {
            self.table.push_back(Segment::new(State::Gone, 0));
        }
    }

    /// The segment was begun; those before it that are open stay so until [`Segments::seal`].
    pub(super) fn begin(&mut self, number: u32) {
        self.put(number, Segment::new(State::Open, 0));
    }

    /// A segment found at the start, with its bytes in use.
    pub(super) fn found(&mut self, number: u32, used: u32) {
        self.put(number, Segment::new(State::Sealed, used));
        self.changed = true;
    }

    fn put(&mut self, number: u32, segment: Segment) {
        if self.table.is_empty() {
            self.first = number;
        }
        debug_assert!(number >= self.next());
        self.skip_to(number);
        self.table.push_back(segment);
    }

    /// Nothing more will be written to it, and all that was is on disk.
    pub(super) fn seal(&mut self, number: u32, used: u32) {
        if let Some(segment) = self.existing(number) {
            segment.state = State::Sealed;
            segment.used = used;
            self.changed = true;
        }
    }

    pub(super) fn note_entry(&mut self, number: u32, shard: ShardId, index: Index, term: Term) {
        if let Some(segment) = self.existing(number) {
            let pin = segment.pin(shard);
            pin.index = pin.index.max(index);
            pin.term = pin.term.max(term);
        }
    }

    pub(super) fn note_state(&mut self, position: Position, shard: ShardId) {
        if let Some(segment) = self.existing(position.number()) {
            segment.pin(shard).state = position;
        }
    }

    pub(super) fn retain(&mut self, shard: ShardId, key: u64, id: u64, place: Place, len: u32) {
        let number = place.segment.number();
        if let Some(segment) = self.existing(number) {
            segment.retain(shard, key, id, len);
        } else {
            self.named = self.named.max(number);
            let ghost = self.ghosts.entry(number);
            ghost
                .or_insert_with(|| Segment::new(State::Gone, u32::MAX))
                .retain(shard, key, id, len);
        }
    }

    pub(super) fn release(&mut self, place: Place, len: u32) {
        let number = place.segment.number();
        if let Some(segment) = self.existing(number) {
            let was_sparse = segment.is_sparse();
            let dead = segment.release(len);
            let sealed = segment.state == State::Sealed;
            if sealed && (dead || segment.is_sparse() != was_sparse) {
                self.changed = true;
            }
        } else if let Some(ghost) = self.ghosts.get_mut(&number)
            && ghost.release(len)
        {
            self.ghosts.remove(&number);
        }
    }

    /// The largest number that a reference named though no such segment exists; 0 when none did.
    pub(super) fn named(&self) -> u32 {
        self.named
    }

    /// What the shard has here pins nothing any more.
    pub(super) fn unpin(&mut self, shard: ShardId) {
        for segment in &mut self.table {
            segment.shards.retain(|pin| pin.shard != shard);
        }
        self.look_again();
    }

    /// A checkpoint became durable: pins may have gone.
    pub(super) fn look_again(&mut self) {
        self.changed = true;
    }

    /// Whether anything happened since the last call that could free a segment.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Takes out every sealed segment that nothing needs: its number and its bytes in use.
    pub(super) fn take_dead(&mut self, covers: &BTreeMap<ShardId, Cover>) -> Vec<(u32, u32)> {
        let mut dead = Vec::new();
        for (at, segment) in self.table.iter_mut().enumerate() {
            let needed = segment.live_count > 0 || segment.is_pinned(covers);
            if segment.state == State::Sealed && !needed {
                dead.push((self.first + at as u32, segment.used));
                *segment = Segment::new(State::Gone, 0);
            }
        }
        while self.table.len() > 1 && self.table[0].state == State::Gone {
            self.table.pop_front();
            self.first += 1;
        }
        dead
    }

    /// Recovery cut it off: it holds nothing.
    pub(super) fn lost(&mut self, number: u32) {
        if let Some(segment) = self.existing(number) {
            *segment = Segment::new(State::Gone, 0);
        }
    }

    /// The segments that exist.
    pub(super) fn existing_numbers(&self) -> Vec<u32> {
        let exists = |(_, segment): &(u32, &Segment)| segment.state != State::Gone;
        let numbered = (self.first..).zip(&self.table).filter(exists);
        numbered.map(|(number, _)| number).collect()
    }

    /// The shard to write a checkpoint of, of those that `may`, so that an old segment with
    /// little in it can go.
    pub(super) fn pinning(
        &self,
        spared: usize,
        covers: &BTreeMap<ShardId, Cover>,
        may: impl Fn(ShardId) -> bool,
    ) -> Option<ShardId> {
        self.old(spared)
            .filter(|(_, segment)| segment.is_sparse())
            .flat_map(|(_, segment)| segment.pinned_by(covers))
            .find(|shard| may(*shard))
    }

    /// An old sealed segment that only a few live bodies keep.
    pub(super) fn victim(&self, spared: usize, covers: &BTreeMap<ShardId, Cover>) -> Option<u32> {
        self.old(spared)
            .filter(|(_, segment)| segment.is_sparse() && segment.live_count > 0 && !segment.stuck)
            .find(|(_, segment)| !segment.is_pinned(covers))
            .map(|(number, _)| number)
    }

    /// Sealed segments from the oldest on, but for the `spared` newest.
    fn old(&self, spared: usize) -> impl Iterator<Item = (u32, &Segment)> {
        let sealed = self.sealed_count();
        (self.first..)
            .zip(&self.table)
            .filter(|(_, segment)| segment.state == State::Sealed)
            .take(sealed.saturating_sub(spared))
    }

    /// Copying did not empty it: leave it alone from here on.
    pub(super) fn give_up(&mut self, number: u32) {
        if let Some(segment) = self.existing(number) {
            segment.stuck = true;
        }
    }

    pub(super) fn runs(&self, number: u32) -> Vec<Run> {
        let at = number.wrapping_sub(self.first) as usize;
        let existing = self.table.get(at).filter(|s| s.state != State::Gone);
        let segment = existing.or_else(|| self.ghosts.get(&number));
        segment
            .map(|segment| segment.runs.merged())
            .unwrap_or_default()
    }

    pub(super) fn exists(&self, number: u32) -> bool {
        let at = number.wrapping_sub(self.first) as usize;
        self.table.get(at).is_some_and(|s| s.state != State::Gone)
    }

    pub(super) fn live_count(&self, number: u32) -> u64 {
        let at = number.wrapping_sub(self.first) as usize;
        let existing = self.table.get(at).filter(|s| s.state != State::Gone);
        let segment = existing.or_else(|| self.ghosts.get(&number));
        segment.map_or(0, |segment| segment.live_count)
    }

    /// Bytes of a sealed segment that are in use; `None` for others.
    pub(super) fn sealed_bytes(&self, number: u32) -> Option<u32> {
        let at = number.wrapping_sub(self.first) as usize;
        let segment = self.table.get(at)?;
        (segment.state == State::Sealed).then_some(segment.used)
    }

    /// Segments that are gone though something refers to them.
    pub(super) fn ghosts(&self) -> Vec<u32> {
        self.ghosts.keys().copied().collect()
    }

    /// The oldest segment that holds something the covers do not.
    pub(super) fn first_pinned(&self, covers: &BTreeMap<ShardId, Cover>) -> Option<u32> {
        let mut numbered = (self.first..).zip(&self.table);
        let pinned = numbered.find(|(_, segment)| segment.is_pinned(covers));
        pinned.map(|(number, _)| number)
    }

    pub(super) fn sealed_count(&self) -> usize {
        let sealed = |segment: &&Segment| segment.state == State::Sealed;
        self.table.iter().filter(sealed).count()
    }

    /// How many segments exist, and their bytes; one that is open counts as `open_bytes`.
    pub(super) fn totals(&self, open_bytes: u32) -> (u32, u64) {
        let existing = self.table.iter().filter(|s| s.state != State::Gone);
        existing.fold((0, 0), |(count, bytes), segment| {
            let open = segment.state == State::Open;
            let used = if open { open_bytes } else { segment.used };
            (count + 1, bytes + u64::from(used))
        })
    }
}
