//! One shard's copy on this node: consensus, machine, origins, and how they move together.
//!
//! Always holds:
//! - entries are applied in order, each with the term and place it was appended with;
//! - the machine leads exactly from when the first entry of this replica's term is applied until
//!   consensus no longer leads that term;
//! - a batch of this node's own stream is answered once.

mod desk;
pub mod head;
mod peers;
mod state;
mod streams;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::batch::{Batch, Header, Kind, Outcome};
use crate::consensus::{Consensus, Entry, EntryKind, Members, Ready};
use crate::ids::{Index, Instant, NodeId, Now, OriginId, Place, ReplicaId, Seq, ShardId};
use crate::ids::{Term, Time};
use crate::link::{Mail, Parcel};
use crate::log::View;
use crate::machine::{CheckpointWriter, Context, Machine, Malformed};
use crate::origin::{Origin, Tickets};
use crate::rows::Version;

use desk::{Booth, Guests};
pub use head::Head;
pub(crate) use state::{Applied, State};
pub(crate) use streams::{Receiver, Sender};

/// Proposals of a machine that are in no hurry wait this long for company.
const PROPOSALS_WAIT_MILLIS: u64 = 10;
/// Or until there are this many bytes of them.
const PROPOSALS_BYTES_MAX: usize = 64 << 10;

/// A leader without a lease asks for one so often, while it has something to do.
const LEASE_AGAIN_MILLIS: u64 = 20;

/// What a replica may use of its lane for a while.
pub(crate) struct Turn<'a, E> {
    pub(crate) now: Now,
    pub(crate) bodies: View<'a>,
    pub(crate) effects: &'a mut Vec<E>,
    pub(crate) mail: &'a mut Mail,
    /// The definitions that this node has acted on.
    pub(crate) known: Version,
    /// Set while this shard's checkpoint is being written.
    pub(crate) checkpoint: Option<&'a mut dyn CheckpointWriter>,
}

/// An entry that is in the log and not applied yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Appended {
    index: Index,
    term: Term,
    place: Place,
}

/// One shard's copy.
pub(crate) struct Replica<M: Machine, T> {
    state: State<M>,
    consensus: Consensus,
    /// This node's own stream into the shard.
    origin: Origin<T>,
    /// This node's sessions, for whoever leads.
    booth: Booth<M>,
    /// Other nodes' sessions, while this replica leads.
    guests: Guests,
    /// For an unlogged shard, which needs no stream: who waits for which entry.
    tickets: VecDeque<(Index, T)>,
    appended: VecDeque<Appended>,
    /// The time of the entry proposed last.
    proposed: Time,
    proposals: Batch,
    proposals_since: Option<Instant>,
    urgent: bool,
    /// An entry was proposed since `proposals` were looked at: they may ride along.
    company: bool,
    /// The term that the machine was told to lead.
    leads: Option<Term>,
    /// The newest leader that this replica was or knew, or that another node told of.
    told: Option<(Term, NodeId)>,
    /// The term for which all rows were gone through.
    reconciled: Option<Term>,
    /// Where this node's stream goes.
    streams_to: Option<(Term, NodeId)>,
    /// The lease had run out when the machine was last flushed.
    lapsed: bool,
    /// Who takes part in the state that was installed, until consensus has heard of it.
    installed: Option<Members>,
    /// How far what the log (with its checkpoint) holds is known to be agreed on.
    agreed: Index,
    /// Bytes applied since the log last said how far entries are agreed on.
    unrecorded_bytes: u64,
    /// The newest replica that was given up here: rows that are older than that may name it still.
    forgotten: ReplicaId,
    /// Something happened to the machine since its last flush.
    touched: bool,
    /// When something last had; and when a leader that had no lease then asked for one.
    stirred: Instant,
    asked: Instant,
    /// Where its log ends, if it lacks what it has acknowledged to a leader.
    forgot: Option<Index>,
}

impl<M: Machine, T: Copy> Replica<M, T> {
    pub(crate) fn new(state: State<M>, consensus: Consensus, origin: Origin<T>) -> Self {
        Self {
            forgot: None,
            proposed: state.time(),
            agreed: state.applied().0,
            state,
            consensus,
            origin,
            booth: Booth::new(),
            guests: Guests::default(),
            tickets: VecDeque::new(),
            appended: VecDeque::new(),
            proposals: Batch::default(),
            proposals_since: None,
            urgent: false,
            company: false,
            leads: None,
            told: None,
            reconciled: None,
            streams_to: None,
            lapsed: false,
            installed: None,
            unrecorded_bytes: 0,
            forgotten: ReplicaId(0),
            touched: false,
            stirred: Instant(0),
            asked: Instant(0),
        }
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.state.shard()
    }

    pub(crate) fn machine(&self) -> &M {
        self.state.machine()
    }

    pub(crate) fn machine_mut(&mut self) -> &mut M {
        self.state.machine_mut()
    }

    pub(crate) fn applied(&self) -> (Index, Term) {
        self.state.applied()
    }

    /// # Errors
    /// When it lacks entries that it has acknowledged: what it would do with the rest could undo
    /// what others agreed on with its help.
    pub(crate) fn check_memory(&self) -> Result<(), Malformed> {
        match self.forgot {
            None => Ok(()),
            Some(last) => Err(Malformed {
                what: "log of this node's replica",
                at: usize::try_from(last.0).unwrap_or(usize::MAX),
                cause: "entries that it has acknowledged are missing: this is an old copy of the \
                        data folder, or its disk lost something; remove the node from the \
                        cluster, and add it with an empty folder",
            }),
        }
    }

    /// The term that the machine leads.
    pub(crate) fn leads(&self) -> Option<Term> {
        self.leads
    }

    pub(crate) fn campaign(&mut self) -> Result<(), crate::consensus::Error> {
        self.consensus.campaign()
    }

    /// What the first chunk of a checkpoint says about this replica.
    pub(crate) fn head(&self) -> Head {
        let consensus = &self.consensus;
        let hard = self.recorded(consensus.hard());
        self.state.head(consensus.replica(), hard, self.members())
    }

    /// Takes a batch of this node; false when too much is unanswered.
    #[must_use]
    pub(crate) fn push(&mut self, batch: Batch, ticket: T, now: Now) -> bool {
        let time = self.next_time(now);
        if !self.consensus.is_unlogged() {
            return self.origin.push(batch, ticket, time);
        }
        self.propose_urgent(now);
        let taken = self.propose(sealed(batch, time));
        if taken {
            self.tickets
                .push_back((self.consensus.hard().commit, ticket));
        }
        taken
    }

    /// Hands an input to the leader's side of the machine.
    pub(crate) fn input(&mut self, input: M::Input, turn: &mut Turn<'_, M::Effect>) {
        self.with(turn, |machine, context| machine.input(input, context));
    }

    /// Bodies that the machine waits for are in memory.
    pub(crate) fn resume(&mut self, key: u64, turn: &mut Turn<'_, M::Effect>) {
        self.with(turn, |machine, context| machine.resume(key, context));
    }

    /// Proposes what waits: what the machine is in a hurry with, as batches that came later may
    /// build on it (the first messages of a new queue); batches of this node's stream; the rest
    /// of what the machine gathered. Where another node leads, the stream goes there. `known`: the
    /// definitions that this node has.
    /// Returns whether consensus has something to do.
    pub(crate) fn pump(&mut self, now: Now, known: Version, mail: &mut Mail) -> bool {
        self.origin.expire(now.mono);
        self.aim();
        if self.consensus.leads().is_none() {
            self.stream(now, known, mail);
            return false;
        }
        let mut any = self.propose_urgent(now);
        let time = self.next_time(now);
        while self.acts()
            && self.consensus.takes_proposals()
            && let Some(entry) = self.origin.next_entry(now, time, usize::MAX)
        {
            any |= self.propose(entry);
        }
        if self.proposals_are_due(now.mono) {
            any |= self.propose_gathered(now);
        }
        any
    }

    fn propose(&mut self, entry: Bytes) -> bool {
        let taken = self.consensus.propose(entry).is_ok();
        self.company |= taken;
        taken
    }

    fn proposals_are_due(&self, now: Instant) -> bool {
        let waited = |since: Instant| since.plus_millis(PROPOSALS_WAIT_MILLIS) <= now;
        !self.proposals.is_empty()
            && self.leads.is_some()
            && (self.urgent
                || self.company
                || self.consensus.is_unlogged()
                || self.proposals.len() >= PROPOSALS_BYTES_MAX
                || self.proposals_since.is_some_and(waited))
    }

    pub(super) fn propose_urgent(&mut self, now: Now) -> bool {
        let urgent = self.urgent && self.leads.is_some() && !self.proposals.is_empty();
        urgent && self.propose_gathered(now)
    }

    /// What consensus does not take now waits: it counts as in the log once an entry of its is.
    fn propose_gathered(&mut self, now: Now) -> bool {
        if !self.consensus.takes_proposals() {
            return false;
        }
        let batch = std::mem::take(&mut self.proposals);
        self.guests.sealed(self.origin.node());
        self.urgent = false;
        self.proposals_since = None;
        let time = self.next_time(now);
        self.propose(sealed(batch, time))
    }

    /// The end of a step for [`Self::pump`]: what comes later is no company for what was gathered.
    pub(crate) fn end_step(&mut self) {
        self.company = false;
    }

    /// Entry time never goes back.
    fn next_time(&mut self, now: Now) -> Time {
        self.proposed = self.proposed.max(self.state.time()).max(now.wall);
        self.proposed
    }

    /// What consensus wants done. Its entries go into the log, in order, each reported by
    /// [`Self::appended`]; then its committed ones go into [`Self::apply`].
    pub(crate) fn ready(&mut self) -> Option<Ready> {
        let ready = self.consensus.ready();
        if ready.as_ref().is_some_and(|ready| ready.restored) {
            self.appended.clear();
            // A later state may have been installed since the snapshot was told of.
            if self.consensus.members_at() >= self.state.applied().0 {
                self.installed = None;
            }
        }
        ready
    }

    /// An entry was put into the log.
    pub(crate) fn appended(&mut self, entry: &Entry, place: Place) {
        while self
            .appended
            .back()
            .is_some_and(|last| last.index >= entry.index)
        {
            self.appended.pop_back();
        }
        self.appended.push_back(Appended {
            index: entry.index,
            term: entry.term,
            place,
        });
    }

    /// What [`Ready::number`] names is on disk.
    pub(crate) fn on_persisted(&mut self, number: u64) {
        self.consensus.on_persisted(number);
    }

    /// Where the entry lies that is applied next.
    pub(crate) fn next_place(&self) -> Place {
        self.appended
            .front()
            .map_or_else(Place::default, |it| it.place)
    }

    /// Applies a committed entry. Gives tickets and outcome when it settles batches of this node.
    ///
    /// # Errors
    /// An entry that this build cannot read: the replica stops.
    pub(crate) fn apply(
        &mut self,
        entry: &Entry,
        turn: &mut Turn<'_, M::Effect>,
    ) -> Result<Option<(Tickets<T>, Outcome)>, Malformed> {
        let appended = self
            .appended
            .pop_front()
            .expect("appended before it is applied");
        assert_eq!(
            appended.index, entry.index,
            "applied in the order of the log"
        );
        assert_eq!(appended.term, entry.term, "applied as it was appended");
        let (installed, _) = self.state.applied();
        if entry.index <= installed {
            // It is in the state that was installed. Whom it makes a member consensus has yet to
            // hear: it had the log instead of the snapshot.
            self.pass(entry)?;
            if entry.index == installed {
                self.installed = None;
            }
            return Ok(None);
        }
        let applied = self.with_state(turn, |state, context| {
            state.apply_at(entry, appended.place, context)
        })?;
        self.agreed = entry.index;
        self.unrecorded_bytes += entry.data.len() as u64;
        self.pass(entry)?;
        Ok(self.after(applied, entry, turn))
    }

    /// Consensus is past an entry.
    fn pass(&mut self, entry: &Entry) -> Result<(), Malformed> {
        // Before it counts as applied: that is when the library leaves a joint set of members.
        if entry.kind != EntryKind::Normal {
            self.consensus
                .change_members(entry)
                .map_err(|_| Malformed {
                    what: "change of members",
                    at: 0,
                    cause: "consensus does not take it",
                })?;
        }
        self.consensus.applied(entry.index);
        Ok(())
    }

    fn after(
        &mut self,
        applied: Applied,
        entry: &Entry,
        turn: &mut Turn<'_, M::Effect>,
    ) -> Option<(Tickets<T>, Outcome)> {
        match applied {
            Applied::First => {
                self.lead(entry.term, turn);
                None
            }
            Applied::Commands => {
                if self.leads.is_some() {
                    self.guests.applied(self.origin.node());
                }
                self.ticket(entry.index)
            }
            Applied::Opened { node, life, origin } => {
                if node == self.origin.node() {
                    let time = self.next_time(turn.now);
                    self.origin.opened(origin, life, time);
                } else {
                    self.tell(node, &Parcel::Opened { origin, life }, turn);
                }
                None
            }
            Applied::Outcome {
                node,
                origin,
                seq,
                outcome,
            } => {
                // Rows are answered where they are applied, so that whoever asked sees them. All
                // else by the leader, who may apply it last, its own disk being the slowest: what
                // is asked of it after the answer must find it.
                let rows = self.shard().is_rows();
                let here = node == self.origin.node();
                if here && (rows || self.consensus.leads().is_some()) {
                    return self.outcome(origin, seq, outcome, turn.now);
                }
                if !here && !rows {
                    let outcome = Parcel::Outcome {
                        origin,
                        seq,
                        outcome,
                    };
                    self.tell(node, &outcome, turn);
                }
                None
            }
            Applied::Gap { node, origin } => {
                if node == self.origin.node() {
                    self.origin.gap(origin);
                } else {
                    self.tell(node, &Parcel::Again { origin }, turn);
                }
                None
            }
            Applied::Nothing => None,
        }
    }

    fn lead(&mut self, term: Term, turn: &mut Turn<'_, M::Effect>) {
        if self.consensus.leads() == Some(term) {
            self.leads = Some(term);
            self.guests = Guests::default();
            let nodes = self.claimants();
            self.with(turn, |machine, context| machine.lead(&nodes, context));
        }
    }

    fn ticket(&mut self, index: Index) -> Option<(Tickets<T>, Outcome)> {
        let (waits, ticket) = *self.tickets.front()?;
        if waits != index {
            return None;
        }
        self.tickets.pop_front();
        Some((Tickets::one(ticket), Outcome::Stored))
    }

    fn outcome(
        &mut self,
        origin: OriginId,
        seq: Seq,
        outcome: Outcome,
        now: Now,
    ) -> Option<(Tickets<T>, Outcome)> {
        let tickets = self.origin.outcome(origin, seq, now)?;
        Some((tickets, outcome))
    }

    /// Tells the machine when consensus has lost the lead. True when that happened.
    pub(crate) fn follow_if_lost(&mut self, turn: &mut Turn<'_, M::Effect>) -> bool {
        if self.leads.is_none() || self.leads == self.consensus.leads() {
            return false;
        }
        self.leads = None;
        self.guests = Guests::default();
        self.lapsed = false;
        self.proposals = Batch::default();
        self.proposals_since = None;
        self.urgent = false;
        self.with(turn, |machine, context| machine.follow(context));
        true
    }

    /// Flushes the machine if something happened to it or its time has come.
    pub(crate) fn flush(&mut self, turn: &mut Turn<'_, M::Effect>) {
        let due = |deadline: Instant| deadline <= turn.now.mono;
        let acts = self.leads.is_none() || turn.now.mono < self.consensus.lease_until();
        self.touched |= acts && self.lapsed;
        if self.touched || self.machine().deadline().is_some_and(due) {
            self.lapsed = !acts;
            self.stirred = turn.now.mono;
            self.with(turn, |machine, context| machine.flush(context));
            self.touched = false;
            if acts && self.leads.is_some() && !self.machine().has_parked() {
                self.guests.flushed(self.proposals.is_empty());
            }
        }
    }

    /// A leader that has something to do and no lease, because there was nothing to do, asks for
    /// one at once.
    pub(crate) fn ask_for_lease(&mut self, now: Instant) {
        let due = self.asked.plus_millis(LEASE_AGAIN_MILLIS) <= now;
        if self.leads.is_some() && self.lapsed && self.stirred == now && due {
            self.asked = now;
            self.consensus.beat(now, false);
        }
    }

    /// Whether it has a say in the definitions, which every node acts on at any time.
    pub(crate) fn votes_on_definitions(&self) -> bool {
        let votes = self.consensus.members().votes(self.consensus.replica());
        self.shard() == ShardId::DEFINITIONS && votes
    }

    /// Whether nothing has happened to it for so long.
    pub(crate) fn is_idle(&self, millis: u64, now: Instant) -> bool {
        self.stirred.plus_millis(millis) <= now
    }

    /// When this replica wants a step though nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let takes = self.leads.is_some() && self.consensus.takes_proposals();
        let since = self.proposals_since.filter(|_| takes);
        let proposals = since.map(|since| since.plus_millis(PROPOSALS_WAIT_MILLIS));
        let sends = self.origin.deadline();
        let machine = self.machine().deadline();
        [proposals, sends, machine].into_iter().flatten().min()
    }

    /// Whether something of this node waits for an answer or for its entry.
    pub(crate) fn is_busy(&self) -> bool {
        self.origin.bytes() > 0 || !self.proposals.is_empty() || !self.appended.is_empty()
    }

    /// Hurries what was gathered: the lane stops.
    pub(crate) fn hurry(&mut self) {
        self.urgent = true;
    }

    fn with<R>(
        &mut self,
        turn: &mut Turn<'_, M::Effect>,
        call: impl FnOnce(&mut M, &mut Context<'_, M::Effect>) -> R,
    ) -> R {
        self.with_state(turn, |state, context| call(state.machine_mut(), context))
    }

    fn with_state<R>(
        &mut self,
        turn: &mut Turn<'_, M::Effect>,
        call: impl FnOnce(&mut State<M>, &mut Context<'_, M::Effect>) -> R,
    ) -> R {
        let writer = turn.checkpoint.as_mut();
        let checkpoint = writer.map(|writer| &mut **writer as &mut dyn CheckpointWriter);
        let mut context = Context {
            now: turn.now,
            leads: self
                .leads
                .filter(|_| turn.now.mono < self.consensus.lease_until()),
            bodies: &mut turn.bodies,
            effects: turn.effects,
            proposals: &mut self.proposals,
            urgent: false,
            checkpoint,
        };
        let result = call(&mut self.state, &mut context);
        self.urgent |= context.urgent;
        self.touched = true;
        if self.proposals_since.is_none() && !self.proposals.is_empty() {
            self.proposals_since = Some(turn.now.mono);
        }
        result
    }
}

/// Commands of the leader itself as an entry.
fn sealed(batch: Batch, time: Time) -> Bytes {
    batch.seal(Header {
        kind: Kind::Leader,
        commands: 0,
        origin: OriginId(0),
        seq: Seq(0),
        paid: Seq(0),
        time,
    })
}
