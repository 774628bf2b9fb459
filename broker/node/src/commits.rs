//! Transactions of the node itself: whoever commits one is told what came of it.
//!
//! An answer that nobody waits for any more is dropped. Answers come under the lane's lock, so
//! nothing here waits.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::sync::oneshot;
use warren_broker_core::definitions::Store;
use warren_broker_core::dispatch::work::Work;
use warren_broker_core::ids::Token;
use warren_broker_core::session::event::Event;
use warren_cluster_core::rows::{Committed, Transaction};

use crate::broker::{Broker, NODE};
use crate::sessions::lock;

/// The transactions that are under way.
#[derive(Default)]
pub(crate) struct Commits {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Option<Committed>>>,
}

impl Commits {
    fn open(&self) -> (Token, oneshot::Receiver<Option<Committed>>) {
        let (sender, receiver) = oneshot::channel();
        let mut inner = lock(&self.inner);
        inner.last += 1;
        let number = inner.last;
        inner.waiting.insert(number, sender);
        (Token(number), receiver)
    }

    /// Takes what came for the node itself.
    pub(crate) fn settle(&self, event: Event) {
        let (token, committed) = match event {
            Event::Committed { token, committed } => (token, Some(committed)),
            Event::NotCommitted { token } => (token, None),
            // The node asks no shard for anything that it waits for.
            _ => return,
        };
        let waiting = lock(&self.inner).waiting.remove(&token.0);
        if let Some(sender) = waiting {
            // Nobody may want to know any more.
            let _ = sender.send(committed);
        }
    }
}

impl Broker {
    /// Hands a transaction over, behind those handed over before; what is given waits for its
    /// outcome: `None` when the lane refused it (stopping, no room in the log).
    pub(crate) fn commit(
        &self,
        store: Store,
        transaction: Transaction,
    ) -> impl Future<Output = Option<Committed>> + Send + use<> {
        let (token, receiver) = self.commits().open();
        let mut work = Work::default();
        work.transact(store.shard(), transaction, Some(token));
        self.submit(NODE, &mut work);
        async move { receiver.await.ok().flatten() }
    }
}
