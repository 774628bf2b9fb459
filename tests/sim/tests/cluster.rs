//! Seeds of whole clusters: that they replay, and those that once failed, by what they found.
//!
//! What a seed does changes with the simulator: a name says what it found then, not that it still
//! comes by that place.

use warren_sim::cluster::run;
use warren_sim::trace::Trace;

const STEPS: u64 = 8_000;

fn check(seed: u64) {
    eprintln!("seed {seed}");
    let report = run(seed, STEPS, Trace::new(false));
    assert_eq!(report.violations, [], "seed {seed}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=3 {
        let first = run(seed, 2_000, Trace::new(false));
        let second = run(seed, 2_000, Trace::new(false));
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn another_seed_is_another_run() {
    let trace = |seed| run(seed, 2_000, Trace::new(false)).trace;
    assert_ne!(trace(1), trace(2));
}

/// A leader that waited for claims took publishes to a queue that it had not made yet: confirmed,
/// and nowhere.
#[test]
fn no_publish_comes_before_its_queue() {
    check(36);
}

/// A chore whose transaction was refused, or whose effect was told outside of a lease, was never
/// done: a tombstone stayed.
#[test]
fn what_a_queue_leaves_behind_is_seen_to() {
    check(22);
}

/// A leader with definitions from before a queue was deleted made it again.
#[test]
fn a_dropped_queue_is_not_made_again() {
    check(21);
}

/// The word of who leads was lost: a node went on talking to the leader before, and the new one
/// waited for its claim.
#[test]
fn a_node_that_missed_who_leads_hears_of_it() {
    check(41);
}

/// A leader that was elected after its removal had been proposed applied it.
#[test]
fn a_leader_that_is_removed_steps_down() {
    check(232);
}

/// A node that was to leave lost its copy of the definitions while the leader of a shard that it
/// still voted in was not heard of: it led that shard again, and did not know that it was to go.
#[test]
fn a_node_that_may_have_a_shard_keeps_the_definitions() {
    check(75);
}

/// A node that had just joined heard of another one's queues before their vhost, and never knew
/// them.
#[test]
fn rows_of_a_vhost_may_come_before_it() {
    check(800_536);
}

/// A leader had lost the body of a message that was settled, and no longer knew that it was: it
/// looked for it for ever for a follower that needed a checkpoint, without which nothing could be
/// agreed on.
#[test]
fn a_body_that_is_nowhere_is_not_waited_for() {
    check(800_712);
}
