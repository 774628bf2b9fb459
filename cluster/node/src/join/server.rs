//! The member's side of joining: reads a request, asks the [`Admission`], answers.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Response, Status};

use super::{
    Addresses, Admission, Admitted, MESSAGE_BYTES_LIMIT, NAME_BYTES_LIMIT, PROTOCOL, Refusal,
    Request,
};
use crate::grpc::{self, Routes};
use crate::listener::Caller;
use crate::proto::join_v1 as proto;
use crate::proto::join_v1::join_response::Outcome;
use crate::proto::join_v1::join_server::{Join, JoinServer};
use crate::tls::{ClusterId, SignRequest};
use crate::token::{Secret, TokenId, check_addresses};

const NAME_CHARACTERS_LOGGED: usize = 64;

/// Serves `warren.join.v1.Join` for `cluster`.
#[must_use]
pub fn routes(cluster: ClusterId, admission: Arc<dyn Admission>) -> Routes {
    add_routes(Routes::default(), cluster, admission)
}

/// [`routes`] beside others.
#[must_use]
pub fn add_routes(routes: Routes, cluster: ClusterId, admission: Arc<dyn Admission>) -> Routes {
    let service = JoinServer::new(Server { cluster, admission })
        .max_decoding_message_size(MESSAGE_BYTES_LIMIT)
        .max_encoding_message_size(MESSAGE_BYTES_LIMIT);
    routes.add_service(service)
}

struct Server {
    cluster: ClusterId,
    admission: Arc<dyn Admission>,
}

#[tonic::async_trait]
impl Join for Server {
    async fn join(
        &self,
        request: tonic::Request<proto::JoinRequest>,
    ) -> Result<Response<proto::JoinResponse>, Status> {
        let message = request.into_inner();
        // For the log: a piece of what a joiner says of itself, for which nobody vouches.
        let name: String = message.name.chars().take(NAME_CHARACTERS_LOGGED).collect();
        let token = TokenId(message.token);
        let outcome = match parse(self.cluster, message) {
            Ok(request) => self.admission.admit(request).await,
            Err(refusal) => Err(refusal),
        };
        let outcome = match outcome {
            Ok(admitted) => {
                tracing::info!(node = %admitted.node, ?name, %token, "join: admitted");
                Outcome::Admitted(answer(self.cluster, admitted))
            }
            Err(refusal) => {
                tracing::warn!(?name, %token, why = %refusal, "join: refused");
                Outcome::Refused(refused(&refusal))
            }
        };
        let outcome = Some(outcome);
        Ok(Response::new(proto::JoinResponse { outcome }))
    }

    async fn renew(
        &self,
        request: tonic::Request<proto::RenewRequest>,
    ) -> Result<Response<proto::RenewResponse>, Status> {
        use proto::renew_response::Outcome;
        let caller = grpc::caller(&request);
        let renewed = match caller {
            Caller::Node(node) => match sign_request(&request.into_inner().certificate_request) {
                Ok(key) => self.admission.renew(node, key).await,
                Err(refusal) => Err(refusal),
            },
            Caller::Admin | Caller::Nobody => Err(Refusal::NotANode),
        };
        let outcome = match renewed {
            Ok(certificate) => {
                tracing::info!(?caller, "join: certificate renewed");
                Outcome::Certificate(Bytes::copy_from_slice(&certificate))
            }
            Err(refusal) => {
                tracing::warn!(?caller, why = %refusal, "join: certificate not renewed");
                Outcome::Refused(refused(&refusal))
            }
        };
        let outcome = Some(outcome);
        Ok(Response::new(proto::RenewResponse { outcome }))
    }

    async fn announce(
        &self,
        request: tonic::Request<proto::AnnounceRequest>,
    ) -> Result<Response<proto::AnnounceResponse>, Status> {
        use proto::announce_response::Outcome;
        let caller = grpc::caller(&request);
        let addresses = request.into_inner().addresses;
        let good = check_addresses(&addresses);
        let good = good.map_err(|fault| Refusal::Malformed(fault.to_string()));
        let heard = good.and_then(|()| match caller {
            Caller::Node(node) => self.admission.announced(node, addresses),
            Caller::Admin | Caller::Nobody => Err(Refusal::NotANode),
        });
        let outcome = match heard {
            Ok(known) => Outcome::Known(proto::Known {
                peers: peers(known),
            }),
            Err(refusal) => {
                tracing::warn!(?caller, why = %refusal, "join: address not taken");
                Outcome::Refused(refused(&refusal))
            }
        };
        let outcome = Some(outcome);
        Ok(Response::new(proto::AnnounceResponse { outcome }))
    }
}

fn sign_request(der: &[u8]) -> Result<SignRequest, Refusal> {
    SignRequest::parse(der).map_err(|error| Refusal::Malformed(error.to_string()))
}

fn parse(cluster: ClusterId, message: proto::JoinRequest) -> Result<Request, Refusal> {
    let theirs = message.protocol;
    if theirs != PROTOCOL {
        let ours = PROTOCOL;
        return Err(Refusal::Incompatible { ours, theirs });
    }
    let malformed = |what: &str| Refusal::Malformed(what.to_owned());
    let said = <[u8; 16]>::try_from(&message.cluster[..]);
    let said = said.map_err(|_| malformed("the cluster's id"))?;
    if ClusterId(u128::from_le_bytes(said)) != cluster {
        return Err(Refusal::ForeignCluster);
    }
    for (what, text) in [("the name", &message.name), ("the zone", &message.zone)] {
        if text.len() > NAME_BYTES_LIMIT || text.chars().any(char::is_control) {
            return Err(malformed(what));
        }
    }
    check_addresses(&message.addresses).map_err(|fault| Refusal::Malformed(fault.to_string()))?;
    let key = sign_request(&message.certificate_request)?;
    Ok(Request {
        token: TokenId(message.token),
        secret: Secret::from_slice(&message.secret).ok_or_else(|| malformed("the secret"))?,
        key,
        name: message.name,
        zone: message.zone,
        addresses: message.addresses,
        cluster_version: message.cluster_version,
    })
}

fn peers(known: Addresses) -> Vec<proto::Peer> {
    let peers = known.into_iter().map(|(node, addresses)| proto::Peer {
        node: node.0,
        addresses,
    });
    peers.collect()
}

fn answer(cluster: ClusterId, admitted: Admitted) -> proto::Admitted {
    proto::Admitted {
        node: admitted.node.0,
        cluster: Bytes::copy_from_slice(&cluster.0.to_le_bytes()),
        authority: Bytes::copy_from_slice(&admitted.authority),
        certificate: Bytes::copy_from_slice(&admitted.certificate),
        shards: admitted.shards,
        replica: admitted.replica.0,
        peers: peers(admitted.peers),
    }
}

fn refused(refusal: &Refusal) -> proto::Refused {
    use proto::Reason;
    let reason = match refusal {
        Refusal::UnknownToken => Reason::UnknownToken,
        Refusal::Expired => Reason::Expired,
        Refusal::UsedUp => Reason::UsedUp,
        Refusal::ForeignCluster => Reason::ForeignCluster,
        Refusal::Incompatible { .. } => Reason::Incompatible,
        Refusal::TooOld { .. } => Reason::TooOld,
        Refusal::NotANode => Reason::NotANode,
        Refusal::Malformed(_) => Reason::Malformed,
        Refusal::Unavailable(_) => Reason::Unavailable,
        Refusal::NotAdmitted(_) => Reason::NotAdmitted,
    };
    // What the reason does not say: the parts of it that vary.
    let (version, text) = match refusal {
        Refusal::Incompatible { ours, .. } | Refusal::TooOld { ours, .. } => (*ours, String::new()),
        Refusal::Malformed(text) | Refusal::Unavailable(text) | Refusal::NotAdmitted(text) => {
            (0, text.clone())
        }
        Refusal::UnknownToken
        | Refusal::Expired
        | Refusal::UsedUp
        | Refusal::NotANode
        | Refusal::ForeignCluster => (0, String::new()),
    };
    proto::Refused {
        reason: reason.into(),
        text,
        version,
    }
}
