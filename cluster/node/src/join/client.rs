//! The joiner's side: asks each address of its token in turn, and checks what it is given.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use warren_cluster_core::ids::{NodeId, ReplicaId};
use warren_cluster_core::members::CLUSTER_VERSION;

use super::{Addresses, MESSAGE_BYTES_LIMIT, PROTOCOL, Refusal};
use crate::grpc::{self, ConnectError};
use crate::proto::join_v1 as proto;
use crate::proto::join_v1::join_client::JoinClient;
use crate::proto::join_v1::join_response::Outcome;
use crate::tls::{self, AuthorityPin, CertificateDer, ClusterId, Credentials, Dial, Key, NodeKeys};
use crate::token::{JoinToken, check_addresses};

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct About {
    /// For people.
    pub name: String,
    pub zone: String,
    /// Where other nodes reach it, `host:port` each.
    pub addresses: Vec<String>,
}

/// A membership, not yet written to disk.
#[derive(Debug)]
pub struct Joined {
    pub keys: NodeKeys,
    /// The replica of the definitions shard that the node is to have.
    pub replica: ReplicaId,
    /// Queue shards of the cluster.
    pub shards: u32,
    pub peers: Addresses,
}

/// Why a node did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The cluster has decided; asking elsewhere changes nothing.
    #[error("{address} refuses: {refusal}")]
    Refused { address: String, refusal: Refusal },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{address} fails: {cause}")]
    Call { address: String, cause: String },
    /// What it answers is not what the token speaks of. Nothing of it is used.
    #[error("{address} answers what cannot be trusted: {cause}")]
    Distrusted { address: String, cause: String },
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

impl JoinError {
    /// Whether another node of the cluster would say the same.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => !matches!(refusal, Refusal::Unavailable(_)),
            Self::Tls(_) => true,
            Self::Connect(_) | Self::Call { .. } | Self::Distrusted { .. } => false,
        }
    }
}

/// Becomes a member of the token's cluster. Each address may take the time `within`.
///
/// # Errors
/// When no address lets the node in; what is given is the cluster's refusal, else about the last.
pub async fn join(
    token: &JoinToken,
    key: Key,
    about: &About,
    within: Duration,
) -> Result<Joined, JoinError> {
    let pin = AuthorityPin {
        cluster: token.cluster,
        fingerprint: token.authority,
    };
    let dial = Dial::anonymous(Arc::new(pin), token.cluster)?;
    let request = request(token, &key, about)?;
    let mut last = None;
    for address in &token.addresses {
        match ask(address, &dial, request.clone(), within).await {
            Ok(admitted) => return trusted(token, key, address, admitted),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(nowhere))
}

/// Asks for this node's next certificate, for `key`, at each address in turn.
///
/// # Errors
/// When none gives one; what is given is the cluster's refusal, else about the last.
pub async fn renew(
    credentials: &Credentials,
    addresses: &[String],
    key: Key,
    within: Duration,
) -> Result<NodeKeys, JoinError> {
    let dial = credentials.grpc_to(None)?;
    let request = proto::RenewRequest {
        certificate_request: key.sign_request()?.into(),
    };
    let mut last = None;
    for address in addresses {
        match ask_renewal(address, &dial, request.clone(), within).await {
            Ok(certificate) => {
                let authority = credentials.authority().clone();
                let certificate = CertificateDer::from(certificate.to_vec());
                let (cluster, node) = (credentials.cluster(), credentials.node());
                let keys = believed(authority, certificate, key, cluster, node);
                let address = address.clone();
                return keys.map_err(|cause| JoinError::Distrusted { address, cause });
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(nowhere))
}

async fn ask_renewal(
    address: &str,
    dial: &Dial,
    request: proto::RenewRequest,
    within: Duration,
) -> Result<Bytes, JoinError> {
    use proto::renew_response::Outcome;
    let mut client = client(address, dial, within).await?;
    let outcome = answered(address, within, client.renew(request))
        .await?
        .outcome;
    match outcome {
        Some(Outcome::Certificate(certificate)) => Ok(certificate),
        Some(Outcome::Refused(refused)) => Err(refused_by(address, refused)),
        None => Err(undecided(address)),
    }
}

/// Tells the node at one of `addresses` where this one is reached from now on, and gives where it
/// believes others to be.
///
/// # Errors
/// When it is not there, or does not want to know.
pub async fn announce(
    credentials: &Credentials,
    to: NodeId,
    addresses: &[String],
    own: &[String],
    within: Duration,
) -> Result<Addresses, JoinError> {
    use proto::announce_response::Outcome;
    let dial = credentials.grpc_to(Some(to))?;
    let mut last = None;
    for address in addresses {
        let request = proto::AnnounceRequest {
            addresses: own.to_vec(),
        };
        let asked = async {
            let mut client = client(address, &dial, within).await?;
            answered(address, within, client.announce(request)).await
        };
        match asked.await.map(|answer| answer.outcome) {
            Ok(Some(Outcome::Known(known))) => {
                return peers(known.peers).map_err(|cause| JoinError::Distrusted {
                    address: address.clone(),
                    cause,
                });
            }
            Ok(Some(Outcome::Refused(refused))) => return Err(refused_by(address, refused)),
            Ok(None) => last = Some(undecided(address)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(nowhere))
}

fn request(token: &JoinToken, key: &Key, about: &About) -> Result<proto::JoinRequest, tls::Error> {
    Ok(proto::JoinRequest {
        protocol: PROTOCOL,
        cluster: Bytes::copy_from_slice(&token.cluster.0.to_le_bytes()),
        token: token.id.0,
        secret: Bytes::copy_from_slice(token.secret.bytes()),
        certificate_request: key.sign_request()?.into(),
        name: about.name.clone(),
        zone: about.zone.clone(),
        addresses: about.addresses.clone(),
        cluster_version: CLUSTER_VERSION,
    })
}

async fn ask(
    address: &str,
    dial: &Dial,
    request: proto::JoinRequest,
    within: Duration,
) -> Result<proto::Admitted, JoinError> {
    let mut client = client(address, dial, within).await?;
    let outcome = answered(address, within, client.join(request))
        .await?
        .outcome;
    match outcome {
        Some(Outcome::Admitted(admitted)) => Ok(admitted),
        Some(Outcome::Refused(refused)) => Err(refused_by(address, refused)),
        None => Err(undecided(address)),
    }
}

async fn client(
    address: &str,
    dial: &Dial,
    within: Duration,
) -> Result<JoinClient<Channel>, JoinError> {
    let channel = grpc::connect(&[address.to_owned()], dial, within).await?;
    Ok(JoinClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_LIMIT)
        .max_encoding_message_size(MESSAGE_BYTES_LIMIT))
}

/// What a call gives, if it does so in time.
async fn answered<T>(
    address: &str,
    within: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, JoinError> {
    let late = |_| Err(Status::deadline_exceeded("no answer in time"));
    let called = tokio::time::timeout(within, call)
        .await
        .unwrap_or_else(late);
    called
        .map(Response::into_inner)
        .map_err(|status| JoinError::Call {
            address: address.to_owned(),
            cause: said(&status),
        })
}

fn refused_by(address: &str, refused: proto::Refused) -> JoinError {
    JoinError::Refused {
        address: address.to_owned(),
        refusal: refusal(refused),
    }
}

fn undecided(address: &str) -> JoinError {
    JoinError::Distrusted {
        address: address.to_owned(),
        cause: "it says neither yes nor no".to_owned(),
    }
}

fn nowhere() -> JoinError {
    JoinError::Call {
        address: "nobody".to_owned(),
        cause: "no address is known".to_owned(),
    }
}

/// A status for people.
pub(super) fn said(status: &Status) -> String {
    match status.code() {
        Code::Unimplemented => "it is no node that could let another in".to_owned(),
        code => format!("{code}: {}", status.message()),
    }
}

fn refusal(refused: proto::Refused) -> Refusal {
    use proto::Reason;
    let text = refused.text;
    match Reason::try_from(refused.reason) {
        Ok(Reason::UnknownToken) => Refusal::UnknownToken,
        Ok(Reason::Expired) => Refusal::Expired,
        Ok(Reason::UsedUp) => Refusal::UsedUp,
        Ok(Reason::ForeignCluster) => Refusal::ForeignCluster,
        Ok(Reason::Incompatible) => Refusal::Incompatible {
            ours: refused.version,
            theirs: PROTOCOL,
        },
        Ok(Reason::TooOld) => Refusal::TooOld {
            ours: refused.version,
            theirs: CLUSTER_VERSION,
        },
        Ok(Reason::NotANode) => Refusal::NotANode,
        Ok(Reason::Malformed) => Refusal::Malformed(text),
        Ok(Reason::Unavailable) => Refusal::Unavailable(text),
        // A later version may have reasons that this one does not know.
        Ok(Reason::NotAdmitted | Reason::Unspecified) | Err(_) => Refusal::NotAdmitted(text),
    }
}

fn peers(said: Vec<proto::Peer>) -> Result<Addresses, String> {
    let peers = said.into_iter().map(|peer| {
        check_addresses(&peer.addresses).map_err(|fault| fault.to_string())?;
        Ok((NodeId(peer.node), peer.addresses))
    });
    peers.collect()
}

/// The membership, if it is one of the token's cluster and for our key.
fn trusted(
    token: &JoinToken,
    key: Key,
    address: &str,
    admitted: proto::Admitted,
) -> Result<Joined, JoinError> {
    let distrusted = |cause: String| JoinError::Distrusted {
        address: address.to_owned(),
        cause,
    };
    if admitted.cluster[..] != token.cluster.0.to_le_bytes() {
        return Err(distrusted("it is of another cluster".to_owned()));
    }
    let authority = CertificateDer::from(admitted.authority.to_vec());
    if tls::Fingerprint::of(&authority) != token.authority {
        return Err(distrusted("its authority is not the token's".to_owned()));
    }
    let certificate = CertificateDer::from(admitted.certificate.to_vec());
    let node = NodeId(admitted.node);
    let keys = believed(authority, certificate, key, token.cluster, node);
    let keys = keys.map_err(distrusted)?;
    let replica = ReplicaId(admitted.replica);
    if replica.node() != node {
        return Err(distrusted("its replica is another node's".to_owned()));
    }
    Ok(Joined {
        keys,
        replica,
        shards: admitted.shards,
        peers: peers(admitted.peers).map_err(distrusted)?,
    })
}

/// The keys, if the authority signed them for this node and key, and they count now.
fn believed(
    authority: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: Key,
    cluster: ClusterId,
    node: NodeId,
) -> Result<NodeKeys, String> {
    let keys = NodeKeys::new(authority, certificate, key).map_err(|error| error.to_string())?;
    keys.check(cluster)?;
    if keys.node != node {
        return Err(format!(
            "it should be of node {node}, and is of node {}",
            keys.node
        ));
    }
    Ok(keys)
}
