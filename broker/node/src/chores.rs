//! What the node itself has to do, and the task that does it.
//!
//! Always holds: what is noted is taken. Tombstones are in nobody's way: they wait for a moment,
//! so that those of queues that come and go with their connections go together, in one turn of
//! the lane; everything else wakes the task at once, and what waits goes with it.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::queue::SegQueue;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout_at};
use warren_broker_core::dispatch::chores::{Chore, Chores};
use warren_broker_core::dispatch::work::Work;

use crate::broker::{Broker, NODE};
use crate::lives;

/// How long tombstones wait for others.
const GATHER: Duration = Duration::from_millis(50);
/// Things that are done together; the lane has others to serve.
const TOGETHER_MAX: usize = 1024;

/// Something that the node itself is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ToDo {
    /// A queue's shard left it.
    Chore(Chore),
    /// This node's life was fenced: it takes a new one.
    Renew,
}

/// What is to be done. At most two chores a queue.
#[derive(Debug, Default)]
pub(crate) struct ToDos {
    waiting: SegQueue<ToDo>,
    /// There is something that does not wait.
    urgent: Notify,
    /// There is something, since the task took what there was.
    some: Notify,
    /// `some` was told.
    is_told: AtomicBool,
}

impl ToDo {
    fn can_wait(self) -> bool {
        matches!(self, Self::Chore(Chore::Forget(_)))
    }
}

impl ToDos {
    pub(crate) fn note(&self, it: ToDo) {
        self.waiting.push(it);
        if !it.can_wait() {
            self.urgent.notify_one();
        } else if !self.is_told.swap(true, Ordering::AcqRel) {
            self.some.notify_one();
        }
    }

    /// Waits until there is something that is to be done now. Whoever gives up waiting takes what
    /// there is.
    async fn wait(&self) {
        let some = async {
            self.some.notified().await;
            sleep(GATHER).await;
        };
        tokio::select! {
            () = self.urgent.notified() => {}
            () = some => {}
        }
    }

    /// What there is, in its order.
    fn take(&self) -> Vec<ToDo> {
        // Before the look: what comes after it is told again.
        self.is_told.swap(false, Ordering::AcqRel);
        let taken = iter::from_fn(|| self.waiting.pop()).take(TOGETHER_MAX);
        let taken = taken.collect();
        if !self.waiting.is_empty() {
            self.urgent.notify_one();
        }
        taken
    }
}

/// Deletes the rows of queues that are closed, and tombstones that did their work.
pub(crate) async fn serve(broker: Arc<Broker>) {
    let mut chores = Chores::default();
    loop {
        let next = broker.to_dos().wait();
        match chores.deadline() {
            // The moment came first: what is due is done.
            Some(at) => timeout_at(broker.tokio_instant(at), next)
                .await
                .unwrap_or(()),
            None => next.await,
        }
        let now = broker.now();
        for it in broker.to_dos().take() {
            match it {
                ToDo::Renew => lives::renew(&broker).await,
                ToDo::Chore(chore) => chores.add(chore, now),
            }
        }
        let mut work = Work::default();
        chores.work(now, &broker.topology(), &mut work);
        broker.submit(NODE, &mut work);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tokio::time::{Instant, timeout};
    use warren_broker_core::ids::QueueId;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    fn forget(queue: u64) -> ToDo {
        ToDo::Chore(Chore::Forget(QueueId(queue)))
    }

    /// What the task finds when it is woken, and after how long.
    async fn found(to_dos: &ToDos) -> (Vec<ToDo>, Duration) {
        let began = Instant::now();
        let waited = timeout(WITHIN, to_dos.wait()).await;
        waited.expect("woken in time");
        (to_dos.take(), began.elapsed())
    }

    #[tokio::test]
    async fn tombstones_go_together() {
        let to_dos = Arc::new(ToDos::default());
        to_dos.note(forget(1));
        let others = Arc::clone(&to_dos);
        // Runs once this task waits, which the first has woken.
        let noting = tokio::spawn(async move {
            (2..5).for_each(|queue| others.note(forget(queue)));
        });
        let (taken, after) = found(&to_dos).await;
        assert_eq!(taken, [1, 2, 3, 4].map(forget));
        assert!(after >= GATHER);
        noting.await.expect("notes");
        to_dos.note(forget(5));
        assert_eq!(found(&to_dos).await.0, [forget(5)], "told again");
    }

    #[tokio::test]
    async fn what_does_not_wait_takes_along_what_does() {
        let to_dos = ToDos::default();
        to_dos.note(forget(1));
        to_dos.note(ToDo::Renew);
        let mut wait = std::pin::pin!(to_dos.wait());
        let mut context = Context::from_waker(Waker::noop());
        assert!(wait.as_mut().poll(&mut context).is_ready(), "at once");
        assert_eq!(to_dos.take(), [forget(1), ToDo::Renew]);
    }

    #[tokio::test]
    async fn what_is_too_much_for_a_turn_is_the_next_ones() {
        let to_dos = ToDos::default();
        let all = u64::try_from(TOGETHER_MAX).expect("fits") + 1;
        (0..all).for_each(|queue| to_dos.note(forget(queue)));
        assert_eq!(found(&to_dos).await.0.len(), TOGETHER_MAX);
        assert_eq!(found(&to_dos).await.0, [forget(all - 1)]);
    }
}
