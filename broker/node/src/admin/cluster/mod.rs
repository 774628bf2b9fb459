//! The service `Cluster`: what the nodes and shards are, and what is wanted of them.
//!
//! Any node answers for the whole cluster: what is wanted stands in rows, what is there is asked of
//! all nodes.

mod recovery;
mod status;
mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::tokio_stream::{StreamExt as _, once};
use tonic::{Request, Response, Status};
use warren_cluster::administration::{AddError, Refused};
use warren_cluster::cluster::{Cluster as Node, TokenError};
use warren_cluster::tls::Fingerprint;
use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::members::{Directory, NodeState};
use warren_cluster_core::placement;

use super::access::who;
use super::definitions::Answers;
use crate::broker::Broker;
use crate::events;
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::cluster_server::Cluster;
use work::Work;

/// How long a join token is good for when nobody says.
const TOKEN_SECONDS: u64 = 3600;
/// A token that is good for longer is a hole.
const TOKEN_SECONDS_MAX: u64 = 30 * 24 * 3600;
const TOKEN_USES_MAX: u32 = 1000;
/// How long a node may take to join that was offered the cluster.
const ADD_TIMEOUT: Duration = Duration::from_secs(60);
/// Those who watch the events at this node: each has a call open to every other one.
const WATCHERS_LIMIT: usize = 32;

pub(super) struct Service {
    broker: Arc<Broker>,
    watchers: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self {
            broker,
            watchers: Arc::new(Semaphore::new(WATCHERS_LIMIT)),
        }
    }

    fn node(&self) -> Result<Arc<Node>, Status> {
        let node = self.broker.cluster();
        node.ok_or_else(|| Status::unavailable("the node is starting"))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn cluster_status(
        &self,
        request: Request<proto::ClusterStatusRequest>,
    ) -> Result<Response<proto::ClusterStatusResponse>, Status> {
        who(&request)?;
        let node = self.node()?;
        let overview = node.overview().await;
        Ok(Response::new(status::of_cluster(&node, &overview)))
    }

    type WatchEventsStream = Answers<proto::Event>;

    async fn watch_events(
        &self,
        request: Request<proto::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        who(&request)?;
        let place = Arc::clone(&self.watchers).try_acquire_owned();
        let place = place.map_err(|_| {
            let text = format!("{WATCHERS_LIMIT} watch the events of this node already");
            Status::resource_exhausted(text)
        })?;
        let told = self.node()?.watch_news().await;
        let events = ReceiverStream::new(told).filter_map(move |told| {
            let _place = &place;
            events::heard(told).map(Ok)
        });
        let end = once(Err(Status::unavailable("the node stops")));
        Ok(Response::new(Box::pin(events.chain(end))))
    }

    async fn create_join_token(
        &self,
        request: Request<proto::CreateJoinTokenRequest>,
    ) -> Result<Response<proto::CreateJoinTokenResponse>, Status> {
        let who = who(&request)?;
        let proto::CreateJoinTokenRequest { uses, ttl_seconds } = request.into_inner();
        let uses = if uses == 0 { 1 } else { uses };
        let seconds = if ttl_seconds == 0 {
            TOKEN_SECONDS
        } else {
            ttl_seconds
        };
        if uses > TOKEN_USES_MAX || seconds > TOKEN_SECONDS_MAX {
            let text = format!(
                "a token is for {TOKEN_USES_MAX} nodes and {TOKEN_SECONDS_MAX} seconds at most"
            );
            return Err(Status::invalid_argument(text));
        }
        let life = Duration::from_secs(seconds);
        let token = self.node()?.create_join_token(uses, life).await;
        let token = token.map_err(|error| token_refused(&error))?;
        tracing::info!(%who, uses, seconds, "a join token was made");
        Ok(Response::new(proto::CreateJoinTokenResponse {
            token: token.to_string(),
        }))
    }

    async fn add_node(
        &self,
        request: Request<proto::AddNodeRequest>,
    ) -> Result<Response<proto::AddNodeResponse>, Status> {
        let who = who(&request)?;
        let proto::AddNodeRequest {
            address,
            fingerprint,
        } = request.into_inner();
        let fingerprint = Fingerprint::parse(&fingerprint);
        let fingerprint = fingerprint
            .ok_or_else(|| Status::invalid_argument("a fingerprint has 64 hexadecimal digits"))?;
        let node = self.node()?;
        let added = node.add_node(&address, fingerprint, ADD_TIMEOUT).await;
        let id = added.map_err(|error| match &error {
            AddError::Token(error) => token_refused(error),
            AddError::Offer(_) => Status::failed_precondition(error.to_string()),
            AddError::Late => Status::deadline_exceeded(error.to_string()),
        })?;
        tracing::info!(%who, node = %id, address, "a node was added");
        let overview = node.overview().await;
        let nodes = status::of_cluster(&node, &overview).nodes;
        let node = nodes.into_iter().find(|node| node.id == id.0);
        Ok(Response::new(proto::AddNodeResponse { node }))
    }

    type DrainNodeStream = Answers<proto::WorkProgress>;

    async fn drain_node(
        &self,
        request: Request<proto::DrainNodeRequest>,
    ) -> Result<Response<Self::DrainNodeStream>, Status> {
        let who = who(&request)?;
        let id = NodeId(request.into_inner().node);
        let node = self.node()?;
        set_state(&node, id, NodeState::Draining).await?;
        tracing::info!(%who, node = %id, "a node drains");
        Ok(Response::new(work::watch(node, Work::Drain(id))))
    }

    async fn resume_node(
        &self,
        request: Request<proto::ResumeNodeRequest>,
    ) -> Result<Response<proto::ResumeNodeResponse>, Status> {
        let who = who(&request)?;
        let id = NodeId(request.into_inner().node);
        set_state(&*self.node()?, id, NodeState::Active).await?;
        tracing::info!(%who, node = %id, "a node is active again");
        Ok(Response::new(proto::ResumeNodeResponse {}))
    }

    type RemoveNodeStream = Answers<proto::WorkProgress>;

    async fn remove_node(
        &self,
        request: Request<proto::RemoveNodeRequest>,
    ) -> Result<Response<Self::RemoveNodeStream>, Status> {
        let who = who(&request)?;
        let proto::RemoveNodeRequest { node: id, force } = request.into_inner();
        let (id, node) = (NodeId(id), self.node()?);
        self.remove(&node, id, force).await?;
        tracing::info!(%who, node = %id, force, "a node is to leave");
        Ok(Response::new(work::watch(node, Work::Remove(id))))
    }

    type ReplaceNodeStream = Answers<proto::WorkProgress>;

    async fn replace_node(
        &self,
        request: Request<proto::ReplaceNodeRequest>,
    ) -> Result<Response<Self::ReplaceNodeStream>, Status> {
        let who = who(&request)?;
        let proto::ReplaceNodeRequest { node: id, by } = request.into_inner();
        let (id, by, node) = (NodeId(id), NodeId(by), self.node()?);
        if self.may_leave(&node, id, false).await? {
            let replaced = node.replace(id, by).await;
            replaced.map_err(|why| refused(&why))?;
        }
        tracing::info!(%who, node = %id, %by, "a node is to be replaced");
        Ok(Response::new(work::watch(node, Work::Remove(id))))
    }

    async fn list_shards(
        &self,
        request: Request<proto::ListShardsRequest>,
    ) -> Result<Response<proto::ListShardsResponse>, Status> {
        who(&request)?;
        let overview = self.node()?.overview().await;
        let queues = status::queues_by_shard(&self.broker.topology());
        let shards = status::of_shards(&overview, &queues);
        Ok(Response::new(proto::ListShardsResponse { shards }))
    }

    type MoveReplicaStream = Answers<proto::WorkProgress>;

    async fn move_replica(
        &self,
        request: Request<proto::MoveReplicaRequest>,
    ) -> Result<Response<Self::MoveReplicaStream>, Status> {
        let who = who(&request)?;
        let proto::MoveReplicaRequest { shard, from, to } = request.into_inner();
        let (shard, from, to) = (ShardId(shard), NodeId(from), NodeId(to));
        let node = self.node()?;
        let moved = node.move_replica(shard, from, to).await;
        moved.map_err(|why| refused(&why))?;
        tracing::info!(%who, %shard, %from, %to, "a replica is to move");
        let work = Work::Move { shard, from, to };
        Ok(Response::new(work::watch(node, work)))
    }

    type TransferLeaderStream = Answers<proto::WorkProgress>;

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<Self::TransferLeaderStream>, Status> {
        let who = who(&request)?;
        let proto::TransferLeaderRequest { shard, to } = request.into_inner();
        let (shard, to) = (ShardId(shard), NodeId(to));
        let node = self.node()?;
        let asked = node.prefer_leader(shard, to).await;
        asked.map_err(|why| refused(&why))?;
        tracing::info!(%who, %shard, %to, "a lead is to move");
        let work = Work::Transfer { shard, to };
        Ok(Response::new(work::watch(node, work)))
    }

    async fn rebalance(
        &self,
        request: Request<proto::RebalanceRequest>,
    ) -> Result<Response<proto::RebalanceResponse>, Status> {
        who(&request)?;
        let dry_run = request.into_inner().dry_run;
        let node = self.node()?;
        let overview = node.overview().await;
        let layout = node.layout(&node.placed(&overview));
        if !dry_run {
            let asked = node.lay_out_now().await;
            asked.map_err(|why| refused(&why))?;
        }
        Ok(Response::new(status::of_layout(&overview, &layout)))
    }

    async fn recover_shard(
        &self,
        request: Request<proto::RecoverShardRequest>,
    ) -> Result<Response<proto::RecoverShardResponse>, Status> {
        let who = who(&request)?;
        let request = request.into_inner();
        let node = self.node()?;
        let answer = recovery::recover(&node, &request).await?;
        if answer.recovered {
            let (shard, by) = (request.shard, request.node);
            tracing::warn!(%who, shard, node = by, "a shard was recovered by force");
        }
        Ok(Response::new(answer))
    }

    async fn predict_loss(
        &self,
        request: Request<proto::PredictLossRequest>,
    ) -> Result<Response<proto::PredictLossResponse>, Status> {
        who(&request)?;
        let proto::PredictLossRequest { nodes, zone } = request.into_inner();
        let node = self.node()?;
        let overview = node.overview().await;
        let cluster = node.placed(&overview);
        let nodes: Vec<NodeId> = if nodes.is_empty() {
            placement::nodes_of_zone(&cluster, &zone)
        } else {
            nodes.into_iter().map(NodeId).collect()
        };
        if nodes.is_empty() {
            return Err(Status::not_found(format!("no node is in zone `{zone}`")));
        }
        let directory = &overview.directory;
        if let Some(unknown) = nodes.iter().find(|id| !is_member(directory, **id)) {
            return Err(refused(&Refused::UnknownNode(*unknown)));
        }
        let shards = placement::quorum_risk(&cluster, &nodes);
        let topology = self.broker.topology();
        let (queues, queue_count) = status::queues_of(&topology, &shards, status::QUEUES_MAX);
        Ok(Response::new(proto::PredictLossResponse {
            shards: shards.into_iter().map(|shard| shard.0).collect(),
            queues,
            queue_count,
        }))
    }
}

impl Service {
    /// Makes a node leave, unless queues would lose their majority by it.
    async fn remove(&self, node: &Node, id: NodeId, force: bool) -> Result<(), Status> {
        let state = if force {
            NodeState::Removed
        } else {
            NodeState::Leaving
        };
        if !self.may_leave(node, id, force).await? {
            return Ok(());
        }
        set_state(node, id, state).await
    }

    /// Refuses a removal by which queues would lose their majority, unless it is forced. False
    /// where the node has left before.
    async fn may_leave(&self, node: &Node, id: NodeId, force: bool) -> Result<bool, Status> {
        let overview = node.overview().await;
        if !overview.directory.nodes.contains_key(&id) {
            return Err(refused(&Refused::UnknownNode(id)));
        }
        if !is_member(&overview.directory, id) {
            // There is nothing left to do, or to refuse.
            return Ok(false);
        }
        let broken = node.would_break(&overview, id);
        if !broken.is_empty() && !force {
            let topology = self.broker.topology();
            let (queues, count) = status::queues_of(&topology, &broken, 100);
            let shards: Vec<String> = broken.iter().map(|shard| shard.0.to_string()).collect();
            let more = count.saturating_sub(queues.len() as u64);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            return Err(Status::failed_precondition(format!(
                "without node {id} these shards would have no majority: {}; their queues: {}{more}",
                shards.join(", "),
                queues.join(", "),
            )));
        }
        Ok(true)
    }
}

fn is_member(directory: &Directory, id: NodeId) -> bool {
    let row = directory.nodes.get(&id);
    row.is_some_and(|row| row.value.is_member())
}

async fn set_state(node: &Node, id: NodeId, state: NodeState) -> Result<(), Status> {
    let set = node.set_state(id, state).await;
    set.map_err(|why| refused(&why))
}

fn refused(why: &Refused) -> Status {
    let text = why.to_string();
    match why {
        Refused::UnknownNode(_) | Refused::UnknownShard(_) => Status::not_found(text),
        Refused::Never(_) | Refused::NotNow(_) => Status::failed_precondition(text),
        Refused::Unavailable(_) => Status::unavailable(text),
    }
}

fn token_refused(error: &TokenError) -> Status {
    let text = error.to_string();
    match error {
        TokenError::Issue(_) | TokenError::Useless => Status::invalid_argument(text),
        TokenError::Unavailable(_) => Status::unavailable(text),
    }
}
