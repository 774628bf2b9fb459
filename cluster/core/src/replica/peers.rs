//! A replica among its peers: what other nodes say, where this node's stream goes.

use bytes::{Bytes, BytesMut};

use super::{Appended, Replica, State, Turn};
use crate::batch::{Batch, Header, Kind, Outcome};
use crate::consensus::{Consensus, Error, Hard, Members, Message, Start};
use crate::ids::{Index, Instant, NodeId, Now, OriginId, Place, ReplicaId, Seq, ShardId, Term};
use crate::link::{Mail, Parcel};
use crate::machine::Machine;
use crate::rows::Version;

/// Bytes of this node's stream that may be on their way to another node.
const WINDOW_BYTES: usize = 8 << 20;
/// A clock that is further off than this (in milliseconds) does not stamp entries.
const SKEW_MILLIS_MAX: u64 = 500;
/// Bytes applied after which the log is told how far entries are agreed on.
const RECORD_BYTES: u64 = 1 << 20;

impl<M: Machine, T: Copy> Replica<M, T> {
    /// Whether this node has a replica of the shard.
    pub(crate) fn is_here(&self) -> bool {
        !self.consensus.is_vacant()
    }

    pub(crate) fn id(&self) -> ReplicaId {
        self.consensus.replica()
    }

    pub(crate) fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    pub(crate) fn consensus_mut(&mut self) -> &mut Consensus {
        &mut self.consensus
    }

    /// Becomes the replica `id`, without a past: whoever leads makes it a learner and gives it
    /// the shard's state. Only where there was none; nothing where it, or a later one, was given
    /// up.
    ///
    /// # Errors
    /// The consensus library's own.
    pub(crate) fn host(&mut self, id: ReplicaId, seed: u64) -> Result<(), Error> {
        if self.is_here() {
            return Err(Error::Refused("there is a replica here".into()));
        }
        if id <= self.forgotten {
            return Ok(());
        }
        // Of one that was given up nothing is left, whatever the disk says.
        self.state = self.blank_state();
        self.agreed = Index(0);
        self.consensus = Consensus::new(Start {
            replica: id,
            hard: Hard::default(),
            members: Members::default(),
            applied: (Index(0), Term(0)),
            entries: Vec::new(),
            seed,
            tells_commits: self.shard() == ShardId::DEFINITIONS,
        })?;
        Ok(())
    }

    /// What a peer that offers a snapshot must know: this replica's id, how far its state is, and
    /// who takes part in it.
    pub(crate) fn standing(&self) -> (ReplicaId, (Index, Term), Members) {
        (self.id(), self.applied(), self.members())
    }

    /// Who takes part in the state: consensus may not have heard of one that was installed.
    pub(super) fn members(&self) -> Members {
        let installed = self.installed.as_ref();
        installed
            .unwrap_or_else(|| self.consensus.members())
            .clone()
    }

    /// A state like this one's, without a past.
    pub(crate) fn blank_state(&self) -> State<M> {
        State::new(self.shard(), self.machine().blank())
    }

    /// Takes a peer's state, of a later entry, and gives what was here. The outcomes of this
    /// node's batches that are in the state go to `settled`.
    pub(crate) fn install(
        &mut self,
        state: State<M>,
        members: Members,
        now: Now,
        settled: &mut Vec<(T, Outcome)>,
    ) -> State<M> {
        if let Some((origin, first)) = self.origin.standing() {
            let outcomes: Vec<_> = state.origins().outcomes(origin, first).collect();
            for (outcome, seq) in outcomes.into_iter().zip(first.0..) {
                self.settle(origin, Seq(seq), outcome, now, settled);
            }
        }
        self.installed = Some(members);
        std::mem::replace(&mut self.state, state)
    }

    /// This replica is never hosted again; ids of later ones are larger.
    pub(crate) fn forget(&mut self, replica: ReplicaId) {
        self.forgotten = self.forgotten.max(replica);
    }

    /// Has no replica from here on: gives what it held. This node's own stream into the shard goes
    /// on, to whoever leads it.
    pub(crate) fn vacate(&mut self) -> State<M> {
        self.forget(self.id());
        self.told = self.leader();
        self.consensus = Consensus::vacant();
        self.appended.clear();
        self.proposals = Batch::default();
        self.proposals_since = None;
        self.installed = None;
        self.agreed = Index(0);
        let blank = self.blank_state();
        std::mem::replace(&mut self.state, blank)
    }

    /// An entry of the log that is not known to be agreed on: found there at the start.
    pub(crate) fn found(&mut self, index: Index, term: Term, place: Place) {
        self.appended.push_back(Appended { index, term, place });
    }

    /// Where its log ends, when not all of it is known to be agreed on.
    pub(crate) fn open_until(&self) -> Option<(ShardId, Index)> {
        let last = self.consensus.last().0;
        (last > self.state.applied().0).then_some((self.shard(), last))
    }

    /// All inputs that follow from rows have been asked in this term.
    pub(crate) fn reconciled(&mut self, term: Term) {
        self.reconciled = Some(term);
    }

    /// Whether the leader here knows of all queues that this node knows of.
    pub(crate) fn acts(&self) -> bool {
        !M::RECONCILES
            || self.consensus.is_unlogged()
            || (self.leads.is_some() && self.reconciled == self.leads)
    }

    /// Who leads, and in which term, from what this replica knows and what it was told.
    pub(crate) fn leader(&self) -> Option<(Term, NodeId)> {
        if let Some(term) = self.consensus.leads() {
            return Some((term, self.origin.node()));
        }
        let known = self.consensus.leader();
        let known = known.map(|(term, replica)| (term, replica.node()));
        // Terms are compared first: news of a later term count more than what is known here.
        known
            .max(self.told)
            .filter(|(_, node)| *node != self.origin.node())
    }

    /// Sends the stream to whoever leads now: all that is unpaid, when that is somebody else.
    pub(super) fn aim(&mut self) {
        let leader = self.leader();
        // Once it is not known any more it counts still: who led before it does not come back.
        self.told = self.told.max(leader);
        if leader != self.streams_to && leader.is_some() {
            self.streams_to = leader;
            self.origin.lost();
        }
    }

    pub(super) fn stream(&mut self, now: Now, known: Version, mail: &mut Mail) {
        let Some((_, node)) = self.leader() else {
            return;
        };
        let time = self.next_time(now);
        while let Some(entry) = self.origin.next_entry(now, time, WINDOW_BYTES) {
            mail.send(node, self.shard(), &Parcel::Propose { known, entry });
        }
    }

    pub(super) fn tell(&self, node: NodeId, parcel: &Parcel, turn: &mut Turn<'_, M::Effect>) {
        if self.consensus.leads().is_some() {
            turn.mail.send(node, self.shard(), parcel);
        }
    }

    /// A node came (back): what went to it may be lost.
    pub(crate) fn connected(&mut self, node: NodeId, mail: &mut Mail) {
        if self.streams_to.is_some_and(|(_, to)| to == node) {
            self.origin.lost();
        }
        if let Some(word) = self.word_of_lead() {
            mail.send(node, self.shard(), &word);
        }
    }

    /// What others are told when this replica leads.
    pub(crate) fn word_of_lead(&self) -> Option<Parcel> {
        let node = self.origin.node();
        self.leads.map(|term| Parcel::Leader { node, term })
    }

    /// The way to a node is lost.
    pub(crate) fn disconnected(&mut self, node: NodeId) {
        let peer = self.consensus.members().on(node);
        if let Some(peer) = peer.filter(|_| self.consensus.leads().is_some()) {
            self.consensus.unreachable(peer);
        }
    }

    /// Takes what another node sent. What it settles of this node's batches goes to `settled`.
    /// `has_room`: whether the log takes batches.
    #[allow(clippy::too_many_arguments)] // all of a step's ways in and out
    pub(crate) fn receive(
        &mut self,
        from: NodeId,
        parcel: Parcel,
        now: Now,
        has_room: bool,
        mail: &mut Mail,
        settled: &mut Vec<(T, Outcome)>,
    ) {
        match parcel {
            Parcel::Raft(message) => self.step(from, message, now.mono),
            Parcel::Propose { entry, .. } => self.propose_of(from, entry, now, has_room, mail),
            Parcel::Opened { origin, life } => {
                let time = self.next_time(now);
                self.origin.opened(origin, life, time);
            }
            Parcel::Outcome {
                origin,
                seq,
                outcome,
            } => self.settle(origin, seq, outcome, now, settled),
            Parcel::Again { origin } => self.origin.gap(origin),
            Parcel::Closed { origin } => {
                let refused = self.origin.closed(origin).into_iter();
                settled.extend(refused.map(|ticket| (ticket, Outcome::Refused)));
            }
            // The lane's own business.
            Parcel::Transfer(_)
            | Parcel::Dealing { .. }
            | Parcel::Rows(_)
            | Parcel::RowsGot { .. }
            | Parcel::Known { .. }
            | Parcel::Ask { .. }
            | Parcel::Fresh { .. }
            | Parcel::Room { .. }
            | Parcel::Post { .. } => {}
            Parcel::Leader { node, term } => {
                self.told = self.told.max(Some((term, node)));
                self.acts_now((term, node), mail, now.mono);
            }
        }
    }

    fn settle(
        &mut self,
        origin: OriginId,
        seq: Seq,
        outcome: Outcome,
        now: Now,
        settled: &mut Vec<(T, Outcome)>,
    ) {
        if let Some((tickets, outcome)) = self.outcome(origin, seq, outcome, now) {
            settled.extend(tickets.into_iter().map(|ticket| (ticket, outcome)));
        }
    }

    fn step(&mut self, from: NodeId, message: Message, now: Instant) {
        if message.to != self.id() || message.from.node() != from {
            return;
        }
        // The library takes a snapshot's word for it that its content is here.
        let of = message.snapshot().map(|of| (of.index, of.term));
        if of.is_some_and(|of| of != self.applied()) {
            return;
        }
        // What the library refuses is late or foreign: nobody waits for an answer.
        if let Err(Error::Forgetful { last, .. }) = self.consensus.step(message, now) {
            self.forgot = Some(last);
        }
    }

    /// An entry of another node's stream.
    fn propose_of(
        &mut self,
        from: NodeId,
        entry: Bytes,
        now: Now,
        has_room: bool,
        mail: &mut Mail,
    ) {
        let shard = self.shard();
        if self.consensus.leads().is_none() {
            if let Some((term, node)) = self.leader() {
                mail.send(from, shard, &Parcel::Leader { node, term });
            }
            return;
        }
        let Ok(header) = Header::decode(&entry) else {
            return;
        };
        let origin = header.origin;
        match header.kind {
            Kind::Open if origin.0 == from.0 => {}
            Kind::Numbered if self.state.origins().node(origin) == Some(from) => {}
            // Before the first entry of the term is applied, what is open may not be known yet.
            Kind::Numbered if self.leads.is_none() => {}
            // Opened by an entry that others have on their disks and have applied, while this
            // node's disk is behind: it comes first in the log.
            Kind::Numbered if origin.0 > self.state.applied().0.0 => {}
            Kind::Numbered => {
                // One that has lost the lead and does not know it may not know the origin either.
                if now.mono < self.consensus.lease_until() {
                    mail.send(from, shard, &Parcel::Closed { origin });
                }
                return;
            }
            _ => return,
        }
        let skew = now.wall.0.abs_diff(header.time.0);
        let entry = if header.kind == Kind::Numbered && !has_room {
            Batch::default().seal(Header {
                kind: Kind::Refused,
                time: self.next_time(now),
                ..header
            })
        } else if skew > SKEW_MILLIS_MAX {
            let mut bytes = BytesMut::from(&entry[..]);
            let time = self.next_time(now);
            let header = Header { time, ..header };
            bytes[..crate::batch::HEADER_BYTES].copy_from_slice(&header.encode());
            bytes.freeze()
        } else {
            entry
        };
        // It may be about a queue that the machine was asked to make in this very step.
        self.propose_urgent(now);
        self.propose(entry);
    }

    /// What the log is told of how far entries are agreed on, when it is worth it: the next start
    /// then need not keep them all in memory until a leader says so.
    pub(crate) fn commit_to_record(&mut self) -> Option<Hard> {
        if self.unrecorded_bytes < RECORD_BYTES || self.consensus.is_alone() {
            return None;
        }
        self.unrecorded_bytes = 0;
        Some(self.recorded(self.consensus.hard()))
    }

    /// The state that was installed is in a checkpoint on disk.
    pub(crate) fn installed_is_saved(&mut self) {
        self.agreed = self.agreed.max(self.applied().0);
    }

    /// What the log is told of consensus' promises. As agreed on counts what was applied from the
    /// log: what stands there before this is never replaced behind it. What is agreed on beyond
    /// may still be on its way into the log, and what was installed may differ from what is there.
    pub(crate) fn recorded(&self, hard: Hard) -> Hard {
        Hard {
            commit: self.agreed,
            ..hard
        }
    }
}
