//! Who lets nodes in, drains and removes them: one thing after the other, by asking any node that
//! serves, and again until the rows say that it is done.

use std::collections::VecDeque;

use warren_cluster_core::ids::NodeId;
use warren_cluster_core::members::NodeState;

use super::{Cluster, steward};
use crate::node::{Life, Node};

/// What did not happen is asked for again after this.
const AGAIN_MICROS: u64 = 500_000;
/// How often the operator looks.
const LOOK_MICROS: u64 = 20_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Task {
    Found,
    Grant,
    /// A node joins, with this key.
    Join {
        key: u64,
    },
    State {
        node: NodeId,
        state: NodeState,
    },
    /// Until it leads no shard.
    Relieved {
        node: NodeId,
    },
    /// Until it is no member any more, when the machine is switched off.
    Retired {
        node: NodeId,
    },
}

#[derive(Debug)]
pub(super) struct Operator {
    tasks: VecDeque<Task>,
    asked_at: Option<u64>,
    looked_at: u64,
    next_key: u64,
}

impl Operator {
    /// Has a cluster of so many nodes made.
    pub(super) fn new(nodes: u64) -> Self {
        let mut operator = Self {
            tasks: [Task::Found, Task::Grant].into(),
            asked_at: None,
            looked_at: 0,
            next_key: 1,
        };
        (1..nodes).for_each(|_| operator.join());
        operator
    }

    pub(super) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn push(&mut self, task: Task) {
        self.tasks.push_back(task);
    }

    pub(super) fn join(&mut self) {
        let key = self.next_key;
        self.next_key += 1;
        self.tasks.push_back(Task::Join { key });
    }

    /// What it is at, for a person.
    pub(super) fn task(&self) -> Option<Task> {
        self.tasks.front().copied()
    }
}

impl Cluster {
    /// The operator looks, and perhaps asks.
    pub(super) fn operate(&mut self) {
        if self.now < self.operator.looked_at + LOOK_MICROS {
            return;
        }
        self.operator.looked_at = self.now;
        let Some(task) = self.operator.task() else {
            return;
        };
        if self.is_done(task) {
            self.trace.say(|| format!("done: {task:?}"));
            self.operator.tasks.pop_front();
            self.operator.asked_at = None;
            return;
        }
        let waits = |at: u64| self.now < at + AGAIN_MICROS;
        if self.operator.asked_at.is_some_and(waits) {
            return;
        }
        let Some(at) = self.any_serving() else {
            return;
        };
        self.operator.asked_at = Some(self.now);
        let shards = self.temper.lane.shards;
        let Some(node) = &mut self.hosts[at].node else {
            return;
        };
        let directory = node.directory();
        let transaction = match task {
            Task::Found => Some(steward::found(node.id(), shards)),
            Task::Grant => Some(steward::grant(directory)),
            Task::Join { key } if steward::admitted(directory, key).is_none() => {
                steward::admit(directory, key)
            }
            Task::State { node, state } => directory.put_state(node, state),
            Task::Join { .. } | Task::Relieved { .. } | Task::Retired { .. } => None,
        };
        if let Some(transaction) = transaction {
            node.transact(transaction);
        }
    }

    /// The node that knows the newest definitions.
    fn best_view(&self) -> Option<&Node> {
        let nodes = self.hosts.iter().filter_map(|host| host.node.as_ref());
        let serving = nodes.filter(|node| node.life() == Life::Serving);
        serving.max_by_key(|node| node.version())
    }

    fn is_done(&mut self, task: Task) -> bool {
        let Some(view) = self.best_view() else {
            return false;
        };
        let directory = view.directory();
        match task {
            Task::Found => directory.cluster.is_some(),
            Task::Grant => steward::has_grant(directory),
            Task::State { node, state } => {
                let now = steward::state_of(directory, node);
                // One that nothing is on may be gone before anybody looks.
                now == Some(state) || now == Some(NodeState::Removed)
            }
            Task::Join { key } => {
                let Some((id, replica)) = steward::admitted(directory, key) else {
                    return false;
                };
                if self.host_of(id).is_none() {
                    self.trace.note("joins", id.0, self.now);
                    self.figures.joins += 1;
                    self.add_host(id, Some(replica));
                }
                true
            }
            Task::Relieved { node } => self.is_relieved(node),
            Task::Retired { node } => {
                let removed = steward::state_of(directory, node) == Some(NodeState::Removed);
                if removed {
                    self.retire(node);
                }
                removed
            }
        }
    }

    /// Whether a node leads nothing; it may keep a lead as long as there is no other leader that
    /// could say so.
    fn is_relieved(&self, of: NodeId) -> bool {
        let at = self.host_of(of);
        let node = at.and_then(|at| self.hosts[at].node.as_ref());
        self.unled().is_none() && node.is_none_or(|node| node.leads().is_empty())
    }

    fn retire(&mut self, node: NodeId) {
        self.trace.note("removed", node.0, self.now);
        self.figures.removals += 1;
        if let Some(at) = self.host_of(node) {
            self.die(at);
            self.hosts[at].gone = true;
        }
    }
}
