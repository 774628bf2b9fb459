//! Administration over gRPC, on the cluster port: `warren.admin.v1`, health and reflection.
//!
//! Nothing here is asked before [`access`] knows the caller as an administrator.

mod access;
mod backup;
mod convert;
mod definitions;
mod import;
#[cfg(test)]
mod tests;
mod users;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use warren_cluster::grpc::Routes;
use warren_cluster::link::{Class, LinkEvents, LinkOptions, Links};
use warren_cluster::listener::{Listener, Port};
use warren_cluster::tls::{Credentials, Files, NodeKeys};
use warren_cluster_core::ids::NodeId;

use crate::backup::Backups;
use crate::broker::{Broker, random};
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::backup_server::BackupServer;
use crate::proto::admin_v1::definitions_server::DefinitionsServer;
use crate::proto::admin_v1::users_server::UsersServer;
use crate::slot::Slot;

/// Bytes of a message: of a request about users, and of a piece of a file.
const MESSAGE_BYTES_LIMIT: usize = 256 << 10;
const PIECE_BYTES_LIMIT: usize = 2 << 20;
/// How often it is looked whether a certificate is to be renewed.
const RENEW_PERIOD: Duration = Duration::from_secs(3600);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The services, behind the guard.
pub(crate) fn routes(broker: &Arc<Broker>, backups: &Arc<Backups>) -> anyhow::Result<Routes> {
    let imports = Arc::new(Slot::default());
    let users = UsersServer::new(users::Service {
        broker: Arc::clone(broker),
    });
    let service = definitions::Service::new(Arc::clone(broker), Arc::clone(&imports));
    let definitions = DefinitionsServer::new(service);
    let backup = BackupServer::new(backup::Service {
        broker: Arc::clone(broker),
        backups: Arc::clone(backups),
        imports,
    });
    let (health, health_server) = tonic_health::server::health_reporter();
    // Serving from here on: the port opens when the node is ready.
    tokio::spawn(async move {
        health.set_serving::<UsersServer<users::Service>>().await;
        health
            .set_serving::<DefinitionsServer<definitions::Service>>()
            .await;
        health.set_serving::<BackupServer<backup::Service>>().await;
    });
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the services' descriptors cannot be read")?;
    let routes = Routes::new(users.max_decoding_message_size(MESSAGE_BYTES_LIMIT))
        .add_service(definitions.max_decoding_message_size(PIECE_BYTES_LIMIT))
        .add_service(backup.max_decoding_message_size(MESSAGE_BYTES_LIMIT))
        .add_service(health_server)
        .add_service(reflection);
    Ok(access::guarded(routes, broker))
}

/// The folder's membership of its cluster; a blank folder founds one.
pub(crate) fn membership(broker: &Broker) -> anyhow::Result<NodeKeys> {
    let files = Files::new(&broker.config().data_dir);
    let now = broker.lane().now().wall;
    let keys = match files.node()? {
        Some(keys) => keys,
        None => {
            let keys = files.found(now)?;
            tracing::info!(cluster = %keys.cluster, "founded a cluster");
            keys
        }
    };
    Ok(files.renew(now)?.unwrap_or(keys))
}

/// Opens the cluster port of a node without peers.
pub(crate) fn serve(
    broker: &Arc<Broker>,
    backups: &Arc<Backups>,
    keys: &NodeKeys,
    socket: TcpListener,
) -> anyhow::Result<Port> {
    let credentials = Arc::new(Credentials::new(keys)?);
    let options = LinkOptions::new(broker.lane().now().wall.0, random());
    let links = Links::start(options, Arc::clone(&credentials), Arc::new(NoPeers));
    let routes = routes(broker, backups)?;
    let listener = Listener::new(socket)?;
    let port = listener.start(&credentials, links, routes, HANDSHAKE_TIMEOUT)?;
    tokio::spawn(renew(Arc::clone(broker), credentials));
    Ok(port)
}

/// Replaces certificates when they are at two thirds of their life.
async fn renew(broker: Arc<Broker>, credentials: Arc<Credentials>) {
    let files = Files::new(&broker.config().data_dir);
    let mut period = tokio::time::interval(RENEW_PERIOD);
    loop {
        period.tick().await;
        let now = broker.lane().now().wall;
        let files = files.clone();
        let renewed = tokio::task::spawn_blocking(move || files.renew(now)).await;
        let Ok(renewed) = renewed else {
            return;
        };
        let replaced = match renewed {
            Ok(None) => continue,
            Ok(Some(keys)) => credentials.replace(&keys),
            Err(error) => Err(error),
        };
        match replaced {
            Ok(()) => tracing::info!("the node's certificate is renewed"),
            Err(error) => tracing::error!(%error, "cannot renew the node's certificate"),
        }
    }
}

/// Of a cluster of one, in which nobody sends.
struct NoPeers;

impl LinkEvents for NoPeers {
    fn message(&self, _: NodeId, _: Class, _: bytes::Bytes) {}

    fn connected(&self, _: NodeId, _: u64) {}

    fn lost(&self, _: NodeId) {}
}
