//! A shard of queues by itself: a batch of messages is applied, handed out and settled, again and
//! again, so that what is measured is the steady state. Bodies are in memory.

use bytes::Bytes;
use warren_broker_core::ids::{Holder, MessageId, QueueId, SessionId, Token};
use warren_broker_core::message::Parts;
use warren_broker_core::shard::command::{self, Create};
use warren_broker_core::shard::effect::Effect;
use warren_broker_core::shard::input::{Attach, Input, Settle, Verdict, Window};
use warren_broker_core::shard::{Shard, ShardOptions};
use warren_cluster_core::batch::{Batch, HEADER_BYTES, Header, Kind};
use warren_cluster_core::ids::{Index, Now, OriginId, Place, SegmentId, Seq, Term, Time};
use warren_cluster_core::machine::{ApplyMeta, Bodies, Context, Machine};

use crate::{BATCH, PERSISTENT};

const HOLDER: Holder = Holder {
    session: SessionId(1),
    number: 1,
};

/// The batch applied last: nothing older is ever asked for.
struct Newest(Bytes);

impl Bodies for Newest {
    fn get(&mut self, place: Place, len: u32) -> Option<Bytes> {
        let from = place.offset as usize;
        Some(self.0.slice(from..from + len as usize))
    }

    fn want(&mut self, _key: u64, _place: Place, _len: u32) {}
    fn retain(&mut self, _key: u64, _id: u64, _place: Place, _len: u32) {}
    fn release(&mut self, _place: Place, _len: u32) {}
}

/// A shard that leads, its queues, and a consumer of each.
pub struct Queues {
    shard: Shard,
    bodies: Newest,
    effects: Vec<Effect>,
    proposals: Batch,
    index: u64,
    batch: Bytes,
    queues: u64,
    /// The first message of the next batch.
    next: u64,
}

impl Queues {
    /// So many queues; messages have `body_bytes`.
    #[must_use]
    pub fn new(logged: bool, queues: u64, body_bytes: usize) -> Self {
        let mut all = Self {
            shard: Shard::new(ShardOptions { logged }),
            bodies: Newest(Bytes::new()),
            effects: Vec::new(),
            proposals: Batch::default(),
            index: 0,
            batch: publishes(queues, body_bytes),
            queues,
            next: 1,
        };
        all.with(|shard, context| shard.lead(&[], context));
        for queue in 1..=queues {
            all.begin(QueueId(queue));
        }
        all.rest();
        all
    }

    /// Makes a queue with a consumer.
    fn begin(&mut self, queue: QueueId) {
        let create = Create {
            queue,
            auto_delete: false,
            reserved: MessageId(1),
            options: &[],
        };
        let mut batch = Batch::new(64);
        batch.push(|out| command::encode_create(out, &create));
        self.apply(&seal(batch), 1);
        let attach = Attach {
            holder: HOLDER,
            queue,
            auto_ack: false,
            exclusive: false,
            priority: 0,
            prefetch: 0,
            window: Window {
                messages: 2 * BATCH as u32,
                bytes: 64 << 20,
            },
            token: Token(1),
        };
        self.with(|shard, context| shard.input(Input::Attach(attach), context));
    }

    fn with(&mut self, act: impl FnOnce(&mut Shard, &mut Context<'_, Effect>)) {
        let mut context = Context {
            now: Now::default(),
            leads: Some(Term(1)),
            bodies: &mut self.bodies,
            effects: &mut self.effects,
            proposals: &mut self.proposals,
            urgent: false,
            checkpoint: None,
        };
        act(&mut self.shard, &mut context);
    }

    fn apply(&mut self, payload: &Bytes, commands: u32) {
        self.index += 1;
        let meta = ApplyMeta {
            index: Index(self.index),
            term: Term(1),
            time: Time(0),
            commands,
            place: Place {
                segment: SegmentId(1),
                offset: 0,
            },
        };
        self.with(|shard, context| {
            let applied = shard.apply(&meta, payload, context);
            applied.expect("its own commands");
        });
    }

    /// Flushes, and applies what the leader proposes, until it is content.
    fn rest(&mut self) {
        loop {
            self.with(Shard::flush);
            let proposals = std::mem::take(&mut self.proposals);
            if proposals.is_empty() {
                return;
            }
            let commands = proposals.commands();
            self.apply(&seal(proposals), commands);
        }
    }

    /// Applies a batch of messages.
    ///
    /// # Panics
    /// When the shard does not take its own commands.
    #[inline(never)]
    pub fn enqueue(&mut self) {
        let batch = self.batch.clone();
        self.bodies.0 = batch.clone();
        self.apply(&batch, BATCH as u32);
    }

    /// Hands it out.
    #[inline(never)]
    pub fn deliver(&mut self) {
        self.rest();
    }

    /// What the consumer answers, once all is out.
    ///
    /// # Panics
    /// When a message is missing.
    pub fn answers(&mut self) -> Vec<Input> {
        self.check();
        self.settles()
    }

    /// Takes the answers, and forgets the messages.
    #[inline(never)]
    pub fn settle(&mut self, answers: Vec<Input>) {
        for input in answers {
            self.with(|shard, context| shard.input(input, context));
        }
        self.rest();
        self.effects.clear();
        self.next += BATCH as u64 / self.queues;
    }

    fn check(&mut self) {
        let delivered = self.effects.drain(..).map(|effect| match effect {
            Effect::Deliver { messages, .. } => messages.len(),
            _ => 0,
        });
        assert!(delivered.sum::<usize>() >= BATCH, "all are out");
    }

    /// What a session sends once it has written a batch, and its client has acknowledged it one
    /// by one.
    fn settles(&self) -> Vec<Input> {
        let each = BATCH as u64 / self.queues;
        let queues = (1..=self.queues).map(QueueId);
        let of_queue = |queue| {
            let settles = (self.next..self.next + each).map(MessageId);
            let settles = settles.map(move |id| {
                Input::Settle(Settle {
                    queue,
                    holder: HOLDER,
                    first: id,
                    last: id,
                    verdict: Verdict::Ack,
                })
            });
            let credit = Input::Credit {
                queue,
                holder: HOLDER,
                messages: each as u32,
                bytes: 1 << 20,
            };
            std::iter::once(credit).chain(settles)
        };
        queues.flat_map(of_queue).collect()
    }
}

/// A batch of messages, one queue after the other.
fn publishes(queues: u64, body_bytes: usize) -> Bytes {
    let body = vec![b'x'; body_bytes];
    let message = Parts {
        exchange: b"amq.topic",
        routing_key: b"a.routing.key",
        properties: &PERSISTENT,
        body: &body,
    };
    let mut batch = Batch::new(BATCH * (body_bytes + 128));
    for number in 0..BATCH as u64 {
        let queue = QueueId(1 + number % queues);
        batch.push(|out| command::encode_enqueue(out, &[queue], None, &message));
    }
    seal(batch)
}

fn seal(batch: Batch) -> Bytes {
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
