//! Links between nodes: messages to every peer over three connections: for what must not wait,
//! for what is large, and for what sessions get.
//!
//! Each node dials its peers and writes on what it dialed; on what it accepted it only reads. So
//! a node has three outgoing connections a peer, and knows of each of them alone whether it holds.
//!
//! Invariants:
//! - a message arrives whole, at most once, and in order with the others of its class, peer and
//!   connection; one that does not arrive is dropped without a word, and the layers above resend;
//! - what waits for a peer is bounded in bytes for each class;
//! - of one peer and class one connection is read: a newer one takes the place of an older one,
//!   and no message of the older one comes after;
//! - all its connections hold, or none counts: a link that lost one is closed and dialed anew;
//! - what a peer does wrong costs it that connection, and nobody else anything.
//!
//! Runs on the runtime that it was started on; [`Links::send_all`] may be called from any thread.

mod accept;
mod backoff;
mod dial;
mod frame;
mod outlet;
mod peer;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use warren_cluster_core::ids::NodeId;

pub use accept::Refusal;
use peer::Peer;

use crate::tls::{ClusterId, Credentials};

/// Bytes that a control message can have.
pub const CONTROL_MESSAGE_BYTES_LIMIT: u32 = 1 << 20;

/// What a message is, and so which connection it takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Votes, beats, claims: small, and never behind a body.
    Control = 0,
    /// Everything else.
    Data = 1,
    /// Deliveries and what else leaders have for sessions: never behind what goes into logs.
    Effects = 2,
}

/// How many there are.
const CLASSES: usize = 3;

impl Class {
    const ALL: [Self; CLASSES] = [Self::Control, Self::Data, Self::Effects];

    fn new(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&class| class as u8 == byte)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Data => "data",
            Self::Effects => "effects",
        })
    }
}

/// How links behave. The defaults are those of a cluster; tests want other times and bounds.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// Grows with every start of this node: an older process of the same node is recognised.
    pub incarnation: u64,
    /// Decides the jitter of reconnects.
    pub seed: u64,
    /// Bytes of control messages that may wait for a peer.
    pub control_bytes_limit: usize,
    /// Bytes of data messages that may wait for a peer, and of effects.
    pub data_bytes_limit: usize,
    /// Bytes that a data message or effects can have.
    pub message_bytes_limit: u32,
    /// How long a connection may take to be there.
    pub connect_timeout: Duration,
    /// How long TLS and the greeting may take together.
    pub handshake_timeout: Duration,
    /// A control connection whose bytes are not acknowledged for so long is given up.
    pub silence_limit: Duration,
}

impl LinkOptions {
    /// The defaults.
    #[must_use]
    pub fn new(incarnation: u64, seed: u64) -> Self {
        Self {
            incarnation,
            seed,
            control_bytes_limit: 8 << 20,
            data_bytes_limit: 64 << 20,
            message_bytes_limit: 528 << 20,
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(5),
            silence_limit: Duration::from_secs(3),
        }
    }

    fn queue_bytes_limit(&self, class: Class) -> usize {
        match class {
            Class::Control => self.control_bytes_limit,
            Class::Data | Class::Effects => self.data_bytes_limit,
        }
    }

    fn message_bytes_limit(&self, class: Class) -> u32 {
        match class {
            Class::Control => CONTROL_MESSAGE_BYTES_LIMIT,
            Class::Data | Class::Effects => self.message_bytes_limit,
        }
    }
}

/// What links tell their owner. Called on the runtime's threads: whoever waits here holds a
/// connection up, so nobody does.
///
/// What a peer says and whether it can be told something are two directions, with no order
/// between them: a message of a restarted peer may come before its older link is told lost.
pub trait LinkEvents: Send + Sync + 'static {
    /// A message has arrived. One connection's come one after the other.
    fn message(&self, from: NodeId, class: Class, bytes: Bytes);

    /// Messages to `peer` go out from now on. `incarnation` is the one that it said.
    fn connected(&self, peer: NodeId, incarnation: u64);

    /// They do not any more; those not yet written are dropped.
    fn lost(&self, peer: NodeId);

    /// Somebody was turned away; it is in the log already.
    fn refused(&self, _from: SocketAddr, _why: &Refusal) {}

    /// Asked before each message is read: something to wait for when there is no room for it.
    /// The sender's queue fills meanwhile, and then it drops.
    fn room(
        &self,
        _from: NodeId,
        _class: Class,
    ) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        None
    }
}

/// How a peer's link is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkStatus {
    pub peer: NodeId,
    /// The peer's incarnation while the link holds.
    pub connected: Option<u64>,
    /// Bytes that wait, by class: control, data, effects.
    pub waiting_bytes: [usize; CLASSES],
    /// Messages dropped since the peer was named, by class.
    pub dropped: [u64; CLASSES],
    /// Why it does not hold, as the last attempt saw it.
    pub fault: Option<String>,
}

/// All links of a node. Clones are the same links.
#[derive(Clone)]
pub struct Links {
    shared: Arc<Shared>,
}

/// What all tasks of the links see.
struct Shared {
    credentials: Arc<Credentials>,
    options: LinkOptions,
    events: Arc<dyn LinkEvents>,
    runtime: Handle,
    peers: ArcSwap<BTreeMap<NodeId, Arc<Peer>>>,
    changes: Mutex<Changes>,
}

/// Held by whoever changes the peers.
#[derive(Default)]
struct Changes {
    stopped: bool,
    /// Peers that are none any more, until nothing runs for them.
    ending: BTreeMap<NodeId, Arc<Peer>>,
}

impl Links {
    /// Starts without peers. Must be called on a tokio runtime, and keeps to it.
    #[must_use]
    pub fn start(
        options: LinkOptions,
        credentials: Arc<Credentials>,
        events: Arc<dyn LinkEvents>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                credentials,
                options,
                events,
                runtime: Handle::current(),
                peers: ArcSwap::default(),
                changes: Mutex::default(),
            }),
        }
    }

    /// Says who the peers are and where (`host:port`, tried in order). Whoever is not named any
    /// more is cut off; a link that holds is kept when its addresses change.
    ///
    /// # Panics
    /// When a thread panicked in here before.
    pub fn set_peers(&self, peers: Vec<(NodeId, Vec<String>)>) {
        let shared = &self.shared;
        let mut changes = shared.lock();
        if changes.stopped {
            return;
        }
        changes.ending.retain(|_, peer| !peer.is_over());
        let old = shared.peers.load_full();
        let mut new = BTreeMap::new();
        let mut made = Vec::new();
        for (node, addresses) in peers {
            if node == shared.credentials.node() {
                continue;
            }
            let known = old.get(&node).or_else(|| new.get(&node)).cloned();
            let peer = match known {
                Some(peer) => {
                    peer.move_to(addresses);
                    peer
                }
                None => {
                    let peer = Arc::new(Peer::new(node, addresses, &shared.options));
                    made.push((peer.clone(), changes.ending.remove(&node)));
                    peer
                }
            };
            new.insert(node, peer);
        }
        for (node, peer) in old.iter().filter(|(node, _)| !new.contains_key(node)) {
            changes.ending.insert(*node, peer.clone());
        }
        shared.peers.store(Arc::new(new));
        changes.ending.values().for_each(|peer| peer.end());
        for (peer, earlier) in made {
            shared
                .runtime
                .spawn(dial::run(shared.clone(), peer, earlier));
        }
    }

    /// Sends messages, each made of parts, or drops them; how many were taken: the others surely
    /// do not arrive, these may. Nobody is woken before all are there: the thread that writes the
    /// first would be done with it before the next one comes.
    pub fn send_all(
        &self,
        messages: impl IntoIterator<Item = (NodeId, Class, Vec<Bytes>)>,
    ) -> usize {
        let peers = self.shared.peers.load();
        let mut outlets: SmallVec<[_; 16]> = SmallVec::new();
        for (to, class, parts) in messages {
            let outlet = peers.get(&to).map(|peer| peer.outlet(class));
            outlets.extend(outlet.filter(|outlet| outlet.queue.push(parts)));
        }
        let is_asleep = self.is_asleep();
        for outlet in &outlets {
            outlet.wake(is_asleep);
        }
        outlets.len()
    }

    /// Whether all threads of the runtime sleep.
    fn is_asleep(&self) -> bool {
        let metrics = self.shared.runtime.metrics();
        // Odd: it has gone to sleep once more than it has woken.
        (0..metrics.num_workers()).all(|worker| metrics.worker_park_unpark_count(worker) % 2 == 1)
    }

    /// Whether a message was taken.
    #[cfg(test)]
    fn send(&self, to: NodeId, class: Class, parts: impl IntoIterator<Item = Bytes>) -> bool {
        self.send_all([(to, class, parts.into_iter().collect())]) == 1
    }

    /// How the links are, in the order of their peers.
    #[must_use]
    pub fn status(&self) -> Vec<LinkStatus> {
        let peers = self.shared.peers.load();
        peers.values().map(|peer| peer.status()).collect()
    }

    /// The cluster that the links are of.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.shared.credentials.cluster()
    }

    /// Writes what waits, for at most a second, and ends every link for good.
    ///
    /// # Panics
    /// When a thread panicked in [`Self::set_peers`].
    pub async fn stop(&self) {
        let (peers, ending) = {
            let mut changes = self.shared.lock();
            changes.stopped = true;
            (
                self.shared.peers.load_full(),
                std::mem::take(&mut changes.ending),
            )
        };
        peers.values().for_each(|peer| peer.drain());
        let drained = async {
            for peer in peers.values() {
                peer.unlinked().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(1), drained).await;
        self.shared.peers.store(Arc::default());
        peers.values().for_each(|peer| peer.end());
        for peer in peers.values().chain(ending.values()) {
            peer.ended().await;
        }
        if in_time.is_err() {
            tracing::warn!("links: stopped before all messages were written");
        }
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Links({:?})", self.shared.credentials)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().expect("nothing panics under this lock")
    }

    fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.load().get(&node).cloned()
    }
}
