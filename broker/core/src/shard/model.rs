//! A naive model of a shard's queues, and random lists of what happens to both.
//!
//! The model knows each message's fate as a client sees it: nothing lost, nothing twice, in
//! order, marked when it was out before, never beyond anybody's credit, and counted exactly; gone
//! once it has expired and nothing that lives longer is before it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use warren_cluster_core::ids::Time;
use warren_cluster_core::machine::Machine;

use crate::ids::{Holder, MessageId, QueueId, SessionId, Token};
use crate::message;

use super::command::{self, Command};
use super::effect::{Delivered, Effect, Reply};
use super::input::{Attach, Input, QueueConfig, Settle, Verdict, Window};
use super::reader::Reader;
use super::rig::Rig;

const QUEUES: u64 = 2;

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish {
        queues: u8,
        messages: u16,
        ttl: Option<u16>,
    },
    Attach {
        holder: u8,
        queue: u8,
        terms: Terms,
    },
    Detach {
        holder: u8,
        queue: u8,
    },
    Gone {
        holder: u8,
        queue: u8,
    },
    SessionGone {
        session: u8,
    },
    Credit {
        holder: u8,
        queue: u8,
        messages: u8,
    },
    Settle {
        holder: u8,
        queue: u8,
        ids: (u16, u16),
        verdict: u8,
    },
    Get {
        holder: u8,
        queue: u8,
        auto_ack: bool,
    },
    Purge {
        queue: u8,
    },
    Count {
        queue: u8,
    },
    Pass {
        millis: u8,
    },
    Cold,
    Warm,
    Flush,
    Gather,
    Apply {
        entries: u8,
    },
}

/// A consumer's wishes.
#[derive(Clone, Copy, Debug)]
struct Terms {
    auto_ack: bool,
    priority: u8,
    prefetch: u8,
    window: u16,
}

fn terms() -> impl Strategy<Value = Terms> {
    let window = prop_oneof![0u16..6, Just(3000u16)];
    let all = (any::<bool>(), 0u8..2, 0u8..5, window);
    all.prop_map(|(auto_ack, priority, prefetch, window)| Terms {
        auto_ack,
        priority,
        prefetch,
        window,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let holder = 0u8..6;
    let queue = 0u8..QUEUES as u8;
    let on = (holder, queue.clone());
    let many = prop_oneof![4 => 1u16..9, 1 => 500u16..1500];
    let ttl = prop_oneof![2 => Just(None), 1 => (0u16..20).prop_map(Some)];
    let ids = (0u16..3000, prop_oneof![0u16..4, Just(5000u16)]);
    prop_oneof![
        4 => (1u8..4, many, ttl)
            .prop_map(|(queues, messages, ttl)| Step::Publish { queues, messages, ttl }),
        2 => (on.clone(), terms())
            .prop_map(|((holder, queue), terms)| Step::Attach { holder, queue, terms }),
        1 => on.clone().prop_map(|(holder, queue)| Step::Detach { holder, queue }),
        1 => on.clone().prop_map(|(holder, queue)| Step::Gone { holder, queue }),
        1 => (0u8..3).prop_map(|session| Step::SessionGone { session }),
        3 => (on.clone(), 0u8..9)
            .prop_map(|((holder, queue), messages)| Step::Credit { holder, queue, messages }),
        6 => (on.clone(), ids, 0u8..4)
            .prop_map(|((holder, queue), ids, verdict)| {
                Step::Settle { holder, queue, ids, verdict }
            }),
        2 => (on, any::<bool>())
            .prop_map(|((holder, queue), auto_ack)| Step::Get { holder, queue, auto_ack }),
        1 => queue.clone().prop_map(|queue| Step::Purge { queue }),
        2 => queue.prop_map(|queue| Step::Count { queue }),
        2 => (1u8..20).prop_map(|millis| Step::Pass { millis }),
        1 => Just(Step::Cold),
        1 => Just(Step::Warm),
        3 => Just(Step::Flush),
        2 => Just(Step::Gather),
        4 => (1u8..9).prop_map(|entries| Step::Apply { entries }),
    ]
}

#[derive(Default)]
struct ModelQueue {
    next: u64,
    bodies: BTreeMap<u64, Vec<u8>>,
    ready: BTreeSet<u64>,
    held: BTreeMap<u64, Holder>,
    /// Delivered at least once, with the failed deliveries.
    seen: BTreeMap<u64, u32>,
    consumers: BTreeMap<Holder, ModelConsumer>,
    expiry: BTreeMap<u64, Time>,
    /// Messages from this id on came while somebody may have waited: they may yet go out.
    fresh: Option<u64>,
    /// Expired ones that were fresh and may have gone, though they are not at the head now.
    unsure: BTreeSet<u64>,
    /// Handed out in this flush.
    out: Vec<u64>,
    /// At least and at most how many each purge on its way removes.
    purged: Vec<(u64, u64)>,
}

struct ModelConsumer {
    auto_ack: bool,
    prefetch: u64,
    window: u64,
}

struct Model {
    rig: Rig,
    queues: BTreeMap<QueueId, ModelQueue>,
    published: u64,
    gets: BTreeMap<u64, (QueueId, Holder, bool)>,
    tokens: u64,
}

fn holder_of(number: u8) -> Holder {
    Holder {
        session: SessionId(u64::from(number / 2) + 1),
        number: u32::from(number % 2),
    }
}

fn queue_of(number: u8) -> QueueId {
    QueueId(u64::from(number) + 1)
}

impl ModelQueue {
    fn has_expired(&self, id: u64, now: Time) -> bool {
        self.expiry.get(&id).is_some_and(|expiry| *expiry <= now)
    }

    fn is_fresh(&self, id: u64) -> bool {
        self.fresh.is_some_and(|fresh| id >= fresh)
    }

    /// Ready messages without the expired ones at the head, and what may have gone besides.
    fn certain(&self, now: Time) -> BTreeSet<u64> {
        let ready = self.ready.iter().copied();
        let living = ready.skip_while(|id| self.has_expired(*id, now));
        let unsure = |id| self.is_fresh(id) || self.unsure.contains(&id);
        living
            .filter(|id| !(self.has_expired(*id, now) && unsure(*id)))
            .collect()
    }

    /// Ready messages without what has certainly gone.
    fn possible(&self, now: Time) -> BTreeSet<u64> {
        let ready = self.ready.iter().copied();
        ready
            .skip_while(|id| self.has_expired(*id, now) && !self.is_fresh(*id))
            .collect()
    }

    fn counts(&self, now: Time) -> (u64, u64) {
        let certain = self.certain(now).len();
        (certain as u64, self.possible(now).len() as u64)
    }

    fn take_back(&mut self, id: u64, failed: bool) {
        self.held.remove(&id);
        self.ready.insert(id);
        *self.seen.entry(id).or_default() += u32::from(failed);
    }

    fn gone(&mut self, holder: Holder) {
        self.consumers.remove(&holder);
        let held: Vec<_> = self.held_by(holder).collect();
        for id in held {
            self.take_back(id, true);
        }
    }

    fn held_by(&self, holder: Holder) -> impl Iterator<Item = u64> {
        let held = self.held.iter();
        held.filter_map(move |(id, by)| (*by == holder).then_some(*id))
    }

    fn delivered(&mut self, message: &Delivered, holder: Option<Holder>) {
        let id = message.id.0;
        let body = message::body(&message.message).expect("an encoded message");
        assert_eq!(
            self.bodies.get(&id).map(Vec::as_slice),
            Some(&*body),
            "no ghosts"
        );
        assert!(self.ready.remove(&id), "message {id} was not ready");
        assert_eq!(message.redelivered, self.seen.contains_key(&id));
        let failed = *self.seen.entry(id).or_default();
        assert_eq!(message.delivery_count, failed);
        self.out.push(id);
        if let Some(holder) = holder {
            self.held.insert(id, holder);
        }
    }

    fn has_credit(&self, holder: Holder, consumer: &ModelConsumer) -> bool {
        let held = self.held_by(holder).count() as u64;
        let room = consumer.auto_ack || consumer.prefetch == 0 || held < consumer.prefetch;
        room && consumer.window > 0
    }
}

impl Model {
    fn new(logged: bool) -> Self {
        let mut rig = Rig::new(logged);
        let mut queues = BTreeMap::new();
        for number in 0..QUEUES as u8 {
            let queue = queue_of(number);
            let config = QueueConfig::default();
            rig.input(Input::Create { queue, config });
            let model = ModelQueue {
                next: 1,
                ..ModelQueue::default()
            };
            queues.insert(queue, model);
        }
        rig.commit();
        Self {
            rig,
            queues,
            published: 0,
            gets: BTreeMap::new(),
            tokens: 0,
        }
    }

    fn queue(&mut self, queue: QueueId) -> &mut ModelQueue {
        self.queues.get_mut(&queue).expect("made at the start")
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Publish {
                queues,
                messages,
                ttl,
            } => {
                let queues: Vec<_> = (0..QUEUES as u8)
                    .filter(|queue| queues & (1 << queue) != 0)
                    .map(queue_of)
                    .collect();
                for _ in 0..messages {
                    self.published += 1;
                    let ttl = ttl.map(u64::from);
                    self.rig
                        .publish(&queues, ttl, &self.published.to_le_bytes());
                }
            }
            Step::Flush => self.flush(),
            Step::Pass { millis } => {
                if self.rig.pass(u64::from(millis)) {
                    self.flush();
                }
            }
            Step::Gather => self.rig.gather(),
            Step::Apply { entries } => (0..entries).for_each(|_| self.apply()),
            Step::Cold => self.rig.store.cold = true,
            Step::Warm => {
                self.rig.warm();
                self.flush();
            }
            step => {
                let input = self.input(step);
                self.rig.input(input);
            }
        }
        self.check_effects();
    }

    /// The step as an input, its expected outcome already in the model.
    fn input(&mut self, step: Step) -> Input {
        let asker = SessionId(9);
        match step {
            Step::Attach {
                holder,
                queue,
                terms,
            } => self.attach(holder_of(holder), queue_of(queue), terms),
            Step::Detach { holder, queue } => {
                let (holder, queue) = (holder_of(holder), queue_of(queue));
                self.queue(queue).consumers.remove(&holder);
                let token = self.token();
                Input::Detach {
                    queue,
                    holder,
                    token,
                }
            }
            Step::Gone { holder, queue } => self.gone(holder_of(holder), queue_of(queue)),
            Step::SessionGone { session } => self.session_gone(session),
            Step::Credit {
                holder,
                queue,
                messages,
            } => {
                let (holder, queue) = (holder_of(holder), queue_of(queue));
                let messages = u32::from(messages);
                if let Some(consumer) = self.queue(queue).consumers.get_mut(&holder) {
                    consumer.window += u64::from(messages);
                }
                Input::Credit {
                    queue,
                    holder,
                    messages,
                    bytes: 0,
                }
            }
            Step::Settle {
                holder,
                queue,
                ids,
                verdict,
            } => self.settle(holder_of(holder), queue_of(queue), ids, verdict),
            Step::Get {
                holder,
                queue,
                auto_ack,
            } => {
                let (holder, queue) = (holder_of(holder), queue_of(queue));
                let token = self.token();
                self.gets.insert(token.0, (queue, holder, auto_ack));
                Input::Get {
                    queue,
                    holder,
                    auto_ack,
                    token,
                }
            }
            Step::Purge { queue } => self.purge(queue),
            Step::Count { queue } => {
                let token = Token(u64::from(queue));
                Input::Count {
                    queue: queue_of(queue),
                    asker,
                    token,
                }
            }
            _ => unreachable!("not an input"),
        }
    }

    fn attach(&mut self, holder: Holder, queue: QueueId, terms: Terms) -> Input {
        let consumer = ModelConsumer {
            auto_ack: terms.auto_ack,
            prefetch: u64::from(terms.prefetch),
            window: u64::from(terms.window),
        };
        let token = self.token();
        let consumers = &mut self.queue(queue).consumers;
        consumers.entry(holder).or_insert(consumer);
        Input::Attach(Attach {
            holder,
            queue,
            auto_ack: terms.auto_ack,
            exclusive: false,
            priority: i32::from(terms.priority),
            prefetch: u32::from(terms.prefetch),
            window: Window {
                messages: u32::from(terms.window),
                bytes: 1 << 40,
            },
            token,
        })
    }

    fn gone(&mut self, holder: Holder, queue: QueueId) -> Input {
        self.queue(queue).gone(holder);
        self.gets.retain(|_, get| (get.0, get.1) != (queue, holder));
        Input::Gone { queue, holder }
    }

    fn purge(&mut self, number: u8) -> Input {
        let queue = queue_of(number);
        let now = self.rig.now.wall;
        let model = self.queue(queue);
        let counts = model.counts(now);
        model.purged.push(counts);
        model.ready.clear();
        Input::Purge {
            queue,
            asker: SessionId(9),
            token: Token(u64::from(number)),
        }
    }

    fn session_gone(&mut self, session: u8) -> Input {
        for number in [2 * session, 2 * session + 1] {
            let holder = holder_of(number);
            for queue in self.queues.values_mut() {
                queue.gone(holder);
            }
            self.gets.retain(|_, get| get.1 != holder);
        }
        let session = SessionId(u64::from(session) + 1);
        Input::SessionGone { session }
    }

    fn settle(&mut self, holder: Holder, queue: QueueId, ids: (u16, u16), verdict: u8) -> Input {
        let first = u64::from(ids.0);
        let last = first + u64::from(ids.1);
        let model = self.queue(queue);
        let held: Vec<_> = model.held_by(holder).collect();
        for id in held.into_iter().filter(|id| (first..=last).contains(id)) {
            match verdict {
                0 | 1 => drop(model.held.remove(&id)),
                _ => model.take_back(id, verdict == 3),
            }
        }
        Input::Settle(Settle {
            queue,
            holder,
            first: MessageId(first),
            last: MessageId(last),
            verdict: match verdict {
                0 => Verdict::Ack,
                1 => Verdict::Reject,
                other => Verdict::Requeue { failed: other == 3 },
            },
        })
    }

    /// Applies an entry to both.
    fn apply(&mut self) {
        if let Some(entry) = self.rig.log.get(self.rig.applied) {
            let mut reader = Reader::new("entry", &entry.payload);
            while !reader.is_empty() {
                let command = command::decode(&mut reader).expect("own commands can be read");
                let Command::Enqueue {
                    queues,
                    ttl,
                    message,
                } = command
                else {
                    continue;
                };
                let expiry = ttl.map(|ttl| Time(entry.time.0 + ttl));
                let parts = message::Parts::decode(message).expect("an encoded message");
                for queue in queues.iter() {
                    let model = self.queues.get_mut(&queue).expect("made at the start");
                    let asked = self.gets.values().any(|get| get.0 == queue);
                    if let Some(expiry) = expiry {
                        model.expiry.insert(model.next, expiry);
                        if asked || !model.consumers.is_empty() {
                            model.fresh.get_or_insert(model.next);
                        }
                    }
                    model.bodies.insert(model.next, parts.body.to_vec());
                    model.ready.insert(model.next);
                    model.next += 1;
                }
            }
        }
        self.rig.apply_next();
    }

    fn flush(&mut self) {
        let before: Vec<_> = self
            .queues
            .values()
            .map(|queue| queue.ready.clone())
            .collect();
        self.check_effects();
        self.rig.flush();
        self.check_effects();
        let now = self.rig.now.wall;
        for (model, before) in self.queues.values_mut().zip(before) {
            let out: BTreeSet<_> = std::mem::take(&mut model.out).into_iter().collect();
            let went = |id: &u64| out.contains(id) || !model.has_expired(*id, now);
            let first = before.into_iter().filter(went).take(out.len());
            assert!(
                first.eq(out.iter().copied()),
                "the oldest ready ones go first"
            );
        }
        self.let_go();
    }

    /// What nobody can get any more has gone by the end of a flush, unless something held it up.
    fn let_go(&mut self) {
        let now = self.rig.now;
        for (id, model) in &mut self.queues {
            let slot = self.rig.shard.slots.get(*id).expect("made at the start");
            let reserved = !self.rig.options.logged || slot.queue.next <= slot.queue.reserved;
            let held_up = self.rig.store.cold || !reserved;
            if !held_up && model.fresh.is_some() {
                let ready = model.ready.iter().copied();
                let unsure = ready.filter(|id| model.is_fresh(*id));
                let unsure = unsure.filter(|id| model.has_expired(*id, now.wall));
                model.unsure = unsure.chain(model.unsure.iter().copied()).collect();
                model.fresh = None;
            }
            model.ready = model.possible(now.wall);
            if held_up {
                continue;
            }
            let head = model.ready.first().and_then(|id| model.expiry.get(id));
            if let Some(expiry) = head {
                let wake = now.mono.plus_millis(expiry.0 - now.wall.0);
                let deadline = self.rig.shard.deadline();
                assert!(deadline.is_some_and(|it| it <= wake), "wakes in time");
            }
        }
    }

    fn check_effects(&mut self) {
        let now = self.rig.now.wall;
        for effect in std::mem::take(&mut self.rig.effects) {
            match effect {
                Effect::Deliver {
                    session,
                    number,
                    queue,
                    messages,
                } => {
                    let holder = Holder { session, number };
                    let model = self.queues.get_mut(&queue).expect("a known queue");
                    assert!(messages.is_sorted_by_key(|message| message.id));
                    for message in &messages {
                        let consumer = &model.consumers[&holder];
                        assert!(model.has_credit(holder, consumer), "credit is exceeded");
                        let auto_ack = consumer.auto_ack;
                        model.consumers.get_mut(&holder).expect("known").window -= 1;
                        model.delivered(message, (!auto_ack).then_some(holder));
                    }
                }
                Effect::Got { token, message, .. } => {
                    let (queue, holder, auto_ack) = self.gets.remove(&token.0).expect("asked");
                    let model = self.queues.get_mut(&queue).expect("a known queue");
                    match message {
                        Some(message) => model.delivered(&message, (!auto_ack).then_some(holder)),
                        None => {
                            let left = model.certain(now);
                            assert!(left.is_empty(), "a get finds what is ready");
                        }
                    }
                }
                Effect::Reply { token, reply, .. } => {
                    let model = self
                        .queues
                        .get_mut(&queue_of(token.0 as u8))
                        .expect("known");
                    model.check_reply(reply, now);
                }
                Effect::Attached { .. } | Effect::Detached { .. } => {}
                other => unreachable!("{other:?}"),
            }
        }
    }

    /// Everything that is in the queues comes out, and nothing stays behind.
    fn drain(mut self) {
        self.rig.warm();
        self.settle_down();
        for (queue, model) in &self.queues {
            let starved = model.consumers.iter().all(|(holder, consumer)| {
                model.ready.is_empty() || !model.has_credit(*holder, consumer)
            });
            assert!(
                starved,
                "queue {queue:?} has messages and a consumer with credit"
            );
        }
        for session in 0..3 {
            self.play(Step::SessionGone { session });
        }
        for queue in 0..QUEUES as u8 {
            self.play(Step::Count { queue });
            let terms = Terms {
                auto_ack: true,
                priority: 0,
                prefetch: 0,
                window: u16::MAX,
            };
            let holder = 5;
            self.play(Step::Attach {
                holder,
                queue,
                terms,
            });
        }
        self.settle_down();
        for model in self.queues.values() {
            assert!(
                model.ready.is_empty() && model.held.is_empty(),
                "all came out"
            );
        }
        assert!(self.rig.store.held.is_empty(), "no body is kept");
    }

    fn settle_down(&mut self) {
        loop {
            self.flush();
            self.rig.gather();
            if self.rig.applied == self.rig.log.len() {
                break;
            }
            while self.rig.applied < self.rig.log.len() {
                self.apply();
            }
        }
    }
}

impl ModelQueue {
    fn check_reply(&mut self, reply: Reply, now: Time) {
        match reply {
            Reply::Counts {
                ready,
                unacked,
                consumers,
            } => {
                let (least, most) = self.counts(now);
                assert!((least..=most).contains(&ready), "{ready} are ready");
                assert_eq!(unacked, self.held.len() as u64);
                assert_eq!(consumers, self.consumers.len() as u32);
            }
            Reply::Purged { messages } => {
                let fits = |count: &(u64, u64)| (count.0..=count.1).contains(&messages);
                // A purge of nothing is answered before those on their way.
                let known = self.purged.iter().enumerate();
                let fitting = known.filter(|(_, count)| fits(count));
                let best = fitting.min_by_key(|(_, count)| count.1 - count.0);
                let (at, _) = best.expect("as many as were ready");
                self.purged.remove(at);
            }
            other => unreachable!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_shard_does_as_the_model_says(
        logged: bool,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut model = Model::new(logged);
        for step in steps {
            model.play(step);
        }
        model.drain();
    }
}
