//! A disk that fills up: publishers are held or refused, consumers go on, and nothing that was
//! confirmed is lost.
//!
//! The disk is a small tmpfs; where none may be mounted these tests are ignored.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use lapin::Confirmation;
use tokio::runtime::Runtime;

use crate::alarms::health_becomes;
use crate::broker::Node;
use crate::client::{Client, Kind, answer};
use crate::flood::{Answers, Flood, body, number_of};
use crate::{Context, Ignored};

const QUEUE: &str = "filling";
const DISK_BYTES: u64 = 96 << 20;
const BODY_BYTES: usize = 16 << 10;
/// More than the disk has room for.
const MESSAGES_MAX: u64 = 2 * DISK_BYTES / BODY_BYTES as u64;
/// For publishing to go on once there is room.
const ROOM_LIMIT: Duration = Duration::from_secs(30);
/// Messages under way together.
const WINDOW: u64 = 32;

/// A mounted file system of a fixed size.
pub(crate) struct SmallDisk(pub(crate) PathBuf);

impl SmallDisk {
    pub(crate) fn mount(path: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(path)?;
        let size = format!("size={bytes}");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(path)
            .output();
        match output {
            Ok(output) if output.status.success() => Ok(Self(path.to_owned())),
            Ok(output) => {
                let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(Ignored(format!("a tmpfs cannot be mounted: {reason}")).into())
            }
            Err(error) => Err(Ignored(format!("mount cannot be run: {error}")).into()),
        }
    }
}

impl SmallDisk {
    /// Somebody else takes all but `left` bytes.
    pub(crate) fn take_all_but(&self, left: u64) -> Result<()> {
        let mut ballast = File::create(self.0.join("ballast"))?;
        let piece = vec![0; 64 << 10];
        // Until there is no more: nobody says how much there is.
        let full = loop {
            if let Err(error) = ballast.write_all(&piece) {
                break error;
            }
        };
        ensure!(full.kind() == ErrorKind::StorageFull, "ballast: {full}");
        let taken = ballast.metadata()?.len();
        let kept = taken.saturating_sub(left);
        Ok(ballast.set_len(kept)?)
    }

    /// Doubles its size.
    fn enlarge(&self) -> Result<()> {
        let size = format!("remount,size={}", 2 * DISK_BYTES);
        let status = Command::new("mount")
            .args(["-o", &size])
            .arg(&self.0)
            .status()?;
        ensure!(status.success(), "cannot remount: {status}");
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of a failed test may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A node with its data on a small disk, to be dropped when the node has ended.
fn node_on_small_disk(
    context: &Context,
    name: &str,
    free_limit: &str,
) -> Result<(Node, SmallDisk)> {
    let mut node = Node::new(context, name)?;
    let disk = SmallDisk::mount(&node.folder().join("disk"), DISK_BYTES)?;
    node.keep_data_in(disk.0.join("data"));
    node.set("WARREN_DISK_FREE_LIMIT_ABSOLUTE", free_limit);
    node.set("WARREN_LOG_SEGMENT_BYTES", "4MiB");
    Ok((node, disk))
}

pub(crate) fn disk_alarm_comes_before_the_disk_is_full(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let (node, disk) = node_on_small_disk(context, "disk-limit", "32MiB")?;
    let running = node.start()?;
    runtime.block_on(fill_until_blocked_and_drain(&node))?;
    running.kill()?;
    let running = node.start()?;
    runtime.block_on(async {
        let client = Client::connect(&node.uri()).await?;
        client.must_hold(QUEUE, 1).await?;
        client.close().await
    })?;
    running.stop()?;
    drop(disk);
    Ok(())
}

async fn fill_until_blocked_and_drain(node: &Node) -> Result<()> {
    let publisher = Client::connect(&node.uri()).await?;
    publisher.declare(QUEUE, Kind::Durable).await?;
    let mut flood = Flood::start(&publisher, QUEUE, MESSAGES_MAX, BODY_BYTES);
    let reason = flood.blocked().await?;
    ensure!(reason == "low on disk", "blocked: {reason}");
    health_becomes(node, 503)?;
    let consumer = Client::connect(&node.uri()).await?;
    // The last ones may find no room before the alarm is told.
    let answers = flood.drain(&consumer, QUEUE).await?;
    health_becomes(node, 200)?;
    publisher.publish(QUEUE, b"again").await?;
    println!(
        "blocked after {} messages of 16 KiB, {} refused, unblocked when they were consumed",
        answers.confirmed.len(),
        answers.refused.len()
    );
    publisher.close().await?;
    consumer.close().await
}

pub(crate) fn full_disk_refuses_and_loses_nothing(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    // Without a limit there is no alarm: the disk really fills.
    let (node, disk) = node_on_small_disk(context, "full-disk", "0")?;
    let mut running = node.start()?;
    let answers = runtime.block_on(fill(&node))?;
    running.must_run()?;
    runtime.block_on(drain_and_go_on(&node, &answers))?;
    running.must_run()?;
    running.stop()?;
    drop(disk);
    Ok(())
}

pub(crate) fn kill_on_a_full_disk_loses_nothing(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let (node, disk) = node_on_small_disk(context, "full-disk-kill", "0")?;
    let running = node.start()?;
    let answers = runtime.block_on(fill(&node))?;
    running.kill()?;
    // Whether it starts on a full disk is open; what it does must not harm what it holds.
    match node.start() {
        Ok(running) => running.kill()?,
        Err(error) => println!("on a full disk: {error:#}"),
    }
    disk.enlarge()?;
    let running = node.start()?;
    runtime.block_on(drain_and_go_on(&node, &answers))?;
    running.stop()?;
    drop(disk);
    Ok(())
}

/// Publishes until a whole window is refused.
async fn fill(node: &Node) -> Result<Answers> {
    let client = Client::connect(&node.uri()).await?;
    client.declare(QUEUE, Kind::Durable).await?;
    let mut answers = Answers::default();
    let mut number = 0;
    while number < MESSAGES_MAX {
        let mut confirms = Vec::new();
        for _ in 0..WINDOW {
            confirms.push((number, client.send(QUEUE, &body(number, BODY_BYTES)).await?));
            number += 1;
        }
        let before = answers.confirmed.len();
        for (number, confirm) in confirms {
            answers.take(number, confirm).await?;
        }
        if answers.confirmed.len() == before {
            return Ok(answers);
        }
    }
    bail!("a disk of {DISK_BYTES} bytes took {number} messages")
}

async fn drain_and_go_on(node: &Node, answers: &Answers) -> Result<()> {
    let client = Client::connect(&node.uri()).await?;
    let held = u64::from(client.declare(QUEUE, Kind::Passive).await?);
    let mut found = Vec::new();
    let keep = |_: u64, body: &[u8]| {
        found.push(number_of(body));
        Ok(())
    };
    client.drain(QUEUE, held, keep).await?;
    answers.must_be(&found)?;
    println!(
        "full disk: {} confirmed, {} refused, {held} found",
        answers.confirmed.len(),
        answers.refused.len()
    );
    let begin = Instant::now();
    loop {
        let confirm = client.send(QUEUE, &body(0, BODY_BYTES)).await?;
        match answer("an ack or a nack", confirm).await? {
            Confirmation::Ack(None) => break,
            Confirmation::Nack(_) => {
                ensure!(begin.elapsed() < ROOM_LIMIT, "no room after draining");
                // tidy: allow sleep: between two tries
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => bail!("{other:?}"),
        }
    }
    client.close().await
}
