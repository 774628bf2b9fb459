//! What goes wrong: machines, processes, disks, ways between nodes, clients. And how it comes back.

use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::lane;
use warren_cluster_core::members::NodeState;

use super::net::Weather;
use super::operator::Task;
use super::{Cluster, Host};
use crate::node::{Life, Node};

const SECOND_MICROS: u64 = 1_000_000;
/// What a process waits for its lane to end.
const STOP_MICROS_MAX: u64 = 3 * SECOND_MICROS;
/// Room on a disk that is short of it, in bytes.
const SHORT_BYTES: u64 = 1000;
/// By how much a clock is wrong: more than any message lives.
const WRONG_MILLIS: i64 = 2 * 86_400_000;
/// Alarms have a reason.
const ALARM: &str = "low on memory";
/// Nodes that a cluster keeps, and that it has at most.
const NODES_MIN: usize = 3;
const NODES_MAX: usize = 7;
/// Bits that rot on a disk that is lost.
const ROTTEN_BITS: u64 = 200;

impl Cluster {
    /// Perhaps a fault.
    pub(super) fn strike(&mut self) {
        let faults = self.temper.faults;
        let mut dice = self.rng.below(100_000);
        let mut falls_on = |often: u64| {
            let hit = dice < often;
            dice = dice.wrapping_sub(often);
            hit
        };
        let at = self.rng.below(self.hosts.len() as u64) as usize;
        if falls_on(faults.crash) {
            self.crash(at);
        } else if falls_on(faults.kill) {
            self.kill(at);
        } else if falls_on(faults.stop) {
            self.begin_stop(at);
        } else if falls_on(faults.pause) {
            self.trace.note("pause", self.hosts[at].id.0, 0);
            self.hosts[at].paused_until = self.now + self.rng.below(3 * SECOND_MICROS);
        } else if falls_on(faults.cut) {
            let place = self.rng.below(self.places.len() as u64) as usize;
            self.cut(place);
        } else if falls_on(faults.stall) {
            self.trace.note("disk stalls", self.hosts[at].id.0, 0);
            self.hosts[at].disk.set_stalled(true);
            self.hosts[at].stalled_until = self.now + self.rng.below(SECOND_MICROS);
        } else if falls_on(faults.short) {
            self.run_short(at);
        } else if falls_on(faults.full) {
            self.fill(at);
        } else if falls_on(faults.alarm) {
            self.alarm(at);
        } else if falls_on(faults.clock) {
            self.set_a_clock(at);
        } else if falls_on(faults.transfer) {
            self.hand_over_any();
        } else {
            self.strike_ways(dice);
        }
        self.go_on_stopping();
    }

    /// Faults of ways and of the cluster as a whole.
    fn strike_ways(&mut self, mut dice: u64) {
        let faults = self.temper.faults;
        let mut falls_on = |often: u64| {
            let hit = dice < often;
            dice = dice.wrapping_sub(often);
            hit
        };
        let (one, two) = (self.any_id(), self.any_id());
        if falls_on(faults.one_way) {
            self.trace.note("one way is blocked", one.0, two.0);
            self.net.block(one, two);
        } else if falls_on(faults.both_ways) {
            self.trace.note("both ways are blocked", one.0, two.0);
            self.net.block(one, two);
            self.net.block(two, one);
        } else if falls_on(faults.deaf) {
            self.deafen(one);
        } else if falls_on(faults.isolate) {
            self.isolate(one);
        } else if falls_on(faults.slow) {
            let micros = [0, 5_000, 100_000, 500_000][self.rng.below(4) as usize];
            self.trace.note("a way takes longer", one.0, micros);
            self.net.slow(one, two, micros);
        } else if falls_on(faults.weather) {
            self.net.weather = Weather {
                lost: [0, 0, 5, 30][self.rng.below(4) as usize],
                delay_micros: [0, 1_000, 10_000, 50_000][self.rng.below(4) as usize],
            };
        } else if falls_on(faults.lag) {
            self.lag_behind();
        } else if falls_on(faults.cut_off) {
            self.cut_off_a_leader();
        } else if falls_on(faults.join) {
            self.add_node();
        } else if falls_on(faults.drain) {
            self.drain();
        } else if falls_on(faults.lose) {
            self.lose_a_disk();
        } else if falls_on(faults.repair) {
            self.repair();
        }
    }

    fn any_id(&mut self) -> NodeId {
        let at = self.rng.below(self.hosts.len() as u64) as usize;
        self.hosts[at].id
    }

    /// Faults that last end.
    pub(super) fn end_faults(&mut self) {
        for host in &mut self.hosts {
            if host.stalled_until > 0 && host.stalled_until <= self.now {
                host.stalled_until = 0;
                host.disk.set_stalled(false);
            }
            if host.full_until > 0 && host.full_until <= self.now {
                host.full_until = 0;
                host.disk.set_bytes_limit(u64::MAX);
            }
            if host.wrong_until > 0 && host.wrong_until <= self.now {
                host.set_clock_right();
            }
            if host.alarm_until > 0 && host.alarm_until <= self.now {
                host.alarm_until = 0;
                if let Some(node) = &mut host.node {
                    node.alarm(None);
                }
            }
        }
        if let Some((step, shard, to)) = self.hand_over_at
            && step <= self.step
        {
            self.hand_over_at = None;
            self.hand_over(shard, to);
        }
    }

    fn run_short(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        self.trace.note("disk is short of room", host.id.0, 0);
        host.short_until = self.now + self.rng.below(SECOND_MICROS);
        if let Some(node) = &mut host.node {
            node.push(Input::FreeDisk { bytes: SHORT_BYTES });
        }
    }

    /// The disk has room for a little more.
    fn fill(&mut self, at: usize) {
        let segment = u64::from(self.temper.lane.segment_bytes);
        let host = &mut self.hosts[at];
        let limit = host.disk.used_bytes() + self.rng.below(6 * segment);
        self.trace.note("disk is full", host.id.0, limit);
        host.disk.set_bytes_limit(limit);
        host.full_until = self.now + self.rng.below(3 * SECOND_MICROS);
    }

    /// One clock at a time: of more nobody could tell which are right. It is right again when its
    /// machine starts.
    fn set_a_clock(&mut self, at: usize) {
        if self.hosts.iter().any(|host| host.wrong_until > 0) {
            return;
        }
        let ahead = self.rng.permille(700);
        let host = &mut self.hosts[at];
        self.trace.note("clock is set", host.id.0, u64::from(ahead));
        host.wrong_millis = if ahead { WRONG_MILLIS } else { -WRONG_MILLIS };
        host.wrong_until = self.now + self.rng.below(10 * SECOND_MICROS);
    }

    fn alarm(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        self.trace.note("alarm", host.id.0, 0);
        if let Some(node) = &mut host.node {
            node.alarm(Some(ALARM));
            host.alarm_until = self.now + self.rng.below(SECOND_MICROS);
        }
    }

    /// A node does not hear from whoever leads the definitions, but from all others.
    fn deafen(&mut self, node: NodeId) {
        let leaders: Vec<NodeId> = self
            .hosts
            .iter()
            .filter_map(|host| host.node.as_ref())
            .filter(|it| {
                it.leads()
                    .iter()
                    .any(|led| led.shard == ShardId::DEFINITIONS)
            })
            .map(Node::id)
            .collect();
        for leader in leaders {
            self.trace
                .note("does not hear the leader", node.0, leader.0);
            self.net.block(leader, node);
            self.net.block(node, leader);
        }
    }

    fn isolate(&mut self, node: NodeId) {
        self.trace.note("isolated", node.0, 0);
        for at in 0..self.hosts.len() {
            let other = self.hosts[at].id;
            self.net.block(node, other);
            self.net.block(other, node);
        }
    }

    /// Where a shard's leader is, and a node that could take its lead.
    fn leader_and_heir(&mut self) -> Option<(ShardId, NodeId, NodeId)> {
        let led: Vec<_> = self
            .hosts
            .iter()
            .filter_map(|host| host.node.as_ref())
            .flat_map(|node| node.leads().into_iter().map(|it| (node.id(), it)))
            .filter(|(_, status)| status.members.voters.len() > 1)
            .collect();
        if led.is_empty() {
            return None;
        }
        let (leader, status) = &led[self.rng.below(led.len() as u64) as usize];
        let heirs = status.members.voters.iter().map(|id| id.node());
        let heirs: Vec<NodeId> = heirs.filter(|node| node != leader).collect();
        let heir = *heirs.get(self.rng.below(heirs.len().max(1) as u64) as usize)?;
        Some((status.shard, *leader, heir))
    }

    fn hand_over_any(&mut self) {
        if let Some((shard, _, heir)) = self.leader_and_heir() {
            self.hand_over(shard, heir);
        }
    }

    /// Whoever leads the shard hands the lead to that node.
    fn hand_over(&mut self, shard: ShardId, to: NodeId) {
        self.trace.note("handed over", u64::from(shard.0), to.0);
        for host in &mut self.hosts {
            let Some(node) = &mut host.node else {
                continue;
            };
            let led = node.leads().into_iter().find(|it| it.shard == shard);
            if let Some(to) = led.and_then(|it| it.members.on(to)) {
                node.push(Input::Transfer { shard, to });
            }
        }
    }

    /// A node hears late of definitions, and soon leads a shard (rule 1).
    fn lag_behind(&mut self) {
        let Some((shard, _, heir)) = self.leader_and_heir() else {
            return;
        };
        let leads = |host: &&Host| {
            let node = host.node.as_ref();
            node.is_some_and(|it| {
                it.leads()
                    .iter()
                    .any(|led| led.shard == ShardId::DEFINITIONS)
            })
        };
        let Some(first) = self.hosts.iter().find(leads).map(|host| host.id) else {
            return;
        };
        self.trace.note("lags behind", heir.0, u64::from(shard.0));
        self.net.slow(first, heir, 2 * SECOND_MICROS);
        let steps = self.rng.between(50, 300);
        self.hand_over_at = Some((self.step + steps, shard, heir));
    }

    /// A leader is cut off from its peers, and not from its clients (rule 8).
    fn cut_off_a_leader(&mut self) {
        if let Some((_, leader, _)) = self.leader_and_heir() {
            self.isolate(leader);
        }
    }

    fn active(&self) -> usize {
        self.hosts.iter().filter(|host| !host.gone).count()
    }

    fn add_node(&mut self) {
        if self.operator.is_idle() && self.active() < NODES_MAX {
            self.operator.join();
        }
    }

    /// A node is drained, and then resumed, or removed where there are enough.
    fn drain(&mut self) {
        let at = self.rng.below(self.hosts.len() as u64) as usize;
        if !self.operator.is_idle() || self.hosts[at].gone || self.active() <= NODES_MIN {
            return;
        }
        let node = self.hosts[at].id;
        self.trace.note("is drained", node.0, 0);
        let state = NodeState::Draining;
        self.operator.push(Task::State { node, state });
        self.operator.push(Task::Relieved { node });
        if self.rng.permille(300) {
            let state = NodeState::Active;
            self.operator.push(Task::State { node, state });
        } else {
            let state = NodeState::Leaving;
            self.operator.push(Task::State { node, state });
            self.operator.push(Task::Retired { node });
        }
    }

    /// A node's disk rots while its power is off (rule 4).
    fn lose_a_disk(&mut self) {
        let at = self.rng.below(self.hosts.len() as u64) as usize;
        // Whoever has the rest must be able to go on: each shard where it should be.
        let calm = self.operator.is_idle() && self.is_settled();
        let another = self.hosts.iter().any(|host| host.rotten && !host.gone);
        if !calm || another || self.hosts[at].gone || self.active() < NODES_MIN {
            return;
        }
        self.crash(at);
        let names = self.hosts[at].disk.names();
        if names.is_empty() {
            return;
        }
        for _ in 0..ROTTEN_BITS {
            let file = names[self.rng.below(names.len() as u64) as usize];
            let len = self.hosts[at].disk.len(file).unwrap_or(0);
            let (offset, bit) = (self.rng.below(len.max(1)), self.rng.below(8) as u8);
            self.hosts[at].disk.rot(file, offset, bit);
        }
        self.trace.note("disk rots", self.hosts[at].id.0, 0);
        self.hosts[at].rotten = true;
        self.start(at);
    }

    /// What a node held is lost: it is removed, and another one joins.
    fn lost(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        self.trace.note("is lost", host.id.0, 0);
        self.figures.losses += 1;
        host.gone = true;
        let (node, state) = (host.id, NodeState::Leaving);
        self.operator.push(Task::State { node, state });
        self.operator.push(Task::Retired { node });
        self.operator.join();
    }

    /// A node comes back, or a way opens.
    fn repair(&mut self) {
        let down = |host: &Host| host.node.is_none() && !host.gone;
        let down: Vec<usize> = (0..self.hosts.len())
            .filter(|at| down(&self.hosts[*at]))
            .collect();
        if !down.is_empty() && self.rng.permille(500) {
            let at = down[self.rng.below(down.len() as u64) as usize];
            self.start(at);
        } else if !self.net.unblock(&mut self.rng) || self.rng.permille(200) {
            let weather = self.net.weather;
            self.net.heal();
            self.net.weather = weather;
        }
    }

    fn crash(&mut self, at: usize) {
        if self.hosts[at].node.is_some() {
            self.trace.note("power goes", self.hosts[at].id.0, 0);
            self.figures.crashes += 1;
            self.die(at);
            self.hosts[at].disk.crash();
        }
    }

    fn kill(&mut self, at: usize) {
        if self.hosts[at].node.is_some() {
            self.trace.note("process is killed", self.hosts[at].id.0, 0);
            self.figures.kills += 1;
            self.die(at);
            self.hosts[at].disk.kill();
        }
    }

    /// A node's process is no more.
    pub(super) fn die(&mut self, at: usize) {
        self.watch_roles();
        if self.rng.permille(300) {
            self.watch_states_of(at);
        }
        let host = &mut self.hosts[at];
        (host.node, host.ends_by) = (None, None);
        host.disk.set_stalled(false);
        let id = host.id;
        self.cut_all(at);
        self.net.died(id, self.now, &mut self.rng);
        self.checker.node = id.0;
        self.checker.node_died();
    }

    /// Clients are told to go, leads are handed over.
    pub(super) fn begin_stop(&mut self, at: usize) {
        let Some(node) = &mut self.hosts[at].node else {
            return;
        };
        if node.life() != Life::Serving {
            return;
        }
        self.trace.note("stop", node.id().0, 0);
        let me = node.id();
        for status in node.leads() {
            let voters = status.members.voters.iter();
            let heir = voters.copied().find(|id| id.node() != me);
            if let Some(to) = heir {
                let shard = status.shard;
                node.push(Input::Transfer { shard, to });
            }
        }
        node.close();
        // What its clients hold goes back before they hear of it.
        self.checker.set_doubtful(me.0, true);
    }

    /// The next part of a stop, some time after the one before.
    fn go_on_stopping(&mut self) {
        for at in 0..self.hosts.len() {
            let node = self.hosts[at].node.as_ref();
            let closing = node.is_some_and(|node| node.life() == Life::Closing);
            if closing && self.rng.permille(20) {
                self.stop_lane(at);
            }
        }
    }

    pub(super) fn stop_lane(&mut self, at: usize) {
        self.trace.note("lane stops", self.hosts[at].id.0, 0);
        self.cut_all(at);
        let host = &mut self.hosts[at];
        host.ends_by = Some(self.now + STOP_MICROS_MAX);
        if let Some(node) = &mut host.node {
            node.stop();
        }
    }

    /// A node has ended in order.
    pub(super) fn stopped(&mut self, at: usize) {
        self.trace.note("stopped", self.hosts[at].id.0, 0);
        self.figures.stops += 1;
        self.watch_states_of(at);
        self.die(at);
        self.hosts[at].disk.kill();
    }

    /// A node's lane cannot go on.
    pub(super) fn node_fails(&mut self, at: usize, error: &lane::Error) {
        let host = &self.hosts[at];
        self.trace.say(|| format!("node {} ends: {error}", host.id));
        let full = host.full_until > 0;
        let (id, rotten) = (host.id, host.rotten);
        if rotten {
            self.kill(at);
            self.lost(at);
        } else if full {
            self.kill(at);
        } else {
            self.fail("lane", &format!("node {id}: {error}"));
        }
    }

    /// Starts a node on what its disk holds.
    pub(super) fn start(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        match host.start() {
            Ok(()) => {
                self.trace.note("start", host.id.0, host.life);
                host.away_since = Some(self.now);
                self.watch_states_of(at);
            }
            Err(error) if host.rotten => {
                self.trace
                    .say(|| format!("node {} does not start: {error}", self.hosts[at].id));
                self.lost(at);
            }
            Err(error) => {
                let text = format!("node {}: {error}", host.id);
                self.fail("recovery", &text);
            }
        }
    }
}
