//! Many messages: restarts, memory and disk stay small.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime;

use crate::Context;
use crate::broker::Node;
use crate::client::{Client, Kind};
use crate::perf::Perf;
use crate::system::{self, mib};

/// For a load with its end: bounds a test, decides nothing.
const LOAD_LIMIT: Duration = Duration::from_secs(900);

/// The low 40 bits of a body of `warren perf` are the message's number in its stream.
fn sequence(body: &[u8]) -> Result<u64> {
    let packed = body.first_chunk().context("a body without a stamp")?;
    Ok(u64::from_be_bytes(*packed) & ((1 << 40) - 1))
}

pub(crate) fn restart_with_backlog(context: &Context, runtime: &Runtime) -> Result<()> {
    const QUEUE: &str = "backlog-0";
    let messages: u64 = context.choose(100_000, 1_000_000);
    let node = Node::new(context, "backlog")?;
    let running = node.start()?;
    let flags = format!(
        "--messages {messages} --consumers 0 --size 1k --durable --persistent --confirm 2000 \
         --prefix backlog --keep"
    );
    let load = Perf::start(&node, "throughput", &flags)?.wait(LOAD_LIMIT)?;
    ensure!(load.count("confirmed")? == messages, "not all is confirmed");
    running.kill()?;
    let running = node.start()?;
    println!(
        "{messages} messages: ready {:.2} s after a kill, VmHWM {}, {} on disk",
        running.ready_after.as_secs_f64(),
        mib(running.memory_peak_bytes()?),
        mib(node.disk_bytes()?),
    );
    runtime.block_on(drain_in_order(&node, QUEUE, messages))?;
    running.stop()?;
    let running = node.start()?;
    println!(
        "emptied: ready {:.2} s after a stop",
        running.ready_after.as_secs_f64()
    );
    runtime.block_on(async {
        let client = Client::connect(&node.uri()).await?;
        client.must_hold(QUEUE, 0).await?;
        client.close().await
    })?;
    running.stop()
}

async fn drain_in_order(node: &Node, queue: &str, messages: u64) -> Result<()> {
    let client = Client::connect(&node.uri()).await?;
    client.must_hold(queue, messages).await?;
    let in_order = |number: u64, body: &[u8]| {
        let found = sequence(body)?;
        ensure!(found == number, "message {found} in place of {number}");
        Ok(())
    };
    client.drain(queue, messages, in_order).await?;
    client.must_hold(queue, 0).await?;
    client.close().await
}

pub(crate) fn backlog_beyond_memory(context: &Context, _: &Runtime) -> Result<()> {
    let messages: u64 = context.choose(600_000, 5_000_000);
    let limit: u64 = context.choose(384 << 20, 1 << 30);
    let mut node = Node::new(context, "beyond-memory")?;
    node.set(
        "WARREN_VM_MEMORY_HIGH_WATERMARK_ABSOLUTE",
        limit.to_string(),
    );
    let running = node.start()?;
    let flags = format!(
        "--messages {messages} --size 1k --durable --persistent --confirm 2000 --check \
         --ack multiple:100 --prefetch 500 --patience 30"
    );
    let load = Perf::start(&node, "backlog", &flags)?.wait(LOAD_LIMIT)?;
    let peak = running.memory_peak_bytes()?;
    println!(
        "{messages} messages of 1 KiB, limit {}: VmHWM {}, published in {:.1} s, drained in \
         {:.1} s, blocked {} times, {} on disk in the end",
        mib(limit),
        mib(peak),
        load.figure("publish_phase", "seconds"),
        load.figure("drain_phase", "seconds"),
        load.count("blocked")?,
        mib(node.disk_bytes()?),
    );
    ensure!(load.count("received")? == messages, "not all was received");
    ensure!(peak < limit, "resident memory reached {}", mib(peak));
    running.stop()
}

pub(crate) fn one_old_message_does_not_pin_the_disk(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    const BODY_BYTES: u64 = 16 << 10;
    let pumped: u64 = context.choose(1 << 30, 20 << 30);
    let limit: u64 = context.choose(512 << 20, 1 << 30);
    let mut node = Node::new(context, "old-message")?;
    node.set("WARREN_CLUSTER_SHARDS", "1");
    let running = node.start()?;
    let (client, held) = runtime.block_on(async {
        let client = Client::connect(&node.uri()).await?;
        client.declare("old", Kind::Durable).await?;
        client.publish("old", b"the old one").await?;
        let held = client.get("old").await?.context("no message to hold")?;
        anyhow::Ok((client, held))
    })?;
    // Slower than the machine is: what consumers are behind by lives, and would be measured too.
    let flags = format!(
        "--messages {} --size {BODY_BYTES} --durable --persistent --confirm 500 --check \
         --ack multiple:50 --prefetch 500 --patience 30 --rate 10000",
        pumped / BODY_BYTES
    );
    let mut load = Perf::start(&node, "throughput", &flags)?;
    let mut largest = 0;
    system::until("the pump to end", LOAD_LIMIT, || {
        largest = largest.max(node.disk_bytes()?);
        Ok(!load.is_running()?)
    })?;
    load.wait(LOAD_LIMIT)?;
    println!(
        "{} pumped past an old message: at most {} on disk, {} in the end, VmHWM {}",
        mib(pumped),
        mib(largest),
        mib(node.disk_bytes()?),
        mib(running.memory_peak_bytes()?),
    );
    ensure!(largest < limit, "the data took {} of disk", mib(largest));
    drop(held);
    runtime.block_on(client.close())?;
    // Also a restart must find it where it has been moved to.
    running.kill()?;
    let running = node.start()?;
    runtime.block_on(async {
        let client = Client::connect(&node.uri()).await?;
        let found = client
            .get("old")
            .await?
            .context("the old message is gone")?;
        ensure!(found.data == b"the old one", "found {:?}", found.data);
        ensure!(found.redelivered, "it was delivered before");
        client.close().await
    })?;
    running.stop()
}
