//! HTTP: the metrics for Prometheus, and what the API answers so far (health checks).
//!
//! Bodies and statuses are RabbitMQ's; what does not exist is a 404 in its words.

mod health;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use tokio::net::TcpListener;

use crate::broker::Broker;

/// Serves `/metrics`, without a login, until the node stops.
pub(crate) async fn serve_metrics(broker: Arc<Broker>, listener: TcpListener) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(broker);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the metrics server ended");
    }
}

/// Serves `/api` until the node stops.
pub(crate) async fn serve_api(broker: Arc<Broker>, listener: TcpListener) {
    let router = Router::new()
        .route("/api/health/checks/alarms", get(health::alarms))
        .route(
            "/api/health/checks/node-is-quorum-critical",
            get(health::node_is_quorum_critical),
        )
        .route(
            "/api/health/checks/ready-to-serve-clients",
            get(health::ready_to_serve_clients),
        )
        .route_layer(from_fn_with_state(Arc::clone(&broker), health::guard))
        .fallback(not_found)
        .with_state(broker);
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    if let Err(error) = axum::serve(listener, service).await {
        tracing::error!(%error, "the API server ended");
    }
}

async fn metrics(State(broker): State<Arc<Broker>>) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        broker.render_metrics(),
    )
        .into_response()
}

async fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "Object Not Found", "Not Found")
}

/// An error in RabbitMQ's form.
fn error(status: StatusCode, error: &str, reason: &str) -> Response {
    let body = serde_json::json!({ "error": error, "reason": reason });
    (status, axum::Json(body)).into_response()
}

/// The name and password of a `Basic` authorization header.
pub(crate) fn credentials(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}

fn not_authorised() -> Response {
    let mut response = error(StatusCode::UNAUTHORIZED, "not_authorized", "Not_Authorized");
    let challenge = header::HeaderValue::from_static("Basic realm=\"RabbitMQ Management\"");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_may_hold_colons_and_raw_bytes() {
        let mut headers = HeaderMap::new();
        assert_eq!(credentials(&headers), None);
        headers.insert(
            header::AUTHORIZATION,
            "Basic Z3Vlc3Q6YTpi".parse().expect("ascii"),
        );
        assert_eq!(
            credentials(&headers),
            Some(("guest".to_owned(), b"a:b".to_vec()))
        );
        headers.insert(
            header::AUTHORIZATION,
            "Bearer Z3Vlc3Q6".parse().expect("ascii"),
        );
        assert_eq!(credentials(&headers), None);
    }
}
