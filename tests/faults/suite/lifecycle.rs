//! How a node stops.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_lite::Stream;
use lapin::{ErrorKind, Event};
use tokio::runtime::Runtime;

use crate::Context;
use crate::broker::Node;
use crate::client::{Client, Kind, event};

const PEER_LIMIT: Duration = Duration::from_secs(20);
/// Exit code of a stop that a second signal cut short.
const INTERRUPTED: i32 = 130;

pub(crate) fn sigterm_tells_clients_and_exits_with_0(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let node = Node::new(context, "sigterm")?;
    let running = node.start()?;
    let clients = runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(Client::connect(&node.uri()).await?);
        }
        clients[0].declare("q", Kind::Durable).await?;
        clients[0].publish("q", b"kept").await?;
        anyhow::Ok(clients)
    })?;
    let mut events = Box::pin(clients[0].connection.events_listener());
    let begin = Instant::now();
    running.signal(libc::SIGTERM)?;
    runtime.block_on(must_be_forced(&mut events))?;
    let status = running.wait()?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    println!(
        "stopped {:.2} s after SIGTERM",
        begin.elapsed().as_secs_f64()
    );
    drop(events);
    drop(clients);
    let running = node.start()?;
    runtime.block_on(async {
        let client = Client::connect(&node.uri()).await?;
        client.must_hold("q", 1).await?;
        client.close().await
    })?;
    running.stop()
}

/// Waits for the broker's close of a connection, which must be 320.
pub(crate) async fn must_be_forced(events: &mut (impl Stream<Item = Event> + Unpin)) -> Result<()> {
    let is_close = |event: &Event| matches!(event, Event::Error(_));
    let told = event("the broker's close", events, is_close).await?;
    let Event::Error(error) = &told else {
        bail!("{told:?}");
    };
    let reason = match error.kind() {
        ErrorKind::ProtocolError(reason) => (reason.get_id(), reason.get_message().to_string()),
        other => bail!("closed without a reason: {other:?}"),
    };
    ensure!(reason.0 == 320, "closed with {reason:?}");
    ensure!(reason.1.starts_with("CONNECTION_FORCED"), "{reason:?}");
    Ok(())
}

pub(crate) fn second_signal_exits_at_once(context: &Context, _: &Runtime) -> Result<()> {
    let mut node = Node::new(context, "second-signal")?;
    // Only the second signal can end it in the time that this test waits.
    node.set("WARREN_SHUTDOWN_TIMEOUT", "600000");
    let running = node.start()?;
    let mut peer = mute_peer(&node.address("amqp"))?;
    running.signal(libc::SIGTERM)?;
    read_until(&mut peer, b"CONNECTION_FORCED")?;
    running.signal(libc::SIGTERM)?;
    let status = running.wait()?;
    ensure!(status.code() == Some(INTERRUPTED), "it ended with {status}");
    Ok(())
}

/// A method frame on channel 0.
fn method(class: u16, id: u16, arguments: &[u8]) -> Vec<u8> {
    let length = u32::try_from(arguments.len() + 4).expect("arguments are short");
    let mut frame = vec![1, 0, 0];
    frame.extend(length.to_be_bytes());
    frame.extend(class.to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend(arguments);
    frame.push(206);
    frame
}

/// A client that opens a connection and then answers nothing, not even a close.
fn mute_peer(address: &str) -> Result<TcpStream> {
    const CONNECTION_OPEN_OK: &[u8] = &[0, 10, 0, 41];
    let mut peer = TcpStream::connect(address)?;
    peer.set_read_timeout(Some(PEER_LIMIT))?;
    peer.write_all(b"AMQP\x00\x00\x09\x01")?;
    // start-ok: no properties, PLAIN, the login, en_US; tune-ok: 0 channels is no limit; open "/".
    let start_ok = b"\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x0c\x00guest\x00guest\x05en_US";
    peer.write_all(&method(10, 11, start_ok))?;
    read_until(&mut peer, &[0, 10, 0, 30])?;
    let mut tune_ok = 2047_u16.to_be_bytes().to_vec();
    tune_ok.extend(131_072_u32.to_be_bytes());
    tune_ok.extend(0_u16.to_be_bytes());
    peer.write_all(&method(10, 31, &tune_ok))?;
    peer.write_all(&method(10, 40, b"\x01/\x00\x00"))?;
    read_until(&mut peer, CONNECTION_OPEN_OK)?;
    Ok(peer)
}

/// Reads until these bytes have come.
fn read_until(peer: &mut TcpStream, wanted: &[u8]) -> Result<()> {
    let mut seen: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.windows(wanted.len()).any(|part| part == wanted) {
        let count = peer.read(&mut buffer).context("waiting for an answer")?;
        ensure!(count > 0, "closed before {wanted:?}: {seen:?}");
        seen.extend(&buffer[..count]);
    }
    Ok(())
}
