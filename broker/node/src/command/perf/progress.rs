//! The line a second on stderr.

use super::clock::seconds;
use super::gauge::Totals;
use super::histogram::Histogram;
use super::report::{microseconds, rate};

const INTERVAL_NS: u64 = 1_000_000_000;

/// What the last line was about.
#[derive(Debug, Default)]
pub(super) struct Progress {
    first_ns: u64,
    last_ns: u64,
    last: Totals,
}

impl Progress {
    /// Whether it is time for a line; the first call starts the clock.
    pub(super) const fn is_due(&mut self, now: u64) -> bool {
        if self.first_ns == 0 {
            self.first_ns = now;
            self.last_ns = now;
        }
        now - self.last_ns >= INTERVAL_NS
    }

    /// Says what has happened since the last line.
    pub(super) fn say(&mut self, totals: &Totals, latency: &Histogram, now: u64) {
        let passed = seconds(now - self.last_ns);
        let since = |of: fn(&Totals) -> u64| rate(of(totals) - of(&self.last), passed);
        let mut line = format!(
            "{:.1} s: sent {:.0}/s, confirmed {:.0}/s, received {:.0}/s",
            seconds(now - self.first_ns),
            since(|totals| totals.sent),
            since(|totals| totals.confirmed),
            since(|totals| totals.received),
        );
        if latency.count() > 0 {
            let [p50, p99] = [50.0, 99.0].map(|at| microseconds(latency.percentile(at)));
            line += &format!(", p50 {p50:.0} us, p99 {p99:.0} us");
        }
        for (count, what) in [
            (totals.nacked, "nacked"),
            (totals.returned, "returned"),
            (totals.reconnects, "reconnects"),
        ] {
            if count > 0 {
                line += &format!(", {what} {count}");
            }
        }
        eprintln!("{line}");
        self.last_ns = now;
        self.last = *totals;
    }
}
