//! Dead segments of the usual size that become the next files: a new one would have to be filled
//! with zeros first, which takes as much of disk and memory as the log itself.
//!
//! Invariants: at most [`SPARES_MAX`] are kept, one at most when the disk has little left or no
//! file was wanted for [`BUSY_MILLIS`].

use crate::ids::Instant;

/// A checkpoint frees several segments at once.
const SPARES_MAX: usize = 8;
const BUSY_MILLIS: u64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Spares {
    numbers: Vec<u32>,
    busy_until: Instant,
}

impl Spares {
    /// One that becomes a file now.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.numbers.pop()
    }

    pub(super) fn add(&mut self, number: u32) {
        self.numbers.push(number);
    }

    /// A file was wanted.
    pub(super) fn wanted(&mut self, now: Instant) {
        self.busy_until = now.plus_millis(BUSY_MILLIS);
    }

    /// The oldest that is not to be kept any longer.
    pub(super) fn surplus(&mut self, now: Instant, disk_is_roomy: bool) -> Option<u32> {
        let busy = now < self.busy_until && disk_is_roomy;
        let kept = if busy { SPARES_MAX } else { 1 };
        (self.numbers.len() > kept).then(|| self.numbers.remove(0))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// When there will be some that are not to be kept any longer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.numbers.len() > 1).then_some(self.busy_until)
    }
}
