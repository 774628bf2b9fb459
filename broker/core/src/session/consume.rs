//! Consumers and `basic.get`: asked of the queue's shard, answered when the shard has answered.
//!
//! Invariants:
//! - `consume-ok` comes before the consumer's first delivery, `cancel-ok` behind its last;
//! - a tag is free again as soon as its consumer is being cancelled.

use warren_protocol::methods::{BasicCancel, BasicConsume, BasicConsumeOk, BasicGet};
use warren_protocol::{ReplyCode, ShortStr, Table};

use super::channel::{Channel, Wait};
use super::common::{Common, Pending, Turn, short};
use super::deliver::get_input;
use super::direct_reply;
use super::fault::Fault;
use super::holders::Holding;
use super::lookup::{self, FoundQueue};
use crate::dispatch::work::Work;
use crate::ids::{QueueId, Token};
use crate::shard::effect::Refusal;
use crate::shard::input::{Attach, Input};
use warren_cluster_core::ids::ShardId;

/// Holders of `basic.get` that a channel keeps without need.
const GETTERS_MAX: usize = 64;

impl Channel {
    pub(super) fn consume(
        &mut self,
        consume: &BasicConsume<'_>,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        if consume.queue == direct_reply::NAME {
            return self.consume_replies(consume, common);
        }
        let name = short(self.queue_name(consume.queue.as_bytes())?);
        lookup::may_read_queue(common, turn, name.as_bytes())?;
        let limit = common.options.consumer_max_per_channel;
        if limit != 0 && self.consumers.len() >= limit as usize {
            let text = format!("reached maximum ({limit}) of consumers per channel");
            return Err(Fault::new(ReplyCode::NotAllowed, text));
        }
        self.check_tag_is_free(consume.consumer_tag, common)?;
        let queue = lookup::queue(common, turn, name.as_bytes())?;
        consume.arguments.validate()?;
        refuse_unbuilt(consume.arguments)?;
        let priority = priority(consume.arguments, common, name.as_bytes())?;
        let tag = if consume.consumer_tag.is_empty() {
            short(common.random.name("amq.ctag-").as_bytes())
        } else {
            consume.consumer_tag.to_short_string()
        };
        let number = common.holders.issue();
        let token = common.token(self.number);
        common.holders.insert(Holding {
            number,
            channel: self.number,
            auto_ack: consume.no_ack,
            exclusive: consume.exclusive,
            detached: false,
            prefetch: u32::from(self.prefetch),
            priority,
            queue: queue.id,
            shard: queue.shard,
            tag,
            outstanding: 0,
            written_messages: 0,
            written_bytes: 0,
        });
        self.consumers.push(number);
        let attach = Attach {
            holder: common.holder(number),
            queue: queue.id,
            auto_ack: consume.no_ack,
            exclusive: consume.exclusive,
            priority,
            prefetch: self.holder_prefetch(consume.no_ack),
            window: common.options.window,
            token,
        };
        common.ask(queue.shard, Input::Attach(attach), turn.work);
        self.wait = Some(Box::new(Wait::Attach {
            token,
            number,
            nowait: consume.nowait,
            queue: name,
        }));
        Ok(())
    }

    /// What the shard may hand out: never more than the channel may have in all.
    fn holder_prefetch(&self, auto_ack: bool) -> u32 {
        match (auto_ack, self.prefetch, self.global_prefetch) {
            (true, _, _) => 0,
            (false, own, 0) => u32::from(own),
            (false, 0, shared) => u32::from(shared),
            (false, own, shared) => u32::from(own.min(shared)),
        }
    }

    pub(super) fn check_tag_is_free(
        &self,
        tag: ShortStr<'_>,
        common: &Common,
    ) -> Result<(), Fault> {
        if tag.is_empty() {
            return Ok(());
        }
        let taken = self.consumer(tag, common).is_some()
            || self.reply.as_ref().is_some_and(|r| r.has_tag(tag));
        if taken {
            let text = format!("attempt to reuse consumer tag '{tag}'");
            return Err(Fault::new(ReplyCode::NotAllowed, text));
        }
        Ok(())
    }

    /// The number of the consumer with this tag.
    fn consumer(&self, tag: ShortStr<'_>, common: &Common) -> Option<u32> {
        let has_tag = |number: &&u32| {
            common
                .holders
                .get(**number)
                .is_some_and(|holding| holding.tag.as_bytes() == tag.as_bytes())
        };
        self.consumers.iter().find(has_tag).copied()
    }

    /// The consumer is attached. `false` when nobody waits for that.
    pub(super) fn attached(&mut self, token: Token, common: &mut Common) -> bool {
        let Some(Wait::Attach {
            token: asked,
            number,
            nowait,
            ..
        }) = self.wait.as_deref()
        else {
            return false;
        };
        if *asked != token {
            return false;
        }
        let (number, nowait) = (*number, *nowait);
        self.wait = None;
        if !nowait && let Some(holding) = common.holders.get(number) {
            let tag = holding.tag.clone();
            let consumer_tag = tag.as_short_str();
            BasicConsumeOk { consumer_tag }.encode_frame(self.number, common.out());
        }
        true
    }

    /// The consumer was not attached: the error that closes the channel.
    pub(super) fn refused(
        &mut self,
        token: Token,
        refusal: Refusal,
        common: &mut Common,
    ) -> Option<Fault> {
        let Some(Wait::Attach {
            token: asked,
            number,
            queue,
            ..
        }) = self.wait.as_deref()
        else {
            return None;
        };
        if *asked != token {
            return None;
        }
        let fault = match refusal {
            Refusal::NoQueue => lookup::no_queue(common, queue.as_bytes()),
            Refusal::ExclusiveUse => Fault::new(
                ReplyCode::AccessRefused,
                format!(
                    "{} in exclusive use",
                    lookup::queue_text(common, queue.as_bytes())
                ),
            ),
        };
        common.holders.remove(*number);
        self.wait = None;
        Some(fault.of((60, 20)))
    }

    pub(super) fn cancel(
        &mut self,
        cancel: &BasicCancel<'_>,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) {
        let tag = cancel.consumer_tag;
        let Some(number) = self.consumer(tag, common) else {
            if self.reply.as_ref().is_some_and(|r| r.has_tag(tag)) {
                self.reply = None;
                common.replies_changed = true;
            }
            if !cancel.nowait {
                common.write_cancel_ok(self.number, tag.as_bytes());
            }
            return;
        };
        self.consumers.retain(|consumer| *consumer != number);
        self.return_gated(number, common, turn);
        let Some(holding) = common.holders.get(number) else {
            return;
        };
        let (queue, shard) = (holding.queue, holding.shard);
        let token = common.token(self.number);
        let holder = common.holder(number);
        let input = Input::Detach {
            queue,
            holder,
            token,
        };
        common.ask(shard, input, turn.work);
        self.wait = Some(Box::new(Wait::Detach {
            token,
            number,
            nowait: cancel.nowait,
        }));
    }

    /// No more comes to the consumer that is being cancelled; the answer goes behind what has come.
    pub(super) fn detached(&mut self, token: Token, common: &mut Common) {
        if let Some(Wait::Detach {
            token: asked,
            number,
            ..
        }) = self.wait.as_deref()
            && *asked == token
        {
            common.deliveries.push_back(Pending::CancelOk {
                channel: self.number,
                number: *number,
            });
        }
    }

    /// Everything that came before the cancel is written. `false` when nobody waits for that.
    pub(super) fn cancelled(
        &mut self,
        number: u32,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> bool {
        let nowait = match self.wait.as_deref() {
            Some(Wait::Detach {
                number: of, nowait, ..
            }) if *of == number => *nowait,
            _ => return false,
        };
        self.return_gated(number, common, turn);
        self.wait = None;
        if let Some(holding) = common.holders.get_mut(number) {
            holding.detached = true;
            let tag = holding.tag.clone();
            if !nowait {
                common.write_cancel_ok(self.number, tag.as_bytes());
            }
        }
        common.holders.remove_if_spent(number);
        true
    }

    /// The queue is gone from under a consumer; says whether the channel can go on with held
    /// frames.
    pub(super) fn queue_gone(&mut self, number: u32, common: &mut Common) -> bool {
        let Some(holding) = common.holders.remove(number) else {
            return false;
        };
        self.gated
            .retain(|p| !matches!(p, Pending::Messages { number: of, .. } if *of == number));
        if self.consumers.contains(&number) {
            self.consumers.retain(|consumer| *consumer != number);
            common.write_cancel(self.number, holding.tag.as_bytes());
        }
        let ends = match self.wait.as_deref() {
            Some(Wait::Detach {
                number: of, nowait, ..
            }) if *of == number => Some(*nowait),
            _ => None,
        };
        if let Some(nowait) = ends {
            self.wait = None;
            if !nowait {
                common.write_cancel_ok(self.number, holding.tag.as_bytes());
            }
        }
        ends.is_some()
    }

    pub(super) fn get(
        &mut self,
        get: &BasicGet<'_>,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        let name = short(self.queue_name(get.queue.as_bytes())?);
        lookup::may_read_queue(common, turn, name.as_bytes())?;
        let FoundQueue { id, shard } = lookup::queue(common, turn, name.as_bytes())?;
        let number = self.getter(id, shard, common, turn);
        let token = common.token(self.number);
        let holder = common.holder(number);
        common.settles.flush(turn.work);
        get_input(id, holder, get.no_ack, token, shard, turn.work);
        self.wait = Some(Box::new(Wait::Get {
            token,
            queue: id,
            shard,
            auto_ack: get.no_ack,
        }));
        Ok(())
    }

    /// The holder for `basic.get` on this queue.
    pub(super) fn getter(
        &mut self,
        queue: QueueId,
        shard: ShardId,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> u32 {
        if let Some((_, number)) = self.getters.iter().find(|(of, _)| *of == queue) {
            return *number;
        }
        if self.getters.len() >= GETTERS_MAX {
            self.drop_idle_getters(common, turn.work);
        }
        let number = common.holders.issue();
        common.holders.insert(Holding {
            number,
            channel: self.number,
            auto_ack: false,
            exclusive: false,
            detached: false,
            prefetch: 0,
            priority: 0,
            queue,
            shard,
            tag: warren_protocol::ShortString::default(),
            outstanding: 0,
            written_messages: 0,
            written_bytes: 0,
        });
        self.getters.push((queue, number));
        number
    }

    fn drop_idle_getters(&mut self, common: &mut Common, work: &mut Work) {
        self.getters.retain(|&(queue, number)| {
            let Some(holding) = common.holders.get(number) else {
                return false;
            };
            if holding.outstanding > 0 {
                return true;
            }
            let shard = holding.shard;
            common.holders.remove(number);
            common.gone(shard, queue, number, work);
            false
        });
    }
}

/// What RabbitMQ obeys and we do not have is refused, not ignored. Arguments of stream consumers
/// mean nothing on other queues, there as here.
fn refuse_unbuilt(arguments: Table<'_>) -> Result<(), Fault> {
    if arguments.get(b"x-consumer-timeout")?.is_none() {
        return Ok(());
    }
    let text = "argument 'x-consumer-timeout' is not supported yet";
    Err(Fault::new(ReplyCode::NotImplemented, text))
}

/// `x-priority`: any integer type; what does not fit 32 bits is as good as the nearest that does.
fn priority(arguments: Table<'_>, common: &Common, queue: &[u8]) -> Result<i32, Fault> {
    let Some(value) = arguments.get(b"x-priority")? else {
        return Ok(0);
    };
    let Some(number) = value.as_i64() else {
        let text = format!(
            "invalid arg 'x-priority' for {}: {{unacceptable_type,{}}}",
            lookup::queue_text(common, queue),
            value.type_name()
        );
        return Err(Fault::new(ReplyCode::PreconditionFailed, text));
    };
    let bounded = number.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
    Ok(bounded as i32)
}
