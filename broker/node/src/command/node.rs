//! `warren node`: nodes that come, rest and go.

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;
use tonic::{Response, Status, Streaming};

use super::client::{self, Target, refused};
use super::cluster::{connect, node_json};
use super::output::{self, Progress};
use crate::proto::admin_v1 as proto;

/// Nodes that come, rest and go.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Let a node in that was started with `--await-join`.
    Add {
        /// Its cluster port.
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// As the node prints it.
        #[arg(long)]
        fingerprint: String,
    },
    /// Take a node out of service: it leads nothing and serves no clients until it is resumed.
    Drain { node: u64 },
    /// Put a drained node back into service.
    Resume { node: u64 },
    /// Move everything away from a node, then take it out of the cluster for ever.
    Remove {
        node: u64,
        /// At once, although queues lose their majority: for a node that is lost.
        #[arg(long)]
        force: bool,
    },
    /// The same, where another node takes over.
    Replace {
        node: u64,
        /// The node that takes over, which has joined before.
        #[arg(long)]
        by: u64,
    },
}

/// Does it; gives the exit code.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { target, verb } = arguments;
    client::run(async {
        let is_json = target.json;
        let mut cluster = connect(&target).await?;
        match verb {
            Verb::Add {
                address,
                fingerprint,
            } => {
                let request = proto::AddNodeRequest {
                    address,
                    fingerprint,
                };
                let answer = cluster.add_node(request).await;
                let added = answer.map_err(refused)?.into_inner().node;
                let added = added.context("the node does not say whom it added")?;
                if is_json {
                    output::json(&node_json(&added))?;
                } else {
                    println!("node {} ({}) has joined", added.id, added.name);
                }
            }
            Verb::Drain { node } => {
                let answer = cluster.drain_node(proto::DrainNodeRequest { node }).await;
                watch("drain", answer, is_json).await?;
            }
            Verb::Resume { node } => {
                let answer = cluster.resume_node(proto::ResumeNodeRequest { node }).await;
                answer.map_err(refused)?;
            }
            Verb::Remove { node, force } => {
                let request = proto::RemoveNodeRequest { node, force };
                watch("remove", cluster.remove_node(request).await, is_json).await?;
            }
            Verb::Replace { node, by } => {
                let request = proto::ReplaceNodeRequest { node, by };
                watch("replace", cluster.replace_node(request).await, is_json).await?;
            }
        }
        Ok(0)
    })
}

/// Shows how far work is, until it is done.
pub(super) async fn watch(
    what: &'static str,
    answer: Result<Response<Streaming<proto::WorkProgress>>, Status>,
    is_json: bool,
) -> anyhow::Result<()> {
    let mut stream = answer.map_err(refused)?.into_inner();
    let mut progress = Progress::new(what);
    while let Some(step) = stream.message().await.map_err(refused)? {
        progress.set(step.done, step.total);
        if step.finished {
            progress.finish();
            if is_json {
                output::json(&json!({ "text": step.text }))?;
            } else {
                println!("{}", step.text);
            }
            return Ok(());
        }
    }
    anyhow::bail!("the node stopped telling how far it is; run the same command again to watch")
}
