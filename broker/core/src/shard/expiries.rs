//! When the heads of queues expire: what the leader wakes for.
//!
//! Invariants: `of` and `order` name the same queues with the same times. A time may be earlier
//! than its queue's head really expires, never later; whoever wakes looks again.

use std::collections::{BTreeMap, BTreeSet};

use warren_cluster_core::ids::Time;

use crate::ids::QueueId;

/// The queues whose next ready message expires. Others cost nothing here.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    of: BTreeMap<QueueId, Time>,
    order: BTreeSet<(Time, QueueId)>,
}

impl Expiries {
    /// The queue's head expires then, or not at all.
    pub(super) fn set(&mut self, queue: QueueId, time: Option<Time>) {
        if self.of.is_empty() && time.is_none() {
            return;
        }
        let before = match time {
            Some(time) => self.of.insert(queue, time),
            None => self.of.remove(&queue),
        };
        if before == time {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before, queue));
        }
        if let Some(time) = time {
            self.order.insert((time, queue));
        }
    }

    /// Takes out a queue whose time has come.
    pub(super) fn take_due(&mut self, now: Time) -> Option<QueueId> {
        let (_, queue) = self
            .order
            .first()
            .copied()
            .filter(|(time, _)| *time <= now)?;
        self.set(queue, None);
        Some(queue)
    }

    /// The first time of all.
    pub(super) fn first(&self) -> Option<Time> {
        self.order.first().map(|(time, _)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_due_first_and_once() {
        let mut expiries = Expiries::default();
        let queue = QueueId;
        expiries.set(queue(9), None);
        expiries.set(queue(1), Some(Time(30)));
        expiries.set(queue(2), Some(Time(20)));
        expiries.set(queue(3), Some(Time(10)));
        expiries.set(queue(3), Some(Time(40)));
        expiries.set(queue(1), Some(Time(30)));
        assert_eq!(expiries.first(), Some(Time(20)));
        assert_eq!(expiries.take_due(Time(19)), None);
        assert_eq!(expiries.take_due(Time(30)), Some(queue(2)));
        assert_eq!(expiries.take_due(Time(30)), Some(queue(1)));
        assert_eq!(expiries.take_due(Time(30)), None);
        expiries.set(queue(3), None);
        assert_eq!(expiries.first(), None);
        assert_eq!(expiries.take_due(Time(99)), None);
    }
}
