//! What the workers count while they work, read by the one who reports.
//!
//! Invariant: only the worker itself adds to its gauge, in batches; a reader may see one number a
//! batch ahead of another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::histogram::Histogram;

/// One worker's counters.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    pub(super) sent: Counter,
    pub(super) confirmed: Counter,
    pub(super) nacked: Counter,
    pub(super) returned: Counter,
    pub(super) resent: Counter,
    pub(super) received: Counter,
    /// Of those received, the ones not seen before (with a check), or not marked as redelivered.
    pub(super) fresh: Counter,
    pub(super) redelivered: Counter,
    /// Of another run, or not stamped.
    pub(super) foreign: Counter,
    pub(super) reconnects: Counter,
    pub(super) blocked: Counter,
    /// When a message was last received or confirmed.
    pub(super) last_ns: Counter,
    /// From when a message was due until it was received, since the reporter last took them.
    latency: Mutex<Histogram>,
    /// From when a message was due until it was confirmed, likewise.
    confirm_latency: Mutex<Histogram>,
}

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        if count > 0 {
            self.0.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    pub(super) fn latency(&self) -> MutexGuard<'_, Histogram> {
        locked(&self.latency)
    }

    pub(super) fn confirm_latency(&self) -> MutexGuard<'_, Histogram> {
        locked(&self.confirm_latency)
    }
}

/// Sums of counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    pub(super) sent: u64,
    pub(super) confirmed: u64,
    pub(super) nacked: u64,
    pub(super) returned: u64,
    pub(super) resent: u64,
    pub(super) received: u64,
    #[serde(skip)]
    pub(super) fresh: u64,
    pub(super) redelivered: u64,
    pub(super) foreign: u64,
    pub(super) reconnects: u64,
    pub(super) blocked: u64,
    /// The latest of all.
    #[serde(skip)]
    pub(super) last_ns: u64,
}

impl Totals {
    pub(super) fn of<'a>(gauges: impl Iterator<Item = &'a Gauge>) -> Self {
        let mut totals = Self::default();
        for gauge in gauges {
            totals.sent += gauge.sent.get();
            totals.confirmed += gauge.confirmed.get();
            totals.nacked += gauge.nacked.get();
            totals.returned += gauge.returned.get();
            totals.resent += gauge.resent.get();
            totals.received += gauge.received.get();
            totals.fresh += gauge.fresh.get();
            totals.redelivered += gauge.redelivered.get();
            totals.foreign += gauge.foreign.get();
            totals.reconnects += gauge.reconnects.get();
            totals.blocked += gauge.blocked.get();
            totals.last_ns = totals.last_ns.max(gauge.last_ns.get());
        }
        totals
    }
}

/// A worker that panics is told of by its task; what it counted still counts.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
