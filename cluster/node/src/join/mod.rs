//! How a blank node becomes a member: it asks with a token, or waits to be offered one.
//!
//! Invariants:
//! - the joiner's private key never leaves it: it sends a request that is signed with it;
//! - the joiner believes only the cluster whose authority's fingerprint its token holds, and only
//!   a certificate that this authority signed for its key;
//! - a use of a token is spent on a request that could be let in, never on a malformed one.

mod client;
mod server;
#[cfg(test)]
mod tests;
mod waiting;

use std::pin::Pin;

use warren_cluster_core::ids::{NodeId, ReplicaId};

pub use client::{About, JoinError, Joined, announce, join, renew};
pub use server::{add_routes, routes};
pub use waiting::{AwaitJoin, OfferError, offer};

use crate::tls::{CertificateDer, SignRequest};
use crate::token::{GrantFault, Secret, TokenId};

/// The version of joining that this version speaks.
pub const PROTOCOL: u32 = 1;

/// Bytes that a request or an answer can have.
const MESSAGE_BYTES_LIMIT: usize = 256 << 10;
/// Characters of a name or a zone.
const NAME_BYTES_LIMIT: usize = 255;

/// Decides who becomes a member. Implemented by whoever can change the cluster's definitions.
pub trait Admission: Send + Sync + 'static {
    /// Lets a node in, or says why not.
    ///
    /// The request is well-formed, of this cluster and of a version that can be served, and its
    /// sender has the key that it asks for. What is left to check is the token, by
    /// [`Grant::spend`](crate::token::Grant::spend). The use must be spent, and the node's id be
    /// taken, before the answer goes out. An answer may be lost: a node that asks again with the
    /// same token and [public key](SignRequest::public_key) may be given the same answer.
    fn admit<'a>(
        &'a self,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Result<Admitted, Refusal>> + Send + 'a>>;

    /// Signs the next certificate of `node`, which has shown the one that it has.
    fn renew<'a>(
        &'a self,
        node: NodeId,
        key: SignRequest,
    ) -> Pin<Box<dyn Future<Output = Result<CertificateDer<'static>, Refusal>> + Send + 'a>>;

    /// Hears that `node`, which has shown its certificate, is reached at other addresses from now
    /// on. It will say so in the cluster's definitions once others can answer it. Gives where this
    /// node believes others to be: they may have moved as well.
    ///
    /// # Errors
    /// When it is no member.
    fn announced(&self, node: NodeId, addresses: Vec<String>) -> Result<Addresses, Refusal>;
}

/// Nodes and where they are, `host:port` each.
pub type Addresses = Vec<(NodeId, Vec<String>)>;

/// What a blank node asks with.
#[derive(Debug)]
pub struct Request {
    pub token: TokenId,
    pub secret: Secret,
    /// The key that its certificate is to be for.
    pub key: SignRequest,
    /// For people.
    pub name: String,
    pub zone: String,
    /// Where other nodes reach it, `host:port` each.
    pub addresses: Vec<String>,
    /// The newest version of a cluster that it can serve in.
    pub cluster_version: u32,
}

/// What makes a blank node a member.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub node: NodeId,
    /// The replica of the definitions shard that it is to have.
    pub replica: ReplicaId,
    pub authority: CertificateDer<'static>,
    pub certificate: CertificateDer<'static>,
    /// Queue shards of the cluster.
    pub shards: u32,
    pub peers: Addresses,
}

/// Why a node is not let in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("this cluster knows no such join token")]
    UnknownToken,
    #[error("the join token has expired")]
    Expired,
    #[error("the join token has been used up")]
    UsedUp,
    #[error("the join token is of another cluster")]
    ForeignCluster,
    #[error("the node speaks version {theirs} of joining, the cluster {ours}")]
    Incompatible { ours: u32, theirs: u32 },
    #[error("the cluster is of version {ours}, and the node can serve in version {theirs}")]
    TooOld { ours: u32, theirs: u32 },
    #[error("only a node of the cluster may ask this")]
    NotANode,
    #[error("the request is malformed: {0}")]
    Malformed(String),
    /// Another node, or the same one a little later, may know better.
    #[error("the cluster cannot decide now: {0}")]
    Unavailable(String),
    #[error("not admitted: {0}")]
    NotAdmitted(String),
}

impl From<GrantFault> for Refusal {
    fn from(fault: GrantFault) -> Self {
        match fault {
            GrantFault::Unknown => Self::UnknownToken,
            GrantFault::Expired => Self::Expired,
            GrantFault::UsedUp => Self::UsedUp,
        }
    }
}
