//! The end of a run: faults stop, everything is drained, and nothing may be left.

use warren_cluster_core::inbox::Input;

use super::{Place, World};
use crate::client::{Client, Role};
use crate::node::{Life, Node};
use crate::places::Kind;

/// Rounds within which everything must have come to rest.
const ROUNDS_MAX: u32 = 500_000;
/// Rounds without progress (and a second each) after which nothing will come any more.
const QUIET_ROUNDS: u32 = 4;
const SECOND_MICROS: u64 = 1_000_000;

impl World {
    /// Lets everything come to rest, then checks.
    pub(super) fn heal(&mut self) {
        self.trace.note("healing", 0, 0);
        self.heals = true;
        self.end_all_faults();
        self.add_drains();
        self.settle();
        if self.is_over() {
            return;
        }
        self.check_quiet();
        self.check_churned();
        self.check_counts();
        self.checker.drained();
        if self.is_over() {
            return;
        }
        self.check_leaks();
    }

    fn end_all_faults(&mut self) {
        self.disk.set_stalled(false);
        let ends = |node: &Node| matches!(node.life(), Life::Closing | Life::Stopping);
        if self.node.as_ref().is_some_and(ends) {
            self.stop_and_wait();
        }
        if self.node.is_none() && !self.is_over() {
            self.start();
        }
        self.push(Input::FreeDisk { bytes: u64::MAX });
        if let Some(node) = &mut self.node {
            node.alarm(None);
        }
        self.notice_all();
        for place in &mut self.places {
            if let Some(link) = &mut place.link {
                link.client.draining = true;
            }
        }
    }

    /// Consumers for all queues; publishers that are gone stay away.
    fn add_drains(&mut self) {
        // Those with queues of their own come back to delete them; an auto-delete queue that lost
        // its consumer with its node waits for another one.
        let owns = |place: &Place| {
            let kind = place.kind;
            matches!(kind, Kind::Churner { .. } | Kind::Fleeting { .. })
        };
        self.places
            .retain(|place| place.link.is_some() || owns(place));
        for queue in 0..self.temper.queues.len() {
            let kind = Kind::Consumer {
                queue,
                auto_ack: false,
            };
            self.places.push(Place { kind, link: None });
        }
    }

    /// Lets everything happen until nothing does.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            if self.is_over() || quiet == QUIET_ROUNDS {
                return;
            }
            let progress = self.round();
            self.tell_messages();
            if progress {
                quiet = 0;
                self.pass(100);
            } else {
                quiet += 1;
                self.pass(SECOND_MICROS);
            }
        }
        let state = self.node.as_ref().map(Node::state).unwrap_or_default();
        self.fail("liveness", &format!("it does not come to rest: {state}"));
    }

    /// A turn for everyone; whether anything happened.
    fn round(&mut self) -> bool {
        let mut progress = false;
        for at in 0..self.places.len() {
            self.connect(at);
            if let Some(link) = &mut self.places[at].link {
                link.client.draining = true;
                link.client.act(&mut self.checker);
            }
            progress |= self.move_up(at, usize::MAX) > 0;
            progress |= self.turn(at, usize::MAX) > 0;
            progress |= self.move_down(at, usize::MAX, usize::MAX) > 0;
        }
        for at in self.places.len()..self.places.len() + self.broken.len() {
            progress |= self.turn(at, usize::MAX) > 0;
        }
        while let Some(completion) = self.disk.complete_one() {
            progress = true;
            self.push(Input::Disk(completion));
        }
        let Some(node) = &mut self.node else {
            return progress;
        };
        progress |= node.do_chores(self.now.mono);
        progress |= !node.is_idle();
        self.lane_turns();
        progress
    }

    /// Whoever asked has an answer.
    fn check_quiet(&mut self) {
        let places = self.places.iter();
        let waits = |place: &&Place| place.link.as_ref().is_none_or(|it| !it.client.is_quiet());
        let names = places.filter(waits).map(|place| match &place.link {
            Some(link) => format!("{:?} {}", link.client.role(), link.client.state()),
            None => format!("{:?} cannot connect", place.kind),
        });
        let names: Vec<String> = names.collect();
        for name in names {
            self.checker
                .violate("liveness", format!("waits for ever: {name}"));
        }
    }

    /// Churning clients have deleted their queues, and deleted they are.
    fn check_churned(&mut self) {
        for place in &self.places {
            if let Kind::Churner { id } = place.kind
                && !Client::has_tidied_up(id, &self.checker)
            {
                let text = format!("churning client {id} cannot delete its queues");
                self.checker.violate("liveness", text);
            }
        }
    }

    /// All queues are empty, as they say themselves.
    fn check_counts(&mut self) {
        let Some(node) = &mut self.node else {
            return;
        };
        let session = node.open_session(self.now.mono, self.rng.draw());
        let mut client = Client::new(Role::Inspector, self.temper.queues.clone(), self.rng.fork());
        client.draining = true;
        self.places.push(Place {
            kind: Kind::Publisher,
            link: Some(super::Link {
                client,
                session,
                wire: bytes::BytesMut::new(),
                noticed: false,
            }),
        });
        self.settle();
        let Some(place) = self.places.pop() else {
            return;
        };
        let Some(link) = place.link else {
            self.fail("liveness", "the inspector's connection broke");
            return;
        };
        if link.client.counts().len() != self.temper.queues.len() {
            self.fail("liveness", "the inspector has no answer");
        }
        for (queue, messages, consumers) in link.client.counts() {
            if *messages > 0 || *consumers == 0 {
                let text = format!("queue {queue} has {messages} messages, {consumers} consumers");
                self.checker.violate("liveness", text);
            }
        }
        if let Some(node) = &mut self.node {
            node.disconnect(session, self.now.mono);
        }
    }

    /// Only the durable queues of the run are left, everywhere.
    fn check_queues(&mut self) {
        let Some(node) = &self.node else {
            return;
        };
        let durable = self.temper.queues.iter().filter(|it| it.durable).count();
        let (named, held, tombstones) = node.queue_counts();
        // Not every durable queue was declared in a short run.
        if named > durable || held != named || tombstones > 0 {
            let text = format!(
                "{named} queues have names, {held} are in shards, {tombstones} tombstones: \
                 {durable} durable ones were used"
            );
            self.checker.violate("nothing-leaks", text);
        }
    }

    /// Ends the node in order.
    fn stop_and_wait(&mut self) {
        let is_up = |node: &Node| !matches!(node.life(), Life::Stopping);
        if self.node.as_ref().is_some_and(is_up) {
            self.stop_lane();
        }
        for _ in 0..ROUNDS_MAX {
            if self.node.is_none() || self.is_over() {
                return;
            }
            while let Some(completion) = self.disk.complete_one() {
                self.push(Input::Disk(completion));
            }
            self.pass(SECOND_MICROS / 100);
            self.lane_turns();
        }
        self.fail("liveness", "the lane does not stop");
    }

    /// Segments, memory and checkpoints are back at their floor.
    fn check_leaks(&mut self) {
        let Some(node) = &self.node else {
            return;
        };
        let figures = node.figures();
        if figures.memory_bytes > 0 {
            let text = format!("{} bytes of drained unlogged queues", figures.memory_bytes);
            self.checker.violate("nothing-leaks", text);
        }
        self.stop_and_wait();
        if self.is_over() {
            return;
        }
        self.places.clear();
        self.start();
        self.settle();
        self.check_queues();
        let names = self.disk.names();
        let sizes = names
            .iter()
            .map(|name| (*name, self.disk.len(*name).unwrap_or(0)));
        let sizes: Vec<_> = sizes.collect();
        self.trace.say(|| format!("left on the disk: {sizes:?}"));
        let used: u64 = sizes.iter().map(|(_, len)| len).sum();
        let lane = &self.temper.node.lane;
        let floor = 4 * u64::from(lane.segment_bytes) + FLOOR_CHECKPOINT_BYTES;
        // What a shard has in the log without a checkpoint stays.
        let all_saved = lane.last_checkpoint_bytes_min == 1;
        if all_saved && used > floor {
            let text = format!("{used} bytes on the disk, floor {floor}: {sizes:?}");
            self.checker.violate("nothing-leaks", text);
        }
    }
}

/// Checkpoints of empty shards, all together.
const FLOOR_CHECKPOINT_BYTES: u64 = 16 << 10;
