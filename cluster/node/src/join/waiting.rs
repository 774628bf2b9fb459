//! The other way round: a blank node that waits, and an operator's cluster that offers a token.
//!
//! The blank node has nothing that others could know it by but a certificate that it made itself.
//! It prints the fingerprint; who offers must be given it, and believes nobody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Response, Status};
use warren_cluster_core::ids::Time;

use super::MESSAGE_BYTES_LIMIT;
use super::client::said;
use crate::grpc::{self, ConnectError, Routes};
use crate::listener::{Listener, Port};
use crate::proto::join_v1 as proto;
use crate::proto::join_v1::await_client::AwaitClient;
use crate::proto::join_v1::await_server::{Await, AwaitServer};
use crate::tls::{self, CertificatePin, ClusterId, Dial, Fingerprint, Key};
use crate::token::JoinToken;

/// A blank node at its cluster port, waiting.
#[derive(Debug)]
pub struct AwaitJoin {
    port: Port,
    fingerprint: Fingerprint,
    offers: mpsc::Receiver<JoinToken>,
}

impl AwaitJoin {
    /// Opens the port, with a certificate of `key`'s own.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn start(
        listener: Listener,
        key: &Key,
        now: Time,
        handshake_timeout: Duration,
    ) -> Result<Self, tls::Error> {
        let certificate = key.self_signed(now)?;
        let fingerprint = Fingerprint::of(&certificate);
        let (accepted, offers) = mpsc::channel(1);
        let service = AwaitServer::new(Server { accepted })
            .max_decoding_message_size(MESSAGE_BYTES_LIMIT)
            .max_encoding_message_size(MESSAGE_BYTES_LIMIT);
        let routes = Routes::new(service);
        let port = listener.start_alone(&certificate, key, routes, handshake_timeout)?;
        Ok(Self {
            port,
            fingerprint,
            offers,
        })
    }

    /// What an operator gives to the cluster.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Waits for the first good token, and closes the port. None only when gRPC has failed.
    pub async fn token(mut self) -> Option<JoinToken> {
        let token = self.offers.recv().await;
        self.port.stop().await;
        token
    }
}

struct Server {
    accepted: mpsc::Sender<JoinToken>,
}

#[tonic::async_trait]
impl Await for Server {
    async fn offer(
        &self,
        request: tonic::Request<proto::OfferRequest>,
    ) -> Result<Response<proto::OfferResponse>, Status> {
        let offered = JoinToken::parse(&request.into_inner().token);
        let taken = offered
            .map_err(|fault| fault.to_string())
            .and_then(|token| {
                tracing::info!(cluster = %token.cluster, "join: a token was offered");
                let sent = self.accepted.try_send(token);
                sent.map_err(|_| "another offer has been accepted".to_owned())
            });
        let accepted = taken.is_ok();
        let text = taken.err().unwrap_or_default();
        Ok(Response::new(proto::OfferResponse { accepted, text }))
    }
}

/// Why an offer was not taken.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{address} fails: {cause}")]
    Call { address: String, cause: String },
    #[error("{address} does not take the offer: {text}")]
    Declined { address: String, text: String },
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// Gives `token` to the blank node at `address` whose certificate has this fingerprint.
///
/// # Errors
/// When it is not there, is another, or does not want it.
pub async fn offer(
    address: &str,
    fingerprint: Fingerprint,
    token: &JoinToken,
    within: Duration,
) -> Result<(), OfferError> {
    let address = address.to_owned();
    let dial = Dial::anonymous(Arc::new(CertificatePin(fingerprint)), ClusterId(0))?;
    let channel = grpc::connect(std::slice::from_ref(&address), &dial, within).await?;
    let mut client = AwaitClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_LIMIT);
    let token = token.to_string();
    let called = tokio::time::timeout(within, client.offer(proto::OfferRequest { token })).await;
    let late = |_| Err(Status::deadline_exceeded("no answer in time"));
    match called.unwrap_or_else(late).map(Response::into_inner) {
        Ok(answer) if answer.accepted => Ok(()),
        Ok(answer) => {
            let text = answer.text;
            Err(OfferError::Declined { address, text })
        }
        Err(status) => {
            let cause = said(&status);
            Err(OfferError::Call { address, cause })
        }
    }
}
