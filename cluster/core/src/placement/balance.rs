//! Evens out what stands still: zones first, then the number of copies, then weight.
//!
//! Each move strictly improves the first of these that it is about and worsens none before it, so
//! that there is an end, whatever part of the moves is carried out in between.

use std::cmp::Reverse;

use super::Reason;
use super::facts::{Facts, ShardFacts};
use super::paths;
use super::target::{Load, Shift, Target};
use crate::ids::ShardId;

/// Copies leave zones that have more of a shard than another with room would.
pub(super) fn zones(facts: &Facts<'_>, targets: &mut [Target], load: &mut Load) {
    if facts.zones < 2 {
        return;
    }
    for (shard, target) in facts.shards.iter().zip(targets) {
        while let Some((from, to)) = wider(facts, shard, target, load) {
            shift(facts, shard, target, load, (from, to, Reason::Zones));
        }
    }
}

/// The move that takes a copy to the emptiest zone, if there is one that spreads the shard.
fn wider(
    facts: &Facts<'_>,
    shard: &ShardFacts<'_>,
    target: &Target,
    load: &Load,
) -> Option<(usize, usize)> {
    if !is_movable(shard, target) {
        return None;
    }
    let mut best = None;
    for from in &target.copies {
        let here = target.crowd[facts.nodes[*from].zone];
        if here < 2 {
            continue;
        }
        for to in receivers(facts).filter(|to| !target.copies.contains(to)) {
            let there = target.crowd[facts.nodes[to].zone];
            if there + 1 >= here {
                continue;
            }
            let leads = shard.leader == shard.on(*from);
            let (busy, free) = (load.copies[*from], load.copies[to]);
            let gain = Reverse(here - there);
            let key = (gain, free, Reverse(busy), leads, *from, to);
            if best.is_none_or(|best| key < best) {
                best = Some(key);
            }
        }
    }
    best.map(|(.., from, to)| (from, to))
}

/// The same number of copies on every node that takes any.
pub(super) fn copies(facts: &Facts<'_>, targets: &mut [Target], load: &mut Load) {
    let takes_part: Vec<bool> = facts.nodes.iter().map(|node| node.receives).collect();
    let mut able = Able::of(facts, targets);
    // Each way makes the loads more even: no more ways than copies.
    for _ in 0..facts.shards.len() * facts.options.replication.max(1) {
        let Some(way) = paths::find(&load.copies, &takes_part, |from, to| able.any(from, to))
        else {
            return;
        };
        // From its end, so that no node has more on the way than it had.
        for hop in way.windows(2).rev() {
            let (from, to) = (hop[0], hop[1]);
            let Some(at) = fitting(facts, targets, load, from, to) else {
                return;
            };
            let (shard, target) = (&facts.shards[at], &mut targets[at]);
            let reason = Reason::Copies(facts.nodes[from].id);
            able.count(facts, shard, target, false);
            shift(facts, shard, target, load, (from, to, reason));
            able.count(facts, shard, target, true);
        }
    }
}

/// How many shards can go from each node to each other.
struct Able {
    counts: Vec<usize>,
    nodes: usize,
}

impl Able {
    fn of(facts: &Facts<'_>, targets: &[Target]) -> Self {
        let nodes = facts.nodes.len();
        let mut able = Self {
            counts: vec![0; nodes * nodes],
            nodes,
        };
        for (shard, target) in facts.shards.iter().zip(targets) {
            able.count(facts, shard, target, true);
        }
        able
    }

    /// Adds what a shard can do, or takes it out before that changes.
    fn count(&mut self, facts: &Facts<'_>, shard: &ShardFacts<'_>, target: &Target, add: bool) {
        for from in target.copies.iter().copied() {
            for to in receivers(facts).filter(|to| may_go(facts, shard, target, from, *to)) {
                let count = &mut self.counts[from * self.nodes + to];
                *count = if add { *count + 1 } else { *count - 1 };
            }
        }
    }

    fn any(&self, from: usize, to: usize) -> bool {
        self.counts[from * self.nodes + to] > 0
    }
}

/// A shard whose copy is not there yet; else the one whose move leaves the two nodes' weights
/// closest to each other.
fn fitting(
    facts: &Facts<'_>,
    targets: &[Target],
    load: &Load,
    from: usize,
    to: usize,
) -> Option<usize> {
    let able =
        (0..targets.len()).filter(|at| may_go(facts, &facts.shards[*at], &targets[*at], from, to));
    able.min_by_key(|at| {
        let shard = &facts.shards[*at];
        let heavy = load.weight[from].saturating_sub(shard.shard.weight);
        let light = load.weight[to].saturating_add(shard.shard.weight);
        let leads = shard.leader == shard.on(from);
        let moves = !is_planned(shard, &targets[*at], from);
        (moves, heavy.abs_diff(light), leads, *at)
    })
}

/// Two nodes exchange a heavy and a light shard, or one that has a copy more gives one away.
pub(super) fn weight(facts: &Facts<'_>, targets: &mut [Target], load: &mut Load) {
    let mut order: Vec<usize> = receivers(facts).collect();
    let sum = order.iter().map(|node| load.weight[*node] / 100);
    let percent = sum.sum::<u64>() / order.len().max(1) as u64;
    let gain = percent * facts.options.weight_gain_percent;
    let gain = gain.max(facts.options.weight_gain_min_bytes).max(1);
    // What is left after so many is for the next plan.
    for _ in 0..facts.nodes.len() {
        order.sort_by_key(|node| (load.weight[*node], *node));
        let Some((heavy, light, swap)) = swap(facts, targets, load, &order, gain) else {
            return;
        };
        let reason = Reason::Weight(facts.nodes[heavy].id);
        let there = (swap.gives, heavy, light);
        let back = swap.takes.map(|at| (at, light, heavy));
        for (at, from, to) in std::iter::once(there).chain(back) {
            let target = &mut targets[at];
            shift(facts, &facts.shards[at], target, load, (from, to, reason));
        }
    }
}

/// What a heavy node gives, and takes for it.
struct Swap {
    gives: usize,
    takes: Option<usize>,
}

fn swap(
    facts: &Facts<'_>,
    targets: &[Target],
    load: &Load,
    order: &[usize],
    gain: u64,
) -> Option<(usize, usize, Swap)> {
    for heavy in order.iter().rev().copied() {
        for light in order.iter().copied() {
            let apart = load.weight[heavy].saturating_sub(load.weight[light]);
            if apart < gain.saturating_mul(2) {
                break;
            }
            let alone = load.copies[heavy] > load.copies[light];
            if let Some(swap) = best_swap(facts, targets, (heavy, light), apart, alone, gain) {
                return Some((heavy, light, swap));
            }
        }
    }
    None
}

fn best_swap(
    facts: &Facts<'_>,
    targets: &[Target],
    (heavy, light): (usize, usize),
    apart: u64,
    alone: bool,
    gain: u64,
) -> Option<Swap> {
    let going = |from, to| {
        let able = move |at: &usize| may_go(facts, &facts.shards[*at], &targets[*at], from, to);
        let found = (0..targets.len()).filter(able);
        found.map(|at| (facts.shards[at].shard.weight, at))
    };
    let mut back: Vec<(u64, Option<usize>)> = going(light, heavy)
        .map(|(weight, at)| (weight, Some(at)))
        .collect();
    if alone {
        back.push((0, None));
    }
    back.sort_unstable();
    let mut best: Option<(u64, Swap)> = None;
    for (weight, gives) in going(heavy, light) {
        // Half of the difference is best; both neighbours of that are looked at.
        let ideal = weight.saturating_sub(apart / 2);
        let after = back.partition_point(|(other, _)| *other < ideal);
        for (other, takes) in &back[after.saturating_sub(1)..(after + 1).min(back.len())] {
            let (other, takes) = (*other, *takes);
            let Some(moved) = weight.checked_sub(other).filter(|moved| *moved < apart) else {
                continue;
            };
            let gained = moved.min(apart - moved);
            if gained >= gain && best.as_ref().is_none_or(|(most, _)| gained > *most) {
                best = Some((gained, Swap { gives, takes }));
            }
        }
    }
    best.map(|(_, swap)| swap)
}

fn receivers<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = usize> + 'a {
    (0..facts.nodes.len()).filter(|node| facts.nodes[*node].receives)
}

/// Stands still, and was not touched for a more urgent reason.
fn is_movable(shard: &ShardFacts<'_>, target: &Target) -> bool {
    let urgent = |shift: &Shift| shift.reason < Reason::Zones;
    target.is_still && shard.shard.id != ShardId::DEFINITIONS && !target.moves.iter().any(urgent)
}

/// Whether a copy can go from one node to another without crowding a zone.
fn may_go(
    facts: &Facts<'_>,
    shard: &ShardFacts<'_>,
    target: &Target,
    from: usize,
    to: usize,
) -> bool {
    if !target.copies.contains(&from) || target.copies.contains(&to) {
        return false;
    }
    let (here, there) = (facts.nodes[from].zone, facts.nodes[to].zone);
    let able = is_movable(shard, target) || is_planned(shard, target, from);
    able && (here == there || target.crowd[there] < target.crowd[here])
}

/// The copy is only about to be made here: it may as well be made elsewhere.
fn is_planned(shard: &ShardFacts<'_>, target: &Target, node: usize) -> bool {
    shard.shard.id != ShardId::DEFINITIONS && target.moves.iter().any(|shift| shift.to == node)
}

fn shift(
    facts: &Facts<'_>,
    shard: &ShardFacts<'_>,
    target: &mut Target,
    load: &mut Load,
    (from, to, reason): (usize, usize, Reason),
) {
    let shift = Shift {
        from: Some(from),
        to,
        reason,
    };
    target.shift(facts, shift);
    load.shift(shift, shard.shard.weight, true);
}
