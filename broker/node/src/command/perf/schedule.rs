//! When messages are due: an open loop, in which a slow broker does not slow the load down.
//!
//! Invariant: what is due depends on the rate and the start alone, never on what was sent.

/// One producer's share of a rate.
///
/// The load's messages are due one after the other at equal distances; the producers take them in
/// turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    start_ns: u64,
    /// Nanoseconds between two messages of all producers together.
    distance_ns: f64,
    producer: u64,
    producers: u64,
}

impl Schedule {
    /// `rate` is that of all `producers` together, in messages per second.
    pub(super) fn new(start_ns: u64, rate: f64, producer: u32, producers: u32) -> Self {
        Self {
            start_ns,
            distance_ns: 1e9 / rate,
            producer: u64::from(producer),
            producers: u64::from(producers),
        }
    }

    /// When this producer's message number `count` (from 0) is due.
    #[inline]
    pub(super) fn due(&self, count: u64) -> u64 {
        let of_all = count * self.producers + self.producer;
        self.start_ns + (of_all as f64 * self.distance_ns) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_take_turns() {
        let of = |producer| Schedule::new(1_000, 4.0, producer, 2);
        let due = |producer: u32| (0..3).map(move |count| of(producer).due(count) - 1_000);
        assert!(due(0).eq([0, 500_000_000, 1_000_000_000]));
        assert!(due(1).eq([250_000_000, 750_000_000, 1_250_000_000]));
    }

    #[test]
    fn a_day_at_a_million_a_second_does_not_drift() {
        let start = 1_700_000_000_000_000_000;
        let schedule = Schedule::new(start, 1e6, 0, 1);
        let messages = 86_400 * 1_000_000;
        assert_eq!(schedule.due(messages) - start, 86_400 * 1_000_000_000);
        let schedule = Schedule::new(start, 3e6, 2, 3);
        let due = schedule.due(messages) - start;
        assert!(due.abs_diff(86_400 * 1_000_000_000) < 1_000);
    }
}
