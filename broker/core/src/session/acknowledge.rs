//! Acks, nacks, rejects and recover: out of the channel's table, into runs for the shards.
//!
//! Invariant: a tag that is not out is an error at once, in transactions too; nothing is settled
//! twice.

use warren_protocol::ReplyCode;

use super::channel::{Channel, Mode};
use super::common::{Common, Turn};
use super::fault::Fault;
use super::unacked::Unacked;
use crate::dispatch::settle::single;
use crate::shard::input::Verdict;

impl Channel {
    /// Settles the message with this tag, or (`multiple`) all up to it; tag 0 then stands for all.
    #[inline]
    pub(super) fn settle(
        &mut self,
        tag: u64,
        multiple: bool,
        verdict: Verdict,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        let Self { unacked, mode, .. } = self;
        let mut each = |entry: &Unacked| match mode {
            Mode::Transaction(transaction) => transaction.settle(*entry, verdict, common),
            Mode::Plain | Mode::Confirm(_) => common.settle(entry, verdict, turn),
        };
        let known = if multiple {
            unacked.take_through(tag, each)
        } else if let Some(entry) = unacked.take(tag) {
            each(&entry);
            true
        } else {
            false
        };
        if !known {
            return Err(unknown_tag(tag));
        }
        if !self.gated.is_empty() {
            self.open_gate(common);
        }
        Ok(())
    }

    /// Returns everything that is out to its queues.
    pub(super) fn recover(
        &mut self,
        requeue: bool,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        if !requeue {
            return Err(Fault::new(ReplyCode::NotImplemented, "requeue=false"));
        }
        let verdict = Verdict::Requeue { failed: false };
        self.unacked
            .take_through(0, |entry| common.settle(entry, verdict, turn));
        self.open_gate(common);
        Ok(())
    }
}

impl Common {
    /// Hands the settling of one message on.
    #[inline]
    pub(super) fn settle(&mut self, entry: &Unacked, verdict: Verdict, turn: &mut Turn<'_, '_>) {
        let holder = self.holder(entry.holder);
        // A holder whose queue is gone is gone too: nobody waits for its messages.
        let Some(holding) = self.holders.get_mut(entry.holder) else {
            return;
        };
        holding.outstanding = holding.outstanding.saturating_sub(1);
        let settle = single(holding.queue, holder, entry.message, verdict);
        self.settles.add(holding.shard, settle, turn.work);
        if holding.detached && holding.outstanding == 0 {
            self.holders.remove(entry.holder);
        }
    }
}

fn unknown_tag(tag: u64) -> Fault {
    Fault::new(
        ReplyCode::PreconditionFailed,
        format!("unknown delivery tag {tag}"),
    )
}
