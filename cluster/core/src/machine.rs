//! What a lane asks of the state that it replicates.
//!
//! A machine has two halves. `apply` is replicated: a pure function of state and command, the
//! same on every replica. `input`, `lead`, `follow`, `resume` and `flush` belong to the leader
//! alone and are never replicated; they may propose commands and emit effects, and must not
//! change what `checkpoint` writes. No half reads a clock or draws a random number.

use bytes::Bytes;

use crate::batch::Batch;
use crate::ids::{Index, NodeId, Now, Place, Seq, Term, Time};
use crate::parts::Parts;

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
    /// What will be wanted after what was just wanted under `key`, in that order: read along as
    /// far as it pays. Without it, what lies behind the place is read ahead, whoever's it is.
    fn want_next(&mut self, _key: u64, _next: &mut dyn Iterator<Item = (Place, u32)>) {}
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

/// What a node keeps of its own sessions' dealings with a shard, wherever the shard is led. The
/// lane passes everything by it, both ways, so that a new leader can be told in one answer what
/// this node's sessions have and hold (rule 7).
pub trait Desk<I, E>: Default + Send {
    /// Whether the input comes from a session. What does not (a row that changed) concerns a
    /// leader on this node alone.
    fn is_of_session(input: &I) -> bool;

    /// The input is on its way to the leader, as its number `seq` of the term. Gives the form in
    /// which it goes.
    fn send(&mut self, seq: Seq, input: I) -> I;

    /// What the leader says. False when nobody here wants to hear it. What follows from it for
    /// the leader is added to `inputs`.
    fn receive(&mut self, effect: &E, inputs: &mut Vec<I>) -> bool;

    /// What the leader did about inputs up to `seq` is in the log for good.
    fn paid(&mut self, seq: Seq);

    /// Whether sessions have done something that the log may not have.
    fn owes(&self) -> bool;

    /// The first input for a leader that is new: all that this node's sessions have and hold.
    /// `careful`: others may lead after it, or it is on another node, so that what it does at
    /// once and tells later may be lost.
    /// `None` where sessions have nothing to do with the shard.
    fn claim(&mut self, node: NodeId, careful: bool) -> Option<I>;

    /// From here on others may lead after the leader to whom the claim was made, who was alone.
    fn be_careful(&mut self) {}

    /// What comes after the claim: inputs whose outcome is not known, in their order. They count
    /// as not sent.
    fn take_unsettled(&mut self) -> Vec<I>;

    /// The leader was on a node that is gone, with all that the shard had: tells this node's
    /// sessions of it, whatever they have or wait for. Nothing is left.
    fn abandon(&mut self) -> Vec<E> {
        Vec::new()
    }

    /// The answer to an input for a leader that is gone for good, where one is waited for.
    fn refuse(_input: &I) -> Option<E> {
        None
    }

    /// The node that an effect is for; `None`: the leader's own.
    fn node_of(effect: &E) -> Option<NodeId>;

    /// Appends an input, or an effect, as it travels between nodes.
    fn encode_input(input: &I, out: &mut Parts);
    fn encode_effect(effect: &E, out: &mut Parts);

    /// Reads what [`Desk::encode_input`] wrote.
    ///
    /// # Errors
    /// Bytes that no node of this version sends.
    fn decode_input(bytes: &Bytes) -> Result<I, Malformed>;

    /// Reads what [`Desk::encode_effect`] wrote.
    ///
    /// # Errors
    /// Bytes that no node of this version sends.
    fn decode_effect(bytes: &Bytes) -> Result<E, Malformed>;
}

/// A replicated state and its leader-only side.
pub trait Machine {
    /// What only the leader handles: attach, credit, settle...
    type Input;
    /// What a driver carries out.
    type Effect;
    /// What each node keeps beside it.
    type Desk: Desk<Self::Input, Self::Effect>;
    /// A new leader acts on nothing before its node has gone through the rows that concern the
    /// shard ([`crate::inbox::Input::Reconciled`]).
    const RECONCILES: bool;

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

    /// This replica leads from here on: its first entry of the term is applied. Nothing is handed
    /// out before each of `nodes` has made its claim, or is ruled out ([`Machine::node_down`]).
    fn lead(&mut self, nodes: &[NodeId], context: &mut Context<'_, Self::Effect>);

    /// A node is ruled out: its sessions are gone, or will be told so.
    fn node_down(&mut self, node: NodeId, context: &mut Context<'_, Self::Effect>);

    /// This replica no longer leads: leader-only state goes.
    fn follow(&mut self, context: &mut Context<'_, Self::Effect>);

    /// Bytes that `Bodies::want` asked for under `key` are in memory now.
    fn resume(&mut self, key: u64, context: &mut Context<'_, Self::Effect>);

    /// The end of a lane's step: hand out what became possible, propose what has gathered.
    /// Called only when something happened to this shard in the step, or its deadline came.
    fn flush(&mut self, context: &mut Context<'_, Self::Effect>);

    /// Whether inputs that it has had are still to be acted upon, though it was flushed.
    fn has_parked(&self) -> bool;

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

/// For machines that sessions have nothing to do with.
#[derive(Debug, Default)]
pub struct NoDesk;

impl<I, E> Desk<I, E> for NoDesk {
    fn is_of_session(_input: &I) -> bool {
        false
    }

    fn send(&mut self, _seq: Seq, input: I) -> I {
        input
    }

    fn receive(&mut self, _effect: &E, _inputs: &mut Vec<I>) -> bool {
        true
    }

    fn paid(&mut self, _seq: Seq) {}

    fn owes(&self) -> bool {
        false
    }

    fn claim(&mut self, _node: NodeId, _careful: bool) -> Option<I> {
        None
    }

    fn take_unsettled(&mut self) -> Vec<I> {
        Vec::new()
    }

    fn node_of(_effect: &E) -> Option<NodeId> {
        None
    }

    fn encode_input(_input: &I, _out: &mut Parts) {}

    fn encode_effect(_effect: &E, _out: &mut Parts) {}

    fn decode_input(_bytes: &Bytes) -> Result<I, Malformed> {
        Err(NOBODY)
    }

    fn decode_effect(_bytes: &Bytes) -> Result<E, Malformed> {
        Err(NOBODY)
    }
}

const NOBODY: Malformed = Malformed {
    what: "dealing",
    at: 0,
    cause: "no session has to do with this shard",
};
