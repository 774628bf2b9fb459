//! What a client does by itself once it is ready: publish, or settle what it holds.

use warren_protocol::methods::{BasicAck, BasicGet, BasicNack, BasicPublish, BasicReject};
use warren_protocol::{Properties, ShortStr, content};

use super::{ALL_QUEUES, CHANNEL, Client, FANOUT, FRAME_MAX, QueueSpec, Role, Stage};
use crate::body;
use crate::checker::{Checker, MessageKey};

/// Publishes without an answer, beyond which a publisher waits.
const UNCONFIRMED_MAX: usize = 200;
/// Messages that one who fetches them keeps.
const HELD_MAX: usize = 20;
/// Times to live in milliseconds: over at once, in the middle of the run, and after its end.
const TTLS_MILLIS: [u64; 4] = [0, 20, 1000, 86_400_000];
/// Bytes on their way to the broker, beyond which a publisher waits.
const UNSENT_BYTES_MAX: usize = 1 << 20;

impl Client {
    /// Does something that its role allows.
    pub fn act(&mut self, checker: &mut Checker) {
        if self.stage != Stage::Ready {
            return;
        }
        match self.role {
            Role::Publisher { id } => self.publish_some(id, checker),
            Role::Consumer { .. } => self.settle_some(checker),
            Role::Getter { queue, .. } => self.get_or_settle(queue, checker),
            Role::Churner { id } => self.churn_some(id, checker),
            Role::Fleeting { id } => self.fleet(id),
            Role::Caller => self.call(checker),
            Role::Inspector => {}
        }
    }

    fn publish_some(&mut self, publisher: u32, checker: &mut Checker) {
        for _ in 0..self.rng.between(1, 12) {
            let waits =
                self.unconfirmed.len() > UNCONFIRMED_MAX || self.to_broker.len() > UNSENT_BYTES_MAX;
            if self.draining || waits {
                return;
            }
            self.publish(publisher, checker);
        }
    }

    fn publish(&mut self, publisher: u32, checker: &mut Checker) {
        self.publish_number += 1;
        let seq = self.publish_number;
        let fans_out = self.rng.permille(50);
        let (queues, exchange, routing_key, number) = if fans_out {
            (self.queues.clone(), FANOUT, String::new(), ALL_QUEUES)
        } else {
            let queue = self.queues[self.rng.below(self.queues.len() as u64) as usize];
            (vec![queue], "", queue.name(), queue.number)
        };
        let key = |queue| MessageKey {
            queue,
            publisher,
            seq,
        };
        let expires = self.rng.permille(200);
        let ttl = TTLS_MILLIS[self.rng.below(TTLS_MILLIS.len() as u64) as usize];
        let ttl = expires.then_some(ttl);
        let others: &[QueueSpec] = if fans_out { &self.others } else { &[] };
        for queue in queues.iter().chain(others) {
            checker.published(key(queue.number), !queue.durable, ttl);
        }
        let keys = queues.iter().map(|queue| key(queue.number)).collect();
        self.unconfirmed.insert(seq, keys);
        if fans_out {
            self.to_all.insert(seq);
        }
        let filling = match self.rng.below(400) {
            0 => self.rng.between(100_000, 300_000),
            1..40 => self.rng.below(8000),
            _ => self.rng.below(64),
        };
        let body = body::write(key(number), filling as usize);
        let mandatory = self.rng.permille(500);
        let properties = match ttl {
            Some(ttl) => {
                let expiration = ttl.to_string();
                let expiration = ShortStr::truncated(&expiration);
                Properties::EMPTY.edit().expiration(expiration).finish()
            }
            None => Vec::new(),
        };
        self.send(|out| {
            BasicPublish {
                exchange: ShortStr::truncated(exchange),
                routing_key: ShortStr::truncated(&routing_key),
                mandatory,
                immediate: false,
            }
            .encode_frame(CHANNEL, out);
            let properties = Properties::from_raw(&properties);
            content::encode(out, CHANNEL, properties, &body, FRAME_MAX);
        });
    }

    fn get_or_settle(&mut self, queue: QueueSpec, checker: &mut Checker) {
        let full = self.held.len() >= HELD_MAX;
        if self.getting {
            // What comes on a channel behind it waits with it.
            return;
        }
        if self.draining || full || self.rng.permille(300) {
            self.settle_some(checker);
            return;
        }
        self.getting = true;
        self.send(|out| {
            BasicGet {
                queue: ShortStr::truncated(&queue.name()),
                no_ack: false,
            }
            .encode_frame(CHANNEL, out);
        });
    }

    fn settle_some(&mut self, checker: &mut Checker) {
        if self.held.is_empty() {
            return;
        }
        let count = self.rng.between(1, self.held.len() as u64) as usize;
        match if self.draining { 0 } else { self.rng.below(20) } {
            0..=11 => self.acknowledge_first(count, checker),
            12..=15 => self.acknowledge_one(count - 1, checker),
            16 => self.return_first(count, checker),
            17 => self.reject_one(count - 1, checker),
            // Holds what it has.
            _ => {}
        }
    }

    fn acknowledge_first(&mut self, count: usize, checker: &mut Checker) {
        let (delivery_tag, _) = self.held[count - 1];
        self.send(|out| {
            BasicAck {
                delivery_tag,
                multiple: true,
            }
            .encode_frame(CHANNEL, out);
        });
        for (_, key) in self.held.drain(..count).collect::<Vec<_>>() {
            self.release(key, checker);
            self.acknowledging.push_back((self.sent, key));
        }
    }

    fn acknowledge_one(&mut self, index: usize, checker: &mut Checker) {
        let Some((delivery_tag, key)) = self.held.remove(index) else {
            return;
        };
        self.send(|out| {
            BasicAck {
                delivery_tag,
                multiple: false,
            }
            .encode_frame(CHANNEL, out);
        });
        self.release(key, checker);
        self.acknowledging.push_back((self.sent, key));
    }

    fn return_first(&mut self, count: usize, checker: &mut Checker) {
        let (delivery_tag, _) = self.held[count - 1];
        self.send(|out| {
            BasicNack {
                delivery_tag,
                multiple: true,
                requeue: true,
            }
            .encode_frame(CHANNEL, out);
        });
        for (_, key) in self.held.drain(..count).collect::<Vec<_>>() {
            self.release(key, checker);
        }
    }

    fn reject_one(&mut self, index: usize, checker: &mut Checker) {
        let Some((delivery_tag, key)) = self.held.remove(index) else {
            return;
        };
        self.release(key, checker);
        self.send(|out| {
            BasicReject {
                delivery_tag,
                requeue: true,
            }
            .encode_frame(CHANNEL, out);
        });
    }
}
