//! What a queue knows of each of its messages, by message id: small records in blocks.
//!
//! Invariants:
//! - ids only ever come in at the end, in ascending order; they go anywhere;
//! - a block holds the records of [`BLOCK_IDS`] neighbouring ids at most, so that an old record
//!   pins no more than its own block, and a block no more than four times what lives in it;
//! - every block in `sealed` has a live record, and numbers ascend to the tail's;
//! - an empty store keeps no more than a few records' room.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// Neighbouring ids in one block.
pub(crate) const BLOCK_IDS: u64 = 1024;

/// Records of room that an empty tail may keep, so that a queue that goes to and fro between
/// none and one message does not allocate each time.
const KEPT_ROOM: usize = 8;

/// A block shorter than this is not worth compacting.
const COMPACT_MIN: usize = 16;

/// Room for fewer records than this is not given back while any of them lives.
const SHRINK_MIN: usize = 64;

/// A record that lies in a block.
pub(crate) trait Record: Copy {
    /// The id's place in its block; [`GONE`] when the record is dead.
    fn offset(&self) -> u16;
    fn set_offset(&mut self, offset: u16);
}

/// The offset of a record that is dead: its place waits for the block to be compacted.
pub(crate) const GONE: u16 = 1 << 15;

/// Records of neighbouring ids.
#[derive(Clone, Debug)]
pub(crate) struct Block<T> {
    /// Ids from `number * BLOCK_IDS` on.
    number: u64,
    /// The checkpoint in which this block is written, or which it came too late for.
    pub(crate) epoch: u32,
    /// No live record lies before it.
    head: u16,
    live: u16,
    /// Ascending by offset, the dead ones (offset with [`GONE`] set) in their old places.
    items: Vec<T>,
}

/// All records of one queue.
#[derive(Clone, Debug)]
pub(crate) struct Blocks<T> {
    sealed: VecDeque<Block<T>>,
    tail: Block<T>,
    live: u64,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Self {
            sealed: VecDeque::new(),
            tail: Block {
                number: 0,
                epoch: 0,
                head: 0,
                live: 0,
                items: Vec::new(),
            },
            live: 0,
        }
    }
}

fn number_of(id: u64) -> u64 {
    id / BLOCK_IDS
}

fn offset_of(id: u64) -> u16 {
    (id % BLOCK_IDS) as u16
}

fn is_gone<T: Record>(item: &T) -> bool {
    item.offset() & GONE != 0
}

impl<T: Record> Block<T> {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn live(&self) -> u16 {
        self.live
    }

    /// The live records with their ids, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        let base = self.number * BLOCK_IDS;
        let items = self.items[usize::from(self.head).min(self.items.len())..].iter();
        items
            .filter(|item| !is_gone(*item))
            .map(move |item| (base + u64::from(item.offset()), item))
    }

    /// Where the record of `offset` is, or where it would be.
    fn position(&self, offset: u16) -> Result<usize, usize> {
        let Some(first) = self.items.first() else {
            return Err(0);
        };
        let guess = usize::from(offset.wrapping_sub(first.offset() & !GONE));
        if let Some(item) = self.items.get(guess)
            && item.offset() & !GONE == offset
        {
            return Ok(guess);
        }
        self.items
            .binary_search_by_key(&offset, |item| item.offset() & !GONE)
    }

    fn find(&self, offset: u16) -> Option<usize> {
        let at = self.position(offset).ok()?;
        (!is_gone(&self.items[at])).then_some(at)
    }

    /// The positions that ids in `ids` can have.
    fn span(&self, ids: &RangeInclusive<u64>) -> std::ops::Range<usize> {
        let base = self.number * BLOCK_IDS;
        let from = match ids.start().checked_sub(base) {
            Some(skipped) => self.position(skipped as u16).unwrap_or_else(|at| at),
            None => 0,
        };
        let last = ids.end().saturating_sub(base);
        let to = if last >= BLOCK_IDS - 1 {
            self.items.len()
        } else {
            self.position(last as u16).map_or_else(|at| at, |at| at + 1)
        };
        from.max(usize::from(self.head))..to
    }

    fn kill(&mut self, at: usize) -> T {
        let item = self.items[at];
        self.items[at].set_offset(item.offset() | GONE);
        self.live -= 1;
        item
    }

    /// After a kill: moves the head on and gives room back.
    fn tidy(&mut self) {
        if self.live == 0 {
            self.head = 0;
            self.items.clear();
            if self.items.capacity() > KEPT_ROOM {
                self.items = Vec::new();
            }
            return;
        }
        let dead = self.items[usize::from(self.head)..]
            .iter()
            .take_while(|item| is_gone(*item))
            .count();
        self.head += dead as u16;
        if self.items.len() >= COMPACT_MIN && usize::from(self.live) * 4 < self.items.len() {
            self.items.retain(|item| !is_gone(item));
            if self.items.capacity() > SHRINK_MIN {
                self.items.shrink_to(usize::from(self.live) * 2);
            }
            self.head = 0;
        }
    }
}

impl<T: Record> Blocks<T> {
    /// How many records there are.
    pub(crate) fn len(&self) -> u64 {
        self.live
    }

    /// Puts a record at the end. `epoch` marks a block that begins with it.
    pub(crate) fn push(&mut self, id: u64, mut item: T, epoch: u32) {
        let number = number_of(id);
        if self.tail.live == 0 {
            self.tail.items.clear();
            self.tail.head = 0;
            self.tail.number = number;
            self.tail.epoch = epoch;
        } else if self.tail.number != number {
            assert!(number > self.tail.number, "records come in ascending order");
            let next = Block {
                number,
                epoch,
                head: 0,
                live: 0,
                items: Vec::new(),
            };
            let mut full = std::mem::replace(&mut self.tail, next);
            full.items.shrink_to_fit();
            self.sealed.push_back(full);
        }
        let offset = offset_of(id);
        debug_assert!(
            self.tail
                .items
                .last()
                .is_none_or(|last| last.offset() & !GONE < offset),
            "records come in ascending order"
        );
        item.set_offset(offset);
        self.tail.items.push(item);
        self.tail.live += 1;
        self.live += 1;
    }

    pub(crate) fn get(&self, id: u64) -> Option<&T> {
        let block = self.block(self.locate(number_of(id)).ok()?);
        let at = block.find(offset_of(id))?;
        Some(&block.items[at])
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        let place = self.locate(number_of(id)).ok()?;
        let block = self.block_mut(place);
        let at = block.find(offset_of(id))?;
        Some(&mut block.items[at])
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let place = self.locate(number_of(id)).ok()?;
        let block = self.block_mut(place);
        let at = block.find(offset_of(id))?;
        let item = block.kill(at);
        block.tidy();
        self.live -= 1;
        self.forget_if_empty(place);
        Some(item)
    }

    /// The first record whose id is `id` or greater.
    pub(crate) fn first_from(&self, id: u64) -> Option<(u64, &T)> {
        let number = number_of(id);
        let mut place = self.locate(number).unwrap_or_else(|place| place);
        while place <= self.sealed.len() {
            let block = self.block(place);
            let from = if block.number == number {
                block.position(offset_of(id)).unwrap_or_else(|at| at)
            } else {
                0
            };
            let from = from.max(usize::from(block.head)).min(block.items.len());
            if block.number >= number
                && let Some(item) = block.items[from..].iter().find(|item| !is_gone(*item))
            {
                return Some((block.number * BLOCK_IDS + u64::from(item.offset()), item));
            }
            place += 1;
        }
        None
    }

    /// Calls `each` for every record in `ids`, ascending.
    pub(crate) fn for_range(
        &mut self,
        ids: RangeInclusive<u64>,
        mut each: impl FnMut(u64, &mut T),
    ) {
        let mut place = self.start(&ids);
        while place <= self.sealed.len() {
            let block = self.block_mut(place);
            if block.number > number_of(*ids.end()) {
                break;
            }
            let base = block.number * BLOCK_IDS;
            let span = block.span(&ids);
            for item in block.items.get_mut(span).unwrap_or_default() {
                if !is_gone(item) {
                    each(base + u64::from(item.offset()), item);
                }
            }
            place += 1;
        }
    }

    /// Removes the records in `ids` that `pick` says yes to; it sees them ascending.
    pub(crate) fn remove_range(
        &mut self,
        ids: RangeInclusive<u64>,
        mut pick: impl FnMut(u64, &T) -> bool,
    ) {
        let mut place = self.start(&ids);
        while place <= self.sealed.len() {
            let block = self.block_mut(place);
            if block.number > number_of(*ids.end()) {
                break;
            }
            let base = block.number * BLOCK_IDS;
            let before = block.live;
            for at in block.span(&ids) {
                let item = &block.items[at];
                if !is_gone(item) && pick(base + u64::from(item.offset()), item) {
                    block.kill(at);
                }
            }
            let removed = before - block.live;
            if removed > 0 {
                block.tidy();
            }
            self.live -= u64::from(removed);
            if !self.forget_if_empty(place) {
                place += 1;
            }
        }
    }

    /// All records in `ids` with their ids, ascending.
    pub(crate) fn range(&self, ids: RangeInclusive<u64>) -> impl Iterator<Item = (u64, &T)> {
        let first = self.start(&ids);
        let blocks = (first..=self.sealed.len()).map(|place| self.block(place));
        blocks
            .take_while({
                let last = number_of(*ids.end());
                move |block| block.number <= last
            })
            .flat_map(Block::iter)
            .filter(move |(id, _)| ids.contains(id))
    }

    /// The blocks with a number of `number` or more that hold anything.
    pub(crate) fn blocks_from(&mut self, number: u64) -> impl Iterator<Item = &mut Block<T>> {
        let first = self.locate(number).unwrap_or_else(|place| place);
        let tail = std::iter::once(&mut self.tail);
        let blocks = self.sealed.iter_mut().chain(tail).skip(first);
        blocks.filter(move |block| block.live > 0 && block.number >= number)
    }

    /// Takes a block as a checkpoint has it; blocks come in any order, records ascend.
    /// False when it overlaps with one that is there.
    #[must_use]
    pub(crate) fn insert_block(&mut self, number: u64, items: Vec<T>) -> bool {
        if items.is_empty() {
            return true;
        }
        let live = items.len() as u16;
        let block = Block {
            number,
            epoch: 0,
            head: 0,
            live,
            items,
        };
        match self.locate(number) {
            Ok(_) if self.live > 0 && (self.tail.live > 0 || number != self.tail.number) => {
                return false;
            }
            _ if self.tail.live == 0 => self.tail = block,
            _ if number > self.tail.number => {
                let older = std::mem::replace(&mut self.tail, block);
                self.sealed.push_back(older);
            }
            place => self
                .sealed
                .insert(place.unwrap_or_else(|place| place), block),
        }
        self.live += u64::from(live);
        true
    }

    /// The place of the first block that may hold any of `ids`.
    fn start(&self, ids: &RangeInclusive<u64>) -> usize {
        self.locate(number_of(*ids.start()))
            .unwrap_or_else(|place| place)
    }

    /// Where the block of this number is (the tail after all sealed ones), or would be.
    fn locate(&self, number: u64) -> Result<usize, usize> {
        if number == self.tail.number {
            return Ok(self.sealed.len());
        }
        let Some(first) = self.sealed.front() else {
            return Err(usize::from(number > self.tail.number));
        };
        let guess = number.wrapping_sub(first.number);
        if guess < self.sealed.len() as u64 && self.sealed[guess as usize].number == number {
            return Ok(guess as usize);
        }
        let found = self
            .sealed
            .binary_search_by_key(&number, |block| block.number);
        found.map_err(|place| place + usize::from(number > self.tail.number))
    }

    fn block(&self, place: usize) -> &Block<T> {
        self.sealed.get(place).unwrap_or(&self.tail)
    }

    fn block_mut(&mut self, place: usize) -> &mut Block<T> {
        if place < self.sealed.len() {
            &mut self.sealed[place]
        } else {
            &mut self.tail
        }
    }

    /// True when a sealed block went, so that the next one is now at its place.
    fn forget_if_empty(&mut self, place: usize) -> bool {
        let empty = self.sealed.get(place).is_some_and(|block| block.live == 0);
        if empty {
            self.sealed.remove(place);
            if self.sealed.is_empty() {
                self.sealed = VecDeque::new();
            }
        }
        empty
    }
}
