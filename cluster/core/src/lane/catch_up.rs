//! All unlogged rows that another node has by now, for whoever misses one that may be there: not
//! every row is waited for when it is made ([`WaitFor::Here`](crate::rows::WaitFor::Here)).
//!
//! Always holds:
//! - whoever asks gets all rows that their node had when it heard of the question, which is after
//!   it was asked;
//! - nobody waits longer than an answer waits for other nodes, nor for a node that is not heard of.

use std::collections::{BTreeSet, VecDeque};

use super::shared::STALENESS_MILLIS_MAX;
use super::{Course, Lane};
use crate::ids::{Instant, Life, NodeId, ShardId};
use crate::inbox::Outputs;
use crate::link::{Mail, Parcel};
use crate::machine::Machine;
use crate::rows::Version;

pub(super) struct CatchUps<T> {
    /// Of the question that this node asks next.
    stamp: u64,
    /// Whom it is for.
    asked: BTreeSet<NodeId>,
    /// In the order of their time.
    waiting: VecDeque<Waiting<T>>,
}

struct Waiting<T> {
    node: NodeId,
    stamp: u64,
    /// What the node had, once it has said so.
    version: Option<Version>,
    until: Instant,
    ticket: T,
}

impl<T> CatchUps<T> {
    pub(super) fn new(life: Life) -> Self {
        Self {
            // Nothing that a process before this one asked has such a stamp.
            stamp: life.0.wrapping_shl(40) | 1,
            asked: BTreeSet::new(),
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.until)
    }

    /// The node has said what it had when it was asked.
    pub(super) fn answered(&mut self, from: NodeId, stamp: u64, version: Version) {
        for waiting in &mut self.waiting {
            if waiting.node == from && waiting.stamp <= stamp {
                waiting.version.get_or_insert(version);
            }
        }
    }

    /// A tick: who has not been answered asks again.
    pub(super) fn tick(&mut self) {
        let unanswered = self.waiting.iter().filter(|it| it.version.is_none());
        self.asked.extend(unanswered.map(|it| it.node));
    }

    /// The end of a step: asks whom it has questions for.
    pub(super) fn ask(&mut self, known: Version, mail: &mut Mail) {
        if self.asked.is_empty() {
            return;
        }
        let stamp = self.stamp;
        for node in std::mem::take(&mut self.asked) {
            let ask = Parcel::Ask { stamp, known };
            mail.send(node, ShardId::LOCAL_DEFINITIONS, &ask);
        }
        self.stamp += 1;
    }

    /// Lets those go on who have what they want, or can wait no longer; `has` is what there is here
    /// of a node's rows, `None` where there is no way to it.
    pub(super) fn release(
        &mut self,
        now: Instant,
        has: impl Fn(NodeId) -> Option<Version>,
        out: &mut Vec<T>,
    ) where
        T: Copy,
    {
        self.waiting.retain(|waiting| {
            let has = has(waiting.node);
            let waits = waiting.until > now
                && has.is_some_and(|has| waiting.version.is_none_or(|wanted| wanted > has));
            if !waits {
                out.push(waiting.ticket);
            }
            waits
        });
    }
}

impl<M: Machine, T: Copy> Lane<M, T> {
    /// Somebody wants all unlogged rows that the node has by now.
    pub(super) fn catch_up(
        &mut self,
        node: NodeId,
        ticket: T,
        now: Instant,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        let heard = self.shared.heard(node);
        let answers = heard.is_some_and(|at| now < at.plus_millis(STALENESS_MILLIS_MAX));
        if !answers || self.course != Course::Running {
            outputs.caught_up.push(ticket);
            return;
        }
        let catch_ups = &mut self.catch_ups;
        self.quiet = false;
        catch_ups.asked.insert(node);
        catch_ups.waiting.push_back(Waiting {
            node,
            stamp: catch_ups.stamp,
            version: None,
            until: now.plus_millis(STALENESS_MILLIS_MAX),
            ticket,
        });
    }
}
