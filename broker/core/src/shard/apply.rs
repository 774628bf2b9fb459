//! The replicated half: what each command does to the queues, and what the leader learns of it.
//!
//! Each command first saves what a checkpoint in the making still needs, then changes the queue,
//! then tells the leader's half. Commands for queues that do not exist, or are closed, do nothing.

use bytes::Bytes;
use warren_cluster_core::ids::{Place, Time};
use warren_cluster_core::machine::{ApplyMeta, Context, Malformed};

use crate::ids::{MessageId, QueueId};
use crate::queue::{Queue, keep_options};

use super::Shard;
use super::command::{self, Command, Create, Queues};
use super::effect::Effect;
use super::reader::Reader;
use super::runs::{CountedRuns, Runs};

impl Shard {
    pub(super) fn apply_entry(
        &mut self,
        meta: &ApplyMeta,
        payload: &Bytes,
        context: &mut Context<'_, Effect>,
    ) -> Result<(), Malformed> {
        let mut reader = Reader::new("entry of a queue shard", payload);
        for _ in 0..meta.commands {
            match command::decode(&mut reader)? {
                Command::Enqueue {
                    queues,
                    ttl,
                    message,
                } => {
                    let offset = reader.position() - message.len();
                    let place = meta.place.plus(offset as u32);
                    let expiry = ttl.map(|ttl| Time(meta.time.0.saturating_add(ttl)));
                    self.enqueue(queues, place, message.len() as u32, expiry, context);
                }
                Command::Create(create) => self.create(&create),
                Command::Drop { queue } => self.drop_queue(queue, context),
                Command::Close {
                    queue,
                    unused,
                    if_next,
                } => self.close(queue, unused, if_next, context),
                Command::Settle { queue, runs } => self.settle(queue, runs, context),
                Command::Return { queue, runs } => self.count_returns(queue, runs, context),
                Command::Purge {
                    queue,
                    first,
                    end,
                    kept,
                } => self.purge(queue, first.0..end.0, kept, context),
                Command::Reserve { queue, reserved } => self.reserve(queue, reserved, context),
                Command::Barrier { session, token } => {
                    if self.leader.is_here() {
                        context.effects.push(Effect::Settled { session, token });
                    }
                }
            }
        }
        if reader.is_empty() {
            Ok(())
        } else {
            Err(reader.malformed("more bytes than commands"))
        }
    }

    fn enqueue(
        &mut self,
        queues: Queues<'_>,
        place: Place,
        len: u32,
        expiry: Option<Time>,
        context: &mut Context<'_, Effect>,
    ) {
        for id in queues.iter() {
            let Some(at) = self.slots.find(id) else {
                continue;
            };
            let Some(slot) = self.slots.at_mut(at) else {
                continue;
            };
            if slot.queue.closed {
                continue;
            }
            let next = slot.queue.next;
            self.saving.before(&mut slot.queue, next..=next, context);
            let epoch = self.saving.epoch();
            let message = slot
                .queue
                .enqueue(place, len, expiry, epoch, context.bodies);
            if let Some(expiry) = expiry {
                self.leader.expiring(slot, message, expiry);
            }
            if let Some(delivery) = &mut slot.delivery
                && delivery.wants()
            {
                self.leader.activate(at, delivery);
            }
        }
    }

    fn create(&mut self, create: &Create<'_>) {
        let gone = self.gone.contains(create.queue);
        if !gone && self.slots.find(create.queue).is_none() {
            let mut queue = Queue::new(create.queue, self.saving.epoch());
            queue.auto_delete = create.auto_delete;
            queue.reserved = create.reserved.0;
            queue.options = keep_options(create.options);
            self.slots.insert(queue);
        }
        self.leader.created(create.queue);
    }

    fn drop_queue(&mut self, queue: QueueId, context: &mut Context<'_, Effect>) {
        let Some(slot) = self.slots.get_mut(queue) else {
            return;
        };
        self.saving.before(&mut slot.queue, 0..=u64::MAX, context);
        let Some(mut slot) = self.slots.remove(queue) else {
            return;
        };
        if let Some(delivery) = slot.delivery.take() {
            delivery.end(&slot.queue, &mut self.leader.sessions, context.effects);
        }
        slot.queue.release_all(context.bodies);
        if self.options.logged {
            self.gone.push(queue);
        }
        self.leader.expiries.set(queue, None);
        if self.leader.is_here() {
            context.effects.push(Effect::Dropped { queue });
        }
    }

    fn close(
        &mut self,
        id: QueueId,
        unused: bool,
        if_next: MessageId,
        context: &mut Context<'_, Effect>,
    ) {
        let Some(at) = self.slots.find(id) else {
            return;
        };
        let Some(slot) = self.slots.at_mut(at) else {
            return;
        };
        if slot.queue.closed {
            return;
        }
        if if_next.0 != 0 && if_next.0 != slot.queue.next {
            if let Some(delivery) = &mut slot.delivery {
                delivery.not_closed(context.effects);
                self.leader.activate(at, delivery);
            }
            return;
        }
        self.saving.before_header(&mut slot.queue, context);
        slot.queue.closed = true;
        self.leader.expiries.set(id, None);
        if let Some(delivery) = slot.delivery.take() {
            delivery.end(&slot.queue, &mut self.leader.sessions, context.effects);
        }
        if self.leader.is_here() {
            let (queue, asked) = (id, !unused);
            context.effects.push(Effect::Closed { queue, asked });
        }
    }

    fn settle(&mut self, id: QueueId, runs: Runs<'_>, context: &mut Context<'_, Effect>) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        for (first, last) in runs.iter() {
            self.saving.before(&mut slot.queue, first..=last, context);
            let delivery = &mut slot.delivery;
            let sessions = &mut self.leader.sessions;
            slot.queue.remove(first..=last, context.bodies, |message| {
                if let Some(delivery) = delivery {
                    delivery.forget(message, id, sessions);
                }
            });
        }
        self.leader.tidy(slot);
    }

    fn count_returns(
        &mut self,
        id: QueueId,
        runs: CountedRuns<'_>,
        context: &mut Context<'_, Effect>,
    ) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        for (first, last, count) in runs.iter() {
            self.saving.before(&mut slot.queue, first..=last, context);
            slot.queue.set_delivery_count(first..=last, count);
        }
    }

    fn purge(
        &mut self,
        id: QueueId,
        window: std::ops::Range<u64>,
        kept: Runs<'_>,
        context: &mut Context<'_, Effect>,
    ) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let ends = std::iter::once((window.end, window.end));
        let mut first = window.start;
        for (kept_first, kept_last) in kept.iter().chain(ends) {
            let end = kept_first.min(window.end);
            if first < end {
                let ids = first..=end - 1;
                self.saving.before(&mut slot.queue, ids.clone(), context);
                let delivery = &mut slot.delivery;
                let sessions = &mut self.leader.sessions;
                slot.queue.remove(ids, context.bodies, |message| {
                    if let Some(delivery) = delivery {
                        delivery.forget(message, id, sessions);
                    }
                });
            }
            first = first.max(kept_last.saturating_add(1));
        }
        if let Some(delivery) = &mut slot.delivery {
            delivery.purged(window.end, context.effects);
        }
        self.leader.tidy(slot);
    }

    fn reserve(&mut self, id: QueueId, reserved: MessageId, context: &mut Context<'_, Effect>) {
        let Some(at) = self.slots.find(id) else {
            return;
        };
        let Some(slot) = self.slots.at_mut(at) else {
            return;
        };
        if slot.queue.reserved >= reserved.0 {
            return;
        }
        self.saving.before_header(&mut slot.queue, context);
        slot.queue.reserved = reserved.0;
        if let Some(delivery) = &mut slot.delivery {
            self.leader.activate(at, delivery);
        }
    }
}
