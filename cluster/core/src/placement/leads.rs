//! Who is to lead: nobody that drains or goes, and everybody about as often as the others.
//!
//! A node that is down for a moment keeps what it was to lead: it gets that back when it returns.

use super::facts::{Facts, Role, ShardFacts};
use super::target::Target;
use super::{Reason, paths};

/// Who is to lead each shard, with this plan.
pub(super) struct Leads {
    counts: Vec<usize>,
    /// Places in [`Facts::nodes`], by shard; with the reason if it is another than before.
    by_shard: Vec<(Option<usize>, Option<Reason>)>,
}

impl Leads {
    pub(super) fn of(facts: &Facts<'_>, targets: &[Target]) -> Self {
        let mut leads = Self {
            counts: vec![0; facts.nodes.len()],
            by_shard: Vec::with_capacity(targets.len()),
        };
        for (shard, target) in facts.shards.iter().zip(targets) {
            let wanted = shard.leads.filter(|node| {
                let stays = target.voters.contains(node) && may_lead(facts, *node);
                stays || !shard.can_change()
            });
            if let Some(node) = wanted {
                leads.counts[node] += 1;
            }
            leads.by_shard.push((wanted, None));
        }
        for (at, (shard, target)) in facts.shards.iter().zip(targets).enumerate() {
            if leads.by_shard[at].0.is_none() && shard.can_change() {
                leads.choose(facts, at, shard, target);
            }
        }
        leads.balance(facts, targets);
        leads
    }

    /// Who is to lead a shard; the reason is one only where that changes.
    pub(super) fn get(&self, at: usize) -> (Option<usize>, Option<Reason>) {
        self.by_shard[at]
    }

    fn choose(&mut self, facts: &Facts<'_>, at: usize, shard: &ShardFacts<'_>, target: &Target) {
        let has_all = |node: usize| shard.on(node).is_some_and(|at| is_heir(shard, at));
        let chosen = target.voters.iter().copied().min_by_key(|node| {
            let receives = facts.nodes[*node].receives;
            let leads = shard
                .leader
                .is_some_and(|at| shard.copies[at].node == *node);
            // Where nobody is fit, all stays as it is.
            let kept = !receives && leads;
            (!receives, !kept, !has_all(*node), self.counts[*node], *node)
        });
        let Some(node) = chosen else { return };
        self.counts[node] += 1;
        let before = shard.leads.filter(|before| *before != node);
        let reason = before.map(|before| {
            let facts = &facts.nodes[before];
            if facts.is_removed {
                Reason::Removed(facts.id)
            } else if facts.is_draining {
                Reason::Draining(facts.id)
            } else if facts.is_gone {
                Reason::Down(facts.id)
            } else {
                Reason::Replaced
            }
        });
        self.by_shard[at] = (Some(node), reason);
    }

    /// Moves leads from nodes that have many to such as have few.
    fn balance(&mut self, facts: &Facts<'_>, targets: &[Target]) {
        let takes_part: Vec<bool> = facts.nodes.iter().map(|node| node.receives).collect();
        // Each way makes the counts more even: no more ways than shards.
        for _ in 0..targets.len() {
            let may = |from, to| self.to_hand_over(facts, targets, from, to).is_some();
            let Some(way) = paths::find(&self.counts, &takes_part, may) else {
                return;
            };
            for hop in way.windows(2).rev() {
                let (from, to) = (hop[0], hop[1]);
                let Some(at) = self.to_hand_over(facts, targets, from, to) else {
                    return;
                };
                self.counts[from] -= 1;
                self.counts[to] += 1;
                let reason = Reason::Leaders(facts.nodes[from].id);
                self.by_shard[at] = (Some(to), Some(reason));
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
    ) -> Option<usize> {
        let is_free = |at: usize| {
            let (shard, target) = (&facts.shards[at], &targets[at]);
            let still = shard.can_change() && target.is_still && target.moves.is_empty();
            let votes = target.voters.contains(&to);
            self.by_shard[at] == (Some(from), None)
                && still
                && votes
                && shard.on(to).is_some_and(|at| is_heir(shard, at))
        };
        (0..targets.len()).find(|at| is_free(*at))
    }
}

/// Whether a node may go on leading, or will when it is back.
fn may_lead(facts: &Facts<'_>, node: usize) -> bool {
    let node = &facts.nodes[node];
    !node.is_draining && !node.is_bad()
}

fn is_heir(shard: &ShardFacts<'_>, at: usize) -> bool {
    let copy = &shard.copies[at];
    copy.role == Role::Voter && copy.is_caught_up
}
