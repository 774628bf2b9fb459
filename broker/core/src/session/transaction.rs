//! `tx.select`, `tx.commit`, `tx.rollback`: publishes and settles are kept until the commit.
//!
//! Invariants:
//! - errors (unknown tag, missing exchange, permissions) come at once, not at the commit;
//! - `commit-ok` comes when every publish is stored and every settle committed;
//! - what is not committed is bounded in bytes, over all channels of the connection.

use bytes::{Buf, BufMut, BytesMut};
use warren_protocol::methods::{TxCommitOk, TxRollbackOk, TxSelectOk};
use warren_protocol::{Properties, ReplyCode};

use super::channel::{Channel, Mode, Wait};
use super::common::{Common, Turn};
use super::fault::Fault;
use super::publish::Publish;
use super::unacked::Unacked;
use crate::ids::Token;
use crate::message::Parts;
use crate::shard::input::{Input, Verdict};

/// What a settle costs of the byte limit.
const SETTLE_BYTES: usize = size_of::<(Unacked, Verdict)>();

const MANDATORY: u8 = 1;

/// What a transactional channel has not committed.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// Each: flags u8, length u32, the message as [`Parts`].
    publishes: BytesMut,
    settles: Vec<(Unacked, Verdict)>,
    /// Numbers publishes, so that runs of them can be folded.
    pub(super) next: u64,
}

impl Transaction {
    /// What it holds of the connection's limit.
    pub(super) fn bytes(&self) -> usize {
        self.publishes.len() + self.settles.len() * SETTLE_BYTES
    }

    /// How many settles wait for the commit.
    pub(super) fn settles(&self) -> usize {
        self.settles.len()
    }

    /// Keeps a settle.
    pub(super) fn settle(&mut self, entry: Unacked, verdict: Verdict, common: &mut Common) {
        common.flow.transaction_bytes += SETTLE_BYTES;
        self.settles.push((entry, verdict));
    }

    /// Keeps a publish.
    pub(super) fn publish(
        &mut self,
        parts: &Parts<'_>,
        mandatory: bool,
        common: &mut Common,
    ) -> Result<(), Fault> {
        let bytes = 1 + 4 + parts.encoded_len();
        if common.flow.transaction_bytes + bytes > common.options.transaction_bytes_max {
            return Err(Fault::new(
                ReplyCode::PreconditionFailed,
                format!(
                    "transactions of this connection exceed {} bytes",
                    common.options.transaction_bytes_max
                ),
            ));
        }
        common.flow.transaction_bytes += bytes;
        self.publishes.put_u8(if mandatory { MANDATORY } else { 0 });
        self.publishes.put_u32(parts.encoded_len() as u32);
        parts.encode(&mut self.publishes);
        Ok(())
    }

    fn take(&mut self, common: &mut Common) -> (BytesMut, Vec<(Unacked, Verdict)>) {
        common.flow.transaction_bytes -= self.bytes();
        (
            std::mem::take(&mut self.publishes),
            std::mem::take(&mut self.settles),
        )
    }
}

impl Channel {
    pub(super) fn tx_select(&mut self, common: &mut Common) -> Result<(), Fault> {
        match self.mode {
            Mode::Plain => self.mode = Mode::Transaction(Box::default()),
            Mode::Transaction(_) => {}
            Mode::Confirm(_) => {
                return Err(Fault::new(
                    ReplyCode::PreconditionFailed,
                    "cannot switch from confirm to tx mode",
                ));
            }
        }
        TxSelectOk.encode_frame(self.number, common.out());
        Ok(())
    }

    pub(super) fn tx_rollback(&mut self, common: &mut Common) -> Result<(), Fault> {
        let Mode::Transaction(transaction) = &mut self.mode else {
            return Err(not_transactional());
        };
        let (_, settles) = transaction.take(common);
        if !settles.is_empty() {
            self.unacked
                .restore(settles.into_iter().map(|(entry, _)| entry));
        }
        TxRollbackOk.encode_frame(self.number, common.out());
        Ok(())
    }

    pub(super) fn tx_commit(
        &mut self,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        let Mode::Transaction(transaction) = &mut self.mode else {
            return Err(not_transactional());
        };
        let (mut publishes, settles) = transaction.take(common);
        while publishes.has_remaining() {
            let mandatory = publishes.get_u8() & MANDATORY != 0;
            let len = publishes.get_u32() as usize;
            let message = publishes.split_to(len);
            let Some(parts) = Parts::decode(&message) else {
                continue;
            };
            let publish = Publish {
                exchange: parts.exchange,
                routing_key: parts.routing_key,
                mandatory,
                immediate: false,
            };
            let properties = Properties::from_raw(parts.properties);
            self.route_and_store(&publish, properties, parts.body, common, turn)?;
        }
        let mut shards = Vec::new();
        for (entry, verdict) in &settles {
            let shard = common.holders.get(entry.holder).map(|h| h.shard);
            if let Some(shard) = shard
                && !shards.contains(&shard)
            {
                shards.push(shard);
            }
            common.settle(entry, *verdict, turn);
        }
        for shard in &shards {
            let session = common.id;
            let token = common.token(self.number);
            common.ask(*shard, Input::SettleBarrier { session, token }, turn.work);
        }
        self.wait = Some(Box::new(Wait::Commit {
            batches_end: self.batches_end,
            barriers_left: shards.len() as u32,
            refused: false,
        }));
        self.open_gate(common);
        // Nothing to wait for: answered here, the caller sees no wait.
        self.commit_progress(common)
    }

    /// The settles of one shard are committed.
    pub(super) fn settled(&mut self, _token: Token, common: &mut Common) -> Result<bool, Fault> {
        if let Some(Wait::Commit { barriers_left, .. }) = self.wait.as_deref_mut() {
            *barriers_left = barriers_left.saturating_sub(1);
            self.commit_progress(common)?;
            return Ok(self.wait.is_none());
        }
        Ok(false)
    }

    /// Answers the commit if all that it waited for is done.
    pub(super) fn commit_progress(&mut self, common: &mut Common) -> Result<(), Fault> {
        let Some(Wait::Commit {
            batches_end,
            barriers_left,
            refused,
        }) = self.wait.as_deref()
        else {
            return Ok(());
        };
        let stored = *batches_end == 0 || common.publisher.is_done_through(*batches_end - 1);
        if !stored || *barriers_left > 0 {
            return Ok(());
        }
        let refused = *refused;
        self.wait = None;
        if refused {
            let fault = Fault::new(ReplyCode::PreconditionFailed, "partial tx completion");
            return Err(fault.of((90, 20)));
        }
        TxCommitOk.encode_frame(self.number, common.out());
        Ok(())
    }

    /// A publish of the transaction was refused.
    pub(super) fn commit_refused(&mut self) {
        if let Some(Wait::Commit { refused, .. }) = self.wait.as_deref_mut() {
            *refused = true;
        }
    }
}

fn not_transactional() -> Fault {
    Fault::new(
        ReplyCode::PreconditionFailed,
        "channel is not transactional",
    )
}
