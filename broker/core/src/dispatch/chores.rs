//! What is left to do with rows after a queue's shard said so: the row of a queue that is closed,
//! the tombstone of one that is dropped.
//!
//! Always holds: what was noted is done again until the rows show that it is done. A transaction
//! may be refused, or lost with whoever led the definitions.

use std::collections::VecDeque;

use warren_cluster_core::ids::Instant;

use super::work::Work;
use super::{control, reconcile};
use crate::ids::QueueId;
use crate::shard::effect::Effect;
use crate::topology::Topology;

/// What does not show in the rows is done again after this. Whoever asked for a queue to be
/// deleted has as long to delete its rows.
const AGAIN_MILLIS: u64 = 1_000;

/// One thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chore {
    /// The queue is closed: its row goes.
    RemoveClosed {
        queue: QueueId,
        /// Somebody is about to do so.
        asked: bool,
    },
    /// The queue is dropped: its tombstone goes.
    Forget(QueueId),
}

/// All of them, and when they are due.
#[derive(Debug, Default)]
pub struct Chores {
    /// Due at once.
    new: VecDeque<Chore>,
    /// In the order of their times.
    later: VecDeque<(Instant, Chore)>,
}

impl Chore {
    /// What an effect of a shard's leader wants done; `None` where it is for a session.
    #[must_use]
    pub fn of(effect: &Effect) -> Option<Self> {
        match *effect {
            Effect::Closed { queue, asked } => Some(Self::RemoveClosed { queue, asked }),
            Effect::Dropped { queue } => Some(Self::Forget(queue)),
            _ => None,
        }
    }

    fn is_left(self, topology: &Topology) -> bool {
        match self {
            Self::RemoveClosed { queue, .. } => topology.queue(queue).is_some(),
            Self::Forget(queue) => topology.has_tombstone(queue),
        }
    }

    fn start(self, topology: &Topology, work: &mut Work) {
        match self {
            Self::RemoveClosed { queue, .. } => control::remove_closed(topology, queue, work),
            Self::Forget(queue) => {
                let (shard, transaction) = reconcile::forget(queue);
                work.transact(shard, transaction, None);
            }
        }
    }
}

impl Chores {
    /// Keeps it to be done.
    pub fn add(&mut self, chore: Chore, now: Instant) {
        match chore {
            Chore::RemoveClosed { asked: true, .. } => self.put_off(chore, now),
            Chore::RemoveClosed { .. } | Chore::Forget(_) => self.new.push_back(chore),
        }
    }

    fn put_off(&mut self, chore: Chore, now: Instant) {
        let at = now.plus_millis(AGAIN_MILLIS);
        self.later.push_back((at, chore));
    }

    /// When [`Self::work`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let later = self.later.front().map(|(at, _)| *at);
        if self.new.is_empty() {
            later
        } else {
            Some(Instant(0))
        }
    }

    /// Does what is due and not done yet; whether it did anything.
    pub fn work(&mut self, now: Instant, topology: &Topology, work: &mut Work) -> bool {
        let mut any = false;
        let due = |it: &mut (Instant, Chore)| it.0 <= now;
        while let Some((_, chore)) = self.later.pop_front_if(due) {
            if chore.is_left(topology) {
                self.new.push_back(chore);
            }
        }
        while let Some(chore) = self.new.pop_front() {
            any = true;
            chore.start(topology, work);
            self.put_off(chore, now);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId(4);

    #[test]
    fn what_was_noted_is_done_at_once_and_forgotten_when_the_rows_show_it() {
        let topology = Topology::new(1);
        let (mut chores, mut work) = (Chores::default(), Work::default());
        chores.add(Chore::Forget(QUEUE), Instant(5));
        assert_eq!(chores.deadline(), Some(Instant(0)));
        assert!(chores.work(Instant(5), &topology, &mut work));
        assert_eq!(work.items.len(), 1);
        let again = Instant(5).plus_millis(AGAIN_MILLIS);
        assert_eq!(chores.deadline(), Some(again));
        assert!(
            !chores.work(again, &topology, &mut work),
            "no tombstone is left"
        );
        assert_eq!(chores.deadline(), None);
    }

    #[test]
    fn whoever_deletes_a_queue_has_time_to_do_it() {
        let topology = Topology::new(1);
        let (mut chores, mut work) = (Chores::default(), Work::default());
        let asked = true;
        chores.add(
            Chore::RemoveClosed {
                queue: QUEUE,
                asked,
            },
            Instant(0),
        );
        assert!(!chores.work(Instant(0), &topology, &mut work));
        assert_eq!(chores.deadline(), Some(Instant(AGAIN_MILLIS * 1000)));
    }
}
