//! Networks that let nothing through, one way or both, or not all.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;

use super::load::Load;
use super::net::Fault;
use super::{Cluster, FAILOVER_LIMIT, QUEUES, survive};
use crate::Context;

/// Queues of clients whose publisher is at the node that is cut off.
const INSIDE: usize = 4;
/// How long packets are lost, at least: many resends.
const LOSS_TIME: Duration = Duration::from_secs(6);

pub(crate) fn cluster_partition(context: &Context, runtime: &Runtime) -> Result<()> {
    let rounds = context.rounds(1, 3);
    cut_off(context, runtime, "partition", rounds, &[Fault::Partition])
}

pub(crate) fn cluster_one_way_partition(context: &Context, runtime: &Runtime) -> Result<()> {
    let rounds = context.rounds(2, 4);
    let faults = [Fault::Deaf, Fault::Mute];
    cut_off(context, runtime, "one-way", rounds, &faults)
}

/// A node is cut off from its peers and not from its clients: those of the others go on, and its
/// own wait until it is back.
fn cut_off(
    context: &Context,
    runtime: &Runtime,
    what: &str,
    rounds: u64,
    faults: &[Fault],
) -> Result<()> {
    let mut seed = context.seed(what);
    let mut cluster = Cluster::start(context, &format!("cluster-{what}"), |_, _| Ok(()))?;
    for round in 0..rounds {
        let fault = faults[round as usize % faults.len()];
        let victim = seed.below(cluster.nodes.len());
        let inside = [cluster.uri(victim)];
        let outside = cluster.others(victim);
        let name = format!("{what}-inside-{round}");
        let inside = runtime.block_on(Load::start(&name, INSIDE, &inside, &outside))?;
        let tally = runtime.block_on(survive(
            &mut cluster,
            what,
            victim,
            async |cluster| {
                cluster.net.break_link(victim, fault)?;
                Ok(Instant::now())
            },
            |cluster| cluster.net.heal(victim),
        ))?;
        let own = runtime.block_on(inside.finish());
        let own = own.context("clients of the node that was cut off")?;
        println!(
            "{fault:?}: {} confirmed beside it, {} at it (and {} refused)",
            tally.confirmed, own.confirmed, own.refused
        );
    }
    cluster.stop()
}

pub(crate) fn cluster_lossy_network(context: &Context, runtime: &Runtime) -> Result<()> {
    let mut seed = context.seed("cluster_lossy_network");
    let cluster = Cluster::start(context, "cluster-loss", |_, _| Ok(()))?;
    let all: Vec<_> = (0..cluster.nodes.len()).collect();
    for _ in 0..context.rounds(1, 2) {
        let victim = seed.below(all.len());
        runtime.block_on(lose_packets(&cluster, &[victim], true))?;
        // With all of them TCP is silent for seconds, and leaders come and go.
        runtime.block_on(lose_packets(&cluster, &all, false))?;
    }
    cluster.stop()
}

/// Some nodes lose a fifth of what their peers send; where they are a minority, all goes on.
async fn lose_packets(cluster: &Cluster, victims: &[usize], goes_on: bool) -> Result<()> {
    let all: Vec<_> = (0..cluster.nodes.len()).map(|at| cluster.uri(at)).collect();
    let mut load = Load::start(&super::unique("loss"), QUEUES, &all, &all).await?;
    load.goes_on(Instant::now(), FAILOVER_LIMIT).await?;
    for at in victims {
        cluster.net.break_link(*at, Fault::Loss)?;
    }
    let begin = Instant::now();
    let (mut longest, mut rounds) = (Duration::ZERO, 0);
    while goes_on && begin.elapsed() < LOSS_TIME {
        let firsts = load.goes_on(Instant::now(), FAILOVER_LIMIT).await?;
        longest = longest.max(firsts.delivery).max(firsts.confirm);
        rounds += 1;
    }
    // tidy: allow sleep: how long the fault lasts
    tokio::time::sleep(LOSS_TIME.saturating_sub(begin.elapsed())).await;
    for at in victims {
        cluster.net.heal(*at)?;
    }
    let healed = Instant::now();
    let firsts = load.goes_on(healed, FAILOVER_LIMIT).await?;
    cluster.settle()?;
    let tally = load.finish().await?;
    println!(
        "{} of {} nodes lost a fifth of all packets for {} s: {rounds} times a confirm and a \
         delivery on every queue, after {} ms at most; healed, after {} ms; {} confirmed, {} \
         redelivered, {} refused",
        victims.len(),
        all.len(),
        LOSS_TIME.as_secs(),
        longest.as_millis(),
        firsts.confirm.max(firsts.delivery).as_millis(),
        tally.confirmed,
        tally.redelivered,
        tally.refused
    );
    Ok(())
}
