//! The property `expiration`: what is refused, and when a message that carries it goes.

use warren_protocol::methods::{BasicGet, QueueDeclare, TxCommit, TxSelect};
use warren_protocol::{Properties, Table};

use super::world::{World, publish_frames, short};

fn publish(world: &mut World, client: usize, key: &str, expiration: &str) {
    let properties = Properties::EMPTY
        .edit()
        .expiration(short(expiration))
        .finish();
    let properties = Properties::from_raw(&properties);
    let bytes = publish_frames(1, "", key, properties, b"x");
    world.bytes(client, &bytes);
}

fn is_there(world: &mut World, client: usize) -> bool {
    let get = BasicGet {
        queue: short("q1"),
        no_ack: true,
    };
    world.send(client, 1, get);
    let said = world.said(client);
    let [one] = &said[..] else {
        unreachable!("one answer: {said:?}");
    };
    one.starts_with("1 basic.get-ok")
}

fn count(world: &mut World, client: usize) -> String {
    let declare = QueueDeclare {
        queue: short("q1"),
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::from_raw(&[]),
    };
    world.send(client, 1, declare);
    world.said(client).concat()
}

#[test]
fn what_is_no_number_of_milliseconds_is_refused() {
    for (expiration, reason) in [
        ("-1", "{value_negative,-1}"),
        ("", "no_integer"),
        ("soon", "no_integer"),
        ("1x", "{leftover_string,\\\"x\\\"}"),
        ("315360000001", "{value_too_large,315360000001}"),
    ] {
        for key in ["q1", "nowhere"] {
            let mut world = World::new();
            let client = world.connect();
            publish(&mut world, client, key, expiration);
            let expected = format!(
                "1 channel.close(reply_code=406, reply_text=\"PRECONDITION_FAILED - invalid \
                 expiration '{expiration}': {reason}\", class_id=60, method_id=40)"
            );
            assert_eq!(world.said(client), [expected], "to {key}");
        }
    }
}

#[test]
fn a_message_is_there_until_its_time_is_over() {
    let mut world = World::new();
    let client = world.connect();
    for expiration in ["50", "50", "315360000000"] {
        publish(&mut world, client, "q1", expiration);
    }
    world.wait_ms(49);
    assert!(is_there(&mut world, client));
    assert!(count(&mut world, client).contains("message_count=2"));
    world.wait_ms(1);
    assert!(count(&mut world, client).contains("message_count=1"));
    assert!(is_there(&mut world, client));
    assert!(!is_there(&mut world, client));
}

#[test]
fn time_counts_from_the_commit() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 1, TxSelect);
    publish(&mut world, client, "q1", "50");
    publish(&mut world, client, "q1", "50");
    world.wait_ms(100);
    world.send(client, 1, TxCommit);
    world.said(client);
    assert!(is_there(&mut world, client));
    world.wait_ms(50);
    assert!(!is_there(&mut world, client));
}
