//! The newest entries of the log, kept in memory under a budget.
//!
//! Invariants:
//! - entries lie in the order of their positions, the oldest goes first;
//! - what is not yet in its file never goes;
//! - `bytes` is the sum of what the entries hold.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::ids::Place;
use crate::log::position::Position;

/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 96;

pub(super) struct Young {
    entries: VecDeque<Entry>,
    bytes: u64,
    bytes_limit: u64,
    /// Where the last search ended: the next one mostly ends there too, or right behind.
    hint: usize,
}

struct Entry {
    start: Position,
    bytes: Bytes,
}

impl Entry {
    fn has(&self, from: Position, len: u32) -> bool {
        let Some(skipped) = from.as_u64().checked_sub(self.start.as_u64()) else {
            return false;
        };
        skipped + u64::from(len) <= self.bytes.len() as u64
    }

    fn slice(&self, from: Position, len: u32) -> Bytes {
        let skipped = (from.as_u64() - self.start.as_u64()) as usize;
        self.bytes.slice(skipped..skipped + len as usize)
    }
}

impl Young {
    pub(super) fn new(bytes_limit: u64) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            bytes_limit,
            hint: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the newest entry.
    pub(super) fn push(&mut self, place: Place, bytes: &Bytes) {
        let start = Position::new(place.segment.number(), place.offset);
        debug_assert!(self.entries.back().is_none_or(|last| last.start < start));
        self.bytes += bytes.len() as u64 + ENTRY_BYTES;
        self.entries.push_back(Entry {
            start,
            bytes: bytes.clone(),
        });
    }

    /// Drops the oldest that lie before `written` until the rest is within the budget.
    pub(super) fn trim(&mut self, written: Position) {
        while self.bytes > self.bytes_limit {
            if self
                .entries
                .front()
                .is_none_or(|entry| entry.start >= written)
            {
                return;
            }
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.bytes.len() as u64 + ENTRY_BYTES;
                self.hint = self.hint.saturating_sub(1);
            }
        }
    }

    /// Whether the place is no older than all that is kept.
    pub(super) fn reaches(&self, place: Place) -> bool {
        let at = Position::new(place.segment.number(), place.offset);
        self.entries.front().is_some_and(|entry| entry.start <= at)
    }

    pub(super) fn get(&mut self, place: Place, len: u32) -> Option<Bytes> {
        let from = Position::new(place.segment.number(), place.offset);
        for index in [self.hint, self.hint + 1] {
            if let Some(entry) = self.entries.get(index)
                && entry.has(from, len)
            {
                self.hint = index;
                return Some(entry.slice(from, len));
            }
        }
        let index = self
            .entries
            .partition_point(|entry| entry.start <= from)
            .checked_sub(1)?;
        let entry = self
            .entries
            .get(index)
            .filter(|entry| entry.has(from, len))?;
        let found = entry.slice(from, len);
        self.hint = index;
        Some(found)
    }
}
