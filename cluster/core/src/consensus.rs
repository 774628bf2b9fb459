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

mod kept;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;
use raft::prelude::{ConfChange, ConfChangeV2, ConfState, EntryType, HardState, Message};
use raft::{Config, RawNode, StateRole};

use crate::ids::{Index, ReplicaId, Term};
use crate::machine::Malformed;
use kept::Kept;

/// Ticks without a leader's message after which a replica stands for election: at least this
/// many, less than twice as many. A leader beats every [`HEARTBEAT_TICKS`].
pub const ELECTION_TICKS: u32 = 10;
pub const HEARTBEAT_TICKS: u32 = 2;

/// Bytes of entries that one ready gives out to apply, more or less.
const APPLY_BYTES_MAX: u64 = 4 << 20;
/// Bytes of entries in one message to a peer, and such messages on their way at once.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
const MESSAGES_MAX: usize = 64;

/// The term in which an unlogged shard is led, for the life of the process.
const UNLOGGED_TERM: Term = Term(1);

/// What a replica must never forget, but for `commit`, which others would tell it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hard {
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: ReplicaId,
    pub commit: Index,
}

/// Who takes part. With `outgoing` voters the members are between two sets (joint consensus).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    pub voters: Vec<ReplicaId>,
    pub learners: Vec<ReplicaId>,
    pub outgoing: Vec<ReplicaId>,
    pub learners_next: Vec<ReplicaId>,
    pub auto_leave: bool,
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
    pub messages: Vec<Outgoing>,
    pub committed: Vec<Entry>,
}

/// A message for a peer, encoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    pub to: ReplicaId,
    pub bytes: Bytes,
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
}

/// One replica's part in its shard.
pub struct Consensus {
    order: Order,
}

enum Order {
    Raft(Box<Group>),
    Unlogged(Unlogged),
}

struct Group {
    node: RawNode<Kept>,
    /// Messages that wait for a ready to be on disk, by its number.
    held: VecDeque<(u64, Vec<Outgoing>)>,
    /// Messages that wait no more.
    free: Vec<Outgoing>,
    seed: u64,
    /// Term and vote that went into the log last.
    promised: (Term, ReplicaId),
    /// Term and role of which the election timeout was drawn.
    drawn: (u64, StateRole),
}

#[derive(Default)]
struct Unlogged {
    last: Index,
    number: u64,
    /// Entries that no ready has given out.
    fresh: Vec<Entry>,
}

impl Consensus {
    /// A replica of a logged shard.
    ///
    /// # Errors
    /// A state that no replica can have: it is damaged.
    pub fn new(start: Start) -> Result<Self, Error> {
        Ok(Self {
            order: Order::Raft(Box::new(Group::new(start)?)),
        })
    }

    /// A shard that its lane alone orders. It leads at once.
    #[must_use]
    pub fn unlogged() -> Self {
        let mut unlogged = Unlogged::default();
        unlogged.push(Bytes::new());
        Self {
            order: Order::Unlogged(unlogged),
        }
    }

    /// Stands for election without waiting for a timeout: what a sole voter does when it starts.
    ///
    /// # Errors
    /// The consensus library's own.
    pub fn campaign(&mut self) -> Result<(), Error> {
        match &mut self.order {
            Order::Raft(group) => group.node.campaign().map_err(refused),
            Order::Unlogged(_) => Ok(()),
        }
    }

    /// A tick of the clock passed. Not needed while [`Self::is_sole_voter`].
    pub fn tick(&mut self) {
        if let Order::Raft(group) = &mut self.order {
            group.node.tick();
            group.draw_timeout();
        }
    }

    /// A peer's message came.
    ///
    /// # Errors
    /// One that cannot be read, or that has no place here.
    pub fn step(&mut self, message: &[u8]) -> Result<(), Error> {
        use protobuf::Message as _;
        let Order::Raft(group) = &mut self.order else {
            return Err(Error::Malformed("an unlogged shard has no peers".into()));
        };
        let message = Message::parse_from_bytes(message)
            .map_err(|error| Error::Malformed(error.to_string()))?;
        let stepped = group.node.step(message).map_err(refused);
        group.draw_timeout();
        stepped
    }

    /// Puts an entry at the end of the log; by reference, no copy.
    ///
    /// # Errors
    /// [`Error::NotLeading`], or the consensus library's own refusal.
    pub fn propose(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.order {
            Order::Raft(group) => group.propose(data),
            Order::Unlogged(unlogged) => {
                unlogged.push(data);
                Ok(())
            }
        }
    }

    /// Everything up to ready `number` is on disk.
    pub fn on_persisted(&mut self, number: u64) {
        let Order::Raft(group) = &mut self.order else {
            return;
        };
        group.node.on_persist_ready(number);
        while group.held.front().is_some_and(|(held, _)| *held <= number) {
            let (_, messages) = group.held.pop_front().expect("looked at above");
            group.free.extend(messages);
        }
    }

    /// What to do now; `None` when there is nothing. What it names must be done, in order.
    pub fn ready(&mut self) -> Option<Ready> {
        match &mut self.order {
            Order::Raft(group) => group.ready(),
            Order::Unlogged(unlogged) => unlogged.ready(),
        }
    }

    /// All up to `index` is applied and need not be kept for this replica.
    pub fn applied(&mut self, index: Index) {
        if let Order::Raft(group) = &mut self.order {
            group.node.advance_apply_to(index.0);
            if group.is_sole_voter() {
                group.node.mut_store().forget(index);
            }
        }
    }

    /// A change of members is applied: gives the members from here on.
    ///
    /// # Errors
    /// An entry that is none, or that the consensus library does not take.
    pub fn change_members(&mut self, entry: &Entry) -> Result<Members, Error> {
        use protobuf::Message as _;
        let Order::Raft(group) = &mut self.order else {
            return Err(Error::Malformed("an unlogged shard has no members".into()));
        };
        let malformed = |error: protobuf::ProtobufError| Error::Malformed(error.to_string());
        let state = match entry.kind {
            EntryKind::Normal => {
                return Err(Error::Malformed("not a change of members".into()));
            }
            EntryKind::MemberChange => {
                let change = ConfChange::parse_from_bytes(&entry.data).map_err(malformed)?;
                group.node.apply_conf_change(&change)
            }
            EntryKind::MembersChange => {
                let change = ConfChangeV2::parse_from_bytes(&entry.data).map_err(malformed)?;
                group.node.apply_conf_change(&change)
            }
        };
        let state = state.map_err(refused)?;
        group.node.mut_store().set_members(&state);
        Ok(Members::of(&state))
    }

    /// The term in which this replica leads.
    #[must_use]
    pub fn leads(&self) -> Option<Term> {
        match &self.order {
            Order::Raft(group) => {
                let raft = &group.node.raft;
                (raft.state == StateRole::Leader).then_some(Term(raft.term))
            }
            Order::Unlogged(_) => Some(UNLOGGED_TERM),
        }
    }

    /// What a checkpoint must hold of this replica's promises.
    #[must_use]
    pub fn hard(&self) -> Hard {
        match &self.order {
            Order::Raft(group) => Hard::of(&group.node.raft.hard_state()),
            Order::Unlogged(unlogged) => Hard {
                term: UNLOGGED_TERM,
                vote: ReplicaId(0),
                commit: unlogged.last,
            },
        }
    }

    /// Who takes part.
    #[must_use]
    pub fn members(&self) -> Members {
        match &self.order {
            Order::Raft(group) => group.node.store().members(),
            Order::Unlogged(_) => Members::default(),
        }
    }

    /// Whether there is nobody to agree with: no ticks are needed.
    #[must_use]
    pub fn is_sole_voter(&self) -> bool {
        match &self.order {
            Order::Raft(group) => group.is_sole_voter(),
            Order::Unlogged(_) => true,
        }
    }
}

impl Group {
    fn new(start: Start) -> Result<Self, Error> {
        let config = Config {
            id: start.replica.0,
            election_tick: ELECTION_TICKS as usize,
            heartbeat_tick: HEARTBEAT_TICKS as usize,
            applied: start.applied.0.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            max_committed_size_per_ready: APPLY_BYTES_MAX,
            ..Config::default()
        };
        let seed = start.seed;
        let promised = (start.hard.term, start.hard.vote);
        let kept = Kept::new(start);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, kept, &logger).map_err(refused)?;
        let mut group = Self {
            node,
            held: VecDeque::new(),
            free: Vec::new(),
            seed,
            promised,
            drawn: (u64::MAX, StateRole::Follower),
        };
        group.draw_timeout();
        Ok(group)
    }

    /// The library draws election timeouts at random; ours come from the seed.
    fn draw_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let now = (raft.term, raft.state);
        if self.drawn != now {
            self.drawn = now;
            self.seed = splitmix(self.seed);
            let extra = self.seed % u64::from(ELECTION_TICKS);
            raft.set_randomized_election_timeout(ELECTION_TICKS as usize + extra as usize);
        }
    }

    fn is_sole_voter(&self) -> bool {
        let members = self.node.store().state();
        members.voters.len() == 1
            && members.voters[0] == self.node.raft.id
            && members.voters_outgoing.is_empty()
            && members.learners.is_empty()
    }

    fn propose(&mut self, data: Bytes) -> Result<(), Error> {
        if self.node.raft.state != StateRole::Leader {
            return Err(Error::NotLeading);
        }
        let mut message = Message::default();
        message.set_msg_type(raft::prelude::MessageType::MsgPropose);
        message.from = self.node.raft.id;
        let entry = raft::prelude::Entry {
            data,
            ..raft::prelude::Entry::default()
        };
        message.set_entries(vec![entry].into());
        self.node.raft.step(message).map_err(refused)
    }

    fn ready(&mut self) -> Option<Ready> {
        if !self.node.has_ready() {
            if self.free.is_empty() {
                return None;
            }
            return Some(Ready {
                messages: std::mem::take(&mut self.free),
                ..Ready::default()
            });
        }
        let mut ready = self.node.ready();
        let number = ready.number();
        let mut messages = std::mem::take(&mut self.free);
        messages.extend(ready.take_messages().iter().map(outgoing));
        let held = ready.take_persisted_messages();
        if !held.is_empty() {
            let held = held.iter().map(outgoing).collect();
            self.held.push_back((number, held));
        }
        let hard = ready.hs().map(Hard::of);
        let hard = hard.filter(|hard| self.promised != (hard.term, hard.vote));
        if let Some(hard) = hard {
            self.promised = (hard.term, hard.vote);
        }
        let committed = ready.take_committed_entries();
        let entries = ready.take_entries();
        let out = Ready {
            number,
            hard,
            entries: entries.iter().map(Entry::of).collect(),
            messages,
            committed: committed.iter().map(Entry::of).collect(),
        };
        self.node.mut_store().append(entries);
        self.node.advance_append_async(ready);
        Some(out)
    }
}

impl Unlogged {
    fn push(&mut self, data: Bytes) {
        self.last.0 += 1;
        self.fresh.push(Entry {
            term: UNLOGGED_TERM,
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

impl Members {
    fn of(state: &ConfState) -> Self {
        let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect();
        Self {
            voters: ids(&state.voters),
            learners: ids(&state.learners),
            outgoing: ids(&state.voters_outgoing),
            learners_next: ids(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }

    fn into_raft(self) -> ConfState {
        let ids = |ids: Vec<ReplicaId>| ids.into_iter().map(|id| id.0).collect();
        ConfState {
            voters: ids(self.voters),
            learners: ids(self.learners),
            voters_outgoing: ids(self.outgoing),
            learners_next: ids(self.learners_next),
            auto_leave: self.auto_leave,
            ..ConfState::default()
        }
    }
}

fn outgoing(message: &Message) -> Outgoing {
    use protobuf::Message as _;
    let bytes = message
        .write_to_bytes()
        .expect("a message of our own has all its fields");
    Outgoing {
        to: ReplicaId(message.to),
        bytes: bytes.into(),
    }
}

#[allow(clippy::needless_pass_by_value)] // `map_err` hands errors over by value
fn refused(error: raft::Error) -> Error {
    Error::Refused(error.to_string())
}

/// The next number of a fixed sequence that looks random.
fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
