//! A failed sync stops the node: after one, the page cache no longer tells what is on disk.
//!
//! strace makes one fdatasync fail. What was confirmed before is there after a restart.

use anyhow::{Result, ensure};
use lapin::Confirmation;
use tokio::runtime::Runtime;

use crate::Context;
use crate::broker::Node;
use crate::client::{Client, Kind, answer};
use crate::flood::{body, number_of};
use crate::folder::tail;
use crate::sync_order::can_trace;

const QUEUE: &str = "unsynced";
const BODY_BYTES: usize = 64;
/// The sync that fails, beyond those of a start: one of the thread's first, one of its later ones.
const FAILING: [u64; 2] = [20, 300];
/// Messages that need a sync each: more than there are before the failure.
const MESSAGES: u64 = 1_000;

pub(crate) fn failed_sync_stops_the_node(context: &Context, runtime: &Runtime) -> Result<()> {
    can_trace()?;
    for failing in FAILING {
        let mut node = Node::new(context, "failed-sync")?;
        let inject = format!("inject=fdatasync:error=EIO:when={failing}");
        let trace = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync"];
        node.run_under(&[&trace[..], &["-e", &inject]].concat());
        let running = node.start()?;
        let confirmed = runtime.block_on(publish_until_it_stops(&node))?;
        let status = running.wait()?;
        ensure!(!status.success(), "it ended with {status}");
        let log = tail(&node.log_path());
        ensure!(
            log.contains("os error 5"),
            "the log does not say why: {log}"
        );

        node.run_under(&[]);
        let running = node.start()?;
        runtime.block_on(find(&node, confirmed))?;
        running.stop()?;
        println!("sync {failing} failed: stopped with {status}, {confirmed} confirmed before");
    }
    Ok(())
}

/// Publishes one message after the other; gives the number of those that were confirmed.
async fn publish_until_it_stops(node: &Node) -> Result<u64> {
    let client = Client::connect(&node.uri()).await?;
    client.declare(QUEUE, Kind::Durable).await?;
    for number in 0..MESSAGES {
        let Ok(confirm) = client.send(QUEUE, &body(number, BODY_BYTES)).await else {
            return Ok(number);
        };
        match answer("a confirm", confirm).await {
            Ok(confirmed) => ensure!(confirmed == Confirmation::Ack(None), "{confirmed:?}"),
            Err(_) => return Ok(number),
        }
    }
    anyhow::bail!("the node went on after a failed sync")
}

/// All that was confirmed is there, in order, and at most the one that was under way besides.
async fn find(node: &Node, confirmed: u64) -> Result<()> {
    let client = Client::connect(&node.uri()).await?;
    let held = u64::from(client.declare(QUEUE, Kind::Passive).await?);
    ensure!(
        (confirmed..=confirmed + 1).contains(&held),
        "{confirmed} confirmed, {held} there"
    );
    let in_order = |number: u64, body: &[u8]| {
        let found = number_of(body);
        ensure!(found == number, "message {found} in place of {number}");
        Ok(())
    };
    client.drain(QUEUE, held, in_order).await?;
    client.close().await
}
