//! The service `Definitions`: files in RabbitMQ's JSON, out, in, and compared.
//!
//! A file that comes in is held whole, up to the limit of the format, and one at a time: for an
//! import, a comparison or a restore.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use warren_broker_core::definitions::diff::{Change, Difference, diff};
use warren_broker_core::definitions::interchange::{
    Definitions, FILE_BYTES_MAX, ObjectKind, Scope, Section, parse,
};

use super::access::who;
use super::convert;
use super::import::{ImportOptions, import};
use crate::broker::Broker;
use crate::definitions::export;
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::definitions_server::Definitions as Served;
use crate::proto::admin_v1::{diff_request, export_response, import_request};
use crate::slot::{Held, Slot};

/// How long the next piece of a file, or of an answer, may take.
const PIECE_WAIT: Duration = Duration::from_secs(60);
/// Messages that wait for a client that reads slowly.
const WAITING_LIMIT: usize = 8;
/// Files that may be written at a time.
const EXPORTS_LIMIT: usize = 4;
/// Differences that are told of at a time.
const DIFFERENCES_AT_A_TIME: usize = 500;

pub(super) struct Service {
    broker: Arc<Broker>,
    slot: Arc<Slot>,
    exports: Arc<Semaphore>,
}

/// Answers of which more may come.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(super) fn new(broker: Arc<Broker>, slot: Arc<Slot>) -> Self {
        Self {
            broker,
            slot,
            exports: Arc::new(Semaphore::new(EXPORTS_LIMIT)),
        }
    }
}

#[tonic::async_trait]
impl Served for Service {
    type ExportStream = Answers<proto::ExportResponse>;

    async fn export(
        &self,
        request: Request<proto::ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let who = who(&request)?;
        let wanted = request.into_inner();
        let Ok(place) = Arc::clone(&self.exports).try_acquire_owned() else {
            return Err(Status::resource_exhausted("too many exports at a time"));
        };
        let vhost = (!wanted.vhost.is_empty()).then_some(wanted.vhost);
        if let Some(vhost) = &vhost
            && self.broker.topology().vhost(vhost).is_none()
        {
            return Err(Status::not_found(format!("no vhost '{vhost}'")));
        }
        tracing::info!(vhost, %who, "definitions exported");
        let (sender, receiver) = mpsc::channel(WAITING_LIMIT);
        let broker = Arc::clone(&self.broker);
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let send = |part| {
                let part = Some(part);
                // Who went away wants nothing more.
                let _ = sender.blocking_send(Ok(proto::ExportResponse { part }));
            };
            let scope = vhost.as_deref().map_or(Scope::Cluster, Scope::Vhost);
            let emit = &mut |piece: &[u8]| {
                let piece = Bytes::copy_from_slice(piece);
                send(export_response::Part::Chunk(piece));
            };
            match export(&broker, scope, wanted.internal_exchanges, emit) {
                Ok(exported) => send(export_response::Part::Done(proto::Exported {
                    objects: exported.objects,
                    notes: exported.notes,
                })),
                Err(error) => {
                    let _ = sender.blocking_send(Err(Status::not_found(error.to_string())));
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type ImportStream = Answers<proto::ImportResponse>;

    async fn import(
        &self,
        request: Request<Streaming<proto::ImportRequest>>,
    ) -> Result<Response<Self::ImportStream>, Status> {
        let who = who(&request)?.to_string();
        let held = self.slot.take("an import", &who)?;
        let mut stream = request.into_inner();
        let first = next(&mut stream).await?.and_then(|message| message.part);
        let Some(import_request::Part::Options(options)) = first else {
            return Err(Status::invalid_argument("the options come first"));
        };
        let file = received(&mut stream, |message| match message.part {
            Some(import_request::Part::Chunk(chunk)) => Some(chunk),
            Some(import_request::Part::Options(_)) | None => None,
        })
        .await?;
        let definitions = parsed(file, options.vhost).await?;
        tracing::info!(
            objects = definitions.len(),
            dry_run = options.dry_run,
            prune = options.prune,
            who,
            "import of definitions"
        );
        let options = ImportOptions {
            dry_run: options.dry_run,
            prune: options.prune,
        };
        let broker = Arc::clone(&self.broker);
        Ok(Response::new(imported(broker, definitions, options, held)))
    }

    type DiffStream = Answers<proto::DiffResponse>;

    async fn diff(
        &self,
        request: Request<Streaming<proto::DiffRequest>>,
    ) -> Result<Response<Self::DiffStream>, Status> {
        let who = who(&request)?.to_string();
        let held = self.slot.take("a comparison", &who)?;
        let mut stream = request.into_inner();
        let first = next(&mut stream).await?.and_then(|message| message.part);
        let Some(diff_request::Part::Options(options)) = first else {
            return Err(Status::invalid_argument("the options come first"));
        };
        let file = received(&mut stream, |message| match message.part {
            Some(diff_request::Part::Chunk(chunk)) => Some(chunk),
            Some(diff_request::Part::Options(_)) | None => None,
        })
        .await?;
        let definitions = parsed(file, options.vhost).await?;
        let broker = Arc::clone(&self.broker);
        let compared = tokio::task::spawn_blocking(move || compare(&broker, &definitions));
        let differences = compared.await.map_err(stopping)??;
        let (sender, receiver) = mpsc::channel(WAITING_LIMIT);
        tokio::spawn(async move {
            let _held = held;
            let mut differences = differences.into_iter().map(convert::difference);
            loop {
                let some: Vec<_> = differences.by_ref().take(DIFFERENCES_AT_A_TIME).collect();
                let is_last = some.len() < DIFFERENCES_AT_A_TIME;
                let message = Ok(proto::DiffResponse { differences: some });
                let sent = tokio::time::timeout(PIECE_WAIT, sender.send(message)).await;
                if is_last || !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Runs an import; what it tells, then what it came to.
pub(super) fn imported(
    broker: Arc<Broker>,
    definitions: Definitions,
    options: ImportOptions,
    held: Held,
) -> Answers<proto::ImportResponse> {
    let (sender, receiver) = mpsc::channel(WAITING_LIMIT);
    let (listener, mut steps) = mpsc::channel(WAITING_LIMIT);
    let work = async move {
        let _held = held;
        let definitions = Arc::new(definitions);
        let outcome = import(&broker, definitions, options, &listener).await;
        match &outcome {
            Ok(outcome) => tracing::info!(
                created = outcome.created,
                changed = outcome.changed,
                deleted = outcome.deleted,
                blocked = outcome.blocked.len(),
                "import ended"
            ),
            Err(error) => tracing::warn!(%error, "import ended"),
        }
        outcome
    };
    let work = tokio::spawn(work);
    tokio::spawn(async move {
        while let Some(step) = steps.recv().await {
            if sender.send(Ok(convert::step(step))).await.is_err() {
                // Dropping `steps` tells the import; it may have to go on all the same.
                return;
            }
        }
        let last = match work.await {
            Ok(Ok(outcome)) => Ok(convert::outcome(outcome, options.dry_run)),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(stopping(error)),
        };
        let _ = sender.send(last).await;
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// A task was cut short.
#[expect(clippy::needless_pass_by_value, reason = "is handed to `map_err`")]
pub(super) fn stopping(error: tokio::task::JoinError) -> Status {
    tracing::error!(%error, "admin API: a call was cut short");
    Status::unavailable("the call was cut short: the node is stopping, or see its log")
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    let next = tokio::time::timeout(PIECE_WAIT, stream.message()).await;
    next.unwrap_or_else(|_| Err(Status::deadline_exceeded("the file does not go on")))
}

/// The whole file.
async fn received<T>(
    stream: &mut Streaming<T>,
    chunk: impl Fn(T) -> Option<Bytes>,
) -> Result<Vec<u8>, Status> {
    let mut file = Vec::new();
    while let Some(message) = next(stream).await? {
        let Some(chunk) = chunk(message) else {
            return Err(Status::invalid_argument("a piece of the file is expected"));
        };
        if file.len() + chunk.len() > FILE_BYTES_MAX {
            let text = format!("the file has more than {FILE_BYTES_MAX} bytes");
            return Err(Status::invalid_argument(text));
        }
        file.extend_from_slice(&chunk);
    }
    Ok(file)
}

/// What the file says.
pub(super) async fn parsed(file: Vec<u8>, vhost: String) -> Result<Definitions, Status> {
    let parsed = tokio::task::spawn_blocking(move || {
        let vhost = (!vhost.is_empty()).then_some(vhost);
        parse(&file, vhost.as_deref())
    });
    let parsed = parsed.await.map_err(stopping)?;
    parsed.map_err(|error| Status::invalid_argument(error.to_string()))
}

/// How the file differs from what is there. A section that the file lacks says nothing.
fn compare(broker: &Broker, file: &Definitions) -> Result<Vec<Difference>, Status> {
    let scope = file.vhost.as_deref().map_or(Scope::Cluster, Scope::Vhost);
    let mut contents = file.contents.values();
    let internal = contents.any(|contents| {
        contents
            .exchanges
            .values()
            .any(|exchange| exchange.internal)
    });
    let mut text = Vec::new();
    export(broker, scope, internal, &mut |piece| {
        text.extend_from_slice(piece);
    })
    .map_err(|error| Status::not_found(error.to_string()))?;
    let ours = parse(&text, scope.vhost()).map_err(|error| Status::internal(error.to_string()))?;
    let says = |difference: &Difference| {
        difference.change != Change::Removed
            || section(difference.kind).is_none_or(|of| file.sections.contains(&of))
    };
    let mut differences = diff(&ours, file);
    differences.retain(says);
    Ok(differences)
}

/// The section that objects of a kind stand in, if it is one of their own.
fn section(kind: ObjectKind) -> Option<Section> {
    match kind {
        ObjectKind::User | ObjectKind::UserLimit => Some(Section::Users),
        ObjectKind::Vhost => Some(Section::Vhosts),
        ObjectKind::Permission => Some(Section::Permissions),
        ObjectKind::TopicPermission => Some(Section::TopicPermissions),
        ObjectKind::GlobalParameter => Some(Section::GlobalParameters),
        ObjectKind::Policy => Some(Section::Policies),
        ObjectKind::Parameter | ObjectKind::OperatorPolicy => Some(Section::Parameters),
        ObjectKind::Exchange => Some(Section::Exchanges),
        ObjectKind::Queue => Some(Section::Queues),
        ObjectKind::Binding => Some(Section::Bindings),
        ObjectKind::VhostLimit => None,
    }
}
