//! The command line. One file a verb; only `start` runs a node, the others are clients: `health`
//! of a node's HTTP, `perf` of AMQP, the rest of the admin API. `dev` runs nodes as its children.

mod backup;
mod client;
mod cluster;
mod definitions;
mod dev;
mod health;
mod import;
mod node;
mod output;
mod perf;
mod shard;
mod start;
mod user;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "warren",
    version,
    about = "A message broker that RabbitMQ's clients work with unchanged"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node (what `warren` does when it is given no command).
    Start(start::Arguments),
    /// The cluster as a whole: status, events, join tokens, balance.
    Cluster(cluster::Arguments),
    /// Nodes: add, drain, resume, remove, replace.
    Node(node::Arguments),
    /// Shards: list, move a replica, transfer a lead, recover.
    Shard(shard::Arguments),
    /// Run a cluster of nodes on this machine, to try things out.
    Dev(dev::Arguments),
    /// Users and what they may do.
    User(user::Arguments),
    /// Definitions files: write, read in, compare.
    Definitions(definitions::Arguments),
    /// Backups of all definitions: make, list, verify, restore.
    Backup(backup::Arguments),
    /// Say whether the node on this machine answers.
    Health(health::Arguments),
    /// Put load on a broker and measure what it does.
    Perf(perf::Arguments),
}

/// Runs what the command line asks for; gives the exit code.
pub(crate) fn run() -> i32 {
    let command = CommandLine::parse().command;
    let result = match command {
        None => start::run(&start::Arguments::default()),
        Some(Command::Start(arguments)) => start::run(&arguments),
        Some(Command::Cluster(arguments)) => cluster::run(arguments),
        Some(Command::Node(arguments)) => node::run(arguments),
        Some(Command::Shard(arguments)) => shard::run(arguments),
        Some(Command::Dev(arguments)) => dev::run(&arguments),
        Some(Command::User(arguments)) => user::run(arguments),
        Some(Command::Definitions(arguments)) => definitions::run(arguments),
        Some(Command::Backup(arguments)) => backup::run(arguments),
        Some(Command::Health(arguments)) => health::run(&arguments),
        Some(Command::Perf(arguments)) => perf::run(&arguments),
    };
    match result {
        Ok(code) => code,
        // Whoever read what we print has read enough.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            eprintln!("warren: {error:#}");
            1
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
