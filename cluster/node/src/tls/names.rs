//! What certificates say of their holder: one DNS name, made of the cluster's id and a role.
//!
//! The names are looked up nowhere; they only have to be names that TLS can carry.

use std::fmt;

use rustls::pki_types::{CertificateDer, ServerName};
use warren_cluster_core::ids::NodeId;
use x509_parser::extensions::GeneralName;

use super::Error;

const SUFFIX: &str = "warren";
const ADMIN: &str = "admin";
const NODE: &str = "node-";

/// The highest id that a node can have.
const NODE_LAST: u64 = 65_535;

/// A cluster, drawn at random when its first node starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn draw() -> Result<Self, Error> {
        Ok(Self(u128::from_le_bytes(super::random()?)))
    }

    /// Reads the 32 hexadecimal digits that `Display` prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 32 || !text.bytes().all(digits) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who holds a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name {
    /// A node of the cluster: `node-<id>.<cluster>.warren`.
    Node { node: NodeId, cluster: ClusterId },
    /// An administrator's client: `admin.<cluster>.warren`.
    Admin { cluster: ClusterId },
}

impl Name {
    /// Reads what `Display` prints, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (role, rest) = text.split_once('.')?;
        let (cluster, suffix) = rest.split_once('.')?;
        let cluster = ClusterId::parse(cluster)?;
        if suffix != SUFFIX {
            return None;
        }
        if role == ADMIN {
            return Some(Self::Admin { cluster });
        }
        let digits = role.strip_prefix(NODE)?;
        let id: u64 = digits.parse().ok()?;
        let node = NodeId(id);
        // One spelling each: no sign, no leading zero.
        (is_node_id(node) && digits == id.to_string()).then_some(Self::Node { node, cluster })
    }

    /// The cluster that it belongs to.
    #[must_use]
    pub fn cluster(self) -> ClusterId {
        match self {
            Self::Node { cluster, .. } | Self::Admin { cluster } => cluster,
        }
    }

    /// What a client asks TLS for. Our verifiers look at the certificate instead.
    pub(super) fn server_name(self) -> Result<ServerName<'static>, Error> {
        ServerName::try_from(self.to_string()).map_err(|_| Error::Certificate {
            action: "name a server",
            cause: format!("{self} is not a DNS name"),
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { node, cluster } => write!(f, "{NODE}{node}.{cluster}.{SUFFIX}"),
            Self::Admin { cluster } => write!(f, "{ADMIN}.{cluster}.{SUFFIX}"),
        }
    }
}

/// Whether a cluster can give a node this id.
pub(crate) fn is_node_id(node: NodeId) -> bool {
    (1..=NODE_LAST).contains(&node.0)
}

/// Why a certificate's holder is not whom we want.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameFault {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate does not name a node or an administrator of a Warren cluster")]
    Nobody,
    #[error("the certificate is not that of a Warren cluster's authority")]
    NoAuthority,
    #[error("the certificate is of cluster {found}, not {wanted}")]
    ForeignCluster { found: ClusterId, wanted: ClusterId },
    #[error("an administrator's certificate is no node's")]
    NotANode,
    #[error("reached node {found}, not node {wanted}")]
    WrongNode { found: NodeId, wanted: NodeId },
    #[error("the certificate's fingerprint is not the one that was given")]
    WrongFingerprint,
}

/// Reads who a certificate is for. Whether to believe it is the chain's matter.
///
/// # Errors
/// When it has not exactly one name, of our form.
pub fn name_of(certificate: &CertificateDer<'_>) -> Result<Name, NameFault> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| NameFault::Unreadable)?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| NameFault::Unreadable)?
        .ok_or(NameFault::Nobody)?;
    let [GeneralName::DNSName(name)] = names.value.general_names.as_slice() else {
        return Err(NameFault::Nobody);
    };
    Name::parse(name).ok_or(NameFault::Nobody)
}

/// The cluster that an authority's certificate is of.
///
/// # Errors
/// When it is not the authority of a Warren cluster.
pub(super) fn cluster_of(authority: &CertificateDer<'_>) -> Result<ClusterId, NameFault> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(authority).map_err(|_| NameFault::Unreadable)?;
    let common = parsed.subject().iter_common_name().next();
    common
        .and_then(|name| name.as_str().ok())
        .and_then(|name| name.strip_prefix("warren "))
        .and_then(ClusterId::parse)
        .filter(|_| parsed.is_ca())
        .ok_or(NameFault::NoAuthority)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef);

    #[test]
    fn names_have_one_spelling() {
        let cluster = "00000000000000000123456789abcdef";
        let node = Name::Node {
            node: NodeId(12),
            cluster: CLUSTER,
        };
        assert_eq!(node.to_string(), format!("node-12.{cluster}.warren"));
        let admin = Name::Admin { cluster: CLUSTER };
        for name in [node, admin] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
            assert!(name.server_name().is_ok());
        }
        let wrong = [
            String::new(),
            "warren".to_owned(),
            format!("node-0.{cluster}.warren"),
            format!("node-65536.{cluster}.warren"),
            format!("node-+1.{cluster}.warren"),
            format!("node-01.{cluster}.warren"),
            format!("node-1.{}.warren", cluster.to_uppercase()),
            format!("node-1.{}.warren", &cluster[1..]),
            format!("node-1.{cluster}.warren.org"),
            format!("x.node-1.{cluster}.warren"),
            format!("admin-1.{cluster}.warren"),
            format!("*.{cluster}.warren"),
        ];
        for text in wrong {
            assert_eq!(Name::parse(&text), None, "{text}");
        }
    }
}
