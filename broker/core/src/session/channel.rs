//! One channel: its state, and what each method does to it.
//!
//! Invariants:
//! - methods of a channel take effect in the order in which they came: while one waits for an
//!   answer the later frames are held;
//! - a channel waits for at most one thing.

use bytes::BytesMut;
use warren_cluster_core::ids::{NodeId, ShardId};
use warren_protocol::methods::{
    AccessRequestOk, BasicQosOk, BasicRecoverOk, ChannelFlowOk, ConfirmSelectOk,
};
use warren_protocol::{Method, ReplyCode, ShortString};

use super::catch_up::CaughtUp;
use super::common::{Common, Pending, Turn};
use super::confirms::Confirms;
use super::direct_reply::ReplyConsumer;
use super::fault::Fault;
use super::publish::Content;
use super::transaction::Transaction;
use super::unacked::UnackedTable;
use crate::dispatch::control::Control;
use crate::ids::{QueueId, Token};

/// An open channel.
pub(super) struct Channel {
    pub(super) number: u16,
    pub(super) incarnation: u32,
    pub(super) mode: Mode,
    /// A publish whose content has not all come.
    pub(super) content: Option<Box<Content>>,
    pub(super) wait: Option<Box<Wait>>,
    /// Frames as they came, behind what the channel waits for.
    pub(super) held: BytesMut,
    pub(super) caught_up: Option<CaughtUp>,
    pub(super) next_tag: u64,
    pub(super) unacked: UnackedTable,
    /// Numbers of its consumers that a client can name.
    pub(super) consumers: Vec<u32>,
    /// The holders of `basic.get`, one a queue.
    pub(super) getters: Vec<(QueueId, u32)>,
    /// For consumers to come; 0 is no limit.
    pub(super) prefetch: u16,
    /// For all consumers together; 0 is no limit.
    pub(super) global_prefetch: u16,
    /// Deliveries beyond `global_prefetch`.
    pub(super) gated: Vec<Pending>,
    pub(super) reply: Option<Box<ReplyConsumer>>,
    /// The queue declared last.
    pub(super) last_queue: ShortString,
    /// The newest batch with a publish of this channel, plus one; 0 is none.
    pub(super) batches_end: u64,
}

/// What publishing on a channel means.
pub(super) enum Mode {
    Plain,
    Confirm(Box<Confirms>),
    Transaction(Box<Transaction>),
}

/// What a channel waits for.
pub(super) enum Wait {
    /// Its publishes, before the first held frame runs.
    Publishes,
    Operation {
        token: Token,
        control: Box<Control>,
        reply: super::declare::ReplyTo,
    },
    Attach {
        token: Token,
        number: u32,
        nowait: bool,
        /// For error texts.
        queue: ShortString,
    },
    Detach {
        token: Token,
        number: u32,
        nowait: bool,
    },
    Get {
        token: Token,
        queue: QueueId,
        shard: ShardId,
        auto_ack: bool,
    },
    /// What its node knows of the queue that the first held frame names.
    CatchUp {
        token: Token,
        node: NodeId,
        /// Of the held frames, those that had come when it was asked; known at the turn's end.
        bytes: usize,
    },
    Commit {
        /// The publishes are done when those before this batch are.
        batches_end: u64,
        barriers_left: u32,
        refused: bool,
    },
}

/// What came of a method.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Handled {
    Yes,
    /// It has to wait for what the channel waits for now and is to be held with what follows.
    Later,
    /// The client closed the channel: it is released and answered.
    Closed,
}

impl Channel {
    pub(super) fn new(number: u16, incarnation: u32) -> Self {
        Self {
            number,
            incarnation,
            mode: Mode::Plain,
            content: None,
            wait: None,
            held: BytesMut::new(),
            caught_up: None,
            next_tag: 1,
            unacked: UnackedTable::default(),
            consumers: Vec::new(),
            getters: Vec::new(),
            prefetch: 0,
            global_prefetch: 0,
            gated: Vec::new(),
            reply: None,
            last_queue: ShortString::default(),
            batches_end: 0,
        }
    }

    /// Whether later frames have to be held.
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.wait.is_some() || !self.held.is_empty()
    }

    /// Holds a frame.
    pub(super) fn hold(&mut self, frame: &[u8], common: &mut Common) {
        common.flow.held_bytes += frame.len();
        self.held.extend_from_slice(frame);
    }

    /// Whether every publish of this channel has its outcome.
    pub(super) fn has_published(&self, common: &Common) -> bool {
        self.batches_end == 0 || common.publisher.is_done_through(self.batches_end - 1)
    }

    /// Handles a method other than those in [`warren_protocol::hot`].
    pub(super) fn method(
        &mut self,
        method: &Method<'_>,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<Handled, Fault> {
        if self.must_follow_publishes(method) && !self.has_published(common) {
            self.wait = Some(Box::new(Wait::Publishes));
            return Ok(Handled::Later);
        }
        match method {
            Method::ChannelOpen(_) => {
                return Err(Fault::new(
                    ReplyCode::ChannelError,
                    "second 'channel.open' seen",
                ));
            }
            Method::ChannelClose(_) => {
                self.release(common, turn);
                return Ok(Handled::Closed);
            }
            Method::ChannelCloseOk(_) => {}
            Method::ChannelFlow(flow) => {
                if !flow.active {
                    return Err(Fault::new(ReplyCode::NotImplemented, "active=false"));
                }
                ChannelFlowOk { active: true }.encode_frame(self.number, common.out());
            }
            Method::ChannelFlowOk(_) => {}
            Method::AccessRequest(_) => {
                AccessRequestOk { ticket: 1 }.encode_frame(self.number, common.out());
            }
            Method::BasicQos(qos) => self.qos(qos, common)?,
            Method::BasicConsume(consume) => self.consume(consume, common, turn)?,
            Method::BasicCancel(cancel) => self.cancel(cancel, common, turn),
            Method::BasicCancelOk(_) => {}
            Method::BasicGet(get) => self.get(get, common, turn)?,
            Method::BasicRecover(recover) => {
                self.recover(recover.requeue, common, turn)?;
                BasicRecoverOk.encode_frame(self.number, common.out());
            }
            Method::BasicRecoverAsync(recover) => self.recover(recover.requeue, common, turn)?,
            Method::ConfirmSelect(select) => {
                self.confirm_select()?;
                if !select.nowait {
                    ConfirmSelectOk.encode_frame(self.number, common.out());
                }
            }
            Method::TxSelect(_) => self.tx_select(common)?,
            Method::TxCommit(_) => self.tx_commit(common, turn)?,
            Method::TxRollback(_) => self.tx_rollback(common)?,
            other => self.operation(other, common, turn)?,
        }
        Ok(Handled::Yes)
    }

    /// Methods whose effect must not come before that of the channel's publishes.
    fn must_follow_publishes(&self, method: &Method<'_>) -> bool {
        match method {
            Method::ChannelClose(_)
            | Method::BasicGet(_)
            | Method::QueuePurge(_)
            | Method::QueueDelete(_)
            | Method::ExchangeDelete(_) => true,
            Method::QueueDeclare(declare) => declare.passive || !declare.queue.is_empty(),
            _ => false,
        }
    }

    fn qos(
        &mut self,
        qos: &warren_protocol::methods::BasicQos,
        common: &mut Common,
    ) -> Result<(), Fault> {
        if qos.prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({})", qos.prefetch_size);
            return Err(Fault::new(ReplyCode::NotImplemented, text));
        }
        if qos.global {
            self.global_prefetch = qos.prefetch_count;
            self.open_gate(common);
        } else {
            self.prefetch = qos.prefetch_count;
        }
        BasicQosOk.encode_frame(self.number, common.out());
        Ok(())
    }

    fn confirm_select(&mut self) -> Result<(), Fault> {
        match self.mode {
            Mode::Plain => self.mode = Mode::Confirm(Box::default()),
            Mode::Confirm(_) => {}
            Mode::Transaction(_) => {
                return Err(Fault::new(
                    ReplyCode::PreconditionFailed,
                    "cannot switch from tx to confirm mode",
                ));
            }
        }
        Ok(())
    }

    /// Notes that confirms are to be told.
    #[inline]
    pub(super) fn confirms_changed(&self, common: &mut Common) {
        if common.unconfirmed.last() != Some(&self.number) {
            common.unconfirmed.push(self.number);
        }
    }

    /// Tells the confirms that are known.
    pub(super) fn flush_confirms(&mut self, common: &mut Common) {
        if let Mode::Confirm(confirms) = &mut self.mode
            && confirms.is_dirty()
        {
            confirms.flush(self.number, common.outbox.tail());
        }
    }

    /// Gives up all that the channel holds. What it had in progress goes on without it.
    pub(super) fn release(&mut self, common: &mut Common, turn: &mut Turn<'_, '_>) {
        self.flush_confirms(common);
        common.settles.flush(turn.work);
        let number = self.number;
        let gone: Vec<_> = common
            .holders
            .extract(|holding| holding.channel == number)
            .collect();
        for holding in gone {
            common.gone(holding.shard, holding.queue, holding.number, turn.work);
        }
        common.flow.held_bytes -= self.held.len();
        self.held = BytesMut::new();
        if let Some(content) = self.content.take() {
            common.flow.content_bytes -= content.bytes();
        }
        if let Mode::Transaction(transaction) = &self.mode {
            common.flow.transaction_bytes -= transaction.bytes();
        }
        self.mode = Mode::Plain;
        self.consumers = Vec::new();
        self.getters = Vec::new();
        self.gated = Vec::new();
        common.replies_changed |= self.reply.take().is_some();
        self.unacked = UnackedTable::default();
        if let Some(wait) = self.wait.take()
            && let Wait::Operation { token, control, .. } = *wait
        {
            common.orphans.push((token, control));
        }
    }

    /// Gives spare memory back.
    pub(super) fn trim(&mut self) {
        self.unacked.trim();
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }

    /// The next delivery tag.
    #[inline]
    pub(super) fn tag(&mut self) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        tag
    }

    /// The name, or the channel's last declared queue in place of an empty one.
    pub(super) fn queue_name<'a>(&'a self, name: &'a [u8]) -> Result<&'a [u8], Fault> {
        if !name.is_empty() {
            return Ok(name);
        }
        if self.last_queue.as_bytes().is_empty() {
            return Err(Fault::new(
                ReplyCode::NotFound,
                "no previously declared queue",
            ));
        }
        Ok(self.last_queue.as_bytes())
    }
}
