//! A vhost. Key: name. Value, version 1: description, tags, default queue type (empty: none).

use bytes::Bytes;
use warren_cluster_core::rows::RowKey;

use super::codec::{Reader, RowError, Writer};
use super::kind;

const VERSION: u8 = 1;

/// What names a vhost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VhostKey<'a> {
    pub name: &'a str,
}

/// A vhost's properties; none of them changes what is in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VhostRow {
    pub description: String,
    pub tags: Vec<String>,
    /// For queues declared without `x-queue-type`; empty when the node's default holds.
    pub default_queue_type: String,
}

impl<'a> VhostKey<'a> {
    #[must_use]
    pub fn encode(self) -> RowKey {
        RowKey {
            kind: kind::VHOST,
            key: Writer::key().bytes(self.name.as_bytes()).finish(),
        }
    }

    /// # Errors
    /// When the bytes are no such key.
    pub fn decode(key: &'a [u8]) -> Result<Self, RowError> {
        let mut reader = Reader::key(key);
        let name = reader.text("vhost")?;
        reader.finish()?;
        Ok(Self { name })
    }
}

impl VhostRow {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Writer::value(VERSION)
            .bytes(self.description.as_bytes())
            .strings(&self.tags)
            .bytes(self.default_queue_type.as_bytes())
            .finish()
    }

    /// # Errors
    /// When the bytes are no such row.
    pub fn decode(value: &[u8]) -> Result<Self, RowError> {
        let mut reader = Reader::value(value, VERSION)?;
        let row = Self {
            description: reader.text("description")?.to_owned(),
            tags: reader.strings("tags")?,
            default_queue_type: reader.text("default queue type")?.to_owned(),
        };
        reader.finish()?;
        Ok(row)
    }
}
