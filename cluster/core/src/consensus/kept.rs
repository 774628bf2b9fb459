//! The entries that raft-rs may still ask for, and where they begin.
//!
//! Indexes ascend without gaps from `base` (exclusive), the last entry that is forgotten.

use std::collections::VecDeque;

use raft::prelude::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::{Members, Start};
use crate::ids::Index;

pub(super) struct Kept {
    base_index: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
    hard: HardState,
    members: ConfState,
}

impl Kept {
    pub(super) fn new(start: Start) -> Self {
        let (index, term) = start.applied;
        let hard = HardState {
            term: start.hard.term.0,
            vote: start.hard.vote.0,
            commit: start.hard.commit.0.max(index.0),
            ..HardState::default()
        };
        Self {
            base_index: index.0,
            base_term: term.0,
            entries: start
                .entries
                .into_iter()
                .map(super::Entry::into_raft)
                .collect(),
            hard,
            members: start.members.into_raft(),
        }
    }

    fn last(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    /// Where the entry `index` is in the queue.
    fn at(&self, index: u64) -> Option<usize> {
        let at = index.checked_sub(self.base_index + 1)?;
        usize::try_from(at).ok()
    }

    /// Entries that are on their way into the log. The first one replaces all from its index on.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else {
            return;
        };
        let at = self
            .at(first.index)
            .expect("an applied entry is never replaced");
        assert!(at <= self.entries.len(), "entries follow each other");
        self.entries.truncate(at);
        self.entries.extend(entries);
    }

    /// Drops what is at or below `index`.
    pub(super) fn forget(&mut self, index: Index) {
        while self.base_index < index.0 {
            let Some(entry) = self.entries.pop_front() else {
                return;
            };
            self.base_index = entry.index;
            self.base_term = entry.term;
        }
    }

    pub(super) fn set_members(&mut self, state: &ConfState) {
        self.members = state.clone();
    }

    pub(super) fn state(&self) -> &ConfState {
        &self.members
    }

    pub(super) fn members(&self) -> Members {
        Members::of(&self.members)
    }
}

impl Storage for Kept {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState {
            hard_state: self.hard.clone(),
            conf_state: self.members.clone(),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let compacted = raft::Error::Store(StorageError::Compacted);
        let (Some(from), Some(to)) = (self.at(low), self.at(high)) else {
            return Err(compacted);
        };
        if to > self.entries.len() {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let mut entries: Vec<Entry> = self.entries.range(from..to).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base_index {
            return Ok(self.base_term);
        }
        let at = self
            .at(index)
            .ok_or(raft::Error::Store(StorageError::Compacted))?;
        let entry = self.entries.get(at);
        let entry = entry.ok_or(raft::Error::Store(StorageError::Unavailable))?;
        Ok(entry.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Peers that are too far behind get a snapshot by another way (the lane's transfer).
    fn snapshot(&self, _request: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(
            StorageError::SnapshotTemporarilyUnavailable,
        ))
    }
}
