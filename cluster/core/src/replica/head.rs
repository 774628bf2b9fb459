//! The first part of a shard's checkpoint: what it holds beside the machine's chunks.
//!
//! Layout, little endian: version u8, shard u32, index u64, term u64, time u64; the replica's own
//! id u64, term u64, vote u64, commit u64; [`Members::encode`]; the rest is [`Origins::encode`].
//! Version 1 has no id: it was written by sole voters only. With the id 0 there is no replica: the
//! vote is the id of the one that was given up.

use bytes::{Buf, BufMut};

use crate::consensus::{Hard, Members};
use crate::ids::{Index, ReplicaId, ShardId, Term, Time};
use crate::machine::Malformed;
use crate::origins::Origins;

const VERSION: u8 = 2;
const VERSION_OF_SOLE_VOTERS: u8 = 1;
const SHORT: &str = "ends too early";

/// What a checkpoint is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub shard: ShardId,
    /// The last entry that is in it.
    pub applied: (Index, Term),
    pub time: Time,
    /// Whose checkpoint it is.
    pub replica: ReplicaId,
    pub hard: Hard,
    pub members: Members,
    pub origins: Origins,
}

impl Head {
    /// Its byte form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.put_u8(VERSION);
        out.put_u32_le(self.shard.0);
        out.put_u64_le(self.applied.0.0);
        out.put_u64_le(self.applied.1.0);
        out.put_u64_le(self.time.0);
        out.put_u64_le(self.replica.0);
        out.put_u64_le(self.hard.term.0);
        out.put_u64_le(self.hard.vote.0);
        out.put_u64_le(self.hard.commit.0);
        self.members.encode(&mut out);
        self.origins.encode(&mut out);
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Bytes that this build cannot read.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let fixed = fixed(&mut rest);
        let head = fixed.map_err(|cause| Malformed {
            what: "checkpoint head",
            at: bytes.len() - rest.len(),
            cause,
        })?;
        Ok(Self {
            origins: Origins::decode(rest)?,
            ..head
        })
    }
}

fn word(rest: &mut &[u8]) -> Result<u64, &'static str> {
    rest.try_get_u64_le().map_err(|_| SHORT)
}

/// All but the origins.
fn fixed(rest: &mut &[u8]) -> Result<Head, &'static str> {
    let version = rest.try_get_u8().map_err(|_| SHORT)?;
    if version != VERSION && version != VERSION_OF_SOLE_VOTERS {
        return Err("unknown version");
    }
    let shard = ShardId(rest.try_get_u32_le().map_err(|_| SHORT)?);
    let applied = (Index(word(rest)?), Term(word(rest)?));
    let time = Time(word(rest)?);
    let named = match version {
        VERSION => Some(ReplicaId(word(rest)?)),
        _ => None,
    };
    let hard = Hard {
        term: Term(word(rest)?),
        vote: ReplicaId(word(rest)?),
        commit: Index(word(rest)?),
    };
    let members = Members::decode(rest)?;
    let sole = members.voters.first().copied().unwrap_or_default();
    Ok(Head {
        shard,
        applied,
        time,
        replica: named.unwrap_or(sole),
        hard,
        members,
        origins: Origins::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Outcome;
    use crate::ids::{Life, NodeId, OriginId, Seq};
    use crate::testing::{fixture, recorded};

    fn head() -> Head {
        let mut origins = Origins::default();
        origins.open(NodeId(77), Life(0), Index(3));
        origins.record(OriginId(3), Seq(1), Outcome::Stored);
        Head {
            shard: ShardId(5),
            applied: (Index(9), Term(2)),
            time: Time(1234),
            replica: ReplicaId(6),
            hard: Hard {
                term: Term(3),
                vote: ReplicaId(6),
                commit: Index(8),
            },
            members: Members {
                voters: vec![ReplicaId(6), ReplicaId(7)],
                learners: vec![ReplicaId(8)],
                outgoing: vec![ReplicaId(9)],
                learners_next: vec![],
                auto_leave: true,
            },
            origins,
        }
    }

    #[test]
    fn the_byte_form_is_that_of_the_fixture() {
        let bytes = fixture("head_v2.hex", &head().encode());
        assert_eq!(Head::decode(&bytes), Ok(head()));
        assert_eq!(head().encode(), bytes);
    }

    #[test]
    fn the_first_version_reads_as_its_first_voters() {
        let bytes = recorded("head_v1.hex");
        assert_eq!(Head::decode(&bytes), Ok(head()));
    }

    #[test]
    fn a_head_that_is_cut_short_is_refused() {
        let bytes = head().encode();
        for cut in 0..bytes.len() {
            assert!(Head::decode(&bytes[..cut]).is_err());
        }
    }
}
