//! A whole cluster: nodes on machines of their own, the network between them, clients at any of
//! them, and all that can happen: a run of one seed.
//!
//! A run begins with a cluster of one that others join. Then come load and faults, for so many
//! steps; then everything is repaired, and it is looked at what is left.
//!
//! Always holds:
//! - everything is drawn from the seed; a run with the same seed and steps is the same run;
//! - at most one disk is lost at a time, and nodes have what they must have before the next.

use std::collections::{BTreeMap, BTreeSet};

use warren_cluster_core::ids::{Index, NodeId, ShardId, Term};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::lane;
use warren_cluster_core::log::sim::SimDisk;
use warren_cluster_core::members::Directory;
use warren_cluster_core::rows::Version;

use crate::checker::Checker;
use crate::node::{Life, Node, Options};
use crate::places::Kind;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::world::{Figures, Report};

mod clients;
mod faults;
mod heal;
mod host;
mod net;
mod operator;
mod steward;
mod temper;
mod watch;

use clients::{Link, Place};
use host::{Host, wall};
use net::{Event, Net, Nodes};
use operator::Operator;
use temper::Temper;

/// Time within which all first nodes must have joined.
const FORMING_MICROS_MAX: u64 = 60_000_000;
/// How often a node is told how much room its disk has.
const MEASURE_MICROS: u64 = 100_000;

/// Runs a seed for so many steps, then lets the cluster heal and checks what is left.
#[must_use]
pub fn run(seed: u64, steps: u64, trace: Trace) -> Report {
    let mut cluster = Cluster::new(seed, trace);
    cluster.form();
    cluster.go(steps);
    cluster.report()
}

/// See the module.
struct Cluster {
    rng: Rng,
    trace: Trace,
    checker: Checker,
    temper: Temper,
    /// Microseconds since the run began.
    now: u64,
    hosts: Vec<Host>,
    net: Net,
    operator: Operator,
    places: Vec<Place>,
    /// Connections that broke and whose sessions are still there.
    broken: Vec<Link>,
    step: u64,
    /// Until when two nodes may not know in time what the other one was just told of.
    rough_until: BTreeMap<(NodeId, NodeId), u64>,
    next_id: u32,
    figures: Figures,
    /// Who took which lead.
    leads: BTreeMap<(ShardId, Term), NodeId>,
    /// What a shard is at an entry, and who was seen to have it so.
    states: BTreeMap<(ShardId, Index), (u64, NodeId)>,
    /// The definitions in which all is that was declared, and all that a churning client knows.
    declared: (usize, Version),
    known: BTreeMap<u32, Version>,
    /// Churning clients that are gone, and asked for something to the last.
    forsaken: BTreeSet<u32>,
    /// Messages in all queues, about.
    backlog: u64,
    /// A lead that is handed over at a step.
    hand_over_at: Option<(u64, ShardId, NodeId)>,
    /// Faults are over.
    heals: bool,
    over: bool,
}

/// The hosts, as the network sees them.
struct Running<'a>(&'a [Host]);

impl Running<'_> {
    fn host(&self, node: NodeId) -> Option<&Host> {
        self.0.iter().find(|host| host.id == node)
    }
}

impl Nodes for Running<'_> {
    fn life(&self, node: NodeId) -> Option<u64> {
        let host = self.host(node)?;
        host.node.as_ref().map(|_| host.life)
    }

    fn knows(&self, node: NodeId, other: NodeId) -> bool {
        let node = self.host(node).and_then(|host| host.node.as_ref());
        node.is_some_and(|node| {
            let directory = node.directory();
            let is_member = |directory: &Directory| {
                let row = directory.nodes.get(&other);
                row.is_some_and(|row| row.value.is_member())
            };
            // One that joined while this one was away: others have told.
            let is_newer = directory
                .next
                .as_ref()
                .is_some_and(|next| other >= next.value.node);
            let told = || {
                let others = node.reachable().iter().filter_map(|id| self.host(*id));
                let mut others = others.filter_map(|host| host.node.as_ref());
                others.any(|it| is_member(it.directory()))
            };
            // One that has just joined was told where the others are.
            directory.nodes.is_empty() || is_member(directory) || (is_newer && told())
        })
    }
}

/// A lane that waits for its disk or for other nodes sleeps: it has no more turns in a row than
/// these of which nothing comes, but for pieces of a checkpoint.
const IDLE_TURNS_MAX: u32 = 8;

impl Cluster {
    fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::new(seed);
        let temper = Temper::draw(&mut rng.fork());
        trace.say(|| format!("{temper:?}"));
        let mut cluster = Self {
            checker: Checker::default(),
            places: clients::places(&temper, &mut rng),
            operator: Operator::new(temper.nodes),
            trace,
            temper,
            now: 0,
            hosts: Vec::new(),
            net: Net::default(),
            broken: Vec::new(),
            step: 0,
            rough_until: BTreeMap::new(),
            next_id: 0,
            figures: Figures::default(),
            leads: BTreeMap::new(),
            states: BTreeMap::new(),
            declared: (0, Version::default()),
            known: BTreeMap::new(),
            forsaken: BTreeSet::new(),
            backlog: 0,
            hand_over_at: None,
            heals: false,
            over: false,
            rng,
        };
        cluster.checker.ahead = 2 * cluster.temper.skew_millis;
        cluster.add_host(NodeId(1), None);
        cluster
    }

    /// A new machine with a node that is a member.
    fn add_host(&mut self, id: NodeId, replica: Option<warren_cluster_core::ids::ReplicaId>) {
        let options = Options {
            lane: lane::Options {
                node: id,
                log: id.0,
                founders: replica.is_none().then_some(id).into_iter().collect(),
                seed: self.rng.draw(),
                ..self.temper.lane.clone()
            },
            session: self.temper.session.clone(),
            founds: replica.is_none(),
            replica,
        };
        let mut host = Host::new(options, SimDisk::new(self.rng.draw()));
        host.skew_millis = self.rng.below(self.temper.skew_millis + 1);
        host.offset_micros += self.rng.below(1 << 40);
        host.drift_ppm = self.rng.below(self.temper.drift_ppm + 1);
        let others: Vec<NodeId> = self.hosts.iter().map(|host| host.id).collect();
        self.net.add(id, others.into_iter());
        self.hosts.push(host);
        self.start(self.hosts.len() - 1);
    }

    /// Until all that are to be there from the beginning have joined.
    fn form(&mut self) {
        while !self.is_over() {
            self.round();
            self.pass(5_000);
            if self.operator.is_idle() && self.is_settled() {
                self.trace.note("formed", self.hosts.len() as u64, self.now);
                return;
            }
            if self.now > FORMING_MICROS_MAX {
                let text = format!("the cluster does not form: {}", self.state());
                self.fail("liveness", &text);
            }
        }
    }

    fn go(&mut self, steps: u64) {
        for step in 1..=steps {
            if self.is_over() {
                self.trace.say(|| self.state());
                return;
            }
            self.step = step;
            self.trace.at(step);
            let micros = match self.rng.below(20) {
                0..12 => self.rng.below(300),
                12..18 => self.rng.below(4_000),
                _ => self.rng.below(30_000),
            };
            self.pass(micros);
            self.stir();
            self.strike();
            self.end_faults();
            self.watch();
        }
        if !self.is_over() {
            self.heal();
        }
    }

    fn pass(&mut self, micros: u64) {
        self.now += micros;
        self.checker.now = wall(self.now);
    }

    /// Small things that are no faults, some of those that could happen.
    fn stir(&mut self) {
        self.net_turns();
        let first = self.rng.below(self.hosts.len() as u64) as usize;
        for number in 0..self.hosts.len() {
            let at = (first + number) % self.hosts.len();
            if self.hosts[at].runs(self.now) {
                let answers = [0, 1, 3, 10][self.rng.below(4) as usize];
                self.hosts[at].disk_answers(answers);
                if self.rng.permille(850) {
                    self.lane_turns(at);
                }
                if self.rng.permille(300) {
                    self.tend(at);
                }
            }
        }
        for _ in 0..4 {
            self.client_moves();
        }
        self.operate();
    }

    /// A turn for everyone, and time for all that they have to do at once; whether clients or
    /// sessions moved anything.
    fn round(&mut self) -> bool {
        self.net_turns();
        for at in 0..self.hosts.len() {
            if self.hosts[at].node.is_some() {
                self.hosts[at].disk_answers(u64::MAX);
                self.lane_turns(at);
                self.tend(at);
            }
        }
        let moved = self.clients_move();
        self.operate();
        self.watch_roles();
        self.tell_messages();
        moved
    }

    fn net_turns(&mut self) {
        let running = Running(&self.hosts);
        let events = self.net.turn(&running, self.now, &mut self.rng);
        for (to, event) in events {
            let host = self.hosts.iter_mut().find(|host| host.id == to);
            let Some(host) = host else { continue };
            let at = host.now(self.now).mono;
            let Some(node) = host.node.as_mut() else {
                continue;
            };
            match event {
                Event::Received { from, envelope } => {
                    node.push(Input::Received { from, envelope, at });
                }
                Event::Connected(other) => {
                    self.trace.note("connected", to.0, other.0);
                    node.connected(other);
                }
                Event::Lost(other) => {
                    self.trace.note("lost", to.0, other.0);
                    node.disconnected(other);
                }
            }
        }
    }

    fn lane_turns(&mut self, at: usize) {
        let turned = self.hosts[at].turn(self.now, &mut self.trace);
        let host = &mut self.hosts[at];
        let id = host.id;
        let late = host.ends_by.is_some_and(|by| by <= self.now);
        let Some(node) = &mut host.node else {
            return;
        };
        match turned {
            Ok(_) if late => {
                self.stopped(at);
                return;
            }
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                self.node_fails(at, &error);
                return;
            }
        }
        if node.idle_turns > IDLE_TURNS_MAX {
            let text = format!("node {id} turns for nothing: {}", node.state());
            self.checker.violate("rests", text);
        }
        let mail = node.take_mail();
        let (life, sent) = (node.life(), mail.len());
        for (from, malformed) in node.take_foreign() {
            let text = format!("node {id} cannot read what node {from} sent: {malformed}");
            self.checker.violate("wire", text);
        }
        for envelope in mail {
            self.net.post(id, &envelope, self.now, &mut self.rng);
        }
        self.trace.count(id.0, sent as u64);
        if life == Life::Stopped {
            self.stopped(at);
        }
    }

    /// What a node's own tasks do.
    fn tend(&mut self, at: usize) {
        let is_first = |node: &Node| {
            node.leads()
                .iter()
                .any(|it| it.shard == ShardId::DEFINITIONS)
        };
        let host = &self.hosts[at];
        let due = self.now >= host.steward_at;
        let first = host.node.as_ref().filter(|node| due && is_first(node));
        let look = first.map(|node| {
            let id = node.id();
            let heard = |other: &&Node| other.id() == id || node.reachable().contains(&other.id());
            let nodes = self.hosts.iter().filter_map(|host| host.node.as_ref());
            steward::Look::at(nodes.filter(heard))
        });
        let host = &mut self.hosts[at];
        let mono = host.now(self.now).mono;
        let Some(node) = &mut host.node else {
            return;
        };
        node.do_chores(mono);
        if self.now >= host.measured_at {
            host.measured_at = self.now + MEASURE_MICROS;
            if host.short_until <= self.now {
                let bytes = host.disk.free_bytes();
                node.push(Input::FreeDisk { bytes });
            }
        }
        if due {
            host.steward_at = self.now + steward::PERIOD_MICROS;
            host.steward.work(node, look.as_ref(), self.now);
        }
    }

    fn tell_messages(&mut self) {
        for (what, key) in self.checker.notes.drain(..) {
            self.trace.message(what, key);
        }
    }

    fn is_over(&self) -> bool {
        self.over || !self.checker.violations().is_empty()
    }

    fn report(self) -> Report {
        let checker = &self.checker;
        Report {
            violations: checker.violations().to_vec(),
            trace: self.trace.hash(),
            figures: Figures {
                published: checker.published,
                confirmed: checker.confirmed,
                delivered: checker.delivered,
                redelivered: checker.redelivered,
                acknowledged: checker.acknowledged,
                leads: self.leads.len() as u64,
                unavailable: checker.unavailable,
                calls: checker.calls,
                calls_certain: checker.calls_certain,
                ..self.figures
            },
        }
    }

    /// Something failed that must not.
    fn fail(&mut self, invariant: &'static str, text: &str) {
        self.checker.violate(invariant, text.to_owned());
        self.over = true;
    }

    /// A node that serves, any of them.
    fn any_serving(&mut self) -> Option<usize> {
        let serving = |host: &Host| {
            let node = host.node.as_ref();
            node.is_some_and(|node| node.life() == Life::Serving)
        };
        let hosts = (0..self.hosts.len()).filter(|at| serving(&self.hosts[*at]));
        let hosts: Vec<usize> = hosts.collect();
        if hosts.is_empty() {
            return None;
        }
        let at = self.rng.below(hosts.len() as u64) as usize;
        Some(hosts[at])
    }

    fn host_of(&self, node: NodeId) -> Option<usize> {
        self.hosts.iter().position(|host| host.id == node)
    }

    /// How many queues there are by now: more as the run goes on.
    fn queues_open(&self) -> usize {
        let all = self.temper.queues.len();
        if self.heals {
            return all;
        }
        (1 + self.step as usize * all / 4_000).min(all)
    }
}

/// Whether such a client has queues of its own, that it deletes in the end.
fn is_own(kind: Kind) -> bool {
    matches!(kind, Kind::Churner { .. } | Kind::Fleeting { .. })
}
