//! A queue that was deleted and whose shard may still hold it. Key: id u64 big endian. Value,
//! version 1: shard u32. Written with the deletion of the queue's row, kept until its shard has
//! dropped it: a queue is never dropped because its row is absent.

use bytes::Bytes;
use warren_cluster_core::ids::ShardId;
use warren_cluster_core::rows::{RowKey, Write};

use super::codec::{Reader, RowError, Writer};
use super::kind;
use crate::ids::QueueId;

const VERSION: u8 = 1;

/// A deleted queue and the shard that is to drop it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tombstone {
    pub queue: QueueId,
    pub shard: ShardId,
}

impl Tombstone {
    #[must_use]
    pub fn key(queue: QueueId) -> RowKey {
        RowKey {
            kind: kind::TOMBSTONE,
            key: Writer::key().raw(&queue.0.to_be_bytes()).finish(),
        }
    }

    /// # Errors
    /// When the bytes are no such key.
    pub fn decode_key(key: &[u8]) -> Result<QueueId, RowError> {
        let Ok(id) = key.try_into() else {
            return Err(RowError::Truncated { field: "queue id" });
        };
        Ok(QueueId(u64::from_be_bytes(id)))
    }

    /// The write that sets it.
    #[must_use]
    pub fn put(self) -> Write {
        Write::Put {
            row: Self::key(self.queue),
            value: self.encode(),
        }
    }

    /// The write that takes it away, once the shard has dropped the queue.
    #[must_use]
    pub fn delete(queue: QueueId) -> Write {
        Write::Delete {
            row: Self::key(queue),
        }
    }

    fn encode(self) -> Bytes {
        Writer::value(VERSION).u32(self.shard.0).finish()
    }

    /// # Errors
    /// When the bytes are no such row.
    pub fn decode(queue: QueueId, value: &[u8]) -> Result<Self, RowError> {
        let mut reader = Reader::value(value, VERSION)?;
        let shard = ShardId(reader.u32("shard")?);
        reader.finish()?;
        Ok(Self { queue, shard })
    }
}
