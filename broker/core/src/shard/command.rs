//! The commands of a queue shard: how they lie in an entry, and how they are read again.
//!
//! Each begins with one tag byte; numbers are little endian, runs of message ids are LEB128
//! deltas. The format's version is the entry header's. Decoding borrows, never allocates and
//! never panics: what a [`Command`] holds has been checked from end to end.

use bytes::{BufMut, BytesMut};
use warren_cluster_core::machine::Malformed;

use crate::ids::{MessageId, QueueId, SessionId, Token};
use crate::message::Parts;

use super::reader::Reader;
use super::runs::{CountedRuns, Runs, encode_counted, encode_runs};

const ENQUEUE: u8 = 1;
const CREATE: u8 = 2;
const DROP: u8 = 3;
const CLOSE: u8 = 4;
const SETTLE: u8 = 5;
const RETURN: u8 = 6;
const PURGE: u8 = 7;
const RESERVE: u8 = 8;
const BARRIER: u8 = 9;

const TTL: u8 = 1;
const AUTO_DELETE: u8 = 1;
const UNUSED: u8 = 1;

/// The longest time to live of a message: ten years, as RabbitMQ's.
pub const TTL_MILLIS_MAX: u64 = 315_360_000_000;

/// What a queue is created with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Create<'a> {
    pub queue: QueueId,
    pub auto_delete: bool,
    /// Messages below this id may have been delivered (rule 12): the first reservation.
    pub reserved: MessageId,
    /// Encoded options of later versions, kept as they are.
    pub options: &'a [u8],
}

/// One command, borrowed from its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// A message for each of the queues. Those that do not exist, or are closed, are passed over.
    Enqueue {
        queues: Queues<'a>,
        /// Milliseconds from the entry's time on; at most [`TTL_MILLIS_MAX`].
        ttl: Option<u64>,
        /// Encoded as [`Parts`].
        message: &'a [u8],
    },
    /// Makes the queue, if the shard does not have it.
    Create(Create<'a>),
    /// Forgets the queue and all that is in it.
    Drop { queue: QueueId },
    /// The queue takes and gives nothing any more.
    Close {
        queue: QueueId,
        /// Closed because its last consumer went, not because somebody asked.
        unused: bool,
        /// Not 0: does nothing unless the next message's id would be this one.
        if_next: MessageId,
    },
    /// These messages are gone.
    Settle { queue: QueueId, runs: Runs<'a> },
    /// These messages have failed to be delivered so many times.
    Return {
        queue: QueueId,
        runs: CountedRuns<'a>,
    },
    /// Messages from `first` to below `end` are gone, but for those kept.
    Purge {
        queue: QueueId,
        first: MessageId,
        end: MessageId,
        kept: Runs<'a>,
    },
    /// Messages below `reserved` may have been delivered.
    Reserve { queue: QueueId, reserved: MessageId },
    /// Does nothing; whoever asked learns that all before it is applied.
    Barrier { session: SessionId, token: Token },
}

/// The destinations of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queues<'a>(&'a [u8]);

impl<'a> Queues<'a> {
    pub fn iter(&self) -> impl Iterator<Item = QueueId> + use<'a> {
        let words = self.0.as_chunks::<8>().0.iter();
        words.map(|word| QueueId(u64::from_le_bytes(*word)))
    }
}

/// Bytes that [`encode_enqueue`] appends.
#[must_use]
pub fn enqueue_len(queues: usize, ttl: Option<u64>, message: &Parts<'_>) -> usize {
    let ttl = if ttl.is_some() { 8 } else { 0 };
    1 + 1 + ttl + 4 + 8 * queues + 4 + message.encoded_len()
}

/// Appends an enqueue: the one copy that a publish costs. A message with a `ttl` expires so many
/// milliseconds after its entry's time, [`TTL_MILLIS_MAX`] at most.
pub fn encode_enqueue(
    out: &mut BytesMut,
    queues: &[QueueId],
    ttl: Option<u64>,
    message: &Parts<'_>,
) {
    out.reserve(enqueue_len(queues.len(), ttl, message));
    out.put_u8(ENQUEUE);
    if let Some(ttl) = ttl {
        out.put_u8(TTL);
        out.put_u64_le(ttl.min(TTL_MILLIS_MAX));
    } else {
        out.put_u8(0);
    }
    out.put_u32_le(queues.len() as u32);
    for queue in queues {
        out.put_u64_le(queue.0);
    }
    let at = out.len();
    out.put_u32_le(0);
    message.encode(out);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// Appends a create. Options longer than 64 KiB do not exist; they are cut.
pub fn encode_create(out: &mut BytesMut, create: &Create<'_>) {
    let options = &create.options[..create.options.len().min(usize::from(u16::MAX))];
    put_head(out, CREATE, create.queue);
    out.put_u8(if create.auto_delete { AUTO_DELETE } else { 0 });
    out.put_u64_le(create.reserved.0);
    out.put_u16_le(options.len() as u16);
    out.put_slice(options);
}

pub(crate) fn encode_drop(out: &mut BytesMut, queue: QueueId) {
    put_head(out, DROP, queue);
}

pub(crate) fn encode_close(out: &mut BytesMut, queue: QueueId, unused: bool, if_next: MessageId) {
    put_head(out, CLOSE, queue);
    out.put_u8(if unused { UNUSED } else { 0 });
    out.put_u64_le(if_next.0);
}

/// Appends a settle; the runs ascend and do not touch each other.
pub(crate) fn encode_settle(out: &mut BytesMut, queue: QueueId, runs: &[(u64, u64)]) {
    put_head(out, SETTLE, queue);
    encode_runs(out, runs);
}

/// Appends a return: first id, last id and count of failed deliveries of each run, ascending.
pub(crate) fn encode_return(out: &mut BytesMut, queue: QueueId, runs: &[(u64, u64, u16)]) {
    put_head(out, RETURN, queue);
    encode_counted(out, runs);
}

pub(crate) fn encode_purge(
    out: &mut BytesMut,
    queue: QueueId,
    window: (u64, u64),
    kept: &[(u64, u64)],
) {
    put_head(out, PURGE, queue);
    out.put_u64_le(window.0);
    out.put_u64_le(window.1);
    encode_runs(out, kept);
}

pub(crate) fn encode_reserve(out: &mut BytesMut, queue: QueueId, reserved: MessageId) {
    put_head(out, RESERVE, queue);
    out.put_u64_le(reserved.0);
}

pub(crate) fn encode_barrier(out: &mut BytesMut, session: SessionId, token: Token) {
    out.put_u8(BARRIER);
    out.put_u64_le(session.0);
    out.put_u64_le(token.0);
}

fn put_head(out: &mut BytesMut, tag: u8, queue: QueueId) {
    out.put_u8(tag);
    out.put_u64_le(queue.0);
}

/// Reads the next command.
///
/// # Errors
/// Bytes that are not a command of this version.
pub(crate) fn decode<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>, Malformed> {
    Ok(match reader.u8()? {
        ENQUEUE => decode_enqueue(reader)?,
        CREATE => decode_create(reader)?,
        DROP => Command::Drop {
            queue: QueueId(reader.u64()?),
        },
        CLOSE => Command::Close {
            queue: QueueId(reader.u64()?),
            unused: flag(reader, UNUSED)?,
            if_next: MessageId(reader.u64()?),
        },
        SETTLE => Command::Settle {
            queue: QueueId(reader.u64()?),
            runs: Runs::decode(reader)?,
        },
        RETURN => Command::Return {
            queue: QueueId(reader.u64()?),
            runs: CountedRuns::decode(reader)?,
        },
        PURGE => Command::Purge {
            queue: QueueId(reader.u64()?),
            first: MessageId(reader.u64()?),
            end: MessageId(reader.u64()?),
            kept: Runs::decode(reader)?,
        },
        RESERVE => Command::Reserve {
            queue: QueueId(reader.u64()?),
            reserved: MessageId(reader.u64()?),
        },
        BARRIER => Command::Barrier {
            session: SessionId(reader.u64()?),
            token: Token(reader.u64()?),
        },
        _ => return Err(reader.malformed("unknown command")),
    })
}

fn decode_enqueue<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>, Malformed> {
    let ttl = match flag(reader, TTL)? {
        true => Some(reader.u64()?),
        false => None,
    };
    if ttl.is_some_and(|ttl| ttl > TTL_MILLIS_MAX) {
        return Err(reader.malformed("time to live out of range"));
    }
    let queues = reader.u32()? as usize;
    let Some(bytes) = queues.checked_mul(8) else {
        return Err(reader.malformed("too many queues"));
    };
    let queues = Queues(reader.take(bytes)?);
    let len = reader.u32()? as usize;
    let message = reader.take(len)?;
    Ok(Command::Enqueue {
        queues,
        ttl,
        message,
    })
}

fn decode_create<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>, Malformed> {
    let queue = QueueId(reader.u64()?);
    let auto_delete = flag(reader, AUTO_DELETE)?;
    let reserved = MessageId(reader.u64()?);
    let len = usize::from(reader.u16()?);
    let options = reader.take(len)?;
    Ok(Command::Create(Create {
        queue,
        auto_delete,
        reserved,
        options,
    }))
}

/// A byte of flags of which `known` is the only one that this build knows.
fn flag(reader: &mut Reader<'_>, known: u8) -> Result<bool, Malformed> {
    match reader.u8()? {
        0 => Ok(false),
        flags if flags == known => Ok(true),
        _ => Err(reader.malformed("unknown flags")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<String>, Malformed> {
        let mut reader = Reader::new("command", bytes);
        let mut seen = Vec::new();
        while !reader.is_empty() {
            seen.push(format!("{:?}", decode(&mut reader)?));
        }
        Ok(seen)
    }

    #[test]
    fn every_command_reads_back() {
        let mut out = BytesMut::new();
        let (queue, id) = (QueueId(7), MessageId(99));
        let parts = Parts {
            body: b"x",
            ..Parts::default()
        };
        encode_enqueue(&mut out, &[queue, QueueId(8)], None, &parts);
        assert_eq!(out.len(), enqueue_len(2, None, &parts));
        let before = out.len();
        encode_enqueue(&mut out, &[queue], Some(50), &parts);
        assert_eq!(out.len() - before, enqueue_len(1, Some(50), &parts));
        let create = Create {
            queue,
            auto_delete: true,
            reserved: id,
            options: b"later",
        };
        encode_create(&mut out, &create);
        encode_drop(&mut out, queue);
        encode_close(&mut out, queue, true, id);
        encode_settle(&mut out, queue, &[(1, 1), (3, 900)]);
        encode_return(&mut out, queue, &[(1, 2, 3), (3, 3, 9)]);
        encode_purge(&mut out, queue, (1, 99), &[(5, 6)]);
        encode_reserve(&mut out, queue, id);
        encode_barrier(&mut out, SessionId(1), Token(2));

        let mut reader = Reader::new("command", &out);
        for (expected, expected_ttl) in [(&[queue, QueueId(8)][..], None), (&[queue], Some(50))] {
            let Ok(Command::Enqueue {
                queues,
                ttl,
                message,
            }) = decode(&mut reader)
            else {
                unreachable!("two enqueues come first")
            };
            assert!(queues.iter().eq(expected.iter().copied()));
            assert_eq!(ttl, expected_ttl);
            assert_eq!(Parts::decode(message), Some(parts));
        }
        assert_eq!(decode(&mut reader), Ok(Command::Create(create)));
        assert_eq!(decode(&mut reader), Ok(Command::Drop { queue }));
        let close = Command::Close {
            queue,
            unused: true,
            if_next: id,
        };
        assert_eq!(decode(&mut reader), Ok(close));
        let Ok(Command::Settle { runs, .. }) = decode(&mut reader) else {
            unreachable!("a settle follows")
        };
        assert!(runs.iter().eq([(1, 1), (3, 900)]));
        let Ok(Command::Return { runs, .. }) = decode(&mut reader) else {
            unreachable!("a return follows")
        };
        assert!(runs.iter().eq([(1, 2, 3), (3, 3, 9)]));
        let Ok(Command::Purge { kept, .. }) = decode(&mut reader) else {
            unreachable!("a purge follows")
        };
        assert!(kept.iter().eq([(5, 6)]));
        assert!(decode(&mut reader).is_ok() && decode(&mut reader).is_ok());
        assert!(reader.is_empty());
    }

    #[test]
    fn a_time_to_live_beyond_the_limit_is_refused() {
        let mut out = BytesMut::new();
        encode_enqueue(&mut out, &[], Some(u64::MAX), &Parts::default());
        assert!(read(&out).is_ok(), "cut to the limit");
        out[2..10].copy_from_slice(&(TTL_MILLIS_MAX + 1).to_le_bytes());
        assert!(read(&out).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn a_known_tag_with_any_bytes_is_read_or_refused(
            tag in 0u8..11,
            bytes in prop::collection::vec(
                prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()],
                0..60,
            ),
        ) {
            let _ = read(&[&[tag][..], &bytes].concat());
        }
    }
}
