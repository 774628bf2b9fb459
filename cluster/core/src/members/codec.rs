//! The byte form of the cluster's rows. Each value begins with a version byte; numbers are little
//! endian, texts and lists have a length of 16 bits in front.
//!
//! Keys: empty for what there is one of; else a number in big endian (nodes and grants u64, shards
//! u32), so that rows lie in the order of their numbers.

use bytes::{Buf, BufMut, Bytes};

use super::{Authority, Cluster, Next, Node, NodeState, Replicas, kind};
use crate::ids::{NodeId, ReplicaId, ShardId, Time};
use crate::machine::Malformed;
use crate::rows::RowKey;

/// The version that this build writes.
const VERSION: u8 = 1;
const SHORT: &str = "ends too early";

/// A value of a row.
pub(super) trait Value: Sized {
    const WHAT: &'static str;
    fn put(&self, out: &mut Vec<u8>);
    fn take(rest: &mut Bytes) -> Result<Self, &'static str>;

    fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        self.put(&mut out);
        out.into()
    }

    fn decode(value: &Bytes) -> Result<Self, Malformed> {
        let mut rest = value.clone();
        let read = byte(&mut rest).and_then(|version| match version {
            VERSION => Self::take(&mut rest),
            _ => Err("unknown version"),
        });
        let read = read.and_then(|value| match rest.is_empty() {
            true => Ok(value),
            false => Err("bytes left over"),
        });
        read.map_err(|cause| Malformed {
            what: Self::WHAT,
            at: value.len() - rest.len(),
            cause,
        })
    }
}

pub(super) fn single(kind: u8) -> RowKey {
    RowKey {
        kind,
        key: Bytes::new(),
    }
}

pub(super) fn node_key(node: NodeId) -> RowKey {
    RowKey {
        kind: kind::NODE,
        key: Bytes::copy_from_slice(&node.0.to_be_bytes()),
    }
}

pub(super) fn grant_key(token: u64) -> RowKey {
    RowKey {
        kind: kind::GRANT,
        key: Bytes::copy_from_slice(&token.to_be_bytes()),
    }
}

pub(super) fn replicas_key(shard: ShardId) -> RowKey {
    RowKey {
        kind: kind::REPLICAS,
        key: Bytes::copy_from_slice(&shard.0.to_be_bytes()),
    }
}

/// The number in a key.
pub(super) fn number<const N: usize>(row: &RowKey) -> Result<[u8; N], Malformed> {
    row.key[..].try_into().map_err(|_| Malformed {
        what: "key of a cluster's row",
        at: row.key.len(),
        cause: "not a number of this length",
    })
}

fn byte(rest: &mut Bytes) -> Result<u8, &'static str> {
    rest.try_get_u8().map_err(|_| SHORT)
}

fn word(rest: &mut Bytes) -> Result<u64, &'static str> {
    rest.try_get_u64_le().map_err(|_| SHORT)
}

fn half(rest: &mut Bytes) -> Result<u32, &'static str> {
    rest.try_get_u32_le().map_err(|_| SHORT)
}

fn count(rest: &mut Bytes) -> Result<u16, &'static str> {
    rest.try_get_u16_le().map_err(|_| SHORT)
}

/// Bytes that keep nothing else alive.
fn blob(rest: &mut Bytes) -> Result<Bytes, &'static str> {
    let length = usize::from(count(rest)?);
    if rest.len() < length {
        return Err(SHORT);
    }
    Ok(Bytes::copy_from_slice(&rest.split_to(length)))
}

fn text(rest: &mut Bytes) -> Result<String, &'static str> {
    let bytes = blob(rest)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "not UTF-8")?;
    Ok(text.to_owned())
}

fn list<V>(
    rest: &mut Bytes,
    item: fn(&mut Bytes) -> Result<V, &'static str>,
) -> Result<Vec<V>, &'static str> {
    (0..count(rest)?).map(|_| item(rest)).collect()
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("bounded where it came in");
    out.put_u16_le(count);
}

fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.put_slice(bytes);
}

fn put_texts(out: &mut Vec<u8>, texts: &[String]) {
    put_count(out, texts.len());
    texts.iter().for_each(|text| put_blob(out, text.as_bytes()));
}

impl Value for Cluster {
    const WHAT: &'static str = "row of the cluster";

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u128_le(self.id);
        out.put_u32_le(self.version);
        put_blob(out, self.name.as_bytes());
        out.put_u32_le(self.shards);
        out.put_u64_le(self.founded.0);
    }

    fn take(rest: &mut Bytes) -> Result<Self, &'static str> {
        Ok(Self {
            id: rest.try_get_u128_le().map_err(|_| SHORT)?,
            version: half(rest)?,
            name: text(rest)?,
            shards: half(rest)?,
            founded: Time(word(rest)?),
        })
    }
}

impl Value for Authority {
    const WHAT: &'static str = "row of the cluster's authority";

    fn put(&self, out: &mut Vec<u8>) {
        put_blob(out, &self.certificate);
        put_blob(out, &self.key);
    }

    fn take(rest: &mut Bytes) -> Result<Self, &'static str> {
        Ok(Self {
            certificate: blob(rest)?,
            key: blob(rest)?,
        })
    }
}

impl Value for Node {
    const WHAT: &'static str = "row of a node";

    fn put(&self, out: &mut Vec<u8>) {
        put_blob(out, self.name.as_bytes());
        put_blob(out, self.zone.as_bytes());
        put_texts(out, &self.addresses);
        put_texts(out, &self.amqp);
        put_texts(out, &self.http);
        out.put_u8(match self.state {
            NodeState::Active => 1,
            NodeState::Draining => 2,
            NodeState::Removed => 3,
            NodeState::Leaving => 4,
        });
        out.put_u64_le(self.joined.0);
        put_blob(out, &self.key);
    }

    fn take(rest: &mut Bytes) -> Result<Self, &'static str> {
        Ok(Self {
            name: text(rest)?,
            zone: text(rest)?,
            addresses: list(rest, text)?,
            amqp: list(rest, text)?,
            http: list(rest, text)?,
            state: match byte(rest)? {
                1 => NodeState::Active,
                2 => NodeState::Draining,
                3 => NodeState::Removed,
                4 => NodeState::Leaving,
                _ => return Err("an unknown state"),
            },
            joined: Time(word(rest)?),
            key: blob(rest)?,
        })
    }
}

impl Value for Next {
    const WHAT: &'static str = "row of what is given next";

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.node.0);
        out.put_u32_le(self.replica);
    }

    fn take(rest: &mut Bytes) -> Result<Self, &'static str> {
        Ok(Self {
            node: NodeId(word(rest)?),
            replica: half(rest)?,
        })
    }
}

impl Value for Replicas {
    const WHAT: &'static str = "row of a shard's replicas";

    fn put(&self, out: &mut Vec<u8>) {
        for ids in [
            &self.voters,
            &self.learners,
            &self.retired,
            &self.lost,
            &self.gone,
        ] {
            put_count(out, ids.len());
            ids.iter().for_each(|id| out.put_u64_le(id.0));
        }
    }

    fn take(rest: &mut Bytes) -> Result<Self, &'static str> {
        let ids = |rest: &mut Bytes| list(rest, |rest| word(rest).map(ReplicaId));
        Ok(Self {
            voters: ids(rest)?,
            learners: ids(rest)?,
            retired: ids(rest)?,
            lost: ids(rest)?,
            gone: ids(rest)?,
        })
    }
}
