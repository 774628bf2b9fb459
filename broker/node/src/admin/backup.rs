//! The service `Backup`: asks the node's [`Backups`], which work on files, on threads that may
//! wait for them.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use warren_broker_core::definitions::interchange::parse;

use super::access::who;
use super::convert;
use super::definitions::{Answers, imported, stopping};
use super::import::ImportOptions;
use crate::backup::Backups;
use crate::broker::Broker;
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::backup_server::Backup;
use crate::slot::Slot;

pub(super) struct Service {
    pub(super) broker: Arc<Broker>,
    pub(super) backups: Arc<Backups>,
    /// Of all that reads definitions in.
    pub(super) imports: Arc<Slot>,
}

#[tonic::async_trait]
impl Backup for Service {
    async fn create(
        &self,
        request: Request<proto::CreateRequest>,
    ) -> Result<Response<proto::CreateResponse>, Status> {
        let who = who(&request)?.to_string();
        let held = self.backups.slot().take("a backup", &who)?;
        let backups = Arc::clone(&self.backups);
        let made = tokio::task::spawn_blocking(move || {
            let _held = held;
            backups.create()
        });
        let made = made.await.map_err(stopping)??;
        Ok(Response::new(proto::CreateResponse {
            backup: Some(convert::backup(made)),
        }))
    }

    async fn list(
        &self,
        _: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        let backups = Arc::clone(&self.backups);
        let found = tokio::task::spawn_blocking(move || backups.list());
        let found = found.await.map_err(stopping)??;
        Ok(Response::new(proto::ListResponse {
            folder: self.backups.folder().display().to_string(),
            backups: found.into_iter().map(convert::backup).collect(),
        }))
    }

    async fn verify(
        &self,
        request: Request<proto::VerifyRequest>,
    ) -> Result<Response<proto::VerifyResponse>, Status> {
        let who = who(&request)?.to_string();
        let what = "a verification of a backup";
        let held = self.backups.slot().take(what, &who)?;
        let backups = Arc::clone(&self.backups);
        let name = request.into_inner().name;
        let verified = tokio::task::spawn_blocking(move || {
            let _held = held;
            backups.verify(&name)
        });
        let (info, faults) = verified.await.map_err(stopping)??;
        Ok(Response::new(proto::VerifyResponse {
            backup: Some(convert::backup(info)),
            faults,
        }))
    }

    type RestoreStream = Answers<proto::ImportResponse>;

    async fn restore(
        &self,
        request: Request<proto::RestoreRequest>,
    ) -> Result<Response<Self::RestoreStream>, Status> {
        let who = who(&request)?.to_string();
        let held = self.imports.take("a restore", &who)?;
        let wanted = request.into_inner();
        let backups = Arc::clone(&self.backups);
        let name = wanted.name.clone();
        let read = tokio::task::spawn_blocking(move || {
            let file = backups.read(&name)?;
            parse(&file, None).map_err(|error| Status::data_loss(format!("{name}: {error}")))
        });
        let definitions = read.await.map_err(stopping)??;
        let (dry_run, prune) = (wanted.dry_run, wanted.prune);
        tracing::info!(backup = wanted.name, dry_run, prune, who, "restore");
        let options = ImportOptions { dry_run, prune };
        let broker = Arc::clone(&self.broker);
        Ok(Response::new(imported(broker, definitions, options, held)))
    }
}
