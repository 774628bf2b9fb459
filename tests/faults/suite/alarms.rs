//! Memory and disk alarms: publishers wait, consumers do not, and all goes on afterwards.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lapin::Event;
use tokio::runtime::Runtime;

use crate::Context;
use crate::broker::Node;
use crate::client::{Client, Kind, event};
use crate::flood::Flood;
use crate::system;

/// For the alarm to be noticed or cleared.
const ALARM_LIMIT: Duration = Duration::from_secs(20);
/// `guest:guest`.
const LOGIN: &str = "Z3Vlc3Q6Z3Vlc3Q=";

/// The status and body of `GET /api/health/checks/alarms`.
pub(crate) fn health(node: &Node) -> Result<(u16, String)> {
    get(&node.address("http"), "/api/health/checks/alarms")
}

/// The status and body of a `GET`.
pub(crate) fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ALARM_LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\n\
         Authorization: Basic {LOGIN}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    Ok((
        status.context("no HTTP status")?,
        body.context("no HTTP body")?,
    ))
}

/// Waits until the health check answers with this status, and gives its body.
pub(crate) fn health_becomes(node: &Node, status: u16) -> Result<String> {
    let mut found = (0, String::new());
    system::until(&format!("health {status}"), ALARM_LIMIT, || {
        found = health(node)?;
        Ok(found.0 == status)
    })?;
    Ok(found.1)
}

fn is_blocked(event: &Event) -> bool {
    matches!(event, Event::ConnectionBlocked(_))
}

pub(crate) fn memory_alarm_blocks_publishers_alone(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let mut node = Node::new(context, "memory-alarm")?;
    node.set("WARREN_VM_MEMORY_HIGH_WATERMARK_ABSOLUTE", "150MiB");
    let running = node.start()?;
    ensure!(health(&node)?.0 == 200, "an alarm from the start");
    runtime.block_on(fill_and_empty_memory(&node))?;
    running.stop()
}

/// Messages of a queue without a log are in memory alone: enough of them raise the alarm.
async fn fill_and_empty_memory(node: &Node) -> Result<()> {
    const QUEUE: &str = "in-memory";
    const BODY_BYTES: usize = 64 << 10;
    /// Well over the limit of 150 MiB: the publisher must have been blocked before.
    const MESSAGES_MAX: u64 = 6_400;
    let publisher = Client::connect(&node.uri()).await?;
    publisher.declare(QUEUE, Kind::Transient).await?;
    let mut flood = Flood::start(&publisher, QUEUE, MESSAGES_MAX, BODY_BYTES);
    let reason = flood.blocked().await?;
    ensure!(reason == "low on memory", "blocked: {reason}");
    let body = health_becomes(node, 503)?;
    ensure!(body.contains("\"memory\""), "health says {body}");

    let consumer = Client::connect(&node.uri()).await?;
    let answers = flood.drain(&consumer, QUEUE).await?;
    ensure!(answers.refused.is_empty(), "refused: {:?}", answers.refused);
    let sent = answers.confirmed.len();
    health_becomes(node, 200)?;
    publisher.publish(QUEUE, b"again").await?;
    println!("blocked after {sent} messages of 64 KiB, unblocked when they were consumed");
    publisher.close().await?;
    consumer.close().await
}

pub(crate) fn disk_alarm_blocks_publishers_alone(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    const QUEUE: &str = "kept";
    let mut node = Node::new(context, "disk-alarm")?;
    let running = node.start()?;
    runtime.block_on(async {
        let client = Client::connect(&node.uri()).await?;
        client.declare(QUEUE, Kind::Durable).await?;
        for number in 0..100_u8 {
            client.publish(QUEUE, &[number]).await?;
        }
        client.close().await
    })?;
    running.stop()?;

    node.set("WARREN_DISK_FREE_LIMIT_ABSOLUTE", "1000TB");
    let running = node.start()?;
    let body = health_becomes(&node, 503)?;
    ensure!(body.contains("\"disk\""), "health says {body}");
    runtime.block_on(async {
        let publisher = Client::connect(&node.uri()).await?;
        let mut events = Box::pin(publisher.connection.events_listener());
        let waiting = publisher.send(QUEUE, b"too much").await?;
        let blocked = event("connection.blocked", &mut events, is_blocked).await?;
        ensure!(
            matches!(&blocked, Event::ConnectionBlocked(reason) if reason == "low on disk"),
            "{blocked:?}"
        );
        let consumer = Client::connect(&node.uri()).await?;
        let in_order = |number: u64, body: &[u8]| {
            ensure!(body == [number as u8], "found {body:?} as {number}");
            Ok(())
        };
        consumer.drain(QUEUE, 100, in_order).await?;
        drop(waiting);
        consumer.close().await
    })?;
    running.stop()?;

    node.set("WARREN_DISK_FREE_LIMIT_ABSOLUTE", "1MB");
    let running = node.start()?;
    ensure!(health(&node)?.0 == 200, "the alarm outlived its reason");
    runtime.block_on(async {
        let client = Client::connect(&node.uri()).await?;
        client.publish(QUEUE, b"again").await?;
        client.close().await
    })?;
    running.stop()
}
