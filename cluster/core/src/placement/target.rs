//! Where the copies of every shard belong: what is there and on its way, put right.
//!
//! What was begun counts as done. Only shards that stand still are moved to spread zones or load.

use super::balance;
use super::facts::{Facts, NodeFacts, Role, ShardFacts, odd};
use super::{Hold, Move, Reason};
use crate::ids::ShardId;

/// Where a shard belongs. Nodes are places in [`Facts::nodes`].
pub(super) struct Target {
    pub(super) copies: Vec<usize>,
    pub(super) voters: Vec<usize>,
    /// Copies that have to be made.
    pub(super) moves: Vec<Shift>,
    /// Nothing is on its way, nobody is missing and votes are as wanted: may be moved to balance.
    pub(super) is_still: bool,
    pub(super) hold: Option<Hold>,
    /// Copies in each zone.
    pub(super) crowd: Vec<usize>,
}

/// A [`Move`] in places.
#[derive(Clone, Copy)]
pub(super) struct Shift {
    pub(super) from: Option<usize>,
    pub(super) to: usize,
    pub(super) reason: Reason,
}

/// What all shards together put on each node; the definitions are everywhere and do not count.
pub(super) struct Load {
    pub(super) copies: Vec<usize>,
    pub(super) weight: Vec<u64>,
}

pub(super) fn all(facts: &Facts<'_>) -> Vec<Target> {
    let mut targets: Vec<_> = facts.shards.iter().map(|it| begun(facts, it)).collect();
    let mut load = Load::of(facts, &targets);
    for (shard, target) in facts.shards.iter().zip(&mut targets) {
        if shard.can_change() {
            fit(facts, shard, target, &mut load);
        }
    }
    balance::zones(facts, &mut targets, &mut load);
    balance::copies(facts, &mut targets, &mut load);
    balance::weight(facts, &mut targets, &mut load);
    for (shard, target) in facts.shards.iter().zip(&mut targets) {
        if shard.can_change() {
            target.voters = voters(facts, shard, &target.copies);
        }
    }
    targets
}

/// What will be there when all that was begun is done.
fn begun(facts: &Facts<'_>, shard: &ShardFacts<'_>) -> Target {
    let mut target = Target {
        copies: Vec::new(),
        voters: shard.voters().map(|at| shard.copies[at].node).collect(),
        moves: Vec::new(),
        is_still: shard.can_change(),
        hold: None,
        crowd: vec![0; facts.zones],
    };
    let newest = |at: &usize| shard.on(shard.copies[*at].node) == Some(*at);
    let mut lasting: Vec<usize> = (0..shard.copies.len()).filter(newest).collect();
    let (wanted, _) = facts.wanted(shard.shard.id);
    while lasting.len() > wanted {
        let replaced = |at: &usize| shard.copies[*at].is_replaced;
        let Some(gone) = lasting.iter().position(replaced) else {
            break;
        };
        lasting.remove(gone);
    }
    target.is_still &= lasting.len() == shard.copies.len();
    for copy in lasting.into_iter().map(|at| &shard.copies[at]) {
        target.crowd[facts.nodes[copy.node].zone] += 1;
        target.copies.push(copy.node);
        target.is_still &= copy.is_caught_up;
    }
    let sizes = (target.copies.len(), target.voters.len());
    target.is_still &= sizes == facts.wanted(shard.shard.id);
    target
}

/// Puts the number of copies right, and takes them off nodes that should have none.
fn fit(facts: &Facts<'_>, shard: &ShardFacts<'_>, target: &mut Target, load: &mut Load) {
    let counts = shard.shard.id != ShardId::DEFINITIONS;
    let weight = shard.shard.weight;
    let (wanted, _) = facts.wanted(shard.shard.id);
    let mut bad: Vec<_> = target.copies.clone();
    bad.retain(|node| facts.is_bad_for(shard.shard.id, *node));
    // Of those that should go, what still helps goes last.
    bad.sort_by_key(|node| (facts.nodes[*node].is_alive, *node));
    let good = |target: &Target, bad: &[usize]| target.copies.len() - bad.len();
    while good(target, &bad) < wanted {
        let Some(node) = roomiest(facts, target, load) else {
            break;
        };
        let from = (!bad.is_empty()).then(|| bad.remove(0));
        let reason = from.map_or(Reason::Missing, |from| cause(&facts.nodes[from]));
        let shift = Shift {
            from,
            to: node,
            reason,
        };
        target.shift(facts, shift);
        load.shift(shift, weight, counts);
    }
    while target.copies.len() > wanted {
        let node = if bad.is_empty() {
            let pending = |node: &usize| {
                let copy = shard.on(*node).map(|at| shard.copies[at].role);
                copy != Some(Role::Voter)
            };
            let crowd = |node: usize| target.crowd[facts.nodes[node].zone];
            let worst = target.copies.iter().copied();
            let leads = |node: usize| shard.leader == shard.on(node);
            worst.max_by_key(|node| {
                let busy = load.copies[*node];
                (crowd(*node), !leads(*node), busy, pending(node), *node)
            })
        } else {
            Some(bad.remove(0))
        };
        let Some(node) = node else { break };
        target.drop(facts, node);
        load.take(node, weight, counts);
    }
    let left = bad.iter().find(|node| facts.nodes[**node].is_removed);
    target.hold = left.map(|node| Hold::NoRoom(facts.nodes[*node].id));
}

fn cause(node: &NodeFacts) -> Reason {
    if node.is_removed {
        Reason::Removed(node.id)
    } else {
        Reason::Down(node.id)
    }
}

/// The node that should get one more copy.
fn roomiest(facts: &Facts<'_>, target: &Target, load: &Load) -> Option<usize> {
    let open = (0..facts.nodes.len())
        .filter(|node| facts.nodes[*node].receives && !target.copies.contains(node));
    open.min_by_key(|node| {
        let crowd = target.crowd[facts.nodes[*node].zone];
        (crowd, load.copies[*node], load.weight[*node], *node)
    })
}

/// Who of the copies should vote: those that do, where that is right.
fn voters(facts: &Facts<'_>, shard: &ShardFacts<'_>, copies: &[usize]) -> Vec<usize> {
    let wanted = facts.wanted(shard.shard.id).1.min(odd(copies.len()));
    if wanted == copies.len() {
        return copies.to_vec();
    }
    let role = |node: usize| shard.on(node).map(|at| shard.copies[at].role);
    let mut crowd = vec![0_usize; facts.zones];
    let mut chosen: Vec<usize> = copies.to_vec();
    chosen.retain(|node| role(*node) == Some(Role::Voter) && !facts.nodes[*node].is_bad());
    for node in &chosen {
        crowd[facts.nodes[*node].zone] += 1;
    }
    while chosen.len() > wanted {
        let worst = (0..chosen.len()).max_by_key(|at| {
            let node = &facts.nodes[chosen[*at]];
            let leads = shard.leader == shard.on(chosen[*at]);
            (
                !node.is_alive,
                !node.receives,
                crowd[node.zone],
                !leads,
                *at,
            )
        });
        let Some(worst) = worst else { break };
        crowd[facts.nodes[chosen.remove(worst)].zone] -= 1;
    }
    while chosen.len() < wanted {
        let open = copies.iter().copied().filter(|node| !chosen.contains(node));
        let best = open.min_by_key(|at| {
            let node = &facts.nodes[*at];
            let behind = shard
                .on(*at)
                .is_none_or(|copy| !shard.copies[copy].is_caught_up);
            let voted = role(*at) == Some(Role::Voter);
            let useless = (node.is_bad(), !node.is_alive, !node.receives);
            (useless, crowd[node.zone], !voted, behind, *at)
        });
        let Some(best) = best else { break };
        crowd[facts.nodes[best].zone] += 1;
        chosen.push(best);
    }
    better_voters(facts, shard, copies, &mut chosen, &mut crowd);
    chosen
}

/// Votes go from a crowded zone to another, and away from a draining node that alone has one.
fn better_voters(
    facts: &Facts<'_>,
    shard: &ShardFacts<'_>,
    copies: &[usize],
    chosen: &mut [usize],
    crowd: &mut [usize],
) {
    let ready = |node: &usize, chosen: &[usize]| {
        let copy = shard.on(*node).map(|at| shard.copies[at]);
        let fits = facts.nodes[*node].receives && !chosen.contains(node);
        fits && copy.is_some_and(|copy| copy.is_caught_up)
    };
    if let [only] = chosen
        && facts.nodes[*only].is_draining
    {
        let other = copies
            .iter()
            .find(|node| ready(node, &[]) && **node != *only);
        *only = other.copied().unwrap_or(*only);
        return;
    }
    loop {
        let mut best = None;
        for (at, from) in chosen.iter().enumerate() {
            for to in copies.iter().filter(|node| ready(node, chosen)) {
                let here = crowd[facts.nodes[*from].zone];
                let there = crowd[facts.nodes[*to].zone];
                let gain = here.saturating_sub(there + 1);
                let leads = shard.leader == shard.on(*from);
                let key = (gain, !leads, std::cmp::Reverse((at, *to)));
                if gain > 0 && best.is_none_or(|best| key > best) {
                    best = Some(key);
                }
            }
        }
        let Some((_, _, std::cmp::Reverse((at, to)))) = best else {
            return;
        };
        crowd[facts.nodes[chosen[at]].zone] -= 1;
        crowd[facts.nodes[to].zone] += 1;
        chosen[at] = to;
    }
}

impl Target {
    /// Takes a copy from a node (if there is a `from`) to another.
    pub(super) fn shift(&mut self, facts: &Facts<'_>, shift: Shift) {
        self.copies.push(shift.to);
        self.crowd[facts.nodes[shift.to].zone] += 1;
        let Some(from) = shift.from else {
            self.moves.push(shift);
            return;
        };
        self.copies.retain(|node| *node != from);
        self.crowd[facts.nodes[from].zone] -= 1;
        // What was to come here in this very plan goes there at once.
        let earlier = self.moves.iter().position(|it| it.to == from);
        let whole = earlier.map_or(shift, |at| Shift {
            to: shift.to,
            ..self.moves.remove(at)
        });
        if whole.from != Some(whole.to) {
            self.moves.push(whole);
        }
    }

    fn drop(&mut self, facts: &Facts<'_>, node: usize) {
        self.copies.retain(|it| *it != node);
        self.crowd[facts.nodes[node].zone] -= 1;
        self.moves.retain(|it| it.to != node);
    }

    /// The moves, for people.
    pub(super) fn moves<'a>(
        &'a self,
        facts: &'a Facts<'_>,
        shard: ShardId,
    ) -> impl Iterator<Item = Move> + 'a {
        self.moves.iter().map(move |shift| Move {
            shard,
            from: shift.from.map(|node| facts.nodes[node].id),
            to: facts.nodes[shift.to].id,
            reason: shift.reason,
        })
    }
}

impl Load {
    fn of(facts: &Facts<'_>, targets: &[Target]) -> Self {
        let mut load = Self {
            copies: vec![0; facts.nodes.len()],
            weight: vec![0; facts.nodes.len()],
        };
        for (shard, target) in facts.shards.iter().zip(targets) {
            let counts = shard.shard.id != ShardId::DEFINITIONS;
            for node in &target.copies {
                load.give(*node, shard.shard.weight, counts);
            }
        }
        load
    }

    fn give(&mut self, node: usize, weight: u64, counts: bool) {
        if counts {
            self.copies[node] += 1;
            self.weight[node] = self.weight[node].saturating_add(weight);
        }
    }

    fn take(&mut self, node: usize, weight: u64, counts: bool) {
        if counts {
            self.copies[node] -= 1;
            self.weight[node] = self.weight[node].saturating_sub(weight);
        }
    }

    pub(super) fn shift(&mut self, shift: Shift, weight: u64, counts: bool) {
        self.give(shift.to, weight, counts);
        if let Some(from) = shift.from {
            self.take(from, weight, counts);
        }
    }
}
