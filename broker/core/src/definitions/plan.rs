//! An import as a plan: what each object of a file comes to against a topology, and the
//! transactions that make it so.
//!
//! Invariants:
//! - users, vhosts and permissions are one unit, the contents of each vhost are another; a unit in
//!   which anything conflicts or is unsupported has no transactions at all;
//! - a transaction fits one log entry, and its preconditions are what the plan saw: a lost race is
//!   a conflict, and a new plan does the rest;
//! - transactions are in an order in which every one leaves definitions that are whole: what
//!   others need comes first, what needs others goes first.
//!
//! A unit that fits one entry is applied whole or not at all; a larger one is applied in parts,
//! and after a failure the same import, planned again, goes on where it ended
//! (docs/decisions/0009).

mod chunks;
mod contents;
mod global;
mod prune;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use warren_cluster_core::rows::{RowKey, Transaction};

use self::chunks::Chunks;
use super::Store;
use super::interchange::{Definitions, ObjectKind, Section, Unsupported};
use crate::topology::Topology;

pub(crate) use chunks::Gathered;
pub use chunks::TRANSACTION_BYTES_MAX;

/// How to plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlanOptions {
    /// Whether what the file could have and has not is deleted.
    pub prune: bool,
    /// Drawn anew for each plan: where queues go, and the salts of passwords.
    pub random: u64,
    /// Queue shards of the cluster: 1..=`shards`.
    pub shards: u32,
}

/// What an import comes to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Every object of the file, and with pruning those that go; by unit, in the order in which
    /// they are made and deleted.
    pub entries: Vec<Entry>,
    /// Units of which nothing is applied.
    pub blocked: Vec<Blocked>,
    /// What to commit, in this order. After one that is refused, plan again.
    pub transactions: Vec<Planned>,
    /// What was left out of the file without harm.
    pub notes: Vec<String>,
}

/// An object and what is to be done with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub kind: ObjectKind,
    /// `None` for what belongs to the whole cluster.
    pub vhost: Option<Arc<str>>,
    pub name: String,
    pub action: Action,
    /// Why, or what changes; empty where there is nothing to say.
    pub cause: String,
}

/// What is to be done with an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    Create,
    Change,
    /// It is there already.
    Same,
    /// It cannot be as the file has it, because of what is there.
    Conflict,
    /// Warren does not have it.
    Unsupported,
    Delete,
}

/// What is applied as a whole or not at all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unit {
    /// Users, vhosts, permissions.
    Cluster,
    /// What is in a vhost.
    Vhost(Arc<str>),
}

/// A unit of which nothing is applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocked {
    pub unit: Unit,
    pub cause: String,
}

/// A transaction and the store that it is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    pub unit: Unit,
    pub store: Store,
    pub transaction: Transaction,
}

/// Plans the import of a file into what `topology` shows.
#[must_use]
pub fn plan(definitions: &Definitions, topology: &Topology, options: &PlanOptions) -> Plan {
    let planner = Planner {
        definitions,
        topology,
        options,
    };
    let mut plan = Plan {
        notes: definitions.notes.clone(),
        ..Plan::default()
    };
    let mut cluster = UnitPlan::new(Unit::Cluster);
    let leaving = planner.leaving();
    planner.global(&leaving, &mut cluster);
    let cluster_is_blocked = cluster.is_blocked();
    let deletions = std::mem::take(&mut cluster.deletes);
    plan.take(cluster);
    for vhost in planner.vhosts() {
        let mut unit = UnitPlan::new(Unit::Vhost(Arc::from(vhost)));
        planner.contents(vhost, cluster_is_blocked, &mut unit);
        plan.take(unit);
    }
    // Only when nothing refers to them any more do users and vhosts go themselves.
    if !cluster_is_blocked {
        for vhost in &leaving.vhosts {
            let mut unit = UnitPlan::new(Unit::Vhost(Arc::clone(vhost)));
            planner.empty_vhost(vhost, &mut unit);
            plan.take(unit);
        }
        plan.take_transactions(&Unit::Cluster, deletions);
    }
    plan
}

impl Plan {
    /// Whether all of the file can be applied.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.blocked.is_empty()
    }

    /// How many entries have this action.
    #[must_use]
    pub fn count(&self, action: Action) -> usize {
        let of = |entry: &&Entry| entry.action == action;
        self.entries.iter().filter(of).count()
    }

    fn take(&mut self, unit: UnitPlan) {
        let wrong = unit.wrong();
        if let Some(cause) = unit.blocked.clone().or(wrong) {
            let unit = unit.unit.clone();
            self.blocked.push(Blocked { unit, cause });
        } else {
            self.take_transactions(&unit.unit, unit.puts);
            self.take_transactions(&unit.unit, unit.deletes);
        }
        self.entries.extend(unit.entries);
    }

    fn take_transactions(&mut self, unit: &Unit, chunks: Chunks) {
        let planned = chunks.finish();
        self.transactions
            .extend(planned.map(|(store, transaction)| Planned {
                unit: unit.clone(),
                store,
                transaction,
            }));
    }
}

impl Action {
    /// What people are shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Same => "same",
            Self::Conflict => "conflict",
            Self::Unsupported => "unsupported",
            Self::Delete => "delete",
        }
    }

    /// Whether it keeps its whole unit from being applied.
    #[must_use]
    pub fn blocks(self) -> bool {
        match self {
            Self::Conflict | Self::Unsupported => true,
            Self::Create | Self::Change | Self::Same | Self::Delete => false,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `create queue 'q' in vhost '/'`, and why.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ObjectKind::Binding | ObjectKind::Permission => {
                write!(f, "{} {} {}", self.action, self.kind, self.name)?;
            }
            _ => write!(f, "{} {} '{}'", self.action, self.kind, self.name)?,
        }
        if let Some(vhost) = &self.vhost {
            write!(f, " in vhost '{vhost}'")?;
        }
        if !self.cause.is_empty() {
            write!(f, ": {}", self.cause)?;
        }
        Ok(())
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("users, vhosts and permissions"),
            Self::Vhost(name) => write!(f, "vhost '{name}'"),
        }
    }
}

/// What a plan is made from.
#[derive(Clone, Copy)]
struct Planner<'a> {
    definitions: &'a Definitions,
    topology: &'a Topology,
    options: &'a PlanOptions,
}

/// A unit that is being planned.
struct UnitPlan {
    unit: Unit,
    entries: Vec<Entry>,
    /// Why nothing of it can be applied, besides its entries.
    blocked: Option<String>,
    puts: Chunks,
    deletes: Chunks,
    /// Rows that go, so that none goes twice.
    gone: BTreeSet<RowKey>,
}

impl Planner<'_> {
    fn has(&self, section: Section) -> bool {
        self.definitions.sections.contains(&section)
    }

    /// Whether objects of the whole cluster that the file lacks are deleted: never by a file of one
    /// vhost, whatever sections it has.
    fn prunes(&self, section: Section) -> bool {
        self.options.prune && self.definitions.vhost.is_none() && self.has(section)
    }

    /// The vhost in whose unit something unsupported is; `None`: it is in that of the cluster.
    fn vhost_of<'o>(&self, object: &'o Unsupported) -> Option<&'o str> {
        let limits_a_vhost = object.kind == ObjectKind::VhostLimit;
        let global = limits_a_vhost && self.definitions.vhost.is_none();
        object.vhost.as_deref().filter(|_| !global)
    }

    fn unsupported(&self, unit: &mut UnitPlan) {
        for object in &self.definitions.unsupported {
            let is_here = match (&unit.unit, self.vhost_of(object)) {
                (Unit::Cluster, None) => true,
                (Unit::Vhost(name), Some(vhost)) => **name == *vhost,
                (Unit::Cluster, Some(_)) | (Unit::Vhost(_), None) => false,
            };
            if is_here {
                unit.entries.push(Entry {
                    kind: object.kind,
                    vhost: object.vhost.as_deref().map(Arc::from),
                    name: object.name.clone(),
                    action: Action::Unsupported,
                    cause: object.cause.clone(),
                });
            }
        }
    }
}

impl UnitPlan {
    fn new(unit: Unit) -> Self {
        Self {
            unit,
            entries: Vec::new(),
            blocked: None,
            puts: Chunks::default(),
            deletes: Chunks::default(),
            gone: BTreeSet::new(),
        }
    }

    fn entry(
        &mut self,
        kind: ObjectKind,
        name: impl Into<String>,
        action: Action,
        cause: impl Into<String>,
    ) {
        let vhost = match &self.unit {
            Unit::Cluster => None,
            Unit::Vhost(name) => Some(Arc::clone(name)),
        };
        self.entries.push(Entry {
            kind,
            vhost,
            name: name.into(),
            action,
            cause: cause.into(),
        });
    }

    fn is_blocked(&self) -> bool {
        self.blocked.is_some() || self.entries.iter().any(|entry| entry.action.blocks())
    }

    /// What is wrong with its entries, in one line.
    fn wrong(&self) -> Option<String> {
        let count = |action| {
            let of = |entry: &&Entry| entry.action == action;
            self.entries.iter().filter(of).count()
        };
        match (count(Action::Conflict), count(Action::Unsupported)) {
            (0, 0) => None,
            (conflicts, 0) => Some(format!("{conflicts} in conflict")),
            (0, unsupported) => Some(format!("{unsupported} unsupported")),
            (conflicts, unsupported) => Some(format!(
                "{conflicts} in conflict, {unsupported} unsupported"
            )),
        }
    }
}
