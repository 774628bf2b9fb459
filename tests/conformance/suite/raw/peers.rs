//! Peers that are slow, silent or gone.

use std::time::{Duration, Instant};

use super::wire::{Fields, HEARTBEAT, PASSIVE, Peer, Target, declare, method, publish};
use super::{Check, checks};
use crate::outcome::{CheckResult, Stop, ensure, equal};

pub(super) const CHECKS: &[(&str, Check)] = checks![
    heartbeats_are_sent,
    silent_peer_is_dropped,
    never_reads,
    gone_without_a_word
];

/// How long the queue may take to get back what a lost connection held.
const RETURN_LIMIT: Duration = Duration::from_secs(10);

fn heartbeats_are_sent(target: &Target) -> CheckResult {
    let mut peer = Peer::tuned(target, (2047, 131_072, 1))?;
    let started = Instant::now();
    for _ in 0..3 {
        let frame = peer
            .read_frame()?
            .ok_or_else(|| Stop::Failed("closed".to_owned()))?;
        equal(
            (frame.kind, frame.channel, frame.payload.len()),
            (HEARTBEAT, 0, 0),
            "frame",
        )?;
        peer.send(&super::wire::frame(HEARTBEAT, 0, b""))?;
    }
    let took = started.elapsed();
    ensure(
        took < Duration::from_secs(6),
        format!("three heartbeats of 1 s took {took:?}"),
    )?;
    peer.close()
}

/// Missed heartbeats (twice the interval) end the connection.
fn silent_peer_is_dropped(target: &Target) -> CheckResult {
    let mut peer = Peer::tuned(target, (2047, 131_072, 1))?;
    let started = Instant::now();
    while let Some(frame) = peer.read_frame()? {
        ensure(frame.kind == HEARTBEAT, format!("frame {frame:?}"))?;
    }
    let took = started.elapsed();
    ensure(
        took > Duration::from_millis(900),
        format!("dropped after only {took:?}"),
    )?;
    ensure(
        took < Duration::from_secs(12),
        format!("dropped only after {took:?}"),
    )
}

/// A consumer that reads nothing is sent no more than fits; nobody else waits for it.
fn never_reads(target: &Target) -> CheckResult {
    const MESSAGES: u32 = 400;
    let queue = format!("conf.raw.never_reads.{:x}", std::process::id());
    let mut worker = Peer::with_channel(target)?;
    worker.send(&declare(1, &queue, 0, b""))?;
    worker.expect((50, 11))?;
    let mut deaf = Peer::with_channel(target)?;
    let consume = Fields::new()
        .u16(0)
        .short(&queue)
        .short("deaf")
        .u8(0)
        .u32(0);
    deaf.send(&method(1, (60, 20), consume))?;
    deaf.expect((60, 21))?;
    let body = vec![b'x'; 100_000];
    for _ in 0..MESSAGES {
        worker.send(&publish(1, "", &queue, &body))?;
    }
    // Another queue on the same connection goes on working while the deaf one is stuck.
    let other = format!("{queue}.other");
    worker.send(&declare(1, &other, 4, b""))?;
    worker.expect((50, 11))?;
    worker.send(&publish(1, "", &other, b"hello"))?;
    get_one(&mut worker, &other)?;
    drop(deaf);
    let result = wait_for_count(&mut worker, &queue, MESSAGES);
    worker.send(&method(
        1,
        (50, 40),
        Fields::new().u16(0).short(&queue).u8(0),
    ))?;
    worker.expect((50, 41))?;
    result?;
    worker.close()
}

/// A message from the queue, asked for until it is there.
fn get_one(peer: &mut Peer, queue: &str) -> CheckResult {
    let deadline = Instant::now() + RETURN_LIMIT;
    while Instant::now() < deadline {
        peer.send(&method(
            1,
            (60, 70),
            Fields::new().u16(0).short(queue).u8(1),
        ))?;
        let answer = peer
            .next()?
            .ok_or_else(|| Stop::Failed("closed".to_owned()))?;
        match answer.id() {
            Some((60, 71)) => {
                peer.next()?;
                let body = peer
                    .next()?
                    .ok_or_else(|| Stop::Failed("closed".to_owned()))?;
                return equal(body.payload.as_slice(), b"hello".as_slice(), "body");
            }
            Some((60, 72)) => {}
            other => return Err(Stop::Failed(format!("basic.get answered by {other:?}"))),
        }
    }
    Err(Stop::Failed(format!(
        "waited {RETURN_LIMIT:?} for a message in {queue}"
    )))
}

/// Waits until so many messages are ready.
fn wait_for_count(peer: &mut Peer, queue: &str, count: u32) -> CheckResult {
    let deadline = Instant::now() + RETURN_LIMIT;
    let mut found = 0;
    while Instant::now() < deadline {
        peer.send(&declare(1, queue, PASSIVE, b""))?;
        let ok = peer.expect((50, 11))?;
        let at = 5 + queue.len();
        found = u32::from_be_bytes([ok[at], ok[at + 1], ok[at + 2], ok[at + 3]]);
        if found == count {
            return Ok(());
        }
    }
    Err(Stop::Failed(format!(
        "waited {RETURN_LIMIT:?} for {count} messages, {found} are there"
    )))
}

/// A socket that goes away with a message out: the message comes back.
fn gone_without_a_word(target: &Target) -> CheckResult {
    let queue = format!("conf.raw.gone.{:x}", std::process::id());
    let mut worker = Peer::with_channel(target)?;
    worker.send(&declare(1, &queue, 0, b""))?;
    worker.expect((50, 11))?;
    worker.send(&publish(1, "", &queue, b"hello"))?;
    let mut taker = Peer::with_channel(target)?;
    let get = method(1, (60, 70), Fields::new().u16(0).short(&queue).u8(0));
    wait_for_count(&mut worker, &queue, 1)?;
    taker.send(&get)?;
    taker.expect((60, 71))?;
    wait_for_count(&mut worker, &queue, 0)?;
    drop(taker);
    let result = wait_for_count(&mut worker, &queue, 1);
    worker.send(&method(
        1,
        (50, 40),
        Fields::new().u16(0).short(&queue).u8(0),
    ))?;
    worker.expect((50, 41))?;
    result?;
    worker.close()
}
