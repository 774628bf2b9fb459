//! Clusters of real processes, each node in a network namespace, and what they survive; and one in
//! the hands of operators.

mod disks;
mod links;
mod load;
mod net;
mod operated;
mod operator;
mod processes;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::Context;
use crate::admin;
use crate::alarms::get;
use crate::broker::{Node, Running};
use crate::system;

pub(crate) use disks::*;
pub(crate) use links::*;
pub(crate) use net::enter;
pub(crate) use operated::*;
pub(crate) use processes::*;

use load::{Load, Tally};
use net::Net;

const PORTS: [u16; 4] = [5672, 15672, 15692, 25672];
const NODES: usize = 3;
/// Queue shards: every node leads some, and few queues load them all.
const SHARDS: u32 = 6;
const QUEUES: usize = 18;
/// For all shards to have their replicas, and the leaders that they are to have.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// Loads until one has queues that the victim leads: one in 25 has none in a given shard.
const TRIES: u32 = 5;
/// For the first confirm after a fault; what was measured is printed.
const FAILOVER_LIMIT: Duration = Duration::from_secs(60);

/// The shards that a node leads, the replicas that these have, and how many are to have others.
#[derive(Clone, Copy, Debug)]
struct Leads {
    shards: u32,
    replicas: u32,
    unsettled: u32,
}

/// Three nodes that know each other.
struct Cluster {
    // Ended before their network.
    running: Vec<Option<Running>>,
    nodes: Vec<Node>,
    net: Net,
}

impl Cluster {
    /// Starts the nodes, after `change` had a look at each.
    fn start(
        context: &Context,
        name: &str,
        mut change: impl FnMut(usize, &mut Node) -> Result<()>,
    ) -> Result<Self> {
        let net = Net::new(NODES)?;
        let mut cluster = Self {
            running: Vec::new(),
            nodes: Vec::new(),
            net,
        };
        for at in 0..NODES {
            let name = format!("{name}-{}", at + 1);
            let mut node = Node::at(context, &name, &Net::host(at), PORTS)?;
            let wrapper = cluster.net.wrapper(at);
            node.run_under(&wrapper.each_ref().map(String::as_str));
            node.set("WARREN_NODE_NAME", format!("warren{}", at + 1));
            node.set("WARREN_LOOPBACK_USERS", "none");
            node.set("WARREN_CLUSTER_SHARDS", SHARDS.to_string());
            let first = cluster.nodes.first().unwrap_or(&node);
            let token = first.folder().join("token").to_string_lossy().into_owned();
            if at > 0 {
                node.set("WARREN_JOIN", first.address("cluster"));
            }
            node.set("WARREN_BOOTSTRAP_TOKEN_FILE", token);
            change(at, &mut node)?;
            cluster.running.push(Some(node.start()?));
            cluster.nodes.push(node);
        }
        cluster.settle()?;
        Ok(cluster)
    }

    fn uri(&self, at: usize) -> String {
        self.nodes[at].uri()
    }

    /// The URIs of all nodes but one.
    fn others(&self, but: usize) -> Vec<String> {
        let others = (0..NODES).filter(|at| *at != but);
        others.map(|at| self.uri(at)).collect()
    }

    fn running(&self, at: usize) -> Result<&Running> {
        self.running[at].as_ref().context("the node does not run")
    }

    fn kill(&mut self, at: usize) -> Result<()> {
        let running = self.running[at].take().context("the node does not run")?;
        running.kill()
    }

    fn start_again(&mut self, at: usize) -> Result<()> {
        self.running[at] = Some(self.nodes[at].start()?);
        Ok(())
    }

    /// Waits until every shard has its replicas, and every node leads its share.
    fn settle(&self) -> Result<()> {
        let mut last = Vec::new();
        let settled = system::until("all shards to be settled", SETTLE_LIMIT, || {
            last = (0..NODES).map(|at| self.leads(at)).collect();
            let leads: Option<Vec<_>> = last.iter().copied().collect();
            let Some(leads) = leads else {
                return Ok(false);
            };
            let sum = |of: fn(&Leads) -> u32| leads.iter().map(of).sum::<u32>();
            Ok(sum(|it| it.shards) == SHARDS + 1
                && sum(|it| it.replicas) == (SHARDS + 1) * NODES as u32
                && sum(|it| it.unsettled) == 0
                && leads.iter().all(|it| it.shards >= SHARDS / 3))
        });
        settled.with_context(|| format!("{last:?}"))
    }

    /// What a node leads; nothing when it does not answer.
    fn leads(&self, at: usize) -> Option<Leads> {
        let (_, text) = get(&self.nodes[at].address("metrics"), "/metrics").ok()?;
        let value = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            value.trim().parse::<f64>().ok().map(|it| it as u32)
        };
        Some(Leads {
            shards: value("warren_shards_led")?,
            replicas: value("warren_shards_led_replicas")?,
            unsettled: value("warren_shards_led_unsettled")?,
        })
    }

    /// The leader and the number of queues of each shard.
    fn queues(&self) -> Result<BTreeMap<u64, (usize, u64)>> {
        // The first node made the administrator whom all of them know.
        let shards = admin::json(&self.nodes[0], &["shard", "list"])?;
        let shards = shards.as_array().context("no list of shards")?.iter();
        let queues = shards.map(|shard| {
            let number = |field: &str| {
                let number = shard[field].as_u64();
                number.with_context(|| format!("no {field} in {shard}"))
            };
            // They joined in turn, which numbers them from 1; 0 is nobody.
            let leader = number("leader")? as usize;
            Ok((number("id")?, (leader, number("queues")?)))
        });
        queues.collect()
    }

    /// All nodes must run, and stop when they are told to.
    fn stop(mut self) -> Result<()> {
        for (at, running) in self.running.iter_mut().enumerate() {
            let mut running = running.take().with_context(|| format!("node {}", at + 1))?;
            running.must_run()?;
            running.stop()?;
        }
        Ok(())
    }
}

/// A name for a load's queues, of this process' own.
fn unique(what: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Starts load on the nodes other than the victim, which leads some of its queues; how many.
async fn load_beside(cluster: &Cluster, what: &str, victim: usize) -> Result<(Load, u64)> {
    let others = cluster.others(victim);
    for _ in 0..TRIES {
        let before = cluster.queues()?;
        let mut load = Load::start(&unique(what), QUEUES, &others, &others).await?;
        load.goes_on(Instant::now(), FAILOVER_LIMIT).await?;
        let (mut led, mut all) = (0, 0);
        for (shard, (leader, queues)) in cluster.queues()? {
            let new = queues.saturating_sub(before.get(&shard).map_or(0, |(_, queues)| *queues));
            all += new;
            if leader == victim + 1 {
                led += new;
            }
        }
        // Other loads may have declared theirs meanwhile, which are not to be counted.
        if led > 0 && all == QUEUES as u64 {
            return Ok((load, led));
        }
        load.finish().await?;
    }
    bail!("node {} leads no queue of {TRIES} loads", victim + 1);
}

/// Load on the other nodes, a fault of one, and what the load noticed of it.
async fn survive(
    cluster: &mut Cluster,
    what: &str,
    victim: usize,
    fault: impl AsyncFnOnce(&mut Cluster) -> Result<Instant>,
    heal: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<Tally> {
    let leads = cluster
        .leads(victim)
        .context("the victim does not answer")?;
    ensure!(leads.shards > 0, "the victim leads nothing");
    let (mut load, led) = load_beside(cluster, what, victim).await?;
    let since = fault(cluster).await?;
    let firsts = load.goes_on(since, FAILOVER_LIMIT).await?;
    println!(
        "{what}: node {} led {} of {} shards, {led} of {QUEUES} queues; on every queue first \
         new confirm after {} ms, first new delivery after {} ms",
        victim + 1,
        leads.shards,
        SHARDS + 1,
        firsts.confirm.as_millis(),
        firsts.delivery.as_millis()
    );
    heal(cluster)?;
    cluster.settle()?;
    load.goes_on(Instant::now(), FAILOVER_LIMIT).await?;
    let tally = load.finish().await?;
    if tally.refused > 0 {
        bail!("{} messages were refused", tally.refused);
    }
    // The consumers stayed, so what they held was not to come again.
    ensure!(tally.redelivered == 0, "redelivered: {}", tally.redelivered);
    Ok(tally)
}
