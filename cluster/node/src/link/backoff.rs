//! How long to wait before a peer is dialed again: longer each time, never over a second, and
//! never in step with the others.

use std::time::Duration;

const FIRST_MS: u64 = 20;
const LONGEST_MS: u64 = 1000;

/// The waits of one peer.
#[derive(Debug)]
pub(super) struct Backoff {
    next_ms: u64,
    state: u64,
}

impl Backoff {
    /// `seed` decides all the jitter.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            next_ms: FIRST_MS,
            state: seed,
        }
    }

    /// A connection held: the next wait is short again.
    pub(super) fn reset(&mut self) {
        self.next_ms = FIRST_MS;
    }

    /// Between half of the wait and all of it.
    pub(super) fn next(&mut self) -> Duration {
        let wait_ms = self.next_ms;
        self.next_ms = (wait_ms * 2).min(LONGEST_MS);
        let half = wait_ms / 2;
        Duration::from_millis(half + self.random() % (wait_ms - half + 1))
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_second_and_differ_by_seed() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..20)
                .map(|_| backoff.next().as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
        for (at, wait) in waits(7).into_iter().enumerate() {
            let full = (20u128 << at.min(6)).min(1000);
            assert!((full / 2..=full).contains(&wait), "wait {at} is {wait} ms");
        }
        let mut backoff = Backoff::new(3);
        for _ in 0..9 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(FIRST_MS));
    }
}
