//! What this node shows and whom it believes, as rustls configurations.
//!
//! The certificate can be replaced while connections are open: those that come show the new one.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use warren_cluster_core::ids::{NodeId, Time};

use super::authority::renew_at;
use super::names::cluster_of;
use super::verify::{NodeVerifier, PeerVerifier};
use super::{AdminKeys, ClusterId, Error, Key, Name, NodeKeys, provider};
use crate::listener::alpn;

/// A node's standing in its cluster.
pub struct Credentials {
    cluster: ClusterId,
    node: NodeId,
    authority: CertificateDer<'static>,
    roots: Arc<RootCertStore>,
    shown: Arc<Shown>,
}

/// The certificate as of now, with what it takes to use it.
struct Shown(ArcSwap<Current>);

struct Current {
    keys: Arc<CertifiedKey>,
    renew_at: Time,
}

impl Credentials {
    /// From what is on disk.
    ///
    /// # Errors
    /// When the key is not the certificate's.
    pub fn new(keys: &NodeKeys) -> Result<Self, Error> {
        Ok(Self {
            cluster: keys.cluster,
            node: keys.node,
            authority: keys.authority.clone(),
            roots: Arc::new(roots(&keys.authority)?),
            shown: Arc::new(Shown(ArcSwap::from_pointee(Current::new(keys)?))),
        })
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// When the certificate should be replaced: at two thirds of its life.
    #[must_use]
    pub fn renew_at(&self) -> Time {
        self.shown.0.load().renew_at
    }

    /// Shows another certificate from now on.
    ///
    /// # Errors
    /// When it is of another node or cluster, or the key is not the certificate's.
    pub fn replace(&self, keys: &NodeKeys) -> Result<(), Error> {
        if (keys.node, keys.cluster) != (self.node, self.cluster) {
            return Err(Error::Certificate {
                action: "replace the node's certificate",
                cause: format!("it is of node {} of cluster {}", keys.node, keys.cluster),
            });
        }
        self.shown.0.store(Arc::new(Current::new(keys)?));
        Ok(())
    }

    /// For the cluster port: both protocols; a client may show nothing, and is then nobody.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, Error> {
        let verifier = PeerVerifier::new(self.cluster, self.roots.clone()).map_err(|cause| {
            Error::Certificate {
                action: "verify clients",
                cause,
            }
        })?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(Error::tls("serve TLS"))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.shown.clone());
        config.alpn_protocols = vec![alpn::LINK.to_vec(), alpn::GRPC.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// For a link to `node`, and no other.
    pub(crate) fn link_to(&self, node: NodeId) -> Result<Dial, Error> {
        self.dial(Some(node), alpn::LINK)
    }

    /// For gRPC to a node of this cluster, as this node.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn grpc_to(&self, node: Option<NodeId>) -> Result<Dial, Error> {
        self.dial(node, alpn::GRPC)
    }

    fn dial(&self, wanted: Option<NodeId>, protocol: &[u8]) -> Result<Dial, Error> {
        let verifier = NodeVerifier {
            cluster: self.cluster,
            roots: self.roots.clone(),
            wanted,
        };
        Dial::new(
            Arc::new(verifier),
            Some(self.shown.clone()),
            name(self.cluster, wanted)?,
            protocol,
        )
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials(node {} of {})", self.node, self.cluster)
    }
}

/// For an administrator's gRPC to any node of the cluster.
///
/// # Errors
/// When the key is not the certificate's.
pub fn admin_client(keys: &AdminKeys) -> Result<Dial, Error> {
    let certified = certified(&[&keys.certificate, &keys.authority], &keys.key)?;
    let shown = Shown(ArcSwap::from_pointee(Current {
        keys: Arc::new(certified),
        renew_at: Time(u64::MAX),
    }));
    let verifier = NodeVerifier {
        cluster: keys.cluster,
        roots: Arc::new(roots(&keys.authority)?),
        wanted: None,
    };
    let name = name(keys.cluster, None)?;
    Dial::new(Arc::new(verifier), Some(Arc::new(shown)), name, alpn::GRPC)
}

/// For the gRPC of somebody who shows no certificate, to any node of the authority's cluster.
///
/// # Errors
/// When it is not the authority of a Warren cluster.
pub fn user_client(authority: &CertificateDer<'static>) -> Result<Dial, Error> {
    let cluster = cluster_of(authority)?;
    let verifier = NodeVerifier {
        cluster,
        roots: Arc::new(roots(authority)?),
        wanted: None,
    };
    Dial::anonymous(Arc::new(verifier), cluster)
}

/// How to make TLS of a connection that we opened.
#[derive(Clone, Debug)]
pub struct Dial {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

impl Dial {
    fn new(
        verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
        shown: Option<Arc<Shown>>,
        name: ServerName<'static>,
        protocol: &[u8],
    ) -> Result<Self, Error> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(Error::tls("dial with TLS"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match shown {
            Some(shown) => builder.with_client_cert_resolver(shown),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        // In the clear: a node of another cluster that is met at a peer's address learns from it
        // whom it is taken for. Whom to believe is never decided by it.
        config.enable_sni = protocol == alpn::LINK;
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// For gRPC to a server that `verifier` believes, showing nothing.
    pub(crate) fn anonymous(
        verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
        cluster: ClusterId,
    ) -> Result<Self, Error> {
        Self::new(verifier, None, name(cluster, None)?, alpn::GRPC)
    }
}

/// A server that shows one certificate and asks nothing of its clients.
pub(crate) fn plain_server(
    certificate: &CertificateDer<'static>,
    key: &Key,
) -> Result<Arc<ServerConfig>, Error> {
    let shown = Shown(ArcSwap::from_pointee(Current {
        keys: Arc::new(certified(&[certificate], key)?),
        renew_at: Time(u64::MAX),
    }));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::tls("serve TLS"))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![alpn::GRPC.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

impl Current {
    fn new(keys: &NodeKeys) -> Result<Self, Error> {
        // The authority goes with it: a joiner knows it by its fingerprint alone.
        let certified = certified(&[&keys.certificate, &keys.authority], &keys.key)?;
        Ok(Self {
            keys: Arc::new(certified),
            renew_at: renew_at(&keys.certificate)?,
        })
    }
}

fn certified(chain: &[&CertificateDer<'static>], key: &Key) -> Result<CertifiedKey, Error> {
    let chain = chain
        .iter()
        .map(|&certificate| certificate.clone())
        .collect();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.0.serialize_der()));
    CertifiedKey::from_der(chain, der, &provider())
        .map_err(Error::tls("show a certificate with its key"))
}

fn roots(authority: &CertificateDer<'static>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.clone())
        .map_err(Error::tls("trust the cluster's authority"))?;
    Ok(roots)
}

fn name(cluster: ClusterId, node: Option<NodeId>) -> Result<ServerName<'static>, Error> {
    let named = match node {
        Some(node) => Name::Node { node, cluster },
        None => Name::Admin { cluster },
    };
    named.server_name()
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().keys.clone())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().keys.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown(..)")
    }
}
