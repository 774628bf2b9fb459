//! Frames that are wrong in themselves, on a connection that was opened well.

use super::wire::{
    BODY, CONTENT_HEADER, EXCLUSIVE, Fields, HEARTBEAT, METHOD, Peer, Target, content_header,
    declare, frame, method, publish_method,
};
use super::{Check, checks};
use crate::outcome::{CheckResult, Stop, ensure};

pub(super) const CHECKS: &[(&str, Check)] = checks![
    wrong_frame_end,
    oversized_frame,
    truncated_frame,
    unknown_frame_type,
    heartbeat_on_a_channel,
    method_on_unopened_channel,
    second_channel_open,
    unknown_method,
    truncated_arguments,
    table_longer_than_its_frame,
    table_of_unknown_type,
    table_nested_too_deep,
    header_without_publish,
    body_without_publish,
    body_before_header,
    method_instead_of_header,
    header_of_another_class,
    body_longer_than_announced,
    channels_above_the_limit,
];

const FRAME_MAX: u32 = 131_072;

fn wrong_frame_end(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    let mut bytes = declare(1, "", EXCLUSIVE, b"");
    bytes.pop();
    bytes.push(0);
    peer.send(&bytes)?;
    peer.expect_close_code(&[501])
}

fn oversized_frame(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    // Its header alone tells: the broker need not wait for what follows.
    peer.send(&Fields::new().u8(METHOD).u16(1).u32(FRAME_MAX * 2).0)?;
    peer.send_anyway(&vec![0; 64 * 1024]);
    peer.expect_close_code(&[501])
}

/// The peer goes away in the middle of a frame.
fn truncated_frame(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    let bytes = declare(1, "", EXCLUSIVE, b"");
    peer.send(&bytes[..bytes.len() / 2])?;
    peer.finish_sending()?;
    loop {
        if peer.next()?.is_none() {
            return Ok(());
        }
    }
}

fn unknown_frame_type(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&frame(77, 1, b"what is this"))?;
    peer.expect_close_code(&[501])
}

fn heartbeat_on_a_channel(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&frame(HEARTBEAT, 1, b""))?;
    peer.expect_close_code(&[501, 505])
}

fn method_on_unopened_channel(target: &Target) -> CheckResult {
    let mut peer = Peer::open(target)?;
    peer.send(&declare(7, "", EXCLUSIVE, b""))?;
    peer.expect_close(504, "CHANNEL_ERROR - expected 'channel.open'")
}

fn second_channel_open(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&method(1, (20, 10), Fields::new().short("")))?;
    peer.expect_close(504, "CHANNEL_ERROR - second 'channel.open' seen")
}

fn unknown_method(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&method(1, (60, 250), Fields::new()))?;
    // RabbitMQ's reader falls over here and drops the socket.
    peer.expect_close_code_or_end(&[501, 502, 503, 540])
}

fn truncated_arguments(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    // A short string of 200 bytes with three of them there.
    let mut arguments = Fields::new().u16(0).u8(200);
    arguments.0.extend(b"abc");
    peer.send(&method(1, (50, 10), arguments))?;
    peer.expect_close_code(&[501, 502])
}

fn table_longer_than_its_frame(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    let arguments = Fields::new().u16(0).short("").u8(EXCLUSIVE).u32(u32::MAX);
    peer.send(&method(1, (50, 10), arguments))?;
    peer.expect_close_code(&[501, 502])
}

fn table_of_unknown_type(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    let table = Fields::new().entry("x-what", b'?', &[0; 4]);
    peer.send(&declare(1, "", EXCLUSIVE, &table.0))?;
    // RabbitMQ's reader falls over here and drops the socket.
    peer.expect_close_code_or_end(&[501, 502])
}

/// RabbitMQ has no limit of its own here; whoever has one must refuse, and nobody may fall over.
fn table_nested_too_deep(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    let mut bytes = Vec::new();
    // From the inside out: the entry `a` whose value is the table so far.
    for _ in 0..10_000 {
        let inner = u32::try_from(bytes.len())?;
        let mut outer = Fields::new().short("a").u8(b'F').u32(inner).0;
        outer.append(&mut bytes);
        bytes = outer;
    }
    peer.send(&declare(1, "", EXCLUSIVE, &bytes))?;
    let answer = peer
        .next()?
        .ok_or_else(|| Stop::Failed("dropped without a word".to_owned()))?;
    let accepted = answer.id() == Some((50, 11));
    let refused = matches!(answer.id(), Some((10, 50) | (20, 40)));
    ensure(
        accepted || refused,
        format!("answered by {:?}", answer.id()),
    )
}

fn header_without_publish(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&content_header(1, 5))?;
    peer.expect_close_code(&[505])
}

fn body_without_publish(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&frame(BODY, 1, b"hello"))?;
    peer.expect_close_code(&[505])
}

fn body_before_header(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&publish_method(1, "", "k"))?;
    peer.send(&frame(BODY, 1, b"hello"))?;
    peer.expect_close_code(&[505])
}

fn method_instead_of_header(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&publish_method(1, "", "k"))?;
    peer.send(&declare(1, "", EXCLUSIVE, b""))?;
    peer.expect_close_code(&[505])
}

fn header_of_another_class(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&publish_method(1, "", "k"))?;
    let payload = Fields::new().u16(50).u16(0).u64(5).u16(0);
    peer.send(&frame(CONTENT_HEADER, 1, &payload.0))?;
    peer.expect_close_code(&[505])
}

/// RabbitMQ notices only when the next method comes instead of the rest.
fn body_longer_than_announced(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&publish_method(1, "", "k"))?;
    peer.send(&content_header(1, 5))?;
    peer.send(&frame(BODY, 1, b"longer than five"))?;
    peer.send(&declare(1, "", EXCLUSIVE, b""))?;
    peer.expect_close_code_or_end(&[501, 505])
}

/// RabbitMQ counts open channels; it does not look at their numbers.
fn channels_above_the_limit(target: &Target) -> CheckResult {
    let mut peer = Peer::tuned(target, (3, FRAME_MAX, 0))?;
    for channel in 1..=3 {
        peer.open_channel(channel)?;
    }
    peer.send(&method(4, (20, 10), Fields::new().short("")))?;
    let text = "NOT_ALLOWED - number of channels opened (3) has reached the negotiated \
                channel_max (3)";
    peer.expect_close(530, text)
}
