//! One node, its disk, its clients, and all that can happen to them: a run of one seed.
//!
//! Always holds:
//! - everything is drawn from the seed; a run with the same seed and steps is the same run;
//! - a step is one small thing: a client acts, some bytes move, a session or the lane gets a turn,
//!   the disk answers, the clock moves, or a fault strikes.

use bytes::{Buf, BytesMut};
use warren_broker_core::dispatch::work::Ticket;
use warren_broker_core::ids::SessionId;
use warren_cluster_core::ids::{Instant, Now, Time};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::log::sim::SimDisk;

use crate::agree::States;
use crate::checker::{Checker, Violation};
use crate::client::Client;
use crate::node::{Life, Node, number};
use crate::places::Kind;
use crate::rng::Rng;
use crate::temper::Temper;
use crate::trace::Trace;

mod faults;
mod heal;

/// Bytes that a socket holds before its writer has to wait.
const SOCKET_BYTES: usize = 256 << 10;
/// Where the wall clock begins, in milliseconds since 1970.
const WALL_MILLIS: u64 = 1_700_000_000_000;

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub violations: Vec<Violation>,
    /// The same for two runs in which the same happened.
    pub trace: u64,
    pub figures: Figures,
}

/// How much of what happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    pub published: u64,
    pub confirmed: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
    pub crashes: u64,
    pub kills: u64,
    pub stops: u64,
    pub cuts: u64,
    /// Of clusters: leads that were taken, nodes that joined, that were removed, and of these the
    /// ones that had lost their disk.
    pub leads: u64,
    pub joins: u64,
    pub removals: u64,
    pub losses: u64,
    /// Clients that were told that definitions cannot be changed at the moment.
    pub unavailable: u64,
    /// Publishes to queues with names of the server's, and those of them that must have found them.
    pub calls: u64,
    pub calls_certain: u64,
}

impl Figures {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.confirmed += other.confirmed;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.acknowledged += other.acknowledged;
        self.crashes += other.crashes;
        self.kills += other.kills;
        self.stops += other.stops;
        self.cuts += other.cuts;
        self.calls += other.calls;
        self.calls_certain += other.calls_certain;
        self.leads += other.leads;
        self.joins += other.joins;
        self.removals += other.removals;
        self.losses += other.losses;
        self.unavailable += other.unavailable;
    }
}

/// Runs a seed for so many steps, then lets the world heal and checks what is left.
#[must_use]
pub fn run(seed: u64, steps: u64, trace: Trace) -> Report {
    let mut world = World::new(seed, trace);
    world.go(steps);
    world.report()
}

/// A place for a client, that connects again when its connection is gone.
struct Place {
    kind: Kind,
    link: Option<Link>,
}

/// A connection: the client, its session, and the bytes between them.
struct Link {
    client: Client,
    session: SessionId,
    /// Bytes on their way to the client.
    wire: BytesMut,
    /// The connection broke, and the node knows.
    noticed: bool,
}

/// See the module.
struct World {
    rng: Rng,
    trace: Trace,
    checker: Checker,
    temper: Temper,
    now: Now,
    disk: SimDisk,
    node: Option<Node>,
    /// What the node before held when it ended, and whether that was in order.
    before: Option<(States, bool)>,
    places: Vec<Place>,
    /// Connections that broke and whose sessions are still there.
    broken: Vec<Link>,
    /// The disk hangs, or is short of room, or there is an alarm, until this step.
    stalled_until: u64,
    short_until: u64,
    alarm_until: u64,
    step: u64,
    next_id: u32,
    figures: Figures,
    /// Faults are over.
    heals: bool,
    /// The node cannot go on, and that was told.
    over: bool,
}

impl World {
    fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::new(seed);
        let temper = Temper::draw(&mut rng.fork());
        trace.say(|| format!("{temper:?}"));
        let mut places = Vec::new();
        let publisher = || Place {
            kind: Kind::Publisher,
            link: None,
        };
        places.extend((0..temper.publishers).map(|_| publisher()));
        let churner = |id| Place {
            kind: Kind::Churner { id },
            link: None,
        };
        places.extend((0..temper.churners).map(churner));
        let fleeting = |id| Place {
            kind: Kind::Fleeting { id },
            link: None,
        };
        places.extend((0..temper.fleeting).map(fleeting));
        for _ in 0..temper.consumers {
            let kind = Kind::Consumer {
                queue: rng.below(temper.queues.len() as u64) as usize,
                auto_ack: rng.permille(150),
            };
            places.push(Place { kind, link: None });
        }
        Self {
            disk: SimDisk::new(rng.draw()),
            rng,
            trace,
            checker: Checker::default(),
            temper,
            now: Now {
                mono: Instant(1_000_000),
                wall: Time(WALL_MILLIS),
            },
            node: None,
            before: None,
            places,
            broken: Vec::new(),
            stalled_until: 0,
            short_until: 0,
            alarm_until: 0,
            step: 0,
            next_id: 0,
            figures: Figures::default(),
            heals: false,
            over: false,
        }
    }

    fn go(&mut self, steps: u64) {
        for step in 0..steps {
            self.step = step;
            self.trace.at(step);
            let micros = self.rng.below(200);
            self.pass(micros);
            self.act();
            self.tell_messages();
            self.strike();
            self.end_faults();
            if self.is_over() {
                return;
            }
        }
        self.heal();
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
                ..self.figures
            },
        }
    }

    fn pass(&mut self, micros: u64) {
        self.now.mono.0 += micros;
        self.now.wall.0 = WALL_MILLIS + self.now.mono.0 / 1000;
        self.checker.now = self.now.wall;
    }

    /// One small thing that is no fault.
    fn act(&mut self) {
        if self.node.is_none() {
            if self.rng.permille(100) {
                self.start();
            }
            return;
        }
        match self.rng.below(100) {
            0..18 => self.client_acts(),
            18..36 => self.bytes_go_up(),
            36..54 => self.session_turns(),
            54..68 => self.bytes_go_down(),
            68..84 => self.lane_turns(),
            84..93 => self.disk_answers(),
            93..96 => self.connect_one(),
            96 => self.do_chore(),
            97 => self.push(Input::Tick),
            98 => self.pass(1000),
            _ => self.notice_break(),
        }
    }

    fn any_place(&mut self) -> usize {
        self.rng.below(self.places.len() as u64) as usize
    }

    /// A few at once or all of `most`.
    fn some(&mut self, most: usize) -> usize {
        let count = match self.rng.below(4) {
            0 => self.rng.below(16),
            1 => self.rng.below(4096),
            _ => u64::MAX,
        };
        usize::try_from(count).unwrap_or(usize::MAX).min(most)
    }

    fn client_acts(&mut self) {
        let at = self.any_place();
        if let Some(link) = &mut self.places[at].link {
            link.client.act(&mut self.checker);
        }
    }

    fn bytes_go_up(&mut self) {
        let at = self.any_place();
        let unsent = match &self.places[at].link {
            Some(link) => link.client.to_broker.len(),
            None => return,
        };
        let count = self.some(unsent);
        self.move_up(at, count);
    }

    fn move_up(&mut self, at: usize, count: usize) -> usize {
        let (Some(link), Some(node)) = (&mut self.places[at].link, &mut self.node) else {
            return 0;
        };
        let room = SOCKET_BYTES.saturating_sub(node.unread(link.session));
        let count = count.min(room).min(link.client.to_broker.len());
        node.receive(link.session, &link.client.to_broker[..count]);
        link.client.to_broker.advance(count);
        count
    }

    fn session_turns(&mut self) {
        let broken = self.broken.len() as u64;
        let at = self.rng.below(self.places.len() as u64 + broken) as usize;
        let events_max = self.some(usize::MAX);
        self.turn(at, events_max);
    }

    /// A turn for the session of a place, or of one of the broken links.
    fn turn(&mut self, at: usize, events_max: usize) -> usize {
        let Some(node) = &mut self.node else {
            return 0;
        };
        let link = match at.checked_sub(self.places.len()) {
            None => self.places[at].link.as_mut(),
            Some(broken) => self.broken.get_mut(broken),
        };
        let Some(link) = link else {
            return 0;
        };
        let read = node.turn(link.session, self.now.mono, events_max);
        let closes = node.life() != Life::Serving;
        link.client.broker_read(read, closes, &mut self.checker);
        let session = link.session;
        if link.noticed && !node.has_session(session) {
            self.broken.retain(|link| link.session != session);
        }
        self.trace
            .note("read of session", number(session), read as u64);
        read
    }

    fn bytes_go_down(&mut self) {
        let at = self.any_place();
        let (written, given) = (self.some(usize::MAX), self.some(usize::MAX));
        self.move_down(at, written, given);
    }

    /// The session writes up to `written` bytes, the client gets up to `given`.
    fn move_down(&mut self, at: usize, written: usize, given: usize) -> usize {
        let (Some(link), Some(node)) = (&mut self.places[at].link, &mut self.node) else {
            return 0;
        };
        let room = SOCKET_BYTES.saturating_sub(link.wire.len());
        node.take_bytes(link.session, written.min(room), &mut link.wire);
        let bytes = link.wire.split_to(given.min(link.wire.len()));
        link.client.handle_bytes(&bytes, &mut self.checker);
        self.trace.bytes(&bytes);
        self.trace.note(
            "bytes for session",
            number(link.session),
            bytes.len() as u64,
        );
        if link.wire.is_empty() && node.has_closed(link.session) {
            self.trace
                .note("closed by the node", number(link.session), 0);
            self.cut(at);
            self.notice_all();
        }
        bytes.len()
    }

    fn lane_turns(&mut self) {
        let Some(node) = &mut self.node else {
            return;
        };
        let result = node.step(self.now, &mut self.disk, &mut self.trace);
        let life = node.life();
        if let Err(error) = result {
            self.fail("lane", &error.to_string());
            return;
        }
        self.trace
            .note("lane", life as u64, self.disk.waiting().len() as u64);
        if life == Life::Stopped {
            self.stopped();
        }
    }

    fn disk_answers(&mut self) {
        for _ in 0..self.rng.between(1, 4) {
            let Some(completion) = self.disk.complete_one() else {
                return;
            };
            self.trace.note(
                "disk",
                completion.token.0,
                u64::from(completion.result.is_ok()),
            );
            self.push(Input::Disk(completion));
        }
    }

    fn push(&mut self, input: Input<warren_broker_core::shard::input::Input, Ticket>) {
        if let Some(node) = &mut self.node {
            node.push(input);
        }
    }

    fn do_chore(&mut self) {
        if let Some(node) = &mut self.node {
            node.do_chores(self.now.mono);
        }
    }

    fn connect_one(&mut self) {
        let at = self.any_place();
        self.connect(at);
    }

    fn connect(&mut self, at: usize) {
        let Some(node) = &mut self.node else {
            return;
        };
        let kind = self.places[at].kind;
        if self.places[at].link.is_some() || node.life() != Life::Serving {
            return;
        }
        if self
            .broken
            .iter()
            .any(|link| kind.waits_for(link.client.role()))
        {
            return;
        }
        self.next_id += 1;
        let role =
            self.places[at]
                .kind
                .role(self.next_id, self.heals, &self.temper.queues, &mut self.rng);
        let session = node.open_session(self.now.mono, self.rng.draw());
        self.trace
            .say(|| format!("session {} is {role:?}", number(session)));
        let client = Client::new(role, self.temper.queues.clone(), self.rng.fork());
        self.places[at].link = Some(Link {
            client,
            session,
            wire: BytesMut::new(),
            noticed: false,
        });
    }

    /// Something failed that must not.
    fn fail(&mut self, invariant: &'static str, text: &str) {
        self.checker.violate(invariant, text.to_owned());
        self.over = true;
    }
}
