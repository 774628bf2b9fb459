//! Each way in which a peer's bytes can be wrong, and the reply code and text of the close.
//!
//! Codes and texts were compared with RabbitMQ 3.10. Where it has no answer of its own (it crashes
//! and closes with 541 or without a word) ours says what is wrong; see the comments.

use warren_protocol::{ContentHeader, DecodeError, FrameKind, Method, frame};

const FRAME_MAX: u32 = 131_072;

fn framed(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind], &channel.to_be_bytes()[..], &size, payload, &[0xCE]].concat()
}

fn method(class_id: u16, method_id: u16, fields: &[u8]) -> Vec<u8> {
    let payload = [
        &class_id.to_be_bytes()[..],
        &method_id.to_be_bytes(),
        fields,
    ]
    .concat();
    framed(1, 1, &payload)
}

fn header(weight: u8, body_size: u64, properties: &[u8]) -> Vec<u8> {
    let payload = [
        &[0, 60, 0, weight][..],
        &body_size.to_be_bytes(),
        properties,
    ]
    .concat();
    framed(2, 1, &payload)
}

/// Decodes one frame and all that is in it, as a session does.
fn decode(bytes: &[u8]) -> Result<(), DecodeError> {
    let (frame, _) = frame::parse(bytes, FRAME_MAX)?.expect("a whole frame");
    match frame.kind {
        FrameKind::Method => {
            if let Method::QueueDeclare(declare) = Method::parse(frame.payload)? {
                declare.queue.as_str()?;
                declare.arguments.validate()?;
            }
        }
        FrameKind::Header => ContentHeader::parse(frame.payload)?.properties.validate()?,
        FrameKind::Body | FrameKind::Heartbeat => {}
    }
    Ok(())
}

fn check(bytes: &[u8], code: u16, text: &str, ids: (u16, u16)) {
    let error = decode(bytes).expect_err(text);
    assert_eq!(error.to_string(), text);
    assert_eq!(error.reply_code().code(), code, "{text}");
    assert!(error.reply_code().is_hard(), "{text}");
    assert_eq!(error.ids(), ids, "{text}");
}

#[test]
fn frames() {
    let none = (0, 0);
    check(
        &framed(5, 1, b"abc"),
        501,
        "type 5, all octets = <<\"abc\">>: unknown_frame",
        none,
    );
    check(
        &framed(8, 0, b"xx"),
        501,
        "type 8, all octets = <<\"xx\">>: unknown_frame",
        none,
    );
    check(&framed(8, 1, b""), 505, "type 8, all octets = <<>>", none);
    check(
        &framed(1, 1, &[0]),
        501,
        "type 1, all octets = <<0>>: unknown_frame",
        none,
    );
    check(
        &framed(2, 1, &[0, 60]),
        501,
        "type 2, all octets = <<0,60>>: unknown_frame",
        none,
    );
    let mut wrong_end = method(20, 10, &[0]);
    *wrong_end.last_mut().expect("not empty") = 0;
    let text = "type 1, all octets = <<0,20,0,10,0>>: {invalid_frame_end_marker,0}";
    check(&wrong_end, 501, text, none);
    let text = "type 1, all octets = <<>>: {frame_too_large,131073,131064}";
    check(&[1, 0, 1, 0, 2, 0, 1], 501, text, none);
}

/// RabbitMQ closes with 501 `cannot decode <<..>>` where we say 502, and drops the socket of a peer
/// that sends an unknown method or a malformed table.
#[test]
fn methods() {
    check(&method(60, 99, b""), 503, "unimplemented method", (60, 99));
    check(&method(99, 1, b""), 503, "unimplemented method", (99, 1));
    let text = "cannot decode method 50,10: it ends before its fields do";
    check(&method(50, 10, &[0, 0, 5, b'a', b'b']), 502, text, (50, 10));
    let text = "cannot decode method 60,80: 2 bytes behind its fields";
    check(&method(60, 80, &[0; 11]), 502, text, (60, 80));
    let declare = |queue: &[u8], arguments: &[u8]| {
        let len = (arguments.len() as u32).to_be_bytes();
        let fields = [&[0, 0, queue.len() as u8], queue, &[0], &len[..], arguments].concat();
        method(50, 10, &fields)
    };
    assert_eq!(decode(&declare(b"q", b"\x01aV")), Ok(()));
    check(
        &declare(&[0xff], b""),
        501,
        "Malformed UTF-8 in shortstr",
        (0, 0),
    );
    let text = "cannot decode table: field of unknown type 63";
    check(&declare(b"q", b"\x01a?"), 502, text, (0, 0));
    let text = "cannot decode table: it ends inside a field";
    check(&declare(b"q", b"\x09a"), 502, text, (0, 0));
}

/// RabbitMQ closes with 541 for malformed properties.
#[test]
fn content_headers() {
    let none = (0, 0);
    assert_eq!(decode(&header(0, 1, &[0, 0])), Ok(()));
    check(
        &header(0, 1, &[]),
        501,
        "content header of 12 bytes is too short",
        none,
    );
    let text = "expected content header of weight 0, got one of weight 1 instead";
    check(&header(1, 1, &[0, 0]), 505, text, none);
    let text = "content body size 536870913 exceeds maximum allowed size 536870912";
    check(&header(0, 536_870_913, &[0, 0]), 501, text, none);
    let text = "cannot decode content properties: they end inside a field";
    check(&header(0, 1, &[0x80, 0]), 502, text, none);
    let text = "cannot decode content properties: 1 bytes behind the last field";
    check(&header(0, 1, &[0, 0, 9]), 502, text, none);
    let text = "cannot decode content properties: flags 0x0002 have no meaning";
    check(&header(0, 1, &[0, 2]), 502, text, none);
    let text = "cannot decode content properties: headers: field of unknown type 63";
    check(
        &header(0, 1, &[0x20, 0, 0, 0, 0, 3, 1, b'a', b'?']),
        502,
        text,
        none,
    );
}
