//! What only the leader of a shard handles: consumers, credit, settling, questions.
//!
//! None of it is replicated as it stands; what must survive (a settle, a return, a close) the
//! leader proposes as a command.

use bytes::Bytes;
use warren_cluster_core::ids::NodeId;

use crate::ids::{Holder, MessageId, QueueId, SessionId, Token};

/// What a queue is asked to be, as far as its shard must know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueueConfig {
    /// Deleted when its last consumer goes (only if it ever had one).
    pub auto_delete: bool,
    /// `x-single-active-consumer` and what later issues add, as encoded `configure` options;
    /// empty for now.
    pub options: Bytes,
}

/// How much a consumer's session can take before it says that it has written some.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub messages: u32,
    pub bytes: u64,
}

/// A consumer that wants messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attach {
    pub holder: Holder,
    pub queue: QueueId,
    /// Settled as they are handed to the session.
    pub auto_ack: bool,
    pub exclusive: bool,
    /// `x-priority`: the highest with credit is served first.
    pub priority: i32,
    /// Messages out at once; 0 is no limit.
    pub prefetch: u32,
    pub window: Window,
    /// Names the answer.
    pub token: Token,
}

/// What becomes of messages that a consumer held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Acknowledged: gone.
    Ack,
    /// Back to its place, redelivered; a failed delivery (`reject`, a lost session) is counted.
    Requeue { failed: bool },
    /// Refused without requeue: dropped (dead-lettered in a later issue).
    Reject,
}

/// A run of messages of one holder, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settle {
    pub queue: QueueId,
    pub holder: Holder,
    pub first: MessageId,
    pub last: MessageId,
    pub verdict: Verdict,
}

/// An input of a queue shard's leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Makes the queue if the shard does not have it. No answer; ordered before what follows.
    Create {
        queue: QueueId,
        config: QueueConfig,
    },
    /// Drops the queue whose definition is gone: its row has a tombstone. Consumers are cancelled.
    Drop {
        queue: QueueId,
    },
    /// A conditional delete, shard first: commits `close`, which decides it. Answered by
    /// [`super::effect::Reply::Closed`], `InUse`, `NotEmpty` or `NoQueue`.
    Close {
        queue: QueueId,
        if_unused: bool,
        if_empty: bool,
        asker: SessionId,
        token: Token,
    },
    /// Answered by [`super::effect::Effect::Attached`] or `Refused`.
    Attach(Attach),
    /// `basic.cancel`: no more messages; those that are out stay out. Answered by `Detached`
    /// after the last delivery.
    Detach {
        queue: QueueId,
        holder: Holder,
        token: Token,
    },
    /// The holder is gone: detached, and what it held goes back, counted as a failed delivery.
    /// Also ends a `basic.get` holder. No answer.
    Gone {
        queue: QueueId,
        holder: Holder,
    },
    /// The session has written this much of what it was handed.
    Credit {
        queue: QueueId,
        holder: Holder,
        messages: u32,
        bytes: u64,
    },
    Settle(Settle),
    /// Answered by [`super::effect::Effect::Settled`] once all settles before it from this
    /// session are committed in this shard (`tx.commit`).
    SettleBarrier {
        session: SessionId,
        token: Token,
    },
    /// Answered by [`super::effect::Effect::Got`].
    Get {
        queue: QueueId,
        holder: Holder,
        auto_ack: bool,
        token: Token,
    },
    /// Drops every ready message. Answered by `Reply::Purged` when committed.
    Purge {
        queue: QueueId,
        asker: SessionId,
        token: Token,
    },
    /// Answered by `Reply::Counts`.
    Count {
        queue: QueueId,
        asker: SessionId,
        token: Token,
    },
    /// The session is gone: as `Gone` for every holder of it in this shard. No answer.
    SessionGone {
        session: SessionId,
    },
    /// What the sessions of a node have and hold in this shard, for a leader that is new or was
    /// out of its sight: the first thing that it hears of that node (rule 7). What an earlier
    /// claim said, and this one does not, is gone.
    Claim(Claim),
}

/// All that a node's sessions have and hold in a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    pub node: NodeId,
    pub seats: Vec<ClaimedSeat>,
}

/// A consumer, or somebody who holds messages of a queue without being one any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimedSeat {
    pub queue: QueueId,
    pub holder: Holder,
    /// Its terms, with the window that is left, while it is a consumer.
    pub consumer: Option<Attach>,
    /// What it holds: runs of ids, both ends included, ascending.
    pub held: Vec<(u64, u64)>,
}
