//! `measure restart`: one of three nodes with 10,000 replicated durable queues is stopped in order
//! and started again; how long until it takes connections, and until it leads as many shards as
//! before.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::brokers::{self, Broker, DEV_OFFSET};
use super::table::{Series, markdown};
use crate::arguments::Arguments;
use crate::run::Call;

const QUEUES: &str = "10000";
/// The node that is restarted, as `warren dev` counts.
const NODE: usize = 2;
const LIMIT: Duration = Duration::from_secs(60);
/// Between two restarts.
const REST: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(50);

/// Restarts the node in each of `--rounds`.
///
/// # Errors
/// When it does not come back, or not with its leads.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let rounds: usize = arguments.value("--rounds")?.unwrap_or(5);
    arguments.finish()?;
    ensure!(rounds > 0, "--rounds cannot be 0");
    let binary = brokers::build_warren()?;
    let cluster = Broker::warren_cluster(&binary)?;
    Call::new(&binary)
        .args(["perf", "queues", "--durable", "--queues", QUEUES])
        .args(["--uri", &cluster.uri])
        .run()?;
    let [mut stopped, mut serving, mut leading] = [const { Series(Vec::new()) }; 3];
    let uri = cluster.uri.split(',').nth(NODE - 1);
    let port = uri.and_then(|uri| uri.rsplit(':').next()?.parse().ok());
    let port: u16 = port.context("an address ends with its port")?;
    let mut pid = *cluster
        .pids
        .get(NODE - 1)
        .context("there are three nodes")?;
    for round in 1..=rounds {
        // A lead that was just given back is not offered again at once.
        thread::sleep(REST);
        let leads = leads(&binary, &cluster)?;
        println!("\n# round {round} of {rounds}: node {NODE} leads {leads} shards");
        let began = Instant::now();
        Call::new("kill").args(["-TERM", &pid.to_string()]).run()?;
        wait("its end", || {
            Ok(!Path::new(&format!("/proc/{pid}")).exists())
        })?;
        stopped.0.push(began.elapsed().as_secs_f64());
        let began = Instant::now();
        pid = start(&binary)?;
        wait("AMQP", || Ok(brokers::answers(port)))?;
        serving.0.push(began.elapsed().as_secs_f64());
        wait("its leads", || Ok(self::leads(&binary, &cluster)? >= leads))?;
        leading.0.push(began.elapsed().as_secs_f64());
    }
    let head = ["node with 10,000 queues", "seconds"];
    let rows = [
        ("stopped in order", &stopped),
        ("started: takes connections", &serving),
        ("started: leads as many shards as before", &leading),
    ];
    let rows = rows.map(|(what, series)| vec![what.to_owned(), series.shown()]);
    println!(
        "\nMedians of {rounds} rounds (least..most).\n\n{}",
        markdown(&head, &rows)
    );
    Ok(())
}

/// How many shards the node leads, as another one says.
fn leads(binary: &Path, cluster: &Broker) -> Result<u64> {
    let folder = cluster.node_folder(1);
    let said = Call::new(binary)
        .args(["cluster", "status", "--json", "--data-dir"])
        .arg(folder.to_string_lossy())
        .quiet()
        .output()?;
    let status: Value = serde_json::from_str(&said).context("the status")?;
    let name = format!("warren{NODE}@localhost");
    let nodes = status.get("nodes").and_then(Value::as_array);
    let node = nodes.and_then(|nodes| nodes.iter().find(|it| it["name"] == *name));
    let leads = node.and_then(|node| node.get("leaders")?.as_u64());
    leads.with_context(|| format!("no leads of {name} in {status}"))
}

/// Starts the node again; its process.
fn start(binary: &Path) -> Result<u32> {
    let node = NODE.to_string();
    let said = Call::new(binary)
        .args(["dev", "start", &node, "--port-offset", DEV_OFFSET])
        .output()?;
    brokers::node_line(said.trim())
        .map(|(pid, _)| pid)
        .with_context(|| format!("`dev start` said: {said}"))
}

fn wait(what: &str, mut is_there: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is_there()? {
        if began.elapsed() > LIMIT {
            bail!("no sign of {what} within {LIMIT:?}");
        }
        thread::sleep(POLL);
    }
    Ok(())
}
