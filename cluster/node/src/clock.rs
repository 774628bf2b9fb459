//! The node's clocks: the only place that reads them for its lanes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use warren_cluster_core::consensus::BEAT_MILLIS;
use warren_cluster_core::ids::{self, Now, Time};

/// A second, more or less: a number of beats.
const LOOK_MILLIS: u64 = 7 * BEAT_MILLIS;

/// Counts from the moment it was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: self.mono(),
            wall: wall(),
        }
    }

    /// The monotonic one alone, for half of the price of both.
    pub(crate) fn mono(&self) -> ids::Instant {
        let micros = u64::try_from(self.start.elapsed().as_micros());
        ids::Instant(micros.unwrap_or(u64::MAX))
    }
}

fn wall() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    Time(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// How long whatever looks around about once a second waits for its next turn: all of it, on nodes
/// that agree about the time, comes at the same moments, and with beats. What comes together costs
/// one wake-up.
#[must_use]
pub fn until_next_look() -> Duration {
    Duration::from_millis(left(wall()))
}

fn left(wall: Time) -> u64 {
    wall.millis_to_multiple(LOOK_MILLIS, LOOK_MILLIS / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_look_at_the_same_moments_and_not_too_often() {
        for wall in 0..3 * LOOK_MILLIS {
            let left = left(Time(wall));
            assert!((LOOK_MILLIS / 2..LOOK_MILLIS + LOOK_MILLIS / 2).contains(&left));
            assert!((wall + left).is_multiple_of(LOOK_MILLIS));
        }
    }
}
