//! `warren perf`: loads for any AMQP 0-9-1 broker, and what came of them.
//!
//! Invariants:
//! - nothing here knows the node: a broker is what answers at a URI;
//! - the summary goes to stdout, all else to stderr;
//! - exit codes: 0 all well, 1 an error or a finding of `--check`, 2 flags that make no sense.

mod arguments;
mod batch;
mod bulk;
mod check;
mod churn;
mod client;
mod clock;
mod confirms;
mod connections;
mod consumer;
mod context;
mod gauge;
mod histogram;
mod plan;
mod process;
mod progress;
mod publisher;
mod queues;
mod report;
mod schedule;
mod stamp;
mod system;
mod threads;
mod topology;
mod traffic;
mod uri;

use clap::Subcommand;

/// Puts load on a broker and measures what it does.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Publish and consume as fast as it goes.
    Throughput(arguments::Traffic),
    /// Publish at a steady rate; how long do messages take?
    Latency(arguments::Traffic),
    /// Publish to one exchange that hands each message to all queues.
    Fanout(arguments::Traffic),
    /// Publish a number of messages, then consume them.
    Backlog(arguments::Traffic),
    /// Open connections and keep them.
    Connections(connections::Arguments),
    /// Declare queues.
    Queues(queues::Arguments),
    /// Connect, declare an exclusive queue, publish, get, close, again and again.
    Churn(churn::Arguments),
}

/// Runs the load; gives the exit code.
///
/// # Errors
/// When it cannot be set up: no connection, or the broker refuses.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<i32> {
    match &arguments.load {
        Load::Throughput(flags) => traffic::run(plan::Load::Throughput, flags),
        Load::Latency(flags) => traffic::run(plan::Load::Latency, flags),
        Load::Fanout(flags) => traffic::run(plan::Load::Fanout, flags),
        Load::Backlog(flags) => traffic::run(plan::Load::Backlog, flags),
        Load::Connections(flags) => connections::run(flags),
        Load::Queues(flags) => queues::run(flags),
        Load::Churn(flags) => churn::run(flags),
    }
}

/// Ends the process as clap does when flags make no sense.
fn refuse(why: &str) -> ! {
    clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, format!("{why}\n")).exit()
}
