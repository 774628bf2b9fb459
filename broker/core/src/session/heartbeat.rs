//! Heartbeats both ways (AMQP 0-9-1, 4.2.7).
//!
//! Anything received counts as a heartbeat of the peer, anything sent as one of ours; the peer is
//! given two intervals. Sent after half an interval of silence or a little more (RabbitMQ: half of
//! one to a whole one). Two things spare wake-ups: one that will be due soon goes along when the
//! peer's comes, which most send after half an interval; and those that are due by the clock are
//! sent at the same moments, [`STEP_MILLIS`] apart.

use warren_cluster_core::ids::Instant;

/// Heartbeats are sent at multiples of this, up to it too early.
const STEP_MILLIS: u64 = 50;
/// In sixteenths of an interval: silence after which one is due, and after which it goes along.
const DUE: u64 = 9;
const GOES_ALONG: u64 = 6;

/// The clock of one connection; off until [`Heartbeat::start`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    interval_ms: u64,
    sent: Instant,
    received: Instant,
}

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Nothing,
    Send,
    /// The peer has been silent for too long.
    Dead,
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            interval_ms: 0,
            sent: now,
            received: now,
        }
    }

    /// Starts with the negotiated interval; 0 leaves it off.
    pub(super) fn start(&mut self, seconds: u16, now: Instant) {
        self.interval_ms = u64::from(seconds) * 1000;
        self.sent = now;
        self.received = now;
    }

    pub(super) fn seconds(&self) -> u64 {
        self.interval_ms / 1000
    }

    pub(super) fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    pub(super) fn received(&mut self, now: Instant) {
        self.received = now;
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        if self.interval_ms == 0 {
            return None;
        }
        Some(self.send_at().min(self.dead_at()))
    }

    pub(super) fn due(&self, now: Instant) -> Due {
        if self.interval_ms == 0 {
            Due::Nothing
        } else if now >= self.dead_at() {
            Due::Dead
        } else if now >= self.send_at() {
            Due::Send
        } else {
            Due::Nothing
        }
    }

    /// Whether one of ours goes along as something of the peer has come.
    pub(super) fn goes_along(&self, now: Instant) -> bool {
        self.interval_ms != 0 && now >= self.silent_for(GOES_ALONG)
    }

    fn silent_for(&self, sixteenths: u64) -> Instant {
        self.sent.plus_millis(self.interval_ms * sixteenths / 16)
    }

    fn send_at(&self) -> Instant {
        let at = self.silent_for(DUE).0;
        Instant(at - at % (STEP_MILLIS * 1000))
    }

    fn dead_at(&self) -> Instant {
        self.received.plus_millis(self.interval_ms * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_interval_to_send_and_two_to_die() {
        let at = |ms: u64| Instant(ms * 1000);
        let mut heartbeat = Heartbeat::new(at(0));
        assert_eq!(heartbeat.timeout(), None);
        assert_eq!(heartbeat.due(at(1_000_000)), Due::Nothing);
        assert!(!heartbeat.goes_along(at(1_000_000)));
        heartbeat.start(16, at(0));
        assert_eq!(heartbeat.timeout(), Some(at(9_000)));
        assert_eq!(heartbeat.due(at(8_999)), Due::Nothing);
        heartbeat.sent(at(49));
        assert_eq!(heartbeat.timeout(), Some(at(9_000)));
        heartbeat.sent(at(0));
        assert_eq!(heartbeat.due(at(9_000)), Due::Send);
        heartbeat.sent(at(26_000));
        assert_eq!(heartbeat.timeout(), Some(at(32_000)));
        assert_eq!(heartbeat.due(at(32_000)), Due::Dead);
        heartbeat.received(at(31_000));
        assert_eq!(heartbeat.due(at(32_000)), Due::Nothing);
    }

    #[test]
    fn one_that_is_due_soon_goes_along() {
        let at = |ms: u64| Instant(ms * 1000);
        let mut heartbeat = Heartbeat::new(at(0));
        heartbeat.start(16, at(0));
        assert!(!heartbeat.goes_along(at(5_999)));
        // A peer that sends after half an interval finds it not due by the clock yet.
        assert!(heartbeat.goes_along(at(8_000)));
        assert_eq!(heartbeat.due(at(8_000)), Due::Nothing);
        heartbeat.sent(at(8_000));
        assert!(!heartbeat.goes_along(at(8_000)));
        assert_eq!(heartbeat.timeout(), Some(at(17_000)));
    }
}
