//! Shards to which nothing happens: how seldom their nodes say so, and that nobody waits for it.

use super::hosts::Net;
use crate::batch::Outcome;
use crate::consensus::{BEAT_MILLIS, IDLE_BEAT_MILLIS};
use crate::ids::ShardId;

const SHARD: ShardId = ShardId(1);

/// Three nodes, and which of them leads the shard, to which nothing has happened for long.
fn cluster() -> (Net, usize) {
    let (mut net, leader) = Net::of_three(SHARD);
    net.pass(3_000);
    (net, leader)
}

/// For how many milliseconds the leader may act.
fn lease(net: &Net, leader: usize) -> u64 {
    let at = super::super::queue_at(SHARD, &net.lane(leader).options).expect("hosted");
    let lease = net.lane(leader).queues[at].consensus().lease_until();
    lease.micros_since(net.now.mono) / 1000
}

#[test]
fn an_idle_leader_gets_its_lease_as_soon_as_it_wants_it() {
    let (mut net, leader) = cluster();
    // Not long enough for the others to miss it.
    net.lost = 100;
    net.pass(560);
    assert_eq!(lease(&net, leader), 0);
    net.lost = 0;
    net.propose_to(SHARD, leader, 1, &[1]);
    assert_eq!(net.done(leader), [(1, Outcome::Stored)]);
    assert!(lease(&net, leader) > IDLE_BEAT_MILLIS);
    // And keeps it while something may happen.
    for _ in 0..6 {
        net.pass(BEAT_MILLIS);
        assert!(lease(&net, leader) > 0);
    }
}

#[test]
fn an_idle_leader_beats_half_as_often() {
    let (mut net, leader) = cluster();
    // To two others, answered.
    let beats = |net: &mut Net, millis: u64| {
        net.messages.clear();
        net.pass(millis);
        net.messages[&SHARD] / 4
    };
    let often = |millis: u64| millis / BEAT_MILLIS - 2..=millis / BEAT_MILLIS + 3;
    // And what the library sends by itself.
    let seldom = |millis: u64| millis / IDLE_BEAT_MILLIS - 1..=millis / IDLE_BEAT_MILLIS * 3 / 2;
    let idle = beats(&mut net, 6_000);
    assert!(seldom(6_000).contains(&idle), "{idle}");
    net.propose_to(SHARD, leader, 1, &[1]);
    let busy = beats(&mut net, 1_500);
    assert!(often(1_500).contains(&busy), "{busy}");
    net.pass(1_000);
    let idle = beats(&mut net, 6_000);
    assert!(seldom(6_000).contains(&idle), "{idle}");
}

#[test]
fn an_idle_leader_stays_the_leader_and_one_that_is_gone_is_missed() {
    let (mut net, leader) = cluster();
    let leads = |net: &Net, at: usize| net.lane(at).status(SHARD).and_then(|it| it.leader);
    let before = leads(&net, leader);
    net.pass(20_000);
    assert_eq!(leads(&net, (leader + 1) % 3), before);
    for other in [(leader + 1) % 3, (leader + 2) % 3] {
        net.unlink(leader, other);
    }
    net.pass(1_500);
    let after = leads(&net, (leader + 1) % 3);
    assert_ne!(after, before);
    assert_eq!(after, leads(&net, (leader + 2) % 3));
}
