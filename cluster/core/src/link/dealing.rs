//! What a node's sessions and the leader of a shard elsewhere say to each other, numbered.
//!
//! Both are of one life of the node's process: what is late from an earlier one means nothing.
//!
//! Layout, little endian: kind u8, term u64, life u64, then: input or effect: number u64, the rest
//! its bytes; got: number u64, paid u64, again u8.

use bytes::{Buf, BufMut, Bytes};

use crate::ids::{Life, Seq, Term};
use crate::parts::{Parts, detached};

const INPUT: u8 = 1;
const EFFECT: u8 = 2;
const GOT: u8 = 3;

/// One of the two streams between a node and a leader, in the leader's term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dealing {
    /// For the leader's machine.
    Input { seq: Seq, bytes: Vec<Bytes> },
    /// For a session of the receiving node.
    Effect { seq: Seq, bytes: Vec<Bytes> },
    /// All up to this number has come, and what follows from inputs up to `paid` is in the log.
    Got { got: Seq, paid: Seq, again: bool },
}

impl Dealing {
    /// Whether it may carry message bodies.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        !matches!(self, Self::Got { .. })
    }

    pub(super) fn encode(&self, term: Term, life: Life, out: &mut Parts) {
        let head = out.open();
        match self {
            Self::Input { seq, bytes } => {
                head.put_u8(INPUT);
                head.put_u64_le(term.0);
                head.put_u64_le(life.0);
                head.put_u64_le(seq.0);
                bytes.iter().for_each(|piece| out.attach(piece));
            }
            Self::Effect { seq, bytes } => {
                head.put_u8(EFFECT);
                head.put_u64_le(term.0);
                head.put_u64_le(life.0);
                head.put_u64_le(seq.0);
                bytes.iter().for_each(|piece| out.attach(piece));
            }
            Self::Got { got, paid, again } => {
                head.put_u8(GOT);
                head.put_u64_le(term.0);
                head.put_u64_le(life.0);
                head.put_u64_le(got.0);
                head.put_u64_le(paid.0);
                head.put_u8(u8::from(*again));
            }
        }
    }

    /// Takes all of `rest`.
    pub(super) fn decode(
        rest: &mut Bytes,
        whole: usize,
    ) -> Result<(Term, Life, Self), &'static str> {
        let kind = rest.try_get_u8().map_err(|_| SHORT)?;
        let term = Term(word(rest)?);
        let life = Life(word(rest)?);
        let dealing = match kind {
            INPUT => Self::Input {
                seq: Seq(word(rest)?),
                bytes: vec![detached(std::mem::take(rest), whole)],
            },
            EFFECT => Self::Effect {
                seq: Seq(word(rest)?),
                bytes: vec![detached(std::mem::take(rest), whole)],
            },
            GOT => Self::Got {
                got: Seq(word(rest)?),
                paid: Seq(word(rest)?),
                again: match rest.try_get_u8() {
                    Ok(0) => false,
                    Ok(1) => true,
                    Ok(_) => return Err("neither true nor false"),
                    Err(_) => return Err(SHORT),
                },
            },
            _ => return Err("a dealing of unknown kind"),
        };
        Ok((term, life, dealing))
    }
}

const SHORT: &str = "ends too early";

fn word(rest: &mut Bytes) -> Result<u64, &'static str> {
    rest.try_get_u64_le().map_err(|_| SHORT)
}
