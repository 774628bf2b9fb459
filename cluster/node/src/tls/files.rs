//! Keys and certificates on disk: `DATA/tls` for the node, `DATA/admin` for its administrators.
//!
//! Invariants:
//! - a file is there whole or not at all: written beside, synced, renamed;
//! - private keys are readable by their owner alone;
//! - `node.pem` is written last: a folder that has it is a member of a cluster, one that has not
//!   is none, and keeps the key that it asked with.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use warren_cluster_core::ids::{NodeId, Time};

use super::authority::{renew_at, validity};
use super::verify::{explain_tls, node_signed_by};
use super::{Authority, ClusterId, Error, Key, Name, NameFault, SignRequest, name_of};

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Bytes that a certificate or a key on disk can have; ours have about one thousand.
const FILE_BYTES_LIMIT: u64 = 64 << 10;

/// What makes a node a member of its cluster.
#[derive(Debug)]
pub struct NodeKeys {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub authority: CertificateDer<'static>,
    pub certificate: CertificateDer<'static>,
    pub key: Key,
}

impl NodeKeys {
    /// From a node's certificate, which says whose it is.
    ///
    /// # Errors
    /// When it is not a node's, or not for this key.
    pub fn new(
        authority: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: Key,
    ) -> Result<Self, Error> {
        let Name::Node { node, cluster } = name_of(&certificate)? else {
            return Err(NameFault::NotANode.into());
        };
        if !key.is_of(&certificate) {
            return Err(Error::Certificate {
                action: "use the node's certificate",
                cause: "it is for another key".to_owned(),
            });
        }
        Ok(Self {
            cluster,
            node,
            authority,
            certificate,
            key,
        })
    }

    /// Whether the authority signed the certificate for a node of `cluster`, and it counts now.
    pub(crate) fn check(&self, cluster: ClusterId) -> Result<(), String> {
        node_signed_by(&self.authority, cluster, &self.certificate)
            .map(drop)
            .map_err(|error| explain_tls(&error))
    }

    /// Until when the certificate counts.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn valid_until(&self) -> Result<Time, Error> {
        validity(&self.certificate).map(|(_, until)| until)
    }
}

/// What lets a client in as an administrator.
#[derive(Debug)]
pub struct AdminKeys {
    pub cluster: ClusterId,
    pub authority: CertificateDer<'static>,
    pub certificate: CertificateDer<'static>,
    pub key: Key,
}

/// The files of one data folder.
#[derive(Clone, Debug)]
pub struct Files {
    tls: PathBuf,
    admin: PathBuf,
}

impl Files {
    /// Of the data folder `data`; nothing is made yet.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self {
            tls: data.join("tls"),
            admin: data.join("admin"),
        }
    }

    /// The node's membership; none in a folder that has not joined a cluster.
    ///
    /// # Errors
    /// When a file is missing beside the others, or is not what it should be.
    pub fn node(&self) -> Result<Option<NodeKeys>, Error> {
        let path = self.tls.join("node.pem");
        let Some(certificate) = read_certificate(&path)? else {
            return Ok(None);
        };
        let authority = needed(read_certificate, &self.tls.join("ca.pem"))?;
        let key = needed(read_key, &self.tls.join("node.key"))?;
        let keys =
            NodeKeys::new(authority, certificate, key).map_err(|error| in_file(&path, error));
        keys.map(Some)
    }

    /// Makes this folder the first node of a new cluster, with its authority and administrator.
    ///
    /// # Errors
    /// When the folder is a member already, or a file cannot be written.
    pub fn found(&self, now: Time) -> Result<NodeKeys, Error> {
        self.found_as(ClusterId::draw()?, now)
    }

    /// [`Self::found`] of a cluster whose id is drawn already.
    ///
    /// # Errors
    /// As there.
    pub fn found_as(&self, cluster: ClusterId, now: Time) -> Result<NodeKeys, Error> {
        if self.node()?.is_some() {
            return Err(Error::File {
                path: self.tls.join("node.pem"),
                cause: "this folder is a member of a cluster already".to_owned(),
            });
        }
        let authority = Authority::generate(cluster, now)?;
        let key = self.node_key()?;
        let request = SignRequest::parse(&key.sign_request()?)?;
        let life_ms = Authority::NODE_LIFE_MS;
        let certificate = authority.sign_node(NodeId(1), &request, now, life_ms)?;
        let keys = NodeKeys::new(authority.certificate().clone(), certificate, key)?;
        self.store_authority(&authority)?;
        self.store_admin(&authority.issue_admin(now, Authority::ADMIN_LIFE_MS)?)?;
        // Last: until here the folder is none, and is founded anew when this did not get so far.
        self.store_node(&keys)?;
        Ok(keys)
    }

    /// The key to ask for a certificate with: the one that is there, else a new one.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn node_key(&self) -> Result<Key, Error> {
        let path = self.tls.join("node.key");
        if let Some(key) = read_key(&path)? {
            return Ok(key);
        }
        let key = Key::generate()?;
        write(&path, key.to_pem().as_bytes(), SECRET)?;
        Ok(key)
    }

    /// Makes the folder a member.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn store_node(&self, keys: &NodeKeys) -> Result<(), Error> {
        let tls = &self.tls;
        write(&tls.join("node.key"), keys.key.to_pem().as_bytes(), SECRET)?;
        write(&tls.join("ca.pem"), pem(&keys.authority).as_bytes(), PUBLIC)?;
        let certificate = pem(&keys.certificate);
        write(&tls.join("node.pem"), certificate.as_bytes(), PUBLIC)
    }

    /// The cluster's authority, if this node holds its key.
    ///
    /// # Errors
    /// When a file is not what it should be.
    pub fn authority(&self, cluster: ClusterId) -> Result<Option<Authority>, Error> {
        let path = self.tls.join("ca.key");
        let Some(key) = read_key(&path)? else {
            return Ok(None);
        };
        let certificate = needed(read_certificate, &self.tls.join("ca.pem"))?;
        let authority = Authority::new(cluster, certificate, key);
        authority.map(Some).map_err(|error| in_file(&path, error))
    }

    /// Keeps the authority's key here.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn store_authority(&self, authority: &Authority) -> Result<(), Error> {
        let certificate = pem(authority.certificate());
        write(&self.tls.join("ca.pem"), certificate.as_bytes(), PUBLIC)?;
        let key = authority.key_to_pem();
        write(&self.tls.join("ca.key"), key.as_bytes(), SECRET)
    }

    /// Where this folder holds the authority's key: signs anew those of its certificates that are
    /// at two thirds of their life. Gives the node's keys if they are new.
    ///
    /// # Errors
    /// When a file is not what it should be, or cannot be written.
    pub fn renew(&self, now: Time) -> Result<Option<NodeKeys>, Error> {
        let Some(keys) = self.node()? else {
            return Ok(None);
        };
        let Some(authority) = self.authority(keys.cluster)? else {
            return Ok(None);
        };
        self.renew_admin(&authority, now)?;
        if renew_at(&keys.certificate)? > now {
            return Ok(None);
        }
        let request = SignRequest::parse(&keys.key.sign_request()?)?;
        let life_ms = Authority::NODE_LIFE_MS;
        let certificate = authority.sign_node(keys.node, &request, now, life_ms)?;
        let keys = NodeKeys::new(keys.authority, certificate, keys.key)?;
        self.store_node(&keys)?;
        Ok(Some(keys))
    }

    /// Signs the administrator's certificate anew if it is there and at two thirds of its life.
    ///
    /// # Errors
    /// When a file is not what it should be, or cannot be written.
    pub(crate) fn renew_admin(&self, authority: &Authority, now: Time) -> Result<(), Error> {
        match self.admin()? {
            Some(admin) if renew_at(&admin.certificate)? <= now => {
                self.store_admin(&authority.issue_admin(now, Authority::ADMIN_LIFE_MS)?)
            }
            _ => Ok(()),
        }
    }

    /// Makes an administrator's certificate unless there is, or was, one: a folder from which it
    /// was taken away stays empty. True when it was made.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn make_admin(&self, authority: &Authority, now: Time) -> Result<bool, Error> {
        if self.admin.exists() {
            return Ok(false);
        }
        self.store_admin(&authority.issue_admin(now, Authority::ADMIN_LIFE_MS)?)?;
        Ok(true)
    }

    /// The administrator's key and certificate, if they are there.
    ///
    /// # Errors
    /// When a file is not what it should be.
    pub fn admin(&self) -> Result<Option<AdminKeys>, Error> {
        let path = self.admin.join("cert.pem");
        let Some(certificate) = read_certificate(&path)? else {
            return Ok(None);
        };
        let authority = needed(read_certificate, &self.admin.join("ca.pem"))?;
        let key = needed(read_key, &self.admin.join("key.pem"))?;
        let name = name_of(&certificate).map_err(|fault| in_file(&path, fault.into()))?;
        let Name::Admin { cluster } = name else {
            let cause = "it is not an administrator's certificate".to_owned();
            return Err(Error::File { path, cause });
        };
        Ok(Some(AdminKeys {
            cluster,
            authority,
            certificate,
            key,
        }))
    }

    /// Writes what `warren` commands on this machine show.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn store_admin(&self, keys: &AdminKeys) -> Result<(), Error> {
        let admin = &self.admin;
        write(&admin.join("key.pem"), keys.key.to_pem().as_bytes(), SECRET)?;
        write(
            &admin.join("ca.pem"),
            pem(&keys.authority).as_bytes(),
            SECRET,
        )?;
        let certificate = pem(&keys.certificate);
        write(&admin.join("cert.pem"), certificate.as_bytes(), SECRET)
    }
}

/// Reads an authority's certificate in PEM form, from wherever it was copied to.
///
/// # Errors
/// When there is none.
pub fn read_authority(path: &Path) -> Result<CertificateDer<'static>, Error> {
    read_certificate(path)?.ok_or_else(|| Error::File {
        path: path.to_owned(),
        cause: "there is no such file".to_owned(),
    })
}

fn in_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Io { .. } | Error::File { .. } => error,
        Error::Certificate { .. } | Error::Name(_) => Error::File {
            path: path.to_owned(),
            cause: error.to_string(),
        },
    }
}

fn needed<T>(read: fn(&Path) -> Result<Option<T>, Error>, path: &Path) -> Result<T, Error> {
    read(path)?.ok_or_else(|| Error::File {
        path: path.to_owned(),
        cause: "it is missing beside the others".to_owned(),
    })
}

fn read_certificate(path: &Path) -> Result<Option<CertificateDer<'static>>, Error> {
    let Some(text) = read(path)? else {
        return Ok(None);
    };
    let certificate = CertificateDer::from_pem_slice(text.as_bytes());
    certificate.map(Some).map_err(|error| Error::File {
        path: path.to_owned(),
        cause: format!("not a certificate: {error}"),
    })
}

fn read_key(path: &Path) -> Result<Option<Key>, Error> {
    let Some(text) = read(path)? else {
        return Ok(None);
    };
    Key::from_pem(&text)
        .map(Some)
        .map_err(|error| in_file(path, error))
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    let io = |source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
        Ok(metadata) if metadata.len() > FILE_BYTES_LIMIT => {
            return Err(Error::File {
                path: path.to_owned(),
                cause: format!("{} bytes are no key or certificate", metadata.len()),
            });
        }
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(io)
}

/// Writes a whole file, in place of what was there.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let io = |source| Error::Io {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder).map_err(io)?;
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(&beside).map_err(io)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(io)
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
