//! Who is who between nodes: the cluster's certificate authority, names, files and verifiers.
//!
//! Invariants:
//! - TLS 1.3 always, with ring, and both sides of a link show a certificate of the cluster's own
//!   authority;
//! - who a peer is stands in its certificate (`node-3.<cluster>.warren`), never in its address;
//! - an administrator's certificate is no node's, and a node's no administrator's;
//! - sessions are not resumed: every connection shows its certificate anew.

mod authority;
mod credentials;
mod files;
mod names;
#[cfg(test)]
mod tests;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use sha2::{Digest as _, Sha256};

pub use authority::{Authority, Key, SignRequest};
pub(crate) use credentials::plain_server;
pub use credentials::{Credentials, Dial, admin_client, user_client};
pub use files::{AdminKeys, Files, NodeKeys, read_authority};
pub use names::{ClusterId, Name, NameFault, name_of};
pub(crate) use verify::{AuthorityPin, CertificatePin, explain};

/// Certificates and keys as rustls has them.
pub use rustls::pki_types::CertificateDer;

/// What went wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file is there, but is not what it should be.
    #[error("{}: {cause}", path.display())]
    File { path: PathBuf, cause: String },
    #[error("cannot {action}: {cause}")]
    Certificate { action: &'static str, cause: String },
    #[error(transparent)]
    Name(#[from] NameFault),
}

impl Error {
    fn certificate(action: &'static str) -> impl FnOnce(rcgen::Error) -> Self {
        move |cause| Self::Certificate {
            action,
            cause: cause.to_string(),
        }
    }

    fn tls(action: &'static str) -> impl FnOnce(rustls::Error) -> Self {
        move |cause| Self::Certificate {
            action,
            cause: cause.to_string(),
        }
    }
}

/// The SHA-256 of a certificate: what a token pins and an operator compares.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a certificate's DER form.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// Reads the 64 hexadecimal digits that `Display` prints, in either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
        }
        // `from_str_radix` takes a sign, which no digit is.
        text.bytes()
            .all(|byte| byte.is_ascii_hexdigit())
            .then_some(Self(bytes))
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// ring, handed to every configuration: no process-wide default is relied on.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Random bytes for ids and secrets.
///
/// # Errors
/// When the system has none to give.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let filled = provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| Error::Certificate {
        action: "draw random bytes",
        cause: "the system has none".to_owned(),
    })?;
    Ok(bytes)
}
