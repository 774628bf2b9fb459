//! `warren cluster`: the cluster as a whole.

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{self, Connection, Target, refused};
use super::output::{self, EXIT_NO};
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::cluster_client::ClusterClient;

/// The cluster as a whole.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Nodes and shards, and whether all is where it belongs.
    Status,
    /// What happens on all nodes from here on, a line each, until interrupted.
    Events,
    /// Make a token that lets nodes join.
    Token {
        /// How many nodes.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// How long: 90s, 15m, 1h, 7d.
        #[arg(long, default_value = "1h", value_parser = seconds)]
        ttl: u64,
    },
    /// Even out replicas and leaders now. Done by itself, too.
    Rebalance {
        /// Show what would be moved.
        #[arg(long)]
        dry_run: bool,
    },
    /// Say which queues would lose their majority if nodes went. Exits with 3 when some would.
    Loss {
        /// Of these nodes.
        #[arg(required_unless_present = "zone")]
        nodes: Vec<u64>,
        /// Of all nodes of a zone.
        #[arg(long, conflicts_with = "nodes")]
        zone: Option<String>,
    },
}

/// Does it; gives the exit code.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { target, verb } = arguments;
    client::run(async {
        let is_json = target.json;
        let mut cluster = connect(&target).await?;
        match verb {
            Verb::Status => status(&mut cluster, is_json).await,
            Verb::Events => events(&mut cluster, is_json).await,
            Verb::Token { uses, ttl } => token(&mut cluster, uses, ttl, is_json).await,
            Verb::Rebalance { dry_run } => rebalance(&mut cluster, dry_run, is_json).await,
            Verb::Loss { nodes, zone } => {
                let zone = zone.unwrap_or_default();
                let request = proto::PredictLossRequest { nodes, zone };
                loss(&mut cluster, request, is_json).await
            }
        }
    })
}

pub(super) async fn connect(target: &Target) -> anyhow::Result<ClusterClient<Connection>> {
    Ok(ClusterClient::new(target.connect().await?))
}

/// `90s`, `15m`, `1h`, `7d`, or seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("a number with s, m, h or d is expected".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "no number".to_owned())?;
    let seconds = number.checked_mul(unit).filter(|it| *it > 0);
    seconds.ok_or_else(|| "out of range".to_owned())
}

pub(super) fn state_name(state: i32) -> &'static str {
    match proto::NodeState::try_from(state) {
        Ok(proto::NodeState::Active) => "active",
        Ok(proto::NodeState::Draining) => "draining",
        Ok(proto::NodeState::Leaving) => "leaving",
        Ok(proto::NodeState::Removed) => "removed",
        Ok(proto::NodeState::Unspecified) | Err(_) => "unknown",
    }
}

pub(super) fn node_json(node: &proto::NodeStatus) -> Value {
    json!({
        "id": node.id,
        "name": node.name,
        "zone": node.zone,
        "state": state_name(node.state),
        "reachable": node.reachable,
        "addresses": node.addresses,
        "amqp": node.amqp,
        "http": node.http,
        "replicas": node.replicas,
        "leaders": node.leaders,
        "version": node.version,
        "quorum_critical": node.quorum_critical,
    })
}

async fn status(cluster: &mut ClusterClient<Connection>, is_json: bool) -> anyhow::Result<i32> {
    let answer = cluster.cluster_status(proto::ClusterStatusRequest {}).await;
    let status = answer.map_err(refused)?.into_inner();
    if is_json {
        let nodes: Vec<Value> = status.nodes.iter().map(node_json).collect();
        output::json(&json!({
            "name": status.name,
            "id": status.id,
            "version": status.version,
            "shards": status.shards,
            "answered_by": status.answered_by,
            "nodes": nodes,
            "shards_settled": status.shards_settled,
            "shards_moving": status.shards_moving,
            "shards_without_leader": status.shards_without_leader,
            "shards_degraded": status.shards_degraded,
            "settled": status.settled,
        }))?;
        return Ok(0);
    }
    let rows = status.nodes.into_iter().map(|node| {
        let there = if node.reachable { "yes" } else { "NO" };
        let critical = if node.quorum_critical { "yes" } else { "no" };
        [
            node.id.to_string(),
            node.name,
            node.zone,
            state_name(node.state).to_owned(),
            there.to_owned(),
            node.replicas.to_string(),
            node.leaders.to_string(),
            critical.to_owned(),
            node.amqp.join(", "),
        ]
    });
    let head = [
        "NODE", "NAME", "ZONE", "STATE", "ANSWERS", "REPLICAS", "LEADS", "CRITICAL", "AMQP",
    ];
    output::table(head, rows)?;
    println!();
    println!(
        "cluster {} ({}), version {}",
        status.name, status.id, status.version
    );
    println!(
        "{} queue shards and the definitions: {} in place, {} on their way, {} without a leader, \
         {} with a replica missing",
        status.shards,
        status.shards_settled,
        status.shards_moving,
        status.shards_without_leader,
        status.shards_degraded
    );
    Ok(0)
}

async fn events(cluster: &mut ClusterClient<Connection>, is_json: bool) -> anyhow::Result<i32> {
    let answer = cluster.watch_events(proto::WatchEventsRequest {}).await;
    let mut events = answer.map_err(refused)?.into_inner();
    while let Some(event) = events.message().await.map_err(refused)? {
        if is_json {
            let line = json!({
                "time_millis": event.time_millis,
                "kind": event.kind,
                "node": event.node,
                "shard": event.shard,
                "text": event.text,
                "told_by": event.told_by,
            });
            println!("{line}");
        } else {
            let millis = event.time_millis % 1000;
            let seconds = event.time_millis / 1000 % 86400;
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            println!(
                "{hours:02}:{minutes:02}:{seconds:02}.{millis:03} {:13} node {}: {}",
                event.kind, event.told_by, event.text
            );
        }
    }
    Ok(0)
}

async fn token(
    cluster: &mut ClusterClient<Connection>,
    uses: u32,
    ttl_seconds: u64,
    is_json: bool,
) -> anyhow::Result<i32> {
    let request = proto::CreateJoinTokenRequest { uses, ttl_seconds };
    let answer = cluster.create_join_token(request).await;
    let token = answer.map_err(refused)?.into_inner().token;
    if is_json {
        output::json(&json!({ "token": token }))?;
    } else {
        println!("{token}");
    }
    Ok(0)
}

async fn rebalance(
    cluster: &mut ClusterClient<Connection>,
    dry_run: bool,
    is_json: bool,
) -> anyhow::Result<i32> {
    let answer = cluster.rebalance(proto::RebalanceRequest { dry_run }).await;
    let plan = answer.map_err(refused)?.into_inner();
    if is_json {
        output::json(&json!({ "moves": plan.moves, "held": plan.held }))?;
        return Ok(0);
    }
    plan.moves.iter().for_each(|line| println!("{line}"));
    plan.held.iter().for_each(|line| println!("cannot: {line}"));
    if plan.moves.is_empty() && plan.held.is_empty() {
        println!("all is where it belongs");
    }
    Ok(0)
}

async fn loss(
    cluster: &mut ClusterClient<Connection>,
    request: proto::PredictLossRequest,
    is_json: bool,
) -> anyhow::Result<i32> {
    let answer = cluster.predict_loss(request).await;
    let loss = answer.map_err(refused)?.into_inner();
    let code = if loss.shards.is_empty() { 0 } else { EXIT_NO };
    if is_json {
        output::json(&json!({
            "shards": loss.shards,
            "queues": loss.queues,
            "queue_count": loss.queue_count,
        }))?;
        return Ok(code);
    }
    if loss.shards.is_empty() {
        println!("every shard keeps its majority");
        return Ok(code);
    }
    let shards = loss.shards.len();
    println!(
        "{shards} shards with {} queues would lose their majority",
        loss.queue_count
    );
    loss.queues.iter().for_each(|queue| println!("{queue}"));
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, wanted) in [
            ("90", 90),
            ("90s", 90),
            ("15m", 900),
            ("1h", 3600),
            ("7d", 604_800),
        ] {
            assert_eq!(seconds(text), Ok(wanted), "{text}");
        }
        for text in ["", "h", "1w", "-1s", "0", "99999999999999999999d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
