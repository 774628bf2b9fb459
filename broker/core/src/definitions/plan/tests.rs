//! Files and topologies in, plans out; plans are applied to real rows and a real topology.

mod fixtures;
mod model;

mod pruning;
mod rules;

use warren_cluster_core::rows::{Committed, Rows};

use super::*;
use crate::definitions::diff::{Difference, diff};
use crate::definitions::interchange::{ExportOptions, Scope, parse};

/// Both stores and the topology that follows them.
struct World {
    topology: Topology,
    replicated: Rows,
    local: Rows,
}

const OPTIONS: PlanOptions = PlanOptions {
    prune: false,
    random: 7,
    shards: 4,
};
const PRUNE: PlanOptions = PlanOptions {
    prune: true,
    ..OPTIONS
};

fn export_options(scope: Scope<'_>) -> ExportOptions<'_> {
    ExportOptions {
        scope,
        internal_exchanges: true,
        rabbitmq_version: "4.3.0",
        product_version: "0.1.0",
        cluster_name: "test",
    }
}

impl World {
    fn new() -> Self {
        Self {
            topology: Topology::new(1),
            replicated: Rows::default(),
            local: Rows::default(),
        }
    }

    /// A world with what this file has.
    fn with(json: &str) -> Self {
        let mut world = Self::new();
        let plan = world.import(&read(json), &OPTIONS);
        assert_eq!(plan.blocked, []);
        world
    }

    fn commit(&mut self, store: Store, transaction: &Transaction) -> Committed {
        let rows = match store {
            Store::Replicated => &mut self.replicated,
            Store::Local => &mut self.local,
        };
        let mut changes = Vec::new();
        let committed = rows.transact(transaction, &mut changes);
        assert_eq!(self.topology.apply(store, &changes), Ok(()));
        committed
    }

    fn apply(&mut self, plan: &Plan) {
        for planned in &plan.transactions {
            let committed = self.commit(planned.store, &planned.transaction);
            assert!(matches!(committed, Committed::Yes { .. }), "{committed:?}");
        }
        assert_eq!(self.topology.dangling().count(), 0);
    }

    fn plan(&self, file: &Definitions, options: &PlanOptions) -> Plan {
        plan(file, &self.topology, options)
    }

    /// Plans and applies; planned again, nothing is left to do.
    fn import(&mut self, file: &Definitions, options: &PlanOptions) -> Plan {
        let plan = self.plan(file, options);
        self.apply(&plan);
        let again = self.plan(file, options);
        assert_eq!(again.transactions, []);
        plan
    }

    fn export(&self, scope: Scope<'_>) -> Definitions {
        let found = Definitions::of_topology(&self.topology, &export_options(scope));
        found.expect("what is exported can be read")
    }
}

fn read(json: &str) -> Definitions {
    parse(json.as_bytes(), None).expect("the file is right")
}

/// The entries that have something to say.
fn shown(plan: &Plan) -> Vec<String> {
    let entries = plan.entries.iter();
    let shown = entries.filter(|entry| entry.action != Action::Same || !entry.cause.is_empty());
    shown.map(ToString::to_string).collect()
}

fn blocked(plan: &Plan) -> Vec<String> {
    let line = |blocked: &Blocked| format!("{}: {}", blocked.unit, blocked.cause);
    plan.blocked.iter().map(line).collect()
}

#[track_caller]
fn assert_same(left: &Definitions, right: &Definitions) {
    let none: [Difference; 0] = [];
    assert_eq!(diff(left, right), none);
}
