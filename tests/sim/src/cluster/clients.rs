//! Clients at any of the nodes, and the bytes between them and their sessions.

use bytes::{Buf, BytesMut};
use warren_broker_core::ids::SessionId;
use warren_cluster_core::rows::Version;

use super::temper::Temper;
use super::{Cluster, is_own};
use crate::checker::{Checker, Known, Names};
use crate::client::{Client, QueueSpec, Role};
use crate::node::{Life, Node, number};
use crate::places::Kind;
use crate::rng::Rng;

/// Bytes that a socket holds before its writer has to wait.
const SOCKET_BYTES: usize = 256 << 10;

/// Messages that lie in queues, beyond which publishers wait: the end of a run must not take for
/// ever.
const BACKLOG_MAX: u64 = 300;

/// A place for a client, that connects again when its connection is gone.
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) link: Option<Link>,
    /// It does not come back.
    pub(super) closed: bool,
}

/// A connection: the client, its session, and the bytes between them.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) session: SessionId,
    /// Bytes on their way to the client.
    wire: BytesMut,
    /// The connection broke, and the node knows.
    noticed: bool,
}

impl Place {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            link: None,
            closed: false,
        }
    }
}

/// The places of a run.
pub(super) fn places(temper: &Temper, rng: &mut Rng) -> Vec<Place> {
    let queues = temper.queues.len() as u64;
    let mut kinds: Vec<Kind> = (0..temper.publishers).map(|_| Kind::Publisher).collect();
    kinds.extend((0..temper.churners).map(|id| Kind::Churner { id }));
    kinds.extend((0..temper.fleeting).map(|id| Kind::Fleeting { id }));
    kinds.extend((0..temper.callers).map(|_| Kind::Caller));
    for _ in 0..temper.consumers {
        let queue = rng.below(queues);
        kinds.push(Kind::Consumer {
            queue: queue as usize,
            // What was on its way to such a consumer is lost with it: not in all queues.
            auto_ack: queue == queues - 1 && rng.permille(300),
        });
    }
    for _ in 0..temper.getters {
        let queue = rng.below(queues) as usize;
        kinds.push(Kind::Getter { queue });
    }
    kinds.into_iter().map(Place::new).collect()
}

impl Cluster {
    /// The node of a session, and where its host is.
    fn node_of(&mut self, session: SessionId) -> Option<(usize, &mut Node)> {
        let at = self.host_of(session.node())?;
        let runs = self.hosts[at].runs(self.now);
        let node = self.hosts[at].node.as_mut().filter(|_| runs)?;
        Some((at, node))
    }

    /// One client gets something done, or its session.
    pub(super) fn client_moves(&mut self) {
        let all = (self.places.len() + self.broken.len()) as u64;
        let at = self.rng.below(all) as usize;
        if at < self.places.len() {
            self.connect(at);
            match self.rng.below(6) {
                0 => self.acts(at),
                1 => drop(self.move_up(at, None)),
                2 => drop(self.move_down(at, None)),
                _ => {
                    self.acts(at);
                    self.move_up(at, None);
                    self.turn(at, None);
                    self.move_down(at, None);
                }
            }
        }
        self.turn(at, None);
        if self.rng.permille(50) {
            self.notice_break();
        }
    }

    /// All of them get everything done.
    pub(super) fn clients_move(&mut self) -> bool {
        let mut moved = false;
        for at in 0..self.places.len() {
            self.connect(at);
            if let Some(link) = &mut self.places[at].link {
                link.client.draining |= self.heals;
            }
            self.acts(at);
            moved |= self.move_up(at, Some(usize::MAX)) > 0;
            moved |= self.turn(at, Some(usize::MAX)) > 0;
            moved |= self.move_down(at, Some(usize::MAX)) > 0;
        }
        for at in self.places.len()..self.places.len() + self.broken.len() {
            self.turn(at, Some(usize::MAX));
        }
        moved
    }

    fn acts(&mut self, at: usize) {
        let publishes = self.places[at].kind == Kind::Publisher;
        if publishes && self.backlog > BACKLOG_MAX {
            return;
        }
        if let Some(link) = &mut self.places[at].link {
            self.checker.node = link.session.node().0;
            link.client.act(&mut self.checker);
        }
    }

    /// A few at once or all of `most`.
    fn some(&mut self, most: Option<usize>) -> usize {
        if let Some(most) = most {
            return most;
        }
        match self.rng.below(4) {
            0 => self.rng.below(16) as usize,
            1 => self.rng.below(4096) as usize,
            _ => usize::MAX,
        }
    }

    fn move_up(&mut self, at: usize, most: Option<usize>) -> usize {
        let count = self.some(most);
        let Some(link) = &mut self.places[at].link else {
            return 0;
        };
        let host = self
            .hosts
            .iter_mut()
            .find(|it| it.id == link.session.node());
        let Some(node) = host.and_then(|host| host.node.as_mut()) else {
            return 0;
        };
        let room = SOCKET_BYTES.saturating_sub(node.unread(link.session));
        let count = count.min(room).min(link.client.to_broker.len());
        node.receive(link.session, &link.client.to_broker[..count]);
        link.client.to_broker.advance(count);
        count
    }

    /// A turn for the session of a place, or of one of the broken links.
    fn turn(&mut self, at: usize, events_max: Option<usize>) -> usize {
        let events_max = self.some(events_max);
        let now = self.now;
        let link = match at.checked_sub(self.places.len()) {
            None => self.places[at].link.as_mut(),
            Some(broken) => self.broken.get_mut(broken),
        };
        let Some(link) = link else {
            return 0;
        };
        let session = link.session;
        let host = self.hosts.iter_mut().find(|it| it.id == session.node());
        let Some(host) = host.filter(|host| host.runs(now)) else {
            return 0;
        };
        let mono = host.now(now).mono;
        let Some(node) = &mut host.node else {
            return 0;
        };
        let read = node.turn(session, mono, events_max);
        let closes = node.life() != Life::Serving;
        self.checker.node = session.node().0;
        link.client.broker_read(read, closes, &mut self.checker);
        let ended = link.noticed && !node.has_session(session);
        let (role, version) = (link.client.role(), node.version());
        if ended {
            self.learn_end(role, version);
            self.broken.retain(|link| link.session != session);
        }
        read
    }

    /// The session writes, and the client reads.
    fn move_down(&mut self, at: usize, most: Option<usize>) -> usize {
        let (written, given) = (self.some(most), self.some(most));
        let Some(link) = &mut self.places[at].link else {
            return 0;
        };
        let session = link.session;
        let host = self.hosts.iter_mut().find(|it| it.id == session.node());
        let Some(node) = host.and_then(|host| host.node.as_mut()) else {
            return 0;
        };
        let room = SOCKET_BYTES.saturating_sub(link.wire.len());
        node.take_bytes(session, written.min(room), &mut link.wire);
        let bytes = link.wire.split_to(given.min(link.wire.len()));
        self.checker.node = session.node().0;
        link.client.trusting = node.version() >= self.declared.1;
        link.client.handle_bytes(&bytes, &mut self.checker);
        self.trace.bytes(&bytes);
        let closed = link.wire.is_empty() && node.has_closed(session);
        let version = node.version();
        if !bytes.is_empty() {
            self.learn(at, version);
        }
        self.tell_messages();
        if closed {
            // What it asked and got no answer to may happen late.
            let asked = self.places[at].link.as_ref();
            let asked = asked.is_some_and(|link| link.client.is_churning());
            self.cut(at);
            self.notice_all();
            if asked {
                self.forsake(at);
            }
        }
        bytes.len()
    }

    /// What a client was told is in the definitions that its node has.
    fn learn(&mut self, at: usize, version: Version) {
        let declared = self.checker.declared_count();
        if declared != self.declared.0 {
            self.declared = (declared, version.max(self.declared.1));
        }
        if let Kind::Churner { id } = self.places[at].kind {
            self.known.insert(id, version);
        }
    }

    /// What a client with names of its own asked last has come to its end, and nobody was told:
    /// what came of it is in the definitions that its node has, and not in those of every node.
    fn learn_end(&mut self, role: Role, version: Version) {
        if let Role::Churner { id } = role {
            let known = self.known.entry(id).or_default();
            *known = version.max(*known);
        }
    }

    fn connect(&mut self, at: usize) {
        let place = &self.places[at];
        let kind = place.kind;
        let waits = |it: &Link| kind.waits_for(it.client.role());
        let forms = self.step == 0 && !self.heals;
        if forms || place.link.is_some() || place.closed || self.broken.iter().any(waits) {
            return;
        }
        let Some(host) = self.any_serving() else {
            return;
        };
        let open = self.queues_open();
        let now = self.hosts[host].now(self.now).mono;
        let Some(node) = &mut self.hosts[host].node else {
            return;
        };
        let version = node.version();
        if let Kind::Churner { id } = kind
            && self.known.get(&id).is_some_and(|known| *known > version)
        {
            return;
        }
        self.next_id += 1;
        let (mut queues, mut others): (Vec<QueueSpec>, _) = {
            let (open, later) = self.temper.queues.split_at(open);
            (open.to_vec(), later.to_vec())
        };
        // What was answered at one node holds at all of them.
        let hasty = kind == Kind::Publisher && self.rng.permille(500);
        if hasty {
            let is_bound = |queue: &QueueSpec| self.checker.is_bound(queue.number);
            others.extend(queues.extract_if(.., |queue| !is_bound(queue)));
        }
        if queues.is_empty() {
            return;
        }
        let role = kind.role(self.next_id, self.heals, &queues, &mut self.rng);
        let session = node.open_session(now, self.rng.draw());
        self.trace.say(|| {
            let (node, number) = (session.node(), number(session));
            format!("session {number} at node {node} is {role:?}")
        });
        let mut client = Client::new(role, queues, self.rng.fork());
        client.lenient = true;
        client.node = session.node().0;
        client.others = others;
        client.hasty = hasty;
        client.draining = self.heals;
        self.places[at].link = Some(Link {
            client,
            session,
            wire: BytesMut::new(),
            noticed: false,
        });
    }

    /// A connection breaks; the client knows, the node does not yet.
    pub(super) fn cut(&mut self, at: usize) {
        let Some(link) = self.places[at].link.take() else {
            return;
        };
        self.trace
            .note("cut", link.session.node().0, number(link.session));
        self.figures.cuts += 1;
        lose_unacknowledged(&link, &mut self.checker);
        let alive = self.node_of(link.session).is_some_and(|(_, node)| {
            // A node that does not run keeps its sessions.
            node.has_session(link.session)
        });
        let host = self.host_of(link.session.node());
        let paused = host.is_some_and(|it| self.hosts[it].node.is_some());
        if alive || paused {
            self.broken.push(link);
        }
    }

    /// All connections of a node are gone with it.
    pub(super) fn cut_all(&mut self, host: usize) {
        let node = self.hosts[host].id;
        for at in 0..self.places.len() {
            let here = |link: &mut Link| link.session.node() == node;
            let Some(link) = self.places[at].link.take_if(here) else {
                continue;
            };
            self.figures.cuts += 1;
            lose_unacknowledged(&link, &mut self.checker);
            if link.client.is_churning() {
                self.forsake(at);
            }
        }
        let broken = std::mem::take(&mut self.broken);
        let (gone, left) = broken
            .into_iter()
            .partition(|link| link.session.node() == node);
        self.broken = left;
        for link in gone {
            lose_unacknowledged(&link, &mut self.checker);
            let role = link.client.role();
            let is_its = |place: &Place| place.kind.waits_for(role);
            let its = self.places.iter().position(is_its);
            if let Some(at) = its.filter(|_| link.client.is_churning()) {
                self.forsake(at);
            }
        }
    }

    /// What a client with names of its own asked of a node that is no more may happen late: its
    /// successor takes other names, and these are cleaned up in the end.
    fn forsake(&mut self, at: usize) {
        let Kind::Churner { id } = self.places[at].kind else {
            return;
        };
        if self.heals {
            return;
        }
        self.forsaken.insert(id);
        self.next_id += 1;
        let id = self.next_id;
        self.places[at].closed = true;
        self.places.push(Place::new(Kind::Churner { id }));
    }

    /// What was forsaken and came when its client had tidied up is tidied up again.
    pub(super) fn see_late_names(&mut self) {
        for &id in &self.forsaken {
            let slots = Client::churned_slots(id);
            for (slot, name) in slots {
                let known = self.checker.names(id, slot);
                let nodes = self.hosts.iter().filter_map(|host| host.node.as_ref());
                if known.queue == Known::Absent && { nodes }.any(|it| it.named_like(&name) > 0) {
                    let (queue, binding) = (Known::Unknown, Known::Unknown);
                    self.checker.set_names(id, slot, Names { queue, binding });
                }
            }
        }
    }

    /// The node notices that one of the broken connections is gone.
    fn notice_break(&mut self) {
        if self.broken.is_empty() {
            return;
        }
        let at = self.rng.below(self.broken.len() as u64) as usize;
        self.notice(at);
    }

    fn notice(&mut self, at: usize) {
        let now = self.now;
        let link = &mut self.broken[at];
        let host = self
            .hosts
            .iter_mut()
            .find(|it| it.id == link.session.node());
        let Some(host) = host.filter(|host| host.runs(now)) else {
            return;
        };
        let mono = host.now(now).mono;
        let Some(node) = &mut host.node else {
            return;
        };
        if link.noticed {
            return;
        }
        node.disconnect(link.session, mono);
        // It was sent messages until now.
        lose_unacknowledged(link, &mut self.checker);
        link.noticed = true;
        let (role, version) = (link.client.role(), node.version());
        if !node.has_session(link.session) {
            self.learn_end(role, version);
            self.broken.swap_remove(at);
        }
    }

    /// The nodes notice all of the broken connections.
    pub(super) fn notice_all(&mut self) {
        for at in (0..self.broken.len()).rev() {
            self.notice(at);
        }
    }

    /// The places of clients that come back to delete what is theirs.
    pub(super) fn reopen(&mut self) {
        for place in &mut self.places {
            place.closed = place.link.is_none() && !is_own(place.kind);
        }
    }
}

/// What was on its way to a consumer that does not acknowledge is lost with its connection, and so
/// is a queue of its own.
fn lose_unacknowledged(link: &Link, checker: &mut Checker) {
    link.client.hang_up(checker);
    if let Some(consumer) = link.client.consumer() {
        checker.consumer_gone(consumer);
    }
    if let Role::Consumer {
        queue,
        auto_ack: true,
        ..
    } = link.client.role()
    {
        checker.auto_ack_consumer_lost(queue.number);
    }
}
