//! The entries that raft-rs may still ask for, and where they begin.
//!
//! Always holds:
//! - indexes ascend without gaps from `base` (exclusive), the last entry that is forgotten;
//! - `bytes` is the sum of what is kept;
//! - a snapshot's content travels by another way (the lane's transfer): the library is given one
//!   only once its receiver has it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raft::prelude::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::{Members, SnapshotOf, Start};
use crate::ids::{Index, ReplicaId};

/// Bytes of applied entries kept in any case, for a peer that is a little behind.
const KEPT_BYTES_MIN: u64 = 2 << 20;
/// And at most, while a peer lacks them; one that is further behind gets a snapshot.
const KEPT_BYTES_MAX: u64 = 32 << 20;
/// What an entry costs beside its data.
const ENTRY_BYTES: u64 = 96;

pub(super) struct Kept {
    base_index: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
    bytes: u64,
    hard: HardState,
    state: ConfState,
    /// What `state` says, as we have it.
    members: Members,
    /// Entries above this one are kept, for a peer that is being rebuilt.
    pinned: Option<Index>,
    /// Peers that the library wanted a snapshot for.
    wants: RefCell<BTreeSet<u64>>,
    /// What peers have on their disks, to be told to them by the library.
    offers: BTreeMap<u64, SnapshotOf>,
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
        let entries = start.entries.into_iter().map(super::Entry::into_raft);
        let entries: VecDeque<Entry> = entries.collect();
        Self {
            base_index: index.0,
            base_term: term.0,
            bytes: entries.iter().map(cost).sum(),
            entries,
            hard,
            state: start.members.clone().into_raft(),
            members: start.members,
            pinned: None,
            wants: RefCell::new(BTreeSet::new()),
            offers: BTreeMap::new(),
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
        let replaced = self.entries.drain(at..).map(|entry| cost(&entry));
        self.bytes -= replaced.sum::<u64>();
        self.bytes += entries.iter().map(cost).sum::<u64>();
        self.entries.extend(entries);
    }

    /// Drops what is at or below `index`.
    pub(super) fn forget(&mut self, index: Index) {
        while self.base_index < index.0 && self.forget_first() {}
    }

    fn forget_first(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else {
            return false;
        };
        self.bytes -= cost(&entry);
        self.base_index = entry.index;
        self.base_term = entry.term;
        true
    }

    /// Drops of what is applied what need not be kept: `behind` is how far the last peer is.
    pub(super) fn forget_surplus(&mut self, applied: Index, behind: Index) {
        let pinned = self.pinned.map_or(u64::MAX, |index| index.0);
        while self.base_index < applied.0.min(pinned) {
            let needed = self.base_index >= behind.0;
            let limit = if needed {
                KEPT_BYTES_MAX
            } else {
                KEPT_BYTES_MIN
            };
            if self.bytes <= limit || !self.forget_first() {
                return;
            }
        }
    }

    /// Everything up to the snapshot's entry is in it.
    pub(super) fn restore(&mut self, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        self.base_index = metadata.index;
        self.base_term = metadata.term;
        self.entries.clear();
        self.bytes = 0;
        self.set_members(metadata.get_conf_state());
    }

    pub(super) fn first_kept(&self) -> Index {
        Index(self.base_index + 1)
    }

    pub(super) fn pin(&mut self, index: Option<Index>) {
        self.pinned = index;
    }

    pub(super) fn take_wants(&mut self) -> Vec<ReplicaId> {
        let wants = std::mem::take(self.wants.get_mut());
        wants.into_iter().map(ReplicaId).collect()
    }

    pub(super) fn offer(&mut self, to: ReplicaId, of: SnapshotOf) {
        self.offers.insert(to.0, of);
    }

    /// The peer did not take what was offered: it may have got further meanwhile, with somebody
    /// else who led. The library wants one anew.
    pub(super) fn withdraw(&mut self, to: ReplicaId) {
        self.offers.remove(&to.0);
    }

    pub(super) fn set_members(&mut self, state: &ConfState) {
        self.state = state.clone();
        self.members = Members::of(state);
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }
}

impl Storage for Kept {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState {
            hard_state: self.hard.clone(),
            conf_state: self.state.clone(),
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

    fn snapshot(&self, request: u64, to: u64) -> raft::Result<Snapshot> {
        let wait = raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable);
        match self.offers.get(&to) {
            // One from which on entries can be sent.
            Some(of) if of.index.0 >= request.max(self.base_index) => Ok(of.clone().into_raft()),
            _ => {
                self.wants.borrow_mut().insert(to);
                Err(wait)
            }
        }
    }
}

fn cost(entry: &Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_BYTES
}
