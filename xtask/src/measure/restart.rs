//! `measure restart`: one of three nodes with 10,000 replicated durable queues is stopped in order
//! and started again; how long until it takes connections, and until it leads as many shards as
//! before.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::admin::{self, Admin, wait};
use super::brokers::{self, Broker, DEV_OFFSET};
use super::table::{Series, markdown};
use crate::arguments::Arguments;
use crate::run::Call;

const QUEUES: &str = "10000";
/// The node that is restarted, as `warren dev` counts.
const NODE: usize = 2;
/// Between two restarts.
const REST: Duration = Duration::from_secs(12);

/// Restarts the node in each of `--rounds`.
///
/// # Errors
/// When it does not come back, or not with its leads.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let rounds = arguments.rounds(5)?;
    arguments.finish()?;
    let binary = brokers::build_warren()?;
    let cluster = Broker::warren_cluster(&binary, 3)?;
    let admin = Admin::new(&binary, &cluster);
    Call::new(&binary)
        .args(["perf", "queues", "--durable", "--queues", QUEUES])
        .args(["--uri", &cluster.uri])
        .run()?;
    let [mut stopped, mut serving, mut leading] = [const { Series(Vec::new()) }; 3];
    let mut node = Restarted::new(&cluster)?;
    for round in 1..=rounds {
        println!("\n# round {round} of {rounds}");
        let took = node.restart(&binary, &admin)?;
        stopped.0.push(took.stopped);
        serving.0.push(took.serving);
        leading.0.push(took.leading);
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

/// A node that is stopped in order and started again.
pub(super) struct Restarted {
    pub(super) pid: u32,
    port: u16,
}

/// How long that took, in seconds: until its process had ended; from its start until it took
/// connections, and until it led as many shards as before.
pub(super) struct Took {
    pub(super) stopped: f64,
    pub(super) serving: f64,
    pub(super) leading: f64,
}

impl Restarted {
    /// Of a cluster of `warren dev`.
    ///
    /// # Errors
    /// When there is no such node.
    pub(super) fn new(cluster: &Broker) -> Result<Self> {
        let uri = cluster.uri.split(',').nth(NODE - 1);
        let port = uri.and_then(|uri| uri.rsplit(':').next()?.parse().ok());
        let pid = cluster.pids.get(NODE - 1);
        Ok(Self {
            pid: *pid.context("there are three nodes")?,
            port: port.context("an address ends with its port")?,
        })
    }

    /// Does it once.
    ///
    /// # Errors
    /// When it does not end, or does not come back with its leads.
    pub(super) fn restart(&mut self, binary: &Path, admin: &Admin) -> Result<Took> {
        // A lead that was just given back is not offered again at once.
        thread::sleep(REST);
        let leads = leads(admin)?;
        println!("# node {NODE} leads {leads} shards");
        let began = Instant::now();
        let pid = self.pid.to_string();
        Call::new("kill").args(["-TERM", &pid]).run()?;
        wait("its end", || {
            Ok(!Path::new(&format!("/proc/{pid}")).exists())
        })?;
        let stopped = began.elapsed().as_secs_f64();
        let began = Instant::now();
        self.pid = start(binary)?;
        wait("AMQP", || Ok(brokers::answers(self.port)))?;
        let serving = began.elapsed().as_secs_f64();
        wait("its leads", || Ok(self::leads(admin)? >= leads))?;
        let leading = began.elapsed().as_secs_f64();
        Ok(Took {
            stopped,
            serving,
            leading,
        })
    }
}

/// How many shards the node leads, as another one says.
fn leads(admin: &Admin) -> Result<u64> {
    let status = admin.json(&["cluster", "status"])?;
    let leads = admin::node(&status, NODE).and_then(|node| node["leaders"].as_u64());
    leads.with_context(|| format!("no leads of node {NODE} in {status}"))
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
