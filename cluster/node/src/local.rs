//! The node's local store: who it is, where it saw others last, and the lock that keeps a second
//! process out.
//!
//! The only user of sled. No message passes through it, and everything in it but the identity
//! can be made again from the log.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use warren_cluster_core::ids::{NodeId, ReplicaId};

use crate::error::Error;
use crate::tls::ClusterId;

const LOCK: &str = "lock";
const STORE: &str = "local";
const IDENTITY: &[u8] = b"identity";

const PEERS: &[u8] = b"peers";
const STARTS: &[u8] = b"starts";

/// The version of the identity's byte form: version u8, cluster u128, node u64, log u64, shards
/// u32, lanes u16, replica u64. Versions 1 and 2 were those of nodes that could not join clusters;
/// they were never released.
const VERSION: u8 = 3;
const IDENTITY_BYTES: usize = 47;
/// The version of the peers' byte form.
const PEERS_VERSION: u8 = 1;

/// One lane a node: enough for the cores that machines of this size have.
pub(crate) const LANES: u16 = 1;

/// The node that makes a cluster.
const FIRST_NODE: NodeId = NodeId(1);

/// sled's cache: the store holds a handful of small rows.
const CACHE_BYTES: u64 = 256 << 10;
/// How sled says that its store is open, and how long that may be so after it was closed.
const LOCKED: &str = "could not acquire lock";
const STORE_LIMIT: Duration = Duration::from_secs(10);
const STORE_POLL: Duration = Duration::from_millis(5);

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
    /// The replica of shard 0 that the node was given when it joined; `None` on the first node.
    pub(crate) replica: Option<ReplicaId>,
}

/// A place in a cluster, for a blank folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Queue shards of the cluster.
    pub shards: u32,
    /// The replica of shard 0 that the node is to have; `None` on the first node.
    pub replica: Option<ReplicaId>,
    /// Where other nodes are.
    pub peers: Vec<(NodeId, Vec<String>)>,
}

/// What a data folder is; `None` of one that is blank, which stays so.
///
/// # Errors
/// When another process has it, or it cannot be read.
pub fn membership(folder: &Path) -> Result<Option<Membership>, Error> {
    if !folder.join(STORE).exists() {
        return Ok(None);
    }
    let _lock = lock(folder)?;
    let store = open_store(folder)?;
    let Some(identity) = stored(folder, &store)? else {
        return Ok(None);
    };
    Ok(Some(Membership {
        cluster: ClusterId(identity.cluster),
        node: identity.node,
        shards: identity.shards,
        replica: identity.replica,
        peers: peers(&store),
    }))
}

/// Makes a blank folder that of a member, on disk before this returns. Again without harm.
///
/// # Errors
/// When the folder is another node's, or cannot be written.
pub fn adopt(folder: &Path, membership: &Membership) -> Result<(), Error> {
    make(folder)?;
    let _lock = lock(folder)?;
    let store = open_store(folder)?;
    if let Some(identity) = stored(folder, &store)? {
        let (cluster, node) = (ClusterId(identity.cluster), identity.node);
        if (cluster, node) == (membership.cluster, membership.node) {
            return Ok(());
        }
        return Err(Error::Foreign {
            folder: folder.to_owned(),
            cause: format!("it holds data of node {node} of cluster {cluster}"),
        });
    }
    let identity = Identity {
        cluster: membership.cluster.0,
        node: membership.node,
        log: random()?,
        shards: membership.shards,
        lanes: LANES,
        replica: membership.replica,
    };
    store
        .insert(PEERS, encode_peers(&membership.peers))
        .and_then(|_| store.insert(IDENTITY, encode(identity).to_vec()))
        .and_then(|_| store.flush())
        .map_err(|source| store_error(folder, source))?;
    Ok(())
}

/// An open data folder; nobody else has it while this lives.
#[derive(Debug)]
pub(crate) struct Local {
    _lock: File,
    folder: PathBuf,
    store: sled::Db,
    pub(crate) identity: Identity,
    /// Grows with every start.
    pub(crate) incarnation: u64,
}

impl Local {
    /// Opens (or makes) the data folder and takes it for this process.
    pub(crate) fn open(folder: &Path, shards: u32, lanes: u16) -> Result<Self, Error> {
        make(folder)?;
        let lock = lock(folder)?;
        let store = open_store(folder)?;
        let identity = identity(folder, &store, shards, lanes)?;
        let incarnation = started(&store).map_err(|source| store_error(folder, source))?;
        Ok(Self {
            _lock: lock,
            folder: folder.to_owned(),
            store,
            identity,
            incarnation,
        })
    }

    /// Counts as a start, though the process goes on.
    pub(crate) fn next_incarnation(&self) -> Result<u64, Error> {
        started(&self.store).map_err(|source| store_error(&self.folder, source))
    }

    /// Where other nodes were, as far as this one was told.
    pub(crate) fn peers(&self) -> Vec<(NodeId, Vec<String>)> {
        peers(&self.store)
    }

    /// Keeps where other nodes are, for the next start.
    pub(crate) fn remember(&self, peers: &[(NodeId, Vec<String>)]) {
        let kept = self
            .store
            .insert(PEERS, encode_peers(peers))
            .and_then(|_| self.store.flush());
        if let Err(error) = kept {
            tracing::warn!(%error, "the local store does not keep where other nodes are");
        }
    }
}

fn make(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|source| Error::Io {
        action: "make data folder",
        path: folder.to_owned(),
        source,
    })
}

/// Counts a start.
fn started(store: &sled::Db) -> Result<u64, sled::Error> {
    let before = store.get(STARTS)?;
    let before = before.and_then(|bytes| Some(u64::from_le_bytes(bytes[..].try_into().ok()?)));
    let incarnation = before.unwrap_or(0) + 1;
    store.insert(STARTS, &incarnation.to_le_bytes())?;
    store.flush()?;
    Ok(incarnation)
}

fn peers(store: &sled::Db) -> Vec<(NodeId, Vec<String>)> {
    let bytes = store.get(PEERS).ok().flatten();
    // What cannot be read is not missed for long: others know this node, too.
    bytes
        .and_then(|bytes| decode_peers(&bytes))
        .unwrap_or_default()
}

fn encode_peers(peers: &[(NodeId, Vec<String>)]) -> Vec<u8> {
    let mut out = vec![PEERS_VERSION];
    for (node, addresses) in peers {
        out.put_u64_le(node.0);
        let addresses = addresses.iter().take(usize::from(u8::MAX));
        let addresses: Vec<_> = addresses.filter_map(sized).collect();
        out.put_u8(u8::try_from(addresses.len()).expect("not more were taken"));
        for (length, address) in addresses {
            out.put_u8(length);
            out.put_slice(address.as_bytes());
        }
    }
    out
}

/// A text with its length; addresses have at most 255 bytes.
fn sized(text: &String) -> Option<(u8, &String)> {
    Some((u8::try_from(text.len()).ok()?, text))
}

fn decode_peers(mut bytes: &[u8]) -> Option<Vec<(NodeId, Vec<String>)>> {
    if bytes.try_get_u8().ok()? != PEERS_VERSION {
        return None;
    }
    let mut peers = Vec::new();
    while !bytes.is_empty() {
        let node = NodeId(bytes.try_get_u64_le().ok()?);
        let mut addresses = Vec::new();
        for _ in 0..bytes.try_get_u8().ok()? {
            let length = usize::from(bytes.try_get_u8().ok()?);
            let (text, rest) = bytes.split_at_checked(length)?;
            addresses.push(std::str::from_utf8(text).ok()?.to_owned());
            bytes = rest;
        }
        peers.push((node, addresses));
    }
    Some(peers)
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

/// Opens the store; the folder's lock is held. A store that this process closed a moment ago keeps
/// a lock of its own until its last thread has let go of it, and that is waited for.
fn open_store(folder: &Path) -> Result<sled::Db, Error> {
    let deadline = Instant::now() + STORE_LIMIT;
    loop {
        let opened = sled::Config::new()
            .path(folder.join(STORE))
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace)
            .open();
        match opened {
            Err(error) if error.to_string().contains(LOCKED) && Instant::now() < deadline => {
                // Nothing tells when the lock is free.
                std::thread::sleep(STORE_POLL);
            }
            opened => return opened.map_err(|source| store_error(folder, source)),
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // `map_err` hands errors over by value
fn store_error(folder: &Path, error: sled::Error) -> Error {
    Error::Store {
        folder: folder.to_owned(),
        cause: error.to_string(),
    }
}

fn stored(folder: &Path, store: &sled::Db) -> Result<Option<Identity>, Error> {
    let found = store
        .get(IDENTITY)
        .map_err(|source| store_error(folder, source))?;
    let Some(bytes) = found else {
        return Ok(None);
    };
    let identity = decode(&bytes).ok_or_else(|| Error::Foreign {
        folder: folder.to_owned(),
        cause: "its identity is not one that this version reads".to_owned(),
    })?;
    Ok(Some(identity))
}

/// Reads the identity; a new folder gets one, on disk before it is used: the first node's.
fn identity(folder: &Path, store: &sled::Db, shards: u32, lanes: u16) -> Result<Identity, Error> {
    if let Some(identity) = stored(folder, store)? {
        return checked(folder, identity, lanes);
    }
    let identity = Identity {
        cluster: u128::from(random()?) << 64 | u128::from(random()?),
        node: FIRST_NODE,
        log: random()?,
        shards,
        lanes,
        replica: None,
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
    out[37..39].copy_from_slice(&identity.lanes.to_le_bytes());
    let replica = identity.replica.unwrap_or_default();
    out[39..].copy_from_slice(&replica.0.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Identity> {
    let bytes: &[u8; IDENTITY_BYTES] = bytes.try_into().ok()?;
    if bytes[0] != VERSION {
        return None;
    }
    let replica = ReplicaId(u64::from_le_bytes(bytes[39..].try_into().ok()?));
    Some(Identity {
        cluster: u128::from_le_bytes(bytes[1..17].try_into().ok()?),
        node: NodeId(u64::from_le_bytes(bytes[17..25].try_into().ok()?)),
        log: u64::from_le_bytes(bytes[25..33].try_into().ok()?),
        shards: u32::from_le_bytes(bytes[33..37].try_into().ok()?),
        lanes: u16::from_le_bytes(bytes[37..39].try_into().ok()?),
        replica: (replica != ReplicaId::default()).then_some(replica),
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
    fn a_folder_is_adopted_once() {
        let folder = Folder::new("adopt");
        let place = Membership {
            cluster: ClusterId(7),
            node: NodeId(3),
            shards: 8,
            replica: Some(ReplicaId::new(NodeId(3), 70)),
            peers: vec![
                (NodeId(1), vec!["a:1".to_owned(), "b:2".to_owned()]),
                (NodeId(2), Vec::new()),
            ],
        };
        assert_eq!(membership(folder.path()).expect("reads"), None);
        for _ in 0..2 {
            adopt(folder.path(), &place).expect("adopts");
            let found = membership(folder.path()).expect("reads");
            assert_eq!(found.as_ref(), Some(&place));
        }
        let other = Membership {
            node: NodeId(4),
            ..place.clone()
        };
        let error = adopt(folder.path(), &other).expect_err("another node's");
        assert!(error.to_string().contains("node 3"), "{error}");
        let mut starts = Vec::new();
        for _ in 0..3 {
            let local = Local::open(folder.path(), 64, 1).expect("opens");
            assert_eq!((local.identity.node, local.identity.shards), (NodeId(3), 8));
            assert_eq!(local.peers(), place.peers);
            starts.push(local.incarnation);
        }
        assert_eq!(starts, [1, 2, 3]);
        let local = Local::open(folder.path(), 64, 1).expect("opens");
        local.remember(&place.peers[..1]);
        assert_eq!(local.peers(), place.peers[..1]);
        let error = membership(folder.path()).expect_err("in use");
        assert!(matches!(error, Error::Locked { .. }), "{error}");
    }

    #[test]
    fn an_unreadable_identity_is_refused() {
        assert_eq!(decode(b"short"), None);
        assert_eq!(decode(&[9; IDENTITY_BYTES]), None);
        assert_eq!(decode_peers(&[PEERS_VERSION, 1, 2]), None);
        assert_eq!(decode_peers(&[]), None);
    }
}
