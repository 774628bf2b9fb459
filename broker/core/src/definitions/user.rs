//! A user. Key: name. Value, version 1: hashing algorithm u8, password hash, tags, and the limits
//! of connections and channels.

use std::fmt;

use bytes::Bytes;
use warren_cluster_core::rows::RowKey;

use super::codec::{Reader, RowError, Writer};
use super::kind;

const VERSION: u8 = 1;

/// What names a user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserKey<'a> {
    pub name: &'a str,
}

/// How a password hash was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HashingAlgorithm {
    #[default]
    Sha256,
    Sha512,
    /// Old definitions files have it. It is kept, but no password matches it.
    Md5,
}

/// How much a user may open; `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UserLimits {
    pub connections_max: Option<u64>,
    pub channels_max: Option<u64>,
}

/// A user's row. `Debug` leaves the hash out.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct UserRow {
    /// Salt (4 bytes) and digest; empty for a user without a password, who cannot log in with one.
    pub password_hash: Vec<u8>,
    pub algorithm: HashingAlgorithm,
    pub tags: Vec<String>,
    pub limits: UserLimits,
}

impl<'a> UserKey<'a> {
    #[must_use]
    pub fn encode(self) -> RowKey {
        RowKey {
            kind: kind::USER,
            key: Writer::key().bytes(self.name.as_bytes()).finish(),
        }
    }

    /// # Errors
    /// When the bytes are no such key.
    pub fn decode(key: &'a [u8]) -> Result<Self, RowError> {
        let mut reader = Reader::key(key);
        let name = reader.text("user")?;
        reader.finish()?;
        Ok(Self { name })
    }
}

impl HashingAlgorithm {
    /// RabbitMQ's name of it, as definitions files have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "rabbit_password_hashing_sha256",
            Self::Sha512 => "rabbit_password_hashing_sha512",
            Self::Md5 => "rabbit_password_hashing_md5",
        }
    }

    /// The algorithm of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha512, Self::Md5]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    fn code(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
            Self::Md5 => 3,
        }
    }
}

impl UserRow {
    /// Whether the user has this tag.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|found| found == tag)
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        Writer::value(VERSION)
            .u8(self.algorithm.code())
            .bytes(&self.password_hash)
            .strings(&self.tags)
            .optional(self.limits.connections_max)
            .optional(self.limits.channels_max)
            .finish()
    }

    /// # Errors
    /// When the bytes are no such row.
    pub fn decode(value: &[u8]) -> Result<Self, RowError> {
        let mut reader = Reader::value(value, VERSION)?;
        let algorithm = match reader.u8("hashing algorithm")? {
            1 => HashingAlgorithm::Sha256,
            2 => HashingAlgorithm::Sha512,
            3 => HashingAlgorithm::Md5,
            value => {
                let field = "hashing algorithm";
                return Err(RowError::Unknown { field, value });
            }
        };
        let row = Self {
            algorithm,
            password_hash: reader.bytes("password hash")?.to_vec(),
            tags: reader.strings("tags")?,
            limits: UserLimits {
                connections_max: reader.optional("connection limit")?,
                channels_max: reader.optional("channel limit")?,
            },
        };
        reader.finish()?;
        Ok(row)
    }
}

impl fmt::Debug for UserRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserRow")
            .field("algorithm", &self.algorithm)
            .field("tags", &self.tags)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
