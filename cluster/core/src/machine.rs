//! What a lane asks of the state that it replicates.
//!
//! A machine has two halves. `apply` is replicated: a pure function of state and command, the
//! same on every replica. `input`, `lead`, `follow`, `resume` and `flush` belong to the leader
//! alone and are never replicated; they may propose commands and emit effects, and must not
//! change what `checkpoint` writes. No half reads a clock or draws a random number.

use bytes::Bytes;

use crate::batch::Batch;
use crate::ids::{Index, Now, Place, Term, Time};

/// Facts about the entry being applied, the same on every replica (but for `place`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApplyMeta {
    pub index: Index,
    pub term: Term,
    /// The entry's time, never less than that of the entry before.
    pub time: Time,
    /// How many commands the payload holds.
    pub commands: u32,
    /// Where the payload's first byte lies in this node's log.
    pub place: Place,
}

/// A reference to bytes that a machine still needs, for segment accounting and survivors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveRef {
    pub id: u64,
    pub place: Place,
    pub len: u32,
}

/// The lane's message store as a machine sees it.
///
/// `key` names a queue within the shard, `id` a message within the queue. Ids of one key are
/// retained in ascending order.
pub trait Bodies {
    /// The bytes at `place` when they are in memory; by reference, no copy.
    fn get(&mut self, place: Place, len: u32) -> Option<Bytes>;
    /// Asks for bytes that `get` did not have; the lane reads ahead from there and then calls
    /// [`Machine::resume`] with `key`. Asking twice before that is harmless.
    fn want(&mut self, key: u64, place: Place, len: u32);
    /// The machine now refers to these bytes.
    fn retain(&mut self, key: u64, id: u64, place: Place, len: u32);
    /// The machine refers to them no more.
    fn release(&mut self, place: Place, len: u32);
}

/// Where a checkpoint's chunks go. Each chunk stands alone; their order does not matter.
pub trait CheckpointWriter {
    /// Appends a chunk. Aim at ≤ 64 KiB each; what a chunk means is the machine's own affair.
    fn chunk(&mut self, bytes: &[u8]);
    /// Bytes written since the checkpoint began.
    fn written(&self) -> u64;
}

/// What a machine may use while it runs.
pub struct Context<'a, E> {
    pub now: Now,
    /// `Some` while this replica leads and may act (inside its lease).
    pub leads: Option<Term>,
    pub bodies: &'a mut dyn Bodies,
    pub effects: &'a mut Vec<E>,
    /// Commands that the leader wants in the log. They ride in the next entry of
    /// [`crate::batch::Kind::Leader`]; ignored (and must be left alone) on followers.
    pub proposals: &'a mut Batch,
    /// Comes in as false. A machine sets it when `proposals` must go into the log at the end of
    /// this step, ahead of batches that reached the lane after the input that made them; else they
    /// wait a moment (≤ 10 ms, or the next entry) for company, so that an
    /// acknowledgement never costs a sync of its own.
    pub urgent: bool,
    /// Set while a checkpoint is being written: a part that is about to change and has not been
    /// written yet goes here first.
    pub checkpoint: Option<&'a mut dyn CheckpointWriter>,
}

/// A checkpoint chunk or command that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} at byte {at}: {cause}")]
pub struct Malformed {
    pub what: &'static str,
    pub at: usize,
    pub cause: &'static str,
}

/// A replicated state and its leader-only side.
pub trait Machine {
    /// What only the leader handles: attach, credit, settle...
    type Input;
    /// What a driver carries out.
    type Effect;

    /// A machine made like this one, without a past.
    fn blank(&self) -> Self
    where
        Self: Sized;

    /// Applies the commands of one entry.
    ///
    /// # Errors
    /// A payload that this build cannot read. The replica stops: skipping it would diverge.
    fn apply(
        &mut self,
        meta: &ApplyMeta,
        payload: &Bytes,
        context: &mut Context<'_, Self::Effect>,
    ) -> Result<(), Malformed>;

    /// Handles a leader-only input; on a follower it answers with an effect that says so.
    fn input(&mut self, input: Self::Input, context: &mut Context<'_, Self::Effect>);

    /// This replica leads from here on: its first entry of the term is applied.
    fn lead(&mut self, context: &mut Context<'_, Self::Effect>);

    /// This replica no longer leads: leader-only state goes.
    fn follow(&mut self, context: &mut Context<'_, Self::Effect>);

    /// Bytes that `Bodies::want` asked for under `key` are in memory now.
    fn resume(&mut self, key: u64, context: &mut Context<'_, Self::Effect>);

    /// The end of a lane's step: hand out what became possible, propose what has gathered.
    /// Called only when something happened to this shard in the step, or its deadline came.
    fn flush(&mut self, context: &mut Context<'_, Self::Effect>);

    /// When `flush` wants to be called though nothing happens.
    fn deadline(&self) -> Option<crate::ids::Instant>;

    /// Begins a checkpoint of exactly this state. Small parts are written here at once; the
    /// rest is marked as not yet written.
    fn checkpoint_begin(&mut self, out: &mut dyn CheckpointWriter);

    /// Writes some more, stopping soon after `budget` bytes; true when all is written.
    fn checkpoint_step(&mut self, budget: usize, out: &mut dyn CheckpointWriter) -> bool;

    /// The checkpoint was given up: nothing is marked any more.
    fn checkpoint_abort(&mut self);

    /// Takes one chunk of a checkpoint into a state that starts out as new.
    ///
    /// # Errors
    /// A chunk that this build cannot read.
    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed>;

    /// All chunks are in.
    ///
    /// # Errors
    /// Chunks that do not make a whole.
    fn restored(&mut self) -> Result<(), Malformed>;

    /// Calls `Bodies::retain` for every reference held.
    fn retain_all(&self, bodies: &mut dyn Bodies);

    /// The references under `key` with an id in `ids`, into `out`.
    fn live(&self, key: u64, ids: std::ops::RangeInclusive<u64>, out: &mut Vec<LiveRef>);

    /// The bytes of message `id` were copied from `from` to `to`. When it is still held at
    /// `from`, the machine changes its reference and calls `retain` and `release`.
    fn relocate(&mut self, key: u64, id: u64, from: Place, to: Place, bodies: &mut dyn Bodies);
}
