//! What operators ask of a cluster, upon its rows: nodes that drain, leave or stay, replicas that
//! move. A row says what is wanted; the nodes bring it about, whoever watches.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use warren_cluster_core::ids::{NodeId, ReplicaId, ShardId, Time};
use warren_cluster_core::lane::ShardStatus;
use warren_cluster_core::members::{Directory, NodeState, Wanted, steps};
use warren_cluster_core::placement::{self, Known, Layout};
use warren_cluster_core::rows::Transaction;

use crate::cluster::Cluster;
use crate::colleagues::{Overview, recover_here};
use crate::join::{self, OfferError};
use crate::proto::node_v1 as proto;
use crate::tls::Fingerprint;

/// How long a change of a row is tried, against others that change it too.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a cluster does not do what it is asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    #[error("node {0} is no member of this cluster")]
    UnknownNode(NodeId),
    #[error("there is no shard {0}")]
    UnknownShard(ShardId),
    #[error("{0}")]
    Never(String),
    /// As things are.
    #[error("{0}")]
    NotNow(String),
    /// Shard 0 cannot be changed now.
    #[error("the cluster cannot decide now: {0}")]
    Unavailable(String),
}

impl Cluster {
    /// One look at all nodes.
    pub async fn overview(&self) -> Overview {
        Overview::look(&self.colleagues).await
    }

    /// What there is to lay out for such shards and replicas.
    #[must_use]
    pub fn layout(&self, placed: &placement::Cluster) -> Layout {
        placement::layout(placed, &self.placement, Time(0))
    }

    /// The shards and their replicas, as a layout is made from.
    #[must_use]
    pub fn placed(&self, overview: &Overview) -> placement::Cluster {
        let silent = overview.nodes.iter().filter(|(_, report)| report.is_err());
        let known = Known {
            shards: overview.led(),
            weights: BTreeMap::new(),
            down: silent.map(|(id, _)| (*id, Time(0))).collect(),
        };
        placement::cluster(&overview.directory, &known, &self.placement, Time(0))
    }

    /// The shards that a removal of `node` would leave without a majority.
    #[must_use]
    pub fn would_break(&self, overview: &Overview, node: NodeId) -> Vec<ShardId> {
        placement::would_break(&self.placed(overview), &self.placement, Time(0), node)
    }

    /// Whether there is a way to a node.
    fn answers(&self, node: NodeId) -> bool {
        node == self.node() || self.reachable.borrow().contains(&node)
    }

    /// Sets what is wanted of a node.
    ///
    /// # Errors
    /// When there is no such node, it leaves already, or the rows cannot be changed.
    pub async fn set_state(&self, node: NodeId, state: NodeState) -> Result<(), Refused> {
        self.change(|directory| {
            let row = directory.nodes.get(&node).map(|row| &row.value);
            // Before anything else: whoever was to be removed is no member once that is done.
            if row.is_some_and(|row| row.state == state) {
                return Ok(None);
            }
            let row = row.filter(|row| row.is_member());
            let row = row.ok_or(Refused::UnknownNode(node))?;
            if row.state == NodeState::Leaving && state != NodeState::Removed {
                let text = format!("node {node} is leaving the cluster");
                return Err(Refused::Never(text));
            }
            if state != NodeState::Active {
                let others = directory.members();
                let mut others = others.filter(|(id, _)| *id != node);
                let active = NodeState::Active;
                if !others.any(|(id, other)| other.state == active && self.answers(id)) {
                    let text = format!("node {node} is the last one that could lead");
                    return Err(Refused::NotNow(text));
                }
            }
            Ok(directory.put_state(node, state))
        })
        .await
    }

    /// Gives `to` the place that `from` has in a shard.
    ///
    /// # Errors
    /// When there is nothing to move, no place for it, or the rows cannot be changed.
    pub async fn move_replica(
        &self,
        shard: ShardId,
        from: NodeId,
        to: NodeId,
    ) -> Result<(), Refused> {
        self.change(|directory| {
            let mut wanted = wanted(directory, shard)?;
            may_have(directory, to, |id| self.answers(id))?;
            let has =
                |node: NodeId| wanted.voters.contains(&node) || wanted.learners.contains(&node);
            if !has(from) && has(to) {
                return Ok(None);
            }
            if shard == ShardId::DEFINITIONS {
                let text = "every node has a replica of shard 0".to_owned();
                return Err(Refused::Never(text));
            }
            if !has(from) {
                let text = format!("node {from} has no replica of shard {shard}");
                return Err(Refused::NotNow(text));
            }
            if has(to) {
                let text = format!("node {to} has a replica of shard {shard} already");
                return Err(Refused::NotNow(text));
            }
            give_place(&mut wanted, from, to);
            Ok(directory.assign(&BTreeMap::from([(shard, wanted)]), 1))
        })
        .await
    }

    /// Has whoever leads the definitions look at the layout without delay.
    ///
    /// # Errors
    /// When nobody leads them, or the leader does not answer.
    pub async fn lay_out_now(&self) -> Result<(), Refused> {
        let looked = self.colleagues.look().await;
        looked.map_err(Refused::Unavailable)
    }

    /// Gives `by` the places that `node` has in queue shards, and makes `node` leave. Where both
    /// have a replica another node takes the place.
    ///
    /// # Errors
    /// When `by` is not active, or the rows cannot be changed.
    pub async fn replace(&self, node: NodeId, by: NodeId) -> Result<(), Refused> {
        self.change(|directory| {
            may_have(directory, by, |id| self.answers(id))?;
            if by == node {
                return Err(Refused::Never("a node cannot replace itself".to_owned()));
            }
            let mut places = BTreeMap::new();
            for (shard, _) in directory.replicas_on(node) {
                if shard == ShardId::DEFINITIONS {
                    continue;
                }
                let mut wanted = wanted(directory, shard)?;
                if give_place(&mut wanted, node, by) {
                    places.insert(shard, wanted);
                }
            }
            Ok(directory.assign(&places, usize::MAX))
        })
        .await?;
        self.set_state(node, NodeState::Leaving).await
    }

    /// Makes `to` the node that is to lead a shard.
    ///
    /// # Errors
    /// When it has no vote, is not to lead anything, or the rows cannot be changed.
    pub async fn prefer_leader(&self, shard: ShardId, to: NodeId) -> Result<(), Refused> {
        self.change(|directory| {
            let mut wanted = wanted(directory, shard)?;
            may_have(directory, to, |id| self.answers(id))?;
            if wanted.voters.first() == Some(&to) {
                return Ok(None);
            }
            let Some(at) = wanted.voters.iter().position(|node| *node == to) else {
                let text = format!("node {to} has no vote in shard {shard}");
                return Err(Refused::NotNow(text));
            };
            wanted.voters.swap(0, at);
            Ok(directory.assign(&BTreeMap::from([(shard, wanted)]), 1))
        })
        .await
    }

    /// Lets a node in that waits at `address` to be offered a cluster.
    ///
    /// # Errors
    /// When it is not there, is another one, or does not want to.
    pub async fn add_node(
        &self,
        address: &str,
        fingerprint: Fingerprint,
        within: Duration,
    ) -> Result<NodeId, AddError> {
        let before = self.directory();
        let token = self.create_join_token(1, Duration::from_secs(600)).await?;
        if let Err(error) = join::offer(address, fingerprint, &token, within).await {
            let forgotten = self
                .change(|directory| Ok(directory.drop_grant(token.id.0)))
                .await;
            if let Err(why) = forgotten {
                tracing::warn!(%why, "a token that nobody has was not taken back: it expires");
            }
            return Err(error.into());
        }
        let mut directory = self.watch();
        // Others may join meanwhile.
        let new = |directory: &Directory| {
            let mut nodes = directory.members();
            let is_it = |(id, node): &(NodeId, &warren_cluster_core::members::Node)| {
                let is_new = !before.nodes.contains_key(id);
                is_new && node.addresses.iter().any(|it| it == address)
            };
            let by_address = nodes.find(is_it).map(|(id, _)| id);
            // It may have another name for itself than the operator.
            let mut newer = directory.nodes.keys().copied();
            by_address.or_else(|| newer.find(|id| !before.nodes.contains_key(id)))
        };
        let waited = directory.wait_for(|directory| new(directory).is_some());
        let waited = tokio::time::timeout(within, waited).await;
        match waited {
            Ok(Ok(directory)) => new(&directory).ok_or(AddError::Late),
            _ => Err(AddError::Late),
        }
    }

    /// Makes the replica that a node has of a shard decide alone. `seen` is what the operator was
    /// shown of it: nothing happens where it has moved on.
    ///
    /// # Errors
    /// When the shard has a leader, or the replica is not as it was seen.
    pub async fn recover(&self, node: NodeId, seen: &ShardStatus) -> Result<(), Refused> {
        let replica = seen.replica.unwrap_or_default();
        if seen.shard != ShardId::DEFINITIONS {
            // Before anything else: what the others had agreed to is never wanted again (rule 4).
            let only = [replica];
            let recorded = self.change(|directory| {
                let row = directory.replicas.get(&seen.shard);
                let row = row.ok_or(Refused::UnknownShard(seen.shard))?;
                if row.value.all().eq(only) {
                    return Ok(None);
                }
                Ok(directory.recovered(seen.shard, replica))
            });
            recorded.await.map_err(|why| match why {
                Refused::Unavailable(why) => {
                    Refused::NotNow(format!("recover shard 0 first: {why}"))
                }
                why => why,
            })?;
        }
        let request = proto::RecoverRequest {
            shard: seen.shard.0,
            replica: replica.0,
            last: seen.last.0.0,
            last_term: seen.last.1.0,
        };
        let done = if node == self.node() {
            recover_here(&self.colleagues, &request)
        } else {
            self.colleagues.recover(node, request).await
        };
        done.map_err(Refused::NotNow)
    }

    /// Ends when this node was told that it is no member any more.
    pub async fn dismissed(&self) {
        self.colleagues.dismissed.notified().await;
    }

    /// Proposes what `make` makes of the rows until it is there; `None` from it: it is there.
    async fn change(
        &self,
        make: impl Fn(&Directory) -> Result<Option<Transaction>, Refused>,
    ) -> Result<(), Refused> {
        let until = Instant::now() + CHANGE_TIMEOUT;
        loop {
            let before = self.directory();
            let Some(transaction) = make(&before)? else {
                return Ok(());
            };
            let changed = |directory: &Directory| *directory != *before;
            let decided = self.desk.transact(transaction, changed).await;
            decided.map_err(Refused::Unavailable)?;
            if Instant::now() >= until {
                let text = "others change the same all the time".to_owned();
                return Err(Refused::Unavailable(text));
            }
        }
    }
}

/// Why a node could not be let in.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    #[error(transparent)]
    Token(#[from] crate::cluster::TokenError),
    #[error(transparent)]
    Offer(#[from] OfferError),
    #[error("the node took the offer, and did not join in time")]
    Late,
}

/// Puts `to` where `from` is; nothing where it is there already.
fn give_place(wanted: &mut Wanted, from: NodeId, to: NodeId) -> bool {
    if wanted.voters.contains(&to) || wanted.learners.contains(&to) {
        return false;
    }
    let all = wanted.voters.iter_mut().chain(&mut wanted.learners);
    let place = all.into_iter().find(|node| **node == from);
    place.map(|place| *place = to).is_some()
}

/// What a shard's row says, as nodes.
fn wanted(directory: &Directory, shard: ShardId) -> Result<Wanted, Refused> {
    let row = directory.replicas.get(&shard);
    let row = &row.ok_or(Refused::UnknownShard(shard))?.value;
    let nodes = |ids: &[ReplicaId]| ids.iter().map(|id| id.node()).collect();
    Ok(Wanted {
        voters: nodes(&row.voters),
        learners: nodes(&row.learners),
    })
}

/// Whether a node may be given something; `answers` tells of nodes that there is a way to.
fn may_have(
    directory: &Directory,
    node: NodeId,
    answers: impl Fn(NodeId) -> bool,
) -> Result<(), Refused> {
    let row = directory.nodes.get(&node).map(|row| &row.value);
    match row.filter(|row| row.is_member()).map(|row| row.state) {
        None => Err(Refused::UnknownNode(node)),
        Some(NodeState::Active) if answers(node) => Ok(()),
        Some(NodeState::Active) => Err(Refused::NotNow(format!("node {node} does not answer"))),
        Some(_) => Err(Refused::NotNow(format!("node {node} is not active"))),
    }
}

/// Whether a shard's members are those of its row.
#[must_use]
pub fn is_settled(directory: &Directory, status: &ShardStatus) -> bool {
    let row = directory.replicas.get(&status.shard);
    row.is_some_and(|row| steps::is_settled(&row.value, status))
}
