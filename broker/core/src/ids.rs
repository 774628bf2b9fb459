//! The broker's own identifiers.

use warren_cluster_core::ids::NodeId;

/// One client connection, unique for the life of its node's process. The top 16 bits are the node
/// that the client is connected to. With all else 0 it is the node itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

/// A queue, unique for ever: the version of the row that created it. Queues of the local
/// definitions have the top bit set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId(pub u64);

/// A message within its queue: ascending in the order of arrival, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId(pub u64);

/// Who holds messages: a consumer, or a channel's `basic.get`. `number` is the session's own,
/// never reused within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Holder {
    pub session: SessionId,
    pub number: u32,
}

/// A question of a session (or of the HTTP API) that an answer refers to; the asker's own number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

impl SessionId {
    const NODE_SHIFT: u32 = 48;

    /// What a node calls itself where sessions are named.
    #[must_use]
    pub fn of_node(node: NodeId) -> Self {
        Self(node.0 << Self::NODE_SHIFT)
    }

    /// A session of a node; `number` is unique there and below 2^48.
    #[must_use]
    pub fn new(node: NodeId, number: u64) -> Self {
        debug_assert!(
            number >> Self::NODE_SHIFT == 0,
            "48 bits are enough for a process' life"
        );
        Self(node.0 << Self::NODE_SHIFT | number)
    }

    /// The node that its client is connected to.
    #[must_use]
    pub fn node(self) -> NodeId {
        NodeId(self.0 >> Self::NODE_SHIFT)
    }

    /// The first and the last id that a session of the node can have.
    #[must_use]
    pub fn all_of(node: NodeId) -> (Self, Self) {
        let first = Self::of_node(node);
        (first, Self(first.0 | ((1 << Self::NODE_SHIFT) - 1)))
    }
}

impl QueueId {
    const LOCAL: u64 = 1 << 63;

    /// The id of a queue whose row the local definitions hold.
    #[must_use]
    pub fn local(version: u64) -> Self {
        Self(version | Self::LOCAL)
    }

    /// Whether the queue lives in this node's unlogged shard.
    #[must_use]
    pub fn is_local(self) -> bool {
        self.0 & Self::LOCAL != 0
    }
}
