//! Heartbeats both ways (AMQP 0-9-1, 4.2.7).
//!
//! Anything received counts as a heartbeat of the peer, anything sent as one of ours. Sent after
//! half an interval of silence, as RabbitMQ does; the peer is given two intervals. Those of many
//! connections are sent at the same moments, [`STEP_MILLIS`] apart, so that one wake-up does for
//! them.

use warren_cluster_core::ids::Instant;

/// Heartbeats are sent at multiples of this, up to it too early.
const STEP_MILLIS: u64 = 50;

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

    fn send_at(&self) -> Instant {
        let at = self.sent.plus_millis(self.interval_ms / 2).0;
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
        heartbeat.start(10, at(0));
        assert_eq!(heartbeat.timeout(), Some(at(5_000)));
        assert_eq!(heartbeat.due(at(4_999)), Due::Nothing);
        heartbeat.sent(at(49));
        assert_eq!(heartbeat.timeout(), Some(at(5_000)));
        heartbeat.sent(at(0));
        assert_eq!(heartbeat.due(at(5_000)), Due::Send);
        heartbeat.sent(at(16_000));
        assert_eq!(heartbeat.timeout(), Some(at(20_000)));
        assert_eq!(heartbeat.due(at(20_000)), Due::Dead);
        heartbeat.received(at(19_000));
        assert_eq!(heartbeat.due(at(20_000)), Due::Nothing);
    }
}
