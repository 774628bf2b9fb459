//! One replica's raft: the library's node, what waits for the disk, leases, members, snapshots.
//!
//! Always holds:
//! - the library's random election timeouts are replaced by ones that follow from what is known,
//!   so that a run can be repeated, and voters who miss a leader do not all ask at the same time;
//! - a replica grants no vote in the first election timeout after its start (rule 8): it may have
//!   answered a leader's beat before, and a lease counts on that.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::prelude::{ConfChange, ConfChangeV2, EntryType, MessageType};
use raft::{Config, ProgressState, RawNode, SnapshotStatus, StateRole};
use smallvec::SmallVec;

use super::kept::Kept;
use super::members;
use super::{
    ELECTION_TICKS, Entry, EntryKind, Error, Hard, IDLE_BEAT_MILLIS, LEASE_MILLIS, MISSED_TICKS,
    MemberChange, Members, Message, Ready, SnapshotOf, Start, TICK_MILLIS,
};
use crate::ids::{Index, Instant, ReplicaId, Term};

/// Bytes of entries that one ready gives out to apply, more or less.
const APPLY_BYTES_MAX: u64 = 4 << 20;
/// Bytes of entries in one message to a peer, and such messages on their way at once.
const MESSAGE_BYTES_MAX: u64 = 512 << 10;
const MESSAGES_MAX: usize = 64;
/// The context of a request for votes that does not wait for a lease to end.
const FORCED: &[u8] = b"CampaignTransfer";
/// Ticks that a peer has to answer to the snapshot that it was told of.
const SNAPSHOT_TICKS_MAX: u32 = 2 * ELECTION_TICKS;
/// Between the turns of two voters who miss a leader: enough for the first to be elected.
const TURN_TICKS: u64 = 2;

pub(super) struct Group {
    node: RawNode<Kept>,
    /// Messages that wait for a ready to be on disk, by its number.
    held: VecDeque<(u64, Vec<Message>)>,
    /// Messages that wait no more.
    free: Vec<Message>,
    seed: u64,
    /// Term and vote that went into the log last.
    promised: (Term, ReplicaId),
    now: Instant,
    /// Before this no vote is granted.
    silent_until: Option<Instant>,
    started: bool,
    /// The sender's clock on the leader's last heartbeat, and whether that one was at rest: to be
    /// sent back.
    echo: (Instant, bool),
    /// When the newest heartbeat was sent that a peer has answered, in the term that is led.
    answered: BTreeMap<ReplicaId, Instant>,
    answered_in: u64,
    /// Changes of members that were forced, and are not in the log yet.
    recovering: Vec<MemberChange>,
    /// The lead is being given away: nothing is done as its holder any more.
    lease_given_up: Option<u64>,
    /// It is not to lead: what is promised does not get onto this node's disk, or its clock is
    /// wrong.
    unfit: bool,
    /// The ready that replaced the log by a snapshot, and the snapshot's entry.
    restoring: Option<(u64, Index)>,
    /// Ticks since peers were told of a snapshot.
    telling: BTreeMap<u64, u32>,
    /// The entry that made the members what they are, or a later one: a snapshot of an earlier one
    /// does not know them, and whoever is not in it does not take it.
    members_at: Index,
    /// The voters in their order: looked at often.
    voters: Vec<u64>,
    /// See [`Group::lease_until`].
    lease: Instant,
    /// The last beat was one of a leader that needs no lease.
    idle: bool,
}

impl Group {
    pub(super) fn new(start: Start) -> Result<Self, Error> {
        let config = Config {
            id: start.replica.0,
            election_tick: ELECTION_TICKS as usize,
            // Its own come too seldom to count: [`Self::beat`] makes those that do.
            heartbeat_tick: ELECTION_TICKS as usize - 1,
            applied: start.applied.0.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            // It joins entries to an empty message of another index: acknowledged, never stored.
            batch_append: false,
            max_committed_size_per_ready: APPLY_BYTES_MAX,
            skip_bcast_commit: !start.tells_commits,
            ..Config::default()
        };
        let seed = start.seed;
        let promised = (start.hard.term, start.hard.vote);
        let members_at = start.applied.0;
        let silent = !start.members.is_decided_by(start.replica);
        let kept = Kept::new(start);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, kept, &logger).map_err(refused)?;
        let mut group = Self {
            node,
            held: VecDeque::new(),
            free: Vec::new(),
            seed,
            promised,
            now: Instant(0),
            silent_until: None,
            started: !silent,
            echo: (Instant(0), false),
            answered: BTreeMap::new(),
            answered_in: 0,
            recovering: Vec::new(),
            lease_given_up: None,
            unfit: false,
            restoring: None,
            telling: BTreeMap::new(),
            members_at,
            voters: Vec::new(),
            lease: Instant(0),
            idle: false,
        };
        group.members_changed();
        Ok(group)
    }

    pub(super) fn id(&self) -> ReplicaId {
        ReplicaId(self.node.raft.id)
    }

    pub(super) fn campaign(&mut self) -> Result<(), Error> {
        let campaigned = self.node.campaign().map_err(refused);
        self.draw_timeout();
        self.lease = self.lease();
        campaigned
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.set_now(now);
        let leads = self.node.raft.state == StateRole::Leader;
        if leads && !self.members().votes(self.id()) {
            // Elected after its vote was to go: else it would lead for as long as it can, and who
            // lays shards out waits for a leader among the voters. Not as soon as it has no vote:
            // who is still to apply that does not take a lead.
            self.give_away();
        }
        if self.unfit && !self.members().is_decided_by(self.id()) {
            self.give_away();
            // It does not stand for election.
            if self.node.raft.state != StateRole::Leader {
                return;
            }
        }
        self.node.tick();
        self.check_transfer();
        self.draw_timeout();
        self.check_told();
        self.lease = self.lease();
    }

    pub(super) fn is_settled(&self, now: Instant) -> bool {
        let raft = &self.node.raft;
        match raft.state {
            StateRole::Leader => (self.lease > now || self.idle) && raft.lead_transferee.is_none(),
            StateRole::Follower => raft.leader_id != 0 && raft.election_elapsed < MISSED_TICKS,
            StateRole::Candidate | StateRole::PreCandidate => false,
        }
    }

    pub(super) fn has_work(&self) -> bool {
        self.node.has_ready() || !self.free.is_empty()
    }

    pub(super) fn beat(&mut self, now: Instant, idle: bool) {
        self.set_now(now);
        self.idle = idle;
        self.node.ping();
    }

    pub(super) fn set_unfit(&mut self, unfit: bool) {
        self.unfit = unfit;
    }

    /// Offers the lead to the voter that is the most likely to take it, once a term.
    fn give_away(&mut self) {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader || self.lease_given_up == Some(raft.term) {
            return;
        }
        let heir = self.heir();
        match heir.map(|heir| self.transfer(heir)) {
            Some(Ok(())) => {}
            Some(Err(_)) | None => self.step_down(),
        }
    }

    /// A voter that has answered of late, with as much of the log as any of them.
    fn heir(&self) -> Option<ReplicaId> {
        let voters = self.members().voters.iter().copied();
        let others = voters.filter(|voter| *voter != self.id());
        others.max_by_key(|voter| {
            let late = self.answered_by(*voter).plus_millis(3 * IDLE_BEAT_MILLIS) < self.now;
            (!late, self.matched(*voter))
        })
    }

    fn step_down(&mut self) {
        let raft = &mut self.node.raft;
        raft.become_follower(raft.term, raft::INVALID_ID);
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
        if !self.started {
            self.started = true;
            let millis = u64::from(ELECTION_TICKS) * TICK_MILLIS;
            self.silent_until = Some(now.plus_millis(millis));
        }
    }

    /// A lead that was to be handed over and was not taken: the one who was told to take it may
    /// still do so in this term, whatever lease others believe in. So the lead is taken anew, in
    /// the next term: by this replica if it has a vote.
    fn check_transfer(&mut self) {
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader;
        let given_up = self.lease_given_up == Some(raft.term);
        if !leads || !given_up || raft.lead_transferee.is_some() {
            return;
        }
        let members = self.members();
        let alone = members.is_decided_by(self.id());
        let votes = members.votes(self.id());
        // A sole voter is elected at once, and that needs all of its log on disk.
        if alone && raft.raft_log.persisted < raft.raft_log.last_index() {
            return;
        }
        let campaigns = votes && !self.unfit;
        self.step_down();
        if campaigns {
            self.node.raft.campaign(FORCED);
        }
    }

    /// Peers that did not answer to a snapshot are asked where they stand. What they were told of
    /// is not offered again unless they still say that they have it.
    fn check_told(&mut self) {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            // Whoever ceases to lead knows nothing of where peers stand.
            self.telling.clear();
            return;
        }
        let told = raft
            .prs()
            .iter()
            .filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        let told: Vec<u64> = told.map(|(id, _)| *id).collect();
        self.telling.retain(|id, _| told.contains(id));
        for id in told {
            let ticks = self.telling.entry(id).or_default();
            *ticks += 1;
            if *ticks > SNAPSHOT_TICKS_MAX {
                *ticks = 0;
                self.node.mut_store().withdraw(ReplicaId(id));
                self.node.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }

    pub(super) fn step(&mut self, message: Message, now: Instant) -> Result<(), Error> {
        self.set_now(now);
        let (from, term, stamp) = (message.from, message.term(), message.stamp);
        let (beat, answer) = (message.is_heartbeat(), message.is_heartbeat_response());
        let at_rest = message.at_rest;
        let led = self.leads().is_some();
        let message = message.into_raft();
        let asks_for_vote = matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        // A leader that gives its lead away says so, and has given up its lease first.
        let forced = !message.context.is_empty();
        if asks_for_vote && !forced && self.silent_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        // A leader tells a peer of no more than that one has acknowledged; the library panics.
        let last = self.node.raft.raft_log.last_index();
        if beat && term.0 >= self.node.raft.term && message.commit > last {
            return Err(Error::Forgetful {
                acknowledged: Index(message.commit),
                last: Index(last),
            });
        }
        let stepped = self.node.step(message).map_err(refused);
        self.draw_timeout();
        let raft = &self.node.raft;
        if beat && raft.term == term.0 {
            self.echo = (stamp, at_rest);
        }
        if answer && raft.term == term.0 && raft.state == StateRole::Leader {
            if self.answered_in != raft.term {
                self.answered.clear();
                self.answered_in = raft.term;
            }
            let newest = self.answered.entry(from).or_default();
            *newest = stamp.max(*newest);
        }
        if !led && self.leads().is_some() {
            // It may not act before this is answered.
            self.idle = false;
            self.node.ping();
        }
        self.lease = self.lease();
        stepped
    }

    fn members_changed(&mut self) {
        let voters = self.members().voters.iter();
        self.voters = voters.map(|voter| voter.0).collect();
        self.voters.sort_unstable();
        self.draw_timeout();
        self.lease = self.lease();
    }

    /// The library draws election timeouts at random, at moments of its own; ours follow from the
    /// seed, the term, the role and the leader, so that it does not matter when it did. Who has a
    /// leader misses it in turn with the other voters, the first a tick after all of them are free
    /// to vote; where that came to nothing, it is chance.
    fn draw_timeout(&mut self) {
        let turn = self.turn();
        let raft = &mut self.node.raft;
        let role = raft.state as u64;
        let extra = turn.map_or_else(
            || splitmix(self.seed ^ splitmix(raft.term << 2 | role)),
            |turn| turn * TURN_TICKS + 1,
        );
        let extra = extra % u64::from(ELECTION_TICKS);
        raft.set_randomized_election_timeout((u64::from(ELECTION_TICKS) + extra) as usize);
    }

    /// How many of those who would miss the leader stand for election before this voter does.
    fn turn(&self) -> Option<u64> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Follower || raft.leader_id == 0 {
            return None;
        }
        let others = || self.voters.iter().filter(|voter| **voter != raft.leader_id);
        let at = others().position(|voter| *voter == raft.id)?;
        Some((at as u64 + raft.term) % others().count() as u64)
    }

    pub(super) fn is_alone(&self) -> bool {
        self.members().is_only(self.id())
    }

    /// As the library reckons it before it takes an entry.
    pub(super) fn takes_proposals(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader
            && raft.lead_transferee.is_none()
            && raft.prs().get(raft.id).is_some()
    }

    pub(super) fn propose(&mut self, kind: EntryType, data: Bytes) -> Result<(), Error> {
        if self.node.raft.state != StateRole::Leader {
            return Err(Error::NotLeading);
        }
        let mut message = raft::prelude::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        let mut entry = raft::prelude::Entry {
            data,
            ..raft::prelude::Entry::default()
        };
        entry.set_entry_type(kind);
        message.set_entries(vec![entry].into());
        self.node.raft.step(message).map_err(refused)
    }

    /// Becomes the only voter without asking anybody, and leads. What that makes of the members
    /// goes into the log as soon as it does; before that is on disk it has not happened.
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        if self.node.raft.state == StateRole::Leader {
            return Ok(());
        }
        let me = self.id();
        if !self.members().outgoing.is_empty() {
            self.force(&ConfChangeV2::default())?;
        }
        let members = self.members().clone();
        let mut changes = Vec::new();
        if !members.voters.contains(&me) {
            changes.push(MemberChange::Voter(me));
        }
        let others = members.all().filter(|id| *id != me);
        changes.extend(others.map(MemberChange::Remove));
        for change in &changes {
            self.force(&members::change_of(std::slice::from_ref(change)))?;
        }
        self.recovering = changes;
        self.campaign()
    }

    fn force(&mut self, change: &ConfChangeV2) -> Result<(), Error> {
        let state = self.node.apply_conf_change(change).map_err(refused)?;
        self.node.mut_store().set_members(&state);
        self.members_changed();
        Ok(())
    }

    /// The log says what was forced, once this replica leads.
    fn record_recovery(&mut self) {
        if self.recovering.is_empty() || self.node.raft.state != StateRole::Leader {
            return;
        }
        let entry = members::entry_of(&self.recovering);
        if self.propose(EntryType::EntryConfChangeV2, entry).is_ok() {
            self.recovering.clear();
        }
    }

    /// Whether a change of members is in the log and not applied, or half way.
    pub(super) fn changes_members(&self) -> bool {
        self.node.raft.has_pending_conf() || !self.members().outgoing.is_empty()
    }

    pub(super) fn transfer(&mut self, to: ReplicaId) -> Result<(), Error> {
        if self.node.raft.state != StateRole::Leader {
            return Err(Error::NotLeading);
        }
        self.lease_given_up = Some(self.node.raft.term);
        self.lease = Instant(0);
        self.node.transfer_leader(to.0);
        Ok(())
    }

    pub(super) fn unreachable(&mut self, peer: ReplicaId) {
        self.node.report_unreachable(peer.0);
    }

    pub(super) fn take_wants(&mut self) -> Vec<ReplicaId> {
        let leads = self.leads().is_some();
        let wants = self.node.mut_store().take_wants();
        wants.into_iter().filter(|_| leads).collect()
    }

    pub(super) fn offer(&mut self, to: ReplicaId, of: SnapshotOf) {
        self.node.mut_store().offer(to, of);
    }

    pub(super) fn first_kept(&self) -> Index {
        self.node.store().first_kept()
    }

    pub(super) fn members_at(&self) -> Index {
        self.members_at
    }

    pub(super) fn pin(&mut self, index: Option<Index>) {
        self.node.mut_store().pin(index);
    }

    pub(super) fn on_persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
        if let Some((_, index)) = self.restoring.take_if(|(of, _)| *of <= number) {
            // It is in the machine already.
            self.node.advance_apply_to(index.0);
        }
        while self.held.front().is_some_and(|(held, _)| *held <= number) {
            let (_, messages) = self.held.pop_front().expect("looked at above");
            if self.free.is_empty() {
                self.free = messages;
            } else {
                self.free.extend(messages);
            }
        }
    }

    pub(super) fn ready(&mut self) -> Option<Ready> {
        self.record_recovery();
        if !self.node.has_ready() {
            if self.free.is_empty() {
                return None;
            }
            return Some(Ready {
                messages: std::mem::take(&mut self.free),
                ..Ready::default()
            });
        }
        let mut ready = self.node.ready();
        let number = ready.number();
        let mut messages = std::mem::take(&mut self.free);
        let now = ready.take_messages();
        messages.extend(now.iter().map(|message| self.stamped(message)));
        let held = ready.take_persisted_messages();
        let holds = !held.is_empty() || !ready.snapshot().is_empty();
        if !held.is_empty() {
            let held = held.iter().map(|message| self.stamped(message));
            let held = held.collect();
            self.held.push_back((number, held));
        }
        let hard = ready.hs().map(Hard::of);
        let hard = hard.filter(|hard| self.promised != (hard.term, hard.vote));
        if let Some(hard) = hard {
            self.promised = (hard.term, hard.vote);
        }
        let restored = !ready.snapshot().is_empty();
        if restored {
            let snapshot = ready.snapshot().clone();
            self.members_at = Index(snapshot.get_metadata().index);
            self.restoring = Some((number, self.members_at));
            self.node.mut_store().restore(&snapshot);
            self.members_changed();
        }
        let committed = ready.take_committed_entries();
        let entries = ready.take_entries();
        let out = Ready {
            number,
            hard,
            entries: entries.iter().map(Entry::of).collect(),
            messages,
            committed: committed.iter().map(Entry::of).collect(),
            holds,
            restored,
        };
        self.node.mut_store().append(entries);
        self.node.advance_append_async(ready);
        Some(out)
    }

    fn stamped(&self, message: &raft::prelude::Message) -> Message {
        let mut message = Message::of(message);
        if message.is_heartbeat() {
            message.stamp = self.now;
            message.at_rest = self.lease > self.now || self.idle;
        } else if message.is_heartbeat_response() {
            (message.stamp, message.at_rest) = self.echo;
        }
        message
    }

    pub(super) fn applied(&mut self, index: Index) {
        self.node.advance_apply_to(index.0);
        let alone = self.is_alone();
        let behind = if self.node.raft.state == StateRole::Leader {
            let progress = self.node.raft.prs().iter();
            let matched = progress.map(|(_, progress)| progress.matched).min();
            Index(matched.unwrap_or(index.0))
        } else {
            index
        };
        let store = self.node.mut_store();
        if alone {
            store.forget(index);
        } else {
            store.forget_surplus(index, behind);
        }
    }

    pub(super) fn change_members(&mut self, entry: &Entry) -> Result<Members, Error> {
        use protobuf::Message as _;
        let malformed = |error: protobuf::ProtobufError| Error::Malformed(error.to_string());
        let state = match entry.kind {
            EntryKind::Normal => {
                return Err(Error::Malformed("not a change of members".into()));
            }
            EntryKind::MemberChange => {
                let change = ConfChange::parse_from_bytes(&entry.data).map_err(malformed)?;
                self.node.apply_conf_change(&change)
            }
            EntryKind::MembersChange => {
                let change = ConfChangeV2::parse_from_bytes(&entry.data).map_err(malformed)?;
                self.node.apply_conf_change(&change)
            }
        };
        let state = state.map_err(refused)?;
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && raft.prs().get(raft.id).is_none() {
            // Elected after it was to be removed. The library panics over a leader that is no
            // member, at the next answer that it gets.
            raft.become_follower(raft.term, raft::INVALID_ID);
        }
        self.node.mut_store().set_members(&state);
        self.members_at = entry.index;
        self.members_changed();
        Ok(Members::of(&state))
    }

    pub(super) fn leads(&self) -> Option<Term> {
        let raft = &self.node.raft;
        (raft.state == StateRole::Leader).then_some(Term(raft.term))
    }

    pub(super) fn leader(&self) -> Option<(Term, ReplicaId)> {
        let raft = &self.node.raft;
        (raft.leader_id != 0).then_some((Term(raft.term), ReplicaId(raft.leader_id)))
    }

    pub(super) fn lease_until(&self) -> Instant {
        self.lease
    }

    fn lease(&self) -> Instant {
        let members = self.members();
        if members.is_decided_by(self.id()) {
            return Instant(u64::MAX);
        }
        let term = self.node.raft.term;
        if self.leads().is_none() || self.lease_given_up == Some(term) {
            return Instant(0);
        }
        let of = |voters: &[ReplicaId]| {
            let answered = voters.iter().map(|it| self.answered_by(*it));
            let mut answered: SmallVec<[Instant; 8]> = answered.collect();
            answered.sort_unstable();
            // As many as a majority have answered this one or a newer one.
            answered.get((voters.len().max(1) - 1) / 2).copied()
        };
        let newest = of(&members.voters).unwrap_or_default();
        let outgoing = of(&members.outgoing).unwrap_or(newest);
        let answered = newest.min(outgoing);
        if answered == Instant(0) {
            return answered;
        }
        answered.plus_millis(LEASE_MILLIS)
    }

    fn answered_by(&self, voter: ReplicaId) -> Instant {
        if voter == self.id() {
            return Instant(u64::MAX);
        }
        if self.answered_in != self.node.raft.term {
            return Instant(0);
        }
        self.answered.get(&voter).copied().unwrap_or_default()
    }

    pub(super) fn matched(&self, peer: ReplicaId) -> Option<Index> {
        self.leads()?;
        let progress = self.node.raft.prs().get(peer.0)?;
        Some(Index(progress.matched))
    }

    pub(super) fn hard(&self) -> Hard {
        Hard::of(&self.node.raft.hard_state())
    }

    pub(super) fn last(&self) -> (Index, Term) {
        let log = &self.node.raft.raft_log;
        let last = log.last_index();
        (Index(last), Term(log.term(last).unwrap_or(0)))
    }

    pub(super) fn members(&self) -> &Members {
        self.node.store().members()
    }
}

#[allow(clippy::needless_pass_by_value)] // `map_err` hands errors over by value
fn refused(error: raft::Error) -> Error {
    Error::Refused(error.to_string())
}

/// The next number of a fixed sequence that looks random.
fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
