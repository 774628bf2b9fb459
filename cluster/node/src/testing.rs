//! What the tests of this package share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use warren_cluster_core::ids::{NodeId, Time};

use crate::tls::{AdminKeys, Authority, ClusterId, Key, NodeKeys, SignRequest};

/// A folder of its own, removed at the end.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("warren-{}-{number}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The system's clock.
pub(crate) fn wall_clock() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.expect("after 1970").as_millis();
    Time(u64::try_from(millis).expect("fits"))
}

/// A cluster's authority, and what it signs.
pub(crate) struct Cluster {
    pub(crate) authority: Authority,
}

impl Cluster {
    const LIFE_MS: u64 = 24 * 3_600_000;

    pub(crate) fn new(id: u128) -> Self {
        let authority = Authority::generate(ClusterId(id), wall_clock());
        Self {
            authority: authority.expect("an authority"),
        }
    }

    pub(crate) fn id(&self) -> ClusterId {
        self.authority.cluster()
    }

    /// A node's keys, signed at `now`.
    pub(crate) fn keys(&self, node: u64, now: Time) -> NodeKeys {
        self.keys_that_live(node, now, Self::LIFE_MS)
    }

    pub(crate) fn keys_that_live(&self, node: u64, now: Time, life_ms: u64) -> NodeKeys {
        let key = Key::generate().expect("a key");
        self.sign(NodeId(node), key, now, life_ms)
    }

    /// The same node and key with a new certificate.
    pub(crate) fn renewed(&self, keys: &NodeKeys) -> NodeKeys {
        let key = Key::from_pem(&keys.key.to_pem()).expect("a key");
        self.sign(keys.node, key, wall_clock(), Self::LIFE_MS)
    }

    fn sign(&self, node: NodeId, key: Key, now: Time, life_ms: u64) -> NodeKeys {
        let request = key.sign_request().expect("a request");
        let request = SignRequest::parse(&request).expect("parses");
        let signed = self.authority.sign_node(node, &request, now, life_ms);
        let authority = self.authority.certificate().clone();
        NodeKeys::new(authority, signed.expect("signs"), key).expect("belongs together")
    }

    pub(crate) fn admin(&self) -> AdminKeys {
        let issued = self.authority.issue_admin(wall_clock(), Self::LIFE_MS);
        issued.expect("an administrator")
    }
}
