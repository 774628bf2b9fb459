//! What the rest of the node tells a session.

use std::sync::Arc;

use bytes::Bytes;
use warren_cluster_core::batch::Outcome;
use warren_cluster_core::rows::Committed;

use crate::dispatch::work::ReplyAddress;
use crate::ids::Token;
use crate::shard::effect::Effect;

/// An event for one session. Those of one shard come in that shard's order; the topology that
/// the session is shown with an event is at least as new as the event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A batch of publishes has its outcome.
    Done { number: u64, outcome: Outcome },
    /// A transaction has its outcome.
    Committed { token: Token, committed: Committed },
    /// The node could not take a transaction (it is stopping, or its log is full).
    NotCommitted { token: Token },
    /// The rows that were asked for are in the topology, as far as their node is heard of.
    CaughtUp { token: Token },
    /// From a queue's leader.
    Shard(Effect),
    /// For a channel's reply consumer; dropped when the nonce is not that of the present one.
    DirectReply {
        address: ReplyAddress,
        message: Bytes,
    },
    /// Publishers must wait (`Some(reason)`, e.g. "low on memory"), or may go on.
    Blocked(Option<Arc<str>>),
    /// The server closes the connection: 320 CONNECTION_FORCED with this text.
    Close { text: Arc<str> },
}
