//! `warren shard`: shards and their replicas.

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{self, Connection, Target, refused};
use super::cluster::connect;
use super::node::watch;
use super::output::{self, EXIT_NO};
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::cluster_client::ClusterClient;

/// Shards and their replicas.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List shards with their leaders and replicas.
    List,
    /// Move a replica from one node to another.
    Move {
        shard: u32,
        #[arg(long)]
        from: u64,
        #[arg(long)]
        to: u64,
    },
    /// Hand the lead of a shard to another of its nodes.
    Transfer {
        shard: u32,
        #[arg(long)]
        to: u64,
    },
    /// Recover a shard whose majority is lost for ever. Shows what is left of it; acts only with
    /// --node and --confirm. Exits with 3 when nothing was done.
    Recover {
        shard: u32,
        /// The node whose replica decides alone from here on.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        node: u64,
        /// Do it, whatever is lost.
        #[arg(long, requires = "node")]
        confirm: bool,
    },
}

/// Does it; gives the exit code.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { target, verb } = arguments;
    client::run(async {
        let is_json = target.json;
        let mut cluster = connect(&target).await?;
        match verb {
            Verb::List => list(&mut cluster, is_json).await?,
            Verb::Move { shard, from, to } => {
                let request = proto::MoveReplicaRequest { shard, from, to };
                watch("move", cluster.move_replica(request).await, is_json).await?;
            }
            Verb::Transfer { shard, to } => {
                let request = proto::TransferLeaderRequest { shard, to };
                watch("transfer", cluster.transfer_leader(request).await, is_json).await?;
            }
            Verb::Recover {
                shard,
                node,
                confirm,
            } => {
                let request = proto::RecoverShardRequest {
                    shard,
                    node,
                    confirm,
                };
                return recover(&mut cluster, request, is_json).await;
            }
        }
        Ok(0)
    })
}

fn replica_json(replica: &proto::Replica) -> Value {
    json!({
        "node": replica.node,
        "id": replica.id,
        "role": replica.role,
        "last": replica.last,
        "last_term": replica.last_term,
    })
}

async fn list(cluster: &mut ClusterClient<Connection>, is_json: bool) -> anyhow::Result<()> {
    let answer = cluster.list_shards(proto::ListShardsRequest {}).await;
    let shards = answer.map_err(refused)?.into_inner().shards;
    if is_json {
        let shard = |shard: &proto::Shard| {
            let replicas: Vec<Value> = shard.replicas.iter().map(replica_json).collect();
            json!({
                "id": shard.id,
                "leader": shard.leader,
                "term": shard.term,
                "replicas": replicas,
                "settled": shard.settled,
                "committed": shard.committed,
                "queues": shard.queues,
            })
        };
        output::json(&shards.iter().map(shard).collect())?;
        return Ok(());
    }
    let rows = shards.into_iter().map(|shard| {
        let leader = match shard.leader {
            0 => "nobody".to_owned(),
            node => node.to_string(),
        };
        let replicas = shard.replicas.iter().map(|replica| match &*replica.role {
            "voter" => replica.node.to_string(),
            role => format!("{} ({role})", replica.node),
        });
        let replicas: Vec<String> = replicas.collect();
        let settled = if shard.settled { "yes" } else { "no" };
        [
            shard.id.to_string(),
            leader,
            shard.term.to_string(),
            replicas.join(", "),
            settled.to_owned(),
            shard.committed.to_string(),
            shard.queues.to_string(),
        ]
    });
    let head = [
        "SHARD",
        "LEADER",
        "TERM",
        "NODES",
        "IN PLACE",
        "COMMITTED",
        "QUEUES",
    ];
    Ok(output::table(head, rows)?)
}

async fn recover(
    cluster: &mut ClusterClient<Connection>,
    request: proto::RecoverShardRequest,
    is_json: bool,
) -> anyhow::Result<i32> {
    let answer = cluster.recover_shard(request).await;
    let answer = answer.map_err(refused)?.into_inner();
    let code = if answer.recovered { 0 } else { EXIT_NO };
    if is_json {
        let replicas: Vec<Value> = answer.replicas.iter().map(replica_json).collect();
        output::json(&json!({
            "replicas": replicas,
            "text": answer.text,
            "recovered": answer.recovered,
        }))?;
        return Ok(code);
    }
    let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |it| it.to_string());
    let rows = answer.replicas.into_iter().map(|replica| {
        [
            replica.node.to_string(),
            replica.role,
            number(replica.last_term),
            number(replica.last),
        ]
    });
    output::table(["NODE", "ROLE", "LAST TERM", "LAST ENTRY"], rows)?;
    println!("{}", answer.text);
    Ok(code)
}
