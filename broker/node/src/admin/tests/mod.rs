//! The admin API of a whole node, over its own port.

mod access;
mod astray;
mod backups;
mod cluster;
mod events;
mod files;
mod nodes;
mod users;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use bytes::Bytes;
use tonic::codegen::tokio_stream;
use tonic::transport::Channel;
use tonic::{Request, Status};
use warren_broker_core::definitions::Store;
use warren_cluster::cluster::Cluster;
use warren_cluster::grpc::{ConnectError, connect};
use warren_cluster::tls::{Dial, Files, admin_client};
use warren_cluster_core::ids::Time;
use warren_cluster_core::rows::Version;

use super::routes;
use crate::backup::Backups;
use crate::broker::Broker;
use crate::config::Config;
use crate::definitions;
use crate::metrics::Registry;
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::definitions_client::DefinitionsClient;
use crate::proto::admin_v1::import_response::Part;
use crate::proto::admin_v1::{export_response, import_request};

/// For whatever a test waits for.
const WITHIN: Duration = Duration::from_secs(20);
/// Written by a RabbitMQ.
const FIXTURE: &[u8] =
    include_bytes!("../../../../core/src/definitions/testdata/rabbitmq-3.10-cluster.json");

/// A node in this process, in a folder of its own.
struct Node {
    broker: Arc<Broker>,
    backups: Arc<Backups>,
    cluster: Arc<Cluster>,
    folder: PathBuf,
}

impl Node {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("warren-admin-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let mut config = Config {
            data_dir: folder.join("data"),
            cluster: any,
            shards: 4,
            segment_bytes: 4 << 20,
            backup_time: None,
            ..Config::default()
        };
        change(&mut config);
        let listener = crate::cluster::prepare(&config, now()).await;
        let listener = listener.expect("a port, and a place in the cluster");
        let broker = Arc::new(Broker::new(config, Registry::default()));
        definitions::open(&broker).expect("opens");
        let backups = Arc::new(Backups::new(Arc::clone(&broker), broker.lane().cluster()));
        let routes = routes(&broker, &backups).expect("serves");
        let cluster = crate::cluster::start(&broker, listener, any, any, routes).await;
        let cluster = cluster.expect("founds");
        let first = definitions::first_definitions(&broker).await;
        first.expect("stores");
        Self {
            broker,
            backups,
            cluster,
            folder,
        }
    }

    fn data(&self) -> &Path {
        &self.broker.config().data_dir
    }

    fn files(&self) -> Files {
        Files::new(self.data())
    }

    async fn channel(&self, dial: &Dial) -> Result<Channel, ConnectError> {
        connect(&[self.cluster.address().to_string()], dial, WITHIN).await
    }

    /// With the certificate that the node made.
    async fn admin(&self) -> Channel {
        let keys = self.files().admin().expect("reads").expect("is there");
        let dial = admin_client(&keys).expect("a client");
        self.channel(&dial).await.expect("connects")
    }

    async fn definitions(&self) -> DefinitionsClient<Channel> {
        DefinitionsClient::new(self.admin().await)
    }

    /// Of the replicated definitions: moves with whatever is written.
    fn version(&self) -> Version {
        self.broker.topology().version(Store::Replicated)
    }

    async fn stop(self) {
        // What waits in it may need the others.
        let lane = self.broker.lane().clone();
        let stopped = tokio::task::spawn_blocking(move || lane.stop(WITHIN));
        assert!(stopped.await.expect("does not panic"));
        self.cluster.stop().await;
        std::fs::remove_dir_all(&self.folder).expect("removes");
    }

    async fn export(&self, vhost: &str) -> Vec<u8> {
        let request = proto::ExportRequest {
            vhost: vhost.to_owned(),
            internal_exchanges: false,
        };
        let answer = self.definitions().await.export(request).await;
        let mut stream = answer.expect("answers").into_inner();
        let mut file = Vec::new();
        loop {
            let message = stream.message().await.expect("goes on").expect("ends well");
            match message.part.expect("is something") {
                export_response::Part::Chunk(piece) => file.extend_from_slice(&piece),
                export_response::Part::Done(_) => return file,
            }
        }
    }

    async fn import(&self, file: &[u8], options: proto::ImportOptions) -> Result<Imported, Status> {
        let request = tokio_stream::iter(import_messages(file, options));
        let answer = self.definitions().await.import(request).await?;
        imported(answer.into_inner()).await
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Time(since.expect("after 1970").as_millis() as u64)
}

/// What an import or a restore has answered.
struct Imported {
    entries: Vec<proto::Entry>,
    progress: Vec<proto::Progress>,
    result: proto::ImportResult,
}

async fn imported(mut stream: tonic::Streaming<proto::ImportResponse>) -> Result<Imported, Status> {
    let (mut entries, mut progress) = (Vec::new(), Vec::new());
    loop {
        let message = stream.message().await?.expect("a result comes first");
        match message.part.expect("is something") {
            Part::Entries(some) => entries.extend(some.entries),
            Part::Progress(step) => progress.push(step),
            Part::Result(result) => {
                return Ok(Imported {
                    entries,
                    progress,
                    result,
                });
            }
        }
    }
}

fn import_messages(file: &[u8], options: proto::ImportOptions) -> Vec<proto::ImportRequest> {
    let chunk = |piece: &[u8]| import_request::Part::Chunk(Bytes::copy_from_slice(piece));
    let first = import_request::Part::Options(options);
    [first]
        .into_iter()
        .chain(file.chunks(1000).map(chunk))
        .map(|part| proto::ImportRequest { part: Some(part) })
        .collect()
}

/// A request with a user's credentials.
fn from_user<T>(message: T, user: &str, password: &str) -> Request<T> {
    let pair = format!("{user}:{password}");
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    let value = format!("Basic {encoded}").parse().expect("is ASCII");
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", value);
    request
}
