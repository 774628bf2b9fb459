//! What happens to a cluster in its life, one story a test.

use super::toy::{NodeState, Toy, is_even};
use crate::ids::{NodeId, ShardId};
use crate::placement::{Hold, Options, Shard, needs_node, nodes_of_zone, quorum_risk, would_break};

const SHARDS: u32 = 24;

fn cluster(nodes: usize) -> Toy {
    let mut toy = Toy::new(SHARDS, "a");
    for _ in 1..nodes {
        toy.add("a");
    }
    toy.settle();
    toy.check_rest();
    toy
}

fn zones(nodes_each: usize) -> Toy {
    let mut toy = Toy::new(SHARDS, "a");
    for at in 1..nodes_each * 3 {
        toy.add(["a", "b", "c"][at % 3]);
    }
    toy.settle();
    toy.check_rest();
    toy
}

fn check_sizes(toy: &Toy) {
    for shard in &toy.cluster.shards {
        let members = &shard.members;
        let sizes = (members.voters.len(), members.all().count());
        let wanted = (toy.voters_wanted(shard.id), toy.copies_wanted(shard.id));
        assert_eq!(sizes, wanted, "shard {}", shard.id);
    }
}

#[test]
fn a_cluster_grows_from_one_node_to_twelve() {
    let mut toy = cluster(1);
    assert!(toy.plan().is_empty());
    for nodes in 2..=12 {
        toy.made = 0;
        toy.add("a");
        toy.settle();
        toy.check_rest();
        check_sizes(&toy);
        assert!(toy.plan().is_empty());
        assert!(is_even(&toy.copies()), "{:?}", toy.copies());
        if nodes > 2 {
            assert!(is_even(&toy.leaders()), "{:?}", toy.leaders());
        }
        if nodes > 3 {
            // A share of the copies moves, no more, and a copy of the definitions is made.
            let share = SHARDS as usize * 3 / nodes;
            assert_eq!(toy.made, share + 1, "{nodes} nodes");
        }
    }
}

#[test]
fn two_nodes_are_a_voter_and_a_learner() {
    let toy = cluster(2);
    for shard in &toy.cluster.shards {
        assert_eq!(shard.members.voters.len(), 1);
        assert_eq!(shard.members.learners.len(), 1);
    }
}

#[test]
fn every_node_has_the_definitions_and_five_vote() {
    let toy = zones(4);
    let members = &toy.cluster.shards[0].members;
    assert_eq!((members.voters.len(), members.learners.len()), (5, 7));
    assert_eq!(toy.zones(&toy.cluster.shards[0]), (3, 2));
}

#[test]
fn three_zones_have_a_voter_each() {
    let toy = zones(4);
    for shard in &toy.cluster.shards[1..] {
        assert_eq!(toy.zones(shard), (3, 1), "shard {}", shard.id);
    }
    assert!(is_even(&toy.copies()), "{:?}", toy.copies());
    assert!(is_even(&toy.leaders()), "{:?}", toy.leaders());
    for zone in ["a", "b", "c"] {
        let lost = nodes_of_zone(&toy.cluster, zone);
        assert_eq!(lost.len(), 4);
        assert_eq!(quorum_risk(&toy.cluster, &lost), []);
    }
}

#[test]
fn a_small_zone_takes_one_of_everything() {
    let mut toy = cluster(4);
    toy.add("b");
    toy.settle();
    toy.check_rest();
    for shard in &toy.cluster.shards[1..] {
        assert_eq!(toy.zones(shard), (2, 2), "shard {}", shard.id);
    }
    assert_eq!(toy.copies(), [12, 12, 12, 12, 24]);
}

#[test]
fn a_new_zone_gets_its_share_and_no_zone_is_crowded() {
    let mut toy = zones(2);
    toy.add("d");
    toy.settle();
    toy.check_rest();
    assert!(is_even(&toy.copies()), "{:?}", toy.copies());
    for shard in &toy.cluster.shards[1..] {
        assert_eq!(toy.zones(shard), (3, 1), "shard {}", shard.id);
    }
}

#[test]
fn a_draining_node_leads_nothing_and_keeps_its_copies() {
    let mut toy = cluster(4);
    let copies = toy.copies();
    toy.made = 0;
    toy.set(NodeId(2), NodeState::Draining);
    toy.settle();
    toy.check_rest();
    let leaders = toy.leaders();
    assert_eq!(leaders[1], 0);
    let others = [leaders[0], leaders[2], leaders[3]];
    assert!(is_even(&others), "{others:?}");
    assert_eq!((toy.copies(), toy.made), (copies, 0));
    toy.set(NodeId(2), NodeState::Active);
    toy.settle();
    assert!(is_even(&toy.leaders()), "{:?}", toy.leaders());
    assert_eq!(toy.made, 0);
}

#[test]
fn the_only_voter_hands_over_when_it_drains() {
    let mut toy = cluster(2);
    toy.set(NodeId(1), NodeState::Draining);
    toy.settle();
    toy.check_rest();
    check_sizes(&toy);
    assert_eq!(toy.leaders(), [0, SHARDS as usize + 1]);
    toy.set(NodeId(1), NodeState::Active);
    assert!(toy.plan().is_empty(), "and stays there");
}

#[test]
fn the_last_node_that_drains_goes_on() {
    let mut toy = cluster(1);
    toy.set(NodeId(1), NodeState::Draining);
    assert!(toy.plan().is_empty());
}

#[test]
fn a_removed_node_is_emptied() {
    for nodes in [12, 5, 4, 3, 2] {
        let mut toy = cluster(nodes);
        toy.made = 0;
        let had = toy.copies()[0];
        toy.set(NodeId(1), NodeState::Leaving);
        assert_eq!(would_break_of(&toy, 1), []);
        toy.settle();
        toy.check_rest();
        check_sizes(&toy);
        assert_eq!(toy.cluster.nodes.len(), nodes - 1);
        assert!(is_even(&toy.copies()), "{:?}", toy.copies());
        let moved = if nodes > 3 { had } else { 0 };
        assert_eq!(toy.made, moved, "{nodes} nodes");
    }
}

fn would_break_of(toy: &Toy, node: u64) -> Vec<ShardId> {
    would_break(&toy.cluster, &toy.options, toy.now, NodeId(node))
}

#[test]
fn the_last_node_cannot_be_removed() {
    let mut toy = cluster(1);
    let all: Vec<_> = (0..=SHARDS).map(ShardId).collect();
    assert_eq!(would_break_of(&toy, 1), all);
    toy.set(NodeId(1), NodeState::Leaving);
    let plan = toy.plan();
    assert!(plan.is_empty());
    let held = (ShardId(3), Hold::NoRoom(NodeId(1)));
    assert!(plan.held.contains(&held), "{:?}", plan.held);
}

#[test]
fn a_node_down_for_a_moment_is_waited_for() {
    let mut toy = cluster(4);
    toy.made = 0;
    toy.kill(NodeId(3));
    toy.settle();
    assert_eq!(toy.made, 0);
    toy.revive(NodeId(3));
    toy.settle();
    toy.check_rest();
    assert_eq!(toy.made, 0);
    assert!(is_even(&toy.leaders()), "{:?}", toy.leaders());
}

#[test]
fn a_node_down_for_long_is_replaced_and_welcomed_back() {
    let mut toy = cluster(5);
    let had = toy.copies()[2];
    toy.made = 0;
    toy.kill(NodeId(3));
    toy.wait_out_the_delay();
    toy.settle();
    assert_eq!(toy.copies()[2], 0);
    assert!(toy.made <= had + 3, "{} copies for {had}", toy.made);
    for shard in &toy.cluster.shards[1..] {
        assert!(
            shard
                .members
                .voters
                .iter()
                .all(|id| toy.is_alive(id.node()))
        );
    }
    // All five are needed for five voters of the definitions, and four alive can lose one more.
    assert_eq!(toy.cluster.shards[0].members.voters.len(), 5);
    toy.revive(NodeId(3));
    toy.settle();
    toy.check_rest();
    check_sizes(&toy);
    assert!(is_even(&toy.copies()), "{:?}", toy.copies());
}

#[test]
fn with_nobody_to_replace_it_a_dead_node_is_kept() {
    let mut toy = cluster(3);
    toy.kill(NodeId(2));
    toy.wait_out_the_delay();
    toy.settle();
    check_sizes(&toy);
    assert_eq!(toy.copies(), [SHARDS as usize; 3]);
    // It is removed by the operator: what is left is a voter and a learner.
    toy.set(NodeId(2), NodeState::Leaving);
    toy.settle();
    toy.check_rest();
    check_sizes(&toy);
}

#[test]
fn definitions_lose_dead_voters_when_that_makes_them_safer() {
    let mut toy = cluster(5);
    toy.kill(NodeId(4));
    toy.kill(NodeId(5));
    toy.wait_out_the_delay();
    toy.settle();
    let members = &toy.cluster.shards[0].members;
    let voters: Vec<_> = members.voters.iter().map(|id| id.node().0).collect();
    assert_eq!((voters, members.learners.len()), (vec![1, 2, 3], 2));
    toy.revive(NodeId(4));
    toy.revive(NodeId(5));
    toy.settle();
    check_sizes(&toy);
}

/// Seven nodes, some dead and two that cannot leave yet.
fn two_stay_beside_the_dead(dead: &[NodeId]) -> Toy {
    let mut toy = cluster(7);
    dead.iter().for_each(|node| toy.kill(*node));
    toy.wait_out_the_delay();
    toy.set(NodeId(4), NodeState::Leaving);
    toy.set(NodeId(5), NodeState::Leaving);
    toy.settle();
    assert_eq!(toy.cluster.shards[0].members.voters.len(), 5);
    toy
}

/// The dead are back, and the two leave.
fn two_leave_as_all_live(mut toy: Toy, dead: &[NodeId]) {
    dead.iter().for_each(|node| toy.revive(*node));
    toy.settle();
    toy.check_rest();
    check_sizes(&toy);
    assert_eq!(toy.cluster.nodes.len(), 5);
}

#[test]
fn a_removal_waits_for_room_rather_than_give_up_votes() {
    let dead = [NodeId(7)];
    let toy = two_stay_beside_the_dead(&dead);
    let held = toy.plan().held;
    let waits = |node| held.contains(&(ShardId::DEFINITIONS, Hold::NoRoom(NodeId(node))));
    assert!(waits(4) || waits(5), "{held:?}");
    two_leave_as_all_live(toy, &dead);
}

/// Who leaves may be needed in a shard that nobody leads.
#[test]
fn a_removal_waits_while_shards_have_no_leader() {
    let dead = [6, 7].map(NodeId);
    let toy = two_stay_beside_the_dead(&dead);
    let held = toy.plan().held;
    let unled = |hold: &Hold| matches!(hold, Hold::NoMajority { .. });
    assert!(held.iter().any(|(_, hold)| unled(hold)), "{held:?}");
    for leaving in [4, 5].map(NodeId) {
        assert!(toy.takes_part(leaving).1, "{leaving} keeps the definitions");
    }
    two_leave_as_all_live(toy, &dead);
}

#[test]
fn a_shard_without_a_majority_is_reported_and_left_alone() {
    let mut toy = cluster(4);
    toy.kill(NodeId(1));
    let risky = quorum_risk(&toy.cluster, &[NodeId(2)]);
    assert!(!risky.is_empty());
    assert_eq!(needs_node(&toy.cluster, NodeId(2)), risky);
    toy.kill(NodeId(2));
    // Those that have none left are no risk, and still no reason to stop what they have.
    let risk = quorum_risk(&toy.cluster, &[NodeId(3)]);
    let needs = needs_node(&toy.cluster, NodeId(3));
    assert!(risky.iter().all(|shard| !risk.contains(shard)));
    assert!(risky.iter().any(|shard| needs.contains(shard)));
    assert!(risk.iter().all(|shard| needs.contains(shard)));
    toy.wait_out_the_delay();
    toy.settle();
    let plan = toy.plan();
    assert!(plan.is_empty(), "{plan:#?}");
    let held: Vec<_> = plan.held.iter().map(|(shard, _)| *shard).collect();
    assert_eq!(held, risky);
    assert_eq!(
        plan.held[0].1,
        Hold::NoMajority {
            alive: 1,
            voters: 3
        }
    );
    let broken = would_break_of(&toy, 1);
    assert_eq!(broken, risky, "removing it would not help them");
}

#[test]
fn a_zone_that_is_lost_is_made_up_for_and_comes_back() {
    let mut toy = zones(4);
    let lost = nodes_of_zone(&toy.cluster, "b");
    lost.iter().for_each(|node| toy.kill(*node));
    toy.settle();
    assert!(
        toy.cluster
            .shards
            .iter()
            .all(|shard| shard.leader.is_some())
    );
    toy.wait_out_the_delay();
    toy.settle();
    for shard in &toy.cluster.shards {
        let voters = &shard.members.voters;
        assert!(voters.iter().all(|id| toy.is_alive(id.node())));
    }
    lost.iter().for_each(|node| toy.revive(*node));
    toy.settle();
    toy.check_rest();
    for shard in &toy.cluster.shards[1..] {
        assert_eq!(toy.zones(shard), (3, 1), "shard {}", shard.id);
    }
    assert!(is_even(&toy.copies()), "{:?}", toy.copies());
}

#[test]
fn heavy_shards_are_spread() {
    let mut toy = Toy::new(SHARDS, "a");
    for _ in 1..5 {
        toy.add("a");
    }
    toy.settle();
    for shard in toy.cluster.shards.clone() {
        let on_first = shard.members.on(NodeId(1)).is_some();
        toy.weigh(shard.id, if on_first { 10_000 } else { 100 });
    }
    let before = toy.weights();
    toy.settle();
    toy.check_rest();
    let after = toy.weights();
    let apart = |weights: &[usize]| weights.iter().max().unwrap() - weights.iter().min().unwrap();
    let mean = after.iter().sum::<usize>() / after.len();
    assert!(
        apart(&before) * 2 > mean && apart(&after) * 100 <= mean * 20,
        "{before:?} {after:?}"
    );
    assert!(is_even(&toy.copies()), "{:?}", toy.copies());
}

#[test]
fn an_even_factor_and_one_copy_are_understood() {
    for (replication, voters, copies) in [(1, 1, 1), (2, 1, 2), (4, 3, 4), (5, 5, 5), (0, 1, 1)] {
        let mut toy = Toy::new(SHARDS, "a");
        toy.options = Options {
            replication,
            ..toy.options
        };
        for _ in 1..6 {
            toy.add("a");
        }
        toy.settle();
        let members = &toy.cluster.shards[7].members;
        let sizes = (members.voters.len(), members.all().count());
        assert_eq!(sizes, (voters, copies), "factor {replication}");
        assert!(is_even(&toy.copies()), "{:?}", toy.copies());
        assert!(toy.plan().is_empty());
    }
}

#[test]
fn changes_say_why_and_what_waits_is_told() {
    let mut toy = cluster(4);
    toy.set(NodeId(1), NodeState::Leaving);
    let plan = toy.plan();
    assert!(!plan.changes.is_empty() && plan.waiting > 0);
    for change in &plan.changes {
        assert_eq!(change.reason.to_string(), "node 1 is being removed");
        let wanted = &change.wanted;
        let learns = wanted.learners.contains(&NodeId(1));
        assert!(!wanted.voters.contains(&NodeId(1)));
        assert!(!learns || change.shard == ShardId::DEFINITIONS);
    }
    assert!(toy.plan().moves.len() > toy.options.copying_max);
}

#[test]
fn a_node_that_leaves_keeps_the_definitions_to_the_last() {
    let mut toy = cluster(4);
    toy.set(NodeId(1), NodeState::Leaving);
    while toy.turn() {
        let has = |shard: &Shard| shard.members.on(NodeId(1)).is_some();
        let (definitions, queues) = toy.cluster.shards.split_at(1);
        assert!(has(&definitions[0]) || !queues.iter().any(has));
    }
    toy.check_rest();
    check_sizes(&toy);
    assert_eq!(toy.cluster.nodes.len(), 3);
}

#[test]
fn a_node_that_leaves_keeps_the_definitions_while_it_is_away_for_a_moment() {
    let mut toy = cluster(4);
    toy.set(NodeId(1), NodeState::Leaving);
    toy.kill(NodeId(1));
    for _ in 0..50 {
        toy.turn();
        let has = |shard: &Shard| shard.members.on(NodeId(1)).is_some();
        let (definitions, queues) = toy.cluster.shards.split_at(1);
        assert!(has(&definitions[0]) || !queues.iter().any(has));
    }
    toy.revive(NodeId(1));
    toy.settle();
    toy.check_rest();
    assert_eq!(toy.cluster.nodes.len(), 3);
}

/// Seed 75 of the cluster simulator: the rows had the shard elsewhere already, its members were
/// still the ones before, and the leader that knew so was not heard of for a moment.
#[test]
fn a_node_that_leaves_keeps_the_definitions_while_a_shard_is_not_heard_of() {
    let mut toy = cluster(4);
    toy.set(NodeId(1), NodeState::Leaving);
    for turn in 0..1_000 {
        toy.lose_sight(NodeId(1), turn % 10 != 0);
        toy.turn();
        let (queues, definitions) = toy.takes_part(NodeId(1));
        assert!(definitions || !queues, "turn {turn}");
    }
    toy.settle();
    toy.check_rest();
    assert_eq!(toy.cluster.nodes.len(), 3);
}

#[test]
fn a_node_that_a_shard_waits_for_and_that_is_gone_is_given_up() {
    let mut toy = cluster(4);
    toy.set(NodeId(1), NodeState::Leaving);
    toy.turn();
    let busy = toy.cluster.shards.iter().filter(|shard| shard.is_busy);
    let (busy, to): (Vec<_>, Vec<_>) = busy
        .map(|shard| (shard.id, shard.wanted.voters.clone()))
        .unzip();
    assert!(!busy.is_empty() && to.iter().all(|to| to.contains(&NodeId(4))));
    toy.kill(NodeId(4));
    toy.wait_out_the_delay();
    toy.set(NodeId(1), NodeState::Active);
    toy.settle();
    toy.check_rest();
    for id in busy {
        let shard = toy.cluster.shards.iter().find(|shard| shard.id == id);
        let voters = &shard.expect("it is there").members.voters;
        let nodes: Vec<u64> = voters.iter().map(|it| it.node().0).collect();
        assert_eq!(nodes, [1, 2, 3], "shard {id}");
    }
}
