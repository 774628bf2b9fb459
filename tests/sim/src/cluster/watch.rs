//! What is looked at while a run goes on: that replicas agree, that a term has one leader, whose
//! acknowledgements are certain.

use warren_cluster_core::ids::{NodeId, ShardId};

use super::host::Host;
use super::{Cluster, Running, steward};
use crate::node::{Life, Node};

/// A node may be ruled out that there is no way to for two seconds, by clocks that may run a
/// little too fast.
const RULED_OUT_MICROS: u64 = 1_900_000;
/// So much earlier it counts as ruled out: looks come now and then.
const SOON_MILLIS: u64 = 300;
/// Whoever ruled it out has heard of it again by then.
const HEARD_MICROS: u64 = 8_000_000;
/// Nodes that stood still, or had no way to each other, have heard of each other again by then: a
/// word that is due every 500 ms, at a tick, leaves with the next beat of all, 600 ms later at the
/// most, and is on its way for a while.
const CALM_AFTER_MICROS: u64 = 1_500_000;
/// Steps between two looks at what shards are, and at whose acknowledgements are certain.
const STATES_STEPS: u64 = 400;
const DOUBT_STEPS: u64 = 16;

impl Cluster {
    pub(super) fn watch(&mut self) {
        self.watch_roles();
        self.watch_calm();
        if self.step.is_multiple_of(DOUBT_STEPS) {
            self.watch_doubt();
            let nodes = self.hosts.iter().filter_map(|host| host.node.as_ref());
            let led = nodes.map(|node| {
                let led = node.leads().into_iter().map(|it| it.shard);
                node.message_count(&led.collect())
            });
            self.backlog = led.sum();
        }
        if self.step.is_multiple_of(STATES_STEPS) {
            self.watch_states();
        }
        self.tell_messages();
    }

    /// Which nodes are told in time what they ask each other.
    fn watch_calm(&mut self) {
        if self.temper.callers == 0 {
            return;
        }
        let is_well = |host: &Host| {
            let serves = |node: &Node| node.life() == Life::Serving;
            host.runs(self.now) && host.node.as_ref().is_some_and(serves)
        };
        let well = self.hosts.iter().filter(|host| is_well(host));
        let well: Vec<NodeId> = well.map(|host| host.id).collect();
        for host in &self.hosts {
            for other in self.hosts.iter().filter(|other| other.id > host.id) {
                let (a, b) = (host.id, other.id);
                let calm = well.contains(&a)
                    && well.contains(&b)
                    && self.net.is_calm(a, b)
                    && self.net.is_calm(b, a);
                let rough_until = self.rough_until.entry((a, b)).or_default();
                if !calm {
                    *rough_until = self.now + CALM_AFTER_MICROS;
                }
                let apart = self.now < *rough_until;
                self.checker.set_apart((a.0, b.0), apart);
            }
        }
    }

    /// A term of a shard has one leader, whatever is forgotten.
    pub(super) fn watch_roles(&mut self) {
        for at in 0..self.hosts.len() {
            let Some(node) = &mut self.hosts[at].node else {
                continue;
            };
            let id = node.id();
            for (shard, term) in node.take_led() {
                self.trace
                    .say(|| format!("node {id} leads shard {shard} in term {term}"));
                // Unlogged shards are each node's own.
                let first = if shard.is_unlogged() {
                    id
                } else {
                    *self.leads.entry((shard, term)).or_insert(id)
                };
                if first != id {
                    let text = format!("nodes {first} and {id} led shard {shard} in term {term}");
                    self.checker.violate("replicas-agree", text);
                }
            }
        }
    }

    /// Who may have been ruled out, and whose acknowledgements are in the log.
    pub(super) fn watch_doubt(&mut self) {
        let running = Running(&self.hosts);
        let reached: Vec<bool> = self
            .hosts
            .iter()
            .map(|host| host.node.is_some() && self.net.reaches_all(host.id, &running))
            .collect();
        let silent: Vec<bool> = self.hosts.iter().map(|it| self.is_silent(it.id)).collect();
        let seen = reached.into_iter().zip(silent);
        let mut any = false;
        for (host, (reached, silent)) in self.hosts.iter_mut().zip(seen) {
            if host.gone {
                continue;
            }
            if silent {
                host.doubtful_until = self.now + HEARD_MICROS;
            }
            match (reached, host.away_since) {
                (false, None) => host.away_since = Some(self.now),
                (true, Some(since)) => {
                    host.away_since = None;
                    if self.now >= since + RULED_OUT_MICROS {
                        host.doubtful_until = self.now + HEARD_MICROS;
                    }
                }
                _ => {}
            }
            let away = host.away_since;
            let ends = |node: &Node| node.life() != Life::Serving;
            let doubtful = host.node.as_ref().is_some_and(ends)
                || away.is_some_and(|since| self.now >= since + RULED_OUT_MICROS)
                || self.now < host.doubtful_until;
            self.checker.set_doubtful(host.id.0, doubtful);
            if !doubtful && host.node.as_ref().is_some_and(Node::owes_nothing) {
                self.checker.settled(host.id.0);
            }
            any |= doubtful;
        }
        if any {
            self.checker.doubt_auto_acks();
        }
    }

    /// Whether some node has no word of it for about so long that it may rule it out: because it,
    /// or the other one, stands still, or what it says takes long.
    fn is_silent(&self, of: NodeId) -> bool {
        let others = self.hosts.iter().filter(|host| host.id != of);
        { others }.any(|host| {
            let soon = host.now(self.now).mono.plus_millis(SOON_MILLIS);
            let node = host.node.as_ref();
            node.is_some_and(|node| node.misses(of, soon))
        })
    }

    /// replicas-agree: at equal applied entry, equal state.
    pub(super) fn watch_states(&mut self) {
        for at in 0..self.hosts.len() {
            self.watch_states_of(at);
        }
    }

    pub(super) fn watch_states_of(&mut self, at: usize) {
        let Some(node) = &self.hosts[at].node else {
            return;
        };
        let id = node.id();
        for it in node.fingerprints() {
            let key = (it.shard, it.applied.0);
            let (hash, first) = *self.states.entry(key).or_insert((it.hash, id));
            if hash != it.hash {
                let text = format!(
                    "shard {} at entry {}: nodes {first} and {id} differ",
                    it.shard, it.applied.0
                );
                self.checker.violate("replicas-agree", text);
            }
        }
    }

    /// A shard without a leader that is known to lead it.
    pub(super) fn unled(&self) -> Option<ShardId> {
        let shards = (0..=self.temper.lane.shards).map(ShardId);
        let nodes = self.hosts.iter().filter_map(|host| host.node.as_ref());
        let leads: Vec<ShardId> = nodes
            .flat_map(|node| node.leads().into_iter().map(|it| it.shard))
            .collect();
        shards.into_iter().find(|shard| !leads.contains(shard))
    }

    /// Every node that is to run does and serves, knows the same definitions, and every shard is
    /// where it should be.
    pub(super) fn is_settled(&self) -> bool {
        let hosts = self.hosts.iter().filter(|host| !host.gone);
        let look = self.look();
        let mut version = None;
        for host in hosts {
            let Some(node) = &host.node else {
                return false;
            };
            let same = *version.get_or_insert_with(|| node.version()) == node.version();
            if node.life() != Life::Serving || !same || !steward::is_settled(node, &look) {
                return false;
            }
        }
        self.unled().is_none()
    }

    /// What all nodes that run say of their replicas.
    pub(super) fn look(&self) -> steward::Look {
        steward::Look::at(self.hosts.iter().filter_map(|host| host.node.as_ref()))
    }

    /// Where things stand, for a person.
    pub(super) fn state(&self) -> String {
        let mut text = format!(
            "operator at {:?}; unled: {:?}; settled {}, level {}",
            self.operator.task(),
            self.unled(),
            self.is_settled(),
            self.is_level()
        );
        let look = self.look();
        for host in self.hosts.iter().filter(|host| !host.gone) {
            let Some(node) = &host.node else {
                text.push_str(&format!("; node {} is down", host.id));
                continue;
            };
            text.push_str(&format!(
                "; node {}: {:?}, version {}, settled {}, reaches {:?}, owes nothing {}, {}",
                host.id,
                node.life(),
                node.version().0,
                steward::is_settled(node, &look),
                node.reachable(),
                node.owes_nothing(),
                node.state(),
            ));
            let messages = node.message_count(&self.shards_of(node));
            let queues = node.queue_counts();
            text.push_str(&format!(" queues {queues:?} messages {messages}"));
            for it in node.shards() {
                text.push_str(&format!(
                    " [{}: leader {:?} applied {} committed {} voters {:?} learners {:?}]",
                    it.shard,
                    it.leader,
                    it.applied.0,
                    it.committed,
                    it.members.voters,
                    it.members.learners
                ));
            }
        }
        text
    }
}
