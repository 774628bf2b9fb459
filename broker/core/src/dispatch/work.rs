//! What one turn of a session (or of an operation) wants done, in order.

use bytes::Bytes;
use warren_cluster_core::batch::Batch;
use warren_cluster_core::ids::ShardId;
use warren_cluster_core::rows::Transaction;

use crate::ids::{SessionId, Token};
use crate::shard::input::Input;

/// Who is told what came of a batch or a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    /// `None`: nobody waits for it.
    pub session: Option<SessionId>,
    /// The batch's number within its session, or the token of a transaction.
    pub number: u64,
}

/// A message for the one who waits at a direct reply-to address. At most once, no buffering.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectReply {
    pub address: ReplyAddress,
    /// Encoded as [`crate::message::Parts`].
    pub message: Bytes,
}

/// What stands behind `amq.rabbitmq.reply-to.`: a reply consumer of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReplyAddress {
    pub session: SessionId,
    pub channel: u16,
    /// Drawn when the consumer was made, so that an address cannot be guessed or reused.
    pub nonce: u64,
}

/// One thing to hand over; those for one shard keep their order.
#[derive(Debug)]
pub enum Item {
    /// Commands for a shard; answered by `Event::Done` with this number.
    Propose {
        shard: ShardId,
        batch: Batch,
        number: u64,
    },
    /// For the leader of a shard.
    Ask {
        shard: ShardId,
        input: Input,
    },
    /// For a definitions shard; answered by `Event::Committed` with this token, or not at all
    /// when there is none.
    Transact {
        shard: ShardId,
        transaction: Transaction,
        token: Option<Token>,
    },
    Reply(DirectReply),
}

/// What one turn wants done; its driver hands it over and leaves it empty.
#[derive(Debug, Default)]
pub struct Work {
    pub items: Vec<Item>,
}

impl Work {
    /// Asks the leader of a shard.
    pub fn ask(&mut self, shard: ShardId, input: Input) {
        self.items.push(Item::Ask { shard, input });
    }

    /// Changes definitions.
    pub fn transact(&mut self, shard: ShardId, transaction: Transaction, token: Option<Token>) {
        self.items.push(Item::Transact {
            shard,
            transaction,
            token,
        });
    }
}
