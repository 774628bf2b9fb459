//! What a session has to write, as slices for a vectored write.
//!
//! Invariants:
//! - bytes leave in the order in which they were put in;
//! - small things are copied into one growing tail, bodies of [`BY_REFERENCE_BYTES`] or more go by
//!   reference;
//! - it holds no memory worth naming once it is empty and `Outbox::trim` was called.
//!
//! It does not bound itself: the session stops filling it (and reading) by [`Outbox::len`].

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// From this size on a body is sent from where it lies.
pub const BY_REFERENCE_BYTES: usize = 4096;

/// A tail of this size is closed, so that a slow reader does not make one buffer grow for ever.
const TAIL_BYTES: usize = 64 * 1024;

/// Bytes on their way to the socket.
#[derive(Debug, Default)]
pub struct Outbox {
    /// In front of `tail`, oldest first; none is empty.
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes of `tail` that are written already.
    tail_sent: usize,
    /// Unsent bytes of `chunks`.
    chunk_bytes: usize,
}

impl Outbox {
    /// Unsent bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunk_bytes + self.tail.len() - self.tail_sent
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts the unsent bytes into `slices`, front first, and says how many of them it used.
    pub fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = &self.tail[self.tail_sent..];
        let parts = self.chunks.iter().map(Bytes::as_ref).chain([tail]);
        let parts = parts.filter(|part| !part.is_empty());
        let mut used = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            used += 1;
        }
        used
    }

    /// `bytes` of what [`Outbox::fill`] gave are written.
    pub fn advance(&mut self, mut bytes: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            let step = bytes.min(chunk.len());
            chunk.advance(step);
            self.chunk_bytes -= step;
            bytes -= step;
            if !chunk.is_empty() {
                return;
            }
            self.chunks.pop_front();
        }
        self.tail_sent = (self.tail_sent + bytes).min(self.tail.len());
        if self.tail_sent == self.tail.len() {
            self.tail.clear();
            self.tail_sent = 0;
        }
    }

    /// Where small things are appended.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        if self.tail.len() >= TAIL_BYTES {
            self.close_tail();
        }
        &mut self.tail
    }

    /// Appends bytes by reference.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.close_tail();
        self.chunk_bytes += bytes.len();
        self.chunks.push_back(bytes);
    }

    fn close_tail(&mut self) {
        let mut closed = self.tail.split().freeze();
        closed.advance(self.tail_sent);
        self.tail_sent = 0;
        if !closed.is_empty() {
            self.chunk_bytes += closed.len();
            self.chunks.push_back(closed);
        }
    }

    /// Whether [`Outbox::trim`] would give memory back.
    pub(super) fn is_trimmable(&self) -> bool {
        self.is_empty() && (self.tail.capacity() > 0 || self.chunks.capacity() > 0)
    }

    /// Gives memory back when there is nothing to send.
    pub(super) fn trim(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            let used = outbox.fill(&mut slices);
            let all: Vec<u8> = slices[..used].iter().flat_map(|s| s.to_vec()).collect();
            let step = step.min(all.len());
            written.extend_from_slice(&all[..step]);
            outbox.advance(step);
        }
        written
    }

    #[test]
    fn order_is_kept_between_copies_and_references() {
        for step in [1, 3, 1000] {
            let mut outbox = Outbox::default();
            outbox.tail().extend_from_slice(b"abc");
            outbox.advance(1);
            outbox.push(Bytes::from_static(b"def"));
            outbox.tail().extend_from_slice(b"gh");
            outbox.push(Bytes::from_static(b""));
            outbox.push(Bytes::from_static(b"ij"));
            assert_eq!(outbox.len(), 9);
            assert_eq!(drain(&mut outbox, step), b"bcdefghij");
            outbox.trim();
            assert!(!outbox.is_trimmable());
        }
    }

    #[test]
    fn a_large_tail_is_closed() {
        let mut outbox = Outbox::default();
        for _ in 0..3 {
            outbox.tail().extend_from_slice(&[7; TAIL_BYTES]);
        }
        assert_eq!(outbox.len(), 3 * TAIL_BYTES);
        assert_eq!(drain(&mut outbox, 10_000), vec![7; 3 * TAIL_BYTES]);
    }
}
