//! Disks that hang, and disks that are full, below one node of three.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lapin::Confirmation;
use tokio::runtime::Runtime;

use super::{Cluster, survive};
use crate::Context;
use crate::Ignored;
use crate::broker::Node;
use crate::client::{Client, Kind, answer};
use crate::flood::{Answers, body, number_of};
use crate::folder::Folder;
use crate::full_disk::SmallDisk;
use crate::system::POLL;

const IMAGE_BYTES: u64 = 1 << 30;
/// Of the disk that is filled.
const DISK_BYTES: u64 = 160 << 20;
const BODY_BYTES: usize = 16 << 10;
/// For checkpoints, when the disk is full.
const LEFT_BYTES: u64 = 1 << 20;
/// More than the disk has room for.
const MESSAGES_MAX: u64 = 2 * DISK_BYTES / BODY_BYTES as u64;
/// Over all shards.
const QUEUES: u64 = 12;
/// Messages under way together.
const WINDOW: u64 = 32;
/// For publishing to go on once there is room.
const ROOM_LIMIT: Duration = Duration::from_secs(60);

/// An ext4 in a file, which can be made to hang.
struct HangingDisk {
    mounted: PathBuf,
    /// Removed when it is not mounted any more.
    _folder: Folder,
}

impl HangingDisk {
    fn mount() -> Result<Self> {
        let folder = Folder::new("hanging-disk")?;
        let image = folder.path().join("image");
        let mounted = folder.path().join("disk");
        File::create(&image)?.set_len(IMAGE_BYTES)?;
        std::fs::create_dir_all(&mounted)?;
        let run = |program: &str, arguments: &[&Path]| {
            let output = Command::new(program).args(arguments).output();
            let reason = match output {
                Ok(output) if output.status.success() => return Ok(()),
                Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => error.to_string(),
            };
            anyhow::Ok(Err(Ignored(format!(
                "no ext4 in a file: {program}: {reason}"
            )))?)
        };
        run("mkfs.ext4", &[Path::new("-q"), &image])?;
        run(
            "mount",
            &[Path::new("-o"), Path::new("loop"), &image, &mounted],
        )?;
        let disk = Self {
            mounted,
            _folder: folder,
        };
        // One that cannot be frozen is of no use here.
        if disk.freeze().is_err() || disk.thaw().is_err() {
            return Err(Ignored("fsfreeze does not work here".to_owned()).into());
        }
        Ok(disk)
    }

    /// Writes and syncs do not return from here on.
    fn freeze(&self) -> Result<()> {
        self.fsfreeze("--freeze")
    }

    fn thaw(&self) -> Result<()> {
        self.fsfreeze("--unfreeze")
    }

    fn fsfreeze(&self, flag: &str) -> Result<()> {
        let status = Command::new("fsfreeze")
            .arg(flag)
            .arg(&self.mounted)
            .output()?;
        let said = String::from_utf8_lossy(&status.stderr);
        ensure!(status.status.success(), "fsfreeze: {}", said.trim());
        Ok(())
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        // It is thawed already unless a test failed. Lazily: files of its node may be open.
        let _ = self.thaw();
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}

pub(crate) fn cluster_hung_disk(context: &Context, runtime: &Runtime) -> Result<()> {
    let victim = 1;
    let mut disk = None;
    let mut cluster = Cluster::start(context, "cluster-hang", |at, node| {
        if at == victim {
            let mounted = HangingDisk::mount()?;
            node.keep_data_in(mounted.mounted.join("data"));
            disk = Some(mounted);
        }
        Ok(())
    })?;
    let disk = disk.context("the disk is mounted")?;
    for _ in 0..context.rounds(1, 3) {
        let tally = runtime.block_on(survive(
            &mut cluster,
            "hung disk",
            victim,
            async |_| {
                disk.freeze()?;
                Ok(Instant::now())
            },
            |_| disk.thaw(),
        ))?;
        println!("{} confirmed", tally.confirmed);
    }
    cluster.stop()
}

pub(crate) fn cluster_full_disk(context: &Context, runtime: &Runtime) -> Result<()> {
    let victim = 1;
    // Removed when nothing is mounted in it any more.
    let folder = Folder::new("small-disk")?;
    let mut disk = None;
    let mut cluster = Cluster::start(context, "cluster-full", |at, node| {
        node.set("WARREN_LOG_SEGMENT_BYTES", "4MiB");
        // Without a limit there is no alarm: the disk really fills.
        node.set("WARREN_DISK_FREE_LIMIT_ABSOLUTE", "0");
        if at == victim {
            let mounted = SmallDisk::mount(&folder.path().join("disk"), DISK_BYTES)?;
            node.keep_data_in(mounted.0.join("data"));
            disk = Some(mounted);
        }
        Ok(())
    })?;
    let disk = disk.context("the disk is mounted")?;
    for round in 0..context.rounds(1, 3) {
        // Through another node, whose own disk has room.
        let answers = runtime.block_on(fill(&cluster.nodes[0], round))?;
        // Not even a segment finds room from here on, until something is consumed.
        disk.take_all_but(LEFT_BYTES)?;
        for running in cluster.running.iter_mut().flatten() {
            running.must_run()?;
        }
        runtime.block_on(drain_and_go_on(&cluster.nodes[2], round, &answers))?;
        cluster.settle()?;
    }
    cluster.stop()?;
    drop(disk);
    Ok(())
}

fn queue(round: u64, number: u64) -> String {
    format!("filling-{round}-{}", number % QUEUES)
}

/// Publishes until a whole window is refused, by leaders on any node.
async fn fill(node: &Node, round: u64) -> Result<Answers> {
    let client = Client::connect(&node.uri()).await?;
    for number in 0..QUEUES {
        client.declare(&queue(round, number), Kind::Durable).await?;
    }
    let mut answers = Answers::default();
    let mut number = 0;
    while number < MESSAGES_MAX {
        let mut confirms = Vec::new();
        for _ in 0..WINDOW {
            let body = body(number, BODY_BYTES);
            confirms.push((number, client.send(&queue(round, number), &body).await?));
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

async fn drain_and_go_on(node: &Node, round: u64, answers: &Answers) -> Result<()> {
    let client = Client::connect(&node.uri()).await?;
    let mut all = Vec::new();
    for at in 0..QUEUES {
        let queue = queue(round, at);
        let held = u64::from(client.declare(&queue, Kind::Passive).await?);
        let mut found = Vec::new();
        let keep = |_: u64, body: &[u8]| {
            found.push(number_of(body));
            Ok(())
        };
        client.drain(&queue, held, keep).await?;
        ensure!(found.is_sorted(), "'{queue}' is out of order: {found:?}");
        all.append(&mut found);
    }
    let doubled = all.len();
    all.sort_unstable();
    all.dedup();
    ensure!(doubled == all.len(), "{} were doubled", doubled - all.len());
    answers.must_be(&all)?;
    println!(
        "a follower's disk was full: {} confirmed, {} refused, {} found",
        answers.confirmed.len(),
        answers.refused.len(),
        all.len()
    );
    let begin = Instant::now();
    for at in 0..QUEUES {
        let queue = queue(round, at);
        loop {
            let confirm = client.send(&queue, &body(0, BODY_BYTES)).await?;
            match answer("an ack or a nack", confirm).await? {
                Confirmation::Ack(None) => break,
                Confirmation::Nack(_) => {
                    ensure!(begin.elapsed() < ROOM_LIMIT, "no room after draining");
                    // tidy: allow sleep: between two tries
                    tokio::time::sleep(POLL).await;
                }
                other => bail!("{other:?}"),
            }
        }
        client.drain(&queue, 1, |_, _| Ok(())).await?;
    }
    client.close().await
}
