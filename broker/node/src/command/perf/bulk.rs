//! Work of which there is a number of equal pieces, done by several workers at once: connections,
//! queues, cycles. Counts and times the pieces.
//!
//! Invariant: a piece is taken by one worker only, and counted when it is done.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::arguments::Common;
use super::clock::{Clock, nanoseconds, seconds};
use super::gauge::{Counter, locked};
use super::histogram::Histogram;
use super::process::{Cost, Usage};
use super::report::{Latency, microseconds, rate, rounded};

const SECOND: Duration = Duration::from_secs(1);
/// How often it is looked whether the work is done.
const POLL: Duration = Duration::from_millis(20);

/// Shared by the workers.
#[derive(Debug)]
pub(super) struct Bulk {
    pub(super) clock: Clock,
    /// The pieces that may be taken; `u64::MAX` for as many as time allows.
    pieces: u64,
    taken: AtomicU64,
    pub(super) done: Counter,
    /// Since the reporter last took them.
    durations: Mutex<Histogram>,
    error: Mutex<Option<anyhow::Error>>,
    stopped: AtomicBool,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) seconds: f64,
    pub(super) done: u64,
    pub(super) rate: f64,
    /// How long a piece took.
    pub(super) latency_us: Latency,
    #[serde(flatten)]
    pub(super) cost: Option<Cost>,
    /// The growth of the broker's memory over this part, for each piece.
    pub(super) rss_bytes_each: Option<f64>,
}

impl Bulk {
    pub(super) fn new(clock: Clock, pieces: u64) -> Self {
        Self {
            clock,
            pieces,
            taken: AtomicU64::new(0),
            done: Counter::default(),
            durations: Mutex::default(),
            error: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }

    /// The number of the next piece; `None` when there is nothing left or the work has stopped.
    pub(super) fn take(&self) -> Option<u64> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let piece = self.taken.fetch_add(1, Ordering::Relaxed);
        (piece < self.pieces).then_some(piece)
    }

    /// Counts a piece that was begun at `began_ns`.
    pub(super) fn finish(&self, began_ns: u64) {
        let now = self.clock.now();
        locked(&self.durations).record(now.saturating_sub(began_ns));
        self.done.add(1);
    }

    /// Keeps the first error and stops everybody.
    pub(super) fn fail(&self, error: anyhow::Error) {
        locked(&self.error).get_or_insert(error);
        self.stop();
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The first error, once.
    pub(super) fn take_error(&self) -> Option<anyhow::Error> {
        locked(&self.error).take()
    }

    /// Waits for the workers, for `time` at most, with a line a second. An error stops the work and
    /// stays for [`Bulk::take_error`].
    ///
    /// # Errors
    /// When the broker's processes cannot be looked at.
    pub(super) async fn watch(
        &self,
        what: &str,
        workers: &mut Vec<JoinHandle<Result<()>>>,
        time: Option<Duration>,
        common: &Common,
    ) -> Result<Outcome> {
        let before = Usage::read(&common.pid)?;
        let start = self.clock.now();
        let end = time.map(|time| start + nanoseconds(time));
        let mut all = Histogram::default();
        let (mut said, mut last) = (start, 0);
        while !workers.iter().all(JoinHandle::is_finished) {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = tokio::signal::ctrl_c() => self.fail(anyhow::anyhow!("interrupted")),
            }
            let now = self.clock.now();
            if end.is_some_and(|end| now >= end) {
                self.stop();
            }
            if now - said >= nanoseconds(SECOND) {
                let passed = seconds(now - said);
                let mut recent = Histogram::default();
                recent.take_from(&mut locked(&self.durations));
                let done = self.done.get();
                let [p50, p99] = [50.0, 99.0].map(|at| microseconds(recent.percentile(at)));
                eprintln!(
                    "{:.1} s: {what} {done}, {:.0}/s, p50 {p50:.0} us, p99 {p99:.0} us",
                    seconds(now - start),
                    rate(done - last, passed),
                );
                all.take_from(&mut recent);
                (said, last) = (now, done);
            }
        }
        let passed = seconds(self.clock.now() - start);
        for worker in workers.drain(..) {
            match worker.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.fail(error),
                Err(error) => self.fail(error.into()),
            }
        }
        all.take_from(&mut locked(&self.durations));
        let done = self.done.get();
        let after = Usage::read(&common.pid)?;
        let cost = before
            .zip(after)
            .map(|(before, after)| after.since(&before, passed, done));
        let grown = cost.map(|cost| cost.broker_rss_growth_bytes());
        Ok(Outcome {
            seconds: rounded(passed),
            done,
            rate: rate(done, passed),
            latency_us: Latency::of(&all, &common.percentiles),
            cost,
            rss_bytes_each: grown
                .filter(|_| done > 0)
                .map(|grown| rounded(grown as f64 / done as f64)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_taken_once_and_not_after_the_stop() {
        let bulk = Bulk::new(Clock::start(), 3);
        assert_eq!((bulk.take(), bulk.take()), (Some(0), Some(1)));
        bulk.fail(anyhow::anyhow!("first"));
        bulk.fail(anyhow::anyhow!("second"));
        assert_eq!(bulk.take(), None);
        let error = bulk.take_error().expect("an error");
        assert_eq!(error.to_string(), "first");
        let bulk = Bulk::new(Clock::start(), 1);
        assert_eq!((bulk.take(), bulk.take()), (Some(0), None));
    }
}
