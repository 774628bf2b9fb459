//! The network between nodes, as links make it: for each ordered pair two connections, one for
//! each class, that its first node has dialed and alone writes on.
//!
//! Always holds:
//! - a message arrives whole, at most once, and in order with the others of its way and class;
//! - both connections of a way hold or neither counts; what was on its way when they broke is
//!   lost, but for the first few that the receiver already had in its buffers;
//! - nothing of an older connection comes once there is a newer one.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use warren_cluster_core::ids::NodeId;
use warren_cluster_core::link::{Class, Envelope};

use crate::rng::Rng;

/// Bytes without an acknowledgement for so long: the link is given up.
const SILENCE_MICROS: u64 = 1_000_000;
/// A process that is gone says so soon.
const RESET_MICROS: u64 = 30_000;
/// Between a link that is lost and the next attempt.
const REDIAL_MICROS: u64 = 400_000;
/// How long the shortest way takes.
const DELAY_MICROS: u64 = 100;
/// What takes longer may come too late for whoever waits for it.
const SLOW_MICROS: u64 = 100_000;

/// Which nodes run and what they know, as far as links care.
pub(crate) trait Nodes {
    /// The life of a node that runs.
    fn life(&self, node: NodeId) -> Option<u64>;
    /// Whether the node is to have a link to the other one.
    fn knows(&self, node: NodeId, other: NodeId) -> bool;
}

/// What a node hears.
#[derive(Debug)]
pub(crate) enum Event {
    Received { from: NodeId, envelope: Bytes },
    Connected(NodeId),
    Lost(NodeId),
}

/// How the network is at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Of 1,000 messages, those that find no room.
    pub(crate) lost: u64,
    /// A message takes up to so much longer.
    pub(crate) delay_micros: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Net {
    ways: BTreeMap<(NodeId, NodeId), Way>,
    pub(crate) weather: Weather,
}

#[derive(Debug, Default)]
struct Way {
    /// The life of the receiver that it was dialed to.
    up: Option<u64>,
    /// Nothing passes.
    blocked: bool,
    /// Every message takes so much longer.
    slow_micros: u64,
    queues: [VecDeque<(u64, Bytes)>; 3],
    /// When its node notices that it is broken.
    notice_at: Option<u64>,
    dial_at: u64,
}

impl Way {
    /// It is closed: of what is on its way the receiver has the first few.
    fn close(&mut self, arrives: bool, now: u64, rng: &mut Rng) {
        self.up = None;
        self.notice_at = None;
        self.dial_at = now + rng.below(REDIAL_MICROS);
        for queue in &mut self.queues {
            let left = if arrives {
                rng.below(queue.len() as u64 + 1) as usize
            } else {
                0
            };
            queue.truncate(left);
        }
    }
}

impl Net {
    /// A node joins those that there are.
    pub(crate) fn add(&mut self, node: NodeId, others: impl Iterator<Item = NodeId>) {
        for other in others {
            self.ways.insert((node, other), Way::default());
            self.ways.insert((other, node), Way::default());
        }
    }

    /// Nothing passes from one to the other, until [`Self::unblock`].
    pub(crate) fn block(&mut self, from: NodeId, to: NodeId) {
        if let Some(way) = self.ways.get_mut(&(from, to)) {
            way.blocked = true;
        }
    }

    /// One of the ways that are blocked is open again; false when none is.
    pub(crate) fn unblock(&mut self, rng: &mut Rng) -> bool {
        let mut blocked: Vec<_> = self.ways.values_mut().filter(|way| way.blocked).collect();
        if blocked.is_empty() {
            return false;
        }
        let at = rng.below(blocked.len() as u64) as usize;
        blocked[at].blocked = false;
        true
    }

    /// A way takes longer from here on.
    pub(crate) fn slow(&mut self, from: NodeId, to: NodeId, micros: u64) {
        if let Some(way) = self.ways.get_mut(&(from, to)) {
            way.slow_micros = micros;
        }
    }

    /// All is well.
    pub(crate) fn heal(&mut self) {
        self.weather = Weather::default();
        for way in self.ways.values_mut() {
            way.blocked = false;
            way.slow_micros = 0;
        }
    }

    /// A node's process is gone.
    pub(crate) fn died(&mut self, node: NodeId, now: u64, rng: &mut Rng) {
        for ((from, to), way) in &mut self.ways {
            if *from == node {
                way.close(true, now, rng);
            } else if *to == node {
                way.queues.iter_mut().for_each(VecDeque::clear);
            }
        }
    }

    /// Whether every message from one node to the other comes, and soon.
    pub(crate) fn is_calm(&self, from: NodeId, to: NodeId) -> bool {
        let soon = |way: &Way| way.slow_micros + self.weather.delay_micros <= SLOW_MICROS;
        let way = self.ways.get(&(from, to));
        let calm = way.is_some_and(|way| way.up.is_some() && !way.blocked && soon(way));
        calm && self.weather.lost == 0
    }

    /// Whether all ways between the node and the others are there.
    pub(crate) fn reaches_all(&self, node: NodeId, nodes: &impl Nodes) -> bool {
        let mut ways = self.ways.iter();
        ways.all(|((from, to), way)| {
            let other = if *from == node { *to } else { *from };
            let concerns = *from == node || *to == node;
            !concerns || way.up.is_some() || nodes.life(other).is_none()
        })
    }

    /// Sends what a node has for another one.
    pub(crate) fn post(&mut self, from: NodeId, mail: &Envelope, now: u64, rng: &mut Rng) {
        let weather = self.weather;
        let Some(way) = self.ways.get_mut(&(from, mail.to)) else {
            return;
        };
        if way.up.is_none() || rng.permille(weather.lost) {
            return;
        }
        let class = match mail.class {
            Class::Control => 0,
            Class::Data => 1,
            Class::Effects => 2,
        };
        let delay = rng.below(DELAY_MICROS * 4) + rng.below(weather.delay_micros + 1);
        let at = now + DELAY_MICROS + delay + way.slow_micros;
        way.queues[class].push_back((at, Bytes::from(mail.parts.concat())));
    }

    /// What happened by now, in the order of the nodes that hear of it.
    pub(crate) fn turn(
        &mut self,
        nodes: &impl Nodes,
        now: u64,
        rng: &mut Rng,
    ) -> Vec<(NodeId, Event)> {
        let mut events = Vec::new();
        let blocked: Vec<_> = self.ways.iter().filter(|it| it.1.blocked).collect();
        let blocked: Vec<(NodeId, NodeId)> = blocked.into_iter().map(|it| *it.0).collect();
        for (&(from, to), way) in &mut self.ways {
            let arrives = nodes.life(to).is_some() && !way.blocked;
            if nodes.life(from).is_some() {
                // Acknowledgements come the other way.
                let silent = way.blocked || blocked.contains(&(to, from));
                turn_way(way, (from, to), silent, nodes, now, rng, &mut events);
            }
            let due = |letter: &mut (u64, Bytes)| arrives && letter.0 <= now;
            for queue in &mut way.queues {
                while let Some((_, envelope)) = queue.pop_front_if(due) {
                    events.push((to, Event::Received { from, envelope }));
                }
            }
        }
        events
    }
}

/// Looks whether the way from a node that runs holds.
fn turn_way(
    way: &mut Way,
    (from, to): (NodeId, NodeId),
    silent: bool,
    nodes: &impl Nodes,
    now: u64,
    rng: &mut Rng,
    events: &mut Vec<(NodeId, Event)>,
) {
    let life = nodes.life(to);
    let knows = nodes.knows(from, to);
    let Some(of) = way.up else {
        if knows && !silent && now >= way.dial_at && life.is_some() {
            way.queues.iter_mut().for_each(VecDeque::clear);
            way.up = life;
            events.push((from, Event::Connected(to)));
        }
        return;
    };
    let gone = life != Some(of);
    if knows && !gone && !silent {
        way.notice_at = None;
        return;
    }
    let notice_at = *way.notice_at.get_or_insert_with(|| {
        let latest = if silent {
            SILENCE_MICROS / 3
        } else {
            RESET_MICROS
        };
        now + if silent { SILENCE_MICROS } else { 0 } + rng.below(latest)
    });
    // One that has come back resets what its earlier life was sent.
    let reset = gone && life.is_some();
    if !knows || reset || now >= notice_at {
        way.close(!gone && !way.blocked, now, rng);
        events.push((from, Event::Lost(to)));
    }
}
