//! Nothing is confirmed before the sync that covers it, as the kernel's calls tell.
//!
//! The page cache survives a kill, so a kill cannot show this.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use lapin::Confirmation;
use tokio::runtime::Runtime;

use crate::broker::Node;
use crate::client::{Client, Kind as Queue, answer};
use crate::trace::{self, Call, Kind};
use crate::{Context, Ignored, system};

const QUEUE: &str = "synced";
/// Messages that are published one by one, then messages that are under way together.
const ALONE: u64 = 100;
const TOGETHER: u64 = 400;
const WINDOW: u64 = 20;

pub(crate) fn no_confirm_before_sync(context: &Context, runtime: &Runtime) -> Result<()> {
    let calls = traced(context, runtime, "data")?;
    let syncs = confirms_follow_syncs(&calls, ALONE + TOGETHER)?;
    println!("{} confirms, {syncs} syncs", ALONE + TOGETHER);
    Ok(())
}

/// With `log.sync = "os"` nothing is synced: a judge that does not notice is no judge.
pub(crate) fn the_trace_tells_when_nothing_is_synced(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let calls = traced(context, runtime, "os")?;
    match confirms_follow_syncs(&calls, ALONE + TOGETHER) {
        Ok(syncs) => bail!("{syncs} syncs were found where none is asked for"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains("confirmed before a sync"), "{text}");
            Ok(())
        }
    }
}

/// Fails, as ignored, where strace is missing or may not trace.
pub(crate) fn can_trace() -> Result<()> {
    if !system::runs("strace", &["-V"]) {
        ensure!(
            std::env::var("CI").as_deref() != Ok("true"),
            "strace is missing, and CI=true"
        );
        return Err(Ignored("strace is missing".to_owned()).into());
    }
    if !system::runs("strace", &["-f", "-o", "/dev/null", "true"]) {
        return Err(Ignored("this machine does not let strace trace".to_owned()).into());
    }
    Ok(())
}

/// The calls of a node while it is published to.
fn traced(context: &Context, runtime: &Runtime, sync: &str) -> Result<Vec<Call>> {
    can_trace()?;
    let mut node = Node::new(context, "traced")?;
    node.set("WARREN_LOG_SYNC", sync);
    let output = node.folder().join("trace");
    let path = output.to_str().context("a folder that is no text")?;
    let mut program = vec!["strace"];
    program.extend(trace::FLAGS);
    program.extend(["-o", path]);
    node.run_under(&program);
    let running = node.start()?;
    runtime.block_on(publish_all(&node))?;
    running.stop()?;
    Ok(trace::parse(&fs::read_to_string(&output)?))
}

fn body(number: u64) -> String {
    format!("<synced message {number:06}>")
}

/// Publishes the messages 1 and on; their numbers are their delivery tags.
async fn publish_all(node: &Node) -> Result<()> {
    let client = Client::connect(&node.uri()).await?;
    client.declare(QUEUE, Queue::Durable).await?;
    let mut number = 0;
    while number < ALONE {
        number += 1;
        client.publish(QUEUE, body(number).as_bytes()).await?;
    }
    while number < ALONE + TOGETHER {
        let mut confirms = Vec::new();
        for _ in 0..WINDOW {
            number += 1;
            confirms.push(client.send(QUEUE, body(number).as_bytes()).await?);
        }
        for confirm in confirms {
            let confirmed = answer("a confirm", confirm).await?;
            ensure!(confirmed == Confirmation::Ack(None), "{confirmed:?}");
        }
    }
    client.close().await
}

/// A confirm in what was written to a socket.
struct Confirm {
    at: usize,
    tag: u64,
    multiple: bool,
}

/// For each message: a sync of the file that it was written to began after the write and ended
/// before its confirm was sent. Gives the number of syncs.
fn confirms_follow_syncs(calls: &[Call], messages: u64) -> Result<usize> {
    let confirms: Vec<Confirm> = calls.iter().flat_map(confirms_in).collect();
    let syncs: Vec<&Call> = calls.iter().filter(|c| c.kind == Kind::Sync).collect();
    let files = |call: &&Call| call.kind == Kind::Write && !call.target.starts_with("TCP");
    for number in 1..=messages {
        let marker = body(number);
        let write = calls
            .iter()
            .filter(files)
            .find(|call| contains(&call.data, marker.as_bytes()))
            .with_context(|| format!("message {number} was not written"))?;
        let covers = |confirm: &&Confirm| match confirm.multiple {
            true => confirm.tag >= number,
            false => confirm.tag == number,
        };
        let confirm = confirms.iter().find(covers);
        let confirm = confirm.with_context(|| format!("message {number} was not confirmed"))?;
        let synced = syncs.iter().any(|sync| {
            sync.target == write.target && sync.begin > write.end && sync.end < confirm.at
        });
        ensure!(
            synced,
            "message {number} was written at line {} and confirmed before a sync, at line {}",
            write.begin + 1,
            confirm.at + 1
        );
    }
    Ok(syncs.len())
}

fn contains(data: &[u8], wanted: &[u8]) -> bool {
    data.windows(wanted.len()).any(|part| part == wanted)
}

/// The basic.ack frames of a write to a client.
fn confirms_in(call: &Call) -> Vec<Confirm> {
    /// Length 13, class basic, method ack; then the tag and whether it is for all up to it.
    const HEAD: &[u8] = &[0, 0, 0, 13, 0, 60, 0, 80];
    if call.kind != Kind::Write || !call.target.starts_with("TCP") {
        return Vec::new();
    }
    let frames = call.data.windows(HEAD.len() + 9);
    let acks = frames.filter_map(|part| part.strip_prefix(HEAD));
    acks.filter_map(|arguments| {
        let (tag, multiple) = arguments.split_first_chunk()?;
        Some(Confirm {
            at: call.begin,
            tag: u64::from_be_bytes(*tag),
            multiple: multiple.first() == Some(&1),
        })
    })
    .collect()
}
