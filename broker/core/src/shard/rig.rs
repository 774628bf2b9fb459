//! A lane in small, for tests: a log in memory, bodies that can be cold, one shard that leads.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use warren_cluster_core::batch::{Batch, HEADER_BYTES, Header, Kind};
use warren_cluster_core::ids::{Index, Instant, Now, OriginId, Place, SegmentId, Seq, Term, Time};
use warren_cluster_core::machine::{ApplyMeta, Bodies, CheckpointWriter, Context, Machine};

use crate::ids::QueueId;
use crate::message::Parts;

use super::command;
use super::effect::Effect;
use super::input::Input;
use super::{Shard, ShardOptions};

/// One entry: its payload lies at offset 0 of the segment with its index's number.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) payload: Bytes,
    pub(crate) commands: u32,
    pub(crate) time: Time,
}

/// Keeps every entry, and counts references.
#[derive(Default)]
pub(crate) struct Store {
    payloads: BTreeMap<u32, Bytes>,
    pub(crate) held: BTreeMap<(Place, u32), u32>,
    pub(crate) cold: bool,
    wanted: BTreeSet<u64>,
}

/// The chunks of a checkpoint.
#[derive(Default)]
pub(crate) struct Chunks {
    pub(crate) chunks: Vec<Vec<u8>>,
    bytes: u64,
}

pub(crate) struct Rig {
    pub(crate) options: ShardOptions,
    pub(crate) shard: Shard,
    pub(crate) store: Store,
    pub(crate) log: Vec<Entry>,
    pub(crate) applied: usize,
    pub(crate) effects: Vec<Effect>,
    pub(crate) saving: Option<Chunks>,
    pub(crate) now: Now,
    proposals: Batch,
}

impl Bodies for Store {
    fn get(&mut self, place: Place, len: u32) -> Option<Bytes> {
        assert!(self.held.contains_key(&(place, len)), "reads what it holds");
        let payload = &self.payloads[&place.segment.0];
        let from = place.offset as usize;
        (!self.cold).then(|| payload.slice(from..from + len as usize))
    }

    fn want(&mut self, key: u64, _place: Place, _len: u32) {
        self.wanted.insert(key);
    }

    fn retain(&mut self, _key: u64, _id: u64, place: Place, len: u32) {
        *self.held.entry((place, len)).or_default() += 1;
    }

    fn release(&mut self, place: Place, len: u32) {
        let count = self.held.get_mut(&(place, len)).expect("held");
        *count -= 1;
        if *count == 0 {
            self.held.remove(&(place, len));
        }
    }
}

impl CheckpointWriter for Chunks {
    fn chunk(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= 64 * 1024);
        self.bytes += bytes.len() as u64;
        self.chunks.push(bytes.to_vec());
    }

    fn written(&self) -> u64 {
        self.bytes
    }
}

impl Rig {
    pub(crate) fn new(logged: bool) -> Self {
        let options = ShardOptions { logged };
        let mut rig = Self {
            options,
            shard: Shard::new(options),
            store: Store::default(),
            log: Vec::new(),
            applied: 0,
            effects: Vec::new(),
            saving: None,
            now: Now {
                mono: Instant(7_000),
                wall: Time(1_000_000),
            },
            proposals: Batch::default(),
        };
        rig.with(|shard, context| shard.lead(&[], context));
        rig
    }

    fn with<R>(&mut self, act: impl FnOnce(&mut Shard, &mut Context<'_, Effect>) -> R) -> R {
        let checkpoint = self
            .saving
            .as_mut()
            .map(|out| out as &mut dyn CheckpointWriter);
        let mut context = Context {
            now: self.now,
            leads: Some(Term(1)),
            bodies: &mut self.store,
            effects: &mut self.effects,
            proposals: &mut self.proposals,
            urgent: false,
            checkpoint,
        };
        act(&mut self.shard, &mut context)
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.with(|shard, context| shard.input(input, context));
    }

    pub(crate) fn flush(&mut self) {
        self.with(|shard, context| shard.flush(context));
    }

    /// Both clocks go on. True when the shard wanted to be called by now.
    pub(crate) fn pass(&mut self, millis: u64) -> bool {
        self.now.mono = self.now.mono.plus_millis(millis);
        self.now.wall.0 += millis;
        let deadline = self.shard.deadline();
        deadline.is_some_and(|deadline| deadline <= self.now.mono)
    }

    pub(crate) fn publish(&mut self, queues: &[QueueId], ttl: Option<u64>, body: &[u8]) {
        self.gather();
        let parts = Parts {
            body,
            ..Parts::default()
        };
        let mut batch = Batch::new(64);
        batch.push(|out| command::encode_enqueue(out, queues, ttl, &parts));
        self.append(batch);
    }

    /// What the leader proposed becomes an entry.
    pub(crate) fn gather(&mut self) {
        let batch = std::mem::take(&mut self.proposals);
        if !batch.is_empty() {
            self.append(batch);
        }
    }

    fn append(&mut self, batch: Batch) {
        let commands = batch.commands();
        let header = Header {
            kind: Kind::Leader,
            commands,
            origin: OriginId(0),
            seq: Seq(0),
            paid: Seq(0),
            time: self.now.wall,
        };
        let payload = batch.seal(header).slice(HEADER_BYTES..);
        self.log.push(Entry {
            payload,
            commands,
            time: self.now.wall,
        });
    }

    /// Applies the next entry, if there is one.
    pub(crate) fn apply_next(&mut self) -> bool {
        let Some(entry) = self.log.get(self.applied).cloned() else {
            return false;
        };
        self.applied += 1;
        let meta = meta(self.applied, &entry);
        self.store
            .payloads
            .insert(meta.place.segment.0, entry.payload.clone());
        self.with(|shard, context| shard.apply(&meta, &entry.payload, context))
            .expect("own commands can be read");
        true
    }

    /// Applies and serves until nothing is left to do.
    pub(crate) fn commit(&mut self) {
        loop {
            self.flush();
            self.gather();
            if self.applied == self.log.len() {
                break;
            }
            while self.apply_next() {}
        }
    }

    /// Another replica leads.
    pub(crate) fn follow(&mut self) {
        self.with(|shard, context| shard.follow(context));
    }

    /// What was wanted is in memory.
    pub(crate) fn warm(&mut self) {
        self.store.cold = false;
        for key in std::mem::take(&mut self.store.wanted) {
            self.with(|shard, context| shard.resume(key, context));
        }
    }

    /// A new shard that has applied the same, out of a checkpoint and what comes after it.
    pub(crate) fn restart(&mut self, chunks: &[Vec<u8>], from: usize) {
        self.shard = Shard::new(self.options);
        self.store.held.clear();
        self.effects.clear();
        self.proposals = Batch::default();
        self.saving = None;
        for chunk in chunks {
            self.shard.restore(chunk).expect("own chunks can be read");
        }
        if !chunks.is_empty() {
            self.shard.restored().expect("the checkpoint is whole");
            self.shard.retain_all(&mut self.store);
        }
        let until = std::mem::replace(&mut self.applied, from);
        for index in from..until {
            let entry = self.log[index].clone();
            let meta = meta(index + 1, &entry);
            let shard = &mut self.shard;
            let mut context = Context {
                now: self.now,
                leads: None,
                bodies: &mut self.store,
                effects: &mut self.effects,
                proposals: &mut self.proposals,
                urgent: false,
                checkpoint: None,
            };
            let applied = shard.apply(&meta, &entry.payload, &mut context);
            applied.expect("own commands can be read");
        }
        self.applied = until;
        self.log.truncate(until);
        assert!(self.effects.is_empty(), "only a leader has effects");
        assert!(self.proposals.is_empty(), "only a leader proposes");
        self.with(|shard, context| shard.lead(&[], context));
    }

    pub(crate) fn dump(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.shard.dump(&mut out);
        out
    }

    pub(crate) fn begin_checkpoint(&mut self) {
        let mut chunks = Chunks::default();
        self.shard.checkpoint_begin(&mut chunks);
        self.saving = Some(chunks);
    }

    /// The chunks, once all are written.
    pub(crate) fn step_checkpoint(&mut self, budget: usize) -> Option<Vec<Vec<u8>>> {
        let chunks = self.saving.as_mut()?;
        if self.shard.checkpoint_step(budget, chunks) {
            return self.saving.take().map(|chunks| chunks.chunks);
        }
        None
    }
}

fn meta(index: usize, entry: &Entry) -> ApplyMeta {
    ApplyMeta {
        index: Index(index as u64),
        term: Term(1),
        time: entry.time,
        commands: entry.commands,
        place: Place {
            segment: SegmentId(index as u32),
            offset: 0,
        },
    }
}
