//! What two nodes say while one rebuilds its replica of a shard from the other's.
//!
//! The receiver asks for everything, piece by piece, so that it sets the pace; whatever is lost
//! on the way it asks for again.
//!
//! Layout, little endian: kind u8, receiver's replica u64, index u64, checkpoint's number u64, then
//! by kind; see [`Transfer::encode`].

use bytes::{Buf, BufMut, Bytes};

use crate::consensus::Members;
use crate::ids::{Index, ReplicaId, Term};
use crate::parts::{Parts, detached};

const OFFER: u8 = 1;
const PULL: u8 = 2;
const CHUNK: u8 = 3;
const PULL_BODIES: u8 = 4;
const BODIES: u8 = 5;
const INSTALLED: u8 = 6;

/// A message body that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyOf {
    pub key: u64,
    pub id: u64,
    pub len: u32,
}

/// One message of a transfer, about the replica `replica` of the receiving node and the state of
/// the entry `index`, which the sender has in its checkpoint `number`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    pub replica: ReplicaId,
    pub index: Index,
    pub number: u64,
    pub about: About,
}

/// What it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum About {
    /// To the receiver: there is this checkpoint, and the length of its file.
    Offer {
        bytes: u64,
    },
    /// To the sender: the file's bytes from here on.
    Pull {
        offset: u64,
    },
    Chunk {
        offset: u64,
        bytes: Bytes,
    },
    /// To the sender: these bodies.
    PullBodies(Vec<BodyOf>),
    /// In the order in which they were asked for; `None` where the message is gone.
    Bodies {
        first: BodyOf,
        bodies: Vec<Option<Bytes>>,
    },
    /// To the sender: the state is on the receiver's disk; who takes part in it.
    Installed {
        term: Term,
        members: Members,
    },
}

impl Transfer {
    /// Whether it carries bodies or a checkpoint's bytes.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        matches!(self.about, About::Chunk { .. } | About::Bodies { .. })
    }

    /// Whether it goes to the node whose replica is being rebuilt.
    #[must_use]
    pub fn is_of_sender(&self) -> bool {
        self.is_bulk() || matches!(self.about, About::Offer { .. })
    }

    pub(super) fn encode(&self, out: &mut Parts) {
        let head = out.open();
        head.put_u8(match &self.about {
            About::Offer { .. } => OFFER,
            About::Pull { .. } => PULL,
            About::Chunk { .. } => CHUNK,
            About::PullBodies(_) => PULL_BODIES,
            About::Bodies { .. } => BODIES,
            About::Installed { .. } => INSTALLED,
        });
        head.put_u64_le(self.replica.0);
        head.put_u64_le(self.index.0);
        head.put_u64_le(self.number);
        match &self.about {
            About::Offer { bytes } => head.put_u64_le(*bytes),
            About::Pull { offset } => head.put_u64_le(*offset),
            About::Chunk { offset, bytes } => {
                head.put_u64_le(*offset);
                out.attach(bytes);
            }
            About::PullBodies(bodies) => bodies.iter().for_each(|body| body.encode(head)),
            About::Bodies { first, bodies } => {
                first.encode(head);
                for body in bodies {
                    let length = body.as_ref().map_or(u32::MAX, |body| body.len() as u32);
                    out.open().put_u32_le(length);
                    if let Some(body) = body {
                        out.attach(body);
                    }
                }
            }
            About::Installed { term, members } => {
                head.put_u64_le(term.0);
                members.encode(head);
            }
        }
    }

    /// Takes all of `rest`.
    pub(super) fn decode(rest: &mut Bytes, whole: usize) -> Result<Self, &'static str> {
        let kind = rest.try_get_u8().map_err(|_| SHORT)?;
        let replica = ReplicaId(word(rest)?);
        let index = Index(word(rest)?);
        let number = word(rest)?;
        let about = match kind {
            OFFER => About::Offer { bytes: word(rest)? },
            PULL => About::Pull {
                offset: word(rest)?,
            },
            CHUNK => About::Chunk {
                offset: word(rest)?,
                bytes: std::mem::take(rest),
            },
            PULL_BODIES => {
                let mut bodies = Vec::with_capacity(rest.len() / BodyOf::BYTES);
                while !rest.is_empty() {
                    bodies.push(BodyOf::decode(rest)?);
                }
                About::PullBodies(bodies)
            }
            BODIES => {
                let first = BodyOf::decode(rest)?;
                let mut bodies = Vec::new();
                while !rest.is_empty() {
                    bodies.push(body(rest, whole)?);
                }
                About::Bodies { first, bodies }
            }
            INSTALLED => About::Installed {
                term: Term(word(rest)?),
                members: Members::decode(rest)?,
            },
            _ => return Err("a transfer of unknown kind"),
        };
        Ok(Self {
            replica,
            index,
            number,
            about,
        })
    }
}

impl BodyOf {
    const BYTES: usize = 20;

    fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.key);
        out.put_u64_le(self.id);
        out.put_u32_le(self.len);
    }

    fn decode(rest: &mut Bytes) -> Result<Self, &'static str> {
        Ok(Self {
            key: word(rest)?,
            id: word(rest)?,
            len: rest.try_get_u32_le().map_err(|_| SHORT)?,
        })
    }
}

const SHORT: &str = "ends too early";

fn word(rest: &mut Bytes) -> Result<u64, &'static str> {
    rest.try_get_u64_le().map_err(|_| SHORT)
}

fn body(rest: &mut Bytes, whole: usize) -> Result<Option<Bytes>, &'static str> {
    let length = rest.try_get_u32_le().map_err(|_| SHORT)?;
    if length == u32::MAX {
        return Ok(None);
    }
    if rest.len() < length as usize {
        return Err(SHORT);
    }
    Ok(Some(detached(rest.split_to(length as usize), whole)))
}
