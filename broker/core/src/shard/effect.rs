//! What a shard's leader wants carried out. All but the last two go to one session each, in
//! order.

use bytes::Bytes;

use crate::ids::{MessageId, QueueId, SessionId, Token};

/// A message on its way to a holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivered {
    pub id: MessageId,
    pub redelivered: bool,
    /// Failed deliveries so far (`x-delivery-count`).
    pub delivery_count: u32,
    /// Encoded as [`crate::message::Parts`].
    pub message: Bytes,
}

/// Why a consumer was not attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    NoQueue,
    /// The queue has an exclusive consumer, or has consumers and this one wants to be exclusive.
    ExclusiveUse,
}

/// The answer to a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    NoQueue,
    Counts {
        ready: u64,
        unacked: u64,
        consumers: u32,
    },
    Purged {
        messages: u64,
    },
    /// The queue is closed: gone for publishers and consumers. Its row can be deleted.
    Closed {
        messages: u64,
    },
    InUse,
    NotEmpty,
}

/// An effect of a queue shard. They may be lost with the leader; each can be asked for again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Messages for a consumer (`number` of the session's), in order.
    Deliver {
        session: SessionId,
        number: u32,
        queue: QueueId,
        messages: Vec<Delivered>,
    },
    /// The answer to `Get`: the message, if there was one, and how many are ready after it.
    Got {
        session: SessionId,
        token: Token,
        message: Option<Delivered>,
        ready: u64,
    },
    Attached {
        session: SessionId,
        token: Token,
    },
    Refused {
        session: SessionId,
        token: Token,
        refusal: Refusal,
    },
    /// No delivery to this consumer comes after it.
    Detached {
        session: SessionId,
        token: Token,
    },
    /// The queue is gone from under this consumer.
    Cancelled {
        session: SessionId,
        number: u32,
        queue: QueueId,
    },
    Settled {
        session: SessionId,
        token: Token,
    },
    Reply {
        asker: SessionId,
        token: Token,
        reply: Reply,
    },
    /// A queue is closed, because it is unused or because somebody `asked`: whoever drives the
    /// node deletes its row (conditional on the id) unless that one does; then it sends `Drop`.
    Closed {
        queue: QueueId,
        asked: bool,
    },
    /// The shard does not have the queue (any more): its tombstone can go.
    Dropped {
        queue: QueueId,
    },
}
