//! Between a lane and the links: what the lane has for other nodes goes out once its lock is free,
//! what they say comes in as long as there is room, and who they are is read from shard 0's rows.
//!
//! Always holds:
//! - what a lane has for a node leaves in the order in which it was handed out: one thread sends
//!   at a time, and nobody waits for it;
//! - the lane is never held up: its lock is not held while something is sent, and what a link has
//!   no room for is dropped;
//! - bytes that wait for the lane are bounded: whoever brings more waits (with its connection).

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::inbox::{Input, Outputs};
use warren_cluster_core::lane::ShardStatus;
use warren_cluster_core::link::{Class as LaneClass, Envelope, is_patient};
use warren_cluster_core::machine::Machine;
use warren_cluster_core::members::steps::Step;
use warren_cluster_core::members::{Directory, all_shards, is_own};
use warren_cluster_core::rows::{Transaction, WaitFor};

use crate::astray::Sought;
use crate::link::{Class, LinkEvents, Links, Refusal};
use crate::thread::Shared;

/// Bytes of messages that may wait for the lane before data is read no more; votes and beats are
/// until there are twice as many.
const INTAKE_BYTES_LIMIT: usize = 16 << 20;

/// A lane's way to other nodes.
pub(crate) struct Peers {
    outbox: Mutex<Vec<Envelope>>,
    /// Held by who sends; empty room otherwise.
    sending: Mutex<Vec<Envelope>>,
    links: OnceLock<Links>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) directory: watch::Sender<Arc<Directory>>,
    /// Nodes that there is a way to.
    pub(crate) reachable: watch::Sender<BTreeSet<NodeId>>,
    /// The last node of another cluster that was looked for here.
    pub(crate) sought: watch::Sender<Option<Sought>>,
}

/// What has come from other nodes and was not taken yet.
#[derive(Default)]
pub(crate) struct Intake {
    /// Changed under the inbox' lock.
    bytes: AtomicUsize,
    room: Notify,
}

impl Peers {
    pub(crate) fn new() -> Self {
        Self {
            outbox: Mutex::default(),
            sending: Mutex::default(),
            links: OnceLock::new(),
            intake: Arc::default(),
            directory: watch::Sender::default(),
            reachable: watch::Sender::default(),
            sought: watch::Sender::default(),
        }
    }

    /// From here on what is sent goes out. Only the first links count.
    pub(crate) fn set_links(&self, links: Links) -> bool {
        self.links.set(links).is_ok()
    }

    /// Takes all that is for other nodes, under the lane's lock; [`Self::send`] sends it.
    pub(crate) fn post(&self, mail: &mut Vec<Envelope>) {
        if !mail.is_empty() {
            lock(&self.outbox).append(mail);
        }
    }

    /// Takes what is the cluster's own out of a turn's outputs, under the lane's lock. Gives the
    /// replicas that this node is to have, and to have no more.
    pub(crate) fn take<E, I, T>(
        &self,
        node: NodeId,
        outputs: &mut Outputs<E, T>,
    ) -> Vec<Input<I, T>> {
        for (from, malformed) in outputs.foreign.drain(..) {
            tracing::warn!(node = %from, %malformed, "a node sends what cannot be read");
        }
        let mut hosted = Vec::new();
        for (shard, changes) in &outputs.changes {
            let own = changes.iter().any(|change| is_own(&change.row));
            if *shard != ShardId::DEFINITIONS || !own {
                continue;
            }
            let mut directory = Directory::clone(&self.directory.borrow());
            let (moved, applied) = directory.apply(changes);
            if let Err(malformed) = applied {
                tracing::error!(%malformed, "a row of the cluster cannot be read");
            }
            for shard in moved {
                let Some(row) = directory.replicas.get(&shard) else {
                    continue;
                };
                let gone = row.value.gone.iter().filter(|id| id.node() == node);
                hosted.extend(gone.map(|id| Input::Vacate {
                    shard,
                    replica: *id,
                }));
                let here = row.value.on(node);
                hosted.extend(here.map(|replica| Input::Host { shard, replica }));
            }
            self.directory.send_replace(Arc::new(directory));
        }
        hosted
    }

    /// Sends what waits. Without the lane's lock; returns at once when another thread is at it.
    pub(crate) fn send(&self) {
        // Whoever finds another thread at it leaves the rest to that one, which looks again after
        // it has let go.
        while !lock(&self.outbox).is_empty() {
            let mut turn = match self.sending.try_lock() {
                Ok(turn) => turn,
                Err(TryLockError::WouldBlock) => return,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            };
            std::mem::swap(&mut *turn, &mut *lock(&self.outbox));
            let messages = turn.drain(..);
            if let Some(links) = self.links.get() {
                links.send_all(
                    messages.map(|Envelope { to, class, parts }| (to, class_of(class), parts)),
                );
            }
        }
    }
}

fn class_of(class: LaneClass) -> Class {
    match class {
        LaneClass::Control => Class::Control,
        LaneClass::Data => Class::Data,
        LaneClass::Effects => Class::Effects,
    }
}

/// What a panic left behind is as good as what another turn did.
pub(crate) fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Intake {
    /// More has come; under the inbox' lock.
    fn came(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The lane has taken all; under the inbox' lock.
    pub(crate) fn taken(&self) {
        if self.bytes.load(Ordering::Relaxed) > 0
            && self.bytes.swap(0, Ordering::Relaxed) > INTAKE_BYTES_LIMIT
        {
            self.room.notify_waiters();
        }
    }

    fn has_room(&self, class: Class) -> bool {
        let limit = match class {
            Class::Control => 2 * INTAKE_BYTES_LIMIT,
            Class::Data | Class::Effects => INTAKE_BYTES_LIMIT,
        };
        self.bytes.load(Ordering::Relaxed) <= limit
    }

    async fn wait_for_room(&self, class: Class) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // Before the look, so that room in between is noticed.
            room.as_mut().enable();
            if self.has_room(class) {
                return;
            }
            room.await;
        }
    }
}

/// Brings what links have to tell to a lane.
pub(crate) struct Arrivals<M: Machine, T> {
    shared: Weak<Shared<M, T>>,
    intake: Arc<Intake>,
}

impl<M, T> Arrivals<M, T>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    pub(crate) fn new(shared: &Arc<Shared<M, T>>) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            intake: Arc::clone(&shared.peers.intake),
        }
    }

    fn put(&self, input: Input<M::Input, T>, bytes: usize) {
        if let Some(shared) = self.shared.upgrade() {
            self.leave(&shared, input, bytes);
            shared.step_in_place();
        }
    }

    /// Leaves it for the lane's next step.
    fn leave(&self, shared: &Shared<M, T>, input: Input<M::Input, T>, bytes: usize) {
        let mut inbox = shared.inbox();
        inbox.push_back(input);
        self.intake.came(bytes);
    }

    fn reach(&self, node: NodeId, is_there: bool) {
        if let Some(shared) = self.shared.upgrade() {
            shared.peers.reachable.send_if_modified(|reachable| {
                if is_there {
                    reachable.insert(node)
                } else {
                    reachable.remove(&node)
                }
            });
        }
    }
}

impl<M, T> LinkEvents for Arrivals<M, T>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + 'static,
{
    fn message(&self, from: NodeId, _class: Class, bytes: Bytes) {
        let (length, envelope) = (bytes.len(), bytes);
        let patient = is_patient(&envelope);
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let at = shared.clock.mono();
        let input = Input::Received { from, envelope, at };
        self.leave(&shared, input, length);
        // A lane that has peers ticks: no wake-up is worth the moment that it comes earlier.
        if !patient {
            shared.step_in_place();
        }
    }

    fn connected(&self, peer: NodeId, _incarnation: u64) {
        self.put(Input::Connected { node: peer }, 0);
        self.reach(peer, true);
    }

    fn lost(&self, peer: NodeId) {
        self.put(Input::Disconnected { node: peer }, 0);
        self.reach(peer, false);
    }

    fn refused(&self, _from: SocketAddr, why: &Refusal) {
        if let (Refusal::Sought(sought), Some(shared)) = (why, self.shared.upgrade()) {
            shared.peers.sought.send_replace(Some(*sought));
        }
    }

    fn room(
        &self,
        _from: NodeId,
        class: Class,
    ) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        let full = !self.intake.has_room(class);
        full.then(|| Box::pin(self.intake.wait_for_room(class)) as _)
    }
}

/// What the cluster's tasks ask of a lane, whatever its machine. Once the node is gone, nothing
/// happens.
pub(crate) trait Lane: Send + Sync + 'static {
    /// Proposes a change of shard 0. What came of it is seen in the directory.
    fn transact(&self, transaction: Transaction);

    /// The shards that this node leads.
    fn led(&self) -> Vec<ShardStatus>;

    /// The shards that this node has a replica of.
    fn hosted(&self) -> Vec<ShardStatus>;

    /// Shard 0, as this node knows it.
    fn definitions(&self) -> Option<ShardStatus>;

    /// Whether this node does not hear from the leader of the definitions.
    fn is_behind(&self) -> bool;

    /// Does these steps, where this node still leads.
    fn act(&self, steps: Vec<(ShardId, Step)>);

    /// Makes this node's replica of a shard decide alone.
    fn recover(&self, shard: ShardId);

    /// Keeps where other nodes are, for the next start.
    fn remember(&self, peers: &[(NodeId, Vec<String>)]);
}

/// A lane that lives as long as its node.
pub(crate) struct LaneOf<M: Machine, T> {
    pub(crate) shared: Weak<Shared<M, T>>,
}

impl<M, T> LaneOf<M, T>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + Sync + 'static,
{
    fn submit(&self, inputs: impl IntoIterator<Item = Input<M::Input, T>>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.inbox().extend(inputs);
            shared.step_in_place();
        }
    }
}

impl<M, T> Lane for LaneOf<M, T>
where
    M: Machine + Send + 'static,
    M::Input: Send,
    M::Effect: Send,
    T: Copy + Send + Sync + 'static,
{
    fn transact(&self, transaction: Transaction) {
        self.submit([Input::Transact {
            shard: ShardId::DEFINITIONS,
            transaction,
            wait: WaitFor::Nothing,
        }]);
    }

    fn is_behind(&self) -> bool {
        let shared = self.shared.upgrade();
        shared.is_some_and(|shared| shared.is_behind())
    }

    fn led(&self) -> Vec<ShardStatus> {
        let Some(shared) = self.shared.upgrade() else {
            return Vec::new();
        };
        let mut led = shared.shards_status(all_shards(shared.shards));
        let is_led = |status: &ShardStatus| status.leader.is_some_and(|it| it.1 == shared.node);
        led.retain(is_led);
        led
    }

    fn hosted(&self) -> Vec<ShardStatus> {
        let Some(shared) = self.shared.upgrade() else {
            return Vec::new();
        };
        let mut hosted = shared.shards_status(all_shards(shared.shards));
        hosted.retain(|status| status.replica.is_some());
        hosted
    }

    fn definitions(&self) -> Option<ShardStatus> {
        let shared = self.shared.upgrade()?;
        shared.shards_status([ShardId::DEFINITIONS]).pop()
    }

    fn act(&self, steps: Vec<(ShardId, Step)>) {
        self.submit(steps.into_iter().map(|(shard, step)| match step {
            Step::Change(changes) => Input::ChangeMembers { shard, changes },
            Step::Transfer(to) => Input::Transfer { shard, to },
        }));
    }

    fn recover(&self, shard: ShardId) {
        self.submit([Input::Recover { shard }]);
    }

    fn remember(&self, peers: &[(NodeId, Vec<String>)]) {
        if let Some(shared) = self.shared.upgrade() {
            shared.local.remember(peers);
        }
    }
}
