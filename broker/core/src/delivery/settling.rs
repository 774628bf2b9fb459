//! Messages that leave their holders: acknowledged, dropped, or back to their places.

use warren_cluster_core::machine::{Bodies, Context};

use crate::ids::{Holder, QueueId, SessionId};
use crate::queue::Queue;
use crate::shard::command;
use crate::shard::effect::Effect;
use crate::shard::input::{Settle, Verdict};

use super::grips::State;
use super::{Delivery, Sessions, Terms};

impl Delivery {
    /// Settles what the holder really holds of a run.
    pub(crate) fn settle(
        &mut self,
        queue: &mut Queue,
        settle: &Settle,
        terms: Terms,
        sessions: &mut Sessions,
        bodies: &mut dyn Bodies,
    ) {
        let Some(slot) = self.holders.find(settle.holder) else {
            return;
        };
        if settle.first > settle.last {
            return;
        }
        let ids = settle.first.0..=settle.last.0;
        let count = match settle.verdict {
            Verdict::Ack | Verdict::Reject if terms.logged => self.take_back(slot, ids),
            Verdict::Ack | Verdict::Reject => self.remove(queue, slot, ids, bodies),
            Verdict::Requeue { failed } => self.give_back(queue, slot, ids, failed, terms),
        };
        self.held -= u64::from(count);
        self.holders.freed(slot, count);
        self.leave(slot, queue.id, sessions);
    }

    /// The holder is gone, and what it held goes back. True when it was a consumer.
    pub(crate) fn gone(
        &mut self,
        queue: &mut Queue,
        holder: Holder,
        terms: Terms,
        sessions: &mut Sessions,
    ) -> bool {
        let Some(slot) = self.holders.find(holder) else {
            return false;
        };
        let stopped = self.holders.stop(slot);
        self.gets.retain(|get| get.slot != slot);
        let count = if self.holders.party(slot).is_some_and(|party| party.held > 0) {
            self.give_back(queue, slot, 0..=u64::MAX, true, terms)
        } else {
            0
        };
        self.held -= u64::from(count);
        if let Some(party) = self.holders.party_mut(slot) {
            debug_assert_eq!(party.held, count, "grips and their holder agree");
            party.held = 0;
            party.waiting = 0;
        }
        self.leave(slot, queue.id, sessions);
        stopped
    }

    /// A message has left the queue: a command that removes it was applied.
    pub(crate) fn forget(&mut self, id: u64, queue: QueueId, sessions: &mut Sessions) {
        let Some(grip) = self.grips.remove(id) else {
            if id < self.cursor {
                self.doomed -= 1;
            }
            return;
        };
        match grip.state {
            State::Leaving => self.leaving -= 1,
            State::Returned => {
                self.returned.remove(&id);
            }
            State::Held(slot) => {
                self.held -= 1;
                self.holders.freed(slot, 1);
                self.leave(slot, queue, sessions);
            }
        }
    }

    /// Proposes what has gathered.
    pub(crate) fn propose(&mut self, queue: QueueId, context: &mut Context<'_, Effect>) {
        if !self.settles.is_empty() {
            merge(&mut self.settles);
            let runs = &self.settles;
            let write = |out: &mut _| command::encode_settle(out, queue, runs);
            context.proposals.push(write);
            self.settles.clear();
            self.settles.shrink_to(KEPT_RUNS);
        }
        if !self.returns.is_empty() {
            // The newest count of an id stands: it was added last, and the sort is stable.
            self.returns.sort_by_key(|run| run.0);
            let runs = newest(&self.returns);
            let write = |out: &mut _| command::encode_return(out, queue, &runs);
            context.proposals.push(write);
            self.returns = Vec::new();
        }
    }

    /// Held by `slot` and now leaving: how many.
    fn take_back(&mut self, slot: u32, ids: std::ops::RangeInclusive<u64>) -> u32 {
        let mut count = 0;
        let settles = &mut self.settles;
        self.grips.for_range(ids, |id, grip| {
            if grip.state == State::Held(slot) {
                grip.state = State::Leaving;
                count += 1;
                add_to_runs(settles, id);
            }
        });
        self.leaving += u64::from(count);
        count
    }

    /// Held by `slot` and now gone, without a log to wait for: how many.
    fn remove(
        &mut self,
        queue: &mut Queue,
        slot: u32,
        ids: std::ops::RangeInclusive<u64>,
        bodies: &mut dyn Bodies,
    ) -> u32 {
        let mut count = 0;
        let mut runs = Vec::new();
        self.grips.remove_range(ids, |id, grip| {
            let picked = grip.state == State::Held(slot);
            if picked {
                count += 1;
                add_to_runs(&mut runs, id);
            }
            picked
        });
        for (first, last) in runs {
            queue.remove(first..=last, bodies, |_| {});
        }
        count
    }

    /// Held by `slot` and now back in their places: how many.
    fn give_back(
        &mut self,
        queue: &mut Queue,
        slot: u32,
        ids: std::ops::RangeInclusive<u64>,
        failed: bool,
        terms: Terms,
    ) -> u32 {
        let mut count = 0;
        let returned = &mut self.returned;
        let returns = &mut self.returns;
        self.grips.for_range(ids, |id, grip| {
            if grip.state != State::Held(slot) {
                return;
            }
            count += 1;
            grip.state = State::Returned;
            returned.insert(id);
            if failed {
                grip.delivery_count = grip.delivery_count.saturating_add(1);
                add_counted(returns, id, grip.delivery_count);
            }
        });
        if !terms.logged {
            for (first, last, failures) in std::mem::take(&mut self.returns) {
                queue.set_delivery_count(first..=last, failures);
            }
        }
        count
    }
}

/// Runs of room that a queue keeps between steps.
const KEPT_RUNS: usize = 64;

/// Adds an id to the last run when it follows it, else as a run of its own.
pub(super) fn add_to_runs(runs: &mut Vec<(u64, u64)>, id: u64) {
    match runs.last_mut() {
        Some(run) if run.1 + 1 == id => run.1 = id,
        _ => runs.push((id, id)),
    }
}

fn add_counted(runs: &mut Vec<(u64, u64, u16)>, id: u64, count: u16) {
    match runs.last_mut() {
        Some(run) if run.1 + 1 == id && run.2 == count => run.1 = id,
        _ => runs.push((id, id, count)),
    }
}

/// Sorts runs that do not overlap and joins those that touch.
fn merge(runs: &mut Vec<(u64, u64)>) {
    if !runs.is_sorted() {
        runs.sort_unstable();
    }
    runs.dedup_by(|next, run| {
        let touches = run.1 + 1 == next.0;
        if touches {
            run.1 = next.1;
        }
        touches
    });
}

/// The runs without what a later run says again. They are sorted by their first id; of two that
/// overlap, the counts only ever grow, so the larger one is the newer.
fn newest(runs: &[(u64, u64, u16)]) -> Vec<(u64, u64, u16)> {
    if runs.windows(2).all(|pair| pair[0].1 < pair[1].0) {
        return runs.to_vec();
    }
    let mut counts = std::collections::BTreeMap::new();
    for &(first, last, count) in runs {
        for id in first..=last {
            let known = counts.entry(id).or_insert(count);
            *known = count.max(*known);
        }
    }
    let mut out = Vec::new();
    for (id, count) in counts {
        add_counted(&mut out, id, count);
    }
    out
}

/// The holders that a session has: (queue, number), in order.
pub(crate) fn holders_of(sessions: &Sessions, session: SessionId) -> Vec<(QueueId, Holder)> {
    let first = (session, QueueId(0), 0);
    let last = (session, QueueId(u64::MAX), u32::MAX);
    let found = sessions.range(first..=last);
    found
        .map(|&(session, queue, number)| (queue, Holder { session, number }))
        .collect()
}
