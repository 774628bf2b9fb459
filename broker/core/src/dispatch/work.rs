//! What one turn of a session (or of an operation) wants done, in order.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use warren_cluster_core::batch::Batch;
use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::rows::{Transaction, WaitFor};

use crate::ids::{SessionId, Token};
use crate::message::Parts;
use crate::shard::input::Input;

/// Who is told what came of a batch or a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    pub session: SessionId,
    /// The batch's number within its session, or a question's token.
    pub number: u64,
}

impl Ticket {
    /// For what the session asked with this token.
    #[must_use]
    pub fn of(session: SessionId, token: Token) -> Self {
        let number = token.0;
        Self { session, number }
    }
}

/// A message for the one who waits at a direct reply-to address. At most once, no buffering.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectReply {
    pub address: ReplyAddress,
    /// Encoded as [`crate::message::Parts`].
    pub message: Bytes,
}

/// The form in which a reply travels between nodes.
const REPLY_VERSION: u8 = 1;

impl DirectReply {
    /// For the node of the one who waits. Layout, little endian: version u8, session u64, channel
    /// u16, nonce u64, the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(19 + self.message.len());
        out.put_u8(REPLY_VERSION);
        out.put_u64_le(self.address.session.0);
        out.put_u16_le(self.address.channel);
        out.put_u64_le(self.address.nonce);
        out.put_slice(&self.message);
        out.freeze()
    }

    /// Reads what another node sent; `None` for what none of this version sends.
    #[must_use]
    pub fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != REPLY_VERSION {
            return None;
        }
        let address = ReplyAddress {
            session: SessionId(bytes.try_get_u64_le().ok()?),
            channel: bytes.try_get_u16_le().ok()?,
            nonce: bytes.try_get_u64_le().ok()?,
        };
        Parts::decode(&bytes)?;
        let message = bytes;
        Some(Self { address, message })
    }
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
        wait: WaitFor<Token>,
    },
    /// Asks the node for what lives there; answered by `Event::CaughtUp` with this token.
    CatchUp {
        node: NodeId,
        token: Token,
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

    /// Changes definitions; answered when all nodes have the change.
    pub fn transact(&mut self, shard: ShardId, transaction: Transaction, token: Option<Token>) {
        self.items.push(Item::Transact {
            shard,
            transaction,
            wait: WaitFor::everywhere(token),
        });
    }

    /// Changes what lives with this node; answered when this node has the change.
    pub fn transact_here(&mut self, transaction: Transaction, token: Token) {
        self.items.push(Item::Transact {
            shard: ShardId::LOCAL_DEFINITIONS,
            transaction,
            wait: WaitFor::Here(token),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_read_back_and_what_is_cut_short_is_none() {
        let mut message = BytesMut::new();
        let parts = Parts {
            exchange: b"",
            routing_key: b"amq.rabbitmq.reply-to.x",
            properties: &[0, 0],
            body: b"",
        };
        parts.encode(&mut message);
        let reply = DirectReply {
            address: ReplyAddress {
                session: SessionId(7 << 48 | 3),
                channel: 9,
                nonce: u64::MAX,
            },
            message: message.freeze(),
        };
        let bytes = reply.encode();
        assert_eq!(DirectReply::decode(bytes.clone()), Some(reply));
        for cut in 0..bytes.len() {
            assert_eq!(
                DirectReply::decode(bytes.slice(..cut)),
                None,
                "cut at {cut}"
            );
        }
        let mut other = bytes.to_vec();
        other[0] = 9;
        assert_eq!(DirectReply::decode(other.into()), None);
    }
}
