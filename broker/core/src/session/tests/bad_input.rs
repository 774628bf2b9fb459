//! Bytes that no client should send: each costs its own connection and nothing more.

use bytes::BytesMut;
use proptest::prelude::*;
use warren_protocol::methods::{BasicPublish, ConnectionCloseOk};
use warren_protocol::{FrameKind, Properties, content, frame};

use super::world::{World, publish_frames, short};

fn raw_frame(kind: u8, channel: u16, payload: &[u8], end: u8) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes.push(end);
    bytes
}

fn publish_method() -> BytesMut {
    let mut out = BytesMut::new();
    let publish = BasicPublish {
        exchange: short(""),
        routing_key: short("q1"),
        mandatory: false,
        immediate: false,
    };
    publish.encode_frame(1, &mut out);
    out
}

fn content_header(class_id: u16, body_size: u64) -> Vec<u8> {
    let mut payload = class_id.to_be_bytes().to_vec();
    payload.extend([0, 0]);
    payload.extend(body_size.to_be_bytes());
    payload.extend([0, 0]);
    raw_frame(2, 1, &payload, frame::HEARTBEAT[7])
}

fn closed_by(bytes: &[u8]) -> String {
    let mut world = World::new();
    let client = world.connect();
    world.bytes(client, bytes);
    let said = world.said(client);
    assert_eq!(said.len(), 1, "{said:?}");
    // The connection can be ended in good order, or is cut off.
    world.send(client, 0, ConnectionCloseOk);
    world.wait_ms(10_000);
    assert!(world.session(client).is_over());
    said[0].clone()
}

#[test]
fn each_bad_frame_has_its_answer() {
    let end = frame::HEARTBEAT[7];
    let publish = publish_method();
    let with = |tail: &[u8]| [&publish[..], tail].concat();
    let long_body = [&content_header(60, 2)[..], &raw_frame(3, 1, b"abc", end)].concat();
    let cases: [(Vec<u8>, &str); 11] = [
        (
            raw_frame(1, 1, b"abcd", 0),
            "501, reply_text=\"FRAME_ERROR - type 1, ",
        ),
        (
            raw_frame(9, 1, b"", end),
            "501, reply_text=\"FRAME_ERROR - type 9, ",
        ),
        (
            frame::head(FrameKind::Body, 1, 200_000).to_vec(),
            "501, reply_text=\"FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,200000,",
        ),
        (
            raw_frame(8, 1, b"", end),
            "505, reply_text=\"UNEXPECTED_FRAME - type 8, ",
        ),
        (
            raw_frame(1, 1, &[0, 99, 0, 1], end),
            "503, reply_text=\"COMMAND_INVALID - unimplemented method\", class_id=99, method_id=1",
        ),
        (
            raw_frame(1, 1, &[0, 60, 0, 80, 1], end),
            "502, reply_text=\"SYNTAX_ERROR - ",
        ),
        (
            raw_frame(3, 1, b"x", end),
            "505, reply_text=\"UNEXPECTED_FRAME - expected method frame, got non method frame",
        ),
        (
            with(&publish),
            "expected content header for class 60, got non content header frame instead\", \
             class_id=60, method_id=40",
        ),
        (
            with(&content_header(50, 0)),
            "expected content header for class 60, got one for class 50 instead",
        ),
        (
            with(&[&content_header(60, 5)[..], &publish].concat()),
            "expected content body, got non content body frame instead",
        ),
        (
            with(&long_body),
            "expected content body of 2 bytes, got more",
        ),
    ];
    for (bytes, expected) in cases {
        let said = closed_by(&bytes);
        assert!(said.contains(expected), "{said}\n{expected}");
    }
}

#[test]
fn bad_properties_and_announced_monsters() {
    let broken = Properties::from_raw(&[0x20, 0x00, 0, 0, 0, 9]);
    let bytes = publish_frames(1, "", "q1", broken, b"x");
    assert!(closed_by(&bytes).contains("502, reply_text=\"SYNTAX_ERROR - "));
    // Announced bodies are judged by their header; what follows on the channel is ignored.
    let mut world = World::new();
    let client = world.connect();
    let header = content_header(60, 20_000_000);
    world.bytes(client, &[&publish_method()[..], &header].concat());
    let said = world.said(client);
    assert!(
        said[0].contains("message size 20000000 is larger than configured"),
        "{said:?}"
    );
    let mut rest = BytesMut::new();
    content::encode(&mut rest, 1, Properties::EMPTY, &[7; 100_000], 131_072);
    world.bytes(client, &rest);
    assert!(world.said(client).is_empty());
    assert_eq!(world.unread(client), 0);
}

#[test]
fn a_lost_frame_boundary_leaves_a_session_deaf_and_bounded() {
    let mut world = World::new();
    let client = world.connect();
    world.bytes(client, &[0xff; 1_000]);
    assert_eq!(world.said(client).len(), 1);
    for _ in 0..100 {
        world.bytes(client, &[0x01; 1_000]);
    }
    assert!(world.said(client).is_empty());
    assert_eq!(world.unread(client), 0);
    world.wait_ms(10_000);
    assert!(world.session(client).is_over());
}

/// Frames that are right as frames, and carry anything.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let method = (
        0_u16..100,
        0_u16..130,
        prop::collection::vec(any::<u8>(), 0..40),
    );
    let method = method.prop_map(|(class, id, fields)| {
        let mut payload = (class / 10 * 10).to_be_bytes().to_vec();
        payload.extend(id.to_be_bytes());
        payload.extend(fields);
        (1_u8, payload)
    });
    let other = (2_u8..4, prop::collection::vec(any::<u8>(), 0..40));
    let publish = Just(()).prop_map(|()| (1_u8, publish_method()[7..].to_vec()));
    let payload = prop_oneof![4 => method, 2 => other, 1 => publish];
    (payload, 0_u16..4).prop_map(|((kind, mut payload), channel)| {
        if kind == 1 && payload.last() == Some(&0xCE) {
            payload.pop();
        }
        raw_frame(kind, channel, &payload, 0xCE)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let mut world = World::new();
        let fresh = world.accept();
        world.bytes(fresh, &bytes);
        let client = world.connect();
        world.bytes(client, &bytes);
        world.disconnect(client);
        prop_assert!(world.session(client).is_over());
    }

    #[test]
    fn random_frames_never_panic(frames in prop::collection::vec(any_frame(), 0..60)) {
        let mut world = World::new();
        let client = world.connect();
        for frame in frames {
            world.bytes(client, &frame);
        }
        world.disconnect(client);
        prop_assert!(world.session(client).is_finished());
    }
}
