//! `measure nodes`: what operators do to twelve nodes under confirmed load: ask for their status,
//! let one more in, drain one, take it out. Anything that fails, or takes minutes, or that the
//! load's own check finds, is an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::admin::{self, Admin, wait};
use super::brokers::{self, Broker};
use super::process::Usage;
use super::table::{Figures, Series, markdown};
use crate::arguments::Arguments;
use crate::run::Call;

const NODES: usize = 12;
/// The nodes whose clients make the load: the first ones, which stay.
const WITH_CLIENTS: usize = 3;
const LOAD: &str = "perf throughput --producers 4 --consumers 4 --queues 8 --durable --persistent \
                    --confirm 100 --ack multiple:100 --prefetch 1000 --rate 5000 --check \
                    --reconnect --json";
const QUEUES: u64 = 8;
/// How long the load lasts: several times what all that is done takes; less is an error.
const LOAD_SECONDS: &str = "45";
/// Load on the node that joined, to see that it serves.
const SERVES: &str = "perf throughput --durable --persistent --confirm 10 --messages 1000 --check";
const STATUSES: usize = 10;
/// How long a new cluster is left alone, and then looked at.
const COMES_TO_REST: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(10);

/// Does it all in each of `--rounds`, to a new cluster.
///
/// # Errors
/// When a step fails or takes too long, or a message was lost, doubled or out of order.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let rounds = arguments.rounds(5)?;
    arguments.finish()?;
    let binary = brokers::build_warren()?;
    let mut figures = Figures::default();
    for round in 1..=rounds {
        println!("\n# round {round} of {rounds}");
        measure(&binary, &mut figures).with_context(|| format!("round {round}"))?;
    }
    println!(
        "\nMedians of {rounds} rounds (least..most). Lost, doubled, out of order: 0, or this would \
         have failed.\n\n{}\n- load: `warren {LOAD} --time {LOAD_SECONDS}`",
        markdown(&["twelve nodes under load", "seconds"], &figures.rows())
    );
    Ok(())
}

fn measure(binary: &Path, figures: &mut Figures) -> Result<()> {
    let began = Instant::now();
    let cluster = Broker::warren_cluster(binary, NODES)?;
    let took = began.elapsed().as_secs_f64();
    figures.add("`warren dev` until every shard is in place", took);
    figures.add(
        "CPU time of all twelve in a second of idleness",
        idle(&cluster)?,
    );
    let admin = Admin::new(binary, &cluster);
    let mut load = Load::start(binary, &cluster)?;
    wait("the load's queues", || {
        Ok(loaded(&admin)?.values().sum::<u64>() == QUEUES)
    })?;
    let mut statuses = Series::default();
    for _ in 0..STATUSES {
        statuses
            .0
            .push(admin.timed(&["cluster", "status", "--json"])?.0);
    }
    let median = statuses.median().context("there are some")?;
    figures.add("`cluster status`, the median of ten", median);
    let newcomer = join(binary, &admin, figures)?;
    let victim = victim(&admin)?;
    take_out(&admin, &cluster, victim, figures)?;
    load.must_run()?;
    let mut serves = Call::new(binary).args(SERVES.split(' '));
    serves = serves.args(["--uri", &newcomer.uri]);
    serves.run().context("the node that joined")?;
    let summary = load.finish()?;
    for (what, field) in [
        ("longest wait for a confirm meanwhile", "confirm_latency_us"),
        ("longest wait for a delivery meanwhile", "latency_us"),
    ] {
        let micros = summary[field]["max"].as_f64();
        let micros = micros.with_context(|| format!("no {field} in {summary}"))?;
        figures.add(what, micros / 1e6);
    }
    Ok(())
}

/// Seconds of CPU time that all nodes use in one second without clients.
fn idle(cluster: &Broker) -> Result<f64> {
    let used = || -> Result<f64> { Ok(Usage::total(&cluster.pids)?.cpu_seconds) };
    thread::sleep(COMES_TO_REST);
    let (began, before) = (Instant::now(), used()?);
    thread::sleep(IDLE);
    Ok((used()? - before) / began.elapsed().as_secs_f64())
}

/// Starts one more node, and waits until it does its part.
fn join(binary: &Path, admin: &Admin, figures: &mut Figures) -> Result<Broker> {
    let number = NODES + 1;
    let (_, token) = admin.timed(&["cluster", "token"])?;
    let status = admin.json(&["cluster", "status"])?;
    let address = status["nodes"][0]["addresses"][0].as_str();
    let address = address.with_context(|| format!("no address in {status}"))?;
    let name = format!("warren{number}@localhost");
    let flags = ["--node-name", &name, "--join", address, "--token"];
    let began = Instant::now();
    let newcomer = Broker::warren(binary, &[&flags[..], &[token.trim()]].concat())?;
    let port = newcomer.uri.rsplit(':').next().map(str::parse);
    let port = port.context("an address ends with its port")??;
    let mut status = Value::Null;
    wait("the new node among the members", || {
        status = admin.json(&["cluster", "status"])?;
        let node = admin::node(&status, number);
        Ok(node.is_some_and(|node| node["reachable"] == true) && brokers::answers(port))
    })?;
    let took = began.elapsed().as_secs_f64();
    figures.add("a node more: a member that serves", took);
    wait("all shards in place", || {
        status = admin.json(&["cluster", "status"])?;
        let node = admin::node(&status, number);
        let leads = node.and_then(|node| node["leaders"].as_u64());
        Ok(status["settled"] == true && leads > Some(0))
    })
    .with_context(|| status.to_string())?;
    let took = began.elapsed().as_secs_f64();
    figures.add("a node more: leads some, all shards settled", took);
    Ok(newcomer)
}

/// Drains and removes a node.
fn take_out(admin: &Admin, cluster: &Broker, number: usize, figures: &mut Figures) -> Result<()> {
    let status = admin.json(&["cluster", "status"])?;
    let id = admin::node(&status, number).map(|node| node["id"].to_string());
    let id = id.with_context(|| format!("no node {number} in {status}"))?;
    let (took, _) = admin.timed(&["node", "drain", &id])?;
    figures.add("`node drain` of one that leads queues of the load", took);
    let status = admin.json(&["cluster", "status"])?;
    let node = admin::node(&status, number).context("what is drained stays a member")?;
    ensure!(
        node["state"] == "draining" && node["leaders"] == 0,
        "drained: {node}"
    );
    let began = Instant::now();
    let (took, _) = admin.timed(&["node", "remove", &id])?;
    figures.add("`node remove` of the same", took);
    let status = admin.json(&["cluster", "status"])?;
    let node = admin::node(&status, number);
    ensure!(node.is_none(), "removed: {status}");
    let pid = cluster.pids.get(number - 1).context("it has a process")?;
    wait("its end", || {
        Ok(!Path::new(&format!("/proc/{pid}")).exists())
    })?;
    wait("all shards in place", || {
        let status = admin.json(&["cluster", "status"])?;
        Ok(status["settled"] == true)
    })?;
    let took = began.elapsed().as_secs_f64();
    figures.add("removed: its process ended, all shards settled", took);
    Ok(())
}

/// How many queues each node leads, by the node's id.
fn loaded(admin: &Admin) -> Result<BTreeMap<u64, u64>> {
    let shards = admin.json(&["shard", "list"])?;
    let mut loaded = BTreeMap::new();
    for shard in shards.as_array().context("no list of shards")? {
        let (leader, queues) = (shard["leader"].as_u64(), shard["queues"].as_u64());
        let (leader, queues) = leader.zip(queues).context("a shard unlike others")?;
        *loaded.entry(leader).or_default() += queues;
    }
    Ok(loaded)
}

/// The number of the node that leads the most queues, of those that have no clients.
fn victim(admin: &Admin) -> Result<usize> {
    let status = admin.json(&["cluster", "status"])?;
    let loaded = loaded(admin)?;
    let queues = |number: &usize| {
        let id = admin::node(&status, *number).and_then(|node| node["id"].as_u64());
        id.and_then(|id| loaded.get(&id)).copied().unwrap_or(0)
    };
    let victim = (WITH_CLIENTS + 1..=NODES).max_by_key(queues);
    let victim = victim.filter(|number| queues(number) > 0);
    let victim = victim.context("the nodes without clients lead nothing of the load")?;
    println!(
        "# node {victim} leads {} of {QUEUES} queues",
        queues(&victim)
    );
    Ok(victim)
}

/// The load that runs; killed when dropped, as after an error.
struct Load(Option<Child>);

impl Load {
    fn start(binary: &Path, cluster: &Broker) -> Result<Self> {
        let uris: Vec<&str> = cluster.uri.split(',').take(WITH_CLIENTS).collect();
        let call = Call::new(binary).args(LOAD.split(' '));
        let call = call.args(["--time", LOAD_SECONDS, "--uri", &uris.join(",")]);
        Ok(Self(Some(call.spawn()?)))
    }

    fn must_run(&mut self) -> Result<()> {
        let child = self.0.as_mut().context("it is waited for once")?;
        let ended = child.try_wait().context("cannot wait for the load")?;
        ensure!(ended.is_none(), "the load was over before all was done");
        Ok(())
    }

    /// Waits for its end; what it says then.
    fn finish(mut self) -> Result<Value> {
        let child = self.0.take().context("it is waited for once")?;
        let output = child
            .wait_with_output()
            .context("cannot wait for the load")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "the load failed: {said}");
        let summary: Value = serde_json::from_str(&said).context("summary of the load")?;
        let none = ["lost", "duplicated", "reordered", "ghosts", "nacked"];
        let is_well = summary["ok"] == true && none.iter().all(|field| summary[field] == 0);
        ensure!(is_well, "the load found: {summary}");
        println!("# the load: {summary}");
        Ok(summary)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
