//! Folds acknowledgements into few inputs for the shards that hold the messages.
//!
//! Invariant: messages are settled in the order in which the client settled them, and a run covers
//! nothing but messages that it settled: ids without a gap, of one holder, with one verdict.

use warren_cluster_core::ids::ShardId;

use crate::dispatch::work::Work;
use crate::ids::MessageId;
use crate::shard::input::{Input, Settle, Verdict};

/// The run that the next message may still extend.
#[derive(Debug, Default)]
pub struct SettleRuns {
    open: Option<(ShardId, Settle)>,
}

impl SettleRuns {
    /// Settles one message; `settle.first` and `settle.last` are the same.
    #[inline]
    pub fn add(&mut self, shard: ShardId, settle: Settle, work: &mut Work) {
        if let Some((_, run)) = &mut self.open
            && run.holder == settle.holder
            && run.queue == settle.queue
            && run.verdict == settle.verdict
            && run.last.0 + 1 == settle.first.0
        {
            run.last = settle.last;
            return;
        }
        self.flush(work);
        self.open = Some((shard, settle));
    }

    /// Hands the open run over: before anything else is asked of a shard, and when a turn ends.
    #[inline]
    pub fn flush(&mut self, work: &mut Work) {
        if let Some((shard, run)) = self.open.take() {
            work.ask(shard, Input::Settle(run));
        }
    }
}

/// A run of one message.
#[must_use]
pub fn single(
    queue: crate::ids::QueueId,
    holder: crate::ids::Holder,
    message: MessageId,
    verdict: Verdict,
) -> Settle {
    Settle {
        queue,
        holder,
        first: message,
        last: message,
        verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::work::Item;
    use crate::ids::{Holder, QueueId, SessionId};

    fn folded(messages: &[(u32, u64, Verdict)]) -> Vec<(u32, u64, u64, Verdict)> {
        let mut runs = SettleRuns::default();
        let mut work = Work::default();
        for &(number, id, verdict) in messages {
            let holder = Holder {
                session: SessionId(1),
                number,
            };
            let settle = single(QueueId(1), holder, MessageId(id), verdict);
            runs.add(ShardId(1), settle, &mut work);
        }
        runs.flush(&mut work);
        runs.flush(&mut work);
        let run = |item: &Item| match item {
            Item::Ask {
                input: Input::Settle(run),
                ..
            } => (run.holder.number, run.first.0, run.last.0, run.verdict),
            other => panic!("{other:?}"),
        };
        work.items.iter().map(run).collect()
    }

    #[test]
    fn runs_have_no_gaps_and_one_holder() {
        let requeue = Verdict::Requeue { failed: false };
        let messages = [
            (1, 4, Verdict::Ack),
            (1, 5, Verdict::Ack),
            (1, 7, Verdict::Ack),
            (2, 8, Verdict::Ack),
            (2, 9, requeue),
            (2, 10, requeue),
        ];
        assert_eq!(
            folded(&messages),
            [
                (1, 4, 5, Verdict::Ack),
                (1, 7, 7, Verdict::Ack),
                (2, 8, 8, Verdict::Ack),
                (2, 9, 10, requeue),
            ]
        );
    }
}
