//! Which nodes act on fresh definitions, and who waits for them (rule 10).

use bytes::Bytes;

use super::hosts::Net;
use crate::ids::ShardId;
use crate::rows::{RowKey, Write};

/// Three nodes that have a replica of the definitions each, and which of them leads: it comes
/// first, then the others.
fn cluster() -> (Net, [usize; 3]) {
    let (net, leader) = Net::of_three(ShardId::DEFINITIONS);
    (net, [leader, (leader + 1) % 3, (leader + 2) % 3])
}

/// For how many milliseconds a node may route by what it has.
fn fresh(net: &Net, at: usize) -> u64 {
    let lane = net.nodes[at].lane.as_ref().expect("started");
    lane.fresh_until().micros_since(net.now.mono) / 1000
}

fn put(net: &mut Net, at: usize, ticket: u32) {
    let row = RowKey {
        kind: 7,
        key: Bytes::copy_from_slice(&ticket.to_be_bytes()),
    };
    let value = Bytes::from_static(b"row");
    net.transact_in(ShardId::DEFINITIONS, at, ticket, Write::Put { row, value });
    net.pass(40);
}

#[test]
fn a_node_that_does_not_hear_the_leader_is_fresh_for_a_second() {
    let (mut net, [leader, one, other]) = cluster();
    for at in 0..3 {
        assert!(fresh(&net, at) > 600, "{}", fresh(&net, at));
    }
    net.unlink(leader, one);
    // The way to another node is not enough.
    net.pass(700);
    assert!((1..350).contains(&fresh(&net, one)), "{}", fresh(&net, one));
    net.pass(400);
    assert_eq!(fresh(&net, one), 0);
    assert!(fresh(&net, other) > 600 && fresh(&net, leader) > 600);
    net.link(leader, one);
    net.pass(300);
    assert!(fresh(&net, one) > 600, "{}", fresh(&net, one));
}

#[test]
fn a_leader_that_hears_of_nobody_is_fresh_for_a_second_after_its_lease() {
    let (mut net, [leader, one, other]) = cluster();
    net.unlink(leader, one);
    net.unlink(leader, other);
    net.pass(2_000);
    assert_eq!(fresh(&net, leader), 0);
    // The others have another one.
    assert!(fresh(&net, one) > 600 && fresh(&net, other) > 600);
}

#[test]
fn an_answer_waits_for_a_node_that_only_the_leader_has_a_way_to() {
    let (mut net, [leader, one, other]) = cluster();
    put(&mut net, one, 1);
    assert_eq!(net.committed(one), [1]);
    net.unlink(one, other);
    net.pass(300);
    net.committed(one);
    put(&mut net, one, 2);
    assert_eq!(net.committed(one), [], "the other one may not have it");
    net.pass(800);
    assert_eq!(net.committed(one), [2], "the leader knows that it has");
    // One that the leader does not hear of either may act on what it had for a second.
    net.unlink(leader, other);
    put(&mut net, one, 3);
    assert_eq!(net.committed(one), []);
    net.pass(600);
    assert_eq!(net.committed(one), []);
    net.pass(700);
    assert_eq!(net.committed(one), [3]);
    assert_eq!(fresh(&net, other), 0);
    put(&mut net, one, 4);
    assert_eq!(net.committed(one), [4], "it is not waited for again");
}
