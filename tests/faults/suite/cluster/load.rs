//! Confirmed load by lapin, at a steady pace, and what came of every message.
//!
//! A queue has one publisher and one consumer, on nodes of the caller's choice, which must stay
//! connected: nothing is sent again here, so a message that comes twice was doubled inside the
//! cluster.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_lite::StreamExt as _;
use lapin::Confirmation;
use lapin::options::BasicAckOptions;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::{Client, Kind};
use crate::flood::{body, number_of};
use crate::system::POLL;

/// Between two messages to a queue.
const PACE: Duration = Duration::from_millis(15);
/// Messages of a queue that may wait for their confirms.
const WINDOW: usize = 1_000;
const BODY_BYTES: usize = 256;
/// For one confirm: as long as a fault lasts, and healing takes.
const CONFIRM_LIMIT: Duration = Duration::from_secs(120);
/// For all that was confirmed to arrive.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Load that runs.
pub(crate) struct Load {
    shared: Arc<Shared>,
    publishers: Vec<JoinHandle<Result<()>>>,
    consumers: Vec<JoinHandle<Result<()>>>,
}

struct Shared {
    stops: AtomicBool,
    queues: Vec<Mutex<Record>>,
}

/// What happened to a queue's messages, which are numbered from 0.
#[derive(Default)]
struct Record {
    /// When each was sent.
    sent: Vec<Instant>,
    /// Number, and when its confirm was seen.
    confirmed: Vec<(u64, Instant)>,
    refused: u64,
    /// Number, whether it was marked as redelivered, and when it came, in the order of arrival.
    found: Vec<(u64, bool, Instant)>,
}

/// How long after a fault the last queue's first confirm and first delivery came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Firsts {
    pub(crate) confirm: Duration,
    pub(crate) delivery: Duration,
}

/// What came of a load that is over, and found right.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) confirmed: u64,
    pub(crate) refused: u64,
    /// Delivered again, marked as such.
    pub(crate) redelivered: u64,
}

impl Load {
    /// Declares `queues` queues and starts to publish at some nodes and consume at others.
    pub(crate) async fn start(
        name: &str,
        queues: usize,
        publish_at: &[String],
        consume_at: &[String],
    ) -> Result<Self> {
        let records = (0..queues).map(|_| Mutex::default()).collect();
        let mut load = Self {
            shared: Arc::new(Shared {
                stops: AtomicBool::new(false),
                queues: records,
            }),
            publishers: Vec::new(),
            consumers: Vec::new(),
        };
        for at in 0..queues {
            let queue = format!("{name}-{at}");
            let publisher = Client::connect(&publish_at[at % publish_at.len()]).await?;
            publisher.declare(&queue, Kind::Durable).await?;
            let consumer = Client::connect(&consume_at[(at + 1) % consume_at.len()]).await?;
            // Its node may not have heard of the queue yet.
            consumer.declare(&queue, Kind::Durable).await?;
            let shared = Arc::clone(&load.shared);
            let consume = consume(consumer, queue.clone(), at, shared);
            load.consumers.push(tokio::spawn(consume));
            let shared = Arc::clone(&load.shared);
            let publish = publish(publisher, queue, at, shared);
            load.publishers.push(tokio::spawn(publish));
        }
        Ok(load)
    }

    /// Waits until of every queue a message that was sent at `since` or later is confirmed, and
    /// one has arrived.
    pub(crate) async fn goes_on(&mut self, since: Instant, limit: Duration) -> Result<Firsts> {
        loop {
            self.must_run().await?;
            let firsts = self.shared.queues.iter().map(|it| lock(it).firsts(since));
            let (confirms, deliveries): (Vec<_>, Vec<_>) = firsts.unzip();
            let last = |of: &[Option<Instant>]| -> Option<Duration> {
                let all: Option<Vec<Instant>> = of.iter().copied().collect();
                Some(all?.into_iter().max()? - since)
            };
            if let (Some(confirm), Some(delivery)) = (last(&confirms), last(&deliveries)) {
                return Ok(Firsts { confirm, delivery });
            }
            if since.elapsed() > limit {
                let silent = |of: &[Option<Instant>]| of.iter().filter(|it| it.is_none()).count();
                let (confirms, deliveries) = (silent(&confirms), silent(&deliveries));
                bail!(
                    "in {limit:?} no new confirm on {confirms} queues, no new delivery on \
                     {deliveries}"
                );
            }
            // tidy: allow sleep: between two looks at what is waited for
            tokio::time::sleep(POLL).await;
        }
    }

    /// Fails when a client has come to an end.
    async fn must_run(&mut self) -> Result<()> {
        for tasks in [&mut self.publishers, &mut self.consumers] {
            if let Some(at) = tasks.iter().position(JoinHandle::is_finished) {
                let ended = tasks.swap_remove(at).await?;
                ended.context("a client was to stay connected")?;
                bail!("a client has ended");
            }
        }
        Ok(())
    }

    /// Publishes no more, waits until all that was confirmed has arrived, and judges it.
    pub(crate) async fn finish(mut self) -> Result<Tally> {
        self.shared.stops.store(true, Ordering::Relaxed);
        for publisher in std::mem::take(&mut self.publishers) {
            publisher.await?.context("a publisher")?;
        }
        let deadline = Instant::now() + DRAIN_LIMIT;
        while self
            .shared
            .queues
            .iter()
            .any(|it| !lock(it).missing().is_empty())
        {
            self.must_run().await?;
            if Instant::now() > deadline {
                let queues = self.shared.queues.iter().enumerate();
                let missing = queues.map(|(at, it)| (at, lock(it).missing(), lock(it).sent.len()));
                let missing: Vec<_> = missing.filter(|(_, it, _)| !it.is_empty()).collect();
                bail!("not there after {DRAIN_LIMIT:?} (queue, missing, of): {missing:?}");
            }
            // tidy: allow sleep: between two looks at what is waited for
            tokio::time::sleep(POLL).await;
        }
        let mut tally = Tally::default();
        for (at, record) in self.shared.queues.iter().enumerate() {
            let judged = lock(record).judge(&mut tally);
            judged.with_context(|| format!("queue {at}"))?;
        }
        Ok(tally)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.consumers.iter().for_each(JoinHandle::abort);
        self.publishers.iter().for_each(JoinHandle::abort);
    }
}

impl Record {
    /// When a message that was sent at `since` or later was first confirmed, and when one came.
    fn firsts(&self, since: Instant) -> (Option<Instant>, Option<Instant>) {
        let new = |number: &u64| {
            self.sent
                .get(*number as usize)
                .is_some_and(|at| *at >= since)
        };
        let confirms = self.confirmed.iter().rev();
        let confirms = confirms.take_while(|(number, _)| new(number));
        let found = self.found.iter().rev();
        let found = found.take_while(|(.., at)| *at >= since);
        let found = found.filter(|(number, ..)| new(number));
        (
            confirms.map(|(_, at)| *at).min(),
            found.map(|(.., at)| *at).min(),
        )
    }

    /// What was confirmed and has not arrived.
    fn missing(&self) -> Vec<u64> {
        let found: BTreeSet<u64> = self.found.iter().map(|(number, ..)| *number).collect();
        let confirmed = self.confirmed.iter();
        let missing = confirmed.filter(|(it, _)| !found.contains(it));
        missing.map(|(it, _)| *it).collect()
    }

    fn judge(&self, tally: &mut Tally) -> Result<()> {
        let mut seen = BTreeSet::new();
        let mut firsts = Vec::new();
        for (number, redelivered, _) in &self.found {
            if seen.insert(*number) {
                firsts.push(*number);
            } else {
                ensure!(*redelivered, "message {number} was doubled");
                tally.redelivered += 1;
            }
        }
        let backwards = firsts.windows(2).find(|pair| pair[0] > pair[1]);
        ensure!(backwards.is_none(), "out of order: {backwards:?}");
        tally.confirmed += self.confirmed.len() as u64;
        tally.refused += self.refused;
        Ok(())
    }
}

async fn publish(client: Client, queue: String, at: usize, shared: Arc<Shared>) -> Result<()> {
    let (sender, mut sent) = mpsc::channel(WINDOW);
    let publish = async {
        // Moved in, so that it ends with this.
        let sender = sender;
        for number in 0.. {
            if shared.stops.load(Ordering::Relaxed) {
                break;
            }
            lock(&shared.queues[at]).sent.push(Instant::now());
            let confirm = client.send(&queue, &body(number, BODY_BYTES)).await?;
            sender.send((number, confirm)).await?;
            // tidy: allow sleep: the pace of the load
            tokio::time::sleep(PACE).await;
        }
        anyhow::Ok(())
    };
    let confirm = async {
        while let Some((number, confirm)) = sent.recv().await {
            let confirmed = tokio::time::timeout(CONFIRM_LIMIT, confirm).await;
            let confirmed = confirmed.with_context(|| format!("no confirm for {number}"))??;
            let mut record = lock(&shared.queues[at]);
            match confirmed {
                Confirmation::Ack(None) => record.confirmed.push((number, Instant::now())),
                Confirmation::Nack(_) => record.refused += 1,
                other => bail!("message {number}: {other:?}"),
            }
        }
        Ok(())
    };
    let (published, confirmed) = tokio::join!(publish, confirm);
    confirmed?;
    published
}

async fn consume(client: Client, queue: String, at: usize, shared: Arc<Shared>) -> Result<()> {
    let mut deliveries = client.consume(&queue).await?;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let number = number_of(&delivery.data);
        let found = (number, delivery.redelivered, Instant::now());
        lock(&shared.queues[at]).found.push(found);
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    bail!("the consumer of '{queue}' was cancelled")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
