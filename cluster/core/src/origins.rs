//! The outcomes of numbered batches, as a shard remembers them (rule 2): replicated state.
//!
//! Always holds:
//! - a node has at most one open origin in a shard; opening one closes the one before;
//! - within an origin every number from `paid` up to the next one has its outcome here;
//! - a number is new exactly once, and only right after the one before it.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut};

use crate::batch::Outcome;
use crate::ids::{Index, Life, NodeId, OriginId, Seq};
use crate::machine::Malformed;

/// Outcomes of one origin that may be unpaid at once; its sender stays far below.
pub const UNPAID_MAX: usize = 1 << 16;

const VERSION: u8 = 2;
/// Without lives.
const VERSION_1: u8 = 1;

/// All origins that are open in a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origins {
    open: BTreeMap<OriginId, Open>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Open {
    node: NodeId,
    life: Life,
    /// The first number whose outcome is remembered.
    paid: Seq,
    /// Outcomes from `paid` on, without gaps.
    outcomes: VecDeque<Outcome>,
}

/// What to do with a numbered batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Apply (or refuse) it, then [`Origins::record`] what came of it.
    New,
    /// Its outcome is this, from an earlier time.
    Seen(Outcome),
    /// Seen, and its sender has said that it knows the outcome.
    Paid,
    /// A number before it is missing: to be sent again from there.
    Gap { expected: Seq },
    /// Its origin is not open, or no more: it has no effect, now or ever.
    Closed,
}

impl Origins {
    /// Opens an origin by the entry at `index` and closes the node's earlier one. The same life
    /// that asks again gets what it has: the first answer may have been lost.
    pub fn open(&mut self, node: NodeId, life: Life, index: Index) -> OriginId {
        let has = |(_, open): &(&OriginId, &Open)| open.node == node && open.life == life;
        if life != Life(0)
            && let Some((origin, _)) = self.open.iter().find(has)
        {
            return *origin;
        }
        self.close(node);
        let origin = OriginId(index.0);
        let open = Open {
            node,
            life,
            paid: Seq(1),
            outcomes: VecDeque::new(),
        };
        self.open.insert(origin, open);
        origin
    }

    /// Closes what a node has open: it restarted, or was removed.
    pub fn close(&mut self, node: NodeId) {
        self.open.retain(|_, open| open.node != node);
    }

    /// The outcomes from this number on that the origin has, while it is open.
    pub fn outcomes(&self, origin: OriginId, from: Seq) -> impl Iterator<Item = Outcome> + '_ {
        let open = self.open.get(&origin);
        open.into_iter().flat_map(move |open| {
            let skipped = from.0.saturating_sub(open.paid.0);
            let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
            open.outcomes.iter().skip(skipped).copied()
        })
    }

    /// Whose origin it is, while it is open.
    #[must_use]
    pub fn node(&self, origin: OriginId) -> Option<NodeId> {
        self.open.get(&origin).map(|open| open.node)
    }

    /// Judges a numbered batch; outcomes below `paid` are forgotten.
    pub fn judge(&mut self, origin: OriginId, seq: Seq, paid: Seq) -> Verdict {
        let Some(open) = self.open.get_mut(&origin) else {
            return Verdict::Closed;
        };
        open.forget(paid);
        let expected = open.next();
        if seq > expected || open.outcomes.len() >= UNPAID_MAX {
            return Verdict::Gap { expected };
        }
        if seq == expected || cfg!(warren_break = "no_dedup") {
            return Verdict::New;
        }
        let Some(at) = seq.0.checked_sub(open.paid.0) else {
            return Verdict::Paid;
        };
        let at = usize::try_from(at).expect("fewer outcomes than UNPAID_MAX");
        Verdict::Seen(open.outcomes[at])
    }

    /// Remembers what came of a batch that was [`Verdict::New`].
    pub fn record(&mut self, origin: OriginId, seq: Seq, outcome: Outcome) {
        let Some(open) = self.open.get_mut(&origin) else {
            return;
        };
        if cfg!(warren_break = "no_dedup") && open.next() != seq {
            return;
        }
        assert_eq!(open.next(), seq, "outcomes are recorded in order");
        let refused_forgotten = cfg!(warren_break = "refused_forgotten");
        open.outcomes.push_back(if refused_forgotten {
            Outcome::Stored
        } else {
            outcome
        });
    }

    /// The node of each open origin.
    pub fn nodes(&self) -> impl Iterator<Item = (OriginId, NodeId)> + '_ {
        self.open.iter().map(|(origin, open)| (*origin, open.node))
    }

    /// Appends the byte form that a checkpoint holds. Little endian: version u8, count u32, then
    /// for each origin: id u64, node u64, life u64 (not in version 1), paid u64, outcomes u32, one
    /// byte for each.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put_u32_le(u32::try_from(self.open.len()).expect("one origin a node"));
        for (origin, open) in &self.open {
            out.put_u64_le(origin.0);
            out.put_u64_le(open.node.0);
            out.put_u64_le(open.life.0);
            out.put_u64_le(open.paid.0);
            out.put_u32_le(u32::try_from(open.outcomes.len()).expect("at most UNPAID_MAX"));
            out.extend(open.outcomes.iter().map(|outcome| match outcome {
                Outcome::Stored => 0,
                Outcome::Refused => 1,
            }));
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Bytes that this build cannot read.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        read(&mut rest).map_err(|cause| Malformed {
            what: "origins",
            at: bytes.len() - rest.len(),
            cause,
        })
    }
}

impl Open {
    fn next(&self) -> Seq {
        Seq(self.paid.0 + self.outcomes.len() as u64)
    }

    fn forget(&mut self, paid: Seq) {
        while self.paid < paid && self.outcomes.pop_front().is_some() {
            self.paid.0 += 1;
        }
    }
}

fn read(rest: &mut &[u8]) -> Result<Origins, &'static str> {
    const SHORT: &str = "ends too early";
    let version = rest.try_get_u8().map_err(|_| SHORT)?;
    if version != VERSION && version != VERSION_1 {
        return Err("unknown version");
    }
    let mut origins = Origins::default();
    for _ in 0..rest.try_get_u32_le().map_err(|_| SHORT)? {
        let origin = OriginId(rest.try_get_u64_le().map_err(|_| SHORT)?);
        let node = NodeId(rest.try_get_u64_le().map_err(|_| SHORT)?);
        let life = match version {
            VERSION_1 => Life(0),
            _ => Life(rest.try_get_u64_le().map_err(|_| SHORT)?),
        };
        let paid = Seq(rest.try_get_u64_le().map_err(|_| SHORT)?);
        let count = rest.try_get_u32_le().map_err(|_| SHORT)? as usize;
        if count > UNPAID_MAX {
            return Err("more outcomes than can be unpaid");
        }
        let outcomes = rest.split_off(..count).ok_or(SHORT)?;
        let outcome = |byte: &u8| match byte {
            0 => Ok(Outcome::Stored),
            1 => Ok(Outcome::Refused),
            _ => Err("unknown outcome"),
        };
        let open = Open {
            node,
            life,
            paid,
            outcomes: outcomes.iter().map(outcome).collect::<Result<_, _>>()?,
        };
        if paid.0.checked_add(count as u64).is_none() {
            return Err("numbers overflow");
        }
        origins.open.insert(origin, open);
    }
    if !rest.is_empty() {
        return Err("bytes left over");
    }
    Ok(origins)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(9);

    fn store(origins: &mut Origins, origin: OriginId, seq: u64, outcome: Outcome) {
        let paid = Seq(1);
        assert_eq!(origins.judge(origin, Seq(seq), paid), Verdict::New);
        origins.record(origin, Seq(seq), outcome);
    }

    #[test]
    fn a_repeated_number_gets_its_recorded_outcome() {
        let mut origins = Origins::default();
        let origin = origins.open(NODE, Life(0), Index(4));
        store(&mut origins, origin, 1, Outcome::Stored);
        store(&mut origins, origin, 2, Outcome::Refused);
        let again = origins.judge(origin, Seq(2), Seq(1));
        assert_eq!(again, Verdict::Seen(Outcome::Refused));
        let again = origins.judge(origin, Seq(1), Seq(1));
        assert_eq!(again, Verdict::Seen(Outcome::Stored));
    }

    #[test]
    fn a_gap_is_refused() {
        let mut origins = Origins::default();
        let origin = origins.open(NODE, Life(0), Index(4));
        let gap = origins.judge(origin, Seq(2), Seq(1));
        assert_eq!(gap, Verdict::Gap { expected: Seq(1) });
    }

    #[test]
    fn what_is_paid_is_forgotten_and_never_new_again() {
        let mut origins = Origins::default();
        let origin = origins.open(NODE, Life(0), Index(4));
        for seq in 1..=3 {
            store(&mut origins, origin, seq, Outcome::Stored);
        }
        assert_eq!(origins.judge(origin, Seq(4), Seq(3)), Verdict::New);
        assert_eq!(origins.judge(origin, Seq(2), Seq(1)), Verdict::Paid);
        let seen = Verdict::Seen(Outcome::Stored);
        assert_eq!(origins.judge(origin, Seq(3), Seq(1)), seen);
        // A number that was never sent cannot be paid: the next one stays new.
        assert_eq!(origins.judge(origin, Seq(4), Seq(99)), Verdict::New);
    }

    #[test]
    fn opening_closes_the_nodes_earlier_origin() {
        let mut origins = Origins::default();
        let old = origins.open(NODE, Life(0), Index(4));
        let other = origins.open(NodeId(5), Life(0), Index(5));
        let new = origins.open(NODE, Life(0), Index(6));
        assert_eq!(origins.judge(old, Seq(1), Seq(1)), Verdict::Closed);
        assert_eq!(origins.judge(new, Seq(1), Seq(1)), Verdict::New);
        assert_eq!(origins.judge(other, Seq(1), Seq(1)), Verdict::New);
    }

    #[test]
    fn a_life_that_asks_twice_has_one_origin() {
        let mut origins = Origins::default();
        let first = origins.open(NODE, Life(7), Index(4));
        store(&mut origins, first, 1, Outcome::Refused);
        assert_eq!(origins.open(NODE, Life(7), Index(9)), first);
        assert_eq!(
            origins.outcomes(first, Seq(1)).collect::<Vec<_>>(),
            [Outcome::Refused]
        );
        assert_eq!(origins.outcomes(first, Seq(2)).count(), 0);
        let next = origins.open(NODE, Life(8), Index(12));
        assert_eq!(origins.judge(first, Seq(2), Seq(1)), Verdict::Closed);
        assert_eq!(origins.judge(next, Seq(1), Seq(1)), Verdict::New);
    }

    #[test]
    fn the_byte_form_reads_back_and_garbage_does_not() {
        let mut origins = Origins::default();
        let origin = origins.open(NODE, Life(0), Index(4));
        store(&mut origins, origin, 1, Outcome::Stored);
        store(&mut origins, origin, 2, Outcome::Refused);
        origins.open(NodeId(5), Life(0), Index(5));
        let mut bytes = Vec::new();
        origins.encode(&mut bytes);
        assert_eq!(Origins::decode(&bytes), Ok(origins));
        for cut in 0..bytes.len() {
            assert!(Origins::decode(&bytes[..cut]).is_err());
        }
        bytes.push(0);
        assert!(Origins::decode(&bytes).is_err());
        assert!(Origins::decode(&[1, 255, 255, 255, 255]).is_err());
    }
}
