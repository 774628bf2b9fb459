//! What a channel does that the clients' interfaces hide: no-wait, closing, refused requests.

use super::wire::{
    CHANNEL_CLOSE, EXCLUSIVE, Fields, NOWAIT, PASSIVE, Peer, Target, declare, frame, method,
    publish, publish_method,
};
use super::{Check, checks, since};
use crate::outcome::{CheckResult, equal};

pub(super) const CHECKS: &[(&str, Check)] = checks![
    declare_without_reply,
    closed_channel_ignores_all,
    channel_opens_again,
    access_request,
    flow_inactive,
    prefetch_size,
    recover_without_requeue,
    unknown_exchange_type,
    expiration_not_a_number,
    connection_close,
];

fn unique(check: &str) -> String {
    format!("conf.raw.{check}.{:x}", std::process::id())
}

/// With no-wait there is no declare-ok, and errors are told all the same.
fn declare_without_reply(target: &Target) -> CheckResult {
    let queue = unique("nowait");
    let mut peer = Peer::with_channel(target)?;
    peer.send(&declare(1, &queue, EXCLUSIVE | NOWAIT, b""))?;
    peer.send(&declare(1, &queue, PASSIVE, b""))?;
    let ok = peer.expect((50, 11))?;
    equal(
        &ok[4..5 + queue.len()],
        &Fields::new().short(&queue).0[..],
        "its name",
    )?;
    peer.send(&declare(1, "amq.conformance", NOWAIT, b""))?;
    equal(peer.close_reason(CHANNEL_CLOSE)?.0, 403, "code")?;
    peer.close()
}

/// After channel.close from the broker all is ignored until close-ok, and the number can be used
/// again.
fn closed_channel_ignores_all(target: &Target) -> CheckResult {
    let missing = unique("missing");
    let mut peer = Peer::with_channel(target)?;
    peer.send(&publish(1, &missing, "k", b"one"))?;
    peer.send(&publish(1, &missing, "k", b"two"))?;
    peer.send(&declare(1, "", EXCLUSIVE, b""))?;
    let text = format!("NOT_FOUND - no exchange '{missing}' in vhost '/'");
    equal(
        peer.close_reason(CHANNEL_CLOSE)?,
        (404, text),
        "channel.close",
    )?;
    peer.send(&declare(1, "", EXCLUSIVE, b""))?;
    peer.send(&method(1, (20, 41), Fields::new()))?;
    peer.open_channel(1)?;
    peer.send(&declare(1, "", EXCLUSIVE, b""))?;
    peer.expect((50, 11))?;
    peer.close()
}

fn channel_opens_again(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    for _ in 0..50 {
        let close = Fields::new().u16(200).short("done").u16(0).u16(0);
        peer.send(&method(1, CHANNEL_CLOSE, close))?;
        peer.expect((20, 41))?;
        peer.open_channel(1)?;
    }
    peer.close()
}

fn access_request(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&method(1, (30, 10), Fields::new().short("/data").u8(0)))?;
    equal(&peer.expect((30, 11))?[4..], [0, 1], "ticket")?;
    peer.close()
}

fn flow_inactive(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&method(1, (20, 20), Fields::new().u8(1)))?;
    peer.expect((20, 21))?;
    peer.send(&method(1, (20, 20), Fields::new().u8(0)))?;
    peer.expect_close(540, "NOT_IMPLEMENTED - active=false")
}

fn prefetch_size(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&method(1, (60, 10), Fields::new().u32(1000).u16(0).u8(0)))?;
    peer.expect_close(540, "NOT_IMPLEMENTED - prefetch_size!=0 (1000)")
}

fn recover_without_requeue(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.send(&method(1, (60, 110), Fields::new().u8(0)))?;
    peer.expect_close(540, "NOT_IMPLEMENTED - requeue=false")
}

/// Checked before the message is routed, so also where it would go nowhere.
fn expiration_not_a_number(target: &Target) -> CheckResult {
    const EXPIRATION: u16 = 1 << 8;
    let mut peer = Peer::with_channel(target)?;
    let header = Fields::new()
        .u16(60)
        .u16(0)
        .u64(1)
        .u16(EXPIRATION)
        .short("soon");
    peer.send(&publish_method(1, "", "nowhere"))?;
    peer.send(&frame(2, 1, &header.0))?;
    peer.send(&frame(3, 1, b"x"))?;
    let (code, text) = peer.close_reason(CHANNEL_CLOSE)?;
    equal(code, 406, "code")?;
    let expected = "PRECONDITION_FAILED - invalid expiration 'soon': no_integer";
    equal(text.as_str(), expected, "text")?;
    peer.send(&method(1, (20, 41), Fields::new()))?;
    peer.close()
}

fn unknown_exchange_type(target: &Target) -> CheckResult {
    since(
        target,
        4,
        3,
        "an unknown exchange type closes the channel, not the connection",
    )?;
    let mut peer = Peer::with_channel(target)?;
    let name = unique("type");
    let arguments = Fields::new()
        .u16(0)
        .short(&name)
        .short("no-such-type")
        .u8(0)
        .u32(0);
    peer.send(&method(1, (40, 10), arguments))?;
    let text = "PRECONDITION_FAILED - unknown exchange type 'no-such-type'";
    equal(
        peer.close_reason(CHANNEL_CLOSE)?,
        (406, text.to_owned()),
        "channel.close",
    )
}

fn connection_close(target: &Target) -> CheckResult {
    let mut peer = Peer::with_channel(target)?;
    peer.open_channel(2)?;
    peer.close()
}
