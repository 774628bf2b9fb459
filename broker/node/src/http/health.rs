//! `/api/health/checks/...`: 200 and `ok`, or 503 and what is wrong.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{credentials, not_authorised};
use crate::broker::Broker;

/// Whether any resource alarm is raised. Any user with a tag may ask.
pub(super) async fn alarms(
    State(broker): State<Arc<Broker>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let Some((user, password)) = credentials(&headers) else {
        return not_authorised();
    };
    if !broker.may_manage(&user, &password, peer.ip()) {
        return not_authorised();
    }
    let alarms = broker.alarms();
    if alarms.reason().is_none() {
        return Json(json!({ "status": "ok" })).into_response();
    }
    let node = &broker.config().node_name;
    let raised: Vec<_> = [("memory", alarms.memory), ("disk", alarms.disk)]
        .into_iter()
        .filter(|(_, raised)| *raised)
        .map(|(resource, _)| json!({ "node": node, "resource": resource }))
        .collect();
    let body = json!({
        "status": "failed",
        "reason": "resource alarm(s) in effect",
        "alarms": raised,
    });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}
