//! `measure connections`: idle connections, as many as one node's descriptors allow, and 100,000 on
//! six nodes, of which one loses all of its own at once while others are served.

use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::brokers::{self, Broker};
use super::process::Usage;
use super::table::{Figures, field, markdown};
use crate::arguments::Arguments;
use crate::run::Call;

/// On one node: a process may open 20,000 descriptors.
const ON_ONE: &str = "18000";
const NODES: usize = 6;
/// On each of them: 100,000 in all.
const ON_EACH: u64 = 16_667;
const OPENED: &str = "perf connections --heartbeat 30 --json";
/// How long they are kept.
const HELD: &str = "30";
/// Others are served for so long: as many are cut off in the middle of it.
const SERVED: &str = "perf latency --rate 1000 --durable --persistent --confirm 100 --ack each \
                      --prefetch 100 --time 15 --json";
const UNTIL_CUT: Duration = Duration::from_secs(7);

/// Does both in each of `--rounds`.
///
/// # Errors
/// When a connection fails or is lost.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let rounds = arguments.rounds(3)?;
    arguments.finish()?;
    let binary = brokers::build_warren()?;
    let mut figures = Figures::default();
    for round in 1..=rounds {
        println!("\n# round {round} of {rounds}");
        on_one(&binary, &mut figures)?;
        on_six(&binary, &mut figures)?;
    }
    println!(
        "\nMedians of {rounds} rounds (least..most). Heartbeats of 30 s: one every 15 s each way; \
         a connection that is lost is an error.\n\n{}",
        markdown(&["idle connections", ""], &figures.rows())
    );
    Ok(())
}

fn on_one(binary: &Path, figures: &mut Figures) -> Result<()> {
    let [opened, bytes, cores] = [
        "18,000 on one node: opened/s",
        "18,000 on one node: memory of each, bytes",
        "18,000 on one node: CPU, cores",
    ];
    let [opened_with, bytes_with, cores_with] = [
        "the same with a channel: opened/s",
        "the same with a channel: memory of each, bytes",
        "the same with a channel: CPU, cores",
    ];
    for (channels, [opened, bytes, cores]) in [
        ("0", [opened, bytes, cores]),
        ("1", [opened_with, bytes_with, cores_with]),
    ] {
        let broker = Broker::warren(binary, &[])?;
        let call = Call::new(binary).args(OPENED.split(' '));
        let call = call.args(["--connections", ON_ONE, "--channels", channels]);
        let call = call.args(["--time", HELD, "--uri", &broker.uri]);
        let said = call.args(["--pid", &broker.pids[0].to_string()]).output()?;
        let summary: Value = serde_json::from_str(&said).context("the summary")?;
        let field = |pointer| field(&summary, pointer);
        figures.add(opened, field("/rate")?);
        figures.add(bytes, field("/hold/rss_bytes_each")?);
        figures.add(cores, field("/hold/broker_cores")?);
        ensure!(
            field("/heartbeats_received")? > 0.0,
            "no heartbeats: {summary}"
        );
    }
    Ok(())
}

fn on_six(binary: &Path, figures: &mut Figures) -> Result<()> {
    let cluster = Broker::warren_cluster(binary, NODES)?;
    let resident = || -> Result<u64> { Ok(Usage::total(&cluster.pids)?.resident) };
    let cpu = || -> Result<f64> { Ok(Usage::total(&cluster.pids)?.cpu_seconds) };
    let before = resident()?;
    let began = Instant::now();
    let mut clients = Vec::new();
    for (at, uri) in cluster.uri.split(',').enumerate() {
        clients.push(Clients::open(binary, uri, at, ON_EACH, "0")?);
    }
    for (clients, uri) in clients.iter_mut().zip(cluster.uri.split(',')) {
        clients.all_open(uri, ON_EACH)?;
    }
    let all = ON_EACH as f64 * NODES as f64;
    // At least: they are counted now and then, from the start of the clients' processes.
    let opened = all / began.elapsed().as_secs_f64();
    figures.add("100,000 on six nodes: opened/s", opened);
    figures.add(
        "100,000 on six nodes: memory of each, bytes",
        (resident()? - before) as f64 / all,
    );
    let idle = cpu()?;
    thread::sleep(UNTIL_CUT);
    figures.add(
        "100,000 on six nodes: CPU of all nodes, cores",
        (cpu()? - idle) / UNTIL_CUT.as_secs_f64(),
    );
    let first = cluster.uri.split(',').next().context("an address")?;
    let served = Call::new(binary).args(SERVED.split(' '));
    let served = served.args(["--uri", first]).spawn()?;
    thread::sleep(UNTIL_CUT);
    // All of the last node's at once, without a word.
    drop(clients.pop());
    let output = served
        .wait_with_output()
        .context("the load that is served")?;
    let summary: Value = serde_json::from_slice(&output.stdout).context("its summary")?;
    ensure!(summary["ok"] == true, "the load that is served: {summary}");
    let most = summary["latency_us"]["max"]
        .as_f64()
        .context("no latency")?;
    figures.add(
        "a node loses all of its own: longest wait of others, seconds",
        most / 1e6,
    );
    Ok(())
}

/// A process with a node's share of the connections, ended when dropped.
pub(super) struct Clients(Child);

impl Clients {
    /// Begins to open so many to the broker at `uri`, with so many channels each, from a loopback
    /// address of its own, chosen by `at`.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(super) fn open(
        binary: &Path,
        uri: &str,
        at: usize,
        count: u64,
        channels: &str,
    ) -> Result<Self> {
        let source = format!("127.0.0.{}", 10 + at);
        let call = Call::new(binary).args(OPENED.split(' '));
        let call = call.args(["--connections", &count.to_string(), "--time", "600"]);
        let call = call.args(["--channels", channels]);
        let call = call.args(["--source-addresses", &source, "--uri", uri]);
        Ok(Self(call.spawn()?))
    }

    /// Waits until a node has them all.
    ///
    /// # Errors
    /// When it has not within the limit, or the process has ended.
    pub(super) fn all_open(&mut self, uri: &str, count: u64) -> Result<()> {
        let port: u16 = uri.rsplit(':').next().unwrap_or_default().parse()?;
        super::admin::wait("all connections", || {
            let ended = self.0.try_wait().context("cannot wait for clients")?;
            ensure!(ended.is_none(), "clients have ended");
            Ok(established(port)? >= count)
        })?;
        Ok(())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// TCP connections to a port of ours, as the kernel counts them.
fn established(port: u16) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
    let local = format!(":{port:04X}");
    let is_one = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let here = fields
            .next()
            .is_some_and(|address| address.ends_with(&local));
        // State 1 is established.
        here && fields.nth(1) == Some("01")
    };
    Ok(text.lines().skip(1).filter(is_one).count() as u64)
}
