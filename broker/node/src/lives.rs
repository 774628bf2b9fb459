//! This node's life, and the end of others': what exclusive and transient objects live and die
//! with (rule 11).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use warren_broker_core::definitions::Store;
use warren_broker_core::dispatch::control::lives;
use warren_cluster_core::ids::{Life, NodeId};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::rows::{Committed, Transaction};

use crate::broker::Broker;

/// A life that could not be begun is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a node that starts waits for the others' rows, and how often it looks.
const MEET_LIMIT: Duration = Duration::from_secs(3);
const MEET_PERIOD: Duration = Duration::from_millis(20);

/// Begins this node's life; what an earlier one left behind is gone when this returns.
pub(crate) async fn begin(broker: &Broker) {
    loop {
        let transactions = lives::begin(&broker.topology(), broker.home());
        if commit(broker, transactions).await {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Waits until this node and the others have each other's rows: what a client has heard of on one
/// node is there on the next. Nodes that are down are not waited for much longer.
pub(crate) async fn meet(broker: &Broker, others: &[NodeId]) {
    let met = || {
        let lane = broker.lane();
        others.iter().all(|node| lane.is_in_step_with(*node))
    };
    let mut period = tokio::time::interval(MEET_PERIOD);
    let until = Instant::now() + MEET_LIMIT;
    while !met() && period.tick().await < until {}
}

/// Whether all of them were applied.
async fn commit(broker: &Broker, transactions: Vec<Transaction>) -> bool {
    for transaction in transactions {
        let committed = broker.commit(Store::Replicated, transaction).await;
        if !matches!(committed, Some(Committed::Yes { .. })) {
            return false;
        }
    }
    true
}

/// This node's life was fenced while it was out of reach: takes a new one.
pub(crate) async fn renew(broker: &Arc<Broker>) {
    if !broker.topology().is_over(broker.home()) {
        return;
    }
    let lane = broker.lane().clone();
    let life = tokio::task::spawn_blocking(move || lane.next_incarnation()).await;
    match life {
        Ok(Ok(life)) => {
            broker.set_incarnation(life);
            begin(broker).await;
            broker
                .lane()
                .submit(&mut vec![Input::Renew { life: Life(life) }]);
            tracing::warn!(life, "this node was ruled out; it goes on in a new life");
        }
        Ok(Err(error)) => tracing::error!(%error, "this node cannot take a new life"),
        Err(error) => tracing::error!(%error, "this node cannot take a new life"),
    }
}

/// While this node leads the definitions: ends the lives of nodes that are gone for long.
pub(crate) async fn watch(broker: Arc<Broker>) {
    let after = Duration::from_millis(broker.config().fence_after);
    let mut gone: BTreeMap<NodeId, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(warren_cluster::until_next_look()).await;
        let now = Instant::now();
        if !broker.is_on_duty() {
            gone.clear();
            continue;
        }
        let here = broker.home().node;
        let topology = broker.topology().clone();
        for (node, life) in topology.lives() {
            if node == here || !broker.lane().is_gone(node) {
                gone.remove(&node);
                continue;
            }
            let since = *gone.entry(node).or_insert(now);
            if now.duration_since(since) < after {
                continue;
            }
            let transactions = lives::fence(&topology, node);
            if transactions.is_empty() {
                continue;
            }
            let life = life.incarnation;
            if commit(&broker, transactions).await {
                tracing::warn!(%node, life, "a node is gone, and what lived with it");
            }
        }
    }
}
