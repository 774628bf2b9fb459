//! A node in a test: sessions, shards without a log, a topology, and a hand-turned clock.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use warren_cluster_core::batch::{Batch, HEADER_BYTES, Header, Kind, Outcome};
use warren_cluster_core::ids::{
    Index, Instant, NodeId, Now, OriginId, Place, SegmentId, Seq, ShardId, Term, Time,
};
use warren_cluster_core::machine::{ApplyMeta, Bodies, Context, Machine};
use warren_cluster_core::rows::{Committed, RowKey, Rows, Transaction, Version, Write};
use warren_protocol::methods::{
    BasicPublish, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
};
use warren_protocol::preamble::PROTOCOL_HEADER;
use warren_protocol::{
    ContentHeader, FieldTable, FrameKind, LongStr, Method, Properties, ShortStr, Table, content,
    frame,
};

use crate::definitions::{
    BindingKey, ExchangeKey, ExchangeKind, ExchangeRow, Owner, PermissionKey, PermissionRow,
    QueueKey, QueueKind, QueueRow, Store, UserKey, UserRow, VhostKey, VhostRow,
};
use crate::dispatch::control::Home;
use crate::dispatch::operation::DestinationKind;
use crate::dispatch::reconcile::reconcile;
use crate::dispatch::work::{Item, ReplyAddress, Work};
use crate::ids::{QueueId, SessionId, Token};
use crate::session::event::Event;
use crate::session::{Env, Peer, ReplyDirectory, Session, SessionOptions};
use crate::shard::effect::Effect;
use crate::shard::input::Input;
use crate::shard::{Shard, ShardOptions};
use crate::topology::Topology;

pub(super) const HOME: Home = Home {
    node: NodeId(1),
    incarnation: 1,
};

/// Bodies of all entries of one shard, by index.
#[derive(Default)]
struct Memory(BTreeMap<u32, Bytes>);

impl Bodies for Memory {
    fn get(&mut self, place: Place, len: u32) -> Option<Bytes> {
        let entry = self.0.get(&place.segment.number())?;
        let start = place.offset as usize;
        Some(entry.slice(start..start + len as usize))
    }

    fn want(&mut self, _key: u64, _place: Place, _len: u32) {}
    fn retain(&mut self, _key: u64, _id: u64, _place: Place, _len: u32) {}
    fn release(&mut self, _place: Place, _len: u32) {}
}

struct Replica {
    shard: Shard,
    bodies: Memory,
    index: u64,
}

impl Replica {
    fn step(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
        act: impl FnOnce(&mut Shard, &mut Context<'_, Effect>, &ApplyMeta),
    ) {
        let mut proposals = Batch::new(0);
        self.index += 1;
        let meta = ApplyMeta {
            index: Index(self.index),
            term: Term(1),
            time: Time(now.0 / 1000),
            commands: 0,
            place: Place {
                segment: SegmentId::memory(self.index as u32),
                offset: 0,
            },
        };
        let mut context = Context {
            now: Now {
                mono: now,
                wall: Time(now.0 / 1000),
            },
            leads: Some(Term(1)),
            bodies: &mut self.bodies,
            effects,
            proposals: &mut proposals,
            checkpoint: None,
            urgent: false,
        };
        act(&mut self.shard, &mut context, &meta);
        self.shard.flush(&mut context);
        if !proposals.is_empty() {
            self.apply(now, proposals, effects);
        }
    }

    fn apply(&mut self, now: Instant, batch: Batch, effects: &mut Vec<Effect>) {
        let commands = batch.commands();
        let entry = batch.seal(Header {
            kind: Kind::Numbered,
            commands,
            origin: OriginId(1),
            seq: Seq(1),
            paid: Seq(0),
            time: Time(0),
        });
        let payload = entry.slice(HEADER_BYTES..);
        self.bodies.0.insert(self.index as u32 + 1, payload.clone());
        self.step(now, effects, |shard, context, meta| {
            let meta = ApplyMeta { commands, ..*meta };
            shard.apply(&meta, &payload, context).expect("readable");
        });
    }
}

/// Who waits for direct replies: whoever the test says.
#[derive(Default)]
struct Directory(Vec<ReplyAddress>);

impl ReplyDirectory for Directory {
    fn alive(&self, address: ReplyAddress) -> bool {
        self.0.contains(&address)
    }
}

/// A client's end of a connection.
pub(super) struct Client {
    pub(super) session: Session,
    /// What the session has not consumed.
    unread: Vec<u8>,
    /// What the client has received.
    received: BytesMut,
}

/// The node.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) topology: Topology,
    pub(super) options: SessionOptions,
    replies: Directory,
    shards: BTreeMap<ShardId, Replica>,
    clients: Vec<Client>,
    rows: BTreeMap<Store, Rows>,
    /// Batches and questions wait in `waiting` while set.
    pub(super) hold: bool,
    /// Until when messages are routed.
    pub(super) fresh_until: Instant,
    waiting: VecDeque<(SessionId, Item)>,
    /// The next batches are refused.
    pub(super) refuse: bool,
    /// Questions to other nodes that have no answer: the client, the node, the question.
    pub(super) catching_up: Vec<(usize, NodeId, Token)>,
    /// What was asked of shards, printed.
    pub(super) asked: Vec<String>,
}

impl World {
    /// A node with vhost `/`, user `guest` and the queues q1 (shard 1), q2 (shard 2), q3 (shard 1).
    pub(super) fn new() -> Self {
        let mut world = Self {
            now: Instant(1_000_000),
            topology: Topology::new(7),
            options: SessionOptions::default(),
            replies: Directory::default(),
            shards: BTreeMap::new(),
            clients: Vec::new(),
            rows: BTreeMap::new(),
            hold: false,
            fresh_until: Instant(u64::MAX),
            waiting: VecDeque::new(),
            refuse: false,
            catching_up: Vec::new(),
            asked: Vec::new(),
        };
        for id in [ShardId(1), ShardId(2), ShardId::queues_of(HOME.node)] {
            let shard = Shard::new(ShardOptions {
                logged: !id.is_unlogged(),
            });
            let mut replica = Replica {
                shard,
                bodies: Memory::default(),
                index: 0,
            };
            let mut effects = Vec::new();
            replica.step(world.now, &mut effects, |shard, context, _| {
                shard.lead(&[], context);
            });
            world.shards.insert(id, replica);
        }
        world.put(
            VhostKey { name: "/" }.encode(),
            VhostRow::default().encode(),
        );
        world.put(
            VhostKey { name: "closed" }.encode(),
            VhostRow::default().encode(),
        );
        world.user("guest", ".*");
        world.queue("q1", 1);
        world.queue("q2", 2);
        world.queue("q3", 1);
        world
    }

    /// Writes a row, gives its version; queues follow.
    pub(super) fn put(&mut self, row: RowKey, value: Bytes) -> Version {
        let transaction = Transaction {
            preconditions: Vec::new(),
            writes: vec![Write::Put { row, value }],
        };
        match self.transact(ShardId::DEFINITIONS, &transaction) {
            Committed::Yes { first } => first,
            Committed::Conflict { .. } => panic!("there are no preconditions"),
        }
    }

    fn transact(&mut self, shard: ShardId, transaction: &Transaction) -> Committed {
        let store = Store::of_shard(shard).expect("a rows shard");
        let mut changes = Vec::new();
        let rows = self.rows.entry(store).or_default();
        let committed = rows.transact(transaction, &mut changes);
        self.topology.apply(store, &changes).expect("our own rows");
        for (shard, input) in reconcile(store, &changes).expect("our own rows") {
            self.ask(shard, input);
        }
        committed
    }

    pub(super) fn user(&mut self, name: &str, pattern: &str) {
        // Salt and hash of `guest`, SHA-256.
        let row = UserRow {
            password_hash: super::handshake::guest_hash(),
            ..UserRow::default()
        };
        self.put(UserKey { name }.encode(), row.encode());
        let permission = PermissionRow {
            configure: pattern.to_owned(),
            write: pattern.to_owned(),
            read: pattern.to_owned(),
        };
        let key = PermissionKey {
            user: name,
            vhost: "/",
        };
        self.put(key.encode(), permission.encode());
    }

    pub(super) fn queue(&mut self, name: &str, shard: u32) -> QueueId {
        self.queue_of(name, shard, None)
    }

    pub(super) fn queue_of(&mut self, name: &str, shard: u32, owner: Option<Owner>) -> QueueId {
        let row = QueueRow {
            kind: QueueKind::Classic,
            durable: true,
            auto_delete: false,
            owner: owner.map(Box::new),
            shard: ShardId(shard),
            created: None,
            home: None,
            arguments: FieldTable::new(),
        };
        let key = QueueKey {
            vhost: "/",
            name: name.as_bytes(),
        };
        QueueId(self.put(key.encode(), row.encode()).0)
    }

    pub(super) fn exchange(&mut self, name: &str, kind: ExchangeKind, internal: bool) {
        let row = ExchangeRow {
            kind,
            durable: true,
            auto_delete: false,
            internal,
            home: None,
            arguments: FieldTable::new(),
        };
        let key = ExchangeKey {
            vhost: "/",
            name: name.as_bytes(),
        };
        self.put(key.encode(), row.encode());
    }

    pub(super) fn bind(&mut self, source: &str, queue: &str, key: &str) {
        let binding = BindingKey {
            vhost: "/",
            source: source.as_bytes(),
            destination: queue.as_bytes(),
            destination_kind: DestinationKind::Queue,
            routing_key: key.as_bytes(),
            arguments: FieldTable::new(),
        };
        self.put(binding.encode(), Bytes::from_static(&[1]));
    }

    /// Asks a shard, as somebody else would.
    pub(super) fn ask(&mut self, shard: ShardId, input: Input) {
        let mut effects = Vec::new();
        let now = self.now;
        if let Some(replica) = self.shards.get_mut(&shard) {
            replica.step(now, &mut effects, |shard, context, _| {
                shard.input(input, context);
            });
        }
        self.carry_out(effects);
    }

    /// Accepts a connection; nothing is said yet.
    pub(super) fn accept(&mut self) -> usize {
        let number = self.clients.len();
        let peer = Peer {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 50_000,
            tls: false,
        };
        let options = Arc::new(self.options.clone());
        let id = SessionId(number as u64 + 1);
        self.clients.push(Client {
            session: Session::new(options, id, peer, self.now, 99 + number as u64),
            unread: Vec::new(),
            received: BytesMut::new(),
        });
        number
    }

    /// A client that is through its handshake, with channel 1 open.
    pub(super) fn connect(&mut self) -> usize {
        let client = self.login("guest");
        self.send(client, 1, ChannelOpen);
        assert_eq!(self.said(client), ["1 channel.open-ok()"]);
        client
    }

    pub(super) fn login(&mut self, user: &str) -> usize {
        let client = self.accept();
        self.bytes(client, &PROTOCOL_HEADER);
        self.start_ok(client, user, "guest");
        let tune_ok = ConnectionTuneOk {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 0,
        };
        self.send(client, 0, tune_ok);
        let virtual_host = ShortStr::from_static("/");
        self.send(client, 0, ConnectionOpen { virtual_host });
        let said = self.said(client);
        assert_eq!(
            said.last().map(String::as_str),
            Some("0 connection.open-ok()"),
            "{said:?}"
        );
        client
    }

    pub(super) fn start_ok(&mut self, client: usize, user: &str, password: &str) {
        let capabilities = FieldTable::new()
            .with("authentication_failure_close", true)
            .with("consumer_cancel_notify", true)
            .with("connection.blocked", true);
        let properties = FieldTable::new()
            .with("connection_name", "test")
            .with("capabilities", capabilities)
            .to_bytes();
        let response = format!("\0{user}\0{password}");
        let start_ok = ConnectionStartOk {
            client_properties: Table::from_raw(&properties),
            mechanism: ShortStr::from_static("PLAIN"),
            response: LongStr(response.as_bytes()),
            locale: ShortStr::from_static("en_US"),
        };
        self.send(client, 0, start_ok);
    }

    pub(super) fn session(&mut self, client: usize) -> &mut Session {
        &mut self.clients[client].session
    }

    pub(super) fn send<'a>(&mut self, client: usize, channel: u16, method: impl Into<Method<'a>>) {
        let mut out = BytesMut::new();
        method.into().encode_frame(channel, &mut out);
        self.bytes(client, &out);
    }

    pub(super) fn publish(&mut self, client: usize, channel: u16, key: &str, body: &str) {
        let bytes = publish_frames(channel, "", key, Properties::EMPTY, body.as_bytes());
        self.bytes(client, &bytes);
    }

    /// Bytes arrive; the session takes what it wants.
    pub(super) fn bytes(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].unread.extend_from_slice(bytes);
        self.read(client);
    }

    fn read(&mut self, client: usize) {
        loop {
            let mut work = Work::default();
            let Client {
                session, unread, ..
            } = &mut self.clients[client];
            if !session.wants_read() || unread.is_empty() {
                break;
            }
            let env = Env {
                topology: &self.topology,
                replies: &self.replies,
                shards: 2,
                home: HOME,
                fresh_until: self.fresh_until,
            };
            let consumed = session.handle_bytes(self.now, &env, unread, &mut work);
            assert!(consumed <= unread.len());
            unread.drain(..consumed);
            let id = session.id();
            self.hand_over(id, work);
            self.settle_down();
            if consumed == 0 {
                break;
            }
        }
    }

    /// Bytes that the session has left in the driver's buffer.
    pub(super) fn unread(&self, client: usize) -> usize {
        self.clients[client].unread.len()
    }

    pub(super) fn event(&mut self, client: usize, event: Event) {
        let mut work = Work::default();
        let env = Env {
            topology: &self.topology,
            replies: &self.replies,
            shards: 2,
            home: HOME,
            fresh_until: self.fresh_until,
        };
        let session = &mut self.clients[client].session;
        session.handle_event(self.now, &env, event, &mut work);
        let id = session.id();
        self.hand_over(id, work);
    }

    pub(super) fn disconnect(&mut self, client: usize) {
        let mut work = Work::default();
        let env = Env {
            topology: &self.topology,
            replies: &self.replies,
            shards: 2,
            home: HOME,
            fresh_until: self.fresh_until,
        };
        let session = &mut self.clients[client].session;
        session.handle_disconnect(self.now, &env, &mut work);
        let id = session.id();
        self.hand_over(id, work);
        self.settle_down();
    }

    /// The clock goes on; every session whose time has come is called.
    pub(super) fn wait_ms(&mut self, ms: u64) {
        self.now = self.now.plus_millis(ms);
        for at in 0..self.clients.len() {
            let mut work = Work::default();
            let env = Env {
                topology: &self.topology,
                replies: &self.replies,
                shards: 2,
                home: HOME,
                fresh_until: self.fresh_until,
            };
            let session = &mut self.clients[at].session;
            if session.timeout().is_some_and(|due| due <= self.now) {
                session.handle_timeout(self.now, &env, &mut work);
                let id = session.id();
                self.hand_over(id, work);
            }
        }
        self.settle_down();
    }

    /// Bytes arrive from a client whose socket takes nothing.
    pub(super) fn bytes_to_one_who_does_not_read(&mut self, client: usize, bytes: &[u8]) {
        let env = Env {
            topology: &self.topology,
            replies: &self.replies,
            shards: 2,
            home: HOME,
            fresh_until: self.fresh_until,
        };
        let session = &mut self.clients[client].session;
        session.handle_bytes(self.now, &env, bytes, &mut Work::default());
    }

    /// The session's time has come; nothing is written.
    pub(super) fn time_passes(&mut self, client: usize) {
        let env = Env {
            topology: &self.topology,
            replies: &self.replies,
            shards: 2,
            home: HOME,
            fresh_until: self.fresh_until,
        };
        let session = &mut self.clients[client].session;
        session.handle_timeout(self.now, &env, &mut Work::default());
    }

    /// What was held back goes its way.
    pub(super) fn release(&mut self) {
        self.hold = false;
        while let Some((id, item)) = self.waiting.pop_front() {
            self.item(id, item);
        }
        self.settle_down();
        for client in 0..self.clients.len() {
            self.read(client);
        }
    }

    fn hand_over(&mut self, id: SessionId, work: Work) {
        for item in work.items {
            if self.hold {
                self.waiting.push_back((id, item));
            } else {
                self.item(id, item);
            }
        }
    }

    fn item(&mut self, id: SessionId, item: Item) {
        let client = id.0 as usize - 1;
        match item {
            Item::Propose {
                shard,
                batch,
                number,
            } => {
                let mut effects = Vec::new();
                let outcome = if self.refuse {
                    Outcome::Refused
                } else {
                    let now = self.now;
                    let replica = self.shards.get_mut(&shard).expect("a known shard");
                    replica.apply(now, batch, &mut effects);
                    Outcome::Stored
                };
                self.event(client, Event::Done { number, outcome });
                self.carry_out(effects);
            }
            Item::Ask { shard, input } => {
                self.asked.push(format!("{input:?}"));
                self.ask(shard, input);
            }
            Item::Transact {
                shard,
                transaction,
                wait,
            } => {
                let committed = self.transact(shard, &transaction);
                if let Some(token) = wait.ticket() {
                    self.event(client, Event::Committed { token, committed });
                }
            }
            Item::CatchUp { node, token } => self.catching_up.push((client, node, token)),
            Item::Reply(reply) => {
                let at = reply.address.session.0 as usize - 1;
                let event = Event::DirectReply {
                    address: reply.address,
                    message: reply.message,
                };
                self.event(at, event);
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let session = match &effect {
                Effect::Deliver { session, .. }
                | Effect::Got { session, .. }
                | Effect::Attached { session, .. }
                | Effect::Refused { session, .. }
                | Effect::Detached { session, .. }
                | Effect::Cancelled { session, .. }
                | Effect::Settled { session, .. } => *session,
                Effect::Reply { asker, .. } => *asker,
                Effect::Closed { .. } | Effect::Dropped { .. } => continue,
            };
            if let Some(at) = (session.0 as usize).checked_sub(1)
                && at < self.clients.len()
            {
                self.event(at, Event::Shard(effect));
            }
        }
    }

    /// Pumps and writes until nothing moves.
    fn settle_down(&mut self) {
        loop {
            let mut moved = false;
            for at in 0..self.clients.len() {
                let mut work = Work::default();
                let env = Env {
                    topology: &self.topology,
                    replies: &self.replies,
                    shards: 2,
                    home: HOME,
                    fresh_until: self.fresh_until,
                };
                let Client {
                    session, received, ..
                } = &mut self.clients[at];
                session.pump(self.now, &env, &mut work);
                let id = session.id();
                let outbox = session.outbox();
                while !outbox.is_empty() {
                    let mut slices = [IoSlice::new(&[]); 8];
                    let used = outbox.fill(&mut slices);
                    let written: usize = slices[..used].iter().map(|slice| slice.len()).sum();
                    for slice in &slices[..used] {
                        received.extend_from_slice(slice);
                    }
                    outbox.advance(written);
                    moved = true;
                }
                moved |= !work.items.is_empty();
                self.hand_over(id, work);
            }
            if !moved {
                return;
            }
        }
    }

    /// Everything that the client was told since it was last asked: `channel method`, and the body
    /// behind the methods that have one.
    pub(super) fn said(&mut self, client: usize) -> Vec<String> {
        self.settle_down();
        let received = self.clients[client].received.split();
        let mut rest = &received[..];
        let mut said: Vec<String> = Vec::new();
        while !rest.is_empty() {
            let (frame, used) = frame::parse(rest, 131_072)
                .expect("well-formed")
                .expect("whole");
            match frame.kind {
                FrameKind::Method => {
                    let method = Method::parse(frame.payload).expect("a method");
                    let method = method.to_string().replace("\\'", "'");
                    said.push(format!("{} {method}", frame.channel));
                }
                FrameKind::Header => {
                    ContentHeader::parse(frame.payload).expect("a header");
                    said.last_mut().expect("behind a method").push_str(" = ");
                }
                FrameKind::Body => {
                    let text = String::from_utf8_lossy(frame.payload);
                    said.last_mut().expect("behind a header").push_str(&text);
                }
                FrameKind::Heartbeat => said.push("heartbeat".to_owned()),
            }
            rest = &rest[used..];
        }
        said
    }

    /// The bytes that the client was sent since it was last asked.
    pub(super) fn raw(&mut self, client: usize) -> BytesMut {
        self.settle_down();
        self.clients[client].received.split()
    }

    /// Makes a direct reply-to address live.
    pub(super) fn enlist(&mut self, address: ReplyAddress) {
        self.replies.0.push(address);
    }
}

/// A publish with its content, in one piece.
pub(super) fn publish_frames(
    channel: u16,
    exchange: &str,
    key: &str,
    properties: Properties<'_>,
    body: &[u8],
) -> BytesMut {
    publish_flagged(channel, (exchange, key), (false, false), properties, body)
}

/// As [`publish_frames`], with `mandatory` and `immediate`.
pub(super) fn publish_flagged(
    channel: u16,
    (exchange, key): (&str, &str),
    (mandatory, immediate): (bool, bool),
    properties: Properties<'_>,
    body: &[u8],
) -> BytesMut {
    let mut out = BytesMut::new();
    let publish = BasicPublish {
        exchange: ShortStr::truncated(exchange),
        routing_key: ShortStr::truncated(key),
        mandatory,
        immediate,
    };
    publish.encode_frame(channel, &mut out);
    content::encode(&mut out, channel, properties, body, 131_072);
    out
}

pub(super) fn short(text: &str) -> ShortStr<'_> {
    ShortStr::truncated(text)
}
