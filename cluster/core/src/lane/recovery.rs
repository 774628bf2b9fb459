//! Making a lane from what its disk holds: checkpoints, then the log behind them.
//!
//! A sole voter's entries are agreed on as soon as they are in its log: they are applied while
//! they are read, and none is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::background::HEAD_PART;
use super::store::Store;
use super::{Error, Lane, Life, Options, queue_at, rows_at};
use crate::batch::Batch;
use crate::checkpoint::Header;
use crate::consensus::{Consensus, Entry, EntryKind, Hard, Members, Start};
use crate::ids::{Index, Now, Place, ReplicaId, ShardId, Term};
use crate::log::disk::RecoveryDisk;
use crate::log::{self, CheckpointError, Item, Log, Recovery, Relocation, View};
use crate::machine::{Context, LiveRef, Machine, Malformed};
use crate::origin::{self, Origin};
use crate::replica::{Head, Replica, State};
use crate::rows::Rows;

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
    hard: Hard,
    members: Members,
    /// Set by the first part of a checkpoint.
    restored: Option<(Index, Term)>,
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
    fn hard(&mut self, hard: Hard);
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
        let mut recovery = Recovery::open(log_options(&options), disk)?;
        let mut found = Found::nothing(options.shards, machine);
        for header in recovery.checkpoints() {
            found.restore(&header, &mut recovery, disk)?;
        }
        while let Some(item) = recovery.next(disk)? {
            found.replay(item, recovery.log())?;
        }
        found.relocate(&mut recovery, disk)?;
        Self::assemble(options, recovery.finish(), found)
    }

    fn assemble(options: Options, log: Log, found: Found<M>) -> Result<Self, Error> {
        let queues = found.queues.into_iter();
        let queues = queues.map(|shard| shard.into_replica(&options));
        let queues: Vec<_> = queues.collect::<Result<_, _>>()?;
        let [definitions, local] = found.rows;
        let rows = [
            definitions.into_replica(&options)?,
            local.into_replica(&options)?,
        ];
        let mut touched: BTreeSet<_> = queues.iter().map(Replica::shard).collect();
        touched.extend(rows.iter().map(Replica::shard));
        Ok(Self {
            queues,
            rows,
            store: Store::new(log),
            touched,
            deadlines: BTreeMap::new(),
            life: Life::Running,
            checkpoints_at_end: true,
            told_rows: false,
            options,
        })
    }
}

impl<M: Machine> Found<M> {
    fn nothing(shards: u32, machine: impl Fn(ShardId) -> M) -> Self {
        let queues = std::iter::once(ShardId::LOCAL_QUEUES).chain((1..=shards).map(ShardId));
        let rows = [ShardId::DEFINITIONS, ShardId::LOCAL_DEFINITIONS];
        Self {
            shards,
            queues: queues
                .map(|shard| Shard::new(shard, machine(shard)))
                .collect(),
            rows: rows.map(|shard| Shard::new(shard, Rows::default())),
        }
    }

    fn shard(&mut self, shard: ShardId) -> Result<&mut dyn Returning, Error> {
        if let Some(at) = rows_at(shard) {
            return Ok(&mut self.rows[at]);
        }
        let Some(at) = queue_at(shard, self.shards) else {
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
                self.shard(shard)?.hard(Hard {
                    term: state.term,
                    vote: ReplicaId(state.vote),
                    commit: state.commit,
                });
                Ok(())
            }
        }
    }

    /// Bodies whose segments are gone lie in copies.
    fn relocate(
        &mut self,
        recovery: &mut Recovery,
        disk: &mut dyn RecoveryDisk,
    ) -> Result<(), Error> {
        let relocations = recovery.relocations(disk, |shard, key, ids, out| {
            if let Ok(returning) = self.shard(shard) {
                returning.live(key, ids, out);
            }
        })?;
        for relocation in relocations {
            let mut bodies = recovery.log().bodies(relocation.shard);
            self.shard(relocation.shard)?
                .relocate(&relocation, &mut bodies);
        }
        Ok(())
    }
}

impl<M: Machine> Shard<M> {
    /// A shard of which the disk has nothing: this node is its first and only member.
    fn new(shard: ShardId, machine: M) -> Self {
        let members = Members {
            voters: vec![replica_of(shard)],
            ..Members::default()
        };
        Self {
            state: State::new(shard, machine),
            hard: Hard::default(),
            members,
            restored: None,
        }
    }

    fn into_replica<T: Copy>(self, options: &Options) -> Result<Replica<M, T>, Error> {
        let shard = self.state.shard();
        let start = Start {
            replica: replica_of(shard),
            hard: self.hard,
            members: self.members,
            applied: self.state.applied(),
            entries: Vec::new(),
            seed: options.seed.wrapping_add(u64::from(shard.0)),
        };
        let consensus = if shard.is_unlogged() {
            Ok(Consensus::unlogged())
        } else {
            Consensus::new(start)
        };
        let failed = |cause| Error::Consensus { shard, cause };
        let mut replica = Replica::new(self.state, consensus.map_err(failed)?, origin(options));
        replica.campaign().map_err(failed)?;
        Ok(replica)
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
        self.state.machine_mut().restored(bodies)
    }

    fn entry(
        &mut self,
        entry: &Entry,
        place: Place,
        bodies: &mut View<'_>,
    ) -> Result<(), Malformed> {
        if entry.index.0 != self.state.applied().0.0 + 1 {
            return Err(unlike("an entry does not follow the one before"));
        }
        if entry.kind != EntryKind::Normal {
            return Err(unlike("a sole voter has a change of members"));
        }
        let mut context = Context {
            now: Now::default(),
            leads: None,
            bodies,
            effects: &mut Vec::new(),
            proposals: &mut Batch::default(),
            urgent: false,
            checkpoint: None,
        };
        self.state.apply_at(entry, place, &mut context)?;
        Ok(())
    }

    fn hard(&mut self, hard: Hard) {
        self.hard = hard;
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

/// The replica that the first node of a cluster has of a shard.
fn replica_of(shard: ShardId) -> ReplicaId {
    ReplicaId(u64::from(shard.0) + 1)
}

fn origin<T: Copy>(options: &Options) -> Origin<T> {
    Origin::new(origin::Options {
        node: options.node,
        unpaid_bytes_limit: options.unpaid_bytes_limit,
        resend_after_millis: options.resend_after_millis,
    })
}

fn log_options(options: &Options) -> log::Options {
    log::Options {
        segment_bytes: options.segment_bytes,
        young_bytes: options.young_bytes,
        read_cache_bytes: options.read_cache_bytes,
        checkpoint_bytes: options.checkpoint_bytes_min,
        sync_is_left_to_the_os: options.sync_is_left_to_the_os,
        ..log::Options::new(options.node.0)
    }
}
