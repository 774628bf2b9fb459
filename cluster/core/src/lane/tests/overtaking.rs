//! The connections of a link have no order between them.

use super::hosts::Net;
use crate::batch::Outcome;
use crate::ids::ShardId;

const SHARD: ShardId = ShardId(1);

#[test]
fn entries_that_are_on_their_way_are_not_sent_again() {
    let (mut net, leader) = Net::of_three(SHARD);
    let slow = (leader + 1) % 3;
    net.held_up = Some(slow);
    net.entries.clear();
    let ends = |net: &Net, at| {
        let status = net.lane(at).status(SHARD).expect("hosted");
        (status.last, status.applied)
    };
    let (before, _) = ends(&net, leader);
    for ticket in 1..=20 {
        net.propose_to(SHARD, leader, ticket, &[u64::from(ticket)]);
        assert_eq!(
            net.done(leader),
            [(ticket, Outcome::Stored)],
            "by the third"
        );
        // Beats and their answers, too.
        net.pass(40);
    }
    net.let_pass();
    net.pass(1_000);
    assert_eq!(ends(&net, slow), ends(&net, leader));
    let ((last, _), _) = ends(&net, leader);
    let written = (last.0 - before.0.0) as usize;
    assert!(written >= 20);
    for other in [slow, (leader + 2) % 3] {
        assert_eq!(
            net.entries[&(SHARD, other)],
            written,
            "each once, to {other}"
        );
    }
}
