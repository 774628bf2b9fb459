//! Reading and writing of the elementary types. All integers are big-endian (AMQP 0-9-1, 4.2.5).
//!
//! Reading never panics: `None` means that the input ends too early.

use bytes::{BufMut, BytesMut};

use crate::limits::{FRAME_END, FRAME_HEAD_BYTES};
use crate::{FrameKind, LongStr, ShortStr, Table};

/// A cursor over borrowed bytes.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    #[inline]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[octet]| octet)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    #[inline]
    pub(crate) fn short_str(&mut self) -> Option<ShortStr<'a>> {
        let len = usize::from(self.u8()?);
        self.bytes(len).map(ShortStr::from_wire)
    }

    /// Bytes behind a 32-bit length: a long string, a table's or an array's content.
    #[inline]
    pub(crate) fn long_bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.bytes(len)
    }

    #[inline]
    pub(crate) fn long_str(&mut self) -> Option<LongStr<'a>> {
        self.long_bytes().map(LongStr)
    }

    #[inline]
    pub(crate) fn table(&mut self) -> Option<Table<'a>> {
        self.long_bytes().map(Table::from_raw)
    }
}

pub(crate) fn put_short_str(out: &mut BytesMut, text: ShortStr<'_>) {
    let len = u8::try_from(text.len()).expect("a ShortStr has at most 255 bytes");
    out.put_u8(len);
    out.put_slice(text.as_bytes());
}

pub(crate) fn put_long_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("long strings and tables stay below 4 GiB");
    out.put_u32(len);
    out.put_slice(bytes);
}

/// Writes a method frame; `fields` writes the class id, the method id and the fields.
pub(crate) fn put_method_frame(
    out: &mut BytesMut,
    channel: u16,
    fields: impl FnOnce(&mut BytesMut),
) {
    let head_at = out.len();
    out.put_u8(FrameKind::Method as u8);
    out.put_u16(channel);
    out.put_u32(0);
    fields(out);
    let payload_bytes = out.len() - head_at - FRAME_HEAD_BYTES;
    let payload_bytes = u32::try_from(payload_bytes).expect("methods stay below 4 GiB");
    out[head_at + 3..head_at + FRAME_HEAD_BYTES].copy_from_slice(&payload_bytes.to_be_bytes());
    out.put_u8(FRAME_END);
}
