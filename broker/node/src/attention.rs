//! Whether a connection that has nothing to do should sleep, or look again at once.
//!
//! A client that waits for each answer before its next request (prefetch 1, get, a declare) has
//! both sides sleep and be woken once a message, which costs more than the message. A connection
//! that has had some waits, the last of them all short, stays awake for as long as such a wait
//! lasts.
//!
//! Always holds:
//! - at most one connection of the process stays awake at a time, so that no core is spent on
//!   more than one wait, and the runtime's other tasks run between two looks;
//! - staying awake in vain ends it, until short waits have come in a row again.

use std::sync::atomic::{AtomicBool, Ordering};

use warren_cluster_core::ids::Instant;

/// A wait up to this is short, in microseconds: a few wake-ups of threads.
const SHORT_MICROS: u64 = 100;
/// Short waits in a row before it is worth to stay awake.
const SHORT_WAITS: u8 = 4;
/// Waits of a connection before any of that: many come, ask for a few things and go, and whoever
/// looks out for their next request takes a core from the others.
const FIRST_WAITS: u8 = 32;

/// Some connection stays awake.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What a connection knows of its last waits.
#[derive(Debug, Default)]
pub(crate) struct Attention {
    /// Since when there has been nothing to do.
    waits_since: Option<Instant>,
    /// Short waits in a row, up to [`SHORT_WAITS`].
    short_waits: u8,
    /// Waits so far, up to [`FIRST_WAITS`].
    waits: u8,
    /// This is the connection that stays awake.
    awake: bool,
}

impl Attention {
    /// There was something to do.
    pub(crate) fn moved(&mut self, now: Instant) {
        let Some(since) = self.waits_since.take() else {
            return;
        };
        self.rest();
        self.waits = FIRST_WAITS.min(self.waits + 1);
        if now.0.saturating_sub(since.0) <= SHORT_MICROS {
            self.short_waits = SHORT_WAITS.min(self.short_waits + 1);
        } else {
            self.short_waits = 0;
        }
    }

    /// There is nothing to do: whether to look again at once.
    pub(crate) fn stays(&mut self, now: Instant) -> bool {
        let since = *self.waits_since.get_or_insert(now);
        if self.short_waits < SHORT_WAITS || self.waits < FIRST_WAITS {
            return false;
        }
        if now.0.saturating_sub(since.0) > SHORT_MICROS {
            self.rest();
            self.short_waits = 0;
            return false;
        }
        if !self.awake {
            self.awake = !TAKEN.swap(true, Ordering::Relaxed);
        }
        self.awake
    }

    fn rest(&mut self) {
        if std::mem::take(&mut self.awake) {
            TAKEN.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(attention: &mut Attention, from: u64, micros: u64) -> bool {
        let stays = attention.stays(Instant(from));
        attention.moved(Instant(from + micros));
        stays
    }

    /// One test, as the process has one place for whoever stays awake.
    #[test]
    fn stays_awake_after_short_waits_one_at_a_time_and_not_in_vain() {
        let mut first = Attention::default();
        for at in 0..u64::from(FIRST_WAITS) {
            assert!(
                !wait(&mut first, at * 100, 20),
                "not before it has seen some"
            );
        }
        assert!(wait(&mut first, 10_000, SHORT_MICROS), "then it does");
        assert!(first.stays(Instant(11_000)));

        let mut second = Attention::default();
        for at in 0..2 * u64::from(FIRST_WAITS) {
            assert!(!wait(&mut second, at * 100, 20), "the place is taken");
        }
        first.moved(Instant(11_001));
        assert!(second.stays(Instant(12_000)), "and free after the wait");
        assert!(second.stays(Instant(12_000 + SHORT_MICROS)));
        assert!(!second.stays(Instant(12_001 + SHORT_MICROS)), "long enough");
        assert!(first.stays(Instant(13_000)), "the place is free again");
        drop(first);
        assert!(!second.stays(Instant(14_000)), "in vain: it begins anew");
        second.moved(Instant(90_000));
        assert!(!second.stays(Instant(91_000)));
        second.moved(Instant(91_900));
        for at in 0..=u64::from(SHORT_WAITS) {
            let stays = wait(&mut second, 92_000 + at * 100, 20);
            assert_eq!(stays, at == u64::from(SHORT_WAITS), "a few are enough now");
        }
    }
}
