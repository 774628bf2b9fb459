//! `measure users`: three sizes of a service on three nodes, in which each user has a connection
//! with a channel, a durable replicated queue, a binding and a consumer, and is sent a message of
//! 1 KiB every ten seconds. What it takes is what `docs/capacity.md` reckons with.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::admin::Admin;
use super::brokers::{self, Broker};
use super::connections::Clients;
use super::contents::{self, Objects};
use super::process::Usage;
use super::table::{Figures, field, markdown};
use crate::arguments::Arguments;
use crate::run::Call;

const NODES: usize = 3;
/// A process may open 20,000 descriptors.
const SIZES: [u64; 3] = [6_000, 18_000, 54_000];
const SECONDS_A_MESSAGE: u64 = 10;
const PREFIX: &str = "user";
const EXCHANGE: &str = "users";
/// How long nodes have to come to rest before their memory counts.
const REST: Duration = Duration::from_secs(10);
const IMPORT_LIMIT: Duration = Duration::from_secs(60);
const LOAD: &str = "perf latency --producers 9 --consumers 9 --random --predeclared --durable \
                    --persistent --confirm 1000 --ack multiple:10 --prefetch 10 --warmup 5 \
                    --time 15 --json";

/// Does it in each of `--rounds`.
///
/// # Errors
/// When something fails, a connection is lost or a message is.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let rounds = arguments.rounds(1)?;
    arguments.finish()?;
    let binary = brokers::build_warren()?;
    let mut sizes = SIZES.map(|_| Figures::default());
    for round in 1..=rounds {
        println!("\n# round {round} of {rounds}");
        for (users, figures) in SIZES.into_iter().zip(&mut sizes) {
            measure(&binary, users, figures)?;
        }
    }
    println!("\nMedians of {rounds} rounds (least..most); of all three nodes together.");
    for (users, figures) in SIZES.into_iter().zip(&sizes) {
        let head = format!("{users} users");
        println!("\n{}", markdown(&[&head, ""], &figures.rows()));
    }
    println!("\n- load: `warren {LOAD}`, a message for each user every {SECONDS_A_MESSAGE} s");
    Ok(())
}

fn measure(binary: &Path, users: u64, figures: &mut Figures) -> Result<()> {
    let cluster = Broker::warren_cluster(binary, NODES)?;
    let admin = Admin::new(binary, &cluster);
    thread::sleep(REST);
    let mut before = resident(&cluster)?;
    figures.add("resident at first, MiB", before / f64::from(1 << 20));
    let mut grown = |what, figures: &mut Figures| -> Result<()> {
        thread::sleep(REST);
        let now = resident(&cluster)?;
        figures.add(what, (now - before) / users as f64);
        before = now;
        Ok(())
    };
    let path = cluster.file("definitions.json");
    write(&path, users)?;
    let words = ["definitions", "import", &path.to_string_lossy()];
    admin.timed_within(&words, IMPORT_LIMIT)?;
    grown("a queue and a binding, bytes", figures)?;
    let share = users / NODES as u64;
    let mut clients = Vec::new();
    for (at, uri) in cluster.uri.split(',').enumerate() {
        clients.push(Clients::open(binary, uri, at, share, "1")?);
    }
    for (clients, uri) in clients.iter_mut().zip(cluster.uri.split(',')) {
        clients.all_open(uri, share)?;
    }
    grown("a connection with a channel, bytes", figures)?;
    let idle = cpu(&cluster)?;
    thread::sleep(REST);
    figures.add(
        "connected and idle, cores",
        (cpu(&cluster)? - idle) / REST.as_secs_f64(),
    );
    let load = load(binary, &cluster, users)?;
    let field = |pointer| field(&load, pointer);
    figures.add("messages a second, in and out", field("/receive_rate")?);
    figures.add("under load, cores", field("/broker_cores")?);
    figures.add("end to end p50, µs", field("/latency_us/p50")?);
    figures.add("end to end p99, µs", field("/latency_us/p99")?);
    grown("what messages and consumers leave, bytes", figures)
}

fn load(binary: &Path, cluster: &Broker, users: u64) -> Result<Value> {
    let pids: Vec<String> = cluster.pids.iter().map(u32::to_string).collect();
    let call = Call::new(binary).args(LOAD.split(' ')).args([
        "--prefix",
        PREFIX,
        "--queues",
        &users.to_string(),
        "--rate",
        &(users / SECONDS_A_MESSAGE).to_string(),
        "--uri",
        &cluster.uri,
        "--pid",
        &pids.join(","),
    ]);
    let summary: Value = serde_json::from_str(&call.output()?).context("the load's summary")?;
    ensure!(summary["ok"] == true, "the load: {summary}");
    Ok(summary)
}

/// All nodes together, in bytes.
fn resident(cluster: &Broker) -> Result<f64> {
    Ok(Usage::total(&cluster.pids)?.resident as f64)
}

fn cpu(cluster: &Broker) -> Result<f64> {
    Ok(Usage::total(&cluster.pids)?.cpu_seconds)
}

/// A queue and a binding for each user.
fn write(path: &Path, users: u64) -> Result<()> {
    let names = || (0..users).map(|at| format!("{PREFIX}-{at}"));
    let queues = names().map(|name| contents::queue(&name, &json!({})));
    let bindings = names().map(|name| contents::binding(EXCHANGE, &name, &name));
    let exchanges = std::iter::once(contents::exchange(EXCHANGE));
    let sections: Vec<(&str, Objects<'_>)> = vec![
        ("exchanges", Box::new(exchanges)),
        ("queues", Box::new(queues)),
        ("bindings", Box::new(bindings)),
    ];
    contents::write(path, sections)
}
