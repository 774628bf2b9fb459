//! A node as its process would run it, without threads, sockets and files: lane, topology,
//! sessions, and what joins them. Stepped piece by piece, in any order that the world likes.

mod peers;

use core::net::{IpAddr, Ipv4Addr};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use warren_broker_core::auth::password;
use warren_broker_core::definitions::{
    HashingAlgorithm, PermissionKey, PermissionRow, Store, UserKey, UserRow, VhostKey, VhostRow,
};
use warren_broker_core::dispatch::chores::{Chore, Chores};
use warren_broker_core::dispatch::control::{Home, lives};
use warren_broker_core::dispatch::reconcile;
use warren_broker_core::dispatch::work::{Item, ReplyAddress, Ticket, Work};
use warren_broker_core::ids::{SessionId, Token};
use warren_broker_core::session::event::Event;
use warren_broker_core::session::{Env, Peer, ReplyDirectory, Session, SessionOptions};
use warren_broker_core::shard::effect::Effect;
use warren_broker_core::shard::{Shard, ShardOptions, input};
use warren_broker_core::topology::Topology;
use warren_cluster_core::ids::{self, Instant, NodeId, Now, ReplicaId, ShardId, Term};
use warren_cluster_core::inbox::{Input, Outputs};
use warren_cluster_core::lane::{self, Figures, Lane};
use warren_cluster_core::link::Envelope;
use warren_cluster_core::log::disk::Op;
use warren_cluster_core::log::sim::SimDisk;
use warren_cluster_core::machine::Malformed;
use warren_cluster_core::members::Directory;
use warren_cluster_core::rows::{Change, Precondition, Transaction, Write};

use crate::agree::States;
use crate::trace::Trace;

type LaneInput = Input<input::Input, Ticket>;

/// The node itself, where sessions are named.
const NODE: SessionId = SessionId(0);

/// How a node is made.
#[derive(Clone, Debug)]
pub struct Options {
    pub lane: lane::Options,
    pub session: Arc<SessionOptions>,
    /// It is the one that makes the first definitions, where there are none.
    pub founds: bool,
    /// The replica of shard 0 that it was given when it joined.
    pub replica: Option<ReplicaId>,
}

/// How far a node's life is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// Recovered, the rows not told yet.
    Opening,
    /// The first definitions are on their way.
    Defining,
    Serving,
    /// Clients were told to go.
    Closing,
    /// The lane ends.
    Stopping,
    Stopped,
}

/// A running node.
pub struct Node {
    options: Options,
    lane: Lane<Shard, Ticket>,
    inputs: VecDeque<LaneInput>,
    outputs: Outputs<Effect, Ticket>,
    topology: Topology,
    sessions: BTreeMap<SessionId, Served>,
    last_session: u64,
    /// Noted by the lane's last turns, and all.
    noted: Vec<Chore>,
    chores: Chores,
    home: Home,
    life: Life,
    alarm: Option<Arc<str>>,
    /// The lane said that it has more to do.
    pub wants_step: bool,
    /// Turns of the lane, one after another, to which nobody brought anything, of which nothing
    /// came, and after which it wanted one more.
    pub(crate) idle_turns: u32,
    /// For other nodes, and what they say that cannot be read.
    mail: Vec<Envelope>,
    foreign: Vec<(NodeId, Malformed)>,
    directory: Directory,
    /// Nodes that there is a way to.
    reachable: BTreeSet<NodeId>,
    /// Leads that it took, until somebody looks.
    led: Vec<(ShardId, Term)>,
}

/// A session and what waits at its door.
struct Served {
    session: Session,
    unread: BytesMut,
    events: VecDeque<Event>,
    /// Its socket is gone.
    lost: bool,
}

/// Nobody waits for direct replies.
struct NoReplies;

impl ReplyDirectory for NoReplies {
    fn alive(&self, _address: ReplyAddress) -> bool {
        false
    }
}

impl Node {
    /// Starts on what the disk holds.
    ///
    /// # Errors
    /// When the lane cannot be recovered.
    pub fn start(
        options: Options,
        disk: &mut SimDisk,
        incarnation: u64,
    ) -> Result<Self, lane::Error> {
        let machine = |shard: ShardId| {
            Shard::new(ShardOptions {
                logged: !shard.is_unlogged(),
            })
        };
        let lane_options = lane::Options {
            life: ids::Life(incarnation),
            ..options.lane.clone()
        };
        let lane = Lane::recover(lane_options, disk, machine)?;
        let shard = ShardId::DEFINITIONS;
        let given = options.replica.into_iter();
        let given = given.map(|replica| Input::Host { shard, replica });
        Ok(Self {
            inputs: given.collect(),
            home: Home {
                node: options.lane.node,
                incarnation,
            },
            options,
            lane,
            outputs: Outputs::default(),
            topology: Topology::new(incarnation),
            sessions: BTreeMap::new(),
            last_session: 0,
            noted: Vec::new(),
            chores: Chores::default(),
            life: Life::Opening,
            alarm: None,
            wants_step: true,
            idle_turns: 0,
            mail: Vec::new(),
            foreign: Vec::new(),
            directory: Directory::default(),
            reachable: BTreeSet::new(),
            led: Vec::new(),
        })
    }

    #[must_use]
    pub fn life(&self) -> Life {
        self.life
    }

    #[must_use]
    pub fn figures(&self) -> Figures {
        self.lane.figures()
    }

    /// What its shards hold: when it is over, or has only been started.
    pub(crate) fn states(&self) -> States {
        States::of(&self.lane, self.options.lane.shards)
    }

    /// How many queues it knows by name, how many its logged shards have, and how many deleted ones
    /// it has not forgotten.
    #[must_use]
    pub fn queue_counts(&self) -> (usize, usize, usize) {
        let shards = (1..=self.options.lane.shards).map(ShardId);
        let machines = shards.filter_map(|shard| self.lane.machine(shard));
        (
            self.topology.queues().count(),
            machines.map(|machine| machine.queues().len()).sum(),
            self.topology.tombstones().count(),
        )
    }

    /// When the lane or a session wants a turn though nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let sessions = self.sessions.values();
        let timeouts = sessions.filter_map(|served| served.session.timeout());
        timeouts.chain(self.lane.deadline()).min()
    }

    /// Whether it has nothing to do until something happens.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let waits = |served: &Served| !served.events.is_empty();
        !self.wants_step
            && self.inputs.is_empty()
            && self.noted.is_empty()
            && !self.sessions.values().any(waits)
    }

    /// What it has to do, for a person.
    #[must_use]
    pub fn state(&self) -> String {
        let waits = |served: &&Served| !served.events.is_empty();
        format!(
            "node is {:?}, lane wants a step: {}, {} inputs, {} chores, {} sessions with events",
            self.life,
            self.wants_step,
            self.inputs.len(),
            self.noted.len(),
            self.sessions.values().filter(waits).count()
        )
    }

    /// Hands the lane an input from outside.
    pub fn push(&mut self, input: LaneInput) {
        self.inputs.push_back(input);
    }

    /// One turn of the lane.
    ///
    /// # Errors
    /// What the node cannot survive.
    pub fn step(
        &mut self,
        now: Now,
        disk: &mut SimDisk,
        trace: &mut Trace,
    ) -> Result<(), lane::Error> {
        let mut ops = Vec::new();
        let (inputs, outputs) = (&mut self.inputs, &mut self.outputs);
        let brought = !inputs.is_empty();
        self.wants_step = self.lane.step(now, inputs, outputs, &mut ops)?;
        let comes = !ops.is_empty() || !outputs.is_empty() || self.lane.writes_checkpoint();
        let idle = !brought && !comes && self.wants_step;
        self.idle_turns = if idle { self.idle_turns + 1 } else { 0 };
        for op in ops {
            trace.detail(|| describe(&op));
            disk.submit(op);
        }
        self.take_outputs();
        Ok(())
    }

    fn take_outputs(&mut self) {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.mail.append(&mut outputs.mail);
        self.foreign.append(&mut outputs.foreign);
        for (shard, changes) in outputs.changes.drain(..) {
            self.take_members(shard, &changes);
            self.take_changes(shard, &changes);
        }
        for (ticket, committed) in outputs.committed.drain(..) {
            let token = Token(ticket.number);
            let event = match committed {
                Some(committed) => Event::Committed { token, committed },
                None => Event::NotCommitted { token },
            };
            self.tell(ticket.session, event);
        }
        for ticket in outputs.caught_up.drain(..) {
            let token = Token(ticket.number);
            self.tell(ticket.session, Event::CaughtUp { token });
        }
        for (ticket, outcome) in outputs.done.drain(..) {
            let number = ticket.number;
            self.tell(ticket.session, Event::Done { number, outcome });
        }
        for effect in outputs.effects.drain(..) {
            match Chore::of(&effect) {
                Some(chore) => self.noted.push(chore),
                None => {
                    if let Some(session) = addressee(&effect) {
                        self.tell(session, Event::Shard(effect));
                    }
                }
            }
        }
        let roles = outputs.roles.drain(..);
        let led: BTreeMap<_, _> = roles
            .filter_map(|(shard, term)| Some((shard, term?)))
            .collect();
        self.take_roles(led);
        if outputs.stopped {
            self.life = Life::Stopped;
        }
        outputs.stopped = false;
        self.outputs = outputs;
        if self.life == Life::Opening {
            self.begin_definitions();
        }
    }

    /// Shards that the node leads from here on are told of all their queues before they act.
    fn take_roles(&mut self, led: BTreeMap<ShardId, Term>) {
        self.led
            .extend(led.iter().map(|(shard, term)| (*shard, *term)));
        let shards = led.keys().copied().collect();
        for (shard, input) in reconcile::lead(&self.topology, &shards) {
            self.inputs.push_back(Input::Machine { shard, input });
        }
        let reconciled = led.into_iter();
        self.inputs
            .extend(reconciled.map(|(shard, term)| Input::Reconciled { shard, term }));
    }

    /// Queues are made in their shards before anyone sees that they are declared.
    fn take_changes(&mut self, shard: ShardId, changes: &[Change]) {
        let store = Store::of_shard(shard).expect("only rows shards have changes");
        let mut inputs = reconcile::reconcile(store, changes).expect("rows that this build wrote");
        self.topology.set_home(self.home.node);
        if store == Store::Replicated {
            inputs.extend(lives::dropped(&self.topology, changes));
        }
        let inputs = inputs.into_iter();
        self.inputs
            .extend(inputs.map(|(shard, input)| Input::Machine { shard, input }));
        if store == Store::Replicated {
            let fences = lives::fences(changes).into_iter();
            self.inputs.extend(fences.map(|(node, upto)| Input::Fence {
                node,
                life: ids::Life(upto),
            }));
        }
        let applied = self.topology.apply(store, changes);
        applied.expect("rows that this build wrote");
        if store == Store::Replicated
            && let Some(transaction) = lives::orphans(&self.topology, changes)
        {
            let mut work = Work::default();
            work.transact(ShardId::LOCAL_DEFINITIONS, transaction, None);
            self.submit(NODE, &mut work);
        }
    }

    fn begin_definitions(&mut self) {
        self.life = Life::Defining;
        if self.topology.vhosts().next().is_some() {
            if self.knows_leader() {
                self.begin_life();
            } else {
                self.life = Life::Opening;
            }
            return;
        }
        if !self.options.founds {
            self.life = Life::Opening;
            return;
        }
        let mut work = Work::default();
        work.transact(ShardId::DEFINITIONS, first_definitions(), Some(Token(1)));
        self.submit(NODE, &mut work);
    }

    /// What an earlier life left behind goes before anybody is served.
    fn begin_life(&mut self) {
        let transactions = lives::begin(&self.topology, self.home);
        if transactions.is_empty() {
            self.life = Life::Serving;
        }
        let mut work = Work::default();
        for transaction in transactions {
            work.transact(ShardId::DEFINITIONS, transaction, Some(Token(2)));
        }
        self.submit(NODE, &mut work);
    }

    fn tell(&mut self, session: SessionId, event: Event) {
        if session == NODE {
            // A repetition finds nothing left to do.
            if self.life == Life::Defining {
                self.begin_life();
            }
            return;
        }
        if let Some(served) = self.sessions.get_mut(&session) {
            served.events.push_back(event);
        }
    }

    fn submit(&mut self, session: SessionId, work: &mut Work) {
        for item in work.items.drain(..) {
            let ticket = |number| Ticket { session, number };
            self.inputs.push_back(match item {
                Item::Propose {
                    shard,
                    batch,
                    number,
                } => Input::Propose {
                    shard,
                    batch,
                    ticket: ticket(number),
                },
                Item::Ask { shard, input } => Input::Machine { shard, input },
                Item::Transact {
                    shard,
                    transaction,
                    wait,
                } => Input::Transact {
                    shard,
                    transaction,
                    wait: wait.map(|token| ticket(token.0)),
                },
                Item::CatchUp { node, token } => Input::CatchUp {
                    node,
                    ticket: ticket(token.0),
                },
                Item::Reply(_) => continue,
            });
        }
    }

    /// Does what queues left to do and what is due of it; whether there was anything.
    pub fn do_chores(&mut self, now: Instant) -> bool {
        for chore in self.noted.drain(..) {
            self.chores.add(chore, now);
        }
        let mut work = Work::default();
        let any = self.chores.work(now, &self.topology, &mut work);
        self.submit(NODE, &mut work);
        any
    }

    /// Raises or clears an alarm for publishers.
    pub fn alarm(&mut self, alarm: Option<&str>) {
        self.alarm = alarm.map(Arc::from);
        for served in self.sessions.values_mut() {
            served.events.push_back(Event::Blocked(self.alarm.clone()));
        }
    }

    /// Tells all clients to go.
    pub fn close(&mut self) {
        self.life = Life::Closing;
        for served in self.sessions.values_mut() {
            let text = Arc::from("shutdown");
            served.events.push_back(Event::Close { text });
        }
    }

    /// Ends the lane; sessions that are left are left alone.
    pub fn stop(&mut self) {
        self.life = Life::Stopping;
        self.sessions.clear();
        self.inputs.push_back(Input::Stop);
    }

    /// A client connected.
    pub fn open_session(&mut self, now: Instant, seed: u64) -> SessionId {
        self.last_session += 1;
        let id = SessionId::new(self.options.lane.node, self.last_session);
        let peer = Peer {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 40_000,
            tls: false,
        };
        let options = Arc::clone(&self.options.session);
        let mut served = Served {
            session: Session::new(options, id, peer, now, seed),
            unread: BytesMut::new(),
            events: VecDeque::new(),
            lost: false,
        };
        if self.alarm.is_some() {
            served.events.push_back(Event::Blocked(self.alarm.clone()));
        }
        self.sessions.insert(id, served);
        id
    }

    /// Bytes of a client that its session has not read.
    #[must_use]
    pub fn unread(&self, id: SessionId) -> usize {
        self.sessions.get(&id).map_or(0, |it| it.unread.len())
    }

    /// Bytes came in.
    pub fn receive(&mut self, id: SessionId, bytes: &[u8]) {
        if let Some(served) = self.sessions.get_mut(&id) {
            served.unread.extend_from_slice(bytes);
        }
    }

    /// A turn of a session: up to `events_max` events, what it can read, its timers. Gives how many
    /// bytes it has read.
    pub fn turn(&mut self, id: SessionId, now: Instant, events_max: usize) -> usize {
        let Some(mut served) = self.sessions.remove(&id) else {
            return 0;
        };
        let env = Env {
            topology: &self.topology,
            replies: &NoReplies,
            shards: self.options.lane.shards,
            home: self.home,
            fresh_until: self.lane.fresh_until(),
        };
        let mut work = Work::default();
        let session = &mut served.session;
        for _ in 0..events_max.min(served.events.len()) {
            if let Some(event) = served.events.pop_front() {
                session.handle_event(now, &env, event, &mut work);
            }
        }
        let mut used = 0;
        if !served.lost {
            if session.wants_read() && !served.unread.is_empty() {
                used = session.handle_bytes(now, &env, &served.unread, &mut work);
                served.unread.advance(used);
            }
            if session.timeout().is_some_and(|at| at <= now) {
                session.handle_timeout(now, &env, &mut work);
            }
            session.pump(now, &env, &mut work);
        }
        let is_over = served.lost && session.is_over();
        self.submit(id, &mut work);
        if !is_over {
            self.sessions.insert(id, served);
        }
        used
    }

    /// Takes up to `count` bytes for the client into `out`.
    pub fn take_bytes(&mut self, id: SessionId, count: usize, out: &mut BytesMut) {
        let Some(served) = self.sessions.get_mut(&id) else {
            return;
        };
        let outbox = served.session.outbox();
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = outbox.fill(&mut slices);
        let mut left = count;
        for slice in &slices[..filled] {
            let take = left.min(slice.len());
            out.extend_from_slice(&slice[..take]);
            left -= take;
        }
        outbox.advance(count - left);
    }

    /// Whether the node has closed the connection.
    #[must_use]
    pub fn has_closed(&mut self, id: SessionId) -> bool {
        let closed = |it: &mut Served| it.session.is_finished() && it.session.outbox().is_empty();
        self.sessions.get_mut(&id).is_none_or(closed)
    }

    /// Whether a session still needs turns: one whose socket is gone may.
    #[must_use]
    pub fn has_session(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// The sessions that there are.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    /// The node learns that the socket is gone.
    pub fn disconnect(&mut self, id: SessionId, now: Instant) {
        let Some(mut served) = self.sessions.remove(&id) else {
            return;
        };
        let env = Env {
            topology: &self.topology,
            replies: &NoReplies,
            shards: self.options.lane.shards,
            home: self.home,
            fresh_until: self.lane.fresh_until(),
        };
        let mut work = Work::default();
        served.session.handle_disconnect(now, &env, &mut work);
        served.lost = true;
        let is_over = served.session.is_over();
        self.submit(id, &mut work);
        if !is_over {
            self.sessions.insert(id, served);
        }
    }
}

/// A session's number on its node.
#[must_use]
pub fn number(session: SessionId) -> u64 {
    session.0 - SessionId::of_node(session.node()).0
}

/// An operation, for a person.
fn describe(op: &Op) -> String {
    let (file, token) = (op.file(), op.token().0);
    match op {
        Op::Create { zeroed, .. } => format!("op {token}: create {file}, {zeroed} bytes"),
        Op::Write {
            offset,
            buffers,
            sync,
            ..
        } => {
            let bytes: usize = buffers.iter().map(Bytes::len).sum();
            let synced = if *sync { ", synced" } else { "" };
            format!("op {token}: write {bytes} bytes to {file} at {offset}{synced}")
        }
        Op::Read { offset, len, .. } => {
            format!("op {token}: read {len} bytes of {file} at {offset}")
        }
        Op::Rename { from, .. } => format!("op {token}: rename {from} to {file}"),
        Op::Remove { .. } => format!("op {token}: remove {file}"),
    }
}

/// Whom an effect is for.
fn addressee(effect: &Effect) -> Option<SessionId> {
    match effect {
        Effect::Deliver { session, .. }
        | Effect::Got { session, .. }
        | Effect::Attached { session, .. }
        | Effect::Refused { session, .. }
        | Effect::Detached { session, .. }
        | Effect::Cancelled { session, .. }
        | Effect::Settled { session, .. } => Some(*session),
        Effect::Reply { asker, .. } => Some(*asker),
        Effect::Closed { .. } | Effect::Dropped { .. } => None,
    }
}

/// The vhost, the user and what it may do, of a blank node.
fn first_definitions() -> Transaction {
    let algorithm = HashingAlgorithm::Sha256;
    let user = UserRow {
        password_hash: password::hash(algorithm, [1, 2, 3, 4], b"guest").expect("it is there"),
        algorithm,
        ..UserRow::default()
    };
    let all = || ".*".to_owned();
    let permission = PermissionRow {
        configure: all(),
        write: all(),
        read: all(),
    };
    let vhost = VhostKey { name: "/" }.encode();
    let writes = vec![
        Write::Put {
            row: vhost.clone(),
            value: VhostRow::default().encode(),
        },
        Write::Put {
            row: UserKey { name: "guest" }.encode(),
            value: user.encode(),
        },
        Write::Put {
            row: PermissionKey {
                user: "guest",
                vhost: "/",
            }
            .encode(),
            value: permission.encode(),
        },
    ];
    Transaction {
        preconditions: vec![Precondition::Absent(vhost)],
        writes,
    }
}
