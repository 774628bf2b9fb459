//! Operations asked for by channels: answers, the last declared queue, what goes with a connection.

use warren_protocol::methods::{
    BasicGet, ExchangeDeclare, QueueBind, QueueDeclare, QueueDelete, QueuePurge,
};
use warren_protocol::{Method, Properties, Table, frame};

use super::consumers::consume;
use super::world::{World, publish_frames, short};

fn declare(name: &str, exclusive: bool) -> QueueDeclare<'_> {
    QueueDeclare {
        queue: short(name),
        passive: false,
        durable: !exclusive,
        exclusive,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    }
}

fn exchange(name: &str) -> ExchangeDeclare<'_> {
    ExchangeDeclare {
        exchange: short(name),
        kind: short("topic"),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: Table::EMPTY,
    }
}

fn bind<'a>(queue: &'a str, exchange: &'a str, key: &'a str) -> QueueBind<'a> {
    QueueBind {
        queue: short(queue),
        exchange: short(exchange),
        routing_key: short(key),
        nowait: false,
        arguments: Table::EMPTY,
    }
}

#[test]
fn everything_in_one_packet_is_done_in_order() {
    let mut world = World::new();
    let client = world.connect();
    world.hold = true;
    let mut bytes = bytes::BytesMut::new();
    exchange("x").encode_frame(1, &mut bytes);
    declare("new", false).encode_frame(1, &mut bytes);
    bind("", "x", "a.#").encode_frame(1, &mut bytes);
    bytes.extend_from_slice(&publish_frames(1, "x", "a.b", Properties::EMPTY, b"hi"));
    consume("", "t", true).encode_frame(1, &mut bytes);
    world.bytes(client, &bytes);
    assert!(world.said(client).is_empty());
    world.release();
    assert_eq!(
        world.said(client),
        [
            "1 exchange.declare-ok()",
            "1 queue.declare-ok(queue=\"new\", message_count=0, consumer_count=0)",
            "1 queue.bind-ok()",
            "1 basic.consume-ok(consumer_tag=\"t\")",
            "1 basic.deliver(consumer_tag=\"t\", delivery_tag=1, redelivered=false, \
             exchange=\"x\", routing_key=\"a.b\") = hi"
        ]
    );
}

#[test]
fn counts_and_nowait() {
    let mut world = World::new();
    let client = world.connect();
    for _ in 0..3 {
        world.publish(client, 1, "q1", "x");
    }
    let passive = QueueDeclare {
        passive: true,
        ..declare("q1", false)
    };
    world.send(client, 1, passive);
    assert_eq!(
        world.said(client),
        ["1 queue.declare-ok(queue=\"q1\", message_count=3, consumer_count=0)"]
    );
    let purge = QueuePurge {
        queue: short(""),
        nowait: false,
    };
    world.send(client, 1, purge);
    assert_eq!(world.said(client), ["1 queue.purge-ok(message_count=3)"]);
    let nowait = QueueDeclare {
        nowait: true,
        ..declare("silent", false)
    };
    world.send(client, 1, nowait);
    assert!(world.said(client).is_empty());
    world.publish(client, 1, "silent", "x");
    let delete = QueueDelete {
        queue: short("silent"),
        if_unused: false,
        if_empty: false,
        nowait: false,
    };
    world.send(client, 1, delete);
    assert_eq!(world.said(client), ["1 queue.delete-ok(message_count=1)"]);
    world.send(client, 1, delete);
    assert_eq!(world.said(client), ["1 queue.delete-ok(message_count=0)"]);
}

#[test]
fn a_deleted_queue_cancels_its_consumers_and_a_failed_operation_closes() {
    let mut world = World::new();
    let client = world.connect();
    let other = world.connect();
    world.send(client, 1, consume("q1", "t", false));
    world.said(client);
    let delete = QueueDelete {
        queue: short("q1"),
        if_unused: false,
        if_empty: false,
        nowait: true,
    };
    world.send(other, 1, delete);
    assert!(world.said(other).is_empty());
    assert_eq!(
        world.said(client),
        ["1 basic.cancel(consumer_tag=\"t\", nowait=true)"]
    );
    let passive = QueueDeclare {
        passive: true,
        ..declare("q1", false)
    };
    world.send(client, 1, passive);
    assert_eq!(
        world.said(client),
        [
            "1 channel.close(reply_code=404, reply_text=\"NOT_FOUND - no queue 'q1' in vhost \
          '/'\", \
          class_id=50, method_id=10)"
        ]
    );
}

#[test]
fn exclusive_queues_go_with_their_connection() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 1, declare("", true));
    let raw = world.raw(client);
    let (answer, _) = frame::parse(&raw, 131_072).expect("valid").expect("whole");
    let Ok(Method::QueueDeclareOk(declared)) = Method::parse(answer.payload) else {
        panic!("not declare-ok");
    };
    let name = declared.queue.to_string();
    assert!(name.starts_with("amq.gen-"), "{name}");
    world.publish(client, 1, &name, "mine");
    let get = BasicGet {
        queue: short(&name),
        no_ack: true,
    };
    world.send(client, 1, get);
    assert!(world.said(client)[0].ends_with("= mine"));
    let other = world.connect();
    world.send(other, 1, get);
    assert!(world.said(other)[0].contains("405, reply_text=\"RESOURCE_LOCKED"));
    world.disconnect(client);
    let third = world.connect();
    world.send(third, 1, get);
    assert!(world.said(third)[0].contains("404, reply_text=\"NOT_FOUND"));
}

#[test]
fn an_operation_outlives_its_connection() {
    let mut world = World::new();
    let client = world.connect();
    world.hold = true;
    world.send(client, 1, declare("left", false));
    world.disconnect(client);
    assert!(world.session(client).is_finished());
    assert!(!world.session(client).is_over());
    world.release();
    assert!(world.session(client).is_over());
    let other = world.connect();
    let passive = QueueDeclare {
        passive: true,
        ..declare("left", false)
    };
    world.send(other, 1, passive);
    assert!(world.said(other)[0].starts_with("1 queue.declare-ok("));
}
