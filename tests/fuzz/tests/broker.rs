//! The broker's own bytes: rows of definitions, login responses, and what shards read.

use std::collections::BTreeMap;

use bytes::Bytes;
use warren_broker_core::auth::sasl::Mechanism;
use warren_broker_core::definitions::{
    BindingKey, ExchangeKey, ExchangeKind, ExchangeRow, Owner, PermissionKey, PermissionRow,
    QueueKey, QueueKind, QueueRow, Store, Tombstone, TopicPermissionKey, TopicPermissionRow,
    UserKey, UserRow, VhostKey, VhostRow,
};
use warren_broker_core::dispatch::operation::DestinationKind;
use warren_broker_core::ids::{Holder, MessageId, QueueId, SessionId, Token};
use warren_broker_core::message::{self, Parts};
use warren_broker_core::shard::command::{self, Create};
use warren_broker_core::shard::effect::Effect;
use warren_broker_core::shard::input::{Attach, Input, Settle, Verdict, Window};
use warren_broker_core::shard::{Shard, ShardOptions};
use warren_broker_core::topology::Topology;
use warren_cluster_core::batch::{Batch, HEADER_BYTES, Header, Kind};
use warren_cluster_core::ids::{
    Index, NodeId, Now, OriginId, Place, SegmentId, Seq, ShardId, Term, Time,
};
use warren_cluster_core::machine::{ApplyMeta, Bodies, CheckpointWriter, Context, Machine};
use warren_cluster_core::rows::{Change, RowKey, Version};
use warren_fuzz::bytes_up_to;
use warren_protocol::{FieldTable, FieldValue, ShortStr};

/// Reads keys and values of every kind; what can be read is written as something that reads the
/// same.
macro_rules! same {
    ($bytes:expr, $row:ident) => {
        if let Ok(row) = $row::decode($bytes) {
            assert_eq!($row::decode(&row.encode()).as_ref(), Ok(&row));
        }
    };
}

macro_rules! same_key {
    ($bytes:expr, $key:ident) => {
        if let Ok(key) = $key::decode($bytes) {
            assert_eq!(key.encode().key, $bytes);
        }
    };
}

#[test]
fn definitions() {
    let input = bytes_up_to(600);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            same!(bytes, VhostRow);
            same!(bytes, UserRow);
            same!(bytes, PermissionRow);
            same!(bytes, TopicPermissionRow);
            same!(bytes, ExchangeRow);
            same!(bytes, QueueRow);
            let _ = Tombstone::decode(QueueId(1), bytes);
            same_key!(bytes, VhostKey);
            same_key!(bytes, UserKey);
            same_key!(bytes, PermissionKey);
            same_key!(bytes, TopicPermissionKey);
            same_key!(bytes, ExchangeKey);
            same_key!(bytes, QueueKey);
            let _ = (BindingKey::decode(bytes), Tombstone::decode_key(bytes));
            for row in rows() {
                let mut damaged = row.to_vec();
                damage(&mut damaged, bytes);
                same!(&damaged, UserRow);
                same!(&damaged, PermissionRow);
                same!(&damaged, ExchangeRow);
                same!(&damaged, QueueRow);
                let _ = BindingKey::decode(&damaged);
            }
            for mechanism in [Mechanism::Plain, Mechanism::AmqPlain] {
                let _ = mechanism.credentials(bytes);
            }
            build(bytes);
        });
}

/// Overwrites part of `target` with `bytes`, from a place that they name themselves.
fn damage(target: &mut [u8], bytes: &[u8]) {
    let from = usize::from(bytes.first().copied().unwrap_or(0)) % target.len();
    for (to, byte) in target[from..].iter_mut().zip(bytes.iter().skip(1)) {
        *to = *byte;
    }
}

/// Rows as they are written: random bytes seldom come as far as the second field.
fn rows() -> Vec<Bytes> {
    let mut arguments = FieldTable::new();
    let name = ShortStr::truncated("x-max-length").to_short_string();
    arguments.0.push((name, FieldValue::Long(10)));
    let queue = QueueRow {
        kind: QueueKind::Quorum,
        durable: true,
        auto_delete: false,
        owner: Some(Box::new(Owner {
            session: SessionId(7),
            node: NodeId(1),
            incarnation: 2,
        })),
        shard: ShardId(3),
        created: Some(Version(9)),
        home: None,
        arguments: arguments.clone(),
    };
    let exchange = ExchangeRow {
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
        internal: false,
        home: None,
        arguments: arguments.clone(),
    };
    let permission = PermissionRow {
        configure: ".*".to_owned(),
        write: "^a".to_owned(),
        read: String::new(),
    };
    let binding = BindingKey {
        vhost: "/",
        source: b"e",
        destination: b"q",
        destination_kind: DestinationKind::Queue,
        routing_key: b"a.*",
        arguments,
    };
    vec![
        queue.encode(),
        exchange.encode(),
        permission.encode(),
        UserRow::default().encode(),
        binding.encode().key,
    ]
}

/// A topology takes rows of any kind with any bytes, and says so when it cannot read them.
fn build(bytes: &[u8]) {
    let mut topology = Topology::new(1);
    let vhost = VhostKey { name: "" }.encode();
    let mut changes = vec![Change {
        row: vhost,
        value: Some(VhostRow::default().encode()),
        version: Version(1),
    }];
    for kind in 0..12 {
        let (key, value) = bytes.split_at(bytes.len().min(6));
        changes.push(Change {
            row: RowKey {
                kind,
                key: Bytes::copy_from_slice(key),
            },
            value: Some(Bytes::copy_from_slice(value)),
            version: Version(2 + u64::from(kind)),
        });
    }
    let _ = topology.apply(Store::Replicated, &changes);
    for change in &mut changes {
        change.value = None;
        change.version.0 += 100;
    }
    let _ = topology.apply(Store::Replicated, &changes);
}

/// The entries that a shard has applied, and how often each place is held.
#[derive(Default)]
struct Memory {
    entries: BTreeMap<SegmentId, Bytes>,
    held: BTreeMap<(Place, u32), u32>,
}

impl Bodies for Memory {
    fn get(&mut self, place: Place, len: u32) -> Option<Bytes> {
        let from = place.offset as usize;
        let to = from.checked_add(len as usize)?;
        let entry = self.entries.get(&place.segment)?;
        (to <= entry.len()).then(|| entry.slice(from..to))
    }

    fn want(&mut self, _key: u64, _place: Place, _len: u32) {}

    fn retain(&mut self, _key: u64, _id: u64, place: Place, len: u32) {
        *self.held.entry((place, len)).or_default() += 1;
    }

    fn release(&mut self, place: Place, len: u32) {
        let count = self.held.get_mut(&(place, len)).expect("what is held");
        *count = count.checked_sub(1).expect("held as often as released");
    }
}

#[derive(Default)]
struct Chunks(Vec<Vec<u8>>);

impl CheckpointWriter for Chunks {
    fn chunk(&mut self, bytes: &[u8]) {
        self.0.push(bytes.to_vec());
    }

    fn written(&self) -> u64 {
        self.0.iter().map(|chunk| chunk.len() as u64).sum()
    }
}

/// A shard that leads, and what it needs for that.
struct Rig {
    shard: Shard,
    memory: Memory,
    effects: Vec<Effect>,
    proposals: Batch,
    index: u64,
    now: Now,
}

impl Rig {
    fn new(shard: Shard) -> Self {
        let mut rig = Self {
            shard,
            memory: Memory::default(),
            effects: Vec::new(),
            proposals: Batch::default(),
            index: 0,
            now: Now::default(),
        };
        rig.with(|shard, context| shard.lead(&[], context));
        rig
    }

    fn with<R>(&mut self, act: impl FnOnce(&mut Shard, &mut Context<'_, Effect>) -> R) -> R {
        let mut context = Context {
            now: self.now,
            leads: Some(Term(1)),
            bodies: &mut self.memory,
            effects: &mut self.effects,
            proposals: &mut self.proposals,
            urgent: false,
            checkpoint: None,
        };
        act(&mut self.shard, &mut context)
    }

    /// Applies an entry; says whether it could be read.
    fn apply(&mut self, payload: &Bytes, commands: u32) -> bool {
        self.index += 1;
        let segment = SegmentId(self.index as u32);
        let meta = ApplyMeta {
            index: Index(self.index),
            term: Term(1),
            time: self.now.wall,
            commands,
            place: Place { segment, offset: 0 },
        };
        self.memory.entries.insert(segment, payload.clone());
        let applied = self.with(|shard, context| shard.apply(&meta, payload, context));
        applied.is_ok()
    }

    fn ask(&mut self, input: Input) {
        self.with(|shard, context| shard.input(input, context));
    }

    /// Applies what the leader proposes until it is content.
    fn rest(&mut self) {
        loop {
            self.with(Shard::flush);
            for effect in self.effects.drain(..) {
                if let Effect::Deliver { messages, .. } = effect {
                    let mut messages = messages.iter();
                    assert!(messages.all(|it| message::body(&it.message).is_some()));
                }
            }
            let proposals = std::mem::take(&mut self.proposals);
            if proposals.is_empty() {
                return;
            }
            let commands = proposals.commands();
            assert!(self.apply(&payload(proposals), commands), "its own");
        }
    }

    fn chunks(&mut self) -> Vec<Vec<u8>> {
        let mut chunks = Chunks::default();
        self.shard.checkpoint_begin(&mut chunks);
        while !self.shard.checkpoint_step(1 << 20, &mut chunks) {}
        chunks.0
    }
}

fn payload(batch: Batch) -> Bytes {
    let header = Header {
        kind: Kind::Leader,
        commands: 0,
        origin: OriginId(0),
        seq: Seq(0),
        paid: Seq(0),
        time: Time(0),
    };
    batch.seal(header).slice(HEADER_BYTES..)
}

/// A queue with a few messages, some of them with a consumer.
fn led() -> Rig {
    let mut rig = Rig::new(Shard::new(ShardOptions { logged: true }));
    let (commands, payload) = first_entry();
    assert!(rig.apply(&payload, commands));
    rig.ask(Input::Attach(Attach {
        holder: holder(1),
        queue: QueueId(1),
        auto_ack: false,
        exclusive: false,
        priority: 0,
        prefetch: 3,
        window: Window {
            messages: 4,
            bytes: 1 << 20,
        },
        token: Token(1),
    }));
    rig.rest();
    rig
}

/// Two queues and a few messages for both.
fn first_entry() -> (u32, Bytes) {
    let mut batch = Batch::new(256);
    for queue in 1..=2 {
        let create = Create {
            queue: QueueId(queue),
            auto_delete: false,
            reserved: MessageId(3),
            options: &[],
        };
        batch.push(|out| command::encode_create(out, &create));
    }
    let message = Parts {
        body: b"a body",
        ..Parts::default()
    };
    for ttl in [None, Some(300), None, Some(20), Some(900)] {
        batch.push(|out| command::encode_enqueue(out, &[QueueId(1), QueueId(2)], ttl, &message));
    }
    (batch.commands(), payload(batch))
}

fn holder(number: u32) -> Holder {
    Holder {
        session: SessionId(1),
        number,
    }
}

/// A question out of bytes.
fn question(bytes: &[u8; 4]) -> Input {
    let [which, queue, first, last] = bytes.map(u64::from);
    let (queue, token, asker) = (QueueId(queue % 4), Token(9), SessionId(1));
    let holder = holder(last as u32 % 3);
    let verdict = match which / 16 % 4 {
        0 => Verdict::Ack,
        1 => Verdict::Reject,
        flag => Verdict::Requeue { failed: flag == 2 },
    };
    match which % 8 {
        0 | 1 => Input::Settle(Settle {
            queue,
            holder,
            first: MessageId(first.wrapping_sub(128) % 300),
            last: MessageId(last),
            verdict,
        }),
        2 => Input::Credit {
            queue,
            holder,
            messages: u32::MAX >> (first % 32),
            bytes: u64::MAX >> (last % 64),
        },
        3 => Input::Get {
            queue,
            holder,
            auto_ack: first % 2 == 0,
            token,
        },
        4 => Input::Purge {
            queue,
            asker,
            token,
        },
        5 => Input::Gone { queue, holder },
        6 => Input::Detach {
            queue,
            holder,
            token,
        },
        _ => Input::Close {
            queue,
            if_unused: first % 2 == 0,
            if_empty: last % 2 == 0,
            asker,
            token,
        },
    }
}

#[test]
fn shards() {
    let input = bytes_up_to(600);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            // Commands of any bytes: a replica that cannot read one stops there.
            let mut rig = led();
            let tail = Bytes::copy_from_slice(bytes.get(1..).unwrap_or_default());
            let readable = rig.apply(&tail, u32::from(bytes.first().copied().unwrap_or(0)));
            if readable {
                rig.rest();
            }
            let mut rig = led();
            let (commands, whole) = first_entry();
            let mut damaged = whole.to_vec();
            damage(&mut damaged, bytes);
            if rig.apply(&Bytes::from(damaged), commands) {
                rig.rest();
            }

            // Questions of any kind, then a checkpoint that gives the same state back.
            let mut rig = led();
            for chunk in bytes.as_chunks::<4>().0.iter().take(64) {
                rig.now.wall.0 += u64::from(chunk[2]);
                rig.now.mono = rig.now.mono.plus_millis(u64::from(chunk[2]));
                rig.ask(question(chunk));
                rig.rest();
                let deadline = rig.shard.deadline();
                assert!(
                    deadline.is_none_or(|it| it > rig.now.mono),
                    "it is done for now"
                );
            }
            let chunks = rig.chunks();
            let mut again = Shard::new(ShardOptions { logged: true });
            for chunk in &chunks {
                again.restore(chunk).expect("its own");
            }
            again.restored().expect("whole");
            again.retain_all(&mut Memory::default());
            let mut again = Rig::new(again);
            assert_eq!(again.chunks(), chunks);
            restore_damaged(chunks, bytes);
        });
}

/// Chunks of any bytes, and whole ones with some damage, are a state or an error.
fn restore_damaged(mut chunks: Vec<Vec<u8>>, bytes: &[u8]) {
    let _ = Shard::new(ShardOptions { logged: true }).restore(bytes);
    let mut damaged = bytes.iter();
    for chunk in &mut chunks {
        if damaged.next().is_some_and(|byte| byte % 2 == 0) {
            damage(chunk, damaged.as_slice());
        }
    }
    let mut shard = Shard::new(ShardOptions { logged: true });
    if chunks.iter().all(|chunk| shard.restore(chunk).is_ok()) {
        let _ = shard.restored();
        shard.retain_all(&mut Memory::default());
    }
}
