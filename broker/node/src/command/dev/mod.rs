//! `warren dev`: a cluster of nodes on this machine, each a child process, to try things out.
//!
//! Always holds:
//! - node `i` has the same addresses at every start with the same offset;
//! - a child that ends is reported and stays ended until `warren dev start`;
//! - signals go to children that this process started and has not seen the end of, and to nobody
//!   else: `kill` and `start` ask this process to act (`control`);
//! - when it ends, its children have ended, and a folder that nobody asked to keep is gone.

mod control;
mod nodes;
mod settled;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use tokio::signal::unix::{Signal, SignalKind, signal};

use control::{Command, Control};
use nodes::{Folder, Nodes};

pub(super) const NODES_MAX: u16 = 20;
/// Above this the last node's cluster port is none any more.
const OFFSET_MAX: i64 = 65_535 - 25_671 - NODES_MAX as i64;
/// How often it is looked whether children have ended.
const POLL: Duration = Duration::from_millis(100);
/// How long children may take to end after they were told to.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Run a cluster on this machine until Ctrl-C.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: u16,
    /// Added to all ports: node i has amqp 5671+i, http 15671+i, metrics 15691+i, cluster 25671+i.
    #[arg(long, value_name = "K", default_value_t = 0, global = true,
        value_parser = clap::value_parser!(u16).range(0..=OFFSET_MAX))]
    port_offset: u16,
    /// Keep the nodes' data in this folder, and begin with what is in it (default: a temporary
    /// folder, removed at the end).
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Verb {
    /// Kill a node (SIGKILL) of the cluster that runs in another terminal.
    Kill { node: u16 },
    /// Start a node again that has ended.
    Start { node: u16 },
}

/// Runs the cluster, or has the one that runs do something; gives the exit code.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<i32> {
    let offset = arguments.port_offset;
    let command = match arguments.verb {
        Some(Verb::Kill { node }) => Command::Kill(node),
        Some(Verb::Start { node }) => Command::Start(node),
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            return runtime.block_on(serve(arguments));
        }
    };
    println!("{}", control::ask(offset, command)?);
    Ok(0)
}

async fn serve(arguments: &Arguments) -> anyhow::Result<i32> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut control = Control::open(arguments.port_offset)?;
    let folder = Folder::new(
        arguments.keep.as_deref(),
        arguments.nodes,
        arguments.port_offset,
    )?;
    let mut nodes = Nodes::new(folder.path(), arguments.nodes, arguments.port_offset)?;
    for number in 1..=arguments.nodes {
        println!("{}", nodes.start(number)?);
    }
    let mut poll = tokio::time::interval(POLL);
    let settled = settled::wait(nodes.at());
    let mut settled = std::pin::pin!(settled);
    let mut ready = false;
    loop {
        tokio::select! {
            () = told(&mut interrupt, &mut terminate) => break,
            () = &mut settled, if !ready => {
                ready = true;
                println!("ready");
            }
            request = control.next() => {
                let answer = match request.command {
                    Command::Kill(node) => nodes.kill(node),
                    Command::Start(node) => nodes.start(node),
                };
                if let Ok(text) = &answer {
                    println!("{text}");
                }
                request.answer(answer).await;
            }
            _ = poll.tick() => nodes.ended().iter().for_each(|text| println!("{text}")),
        }
    }
    println!("stopping");
    stop(&mut nodes, &mut interrupt, &mut terminate).await
}

async fn told(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Tells all children to end and waits for them; a second signal kills them.
async fn stop(
    nodes: &mut Nodes,
    interrupt: &mut Signal,
    terminate: &mut Signal,
) -> anyhow::Result<i32> {
    nodes.terminate();
    let mut poll = tokio::time::interval(POLL);
    let limit = tokio::time::sleep(STOP_LIMIT);
    let mut limit = std::pin::pin!(limit);
    let mut failed = false;
    while nodes.run() {
        tokio::select! {
            _ = poll.tick() => {
                for text in nodes.ended() {
                    println!("{text}");
                    failed |= !text.ends_with(nodes::WELL);
                }
            }
            () = told(interrupt, terminate) => {
                nodes.kill_all();
                bail!("a second signal: the nodes were killed");
            }
            () = &mut limit => {
                nodes.kill_all();
                bail!("nodes that did not end within {STOP_LIMIT:?} were killed");
            }
        }
    }
    Ok(i32::from(failed))
}
