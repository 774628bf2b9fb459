//! Who takes part in a shard, and how that changes.
//!
//! Byte form of [`Members`], little endian: four lists (voters, learners, outgoing, next
//! learners) as count u16 and ids u64, then auto-leave u8.

use bytes::{Buf, BufMut, Bytes};
use raft::prelude::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};

use crate::ids::{NodeId, ReplicaId};

/// Who takes part. With `outgoing` voters the members are between two sets (joint consensus).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    pub voters: Vec<ReplicaId>,
    pub learners: Vec<ReplicaId>,
    pub outgoing: Vec<ReplicaId>,
    pub learners_next: Vec<ReplicaId>,
    pub auto_leave: bool,
}

/// A step from one set of members to the next. Several at once go through joint consensus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberChange {
    /// Gets all entries and has no vote. Also takes the vote from a voter.
    Learner(ReplicaId),
    Voter(ReplicaId),
    Remove(ReplicaId),
}

impl Members {
    /// Where there is no group.
    pub(super) const fn nobody() -> Self {
        Self {
            voters: Vec::new(),
            learners: Vec::new(),
            outgoing: Vec::new(),
            learners_next: Vec::new(),
            auto_leave: false,
        }
    }

    /// Everybody who gets entries, once.
    pub fn all(&self) -> impl Iterator<Item = ReplicaId> {
        let mut all: Vec<_> = self.voters.iter().chain(&self.outgoing).copied().collect();
        all.extend(self.learners.iter().chain(&self.learners_next));
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }

    /// The replica that a node has.
    #[must_use]
    pub fn on(&self, node: NodeId) -> Option<ReplicaId> {
        self.all().filter(|id| id.node() == node).last()
    }

    /// Whether the replica votes.
    #[must_use]
    pub fn votes(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.outgoing.contains(&replica)
    }

    /// Whether this replica decides alone, whoever learns from it.
    #[must_use]
    pub fn is_decided_by(&self, replica: ReplicaId) -> bool {
        self.voters == [replica] && self.outgoing.is_empty()
    }

    /// Whether those that count are a majority of the voters, between two sets of both.
    #[must_use]
    pub fn are_decided_by(&self, counts: impl Fn(ReplicaId) -> bool) -> bool {
        [&self.voters, &self.outgoing].iter().all(|voters| {
            let there = voters.iter().filter(|id| counts(**id)).count();
            voters.is_empty() || there > voters.len() / 2
        })
    }

    /// Whether there is nobody else at all.
    #[must_use]
    pub fn is_only(&self, replica: ReplicaId) -> bool {
        self.is_decided_by(replica) && self.learners.is_empty() && self.learners_next.is_empty()
    }

    /// Appends its byte form.
    pub fn encode(&self, out: &mut impl BufMut) {
        for ids in [
            &self.voters,
            &self.learners,
            &self.outgoing,
            &self.learners_next,
        ] {
            out.put_u16_le(u16::try_from(ids.len()).expect("a shard has few members"));
            ids.iter().for_each(|id| out.put_u64_le(id.0));
        }
        out.put_u8(u8::from(self.auto_leave));
    }

    /// Reads what [`Self::encode`] wrote, from the front of `rest`.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(rest: &mut impl Buf) -> Result<Self, &'static str> {
        Ok(Self {
            voters: ids(rest)?,
            learners: ids(rest)?,
            outgoing: ids(rest)?,
            learners_next: ids(rest)?,
            auto_leave: rest.try_get_u8().map_err(|_| SHORT)? != 0,
        })
    }

    pub(super) fn of(state: &ConfState) -> Self {
        let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect();
        Self {
            voters: ids(&state.voters),
            learners: ids(&state.learners),
            outgoing: ids(&state.voters_outgoing),
            learners_next: ids(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }

    pub(super) fn into_raft(self) -> ConfState {
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

const SHORT: &str = "ends too early";

fn ids(rest: &mut impl Buf) -> Result<Vec<ReplicaId>, &'static str> {
    let count = rest.try_get_u16_le().map_err(|_| SHORT)?;
    (0..count)
        .map(|_| rest.try_get_u64_le().map(ReplicaId).map_err(|_| SHORT))
        .collect()
}

/// The changes as the entry that makes them.
pub(super) fn entry_of(changes: &[MemberChange]) -> Bytes {
    use protobuf::Message as _;
    let bytes = change_of(changes).write_to_bytes();
    bytes
        .expect("a message of our own has all its fields")
        .into()
}

/// The changes as the consensus library has them.
pub(super) fn change_of(changes: &[MemberChange]) -> ConfChangeV2 {
    let singles = changes.iter().map(|change| {
        let (kind, id) = match change {
            MemberChange::Learner(id) => (ConfChangeType::AddLearnerNode, id),
            MemberChange::Voter(id) => (ConfChangeType::AddNode, id),
            MemberChange::Remove(id) => (ConfChangeType::RemoveNode, id),
        };
        let mut single = ConfChangeSingle {
            node_id: id.0,
            ..ConfChangeSingle::default()
        };
        single.set_change_type(kind);
        single
    });
    let mut change = ConfChangeV2::default();
    change.set_changes(singles.collect::<Vec<_>>().into());
    change
}
