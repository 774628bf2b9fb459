//! `cargo xtask measure NAME`: measurements that start what they measure, print every command and
//! end with a Markdown table for `docs/performance.md`.
//!
//! Brokers take turns within a round, so that what the machine does meanwhile meets all of them.

mod admin;
mod brokers;
mod connections;
mod contents;
mod definitions;
mod empty;
mod failover;
mod loads;
mod logins;
mod nodes;
mod process;
mod queues;
mod restart;
mod table;
mod users;
mod versus;

use anyhow::{Result, bail};

use crate::arguments::Arguments;

/// Name, what it measures, how.
type Measurement = (&'static str, &'static str, fn(&mut Arguments) -> Result<()>);

const MEASUREMENTS: &[Measurement] = &[
    (
        "cluster",
        "throughput and latency of three nodes, beside RabbitMQ's quorum queues",
        versus::run_cluster,
    ),
    (
        "connections",
        "18,000 idle connections on one node, 100,000 on six of which one loses all its own",
        connections::run,
    ),
    (
        "definitions",
        "import, export and diff of 100,000 queues and bindings, on one node and three",
        definitions::run,
    ),
    (
        "empty",
        "start, memory and idle CPU of an empty node, beside RabbitMQ",
        empty::run,
    ),
    (
        "failover",
        "what the clients of three nodes notice when a leader is killed, stopped, cut off",
        failover::run,
    ),
    (
        "logins",
        "1,000 logins a second, each with a queue and a binding: what others notice of them",
        logins::run,
    ),
    (
        "nodes",
        "twelve nodes under load: their status, one that joins, one drained and removed",
        nodes::run,
    ),
    (
        "queues",
        "a million replicated queues on three nodes: import, memory, publishes, a restart",
        queues::run,
    ),
    (
        "restart",
        "one of three nodes with 10,000 queues: until it serves, and leads, again",
        restart::run,
    ),
    (
        "users",
        "three sizes of a made-up service, a connection and a queue each: for docs/capacity.md",
        users::run,
    ),
    (
        "versus",
        "throughput, latency and CPU under load, beside RabbitMQ",
        versus::run,
    ),
];

/// Runs the measurement that the command line names.
///
/// # Errors
/// When there is none of that name, or it fails.
pub(crate) fn run(arguments: &mut Arguments) -> Result<()> {
    let name = arguments.next_word().unwrap_or_default();
    let Some((_, _, measure)) = MEASUREMENTS.iter().find(|(known, ..)| *known == name) else {
        let lines = MEASUREMENTS
            .iter()
            .map(|(known, what, _)| format!("  {known:<11} {what}\n"));
        bail!("measure what? There is:\n{}", lines.collect::<String>());
    };
    measure(arguments)
}
