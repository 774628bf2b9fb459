//! Administration over gRPC, on the cluster port: `warren.admin.v1`, health and reflection.
//!
//! Nothing here is asked before [`access`] knows the caller as an administrator.

mod access;
mod backup;
mod cluster;
mod convert;
mod definitions;
mod import;
#[cfg(test)]
mod tests;
mod users;

use std::sync::Arc;

use anyhow::Context;
use warren_cluster::grpc::Routes;

use crate::backup::Backups;
use crate::broker::Broker;
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::backup_server::BackupServer;
use crate::proto::admin_v1::cluster_server::ClusterServer;
use crate::proto::admin_v1::definitions_server::DefinitionsServer;
use crate::proto::admin_v1::users_server::UsersServer;
use crate::slot::Slot;

/// Bytes of a message: of a request about users, and of a piece of a file.
const MESSAGE_BYTES_LIMIT: usize = 256 << 10;
const PIECE_BYTES_LIMIT: usize = 2 << 20;

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
    let cluster = ClusterServer::new(cluster::Service::new(Arc::clone(broker)));
    let (health, health_server) = tonic_health::server::health_reporter();
    // Serving from here on: the port opens when the node is ready.
    tokio::spawn(async move {
        health.set_serving::<UsersServer<users::Service>>().await;
        health
            .set_serving::<DefinitionsServer<definitions::Service>>()
            .await;
        health.set_serving::<BackupServer<backup::Service>>().await;
        health
            .set_serving::<ClusterServer<cluster::Service>>()
            .await;
    });
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the services' descriptors cannot be read")?;
    let routes = Routes::new(users.max_decoding_message_size(MESSAGE_BYTES_LIMIT))
        .add_service(definitions.max_decoding_message_size(PIECE_BYTES_LIMIT))
        .add_service(backup.max_decoding_message_size(MESSAGE_BYTES_LIMIT))
        .add_service(cluster.max_decoding_message_size(MESSAGE_BYTES_LIMIT))
        .add_service(health_server)
        .add_service(reflection);
    Ok(access::guarded(routes, broker))
}
