//! Sessions here and leaders anywhere: what goes from this node's sessions to whoever leads the
//! shard, and, where this replica leads, what comes from other nodes' (rule 7).
//!
//! Always holds:
//! - the first thing that a leader hears of a node in its term is the node's claim;
//! - nothing of an earlier term's leader is handed on once a claim was made for a later one;
//! - inputs of a node reach the machine in their order, and none before this node knows the
//!   definitions that its sender knew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::streams::{Receiver, Sender};
use super::{Replica, Turn};
use crate::ids::{Instant, Life, NodeId, Seq, Term};
use crate::link::{Dealing, Mail, Parcel};
use crate::machine::{Desk, Machine, Malformed};
use crate::parts::Parts;
use crate::rows::Version;

/// A node that is to make its claim is asked again after this.
const CALL_BACK_MILLIS: u64 = 500;
/// Nodes that may not know who leads are told so again after this.
const ASK_AGAIN_MILLIS: u64 = 1_000;
/// Inputs that wait for somebody to lead.
const WAITING_MAX: usize = 1 << 20;

/// This node's side.
pub(super) struct Booth<M: Machine> {
    desk: M::Desk,
    /// To whom the claim was made.
    claimed: Option<(Term, NodeId)>,
    /// Inputs that are still to be sent.
    waiting: VecDeque<M::Input>,
    /// The last number of an input, when the leader is here.
    last: Seq,
    sender: Sender,
    receiver: Receiver,
}

/// Another node, while this replica leads.
struct Guest {
    life: Life,
    sender: Sender,
    receiver: Receiver,
    /// Came in order, and wait for definitions that this node does not have.
    stalled: VecDeque<(Seq, Version, Bytes)>,
    work: Work,
}

/// How far a node's inputs have come.
#[derive(Clone, Copy, Default, Debug)]
struct Work {
    /// The machine has had them.
    handled: Seq,
    /// And has made its proposals of them.
    proposed: Seq,
    /// And those are in the log.
    paid: Seq,
    told: Seq,
}

/// All other nodes, while this replica leads.
#[derive(Default)]
pub(super) struct Guests {
    nodes: BTreeMap<NodeId, Guest>,
    /// This node's own inputs.
    here: Work,
    /// For each entry of the leader's own that is on its way: what was proposed with it.
    marks: VecDeque<Vec<(NodeId, Seq)>>,
    /// Nodes that were gone for long, and when one that was there again was last asked to claim.
    ruled_out: BTreeMap<NodeId, Instant>,
    /// When those that may not know are told again who leads.
    ask_at: Instant,
    /// The newest life of each node that was heard of in this term.
    lives: BTreeMap<NodeId, Life>,
}

impl<M: Machine> Booth<M> {
    pub(super) fn new() -> Self {
        Self {
            desk: M::Desk::default(),
            claimed: None,
            waiting: VecDeque::new(),
            last: Seq(0),
            sender: Sender::default(),
            receiver: Receiver::default(),
        }
    }
}

impl Guests {
    /// The leader seals what it has gathered into an entry.
    pub(super) fn sealed(&mut self, me: NodeId) {
        let others = self
            .nodes
            .iter()
            .map(|(node, guest)| (*node, guest.work.proposed));
        let all = others.chain([(me, self.here.proposed)]);
        self.marks.push_back(all.collect());
    }

    /// A node begins to count its inputs anew: what was marked with its numbers of before is not
    /// about these.
    fn begin(&mut self, node: NodeId, guest: Guest) {
        for mark in &mut self.marks {
            mark.retain(|(other, _)| *other != node);
        }
        self.nodes.insert(node, guest);
        self.ruled_out.remove(&node);
    }

    /// The next entry of the leader's own is in the log.
    pub(super) fn applied(&mut self, me: NodeId) {
        for (node, seq) in self.marks.pop_front().unwrap_or_default() {
            if let Some(work) = self.work(node, me) {
                work.paid = work.paid.max(seq);
            }
        }
    }

    /// The machine has proposed what follows from all that it has had.
    pub(super) fn flushed(&mut self, nothing_waits: bool) {
        let settled = nothing_waits && self.marks.is_empty();
        let all = self.nodes.values_mut().map(|guest| &mut guest.work);
        for work in all.chain([&mut self.here]) {
            work.proposed = work.handled;
            if settled {
                work.paid = work.proposed;
            }
        }
    }

    fn work(&mut self, node: NodeId, me: NodeId) -> Option<&mut Work> {
        if node == me {
            return Some(&mut self.here);
        }
        self.nodes.get_mut(&node).map(|guest| &mut guest.work)
    }
}

impl<M: Machine, T: Copy> Replica<M, T> {
    /// Takes an input of this node: of a session, for whoever leads; else for this node's leader.
    pub(crate) fn ask(&mut self, input: M::Input, turn: &mut Turn<'_, M::Effect>) {
        if self.consensus.is_unlogged() {
            self.input(input, turn);
        } else if M::Desk::is_of_session(&input) {
            if self.booth.waiting.len() < WAITING_MAX {
                self.booth.waiting.push_back(input);
            }
        } else if self.leads.is_some() {
            self.input(input, turn);
        }
    }

    /// Sends what waits to whoever leads; a leader that is new gets the claim first.
    pub(crate) fn send_inputs(&mut self, known: Version, turn: &mut Turn<'_, M::Effect>) {
        if self.consensus.is_unlogged() {
            return;
        }
        let Some(leader) = self.within_reach() else {
            return;
        };
        let here = leader.1 == self.origin.node();
        if self.booth.claimed != Some(leader) {
            self.booth.claimed = Some(leader);
            self.booth.last = Seq(0);
            self.booth.sender = Sender::default();
            self.booth.receiver = Receiver::default();
            let careful = !here || !self.consensus.is_alone();
            if let Some(claim) = self.booth.desk.claim(self.origin.node(), careful) {
                self.send_input(claim, known, turn);
            }
            for input in self.booth.desk.take_unsettled() {
                self.send_input(input, known, turn);
            }
        }
        if self.booth.waiting.is_empty() {
            return;
        }
        if !self.is_known(here) {
            self.origin.want_open();
            return;
        }
        while let Some(input) = self.booth.waiting.pop_front() {
            self.send_input(input, known, turn);
        }
    }

    /// Who leads, if it takes inputs of this node now.
    fn within_reach(&self) -> Option<(Term, NodeId)> {
        let (term, node) = self.leader()?;
        let here = node == self.origin.node();
        // Here it acts once its first entry is applied, and it knows of all queues.
        let acts = !here || (self.leads == Some(term) && self.acts());
        acts.then_some((term, node))
    }

    /// Whether the shard's state knows this node, so that a new leader will wait for its claim.
    fn is_known(&self, here: bool) -> bool {
        self.origin.standing().is_some() || (here && self.consensus.is_alone())
    }

    fn send_input(&mut self, input: M::Input, known: Version, turn: &mut Turn<'_, M::Effect>) {
        let Some((term, leader)) = self.booth.claimed else {
            return;
        };
        let seq = Seq(self.booth.last.0 + 1);
        self.booth.last = seq;
        let input = self.booth.desk.send(seq, input);
        if leader == self.origin.node() {
            self.guests.here.handled = seq;
            self.input(input, turn);
            return;
        }
        let mut parts = Parts::default();
        parts.open().extend_from_slice(&known.0.to_le_bytes());
        M::Desk::encode_input(&input, &mut parts);
        let bytes = parts.take();
        let numbered = self.booth.sender.push(bytes.clone(), turn.now.mono);
        debug_assert_eq!(numbered, seq, "numbered alike here and there");
        self.deal(
            leader,
            term,
            self.origin.life(),
            Dealing::Input { seq, bytes },
            turn.mail,
        );
    }

    fn deal(&self, to: NodeId, term: Term, life: Life, dealing: Dealing, mail: &mut Mail) {
        let dealing = Parcel::Dealing {
            term,
            life,
            dealing,
        };
        mail.send(to, self.shard(), &dealing);
    }

    /// Takes what another node says of sessions. Effects for sessions here go to `effects`.
    ///
    /// # Errors
    /// What no node of this version sends.
    pub(crate) fn take_dealing(
        &mut self,
        from: NodeId,
        (term, life, dealing): (Term, Life, Dealing),
        known: Version,
        effects: &mut Vec<M::Effect>,
        turn: &mut Turn<'_, M::Effect>,
    ) -> Result<(), Malformed> {
        let now = turn.now.mono;
        match dealing {
            Dealing::Input { seq, bytes } => {
                if self.leads != Some(term) {
                    self.tell_later_leader(from, term, turn.mail);
                    return Ok(());
                }
                if !self.take_input(from, life, seq, &bytes) {
                    // It was ruled out, and has to make its claim again.
                    let dealing = Dealing::Got {
                        got: Seq(0),
                        paid: Seq(0),
                        again: true,
                    };
                    self.deal(from, term, life, dealing, turn.mail);
                }
                self.handle_inputs(from, known, turn)
            }
            Dealing::Effect { seq, bytes } => {
                let known_leader = self.booth.claimed == Some((term, from));
                let known_leader = known_leader && life == self.origin.life();
                let broken = cfg!(warren_break = "claims_without_promise");
                let late = broken && self.booth.claimed.is_some_and(|(now, _)| now > term);
                if !late && (!known_leader || !self.booth.receiver.take(seq)) {
                    return Ok(());
                }
                let effect = M::Desk::decode_effect(&joined(&bytes))?;
                self.hear(effect, effects);
                Ok(())
            }
            Dealing::Got { got, paid, again } => {
                if self.booth.claimed == Some((term, from)) && life == self.origin.life() {
                    self.booth.sender.acked(got, now);
                    self.booth.desk.paid(paid);
                    if again && got == Seq(0) && self.booth.sender.first() > Seq(1) {
                        self.booth.claimed = None;
                    } else if again {
                        self.resend_inputs(turn.mail, now);
                    }
                } else if self.leads == Some(term)
                    && let Some(guest) = self.guests.nodes.get_mut(&from)
                    && guest.life == life
                {
                    guest.sender.acked(got, now);
                    if again {
                        self.resend_effects(from, turn.mail, now);
                    }
                }
                Ok(())
            }
        }
    }

    /// The node takes this one for the leader of that term: it may not have heard of a later one.
    fn tell_later_leader(&self, to: NodeId, term: Term, mail: &mut Mail) {
        if let Some((newer, node)) = self.leader().filter(|it| it.0 > term) {
            let term = newer;
            mail.send(to, self.shard(), &Parcel::Leader { node, term });
        }
    }

    /// False when the node's claim has to come first.
    fn take_input(&mut self, from: NodeId, life: Life, seq: Seq, bytes: &[Bytes]) -> bool {
        let newest = self.guests.lives.get(&from).copied().unwrap_or_default();
        if life < newest {
            // Late, from a process that is no more.
            return true;
        }
        let guest = self.guests.nodes.get(&from);
        if guest.is_none_or(|guest| guest.life != life) {
            if seq != Seq(1) {
                return false;
            }
            self.guests.lives.insert(from, life);
            let guest = Guest {
                life,
                sender: Sender::default(),
                receiver: Receiver::default(),
                stalled: VecDeque::new(),
                work: Work::default(),
            };
            self.guests.begin(from, guest);
        }
        let Some(guest) = self.guests.nodes.get_mut(&from) else {
            return false;
        };
        if guest.receiver.take(seq) {
            let mut bytes = joined(bytes);
            let version = if bytes.len() < 8 {
                Version(0)
            } else {
                Version(bytes::Buf::get_u64_le(&mut bytes))
            };
            guest.stalled.push_back((seq, version, bytes));
        }
        true
    }

    /// Hands a node's inputs to the machine, as far as this node knows what they are about.
    fn handle_inputs(
        &mut self,
        from: NodeId,
        known: Version,
        turn: &mut Turn<'_, M::Effect>,
    ) -> Result<(), Malformed> {
        let understood = |it: &mut (Seq, Version, Bytes)| it.1 <= known;
        while self.acts() {
            let Some(guest) = self.guests.nodes.get_mut(&from) else {
                return Ok(());
            };
            let Some((seq, _, bytes)) = guest.stalled.pop_front_if(understood) else {
                return Ok(());
            };
            guest.work.handled = seq;
            let input = M::Desk::decode_input(&bytes)?;
            self.input(input, turn);
        }
        Ok(())
    }

    /// Hands on what waited for definitions that are known by now.
    ///
    /// # Errors
    /// See [`Self::take_dealing`]; with the node that sent it.
    pub(crate) fn handle_stalled(
        &mut self,
        known: Version,
        turn: &mut Turn<'_, M::Effect>,
    ) -> Result<(), (NodeId, Malformed)> {
        let stalled = |(_, guest): &(&NodeId, &Guest)| !guest.stalled.is_empty();
        let nodes = self.guests.nodes.iter().filter(stalled);
        let nodes: Vec<NodeId> = nodes.map(|(node, _)| *node).collect();
        for node in nodes {
            self.handle_inputs(node, known, turn)
                .map_err(|malformed| (node, malformed))?;
        }
        Ok(())
    }

    fn hear(&mut self, effect: M::Effect, effects: &mut Vec<M::Effect>) {
        let mut inputs = Vec::new();
        if !self.consensus.is_alone() {
            self.booth.desk.be_careful();
        }
        if self.booth.desk.receive(&effect, &mut inputs) {
            effects.push(effect);
        }
        self.booth.waiting.extend(inputs);
    }

    /// Sends what the machine wants done to where it is wanted: to sessions here (`effects`), or
    /// to other nodes. True when something is to be sent to the leader because of it.
    pub(crate) fn route(
        &mut self,
        emitted: &mut Vec<M::Effect>,
        effects: &mut Vec<M::Effect>,
        now: Instant,
        mail: &mut Mail,
    ) -> bool {
        let here = self.origin.node();
        for effect in emitted.drain(..) {
            match M::Desk::node_of(&effect) {
                None => effects.push(effect),
                Some(node) if node == here || node == NodeId(0) => self.hear(effect, effects),
                Some(node) => self.send_effect(node, &effect, now, mail),
            }
        }
        if self.booth.waiting.is_empty() {
            return false;
        }
        if cfg!(warren_break = "waiting_spins") {
            return true;
        }
        // What waits for a leader, or for the shard to know this node, waits for others.
        let leader = self.within_reach();
        leader.is_some_and(|(_, node)| self.is_known(node == here) || self.origin.want_open())
    }

    /// Whether sessions of this node have done something that the log may not have.
    pub(crate) fn owes(&self) -> bool {
        !self.booth.waiting.is_empty() || self.booth.desk.owes()
    }

    /// Whether somebody leads who has not heard of this node.
    pub(crate) fn owes_a_claim(&self) -> bool {
        let leader = self.within_reach();
        leader.is_some() && self.booth.claimed != leader
    }

    /// As [`Self::route`], where sessions here deal with the leader without a desk.
    pub(crate) fn route_from_unlogged(
        &mut self,
        emitted: &mut Vec<M::Effect>,
        effects: &mut Vec<M::Effect>,
        now: Instant,
        mail: &mut Mail,
    ) {
        let here = self.origin.node();
        for effect in emitted.drain(..) {
            match M::Desk::node_of(&effect) {
                Some(node) if node != here && node != NodeId(0) => {
                    self.send_effect(node, &effect, now, mail);
                }
                _ => effects.push(effect),
            }
        }
    }

    /// The node that has the shard is gone, with all that the shard had. Gives those whose batches
    /// wait; what sessions are to hear of it goes to `effects`.
    pub(crate) fn abandon(&mut self, effects: &mut Vec<M::Effect>) -> Vec<T> {
        effects.extend(self.booth.desk.abandon());
        let waiting = std::mem::take(&mut self.booth.waiting);
        effects.extend(waiting.iter().filter_map(M::Desk::refuse));
        self.origin.abandon()
    }

    fn send_effect(&mut self, to: NodeId, effect: &M::Effect, now: Instant, mail: &mut Mail) {
        let (Some(term), Some(guest)) = (self.leads, self.guests.nodes.get_mut(&to)) else {
            return;
        };
        let mut parts = Parts::default();
        M::Desk::encode_effect(effect, &mut parts);
        let bytes = parts.take();
        let seq = guest.sender.push(bytes.clone(), now);
        let life = guest.life;
        self.deal(to, term, life, Dealing::Effect { seq, bytes }, mail);
    }

    /// Tells what has come, where the other end does not know it.
    pub(crate) fn tell_got(&mut self, mail: &mut Mail) {
        let shard = self.shard();
        let mut tell = |to, (term, life), got, paid, again| {
            let dealing = Parcel::Dealing {
                term,
                life,
                dealing: Dealing::Got { got, paid, again },
            };
            mail.send(to, shard, &dealing);
        };
        if let Some((term, leader)) = self.booth.claimed
            && leader != self.origin.node()
            && let Some((got, again)) = self.booth.receiver.news()
        {
            tell(leader, (term, self.origin.life()), got, Seq(0), again);
        }
        if let Some(term) = self.leads {
            for (node, guest) in &mut self.guests.nodes {
                let paid = guest.work.paid;
                let news = guest.receiver.news();
                if let Some((got, again)) = news {
                    tell(*node, (term, guest.life), got, paid, again);
                } else if paid != guest.work.told {
                    tell(
                        *node,
                        (term, guest.life),
                        guest.receiver.told(),
                        paid,
                        false,
                    );
                }
                guest.work.told = paid;
            }
            self.booth.desk.paid(self.guests.here.paid);
        }
    }

    /// A leader says that it leads: what it was sent before it did so was lost on it. One that has
    /// the claim did lead by then.
    pub(super) fn acts_now(&mut self, leader: (Term, NodeId), mail: &mut Mail, now: Instant) {
        if self.booth.claimed == Some(leader) && self.booth.sender.first() == Seq(1) {
            self.resend_inputs(mail, now);
        }
    }

    fn resend_inputs(&mut self, mail: &mut Mail, now: Instant) {
        let Some((term, leader)) = self.booth.claimed else {
            return;
        };
        let life = self.origin.life();
        for (seq, bytes) in self.booth.sender.again(now) {
            self.deal(leader, term, life, Dealing::Input { seq, bytes }, mail);
        }
    }

    fn resend_effects(&mut self, to: NodeId, mail: &mut Mail, now: Instant) {
        let (Some(term), Some(guest)) = (self.leads, self.guests.nodes.get_mut(&to)) else {
            return;
        };
        let life = guest.life;
        for (seq, bytes) in guest.sender.again(now) {
            self.deal(to, term, life, Dealing::Effect { seq, bytes }, mail);
        }
    }

    /// Whether no time that passes matters to it: it is not here, and no session of this node has
    /// to do with it.
    pub(crate) fn is_at_rest(&self) -> bool {
        !self.is_here() && self.leads.is_none() && self.booth.claimed.is_none()
    }

    /// Sends again what has had no answer for long, or all of it to a node that has come back.
    pub(crate) fn resend(&mut self, back: Option<NodeId>, mail: &mut Mail, now: Instant) {
        let leader = self.booth.claimed.map(|(_, leader)| leader);
        if self.booth.sender.is_overdue(now) || (back.is_some() && leader == back) {
            self.resend_inputs(mail, now);
        }
        let due = |(node, guest): &(&NodeId, &Guest)| {
            guest.sender.is_overdue(now) || back == Some(**node)
        };
        let nodes = self.guests.nodes.iter().filter(due);
        let nodes: Vec<NodeId> = nodes.map(|(node, _)| *node).collect();
        for node in nodes {
            self.resend_effects(node, mail, now);
        }
    }

    /// Says again who leads, to those who may not know: nodes that this leader has not heard, and
    /// all that there is a way to and that have no replica. No peer tells them, they can ask
    /// nobody, and what they were told may have been lost.
    pub(crate) fn tell_again(&mut self, nodes: &BTreeSet<NodeId>, mail: &mut Mail, now: Instant) {
        let Some(term) = self.leads.filter(|_| self.guests.ask_at <= now) else {
            return;
        };
        self.guests.ask_at = now.plus_millis(ASK_AGAIN_MILLIS);
        let node = self.origin.node();
        let members = self.consensus.members();
        // Of unlogged queues all nodes are told with each beat.
        let logged = !self.consensus.is_unlogged();
        let strangers = nodes.iter().copied();
        let strangers = strangers.filter(|to| logged && members.on(*to).is_none());
        for to in self.silent().chain(strangers).collect::<BTreeSet<_>>() {
            mail.send_with_idle_beat(to, self.shard(), &Parcel::Leader { node, term });
        }
    }

    /// Rules out nodes that the shard knows of and that `is_gone` says are gone for long.
    pub(crate) fn rule_out(
        &mut self,
        is_gone: impl Fn(NodeId) -> bool,
        turn: &mut Turn<'_, M::Effect>,
    ) -> bool {
        if self.leads.is_none() {
            return false;
        }
        let here = self.origin.node();
        let known = self.state.origins().nodes().map(|(_, node)| node);
        let gone = known.filter(|node| *node != here && is_gone(*node));
        let gone: Vec<NodeId> = gone
            .filter(|node| !self.guests.ruled_out.contains_key(node))
            .collect();
        for node in &gone {
            self.guests.ruled_out.insert(*node, Instant(0));
            self.guests.nodes.remove(node);
            self.with(turn, |machine, context| machine.node_down(*node, context));
        }
        !gone.is_empty()
    }

    /// Asks nodes that were ruled out, and are there again, to make their claims: they may not know
    /// that their consumers are none any more.
    pub(crate) fn call_back(
        &mut self,
        is_gone: impl Fn(NodeId) -> bool,
        now: Instant,
        mail: &mut Mail,
    ) {
        let (shard, Some(term)) = (self.shard(), self.leads) else {
            return;
        };
        let Guests {
            ruled_out, lives, ..
        } = &mut self.guests;
        for (node, asked) in ruled_out {
            // One that was not heard of in this term has its claim to make in any case.
            let Some(life) = lives.get(node).filter(|_| !is_gone(*node)) else {
                continue;
            };
            if asked.plus_millis(CALL_BACK_MILLIS) <= now {
                *asked = now;
                let dealing = Dealing::Got {
                    got: Seq(0),
                    paid: Seq(0),
                    again: true,
                };
                let parcel = Parcel::Dealing {
                    term,
                    life: *life,
                    dealing,
                };
                mail.send(*node, shard, &parcel);
            }
        }
    }

    /// Whether the shard knows of nodes that this leader has neither heard nor ruled out.
    pub(crate) fn waits_for_nodes(&self) -> bool {
        self.leads.is_some() && self.silent().next().is_some()
    }

    /// Nodes that the shard knows of, and that were neither heard nor ruled out in this term.
    fn silent(&self) -> impl Iterator<Item = NodeId> {
        let here = self.origin.node();
        let others = self.state.origins().nodes().map(|(_, node)| node);
        let guests = &self.guests;
        let heard =
            |node: &NodeId| guests.nodes.contains_key(node) || guests.ruled_out.contains_key(node);
        others.filter(move |node| *node != here && !heard(node))
    }

    /// The nodes whose claims a new leader waits for.
    pub(super) fn claimants(&self) -> Vec<NodeId> {
        let mut nodes: Vec<_> = self.state.origins().nodes().map(|(_, node)| node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

fn joined(bytes: &[Bytes]) -> Bytes {
    match bytes {
        [one] => one.clone(),
        many => many.concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    fn guest() -> Guest {
        Guest {
            life: Life(1),
            sender: Sender::default(),
            receiver: Receiver::default(),
            stalled: VecDeque::new(),
            work: Work::default(),
        }
    }

    #[test]
    fn what_is_on_its_way_pays_for_nothing_that_a_node_counts_anew() {
        let mut guests = Guests::default();
        let handled = |guests: &mut Guests, seq| {
            guests.work(OTHER, ME).expect("is there").handled = Seq(seq);
            guests.flushed(false);
        };
        guests.begin(OTHER, guest());
        handled(&mut guests, 144);
        guests.sealed(ME);
        // It was ruled out meanwhile, and makes its claim again.
        guests.begin(OTHER, guest());
        handled(&mut guests, 2);
        guests.sealed(ME);
        let paid = |guests: &mut Guests| guests.work(OTHER, ME).expect("is there").paid;
        guests.applied(ME);
        assert_eq!(paid(&mut guests), Seq(0));
        guests.applied(ME);
        assert_eq!(paid(&mut guests), Seq(2));
    }
}
