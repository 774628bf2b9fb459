//! Dead segments of the usual size that become the next files: a new one would have to be filled
//! with zeros first, which takes as much of disk and memory as the log itself.
//!
//! Invariants: with `sealed` segments at most `SEGMENTS_FEW - sealed` are kept, or a quarter as
//! many as they are, and never more than [`SPARES_MAX`]: what is kept follows what lives. One at
//! most when the disk has little left or no file was wanted for [`BUSY_MILLIS`].

use crate::ids::Instant;

/// A checkpoint frees several segments at once.
const SPARES_MAX: usize = 8;
/// A log that is not behind with its checkpoints has so many that are sealed or kept.
const SEGMENTS_FEW: usize = 4;
const BUSY_MILLIS: u64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Spares {
    numbers: Vec<u32>,
    busy_until: Instant,
    /// Segments of the log that are sealed and not dead.
    sealed: usize,
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

    /// So many segments are sealed and not dead.
    pub(super) fn are_beside(&mut self, sealed: usize) {
        self.sealed = sealed;
    }

    /// The oldest that is not to be kept any longer.
    pub(super) fn surplus(&mut self, now: Instant, disk_is_roomy: bool) -> Option<u32> {
        let kept = if now < self.busy_until && disk_is_roomy {
            let few = SEGMENTS_FEW.saturating_sub(self.sealed);
            few.max(self.sealed / 4).clamp(1, SPARES_MAX)
        } else {
            1
        };
        (self.numbers.len() > kept).then(|| self.numbers.remove(0))
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// When there will be some that are not to be kept any longer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.numbers.len() > 1).then_some(self.busy_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(sealed: usize, now: Instant, roomy: bool) -> usize {
        let mut spares = Spares::default();
        spares.wanted(Instant::default());
        spares.are_beside(sealed);
        (0..20).for_each(|number| spares.add(number));
        while spares.surplus(now, roomy).is_some() {}
        spares.numbers.len()
    }

    #[test]
    fn what_is_kept_follows_what_lives() {
        let now = Instant::default();
        let sealed = [0, 1, 2, 3, 4, 7, 8, 31, 32, 1000];
        let found = sealed.map(|sealed| kept(sealed, now, true));
        assert_eq!(found, [4, 3, 2, 1, 1, 1, 2, 7, 8, 8]);
    }

    #[test]
    fn one_is_kept_when_nothing_is_written_or_the_disk_is_short() {
        let now = Instant::default();
        assert_eq!(kept(40, now, false), 1);
        assert_eq!(kept(40, now.plus_millis(BUSY_MILLIS), true), 1);
    }
}
