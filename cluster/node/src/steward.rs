//! Keeps shards where they should be: on the leader of shard 0 it lays out who has which replicas,
//! and on every node it takes the next steps of the shards that the node leads.
//!
//! What to do is decided by pure functions ([`placement`], [`steps`]); here is when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use warren_cluster_core::ids::{NodeId, ReplicaId, ShardId, Term, Time};
use warren_cluster_core::lane::ShardStatus;
use warren_cluster_core::members::steps::{self, Step};
use warren_cluster_core::members::{Directory, NodeState};
use warren_cluster_core::placement::{self, Known};
use warren_cluster_core::rows::Transaction;

use crate::clock::until_next_look;
use crate::cluster::Cluster;
use crate::colleagues::{Colleagues, Overview};

/// Shards of a leader that change their members at a time.
const MOVING_MAX: usize = 8;
/// Shards that one transaction assigns.
const ASSIGNED_MAX: usize = 256;
/// How often shards on their way are looked at; those at rest are about once a second.
const BUSY_PERIOD: Duration = Duration::from_millis(100);
/// How often the whole cluster is looked at, where nothing is on its way.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// A proposal that came to nothing is made again after this.
const PROPOSE_AGAIN: Duration = Duration::from_secs(3);
/// Whoever took a lead keeps it for so long: the node that is to have it may be about to stop, or
/// only just have started.
const LEAD_KEPT: Duration = Duration::from_secs(5);
/// How long the transaction that lets a node go may take.
const DISMISS_TIMEOUT: Duration = Duration::from_secs(10);
/// A lead that was offered is not offered again before this.
const TRANSFER_AGAIN: Duration = Duration::from_secs(10);

pub(crate) struct Steward {
    colleagues: Arc<Colleagues>,
    directory: watch::Receiver<Arc<Directory>>,
    reachable: watch::Receiver<BTreeSet<NodeId>>,
    options: placement::Options,
    begin: Instant,
    /// Nodes that there is no way to, and since when.
    down: BTreeMap<NodeId, Time>,
    /// What was proposed for shard 0 last, and when.
    proposed: Option<(Transaction, Instant)>,
    /// When the whole cluster is looked at next.
    look_at: Instant,
    /// When leads of this node were offered to another one, in the term in which it has them.
    transferred: BTreeMap<(ShardId, Term), Instant>,
    /// Since when this node leads what it leads.
    led_since: BTreeMap<(ShardId, Term), Instant>,
    /// What was done last time, so that the log has each step once.
    done: Vec<(ShardId, Step)>,
    held: Vec<(ShardId, placement::Hold)>,
}

impl Steward {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let now = Instant::now();
        Self {
            directory: cluster.watch(),
            colleagues: Arc::clone(&cluster.colleagues),
            reachable: cluster.reachable(),
            options: cluster.placement.clone(),
            begin: now,
            down: BTreeMap::new(),
            proposed: None,
            look_at: now,
            transferred: BTreeMap::new(),
            led_since: BTreeMap::new(),
            done: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Works until the node is gone.
    pub(crate) async fn run(mut self) {
        loop {
            let busy = self.work().await;
            let alone = self.directory.borrow().members().count() < 2;
            let period = match (busy, alone) {
                (true, _) => BUSY_PERIOD,
                (false, false) => until_next_look(),
                // Nothing happens to a cluster of one that its rows do not tell of.
                (false, true) => Duration::MAX,
            };
            let changed = async {
                tokio::select! {
                    changed = self.directory.changed() => changed,
                    changed = self.reachable.changed() => changed,
                    () = self.colleagues.look.notified() => Ok(()),
                }
            };
            match timeout(period, changed).await {
                Ok(Err(_)) => return,
                Ok(Ok(())) => self.look_at = Instant::now(),
                Err(_) => {}
            }
        }
    }

    /// Does what is to be done now; whether there is more to do soon.
    async fn work(&mut self) -> bool {
        let directory = self.directory.borrow_and_update().clone();
        if directory.cluster.is_none() || directory.nodes.len() < 2 {
            return false;
        }
        let reachable = self.reachable.borrow_and_update().clone();
        self.note_down(&directory, &reachable);
        let led = self.colleagues.desk.lane.led();
        let stepped = self.step(&directory, &led, &reachable);
        let is_first = led.iter().any(|it| it.shard == ShardId::DEFINITIONS);
        let now = Instant::now();
        if !is_first || (!stepped && now < self.look_at) {
            return stepped;
        }
        let recovers = self.colleagues.recovers.load(Ordering::Acquire);
        let laid_out = recovers || self.lay_out().await;
        if !laid_out {
            self.look_at = now + LOOK_PERIOD;
        }
        stepped || laid_out
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn note_down(&mut self, directory: &Directory, reachable: &BTreeSet<NodeId>) {
        let (now, me) = (self.now(), self.colleagues.me());
        let is_down = |id: &NodeId| *id != me && !reachable.contains(id);
        let members = directory.members().map(|(id, _)| id);
        let down: BTreeSet<NodeId> = members.filter(is_down).collect();
        self.down.retain(|id, _| down.contains(id));
        for id in down {
            self.down.entry(id).or_insert(now);
        }
    }

    /// Takes the next steps of the shards that this node leads.
    fn step(
        &mut self,
        directory: &Directory,
        led: &[ShardStatus],
        reachable: &BTreeSet<NodeId>,
    ) -> bool {
        let mut steps = steps::all(&directory.replicas, led, reachable, MOVING_MAX);
        if self.colleagues.recovers.load(Ordering::Acquire) {
            steps.retain(|(shard, _)| *shard != ShardId::DEFINITIONS);
        }
        let now = Instant::now();
        self.transferred
            .retain(|_, at| now.duration_since(*at) < TRANSFER_AGAIN);
        let leads: BTreeMap<ShardId, Term> = led
            .iter()
            .filter_map(|status| Some((status.shard, status.leader?.0)))
            .collect();
        self.led_since
            .retain(|(shard, term), _| leads.get(shard) == Some(term));
        for (shard, term) in &leads {
            self.led_since.entry((*shard, *term)).or_insert(now);
        }
        let me = directory.nodes.get(&self.colleagues.me());
        let rests = me.is_some_and(|me| me.value.state != NodeState::Active);
        let mut waits = false;
        steps.retain(|(shard, step)| {
            if !matches!(step, Step::Transfer(_)) {
                return true;
            }
            let lead = (*shard, leads.get(shard).copied().unwrap_or_default());
            let since = self.led_since.get(&lead).copied().unwrap_or(now);
            let is_new = !rests && now.duration_since(since) < LEAD_KEPT;
            let offered = is_new || self.transferred.contains_key(&lead);
            waits |= is_new;
            if !offered {
                self.transferred.insert(lead, now);
            }
            !offered
        });
        let settled = led.iter().all(|status| {
            let row = directory.replicas.get(&status.shard);
            row.is_none_or(|row| steps::is_settled(&row.value, status))
        });
        for (shard, step) in steps.iter().filter(|step| !self.done.contains(step)) {
            tracing::info!(%shard, ?step, "a shard moves");
        }
        let busy = !settled || waits || !steps.is_empty();
        self.done.clone_from(&steps);
        if !steps.is_empty() {
            self.colleagues.desk.lane.act(steps);
        }
        busy
    }

    /// On the leader of shard 0: brings rows to what the layout wants, lets nodes go that nothing
    /// is left on, raises the cluster's version. Whether something was proposed, or is on its way.
    async fn lay_out(&mut self) -> bool {
        let overview = Overview::look(&self.colleagues).await;
        let directory = overview.directory.clone();
        let known = Known {
            shards: overview.led(),
            weights: BTreeMap::new(),
            down: self.down.clone(),
        };
        let moving = known.shards.iter().any(|(shard, status)| {
            let row = directory.replicas.get(shard);
            row.is_some_and(|row| !steps::is_settled(&row.value, status))
        });
        if let Some(node) = placement::gone(&directory, &known)
            && let Some(transaction) = directory.put_state(node, NodeState::Removed)
        {
            if self.propose(transaction) {
                tracing::info!(%node, "nothing is left on it: the node leaves the cluster");
                tokio::spawn(dismiss(Arc::clone(&self.colleagues), node));
            }
            return true;
        }
        let has = |shard, id: ReplicaId| {
            let report = overview.nodes.get(&id.node())?.as_ref().ok()?;
            let mut all = report.replicas.iter();
            Some(all.any(|it| it.shard == shard && it.replica == Some(id)))
        };
        let tidied = directory.tidy(&known.shards, has, ASSIGNED_MAX);
        if let Some(transaction) = tidied.or_else(|| raise(&overview)) {
            self.propose(transaction);
            return true;
        }
        let now = self.now();
        let cluster = placement::cluster(&directory, &known, &self.options, now);
        let layout = placement::layout(&cluster, &self.options, now);
        if layout.held != self.held {
            for (shard, hold) in &layout.held {
                tracing::warn!(%shard, %hold, "a shard cannot be seen to");
            }
            self.held.clone_from(&layout.held);
        }
        let wanted = layout.changes.iter();
        let wanted = wanted.map(|change| (change.shard, change.wanted.clone()));
        let Some(transaction) = directory.assign(&wanted.collect(), ASSIGNED_MAX) else {
            return moving || layout.waiting > 0;
        };
        if self.propose(transaction) {
            for change in &layout.changes {
                let (shard, reason) = (change.shard, change.reason);
                tracing::info!(%shard, %reason, wanted = ?change.wanted, "laid out");
            }
        }
        true
    }

    /// Proposes a change of shard 0, unless that was done a moment ago.
    fn propose(&mut self, transaction: Transaction) -> bool {
        let now = Instant::now();
        let same = self.proposed.as_ref();
        let same = same.filter(|(before, at)| *before == transaction && now < *at + PROPOSE_AGAIN);
        if same.is_some() {
            return false;
        }
        self.proposed = Some((transaction.clone(), now));
        self.colleagues.desk.lane.transact(transaction);
        true
    }
}

/// Tells a node that it is no member any more, once that is so.
async fn dismiss(colleagues: Arc<Colleagues>, node: NodeId) {
    let mut directory = colleagues.desk.directory.clone();
    let is_gone = |directory: &Arc<Directory>| {
        let row = directory.nodes.get(&node);
        row.is_none_or(|row| !row.value.is_member())
    };
    let gone = {
        let waited = timeout(DISMISS_TIMEOUT, directory.wait_for(is_gone)).await;
        matches!(waited, Ok(Ok(_)))
    };
    if !gone {
        // It was not to be: whoever leads shard 0 tries again.
        return;
    }
    if let Err(error) = colleagues.dismiss(node).await {
        tracing::warn!(%node, error, "it could not be told that it has left");
    }
}

/// Raises the cluster's version to what all nodes can do.
fn raise(overview: &Overview) -> Option<Transaction> {
    let cluster = overview.directory.cluster.as_ref()?;
    let versions = overview.nodes.values();
    let versions = versions.map(|report| report.as_ref().ok().map(|report| report.version));
    // Nobody is passed over: a node that is away may be an old one.
    let all: Vec<u32> = versions.collect::<Option<_>>()?;
    let least = all.into_iter().min()?;
    (least > cluster.value.version).then(|| overview.directory.put_version(least))?
}
