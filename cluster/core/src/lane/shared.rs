//! What nodes tell each other of rows: their unlogged ones, and how far they have the definitions;
//! and answers that wait until the others have what they are about (rule 10).
//!
//! Always holds:
//! - an answer waits for a bounded time, and a node that let one wait for so long is not waited for
//!   again before it has caught up;
//! - what nobody waits for is told at the next tick at the latest, with whatever gathered;
//! - of a node's life that was fenced nothing is taken;
//! - a node says something to every other one twice a second at least, so that one whose process
//!   has stopped is known from one that has nothing to say.

use std::collections::{BTreeMap, VecDeque};

use super::Lane;
use super::fresh::Fresh;
use crate::ids::{Instant, Life, NodeId, Now, ShardId};
use crate::inbox::Outputs;
use crate::link::Parcel;
use crate::machine::Machine;
use crate::rows::feed::Feed;
use crate::rows::mirror::Mirror;
use crate::rows::{Change, Committed, Version};

/// How long an answer waits for other nodes to have what it is about.
pub(super) const STALENESS_MILLIS_MAX: u64 = 1_000;
/// Whoever was told nothing for so long is told something.
const WORD_MILLIS: u64 = 500;
/// A step that comes so much later than it was wanted: it was this node that stood still.
const PAUSE_MILLIS: u64 = 1_000;

/// The definitions and the unlogged rows, in the order of `Lane::rows`.
type Versions = [Version; 2];

pub(super) struct Shared<T> {
    /// In which this node has its unlogged rows.
    life: Life,
    streams: u64,
    peers: BTreeMap<NodeId, Peer>,
    mirrors: BTreeMap<NodeId, Mirror>,
    /// The definitions that each node acts on, as far as it has said.
    known: BTreeMap<NodeId, Version>,
    /// The newest life of each node that was fenced.
    fences: BTreeMap<NodeId, Life>,
    held: VecDeque<Held<T>>,
    /// The unlogged rows up to here are told at once: an answer waited for them, or a tick came.
    hurry: Version,
    /// The definitions that others were told this node has.
    told: Version,
    /// When there was a tick last.
    ticked: Instant,
}

/// A node that there is a way to.
struct Peer {
    feed: Feed,
    /// When it last said something, and was last told that this node is there.
    heard: Instant,
    beat: Instant,
    /// The definitions that it acts on.
    known: Version,
    /// Not waited for before it has these.
    late: Option<Versions>,
}

struct Held<T> {
    at: usize,
    version: Version,
    ticket: T,
    committed: Committed,
    until: Instant,
}

impl Peer {
    fn has(&self, at: usize) -> Version {
        if at == 0 { self.known } else { self.feed.got() }
    }

    fn catch_up(&mut self) {
        let has = [self.has(0), self.has(1)];
        let caught_up = |late: &mut Versions| late[0] <= has[0] && late[1] <= has[1];
        self.late.take_if(caught_up);
    }
}

impl<T> Shared<T> {
    pub(super) fn new(life: Life) -> Self {
        Self {
            life,
            streams: 0,
            peers: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            known: BTreeMap::new(),
            fences: BTreeMap::new(),
            held: VecDeque::new(),
            hurry: Version(0),
            told: Version(0),
            ticked: Instant(0),
        }
    }

    /// When a node that there is a way to last said something.
    pub(super) fn heard(&self, node: NodeId) -> Option<Instant> {
        self.peers.get(&node).map(|peer| peer.heard)
    }

    pub(super) fn hear(&mut self, node: NodeId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.heard = now;
        }
    }

    /// Whether an answer waits.
    pub(super) fn is_busy(&self) -> bool {
        !self.held.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.held.front().map(|held| held.until)
    }

    /// The definitions that this node acts on.
    pub(super) fn told(&self) -> Version {
        self.told
    }

    /// Whether every node that counts has this version of the rows: those that there is a way to,
    /// and of the others those that may still act on definitions which they had.
    fn is_everywhere(&self, at: usize, version: Version, fresh: &Fresh) -> bool {
        let mut counted = self.peers.values().filter(|peer| peer.late.is_none());
        let is_here = |node| self.peers.contains_key(&node);
        counted.all(|peer| peer.has(at) >= version)
            && (at != 0 || fresh.others_have(version, is_here))
    }

    fn release(
        &mut self,
        now: Instant,
        versions: Versions,
        fresh: &Fresh,
        out: &mut Vec<(T, Option<Committed>)>,
    ) {
        while let Some(held) = self.held.front() {
            let (at, version) = (held.at, held.version);
            if !self.is_everywhere(at, version, fresh) {
                if held.until > now {
                    return;
                }
                for peer in self.peers.values_mut() {
                    if peer.has(at) < version {
                        peer.late.get_or_insert(versions);
                    }
                }
            }
            if let Some(held) = self.held.pop_front() {
                out.push((held.ticket, Some(held.committed)));
            }
        }
    }
}

impl<M: Machine, T: Copy> Lane<M, T> {
    fn versions(&self) -> Versions {
        [0, 1].map(|at| self.rows[at].machine().version())
    }

    /// Whether this node and another one have all of each other's rows, but for what is on its way.
    #[must_use]
    pub fn is_in_step_with(&self, node: NodeId) -> bool {
        let peer = self.shared.peers.get(&node);
        let mirror = self.shared.mirrors.get(&node);
        let has = |peer: &Peer| peer.known > Version(0) && peer.feed.got() > Version(0);
        peer.is_some_and(has) && mirror.is_some_and(Mirror::is_whole)
    }

    /// This node's unlogged rows have changed.
    pub(super) fn share(&mut self, changes: &[Change]) {
        let rows = self.rows[1].machine();
        for peer in self.shared.peers.values_mut() {
            peer.feed.changed(changes, rows);
        }
    }

    /// What came of transactions at `rows[at]`: told once other nodes have it, too.
    pub(super) fn answer(
        &mut self,
        at: usize,
        answered: Vec<(T, Option<Committed>)>,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        let version = self.rows[at].machine().version();
        let waits = !self.shared.is_everywhere(at, version, &self.fresh);
        if at == 1 && !answered.is_empty() {
            self.shared.hurry = version;
        }
        for (ticket, committed) in answered {
            match committed {
                Some(committed @ Committed::Yes { .. })
                    if (waits || self.shared.is_busy())
                        && self.course == super::Course::Running =>
                {
                    self.shared.held.push_back(Held {
                        at,
                        version,
                        ticket,
                        committed,
                        until: now.mono.plus_millis(STALENESS_MILLIS_MAX),
                    });
                }
                committed => outputs.committed.push((ticket, committed)),
            }
        }
    }

    /// What others are told of this node.
    fn known(&self) -> Parcel {
        Parcel::Known {
            version: self.shared.told,
            shown: self.clock.shows(),
        }
    }

    /// The end of a step: tells others of rows, and whoever waited for them.
    pub(super) fn tell_peers(&mut self, now: Now, outputs: &mut Outputs<M::Effect, T>) {
        let versions = self.versions();
        self.catch_ups.ask(versions[0], &mut self.store.mail);
        // Whoever takes the outputs acts on them before anything leaves.
        let moved = versions[0] > self.shared.told;
        self.shared.told = versions[0];
        let known = self.known();
        let (shared, mail) = (&mut self.shared, &mut self.store.mail);
        for (node, peer) in &mut shared.peers {
            let mut send = |parcel: &Parcel| mail.send(*node, ShardId::LOCAL_DEFINITIONS, parcel);
            if moved {
                send(&known);
            }
            peer.feed
                .pump(shared.hurry, shared.life, now.mono, &mut send);
        }
        for (node, mirror) in &mut shared.mirrors {
            if let Some(news) = mirror.news() {
                mail.send(*node, ShardId::LOCAL_DEFINITIONS, &news);
            }
        }
        shared.release(now.mono, versions, &self.fresh, &mut outputs.committed);
        let has = |node: NodeId| {
            let mirror = shared.mirrors.get(&node);
            let there_is_a_way = shared.peers.contains_key(&node);
            there_is_a_way.then(|| mirror.map_or(Version(0), Mirror::version))
        };
        self.catch_ups
            .release(now.mono, has, &mut outputs.caught_up);
    }

    /// Sends again what had no answer, and says that this node is there, and its process.
    pub(super) fn tick_rows(&mut self, now: Now) {
        let known = self.known();
        self.catch_ups.tick();
        self.shared.hurry = self.rows[1].machine().version();
        let (shared, mail) = (&mut self.shared, &mut self.store.mail);
        let paused = shared.ticked.plus_millis(PAUSE_MILLIS) <= now.mono;
        shared.ticked = now.mono;
        let hosted = &self.queues[0];
        let word = hosted.word_of_lead();
        for (node, peer) in &mut shared.peers {
            if paused {
                peer.heard = now.mono;
            }
            if peer.beat.plus_millis(WORD_MILLIS) <= now.mono {
                peer.beat = now.mono;
                mail.send_with_idle_beat(*node, ShardId::LOCAL_DEFINITIONS, &known);
                if let Some(word) = &word {
                    mail.send_with_idle_beat(*node, hosted.shard(), word);
                }
            }
            let send = |parcel: &Parcel| mail.send(*node, ShardId::LOCAL_DEFINITIONS, parcel);
            peer.feed.resend(shared.life, now.mono, send);
        }
    }

    /// Takes what another node says of rows; see [`Self::receive`].
    pub(super) fn hear_of_rows(
        &mut self,
        (from, at): (NodeId, Instant),
        parcel: Parcel,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        let (shared, mail) = (&mut self.shared, &mut self.store.mail);
        match parcel {
            Parcel::Rows(piece) => {
                if shared.fences.get(&from).is_some_and(|it| *it >= piece.life) {
                    return;
                }
                let mirror = shared.mirrors.entry(from);
                let mirror = mirror.or_insert_with(|| Mirror::new(from));
                let mut changes = Vec::new();
                if let Err(malformed) = mirror.take(&piece, &mut changes) {
                    outputs.foreign.push((from, malformed));
                }
                tell(changes, outputs);
            }
            Parcel::RowsGot {
                stream,
                got,
                version,
                again,
            } => {
                if let Some(peer) = shared.peers.get_mut(&from) {
                    let send = |parcel: &Parcel| {
                        mail.send(from, ShardId::LOCAL_DEFINITIONS, parcel);
                    };
                    let of = (shared.life, stream);
                    peer.feed.acked(of, (got, version, again), now.mono, send);
                    peer.catch_up();
                }
            }
            Parcel::Known { version, shown } => {
                self.clock.heard(from, shown, at);
                // It may have a way here before there is one back.
                shared.known.insert(from, version);
                if let Some(peer) = shared.peers.get_mut(&from) {
                    peer.known = version;
                    peer.catch_up();
                }
            }
            Parcel::Ask { stamp, .. } => {
                let version = self.rows[1].machine().version();
                shared.hurry = version;
                let answer = Parcel::Fresh {
                    stamp,
                    version,
                    nodes: Vec::new(),
                };
                mail.send(from, ShardId::LOCAL_DEFINITIONS, &answer);
            }
            Parcel::Fresh { stamp, version, .. } => self.catch_ups.answered(from, stamp, version),
            Parcel::Post { bytes } => outputs.posts.push((from, bytes)),
            // Nothing else is said of rows that are not logged.
            Parcel::Raft(_)
            | Parcel::Propose { .. }
            | Parcel::Opened { .. }
            | Parcel::Outcome { .. }
            | Parcel::Again { .. }
            | Parcel::Closed { .. }
            | Parcel::Leader { .. }
            | Parcel::Transfer(_)
            | Parcel::Room { .. }
            | Parcel::Dealing { .. } => {}
        }
    }

    pub(super) fn rows_connected(&mut self, node: NodeId, now: Instant) {
        self.shared.streams += 1;
        let feed = Feed::new(self.shared.streams, self.rows[1].machine());
        let peer = Peer {
            feed,
            heard: now,
            beat: now,
            known: self.shared.known.get(&node).copied().unwrap_or_default(),
            late: None,
        };
        self.shared.peers.insert(node, peer);
        let known = self.known();
        self.store
            .mail
            .send(node, ShardId::LOCAL_DEFINITIONS, &known);
    }

    pub(super) fn rows_disconnected(&mut self, node: NodeId) {
        self.shared.peers.remove(&node);
    }

    /// A node's rows of its lives up to this one are gone (rule 11).
    pub(super) fn fence(&mut self, node: NodeId, life: Life, outputs: &mut Outputs<M::Effect, T>) {
        let shared = &mut self.shared;
        let fence = shared.fences.entry(node).or_default();
        *fence = life.max(*fence);
        if let Some(mirror) = shared.mirrors.get_mut(&node) {
            let mut changes = Vec::new();
            mirror.forget(life, &mut changes);
            tell(changes, outputs);
        }
    }

    /// This node has its unlogged rows in a new life from here on.
    pub(super) fn renew(&mut self, life: Life, now: Instant) {
        let nodes: Vec<_> = self.shared.peers.keys().copied().collect();
        self.shared.life = life.max(self.shared.life);
        let begin_anew = |node| self.rows_connected(node, now);
        nodes.into_iter().for_each(begin_anew);
    }

    /// For those who use another node's lane.
    pub(super) fn post(&mut self, to: NodeId, bytes: bytes::Bytes) {
        if self.nodes.contains(&to) {
            let post = Parcel::Post { bytes };
            self.store.mail.send(to, ShardId::LOCAL_DEFINITIONS, &post);
        }
    }
}

fn tell<E, T>(changes: Vec<Change>, outputs: &mut Outputs<E, T>) {
    if !changes.is_empty() {
        outputs.changes.push((ShardId::LOCAL_DEFINITIONS, changes));
    }
}
