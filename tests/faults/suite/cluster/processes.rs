//! Nodes that are killed, and nodes that stand still.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;

use super::{Cluster, survive};
use crate::Context;
use crate::perf::Perf;
use crate::system;

/// Clients of all nodes, also of the one that dies: they connect again and send again.
const PERF: &str = "--durable --persistent --confirm 100 --check --reconnect --producers 3 \
                    --consumers 3 --queues 3 --ack multiple:20 --prefetch 100 --rate 600 \
                    --patience 60";
/// Seconds of that for each kill.
const PERF_SECONDS_A_KILL: u64 = 6;
const PERF_LIMIT: Duration = Duration::from_secs(180);
/// For all threads of a process to stand still.
const STOP_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn cluster_kill_9(context: &Context, runtime: &Runtime) -> Result<()> {
    let mut seed = context.seed("cluster_kill_9");
    let rounds = context.rounds(2, 5);
    let mut cluster = Cluster::start(context, "cluster-kill", |_, _| Ok(()))?;
    let flags = format!("{PERF} --time {}", rounds * PERF_SECONDS_A_KILL);
    let uris = (0..cluster.nodes.len()).map(|at| cluster.uri(at));
    let uris: Vec<_> = uris.collect();
    let perf = Perf::start_at(&cluster.nodes[0], &uris, "throughput", &flags)?;
    let mut confirmed = 0;
    for _ in 0..rounds {
        let victim = seed.below(cluster.nodes.len());
        let tally = runtime.block_on(survive(
            &mut cluster,
            "kill",
            victim,
            async |cluster| {
                cluster.kill(victim)?;
                Ok(Instant::now())
            },
            |cluster| cluster.start_again(victim),
        ))?;
        confirmed += tally.confirmed;
    }
    let summary = perf.wait(PERF_LIMIT)?;
    println!(
        "{rounds} kills, {confirmed} messages confirmed beside the victims; over all nodes {} \
         confirmed, {} connections made again, doubled by being sent again {}, by redelivery {}",
        summary.count("confirmed")?,
        summary.count("reconnects")?,
        summary.count("duplicated_by_resend")?,
        summary.count("duplicated_by_redelivery")?,
    );
    cluster.stop()
}

pub(crate) fn cluster_stopped_process(context: &Context, runtime: &Runtime) -> Result<()> {
    let mut seed = context.seed("cluster_stopped_process");
    let mut cluster = Cluster::start(context, "cluster-stop", |_, _| Ok(()))?;
    for _ in 0..context.rounds(1, 3) {
        let victim = seed.below(cluster.nodes.len());
        let tally = runtime.block_on(survive(
            &mut cluster,
            "stop",
            victim,
            async |cluster| {
                let running = cluster.running(victim)?;
                running.signal(libc::SIGSTOP)?;
                let pid = running.pid;
                system::until("the process to stand still", STOP_LIMIT, || {
                    system::stands_still(pid)
                })?;
                Ok(Instant::now())
            },
            |cluster| cluster.running(victim)?.signal(libc::SIGCONT),
        ))?;
        println!("{} confirmed", tally.confirmed);
    }
    cluster.stop().context("after SIGCONT")
}
