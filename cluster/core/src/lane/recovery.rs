//! Making a lane from what its disk holds: checkpoints, then the log behind them.
//!
//! What a replica decides alone is agreed on as soon as it is in its log: it is applied while it is
//! read. Of one with other voters, what is behind the newest commit that the log tells of is kept
//! until a leader says which of it counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use super::background::HEAD_PART;
use super::catch_up::CatchUps;
use super::clock::WallClock;
use super::fresh::Fresh;
use super::hosts::Hosts;
use super::shared::Shared;
use super::store::Store;
use super::touched::Touched;
use super::{Course, Error, Lane, Options, rows_at};
use crate::batch::Batch;
use crate::checkpoint::Header;
use crate::consensus::{Consensus, Entry, EntryKind, Hard, Members, Start};
use crate::ids::{Index, Instant, NodeId, Now, Place, ReplicaId, ShardId, Term};
use crate::link::Beat;
use crate::log::disk::RecoveryDisk;
use crate::log::{self, CheckpointError, Item, Log, Recovery, Relocation, View};
use crate::machine::{Context, LiveRef, Machine, Malformed};
use crate::origin::{self, Origin};
use crate::replica::{Head, Replica, State};
use crate::rows::{Rows, Version};

/// All shards of a lane on their way back.
struct Found<M> {
    shards: u32,
    /// In the order of `Lane::queues` and `Lane::rows`.
    queues: Vec<Shard<M>>,
    rows: [Shard<Rows>; 2],
}

/// One shard on its way back.
struct Shard<M> {
    state: State<M>,
    /// The replica that this node has; `None` where it has none.
    replica: Option<ReplicaId>,
    hard: Hard,
    members: Members,
    /// The replica that was given up here.
    forgotten: ReplicaId,
    /// Set by the first part of a checkpoint.
    restored: Option<(Index, Term)>,
    /// Entries that are not known to be agreed on, and where they lie.
    open: VecDeque<(Entry, Place)>,
}

/// What a shard is told while it comes back, whatever its machine.
trait Returning {
    fn part(&mut self, kind: u8, bytes: &[u8]) -> Result<(), Malformed>;
    fn whole(&mut self, header: &Header, bodies: &mut View<'_>) -> Result<(), Malformed>;
    fn entry(
        &mut self,
        entry: &Entry,
        place: Place,
        bodies: &mut View<'_>,
    ) -> Result<(), Malformed>;
    fn hard(&mut self, hard: Hard, bodies: &mut View<'_>) -> Result<(), Malformed>;
    fn live(&self, key: u64, ids: RangeInclusive<u64>, out: &mut Vec<LiveRef>);
    fn relocate(&mut self, relocation: &Relocation, bodies: &mut View<'_>);
}

impl<M: Machine, T: Copy> Lane<M, T> {
    /// A lane of what `disk` holds; nothing is a lane without a past.
    ///
    /// # Errors
    /// When the disk fails, or holds what cannot be trusted.
    pub fn recover(
        options: Options,
        disk: &mut dyn RecoveryDisk,
        machine: impl Fn(ShardId) -> M,
    ) -> Result<Self, Error> {
        let recovered = Self::recover_whole(options.clone(), disk, &machine);
        if cfg!(warren_break = "rebuild_same_id") && recovered.is_err() {
            for (file, _) in disk.list()? {
                disk.remove(file)?;
            }
            return Self::recover_whole(options, disk, &machine);
        }
        recovered
    }

    fn recover_whole(
        options: Options,
        disk: &mut dyn RecoveryDisk,
        machine: &impl Fn(ShardId) -> M,
    ) -> Result<Self, Error> {
        let mut recovery = Recovery::open(log_options(&options), disk)?;
        let mut found = Found::nothing(&options, machine);
        for header in recovery.checkpoints() {
            found.restore(&header, &mut recovery, disk)?;
        }
        while let Some(item) = recovery.next(disk)? {
            found.replay(item, recovery.log())?;
        }
        found.relocate(&mut recovery, disk)?;
        Self::assemble(options, recovery.finish(), found)
    }

    fn assemble(options: Options, mut log: Log, found: Found<M>) -> Result<Self, Error> {
        let queues = found.queues.into_iter();
        let queues = queues.map(|shard| shard.into_replica(&options));
        let queues: Vec<_> = queues.collect::<Result<_, _>>()?;
        let [definitions, local] = found.rows;
        let rows = [
            definitions.into_replica(&options)?,
            local.into_replica(&options)?,
        ];
        let open = queues.iter().filter_map(Replica::open_until);
        let open = open.chain(rows.iter().filter_map(Replica::open_until));
        let open: BTreeMap<_, _> = open.collect();
        open.keys().for_each(|shard| log.hold_checkpoint(*shard));
        let mut touched = Touched::default();
        touched.extend(queues.iter().map(Replica::shard));
        touched.extend(rows.iter().map(Replica::shard));
        Ok(Self {
            rows,
            store: Store::new(log),
            touched,
            deadlines: BTreeMap::new(),
            next_tick: None,
            next_beat: Instant(0),
            quiet: false,
            idle: false,
            all_beat: Instant(0),
            beats: Beat::None,
            nodes: BTreeSet::new(),
            seen: BTreeMap::new(),
            born: None,
            emitted: queues.iter().map(|_| Vec::new()).collect(),
            queues,
            scarce: false,
            hosts: Hosts::default(),
            shared: Shared::new(options.life),
            catch_ups: CatchUps::new(options.life),
            fresh: Fresh::default(),
            clock: WallClock::default(),
            stalled: VecDeque::new(),
            room: super::health::Room::default(),
            sending: BTreeMap::new(),
            installing: None,
            open,
            vacating: BTreeMap::new(),
            course: Course::Running,
            checkpoints_at_end: true,
            told_rows: false,
            options,
        })
    }
}

impl<M: Machine> Found<M> {
    fn nothing(options: &Options, machine: impl Fn(ShardId) -> M) -> Self {
        let shards = options.shards;
        let queues =
            std::iter::once(ShardId::queues_of(options.node)).chain((1..=shards).map(ShardId));
        let rows = [
            (ShardId::DEFINITIONS, Rows::default()),
            (
                ShardId::LOCAL_DEFINITIONS,
                Rows::beginning_at(Version::local(options.node, options.life)),
            ),
        ];
        Self {
            shards,
            queues: queues
                .map(|shard| Shard::new(shard, machine(shard), options))
                .collect(),
            rows: rows.map(|(shard, machine)| Shard::new(shard, machine, options)),
        }
    }

    fn shard(&mut self, shard: ShardId) -> Result<&mut dyn Returning, Error> {
        if let Some(at) = rows_at(shard) {
            return Ok(&mut self.rows[at]);
        }
        let logged = (1..=self.shards).contains(&shard.0);
        let Some(at) = logged.then_some(shard.0 as usize) else {
            let cause = Malformed {
                what: "log",
                at: 0,
                cause: "this node has no such shard",
            };
            return Err(Error::Malformed { shard, cause });
        };
        Ok(&mut self.queues[at])
    }

    fn restore(
        &mut self,
        header: &Header,
        recovery: &mut Recovery,
        disk: &mut dyn RecoveryDisk,
    ) -> Result<(), Error> {
        let shard = header.shard;
        let malformed = |cause| Error::Malformed { shard, cause };
        let returning = self.shard(shard)?;
        let read = recovery.read_checkpoint(shard, disk, |kind, part| returning.part(kind, part));
        read.map_err(|error| match error {
            CheckpointError::Log(error) => Error::Log(error),
            CheckpointError::Part { cause, .. } => malformed(cause),
        })?;
        let mut bodies = recovery.log().bodies(shard);
        returning.whole(header, &mut bodies).map_err(malformed)
    }

    fn replay(&mut self, item: Item, log: &mut Log) -> Result<(), Error> {
        match item {
            Item::Entry {
                shard,
                term,
                index,
                entry_kind,
                payload,
                place,
            } => {
                let malformed = |cause| Error::Malformed { shard, cause };
                let entry = Entry {
                    term,
                    index,
                    kind: EntryKind::decode(entry_kind).map_err(malformed)?,
                    data: payload,
                };
                let returning = self.shard(shard)?;
                let mut bodies = log.bodies(shard);
                returning
                    .entry(&entry, place, &mut bodies)
                    .map_err(malformed)
            }
            Item::HardState { shard, state } => {
                let hard = Hard {
                    term: state.term,
                    vote: ReplicaId(state.vote),
                    commit: state.commit,
                };
                let malformed = |cause| Error::Malformed { shard, cause };
                let returning = self.shard(shard)?;
                let mut bodies = log.bodies(shard);
                returning.hard(hard, &mut bodies).map_err(malformed)
            }
        }
    }

    /// Bodies whose segments are gone lie in copies.
    fn relocate(
        &mut self,
        recovery: &mut Recovery,
        disk: &mut dyn RecoveryDisk,
    ) -> Result<(), Error> {
        // What was settled before by entries that are not applied yet may be gone: nobody could
        // have removed it unless they were agreed on, so they will be applied again.
        let queues = self.queues.iter().filter(|it| !it.open.is_empty());
        let open: BTreeSet<ShardId> = queues.map(|it| it.state.shard()).collect();
        let may_lack = |shard| open.contains(&shard);
        let live = |shard, key, ids, out: &mut Vec<LiveRef>| {
            if let Ok(returning) = self.shard(shard) {
                returning.live(key, ids, out);
            }
        };
        let relocations = recovery.relocations(disk, live, &may_lack)?;
        for relocation in relocations {
            let mut bodies = recovery.log().bodies(relocation.shard);
            self.shard(relocation.shard)?
                .relocate(&relocation, &mut bodies);
        }
        Ok(())
    }
}

impl<M: Machine> Shard<M> {
    /// A shard of which the disk has nothing: its founders have a voter each.
    fn new(shard: ShardId, machine: M, options: &Options) -> Self {
        let founders = options.founders.iter();
        let voters: Vec<_> = founders.map(|node| founding(shard, *node)).collect();
        let here = |replica: &&ReplicaId| replica.node() == options.node;
        Self {
            state: State::new(shard, machine),
            replica: voters.iter().find(here).copied(),
            hard: Hard::default(),
            members: Members {
                voters,
                ..Members::default()
            },
            forgotten: ReplicaId(0),
            restored: None,
            open: VecDeque::new(),
        }
    }

    fn into_replica<T: Copy>(self, options: &Options) -> Result<Replica<M, T>, Error> {
        let shard = self.state.shard();
        let failed = |cause| Error::Consensus { shard, cause };
        let origin = origin(shard, options);
        if shard.is_unlogged() {
            return Ok(Replica::new(
                self.state,
                Consensus::unlogged(Term(options.life.0)),
                origin,
            ));
        }
        let Some(replica) = self.replica else {
            let mut replica = Replica::new(self.state, Consensus::vacant(), origin);
            replica.forget(self.forgotten);
            return Ok(replica);
        };
        let alone = self.members.is_decided_by(replica);
        let entries = self.open.iter().map(|(entry, _)| entry.clone());
        let start = Start {
            replica,
            hard: self.hard,
            members: self.members,
            applied: self.state.applied(),
            entries: entries.collect(),
            seed: options.seed.wrapping_add(u64::from(shard.0)),
            tells_commits: shard == ShardId::DEFINITIONS,
        };
        let consensus = Consensus::new(start).map_err(failed)?;
        let mut replica = Replica::new(self.state, consensus, origin);
        for (entry, place) in &self.open {
            replica.found(entry.index, entry.term, *place);
        }
        if alone {
            replica.campaign().map_err(failed)?;
        }
        Ok(replica)
    }

    /// How far entries are agreed on, as far as the disk tells.
    fn committed(&self) -> Index {
        let alone = self
            .replica
            .is_some_and(|replica| self.members.is_decided_by(replica));
        if alone {
            Index(u64::MAX)
        } else {
            self.hard.commit
        }
    }

    /// Applies what is agreed on.
    fn settle(&mut self, bodies: &mut View<'_>) -> Result<(), Malformed> {
        let agreed = |open: &mut (Entry, Place), to: Index| open.0.index <= to;
        loop {
            let committed = self.committed();
            let Some((entry, place)) = self.open.pop_front_if(|open| agreed(open, committed))
            else {
                return Ok(());
            };
            let mut context = Context {
                now: Now::default(),
                leads: None,
                bodies,
                effects: &mut Vec::new(),
                proposals: &mut Batch::default(),
                urgent: false,
                checkpoint: None,
            };
            self.state.apply_at(&entry, place, &mut context)?;
            if entry.kind != EntryKind::Normal {
                self.change_members(&entry)?;
            }
        }
    }

    /// The members after this change, as consensus reckons them.
    fn change_members(&mut self, entry: &Entry) -> Result<(), Malformed> {
        let refused = |_| unlike("consensus does not take a change of members");
        let mut consensus = Consensus::new(Start {
            replica: self.replica.unwrap_or_default(),
            hard: Hard::default(),
            members: self.members.clone(),
            applied: (Index(0), Term(0)),
            entries: Vec::new(),
            seed: 0,
            tells_commits: false,
        })
        .map_err(refused)?;
        self.members = consensus.change_members(entry).map_err(refused)?;
        Ok(())
    }
}

impl<M: Machine> Returning for Shard<M> {
    fn part(&mut self, kind: u8, bytes: &[u8]) -> Result<(), Malformed> {
        if kind != HEAD_PART {
            return self.state.machine_mut().restore(bytes);
        }
        let head = Head::decode(bytes)?;
        if head.shard != self.state.shard() {
            return Err(unlike("its head is of another shard"));
        }
        if head.replica == ReplicaId(0) {
            self.replica = None;
            self.forgotten = head.hard.vote;
            self.restored = Some(head.applied);
            return Ok(());
        }
        self.replica = Some(head.replica);
        self.hard = head.hard;
        self.members = head.members.clone();
        self.restored = Some(head.applied);
        self.state.restore(head);
        Ok(())
    }

    fn whole(&mut self, header: &Header, bodies: &mut View<'_>) -> Result<(), Malformed> {
        if self.restored != Some((header.index, header.term)) {
            return Err(unlike("its head is of another entry than its file"));
        }
        self.state.machine_mut().restored()?;
        self.state.machine().retain_all(bodies);
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &Entry,
        place: Place,
        bodies: &mut View<'_>,
    ) -> Result<(), Malformed> {
        if self.replica.is_none() {
            return Err(unlike(
                "an entry of a shard that this node has no replica of",
            ));
        }
        let replaced = |open: &(Entry, Place)| open.0.index >= entry.index;
        while self.open.back().is_some_and(replaced) {
            self.open.pop_back();
        }
        let last = self.open.back().map(|(last, _)| last.index);
        if entry.index.0 != last.unwrap_or_else(|| self.state.applied().0).0 + 1 {
            return Err(unlike("an entry does not follow the one before"));
        }
        self.open.push_back((entry.clone(), place));
        self.settle(bodies)
    }

    fn hard(&mut self, hard: Hard, bodies: &mut View<'_>) -> Result<(), Malformed> {
        // What is written of the commit may be older than what a checkpoint says.
        let commit = self.hard.commit.max(hard.commit);
        self.hard = Hard { commit, ..hard };
        self.settle(bodies)
    }

    fn live(&self, key: u64, ids: RangeInclusive<u64>, out: &mut Vec<LiveRef>) {
        self.state.machine().live(key, ids, out);
    }

    fn relocate(&mut self, relocation: &Relocation, bodies: &mut View<'_>) {
        let Relocation {
            key, id, from, to, ..
        } = *relocation;
        let machine = self.state.machine_mut();
        machine.relocate(key, id, from, to, bodies);
    }
}

fn unlike(cause: &'static str) -> Malformed {
    Malformed {
        what: "log",
        at: 0,
        cause,
    }
}

/// The replica that a founder of a cluster has of a shard.
#[must_use]
pub fn founding(shard: ShardId, node: NodeId) -> ReplicaId {
    ReplicaId::new(node, shard.0.wrapping_add(1))
}

fn origin<T: Copy>(shard: ShardId, options: &Options) -> Origin<T> {
    Origin::new(origin::Options {
        node: options.node,
        life: options.life,
        unpaid_bytes_limit: options.unpaid_bytes_limit,
        resend_after_millis: options.resend_after_millis,
        // A transaction has its own preconditions and versions.
        merges: !shard.is_rows(),
    })
}

fn log_options(options: &Options) -> log::Options {
    log::Options {
        segment_bytes: options.segment_bytes,
        young_bytes: options.young_bytes,
        read_cache_bytes: options.read_cache_bytes,
        checkpoint_bytes: options.checkpoint_bytes_min,
        sync_is_left_to_the_os: options.sync_is_left_to_the_os,
        ..log::Options::new(options.log)
    }
}
