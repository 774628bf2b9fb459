//! The first part of a shard's checkpoint: what it holds beside the machine's chunks.
//!
//! Layout, little endian: version u8, shard u32, index u64, term u64, time u64; the replica's own
//! term u64, vote u64, commit u64; members: four lists (voters, learners, outgoing, next
//! learners) as count u16 and ids u64, then auto-leave u8; the rest is [`Origins::encode`].

use bytes::{Buf, BufMut};

use crate::consensus::{Hard, Members};
use crate::ids::{Index, ReplicaId, ShardId, Term, Time};
use crate::machine::Malformed;
use crate::origins::Origins;

const VERSION: u8 = 1;
const SHORT: &str = "ends too early";

/// What a checkpoint is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub shard: ShardId,
    /// The last entry that is in it.
    pub applied: (Index, Term),
    pub time: Time,
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
        out.put_u64_le(self.hard.term.0);
        out.put_u64_le(self.hard.vote.0);
        out.put_u64_le(self.hard.commit.0);
        let members = &self.members;
        for ids in [
            &members.voters,
            &members.learners,
            &members.outgoing,
            &members.learners_next,
        ] {
            out.put_u16_le(u16::try_from(ids.len()).expect("a shard has few members"));
            ids.iter().for_each(|id| out.put_u64_le(id.0));
        }
        out.put_u8(u8::from(members.auto_leave));
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

fn ids(rest: &mut &[u8]) -> Result<Vec<ReplicaId>, &'static str> {
    let count = rest.try_get_u16_le().map_err(|_| SHORT)?;
    (0..count).map(|_| word(rest).map(ReplicaId)).collect()
}

/// All but the origins.
fn fixed(rest: &mut &[u8]) -> Result<Head, &'static str> {
    if rest.try_get_u8().map_err(|_| SHORT)? != VERSION {
        return Err("unknown version");
    }
    let shard = ShardId(rest.try_get_u32_le().map_err(|_| SHORT)?);
    let applied = (Index(word(rest)?), Term(word(rest)?));
    let time = Time(word(rest)?);
    let hard = Hard {
        term: Term(word(rest)?),
        vote: ReplicaId(word(rest)?),
        commit: Index(word(rest)?),
    };
    let members = Members {
        voters: ids(rest)?,
        learners: ids(rest)?,
        outgoing: ids(rest)?,
        learners_next: ids(rest)?,
        auto_leave: rest.try_get_u8().map_err(|_| SHORT)? != 0,
    };
    Ok(Head {
        shard,
        applied,
        time,
        hard,
        members,
        origins: Origins::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Outcome;
    use crate::ids::{NodeId, OriginId, Seq};
    use crate::testing::fixture;

    fn head() -> Head {
        let mut origins = Origins::default();
        origins.open(NodeId(77), Index(3));
        origins.record(OriginId(3), Seq(1), Outcome::Stored);
        Head {
            shard: ShardId(5),
            applied: (Index(9), Term(2)),
            time: Time(1234),
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
        let bytes = fixture("head_v1.hex", &head().encode());
        assert_eq!(Head::decode(&bytes), Ok(head()));
        assert_eq!(head().encode(), bytes);
    }

    #[test]
    fn a_head_that_is_cut_short_is_refused() {
        let bytes = head().encode();
        for cut in 0..bytes.len() {
            assert!(Head::decode(&bytes[..cut]).is_err());
        }
    }
}
