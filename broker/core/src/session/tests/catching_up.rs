//! Names of queues that live on another node and are not known here: nothing is said of them before
//! that node was asked.

use warren_cluster_core::ids::NodeId;
use warren_protocol::methods::{BasicGet, ConfirmSelect, QueueDeclare, TxCommit, TxSelect};
use warren_protocol::{FieldTable, FieldValue, Properties, Table};

use super::world::{HOME, World, publish_flagged, publish_frames, short};
use crate::definitions::Owner;
use crate::ids::SessionId;
use crate::server_names;
use crate::session::event::Event;

const ELSEWHERE: NodeId = NodeId(9);

fn name(random: u64) -> String {
    String::from_utf8(server_names::draw(b"amq.gen", ELSEWHERE, random)).expect("letters")
}

fn passive(queue: &str) -> QueueDeclare<'_> {
    QueueDeclare {
        queue: short(queue),
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    }
}

impl World {
    /// A mandatory message on channel 1, whose body is its key.
    fn publish_to(&mut self, client: usize, queue: &str) {
        let (to, body) = (("", queue), queue.as_bytes());
        let bytes = publish_flagged(1, to, (true, false), Properties::EMPTY, body);
        self.bytes(client, &bytes);
    }

    /// Answers the only question that there is.
    fn answer(&mut self) {
        let asked = std::mem::take(&mut self.catching_up);
        let [(client, node, token)] = asked[..] else {
            panic!("one question: {asked:?}");
        };
        assert_eq!(node, ELSEWHERE);
        self.event(client, Event::CaughtUp { token });
    }

    /// What `basic.get` on channel 1 gives.
    fn got(&mut self, client: usize, queue: &str) -> String {
        let get = BasicGet {
            queue: short(queue),
            no_ack: true,
        };
        self.send(client, 1, get);
        self.said(client).remove(0)
    }

    fn confirming(&mut self) -> usize {
        let client = self.connect();
        self.send(client, 1, ConfirmSelect { nowait: false });
        self.said(client);
        client
    }
}

#[test]
fn a_publish_waits_for_the_node_that_drew_the_name() {
    let mut world = World::new();
    let client = world.confirming();
    let (queue, gone) = (name(1), name(2));
    world.publish_to(client, &queue);
    world.publish_to(client, "q1");
    assert_eq!(world.said(client), [""; 0], "the channel keeps its order");
    world.queue(&queue, 1);
    world.answer();
    assert_eq!(
        world.said(client),
        ["1 basic.ack(delivery_tag=2, multiple=true)"]
    );
    assert!(world.got(client, &queue).ends_with(&format!("= {queue}")));
    assert!(world.catching_up.is_empty(), "it is known now");
    world.publish_to(client, &gone);
    assert_eq!(world.said(client), [""; 0]);
    world.answer();
    let said = world.said(client);
    assert!(
        said[0].starts_with("1 basic.return(reply_code=312"),
        "{said:?}"
    );
    assert_eq!(said[1], "1 basic.ack(delivery_tag=3, multiple=false)");
}

#[test]
fn one_question_does_for_all_that_had_come_and_not_for_what_comes_later() {
    let mut world = World::new();
    let client = world.confirming();
    let mut bytes = Vec::new();
    for random in 0..50 {
        let publish = publish_frames(1, "", &name(random), Properties::EMPTY, b"late");
        bytes.extend_from_slice(&publish);
    }
    world.bytes(client, &bytes);
    // This one comes after the question.
    world.publish_to(client, &name(70));
    world.answer();
    assert_eq!(
        world.said(client),
        ["1 basic.ack(delivery_tag=50, multiple=true)"]
    );
    world.queue(&name(70), 2);
    world.answer();
    assert_eq!(
        world.said(client),
        ["1 basic.ack(delivery_tag=51, multiple=false)"]
    );
    world.publish_to(client, &name(71));
    assert_eq!(world.catching_up.len(), 1, "and so on");
}

#[test]
fn other_channels_go_on_and_a_closed_one_is_not_missed() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 2, warren_protocol::methods::ChannelOpen);
    world.said(client);
    world.publish_to(client, &name(1));
    world.publish(client, 2, "q1", "now");
    let get = BasicGet {
        queue: short("q1"),
        no_ack: true,
    };
    world.send(client, 2, get);
    assert!(world.said(client)[0].ends_with("= now"));
    world.disconnect(client);
    world.answer();
    assert!(world.session(client).is_over());
}

#[test]
fn every_method_that_names_a_queue_waits() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 1, passive(&name(1)));
    assert_eq!(world.said(client), [""; 0]);
    let owner = Owner {
        session: SessionId(77),
        node: ELSEWHERE,
        incarnation: 1,
    };
    world.queue_of(&name(1), 1, Some(owner));
    world.answer();
    assert!(world.said(client)[0].contains("405, reply_text=\"RESOURCE_LOCKED"));
    let other = world.connect();
    world.send(other, 1, passive(&name(2)));
    world.answer();
    assert!(world.said(other)[0].contains("404, reply_text=\"NOT_FOUND"));
    // What this node would have drawn is here, or nowhere.
    let third = world.connect();
    let own = server_names::draw(b"amq.gen", HOME.node, 5);
    let own = String::from_utf8(own).expect("letters");
    world.send(third, 1, passive(&own));
    assert!(world.catching_up.is_empty());
    assert!(world.said(third)[0].contains("404, reply_text=\"NOT_FOUND"));
}

#[test]
fn copies_are_asked_for_too_also_when_they_come_in_pieces() {
    let keys = FieldValue::Array(vec![FieldValue::from(name(1).as_str())]);
    let headers = FieldTable::new().with("CC", keys);
    let properties = Properties::EMPTY.edit().headers_from(&headers).finish();
    let properties = Properties::from_raw(&properties);
    for pieces in [false, true] {
        let mut world = World::new();
        let client = world.confirming();
        let bytes = publish_frames(1, "", "q1", properties, b"copied");
        if pieces {
            for byte in bytes.chunks(1) {
                world.bytes(client, byte);
            }
        } else {
            world.bytes(client, &bytes);
        }
        assert_eq!(world.said(client), [""; 0]);
        world.queue(&name(1), 1);
        world.answer();
        assert_eq!(
            world.said(client),
            ["1 basic.ack(delivery_tag=1, multiple=false)"]
        );
        assert!(world.got(client, &name(1)).ends_with("= copied"));
        // Beside any other exchange keys are no names.
        let bytes = publish_frames(1, "amq.direct", &name(3), properties, b"");
        world.bytes(client, &bytes);
        assert!(world.catching_up.is_empty());
    }
}

#[test]
fn a_transaction_asks_when_it_is_told_of_the_publish() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 1, TxSelect);
    world.said(client);
    world.publish_to(client, &name(1));
    world.send(client, 1, TxCommit);
    assert_eq!(world.said(client), [""; 0]);
    world.queue(&name(1), 1);
    world.answer();
    assert_eq!(world.said(client), ["1 tx.commit-ok()"]);
    assert!(
        world
            .got(client, &name(1))
            .ends_with(&format!("= {}", name(1)))
    );
}
