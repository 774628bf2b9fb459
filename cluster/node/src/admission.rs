//! Who becomes a member, decided upon shard 0's rows: any node may be asked.
//!
//! Always holds:
//! - a use is spent, an id taken and shard 0's replica assigned in one transaction, and the answer
//!   goes out after it;
//! - a key that was let in before is given the same answer again, for no further use;
//! - what is refused changes nothing.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use warren_cluster_core::ids::{NodeId, ReplicaId, ShardId, Time};
use warren_cluster_core::members::{Directory, Node, NodeState};
use warren_cluster_core::rows::{Transaction, Version};

use crate::join::{Addresses, Admission, Admitted, Refusal, Request};
use crate::peers::Lane;
use crate::tls::{self, Authority, CertificateDer, ClusterId, Key, SignRequest};
use crate::token::{ADDRESSES_LIMIT, Grant, IssueError, JoinToken};

/// How long a decision may take: below it the joiner asks elsewhere.
const DECISION_TIMEOUT: Duration = Duration::from_secs(10);

/// Lets nodes in, and signs for those that are.
pub(crate) struct Desk {
    pub(crate) lane: Arc<dyn Lane>,
    pub(crate) cluster: ClusterId,
    pub(crate) directory: watch::Receiver<Arc<Directory>>,
    pub(crate) wall: Arc<dyn Fn() -> Time + Send + Sync>,
    /// Where nodes said that they are, when shard 0 could not be told yet.
    pub(crate) announced: watch::Sender<BTreeMap<NodeId, Vec<String>>>,
    /// One decision of this node at a time: they would only be in each other's way.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("a token is for 1 use at least, and for some time")]
    Useless,
    #[error("the cluster cannot keep the token now: {0}")]
    Unavailable(String),
}

impl Desk {
    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.directory.borrow().clone()
    }

    /// Proposes a transaction and waits until `decided` holds.
    pub(crate) async fn transact(
        &self,
        transaction: Transaction,
        decided: impl FnMut(&Directory) -> bool,
    ) -> Result<Arc<Directory>, String> {
        let mut decided = decided;
        let mut directory = self.directory.clone();
        self.lane.transact(transaction);
        let waited = directory.wait_for(|directory| decided(directory));
        match tokio::time::timeout(DECISION_TIMEOUT, waited).await {
            Ok(Ok(directory)) => Ok(directory.clone()),
            Ok(Err(_)) => Err("the node stops".to_owned()),
            Err(_) => Err("a majority of the voters of shard 0 does not answer".to_owned()),
        }
    }

    /// A new token, good for `uses` nodes and for `life`. What has expired of others is forgotten.
    pub(crate) async fn create_token(
        &self,
        uses: u32,
        life: Duration,
        own: &[String],
    ) -> Result<JoinToken, TokenError> {
        let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        if uses == 0 || millis == 0 {
            return Err(TokenError::Useless);
        }
        let directory = self.directory();
        let authority = self.authority(&directory);
        let authority = authority.map_err(|why| TokenError::Unavailable(why.to_string()))?;
        let mut addresses = own.to_vec();
        let others = directory.members().flat_map(|(_, node)| &node.addresses);
        for address in others {
            if !addresses.contains(address) && addresses.len() < ADDRESSES_LIMIT {
                addresses.push(address.clone());
            }
        }
        let token = JoinToken::issue(self.cluster, authority.fingerprint(), addresses)?;
        let now = (self.wall)();
        let grant = Grant::new(&token, uses, Time(now.0.saturating_add(millis)));
        let expired = directory.grants.iter().filter(|(_, grant)| {
            let grant = Grant::decode(&grant.value);
            grant.is_none_or(|grant| grant.expires <= now)
        });
        let expired: Vec<u64> = expired.map(|(token, _)| *token).collect();
        let id = token.id.0;
        let transaction = directory.put_grant(id, grant.encode().into(), &expired);
        self.transact(transaction, |directory| directory.grants.contains_key(&id))
            .await
            .map_err(TokenError::Unavailable)?;
        Ok(token)
    }

    /// Hears of others what somebody else believes, beside what is known already.
    pub(crate) fn heard(&self, believed: Addresses, me: NodeId) {
        self.announced.send_if_modified(|announced| {
            let mut news = false;
            for (node, believed) in believed.into_iter().filter(|(node, _)| *node != me) {
                let known = announced.entry(node).or_default();
                let new = believed.into_iter().filter(|it| !known.contains(it));
                let new: Vec<String> = new.collect();
                news |= !new.is_empty();
                known.splice(0..0, new);
                known.truncate(ADDRESSES_LIMIT);
            }
            news
        });
    }

    /// The cluster's authority, as its row has it.
    pub(crate) fn authority(&self, directory: &Directory) -> Result<Authority, Refusal> {
        let unavailable = |cause: String| Refusal::Unavailable(cause);
        let row = directory.authority.as_ref();
        let row = row.ok_or_else(|| unavailable("this node has no definitions yet".to_owned()))?;
        let key = std::str::from_utf8(&row.value.key).map_err(|error| error.to_string());
        let key = key.and_then(|pem| Key::from_pem(pem).map_err(|error| error.to_string()));
        let key = key.map_err(unavailable)?;
        let certificate = CertificateDer::from(row.value.certificate.to_vec());
        Authority::new(self.cluster, certificate, key)
            .map_err(|error| unavailable(error.to_string()))
    }

    /// Signs for a member.
    pub(crate) fn sign(
        &self,
        node: NodeId,
        key: &SignRequest,
    ) -> Result<CertificateDer<'static>, Refusal> {
        let directory = self.directory();
        let authority = self.authority(&directory)?;
        match directory.nodes.get(&node) {
            Some(row) if row.value.is_member() => {}
            _ => return Err(not_a_member(node)),
        }
        authority
            .sign_node(node, key, (self.wall)(), Authority::NODE_LIFE_MS)
            .map_err(|error: tls::Error| Refusal::Unavailable(error.to_string()))
    }

    async fn decide(&self, request: Request) -> Result<Admitted, Refusal> {
        let _turn = self.turn.lock().await;
        loop {
            let directory = self.directory();
            let Some(next) = &directory.next else {
                let cause = "this node has no definitions yet".to_owned();
                return Err(Refusal::Unavailable(cause));
            };
            if let Some((node, row)) = directory.node_of(request.key.public_key()) {
                if !row.is_member() {
                    return Err(not_a_member(node));
                }
                return self.answer(node, &request.key, &directory);
            }
            check_version(&directory, request.cluster_version)?;
            let grant = directory.grants.get(&request.token.0);
            let grant = grant.and_then(|row| Grant::decode(&row.value));
            let grant = grant.ok_or(Refusal::UnknownToken)?;
            let spent = grant.spend(&request.secret, (self.wall)())?;
            let node = self.row_of(&request);
            let admission = directory.admit(&node, request.token.0, spent.encode().into());
            let Some(admission) = admission else {
                return Err(Refusal::Unavailable("no id is left".to_owned()));
            };
            let (token, before) = (request.token.0, versions(&directory, request.token.0));
            debug_assert!(before.0 == Some(next.version));
            // Ours went through, or another that was made from the same rows: the next look tells.
            self.transact(admission.transaction, |directory| {
                versions(directory, token) != before
            })
            .await
            .map_err(Refusal::Unavailable)?;
        }
    }

    fn row_of(&self, request: &Request) -> Node {
        Node {
            name: request.name.clone(),
            zone: request.zone.clone(),
            addresses: request.addresses.clone(),
            amqp: Vec::new(),
            http: Vec::new(),
            state: NodeState::Active,
            joined: (self.wall)(),
            key: Bytes::copy_from_slice(request.key.public_key()),
        }
    }

    fn answer(
        &self,
        node: NodeId,
        key: &SignRequest,
        directory: &Directory,
    ) -> Result<Admitted, Refusal> {
        let unavailable = |what: &str| Refusal::Unavailable(format!("{what} is not known here"));
        let cluster = directory.cluster.as_ref();
        let cluster = cluster.ok_or_else(|| unavailable("the cluster"))?;
        let row = directory.replicas.get(&ShardId::DEFINITIONS);
        let replica: Option<ReplicaId> = row.and_then(|row| row.value.on(node));
        let peers = directory.members().filter(|(id, _)| *id != node);
        Ok(Admitted {
            node,
            replica: replica.ok_or_else(|| unavailable("the node's replica"))?,
            authority: self.authority(directory)?.certificate().clone(),
            certificate: self.sign(node, key)?,
            shards: cluster.value.shards,
            peers: peers
                .map(|(id, node)| (id, node.addresses.clone()))
                .collect(),
        })
    }
}

/// Where a node is: as it announced it last, then as it is known otherwise.
pub(crate) fn with_announced(known: &[String], announced: Option<&Vec<String>>) -> Vec<String> {
    let newer = announced.into_iter().flatten();
    let newer = newer.filter(|it| !known.contains(it));
    newer.chain(known).cloned().collect()
}

/// Where the members are: as they announced it last, as their rows say. Also nodes that the
/// directory does not have yet, if they, or others, have said where they are.
pub(crate) fn whereabouts(
    directory: &Directory,
    announced: &BTreeMap<NodeId, Vec<String>>,
) -> BTreeMap<NodeId, Vec<String>> {
    let members = directory.members();
    let members = members.map(|(id, row)| (id, with_announced(&row.addresses, announced.get(&id))));
    // Ids grow, and are never used again.
    let next = directory.next.as_ref().map(|row| row.value.node);
    let newer = announced
        .iter()
        .filter(|(id, _)| next.is_some_and(|next| **id >= next))
        .map(|(id, at)| (*id, at.clone()));
    newer.chain(members).collect()
}

/// What a transaction that lets a node in is made from.
fn versions(directory: &Directory, token: u64) -> (Option<Version>, Option<Version>) {
    let next = directory.next.as_ref().map(|row| row.version);
    (next, directory.grants.get(&token).map(|row| row.version))
}

/// Whether a node that can serve in clusters up to version `theirs` has a place here.
fn check_version(directory: &Directory, theirs: u32) -> Result<(), Refusal> {
    let ours = directory
        .cluster
        .as_ref()
        .map_or(0, |row| row.value.version);
    if theirs < ours {
        return Err(Refusal::TooOld { ours, theirs });
    }
    Ok(())
}

fn not_a_member(node: NodeId) -> Refusal {
    Refusal::NotAdmitted(format!("node {node} is no member of this cluster"))
}

impl Admission for Desk {
    fn admit<'a>(
        &'a self,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Result<Admitted, Refusal>> + Send + 'a>> {
        Box::pin(self.decide(request))
    }

    fn renew<'a>(
        &'a self,
        node: NodeId,
        key: SignRequest,
    ) -> Pin<Box<dyn Future<Output = Result<CertificateDer<'static>, Refusal>> + Send + 'a>> {
        Box::pin(async move { self.sign(node, &key) })
    }

    fn announced(&self, node: NodeId, addresses: Vec<String>) -> Result<Addresses, Refusal> {
        let directory = self.directory();
        // Before this node has definitions it cannot tell, and the certificate must do.
        if let Some(row) = directory.nodes.get(&node)
            && !row.value.is_member()
        {
            return Err(not_a_member(node));
        }
        self.announced.send_if_modified(|announced| {
            let before = announced.insert(node, addresses.clone());
            before.as_ref() != Some(&addresses)
        });
        // It may have been away when they joined, and must know whoever leads the definitions.
        let mut others = whereabouts(&directory, &self.announced.borrow());
        others.remove(&node);
        Ok(others.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use warren_cluster_core::members::{Cluster, Versioned};

    use super::*;

    #[test]
    fn a_program_that_is_too_old_for_the_cluster_is_not_let_in() {
        let version = Version(1);
        let value = Cluster {
            id: 7,
            name: "c".to_owned(),
            shards: 1,
            version: 3,
            founded: Time(0),
        };
        let directory = Directory {
            cluster: Some(Versioned { value, version }),
            ..Directory::default()
        };
        let too_old = Refusal::TooOld { ours: 3, theirs: 2 };
        assert_eq!(check_version(&directory, 2), Err(too_old));
        assert_eq!(check_version(&directory, 3), Ok(()));
        assert_eq!(check_version(&directory, 4), Ok(()));
    }
}
