//! From what is to what should be: which shards' rows change now, and to what.

use super::facts::{Facts, Role, ShardFacts, majority};
use super::leads::Leads;
use super::target::Target;
use super::{Change, Hold, Layout, Reason};
use crate::ids::ShardId;
use crate::members::Wanted;

/// How much more may be under way.
struct Budget {
    copying: usize,
    changing: usize,
}

pub(super) fn layout(facts: &Facts<'_>, targets: &[Target]) -> Layout {
    let mut layout = Layout::default();
    let leads = Leads::of(facts, targets);
    let mut changes = Vec::new();
    for (at, (shard, target)) in facts.shards.iter().zip(targets).enumerate() {
        let id = shard.shard.id;
        let hold = hold(shard).or(target.hold);
        layout.held.extend(hold.map(|hold| (id, hold)));
        layout.moves.extend(target.moves(facts, id));
        if shard.can_change() {
            let change = change(facts, shard, target, leads.get(at));
            changes.extend(change.map(|change| (change, target.moves.len())));
        }
    }
    changes.sort_by_key(|(change, _)| (urgency(change.reason), change.shard));
    layout.waiting = changes.len();
    let mut budget = Budget::of(facts);
    changes.retain(|(_, copies)| budget.allows(*copies));
    layout.waiting -= changes.len();
    layout.changes = changes.into_iter().map(|(change, _)| change).collect();
    layout
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
        Reason::Missing => 0,
        Reason::Down(_) => 1,
        Reason::Removed(_) | Reason::Draining(_) => 2,
        Reason::Voters | Reason::Replaced => 3,
        Reason::Zones => 4,
        Reason::Copies(_) => 5,
        Reason::Weight(_) => 6,
        Reason::Leaders(_) => 7,
    }
}

/// What a shard's row becomes, if it changes.
fn change(
    facts: &Facts<'_>,
    shard: &ShardFacts<'_>,
    target: &Target,
    (lead, lead_reason): (Option<usize>, Option<Reason>),
) -> Option<Change> {
    let id = shard.shard.id;
    let new = target.moves.iter().map(|shift| shift.to);
    let mut new = new.filter(|node| shard.on(*node).is_none());
    if id != ShardId::DEFINITIONS && !new.all(|node| knows_rows(facts, node)) {
        return None;
    }
    let node = |at: &usize| facts.nodes[*at].id;
    let mut voters: Vec<_> = target.voters.iter().map(node).collect();
    voters.sort_unstable();
    let lead = lead.map(|at| facts.nodes[at].id);
    voters.sort_by_key(|node| Some(*node) != lead);
    let learners = target
        .copies
        .iter()
        .filter(|at| !target.voters.contains(at));
    let mut learners: Vec<_> = learners.map(node).collect();
    learners.sort_unstable();
    let wanted = Wanted { voters, learners };
    let before = &shard.shard.wanted;
    let sorted = |wanted: &Wanted| {
        let (mut voters, mut learners) = (wanted.voters.clone(), wanted.learners.clone());
        voters.sort_unstable();
        learners.sort_unstable();
        (voters, learners)
    };
    let same = sorted(before) == sorted(&wanted);
    let leads_same = before.voters.first() == wanted.voters.first();
    if (same && leads_same) || wanted.voters.is_empty() || !is_safe(facts, shard, target) {
        return None;
    }
    let moved = target.moves.iter().map(|shift| shift.reason).min();
    let reason = match moved {
        Some(reason) => reason,
        None if same => lead_reason.unwrap_or(Reason::Replaced),
        None => shrink_reason(facts, before, &wanted),
    };
    Some(Change {
        shard: id,
        wanted,
        reason,
    })
}

/// Whether the shard can lose no fewer nodes after the change than before it. Only where nodes were
/// taken away it may come to stand less.
fn is_safe(facts: &Facts<'_>, shard: &ShardFacts<'_>, target: &Target) -> bool {
    let spare = |votes: &[usize]| {
        let alive = votes.iter().filter(|node| facts.nodes[**node].is_alive);
        alive.count().checked_sub(majority(votes.len()))
    };
    let present: Vec<usize> = shard.voters().map(|at| shard.copies[at].node).collect();
    let shrinks = facts.has_room_for(shard.shard.id).1 < present.len();
    let after = spare(&target.voters);
    after >= spare(&present) || (shrinks && after.is_some())
}

/// Why copies or votes change though none is made: because of a node that loses some.
fn shrink_reason(facts: &Facts<'_>, before: &Wanted, after: &Wanted) -> Reason {
    let before = before.voters.iter().chain(&before.learners);
    let gone = before.filter(|node| !after.voters.contains(node));
    for gone in gone {
        let node = facts.nodes.iter().find(|node| node.id == *gone);
        match node {
            Some(node) if node.is_removed => return Reason::Removed(node.id),
            Some(node) if node.is_gone => return Reason::Down(node.id),
            Some(node) if node.is_draining => return Reason::Draining(node.id),
            _ => {}
        }
    }
    Reason::Voters
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

impl Budget {
    fn of(facts: &Facts<'_>) -> Self {
        let shards = facts.shards.iter();
        let queues = shards.filter(|shard| shard.shard.id != ShardId::DEFINITIONS);
        let copying = queues.flat_map(|shard| &shard.copies).filter(|copy| {
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

    fn allows(&mut self, copies: usize) -> bool {
        let left = if copies > 0 {
            &mut self.copying
        } else {
            &mut self.changing
        };
        let allowed = *left > 0;
        *left = left.saturating_sub(copies.max(1));
        allowed
    }
}
