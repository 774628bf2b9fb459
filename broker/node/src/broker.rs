//! What all of a node's tasks share: the topology, the sessions, the way to the lane, alarms.
//!
//! - The topology has one writer: the sink, under the lane's lock. Everyone else reads snapshots.
//! - A session sees a topology at least as new as the events that it is handed.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use warren_broker_core::auth::{self, LoginError};
use warren_broker_core::definitions::Store;
use warren_broker_core::dispatch::chores::Chore;
use warren_broker_core::dispatch::control::{Home, lives};
use warren_broker_core::dispatch::reconcile;
use warren_broker_core::dispatch::work::{DirectReply, Item, ReplyAddress, Ticket, Work};
use warren_broker_core::ids::{SessionId, Token};
use warren_broker_core::session::event::Event;
use warren_broker_core::session::{Env, Peer, ReplyDirectory, Session, SessionOptions};
use warren_broker_core::shard::Shard;
use warren_broker_core::shard::effect::Effect;
use warren_broker_core::topology::{Topology, User};
use warren_cluster::cluster::Cluster;
use warren_cluster::{Handle, Sink};
use warren_cluster_core::ids::{Instant, Life, NodeId, ShardId, Term};
use warren_cluster_core::inbox::{Input, Outputs};
use warren_cluster_core::rows::{Change, WaitFor};

use crate::alarms::{Alarms, Intake, Limits};
use crate::chores::{ToDo, ToDos};
use crate::commits::Commits;
use crate::config::Config;
use crate::events::Events;
use crate::metrics::Registry;
use crate::sessions::{Mailbox, Sessions, lock};
use crate::stats::Stats;

/// The node itself, where sessions are named.
pub(crate) const NODE: SessionId = SessionId(0);

type LaneInput = Input<warren_broker_core::shard::input::Input, Ticket>;

/// A node's shared state. Made before the lane opens, as it is the lane's sink.
pub(crate) struct Broker {
    config: Config,
    sessions: Sessions,
    topology: ArcSwap<Topology>,
    lane: OnceLock<Handle<Shard, Ticket>>,
    session_options: Arc<SessionOptions>,
    limits: Limits,
    alarms: Mutex<Alarms>,
    intake: Intake,
    /// Held by who measures: sessions hear of alarms in the order in which they come and go.
    measuring: Mutex<()>,
    /// What the node itself waits for.
    commits: Commits,
    to_dos: ToDos,
    /// This node, once the lane is open; 0 before.
    node: AtomicU64,
    /// The life that exclusive and transient objects are marked with.
    incarnation: AtomicU64,
    stopping: AtomicBool,
    /// It has started, and is not about to stop: then its leads go elsewhere first.
    serving: AtomicBool,
    /// An operator wants this node to serve no clients.
    draining: AtomicBool,
    /// Another cluster's node should be here: no client is served.
    astray: watch::Sender<bool>,
    registry: Registry,
    stats: Stats,
    cluster: OnceLock<Arc<Cluster>>,
    events: Events,
}

impl Broker {
    pub(crate) fn new(config: Config, registry: Registry) -> Self {
        let session_options = Arc::new(session_options(&config));
        let limits = Limits::new(config.memory_high_watermark, config.disk_free_limit);
        let stats = Stats::new(&config, limits);
        Self {
            sessions: Sessions::new(),
            topology: ArcSwap::from_pointee(Topology::new(random())),
            lane: OnceLock::new(),
            session_options,
            limits,
            alarms: Mutex::new(Alarms::default()),
            intake: Intake::new(),
            measuring: Mutex::default(),
            commits: Commits::default(),
            to_dos: ToDos::default(),
            node: AtomicU64::new(0),
            incarnation: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            astray: watch::Sender::new(false),
            cluster: OnceLock::new(),
            events: Events::new(random()),
            registry,
            stats,
            config,
        }
    }

    /// The lane is open: from here on work can be handed over.
    pub(crate) fn set_lane(&self, lane: Handle<Shard, Ticket>) {
        self.node.store(lane.node().0, Ordering::Release);
        self.set_incarnation(lane.incarnation());
        assert!(self.lane.set(lane).is_ok(), "a node opens its lane once");
    }

    pub(crate) fn set_incarnation(&self, incarnation: u64) {
        self.incarnation.store(incarnation, Ordering::Release);
    }

    /// This node and its life.
    pub(crate) fn home(&self) -> Home {
        Home {
            node: NodeId(self.node.load(Ordering::Acquire)),
            incarnation: self.incarnation.load(Ordering::Acquire),
        }
    }

    pub(crate) fn lane(&self) -> &Handle<Shard, Ticket> {
        self.lane
            .get()
            .expect("clients are served only after the lane is open")
    }

    /// The node has taken its place among others.
    pub(crate) fn set_cluster(&self, cluster: Arc<Cluster>) {
        assert!(self.cluster.set(cluster).is_ok(), "a node starts once");
    }

    /// The node's place among others; `None` while it starts.
    pub(crate) fn cluster(&self) -> Option<Arc<Cluster>> {
        self.cluster.get().cloned()
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The newest topology.
    pub(crate) fn topology(&self) -> arc_swap::Guard<Arc<Topology>> {
        self.topology.load()
    }

    pub(crate) fn now(&self) -> Instant {
        self.lane().mono()
    }

    /// The moment of the lane's clock on tokio's.
    pub(crate) fn tokio_instant(&self, at: Instant) -> tokio::time::Instant {
        let from_now = Duration::from_micros(at.micros_since(self.now()));
        tokio::time::Instant::now() + from_now
    }

    /// What a session's turn may use; `fresh_until` was asked for before `topology`.
    pub(crate) fn env<'a>(&'a self, topology: &'a Arc<Topology>, fresh_until: Instant) -> Env<'a> {
        Env {
            fresh_until,
            topology,
            replies: self,
            shards: self.lane().shards(),
            home: self.home(),
        }
    }

    /// Hands over what a turn of a session wants done.
    pub(crate) fn submit(&self, session: SessionId, work: &mut Work) {
        let mut inputs: Vec<LaneInput> = Vec::with_capacity(work.items.len());
        for item in work.items.drain(..) {
            match item {
                Item::Propose {
                    shard,
                    batch,
                    number,
                } => {
                    let ticket = Ticket { session, number };
                    inputs.push(Input::Propose {
                        shard,
                        batch,
                        ticket,
                    });
                }
                Item::Ask { shard, input } => inputs.push(Input::Machine { shard, input }),
                Item::Transact {
                    shard,
                    transaction,
                    wait,
                } => inputs.push(Input::Transact {
                    shard,
                    transaction,
                    wait: wait.map(|token| Ticket::of(session, token)),
                }),
                Item::CatchUp { node, token } => {
                    let ticket = Ticket::of(session, token);
                    inputs.push(Input::CatchUp { node, ticket });
                }
                Item::Reply(reply) => {
                    let to = reply.address.session.node();
                    if to == self.home().node {
                        self.put_reply(reply);
                    } else {
                        let bytes = reply.encode();
                        inputs.push(Input::Post { to, bytes });
                    }
                }
            }
        }
        self.lane().submit(&mut inputs);
    }

    fn put_reply(&self, reply: DirectReply) {
        let DirectReply { address, message } = reply;
        let event = Event::DirectReply { address, message };
        self.sessions.put(address.session, [event]);
    }

    /// A new client's session.
    pub(crate) fn open_session(&self, peer: SocketAddr) -> (Session, Arc<Mailbox>) {
        let (id, mailbox) = self.sessions.open(self.lane().node());
        let peer = Peer {
            address: peer.ip(),
            port: peer.port(),
            tls: false,
        };
        let options = Arc::clone(&self.session_options);
        let session = Session::new(options, id, peer, self.now(), random());
        if let Some(reason) = self.alarms().reason() {
            mailbox.put([Event::Blocked(Some(reason))]);
        }
        if let Some(text) = self.sends_away() {
            mailbox.put([close_event(text)]);
        }
        self.stats.connection_opened();
        (session, mailbox)
    }

    pub(crate) fn session_closed(&self, id: SessionId) {
        self.sessions.close(id);
        self.stats.connection_closed();
    }

    pub(crate) fn alarms(&self) -> Alarms {
        *lock(&self.alarms)
    }

    /// Resident memory in bytes, as last measured.
    pub(crate) fn resident(&self) -> u64 {
        self.stats.readings().resident
    }

    /// Whether no alarm of memory or disk can be near, as last measured.
    pub(crate) fn has_plenty(&self) -> bool {
        self.limits.has_plenty(self.stats.readings())
    }

    /// An event of this node.
    pub(crate) fn tell_of_itself(&self, kind: &str, text: String) {
        self.events.tell(kind, Some(self.lane().node()), None, text);
    }

    /// A client has sent so many bytes.
    pub(crate) fn came_in(&self, bytes: usize) {
        if self.intake.came(bytes) {
            self.check_alarms();
        }
    }

    /// Measures, raises and clears alarms, tells the sessions when something changed. Nothing
    /// happens while another thread is at it.
    pub(crate) fn check_alarms(&self) {
        let _measuring = match self.measuring.try_lock() {
            Ok(measuring) => measuring,
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let readings = match crate::alarms::measure(&self.config.data_dir) {
            Ok(readings) => readings,
            Err(error) => {
                tracing::warn!(%error, "cannot measure memory or disk");
                return;
            }
        };
        let had_plenty = self.has_plenty();
        self.stats.set_readings(readings);
        self.intake.looked(self.limits, readings);
        if !(had_plenty && self.has_plenty()) {
            // What waits for room goes on once there is some, though nobody else steps the lane.
            self.lane().submit(&mut vec![Input::FreeDisk {
                bytes: readings.disk_free,
            }]);
        }
        let (before, after) = {
            let mut alarms = lock(&self.alarms);
            let before = *alarms;
            *alarms = self.limits.judge(readings, before);
            (before, *alarms)
        };
        if before != after {
            tracing::warn!(
                memory = after.memory,
                disk = after.disk,
                resident = readings.resident,
                disk_free = readings.disk_free,
                "resource alarms changed"
            );
            let text = match after.reason() {
                Some(reason) => format!("resource alarm: {reason}"),
                None => "no resource alarm is in effect any more".to_owned(),
            };
            self.tell_of_itself("alarm", text);
            self.stats.set_alarms(after);
            let memory = after.memory;
            self.lane().submit(&mut vec![Input::Scarce { memory }]);
            self.sessions.put_all(&Event::Blocked(after.reason()));
        }
    }

    /// Tells every session to close, now and when it opens later.
    pub(crate) fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.sessions.put_all(&close_event(STOP_TEXT));
    }

    /// Whether clients are to go elsewhere.
    pub(crate) fn set_draining(&self, draining: bool) {
        let before = self.draining.swap(draining, Ordering::AcqRel);
        if draining && !before {
            tracing::info!("this node is put into maintenance: clients are sent away");
            self.sessions.put_all(&close_event(DRAIN_TEXT));
        }
    }

    /// Ends what clients there are and lets none in, until the process ends.
    pub(crate) fn set_astray(&self) {
        self.astray.send_replace(true);
        self.sessions.put_all(&close_event(ASTRAY_TEXT));
    }

    /// Whether no client is served for ever: see [`Self::set_astray`].
    pub(crate) fn astray(&self) -> watch::Receiver<bool> {
        self.astray.subscribe()
    }

    /// Whether clients may come, and are to.
    pub(crate) fn serves(&self) -> bool {
        let serves = self.serving.load(Ordering::Acquire);
        serves && self.sends_away().is_none()
    }

    /// Clients are let in from here on.
    pub(crate) fn begin_serving(&self) {
        self.serving.store(true, Ordering::Release);
    }

    /// It will stop in a moment: whoever asks where to connect is told to go elsewhere.
    pub(crate) fn begin_leaving(&self) {
        self.serving.store(false, Ordering::Release);
    }

    /// What clients are told that may not come.
    fn sends_away(&self) -> Option<&'static str> {
        if self.stopping.load(Ordering::Acquire) {
            Some(STOP_TEXT)
        } else if *self.astray.borrow() {
            Some(ASTRAY_TEXT)
        } else if self.draining.load(Ordering::Acquire) {
            Some(DRAIN_TEXT)
        } else {
            None
        }
    }

    /// Whether these are the credentials of a user who may use the HTTP API from there.
    pub(crate) fn may_manage(&self, user: &str, password: &[u8], from: IpAddr) -> bool {
        self.log_in(user, password, from)
            .is_ok_and(|user| MANAGEMENT_TAGS.iter().any(|tag| user.row.has_tag(tag)))
    }

    /// The user whose credentials these are, who may log in from there.
    pub(crate) fn log_in(
        &self,
        user: &str,
        password: &[u8],
        from: IpAddr,
    ) -> Result<Arc<User>, LoginError> {
        auth::log_in(
            &self.topology(),
            user.as_bytes(),
            password,
            &self.session_options.loopback_users,
            from.is_loopback(),
        )
    }

    /// Transactions of the node itself.
    pub(crate) fn commits(&self) -> &Commits {
        &self.commits
    }

    /// Whether it is this node that does what one node of the cluster must: the one that leads
    /// shard 0. A node without peers leads all of its shards.
    pub(crate) fn is_on_duty(&self) -> bool {
        let cluster = self.cluster.get();
        cluster.is_some_and(|cluster| cluster.leads_definitions())
    }

    /// What the node itself is to do.
    pub(crate) fn to_dos(&self) -> &ToDos {
        &self.to_dos
    }

    fn put(&self, session: SessionId, events: impl IntoIterator<Item = Event>) {
        if session == NODE {
            events
                .into_iter()
                .for_each(|event| self.commits.settle(event));
        } else {
            self.sessions.put(session, events);
        }
    }

    fn note(&self, effect: &Effect) {
        if let Some(chore) = Chore::of(effect) {
            self.to_dos.note(ToDo::Chore(chore));
        }
    }

    pub(crate) fn render_metrics(&self) -> String {
        self.stats.refresh(self);
        self.registry.render()
    }
}

const MANAGEMENT_TAGS: [&str; 4] = ["management", "policymaker", "monitoring", "administrator"];

/// What connections are told that are closed by the node.
const STOP_TEXT: &str = "broker forced connection closure with reason 'shutdown'";
const FENCED_TEXT: &str = "broker forced connection closure with reason 'node was ruled out'";
const ASTRAY_TEXT: &str = "broker forced connection closure with reason 'another cluster's node'";
const DRAIN_TEXT: &str = "Node was put into maintenance mode";

fn close_event(text: &str) -> Event {
    Event::Close { text: text.into() }
}

/// 64 bits from the operating system's generator.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: the buffer is ours and its length is given. The call fills up to 256 bytes whole
    // once the generator is seeded, and waits for that.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(filled, 8, "the system has a random number generator");
    u64::from_le_bytes(bytes)
}

fn session_options(config: &Config) -> SessionOptions {
    SessionOptions {
        cluster_name: config.cluster_name().into(),
        frame_max: config.frame_max,
        channel_max: config.channel_max,
        heartbeat: config.heartbeat_secs,
        max_message_size: config.max_message_size,
        consumer_max_per_channel: config.consumer_max_per_channel.unwrap_or(0),
        handshake_timeout_ms: config.handshake_timeout,
        loopback_users: config.loopback_users.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..SessionOptions::default()
    }
}

impl ReplyDirectory for Broker {
    fn alive(&self, address: ReplyAddress) -> bool {
        let node = address.session.node();
        if node == self.home().node {
            return self.sessions.replies_to(address);
        }
        // Whether the one who waits there still does is known there alone.
        self.lane().has_way_to(node)
    }
}

/// Gathers events that follow each other for one session, so that it is locked and woken once.
struct Run<'a> {
    broker: &'a Broker,
    session: Option<SessionId>,
    events: Vec<Event>,
}

impl Run<'_> {
    fn push(&mut self, session: SessionId, event: Event) {
        if self.session != Some(session) {
            self.flush();
            self.session = Some(session);
        }
        self.events.push(event);
    }

    fn flush(&mut self) {
        if let Some(session) = self.session.take() {
            self.broker.put(session, self.events.drain(..));
        }
    }
}

/// Whom an effect is for; `None` is the node itself.
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

impl Broker {
    /// Shards that this node leads from here on are told of all their queues before they act.
    fn take_roles(&self, roles: &[(ShardId, Option<Term>)], follow_ups: &mut VecDeque<LaneInput>) {
        let led: BTreeMap<ShardId, Term> = roles
            .iter()
            .filter_map(|(shard, term)| Some((*shard, (*term)?)))
            .collect();
        for (shard, term) in roles {
            tracing::debug!(%shard, leads = term.is_some(), "role changed");
            if term.is_some() && !shard.is_unlogged() {
                let me = self.lane.get().map(Handle::node);
                let text = format!("this node leads shard {shard} from here on");
                self.events.tell("leader", me, Some(*shard), text);
            }
        }
        let shards = led.keys().copied().collect();
        let inputs = reconcile::lead(&self.topology.load(), &shards).into_iter();
        follow_ups.extend(inputs.map(|(shard, input)| Input::Machine { shard, input }));
        let reconciled = led.into_iter();
        follow_ups.extend(reconciled.map(|(shard, term)| Input::Reconciled { shard, term }));
    }

    /// Makes the next topology, and what queues' shards must do before anybody sees it.
    fn apply_changes(
        &self,
        changes: &[(ShardId, Vec<Change>)],
        follow_ups: &mut VecDeque<LaneInput>,
    ) {
        let mut ruled_out = false;
        let mut next = Topology::clone(&self.topology.load());
        next.set_home(self.home().node);
        for (shard, changes) in changes {
            let Some(store) = Store::of_shard(*shard) else {
                continue;
            };
            if store == Store::Replicated {
                ruled_out |= self.end_lives(&next, changes, follow_ups);
            }
            let applied = next
                .apply(store, changes)
                .map_err(|error| error.to_string());
            let inputs = reconcile::reconcile(store, changes).map_err(|error| error.to_string());
            match (applied, inputs) {
                (Ok(()), Ok(inputs)) => {
                    let inputs = inputs.into_iter();
                    follow_ups.extend(inputs.map(|(shard, input)| Input::Machine { shard, input }));
                }
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(%shard, error, "a definition cannot be read");
                }
            }
        }
        let definitions = changes.iter().filter(|it| it.0 == ShardId::DEFINITIONS);
        let orphans = definitions.filter_map(|(_, changes)| lives::orphans(&next, changes));
        follow_ups.extend(orphans.map(|transaction| Input::Transact {
            shard: ShardId::LOCAL_DEFINITIONS,
            transaction,
            wait: WaitFor::Nothing,
        }));
        self.topology.store(Arc::new(next));
        // Whoever does it looks at the topology.
        if ruled_out {
            self.to_dos.note(ToDo::Renew);
        }
    }

    /// What follows where changes of the definitions end lives of nodes, or what lived with this
    /// one: true when this node's own life is over. `before` is the topology ahead of them.
    fn end_lives(
        &self,
        before: &Topology,
        changes: &[Change],
        follow_ups: &mut VecDeque<LaneInput>,
    ) -> bool {
        let mut ruled_out = false;
        let dropped = lives::dropped(before, changes).into_iter();
        follow_ups.extend(dropped.map(|(shard, input)| Input::Machine { shard, input }));
        let home = self.home();
        for (node, upto) in lives::fences(changes) {
            follow_ups.push_back(Input::Fence {
                node,
                life: Life(upto),
            });
            if node != home.node || upto < home.incarnation || home.incarnation == 0 {
                continue;
            }
            tracing::warn!("this node was ruled out: connections with exclusive queues are closed");
            for session in before.owners(node) {
                self.sessions.put(session, [close_event(FENCED_TEXT)]);
            }
            ruled_out = true;
        }
        ruled_out
    }
}

impl Sink<Shard, Ticket> for Broker {
    fn outputs(&self, outputs: &mut Outputs<Effect, Ticket>, follow_ups: &mut VecDeque<LaneInput>) {
        if !outputs.changes.is_empty() {
            self.apply_changes(&outputs.changes, follow_ups);
            outputs.changes.clear();
        }
        let mut run = Run {
            broker: self,
            session: None,
            events: Vec::new(),
        };
        for (ticket, committed) in outputs.committed.drain(..) {
            let token = Token(ticket.number);
            run.push(
                ticket.session,
                match committed {
                    Some(committed) => Event::Committed { token, committed },
                    None => Event::NotCommitted { token },
                },
            );
        }
        for ticket in outputs.caught_up.drain(..) {
            let token = Token(ticket.number);
            run.push(ticket.session, Event::CaughtUp { token });
        }
        for (ticket, outcome) in outputs.done.drain(..) {
            let number = ticket.number;
            run.push(ticket.session, Event::Done { number, outcome });
        }
        for (from, bytes) in outputs.posts.drain(..) {
            match DirectReply::decode(bytes) {
                Some(reply) => self.put_reply(reply),
                None => tracing::warn!(node = %from, "a node posts what cannot be read"),
            }
        }
        for effect in outputs.effects.drain(..) {
            match addressee(&effect) {
                Some(session) => run.push(session, Event::Shard(effect)),
                None => self.note(&effect),
            }
        }
        run.flush();
        if !outputs.roles.is_empty() {
            self.take_roles(&outputs.roles, follow_ups);
            outputs.roles.clear();
        }
    }
}
