//! What travels on a link: frames, and the greeting that comes before all others.
//!
//! A frame is: length of the payload u32, kind u8, payload. Integers are little-endian. The
//! dialer says hello, the other side welcomes or refuses it; after that only messages follow, and
//! only in the dialer's direction.
//!
//! Invariants:
//! - a length beyond the limit ends the connection before anything is allocated for it;
//! - what is allocated grows with what has arrived, not with what was announced;
//! - a message has a buffer of its own, and so keeps no other message's bytes alive (rule 14).

use std::fmt;
use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _};
use warren_cluster_core::ids::NodeId;

use super::Class;
use crate::tls::ClusterId;

/// Bytes before a frame's payload.
pub(super) const HEAD_BYTES: usize = 5;
/// Bytes of a greeting's payload: ours have 51, later versions may say more.
pub(super) const GREETING_BYTES_LIMIT: u32 = 1 << 10;
/// Bytes that are allocated for a frame before any of them has arrived.
const AHEAD_BYTES_LIMIT: usize = 1 << 20;

/// The versions of this protocol that this version speaks. Version 1 had no connection for effects.
pub(super) const OLDEST: u16 = 2;
pub(super) const NEWEST: u16 = 2;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Hello = 1,
    Welcome = 2,
    Refused = 3,
    Message = 4,
}

impl Kind {
    fn new(byte: u8) -> Option<Self> {
        let all = [Self::Hello, Self::Welcome, Self::Refused, Self::Message];
        all.into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// Why what came is not a frame that may come.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The connection ended between two frames.
    #[error("closed by the other side")]
    Closed,
    #[error("{0}")]
    Io(#[source] io::Error),
    #[error("a frame of {bytes} bytes, the limit is {limit}")]
    Oversize { bytes: u32, limit: u32 },
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("{found:?} instead of {wanted}")]
    Unexpected { found: Kind, wanted: &'static str },
    #[error("the {0:?} cannot be read")]
    Garbled(Kind),
}

/// The bytes before a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) bytes: u32,
}

impl Head {
    pub(super) fn encode(self) -> [u8; HEAD_BYTES] {
        let [a, b, c, d] = self.bytes.to_le_bytes();
        [a, b, c, d, self.kind as u8]
    }

    fn decode(head: [u8; HEAD_BYTES], limit: u32) -> Result<Self, Fault> {
        let [a, b, c, d, kind] = head;
        let bytes = u32::from_le_bytes([a, b, c, d]);
        let kind = Kind::new(kind).ok_or(Fault::Kind(kind))?;
        if bytes > limit {
            return Err(Fault::Oversize { bytes, limit });
        }
        Ok(Self { kind, bytes })
    }
}

/// Reads one frame of at most `limit` bytes.
pub(super) async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    limit: u32,
) -> Result<(Kind, Bytes), Fault> {
    let mut head = [0; HEAD_BYTES];
    if reader.read(&mut head[..1]).await.map_err(Fault::Io)? == 0 {
        return Err(Fault::Closed);
    }
    reader.read_exact(&mut head[1..]).await.map_err(Fault::Io)?;
    let head = Head::decode(head, limit)?;
    let payload = read_payload(reader, head.bytes as usize).await;
    Ok((head.kind, payload.map_err(Fault::Io)?))
}

/// As [`read`]; at once where the whole frame is there.
pub(super) async fn read_buffered(
    reader: &mut (impl AsyncBufRead + Unpin),
    limit: u32,
) -> Result<(Kind, Bytes), Fault> {
    let there = reader.fill_buf().await.map_err(Fault::Io)?;
    if let Some((head, rest)) = there.split_first_chunk() {
        let head = Head::decode(*head, limit)?;
        let bytes = head.bytes as usize;
        if let Some(payload) = rest.get(..bytes) {
            let payload = Bytes::copy_from_slice(payload);
            reader.consume(HEAD_BYTES + bytes);
            return Ok((head.kind, payload));
        }
    }
    read(reader, limit).await
}

async fn read_payload(reader: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Bytes> {
    let mut payload = BytesMut::with_capacity(length.min(AHEAD_BYTES_LIMIT));
    while payload.len() < length {
        let missing = length - payload.len();
        if payload.len() == payload.capacity() {
            payload.reserve(missing.min(payload.len()));
        }
        if reader.read_buf(&mut (&mut payload).limit(missing)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(payload.freeze())
}

/// The first frame of the side that dialed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) oldest: u16,
    pub(super) newest: u16,
    pub(super) cluster: ClusterId,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) class: Class,
    pub(super) incarnation: u64,
}

impl Hello {
    pub(super) fn encode(&self) -> Bytes {
        let mut payload = BytesMut::with_capacity(64);
        payload.put_u16_le(self.oldest);
        payload.put_u16_le(self.newest);
        payload.put_u128_le(self.cluster.0);
        payload.put_u64_le(self.from.0);
        payload.put_u64_le(self.to.0);
        payload.put_u8(self.class as u8);
        payload.put_u64_le(self.incarnation);
        frame(Kind::Hello, &payload)
    }

    /// Later versions may add to it: what follows is left alone.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        Some(Self {
            oldest: u16::from_le_bytes(fields.take()?),
            newest: u16::from_le_bytes(fields.take()?),
            cluster: ClusterId(u128::from_le_bytes(fields.take()?)),
            from: NodeId(u64::from_le_bytes(fields.take()?)),
            to: NodeId(u64::from_le_bytes(fields.take()?)),
            class: Class::new(fields.take::<1>()?[0])?,
            incarnation: u64::from_le_bytes(fields.take()?),
        })
    }

    /// The version to speak: the newest that both know.
    pub(super) fn version(&self) -> Option<u16> {
        let version = self.newest.min(NEWEST);
        (version >= self.oldest.max(OLDEST)).then_some(version)
    }
}

/// The answer of the side that accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Welcome {
    pub(super) version: u16,
    pub(super) incarnation: u64,
}

impl Welcome {
    pub(super) fn encode(self) -> Bytes {
        let mut payload = BytesMut::with_capacity(10);
        payload.put_u16_le(self.version);
        payload.put_u64_le(self.incarnation);
        frame(Kind::Welcome, &payload)
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        Some(Self {
            version: u16::from_le_bytes(fields.take()?),
            incarnation: u64::from_le_bytes(fields.take()?),
        })
    }
}

/// Says why there will be no link; cut where a greeting's limit is.
pub(super) fn refused(why: &impl fmt::Display) -> Bytes {
    let mut text = why.to_string().into_bytes();
    text.truncate(GREETING_BYTES_LIMIT as usize);
    frame(Kind::Refused, &text)
}

fn frame(kind: Kind, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.put_slice(&Head { kind, bytes }.encode());
    out.put_slice(payload);
    out.freeze()
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            oldest: OLDEST,
            newest: NEWEST,
            cluster: ClusterId(5),
            from: NodeId(1),
            to: NodeId(2),
            class: Class::Data,
            incarnation: 77,
        }
    }

    /// What readers make of some bytes, however many of them a buffer holds.
    fn read_all(bytes: &[u8], limit: u32) -> Result<(Kind, Bytes), Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async {
            let plain = read(&mut &*bytes, limit).await;
            for room in [1, HEAD_BYTES, HEAD_BYTES + 3, 4096] {
                let mut reader = tokio::io::BufReader::with_capacity(room, bytes);
                let buffered = read_buffered(&mut reader, limit).await;
                assert_eq!(format!("{buffered:?}"), format!("{plain:?}"), "{room}");
                if let Ok((_, payload)) = &buffered {
                    let mut rest = Vec::new();
                    reader.read_to_end(&mut rest).await.expect("reads");
                    assert_eq!(rest, bytes[HEAD_BYTES + payload.len()..], "{room}");
                }
            }
            plain
        })
    }

    #[test]
    fn greetings_read_back() {
        let (kind, payload) = read_all(&hello().encode(), GREETING_BYTES_LIMIT).expect("a frame");
        assert_eq!(kind, Kind::Hello);
        assert_eq!(Hello::decode(&payload), Some(hello()));
        let longer = [&payload[..], b"more"].concat();
        assert_eq!(Hello::decode(&longer), Some(hello()), "a later version's");
        for cut in 0..payload.len() {
            assert_eq!(Hello::decode(&payload[..cut]), None, "{cut}");
        }
        let welcome = Welcome {
            version: 2,
            incarnation: 9,
        };
        let (kind, payload) = read_all(&welcome.encode(), GREETING_BYTES_LIMIT).expect("a frame");
        assert_eq!(kind, Kind::Welcome);
        assert_eq!(Welcome::decode(&payload), Some(welcome));
        assert_eq!(Welcome::decode(&payload[1..]), None);
        let text = "x".repeat(5000);
        let (kind, payload) = read_all(&refused(&text), GREETING_BYTES_LIMIT).expect("a frame");
        assert_eq!((kind, payload.len()), (Kind::Refused, 1024));
    }

    #[test]
    fn versions_meet_where_they_can() {
        let with = |oldest, newest| Hello {
            oldest,
            newest,
            ..hello()
        };
        assert_eq!(with(2, 2).version(), Some(2));
        assert_eq!(with(1, 9).version(), Some(2));
        assert_eq!(with(3, 9).version(), None);
        assert_eq!(with(0, 1).version(), None);
    }

    #[test]
    fn frames_are_bounded() {
        let message = frame(Kind::Message, b"hello");
        let (kind, payload) = read_all(&message, 5).expect("a frame");
        assert_eq!((kind, &payload[..]), (Kind::Message, &b"hello"[..]));
        let limit = read_all(&message, 4);
        assert!(
            matches!(limit, Err(Fault::Oversize { bytes: 5, limit: 4 })),
            "{limit:?}"
        );
        assert!(matches!(read_all(b"", 9), Err(Fault::Closed)));
        for cut in 1..message.len() {
            assert!(
                matches!(read_all(&message[..cut], 9), Err(Fault::Io(_))),
                "{cut}"
            );
        }
        assert!(matches!(
            read_all(b"GET / HTTP/1.1", u32::MAX),
            Err(Fault::Kind(b'/'))
        ));
        // Nearly 4 GiB announced, nothing sent: only a bounded buffer was made for it.
        let announced = [255, 255, 255, 255, Kind::Message as u8];
        assert!(matches!(read_all(&announced, u32::MAX), Err(Fault::Io(_))));
    }

    #[test]
    fn a_large_message_arrives_whole_in_a_buffer_of_its_own() {
        let body: Vec<u8> = (0..5_000_000u32).map(|at| (at % 251) as u8).collect();
        let two = [frame(Kind::Message, &body), frame(Kind::Message, b"next")].concat();
        let mut bytes = two.as_slice();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        let (_, first) = runtime
            .block_on(read(&mut bytes, 6_000_000))
            .expect("a frame");
        assert!(first == body);
        let (_, second) = runtime
            .block_on(read(&mut bytes, 6_000_000))
            .expect("a frame");
        assert_eq!(&second[..], b"next");
    }
}
