//! The time of a load test: nanoseconds since 1970 that never run backwards.
//!
//! Read once from the system's clock and then from the monotonic one, so that stamps made by one
//! process can be read by another on the same machine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock; copies agree with each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    origin: Instant,
    origin_ns: u64,
}

impl Clock {
    pub(super) fn start() -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            origin: Instant::now(),
            origin_ns: nanoseconds(since_1970),
        }
    }

    /// Nanoseconds since 1970.
    #[inline]
    pub(super) fn now(self) -> u64 {
        self.origin_ns + nanoseconds(self.origin.elapsed())
    }
}

/// A duration in nanoseconds; at most 584 years.
#[inline]
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    duration.as_secs() * 1_000_000_000 + u64::from(duration.subsec_nanos())
}

/// Nanoseconds as seconds, for rates and reports.
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
