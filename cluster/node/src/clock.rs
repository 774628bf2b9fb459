//! The node's clocks: the only place that reads them for its lanes.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use warren_cluster_core::ids::{self, Now, Time};

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
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        Now {
            mono: ids::Instant(micros),
            wall: Time(u64::try_from(wall).unwrap_or(u64::MAX)),
        }
    }
}
