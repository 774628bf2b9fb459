//! A lane as the log sees one: machines that hold messages, a disk that fails, and a memory of
//! everything that was ever told to be durable.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::ids::{Index, Instant, Place, ShardId, Term};
use crate::log::disk::Op;
use crate::log::sim::SimDisk;
use crate::log::{Error, Event, Item, Log, Options, Position, Recovery, View};
use crate::machine::{Bodies, CheckpointWriter, LiveRef};

/// A message of a model queue: where its body lies.
type Held = BTreeMap<u64, (Place, u32)>;

/// What a command does.
#[derive(Clone, Debug)]
pub(super) enum Command {
    Publish { key: u64, id: u64, len: u32 },
    Settle { key: u64, id: u64 },
}

/// The body of a message: told from its owner, so that any copy can be checked.
pub(super) fn body(shard: ShardId, key: u64, id: u64, len: u32) -> Vec<u8> {
    let seed = u64::from(shard.0) << 48 ^ key << 32 ^ id;
    (0..len)
        .map(|at| (seed.wrapping_mul(31).wrapping_add(u64::from(at) * 7) >> 3) as u8)
        .collect()
}

pub(super) fn encode(shard: ShardId, commands: &[Command]) -> Bytes {
    let mut out = BytesMut::new();
    for command in commands {
        match *command {
            Command::Publish { key, id, len } => {
                out.put_u8(1);
                out.put_u64(key);
                out.put_u64(id);
                out.put_u32(len);
                out.extend_from_slice(&body(shard, key, id, len));
            }
            Command::Settle { key, id } => {
                out.put_u8(2);
                out.put_u64(key);
                out.put_u64(id);
            }
        }
    }
    out.freeze()
}

/// One shard: its machine, what was appended, what was told to be durable.
pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) queues: BTreeMap<u64, Held>,
    pub(super) applied: u64,
    /// Payloads of all entries, the first has index 1.
    pub(super) entries: Vec<Bytes>,
    places: Vec<(Place, Position)>,
    pub(super) persisted: u64,
}

impl Shard {
    fn new(id: ShardId) -> Self {
        Self {
            id,
            queues: BTreeMap::new(),
            applied: 0,
            entries: Vec::new(),
            places: Vec::new(),
            persisted: 0,
        }
    }

    fn apply(&mut self, payload: &Bytes, place: Place, bodies: &mut View<'_>) {
        let mut rest = &payload[..];
        while rest.has_remaining() {
            let kind = rest.get_u8();
            let (key, id) = (rest.get_u64(), rest.get_u64());
            if kind == 1 {
                let len = rest.get_u32();
                let place = place.plus((payload.len() - rest.len()) as u32);
                rest.advance(len as usize);
                bodies.retain(key, id, place, len);
                self.queues.entry(key).or_default().insert(id, (place, len));
            } else if let Some((place, len)) = self
                .queues
                .get_mut(&key)
                .and_then(|queue| queue.remove(&id))
            {
                bodies.release(place, len);
            }
        }
        self.applied += 1;
    }

    fn live(&self, key: u64, ids: RangeInclusive<u64>, out: &mut Vec<LiveRef>) {
        let queue = self.queues.get(&key);
        let held = queue.into_iter().flat_map(|queue| queue.range(ids.clone()));
        out.extend(held.map(|(&id, &(place, len))| LiveRef { id, place, len }));
    }

    fn relocate(&mut self, key: u64, id: u64, from: Place, to: Place, bodies: &mut View<'_>) {
        let held = self
            .queues
            .get_mut(&key)
            .and_then(|queue| queue.get_mut(&id));
        if let Some((place, len)) = held.filter(|(place, _)| *place == from) {
            bodies.retain(key, id, to, *len);
            bodies.release(from, *len);
            *place = to;
        }
    }

    fn checkpoint(&self, out: &mut dyn CheckpointWriter) {
        for (key, queue) in &self.queues {
            for (id, (place, len)) in queue {
                let mut chunk = BytesMut::new();
                chunk.put_u64(*key);
                chunk.put_u64(*id);
                chunk.put_u32(place.segment.0);
                chunk.put_u32(place.offset);
                chunk.put_u32(*len);
                out.chunk(&chunk);
            }
        }
    }

    fn restore(&mut self, mut chunk: &[u8]) {
        let (key, id) = (chunk.get_u64(), chunk.get_u64());
        let segment = crate::ids::SegmentId(chunk.get_u32());
        let offset = chunk.get_u32();
        let held = (Place { segment, offset }, chunk.get_u32());
        self.queues.entry(key).or_default().insert(id, held);
    }
}

/// The lane.
pub(super) struct Model {
    pub(super) disk: SimDisk,
    pub(super) log: Log,
    pub(super) shards: Vec<Shard>,
    pub(super) now: Instant,
    options: Options,
    random: u64,
    pub(super) resumed: Vec<(ShardId, u64)>,
    /// Checkpoints that became durable.
    pub(super) checkpoints: u64,
}

impl Model {
    pub(super) fn new(seed: u64, shards: u32, options: Options) -> Self {
        let mut model = Self {
            disk: SimDisk::new(seed),
            log: Log::blank(options.clone()),
            shards: (1..=shards).map(|id| Shard::new(ShardId(id))).collect(),
            now: Instant(0),
            options,
            random: seed ^ 0x5eed,
            resumed: Vec::new(),
            checkpoints: 0,
        };
        model.recover().expect("an empty folder opens");
        model
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound.max(1)
    }

    /// Appends an entry of commands to the shard's log.
    pub(super) fn append(&mut self, shard: usize, commands: &[Command]) {
        let shard = &mut self.shards[shard];
        let payload = encode(shard.id, commands);
        shard.entries.push(payload.clone());
        let index = Index(shard.entries.len() as u64);
        let place = self.log.append_entry(shard.id, Term(1), index, 0, &payload);
        shard.places.push((place, self.log.tail()));
    }

    /// The end of a step: what the disk should do goes to the disk.
    pub(super) fn submit(&mut self) {
        self.now = Instant(self.now.0 + 1000);
        self.drain();
        if self.log.wants_copying() {
            let shards = &self.shards;
            self.log.copy_survivors(|shard, key, ids, out| {
                shards[shard.0 as usize - 1].live(key, ids, out);
            });
        }
        self.drain();
        self.checkpoint();
        let mut ops: Vec<Op> = Vec::new();
        self.log.submit(self.now, &mut ops);
        for op in ops {
            self.disk.submit(op);
        }
    }

    /// One answer of the disk; false when there is none.
    pub(super) fn complete(&mut self) -> bool {
        let Some(completion) = self.disk.complete_one() else {
            return false;
        };
        self.log.complete(completion).expect("the disk works");
        self.drain();
        true
    }

    /// Steps until nothing is left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.submit();
            let mut busy = false;
            while self.complete() {
                busy = true;
            }
            let copying = self.log.wants_copying() || self.log.checkpoint_shard().is_some();
            if !busy && !copying && self.log.pending_bytes() == 0 {
                return;
            }
        }
        panic!("the log never comes to rest");
    }

    fn drain(&mut self) {
        while let Some(event) = self.log.pop_event() {
            match event {
                Event::Persisted(upto) => self.persisted(upto),
                Event::Resume { shard, key } => self.resumed.push((shard, key)),
                Event::Relocate(moved) => {
                    let shard = &mut self.shards[moved.shard.0 as usize - 1];
                    let mut bodies = self.log.bodies(moved.shard);
                    shard.relocate(moved.key, moved.id, moved.from, moved.to, &mut bodies);
                }
                Event::CheckpointDurable { .. } => self.checkpoints += 1,
                Event::CheckpointFailed { .. } | Event::CheckpointRead { .. } => {}
            }
        }
    }

    fn persisted(&mut self, upto: Position) {
        for shard in &mut self.shards {
            while let Some((_, end)) = shard.places.get(shard.persisted as usize)
                && *end <= upto
            {
                shard.persisted += 1;
            }
            while shard.applied < shard.persisted {
                let at = shard.applied as usize;
                let (payload, place) = (shard.entries[at].clone(), shard.places[at].0);
                shard.apply(&payload, place, &mut self.log.bodies(shard.id));
            }
        }
    }

    fn checkpoint(&mut self) {
        if let Some(shard) = self.log.checkpoint_wanted() {
            self.checkpoint_shard(shard);
        }
    }

    pub(super) fn checkpoint_shard(&mut self, id: ShardId) {
        let shard = &self.shards[id.0 as usize - 1];
        self.log.checkpoint_begin(id, Index(shard.applied), Term(1));
        let writer = self.log.checkpoint_writer(id).expect("just begun");
        writer.part(1, b"replica");
        shard.checkpoint(writer);
        self.log.checkpoint_finish();
    }

    /// Restarts from what the disk holds, and checks it against what was told.
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        let mut recovery = Recovery::open(self.options.clone(), &mut self.disk)?;
        let mut fresh: Vec<Shard> = self.shards.iter().map(|s| Shard::new(s.id)).collect();
        for header in recovery.checkpoints() {
            let shard = &mut fresh[header.shard.0 as usize - 1];
            recovery
                .read_checkpoint(header.shard, &mut self.disk, |kind, bytes| {
                    match kind {
                        0 => shard.restore(bytes),
                        _ => assert_eq!((kind, bytes), (1, &b"replica"[..])),
                    }
                    Ok::<(), String>(())
                })
                .map_err(|error| match error {
                    crate::log::CheckpointError::Log(error) => error,
                    crate::log::CheckpointError::Part { cause, .. } => panic!("{cause}"),
                })?;
            shard.applied = header.index.0;
            let mut bodies = recovery.log().bodies(header.shard);
            for (key, queue) in &shard.queues {
                for (id, (place, len)) in queue {
                    bodies.retain(*key, *id, *place, *len);
                }
            }
        }
        while let Some(item) = recovery.next(&mut self.disk)? {
            let Item::Entry {
                shard,
                index,
                payload,
                place,
                ..
            } = item
            else {
                continue;
            };
            let at = shard.0 as usize - 1;
            let told = &self.shards[at].entries[index.0 as usize - 1];
            assert_eq!(payload, told, "entry {index} of shard {shard}");
            assert_eq!(index.0, fresh[at].applied + 1);
            fresh[at].apply(&payload, place, &mut recovery.log().bodies(shard));
        }
        let live = |shard: ShardId, key, ids, out: &mut Vec<LiveRef>| {
            fresh[shard.0 as usize - 1].live(key, ids, out);
        };
        let moved = recovery.relocations(&mut self.disk, live, &|_| false)?;
        for moved in moved {
            let shard = &mut fresh[moved.shard.0 as usize - 1];
            let mut bodies = recovery.log().bodies(moved.shard);
            shard.relocate(moved.key, moved.id, moved.from, moved.to, &mut bodies);
        }
        self.log = recovery.finish();
        self.take_over(fresh);
        Ok(())
    }

    fn take_over(&mut self, fresh: Vec<Shard>) {
        for (old, mut new) in self.shards.iter_mut().zip(fresh) {
            assert!(new.applied >= old.persisted, "a durable entry is lost");
            new.entries = std::mem::take(&mut old.entries);
            new.entries.truncate(new.applied as usize);
            // Where the old ones lie is of no use any more: all are applied.
            new.places = vec![(Place::default(), Position::default()); new.entries.len()];
            new.persisted = new.applied;
            *old = new;
        }
    }

    /// Reads every live body and compares it with what was published.
    pub(super) fn check_bodies(&mut self) {
        for at in 0..self.shards.len() {
            let shard = &self.shards[at];
            let id = shard.id;
            let mut held = Vec::new();
            for (key, queue) in &shard.queues {
                held.extend(queue.iter().map(|(id, (p, len))| (*key, *id, *p, *len)));
            }
            for (key, message, _, _) in held {
                let found = self.fetch(at, key, message);
                let expected = body(id, key, message, found.len() as u32);
                assert_eq!(found, expected, "message {message} of {key} in {id}");
            }
        }
    }

    fn fetch(&mut self, at: usize, key: u64, message: u64) -> Bytes {
        let id = self.shards[at].id;
        for _ in 0..1000 {
            let (place, len) = self.shards[at].queues[&key][&message];
            let mut bodies = self.log.bodies(id);
            if let Some(found) = bodies.get(place, len) {
                return found;
            }
            bodies.want(key, place, len);
            self.resumed.clear();
            for _ in 0..1000 {
                self.submit();
                while self.complete() {}
                if self.resumed.contains(&(id, key)) {
                    break;
                }
            }
            assert!(self.resumed.contains(&(id, key)), "never resumed");
        }
        panic!("message {message} of {key} in {id} is never in memory");
    }
}
