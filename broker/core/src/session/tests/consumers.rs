//! Consumers: deliveries, acknowledgements, prefetch, cancelling both ways, direct replies.

use warren_cluster_core::ids::{NodeId, ShardId};
use warren_protocol::methods::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicQos, BasicRecover, BasicReject,
    ChannelClose, ChannelOpen, QueueDeclare,
};
use warren_protocol::{FieldTable, Properties, Table};

use super::world::{HOME, World, publish_flagged, publish_frames, short};
use crate::definitions::Owner;
use crate::ids::SessionId;
use crate::session::direct_reply::parse_address;
use crate::shard::input::Input;

pub(super) fn consume<'a>(queue: &'a str, tag: &'a str, no_ack: bool) -> BasicConsume<'a> {
    BasicConsume {
        queue: short(queue),
        consumer_tag: short(tag),
        no_local: false,
        no_ack,
        exclusive: false,
        nowait: false,
        arguments: Table::EMPTY,
    }
}

fn ack(delivery_tag: u64, multiple: bool) -> BasicAck {
    BasicAck {
        delivery_tag,
        multiple,
    }
}

fn qos(prefetch_count: u16, global: bool) -> BasicQos {
    BasicQos {
        prefetch_size: 0,
        prefetch_count,
        global,
    }
}

fn delivered(tag: &str, delivery: u64, redelivered: bool, queue: &str, body: &str) -> String {
    format!(
        "1 basic.deliver(consumer_tag=\"{tag}\", delivery_tag={delivery}, \
         redelivered={redelivered}, exchange=\"\", routing_key=\"{queue}\") = {body}"
    )
}

fn closed(code: u16, text: &str, ids: (u16, u16)) -> [String; 1] {
    [format!(
        "1 channel.close(reply_code={code}, reply_text=\"{text}\", class_id={}, method_id={})",
        ids.0, ids.1
    )]
}

#[test]
fn messages_come_in_order_and_acks_go_out_in_runs() {
    let mut world = World::new();
    let client = world.connect();
    for body in ["a", "b", "c", "d"] {
        world.publish(client, 1, "q1", body);
    }
    world.send(client, 1, consume("q1", "t", false));
    let said = world.said(client);
    assert_eq!(said[0], "1 basic.consume-ok(consumer_tag=\"t\")");
    let bodies = ["a", "b", "c", "d"];
    for (at, body) in bodies.into_iter().enumerate() {
        assert_eq!(
            said[at + 1],
            delivered("t", at as u64 + 1, false, "q1", body)
        );
    }
    world.asked.clear();
    world.send(client, 1, ack(3, true));
    assert_eq!(world.asked.len(), 1, "{:?}", world.asked);
    assert!(world.asked[0].contains("first: MessageId(1), last: MessageId(3), verdict: Ack"));
    world.send(client, 1, ack(0, true));
    assert_eq!(world.asked.len(), 2);
    world.send(client, 1, ack(4, false));
    assert_eq!(
        world.said(client),
        closed(
            406,
            "PRECONDITION_FAILED - unknown delivery tag 4",
            (60, 80)
        )
    );
}

#[test]
fn what_is_returned_comes_again() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 1, qos(1, false));
    world.send(client, 1, consume("q1", "t", false));
    world.publish(client, 1, "q1", "a");
    world.publish(client, 1, "q1", "b");
    let said = world.said(client);
    assert_eq!(said.len(), 3, "one at a time: {said:?}");
    let nack = BasicNack {
        delivery_tag: 1,
        multiple: false,
        requeue: true,
    };
    world.send(client, 1, nack);
    assert_eq!(world.said(client), [delivered("t", 2, true, "q1", "a")]);
    let reject = BasicReject {
        delivery_tag: 2,
        requeue: true,
    };
    world.send(client, 1, reject);
    assert_eq!(world.said(client), [delivered("t", 3, true, "q1", "a")]);
    world.send(client, 1, BasicRecover { requeue: true });
    let said = world.said(client);
    assert_eq!(said[0], "1 basic.recover-ok()");
    assert_eq!(said[1], delivered("t", 4, true, "q1", "a"));
    let drop = BasicReject {
        delivery_tag: 4,
        requeue: false,
    };
    world.send(client, 1, drop);
    assert_eq!(world.said(client), [delivered("t", 5, false, "q1", "b")]);
    world.send(client, 1, BasicRecover { requeue: false });
    assert!(world.said(client)[0].contains("540, reply_text=\"NOT_IMPLEMENTED - requeue=false"));
}

#[test]
fn what_a_channel_or_a_connection_held_goes_back() {
    let mut world = World::new();
    let client = world.connect();
    world.publish(client, 1, "q1", "a");
    world.send(client, 1, consume("q1", "t", false));
    world.said(client);
    let close = ChannelClose {
        reply_code: 200,
        reply_text: short("bye"),
        class_id: 0,
        method_id: 0,
    };
    world.send(client, 1, close);
    assert_eq!(world.said(client), ["1 channel.close-ok()"]);
    world.send(client, 1, ChannelOpen);
    world.said(client);
    world.send(client, 1, consume("q1", "u", false));
    assert_eq!(world.said(client)[1], delivered("u", 1, true, "q1", "a"));
    world.disconnect(client);
    assert!(world.session(client).is_over());
    let other = world.connect();
    world.send(other, 1, consume("q1", "v", true));
    assert_eq!(world.said(other)[1], delivered("v", 1, true, "q1", "a"));
}

#[test]
fn credit_is_given_back_for_more_than_a_window() {
    let mut world = World::new();
    world.options.window.messages = 10;
    let client = world.connect();
    world.send(client, 1, consume("q1", "t", true));
    for _ in 0..100 {
        world.publish(client, 1, "q1", "x");
    }
    world.said(client);
    let publisher = world.connect();
    for _ in 0..100 {
        world.publish(publisher, 1, "q1", "x");
    }
    let said = world.said(client);
    assert_eq!(said.len(), 100);
    assert_eq!(said[99], delivered("t", 200, false, "q1", "x"));
    assert_eq!(
        world.session(client).info().channels[0].messages_unacknowledged,
        0
    );
}

#[test]
fn a_global_prefetch_is_shared_by_consumers() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 1, consume("q1", "t", false));
    world.send(client, 1, consume("q2", "u", false));
    world.send(client, 1, qos(3, true));
    world.said(client);
    for at in 0..4 {
        world.publish(client, 1, "q1", &format!("t{at}"));
        world.publish(client, 1, "q2", &format!("u{at}"));
    }
    let said = world.said(client);
    assert_eq!(said.len(), 3, "{said:?}");
    world.send(client, 1, ack(2, true));
    let said = world.said(client);
    assert_eq!(said.len(), 2, "{said:?}");
    // Cancelling returns what waited for the limit, and a higher limit lets the rest go.
    let cancel = BasicCancel {
        consumer_tag: short("u"),
        nowait: false,
    };
    world.send(client, 1, cancel);
    assert_eq!(
        world.said(client),
        ["1 basic.cancel-ok(consumer_tag=\"u\")"]
    );
    world.send(client, 1, qos(0, true));
    let said = world.said(client);
    assert_eq!(said[0], "1 basic.qos-ok()");
    assert!(
        said[1..].iter().all(|line| line.contains("\"t\"")),
        "{said:?}"
    );
    let get = BasicGet {
        queue: short("q2"),
        no_ack: true,
    };
    world.send(client, 1, get);
    assert!(world.said(client)[0].starts_with("1 basic.get-ok("));
}

#[test]
fn cancelling_by_the_client() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 1, consume("q1", "t", false));
    world.publish(client, 1, "q1", "a");
    world.said(client);
    let cancel = |nowait| BasicCancel {
        consumer_tag: short("t"),
        nowait,
    };
    world.send(client, 1, cancel(false));
    assert_eq!(
        world.said(client),
        ["1 basic.cancel-ok(consumer_tag=\"t\")"]
    );
    world.send(client, 1, cancel(false));
    assert_eq!(
        world.said(client),
        ["1 basic.cancel-ok(consumer_tag=\"t\")"]
    );
    // What was out stays out and can be settled; the tag is free.
    world.publish(client, 1, "q1", "b");
    assert!(world.said(client).is_empty());
    world.send(client, 1, ack(1, false));
    world.send(client, 1, consume("q1", "t", false));
    assert_eq!(world.said(client)[1], delivered("t", 2, false, "q1", "b"));
    world.send(client, 1, cancel(true));
    assert!(world.said(client).is_empty());
}

#[test]
fn cancelling_by_the_server() {
    let mut world = World::new();
    let queue = world.queue("doomed", 2);
    let client = world.connect();
    world.send(client, 1, consume("doomed", "t", false));
    world.publish(client, 1, "doomed", "a");
    world.said(client);
    world.ask(ShardId(2), Input::Drop { queue });
    assert_eq!(
        world.said(client),
        ["1 basic.cancel(consumer_tag=\"t\", nowait=true)"]
    );
    // The message that was out can still be settled.
    world.send(client, 1, ack(1, false));
    assert!(world.said(client).is_empty());
}

#[test]
fn consuming_has_its_errors() {
    let bad_priority = FieldTable::new().with("x-priority", "high").to_bytes();
    let priority = BasicConsume {
        arguments: Table::from_raw(&bad_priority),
        ..consume("q1", "t", false)
    };
    let locked = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'locked' in \
                  vhost '/'. It could be originally declared on another connection or the \
                  exclusive property value does not match that of the original declaration.";
    let cases = [
        (
            consume("nope", "t", false),
            404,
            "NOT_FOUND - no queue 'nope' in vhost '/'",
        ),
        (
            consume("", "t", false),
            404,
            "NOT_FOUND - no previously declared queue",
        ),
        (consume("locked", "t", false), 405, locked),
        (
            priority,
            406,
            "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q1' in vhost '/': \
             {unacceptable_type,longstr}",
        ),
        (
            BasicConsume {
                exclusive: true,
                ..consume("used", "t", false)
            },
            403,
            "ACCESS_REFUSED - queue 'used' in vhost '/' in exclusive use",
        ),
        (
            consume("amq.rabbitmq.reply-to", "t", false),
            406,
            "PRECONDITION_FAILED - reply consumer cannot acknowledge",
        ),
    ];
    for (consume_it, code, text) in cases {
        let mut world = World::new();
        let owner = Owner {
            session: SessionId(77),
            node: NodeId(HOME.node.0),
            incarnation: HOME.incarnation,
        };
        world.queue_of("locked", 1, Some(owner));
        world.queue("used", 1);
        let other = world.connect();
        world.send(other, 1, consume("used", "first", false));
        let client = world.connect();
        world.send(client, 1, consume_it);
        assert_eq!(world.said(client), closed(code, text, (60, 20)));
    }
}

#[test]
fn a_consumer_timeout_is_refused_not_ignored() {
    let mut world = World::new();
    world.queue("q", 1);
    let client = world.connect();
    let timeout = FieldTable::new()
        .with("x-consumer-timeout", 1000)
        .to_bytes();
    let consume = BasicConsume {
        arguments: Table::from_raw(&timeout),
        ..consume("q", "t", false)
    };
    world.send(client, 1, consume);
    assert_eq!(
        world.said(client),
        [
            "0 connection.close(reply_code=540, reply_text=\"NOT_IMPLEMENTED - argument \
          'x-consumer-timeout' is not supported yet\", class_id=60, method_id=20)"
        ]
    );
}

#[test]
fn tags_and_counts_are_limited() {
    let mut world = World::new();
    world.options.consumer_max_per_channel = 2;
    let client = world.connect();
    world.send(client, 1, consume("q1", "", false));
    let said = world.said(client);
    assert!(
        said[0].starts_with("1 basic.consume-ok(consumer_tag=\"amq.ctag-"),
        "{said:?}"
    );
    world.send(client, 1, consume("q1", "t", false));
    world.said(client);
    world.send(client, 1, consume("q1", "u", false));
    assert!(world.said(client)[0].contains("reached maximum (2) of consumers per channel"));
    let client = world.connect();
    world.send(client, 1, consume("q1", "t", false));
    world.said(client);
    world.send(client, 1, consume("q2", "t", false));
    assert_eq!(
        world.said(client),
        [
            "0 connection.close(reply_code=530, reply_text=\"NOT_ALLOWED - attempt to reuse \
          consumer tag 't'\", class_id=60, method_id=20)"
        ]
    );
}

#[test]
fn replies_go_straight_to_the_one_who_asked() {
    let mut world = World::new();
    let client = world.connect();
    let reply_to = "amq.rabbitmq.reply-to";
    world.send(client, 1, consume(reply_to, "r", true));
    assert_eq!(
        world.said(client),
        ["1 basic.consume-ok(consumer_tag=\"r\")"]
    );
    let properties = Properties::EMPTY.edit().reply_to(short(reply_to)).finish();
    let properties = Properties::from_raw(&properties);
    let bytes = publish_frames(1, "", "q1", properties, b"question");
    world.bytes(client, &bytes);

    let server = world.connect();
    let get = BasicGet {
        queue: short("q1"),
        no_ack: true,
    };
    world.send(server, 1, get);
    let raw = world.raw(server);
    let text = String::from_utf8_lossy(&raw).into_owned();
    let at = text.find("amq.rabbitmq.reply-to.").expect("an address");
    let address = text[at..at + 58].to_owned();
    world.enlist(parse_address(address.as_bytes()).expect("an address"));
    world.publish(server, 1, &address, "answer");
    let said = world.said(client);
    assert_eq!(said.len(), 1);
    assert!(
        said[0].ends_with("= answer") && said[0].contains("\"r\""),
        "{said:?}"
    );

    let declare = |queue| QueueDeclare {
        queue,
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    world.send(server, 1, declare(short(&address)));
    assert!(world.said(server)[0].ends_with("message_count=0, consumer_count=1)"));
    let dead = format!("{}{}", &address[..50], "00000000");
    let bytes = publish_flagged(1, ("", &dead), (true, false), Properties::EMPTY, b"late");
    world.bytes(server, &bytes);
    assert!(world.said(server)[0].starts_with("1 basic.return(reply_code=312"));
    world.send(server, 1, declare(short(&dead)));
    assert!(world.said(server)[0].contains("404, reply_text=\"NOT_FOUND - no queue '"));
    world.send(client, 1, consume(reply_to, "again", true));
    assert!(world.said(client)[0].contains("PRECONDITION_FAILED - reply consumer already set"));
    world.send(client, 2, ChannelOpen);
    world.said(client);
    let bytes = publish_frames(2, "", "q1", properties, b"question");
    world.bytes(client, &bytes);
    assert!(world.said(client)[0].contains("406, reply_text=\"PRECONDITION_FAILED - fast reply"));
}
