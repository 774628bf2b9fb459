//! Bytes on their way to a peer: small things side by side in one buffer, large ones by reference.

use bytes::{BufMut, Bytes, BytesMut};

/// From this length on bytes are attached by reference instead of being copied.
const ATTACH_BYTES_MIN: usize = 2048;

/// A piece of a buffer of `whole` bytes, to be kept: by reference only when it is a good part of
/// it (rule 14: what is kept must not keep much more alive).
#[must_use]
pub fn detached(piece: Bytes, whole: usize) -> Bytes {
    if piece.len() * 4 < whole {
        return Bytes::copy_from_slice(&piece);
    }
    piece
}

/// What is being put together.
#[derive(Debug, Default)]
pub struct Parts {
    done: Vec<Bytes>,
    open: BytesMut,
    len: usize,
}

impl Parts {
    /// Where small things are written.
    pub fn open(&mut self) -> &mut BytesMut {
        &mut self.open
    }

    /// Makes room at once for what [`Self::attach`] will copy of pieces of these lengths, with
    /// `beside` bytes beside each.
    pub fn reserve(&mut self, lengths: impl Iterator<Item = usize>, beside: usize) {
        let copied = |len: usize| if len < ATTACH_BYTES_MIN { len } else { 0 };
        self.open
            .reserve(lengths.map(|len| copied(len) + beside).sum());
    }

    /// Appends bytes: by reference when they are many.
    pub fn attach(&mut self, bytes: &Bytes) {
        if bytes.len() < ATTACH_BYTES_MIN {
            self.open.put_slice(bytes);
            return;
        }
        self.close();
        self.len += bytes.len();
        self.done.push(bytes.clone());
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.len += self.open.len();
            self.done.push(self.open.split().freeze());
        }
    }

    /// Bytes that small things have room for without another buffer, what is there included.
    #[must_use]
    pub fn room(&self) -> usize {
        self.open.capacity()
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len + self.open.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends all of `other`, and leaves that empty; with its room, where it was small.
    pub fn append(&mut self, other: &mut Self) {
        if other.open.len() >= ATTACH_BYTES_MIN {
            other.close();
        }
        for piece in other.done.drain(..) {
            self.attach(&piece);
        }
        other.len = 0;
        self.open.put_slice(&other.open);
        other.open.clear();
    }

    /// All of it, in order; leaves this empty.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.close();
        self.len = 0;
        std::mem::take(&mut self.done)
    }

    /// All of it in one piece.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        let parts = self.take();
        match <[Bytes; 1]>::try_from(parts) {
            Ok([one]) => one,
            Err(parts) => parts.concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_keeps_its_place_and_leaves_room() {
        let large = Bytes::from(vec![7; ATTACH_BYTES_MIN]);
        let (mut parts, mut other) = (Parts::default(), Parts::default());
        for small in [&b"a"[..], b"b"] {
            other.open().put_slice(small);
            parts.append(&mut other);
            assert!(other.is_empty() && other.room() > 0);
        }
        other.open().put_slice(b"c");
        other.attach(&large);
        other.open().put_slice(b"d");
        parts.append(&mut other);
        assert!(other.is_empty());
        other.open().put_slice(&large);
        parts.append(&mut other);
        assert_eq!(parts.len(), 4 + 2 * ATTACH_BYTES_MIN);
        let pieces = parts.take();
        let lengths: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [3, ATTACH_BYTES_MIN, 1, ATTACH_BYTES_MIN]);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr(), "not copied");
    }

    #[test]
    fn large_pieces_go_by_reference_and_keep_their_place() {
        let large = Bytes::from(vec![7; ATTACH_BYTES_MIN]);
        let mut parts = Parts::default();
        parts.open().put_slice(b"head");
        parts.attach(&Bytes::from_static(b"small"));
        parts.attach(&large);
        parts.open().put_slice(b"tail");
        assert_eq!(parts.len(), 4 + 5 + ATTACH_BYTES_MIN + 4);
        let pieces = parts.take();
        assert_eq!(&pieces[0][..], b"headsmall");
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
        assert_eq!(&pieces[2][..], b"tail");
        assert!(parts.is_empty());
    }
}
