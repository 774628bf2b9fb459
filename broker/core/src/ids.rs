//! The broker's own identifiers.

/// One client connection, unique on its node for the life of the process. Never 0.
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
