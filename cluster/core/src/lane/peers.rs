//! A lane among other nodes: envelopes, ticks, who leads, where replicas are.

use bytes::Bytes;

use super::touched::Touched;
use super::{Error, Lane, NEVER, committed_of, queue_at, rows_at};
use crate::consensus::{
    BEAT_MILLIS, IDLE_BEAT_MILLIS, MemberChange, Members, TICK_MILLIS, TICK_MILLIS_MIN,
};
use crate::ids::{Index, Instant, Life, NodeId, Now, ReplicaId, ShardId, Term};
use crate::inbox::Outputs;
use crate::link::{self, Beat, Dealing, Parcel};
use crate::machine::Machine;
use crate::replica::Replica;
use crate::rows::Version;

/// A node that there is no way to for so long, or that says nothing, is ruled out: longer than any
/// lease can last, so that no leader acts on what it still thinks (rule 8).
pub(super) const RULE_OUT_MILLIS: u64 = 2_000;
/// How long a batch may wait for definitions that this node does not have, and how many bytes of
/// such.
const STALLED_MILLIS_MAX: u64 = 1_000;
const STALLED_BYTES_MAX: usize = 64 << 20;

/// After so long without anything to do a leader beats more seldom, and a node that leads nothing
/// else answers more seldom: later, as the leader counts on its answers until then.
const LEADER_IDLE_MILLIS: u64 = 2_000;
pub(super) const FOLLOWER_IDLE_MILLIS: u64 = 3_000;

/// A batch of another node that is about definitions newer than this node's.
pub(super) struct Stalled {
    from: NodeId,
    shard: ShardId,
    known: Version,
    entry: Bytes,
    until: Instant,
}

/// A shard as this node knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardStatus {
    pub shard: ShardId,
    /// This node's replica, if it has one.
    pub replica: Option<ReplicaId>,
    pub leader: Option<(Term, NodeId)>,
    pub members: Members,
    pub applied: (Index, Term),
    pub committed: Index,
    /// Where its log ends.
    pub last: (Index, Term),
    /// How far the others have the log; empty unless this node leads.
    pub matched: Vec<(ReplicaId, Index)>,
}

impl<M: Machine, T: Copy> Lane<M, T> {
    /// Takes an envelope of another node, which came at that moment.
    pub(super) fn receive(
        &mut self,
        (from, at): (NodeId, Instant),
        envelope: &Bytes,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        self.shared.hear(from, now.mono);
        let parcels = match link::open(envelope) {
            Ok(parcels) => parcels,
            Err(malformed) => {
                outputs.foreign.push((from, malformed));
                return;
            }
        };
        for (shard, parcel) in parcels {
            if shard == ShardId::LOCAL_DEFINITIONS {
                self.hear_of_rows((from, at), parcel, now, outputs);
            } else if let Some(host) = self.other_host(shard) {
                if host == from {
                    self.hear_host(host, parcel, now, outputs);
                }
            } else if !shard.is_unlogged() || is_for_host(&parcel) {
                self.deliver(from, shard, parcel, now, outputs);
            }
        }
    }

    fn deliver(
        &mut self,
        from: NodeId,
        shard: ShardId,
        parcel: Parcel,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        let parcel = match parcel {
            Parcel::Transfer(transfer) => {
                self.touched.insert(shard);
                if transfer.is_of_sender() {
                    self.offered_or_sent(from, shard, transfer, now.mono, outputs);
                } else {
                    self.asked(from, shard, transfer, now.mono);
                }
                return;
            }
            Parcel::Room { bytes } => {
                self.room.heard(from, bytes);
                return;
            }
            Parcel::Ask { stamp, known } => {
                self.fresh.ask(from, stamp, known);
                return;
            }
            Parcel::Fresh {
                stamp,
                version,
                nodes,
            } => {
                let acts_on = self.shared.told();
                let answer = (stamp, version);
                self.fresh.answered(answer, &nodes, acts_on, now.mono);
                return;
            }
            parcel => parcel,
        };
        if let Parcel::Propose { known, entry } = &parcel
            && (*known > self.store.known || !self.stalled.is_empty() || !self.acts(shard))
        {
            let bytes: usize = self.stalled.iter().map(|it| it.entry.len()).sum();
            // What finds no room is sent again.
            if bytes <= STALLED_BYTES_MAX {
                self.stalled.push_back(Stalled {
                    from,
                    shard,
                    known: *known,
                    entry: entry.clone(),
                    until: now.mono.plus_millis(STALLED_MILLIS_MAX),
                });
            }
            return;
        }
        let bytes = match &parcel {
            Parcel::Propose { entry, .. } => entry.len(),
            _ => 0,
        };
        let room = self.has_room(shard, bytes);
        self.hand_over(from, shard, parcel, room, now, outputs);
    }

    fn hand_over(
        &mut self,
        from: NodeId,
        shard: ShardId,
        parcel: Parcel,
        room: bool,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        if let Some(at) = rows_at(shard) {
            let mut settled = Vec::new();
            let mail = &mut self.store.mail;
            self.rows[at].receive(from, parcel, now, room, mail, &mut settled);
            for (wait, outcome) in settled {
                let committed = committed_of(self.rows[at].machine_mut(), outcome);
                let told = wait.ticket().map(|ticket| (ticket, committed));
                outputs.committed.extend(told);
            }
        } else if let Some(at) = queue_at(shard, &self.options) {
            if let Parcel::Dealing {
                term,
                life,
                dealing,
            } = parcel
            {
                self.deal(at, from, (term, life, dealing), now, outputs);
            } else {
                let (settled, mail) = (&mut outputs.done, &mut self.store.mail);
                self.queues[at].receive(from, parcel, now, room, mail, settled);
            }
        } else {
            return;
        }
        self.touched.insert(shard);
    }

    fn deal(
        &mut self,
        at: usize,
        from: NodeId,
        dealing: (Term, Life, Dealing),
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        let replica = &mut self.queues[at];
        let mut turn = self.store.turn(replica.shard(), now, &mut self.emitted[at]);
        let known = turn.known;
        let effects = &mut outputs.effects;
        if let Err(malformed) = replica.take_dealing(from, dealing, known, effects, &mut turn) {
            outputs.foreign.push((from, malformed));
        }
    }

    /// Batches whose definitions are known by now, in the order in which they came.
    pub(super) fn take_stalled(&mut self, now: Now, outputs: &mut Outputs<M::Effect, T>) {
        let known = self.store.known;
        loop {
            let first = self.stalled.front();
            let acts = first.is_some_and(|it| it.known <= known && self.acts(it.shard));
            let due = |it: &mut Stalled| acts || it.until <= now.mono;
            let Some(stalled) = self.stalled.pop_front_if(due) else {
                return;
            };
            let Stalled {
                from, shard, entry, ..
            } = stalled;
            let late = !acts;
            let known = stalled.known;
            // Without them it is refused: whoever asked learns that and waits no more.
            let room = !late && self.has_room(shard, entry.len());
            self.hand_over(
                from,
                shard,
                Parcel::Propose { known, entry },
                room,
                now,
                outputs,
            );
        }
    }

    /// Whether the shard's leader, if it is here, acts.
    fn acts(&self, shard: ShardId) -> bool {
        let at = queue_at(shard, &self.options);
        at.is_none_or(|at| {
            let replica = &self.queues[at];
            replica.consensus().leads().is_none() || replica.acts()
        })
    }

    /// Whether another node's batch of so many bytes for this shard finds room, here and with the
    /// shard's voters.
    fn has_room(&self, shard: ShardId, bytes: usize) -> bool {
        let room = if shard.is_unlogged() {
            !self.scarce
        } else {
            self.store.log.has_room_for(bytes)
        };
        self.course == super::Course::Running && room && self.voters_have_room(shard, bytes)
    }

    /// Ticks the replicas that have peers, and rules out nodes that are gone for long.
    pub(super) fn tick(&mut self, now: Now, outputs: &mut Outputs<M::Effect, T>) {
        let born = *self.born.get_or_insert(now.mono);
        let next = self.next_tick.unwrap_or(now.mono);
        if now.mono < next {
            return;
        }
        // A quiet lane lets ticks wait for the next beat. Nothing was taken between them.
        let late = now.mono.micros_since(next) / (1000 * TICK_MILLIS_MIN);
        self.tell_of_room(now.mono);
        self.tick_rows(now);
        self.ask_leader(now.mono);
        let mut any = self.tick_hosts(now, outputs) || !self.nodes.is_empty();
        let mut tick = Tick {
            ticks: (1 + late).min(IDLE_BEAT_MILLIS / TICK_MILLIS),
            unfit: self.is_unfit(now.mono),
            now: now.mono,
            touched: &mut self.touched,
            quiet: true,
        };
        for replica in &mut self.rows {
            any |= tick.replica(replica);
        }
        let (nodes, seen, shared) = (&self.nodes, &self.seen, &self.shared);
        let is_gone = |node: NodeId| {
            let since = match shared.heard(node).filter(|_| nodes.contains(&node)) {
                Some(heard) => heard,
                None => seen.get(&node).copied().unwrap_or(born),
            };
            since.plus_millis(RULE_OUT_MILLIS) <= now.mono
        };
        for (replica, emitted) in self.queues.iter_mut().zip(&mut self.emitted) {
            if replica.is_at_rest() {
                continue;
            }
            let waits = replica.waits_for_nodes();
            tick.quiet &= !waits;
            any |= tick.replica(replica) || waits;
            let mut turn = self.store.turn(replica.shard(), now, emitted);
            if replica.rule_out(is_gone, &mut turn) {
                tick.touched.insert(replica.shard());
            }
            replica.call_back(is_gone, now.mono, &mut self.store.mail);
            replica.resend(None, &mut self.store.mail, now.mono);
            replica.tell_again(nodes, &mut self.store.mail, now.mono);
        }
        self.quiet = tick.quiet;
        self.next_tick = Some(if any {
            next_moment(now, TICK_MILLIS, TICK_MILLIS_MIN)
        } else {
            NEVER
        });
    }

    /// Every leader here says that it is there, and what waited for that goes along. Nodes do so at
    /// the same moments, as far as their clocks agree: what comes together costs one wake-up.
    pub(super) fn beat(&mut self, now: Now) {
        let ticks = self.next_tick.is_some_and(|tick| tick != NEVER);
        if !ticks || now.mono < self.next_beat {
            return;
        }
        let since = now.mono.micros_since(self.all_beat) / 1000;
        let all =
            now.wall.0 % IDLE_BEAT_MILLIS < BEAT_MILLIS || since + TICK_MILLIS > IDLE_BEAT_MILLIS;
        if all {
            self.all_beat = now.mono;
        }
        // All nodes act on the definitions, at any time.
        self.idle = !self.rows[0].votes_on_definitions();
        for replica in &mut self.rows {
            beat(replica, false, now.mono, &mut self.touched);
        }
        for replica in &mut self.queues {
            let idle = replica.is_idle(LEADER_IDLE_MILLIS, now.mono);
            self.idle &= replica.is_idle(FOLLOWER_IDLE_MILLIS, now.mono);
            if all || !idle {
                beat(replica, idle, now.mono, &mut self.touched);
            }
        }
        self.beats = if all { Beat::All } else { Beat::Some };
        self.next_beat = if self.idle {
            next_moment(now, IDLE_BEAT_MILLIS, BEAT_MILLIS)
        } else {
            next_moment(now, BEAT_MILLIS, BEAT_MILLIS / 2)
        };
    }

    /// Something happens: leaders count on this node's answers.
    pub(super) fn wake_beats(&mut self, now: Now) {
        self.idle = false;
        let next = next_moment(now, BEAT_MILLIS, BEAT_MILLIS / 2);
        self.next_beat = next.min(self.next_beat);
    }

    /// There may be somebody to agree with now. Ticks that are counted stay as far apart as they
    /// are: leases count on that.
    fn wake_ticks(&mut self) {
        self.next_tick.take_if(|tick| *tick == NEVER);
    }

    /// Other nodes hear of what this one leads from here on.
    pub(super) fn tell_roles(&mut self, outputs: &Outputs<M::Effect, T>) {
        let node = self.options.node;
        for (shard, leads) in &outputs.roles {
            let Some(term) = leads.filter(|_| *shard != ShardId::LOCAL_DEFINITIONS) else {
                continue;
            };
            for to in &self.nodes {
                let parcel = Parcel::Leader { node, term };
                self.store.mail.send(*to, *shard, &parcel);
            }
        }
    }

    pub(super) fn connected(&mut self, node: NodeId, now: Instant) {
        self.nodes.insert(node);
        self.seen.remove(&node);
        self.wake_ticks();
        self.room.tell_again();
        let mail = &mut self.store.mail;
        for replica in &mut self.queues {
            replica.connected(node, mail);
            replica.resend(Some(node), mail, now);
            self.touched.insert(replica.shard());
        }
        self.rows[0].connected(node, mail);
        self.touched.insert(ShardId::DEFINITIONS);
        self.host_connected(node, now);
        self.rows_connected(node, now);
    }

    pub(super) fn disconnected(&mut self, node: NodeId, now: Instant) {
        if self.nodes.remove(&node) {
            self.seen.insert(node, now);
        }
        self.room.forget(node);
        self.fresh.forget(node);
        self.clock.forget(node);
        self.queues.iter_mut().for_each(|it| it.disconnected(node));
        self.rows.iter_mut().for_each(|it| it.disconnected(node));
        self.rows_disconnected(node);
    }

    pub(super) fn host(&mut self, shard: ShardId, replica: ReplicaId) -> Result<(), Error> {
        if let Some(vacating) = self.vacating.get_mut(&shard) {
            vacating.host_after(replica);
            return Ok(());
        }
        let seed = self.options.seed.wrapping_add(u64::from(shard.0));
        let here = replica.node() == self.options.node;
        let hosted = with_replica!(self, shard, it => {
            if here && !it.is_here() { it.host(replica, seed) } else { Ok(()) }
        });
        self.touched.insert(shard);
        self.wake_ticks();
        hosted
            .unwrap_or(Ok(()))
            .map_err(|cause| Error::Consensus { shard, cause })
    }

    pub(super) fn change_members(&mut self, shard: ShardId, changes: &[MemberChange]) {
        // Refused where somebody else leads or a change is under way: the plan is made anew.
        let _ = with_replica!(self, shard, it => it.consensus_mut().propose_members(changes));
        self.touched.insert(shard);
        self.wake_ticks();
    }

    /// An operator says that the shard's majority is lost for ever.
    pub(super) fn recover_shard(&mut self, shard: ShardId) {
        // What comes of it is seen in the shard's status.
        let _ = with_replica!(self, shard, it => {
            let led = it.consensus().leader().is_some();
            if led { Ok(()) } else { it.consensus_mut().recover() }
        });
        self.touched.insert(shard);
        self.wake_ticks();
    }

    /// Hands a lead over, but not to a node that would give it back: its clock is wrong.
    pub(super) fn transfer(&mut self, shard: ShardId, to: ReplicaId) {
        if self.clock.is_off(to.node()) {
            return;
        }
        let _ = with_replica!(self, shard, it => it.consensus_mut().transfer(to));
        self.touched.insert(shard);
    }

    /// Whether this node's sessions have done something that the log of the shard may not have:
    /// acknowledged a message, most of all.
    #[must_use]
    pub fn owes(&self, shard: ShardId) -> bool {
        queue_at(shard, &self.options).is_some_and(|at| self.queues[at].owes())
    }

    /// What this node knows of a logged shard.
    #[must_use]
    pub fn status(&self, shard: ShardId) -> Option<ShardStatus> {
        let mut status = if let Some(at) = rows_at(shard) {
            status(&self.rows[at])
        } else {
            status(&self.queues[queue_at(shard, &self.options)?])
        };
        if let Some(vacating) = self.vacating.get(&shard) {
            // Until the disk knows that it is gone.
            status.replica = Some(vacating.replica());
        }
        Some(status)
    }
}

/// Whether a node that has unlogged queues is told such things by others.
fn is_for_host(parcel: &Parcel) -> bool {
    matches!(parcel, Parcel::Propose { .. } | Parcel::Dealing { .. })
}

/// What all replicas that have peers go through, and what came of it.
struct Tick<'a> {
    ticks: u64,
    unfit: bool,
    now: Instant,
    touched: &'a mut Touched,
    /// Nobody expects anything of the next one.
    quiet: bool,
}

impl Tick<'_> {
    /// Whether it has anybody to agree with.
    fn replica<M: Machine, T: Copy>(&mut self, replica: &mut Replica<M, T>) -> bool {
        if replica.consensus().is_alone() {
            return false;
        }
        let leader = replica.leader();
        let consensus = replica.consensus_mut();
        consensus.set_unfit(self.unfit);
        for _ in 0..self.ticks {
            consensus.tick(self.now);
        }
        self.quiet &= consensus.is_settled(self.now);
        if consensus.has_work() || replica.leader() != leader {
            self.touched.insert(replica.shard());
        }
        true
    }
}

/// Ticks and beats of all nodes that agree about the time come together.
fn next_moment(now: Now, period: u64, least: u64) -> Instant {
    now.mono
        .plus_millis(now.wall.millis_to_multiple(period, least))
}

fn beat<M: Machine, T: Copy>(
    replica: &mut Replica<M, T>,
    idle: bool,
    now: Instant,
    touched: &mut Touched,
) {
    if replica.consensus().leads().is_some() {
        replica.consensus_mut().beat(now, idle);
        touched.insert(replica.shard());
    }
}

fn status<M: Machine, T: Copy>(replica: &Replica<M, T>) -> ShardStatus {
    let consensus = replica.consensus();
    let members = consensus.members();
    let matched = members.all();
    let matched = matched.filter_map(|peer| Some((peer, consensus.matched(peer)?)));
    ShardStatus {
        shard: replica.shard(),
        replica: replica.is_here().then(|| replica.id()),
        leader: replica.leader(),
        matched: matched.collect(),
        applied: replica.applied(),
        committed: consensus.hard().commit,
        last: consensus.last(),
        members: members.clone(),
    }
}
