//! Who leads: nobody on a draining node, and everybody about as often as the others.

use super::facts::{Copy, Facts, Role, ShardFacts};
use super::paths;
use super::steps::{Budget, take};
use super::target::Target;
use super::{Action, Reason, Step};

/// How often each node leads, with what this plan changes.
pub(super) struct Leaders {
    counts: Vec<usize>,
    /// By shard: the node that leads it, if the lead may be moved now.
    free: Vec<Option<usize>>,
}

impl Leaders {
    pub(super) fn of(facts: &Facts<'_>) -> Self {
        let mut counts = vec![0; facts.nodes.len()];
        let mut free = Vec::with_capacity(facts.shards.len());
        for shard in &facts.shards {
            let leader = shard.leader.map(|at| shard.copies[at].node);
            if let Some(node) = leader {
                counts[node] += 1;
            }
            free.push(leader.filter(|_| shard.can_change()));
        }
        Self { counts, free }
    }

    /// A step is in the plan: a shard that it changes is left alone.
    pub(super) fn count(&mut self, facts: &Facts<'_>, action: &Action) {
        let at = facts
            .shards
            .binary_search_by_key(&action.shard(), |it| it.shard.id);
        let Ok(at) = at else { return };
        match action {
            Action::Assign { .. } => {}
            Action::Change { .. } => self.free[at] = None,
            Action::Transfer { to, .. } => {
                let shard = &facts.shards[at];
                let heir = shard.copies.iter().find(|copy| copy.replica == *to);
                if let (Some(from), Some(heir)) = (self.free[at].take(), heir) {
                    self.counts[from] -= 1;
                    self.counts[heir.node] += 1;
                }
            }
        }
    }

    /// Who of these should lead next.
    pub(super) fn heir(
        &self,
        facts: &Facts<'_>,
        shard: &ShardFacts<'_>,
        heirs: impl Iterator<Item = usize>,
    ) -> Option<usize> {
        let able = heirs.filter(|at| shard.copies[*at].is_caught_up);
        able.min_by_key(|at| {
            let node = shard.copies[*at].node;
            (!facts.nodes[node].receives, self.counts[node], *at)
        })
    }

    /// Takes the lead away from nodes that should not have it.
    pub(super) fn leave_draining(
        &mut self,
        facts: &Facts<'_>,
        targets: &[Target],
        budget: &mut Budget,
        steps: &mut Vec<Step>,
    ) {
        for (at, (shard, target)) in facts.shards.iter().zip(targets).enumerate() {
            let leader = self.free[at].map(|node| &facts.nodes[node]);
            let Some(leader) = leader.filter(|node| node.is_draining || node.is_removed) else {
                continue;
            };
            let able = |copy: &Copy| copy.role == Role::Voter && facts.nodes[copy.node].receives;
            let heirs = (0..shard.copies.len()).filter(|at| able(&shard.copies[*at]));
            let (lasting, others): (Vec<_>, Vec<_>) =
                heirs.partition(|at| target.voters.contains(&shard.copies[*at].node));
            let heir = self.heir(facts, shard, lasting.into_iter());
            let heir = heir.or_else(|| self.heir(facts, shard, others.into_iter()));
            if let Some(heir) = heir
                && take(&mut budget.changing)
            {
                let reason = if leader.is_removed {
                    Reason::Removed(leader.id)
                } else {
                    Reason::Draining(leader.id)
                };
                self.hand_over(facts, at, heir, reason, steps);
            }
        }
    }

    /// Moves leads from nodes that have many to such as have few.
    pub(super) fn balance(
        &mut self,
        facts: &Facts<'_>,
        targets: &[Target],
        budget: &mut Budget,
        steps: &mut Vec<Step>,
    ) {
        let takes_part: Vec<bool> = facts.nodes.iter().map(|node| node.receives).collect();
        while budget.changing > 0 {
            let may = |from, to| self.to_hand_over(facts, targets, from, to).is_some();
            let Some(way) = paths::find(&self.counts, &takes_part, may) else {
                return;
            };
            for hop in way.windows(2).rev() {
                let found = self.to_hand_over(facts, targets, hop[0], hop[1]);
                let Some((shard, heir)) = found.filter(|_| take(&mut budget.changing)) else {
                    return;
                };
                let reason = Reason::Leaders(facts.nodes[hop[0]].id);
                self.hand_over(facts, shard, heir, reason, steps);
            }
        }
    }

    /// A shard that stands still and is led here, with its voter there.
    fn to_hand_over(
        &self,
        facts: &Facts<'_>,
        targets: &[Target],
        from: usize,
        to: usize,
    ) -> Option<(usize, usize)> {
        let mut led = (0..facts.shards.len()).filter(|at| self.free[*at] == Some(from));
        led.find_map(|at| {
            let shard = &facts.shards[at];
            let still = targets[at].is_still && targets[at].moves.is_empty();
            let heir = shard.on(to).filter(|heir| {
                let copy = &shard.copies[*heir];
                still && copy.role == Role::Voter && copy.is_caught_up
            });
            Some((at, heir?))
        })
    }

    fn hand_over(
        &mut self,
        facts: &Facts<'_>,
        shard: usize,
        heir: usize,
        reason: Reason,
        steps: &mut Vec<Step>,
    ) {
        let facts = &facts.shards[shard];
        let action = Action::Transfer {
            shard: facts.shard.id,
            to: facts.copies[heir].replica,
        };
        if let Some(from) = self.free[shard].take() {
            self.counts[from] -= 1;
            self.counts[facts.copies[heir].node] += 1;
        }
        steps.push(Step { action, reason });
    }
}
