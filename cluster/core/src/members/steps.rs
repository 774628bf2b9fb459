//! What the leader of a shard does next, so that its members become the ones in their row.
//!
//! Always holds:
//! - a replica is a learner first, and votes once it has (about) all that is agreed on;
//! - voters that come and voters that go change in one step (joint consensus), so that there are
//!   never fewer than before or than wanted;
//! - a leader that is to go gives its lead away, and is removed by the next one;
//! - no step leaves a shard with voters of whom a majority is not there;
//! - few shards move at a time, and none is handed to a node that cannot take it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Replicas, Versioned};
use crate::consensus::MemberChange;
use crate::ids::{NodeId, ReplicaId, ShardId};
use crate::lane::ShardStatus;

/// Entries that a replica may lack and yet become a voter.
const LAG_ENTRIES_MAX: u64 = 128;

/// What a shard's leader is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Change(Vec<MemberChange>),
    Transfer(ReplicaId),
}

/// The next step of one shard. `reachable`: nodes that there is a way to.
#[must_use]
pub fn next(wanted: &Replicas, status: &ShardStatus, reachable: &BTreeSet<NodeId>) -> Option<Step> {
    let me = status.replica?;
    let members = &status.members;
    let leads = status.leader.is_some_and(|(_, node)| node == me.node());
    let between = !members.outgoing.is_empty() || !members.learners_next.is_empty();
    if !leads || between || wanted.voters.is_empty() {
        return None;
    }
    // A leader that was just made a learner may be wanted as a voter again.
    let is_there = |id: &ReplicaId| *id == me || reachable.contains(&id.node());
    let new = wanted.all().find(|id| !has(status, *id) && is_there(id));
    if let Some(new) = new {
        return Some(Step::Change(vec![MemberChange::Learner(new)]));
    }
    let coming = wanted.voters.iter().copied();
    let coming = coming.filter(|id| !members.voters.contains(id));
    let (ready, late): (Vec<_>, Vec<_>) =
        coming.partition(|id| is_ready(status, *id) && is_there(id));
    let others = members.all().filter(|id| *id != me);
    let going = others.filter_map(|id| going(wanted, status, id));
    let mut going: Vec<_> = going.collect();
    if !late.is_empty() {
        // Those that are there take the places of others, one for one.
        let votes = |change: &MemberChange| match change {
            MemberChange::Learner(id) | MemberChange::Remove(id) | MemberChange::Voter(id) => {
                members.voters.contains(id)
            }
        };
        going.retain(votes);
        going.sort_by_key(|change| match change {
            MemberChange::Learner(id) | MemberChange::Remove(id) | MemberChange::Voter(id) => {
                is_there(id)
            }
        });
        going.truncate(ready.len());
        if going.is_empty() || going.len() < ready.len() {
            return None;
        }
    }
    let mut changes: Vec<_> = ready.into_iter().map(MemberChange::Voter).collect();
    changes.extend(going);
    if !changes.is_empty() {
        let decides = decides_after(&changes, status, is_there);
        return decides.then_some(Step::Change(changes));
    }
    let heir = |id: &&ReplicaId| **id != me && is_there(id) && has_all(status, **id);
    if wanted.voters.contains(&me) {
        let first = wanted.voters.first().filter(heir)?;
        return Some(Step::Transfer(*first));
    }
    wanted.voters.iter().find(heir).copied().map(Step::Transfer)
}

/// Whether those who vote after the changes and are there decide.
fn decides_after(
    changes: &[MemberChange],
    status: &ShardStatus,
    is_there: impl Fn(&ReplicaId) -> bool,
) -> bool {
    let mut voters: BTreeSet<ReplicaId> = status.members.voters.iter().copied().collect();
    for change in changes {
        match change {
            MemberChange::Voter(id) => voters.insert(*id),
            MemberChange::Learner(id) | MemberChange::Remove(id) => voters.remove(id),
        };
    }
    voters.iter().filter(|id| is_there(id)).count() > voters.len() / 2
}

/// What is done about a member that is not what it should be.
fn going(wanted: &Replicas, status: &ShardStatus, id: ReplicaId) -> Option<MemberChange> {
    if wanted.voters.contains(&id) {
        None
    } else if !wanted.learners.contains(&id) {
        Some(MemberChange::Remove(id))
    } else {
        let votes = status.members.voters.contains(&id);
        votes.then_some(MemberChange::Learner(id))
    }
}

fn has(status: &ShardStatus, id: ReplicaId) -> bool {
    status.members.all().any(|member| member == id)
}

fn matched(status: &ShardStatus, id: ReplicaId) -> u64 {
    let mut matched = status.matched.iter();
    matched.find(|it| it.0 == id).map_or(0, |it| it.1.0)
}

/// Whether it has the shard's state (one without a past has nothing at all), and nearly all since.
fn is_ready(status: &ShardStatus, id: ReplicaId) -> bool {
    let matched = matched(status, id);
    matched > 0 && matched + LAG_ENTRIES_MAX >= status.committed.0
}

fn has_all(status: &ShardStatus, id: ReplicaId) -> bool {
    status.members.voters.contains(&id) && matched(status, id) >= status.committed.0
}

/// Who can take the lead of a shard that is led here, before the node stops.
#[must_use]
pub fn heir(status: &ShardStatus, reachable: &BTreeSet<NodeId>) -> Option<ReplicaId> {
    let others = status.members.voters.iter().copied();
    let mut able = others.filter(|id| {
        Some(*id) != status.replica && reachable.contains(&id.node()) && has_all(status, *id)
    });
    able.next()
}

/// Whether the members are the ones in their row.
#[must_use]
pub fn is_settled(wanted: &Replicas, status: &ShardStatus) -> bool {
    let set = |ids: &[ReplicaId]| -> BTreeSet<ReplicaId> { ids.iter().copied().collect() };
    let members = &status.members;
    set(&wanted.voters) == set(&members.voters)
        && set(&wanted.learners) == set(&members.learners)
        && members.outgoing.is_empty()
        && members.learners_next.is_empty()
}

/// The next steps of the shards that a node leads, of which at most `moving_max` move at a time.
/// Shards that wait for a node which is not there do not count.
#[must_use]
pub fn all(
    rows: &BTreeMap<ShardId, Versioned<Replicas>>,
    led: &[ShardStatus],
    reachable: &BTreeSet<NodeId>,
    moving_max: usize,
) -> Vec<(ShardId, Step)> {
    let mut moving = 0;
    let mut steps = Vec::new();
    for status in led {
        let Some(row) = rows.get(&status.shard) else {
            continue;
        };
        let step = next(&row.value, status, reachable);
        if !is_settled(&row.value, status) {
            let me = status.replica.map(ReplicaId::node);
            let is_there = |id: ReplicaId| Some(id.node()) == me || reachable.contains(&id.node());
            let waits = step.is_none() && !row.value.all().all(is_there);
            if waits || moving == moving_max {
                continue;
            }
            moving += 1;
        }
        steps.extend(step.map(|step| (status.shard, step)));
    }
    steps
}
