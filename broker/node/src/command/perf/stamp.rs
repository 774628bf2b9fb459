//! What a message's body begins with: which one it is, when it was due, of which run it is.
//!
//! Invariant: a body of at least [`Stamp::BYTES`] carries a stamp; from [`Stamp::BYTES_WITH_RUN`]
//! on, the number of the run follows, so that messages of others are told apart.

/// Streams that the stamps can tell apart.
pub(super) const STREAMS_MAX: u64 = 1 << STREAM_BITS;

const STREAM_BITS: u32 = 24;
const SEQUENCE_BITS: u32 = 39;

/// On the wire, big-endian: 1 bit `resent`, 24 bits `stream`, 39 bits `sequence`; 64 bits `due_ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Sent before, on a connection that was lost before the broker confirmed it.
    pub(super) resent: bool,
    /// A producer and one of its routing keys.
    pub(super) stream: u32,
    /// The message's number in its stream, from 0.
    pub(super) sequence: u64,
    /// When it was due, by [`super::clock::Clock`].
    pub(super) due_ns: u64,
}

impl Stamp {
    pub(super) const BYTES: usize = 16;
    pub(super) const BYTES_WITH_RUN: usize = 24;

    #[inline]
    pub(super) fn write(&self, body: &mut [u8; Self::BYTES]) {
        let packed = u64::from(self.resent) << (STREAM_BITS + SEQUENCE_BITS)
            | u64::from(self.stream) << SEQUENCE_BITS
            | self.sequence;
        body[..8].copy_from_slice(&packed.to_be_bytes());
        body[8..].copy_from_slice(&self.due_ns.to_be_bytes());
    }

    /// The stamp at the start of `body`; `None` when there is none or it is of another run.
    #[inline]
    pub(super) fn read(body: &[u8], run: u64) -> Option<Self> {
        let (packed, rest) = body.split_first_chunk::<8>()?;
        let (due_ns, rest) = rest.split_first_chunk::<8>()?;
        if rest
            .first_chunk::<8>()
            .is_some_and(|found| *found != run.to_be_bytes())
        {
            return None;
        }
        let packed = u64::from_be_bytes(*packed);
        Some(Self {
            resent: packed >> (STREAM_BITS + SEQUENCE_BITS) != 0,
            stream: (packed >> SEQUENCE_BITS) as u32 & ((1 << STREAM_BITS) - 1),
            sequence: packed & ((1 << SEQUENCE_BITS) - 1),
            due_ns: u64::from_be_bytes(*due_ns),
        })
    }
}

/// A body of `size` bytes with room for the stamp and the run's number behind it.
pub(super) fn blank_body(size: usize, run: u64) -> Vec<u8> {
    let mut body = vec![b'.'; size];
    if let Some(room) = body.get_mut(Stamp::BYTES..Stamp::BYTES_WITH_RUN) {
        room.copy_from_slice(&run.to_be_bytes());
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let stamp = Stamp {
            resent: true,
            stream: STREAMS_MAX as u32 - 1,
            sequence: (1 << SEQUENCE_BITS) - 1,
            due_ns: u64::MAX,
        };
        for stamp in [
            stamp,
            Stamp {
                resent: false,
                stream: 0,
                ..stamp
            },
        ] {
            for size in [16, 23, 24, 1024] {
                let mut body = blank_body(size, 7);
                stamp.write(body.first_chunk_mut().expect("16 bytes"));
                assert_eq!(Stamp::read(&body, 7), Some(stamp), "{size}");
            }
        }
    }

    #[test]
    fn others_are_not_taken_for_ours() {
        assert_eq!(Stamp::read(&[0; 15], 7), None);
        assert_eq!(Stamp::read(&blank_body(24, 8), 7), None);
    }
}
