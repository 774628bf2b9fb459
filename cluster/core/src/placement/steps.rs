//! From what is to what should be: the next step of each shard, and which of them may be taken now.

use super::facts::{Copy, Facts, Role, ShardFacts, majority, odd};
use super::leaders::Leaders;
use super::target::Target;
use super::{Action, Hold, Plan, Reason, Step};
use crate::consensus::MemberChange;
use crate::ids::ShardId;

/// How much more may be under way.
pub(super) struct Budget {
    copying: usize,
    pub(super) changing: usize,
}

pub(super) fn plan(facts: &Facts<'_>, targets: &[Target]) -> Plan {
    let mut plan = Plan::default();
    let mut budget = Budget::of(facts);
    let mut leaders = Leaders::of(facts);
    let mut steps = Vec::new();
    for (shard, target) in facts.shards.iter().zip(targets) {
        let id = shard.shard.id;
        let hold = hold(shard).or(target.hold);
        plan.held.extend(hold.map(|hold| (id, hold)));
        plan.moves.extend(target.moves(facts, id));
        if shard.can_change() {
            let change = change(facts, shard, target, &leaders);
            steps.extend(change.into_iter().chain(assigns(facts, shard, target)));
        }
    }
    steps.sort_by_key(|step| (urgency(step.reason), step.action.shard()));
    for step in steps {
        if budget.allows(&step.action) {
            leaders.count(facts, &step.action);
            plan.steps.push(step);
        }
    }
    leaders.leave_draining(facts, targets, &mut budget, &mut plan.steps);
    leaders.balance(facts, targets, &mut budget, &mut plan.steps);
    plan
}

fn hold(shard: &ShardFacts<'_>) -> Option<Hold> {
    if !shard.has_majority {
        return Some(Hold::NoMajority {
            alive: shard.alive,
            voters: shard.shard.members.voters.len(),
        });
    }
    shard.leader.is_none().then_some(Hold::NoLeader)
}

fn urgency(reason: Reason) -> u8 {
    match reason {
        Reason::UnderWay | Reason::Replaced => 0,
        Reason::Missing => 1,
        Reason::Down(_) => 2,
        Reason::Removed(_) | Reason::Draining(_) => 3,
        Reason::Voters | Reason::Surplus => 4,
        Reason::Zones => 5,
        Reason::Copies(_) => 6,
        Reason::Weight(_) => 7,
        Reason::Leaders(_) => 8,
    }
}

/// Rows for copies that are still to be made.
fn assigns<'a>(
    facts: &'a Facts<'_>,
    shard: &'a ShardFacts<'_>,
    target: &'a Target,
) -> impl Iterator<Item = Step> + 'a {
    let id = shard.shard.id;
    let able = move |node: usize| {
        facts.nodes[node].receives && (id == ShardId::DEFINITIONS || knows_rows(facts, node))
    };
    let moves = target.moves.iter();
    moves
        .filter(move |shift| shard.on(shift.to).is_none() && able(shift.to))
        .map(move |shift| Step {
            action: Action::Assign {
                shard: id,
                node: facts.nodes[shift.to].id,
                replaces: shift
                    .from
                    .and_then(|node| shard.on(node))
                    .map(|at| shard.copies[at].replica),
            },
            reason: shift.reason,
        })
}

/// Whether a node has the rows that tell it what to have.
fn knows_rows(facts: &Facts<'_>, node: usize) -> bool {
    let definitions = facts.shards.first();
    let definitions = definitions.filter(|shard| shard.shard.id == ShardId::DEFINITIONS);
    definitions.is_none_or(|shard| {
        let copy = shard.on(node);
        copy.is_some_and(|at| shard.copies[at].is_caught_up)
    })
}

/// The next change of members, or the transfer that it needs first.
fn change(
    facts: &Facts<'_>,
    shard: &ShardFacts<'_>,
    target: &Target,
    leaders: &Leaders,
) -> Option<Step> {
    let id = shard.shard.id;
    let belongs = |at: usize| {
        let node = shard.copies[at].node;
        shard.on(node) == Some(at) && target.copies.contains(&node)
    };
    let mut changes = Vec::new();
    let mut reason = Reason::Surplus;
    for (at, copy) in shard.copies.iter().enumerate() {
        if copy.role != Role::Voter && !belongs(at) {
            changes.push(MemberChange::Remove(copy.replica));
        } else if copy.role == Role::Assigned && facts.nodes[copy.node].is_alive {
            changes.push(MemberChange::Learner(copy.replica));
            reason = Reason::UnderWay;
        }
    }
    if let Some(votes) = votes(facts, shard, target) {
        let leader = shard.leader.filter(|at| !votes.contains(at));
        if let Some(leader) = leader {
            let heirs = votes.iter().copied();
            let heirs = heirs.filter(|at| shard.copies[*at].role == Role::Voter);
            if let Some(to) = leaders.heir(facts, shard, heirs) {
                let to = shard.copies[to].replica;
                let action = Action::Transfer { shard: id, to };
                let reason = Reason::Replaced;
                return Some(Step { action, reason });
            }
            // Nobody can take the lead yet: the new ones vote beside the old one first.
            let with_leader: Vec<_> = votes.into_iter().chain([leader]).collect();
            vote_changes(shard, &with_leader, belongs, &mut changes);
        } else {
            vote_changes(shard, &votes, belongs, &mut changes);
        }
        reason = change_reason(facts, shard, &changes).unwrap_or(reason);
    }
    (!changes.is_empty()).then_some(Step {
        action: Action::Change { shard: id, changes },
        reason,
    })
}

/// Who should vote next; `None` when all stays as it is.
///
/// Learners that have caught up get the vote; others keep it for those that have not. The number
/// of voters stays odd, and no more alive voters are needed than before.
fn votes(facts: &Facts<'_>, shard: &ShardFacts<'_>, target: &Target) -> Option<Vec<usize>> {
    let present: Vec<usize> = shard.voters().collect();
    let wanted: Vec<usize> = target
        .voters
        .iter()
        .filter_map(|node| shard.on(*node))
        .collect();
    let (mut next, mut going): (Vec<usize>, Vec<usize>) =
        present.iter().partition(|at| wanted.contains(at));
    let ready = |at: &usize| {
        let copy = &shard.copies[*at];
        copy.role == Role::Learner && copy.is_caught_up
    };
    next.extend(wanted.iter().copied().filter(ready));
    let comes = |gone: &Copy| {
        let heirs = next.iter().map(|at| &shard.copies[*at]);
        let mut heirs = heirs.filter(|copy| copy.role == Role::Learner);
        heirs.any(|copy| copy.replaces == Some(gone.replica) || copy.node == gone.node)
    };
    // Who stays though it should go: those in whose place nobody comes yet.
    going.sort_by_key(|at| {
        let copy = &shard.copies[*at];
        (!facts.nodes[copy.node].is_alive, comes(copy), *at)
    });
    next.extend(going);
    let count = if target.voters.len() < present.len() {
        target.voters.len()
    } else {
        odd(next.len()).min(target.voters.len())
    };
    next.truncate(count);
    next.sort_unstable();
    // Only where nodes were taken away a shard may come to stand less.
    let shrinks = facts.has_room_for(shard.shard.id).1 < present.len();
    let spare = |votes: &[usize]| {
        let alive = votes
            .iter()
            .filter(|at| facts.nodes[shard.copies[**at].node].is_alive)
            .count();
        alive.checked_sub(majority(votes.len()))
    };
    let is_safe = spare(&next) >= spare(&present) || (shrinks && spare(&next).is_some());
    (next != present && is_safe).then_some(next)
}

fn vote_changes(
    shard: &ShardFacts<'_>,
    votes: &[usize],
    belongs: impl Fn(usize) -> bool,
    changes: &mut Vec<MemberChange>,
) {
    for (at, copy) in shard.copies.iter().enumerate() {
        let id = copy.replica;
        match (copy.role == Role::Voter, votes.contains(&at)) {
            (false, true) => changes.push(MemberChange::Voter(id)),
            (true, false) if belongs(at) => changes.push(MemberChange::Learner(id)),
            (true, false) => changes.push(MemberChange::Remove(id)),
            (true, true) | (false, false) => {}
        }
    }
}

/// Why votes change: because of the node that loses one, else the number is wrong.
fn change_reason(
    facts: &Facts<'_>,
    shard: &ShardFacts<'_>,
    changes: &[MemberChange],
) -> Option<Reason> {
    let mut reason = None;
    for change in changes {
        let (MemberChange::Learner(id) | MemberChange::Voter(id) | MemberChange::Remove(id)) =
            change;
        let copy = shard.copies.iter().find(|copy| copy.replica == *id)?;
        let node = &facts.nodes[copy.node];
        let voted = copy.role == Role::Voter;
        if voted && node.is_removed {
            return Some(Reason::Removed(node.id));
        } else if voted && node.is_gone {
            return Some(Reason::Down(node.id));
        }
        reason = Some(match reason {
            Some(Reason::UnderWay) => Reason::UnderWay,
            _ if copy.is_replaced || copy.replaces.is_some() => Reason::UnderWay,
            _ => Reason::Voters,
        });
    }
    reason
}

impl Budget {
    fn of(facts: &Facts<'_>) -> Self {
        let copies = facts.shards.iter().flat_map(|shard| &shard.copies);
        let copying = copies.filter(|copy| {
            let is_new = copy.role != Role::Voter && !copy.is_caught_up;
            is_new && facts.nodes[copy.node].is_alive
        });
        let changing = facts.shards.iter().filter(|shard| shard.is_changing());
        let options = facts.options;
        Self {
            copying: options.copying_max.saturating_sub(copying.count()),
            changing: options.changes_max.saturating_sub(changing.count()),
        }
    }

    fn allows(&mut self, action: &Action) -> bool {
        match action {
            Action::Assign { .. } => take(&mut self.copying),
            Action::Change { .. } | Action::Transfer { .. } => take(&mut self.changing),
        }
    }
}

/// Takes one, if there is one.
pub(super) fn take(left: &mut usize) -> bool {
    let some = *left > 0;
    *left -= usize::from(some);
    some
}
