//! The end of a run: faults stop, everything is drained, and nothing may be left.

use std::collections::{BTreeMap, BTreeSet};

use warren_cluster_core::ids::ShardId;
use warren_cluster_core::log::disk::FileName;
use warren_cluster_core::rows::Version;

use super::Cluster;
use super::clients::Place;
use super::net::Weather;
use crate::client::Client;
use crate::node::{Life, Node};
use crate::places::Kind;

/// A round, and time within which everything must have come to rest.
const ROUND_MICROS: u64 = 8_000;
const REST_MICROS_MAX: u64 = 300_000_000;
/// And time in which nothing moves any more.
const STILL_MICROS_MAX: u64 = 30_000_000;
/// Rounds that it must be at rest for.
const REST_ROUNDS: u32 = 25;
/// Outcomes of batches that may be left: of those that were under way at once at the end.
const OUTCOMES_FLOOR: usize = 2_000;
/// Checkpoints of empty shards, all together, and the bytes that small files may have.
const FLOOR_CHECKPOINT_BYTES: u64 = 32 << 10;
/// Segments of a log that no message is in.
const FLOOR_SEGMENTS: usize = 8;

impl Cluster {
    /// Lets everything come to rest, then checks.
    pub(super) fn heal(&mut self) {
        self.trace.note("healing", self.now, 0);
        self.heals = true;
        self.end_all_faults();
        self.add_drains();
        self.settle();
        if self.is_over() {
            return;
        }
        self.check_quiet();
        self.check_counts();
        self.checker.drained();
        self.check_agreement();
        self.check_queues();
        if !self.is_over() {
            self.check_leaks();
        }
    }

    fn end_all_faults(&mut self) {
        self.net.heal();
        self.net.weather = Weather::default();
        for at in 0..self.hosts.len() {
            let host = &mut self.hosts[at];
            (host.paused_until, host.short_until) = (0, 0);
            host.disk.set_stalled(false);
            host.disk.set_bytes_limit(u64::MAX);
            (host.stalled_until, host.full_until) = (0, 0);
            host.set_clock_right();
            if let Some(node) = &mut host.node {
                node.alarm(None);
            }
        }
        self.hand_over_at = None;
        for at in 0..self.hosts.len() {
            let ends = |node: &Node| matches!(node.life(), Life::Closing | Life::Stopping);
            if self.hosts[at].node.as_ref().is_some_and(ends) {
                self.stop_lane(at);
            }
        }
        self.notice_all();
    }

    /// Consumers for all queues; publishers that are gone stay away.
    fn add_drains(&mut self) {
        self.reopen();
        for queue in 0..self.temper.queues.len() {
            let auto_ack = false;
            self.places
                .push(Place::new(Kind::Consumer { queue, auto_ack }));
        }
    }

    /// Lets everything happen until nothing does.
    fn settle(&mut self) {
        let end = self.now + REST_MICROS_MAX;
        let (mut quiet, mut moved_at) = (0, self.now);
        while quiet < REST_ROUNDS {
            if self.is_over() {
                return;
            }
            if self.now > end || self.now > moved_at + STILL_MICROS_MAX {
                let text = format!("it does not come to rest: {}", self.state());
                self.fail("liveness", &text);
                self.check_quiet();
                return;
            }
            for at in 0..self.hosts.len() {
                let host = &self.hosts[at];
                if host.node.is_none() && !host.gone && !self.over {
                    self.start(at);
                }
            }
            self.see_late_names();
            let moved = self.round();
            if moved {
                moved_at = self.now;
            }
            self.watch_doubt();
            self.pass(ROUND_MICROS);
            quiet = if moved || !self.is_at_rest() {
                0
            } else {
                quiet + 1
            };
        }
    }

    fn is_at_rest(&self) -> bool {
        let is_quiet = |place: &Place| match &place.link {
            Some(link) => link.client.is_quiet() && self.has_tidied(place),
            None => place.closed,
        };
        self.operator.is_idle()
            && self.places.iter().all(is_quiet)
            && self.broken.is_empty()
            && self
                .nodes()
                .all(|node| node.message_count(&self.shards_of(node)) == 0)
            && self.nodes().all(|node| node.queue_counts().2 == 0)
            && self.is_settled()
            && self.is_level()
    }

    fn has_tidied(&self, place: &Place) -> bool {
        match place.kind {
            Kind::Churner { id } => Client::has_tidied_up(id, &self.checker),
            _ => true,
        }
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.hosts.iter().filter_map(|host| host.node.as_ref())
    }

    /// The shards that a node has a replica of that counts: one that was taken away may not have
    /// heard of it, and stays as it is.
    pub(super) fn shards_of(&self, node: &Node) -> BTreeSet<ShardId> {
        let led = self.nodes().flat_map(Node::leads);
        let here = led.filter(|it| it.members.on(node.id()).is_some());
        here.map(|it| it.shard).collect()
    }

    /// All copies of a shard are at the same entry.
    pub(super) fn is_level(&self) -> bool {
        let led = self.nodes().flat_map(Node::leads);
        let led: BTreeMap<_, _> = led.map(|it| (it.shard, it.applied)).collect();
        self.nodes().all(|node| {
            let shards = self.shards_of(node);
            let mut here = node
                .shards()
                .into_iter()
                .filter(|it| shards.contains(&it.shard));
            here.all(|it| led.get(&it.shard) == Some(&it.applied))
        })
    }

    /// Whoever asked has an answer.
    fn check_quiet(&mut self) {
        let places = self.places.iter();
        let waits = places.filter_map(|place| match &place.link {
            Some(link) if link.client.is_quiet() && self.has_tidied(place) => None,
            None if place.closed => None,
            Some(link) => {
                let (role, state) = (link.client.role(), link.client.state());
                let node = link.session.node();
                Some(format!("waits for ever: {role:?} at node {node} {state}"))
            }
            None => Some(format!("waits for ever: {:?} cannot connect", place.kind)),
        });
        for text in waits.collect::<Vec<_>>() {
            self.checker.violate("liveness", text);
        }
    }

    /// All queues are empty, and every node knows that they are there.
    fn check_counts(&mut self) {
        let durable = self.checker.declared_count();
        let mut texts = Vec::new();
        for node in self.nodes() {
            let (id, messages) = (node.id(), node.message_count(&self.shards_of(node)));
            let (named, _) = node.names();
            if messages > 0 || named < durable {
                texts.push(format!(
                    "node {id} has {messages} messages, {named} queues of {durable}"
                ));
            }
        }
        for text in texts {
            self.checker.violate("declared-is-declared", text);
        }
    }

    /// All copies of a shard are the same.
    fn check_agreement(&mut self) {
        self.watch_states();
    }

    /// Only the durable queues of the run are left, everywhere.
    fn check_queues(&mut self) {
        let durable = self.temper.queues.len();
        let mut texts = Vec::new();
        for node in self.nodes() {
            let id = node.id();
            let (_, _, tombstones) = node.queue_counts();
            let (named, local) = node.names();
            // One whose declare came late, when its client had gone: nobody ever consumed it.
            let fleeting = node.named_like(Client::FLEETING);
            let shards = self.shards_of(node);
            let (held, outcomes) = (node.queue_count(&shards), node.outcome_count(&shards));
            let memory = node.figures().memory_bytes;
            if named - fleeting > durable || held > named || tombstones > 0 {
                let names = node.replicated_names();
                texts.push(format!(
                    "node {id}: {named} queues have names, {held} are in shards, {tombstones} \
                     tombstones: {durable} were used; {names:?}"
                ));
            }
            // An auto-delete queue of a client that went elsewhere before it consumed stays.
            if (memory > 0 && local == 0) || outcomes > OUTCOMES_FLOOR {
                texts.push(format!(
                    "node {id}: {memory} bytes of unlogged queues, {outcomes} outcomes"
                ));
            }
        }
        for text in texts {
            self.checker.violate("nothing-leaks", text);
        }
    }

    /// All nodes stop in order and start again: they are as they were, and their disks empty.
    fn check_leaks(&mut self) {
        self.places.clear();
        let versions: Vec<Version> = self.nodes().map(Node::version).collect();
        for at in 0..self.hosts.len() {
            if self.hosts[at].node.is_some() {
                self.stop_lane(at);
            }
        }
        let end = self.now + REST_MICROS_MAX;
        while self.hosts.iter().any(|host| host.node.is_some()) {
            if self.is_over() {
                return;
            }
            if self.now > end {
                let text = format!("it does not stop: {}", self.state());
                self.fail("liveness", &text);
                return;
            }
            self.round();
            self.pass(ROUND_MICROS);
        }
        self.settle();
        let after: Vec<Version> = self.nodes().map(Node::version).collect();
        if after < versions && !self.is_over() {
            let text = format!("definitions were at {versions:?}, now {after:?}");
            self.checker.violate("declared-is-declared", text);
        }
        self.check_disks();
    }

    fn check_disks(&mut self) {
        let lane = &self.temper.lane;
        // What a shard has in the log without a checkpoint stays.
        if lane.last_checkpoint_bytes_min != 1 {
            return;
        }
        for host in self.hosts.iter().filter(|host| !host.gone) {
            // A replica that was taken away keeps what it had, for when it comes back.
            let shards = host
                .node
                .as_ref()
                .map(|node| (self.shards_of(node), node.shards()));
            let keeps = shards.is_some_and(|(counts, all)| {
                let mut left = all.iter().filter(|it| !counts.contains(&it.shard));
                left.any(|it| it.applied.0.0 > 0)
            });
            if keeps {
                continue;
            }
            let (id, disk) = (host.id, &host.disk);
            let names = disk.names().into_iter();
            let files: Vec<_> = names.map(|it| (it, disk.len(it).unwrap_or(0))).collect();
            // A segment is larger where one entry is.
            let is_segment = |it: &&(FileName, u64)| matches!(it.0, FileName::Segment(_));
            let segments = files.iter().filter(is_segment).count();
            let others = files.iter().filter(|it| !is_segment(it));
            let bytes: u64 = others.map(|(_, bytes)| *bytes).sum();
            // The last one may be from before all was drained, until the log has as much again.
            let floor = FLOOR_CHECKPOINT_BYTES + lane.checkpoint_bytes_min;
            if segments > FLOOR_SEGMENTS || bytes > floor {
                let text = format!("node {id}: more is on the disk than at the start: {files:?}");
                self.checker.violate("nothing-leaks", text);
            }
        }
    }
}
