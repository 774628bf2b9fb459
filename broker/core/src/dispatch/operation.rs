//! What can be asked of the definitions and of queues as a whole, and what is answered.
//!
//! Channels, the HTTP API, the command line and imports all ask in these words.

use std::sync::Arc;

use warren_cluster_core::rows::Committed;
use warren_protocol::table::FieldTable;

use crate::ids::SessionId;
use crate::shard::effect::Reply;

/// Who asks: what permissions are checked against.
#[derive(Clone, Debug)]
pub struct Actor {
    pub user: Arc<str>,
    pub vhost: Arc<str>,
    /// The connection that exclusive queues belong to; `None` for the HTTP API and imports.
    pub session: Option<SessionId>,
}

/// What a binding leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DestinationKind {
    Queue,
    Exchange,
}

/// `queue.declare`. An empty name asks for one of the server's.
#[derive(Clone, Debug)]
pub struct DeclareQueue {
    pub name: Vec<u8>,
    pub passive: bool,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: FieldTable,
}

/// `exchange.declare`.
#[derive(Clone, Debug)]
pub struct DeclareExchange {
    pub name: Vec<u8>,
    pub kind: Vec<u8>,
    pub passive: bool,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: FieldTable,
}

/// `queue.bind`, `exchange.bind` and their opposites.
#[derive(Clone, Debug)]
pub struct Bind {
    pub source: Vec<u8>,
    pub destination: Vec<u8>,
    pub destination_kind: DestinationKind,
    pub routing_key: Vec<u8>,
    pub arguments: FieldTable,
}

/// An operation. Names are as the client sent them; the session has already put the channel's
/// last declared queue in place of an empty name where AMQP says so.
#[derive(Clone, Debug)]
pub enum Operation {
    DeclareQueue(DeclareQueue),
    DeleteQueue {
        name: Vec<u8>,
        if_unused: bool,
        if_empty: bool,
    },
    PurgeQueue {
        name: Vec<u8>,
    },
    DeclareExchange(DeclareExchange),
    DeleteExchange {
        name: Vec<u8>,
        if_unused: bool,
    },
    Bind(Bind),
    Unbind(Bind),
}

/// What an operation ends with when it succeeds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    QueueDeclared {
        name: Vec<u8>,
        ready: u64,
        consumers: u32,
    },
    QueueDeleted {
        messages: u64,
    },
    QueuePurged {
        messages: u64,
    },
    Done,
}

/// What an operation in progress was waiting for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    Committed(Committed),
    /// The node could not take the transaction (it is stopping, or its log is full).
    NotCommitted,
    Reply(Reply),
}
