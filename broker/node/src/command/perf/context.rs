//! What the workers of a load share.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::sync::{mpsc, watch};

use super::check;
use super::client::{Connection, Options};
use super::clock::Clock;
use super::gauge::Gauge;
use super::plan::Plan;
use super::uri::Uri;

/// The channel that each worker opens on its connection.
pub(super) const CHANNEL: u16 = 1;

/// How far the load is. It only ever goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Connections are made.
    Setup,
    /// The schedule starts at that time.
    Publish {
        start_ns: u64,
    },
    /// Nothing new is published; what is outstanding may still be confirmed and received.
    Drain,
    Stop,
}

/// What a worker tells the one who leads.
#[derive(Debug)]
pub(super) enum Event {
    Ready,
    /// A producer has published its share and all of it is confirmed.
    Finished,
    /// The worker cannot go on.
    Failed(anyhow::Error),
}

/// Shared by all workers of a load.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) plan: Plan,
    pub(super) clock: Clock,
    /// Messages due before are warm-up: their latency is not recorded.
    measured_from_ns: AtomicU64,
    /// One a producer, then one a consumer.
    gauges: Vec<Gauge>,
    /// One a queue; none without a check.
    checks: Vec<Mutex<check::Queue>>,
}

impl Context {
    pub(super) fn new(plan: Plan, clock: Clock) -> Self {
        let workers = plan.producers + plan.consumers;
        let checks = if plan.check { plan.queues } else { 0 };
        Self {
            clock,
            measured_from_ns: AtomicU64::new(u64::MAX),
            gauges: (0..workers).map(|_| Gauge::default()).collect(),
            checks: (0..checks).map(|_| Mutex::default()).collect(),
            plan,
        }
    }

    pub(super) fn producer_gauge(&self, producer: u32) -> &Gauge {
        &self.gauges[producer as usize]
    }

    pub(super) fn consumer_gauge(&self, consumer: u32) -> &Gauge {
        &self.gauges[(self.plan.producers + consumer) as usize]
    }

    pub(super) fn gauges(&self) -> impl Iterator<Item = &Gauge> {
        self.gauges.iter()
    }

    /// The queue's check; `None` when nothing is checked or there is no such queue.
    pub(super) fn check(&self, queue: u32) -> Option<&Mutex<check::Queue>> {
        self.checks.get(queue as usize)
    }

    pub(super) fn measured_from_ns(&self) -> u64 {
        self.measured_from_ns.load(Ordering::Relaxed)
    }

    pub(super) fn measure_from(&self, time_ns: u64) {
        self.measured_from_ns.store(time_ns, Ordering::Relaxed);
    }

    /// A connection with its channel open.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub(super) async fn connect(&self, uri: &Uri) -> Result<Connection> {
        let mut connection = Connection::open(uri, Options::LOAD).await?;
        connection.open_channel(CHANNEL).await?;
        Ok(connection)
    }
}

/// A worker's side of the conversation with the one who leads.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Lead {
    pub(super) fn phase(&mut self) -> Phase {
        *self.phase.borrow_and_update()
    }

    /// Waits for another phase. When nobody leads any more, for ever: the runtime is ending.
    pub(super) async fn changed(&mut self) {
        if self.phase.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) async fn tell(&self, event: Event) {
        // Nobody listens any more only when the load has ended.
        let _ = self.events.send(event).await;
    }
}
