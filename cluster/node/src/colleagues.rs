//! What nodes ask of each other beside the links: what they have and what they tell, and that they
//! leave.
//!
//! Always holds:
//! - only a node that is a member is answered;
//! - what a node says is checked as bytes of a stranger are, and bounded;
//! - a node that does not answer costs whoever asks no more than a moment.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::{Notify, mpsc};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use warren_cluster_core::consensus::Members;
use warren_cluster_core::ids::{Index, NodeId, ReplicaId, ShardId, Term};
use warren_cluster_core::lane::ShardStatus;
use warren_cluster_core::members::{CLUSTER_VERSION, Directory};

use crate::admission::{Desk, with_announced};
use crate::grpc::{self, Routes};
use crate::listener::Caller;
use crate::news::{Heard, NEWS_BYTES_MAX, News, Position, Reader};
use crate::peers::lock;
use crate::proto::node_v1 as proto;
use crate::proto::node_v1::node_client::NodeClient;
use crate::proto::node_v1::node_server::{Node, NodeServer};
use crate::proto::node_v1::watch_response::What;
use crate::tls::Credentials;

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a recovered shard 0 may take to say so, and how often that is looked at.
const RECORD_TIMEOUT: Duration = Duration::from_secs(30);
const RECORD_PERIOD: Duration = Duration::from_millis(50);
const MESSAGE_BYTES_LIMIT: usize = 4 << 20;
/// Bytes around what is told.
const NEWS_MESSAGE_BYTES_LIMIT: usize = NEWS_BYTES_MAX + 64;
/// What is told waits here for the node that asked for it, else among what is kept.
const NEWS_WAITING: usize = 16;

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct Report {
    /// The newest version of a cluster that it can serve in.
    pub version: u32,
    pub replicas: Vec<ShardStatus>,
}

/// The other nodes, and the ways to ask them.
pub(crate) struct Colleagues {
    pub(crate) desk: Arc<Desk>,
    pub(crate) news: Arc<News>,
    credentials: Arc<Credentials>,
    /// Open connections. One that fails is made anew when it is wanted.
    channels: Mutex<BTreeMap<NodeId, NodeClient<Channel>>>,
    /// This node was told that it is no member any more.
    pub(crate) dismissed: Arc<Notify>,
    /// The steward is to look at once.
    pub(crate) look: Arc<Notify>,
    /// The definitions are being recovered here: until their row says so, nobody comes back.
    pub(crate) recovers: std::sync::atomic::AtomicBool,
}

impl Colleagues {
    pub(crate) fn new(desk: Arc<Desk>, credentials: Arc<Credentials>, news: Arc<News>) -> Self {
        Self {
            desk,
            news,
            credentials,
            channels: Mutex::default(),
            dismissed: Arc::default(),
            look: Arc::default(),
            recovers: false.into(),
        }
    }

    pub(crate) fn me(&self) -> NodeId {
        self.credentials.node()
    }

    /// What this node says of itself.
    pub(crate) fn own_report(&self) -> Report {
        Report {
            version: CLUSTER_VERSION,
            replicas: self.desk.lane.hosted(),
        }
    }

    /// What each of `nodes` says of itself, all asked at once; in their order.
    pub(crate) async fn reports(
        self: &Arc<Self>,
        nodes: impl IntoIterator<Item = NodeId>,
    ) -> Vec<(NodeId, Result<Report, String>)> {
        let asked: Vec<_> = nodes
            .into_iter()
            .map(|node| {
                let colleagues = Arc::clone(self);
                let asking = tokio::spawn(async move { colleagues.report(node).await });
                (node, asking)
            })
            .collect();
        let mut reports = Vec::with_capacity(asked.len());
        for (node, asking) in asked {
            let report = asking.await;
            let report = report.unwrap_or_else(|error| Err(error.to_string()));
            reports.push((node, report));
        }
        reports
    }

    async fn report(&self, node: NodeId) -> Result<Report, String> {
        if node == self.me() {
            return Ok(self.own_report());
        }
        let described = self.call(node, async |mut client| {
            client.describe(proto::DescribeRequest {}).await
        });
        let response = described.await?;
        report_of(node, response).map_err(|cause| format!("it answers nonsense: {cause}"))
    }

    /// Has whoever leads the definitions look at the layout without delay.
    pub(crate) async fn look(&self) -> Result<(), String> {
        let leader = self.desk.lane.definitions().and_then(|it| it.leader);
        let (_, node) = leader.ok_or("nobody leads the definitions")?;
        if node == self.me() {
            self.look.notify_one();
            return Ok(());
        }
        let asked = self.call(node, async |mut client| {
            client.look(proto::LookRequest {}).await
        });
        asked.await.map(drop)
    }

    /// Tells a node that it is no member any more.
    pub(crate) async fn dismiss(&self, node: NodeId) -> Result<(), String> {
        let told = self.call(node, async |mut client| {
            client.dismiss(proto::DismissRequest {}).await
        });
        told.await.map(drop)
    }

    /// Makes a replica on another node decide alone.
    pub(crate) async fn recover(
        &self,
        node: NodeId,
        request: proto::RecoverRequest,
    ) -> Result<(), String> {
        let told = self.call(node, async |mut client| client.recover(request).await);
        told.await.map(drop)
    }

    /// What a node tells, from `at` on or as of `age` ago.
    pub(crate) async fn news_of(
        &self,
        node: NodeId,
        at: Position,
        age: Duration,
    ) -> Result<Hearing, String> {
        let request = proto::WatchRequest {
            life: at.life,
            next: at.next,
            age_millis: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        };
        let stream = self.call(node, async |client| {
            let mut client = client.max_decoding_message_size(NEWS_MESSAGE_BYTES_LIMIT);
            client.watch(request).await
        });
        stream.await.map(Hearing)
    }

    /// The node is about to go, or has: what is asked of it next goes by a new connection.
    pub(crate) fn forget(&self, node: NodeId) {
        lock(&self.channels).remove(&node);
    }

    async fn call<T>(
        &self,
        node: NodeId,
        call: impl AsyncFnOnce(NodeClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, String> {
        let called = async {
            let client = self.client(node).await?;
            let called = call(client).await;
            called.map_err(|status| {
                self.forget(node);
                format!("{}: {}", status.code(), status.message())
            })
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, called).await {
            Ok(called) => called.map(Response::into_inner),
            Err(_) => {
                self.forget(node);
                Err("it does not answer".to_owned())
            }
        }
    }

    async fn client(&self, node: NodeId) -> Result<NodeClient<Channel>, String> {
        if let Some(client) = lock(&self.channels).get(&node) {
            return Ok(client.clone());
        }
        let addresses = self.addresses(node);
        let dial = self.credentials.grpc_to(Some(node));
        let dial = dial.map_err(|error| error.to_string())?;
        let channel = grpc::connect(&addresses, &dial, ANSWER_TIMEOUT).await;
        let channel = channel.map_err(|error| error.to_string())?;
        let client = NodeClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_LIMIT);
        lock(&self.channels).insert(node, client.clone());
        Ok(client)
    }

    fn is_member(&self, node: NodeId) -> bool {
        let directory = self.desk.directory();
        let row = directory.nodes.get(&node);
        row.is_some_and(|row| row.value.is_member())
    }

    fn addresses(&self, node: NodeId) -> Vec<String> {
        let directory = self.desk.directory();
        let row = directory.nodes.get(&node);
        let known = row.map_or(&[][..], |row| &row.value.addresses);
        with_announced(known, self.desk.announced.borrow().get(&node))
    }
}

/// What a node tells.
pub(crate) struct Hearing(Streaming<proto::WatchResponse>);

impl Hearing {
    /// Waits for what comes next, and until where the node is heard then; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<(Position, Option<Heard>)> {
        let proto::WatchResponse { life, next, what } = self.0.message().await.ok()??;
        let heard = what.map(|what| match what {
            What::Item(bytes) => Heard::Item(bytes),
            What::Missed(items) => Heard::Missed(items),
        });
        Some((Position { life, next }, heard))
    }
}

/// Serves what colleagues ask.
pub(crate) fn add_routes(routes: Routes, colleagues: Arc<Colleagues>) -> Routes {
    routes.add_service(NodeServer::new(Server { colleagues }))
}

struct Server {
    colleagues: Arc<Colleagues>,
}

impl Server {
    /// The member that asks.
    fn member<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let Caller::Node(node) = grpc::caller(request) else {
            return Err(Status::unauthenticated("only a node may ask this"));
        };
        if self.colleagues.is_member(node) {
            return Ok(node);
        }
        let text = format!("node {node} is no member of this cluster");
        Err(Status::permission_denied(text))
    }
}

#[tonic::async_trait]
impl Node for Server {
    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        self.member(&request)?;
        let report = self.colleagues.own_report();
        let replicas = report.replicas.iter().filter_map(described);
        Ok(Response::new(proto::DescribeResponse {
            version: report.version,
            replicas: replicas.collect(),
        }))
    }

    async fn look(
        &self,
        request: Request<proto::LookRequest>,
    ) -> Result<Response<proto::LookResponse>, Status> {
        self.member(&request)?;
        self.colleagues.look.notify_one();
        Ok(Response::new(proto::LookResponse {}))
    }

    async fn dismiss(
        &self,
        request: Request<proto::DismissRequest>,
    ) -> Result<Response<proto::DismissResponse>, Status> {
        let by = self.member(&request)?;
        tracing::warn!(%by, "this node is no member of its cluster any more");
        self.colleagues.dismissed.notify_one();
        Ok(Response::new(proto::DismissResponse {}))
    }

    async fn recover(
        &self,
        request: Request<proto::RecoverRequest>,
    ) -> Result<Response<proto::RecoverResponse>, Status> {
        let by = self.member(&request)?;
        let request = request.into_inner();
        tracing::warn!(%by, shard = request.shard, "told to recover a shard");
        let recovered = recover_here(&self.colleagues, &request);
        recovered.map_err(Status::failed_precondition)?;
        Ok(Response::new(proto::RecoverResponse {}))
    }

    type WatchStream = ReceiverStream<Result<proto::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let node = self.member(&request)?;
        let proto::WatchRequest {
            life,
            next,
            age_millis,
        } = request.into_inner();
        let from = Position { life, next };
        let age = Duration::from_millis(age_millis);
        let reader = self.colleagues.news.read_on(from, age);
        let (sender, receiver) = mpsc::channel(NEWS_WAITING);
        tokio::spawn(tell(Arc::clone(&self.colleagues), node, reader, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Tells a node the news for as long as it listens and is a member.
async fn tell(
    colleagues: Arc<Colleagues>,
    node: NodeId,
    mut reader: Reader,
    sender: mpsc::Sender<Result<proto::WatchResponse, Status>>,
) {
    let mut heard = None;
    while colleagues.is_member(node) {
        let Position { life, next } = reader.position();
        let what = heard.map(|heard| match heard {
            Heard::Item(bytes) => What::Item(bytes),
            Heard::Missed(items) => What::Missed(items),
        });
        let response = proto::WatchResponse { life, next, what };
        if sender.send(Ok(response)).await.is_err() {
            return;
        }
        heard = tokio::select! {
            heard = reader.next() => heard,
            () = sender.closed() => return,
        };
        if heard.is_none() {
            return;
        }
    }
}

/// Makes a replica of this node decide alone, if it is as it was when the operator saw it.
pub(crate) fn recover_here(
    colleagues: &Arc<Colleagues>,
    request: &proto::RecoverRequest,
) -> Result<(), String> {
    let desk = &colleagues.desk;
    let hosted = desk.lane.hosted();
    let found = hosted.iter().find(|status| status.shard.0 == request.shard);
    let status = found.ok_or("this node has no replica of the shard")?;
    if status.replica != Some(ReplicaId(request.replica)) {
        return Err("this node has another replica of the shard".to_owned());
    }
    if status.last != (Index(request.last), Term(request.last_term)) {
        return Err("the replica's log has moved on: look again".to_owned());
    }
    if status.shard == ShardId::DEFINITIONS {
        colleagues.recovers.store(true, Ordering::Release);
        tokio::spawn(record(Arc::clone(colleagues), ReplicaId(request.replica)));
    }
    desk.lane.recover(status.shard);
    Ok(())
}

/// Writes into the row of the definitions that `replica` alone has them, once it leads them.
async fn record(colleagues: Arc<Colleagues>, replica: ReplicaId) {
    let desk = &colleagues.desk;
    let until = tokio::time::Instant::now() + RECORD_TIMEOUT;
    while tokio::time::Instant::now() < until {
        let directory = desk.directory();
        let row = directory.replicas.get(&ShardId::DEFINITIONS);
        if row.is_some_and(|row| row.value.all().eq([replica])) {
            break;
        }
        let leads = desk.lane.led();
        if leads.iter().any(|it| it.shard == ShardId::DEFINITIONS)
            && let Some(transaction) = directory.recovered(ShardId::DEFINITIONS, replica)
        {
            desk.lane.transact(transaction);
        }
        tokio::time::sleep(RECORD_PERIOD).await;
    }
    colleagues.recovers.store(false, Ordering::Release);
}

fn described(status: &ShardStatus) -> Option<proto::Replica> {
    let (term, leader) = status.leader.unwrap_or((Term(0), NodeId(0)));
    let mut members = Vec::new();
    status.members.encode(&mut members);
    let matched = status.matched.iter().map(|(id, index)| proto::Matched {
        replica: id.0,
        index: index.0,
    });
    Some(proto::Replica {
        shard: status.shard.0,
        replica: status.replica?.0,
        term: term.0,
        leader: leader.0,
        members: members.into(),
        applied: status.applied.0.0,
        applied_term: status.applied.1.0,
        committed: status.committed.0,
        last: status.last.0.0,
        last_term: status.last.1.0,
        matched: matched.collect(),
    })
}

fn report_of(node: NodeId, response: proto::DescribeResponse) -> Result<Report, &'static str> {
    let replicas = response.replicas.into_iter().map(|replica| {
        let id = ReplicaId(replica.replica);
        if id.node() != node {
            return Err("a replica of another node");
        }
        let mut rest: Bytes = replica.members;
        let members = Members::decode(&mut rest)?;
        if rest.has_remaining() {
            return Err("bytes are left over");
        }
        let leader = (replica.leader != 0).then_some(NodeId(replica.leader));
        let matched = replica.matched.iter();
        let matched = matched.map(|it| (ReplicaId(it.replica), Index(it.index)));
        Ok(ShardStatus {
            shard: ShardId(replica.shard),
            replica: Some(id),
            leader: leader.map(|leader| (Term(replica.term), leader)),
            members,
            applied: (Index(replica.applied), Term(replica.applied_term)),
            committed: Index(replica.committed),
            last: (Index(replica.last), Term(replica.last_term)),
            matched: matched.collect(),
        })
    });
    Ok(Report {
        version: response.version,
        replicas: replicas.collect::<Result<_, _>>()?,
    })
}

/// The cluster as one look at all of its nodes shows it.
#[derive(Clone, Debug)]
pub struct Overview {
    pub directory: Arc<Directory>,
    /// What nodes say of themselves, or why nothing is heard of them. All members, the one that
    /// looks too.
    pub nodes: BTreeMap<NodeId, Result<Report, String>>,
}

impl Overview {
    /// Looks at all nodes.
    pub(crate) async fn look(colleagues: &Arc<Colleagues>) -> Self {
        let directory = colleagues.desk.directory();
        let members: Vec<NodeId> = directory.members().map(|(id, _)| id).collect();
        let nodes = colleagues.reports(members).await;
        Self {
            directory,
            nodes: nodes.into_iter().collect(),
        }
    }

    /// Shards as those who lead them see them: of two that say so the one of the later term.
    #[must_use]
    pub fn led(&self) -> BTreeMap<ShardId, ShardStatus> {
        let mut led: BTreeMap<ShardId, ShardStatus> = BTreeMap::new();
        for status in self.replicas() {
            let me = status.replica.map(ReplicaId::node);
            let Some((term, node)) = status.leader else {
                continue;
            };
            if Some(node) != me {
                continue;
            }
            let known = led.get(&status.shard).and_then(|known| known.leader);
            if known.is_none_or(|(other, _)| other < term) {
                led.insert(status.shard, status.clone());
            }
        }
        led
    }

    /// Who leads each shard, as anybody who answers knows it: of two answers the later term.
    #[must_use]
    pub fn leaders(&self) -> BTreeMap<ShardId, (Term, NodeId)> {
        let mut leaders = BTreeMap::new();
        for status in self.replicas() {
            if let Some(leader) = status.leader {
                let known = leaders.entry(status.shard).or_insert(leader);
                *known = leader.max(*known);
            }
        }
        leaders
    }

    /// Every replica that a node has.
    pub fn replicas(&self) -> impl Iterator<Item = &ShardStatus> {
        let reports = self.nodes.values().flatten();
        reports.flat_map(|report| &report.replicas)
    }
}
