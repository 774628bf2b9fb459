//! The replicated machine: the queues of one shard.
//!
//! Invariants:
//! - `apply` and what it calls in `crate::queue` are pure functions of state and command;
//! - what the leader alone holds lives in `leader` and in each slot's `delivery`, and never
//!   finds its way into a checkpoint;
//! - an effect is emitted, and a proposal made, only while this replica leads.

mod apply;
mod checkpoint;
mod claims;
pub mod command;
pub mod effect;
mod expiries;
mod gone;
pub mod input;
mod leader;
#[cfg(test)]
mod model;
pub(crate) mod reader;
#[cfg(test)]
pub(crate) mod rig;
pub(crate) mod runs;
mod slots;
#[cfg(test)]
mod tests;
pub mod wire;

use std::ops::RangeInclusive;

use bytes::Bytes;
use warren_cluster_core::ids::{Instant, NodeId, Place};
use warren_cluster_core::machine::{
    ApplyMeta, Bodies, CheckpointWriter, Context, LiveRef, Machine, Malformed,
};

use crate::dispatch::desk::Desk;
use crate::ids::QueueId;

use checkpoint::Saving;
use effect::Effect;
use gone::Gone;
use input::Input;
use leader::Leader;
use slots::Slots;

/// What a shard is told when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardOptions {
    /// Its commands go through a log and it may be restored from it. An unlogged shard makes its
    /// leader's changes at once and needs no reservations.
    pub logged: bool,
}

/// The queues of one shard.
#[derive(Debug)]
pub struct Shard {
    options: ShardOptions,
    slots: Slots,
    gone: Gone,
    leader: Leader,
    saving: Saving,
}

impl Shard {
    /// A shard without queues.
    #[must_use]
    pub fn new(options: ShardOptions) -> Self {
        Self {
            options,
            slots: Slots::default(),
            gone: Gone::default(),
            leader: Leader::default(),
            saving: Saving::default(),
        }
    }

    /// The ids of its queues, closed ones included, ascending.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueId> {
        self.slots.ids()
    }
}

impl Machine for Shard {
    type Input = Input;
    type Effect = Effect;
    type Desk = Desk;
    const RECONCILES: bool = true;

    fn blank(&self) -> Self {
        Self::new(self.options)
    }

    fn apply(
        &mut self,
        meta: &ApplyMeta,
        payload: &Bytes,
        context: &mut Context<'_, Effect>,
    ) -> Result<(), Malformed> {
        self.apply_entry(meta, payload, context)
    }

    fn input(&mut self, input: Input, context: &mut Context<'_, Effect>) {
        self.take_input(input, context);
    }

    fn lead(&mut self, nodes: &[NodeId], context: &mut Context<'_, Effect>) {
        self.begin_to_lead(nodes, context);
    }

    fn node_down(&mut self, node: NodeId, context: &mut Context<'_, Effect>) {
        self.rule_out(node, context);
    }

    fn follow(&mut self, _context: &mut Context<'_, Effect>) {
        self.cease_to_lead();
    }

    fn resume(&mut self, key: u64, _context: &mut Context<'_, Effect>) {
        if let Some(slot) = self.slots.find(QueueId(key))
            && let Some(delivery) = self
                .slots
                .at_mut(slot)
                .and_then(|slot| slot.delivery.as_mut())
        {
            delivery.resume();
            self.leader.activate(slot, delivery);
        }
    }

    fn flush(&mut self, context: &mut Context<'_, Effect>) {
        self.hand_out(context);
    }

    fn has_parked(&self) -> bool {
        self.leader.has_parked()
    }

    fn deadline(&self) -> Option<Instant> {
        self.leader.deadline()
    }

    fn checkpoint_begin(&mut self, out: &mut dyn CheckpointWriter) {
        self.saving.begin(self.slots.len() as u64, &self.gone, out);
    }

    fn checkpoint_step(&mut self, budget: usize, out: &mut dyn CheckpointWriter) -> bool {
        self.saving.step(&mut self.slots, budget, out)
    }

    fn checkpoint_abort(&mut self) {
        self.saving.abort();
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        self.saving.restore(&mut self.slots, &mut self.gone, chunk)
    }

    fn restored(&mut self) -> Result<(), Malformed> {
        self.saving.restored(&self.slots)?;
        for slot in self.slots.iter_mut() {
            slot.queue.restored();
        }
        Ok(())
    }

    fn retain_all(&self, bodies: &mut dyn Bodies) {
        for slot in self.slots.iter() {
            slot.queue.retain_all(bodies);
        }
    }

    fn live(&self, key: u64, ids: RangeInclusive<u64>, out: &mut Vec<LiveRef>) {
        if let Some(slot) = self.slots.get(QueueId(key)) {
            slot.queue.live(ids, out);
        }
    }

    fn relocate(&mut self, key: u64, id: u64, from: Place, to: Place, bodies: &mut dyn Bodies) {
        if let Some(slot) = self.slots.get_mut(QueueId(key)) {
            slot.queue.relocate(id, from, to, bodies);
        }
    }
}
