//! A cluster that does what plans say, and complains about what they must not say.

use std::collections::{BTreeMap, BTreeSet};

use crate::consensus::{MemberChange, Members};
use crate::ids::{Index, NodeId, ReplicaId, ShardId, Time};
use crate::placement::{Action, Cluster, Node, NodeState, Options, Plan, Replica, Shard, plan};

const COMMITTED: Index = Index(1_000_000);
/// Turns that a learner needs to catch up.
const TURNS: u32 = 2;
/// More than enough for every change that a test makes.
const TURNS_MAX: usize = 4000;

pub(super) struct Toy {
    pub(super) cluster: Cluster,
    pub(super) options: Options,
    pub(super) now: Time,
    /// Copies that were made so far.
    pub(super) made: usize,
    next_node: u64,
    next_replica: u32,
    used: BTreeSet<ReplicaId>,
    behind: BTreeMap<ReplicaId, u32>,
}

impl Toy {
    /// One node that has all shards, the definitions and `shards` others.
    pub(super) fn new(shards: u32, zone: &str) -> Self {
        let mut toy = Self {
            cluster: Cluster::default(),
            options: Options {
                weight_gain_min_bytes: 1,
                ..Options::default()
            },
            now: Time(1_000_000_000),
            made: 0,
            next_node: 1,
            next_replica: 1,
            used: BTreeSet::new(),
            behind: BTreeMap::new(),
        };
        let node = toy.add(zone);
        for shard in 0..=shards {
            let id = toy.fresh(node);
            let replica = Replica {
                id,
                matched: Some(COMMITTED),
                replaces: None,
            };
            toy.cluster.shards.push(Shard {
                id: ShardId(shard),
                members: Members {
                    voters: vec![id],
                    ..Members::default()
                },
                replicas: vec![replica],
                leader: Some(node),
                committed: COMMITTED,
                weight: 100,
                is_busy: false,
            });
        }
        toy
    }

    fn fresh(&mut self, node: NodeId) -> ReplicaId {
        let id = ReplicaId::new(node, self.next_replica);
        self.next_replica += 1;
        assert!(self.used.insert(id), "{id} is used again");
        id
    }

    pub(super) fn add(&mut self, zone: &str) -> NodeId {
        let id = NodeId(self.next_node);
        self.next_node += 1;
        self.cluster.nodes.push(Node {
            id,
            zone: zone.to_owned(),
            state: NodeState::Active,
            down_since: None,
        });
        id
    }

    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        let found = self.cluster.nodes.iter_mut().find(|node| node.id == id);
        found.expect("a node of the cluster")
    }

    pub(super) fn set(&mut self, id: NodeId, state: NodeState) {
        self.node(id).state = state;
    }

    pub(super) fn kill(&mut self, id: NodeId) {
        let now = self.now;
        self.node(id).down_since.get_or_insert(now);
        self.elect();
    }

    pub(super) fn revive(&mut self, id: NodeId) {
        self.node(id).down_since = None;
    }

    pub(super) fn wait_out_the_delay(&mut self) {
        self.now.0 += self.options.replace_after_millis;
    }

    pub(super) fn is_alive(&self, id: NodeId) -> bool {
        let found = self.cluster.nodes.iter().find(|node| node.id == id);
        found.is_some_and(|node| node.down_since.is_none())
    }

    pub(super) fn plan(&self) -> Plan {
        plan(&self.cluster, &self.options, self.now)
    }

    /// A copy lost what it had: another one on its node takes its place.
    pub(super) fn replace_in_place(&mut self, shard: usize, lost: ReplicaId) {
        let id = self.fresh(lost.node());
        self.behind.insert(id, TURNS);
        self.cluster.shards[shard].replicas.push(Replica {
            id,
            matched: None,
            replaces: Some(lost),
        });
    }

    /// Plans and does until there is nothing to do. Gives how many turns that took.
    pub(super) fn settle(&mut self) -> usize {
        for turn in 0..TURNS_MAX {
            if !self.turn() {
                return turn;
            }
        }
        panic!("no end: {:#?}", self.plan());
    }

    /// One plan, and what comes of it. Gives whether anything was, or is, to be done.
    pub(super) fn turn(&mut self) -> bool {
        self.elect();
        let plan = self.plan();
        assert_eq!(plan, self.plan(), "the same facts give the same plan");
        let copying = self.copying();
        for step in &plan.steps {
            self.act(&step.action);
        }
        assert!(self.copying() <= copying.max(self.options.copying_max));
        let joint = self.leave_joint();
        let copied = self.copy();
        self.forget_the_empty();
        !plan.steps.is_empty() || joint || copied
    }

    fn copying(&self) -> usize {
        let ids = self.behind.keys();
        ids.filter(|id| self.is_alive(id.node())).count()
    }

    fn act(&mut self, action: &Action) {
        let at = self
            .cluster
            .shards
            .iter()
            .position(|it| it.id == action.shard());
        let at = at.expect("a shard of the cluster");
        match action {
            Action::Assign { node, replaces, .. } => {
                let here = &self.cluster.shards[at].replicas;
                assert!(
                    here.iter()
                        .all(|it| it.id.node() != *node || Some(it.id) == *replaces)
                );
                assert!(self.is_alive(*node));
                let id = self.fresh(*node);
                self.behind.insert(id, TURNS);
                self.made += 1;
                self.cluster.shards[at].replicas.push(Replica {
                    id,
                    matched: None,
                    replaces: *replaces,
                });
            }
            Action::Transfer { to, .. } => {
                let shard = &self.cluster.shards[at];
                assert!(shard.members.voters.contains(to) && self.is_alive(to.node()));
                assert_ne!(shard.leader, Some(to.node()));
                self.cluster.shards[at].leader = Some(to.node());
            }
            Action::Change { changes, .. } => self.change(at, changes),
        }
    }

    fn change(&mut self, at: usize, changes: &[MemberChange]) {
        let before = self.cluster.shards[at].members.clone();
        assert!(before.outgoing.is_empty(), "one change at a time");
        let mut after = before.clone();
        for change in changes {
            let (MemberChange::Learner(id) | MemberChange::Voter(id) | MemberChange::Remove(id)) =
                change;
            after.voters.retain(|it| it != id);
            after.learners.retain(|it| it != id);
            match change {
                MemberChange::Learner(_) => after.learners.push(*id),
                MemberChange::Voter(_) => {
                    assert!(before.learners.contains(id), "learner first");
                    assert!(!self.behind.contains_key(id), "{id} has not caught up");
                    after.voters.push(*id);
                }
                MemberChange::Remove(_) => {
                    self.behind.remove(id);
                    self.cluster.shards[at].replicas.retain(|it| it.id != *id);
                }
            }
        }
        after.voters.sort_unstable();
        after.learners.sort_unstable();
        self.check_change(&before, &after, self.cluster.shards[at].id);
        let leader = self.cluster.shards[at].leader;
        assert!(after.voters.iter().any(|id| Some(id.node()) == leader));
        if before.voters != after.voters {
            after.outgoing = before.voters;
        }
        self.cluster.shards[at].members = after;
    }

    /// How many more of its nodes a shard can lose.
    fn spare(&self, members: &Members) -> Option<usize> {
        let alive = members.voters.iter().filter(|id| self.is_alive(id.node()));
        alive.count().checked_sub(members.voters.len() / 2 + 1)
    }

    fn check_change(&self, before: &Members, after: &Members, shard: ShardId) {
        let (had, has) = (self.spare(before), self.spare(after));
        assert!(had.is_some() && has.is_some(), "{shard}: no majority");
        let shrinks = after.voters.len() < before.voters.len();
        let too_many = before.voters.len() > self.voters_wanted(shard);
        assert!(
            has >= had || (shrinks && too_many),
            "{shard}: {before:?} {after:?}"
        );
        let replaced: Vec<_> = self.rows(shard).filter_map(|row| row.replaces).collect();
        let lasting = after.all().filter(|id| !replaced.contains(id));
        let mut nodes: Vec<_> = lasting.map(ReplicaId::node).collect();
        let count = nodes.len();
        nodes.dedup();
        assert_eq!(nodes.len(), count, "two on a node");
    }

    fn rows(&self, shard: ShardId) -> impl Iterator<Item = &Replica> {
        let shards = self.cluster.shards.iter();
        let of = shards.filter(move |it| it.id == shard);
        of.flat_map(|shard| &shard.replicas)
    }

    pub(super) fn copies_wanted(&self, shard: ShardId) -> usize {
        let nodes = self.cluster.nodes.iter();
        let room = nodes
            .filter(|node| node.state != NodeState::Removed)
            .count();
        match shard {
            ShardId::DEFINITIONS => room,
            _ => room.min(self.options.replication),
        }
    }

    pub(super) fn voters_wanted(&self, shard: ShardId) -> usize {
        let most = match shard {
            ShardId::DEFINITIONS => self.options.definitions_voters,
            _ => self.options.replication,
        };
        let copies = self.copies_wanted(shard).min(most);
        if copies % 2 == 0 {
            copies.saturating_sub(1)
        } else {
            copies
        }
    }

    fn leave_joint(&mut self) -> bool {
        let mut any = false;
        for shard in &mut self.cluster.shards {
            any |= !shard.members.outgoing.is_empty();
            shard.members.outgoing.clear();
        }
        any
    }

    fn copy(&mut self) -> bool {
        let mut any = false;
        let alive: Vec<_> = self.behind.keys().copied().collect();
        for id in alive
            .into_iter()
            .filter(|id| self.is_alive(id.node()))
            .collect::<Vec<_>>()
        {
            let shards = self.cluster.shards.iter_mut();
            let mut shards = shards.filter(|shard| shard.members.learners.contains(&id));
            let Some(shard) = shards.find(|shard| shard.leader.is_some()) else {
                continue;
            };
            any = true;
            let left = self.behind.get_mut(&id).expect("was listed");
            *left -= 1;
            if *left == 0 {
                self.behind.remove(&id);
                let row = shard.replicas.iter_mut().find(|row| row.id == id);
                row.expect("a member has a row").matched = Some(COMMITTED);
            }
        }
        any
    }

    fn forget_the_empty(&mut self) {
        let shards = &self.cluster.shards;
        let has = |id: NodeId| {
            let all = shards.iter().flat_map(|shard| &shard.replicas);
            all.into_iter().any(|row| row.id.node() == id)
        };
        let nodes = &mut self.cluster.nodes;
        nodes.retain(|node| node.state != NodeState::Removed || has(node.id));
    }

    fn elect(&mut self) {
        for at in 0..self.cluster.shards.len() {
            let shard = &self.cluster.shards[at];
            let leads = shard.leader.is_some_and(|node| self.is_alive(node));
            let decides = self.spare(&shard.members).is_some();
            let mut heirs = shard.members.voters.iter().map(|id| id.node());
            let heir = heirs.find(|node| self.is_alive(*node));
            let leader = shard.leader.filter(|_| leads).or(heir).filter(|_| decides);
            self.cluster.shards[at].leader = leader;
        }
    }

    /// Copies of queue shards on each node.
    pub(super) fn copies(&self) -> Vec<usize> {
        self.per_node(|shard, node| {
            let counts = shard.id != ShardId::DEFINITIONS;
            usize::from(counts && shard.members.on(node).is_some())
        })
    }

    pub(super) fn leaders(&self) -> Vec<usize> {
        self.per_node(|shard, node| usize::from(shard.leader == Some(node)))
    }

    pub(super) fn weights(&self) -> Vec<usize> {
        self.per_node(|shard, node| match shard.members.on(node) {
            Some(_) if shard.id != ShardId::DEFINITIONS => shard.weight as usize,
            _ => 0,
        })
    }

    fn per_node(&self, count: impl Fn(&Shard, NodeId) -> usize) -> Vec<usize> {
        let nodes = self.cluster.nodes.iter().map(|node| {
            let shards = self.cluster.shards.iter();
            shards.map(|shard| count(shard, node.id)).sum()
        });
        nodes.collect()
    }

    /// In how many zones a shard's voters are, at most how many in one.
    pub(super) fn zones(&self, shard: &Shard) -> (usize, usize) {
        let mut zones = BTreeMap::new();
        for voter in &shard.members.voters {
            let nodes = self.cluster.nodes.iter();
            let mut of = nodes.filter(|node| node.id == voter.node());
            let zone = of.next().map(|node| node.zone.as_str());
            *zones.entry(zone).or_insert(0) += 1;
        }
        (zones.len(), zones.values().copied().max().unwrap_or(0))
    }

    /// What must be so whenever nothing is left to do.
    pub(super) fn check_rest(&self) {
        let plan = self.plan();
        assert!(plan.steps.is_empty(), "{plan:#?}");
        for shard in &self.cluster.shards {
            let held = plan.held.iter().any(|(held, _)| *held == shard.id);
            let mut rows = shard.replicas.iter();
            let down = rows.any(|row| !self.is_alive(row.id.node()));
            if held || down {
                continue;
            }
            let members = &shard.members;
            let id = shard.id;
            assert_eq!(members.voters.len() % 2, 1, "{id}: {members:?}");
            assert_eq!(shard.replicas.len(), members.all().count(), "{id}");
        }
    }
}

/// The most is at most one more than the least.
pub(super) fn is_even(counts: &[usize]) -> bool {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0) <= 1
}
