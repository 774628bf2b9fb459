//! What is kept of a message that lies in the log: where it is, and what was done with it.

use warren_cluster_core::ids::{Place, SegmentId, Time};

use super::blocks::Record;

/// A message of a queue. Its id is where the reference lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MessageRef {
    /// Where the encoded message begins; not part of what replicas compare.
    pub(crate) place: Place,
    /// Bytes of the encoded message.
    pub(crate) len: u32,
    offset: u16,
    /// Failed deliveries.
    pub(crate) delivery_count: u16,
    /// Milliseconds since 1970, 48 bits; 0 is never.
    expiry_low: u32,
    expiry_high: u16,
    /// Priority band. Nothing sets it yet.
    pub(crate) band: u8,
    pub(crate) flags: u8,
}

// Five million of these have to fit beside everything else.
const _: () = assert!(size_of::<MessageRef>() == 24);

/// The last time that fits a reference: some thousand years from now.
const EXPIRY_MAX: Time = Time((1 << 48) - 1);

/// Bytes of a reference in a checkpoint.
pub(crate) const ENCODED_BYTES: usize = 28;

impl MessageRef {
    /// What the place takes at the end of the encoded form.
    pub(crate) const PLACE_BYTES: usize = 8;

    pub(crate) fn new(place: Place, len: u32, expiry: Option<Time>) -> Self {
        let expiry = expiry.map_or(0, |time| time.clamp(Time(1), EXPIRY_MAX).0);
        Self {
            place,
            len,
            offset: 0,
            delivery_count: 0,
            expiry_low: expiry as u32,
            expiry_high: (expiry >> 32) as u16,
            band: 0,
            flags: 0,
        }
    }

    /// When it expires, if it does.
    pub(crate) fn expiry(&self) -> Option<Time> {
        let millis = self.expiry_millis();
        (millis > 0).then_some(Time(millis))
    }

    fn expiry_millis(&self) -> u64 {
        u64::from(self.expiry_high) << 32 | u64::from(self.expiry_low)
    }

    /// Whether it comes first of two in one block.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.offset < other.offset
    }

    /// What replicas compare, and the place behind it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.delivery_count.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.expiry_millis().to_le_bytes());
        out.push(self.band);
        out.push(self.flags);
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.place.segment.0.to_le_bytes());
        out.extend_from_slice(&self.place.offset.to_le_bytes());
    }

    /// Reads [`MessageRef::encode`]'s bytes; `None` when a field is out of its range.
    pub(crate) fn decode(bytes: &[u8; ENCODED_BYTES]) -> Option<Self> {
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(short(at + 2)) << 16 | u32::from(short(at));
        let reference = Self {
            offset: short(0),
            delivery_count: short(2),
            len: word(4),
            expiry_low: word(8),
            expiry_high: short(12),
            band: bytes[16],
            flags: bytes[17],
            place: Place {
                segment: SegmentId(word(20)),
                offset: word(24),
            },
        };
        let known = short(14) == 0 && short(18) == 0;
        let fits = u64::from(reference.offset) < super::blocks::BLOCK_IDS;
        (known && fits).then_some(reference)
    }
}

impl Record for MessageRef {
    fn offset(&self) -> u16 {
        self.offset
    }

    fn set_offset(&mut self, offset: u16) {
        self.offset = offset;
    }
}
