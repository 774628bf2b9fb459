//! When a session stops reading, and that it starts again; alarms; idle memory.

use std::sync::Arc;

use warren_protocol::Properties;
use warren_protocol::methods::{BasicGet, ChannelOpen, ConnectionClose};

use super::consumers::consume;
use super::world::{World, publish_frames, short};
use crate::session::event::Event;
use crate::session::{Session, State};

fn alarm(world: &mut World, client: usize, reason: Option<&str>) {
    world.event(client, Event::Blocked(reason.map(Arc::from)));
}

#[test]
fn an_alarm_blocks_publishers_and_nobody_else() {
    let mut world = World::new();
    let publisher = world.connect();
    let consumer = world.connect();
    world.send(consumer, 1, consume("q1", "t", true));
    world.said(consumer);
    for client in [publisher, consumer] {
        alarm(&mut world, client, Some("low on memory"));
        assert!(world.said(client).is_empty());
        assert_eq!(world.session(client).info().state, State::Blocking);
    }
    world.publish(publisher, 1, "q1", "a");
    assert_eq!(
        world.said(publisher),
        ["0 connection.blocked(reason=\"low on memory\")"]
    );
    assert_eq!(world.session(publisher).info().state, State::Blocked);
    assert_eq!(world.said(consumer).len(), 1);
    world.publish(publisher, 1, "q1", "b");
    assert!(world.unread(publisher) > 0);
    assert!(world.said(consumer).is_empty());
    alarm(&mut world, publisher, None);
    assert_eq!(world.said(publisher), ["0 connection.unblocked()"]);
    world.bytes(publisher, &[]);
    assert_eq!(world.unread(publisher), 0);
    assert_eq!(world.said(consumer).len(), 1);
}

#[test]
fn what_is_to_be_routed_waits_for_definitions() {
    let mut world = World::new();
    let publisher = world.connect();
    let consumer = world.connect();
    world.send(consumer, 1, consume("q1", "t", true));
    world.said(consumer);
    world.fresh_until = world.now;
    // Whoever publishes nothing goes on.
    world.send(publisher, 2, ChannelOpen);
    assert_eq!(world.said(publisher), ["2 channel.open-ok()"]);
    world.publish(publisher, 1, "q1", "a");
    assert!(world.unread(publisher) > 0);
    world.wait_ms(10);
    assert!(
        world.said(publisher).is_empty(),
        "nobody is told of a moment"
    );
    world.wait_ms(100);
    assert_eq!(
        world.said(publisher),
        ["0 connection.blocked(reason=\"this node does not hear from the cluster's leader\")"]
    );
    assert_eq!(world.session(publisher).info().state, State::Blocked);
    world.wait_ms(100);
    assert!(world.said(consumer).is_empty());
    world.fresh_until = world.now.plus_millis(1000);
    world.wait_ms(100);
    world.bytes(publisher, &[]);
    assert_eq!(world.said(publisher), ["0 connection.unblocked()"]);
    assert_eq!(world.unread(publisher), 0);
    assert_eq!(world.said(consumer).len(), 1);
    assert_eq!(world.session(publisher).info().state, State::Running);
}

#[test]
fn a_body_waits_in_its_middle_and_a_held_publish_where_it_is() {
    let mut world = World::new();
    let publisher = world.connect();
    let consumer = world.connect();
    world.send(consumer, 1, consume("q1", "t", true));
    world.said(consumer);
    let body = vec![b'x'; 9_000];
    let bytes = publish_frames(1, "", "q1", Properties::EMPTY, &body);
    world.bytes(publisher, &bytes[..7_000]);
    assert_eq!(world.unread(publisher), 0, "the first part is taken");
    world.fresh_until = world.now;
    world.bytes(publisher, &bytes[7_000..]);
    assert!(world.unread(publisher) > 0);
    world.wait_ms(100);
    assert!(world.said(consumer).is_empty());
    world.fresh_until = world.now.plus_millis(1000);
    world.wait_ms(100);
    world.bytes(publisher, &[]);
    assert_eq!(world.said(consumer).len(), 1);
    world.said(publisher);

    // One that waits for an answer of its channel, too.
    world.fresh_until = world.now.plus_millis(1000);
    world.hold = true;
    let get = BasicGet {
        queue: short("q1"),
        no_ack: true,
    };
    world.publish(publisher, 1, "q1", "first");
    world.send(publisher, 1, get);
    world.publish(publisher, 1, "q1", "second");
    assert_eq!(world.unread(publisher), 0);
    world.fresh_until = world.now;
    world.release();
    world.wait_ms(10);
    assert_eq!(world.said(consumer).len(), 1, "the first one alone");
    world.fresh_until = world.now.plus_millis(1000);
    world.wait_ms(100);
    assert_eq!(world.said(consumer).len(), 1);
}

#[test]
fn unfinished_publishes_stop_the_reading() {
    let mut world = World::new();
    world.options.in_flight_bytes_max = 10_000;
    let client = world.connect();
    world.hold = true;
    let body = vec![b'x'; 3_000];
    for _ in 0..10 {
        let bytes = publish_frames(1, "", "q1", Properties::EMPTY, &body);
        world.bytes(client, &bytes);
    }
    assert!(!world.session(client).wants_read());
    assert!(world.unread(client) > 15_000);
    for _ in 0..5 {
        world.release();
    }
    assert!(world.session(client).wants_read());
    assert_eq!(world.unread(client), 0);
}

#[test]
fn held_frames_stop_the_reading() {
    let mut world = World::new();
    world.options.held_bytes_max = 1_000;
    let client = world.connect();
    world.publish(client, 1, "q1", "first");
    world.send(client, 2, ChannelOpen);
    world.hold = true;
    let get = BasicGet {
        queue: short("q1"),
        no_ack: true,
    };
    world.send(client, 1, get);
    for _ in 0..30 {
        world.publish(client, 1, "q1", "later");
    }
    assert!(!world.session(client).wants_read());
    world.release();
    assert!(world.session(client).wants_read());
    assert_eq!(world.unread(client), 0);
    let said = world.said(client);
    assert!(
        said.last().is_some_and(|line| line.ends_with("= first")),
        "{said:?}"
    );
}

#[test]
fn a_close_waits_for_what_was_published() {
    let mut world = World::new();
    let client = world.connect();
    world.hold = true;
    world.publish(client, 1, "q1", "x");
    let close = ConnectionClose {
        reply_code: 200,
        reply_text: short("bye"),
        class_id: 0,
        method_id: 0,
    };
    world.send(client, 0, close);
    assert!(world.said(client).is_empty());
    assert!(!world.session(client).is_finished());
    world.release();
    assert_eq!(world.said(client), ["0 connection.close-ok()"]);
    assert!(world.session(client).is_over());
    // Not for ever.
    let client = world.connect();
    world.hold = true;
    world.publish(client, 1, "q1", "x");
    world.send(client, 0, close);
    world.wait_ms(10_000);
    assert!(world.session(client).is_finished());
}

#[test]
fn an_idle_session_holds_little() {
    let mut world = World::new();
    let client = world.connect();
    world.publish(client, 1, "q1", "x");
    world.said(client);
    let trim_at = world
        .session(client)
        .timeout()
        .expect("memory to give back");
    let ms = trim_at.micros_since(world.now).div_ceil(1000);
    world.wait_ms(ms);
    assert_eq!(world.session(client).timeout(), None);
    assert!(size_of::<Session>() < 1_100, "{}", size_of::<Session>());
    let channel = size_of::<crate::session::channel::Channel>();
    assert!(channel < 400, "{channel}");
}

#[test]
fn a_peer_that_never_reads_is_cut_off() {
    let mut world = World::new();
    let client = world.connect();
    let close = ConnectionClose {
        reply_code: 200,
        reply_text: short("bye"),
        class_id: 0,
        method_id: 0,
    };
    let mut bytes = bytes::BytesMut::new();
    close.encode_frame(0, &mut bytes);
    world.bytes_to_one_who_does_not_read(client, &bytes);
    assert!(world.session(client).is_finished());
    assert!(!world.session(client).outbox().is_empty());
    let due = world.session(client).timeout().expect("a last deadline");
    world.now = due;
    world.time_passes(client);
    assert!(world.session(client).outbox().is_empty());
    assert_eq!(world.session(client).timeout(), None);
}
