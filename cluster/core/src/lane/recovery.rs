//! Making a lane from what its disk holds.
//!
//! A sole voter's entries are agreed on as soon as they are in its log: they are applied while
//! they are read, and none is kept.

use std::collections::{BTreeMap, BTreeSet};

use super::store::Store;
use super::{Error, Lane, Life, Options};
use crate::batch::Batch;
use crate::consensus::{Consensus, Entry, EntryKind, Hard, Members, Start};
use crate::ids::{Now, Place, ReplicaId, ShardId};
use crate::log::disk::RecoveryDisk;
use crate::log::{self, Log, View};
use crate::machine::{Context, Machine, Malformed};
use crate::origin::{self, Origin};
use crate::replica::{Head, Replica, State};
use crate::rows::Rows;

/// What was found of one shard.
pub(super) struct Found<M> {
    state: State<M>,
    hard: Hard,
    members: Members,
}

#[allow(dead_code)] // the log reads back what it wrote with the next change
impl<M: Machine> Found<M> {
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
        }
    }

    /// The first part of a checkpoint.
    fn restore(&mut self, head: Head) {
        self.hard = head.hard;
        self.members = head.members.clone();
        self.state.restore(head);
    }

    /// An entry of the log. Those that a checkpoint covers are behind it.
    fn replay(
        &mut self,
        entry: &Entry,
        place: Place,
        bodies: &mut View<'_>,
    ) -> Result<(), Malformed> {
        if entry.index <= self.state.applied().0 {
            return Ok(());
        }
        if entry.kind != EntryKind::Normal {
            return Err(Malformed {
                what: "log of a sole voter",
                at: 0,
                cause: "it has a change of members",
            });
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
        self.state.apply(entry, place, &mut context)?;
        Ok(())
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

impl<M: Machine, T: Copy> Lane<M, T> {
    /// A lane of shards as they were found, in the order of `Lane::queues` and `Lane::rows`.
    pub(super) fn assemble(
        options: Options,
        log: Log,
        queues: Vec<Found<M>>,
        rows: [Found<Rows>; 2],
    ) -> Result<Self, Error> {
        let queues = queues.into_iter().map(|found| found.into_replica(&options));
        let queues: Vec<_> = queues.collect::<Result<_, _>>()?;
        let [definitions, local] = rows;
        let rows = [
            definitions.into_replica(&options)?,
            local.into_replica(&options)?,
        ];
        let touched: BTreeSet<_> = queues.iter().map(Replica::shard).collect();
        let touched = touched
            .into_iter()
            .chain(rows.iter().map(Replica::shard))
            .collect();
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

    /// A lane of what `disk` holds.
    ///
    /// # Errors
    /// When the disk fails, or holds what cannot be trusted.
    pub fn recover(
        options: Options,
        disk: &mut dyn RecoveryDisk,
        machine: impl Fn(ShardId) -> M,
    ) -> Result<Self, Error> {
        if let Some((file, _)) = disk.list()?.first() {
            let cause = "reading it back is not there yet".to_owned();
            let (file, offset) = (*file, 0);
            return Err(log::Error::Corrupt {
                file,
                offset,
                cause,
            }
            .into());
        }
        let log = Log::blank(log_options(&options));
        let (queues, rows) = nothing(&options, machine);
        Self::assemble(options, log, queues, rows)
    }

    /// A lane without a past.
    #[cfg(test)]
    pub(super) fn fresh(options: Options, machine: impl Fn(ShardId) -> M) -> Result<Self, Error> {
        let log = Log::blank(log_options(&options));
        let (queues, rows) = nothing(&options, machine);
        Self::assemble(options, log, queues, rows)
    }
}

/// All shards of a lane, empty.
fn nothing<M: Machine>(
    options: &Options,
    machine: impl Fn(ShardId) -> M,
) -> (Vec<Found<M>>, [Found<Rows>; 2]) {
    let shards = std::iter::once(ShardId::LOCAL_QUEUES).chain((1..=options.shards).map(ShardId));
    let queues = shards
        .map(|shard| Found::new(shard, machine(shard)))
        .collect();
    let rows = [ShardId::DEFINITIONS, ShardId::LOCAL_DEFINITIONS];
    (queues, rows.map(|shard| Found::new(shard, Rows::default())))
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

pub(super) fn log_options(options: &Options) -> log::Options {
    log::Options {
        segment_bytes: options.segment_bytes,
        young_bytes: options.young_bytes,
        read_cache_bytes: options.read_cache_bytes,
        checkpoint_bytes: options.checkpoint_bytes_min,
        sync_is_left_to_the_os: options.sync_is_left_to_the_os,
        ..log::Options::new(options.node.0)
    }
}
