//! Publishes, confirms, returns, transactions, and the errors that publishing can meet.

use warren_protocol::methods::{BasicAck, BasicGet, ConfirmSelect, TxCommit, TxRollback, TxSelect};
use warren_protocol::{FieldTable, FieldValue, Properties};

use super::world::{World, publish_flagged, publish_frames, short};
use crate::definitions::ExchangeKind;

fn get(world: &mut World, client: usize, queue: &str) -> Vec<String> {
    let get = BasicGet {
        queue: short(queue),
        no_ack: true,
    };
    world.send(client, 1, get);
    world.said(client)
}

fn closed(code: u16, text: &str) -> [String; 1] {
    [format!(
        "1 channel.close(reply_code={code}, reply_text=\"{text}\", class_id=60, method_id=40)"
    )]
}

#[test]
fn a_publish_is_got_from_its_queue() {
    let mut world = World::new();
    let client = world.connect();
    for body in ["one", "two", ""] {
        world.publish(client, 1, "q1", body);
    }
    assert_eq!(
        get(&mut world, client, "q1"),
        [
            "1 basic.get-ok(delivery_tag=1, redelivered=false, exchange=\"\", routing_key=\"q1\", \
          message_count=2) = one"
        ]
    );
    get(&mut world, client, "q1");
    assert!(get(&mut world, client, "q1")[0].ends_with("message_count=0) = "));
    assert_eq!(get(&mut world, client, "q1"), ["1 basic.get-empty()"]);
}

#[test]
fn a_get_waits_for_the_publishes_before_it() {
    let mut world = World::new();
    let client = world.connect();
    world.hold = true;
    world.publish(client, 1, "q1", "one");
    assert!(get(&mut world, client, "q1").is_empty());
    // Later frames of the channel wait too, in their order.
    world.publish(client, 1, "q1", "two");
    world.release();
    let said = world.said(client);
    assert!(said[0].ends_with("= one"), "{said:?}");
    assert!(get(&mut world, client, "q1")[0].ends_with("= two"));
}

#[test]
fn confirms_fold_and_spread() {
    let mut world = World::new();
    world.exchange("both", ExchangeKind::Fanout, false);
    world.bind("both", "q1", "");
    world.bind("both", "q2", "");
    let client = world.connect();
    world.send(client, 1, ConfirmSelect { nowait: false });
    assert_eq!(world.said(client), ["1 confirm.select-ok()"]);
    let mut frames = bytes::BytesMut::new();
    for _ in 0..3 {
        frames.extend_from_slice(&publish_frames(1, "", "q1", Properties::EMPTY, b"x"));
    }
    world.bytes(client, &frames);
    assert_eq!(
        world.said(client),
        ["1 basic.ack(delivery_tag=3, multiple=true)"]
    );
    let bytes = publish_frames(1, "both", "", Properties::EMPTY, b"x");
    world.bytes(client, &bytes);
    assert_eq!(
        world.said(client),
        ["1 basic.ack(delivery_tag=4, multiple=false)"]
    );
    // Nobody wants it: confirmed all the same.
    world.publish(client, 1, "nowhere", "x");
    assert_eq!(
        world.said(client),
        ["1 basic.ack(delivery_tag=5, multiple=false)"]
    );
    world.refuse = true;
    world.publish(client, 1, "q1", "x");
    assert_eq!(
        world.said(client),
        ["1 basic.nack(delivery_tag=6, multiple=false, requeue=false)"]
    );
    assert_eq!(
        world.session(client).info().channels[0].messages_unconfirmed,
        0
    );
}

#[test]
fn an_unroutable_mandatory_message_comes_back_before_its_confirm() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 1, ConfirmSelect { nowait: true });
    let mandatory = (true, false);
    let bytes = publish_flagged(1, ("", "nowhere"), mandatory, Properties::EMPTY, b"hi");
    world.bytes(client, &bytes);
    assert_eq!(
        world.said(client),
        [
            "1 basic.return(reply_code=312, reply_text=\"NO_ROUTE\", exchange=\"\", \
             routing_key=\"nowhere\") = hi",
            "1 basic.ack(delivery_tag=1, multiple=false)"
        ]
    );
}

/// Exchange, properties, and what the channel is closed with.
fn faulty_publishes() -> [(&'static str, Vec<u8>, u16, &'static str); 4] {
    let user = Properties::EMPTY.edit().user_id(short("else")).finish();
    let headers = FieldTable::new().with("CC", "not an array");
    let cc = Properties::EMPTY.edit().headers_from(&headers).finish();
    let none = vec![0, 0];
    [
        (
            "nope",
            none.clone(),
            404,
            "NOT_FOUND - no exchange 'nope' in vhost '/'",
        ),
        (
            "inner",
            none,
            403,
            "ACCESS_REFUSED - cannot publish to internal exchange 'inner' in vhost '/'",
        ),
        (
            "",
            user,
            406,
            "PRECONDITION_FAILED - user_id property set to 'else' but authenticated user was \
             'guest'",
        ),
        (
            "",
            cc,
            406,
            "PRECONDITION_FAILED - invalid message: \
             {unacceptable_type_in_header,\\\"CC\\\",longstr}",
        ),
    ]
}

#[test]
fn errors_of_publishing() {
    for (exchange, properties, code, text) in faulty_publishes() {
        let mut world = World::new();
        world.exchange("inner", ExchangeKind::Fanout, true);
        let client = world.connect();
        let properties = Properties::from_raw(&properties);
        let bytes = publish_frames(1, exchange, "q1", properties, b"x");
        world.bytes(client, &bytes);
        assert_eq!(world.said(client), closed(code, text));
    }
}

#[test]
fn refused_users_large_messages_and_immediate() {
    let mut world = World::new();
    world.user("other", "^mine");
    world.options.max_message_size = 5;
    let client = world.login("other");
    world.send(client, 1, warren_protocol::methods::ChannelOpen);
    world.said(client);
    world.publish(client, 1, "q1", "x");
    assert_eq!(
        world.said(client),
        closed(
            403,
            "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for \
             user 'other'"
        )
    );
    let client = world.connect();
    world.publish(client, 1, "q1", "123456");
    assert_eq!(
        world.said(client),
        closed(
            406,
            "PRECONDITION_FAILED - message size 6 is larger than configured max size 5"
        )
    );
    let client = world.connect();
    let immediate = (false, true);
    let bytes = publish_flagged(1, ("", "q1"), immediate, Properties::EMPTY, b"x");
    world.bytes(client, &bytes);
    assert_eq!(
        world.said(client),
        [
            "0 connection.close(reply_code=540, reply_text=\"NOT_IMPLEMENTED - immediate=true\", \
          class_id=60, method_id=40)"
        ]
    );
}

#[test]
fn carbon_copies_go_once_to_each_queue_and_blind_ones_do_not_show() {
    let mut world = World::new();
    let client = world.connect();
    let keys = |names: &[&str]| {
        FieldValue::Array(names.iter().map(|name| FieldValue::from(*name)).collect())
    };
    let headers = FieldTable::new()
        .with("CC", keys(&["q2", "q1"]))
        .with("BCC", keys(&["q3"]));
    let properties = Properties::EMPTY.edit().headers_from(&headers).finish();
    let properties = Properties::from_raw(&properties);
    let bytes = publish_frames(1, "", "q1", properties, b"x");
    world.bytes(client, &bytes);
    for queue in ["q1", "q2", "q3"] {
        let get = BasicGet {
            queue: short(queue),
            no_ack: true,
        };
        world.send(client, 1, get);
        let raw = world.raw(client);
        let text = String::from_utf8_lossy(&raw).into_owned();
        assert!(
            text.contains("CC") && !text.contains("BCC"),
            "{queue}: {text:?}"
        );
        assert!(text.contains("q2"), "{queue}");
    }
    assert_eq!(get(&mut world, client, "q1"), ["1 basic.get-empty()"]);
}

#[test]
fn bodies_of_every_shape_arrive_whole() {
    let mut world = World::new();
    let client = world.connect();
    for size in [0, 1, 131_063, 131_064, 131_065, 131_066, 400_000] {
        let body: Vec<u8> = (0..size).map(|at| b'a' + (at % 26) as u8).collect();
        let bytes = publish_frames(1, "", "q1", Properties::EMPTY, &body);
        // In pieces that cut frames everywhere; little of it stays in the driver's buffer.
        for piece in bytes.chunks(5_003) {
            world.bytes(client, piece);
            assert!(world.unread(client) < 2_100, "{}", world.unread(client));
        }
        let got = BasicGet {
            queue: short("q1"),
            no_ack: true,
        };
        world.send(client, 1, got);
        let said = world.said(client);
        let (_, arrived) = said[0].split_once(" = ").expect("a body");
        assert_eq!(arrived.as_bytes(), body, "{size} bytes");
    }
}

#[test]
fn a_transaction_takes_effect_at_its_commit() {
    let mut world = World::new();
    let client = world.connect();
    world.publish(client, 1, "q1", "first");
    world.send(client, 1, TxSelect);
    let get_first = BasicGet {
        queue: short("q1"),
        no_ack: false,
    };
    world.send(client, 1, get_first);
    let ack = BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    world.send(client, 1, ack);
    world.publish(client, 1, "q2", "second");
    assert_eq!(world.said(client).len(), 2);
    assert_eq!(get(&mut world, client, "q2"), ["1 basic.get-empty()"]);
    assert_eq!(world.session(client).info().channels[0].acks_uncommitted, 1);
    world.send(client, 1, TxRollback);
    assert_eq!(world.said(client), ["1 tx.rollback-ok()"]);
    assert_eq!(
        world.session(client).info().channels[0].messages_unacknowledged,
        1
    );
    world.send(client, 1, ack);
    world.publish(client, 1, "q2", "third");
    world.hold = true;
    world.send(client, 1, TxCommit);
    assert!(world.said(client).is_empty());
    world.release();
    assert_eq!(world.said(client), ["1 tx.commit-ok()"]);
    assert!(get(&mut world, client, "q2")[0].ends_with("= third"));
    // The same tag again is an error at once.
    world.send(client, 1, ack);
    assert_eq!(
        world.said(client),
        [
            "1 channel.close(reply_code=406, reply_text=\"PRECONDITION_FAILED - unknown delivery \
          tag 1\", class_id=60, method_id=80)"
        ]
    );
}

#[test]
fn a_refused_commit_and_modes_that_exclude_each_other() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 1, TxSelect);
    world.publish(client, 1, "q1", "x");
    world.refuse = true;
    world.said(client);
    world.send(client, 1, TxCommit);
    assert_eq!(
        world.said(client),
        [
            "1 channel.close(reply_code=406, reply_text=\"PRECONDITION_FAILED - partial tx \
          completion\", class_id=90, method_id=20)"
        ]
    );
    let client = world.connect();
    world.send(client, 1, TxCommit);
    assert!(world.said(client)[0].contains("PRECONDITION_FAILED - channel is not transactional"));
    let client = world.connect();
    world.send(client, 1, TxSelect);
    world.send(client, 1, ConfirmSelect { nowait: false });
    assert!(world.said(client)[1].contains("cannot switch from tx to confirm mode"));
    let client = world.connect();
    world.send(client, 1, ConfirmSelect { nowait: false });
    world.send(client, 1, TxSelect);
    assert!(world.said(client)[1].contains("cannot switch from confirm to tx mode"));
}
