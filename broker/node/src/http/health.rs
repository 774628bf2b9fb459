//! `/api/health/checks/...`: 200 and `ok`, or 503 and what is wrong.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use warren_cluster_core::placement;

use super::{credentials, not_authorised};
use crate::broker::Broker;

/// RabbitMQ's words.
const CRITICAL: &str =
    "There are quorum queues that would lose their quorum if the target node is shut down";
/// Queues that one answer names.
const QUEUES_MAX: usize = 1000;

/// Whether any resource alarm is raised.
pub(super) async fn alarms(State(broker): State<Arc<Broker>>) -> Response {
    let alarms = broker.alarms();
    if alarms.reason().is_none() {
        return ok();
    }
    let node = &broker.config().node_name;
    let raised: Vec<_> = [("memory", alarms.memory), ("disk", alarms.disk)]
        .into_iter()
        .filter(|(_, raised)| *raised)
        .map(|(resource, _)| json!({ "node": node, "resource": resource }))
        .collect();
    failed(json!({
        "reason": "resource alarm(s) in effect",
        "alarms": raised,
    }))
}

/// Whether shards would lose their majority if this node went: an orchestrator must not stop it
/// then. A cluster of one is not critical: there is nothing to wait for.
pub(super) async fn node_is_quorum_critical(State(broker): State<Arc<Broker>>) -> Response {
    let Some(cluster) = broker.cluster() else {
        return ok();
    };
    let overview = cluster.overview().await;
    let placed = cluster.placed(&overview);
    let critical = placement::needs_node(&placed, cluster.node());
    if critical.is_empty() {
        return ok();
    }
    let topology = broker.topology();
    let queues = topology
        .queues()
        .filter(|it| critical.contains(&it.row.shard));
    let queues: Vec<_> = queues
        .take(QUEUES_MAX)
        .map(|queue| {
            let name = String::from_utf8_lossy(&queue.name);
            json!({
                "readable_name": format!("queue '{name}' in vhost '{}'", queue.vhost),
                "name": name,
                "virtual_host": &*queue.vhost,
                "type": "quorum",
            })
        })
        .collect();
    let shards: Vec<u32> = critical.iter().map(|shard| shard.0).collect();
    failed(json!({
        "reason": CRITICAL,
        "queues": queues,
        "shards": shards,
    }))
}

/// Whether clients are let in: the node has started, does not stop, is not in maintenance and not
/// where another cluster's node should be.
pub(super) async fn ready_to_serve_clients(State(broker): State<Arc<Broker>>) -> Response {
    if broker.serves() {
        return ok();
    }
    let reason = if *broker.astray().borrow() {
        "another cluster looks for one of its nodes here: the node's log says what to do"
    } else {
        "the node is starting, stopping or in maintenance mode"
    };
    failed(json!({ "reason": reason }))
}

fn ok() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

fn failed(body: Value) -> Response {
    let mut body = body;
    body["status"] = "failed".into();
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// Stands before the checks: any user with a tag may ask.
pub(super) async fn guard(
    State(broker): State<Arc<Broker>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let given = credentials(request.headers());
    let may = given.is_some_and(|(user, password)| broker.may_manage(&user, &password, peer.ip()));
    if may {
        next.run(request).await
    } else {
        not_authorised()
    }
}
