//! One shard's agreement on the order of its entries: the only file that names raft-rs.
//!
//! Steps in, values out. `tick`, `step`, `propose`, `campaign` and `on_persisted` are what
//! happens; [`Consensus::ready`] says what to do about it: entries to put into the log, messages
//! that may leave at once, entries to apply. What promises durability to others is held back
//! until `on_persisted`. An unlogged shard has the same face: its lane alone orders it, and an
//! entry is agreed on as soon as it is proposed.
//!
//! Always holds:
//! - readies are numbered, and their entries go into the log in that order;
//! - an entry is given out for `apply` once, in order, after this replica has persisted it;
//! - an entry stays in memory until [`Consensus::applied`] covers it.

mod group;
mod kept;
pub mod members;
pub mod message;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use raft::prelude::{EntryType, HardState};

use crate::ids::{Index, Instant, ReplicaId, Term};
use crate::machine::Malformed;
use group::Group;
pub use members::{MemberChange, Members};
pub use message::{Message, SnapshotOf};

/// Ticks without a leader's message after which a replica stands for election: at least this
/// many, less than twice as many.
pub const ELECTION_TICKS: u32 = 9;
/// An idle shard's leader beats at every second beat: still twice in what it takes to miss it.
pub const IDLE_BEAT_MILLIS: u64 = 2 * BEAT_MILLIS;
/// So many ticks without a leader's message mean that two beats did not come in time.
const MISSED_TICKS: usize = 5;

/// Milliseconds from one tick to the next, and at least: what a lease may last depends on it.
pub const TICK_MILLIS: u64 = 75;
pub const TICK_MILLIS_MIN: u64 = 67;
/// Milliseconds from one beat of a leader to the next: every second tick. What is said with one is
/// taken at the next, the answer goes along with that and is taken at the one after it: a lease
/// lasts longer than all that.
pub const BEAT_MILLIS: u64 = 2 * TICK_MILLIS;
/// By how much clocks of two nodes may drift apart within an election timeout, in milliseconds.
const DRIFT_MILLIS: u64 = 40;
/// How long a leader may act after it sent what a majority has answered. Of the ticks that a
/// replica counts before it grants a vote, the first may come at once.
const LEASE_MILLIS: u64 = (ELECTION_TICKS as u64 - 1) * TICK_MILLIS_MIN - DRIFT_MILLIS;

const _: () = assert!(2 * IDLE_BEAT_MILLIS < ELECTION_TICKS as u64 * TICK_MILLIS);
const _: () = assert!(LEASE_MILLIS > 3 * BEAT_MILLIS + DRIFT_MILLIS);

/// What a replica must never forget, but for `commit`, which others would tell it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hard {
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: ReplicaId,
    pub commit: Index,
}

/// What a replica knows when it starts.
#[derive(Clone, Debug)]
pub struct Start {
    pub replica: ReplicaId,
    pub hard: Hard,
    pub members: Members,
    /// The last entry that is applied (by a checkpoint, or by the recovery of a sole voter).
    pub applied: (Index, Term),
    /// Entries of the log after that one, in order.
    pub entries: Vec<Entry>,
    /// Spreads election timeouts.
    pub seed: u64,
    /// Whether followers are told at once what is committed, because somebody waits for what they
    /// make of it; else they learn it with the next entries or the next beat.
    pub tells_commits: bool,
}

/// What an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// The machine's. Without bytes it is the first of a term and nobody's.
    Normal = 0,
    /// A change of members in one step (raft's first form).
    MemberChange = 1,
    /// A change of members.
    MembersChange = 2,
}

impl EntryKind {
    /// Reads the kind that an entry's record in the log has.
    ///
    /// # Errors
    /// One that this build does not know.
    pub fn decode(byte: u8) -> Result<Self, Malformed> {
        match byte {
            0 => Ok(Self::Normal),
            1 => Ok(Self::MemberChange),
            2 => Ok(Self::MembersChange),
            _ => Err(Malformed {
                what: "entry",
                at: 0,
                cause: "unknown kind",
            }),
        }
    }
}

/// One entry of a shard's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub term: Term,
    pub index: Index,
    pub kind: EntryKind,
    pub data: Bytes,
}

/// What to do now, in this order: append `entries` and `hard` to the log, send `messages`,
/// apply `committed`.
#[derive(Debug, Default)]
pub struct Ready {
    /// Goes into [`Consensus::on_persisted`] once `entries` and `hard` are on disk.
    pub number: u64,
    /// A term or vote that must be on disk before anything that follows from it is told.
    pub hard: Option<Hard>,
    /// An entry replaces all of its index and above that the log had.
    pub entries: Vec<Entry>,
    pub messages: Vec<Message>,
    pub committed: Vec<Entry>,
    /// Messages wait for this ready though it may have nothing to write: it counts as on disk
    /// when all that came before it is.
    pub holds: bool,
    /// The log was replaced by the snapshot that this replica has: what was appended to it and is
    /// not applied is gone.
    pub restored: bool,
}

/// Why a proposal or a message was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    #[error("this replica does not lead its shard")]
    NotLeading,
    #[error("consensus refused: {0}")]
    Refused(String),
    #[error("message of a peer cannot be read: {0}")]
    Malformed(String),
    /// Rule 4: an old copy of a data folder, or a disk that lost what it had synced.
    #[error("entries up to {acknowledged} were acknowledged, and only those up to {last} are here")]
    Forgetful { acknowledged: Index, last: Index },
}

/// One replica's part in its shard.
pub struct Consensus {
    order: Order,
}

enum Order {
    Raft(Box<Group>),
    Unlogged(Unlogged),
    /// This node has no replica of the shard.
    Vacant,
}

struct Unlogged {
    /// In which it is led, for the life of the process.
    term: Term,
    last: Index,
    number: u64,
    /// Entries that no ready has given out.
    fresh: Vec<Entry>,
}

impl Consensus {
    /// A replica of a logged shard. One without members takes no part before somebody who leads
    /// makes it a learner.
    ///
    /// # Errors
    /// A state that no replica can have: it is damaged.
    pub fn new(start: Start) -> Result<Self, Error> {
        Ok(Self {
            order: Order::Raft(Box::new(Group::new(start)?)),
        })
    }

    /// A shard that its lane alone orders. It leads at once, in this term.
    #[must_use]
    pub fn unlogged(term: Term) -> Self {
        let mut unlogged = Unlogged {
            term,
            last: Index(0),
            number: 0,
            fresh: Vec::new(),
        };
        unlogged.push(Bytes::new());
        Self {
            order: Order::Unlogged(unlogged),
        }
    }

    /// The part of a node that has no replica: none.
    #[must_use]
    pub fn vacant() -> Self {
        Self {
            order: Order::Vacant,
        }
    }

    /// Whether its lane alone orders the shard.
    #[must_use]
    pub fn is_unlogged(&self) -> bool {
        matches!(self.order, Order::Unlogged(_))
    }

    /// Whether this node has no replica.
    #[must_use]
    pub fn is_vacant(&self) -> bool {
        matches!(self.order, Order::Vacant)
    }

    /// This replica's id; 0 where there is none.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.group().map_or(ReplicaId(0), Group::id)
    }

    fn group(&self) -> Option<&Group> {
        match &self.order {
            Order::Raft(group) => Some(group),
            Order::Unlogged(_) | Order::Vacant => None,
        }
    }

    fn group_mut(&mut self) -> Option<&mut Group> {
        match &mut self.order {
            Order::Raft(group) => Some(group),
            Order::Unlogged(_) | Order::Vacant => None,
        }
    }

    /// Stands for election without waiting for a timeout: what a sole voter does when it starts.
    ///
    /// # Errors
    /// The consensus library's own.
    pub fn campaign(&mut self) -> Result<(), Error> {
        self.group_mut().map_or(Ok(()), Group::campaign)
    }

    /// [`TICK_MILLIS`] passed. Not needed while [`Self::is_alone`].
    pub fn tick(&mut self, now: Instant) {
        if let Some(group) = self.group_mut() {
            group.tick(now);
        }
    }

    /// Whether nothing is to be expected of the next tick: there is a leader that was heard of
    /// late, or this one has its lease.
    #[must_use]
    pub fn is_settled(&self, now: Instant) -> bool {
        self.group().is_none_or(|group| group.is_settled(now))
    }

    /// Whether a group has anything for [`Self::ready`].
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.group().is_some_and(Group::has_work)
    }

    /// A leader says that it is there. An idle one beats more seldom than [`BEAT_MILLIS`] and needs
    /// no lease: whoever wants it to act beats as if it were not.
    pub fn beat(&mut self, now: Instant, idle: bool) {
        if let Some(group) = self.group_mut() {
            group.beat(now, idle);
        }
    }

    /// Whether this node's disk hangs or its clock is wrong, from the next tick on: what it leads
    /// goes to a voter that takes it, else nobody leads; and it does not stand for election
    /// meanwhile.
    pub fn set_unfit(&mut self, unfit: bool) {
        if let Some(group) = self.group_mut() {
            group.set_unfit(unfit);
        }
    }

    /// A peer's message came.
    ///
    /// # Errors
    /// One that has no place here.
    pub fn step(&mut self, message: Message, now: Instant) -> Result<(), Error> {
        let group = self.group_mut();
        let group = group.ok_or_else(|| Error::Refused("no replica here".into()))?;
        group.step(message, now)
    }

    /// Whether it leads, and an entry would be taken: none is while the lead is being handed over.
    #[must_use]
    pub fn takes_proposals(&self) -> bool {
        match &self.order {
            Order::Raft(group) => group.takes_proposals(),
            Order::Unlogged(_) => true,
            Order::Vacant => false,
        }
    }

    /// Puts an entry at the end of the log; by reference, no copy.
    ///
    /// # Errors
    /// [`Error::NotLeading`], or the consensus library's own refusal.
    pub fn propose(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.order {
            Order::Raft(group) => group.propose(EntryType::EntryNormal, data),
            Order::Unlogged(unlogged) => {
                unlogged.push(data);
                Ok(())
            }
            Order::Vacant => Err(Error::NotLeading),
        }
    }

    /// Proposes a change of members; several at once go through joint consensus.
    ///
    /// # Errors
    /// [`Error::NotLeading`], or a refusal: one is under way.
    pub fn propose_members(&mut self, changes: &[MemberChange]) -> Result<(), Error> {
        let group = self.group_mut().ok_or(Error::NotLeading)?;
        if group.changes_members() {
            return Err(Error::Refused("a change of members is under way".into()));
        }
        group.propose(EntryType::EntryConfChangeV2, members::entry_of(changes))
    }

    /// Hands the lead over to a voter, and acts no more in this term.
    ///
    /// # Errors
    /// [`Error::NotLeading`].
    pub fn transfer(&mut self, to: ReplicaId) -> Result<(), Error> {
        self.group_mut().ok_or(Error::NotLeading)?.transfer(to)
    }

    /// Decides alone from here on, with what it has: the majority is lost for ever. Nothing where
    /// it leads.
    ///
    /// # Errors
    /// The consensus library's own.
    pub fn recover(&mut self) -> Result<(), Error> {
        self.group_mut().map_or(Ok(()), Group::recover)
    }

    /// The way to a peer is lost: it is asked where it stands before it is sent more.
    pub fn unreachable(&mut self, peer: ReplicaId) {
        if let Some(group) = self.group_mut() {
            group.unreachable(peer);
        }
    }

    /// Peers that need a snapshot and have none on its way; each is given once.
    pub fn take_snapshot_wants(&mut self) -> Vec<ReplicaId> {
        self.group_mut().map_or_else(Vec::new, Group::take_wants)
    }

    /// The peer has the state of this snapshot on its disk: it is told that it may count on it.
    pub fn offer_snapshot(&mut self, to: ReplicaId, of: SnapshotOf) {
        if let Some(group) = self.group_mut() {
            group.offer(to, of);
        }
    }

    /// The first entry that this replica can still send; 0 where there is none.
    #[must_use]
    pub fn first_kept(&self) -> Index {
        self.group().map_or(Index(0), Group::first_kept)
    }

    /// From which entry on a snapshot knows the members.
    #[must_use]
    pub fn members_at(&self) -> Index {
        self.group().map_or(Index(0), Group::members_at)
    }

    /// Keeps every entry above this one until [`Self::unpin`], for a peer that is being rebuilt.
    pub fn pin(&mut self, index: Index) {
        if let Some(group) = self.group_mut() {
            group.pin(Some(index));
        }
    }

    /// See [`Self::pin`].
    pub fn unpin(&mut self) {
        if let Some(group) = self.group_mut() {
            group.pin(None);
        }
    }

    /// Everything up to ready `number` is on disk.
    pub fn on_persisted(&mut self, number: u64) {
        if let Some(group) = self.group_mut() {
            group.on_persisted(number);
        }
    }

    /// What to do now; `None` when there is nothing. What it names must be done, in order.
    pub fn ready(&mut self) -> Option<Ready> {
        match &mut self.order {
            Order::Raft(group) => group.ready(),
            Order::Unlogged(unlogged) => unlogged.ready(),
            Order::Vacant => None,
        }
    }

    /// All up to `index` is applied.
    pub fn applied(&mut self, index: Index) {
        if let Some(group) = self.group_mut() {
            group.applied(index);
        }
    }

    /// A change of members is applied: gives the members from here on.
    ///
    /// # Errors
    /// An entry that is none, or that the consensus library does not take.
    pub fn change_members(&mut self, entry: &Entry) -> Result<Members, Error> {
        let group = self.group_mut();
        let group = group.ok_or_else(|| Error::Malformed("no members here".into()))?;
        group.change_members(entry)
    }

    /// The term in which this replica leads.
    #[must_use]
    pub fn leads(&self) -> Option<Term> {
        match &self.order {
            Order::Raft(group) => group.leads(),
            Order::Unlogged(unlogged) => Some(unlogged.term),
            Order::Vacant => None,
        }
    }

    /// Who leads, as far as this replica knows, and in which term.
    #[must_use]
    pub fn leader(&self) -> Option<(Term, ReplicaId)> {
        self.group().and_then(Group::leader)
    }

    /// Until when this replica may act as the leader (rule 8): nobody else can lead before.
    #[must_use]
    pub fn lease_until(&self) -> Instant {
        let forever = Instant(u64::MAX);
        self.group().map_or(forever, Group::lease_until)
    }

    /// How far a peer has the log, as far as the leader knows.
    #[must_use]
    pub fn matched(&self, peer: ReplicaId) -> Option<Index> {
        self.group().and_then(|group| group.matched(peer))
    }

    /// What a checkpoint must hold of this replica's promises.
    #[must_use]
    pub fn hard(&self) -> Hard {
        match &self.order {
            Order::Raft(group) => group.hard(),
            Order::Unlogged(unlogged) => Hard {
                term: unlogged.term,
                vote: ReplicaId(0),
                commit: unlogged.last,
            },
            Order::Vacant => Hard::default(),
        }
    }

    /// Where the log ends.
    #[must_use]
    pub fn last(&self) -> (Index, Term) {
        let nothing = (Index(0), Term(0));
        self.group().map_or(nothing, Group::last)
    }

    /// Who takes part.
    #[must_use]
    pub fn members(&self) -> &Members {
        const NOBODY: &Members = &Members::nobody();
        self.group().map_or(NOBODY, Group::members)
    }

    /// Whether there is nobody to agree with or to tell: no ticks are needed.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.group().is_none_or(Group::is_alone)
    }
}

impl Unlogged {
    fn push(&mut self, data: Bytes) {
        self.last.0 += 1;
        self.fresh.push(Entry {
            term: self.term,
            index: self.last,
            kind: EntryKind::Normal,
            data,
        });
    }

    fn ready(&mut self) -> Option<Ready> {
        if self.fresh.is_empty() {
            return None;
        }
        self.number += 1;
        let entries = std::mem::take(&mut self.fresh);
        Some(Ready {
            number: self.number,
            committed: entries.clone(),
            entries,
            ..Ready::default()
        })
    }
}

impl Entry {
    fn of(entry: &raft::prelude::Entry) -> Self {
        let kind = match entry.get_entry_type() {
            EntryType::EntryNormal => EntryKind::Normal,
            EntryType::EntryConfChange => EntryKind::MemberChange,
            EntryType::EntryConfChangeV2 => EntryKind::MembersChange,
        };
        Self {
            term: Term(entry.term),
            index: Index(entry.index),
            kind,
            data: entry.data.clone(),
        }
    }

    fn into_raft(self) -> raft::prelude::Entry {
        let mut entry = raft::prelude::Entry {
            term: self.term.0,
            index: self.index.0,
            data: self.data,
            ..raft::prelude::Entry::default()
        };
        entry.set_entry_type(match self.kind {
            EntryKind::Normal => EntryType::EntryNormal,
            EntryKind::MemberChange => EntryType::EntryConfChange,
            EntryKind::MembersChange => EntryType::EntryConfChangeV2,
        });
        entry
    }
}

impl Hard {
    fn of(state: &HardState) -> Self {
        Self {
            term: Term(state.term),
            vote: ReplicaId(state.vote),
            commit: Index(state.commit),
        }
    }
}
