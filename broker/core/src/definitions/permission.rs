//! What a user may do in a vhost. Keys: user, vhost (and exchange for topic permissions). Values,
//! version 1: the patterns configure, write, read; or write, read.

use bytes::Bytes;
use warren_cluster_core::rows::RowKey;

use super::codec::{Reader, RowError, Writer};
use super::kind;

const VERSION: u8 = 1;

/// What names a permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PermissionKey<'a> {
    pub user: &'a str,
    pub vhost: &'a str,
}

/// Regular expressions that names must match; having a row at all is access to the vhost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PermissionRow {
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// What names a topic permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicPermissionKey<'a> {
    pub user: &'a str,
    pub vhost: &'a str,
    pub exchange: &'a [u8],
}

/// Regular expressions that routing keys must match at one topic exchange.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TopicPermissionRow {
    pub write: String,
    pub read: String,
}

impl<'a> PermissionKey<'a> {
    #[must_use]
    pub fn encode(self) -> RowKey {
        let key = Writer::key()
            .bytes(self.user.as_bytes())
            .bytes(self.vhost.as_bytes());
        RowKey {
            kind: kind::PERMISSION,
            key: key.finish(),
        }
    }

    /// # Errors
    /// When the bytes are no such key.
    pub fn decode(key: &'a [u8]) -> Result<Self, RowError> {
        let mut reader = Reader::key(key);
        let user = reader.text("user")?;
        let vhost = reader.text("vhost")?;
        reader.finish()?;
        Ok(Self { user, vhost })
    }
}

impl PermissionRow {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Writer::value(VERSION)
            .bytes(self.configure.as_bytes())
            .bytes(self.write.as_bytes())
            .bytes(self.read.as_bytes())
            .finish()
    }

    /// # Errors
    /// When the bytes are no such row.
    pub fn decode(value: &[u8]) -> Result<Self, RowError> {
        let mut reader = Reader::value(value, VERSION)?;
        let row = Self {
            configure: reader.text("configure")?.to_owned(),
            write: reader.text("write")?.to_owned(),
            read: reader.text("read")?.to_owned(),
        };
        reader.finish()?;
        Ok(row)
    }
}

impl<'a> TopicPermissionKey<'a> {
    #[must_use]
    pub fn encode(self) -> RowKey {
        let key = Writer::key()
            .bytes(self.user.as_bytes())
            .bytes(self.vhost.as_bytes())
            .bytes(self.exchange);
        RowKey {
            kind: kind::TOPIC_PERMISSION,
            key: key.finish(),
        }
    }

    /// # Errors
    /// When the bytes are no such key.
    pub fn decode(key: &'a [u8]) -> Result<Self, RowError> {
        let mut reader = Reader::key(key);
        let user = reader.text("user")?;
        let vhost = reader.text("vhost")?;
        let exchange = reader.bytes("exchange")?;
        reader.finish()?;
        Ok(Self {
            user,
            vhost,
            exchange,
        })
    }
}

impl TopicPermissionRow {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        Writer::value(VERSION)
            .bytes(self.write.as_bytes())
            .bytes(self.read.as_bytes())
            .finish()
    }

    /// # Errors
    /// When the bytes are no such row.
    pub fn decode(value: &[u8]) -> Result<Self, RowError> {
        let mut reader = Reader::value(value, VERSION)?;
        let row = Self {
            write: reader.text("write")?.to_owned(),
            read: reader.text("read")?.to_owned(),
        };
        reader.finish()?;
        Ok(row)
    }
}
