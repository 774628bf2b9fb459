//! Whether this node acts on the cluster's definitions as they were a moment ago (rule 10).
//!
//! A node asks the leader of shard 0 again and again. The answer names a version; once this node
//! acts on that one, its definitions are those of the moment at which it asked.
//!
//! Always holds:
//! - a node counts its definitions as fresh for `STALENESS_MILLIS_MAX` after such a moment and not
//!   longer: whoever commits a change waits for nodes that have not said that they act on it for
//!   just as long;
//! - a leader answers only inside its lease, with all that is agreed on applied.

use std::collections::BTreeMap;

use super::Lane;
use super::shared::STALENESS_MILLIS_MAX;
use crate::consensus::BEAT_MILLIS;
use crate::ids::{Instant, NodeId, ShardId};
use crate::link::{Mail, Parcel};
use crate::machine::Machine;
use crate::rows::Version;

/// How often the leader is asked: with each beat, as few answers may be lost.
const ASK_MILLIS: u64 = BEAT_MILLIS - 10;
/// Whoever has had an answer in this time can wait for the next.
const PATIENT_MILLIS: u64 = 4 * BEAT_MILLIS;

#[derive(Debug, Default)]
pub(super) struct Fresh {
    until: Instant,
    /// Nobody else may change the definitions, or wants to know them.
    alone: bool,
    /// Whom this node asked last, and when.
    asked: Option<(NodeId, Instant)>,
    /// When the oldest question was asked whose answer this node has not caught up with.
    behind: Option<(Instant, Version)>,
    /// Others that were fresh a moment ago, and what they acted on then, as the leader says.
    others: BTreeMap<NodeId, Version>,
    /// On the leader: questions that wait for an answer, by node: their stamps.
    asks: BTreeMap<NodeId, u64>,
    /// On the leader: when it last answered a node, and what that one acted on when it asked.
    granted: BTreeMap<NodeId, (Instant, Version)>,
}

impl Fresh {
    fn extend(&mut self, asked: Instant) {
        self.until = self.until.max(asked.plus_millis(STALENESS_MILLIS_MAX));
    }

    /// Whether all nodes that may be fresh, but for those that `asks_itself` names, have said that
    /// they act on these definitions.
    pub(super) fn others_have(
        &self,
        version: Version,
        asks_itself: impl Fn(NodeId) -> bool,
    ) -> bool {
        let mut others = self.others.iter();
        others.all(|(node, has)| *has >= version || asks_itself(*node))
    }

    /// There is no way to the node: what it asked is not answered.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.asks.remove(&node);
        self.asked.take_if(|(asked, _)| *asked == node);
    }

    /// Another node asks, and acts on these definitions.
    pub(super) fn ask(&mut self, from: NodeId, stamp: u64, known: Version) {
        self.asks.insert(from, stamp);
        let granted = self.granted.entry(from).or_default();
        granted.1 = known;
    }

    /// The leader's answer to what this node asked at `stamp`.
    pub(super) fn answered(
        &mut self,
        (stamp, version): (u64, Version),
        others: &[(NodeId, Version)],
        acts_on: Version,
        now: Instant,
    ) {
        let asked = Instant(stamp);
        // From before this process began, if anything.
        if asked > now {
            return;
        }
        self.others = others.iter().copied().collect();
        if acts_on >= version {
            self.extend(asked);
        } else {
            self.behind.get_or_insert((asked, version));
        }
    }

    /// This node acts on all definitions up to `version`.
    pub(super) fn caught_up(&mut self, version: Version) {
        if let Some((asked, _)) = self.behind.take_if(|(_, behind)| *behind <= version) {
            self.extend(asked);
        }
    }

    /// This node leads: answers those who asked.
    fn answer(&mut self, version: Version, now: Instant, mail: &mut Mail) {
        let mut in_need = Vec::new();
        for node in self.asks.keys() {
            if let Some(granted) = self.granted.get_mut(node) {
                if granted.0.plus_millis(PATIENT_MILLIS) < now {
                    in_need.push(*node);
                }
                granted.0 = now;
            }
        }
        let lasts = |at: Instant| now < at.plus_millis(STALENESS_MILLIS_MAX);
        self.granted.retain(|_, (at, _)| lasts(*at));
        let others = self.granted.iter().map(|(node, it)| (node, &it.1));
        // In nearly every step nobody asks, and nothing has changed.
        if !self.others.iter().eq(others.clone()) {
            self.others = others.map(|(node, it)| (*node, *it)).collect();
        }
        for (node, stamp) in std::mem::take(&mut self.asks) {
            let others = self.others.iter().filter(|(other, _)| **other != node);
            let parcel = Parcel::Fresh {
                stamp,
                version,
                nodes: others.map(|(other, it)| (*other, *it)).collect(),
            };
            if in_need.contains(&node) {
                mail.send(node, ShardId::DEFINITIONS, &parcel);
            } else {
                mail.send_with_beat(node, ShardId::DEFINITIONS, &parcel);
            }
        }
    }
}

impl<M: Machine, T: Copy> Lane<M, T> {
    /// Until when sessions may route by the definitions that this node acts on: later ones may be
    /// answered for at other nodes by then.
    #[must_use]
    pub fn fresh_until(&self) -> Instant {
        if self.fresh.alone || cfg!(warren_break = "stale_definitions") {
            Instant(u64::MAX)
        } else {
            self.fresh.until
        }
    }

    /// Asks the leader, when it is time.
    pub(super) fn ask_leader(&mut self, now: Instant) {
        let leader = self.rows[0].leader().map(|(_, leader)| leader);
        let Some(leader) = leader.filter(|leader| self.nodes.contains(leader)) else {
            return;
        };
        let due = |at: Instant| at.plus_millis(ASK_MILLIS) <= now;
        if self
            .fresh
            .asked
            .is_none_or(|(asked, at)| asked != leader || due(at))
        {
            self.fresh.asked = Some((leader, now));
            let ask = Parcel::Ask {
                stamp: now.0,
                known: self.shared.told(),
            };
            let mail = &mut self.store.mail;
            if now < self.fresh.until {
                mail.send_with_beat(leader, ShardId::DEFINITIONS, &ask);
            } else {
                mail.send(leader, ShardId::DEFINITIONS, &ask);
            }
        }
    }

    /// The end of a step: answers who asked, if this node leads, and looks how fresh it is itself.
    pub(super) fn stay_fresh(&mut self, now: Instant) {
        let version = self.rows[0].machine().version();
        self.fresh.caught_up(version);
        let replica = &self.rows[0];
        self.fresh.alone = replica.leads().is_some() && replica.consensus().is_alone();
        if self.fresh.alone {
            return;
        }
        let lease = replica.consensus().lease_until();
        if replica.leads().is_none() || lease <= now {
            self.fresh.asks.clear();
            self.fresh.granted.clear();
            return;
        }
        if replica.applied().0 >= replica.consensus().hard().commit {
            // Whoever decides alone may cease to.
            self.fresh.extend(if lease == Instant(u64::MAX) {
                now
            } else {
                lease
            });
            self.fresh.answer(version, now, &mut self.store.mail);
        }
    }
}
