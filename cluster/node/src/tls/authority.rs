//! The cluster's certificate authority: signs what nodes and administrators show.
//!
//! What a request asks for is not looked at but for its public key: names, uses and times are
//! the authority's own. Every time is an argument.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use warren_cluster_core::ids::{NodeId, Time};

use super::names::is_node_id;
use super::{AdminKeys, ClusterId, Error, Fingerprint, Name, NameFault};

const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
/// Certificates count from an hour ago: clocks of machines differ.
const BACKDATED_MS: u64 = HOUR_MS;
const AUTHORITY_LIFE_MS: u64 = 20 * YEAR_MS;

/// A private key of ours.
pub struct Key(pub(super) KeyPair);

impl Key {
    /// A new one (ECDSA, P-256).
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn generate() -> Result<Self, Error> {
        let pair = KeyPair::generate().map_err(Error::certificate("make a key"))?;
        Ok(Self(pair))
    }

    /// Reads the PEM form.
    ///
    /// # Errors
    /// When it is not a private key.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let pair = KeyPair::from_pem(text).map_err(Error::certificate("read a private key"))?;
        Ok(Self(pair))
    }

    /// The request for a certificate, signed with this key, in DER form.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign_request(&self) -> Result<Vec<u8>, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(&self.0)
            .map_err(Error::certificate("sign a certificate request"))?;
        Ok(request.der().to_vec())
    }

    /// A certificate that only its fingerprint speaks for.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub(crate) fn self_signed(&self, now: Time) -> Result<CertificateDer<'static>, Error> {
        let mut params = params(ClusterId(0), now, YEAR_MS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = params
            .self_signed(&self.0)
            .map_err(Error::certificate("sign a certificate"))?;
        Ok(signed.der().clone())
    }

    /// The PEM form. It is a secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Whether `certificate` is for this key.
    #[must_use]
    pub fn is_of(&self, certificate: &CertificateDer<'_>) -> bool {
        x509_parser::parse_x509_certificate(certificate).is_ok_and(|(_, parsed)| {
            parsed.public_key().raw == self.0.subject_public_key_info().as_slice()
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A request for a certificate whose sender has shown that the key is its own.
#[derive(Debug)]
pub struct SignRequest {
    request: CertificateSigningRequestParams,
}

impl SignRequest {
    /// Reads a request's DER form and checks its signature.
    ///
    /// # Errors
    /// When it is not a request, or is not signed with its own key.
    pub fn parse(der: &[u8]) -> Result<Self, Error> {
        let der = CertificateSigningRequestDer::from(der);
        let request = CertificateSigningRequestParams::from_der(&der)
            .map_err(Error::certificate("read a certificate request"))?;
        Ok(Self { request })
    }

    /// The public key that asks: the same for every request of one key.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        self.request.public_key.der_bytes()
    }
}

/// The authority itself: its certificate and its key.
pub struct Authority {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// How long a node's certificate lives unless somebody says otherwise: a year.
    pub const NODE_LIFE_MS: u64 = YEAR_MS;
    /// How long an administrator's does.
    pub const ADMIN_LIFE_MS: u64 = 10 * YEAR_MS;

    /// A new cluster's.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn generate(cluster: ClusterId, now: Time) -> Result<Self, Error> {
        let Key(key) = Key::generate()?;
        let mut params = params(cluster, now, AUTHORITY_LIFE_MS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .map_err(Error::certificate("sign the cluster's authority"))?;
        Ok(Self {
            cluster,
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// From its certificate and its key.
    ///
    /// # Errors
    /// When the key is another certificate's, or the certificate cannot be read.
    pub fn new(
        cluster: ClusterId,
        certificate: CertificateDer<'static>,
        key: Key,
    ) -> Result<Self, Error> {
        let action = "take up the cluster's authority";
        if !key.is_of(&certificate) {
            let cause = "its key is not that of its certificate".to_owned();
            return Err(Error::Certificate { action, cause });
        }
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key.0).map_err(Error::certificate(action))?;
        Ok(Self {
            cluster,
            certificate,
            issuer,
        })
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// The key's PEM form. Whoever has it is the cluster.
    #[must_use]
    pub fn key_to_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A node's certificate, for the key of `request`.
    ///
    /// # Errors
    /// When no node can have that id, or it cannot be signed.
    pub fn sign_node(
        &self,
        node: NodeId,
        request: &SignRequest,
        now: Time,
        life_ms: u64,
    ) -> Result<CertificateDer<'static>, Error> {
        if !is_node_id(node) {
            return Err(NameFault::Nobody.into());
        }
        let cluster = self.cluster;
        let name = Name::Node { node, cluster };
        let mut params = self.leaf(name, now, life_ms)?;
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
        let signed = params
            .signed_by(&request.request.public_key, &self.issuer)
            .map_err(Error::certificate("sign a node's certificate"))?;
        Ok(signed.der().clone())
    }

    /// An administrator's key and certificate.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn issue_admin(&self, now: Time, life_ms: u64) -> Result<AdminKeys, Error> {
        let key = Key::generate()?;
        let cluster = self.cluster;
        let signed = self
            .leaf(Name::Admin { cluster }, now, life_ms)?
            .signed_by(&key.0, &self.issuer)
            .map_err(Error::certificate("sign an administrator's certificate"))?;
        Ok(AdminKeys {
            cluster,
            authority: self.certificate.clone(),
            certificate: signed.der().clone(),
            key,
        })
    }

    fn leaf(&self, name: Name, now: Time, life_ms: u64) -> Result<CertificateParams, Error> {
        let text = name.to_string();
        let dns = text.try_into().map_err(Error::certificate("name"))?;
        let mut params = params(self.cluster, now, life_ms);
        params.subject_alt_names = vec![SanType::DnsName(dns)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({} {})", self.cluster, self.fingerprint())
    }
}

fn params(cluster: ClusterId, now: Time, life_ms: u64) -> CertificateParams {
    let moment = |ms: u64| (UNIX_EPOCH + Duration::from_millis(ms)).into();
    let mut params = CertificateParams::default();
    params.not_before = moment(now.0.saturating_sub(BACKDATED_MS));
    params.not_after = moment(now.0.saturating_add(life_ms));
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("warren {cluster}"));
    params
}

/// When a certificate is to be renewed: at two thirds of its life.
///
/// # Errors
/// When it cannot be read.
pub(super) fn renew_at(certificate: &CertificateDer<'_>) -> Result<Time, Error> {
    let (from, until) = validity(certificate)?;
    Ok(Time(from.0 + (until.0.saturating_sub(from.0)) / 3 * 2))
}

/// From when to when a certificate counts; from is when it was made.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Result<(Time, Time), Error> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| NameFault::Unreadable)?;
    let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    let validity = parsed.validity();
    let from = millis(validity.not_before.timestamp()).saturating_add(BACKDATED_MS);
    Ok((Time(from), Time(millis(validity.not_after.timestamp()))))
}
