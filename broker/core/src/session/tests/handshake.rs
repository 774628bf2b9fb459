//! From the protocol header to open-ok, and every way to be sent away before it.

use sha2::{Digest as _, Sha256};
use warren_protocol::FieldTable;
use warren_protocol::methods::{
    ChannelOpen, ConnectionClose, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
    ConnectionUpdateSecret,
};
use warren_protocol::preamble::PROTOCOL_HEADER;
use warren_protocol::{LongStr, Method, ShortStr, Table, frame};

use super::world::{World, short};

/// Salt and digest of the password `guest`.
pub(super) fn guest_hash() -> Vec<u8> {
    let salt = *b"salt";
    let mut hasher = Sha256::new();
    hasher.update(salt);
    hasher.update(b"guest");
    let mut hash = salt.to_vec();
    hash.extend_from_slice(&hasher.finalize());
    hash
}

fn tune_ok(channel_max: u16, frame_max: u32, heartbeat: u16) -> ConnectionTuneOk {
    ConnectionTuneOk {
        channel_max,
        frame_max,
        heartbeat,
    }
}

fn open(vhost: &str) -> ConnectionOpen<'_> {
    ConnectionOpen {
        virtual_host: short(vhost),
    }
}

#[test]
fn start_names_rabbitmq_and_warren() {
    let mut world = World::new();
    let client = world.accept();
    world.bytes(client, &PROTOCOL_HEADER);
    let raw = world.raw(client);
    let (frame, _) = frame::parse(&raw, 131_072).expect("valid").expect("whole");
    let Ok(Method::ConnectionStart(start)) = Method::parse(frame.payload) else {
        panic!("not connection.start");
    };
    let properties = start.server_properties.to_field_table().expect("a table");
    let text = |name| properties.get(name).and_then(|value| value.as_str());
    assert_eq!(text("product"), Some("RabbitMQ"));
    assert_eq!(text("version"), Some("4.3.0"));
    assert_eq!(text("cluster_name"), Some("warren"));
    assert!(text("platform").is_some_and(|platform| platform.starts_with("Warren ")));
    assert!(text("information").is_some_and(|text| text.contains("Warren")));
    let capabilities = properties.get("capabilities").and_then(|v| v.as_table());
    let capabilities = capabilities.expect("a table");
    assert_eq!(capabilities.len(), 9);
    assert!(
        capabilities
            .iter()
            .all(|(_, value)| value.as_bool() == Some(true))
    );
    assert_eq!(start.mechanisms, LongStr::from("PLAIN AMQPLAIN"));
    assert_eq!(start.locales, LongStr::from("en_US"));
}

#[test]
fn a_wrong_header_gets_ours_and_the_end() {
    let mut world = World::new();
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"AMQP\x00\x01\x00\x00",
        b"AMQP\x03\x01\x00\x00",
    ] {
        let client = world.accept();
        world.bytes(client, bytes);
        assert_eq!(world.raw(client)[..], PROTOCOL_HEADER);
        assert!(world.session(client).is_over());
    }
}

#[test]
fn the_whole_way_byte_by_byte() {
    let mut world = World::new();
    let client = world.accept();
    for byte in PROTOCOL_HEADER {
        world.bytes(client, &[byte]);
    }
    let mut frames = bytes::BytesMut::new();
    let empty = FieldTable::new().to_bytes();
    let start_ok = ConnectionStartOk {
        client_properties: Table::from_raw(&empty),
        mechanism: short("PLAIN"),
        response: LongStr(b"\0guest\0guest"),
        locale: short("en_US"),
    };
    start_ok.encode_frame(0, &mut frames);
    tune_ok(10, 4096, 30).encode_frame(0, &mut frames);
    open("/").encode_frame(0, &mut frames);
    for byte in frames {
        world.bytes(client, &[byte]);
    }
    let said = world.said(client);
    assert!(said[0].starts_with("0 connection.start("), "{said:?}");
    assert_eq!(
        said[1..],
        [
            "0 connection.tune(channel_max=2047, frame_max=131072, heartbeat=60)",
            "0 connection.open-ok()"
        ]
    );
    let info = world.session(client).info();
    assert_eq!(
        (info.frame_max, info.channel_max, info.heartbeat),
        (4096, 10, 30)
    );
    assert_eq!((&*info.user, &*info.vhost), ("guest", "/"));
}

#[test]
fn a_failed_login_tells_only_those_who_understand() {
    let mut world = World::new();
    for (user, password) in [("guest", "wrong"), ("nobody", "guest"), ("guest", "")] {
        let client = world.accept();
        world.bytes(client, &PROTOCOL_HEADER);
        world.said(client);
        world.start_ok(client, user, password);
        assert_eq!(
            world.said(client),
            [
                "0 connection.close(reply_code=403, reply_text=\"ACCESS_REFUSED - Login was \
              refused using authentication mechanism PLAIN. For details see the broker logfile.\", \
              class_id=0, method_id=0)"
            ]
        );
        let client = world.accept();
        world.bytes(client, &PROTOCOL_HEADER);
        world.said(client);
        let response = format!("\0{user}\0{password}");
        let start_ok = ConnectionStartOk {
            client_properties: Table::EMPTY,
            mechanism: short("PLAIN"),
            response: LongStr(response.as_bytes()),
            locale: short("en_US"),
        };
        world.send(client, 0, start_ok);
        assert!(world.said(client).is_empty());
        assert!(world.session(client).is_over());
    }
}

#[test]
fn tuning_beyond_the_offer_is_refused() {
    let cases = [
        (
            tune_ok(0, 131_072, 0),
            "negotiated channel_max = 0 is higher than the maximum allowed value (2047)",
        ),
        (
            tune_ok(4000, 131_072, 0),
            "negotiated channel_max = 4000 is higher than the maximum allowed value (2047)",
        ),
        (
            tune_ok(1, 0, 0),
            "negotiated frame_max = 0 is higher than the maximum allowed value (131072)",
        ),
        (
            tune_ok(1, 4095, 0),
            "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)",
        ),
    ];
    for (tune_ok, text) in cases {
        let mut world = World::new();
        let client = world.accept();
        world.bytes(client, &PROTOCOL_HEADER);
        world.start_ok(client, "guest", "guest");
        world.said(client);
        world.send(client, 0, tune_ok);
        let expected = format!(
            "0 connection.close(reply_code=530, reply_text=\"NOT_ALLOWED - {text}\", \
             class_id=10, method_id=30)"
        );
        assert_eq!(world.said(client), [expected]);
    }
}

#[test]
fn a_vhost_must_exist_and_be_allowed() {
    let cases = [
        ("nowhere", "vhost nowhere not found"),
        (
            "closed",
            "access to vhost 'closed' refused for user 'guest'",
        ),
    ];
    for (vhost, text) in cases {
        let mut world = World::new();
        let client = world.accept();
        world.bytes(client, &PROTOCOL_HEADER);
        world.start_ok(client, "guest", "guest");
        world.send(client, 0, tune_ok(2047, 131_072, 0));
        world.said(client);
        world.send(client, 0, open(vhost));
        let expected = format!(
            "0 connection.close(reply_code=530, reply_text=\"NOT_ALLOWED - {text}\", \
             class_id=10, method_id=40)"
        );
        assert_eq!(world.said(client), [expected]);
    }
}

#[test]
fn methods_out_of_turn_and_silence_end_it() {
    let mut world = World::new();
    let client = world.accept();
    world.bytes(client, &PROTOCOL_HEADER);
    world.said(client);
    world.send(client, 0, open("/"));
    assert_eq!(
        world.said(client),
        [
            "0 connection.close(reply_code=504, reply_text=\"CHANNEL_ERROR - unexpected method in \
          connection state starting\", class_id=10, method_id=40)"
        ]
    );
    let silent = world.accept();
    world.bytes(silent, b"AMQP");
    world.wait_ms(9_999);
    assert!(!world.session(silent).is_finished());
    world.wait_ms(1);
    assert!(world.session(silent).is_over());
}

#[test]
fn heartbeats_are_sent_and_missed() {
    let mut world = World::new();
    let client = world.accept();
    world.bytes(client, &PROTOCOL_HEADER);
    world.start_ok(client, "guest", "guest");
    world.send(client, 0, tune_ok(2047, 131_072, 10));
    world.send(client, 0, open("/"));
    world.said(client);
    world.wait_ms(5_700);
    assert_eq!(world.said(client), ["heartbeat"]);
    world.bytes(client, &frame::HEARTBEAT);
    assert_eq!(world.said(client), [""; 0]);
    world.wait_ms(5_000);
    world.bytes(client, &frame::HEARTBEAT);
    assert_eq!(world.said(client), ["heartbeat"], "it goes along");
    world.wait_ms(5_000);
    assert_eq!(world.said(client), [""; 0]);
    world.wait_ms(10_000);
    assert!(!world.session(client).is_finished());
    world.wait_ms(5_000);
    assert!(world.session(client).is_over());
}

#[test]
fn a_new_secret_is_judged() {
    let mut world = World::new();
    let client = world.connect();
    let update = |secret: &'static str| ConnectionUpdateSecret {
        new_secret: LongStr::from(secret),
        reason: ShortStr::from_static("rotation"),
    };
    world.send(client, 0, update("guest"));
    assert_eq!(world.said(client), ["0 connection.update-secret-ok()"]);
    world.send(client, 0, update("other"));
    assert_eq!(
        world.said(client),
        [
            "0 connection.close(reply_code=530, reply_text=\"NOT_ALLOWED - New secret was refused \
          by one of the backends\", class_id=10, method_id=70)"
        ]
    );
}

#[test]
fn both_sides_can_close() {
    let mut world = World::new();
    let client = world.connect();
    let close = ConnectionClose {
        reply_code: 200,
        reply_text: short("bye"),
        class_id: 0,
        method_id: 0,
    };
    world.send(client, 0, close);
    assert_eq!(world.said(client), ["0 connection.close-ok()"]);
    assert!(world.session(client).is_over());

    let client = world.connect();
    let text = "Node was put into maintenance mode";
    world.event(
        client,
        crate::session::event::Event::Close { text: text.into() },
    );
    assert_eq!(
        world.said(client),
        [format!(
            "0 connection.close(reply_code=320, reply_text=\"CONNECTION_FORCED - {text}\", \
             class_id=0, method_id=0)"
        )]
    );
    world.send(client, 3, ChannelOpen);
    assert!(world.said(client).is_empty());
    world.send(client, 0, warren_protocol::methods::ConnectionCloseOk);
    assert!(world.session(client).is_over());
}
