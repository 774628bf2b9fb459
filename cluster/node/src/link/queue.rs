//! What waits to be written to one peer on one connection.
//!
//! Invariants:
//! - it holds at most its limit and one message more, in bytes, what is being written included;
//! - it holds nothing while there is no connection: what is offered then is dropped and counted,
//!   and whoever needs it sends it again;
//! - the lock is held for the length of a push or a take, never over I/O.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::frame::{HEAD_BYTES, Head, Kind};

/// A part below this is copied beside the head: it keeps no large buffer alive while it waits,
/// and costs no system call's slot of its own.
const COPIED_BYTES_LIMIT: usize = 1 << 10;
/// Bytes that a waiting slice counts for beside its own.
const SLICE_BYTES: usize = 64;

/// One connection's outgoing messages.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    limit_bytes: usize,
    message_bytes_limit: u32,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    slices: VecDeque<Bytes>,
    /// Of `slices`, and of what was taken and not yet written.
    bytes: usize,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// No connection.
    #[default]
    Shut,
    Open,
    /// What is there is written, nothing is taken in.
    Draining,
}

impl Queue {
    pub(super) fn new(limit_bytes: usize, message_bytes_limit: u32) -> Self {
        Self {
            state: Mutex::default(),
            limit_bytes,
            message_bytes_limit,
            dropped: AtomicU64::new(0),
        }
    }

    /// Takes a message in; false when it is dropped.
    pub(super) fn push(&self, parts: impl IntoIterator<Item = Bytes>) -> bool {
        let taken = self.frame(parts).is_some_and(|slices| self.enqueue(slices));
        if !taken {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// The message as it goes out: head and small parts in one buffer, large ones as they are.
    fn frame(&self, parts: impl IntoIterator<Item = Bytes>) -> Option<SmallVec<[Bytes; 4]>> {
        let parts: SmallVec<[Bytes; 8]> = parts.into_iter().collect();
        let is_small = |part: &&Bytes| part.len() < COPIED_BYTES_LIMIT;
        let length: usize = parts.iter().map(Bytes::len).sum();
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        if bytes > self.message_bytes_limit {
            tracing::error!(
                bytes,
                limit = self.message_bytes_limit,
                "link: message too large"
            );
            return None;
        }
        let copied: usize = parts.iter().filter(is_small).map(Bytes::len).sum();
        let mut small = BytesMut::with_capacity(HEAD_BYTES + copied);
        let kind = Kind::Message;
        small.extend_from_slice(&Head { kind, bytes }.encode());
        let mut slices = SmallVec::new();
        for part in parts {
            if is_small(&&part) {
                small.extend_from_slice(&part);
                continue;
            }
            if !small.is_empty() {
                slices.push(small.split().freeze());
            }
            slices.push(part);
        }
        if !small.is_empty() {
            slices.push(small.freeze());
        }
        Some(slices)
    }

    fn enqueue(&self, slices: SmallVec<[Bytes; 4]>) -> bool {
        let mut state = self.lock();
        if state.stage != Stage::Open || state.bytes >= self.limit_bytes {
            return false;
        }
        state.bytes += weight(&slices);
        state.slices.extend(slices);
        true
    }

    /// What was taken before, and counted for `written`, has gone out; moves up to `limit_bytes`
    /// (at least one slice, if there is one) into `out`.
    pub(super) fn take(&self, written: usize, out: &mut VecDeque<Bytes>, limit_bytes: usize) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(written);
        let mut room = limit_bytes;
        while room > 0
            && let Some(slice) = state.slices.pop_front()
        {
            room = room.saturating_sub(slice.len());
            out.push_back(slice);
        }
    }

    /// Whether nothing waits, and more may come.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.stage == Stage::Open && state.slices.is_empty()
    }

    /// Whether no more comes in.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().stage != Stage::Open
    }

    /// A connection is there.
    pub(super) fn open(&self) {
        *self.lock() = State {
            stage: Stage::Open,
            ..State::default()
        };
    }

    /// The connection is gone, and what waited with it.
    pub(super) fn shut(&self) {
        *self.lock() = State::default();
    }

    /// Nothing more comes in.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        if state.stage == Stage::Open {
            state.stage = Stage::Draining;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

/// What some slices count for.
pub(super) fn weight<'a>(slices: impl IntoIterator<Item = &'a Bytes>) -> usize {
    slices
        .into_iter()
        .map(|slice| slice.len() + SLICE_BYTES)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(queue: &Queue, limit: usize) -> Vec<Bytes> {
        let mut out = VecDeque::new();
        queue.take(0, &mut out, limit);
        out.into()
    }

    #[test]
    fn a_message_is_its_parts_behind_one_head() {
        let queue = Queue::new(1 << 20, 1 << 20);
        queue.open();
        let large = Bytes::from(vec![7; COPIED_BYTES_LIMIT]);
        let small = Bytes::from_static(b"small");
        let parts = [
            small.clone(),
            large.clone(),
            small.clone(),
            small,
            large.clone(),
        ];
        assert!(queue.push(parts));
        let slices = taken(&queue, usize::MAX);
        assert_eq!(slices.len(), 4);
        let length = u32::try_from(15 + 2 * COPIED_BYTES_LIMIT).expect("fits");
        assert_eq!(slices[0][..4], length.to_le_bytes());
        assert_eq!(&slices[0][4..], b"\x04small");
        assert_eq!(slices[1].as_ptr(), large.as_ptr(), "not copied");
        assert_eq!(&slices[2][..], b"smallsmall");
        assert_eq!(slices[3].as_ptr(), large.as_ptr(), "not copied");
        assert!(queue.push([]), "an empty message is one");
        assert_eq!(taken(&queue, usize::MAX).concat(), [0, 0, 0, 0, 4]);
    }

    #[test]
    fn it_is_bounded_in_bytes_until_they_are_written() {
        let queue = Queue::new(10_000, 1 << 20);
        queue.open();
        let message = || [Bytes::from(vec![0; 4000])];
        assert!(queue.push(message()) && queue.push(message()) && queue.push(message()));
        assert!(!queue.push(message()), "beyond the limit");
        assert_eq!(queue.dropped(), 1);
        let slices = taken(&queue, usize::MAX);
        assert_eq!(queue.bytes(), weight(&slices));
        assert!(!queue.push(message()), "taken is not written");
        queue.take(weight(&slices), &mut VecDeque::new(), 1);
        assert!(queue.bytes() == 0 && queue.is_idle());
        assert!(queue.push(message()));
        let small = Queue::new(10_000, 3999);
        small.open();
        assert!(!small.push(message()), "larger than any");
    }

    #[test]
    fn without_a_connection_it_holds_nothing() {
        let queue = Queue::new(1 << 20, 1 << 20);
        let message = || [Bytes::from_static(b"m")];
        assert!(!queue.push(message()));
        queue.open();
        assert!(queue.push(message()));
        queue.shut();
        assert_eq!(queue.bytes(), 0);
        assert!(taken(&queue, usize::MAX).is_empty() && queue.is_closed());
        queue.open();
        assert!(queue.push(message()));
        queue.drain();
        assert!(!queue.push(message()), "on its way out");
        assert_eq!(taken(&queue, usize::MAX).len(), 1);
        assert!(queue.is_closed() && !queue.is_idle());
        assert_eq!(queue.dropped(), 2);
    }
}
