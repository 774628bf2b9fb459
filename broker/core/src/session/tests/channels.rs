//! Channels: opening, closing, errors that stay in one channel, and small methods.

use warren_protocol::methods::{
    AccessRequest, BasicAck, BasicQos, BasicRecoverOk, ChannelClose, ChannelCloseOk, ChannelFlow,
    ChannelOpen, ConfirmSelect,
};

use super::world::{World, short};

#[test]
fn an_error_ends_its_channel_alone() {
    let mut world = World::new();
    let client = world.connect();
    world.send(client, 2, ChannelOpen);
    world.send(client, 2, ConfirmSelect { nowait: true });
    world.said(client);
    let ack = BasicAck {
        delivery_tag: 82,
        multiple: false,
    };
    world.send(client, 1, ack);
    let close = "1 channel.close(reply_code=406, reply_text=\"PRECONDITION_FAILED - unknown \
                 delivery tag 82\", class_id=60, method_id=80)";
    assert_eq!(world.said(client), [close]);
    // Until the client agrees nothing on the channel counts, not even another open.
    world.send(client, 1, ack);
    world.publish(client, 1, "q1", "lost");
    world.send(client, 1, ChannelOpen);
    assert!(world.said(client).is_empty());
    world.publish(client, 2, "q1", "stored");
    assert_eq!(
        world.said(client),
        ["2 basic.ack(delivery_tag=1, multiple=false)"]
    );
    world.send(client, 1, ChannelCloseOk);
    world.send(client, 1, ChannelOpen);
    assert_eq!(world.said(client), ["1 channel.open-ok()"]);
}

#[test]
fn both_may_close_a_channel_at_once() {
    let mut world = World::new();
    let client = world.connect();
    world.publish(client, 1, "q1", "x");
    let ack = BasicAck {
        delivery_tag: 9,
        multiple: false,
    };
    world.send(client, 1, ack);
    world.said(client);
    let close = ChannelClose {
        reply_code: 200,
        reply_text: short("bye"),
        class_id: 0,
        method_id: 0,
    };
    world.send(client, 1, close);
    assert_eq!(world.said(client), ["1 channel.close-ok()"]);
    world.send(client, 1, ChannelCloseOk);
    world.send(client, 1, ChannelOpen);
    assert_eq!(world.said(client), ["1 channel.open-ok()"]);
}

#[test]
fn small_methods_have_their_answers() {
    let mut world = World::new();
    let client = world.connect();
    let request = AccessRequest {
        realm: short("/data"),
        exclusive: false,
        passive: true,
        active: true,
        write: true,
        read: true,
    };
    world.send(client, 1, request);
    world.send(client, 1, ChannelFlow { active: true });
    let qos = BasicQos {
        prefetch_size: 0,
        prefetch_count: 10,
        global: false,
    };
    world.send(client, 1, qos);
    assert_eq!(
        world.said(client),
        [
            "1 access.request-ok(ticket=1)",
            "1 channel.flow-ok(active=true)",
            "1 basic.qos-ok()"
        ]
    );
    assert_eq!(world.session(client).info().channels[0].prefetch_count, 10);
}

/// What closes the connection: sends it on channel 1 (or the channel given) and gives the text.
fn hard<'a>(channel: u16, method: impl Into<warren_protocol::Method<'a>>) -> String {
    let mut world = World::new();
    world.options.channel_max = 2047;
    let client = world.connect();
    world.send(client, channel, method);
    let said = world.said(client);
    assert_eq!(said.len(), 1, "{said:?}");
    said[0].clone()
}

#[test]
fn errors_that_close_the_connection() {
    let close = |code, text: &str, class, method| {
        format!(
            "0 connection.close(reply_code={code}, reply_text=\"{text}\", class_id={class}, \
             method_id={method})"
        )
    };
    assert_eq!(
        hard(1, ChannelOpen),
        close(504, "CHANNEL_ERROR - second 'channel.open' seen", 20, 10)
    );
    let ack = BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    assert_eq!(
        hard(2, ack),
        close(504, "CHANNEL_ERROR - expected 'channel.open'", 60, 80)
    );
    assert_eq!(
        hard(1, ChannelFlow { active: false }),
        close(540, "NOT_IMPLEMENTED - active=false", 20, 20)
    );
    assert_eq!(
        hard(1, BasicRecoverOk),
        close(503, "COMMAND_INVALID - unimplemented method", 60, 111)
    );
    assert_eq!(
        hard(0, ack),
        close(503, "COMMAND_INVALID - unimplemented method", 60, 80)
    );
    let qos = BasicQos {
        prefetch_size: 7,
        prefetch_count: 0,
        global: false,
    };
    assert_eq!(
        hard(1, qos),
        close(540, "NOT_IMPLEMENTED - prefetch_size!=0 (7)", 60, 10)
    );
}

#[test]
fn channels_are_counted() {
    let mut world = World::new();
    world.options.channel_max = 2047;
    let client = world.connect();
    for number in 2..=2047 {
        world.send(client, number, ChannelOpen);
    }
    assert_eq!(world.said(client).len(), 2046);
    world.send(client, 5000, ChannelOpen);
    assert_eq!(
        world.said(client),
        [
            "0 connection.close(reply_code=530, reply_text=\"NOT_ALLOWED - number of channels \
          opened (2047) has reached the negotiated channel_max (2047)\", class_id=20, method_id=10)"
        ]
    );
}
