//! Whom TLS lets in: each verifier is one rule about the certificate that the other side shows.
//!
//! Chains, uses and times are rustls's; what is ours is the name. Addresses and host names play
//! no part, and what a server was asked for (SNI) neither: that only tells a node that it is taken
//! for another one.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme,
};
use subtle::ConstantTimeEq as _;
use warren_cluster_core::ids::NodeId;

use super::{ClusterId, Fingerprint, Name, NameFault, name_of, provider};

/// A server must be a node of this cluster, and the one that was wanted.
#[derive(Debug)]
pub(super) struct NodeVerifier {
    pub(super) cluster: ClusterId,
    pub(super) roots: Arc<RootCertStore>,
    /// None: any node of the cluster will do.
    pub(super) wanted: Option<NodeId>,
}

/// A server must be a node of the cluster whose authority has this fingerprint: the joiner's
/// rule, which knows no more of the cluster than its token says.
#[derive(Debug)]
pub(crate) struct AuthorityPin {
    pub(crate) cluster: ClusterId,
    pub(crate) fingerprint: Fingerprint,
}

/// A server must show the very certificate that has this fingerprint.
#[derive(Debug)]
pub(crate) struct CertificatePin(pub(crate) Fingerprint);

/// A client shows nothing, or a certificate of this cluster.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    cluster: ClusterId,
    chain: Arc<dyn ClientCertVerifier>,
}

fn fault(fault: NameFault) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
}

/// Why a handshake failed, with our own reasons as they are meant to be read.
pub(crate) fn explain(error: &std::io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    inner.map_or_else(|| error.to_string(), explain_tls)
}

pub(super) fn explain_tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(fault))) => fault.to_string(),
        other => other.to_string(),
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// Checks a chain up to `roots`, its uses and times, and that it is a node's.
fn node_of_chain(
    roots: &RootCertStore,
    cluster: ClusterId,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<NodeId, Error> {
    let parsed = ParsedCertificate::try_from(end_entity)?;
    verify_server_cert_signed_by_trust_anchor(
        &parsed,
        roots,
        intermediates,
        now,
        algorithms().all,
    )?;
    match checked(end_entity, cluster)? {
        Name::Node { node, .. } => Ok(node),
        Name::Admin { .. } => Err(fault(NameFault::NotANode)),
    }
}

/// Whether `authority` signed a node's certificate, and it counts now.
pub(super) fn node_signed_by(
    authority: &CertificateDer<'static>,
    cluster: ClusterId,
    certificate: &CertificateDer<'static>,
) -> Result<NodeId, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    node_of_chain(&roots, cluster, certificate, &[], UnixTime::now())
}

/// The name in a certificate, which must be of this cluster.
fn checked(certificate: &CertificateDer<'_>, wanted: ClusterId) -> Result<Name, Error> {
    let name = name_of(certificate).map_err(fault)?;
    let found = name.cluster();
    if found != wanted {
        return Err(fault(NameFault::ForeignCluster { found, wanted }));
    }
    Ok(name)
}

fn is_same(found: Fingerprint, wanted: Fingerprint) -> bool {
    found.0.ct_eq(&wanted.0).into()
}

impl NodeVerifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let found = node_of_chain(&self.roots, self.cluster, end_entity, intermediates, now)?;
        match self.wanted {
            Some(wanted) if wanted != found => Err(fault(NameFault::WrongNode { found, wanted })),
            _ => Ok(()),
        }
    }
}

impl AuthorityPin {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let authority = intermediates
            .iter()
            .find(|shown| is_same(Fingerprint::of(shown), self.fingerprint))
            .ok_or_else(|| fault(NameFault::WrongFingerprint))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        node_of_chain(&roots, self.cluster, end_entity, &[], now).map(drop)
    }
}

impl CertificatePin {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<(), Error> {
        if is_same(Fingerprint::of(end_entity), self.0) {
            return Ok(());
        }
        Err(fault(NameFault::WrongFingerprint))
    }
}

impl PeerVerifier {
    pub(super) fn new(cluster: ClusterId, roots: Arc<RootCertStore>) -> Result<Self, String> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { cluster, chain })
    }
}

/// The parts of a verifier that are the same for all: TLS 1.3, and the key must sign.
macro_rules! tls13_alone {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let old = PeerIncompatible::ServerDoesNotSupportTls12Or13;
            Err(Error::PeerIncompatible(old))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            algorithms().supported_schemes()
        }
    };
}

macro_rules! server_verifier {
    ($($kind:ty),*) => {$(
        impl ServerCertVerifier for $kind {
            fn verify_server_cert(
                &self,
                end_entity: &CertificateDer<'_>,
                intermediates: &[CertificateDer<'_>],
                _: &ServerName<'_>,
                _: &[u8],
                now: UnixTime,
            ) -> Result<ServerCertVerified, Error> {
                self.verify(end_entity, intermediates, now)?;
                Ok(ServerCertVerified::assertion())
            }

            tls13_alone!();
        }
    )*};
}

server_verifier!(NodeVerifier, AuthorityPin, CertificatePin);

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        checked(end_entity, self.cluster)?;
        Ok(verified)
    }

    tls13_alone!();
}
