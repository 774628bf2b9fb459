//! Keeps shards where they should be: on the leader of shard 0 it assigns replicas, and on every
//! node it takes the next steps of the shards that the node leads.
//!
//! What to do is decided by pure functions ([`plan`], [`steps`]); here is when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::members::steps::{self, Step};
use warren_cluster_core::members::{Directory, plan};
use warren_cluster_core::rows::Version;

use crate::peers::Lane;

/// Shards of a leader that change their members at a time.
const MOVING_MAX: usize = 4;
/// Shards that one transaction assigns.
const ASSIGNED_MAX: usize = 256;
/// How often shards on their way are looked at, and those at rest.
const BUSY_PERIOD: Duration = Duration::from_millis(100);
const IDLE_PERIOD: Duration = Duration::from_secs(1);
/// An assignment that came to nothing is tried again after this.
const ASSIGN_AGAIN: Duration = Duration::from_secs(5);
/// A lead that was offered is not offered again before this.
const TRANSFER_AGAIN: Duration = Duration::from_secs(10);

pub(crate) struct Steward {
    pub(crate) lane: Arc<dyn Lane>,
    pub(crate) directory: watch::Receiver<Arc<Directory>>,
    pub(crate) reachable: watch::Receiver<BTreeSet<NodeId>>,
    /// The row that the last assignment was made from, and when.
    assigned: Option<(Version, Instant)>,
    transferred: BTreeMap<ShardId, Instant>,
    /// What was proposed last time, so that the log has each step once.
    proposed: Vec<(ShardId, Step)>,
}

impl Steward {
    pub(crate) fn new(
        lane: Arc<dyn Lane>,
        directory: watch::Receiver<Arc<Directory>>,
        reachable: watch::Receiver<BTreeSet<NodeId>>,
    ) -> Self {
        Self {
            lane,
            directory,
            reachable,
            assigned: None,
            transferred: BTreeMap::new(),
            proposed: Vec::new(),
        }
    }

    /// Works until the node is gone.
    pub(crate) async fn run(mut self) {
        loop {
            let busy = self.work();
            let alone = self.directory.borrow().nodes.len() < 2;
            let period = match (busy, alone) {
                (true, _) => BUSY_PERIOD,
                (false, false) => IDLE_PERIOD,
                // Nothing happens to a cluster of one that its rows do not tell of.
                (false, true) => Duration::MAX,
            };
            let changed = async {
                tokio::select! {
                    changed = self.directory.changed() => changed,
                    changed = self.reachable.changed() => changed,
                }
            };
            if let Ok(Err(_)) = timeout(period, changed).await {
                return;
            }
        }
    }

    /// Does what is to be done now; whether there is more to do soon.
    fn work(&mut self) -> bool {
        let directory = self.directory.borrow_and_update().clone();
        if directory.cluster.is_none() || directory.nodes.len() < 2 {
            return false;
        }
        let led = self.lane.led();
        let is_first = led.iter().any(|it| it.shard == ShardId::DEFINITIONS);
        let assigns = is_first && self.assign(&directory);
        let reachable = self.reachable.borrow_and_update().clone();
        let mut steps = steps::all(&directory.replicas, &led, &reachable, MOVING_MAX);
        let now = Instant::now();
        self.transferred
            .retain(|_, at| now.duration_since(*at) < TRANSFER_AGAIN);
        steps.retain(|(shard, step)| {
            let transfers = matches!(step, Step::Transfer(_));
            let offered = transfers && self.transferred.contains_key(shard);
            if transfers && !offered {
                self.transferred.insert(*shard, now);
            }
            !offered
        });
        let settled = led.iter().all(|status| {
            let row = directory.replicas.get(&status.shard);
            row.is_none_or(|row| steps::is_settled(&row.value, status))
        });
        let new = steps.iter().filter(|step| !self.proposed.contains(step));
        for (shard, step) in new {
            tracing::info!(%shard, ?step, "a shard moves");
        }
        let busy = assigns || !settled || !steps.is_empty();
        self.proposed.clone_from(&steps);
        if !steps.is_empty() {
            self.lane.act(steps);
        }
        busy
    }

    /// Brings the rows to what the plan wants; whether they are not there yet.
    fn assign(&mut self, directory: &Directory) -> bool {
        let Some(next) = &directory.next else {
            return false;
        };
        let wanted = plan::wanted(directory);
        let Some(transaction) = directory.assign(&wanted, ASSIGNED_MAX) else {
            return false;
        };
        let waits = self
            .assigned
            .is_some_and(|(version, at)| version == next.version && at.elapsed() < ASSIGN_AGAIN);
        if !waits {
            self.assigned = Some((next.version, Instant::now()));
            self.lane.transact(transaction);
        }
        true
    }
}
