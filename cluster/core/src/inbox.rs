//! What a lane accepts and what it hands out: two closed sets, no channel, no thread in them.
//!
//! `I` and `E` are the input and effect of the machine that queue shards run
//! ([`crate::machine::Machine`]); `T` is a ticket that names who waits for a batch, copied
//! through unchanged.

use bytes::Bytes;

use crate::batch::{Batch, Outcome};
use crate::consensus::MemberChange;
use crate::ids::{Instant, Life, NodeId, ReplicaId, ShardId, Term};
use crate::link::Envelope;
use crate::log::disk::Completion;
use crate::machine::Malformed;
use crate::rows::{Change, Committed, Transaction, WaitFor};

/// Something that happens to a lane.
#[derive(Debug)]
pub enum Input<I, T> {
    /// Commands for a queue shard's log. Answered once, in `Outputs::done`.
    Propose {
        shard: ShardId,
        batch: Batch,
        ticket: T,
    },
    /// For the leader's side of a queue shard's machine.
    Machine { shard: ShardId, input: I },
    /// For a rows shard. Answered once, in `Outputs::committed`, if anybody waits; what of the
    /// unlogged rows nobody waits for other nodes hear of a little later.
    Transact {
        shard: ShardId,
        transaction: Transaction,
        wait: WaitFor<T>,
    },
    /// Wants all unlogged rows that the node has by now. Answered once, in `Outputs::caught_up`:
    /// when they are here, or when the node is not heard of.
    CatchUp { node: NodeId, ticket: T },
    /// What came of an operation that a step handed out.
    Disk(Completion),
    /// Time may have passed: nothing else to say.
    Tick,
    /// An envelope of another node, which is who it says ([`crate::link`]), and when it came.
    Received {
        from: NodeId,
        envelope: Bytes,
        at: Instant,
    },
    /// There is a way to this node, anew: what was on its way before may be lost.
    Connected { node: NodeId },
    /// The way to this node is lost.
    Disconnected { node: NodeId },
    /// This node is to have this replica of the shard; it begins without a past. Nothing happens
    /// where there is one.
    Host { shard: ShardId, replica: ReplicaId },
    /// This node's replica is no member of the shard any more, and counts no more: what it has
    /// goes. Nothing happens where there is another one, or none.
    Vacate { shard: ShardId, replica: ReplicaId },
    /// Changes who takes part in a shard that this node leads; else nothing happens.
    ChangeMembers {
        shard: ShardId,
        changes: Vec<MemberChange>,
    },
    /// All inputs that follow from rows were asked of a shard that this node leads in this term
    /// (`Outputs::roles`): from here on it acts.
    Reconciled { shard: ShardId, term: Term },
    /// Hands the lead of a shard over, if this node has it.
    Transfer { shard: ShardId, to: ReplicaId },
    /// The majority of this shard is lost for ever: this node's replica decides alone from here
    /// on, with what it has. An operator says so; nothing happens where it leads or is alone.
    Recover { shard: ShardId },
    /// A node's unlogged rows of its lives up to this one are gone, and what it still tells of
    /// them does not count.
    Fence { node: NodeId, life: Life },
    /// This node tells of its unlogged rows in this life from here on: the one before was fenced.
    Renew { life: Life },
    /// For those who use another node's lane (`Outputs::posts`): at most once.
    Post { to: NodeId, bytes: Bytes },
    /// Whether batches of other nodes for the unlogged queues are refused: memory is scarce.
    Scarce { memory: bool },
    /// What the file system that holds the log has left.
    FreeDisk { bytes: u64 },
    /// Refuse what comes from here on, write checkpoints, sync, then report `Outputs::stopped`.
    Stop,
}

/// What one step of a lane wants done and has to tell.
///
/// Its taker handles `changes` before the rest: they are what an outcome in `committed` or an
/// effect of the same step may refer to.
#[derive(Debug)]
pub struct Outputs<E, T> {
    /// Rows written, per shard in the order of their versions. After a start the first ones are
    /// all rows that exist.
    pub changes: Vec<(ShardId, Vec<Change>)>,
    /// What came of transactions. `None`: the lane refused it (stopping, no room in the log).
    pub committed: Vec<(T, Option<Committed>)>,
    /// The unlogged rows that were asked for are in `changes`, of this step or one before, as far
    /// as there was a way to their node.
    pub caught_up: Vec<T>,
    /// What came of batches, in order per shard.
    pub done: Vec<(T, Outcome)>,
    /// What the machines of led shards want carried out, in order per shard.
    pub effects: Vec<E>,
    /// Shards that this node leads from here on (with the term), or no longer leads (`None`).
    pub roles: Vec<(ShardId, Option<Term>)>,
    /// Envelopes for other nodes, in order for each and class. They may be lost.
    pub mail: Vec<Envelope>,
    /// What other nodes posted, in order for each.
    pub posts: Vec<(NodeId, Bytes)>,
    /// Nodes that sent what cannot be read.
    pub foreign: Vec<(NodeId, Malformed)>,
    /// Everything is on disk and nothing will come any more.
    pub stopped: bool,
}

impl<E, T> Default for Outputs<E, T> {
    fn default() -> Self {
        Self {
            changes: Vec::new(),
            committed: Vec::new(),
            caught_up: Vec::new(),
            done: Vec::new(),
            effects: Vec::new(),
            roles: Vec::new(),
            mail: Vec::new(),
            posts: Vec::new(),
            foreign: Vec::new(),
            stopped: false,
        }
    }
}

impl<E, T> Outputs<E, T> {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.committed.is_empty()
            && self.caught_up.is_empty()
            && self.done.is_empty()
            && self.effects.is_empty()
            && self.roles.is_empty()
            && self.mail.is_empty()
            && self.posts.is_empty()
            && self.foreign.is_empty()
            && !self.stopped
    }

    /// Forgets everything, keeps the room.
    pub fn clear(&mut self) {
        self.changes.clear();
        self.committed.clear();
        self.caught_up.clear();
        self.done.clear();
        self.effects.clear();
        self.roles.clear();
        self.mail.clear();
        self.posts.clear();
        self.foreign.clear();
        self.stopped = false;
    }
}
