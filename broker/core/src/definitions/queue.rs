//! A queue. Key: vhost, name. Value, version 1: type u8, flags u8 (1 durable, 2 auto-delete,
//! 4 exclusive, 8 transient), shard u32, id u64 (0: the row's own version), with flag 4 the owner's
//! session, node and incarnation (u64 each), with flag 8 the node and the incarnation that it lives
//! with, arguments as a table to the end.

use bytes::Bytes;
use warren_cluster_core::ids::{NodeId, ShardId};
use warren_cluster_core::rows::{RowKey, Version};
use warren_protocol::table::FieldTable;

use super::codec::{Reader, RowError, Writer};
use super::{Home, Store, kind};
use crate::ids::{QueueId, SessionId};

const VERSION: u8 = 1;
const DURABLE: u8 = 1;
const AUTO_DELETE: u8 = 2;
const EXCLUSIVE: u8 = 4;
const TRANSIENT: u8 = 8;

/// What names a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueKey<'a> {
    pub vhost: &'a str,
    pub name: &'a [u8],
}

/// `x-queue-type`: both run the same code; the arguments they take differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum QueueKind {
    #[default]
    Classic,
    Quorum,
}

/// The connection that an exclusive queue lives and dies with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub session: SessionId,
    pub node: NodeId,
    /// Which start of that node, so that rows of an earlier one can be told and swept.
    pub incarnation: u64,
}

/// What was declared, and where it lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueRow {
    pub kind: QueueKind,
    pub durable: bool,
    pub auto_delete: bool,
    /// `Some` for an exclusive queue.
    pub owner: Option<Box<Owner>>,
    /// What a transient queue that is not exclusive lives and dies with.
    pub home: Option<Box<Home>>,
    pub shard: ShardId,
    /// The version of the row that created the queue; `None` in that row itself, whose version it
    /// is. A row that is written again must carry it on.
    pub created: Option<Version>,
    pub arguments: FieldTable,
}

impl QueueKind {
    /// The value of `x-queue-type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

impl<'a> QueueKey<'a> {
    #[must_use]
    pub fn encode(self) -> RowKey {
        let key = Writer::key().bytes(self.vhost.as_bytes()).bytes(self.name);
        RowKey {
            kind: kind::QUEUE,
            key: key.finish(),
        }
    }

    /// # Errors
    /// When the bytes are no such key.
    pub fn decode(key: &'a [u8]) -> Result<Self, RowError> {
        let mut reader = Reader::key(key);
        let vhost = reader.text("vhost")?;
        let name = reader.bytes("queue")?;
        reader.finish()?;
        Ok(Self { vhost, name })
    }
}

impl QueueRow {
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        self.owner.is_some()
    }

    /// The life of a node that it is of, unless it is to outlive all of them.
    #[must_use]
    pub fn lives_with(&self) -> Option<Home> {
        let of_owner = self.owner.as_ref().map(|owner| Home {
            node: owner.node,
            incarnation: owner.incarnation,
        });
        of_owner.or_else(|| self.home.as_deref().copied())
    }

    /// The id of the queue whose row has this version in that store.
    #[must_use]
    pub fn id(&self, store: Store, version: Version) -> QueueId {
        let created = self.created.unwrap_or(version);
        match store {
            Store::Replicated => QueueId(created.0),
            Store::Local => QueueId::local(created.0),
        }
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        let flags = u8::from(self.durable) * DURABLE
            + u8::from(self.auto_delete) * AUTO_DELETE
            + u8::from(self.owner.is_some()) * EXCLUSIVE
            + u8::from(self.home.is_some()) * TRANSIENT;
        let code = match self.kind {
            QueueKind::Classic => 1,
            QueueKind::Quorum => 2,
        };
        let mut writer = Writer::value(VERSION)
            .u8(code)
            .u8(flags)
            .u32(self.shard.0)
            .u64(self.created.map_or(0, |version| version.0));
        if let Some(owner) = &self.owner {
            writer = writer
                .u64(owner.session.0)
                .u64(owner.node.0)
                .u64(owner.incarnation);
        }
        if let Some(home) = &self.home {
            writer = writer.u64(home.node.0).u64(home.incarnation);
        }
        writer.table(&self.arguments).finish()
    }

    /// # Errors
    /// When the bytes are no such row.
    pub fn decode(value: &[u8]) -> Result<Self, RowError> {
        let mut reader = Reader::value(value, VERSION)?;
        let kind = match reader.u8("queue type")? {
            1 => QueueKind::Classic,
            2 => QueueKind::Quorum,
            value => {
                let field = "queue type";
                return Err(RowError::Unknown { field, value });
            }
        };
        let flags = reader.u8("flags")?;
        if flags & !(DURABLE | AUTO_DELETE | EXCLUSIVE | TRANSIENT) != 0 {
            let field = "flags";
            return Err(RowError::Unknown {
                field,
                value: flags,
            });
        }
        let shard = ShardId(reader.u32("shard")?);
        let created = Some(Version(reader.u64("id")?)).filter(|version| version.0 != 0);
        let owner = if flags & EXCLUSIVE == 0 {
            None
        } else {
            Some(Box::new(Owner {
                session: SessionId(reader.u64("session")?),
                node: NodeId(reader.u64("node")?),
                incarnation: reader.u64("incarnation")?,
            }))
        };
        let home = if flags & TRANSIENT == 0 {
            None
        } else {
            Some(Box::new(Home {
                node: NodeId(reader.u64("node")?),
                incarnation: reader.u64("incarnation")?,
            }))
        };
        Ok(Self {
            kind,
            durable: flags & DURABLE != 0,
            auto_delete: flags & AUTO_DELETE != 0,
            owner,
            home,
            shard,
            created,
            arguments: reader.table()?,
        })
    }
}
