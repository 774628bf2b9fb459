//! A node's life, as far as what lives with it: exclusive and transient objects. Key: node u64 big
//! endian. Value, version 1: incarnation u64, fenced u8 (0 or 1).
//!
//! A node writes its own before it serves anybody, and with it deletes what an earlier life left
//! behind. Whoever leads the definitions fences the life of a node that is gone for long: from then
//! on nothing of that life is there, and nothing can be added to it, because whatever makes
//! something of a life asks for that life's row to be unchanged.

use bytes::Bytes;
use warren_cluster_core::ids::NodeId;
use warren_cluster_core::rows::{RowKey, Write};

use super::codec::{Reader, RowError, Writer};
use super::kind;

const VERSION: u8 = 1;

/// Which node, and which life of it: what objects that live with a node are marked with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    pub node: NodeId,
    pub incarnation: u64,
}

/// The newest life of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LifeRow {
    pub incarnation: u64,
    pub fenced: bool,
}

impl LifeRow {
    #[must_use]
    pub fn key(node: NodeId) -> RowKey {
        RowKey {
            kind: kind::LIFE,
            key: Writer::key().raw(&node.0.to_be_bytes()).finish(),
        }
    }

    /// # Errors
    /// When the bytes are no such key.
    pub fn decode_key(key: &[u8]) -> Result<NodeId, RowError> {
        let Ok(node) = key.try_into() else {
            return Err(RowError::Truncated { field: "node" });
        };
        Ok(NodeId(u64::from_be_bytes(node)))
    }

    /// The write that sets it.
    #[must_use]
    pub fn put(self, node: NodeId) -> Write {
        Write::Put {
            row: Self::key(node),
            value: self.encode(),
        }
    }

    fn encode(self) -> Bytes {
        let writer = Writer::value(VERSION).u64(self.incarnation);
        writer.u8(u8::from(self.fenced)).finish()
    }

    /// # Errors
    /// When the bytes are no such row.
    pub fn decode(value: &[u8]) -> Result<Self, RowError> {
        let mut reader = Reader::value(value, VERSION)?;
        let incarnation = reader.u64("incarnation")?;
        let fenced = match reader.u8("fenced")? {
            0 => false,
            1 => true,
            value => {
                let field = "fenced";
                return Err(RowError::Unknown { field, value });
            }
        };
        reader.finish()?;
        Ok(Self {
            incarnation,
            fenced,
        })
    }
}
