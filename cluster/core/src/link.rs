//! What nodes send each other about their shards, and its byte form.
//!
//! An envelope is a version byte (with a bit that says whether anything in it is in a hurry) and
//! then parcels, each with its length in front. Parcels of one class between two nodes keep their
//! order or are lost; every kind of them can be sent again.
//!
//! Layout of a parcel, little endian: length u32 of the rest, kind u8, shard u32, then by kind:
//! a replica's message; an entry; or words u64.

mod dealing;
mod mail;
mod transfer;

use bytes::{Buf, BufMut, Bytes};

use crate::batch::Outcome;
use crate::consensus::Message;
use crate::ids::{Instant, Life, NodeId, Now, OriginId, Seq, ShardId, Term, Time};
use crate::machine::Malformed;
use crate::parts::{Parts, detached};
use crate::rows::Version;
pub use dealing::Dealing;
pub use mail::{Beat, Envelope, Mail};
pub use transfer::{About, BodyOf, Transfer};

/// The version that this build writes.
pub const VERSION: u8 = 1;
/// Set in the version byte of an envelope in which nothing is in a hurry.
const PATIENT: u8 = 0x80;
/// Bytes of an envelope, but for one that holds a single larger parcel.
pub const ENVELOPE_BYTES_MAX: usize = 1 << 20;

const RAFT: u8 = 1;
const PROPOSE: u8 = 2;
const OPENED: u8 = 3;
const OUTCOME: u8 = 4;
const AGAIN: u8 = 5;
const CLOSED: u8 = 6;
const LEADER: u8 = 7;
const TRANSFER: u8 = 8;
const DEALING: u8 = 9;
const ROWS: u8 = 10;
const ROWS_GOT: u8 = 11;
const KNOWN: u8 = 12;
const POST: u8 = 13;
const ROOM: u8 = 14;
const ASK: u8 = 15;
const FRESH: u8 = 16;

/// Which of a pair of nodes' connections: votes and beats never wait behind bodies, and what a
/// leader's queues have for the receiver's sessions not behind what goes into logs. Else consumers
/// of other nodes fall behind as soon as the machine is busy, and what they fall behind by is
/// written, kept and read back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    Control,
    Data,
    Effects,
}

/// One thing that a node tells another about a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parcel {
    /// Between two replicas.
    Raft(Message),
    /// An entry of the sender's stream, for the shard's leader to put into its log, once it knows
    /// the definitions up to this version: it may be about a queue that is newer than its own.
    Propose { known: Version, entry: Bytes },
    /// The shard opened an origin of the receiver's life.
    Opened { origin: OriginId, life: Life },
    /// What came of a batch of the receiver's origin.
    Outcome {
        origin: OriginId,
        seq: Seq,
        outcome: Outcome,
    },
    /// Numbers before one that came are missing: all that is unpaid is to be sent again.
    Again { origin: OriginId },
    /// The receiver's origin is not open in the shard (any more): it opens a new one.
    Closed { origin: OriginId },
    /// Who leads the shard, in which term, as far as the sender knows.
    Leader { node: NodeId, term: Term },
    /// Bytes that the sender's disk has for publishes, whatever the shard; `None`: it takes none.
    Room { bytes: Option<u64> },
    /// A replica is being rebuilt.
    Transfer(Transfer),
    /// Between the sessions of a node, in this life of it, and the leader, in its term.
    Dealing {
        term: Term,
        life: Life,
        dealing: Dealing,
    },
    /// Rows of the sender's own (`rows::feed`).
    Rows(Piece),
    /// What has come of such a stream: pieces up to `got`, and with them all rows up to `version`;
    /// `again`: the next one is missing.
    RowsGot {
        stream: u64,
        got: Seq,
        version: Version,
        again: bool,
    },
    /// The sender acts on all definitions up to this version, and what its clocks show.
    Known { version: Version, shown: Now },
    /// How fresh are the definitions up to `known`, which the sender acts on? The stamp comes
    /// back.
    Ask { stamp: u64, known: Version },
    /// From the leader of the definitions: when it was asked, there were these. The other nodes
    /// that asked of late, and what they acted on then.
    Fresh {
        stamp: u64,
        version: Version,
        nodes: Vec<(NodeId, Version)>,
    },
    /// For those who use the lane of the receiver: at most once.
    Post { bytes: Bytes },
}

/// A piece of a node's stream of its unlogged rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// In which the node has these rows.
    pub life: Life,
    /// A later one takes the place of an earlier one.
    pub stream: u64,
    pub seq: Seq,
    pub bytes: Bytes,
}

impl Parcel {
    /// The connection that it takes.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Raft(message) if !message.is_urgent() => Class::Data,
            Self::Propose { .. } | Self::Post { .. } => Class::Data,
            Self::Dealing {
                dealing: Dealing::Effect { .. },
                ..
            } => Class::Effects,
            Self::Transfer(transfer) if transfer.is_bulk() => Class::Data,
            _ => Class::Control,
        }
    }

    /// Appends its byte form; `body` is empty, and so it is left: room that is used again.
    fn encode(&self, shard: ShardId, body: &mut Parts, out: &mut Parts) {
        let head = body.open();
        head.put_u8(self.kind());
        head.put_u32_le(shard.0);
        match self {
            Self::Raft(message) => message.encode(body),
            Self::Propose { known, entry } => {
                head.put_u64_le(known.0);
                body.attach(entry);
            }
            Self::Opened { origin, life } => {
                head.put_u64_le(origin.0);
                head.put_u64_le(life.0);
            }
            Self::Again { origin } | Self::Closed { origin } => head.put_u64_le(origin.0),
            Self::Outcome {
                origin,
                seq,
                outcome,
            } => {
                head.put_u64_le(origin.0);
                head.put_u64_le(seq.0);
                head.put_u8(match outcome {
                    Outcome::Stored => 0,
                    Outcome::Refused => 1,
                });
            }
            Self::Leader { node, term } => {
                head.put_u64_le(node.0);
                head.put_u64_le(term.0);
            }
            // Room of no byte is room for what is kept: it is sent as one byte of it.
            Self::Room { bytes } => head.put_u64_le(bytes.map_or(0, |bytes| bytes.max(1))),
            Self::Transfer(transfer) => transfer.encode(body),
            Self::Dealing {
                term,
                life,
                dealing,
            } => dealing.encode(*term, *life, body),
            Self::Rows(_)
            | Self::RowsGot { .. }
            | Self::Known { .. }
            | Self::Ask { .. }
            | Self::Fresh { .. }
            | Self::Post { .. } => self.encode_shared(body),
        }
        let length = u32::try_from(body.len()).expect("a parcel is below 4 GiB");
        out.open().put_u32_le(length);
        out.append(body);
    }

    /// What nodes say of rows, and to those who use the lane.
    fn encode_shared(&self, body: &mut Parts) {
        let head = body.open();
        match self {
            Self::Rows(piece) => {
                head.put_u64_le(piece.life.0);
                head.put_u64_le(piece.stream);
                head.put_u64_le(piece.seq.0);
                body.attach(&piece.bytes);
            }
            Self::RowsGot {
                stream,
                got,
                version,
                again,
            } => {
                head.put_u64_le(*stream);
                head.put_u64_le(got.0);
                head.put_u64_le(version.0);
                head.put_u8(u8::from(*again));
            }
            Self::Known { version, shown } => {
                head.put_u64_le(version.0);
                head.put_u64_le(shown.mono.0);
                head.put_u64_le(shown.wall.0);
            }
            Self::Ask { stamp, known } => {
                head.put_u64_le(*stamp);
                head.put_u64_le(known.0);
            }
            Self::Fresh {
                stamp,
                version,
                nodes,
            } => {
                head.put_u64_le(*stamp);
                head.put_u64_le(version.0);
                for (node, version) in nodes {
                    head.put_u64_le(node.0);
                    head.put_u64_le(version.0);
                }
            }
            Self::Post { bytes } => body.attach(bytes),
            // `encode` has done these.
            _ => {}
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Raft(_) => RAFT,
            Self::Propose { .. } => PROPOSE,
            Self::Opened { .. } => OPENED,
            Self::Outcome { .. } => OUTCOME,
            Self::Again { .. } => AGAIN,
            Self::Closed { .. } => CLOSED,
            Self::Leader { .. } => LEADER,
            Self::Room { .. } => ROOM,
            Self::Transfer(_) => TRANSFER,
            Self::Dealing { .. } => DEALING,
            Self::Rows(_) => ROWS,
            Self::RowsGot { .. } => ROWS_GOT,
            Self::Known { .. } => KNOWN,
            Self::Ask { .. } => ASK,
            Self::Fresh { .. } => FRESH,
            Self::Post { .. } => POST,
        }
    }

    /// What nodes say of rows, and to those who use the lane.
    fn decode_shared(kind: u8, rest: &mut Bytes, whole: usize) -> Result<Self, &'static str> {
        let word = |rest: &mut Bytes| rest.try_get_u64_le().map_err(|_| SHORT);
        Ok(match kind {
            ROWS => Self::Rows(Piece {
                life: Life(word(rest)?),
                stream: word(rest)?,
                seq: Seq(word(rest)?),
                bytes: std::mem::take(rest),
            }),
            ROWS_GOT => Self::RowsGot {
                stream: word(rest)?,
                got: Seq(word(rest)?),
                version: Version(word(rest)?),
                again: match rest.try_get_u8() {
                    Ok(0) => false,
                    Ok(1) => true,
                    Ok(_) => return Err("neither true nor false"),
                    Err(_) => return Err(SHORT),
                },
            },
            KNOWN => Self::Known {
                version: Version(word(rest)?),
                shown: Now {
                    mono: Instant(word(rest)?),
                    wall: Time(word(rest)?),
                },
            },
            ASK => Self::Ask {
                stamp: word(rest)?,
                known: Version(word(rest)?),
            },
            FRESH => {
                let (stamp, version) = (word(rest)?, Version(word(rest)?));
                let mut nodes = Vec::with_capacity(rest.len() / 16);
                while !rest.is_empty() {
                    nodes.push((NodeId(word(rest)?), Version(word(rest)?)));
                }
                Self::Fresh {
                    stamp,
                    version,
                    nodes,
                }
            }
            POST => Self::Post {
                bytes: detached(std::mem::take(rest), whole),
            },
            _ => return Err("a parcel of unknown kind"),
        })
    }

    fn decode(mut rest: Bytes, whole: usize) -> Result<(ShardId, Self), &'static str> {
        let kind = rest.try_get_u8().map_err(|_| SHORT)?;
        let shard = ShardId(rest.try_get_u32_le().map_err(|_| SHORT)?);
        let word = |rest: &mut Bytes| rest.try_get_u64_le().map_err(|_| SHORT);
        let parcel = match kind {
            RAFT => {
                let message = Message::decode(&rest, whole).map_err(|malformed| malformed.cause)?;
                rest.clear();
                Self::Raft(message)
            }
            PROPOSE => Self::Propose {
                known: Version(word(&mut rest)?),
                entry: detached(std::mem::take(&mut rest), whole),
            },
            OPENED | AGAIN | CLOSED => {
                let origin = OriginId(word(&mut rest)?);
                match kind {
                    OPENED => Self::Opened {
                        origin,
                        life: Life(word(&mut rest)?),
                    },
                    AGAIN => Self::Again { origin },
                    _ => Self::Closed { origin },
                }
            }
            OUTCOME => Self::Outcome {
                origin: OriginId(word(&mut rest)?),
                seq: Seq(word(&mut rest)?),
                outcome: match rest.try_get_u8() {
                    Ok(0) => Outcome::Stored,
                    Ok(1) => Outcome::Refused,
                    Ok(_) => return Err("an unknown outcome"),
                    Err(_) => return Err(SHORT),
                },
            },
            LEADER => Self::Leader {
                node: NodeId(word(&mut rest)?),
                term: Term(word(&mut rest)?),
            },
            ROOM => Self::Room {
                bytes: Some(word(&mut rest)?).filter(|bytes| *bytes > 0),
            },
            TRANSFER => Self::Transfer(Transfer::decode(&mut rest, whole)?),
            DEALING => {
                let (term, life, dealing) = Dealing::decode(&mut rest, whole)?;
                Self::Dealing {
                    term,
                    life,
                    dealing,
                }
            }
            kind => Self::decode_shared(kind, &mut rest, whole)?,
        };
        if rest.is_empty() {
            Ok((shard, parcel))
        } else {
            Err("something follows a parcel's end")
        }
    }
}

const SHORT: &str = "ends too early";
/// Of a heartbeat, about; and parcels that room is made for before any is read.
const SMALL_BYTES: usize = 96;
const PARCELS_AHEAD: usize = 64;

/// Reads an envelope; entries are slices of it.
///
/// # Errors
/// Bytes that no node of this version sends. What stood before the bad parcel is not given.
pub fn open(envelope: &Bytes) -> Result<Vec<(ShardId, Parcel)>, Malformed> {
    let mut rest = envelope.clone();
    let read = open_all(&mut rest);
    read.map_err(|cause| Malformed {
        what: "envelope of a node",
        at: envelope.len() - rest.len(),
        cause,
    })
}

/// Whether the lane may take the envelope at its next tick as well as now.
#[must_use]
pub fn is_patient(envelope: &[u8]) -> bool {
    envelope
        .first()
        .is_some_and(|version| version & PATIENT != 0)
}

fn open_all(rest: &mut Bytes) -> Result<Vec<(ShardId, Parcel)>, &'static str> {
    if rest.try_get_u8().map_err(|_| SHORT)? & !PATIENT != VERSION {
        return Err("unknown version");
    }
    let whole = rest.len();
    let mut parcels = Vec::with_capacity((whole / SMALL_BYTES).clamp(1, PARCELS_AHEAD));
    while !rest.is_empty() {
        let length = rest.try_get_u32_le().map_err(|_| SHORT)? as usize;
        if rest.len() < length {
            return Err(SHORT);
        }
        parcels.push(Parcel::decode(rest.split_to(length), whole)?);
    }
    Ok(parcels)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn propose(entry: Bytes) -> Parcel {
        let known = Version(3);
        Parcel::Propose { known, entry }
    }

    fn dealings() -> impl Iterator<Item = Parcel> {
        let seq = Seq(4);
        let bytes = vec![Bytes::from_static(b"input")];
        let all = [
            Dealing::Input { seq, bytes },
            Dealing::Effect {
                seq,
                bytes: vec![Bytes::from(vec![2; 3000])],
            },
            Dealing::Got {
                got: seq,
                paid: Seq(3),
                again: true,
            },
        ];
        let (term, life) = (Term(6), Life(9));
        all.into_iter().map(move |dealing| Parcel::Dealing {
            term,
            life,
            dealing,
        })
    }

    fn parcels() -> Vec<(ShardId, Parcel)> {
        let origin = OriginId(7);
        let outcome = |outcome| Parcel::Outcome {
            origin,
            seq: Seq(3),
            outcome,
        };
        [
            propose(Bytes::from(vec![5; 5000])),
            propose(Bytes::from_static(b"entry")),
            Parcel::Opened {
                origin,
                life: Life(4),
            },
            outcome(Outcome::Stored),
            outcome(Outcome::Refused),
            Parcel::Again { origin },
            Parcel::Closed { origin },
            Parcel::Leader {
                node: NodeId(2),
                term: Term(9),
            },
            Parcel::Room { bytes: None },
            Parcel::Room {
                bytes: Some(u64::MAX),
            },
        ]
        .into_iter()
        .chain(transfers())
        .chain(dealings())
        .chain(shared())
        .enumerate()
        .map(|(shard, parcel)| (ShardId(shard as u32), parcel))
        .collect()
    }

    fn shared() -> impl Iterator<Item = Parcel> {
        let got = |again| Parcel::RowsGot {
            stream: 2,
            got: Seq(5),
            version: Version(6),
            again,
        };
        let all = [
            Parcel::Rows(Piece {
                life: Life(1),
                stream: 2,
                seq: Seq(3),
                bytes: Bytes::from_static(b"rows"),
            }),
            got(false),
            got(true),
            Parcel::Known {
                version: Version(7),
                shown: Now {
                    mono: Instant(5),
                    wall: Time(8),
                },
            },
            Parcel::Ask {
                stamp: 9,
                known: Version(7),
            },
            Parcel::Fresh {
                stamp: 9,
                version: Version(8),
                nodes: vec![(NodeId(1), Version(7)), (NodeId(3), Version(6))],
            },
            Parcel::Post {
                bytes: Bytes::from_static(b"post"),
            },
        ];
        all.into_iter()
    }

    fn transfers() -> impl Iterator<Item = Parcel> {
        let body = |id| BodyOf { key: 3, id, len: 4 };
        let all = [
            About::Offer { bytes: 9000 },
            About::Pull { offset: 77 },
            About::Chunk {
                offset: 77,
                bytes: Bytes::from(vec![1; 3000]),
            },
            About::PullBodies(vec![body(1), body(2), body(3)]),
            About::Bodies {
                first: body(1),
                bodies: vec![Some(Bytes::from_static(b"body")), None, Some(Bytes::new())],
            },
            About::Installed {
                term: Term(4),
                members: crate::consensus::Members::default(),
            },
        ];
        all.into_iter().map(|about| {
            Parcel::Transfer(Transfer {
                replica: crate::ids::ReplicaId(5),
                index: crate::ids::Index(8),
                number: 3,
                about,
            })
        })
    }

    pub(super) fn joined(envelope: &Envelope) -> Bytes {
        envelope.parts.concat().into()
    }

    #[test]
    fn parcels_read_back_by_node_and_class() {
        let mut mail = Mail::default();
        for (shard, parcel) in parcels() {
            mail.send(NodeId(2), shard, &parcel);
            mail.send(NodeId(3), shard, &parcel);
        }
        let mut envelopes = Vec::new();
        mail.take(Beat::None, &mut envelopes);
        assert_eq!(envelopes.len(), 6);
        for envelope in &envelopes {
            let all = parcels().into_iter();
            let expected: Vec<_> = all.filter(|(_, it)| it.class() == envelope.class).collect();
            assert_eq!(open(&joined(envelope)), Ok(expected));
        }
        mail.take(Beat::None, &mut envelopes);
        assert_eq!(envelopes.len(), 6, "nothing is left");
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_refused() {
        let mut mail = Mail::default();
        for (shard, parcel) in parcels() {
            mail.send(NodeId(2), shard, &parcel);
        }
        let mut envelopes = Vec::new();
        mail.take(Beat::None, &mut envelopes);
        for envelope in envelopes {
            let whole = joined(&envelope);
            let parcels = open(&whole).expect("whole").len();
            for cut in 0..whole.len() {
                let read = open(&whole.slice(..cut));
                assert!(read.is_err() || read.is_ok_and(|it| it.len() < parcels));
            }
        }
        assert!(open(&Bytes::from_static(&[9])).is_err());
        assert!(open(&Bytes::from_static(&[1, 5, 0, 0, 0, 99, 0, 0, 0, 0])).is_err());
    }
}
