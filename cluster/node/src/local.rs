//! The node's local store: who it is, and the lock that keeps a second process out.
//!
//! The only user of sled. No message passes through it, and everything in it but the identity
//! can be made again from the log.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use warren_cluster_core::ids::NodeId;

use crate::error::Error;

const LOCK: &str = "lock";
const STORE: &str = "local";
const IDENTITY: &[u8] = b"identity";

/// The version of the identity's byte form: version u8, cluster u128, node u64, log u64, shards
/// u32, lanes u16. Version 1 was that of nodes before there were clusters; it was never released.
const VERSION: u8 = 2;
const IDENTITY_BYTES: usize = 39;

/// The node that makes a cluster.
const FIRST_NODE: NodeId = NodeId(1);

/// sled's cache: the store holds a handful of small rows.
const CACHE_BYTES: u64 = 256 << 10;

/// What a data folder is, fixed at its first start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// Drawn by the first node of a cluster.
    pub(crate) cluster: u128,
    /// The node's number in its cluster.
    pub(crate) node: NodeId,
    /// Drawn for each folder: no other folder's log has it.
    pub(crate) log: u64,
    pub(crate) shards: u32,
    pub(crate) lanes: u16,
}

/// An open data folder; nobody else has it while this lives.
#[derive(Debug)]
pub(crate) struct Local {
    _lock: File,
    _store: sled::Db,
    pub(crate) identity: Identity,
}

impl Local {
    /// Opens (or makes) the data folder and takes it for this process.
    pub(crate) fn open(folder: &Path, shards: u32, lanes: u16) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(|source| Error::Io {
            action: "make data folder",
            path: folder.to_owned(),
            source,
        })?;
        let lock = lock(folder)?;
        let store = open_store(folder)?;
        let identity = identity(folder, &store, shards, lanes)?;
        Ok(Self {
            _lock: lock,
            _store: store,
            identity,
        })
    }
}

/// Takes the lock file, or says who has it.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join(LOCK);
    let io = |action| {
        let path = path.clone();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&path).map_err(io("open"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = file.read_to_string(&mut text);
            let pid = read.ok().and_then(|_| text.trim().parse().ok());
            return Err(Error::Locked {
                folder: folder.to_owned(),
                pid,
            });
        }
        Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
    }
    file.set_len(0).map_err(io("write"))?;
    writeln!(file, "{}", std::process::id()).map_err(io("write"))?;
    Ok(file)
}

fn open_store(folder: &Path) -> Result<sled::Db, Error> {
    sled::Config::new()
        .path(folder.join(STORE))
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .mode(sled::Mode::LowSpace)
        .open()
        .map_err(|source| store_error(folder, source))
}

#[allow(clippy::needless_pass_by_value)] // `map_err` hands errors over by value
fn store_error(folder: &Path, error: sled::Error) -> Error {
    Error::Store {
        folder: folder.to_owned(),
        cause: error.to_string(),
    }
}

/// Reads the identity; a new folder gets one, on disk before it is used.
fn identity(folder: &Path, store: &sled::Db, shards: u32, lanes: u16) -> Result<Identity, Error> {
    let found = store
        .get(IDENTITY)
        .map_err(|source| store_error(folder, source))?;
    if let Some(bytes) = found {
        let identity = decode(&bytes).ok_or_else(|| Error::Foreign {
            folder: folder.to_owned(),
            cause: "its identity is not one that this version reads".to_owned(),
        })?;
        return checked(folder, identity, lanes);
    }
    let identity = Identity {
        cluster: u128::from(random()?) << 64 | u128::from(random()?),
        node: FIRST_NODE,
        log: random()?,
        shards,
        lanes,
    };
    store
        .insert(IDENTITY, encode(identity).to_vec())
        .and_then(|_| store.flush())
        .map_err(|source| store_error(folder, source))?;
    Ok(identity)
}

fn checked(folder: &Path, identity: Identity, lanes: u16) -> Result<Identity, Error> {
    if identity.lanes != lanes {
        return Err(Error::Foreign {
            folder: folder.to_owned(),
            cause: format!("it was made with {} lanes, not {lanes}", identity.lanes),
        });
    }
    Ok(identity)
}

/// A number that nobody else has drawn. Never 0.
pub(crate) fn random() -> Result<u64, Error> {
    let path = PathBuf::from("/dev/urandom");
    let mut bytes = [0; 8];
    let read = File::open(&path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|source| Error::Io {
        action: "draw a random number from",
        path,
        source,
    })?;
    Ok(u64::from_le_bytes(bytes).max(1))
}

fn encode(identity: Identity) -> [u8; IDENTITY_BYTES] {
    let mut out = [0; IDENTITY_BYTES];
    out[0] = VERSION;
    out[1..17].copy_from_slice(&identity.cluster.to_le_bytes());
    out[17..25].copy_from_slice(&identity.node.0.to_le_bytes());
    out[25..33].copy_from_slice(&identity.log.to_le_bytes());
    out[33..37].copy_from_slice(&identity.shards.to_le_bytes());
    out[37..].copy_from_slice(&identity.lanes.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Identity> {
    let bytes: &[u8; IDENTITY_BYTES] = bytes.try_into().ok()?;
    if bytes[0] != VERSION {
        return None;
    }
    Some(Identity {
        cluster: u128::from_le_bytes(bytes[1..17].try_into().ok()?),
        node: NodeId(u64::from_le_bytes(bytes[17..25].try_into().ok()?)),
        log: u64::from_le_bytes(bytes[25..33].try_into().ok()?),
        shards: u32::from_le_bytes(bytes[33..37].try_into().ok()?),
        lanes: u16::from_le_bytes(bytes[37..].try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn a_folder_keeps_its_identity() {
        let folder = Folder::new("identity");
        let first = Local::open(folder.path(), 64, 1).expect("opens").identity;
        let again = Local::open(folder.path(), 3, 1).expect("opens").identity;
        assert_eq!(first, again);
        assert_eq!(again.shards, 64);
        let other = Local::open(folder.path(), 64, 2);
        assert!(matches!(other, Err(Error::Foreign { .. })));
    }

    #[test]
    fn a_second_process_is_told_who_has_the_folder() {
        let folder = Folder::new("lock");
        let _held = Local::open(folder.path(), 64, 1).expect("opens");
        let second = Local::open(folder.path(), 64, 1).expect_err("taken");
        let text = second.to_string();
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        assert!(
            text.contains(&folder.path().display().to_string()),
            "{text}"
        );
    }

    #[test]
    fn an_unreadable_identity_is_refused() {
        assert_eq!(decode(b"short"), None);
        assert_eq!(decode(&[9; IDENTITY_BYTES]), None);
    }
}
