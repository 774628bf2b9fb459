//! What must always hold, checked as it happens, by the names of the architecture page.
//!
//! The checker sees what clients see: what they published, what was confirmed, delivered and
//! acknowledged. It knows nothing of the broker's insides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use warren_cluster_core::ids::Time;

use crate::rng::Rng;

/// One publish, as far as one queue is concerned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageKey {
    pub queue: u32,
    pub publisher: u32,
    pub seq: u64,
}

/// A broken invariant and how it shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub invariant: &'static str,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.text)
    }
}

/// What is known of something that was declared or deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    Absent,
    Present,
    /// Asked for, and not answered.
    Unknown,
}

impl Known {
    /// What it becomes when it is asked to become `wanted`, until that is answered.
    #[must_use]
    pub fn unless(self, wanted: Self) -> Self {
        if self == wanted { self } else { Self::Unknown }
    }
}

/// What is known of a churning client's queue and its one binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Names {
    pub queue: Known,
    pub binding: Known,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Fate {
    confirmed: bool,
    refused: bool,
    /// The queue is not logged: it may go with the node.
    fragile: bool,
    /// It expires, but not before this.
    expiry: Option<Time>,
    deliveries: u32,
    acknowledged: bool,
    /// Since the acknowledgement nothing happened that could have lost it.
    ack_certain: bool,
    /// The node that has read the acknowledgement.
    acked_at: u64,
    /// Two consumers had it at once, one of them on a node that may have been ruled out: which of
    /// their acknowledgements counts is not known.
    contested: bool,
    /// It may have been on its way to a consumer that does not acknowledge when that one went.
    may_be_lost: bool,
}

/// Checks one run.
#[derive(Default)]
pub struct Checker {
    fates: BTreeMap<MessageKey, Fate>,
    /// The newest first delivery of a publisher's messages, by (consumer, queue, publisher).
    newest: BTreeMap<(u64, u32, u32), u64>,
    /// Queues whose declare was answered, and whether they may go with the node.
    declared: BTreeMap<u32, bool>,
    /// By churning client and slot.
    names: BTreeMap<(u32, u32), Names>,
    /// How often somebody has asked to bind a queue to what goes to all.
    binding: BTreeMap<u32, u32>,
    /// Those that are bound, and from when on at every node, by the clock on the wall.
    bound: BTreeMap<u32, Time>,
    violations: Vec<Violation>,
    /// Messages that a consumer has and has not settled, and where it is connected.
    held: BTreeMap<MessageKey, (u64, u64)>,
    /// Acknowledged, and not known to be in the log.
    unsettled: BTreeSet<MessageKey>,
    /// Nodes that others may have ruled out: what their clients hold may go to others.
    doubtful: BTreeSet<u64>,
    /// Queues that consumers which take without acknowledging went from.
    auto_acked: BTreeSet<u32>,
    /// The node whose client is at it; 0 where there is but one.
    pub node: u64,
    /// How far a node's clock on the wall may be ahead of the true one, in milliseconds.
    pub ahead: u64,
    /// The clock on the wall.
    pub now: Time,
    /// What happened to which message, for the trace: whoever steps the clients takes it.
    pub notes: Vec<(&'static str, MessageKey)>,
    pub published: u64,
    pub confirmed: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
    /// Queues with names of the server's, and their nodes.
    callers: BTreeMap<String, u64>,
    /// By two nodes: whether they may not hear of each other in time, and how often that began.
    apart: BTreeMap<(u64, u64), (bool, u64)>,
    /// Publishes to such queues, and those of them that must have found their queue.
    pub calls: u64,
    pub calls_certain: u64,
    /// Clients that were told that something cannot be done at the moment.
    pub unavailable: u64,
}

/// How long a node may act on definitions that it had.
const STALENESS_MILLIS: u64 = 1_000;

impl Checker {
    /// A client was told the name of its queue.
    pub fn can_be_called(&mut self, name: &str, node: u64) {
        self.callers.insert(name.to_owned(), node);
    }

    /// A client's queue is gone, or may be.
    pub fn hung_up(&mut self, name: &str) {
        self.callers.remove(name);
    }

    /// One of the queues that clients have been told of, and what to ask about it with later.
    pub fn someone_to_call(&self, rng: &mut Rng) -> Option<(String, u64)> {
        let count = self.callers.len() as u64;
        let at = (count > 0).then(|| rng.below(count))?;
        let (name, host) = self.callers.iter().nth(at as usize)?;
        Some((name.clone(), self.apart_from(*host).1))
    }

    /// Whether the client's node and this one are apart, and how often they were.
    fn apart_from(&self, host: u64) -> (bool, u64) {
        let nodes = (host.min(self.node), host.max(self.node));
        let apart = self.apart.get(&nodes).copied().unwrap_or_default();
        (apart.0 && host != self.node, apart.1)
    }

    /// A mandatory publish to such a queue has its answer; it began when the nodes had been apart
    /// so often.
    pub fn called(&mut self, name: &str, apart_count: u64, returned: bool) {
        self.calls += 1;
        let Some(&host) = self.callers.get(name) else {
            return;
        };
        if self.is_doubtful_with(host) || self.apart_from(host) != (false, apart_count) {
            return;
        }
        self.calls_certain += 1;
        if returned {
            let at = self.node;
            let text = format!("queue {name} of node {host} is unknown at node {at}");
            self.violate("declared-is-declared", text);
        }
    }

    /// Whether two nodes may not hear of each other in time; the smaller one first.
    pub fn set_apart(&mut self, nodes: (u64, u64), apart: bool) {
        let (before, count) = self.apart.entry(nodes).or_default();
        *count += u64::from(apart && !*before);
        *before = apart;
    }

    /// A publish leaves its client, with a time to live in milliseconds if it has one.
    pub fn published(&mut self, key: MessageKey, fragile: bool, ttl: Option<u64>) {
        self.published += 1;
        self.notes.push(("published", key));
        self.fates.insert(
            key,
            Fate {
                fragile,
                expiry: ttl.map(|millis| Time(self.now.0 + millis)),
                ..Fate::default()
            },
        );
    }

    pub fn confirmed(&mut self, key: MessageKey) {
        self.notes.push(("confirmed", key));
        if let Some(fate) = self.fates.get_mut(&key) {
            fate.confirmed = true;
            self.confirmed += 1;
        }
    }

    pub fn refused(&mut self, key: MessageKey) {
        self.notes.push(("refused", key));
        if let Some(fate) = self.fates.get_mut(&key) {
            fate.refused = true;
        }
    }

    /// A message reached a consumer. `whole` says whether its bytes were those published.
    pub fn delivered(&mut self, consumer: u64, key: MessageKey, redelivered: bool, whole: bool) {
        self.delivered += 1;
        self.notes.push((
            if redelivered {
                "redelivered"
            } else {
                "delivered"
            },
            key,
        ));
        self.redelivered += u64::from(redelivered);
        let Some(fate) = self.fates.get_mut(&key) else {
            self.violate(
                "no-ghosts",
                format!("{key:?} was delivered and never published"),
            );
            return;
        };
        fate.deliveries += 1;
        let Fate {
            deliveries,
            ack_certain,
            refused,
            ..
        } = *fate;
        self.holds(consumer, key);
        if !whole {
            self.violate(
                "no-ghosts",
                format!("{key:?} has other bytes than were published"),
            );
        }
        if refused {
            self.violate("no-ghosts", format!("{key:?} was nacked to its publisher"));
        }
        // What a leader sent to a node that it then ruled out may come late.
        let late = self.is_doubtful();
        if ack_certain && !late {
            self.violate(
                "no-ghosts",
                format!("{key:?} came back after it was acknowledged"),
            );
        }
        if redelivered {
            return;
        }
        if deliveries > 1 && !late {
            let text = format!("{key:?} came {deliveries} times, now as if for the first time");
            self.violate("once-in", text);
        }
        let newest = self
            .newest
            .entry((consumer, key.queue, key.publisher))
            .or_default();
        let before = std::mem::replace(newest, key.seq.max(*newest));
        if before > key.seq {
            self.violate("fifo", format!("{key:?} came after {before}"));
        }
    }

    /// A consumer gets a message that another one may have.
    fn holds(&mut self, consumer: u64, key: MessageKey) {
        let before = self.held.insert(key, (consumer, self.node));
        let Some((other, at)) = before.filter(|(other, _)| *other != consumer) else {
            return;
        };
        if !self.is_doubtful_with(at) {
            let text = format!("{key:?} went to consumer {consumer} while {other} had it");
            self.violate("held-once", text);
        }
        if let Some(fate) = self.fates.get_mut(&key) {
            fate.contested = true;
            fate.ack_certain = false;
        }
    }

    /// The consumer has the message no more: it was settled, or it is gone.
    pub fn released(&mut self, consumer: u64, key: MessageKey) {
        if self.held.get(&key).is_some_and(|(by, _)| *by == consumer) {
            self.held.remove(&key);
        }
    }

    /// A consumer's connection is gone.
    pub fn consumer_gone(&mut self, consumer: u64) {
        self.held.retain(|_, (by, _)| *by != consumer);
    }

    /// The broker has read the acknowledgement, but may have thrown it away: it has told the client
    /// that the connection ends.
    pub fn acknowledged_in_vain(&mut self, key: MessageKey) {
        self.acknowledged(key);
        if let Some(fate) = self.fates.get_mut(&key) {
            fate.ack_certain = false;
        }
    }

    /// The broker has read the acknowledgement.
    pub fn acknowledged(&mut self, key: MessageKey) {
        self.notes.push(("acknowledged", key));
        if let Some(fate) = self.fates.get_mut(&key) {
            self.acknowledged += u64::from(!fate.acknowledged);
            fate.acknowledged = true;
            fate.acked_at = self.node;
            fate.ack_certain = !fate.contested && !self.doubtful.contains(&self.node);
            if fate.ack_certain {
                self.unsettled.insert(key);
            }
        }
    }

    /// The node died: acknowledgements that were not in its log yet are lost with it, and so are
    /// messages of queues that have no log.
    pub fn node_died(&mut self) {
        self.unsure(self.node);
        self.node_stopped();
    }

    /// All that clients of the node have acknowledged is in the log, as it says.
    pub fn settled(&mut self, node: u64) {
        let fates = &self.fates;
        self.unsettled.retain(|key| match fates.get(key) {
            Some(fate) => fate.acked_at != node,
            None => false,
        });
    }

    /// Others may have ruled the node out, or not any more.
    pub fn set_doubtful(&mut self, node: u64, is_doubtful: bool) {
        let changed = if is_doubtful {
            self.doubtful.insert(node)
        } else {
            self.doubtful.remove(&node)
        };
        if !changed {
            return;
        }
        self.unsure(node);
        // Its consumers may hold what others get: only its own client does not know.
        let fates = &mut self.fates;
        self.held.retain(|key, (_, at)| {
            let stays = *at != node;
            if !stays && let Some(fate) = fates.get_mut(key) {
                fate.contested = true;
            }
            stays
        });
    }

    /// Others may have ruled out the node whose client is at it.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.doubtful.contains(&self.node)
    }

    /// Others may have ruled out that node, or the one whose client is at it.
    fn is_doubtful_with(&self, other: u64) -> bool {
        self.doubtful.contains(&other) || self.is_doubtful()
    }

    /// What clients of the node have acknowledged is not certain, unless it is in the log.
    fn unsure(&mut self, node: u64) {
        let fates = &mut self.fates;
        self.unsettled.retain(|key| match fates.get_mut(key) {
            Some(fate) if fate.acked_at == node => {
                fate.ack_certain = false;
                false
            }
            _ => true,
        });
    }

    /// The node stopped in order: only queues without a log are gone.
    pub fn node_stopped(&mut self) {
        self.newest.clear();
        self.fates.retain(|_, fate| !fate.fragile);
        self.declared.retain(|_, fragile| !*fragile);
    }

    /// A consumer went that takes without acknowledging: what was on its way is lost.
    pub fn auto_ack_consumer_lost(&mut self, queue: u32) {
        self.auto_acked.insert(queue);
        let bound = |publisher, seq| MessageKey {
            queue,
            publisher,
            seq,
        };
        for (_, fate) in self
            .fates
            .range_mut(bound(0, 0)..=bound(u32::MAX, u64::MAX))
        {
            fate.may_be_lost |= !fate.acknowledged;
        }
    }

    /// A node cannot say, or could not, that such consumers went: more is sent to them.
    pub fn doubt_auto_acks(&mut self) {
        for queue in self.auto_acked.clone() {
            self.auto_ack_consumer_lost(queue);
        }
    }

    /// A declare was answered.
    pub fn declared(&mut self, queue: u32, fragile: bool) {
        self.declared.insert(queue, fragile);
    }

    /// Whether a declare of the queue was answered, and it must still be there.
    #[must_use]
    pub fn is_declared(&self, queue: u32) -> bool {
        self.declared.contains_key(&queue)
    }

    /// Somebody asks to bind a queue to what goes to all.
    pub fn binds(&mut self, queue: u32) {
        *self.binding.entry(queue).or_default() += 1;
    }

    /// That was answered. The one who made it so was told when every node knew; of several any may
    /// have been told of what was still on its way to some nodes.
    pub fn bound(&mut self, queue: u32) {
        let alone = self.binding.get(&queue) == Some(&1);
        let since = Time(self.now.0 + if alone { 0 } else { STALENESS_MILLIS });
        let bound = self.bound.entry(queue).or_insert(since);
        *bound = since.min(*bound);
    }

    /// Whether what goes to all goes to this queue, at whatever node.
    #[must_use]
    pub fn is_bound(&self, queue: u32) -> bool {
        self.bound
            .get(&queue)
            .is_some_and(|since| *since <= self.now)
    }

    /// How many queues were declared.
    #[must_use]
    pub fn declared_count(&self) -> usize {
        self.declared.len()
    }

    /// A declare that was answered is not seen any more.
    pub fn declared_is_gone(&mut self, queue: u32, text: &str) {
        self.violate("declared-is-declared", format!("queue {queue}: {text}"));
    }

    /// What is known of a churning client's queue.
    #[must_use]
    pub fn names(&self, client: u32, slot: u32) -> Names {
        let absent = Names {
            queue: Known::Absent,
            binding: Known::Absent,
        };
        self.names.get(&(client, slot)).copied().unwrap_or(absent)
    }

    pub fn set_names(&mut self, client: u32, slot: u32, names: Names) {
        self.names.insert((client, slot), names);
    }

    /// A churning client does something, for the trace.
    pub fn note_names(&mut self, what: &'static str, client: u32, slot: u32) {
        let key = MessageKey {
            queue: slot,
            publisher: client,
            seq: 0,
        };
        self.notes.push((what, key));
    }

    /// Anything else that must not happen, by name.
    pub fn violate(&mut self, invariant: &'static str, text: String) {
        self.violations.push(Violation { invariant, text });
    }

    /// All queues were drained: every confirmed message must have been acknowledged by then, or
    /// have had the time to expire.
    pub fn drained(&mut self) {
        let now = self.now;
        let now = Time(now.0 + self.ahead);
        let may_expire = |fate: &Fate| fate.expiry.is_some_and(|expiry| expiry <= now);
        let lost: Vec<_> = self
            .fates
            .iter()
            .filter(|(_, fate)| fate.confirmed && !fate.acknowledged && !fate.may_be_lost)
            .filter(|(_, fate)| !may_expire(fate))
            .map(|(key, fate)| format!("{key:?} was confirmed and is gone ({fate:?})"))
            .take(10)
            .collect();
        for text in lost {
            self.violate("confirmed-survives", text);
        }
    }

    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seq: u64) -> MessageKey {
        MessageKey {
            queue: 1,
            publisher: 2,
            seq,
        }
    }

    fn names(checker: &Checker) -> Vec<&'static str> {
        checker
            .violations()
            .iter()
            .map(|violation| violation.invariant)
            .collect()
    }

    #[test]
    fn an_honest_run_has_no_violations() {
        let mut checker = Checker::default();
        for seq in 1..=3 {
            checker.published(key(seq), false, None);
            checker.confirmed(key(seq));
            checker.delivered(9, key(seq), false, true);
        }
        checker.delivered(9, key(2), true, true);
        for seq in 1..=3 {
            checker.acknowledged(key(seq));
        }
        checker.drained();
        assert_eq!(names(&checker), Vec::<&str>::new());
    }

    #[test]
    fn each_violation_has_its_name() {
        let mut checker = Checker::default();
        checker.delivered(9, key(1), false, true);
        checker.published(key(2), false, None);
        checker.published(key(3), false, None);
        checker.delivered(9, key(3), false, true);
        checker.delivered(9, key(2), false, true);
        checker.delivered(9, key(2), false, true);
        checker.acknowledged(key(3));
        checker.delivered(9, key(3), true, true);
        checker.published(key(4), false, None);
        checker.confirmed(key(4));
        checker.drained();
        assert_eq!(
            names(&checker),
            [
                "no-ghosts",
                "fifo",
                "once-in",
                "fifo",
                "no-ghosts",
                "confirmed-survives"
            ]
        );
    }

    #[test]
    fn what_expires_may_go_once_its_time_has_come() {
        let mut checker = Checker::default();
        checker.published(key(1), false, Some(50));
        checker.confirmed(key(1));
        checker.now = Time(50);
        checker.drained();
        assert_eq!(names(&checker), Vec::<&str>::new());
        checker.now = Time(49);
        checker.drained();
        assert_eq!(names(&checker), ["confirmed-survives"]);
    }

    #[test]
    fn an_unlogged_queue_may_go_with_its_node() {
        let mut checker = Checker::default();
        checker.published(key(1), true, None);
        checker.confirmed(key(1));
        checker.node_died();
        checker.drained();
        assert_eq!(names(&checker), Vec::<&str>::new());
    }
}
