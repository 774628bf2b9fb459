//! Everything a lane does, in bounded turns: takes inputs, moves its shards, feeds its log.
//!
//! A lane hosts the definitions (shard 0), the queue shards, and this node's unlogged two, and
//! owns the one log that they share. Order within a step: inputs; then for each shard that
//! something happened to: propose, append, apply, flush; then a slice of background work; then
//! the log hands out what is to be written. Persistence comes back as an input of a later step.
//!
//! Always holds:
//! - a step takes a bounded number and bytes of inputs; what is left over stays where it is;
//! - a ticket is answered exactly once while the lane lives;
//! - an idle lane has no deadline.

/// Calls a method on the replica of a shard, whatever its machine.
macro_rules! with_replica {
    ($lane:expr, $shard:expr, $replica:ident => $call:expr) => {
        if let Some(at) = rows_at($shard) {
            let $replica = &mut $lane.rows[at];
            Some($call)
        } else if let Some(at) = queue_at($shard, &$lane.options) {
            let $replica = &mut $lane.queues[at];
            Some($call)
        } else {
            None
        }
    };
}

mod background;
mod catch_up;
mod clock;
mod fresh;
mod health;
mod hosts;
mod install;
mod peers;
mod recovery;
mod run;
mod shared;
mod store;
#[cfg(test)]
mod tests;
mod touched;
mod transfer;
mod vacate;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::batch::{Batch, Outcome};
use crate::ids::{Index, Instant, Life, NodeId, Now, ShardId};
use crate::inbox::{Input, Outputs};
use crate::link::Beat;
use crate::log::disk::{DiskError, Op};
use crate::machine::{Machine, Malformed};
pub use crate::replica::Head;
use crate::replica::Replica;
use crate::rows::{Committed, Rows, Transaction, WaitFor};
pub use peers::ShardStatus;
pub use recovery::founding;

use catch_up::CatchUps;
use clock::WallClock;
use fresh::Fresh;
use health::Room;
use hosts::Hosts;
use install::Installing;
use peers::{FOLLOWER_IDLE_MILLIS, Stalled};
use run::Out;
use shared::Shared;
use store::Store;
use touched::Touched;
use transfer::Sending;
use vacate::Vacating;

/// Inputs that one step takes.
const STEP_INPUTS_MAX: usize = 1024;
/// Bytes of batches that one step takes, more or less.
const STEP_BYTES_MAX: usize = 4 << 20;

/// No replica has peers: nothing to tick.
const NEVER: Instant = Instant(u64::MAX);

/// How often inputs that follow from effects are sent on in one step.
const ROUTES_MAX: u32 = 4;

/// How a lane is made.
#[derive(Clone, Debug)]
pub struct Options {
    pub node: NodeId,
    /// This run of the node's process: larger than that of every run before.
    pub life: Life,
    /// The identity of the log: no other folder's files have it.
    pub log: u64,
    /// Queue shards: 1 to this number.
    pub shards: u32,
    /// The nodes that have a voter of every shard before there is anything on their disks: the
    /// first node of a cluster alone. Empty on one that joins.
    pub founders: Vec<NodeId>,
    /// Spreads election timeouts.
    pub seed: u64,
    pub segment_bytes: u32,
    pub young_bytes: u64,
    pub read_cache_bytes: u64,
    /// Confirm what is written without waiting for its sync.
    pub sync_is_left_to_the_os: bool,
    /// Bytes of batches that may wait for their outcome in one shard, and for the disk in all;
    /// more are refused. Sessions' credit keeps the sum far below.
    pub unpaid_bytes_limit: usize,
    /// Milliseconds after which a batch without an outcome is sent again.
    pub resend_after_millis: u64,
    /// A shard's checkpoint is due when its log since the last outweighs that twice, and this.
    pub checkpoint_bytes_min: u64,
    /// A shard with less log since its last checkpoint is not worth one when the lane ends.
    pub last_checkpoint_bytes_min: u64,
    /// Bytes of a checkpoint that one step writes, more or less.
    pub checkpoint_step_bytes: usize,
    /// Bytes a second that a replica which is being rebuilt takes in.
    pub transfer_bytes_per_second: u64,
}

/// Why a lane cannot go on: the process ends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    #[error("shard {shard}: {cause}")]
    Malformed { shard: ShardId, cause: Malformed },
    #[error("shard {shard} has no such state as its log says: {cause}")]
    Consensus {
        shard: ShardId,
        cause: crate::consensus::Error,
    },
    #[error("log: {0}")]
    Log(#[from] crate::log::Error),
    #[error("disk: {0}")]
    Disk(#[from] DiskError),
}

/// Figures for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    pub log_bytes: u64,
    pub segments: u32,
    pub young_bytes: u64,
    pub memory_bytes: u64,
}

/// A lane. `T` names who waits for a batch or a transaction.
pub struct Lane<M: Machine, T> {
    options: Options,
    /// The unlogged queues, then queue shards 1, 2..
    queues: Vec<Replica<M, T>>,
    /// The definitions and the local ones.
    rows: [Replica<Rows, WaitFor<T>>; 2],
    store: Store,
    /// Shards that something happened to since they were last moved.
    touched: Touched,
    deadlines: BTreeMap<ShardId, Instant>,
    /// When the replicas that have peers are ticked next.
    next_tick: Option<Instant>,
    /// When all that lead here beat; and whether this step ends with all mail that waited for it.
    next_beat: Instant,
    /// When those that are idle did.
    all_beat: Instant,
    /// Nothing is expected of the next tick: it counts at the next beat as well as on time.
    quiet: bool,
    /// Nothing has happened to any queue shard here for long, and nobody counts on this node's
    /// answer: every second beat is enough.
    idle: bool,
    beats: Beat,
    /// Nodes that there is a way to.
    nodes: BTreeSet<NodeId>,
    /// When the way to other nodes was lost, and when the lane began.
    seen: BTreeMap<NodeId, Instant>,
    born: Option<Instant>,
    /// What queue shards want done, before it is sorted by node; in the order of `queues`.
    emitted: Vec<Vec<M::Effect>>,
    /// Other nodes' unlogged queues.
    hosts: Hosts<M, T>,
    /// What nodes tell each other of rows.
    shared: Shared<T>,
    catch_ups: CatchUps<T>,
    fresh: Fresh,
    clock: WallClock,
    /// Memory is scarce: other nodes' batches for the unlogged queues are refused.
    scarce: bool,
    /// Batches of other nodes about definitions that this one does not have yet, in their order.
    stalled: VecDeque<Stalled>,
    /// What is known of room on disks.
    room: Room,
    /// Peers' replicas that are being rebuilt from this node's.
    sending: BTreeMap<ShardId, Sending>,
    /// The replica of this node that is being rebuilt.
    installing: Option<Installing<M>>,
    /// Shards whose log did not end with what is agreed on at the start, and where it ended: held
    /// in the log.
    open: BTreeMap<ShardId, Index>,
    /// Replicas of this node that are given up.
    vacating: BTreeMap<ShardId, Vacating>,
    course: Course,
    /// Whether the end is worth checkpoints: not after one has failed since it began.
    checkpoints_at_end: bool,
    /// Rows are told once, all of them, before anything else.
    told_rows: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Course {
    Running,
    /// Nothing is taken any more; what is under way is finished, then checkpoints are written.
    Stopping,
    Stopped,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new(node: NodeId, life: Life, shards: u32) -> Self {
        Self {
            node,
            life,
            log: node.0,
            shards,
            founders: vec![node],
            seed: node.0,
            segment_bytes: 64 << 20,
            young_bytes: 64 << 20,
            read_cache_bytes: 32 << 20,
            sync_is_left_to_the_os: false,
            unpaid_bytes_limit: 256 << 20,
            resend_after_millis: 10_000,
            checkpoint_bytes_min: 16 << 20,
            last_checkpoint_bytes_min: 1 << 20,
            checkpoint_step_bytes: 256 << 10,
            transfer_bytes_per_second: 64 << 20,
        }
    }
}

impl<M: Machine, T: Copy> Lane<M, T> {
    /// One bounded turn. Inputs that it took are gone from `inputs`; operations for the disk are
    /// added to `ops`. True when it has more to do at once, even without inputs.
    ///
    /// # Errors
    /// What a lane cannot survive: the log failed, or an entry cannot be read. Nothing that this
    /// step put into `outputs` may be told.
    pub fn step(
        &mut self,
        now: Now,
        inputs: &mut VecDeque<Input<M::Input, T>>,
        outputs: &mut Outputs<M::Effect, T>,
        ops: &mut Vec<Op>,
    ) -> Result<bool, Error> {
        let alone = self.rows[0].consensus().is_alone();
        let now = self.clock.read(now, alone);
        self.store.known = self.rows[0].machine().version();
        self.tell_rows(outputs);
        self.tick(now, outputs);
        self.beat(now);
        self.take_inputs(now, inputs, outputs)?;
        self.take_stalled(now, outputs);
        self.take_deadlines(now.mono);
        self.move_shards(now, outputs)?;
        self.tell_roles(outputs);
        self.send_transfers(now.mono);
        self.go_on_installing(now, outputs);
        self.go_on_vacating();
        let more = self.work_in_background(outputs);
        self.store.submit(now.mono, ops);
        self.take_events(now)?;
        self.stay_fresh(now.mono);
        self.tell_peers(now, outputs);
        let beat = std::mem::take(&mut self.beats);
        self.store.mail.take(beat, &mut outputs.mail);
        Ok(more || !self.touched.is_empty())
    }

    /// When a step is wanted though nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let shards = self.deadlines.values().min().copied();
        let tick = self.next_tick.filter(|tick| *tick != NEVER);
        let beat = tick.map(|_| self.next_beat);
        let tick = tick.filter(|_| !self.quiet);
        let transfer = self.transfer_deadline();
        let install = self.install_deadline();
        let answers = self.shared.deadline();
        let catch_ups = self.catch_ups.deadline();
        let log = self.store.log.deadline();
        let others = [transfer, install, answers, catch_ups];
        [shards, log, tick, beat]
            .into_iter()
            .chain(others)
            .flatten()
            .min()
    }

    /// Whether every shard that this node has a replica of has a leader: this node, with all
    /// that its log says applied, or another one.
    #[must_use]
    pub fn all_led(&self) -> bool {
        fn led<M: Machine, T: Copy>(replica: &Replica<M, T>) -> bool {
            let here = replica.consensus().leads().is_some();
            !replica.is_here() || replica.leads().is_some() || (!here && replica.leader().is_some())
        }
        self.queues.iter().all(led) && self.rows.iter().all(led)
    }

    /// Whether the next steps write pieces of a checkpoint: work that nothing else shows.
    #[must_use]
    pub fn writes_checkpoint(&self) -> bool {
        self.store.log.checkpoint_shard().is_some() && self.store.log.checkpoint_is_hungry()
    }

    #[must_use]
    pub fn figures(&self) -> Figures {
        self.store.figures()
    }

    /// What a checkpoint of a shard would begin with: how far it is applied, its origins.
    #[must_use]
    pub fn head(&self, shard: ShardId) -> Option<Head> {
        if let Some(at) = rows_at(shard) {
            return Some(self.rows[at].head());
        }
        let at = queue_at(shard, &self.options)?;
        Some(self.queues[at].head())
    }

    /// A queue shard's machine, for tests and questions that need no order.
    #[must_use]
    pub fn machine(&self, shard: ShardId) -> Option<&M> {
        let at = queue_at(shard, &self.options)?;
        Some(self.queues[at].machine())
    }

    /// A rows shard's machine.
    #[must_use]
    pub fn rows(&self, shard: ShardId) -> Option<&Rows> {
        Some(self.rows[rows_at(shard)?].machine())
    }

    /// After a start, watchers begin with all rows.
    fn tell_rows(&mut self, outputs: &mut Outputs<M::Effect, T>) {
        if !self.told_rows {
            self.told_rows = true;
            let all = self.rows[0].machine().all();
            outputs.changes.push((ShardId::DEFINITIONS, all));
        }
    }

    fn take_inputs(
        &mut self,
        now: Now,
        inputs: &mut VecDeque<Input<M::Input, T>>,
        outputs: &mut Outputs<M::Effect, T>,
    ) -> Result<(), Error> {
        let mut bytes = 0;
        for _ in 0..STEP_INPUTS_MAX {
            if bytes >= STEP_BYTES_MAX {
                return Ok(());
            }
            let Some(input) = inputs.pop_front() else {
                return Ok(());
            };
            match input {
                Input::Propose {
                    shard,
                    batch,
                    ticket,
                } => {
                    bytes += batch.len();
                    if !self.propose(shard, batch, ticket, now) {
                        outputs.done.push((ticket, Outcome::Refused));
                    }
                }
                Input::Machine { shard, input } => self.ask(shard, input, now, outputs),
                Input::Transact {
                    shard,
                    transaction,
                    wait,
                } => {
                    bytes += transaction.encoded_len();
                    if !self.transact(shard, &transaction, wait, now) {
                        let ticket = wait.ticket();
                        outputs
                            .committed
                            .extend(ticket.map(|ticket| (ticket, None)));
                    }
                }
                Input::CatchUp { node, ticket } => self.catch_up(node, ticket, now.mono, outputs),
                Input::Disk(completion) => self.completed(completion, now)?,
                Input::Tick => {}
                Input::Received { from, envelope, at } => {
                    bytes += envelope.len();
                    self.receive((from, at), &envelope, now, outputs);
                }
                Input::Connected { node } => self.connected(node, now.mono),
                Input::Disconnected { node } => self.disconnected(node, now.mono),
                Input::Host { shard, replica } => self.host(shard, replica)?,
                Input::Vacate { shard, replica } => self.vacate(shard, replica),
                Input::Recover { shard } => self.recover_shard(shard),
                Input::ChangeMembers { shard, changes } => self.change_members(shard, &changes),
                Input::Transfer { shard, to } => self.transfer(shard, to),
                Input::Reconciled { shard, term } => {
                    if let Some(at) = queue_at(shard, &self.options) {
                        self.queues[at].reconciled(term);
                        self.touched.insert(shard);
                    }
                }
                Input::Fence { node, life } => self.fence(node, life, outputs),
                Input::Renew { life } => self.renew(life, now.mono),
                Input::Post { to, bytes } => self.post(to, bytes),
                Input::Scarce { memory } => self.scarce = memory,
                Input::FreeDisk { bytes } => self.store.log.set_free_disk(bytes),
                Input::Stop => self.stop(),
            }
        }
        Ok(())
    }

    #[must_use]
    fn propose(&mut self, shard: ShardId, batch: Batch, ticket: T, now: Now) -> bool {
        if let Some(node) = self.other_host(shard) {
            return self.propose_to_host(node, batch, ticket, now);
        }
        let Some(at) = queue_at(shard, &self.options) else {
            return false;
        };
        let room = shard.is_unlogged() || self.has_room_for(&batch);
        let room = room && self.voters_have_room(shard, batch.len());
        if self.course != Course::Running || !room {
            return false;
        }
        self.touched.insert(shard);
        self.queues[at].push(batch, ticket, now)
    }

    /// Whether the log takes more: its disk has space, and keeps up.
    fn has_room_for(&self, batch: &Batch) -> bool {
        let pending = self.store.log.pending_bytes();
        let limit = self.options.unpaid_bytes_limit as u64;
        let keeps_up = pending == 0 || pending + batch.len() as u64 <= limit;
        keeps_up && self.store.log.has_room_for(batch.len())
    }

    #[must_use]
    fn transact(
        &mut self,
        shard: ShardId,
        transaction: &Transaction,
        wait: WaitFor<T>,
        now: Now,
    ) -> bool {
        let Some(at) = rows_at(shard) else {
            return false;
        };
        if self.course != Course::Running {
            return false;
        }
        let mut batch = Batch::new(transaction.encoded_len());
        batch.push(|out| transaction.encode(out));
        // What nobody waits for is told at the next tick.
        self.quiet &= matches!(wait, WaitFor::Everywhere(_));
        self.touched.insert(shard);
        self.rows[at].push(batch, wait, now)
    }

    fn ask(
        &mut self,
        shard: ShardId,
        input: M::Input,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        if let Some(node) = self.other_host(shard) {
            self.ask_host(node, input, now, outputs);
            return;
        }
        let Some(at) = queue_at(shard, &self.options) else {
            return;
        };
        self.touched.insert(shard);
        let mut turn = self.store.turn(shard, now, &mut self.emitted[at]);
        self.queues[at].ask(input, &mut turn);
    }

    /// Shards whose time has come.
    fn take_deadlines(&mut self, now: Instant) {
        let due = self
            .deadlines
            .iter()
            .filter(|(_, deadline)| **deadline <= now);
        self.touched.extend(due.map(|(shard, _)| *shard));
    }

    /// Moves every shard that something happened to; those that want to go on stay touched.
    fn move_shards(&mut self, now: Now, outputs: &mut Outputs<M::Effect, T>) -> Result<(), Error> {
        let turn = self.touched.begin_turn();
        for &shard in &turn {
            let more = self.move_shard(shard, now, outputs);
            let more = more.map_err(|cause| Error::Malformed { shard, cause })?;
            if more {
                self.touched.insert(shard);
            }
            self.begin_transfer(shard, now.mono);
            let (deadline, alone) = match rows_at(shard) {
                Some(at) => wishes(&self.rows[at]),
                None => queue_at(shard, &self.options)
                    .map_or((None, true), |at| wishes(&self.queues[at])),
            };
            let host = shard.host().and_then(|node| self.host_deadline(node));
            let deadline = deadline.or(host);
            if !alone && self.next_tick == Some(NEVER) {
                self.next_tick = Some(now.mono);
            }
            match deadline {
                Some(deadline) => self.deadlines.insert(shard, deadline),
                None => self.deadlines.remove(&shard),
            };
        }
        self.touched.end_turn(turn);
        Ok(())
    }

    fn move_shard(
        &mut self,
        shard: ShardId,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) -> Result<bool, Malformed> {
        if let Some(at) = rows_at(shard) {
            let mut changes = Vec::new();
            let mut answered = Vec::new();
            let here = &mut outputs.committed;
            let mut out = Out {
                effects: &mut changes,
                roles: &mut outputs.roles,
                answer: &mut |rows: &mut Rows, wait: WaitFor<T>, outcome| {
                    let committed = committed_of(rows, outcome);
                    match wait {
                        WaitFor::Nothing => {}
                        WaitFor::Here(ticket) => here.push((ticket, committed)),
                        WaitFor::Everywhere(ticket) => answered.push((ticket, committed)),
                    }
                },
            };
            let more = run::run(&mut self.rows[at], &mut self.store, now, &mut out)?;
            if !changes.is_empty() {
                if shard == ShardId::LOCAL_DEFINITIONS {
                    self.share(&changes);
                }
                outputs.changes.push((shard, changes));
            }
            self.answer(at, answered, now, outputs);
            return Ok(more);
        }
        if let Some(node) = self.other_host(shard) {
            return self.move_host(node, now, outputs);
        }
        let Some(at) = queue_at(shard, &self.options) else {
            return Ok(false);
        };
        self.move_queues(at, now, outputs)
    }

    /// Moves a queue shard: what sessions want of its leader goes there, and what its leader wants
    /// done goes to them.
    fn move_queues(
        &mut self,
        at: usize,
        now: Now,
        outputs: &mut Outputs<M::Effect, T>,
    ) -> Result<bool, Malformed> {
        let Self {
            queues,
            store,
            emitted,
            ..
        } = self;
        let (replica, emitted) = (&mut queues[at], &mut emitted[at]);
        let mut more = false;
        for _ in 0..ROUTES_MAX {
            let mut turn = store.turn(replica.shard(), now, emitted);
            let known = turn.known;
            if let Err((node, malformed)) = replica.handle_stalled(known, &mut turn) {
                outputs.foreign.push((node, malformed));
            }
            replica.send_inputs(known, &mut turn);
            let done = &mut outputs.done;
            let mut out = Out {
                effects: emitted,
                roles: &mut outputs.roles,
                answer: &mut |_: &mut M, ticket, outcome| done.push((ticket, outcome)),
            };
            more = run::run(replica, store, now, &mut out)?;
            let effects = &mut outputs.effects;
            if replica.consensus().is_unlogged() {
                replica.route_from_unlogged(emitted, effects, now.mono, &mut store.mail);
                break;
            }
            let again = replica.route(emitted, effects, now.mono, &mut store.mail);
            if !again && !replica.owes_a_claim() {
                break;
            }
            more |= again;
        }
        replica.tell_got(&mut store.mail);
        if self.idle && !self.queues[at].is_idle(FOLLOWER_IDLE_MILLIS, now.mono) {
            self.wake_beats(now);
        }
        Ok(more)
    }
}

/// When a replica wants a step, and whether it needs no ticks.
fn wishes<M: Machine, T: Copy>(replica: &Replica<M, T>) -> (Option<Instant>, bool) {
    (replica.deadline(), replica.consensus().is_alone())
}

/// What to tell the one who waits for a transaction.
fn committed_of(rows: &mut Rows, outcome: Outcome) -> Option<Committed> {
    match outcome {
        Outcome::Stored => rows.take_committed(),
        Outcome::Refused => None,
    }
}

/// Where a rows shard is.
fn rows_at(shard: ShardId) -> Option<usize> {
    match shard {
        ShardId::DEFINITIONS => Some(0),
        ShardId::LOCAL_DEFINITIONS => Some(1),
        _ => None,
    }
}

/// Where a queue shard is.
fn queue_at(shard: ShardId, options: &Options) -> Option<usize> {
    if let Some(node) = shard.host() {
        return (node == options.node).then_some(0);
    }
    let logged = (1..=options.shards).contains(&shard.0);
    logged.then_some(shard.0 as usize)
}
