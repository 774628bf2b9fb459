//! Messages on their way to the client: encoded while the outbox has room, credit given back.
//!
//! Invariants:
//! - a consumer's messages are written in the order in which its shard handed them over, and
//!   nothing of it comes behind its `cancel-ok` or `basic.cancel`;
//! - what waits here is bounded by the consumers' windows (and direct replies by a byte limit);
//! - a channel with a `global` prefetch has no more than that unacknowledged.

use std::vec::IntoIter;

use bytes::Bytes;
use warren_protocol::hot::{self, Deliver, GetOk};
use warren_protocol::methods::{BasicCancel, BasicCancelOk, BasicGetEmpty};
use warren_protocol::{Properties, content, limits};

use super::channel::{Channel, Wait};
use super::common::{Common, Pending, Turn};
use super::outbox::{BY_REFERENCE_BYTES, Outbox};
use crate::dispatch::settle::single;
use crate::ids::{QueueId, Token};
use crate::message::Parts;
use crate::shard::effect::Delivered;
use crate::shard::input::{Input, Verdict};
use warren_cluster_core::ids::ShardId;

/// What came of writing a batch of deliveries.
pub(super) enum Written {
    All,
    /// The outbox is full.
    OutboxFull,
    /// The channel's prefetch is used up.
    Gated,
}

impl Channel {
    /// Writes messages of one consumer while there is room.
    pub(super) fn write_messages(
        &mut self,
        number: u32,
        messages: &mut IntoIter<Delivered>,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Written {
        let limit = common.options.outbox_bytes;
        let Some(holding) = common.holders.get_mut(number) else {
            return Written::All;
        };
        let gate = match self.global_prefetch {
            0 => usize::MAX,
            _ if holding.auto_ack => usize::MAX,
            limit => usize::from(limit),
        };
        let mut written = Written::All;
        loop {
            if messages.as_slice().is_empty() {
                break;
            }
            if common.outbox.len() >= limit {
                written = Written::OutboxFull;
                break;
            }
            if self.unacked.len() >= gate {
                written = Written::Gated;
                break;
            }
            let Some(delivered) = messages.next() else {
                break;
            };
            let tag = self.next_tag;
            self.next_tag += 1;
            if !holding.auto_ack {
                self.unacked.push(tag, number, delivered.id);
                holding.outstanding += 1;
            }
            holding.written_messages += 1;
            holding.written_bytes += delivered.message.len() as u64;
            let consumer_tag = holding.tag.as_bytes();
            let frame_max = common.frame_max;
            let channel = self.number;
            write_delivery(
                &mut common.outbox,
                frame_max,
                channel,
                tag,
                consumer_tag,
                &delivered,
            );
        }
        common.give_credit(number, turn);
        written
    }

    /// The prefetch has changed or messages were settled: gated deliveries try again, in order and
    /// before newer ones.
    pub(super) fn open_gate(&mut self, common: &mut Common) {
        let room =
            self.global_prefetch == 0 || self.unacked.len() < usize::from(self.global_prefetch);
        if !room {
            return;
        }
        for pending in self.gated.drain(..).rev() {
            common.deliveries.push_front(pending);
        }
    }

    /// Gated messages of a consumer that is cancelled go back to their queue.
    pub(super) fn return_gated(
        &mut self,
        number: u32,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) {
        let holder = common.holder(number);
        let Some(holding) = common.holders.get(number) else {
            return;
        };
        let (queue, shard) = (holding.queue, holding.shard);
        let verdict = Verdict::Requeue { failed: false };
        self.gated.retain_mut(|pending| {
            let Pending::Messages {
                number: of,
                messages,
            } = pending
            else {
                return true;
            };
            if *of != number {
                return true;
            }
            for delivered in messages {
                let settle = single(queue, holder, delivered.id, verdict);
                common.settles.add(shard, settle, turn.work);
            }
            false
        });
    }

    /// The answer to `basic.get` has come.
    pub(super) fn got(
        &mut self,
        token: Token,
        message: Option<&Delivered>,
        ready: u64,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> bool {
        let Some(Wait::Get {
            token: asked,
            queue,
            shard,
            auto_ack,
        }) = self.wait.as_deref()
        else {
            return false;
        };
        if *asked != token {
            return false;
        }
        let (queue, shard, auto_ack) = (*queue, *shard, *auto_ack);
        self.wait = None;
        match message {
            None => BasicGetEmpty.encode_frame(self.number, common.out()),
            Some(delivered) => {
                let tag = self.tag();
                if !auto_ack {
                    let number = self.getter(queue, shard, common, turn);
                    self.unacked.push(tag, number, delivered.id);
                    if let Some(holding) = common.holders.get_mut(number) {
                        holding.outstanding += 1;
                    }
                }
                let ready = u32::try_from(ready).unwrap_or(u32::MAX);
                write_get_ok(common, self.number, tag, ready, delivered);
            }
        }
        true
    }
}

fn parts(message: &Bytes) -> Parts<'_> {
    // What a shard hands out it has decoded when it was stored.
    Parts::decode(message).unwrap_or_default()
}

fn properties<'a>(parts: &Parts<'a>) -> Properties<'a> {
    if parts.properties.is_empty() {
        Properties::EMPTY
    } else {
        Properties::from_raw(parts.properties)
    }
}

/// Writes one delivery to a consumer.
#[inline]
pub(super) fn write_delivery(
    outbox: &mut Outbox,
    frame_max: u32,
    channel: u16,
    tag: u64,
    consumer_tag: &[u8],
    delivered: &Delivered,
) {
    let parts = parts(&delivered.message);
    let deliver = Deliver {
        consumer_tag,
        delivery_tag: tag,
        redelivered: delivered.redelivered,
        exchange: parts.exchange,
        routing_key: parts.routing_key,
    };
    let properties = properties(&parts);
    let out = outbox.tail();
    if parts.body.len() < BY_REFERENCE_BYTES {
        hot::encode_delivery(out, channel, &deliver, properties, parts.body, frame_max);
    } else {
        hot::encode_delivery_head(out, channel, &deliver, properties, parts.body.len());
        write_body(
            outbox,
            frame_max,
            channel,
            &delivered.message,
            parts.body.len(),
        );
    }
}

fn write_get_ok(common: &mut Common, channel: u16, tag: u64, ready: u32, delivered: &Delivered) {
    let parts = parts(&delivered.message);
    let get_ok = GetOk {
        delivery_tag: tag,
        redelivered: delivered.redelivered,
        exchange: parts.exchange,
        routing_key: parts.routing_key,
        message_count: ready,
    };
    let frame_max = common.frame_max;
    hot::encode_get_ok(common.out(), channel, &get_ok);
    let body_bytes = parts.body.len();
    if body_bytes < BY_REFERENCE_BYTES {
        content::encode(
            common.out(),
            channel,
            properties(&parts),
            parts.body,
            frame_max,
        );
    } else {
        let header = content::ContentHeader {
            class_id: content::CLASS_BASIC,
            weight: 0,
            body_size: body_bytes as u64,
            properties: properties(&parts),
        };
        header.encode_frame(channel, common.out());
        write_body(
            &mut common.outbox,
            frame_max,
            channel,
            &delivered.message,
            body_bytes,
        );
    }
}

/// Writes the last `body_bytes` of `message` as body frames, by reference.
fn write_body(
    outbox: &mut Outbox,
    frame_max: u32,
    channel: u16,
    message: &Bytes,
    body_bytes: usize,
) {
    let start = message.len() - body_bytes;
    for frame in content::body_frames(channel, body_bytes, frame_max) {
        outbox.tail().extend_from_slice(&frame.head);
        outbox.push(message.slice(start + frame.range.start..start + frame.range.end));
        outbox.tail().extend_from_slice(&[limits::FRAME_END]);
    }
}

impl Common {
    /// Tells the shard what was written for a consumer, once that is half a window.
    #[inline]
    fn give_credit(&mut self, number: u32, turn: &mut Turn<'_, '_>) {
        let window = self.options.window;
        let holder = self.holder(number);
        let Some(holding) = self.holders.get_mut(number) else {
            return;
        };
        if holding.written_messages < window.messages / 2
            && holding.written_bytes < window.bytes / 2
        {
            return;
        }
        let input = Input::Credit {
            queue: holding.queue,
            holder,
            messages: std::mem::take(&mut holding.written_messages),
            bytes: std::mem::take(&mut holding.written_bytes),
        };
        turn.work.ask(holding.shard, input);
    }

    /// Tells the client that a consumer is no more, and forgets what nobody can settle now.
    pub(super) fn write_cancel(&mut self, channel: u16, tag: &[u8]) {
        if self.cancel_notify
            && let Ok(consumer_tag) = warren_protocol::ShortStr::new(tag)
        {
            let cancel = BasicCancel {
                consumer_tag,
                nowait: true,
            };
            cancel.encode_frame(channel, self.out());
        }
    }

    /// Answers `basic.cancel`.
    pub(super) fn write_cancel_ok(&mut self, channel: u16, tag: &[u8]) {
        if let Ok(consumer_tag) = warren_protocol::ShortStr::new(tag) {
            BasicCancelOk { consumer_tag }.encode_frame(channel, self.out());
        }
    }
}

/// A `basic.get` that is under way, for the shard.
pub(super) fn get_input(
    queue: QueueId,
    holder: crate::ids::Holder,
    auto_ack: bool,
    token: Token,
    shard: ShardId,
    work: &mut crate::dispatch::work::Work,
) {
    let input = Input::Get {
        queue,
        holder,
        auto_ack,
        token,
    };
    work.ask(shard, input);
}
