//! A node among others: what it says to them and hears of them, what it knows of its shards.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use warren_broker_core::dispatch::control::lives;
use warren_broker_core::topology::Queue;
use warren_cluster_core::ids::{Index, Instant, NodeId, Place, Seq, ShardId, Term};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::lane::{Head, ShardStatus};
use warren_cluster_core::link::Envelope;
use warren_cluster_core::machine::{Bodies, Machine as _, Malformed};
use warren_cluster_core::members::{Directory, all_shards, is_own};
use warren_cluster_core::rows::{Change, Transaction, Version, WaitFor};

use super::{LaneInput, Life, Node};

/// What a shard is on one node at one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fingerprint {
    pub(crate) shard: ShardId,
    pub(crate) applied: (Index, Term),
    pub(crate) hash: u64,
}

/// Counts the messages that a machine refers to.
#[derive(Default)]
struct Count(u64);

impl Bodies for Count {
    fn get(&mut self, _place: Place, _len: u32) -> Option<Bytes> {
        None
    }

    fn want(&mut self, _key: u64, _place: Place, _len: u32) {}

    fn retain(&mut self, _key: u64, _id: u64, _place: Place, _len: u32) {
        self.0 += 1;
    }

    fn release(&mut self, _place: Place, _len: u32) {}
}

impl Node {
    pub(super) fn take_members(&mut self, shard: ShardId, changes: &[Change]) {
        let own = changes.iter().any(|change| is_own(&change.row));
        if shard != ShardId::DEFINITIONS || !own {
            return;
        }
        let (moved, applied) = self.directory.apply(changes);
        applied.expect("rows that this build wrote");
        let node = self.options.lane.node;
        for shard in moved {
            let Some(row) = self.directory.replicas.get(&shard) else {
                continue;
            };
            let gone = row.value.gone.iter().filter(|id| id.node() == node);
            self.inputs.extend(gone.map(|id| Input::Vacate {
                shard,
                replica: *id,
            }));
            let here = row.value.on(node);
            self.inputs
                .extend(here.map(|replica| Input::Host { shard, replica }));
        }
    }

    /// Whether it knows who leads the definitions.
    pub(super) fn knows_leader(&self) -> bool {
        let status = self.lane.status(ShardId::DEFINITIONS);
        status.is_some_and(|status| status.leader.is_some())
    }

    pub(crate) fn id(&self) -> NodeId {
        self.options.lane.node
    }

    pub(crate) fn take_mail(&mut self) -> Vec<Envelope> {
        std::mem::take(&mut self.mail)
    }

    /// What other nodes sent that cannot be read.
    pub(crate) fn take_foreign(&mut self) -> Vec<(NodeId, Malformed)> {
        std::mem::take(&mut self.foreign)
    }

    /// Leads that it took since somebody asked last.
    pub(crate) fn take_led(&mut self) -> Vec<(ShardId, Term)> {
        std::mem::take(&mut self.led)
    }

    pub(crate) fn connected(&mut self, node: NodeId) {
        self.reachable.insert(node);
        self.push(Input::Connected { node });
    }

    pub(crate) fn disconnected(&mut self, node: NodeId) {
        self.reachable.remove(&node);
        self.push(Input::Disconnected { node });
    }

    pub(crate) fn reachable(&self) -> &BTreeSet<NodeId> {
        &self.reachable
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Ends the lives of nodes that are no members any more, and what lived with them.
    pub(crate) fn fence_removed(&mut self) {
        let removed = |node: &NodeId| {
            let row = self.directory.nodes.get(node);
            row.is_some_and(|row| !row.value.is_member())
        };
        let nodes = self.topology.lives().map(|(node, _)| node);
        let nodes: Vec<NodeId> = nodes.filter(removed).collect();
        for node in nodes {
            for transaction in lives::fence(&self.topology, node) {
                self.transact(transaction);
            }
        }
    }

    /// Whether it has had no word of another node for so long that it takes it for gone.
    pub(crate) fn misses(&self, node: NodeId, now: Instant) -> bool {
        self.lane.is_gone(node, now)
    }

    /// Proposes a change of shard 0. What came of it is seen in the directory.
    pub(crate) fn transact(&mut self, transaction: Transaction) {
        self.push(LaneInput::Transact {
            shard: ShardId::DEFINITIONS,
            transaction,
            wait: WaitFor::Nothing,
        });
    }

    /// Its shards as it knows them, shard 0 first.
    pub(crate) fn shards(&self) -> Vec<ShardStatus> {
        let all = all_shards(self.options.lane.shards);
        all.filter_map(|shard| self.lane.status(shard)).collect()
    }

    /// The shards that it leads.
    pub(crate) fn leads(&self) -> Vec<ShardStatus> {
        let mut led = self.shards();
        led.retain(|status| status.leader.is_some_and(|(_, node)| node == self.id()));
        led
    }

    /// The definitions that it has.
    pub(crate) fn version(&self) -> Version {
        let rows = self.lane.rows(ShardId::DEFINITIONS);
        rows.map(|rows| rows.version()).unwrap_or_default()
    }

    /// Whether all that its sessions have done is in the log.
    pub(crate) fn owes_nothing(&self) -> bool {
        let mut shards = (1..=self.options.lane.shards).map(ShardId);
        self.inputs.is_empty() && !shards.any(|shard| self.lane.owes(shard))
    }

    /// Whether there is something for its lane to do now.
    pub(crate) fn wants_turn(&self, now: Instant) -> bool {
        let due = self.lane.deadline().is_some_and(|at| at <= now);
        self.wants_step || due || !self.inputs.is_empty() || self.life == Life::Opening
    }

    /// The names of all replicated queues.
    pub(crate) fn replicated_names(&self) -> Vec<String> {
        self.replicated()
            .map(|it| String::from_utf8_lossy(it.name.as_bytes()).into_owned())
            .collect()
    }

    fn replicated(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.topology.queues().filter(|it| !it.id().is_local())
    }

    /// How many replicated queues have a name that begins so.
    pub(crate) fn named_like(&self, prefix: &str) -> usize {
        self.replicated()
            .filter(|it| it.name.starts_with(prefix.as_bytes()))
            .count()
    }

    /// Messages in its copies of these shards.
    pub(crate) fn message_count(&self, shards: &BTreeSet<ShardId>) -> u64 {
        let mut count = Count::default();
        let machines = shards.iter().filter_map(|shard| self.lane.machine(*shard));
        machines.for_each(|machine| machine.retain_all(&mut count));
        count.0
    }

    /// Queues in its copies of these shards.
    pub(crate) fn queue_count(&self, shards: &BTreeSet<ShardId>) -> usize {
        let machines = shards.iter().filter_map(|shard| self.lane.machine(*shard));
        machines.map(|machine| machine.queues().len()).sum()
    }

    /// How many replicated queues it knows by name, and how many of its own.
    pub(crate) fn names(&self) -> (usize, usize) {
        let replicated = self.replicated().count();
        (replicated, self.topology.queues().count() - replicated)
    }

    /// Outcomes of batches that its copies of these shards remember.
    pub(crate) fn outcome_count(&self, shards: &BTreeSet<ShardId>) -> usize {
        let heads = shards.iter().filter_map(|shard| self.lane.head(*shard));
        let of = |head: Head| {
            let origins = head.origins.nodes().map(|(origin, _)| origin);
            let counts = origins.map(|it| head.origins.outcomes(it, Seq(0)).count());
            counts.sum::<usize>()
        };
        heads.map(of).sum()
    }

    /// What each of its shards is. A copy without a past is none yet.
    pub(crate) fn fingerprints(&self) -> Vec<Fingerprint> {
        let all = all_shards(self.options.lane.shards);
        all.filter_map(|shard| self.fingerprint(shard)).collect()
    }

    fn fingerprint(&self, shard: ShardId) -> Option<Fingerprint> {
        let head = self.lane.head(shard)?;
        let mut bytes = Vec::new();
        head.origins.encode(&mut bytes);
        bytes.extend_from_slice(&head.time.0.to_le_bytes());
        for members in [
            head.members.voters,
            head.members.learners,
            head.members.outgoing,
            head.members.learners_next,
        ] {
            let sorted = BTreeSet::from_iter(members);
            bytes.extend_from_slice(format!("{sorted:?}").as_bytes());
        }
        if let Some(machine) = self.lane.machine(shard) {
            machine.dump(&mut bytes);
        }
        if let Some(rows) = self.lane.rows(shard) {
            bytes.extend_from_slice(format!("{:?}", rows.all()).as_bytes());
        }
        // The same on every run: it is not keyed.
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        (head.applied.0 > Index(0)).then(|| Fingerprint {
            shard,
            applied: head.applied,
            hash: hasher.finish(),
        })
    }
}
