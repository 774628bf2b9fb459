//! Imports: a plan, committed transaction by transaction, planned anew when a race is lost.
//!
//! Invariants:
//! - what was handed over before is decided before: transactions are applied in the plan's order;
//! - several are under way only where none needs that another one was applied: inside one vhost,
//!   and none that deletes;
//! - once the first was handed over, an import goes on to its end, whoever listens.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use warren_broker_core::definitions::interchange::Definitions;
use warren_broker_core::definitions::plan::{
    Action, Blocked, Entry, Plan, PlanOptions, Planned, Unit, plan,
};
use warren_cluster_core::rows::{Committed, Write};

use crate::broker::{Broker, random};

/// How often a lost race is planned again.
const TRIES: usize = 5;
/// Transactions, of 1 MiB at most, that may be under way.
const WINDOW: usize = 4;
/// Entries that are told of at a time.
const ENTRIES_AT_A_TIME: usize = 500;

/// How long somebody may take to listen: nobody else can import meanwhile.
const LISTEN_WAIT: Duration = Duration::from_secs(60);

/// What an import is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImportOptions {
    pub(crate) dry_run: bool,
    pub(crate) prune: bool,
}

/// What an import tells while it runs.
pub(crate) enum Step {
    Entries(Vec<Entry>),
    /// Of the plan's transactions.
    Progress {
        done: usize,
        total: usize,
    },
}

/// What an import came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) created: usize,
    pub(crate) changed: usize,
    pub(crate) deleted: usize,
    pub(crate) same: usize,
    pub(crate) blocked: Vec<Blocked>,
    pub(crate) notes: Vec<String>,
}

/// Why an import did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("nobody waits for the import any more; nothing has changed")]
    Unheard,
    #[error("the node takes no changes: it is stopping, or its disk is full")]
    Refused,
    #[error("others changed the same definitions {TRIES} times in a row; run the import again")]
    Contended,
}

/// Whoever listens to an import.
pub(crate) type Listener = mpsc::Sender<Step>;

/// Imports a file.
pub(crate) async fn import(
    broker: &Arc<Broker>,
    definitions: Arc<Definitions>,
    options: ImportOptions,
    listener: &Listener,
) -> Result<Outcome, ImportError> {
    let mut first: Option<Outcome> = None;
    for _ in 0..TRIES {
        let plan = planned(broker, Arc::clone(&definitions), options).await?;
        let begins = first.is_none();
        let outcome = first.get_or_insert_with(|| counted(&plan));
        outcome.blocked.clone_from(&plan.blocked);
        let (entries, transactions) = (plan.entries, plan.transactions);
        let is_heard = tell(entries, begins, listener).await;
        if begins && !is_heard {
            return Err(ImportError::Unheard);
        }
        if options.dry_run || commit(broker, transactions, listener).await? {
            return first.ok_or(ImportError::Contended);
        }
        tracing::info!("import: a race is lost; planning again");
    }
    Err(ImportError::Contended)
}

async fn planned(
    broker: &Arc<Broker>,
    definitions: Arc<Definitions>,
    options: ImportOptions,
) -> Result<Plan, ImportError> {
    let topology = Arc::clone(&broker.topology());
    let options = PlanOptions {
        prune: options.prune,
        random: random(),
        shards: broker.lane().shards(),
    };
    let planned = tokio::task::spawn_blocking(move || plan(&definitions, &topology, &options));
    planned.await.map_err(|_| ImportError::Refused)
}

fn counted(plan: &Plan) -> Outcome {
    // What is in a blocked unit stays as it is, whatever its entries say.
    let blocked: BTreeSet<Option<&Arc<str>>> = plan
        .blocked
        .iter()
        .map(|blocked| match &blocked.unit {
            Unit::Cluster => None,
            Unit::Vhost(name) => Some(name),
        })
        .collect();
    let is_blocked = |entry: &&Entry| blocked.contains(&entry.vhost.as_ref());
    let count = |action| {
        let of = |entry: &&Entry| entry.action == action;
        let entries = plan.entries.iter().filter(of);
        entries.filter(|entry| !is_blocked(entry)).count()
    };
    Outcome {
        created: count(Action::Create),
        changed: count(Action::Change),
        deleted: count(Action::Delete),
        same: plan.count(Action::Same),
        blocked: Vec::new(),
        notes: plan.notes.clone(),
    }
}

/// Tells of the entries: all that change something, or, planned again, what is in the way. False
/// when nobody listens.
async fn tell(entries: Vec<Entry>, begins: bool, listener: &Listener) -> bool {
    let is_told = |entry: &Entry| match entry.action {
        Action::Same => false,
        Action::Conflict | Action::Unsupported => true,
        Action::Create | Action::Change | Action::Delete => begins,
    };
    let mut entries = entries.into_iter().filter(is_told);
    loop {
        let some: Vec<_> = entries.by_ref().take(ENTRIES_AT_A_TIME).collect();
        if some.is_empty() {
            return true;
        }
        let told = timeout(LISTEN_WAIT, listener.send(Step::Entries(some))).await;
        if !matches!(told, Ok(Ok(()))) {
            return false;
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Option<Committed>> + Send>>;

/// Transactions on their way.
struct Flight<'a> {
    answers: VecDeque<Answer>,
    done: usize,
    total: usize,
    listener: &'a Listener,
}

/// Commits what was planned; false when a race was lost, and the rest is not done.
pub(super) async fn commit(
    broker: &Arc<Broker>,
    transactions: Vec<Planned>,
    listener: &Listener,
) -> Result<bool, ImportError> {
    let mut flight = Flight {
        answers: VecDeque::new(),
        done: 0,
        total: transactions.len(),
        listener,
    };
    let mut before: Option<(Unit, bool)> = None;
    for planned in transactions {
        let alone = needs_those_before(&planned);
        let goes_along =
            |(unit, was_alone): &(Unit, bool)| !alone && !was_alone && *unit == planned.unit;
        let room = if before.as_ref().is_some_and(goes_along) {
            WINDOW - 1
        } else {
            0
        };
        if !flight.land(room).await? {
            return Ok(false);
        }
        before = Some((planned.unit, alone));
        // Applying a large one takes its time, in which this thread serves nobody.
        let (store, transaction) = (planned.store, planned.transaction);
        let answer = tokio::task::block_in_place(|| broker.commit(store, transaction));
        flight.answers.push_back(Box::pin(answer));
    }
    flight.land(0).await
}

/// Whether a transaction may only be handed over when those before it were applied: deletions,
/// which have no precondition for it, and what belongs to the cluster.
fn needs_those_before(planned: &Planned) -> bool {
    let deletes = |write: &Write| matches!(write, Write::Delete { .. });
    planned.unit == Unit::Cluster || planned.transaction.writes.iter().any(deletes)
}

impl Flight<'_> {
    /// Waits until no more than `room` are on their way; false when one of them lost a race.
    async fn land(&mut self, room: usize) -> Result<bool, ImportError> {
        let mut is_lost = false;
        while self.answers.len() > if is_lost { 0 } else { room } {
            let Some(answer) = self.answers.pop_front() else {
                break;
            };
            match answer.await {
                Some(Committed::Yes { .. }) => self.done += 1,
                Some(Committed::Conflict { .. }) => is_lost = true,
                None => return Err(ImportError::Refused),
            }
            let (done, total) = (self.done, self.total);
            // The next one says more.
            let _ = self.listener.try_send(Step::Progress { done, total });
        }
        Ok(!is_lost)
    }
}
