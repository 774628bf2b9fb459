//! Captured traffic: every frame must decode to the trace that stands below it, and encode to the
//! bytes it came from.
//!
//! A file of `testdata` has lines of a side (`C` client, `S` server) and hex bytes, each followed
//! by the expected trace, indented. `UPDATE_EXPECT=1` writes the traces anew.

use std::fmt::Write as _;
use std::path::Path;

use bytes::BytesMut;
use warren_protocol::limits::FRAME_MAX_BYTES_DEFAULT;
use warren_protocol::preamble::{PROTOCOL_HEADER, Preamble};
use warren_protocol::{ContentHeader, FrameKind, Method, Sender, frame, preamble};

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

/// What the bytes decode to; asserts that encoding gives the bytes back.
fn trace(side: &str, bytes: &[u8]) -> String {
    if bytes == PROTOCOL_HEADER {
        assert_eq!(preamble::parse(bytes), Preamble::Accepted { consumed: 8 });
        return "protocol header".to_owned();
    }
    let (parsed, len) = frame::parse(bytes, FRAME_MAX_BYTES_DEFAULT)
        .expect("a valid frame")
        .expect("whole");
    assert_eq!(len, bytes.len(), "one frame a line");
    let channel = parsed.channel;
    let mut encoded = BytesMut::new();
    let text = match parsed.kind {
        FrameKind::Method => {
            let method = Method::parse(parsed.payload).expect("a valid method");
            let sender = if side == "C" {
                Sender::Client
            } else {
                Sender::Server
            };
            assert!(
                [sender, Sender::Both].contains(&method.sender()),
                "{method} from {side}"
            );
            method.encode_frame(channel, &mut encoded);
            if matches!(method, Method::ConnectionOpen(_)) {
                // pika sets the reserved bit `insist`, which is not kept.
                encoded[bytes.len() - 2] |= bytes[bytes.len() - 2];
            }
            method.to_string()
        }
        FrameKind::Header => {
            let header = ContentHeader::parse(parsed.payload).expect("a valid header");
            assert_eq!(header.properties.validate(), Ok(()));
            assert_eq!(
                header.properties.edit().finish(),
                header.properties.as_bytes()
            );
            if let Some(headers) = header.properties.headers() {
                let owned = headers.to_field_table().expect("valid");
                assert_eq!(owned.to_bytes(), headers.as_bytes());
            }
            header.encode_frame(channel, &mut encoded);
            format!(
                "header body_size={} {:?}",
                header.body_size, header.properties
            )
        }
        FrameKind::Body => {
            frame::encode(&mut encoded, FrameKind::Body, channel, parsed.payload);
            format!("body \"{}\"", parsed.payload.escape_ascii())
        }
        FrameKind::Heartbeat => {
            frame::encode_heartbeat(&mut encoded);
            "heartbeat".to_owned()
        }
    };
    assert_eq!(encoded, bytes, "encoding gives the captured bytes: {text}");
    format!("{channel} {text}")
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/testdata")
        .join(name);
    #[expect(clippy::disallowed_methods, reason = "test data")]
    let committed = std::fs::read_to_string(&path).expect("test data");
    let mut expected = String::new();
    for line in committed.lines().filter(|line| !line.starts_with("  ")) {
        writeln!(expected, "{line}").expect("strings take all");
        if let Some((side @ ("C" | "S"), hex)) = line.split_once(' ') {
            writeln!(expected, "  {}", trace(side, &unhex(hex))).expect("strings take all");
        }
    }
    if option_env!("UPDATE_EXPECT").is_some() {
        #[expect(clippy::disallowed_methods, reason = "asked for")]
        std::fs::write(&path, expected).expect("writable test data");
    } else {
        assert_eq!(committed, expected, "{name}");
    }
}

#[test]
fn a_session_of_pika() {
    check("pika_session.hex");
}
