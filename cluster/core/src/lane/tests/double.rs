//! A machine for tests: keeps numbered values with bodies until they are dropped.
//!
//! Commands: put (u8 1, value u64, length u32, that many bytes, each the value's lowest byte)
//! and drop (u8 2, id u64).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::{Buf, BufMut, Bytes};

use crate::batch::Batch;
use crate::ids::{Instant, NodeId, Place};
use crate::machine::{ApplyMeta, Bodies, CheckpointWriter, Context, LiveRef, Machine, Malformed};

const PUT: u8 = 1;
const DROP: u8 = 2;
const KEY: u64 = 7;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub(super) value: u64,
    place: Place,
    len: u32,
}

#[derive(Default)]
pub(super) struct Double {
    pub(super) kept: BTreeMap<u64, Kept>,
    next: u64,
    /// Ids whose body was asked for.
    pub(super) reading: Vec<u64>,
    /// What a checkpoint is of, and the rest of it that is not written.
    checkpoint: Option<BTreeMap<u64, Kept>>,
    pub(super) leads: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    /// Drops an id by a command of the leader, lazily.
    Drop(u64),
    /// Puts a value without a body by a command of the leader, urgently.
    Put(u64),
    /// Answered by `Told::Body`.
    Read(u64),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Body { id: u64, value: u64, bytes: Bytes },
}

/// A batch that puts these values, each with a body of `len` bytes.
pub(super) fn put(values: &[u64], len: u32) -> Batch {
    let mut batch = Batch::new(64);
    for value in values {
        batch.push(|out| {
            out.put_u8(PUT);
            out.put_u64_le(*value);
            out.put_u32_le(len);
            out.put_bytes(*value as u8, len as usize);
        });
    }
    batch
}

impl Double {
    pub(super) fn values(&self) -> Vec<u64> {
        self.kept.values().map(|kept| kept.value).collect()
    }

    fn read_some(&mut self, context: &mut Context<'_, Told>) {
        for id in std::mem::take(&mut self.reading) {
            let Some(kept) = self.kept.get(&id) else {
                continue;
            };
            match context.bodies.get(kept.place, kept.len) {
                Some(bytes) => {
                    let value = kept.value;
                    context.effects.push(Told::Body { id, value, bytes });
                }
                None => {
                    context.bodies.want(KEY, kept.place, kept.len);
                    self.reading.push(id);
                }
            }
        }
    }
}

fn malformed(cause: &'static str) -> Malformed {
    Malformed {
        what: "double",
        at: 0,
        cause,
    }
}

impl Machine for Double {
    type Input = Ask;
    type Effect = Told;
    type Desk = crate::machine::NoDesk;
    const RECONCILES: bool = false;

    fn blank(&self) -> Self {
        Self::default()
    }

    fn apply(
        &mut self,
        meta: &ApplyMeta,
        payload: &Bytes,
        context: &mut Context<'_, Told>,
    ) -> Result<(), Malformed> {
        let mut rest = &payload[..];
        for _ in 0..meta.commands {
            match rest.try_get_u8().map_err(|_| malformed("no command"))? {
                PUT => {
                    let value = rest.get_u64_le();
                    let len = rest.get_u32_le();
                    let at = (payload.len() - rest.len()) as u32;
                    rest.advance(len as usize);
                    self.next += 1;
                    let place = meta.place.plus(at);
                    context.bodies.retain(KEY, self.next, place, len);
                    self.kept.insert(self.next, Kept { value, place, len });
                }
                DROP => {
                    if let Some(kept) = self.kept.remove(&rest.get_u64_le()) {
                        context.bodies.release(kept.place, kept.len);
                    }
                }
                _ => return Err(malformed("unknown command")),
            }
        }
        assert!(rest.is_empty(), "commands fill their payload");
        Ok(())
    }

    fn input(&mut self, input: Ask, context: &mut Context<'_, Told>) {
        if context.leads.is_none() {
            return;
        }
        match input {
            Ask::Drop(id) => context.proposals.push(|out| {
                out.put_u8(DROP);
                out.put_u64_le(id);
            }),
            Ask::Put(value) => {
                context.urgent = true;
                context.proposals.push(|out| {
                    out.put_u8(PUT);
                    out.put_u64_le(value);
                    out.put_u32_le(0);
                });
            }
            Ask::Read(id) => {
                self.reading.push(id);
                self.read_some(context);
            }
        }
    }

    fn node_down(&mut self, _node: NodeId, _context: &mut Context<'_, Told>) {}

    fn lead(&mut self, _nodes: &[NodeId], _context: &mut Context<'_, Told>) {
        self.leads = true;
    }

    fn follow(&mut self, _context: &mut Context<'_, Told>) {
        self.leads = false;
    }

    fn resume(&mut self, key: u64, context: &mut Context<'_, Told>) {
        assert_eq!(key, KEY);
        self.read_some(context);
    }

    fn flush(&mut self, _context: &mut Context<'_, Told>) {}

    fn has_parked(&self) -> bool {
        false
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn checkpoint_begin(&mut self, out: &mut dyn CheckpointWriter) {
        out.chunk(&self.next.to_le_bytes());
        self.checkpoint = Some(self.kept.clone());
    }

    fn checkpoint_step(&mut self, budget: usize, out: &mut dyn CheckpointWriter) -> bool {
        let mut written = 0;
        let rest = self.checkpoint.as_mut().expect("begun");
        while let Some((id, kept)) = rest.pop_first() {
            let mut chunk = Vec::new();
            chunk.put_u64_le(id);
            chunk.put_u64_le(kept.value);
            chunk.put_u32_le(kept.place.segment.0);
            chunk.put_u32_le(kept.place.offset);
            chunk.put_u32_le(kept.len);
            out.chunk(&chunk);
            written += chunk.len();
            if written >= budget {
                return false;
            }
        }
        self.checkpoint = None;
        true
    }

    fn checkpoint_abort(&mut self) {
        self.checkpoint = None;
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        let mut rest = chunk;
        if let Ok(next) = <[u8; 8]>::try_from(chunk) {
            self.next = u64::from_le_bytes(next);
            return Ok(());
        }
        let id = rest.try_get_u64_le().map_err(|_| malformed("short"))?;
        let value = rest.get_u64_le();
        let place = Place {
            segment: crate::ids::SegmentId(rest.get_u32_le()),
            offset: rest.get_u32_le(),
        };
        let len = rest.get_u32_le();
        self.kept.insert(id, Kept { value, place, len });
        Ok(())
    }

    fn restored(&mut self) -> Result<(), Malformed> {
        Ok(())
    }

    fn retain_all(&self, bodies: &mut dyn Bodies) {
        for (id, kept) in &self.kept {
            bodies.retain(KEY, *id, kept.place, kept.len);
        }
    }

    fn live(&self, key: u64, ids: RangeInclusive<u64>, out: &mut Vec<LiveRef>) {
        assert_eq!(key, KEY);
        out.extend(self.kept.range(ids).map(|(id, kept)| LiveRef {
            id: *id,
            place: kept.place,
            len: kept.len,
        }));
    }

    fn relocate(&mut self, _key: u64, id: u64, from: Place, to: Place, bodies: &mut dyn Bodies) {
        if let Some(kept) = self.kept.get_mut(&id)
            && kept.place == from
        {
            kept.place = to;
            bodies.retain(KEY, id, to, kept.len);
            bodies.release(from, kept.len);
        }
    }
}
