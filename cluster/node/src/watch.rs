//! What all nodes tell, in one stream, for as long as somebody watches: each member is asked to
//! tell its news, and asked again when it is back.
//!
//! Always holds:
//! - nobody is asked for anything while nobody watches;
//! - an item comes at most once, and those of one node in the order in which it told them;
//! - whose items they are says the certificate of who sent them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use warren_cluster_core::ids::NodeId;

use crate::cluster::Cluster;
use crate::colleagues::{Colleagues, Hearing};
use crate::news::{Heard, Position, Reader};

/// Items that wait for a slow watcher; what others tell then waits with them.
const WAITING_MAX: usize = 64;
/// A node that cannot be heard is asked again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// An item, and whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    pub node: NodeId,
    pub heard: Heard,
}

impl Cluster {
    /// What this node and all others tell from here on: when this returns, those that can be
    /// reached have been asked. Ends when this node stops; dropped, it asks nobody any more.
    pub async fn watch_news(&self) -> mpsc::Receiver<Told> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let watch = Watch {
            colleagues: Arc::clone(&self.colleagues),
            begun: Instant::now(),
            sender,
        };
        let own = self.colleagues.news.read();
        // Closed once nobody has it any more: all have been asked once.
        let (first, mut asked) = mpsc::channel::<()>(1);
        tokio::spawn(watch.run(own, first));
        let _ = asked.recv().await;
        receiver
    }
}

#[derive(Clone)]
struct Watch {
    colleagues: Arc<Colleagues>,
    begun: Instant,
    sender: mpsc::Sender<Told>,
}

impl Watch {
    /// Hears the nodes that are members, as long as somebody wants it.
    async fn run(self, own: Reader, first: mpsc::Sender<()>) {
        let me = self.colleagues.me();
        let mut directory = self.colleagues.desk.directory.clone();
        // Dropped, it ends them all.
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().hear_own(me, own));
        let mut heard: BTreeMap<NodeId, AbortHandle> = BTreeMap::new();
        let mut first = Some(first);
        loop {
            let members: BTreeSet<NodeId> = {
                let directory = directory.borrow_and_update();
                let members = directory.members().map(|(id, _)| id);
                members.filter(|id| *id != me).collect()
            };
            heard.retain(|node, task| {
                let stays = members.contains(node);
                if !stays {
                    task.abort();
                }
                stays
            });
            for node in members {
                let start = || tasks.spawn(self.clone().hear(node, first.clone()));
                heard.entry(node).or_insert_with(start);
            }
            first = None;
            while tasks.try_join_next().is_some() {}
            tokio::select! {
                changed = directory.changed() => if changed.is_err() {
                    return;
                },
                () = self.sender.closed() => return,
                () = self.colleagues.news.closed() => return,
            }
        }
    }

    async fn hear_own(self, me: NodeId, mut own: Reader) {
        while let Some(heard) = own.next().await {
            let told = Told { node: me, heard };
            if self.sender.send(told).await.is_err() {
                return;
            }
        }
    }

    /// Hears one node, again and again from where it ended.
    async fn hear(self, node: NodeId, mut first: Option<mpsc::Sender<()>>) {
        let mut at = Position::default();
        loop {
            let age = self.begun.elapsed();
            let hearing = self.colleagues.news_of(node, at, age).await;
            drop(first.take());
            match hearing {
                Ok(hearing) => {
                    self.take(node, hearing, &mut at).await;
                    self.colleagues.forget(node);
                }
                Err(error) => tracing::debug!(%node, error, "cannot hear what it tells"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Passes on what comes until it ends.
    async fn take(&self, node: NodeId, mut hearing: Hearing, at: &mut Position) {
        while let Some((next, heard)) = hearing.next().await {
            *at = next;
            let Some(heard) = heard else { continue };
            if self.sender.send(Told { node, heard }).await.is_err() {
                return;
            }
        }
    }
}
