//! Messages that expire: their clocks, their deadlines, and how they come through a restart.

use warren_cluster_core::ids::{Instant, Time};
use warren_cluster_core::machine::Machine;

use super::{Action, fixture, play, queue_of};
use crate::ids::{Holder, SessionId, Token};
use crate::shard::effect::{Effect, Reply};
use crate::shard::input::{Attach, Input, QueueConfig, Window};
use crate::shard::rig::Rig;

fn rig(logged: bool) -> Rig {
    let mut rig = Rig::new(logged);
    let (queue, config) = (queue_of(0), QueueConfig::default());
    rig.input(Input::Create { queue, config });
    rig.commit();
    rig
}

/// What is ready, and nothing else was said.
fn ready(rig: &mut Rig) -> u64 {
    rig.effects.clear();
    rig.input(Input::Count {
        queue: queue_of(0),
        asker: SessionId(9),
        token: Token(1),
    });
    let [Effect::Reply { reply, .. }] = &rig.effects[..] else {
        unreachable!("one question, one answer: {:?}", rig.effects);
    };
    let Reply::Counts { ready, .. } = reply else {
        unreachable!("{reply:?}");
    };
    *ready
}

/// A consumer that takes one message at a time.
fn attach(rig: &mut Rig) -> Holder {
    let holder = Holder {
        session: SessionId(1),
        number: 1,
    };
    rig.input(Input::Attach(Attach {
        holder,
        queue: queue_of(0),
        auto_ack: false,
        exclusive: false,
        priority: 0,
        prefetch: 1,
        window: Window {
            messages: 9,
            bytes: 1 << 20,
        },
        token: Token(1),
    }));
    rig.commit();
    rig.effects.clear();
    holder
}

/// Milliseconds until the shard wants to be called.
fn wait(rig: &Rig) -> Option<u64> {
    let deadline = rig.shard.deadline()?;
    Some((deadline.0 - rig.now.mono.0) / 1000)
}

#[test]
fn the_shard_wakes_for_the_heads_of_its_queues() {
    for logged in [true, false] {
        let mut rig = rig(logged);
        assert_eq!(wait(&rig), None);
        for ttl in [Some(50), Some(10), None, Some(20)] {
            rig.publish(&[queue_of(0)], ttl, b"body");
        }
        rig.commit();
        assert_eq!(wait(&rig), Some(50), "the head alone counts");
        assert!(!rig.pass(49));
        assert_eq!(ready(&mut rig), 4);
        assert!(rig.pass(1));
        rig.commit();
        assert_eq!(ready(&mut rig), 2, "the second had waited for the first");
        rig.commit();
        assert_eq!(wait(&rig), None, "the head lives for ever");
        assert_eq!(rig.store.held.len(), 2, "bodies go at once");
    }
}

#[test]
fn a_message_behind_a_purge_or_a_drop_is_waited_for_or_not() {
    let mut rig = rig(true);
    rig.publish(&[queue_of(0)], Some(50), b"body");
    rig.commit();
    let (queue, asker, token) = (queue_of(0), SessionId(9), Token(0));
    rig.input(Input::Purge {
        queue,
        asker,
        token,
    });
    rig.publish(&[queue], Some(20), b"body");
    rig.commit();
    assert_eq!(wait(&rig), Some(20));
    rig.input(Input::Drop { queue });
    rig.commit();
    assert_eq!(wait(&rig), None);
}

#[test]
fn expiry_survives_a_restart_and_a_checkpoint() {
    let mut rig = rig(true);
    for ttl in [30, 40] {
        rig.publish(&[queue_of(0)], Some(ttl), b"body");
    }
    rig.commit();
    rig.begin_checkpoint();
    let chunks = rig.step_checkpoint(100_000).expect("small");
    rig.pass(10);
    let dump = rig.dump();
    for (chunks, from) in [(chunks, rig.applied), (Vec::new(), 0)] {
        rig.restart(&chunks, from);
        assert_eq!(rig.dump(), dump);
        rig.flush();
        assert_eq!(wait(&rig), Some(20));
    }
    rig.pass(20);
    rig.restart(&[], 0);
    assert_eq!(ready(&mut rig), 1, "it expired while nobody was there");
}

#[test]
fn a_leader_that_follows_wants_nothing() {
    let mut rig = rig(true);
    rig.publish(&[queue_of(0)], Some(30), b"body");
    rig.commit();
    assert_eq!(wait(&rig), Some(30));
    rig.follow();
    assert_eq!(rig.shard.deadline(), None);
}

/// A clock that went back cannot make it live longer than its entry says, nor spin.
#[test]
fn a_wall_clock_that_jumps_moves_the_deadline() {
    let mut rig = rig(true);
    rig.publish(&[queue_of(0)], Some(30), b"body");
    rig.commit();
    rig.now.wall.0 -= 100;
    rig.now.mono = rig.shard.deadline().expect("one expires");
    rig.flush();
    assert_eq!(wait(&rig), Some(130));
    rig.now.wall = Time(rig.now.wall.0 + 10_000);
    assert_eq!(ready(&mut rig), 0);
    rig.commit();
    assert_eq!(rig.shard.deadline(), None);
    assert!(rig.now.mono > Instant(0) && rig.store.held.is_empty());
}

/// Somebody waits, but the body has to be read first: the message is not lost for that.
#[test]
fn a_message_that_somebody_waits_for_may_be_late() {
    let mut rig = rig(true);
    attach(&mut rig);
    rig.store.cold = true;
    for _ in 0..2 {
        rig.publish(&[queue_of(0)], Some(0), b"body");
    }
    rig.commit();
    assert_eq!(wait(&rig), None, "waits for the body, not for the time");
    rig.pass(5);
    rig.commit();
    assert!(rig.effects.is_empty());
    rig.warm();
    rig.commit();
    assert!(matches!(&rig.effects[..], [Effect::Deliver { messages, .. }] if messages.len() == 1));
    assert_eq!(ready(&mut rig), 0, "nobody has room for the second");
}

/// Whoever waited is gone before the body came: the message expires like any other.
#[test]
fn a_message_that_nobody_waits_for_any_more_expires() {
    let mut rig = rig(false);
    let holder = attach(&mut rig);
    rig.store.cold = true;
    rig.publish(&[queue_of(0)], Some(9), b"body");
    rig.commit();
    let session = holder.session;
    rig.input(Input::SessionGone { session });
    rig.commit();
    rig.warm();
    rig.commit();
    assert_eq!(wait(&rig), Some(9));
}

/// Beside `commands-1.hex`, which stays as it is: the same version, with a flag it had room for.
#[test]
fn formats_of_expiring_messages_stay_as_they_are() {
    let mut rig = Rig::new(true);
    let mut attached = 0;
    for action in [
        Action::Create { queue: 0 },
        Action::Publish {
            queues: 1,
            messages: 2,
            ttl: Some(40),
        },
        Action::Publish {
            queues: 1,
            messages: 1,
            ttl: Some(200),
        },
        Action::Commit,
        Action::Pass { millis: 50 },
        Action::Commit,
    ] {
        play(&mut rig, &mut attached, &action);
    }
    let entries: Vec<_> = rig.log.iter().map(|entry| entry.payload.to_vec()).collect();
    assert_eq!(fixture("commands-1-expiring.hex", &entries), entries);
    rig.begin_checkpoint();
    let chunks = rig.step_checkpoint(100_000).expect("small");
    let read = fixture("checkpoint-1-expiring.hex", &chunks);
    assert_eq!(read, chunks);
    let (dump, applied) = (rig.dump(), rig.applied);
    rig.restart(&read, applied);
    assert_eq!(rig.dump(), dump);
}
