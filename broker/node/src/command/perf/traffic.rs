//! Leads a load with producers and consumers: sets up, starts, watches, ends, judges.
//!
//! Invariants:
//! - consumers are ready before anything is published (in a backlog: after everything was);
//! - what was declared is deleted again, however the load went, unless it is to be kept.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::arguments::Traffic;
use super::check::Findings;
use super::clock::{Clock, nanoseconds, seconds};
use super::context::{Context, Event, Lead, Phase};
use super::gauge::{Totals, locked};
use super::histogram::Histogram;
use super::plan::{Load, Plan};
use super::process::Usage;
use super::progress::Progress;
use super::publisher::Ended;
use super::report::{Latency, Part, Report, rate, rounded};
use super::threads::{self, Threads};
use super::{consumer, publisher, report, topology};

/// How long connections may take to be made.
const SETUP_LIMIT: Duration = Duration::from_secs(60);
/// How long a worker may take to say good-bye.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether all has arrived.
const DRAIN_POLL: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

/// What was counted and used up to a moment.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at_ns: u64,
    totals: Totals,
    usage: Option<Usage>,
}

#[derive(Debug)]
struct Leader<'a> {
    context: Arc<Context>,
    pids: &'a [u32],
    percentiles: &'a [f64],
    threads: Threads,
    phase: watch::Sender<Phase>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    producers: Vec<JoinHandle<Result<Ended>>>,
    consumers: Vec<JoinHandle<Result<()>>>,
    ready: u32,
    finished: u32,
    interrupted: bool,
    errors: Vec<String>,
    latency: Histogram,
    confirm_latency: Histogram,
    progress: Progress,
}

/// Runs the load and prints its report; gives the exit code.
///
/// # Errors
/// When it cannot be set up.
pub(super) fn run(load: Load, flags: &Traffic) -> Result<i32> {
    let clock = Clock::start();
    let plan = match Plan::new(load, flags, clock.now()) {
        Ok(plan) => plan,
        Err(contradiction) => super::refuse(&contradiction),
    };
    super::system::raise_descriptor_limit();
    let report = threads::runtime()?.block_on(async {
        topology::declare(&plan).await?;
        let mut leader = Leader::new(plan, clock, flags)?;
        let report = leader.lead().await;
        leader.stop_workers().await;
        let plan = &leader.context.plan;
        if !plan.keep
            && let Err(error) = topology::delete(plan).await
        {
            eprintln!("warren: cannot delete the queues: {error:#}");
        }
        report
    })?;
    report::print(&report, flags.common.json)?;
    Ok(i32::from(!report.ok))
}

impl<'a> Leader<'a> {
    fn new(plan: Plan, clock: Clock, flags: &'a Traffic) -> Result<Self> {
        let workers = plan.producers as usize + plan.consumers as usize;
        let (phase, _) = watch::channel(Phase::Setup);
        let (sender, events) = mpsc::channel(workers * 3);
        Ok(Self {
            threads: Threads::start(plan.threads)?,
            context: Arc::new(Context::new(plan, clock)),
            pids: &flags.common.pid,
            percentiles: &flags.common.percentiles,
            phase,
            events,
            sender,
            producers: Vec::new(),
            consumers: Vec::new(),
            ready: 0,
            finished: 0,
            interrupted: false,
            errors: Vec::new(),
            latency: Histogram::default(),
            confirm_latency: Histogram::default(),
            progress: Progress::default(),
        })
    }

    async fn lead(&mut self) -> Result<Report> {
        let context = Arc::clone(&self.context);
        let (plan, clock) = (&context.plan, context.clock);
        let backlog = plan.load == Load::Backlog;
        if !backlog {
            self.spawn_consumers();
            self.wait_ready(plan.consumers).await?;
        }
        self.spawn_producers();
        self.wait_ready(self.ready + plan.producers).await?;

        let start_ns = clock.now();
        let measured_ns = start_ns + nanoseconds(plan.warmup);
        context.measure_from(measured_ns);
        self.phase.send_replace(Phase::Publish { start_ns });
        self.watch(Some(measured_ns), SECOND, |_, _| false).await;
        let start = self.mark()?;
        // Without a time it takes as long as it takes: the next message may be due in an hour.
        let end_ns = plan
            .time
            .map_or(u64::MAX, |time| measured_ns + nanoseconds(time));
        let all_sent = |leader: &Self, _: &Totals| leader.finished == plan.producers;
        let publishes = plan.producers > 0;
        self.watch(Some(end_ns), SECOND, |leader, totals| {
            publishes && all_sent(leader, totals)
        })
        .await;
        let sent = self.mark()?;

        self.phase.send_replace(Phase::Drain);
        self.watch(None, DRAIN_POLL, all_sent).await;
        let unfinished = plan.producers - self.finished;
        if unfinished > 0 && self.errors.is_empty() && !self.interrupted {
            let text = format!("{unfinished} producers wait for confirms that do not come");
            self.errors.push(text);
        }
        if backlog {
            self.spawn_consumers();
        }
        let drain = self.mark()?;
        if plan.drains() {
            let (confirms, copies) = (plan.confirm.is_some(), plan.copies());
            self.watch(None, DRAIN_POLL, |_, totals| {
                let kept = totals.sent - if confirms { totals.nacked } else { 0 };
                totals.fresh >= kept * copies
            })
            .await;
        }
        let end = self.mark()?;
        self.phase.send_replace(Phase::Stop);
        let streams = self.join().await;
        let findings = plan.check.then(|| self.judge(&streams));
        Ok(self.report([start, sent, drain, end], findings))
    }

    fn lead_of_worker(&self) -> Lead {
        Lead {
            phase: self.phase.subscribe(),
            events: self.sender.clone(),
        }
    }

    fn spawn_consumers(&mut self) {
        for id in 0..self.context.plan.consumers {
            let (context, lead) = (Arc::clone(&self.context), self.lead_of_worker());
            let events = self.sender.clone();
            self.consumers.push(
                self.threads
                    .spawn(async move { telling(events, consumer::run(context, lead, id)).await }),
            );
        }
    }

    fn spawn_producers(&mut self) {
        for id in 0..self.context.plan.producers {
            let (context, lead) = (Arc::clone(&self.context), self.lead_of_worker());
            let events = self.sender.clone();
            self.producers
                .push(self.threads.spawn(async move {
                    telling(events, publisher::run(context, lead, id)).await
                }));
        }
    }

    fn mark(&self) -> Result<Mark> {
        let at_ns = self.context.clock.now();
        let totals = Totals::of(self.context.gauges());
        // A broker that is killed in the middle of the test has no usage to tell.
        let usage = match Usage::read(self.pids) {
            Err(_) if self.context.plan.reconnect => None,
            usage => usage?,
        };
        Ok(Mark {
            at_ns,
            totals,
            usage,
        })
    }

    async fn wait_ready(&mut self, workers: u32) -> Result<()> {
        let limit = self.context.clock.now() + nanoseconds(SETUP_LIMIT);
        self.watch(Some(limit), SECOND, |leader, _| leader.ready >= workers)
            .await;
        if let Some(error) = self.errors.pop() {
            bail!(error);
        }
        if self.interrupted {
            bail!("interrupted");
        }
        if self.ready < workers {
            bail!(
                "only {} of {workers} connections in {SETUP_LIMIT:?}",
                self.ready
            );
        }
        Ok(())
    }

    /// Follows the load, with a line a second, until `done`, `until`, an error or an interrupt.
    /// Without `until` also when nothing has happened for as long as patience lasts.
    async fn watch(
        &mut self,
        until: Option<u64>,
        poll: Duration,
        done: impl Fn(&Self, &Totals) -> bool,
    ) {
        let clock = self.context.clock;
        let patience_ns = nanoseconds(self.context.plan.patience);
        let mut last = (Totals::default(), clock.now());
        loop {
            let now = clock.now();
            let totals = Totals::of(self.context.gauges());
            if last.0 != totals {
                last = (totals, now);
            }
            let patient = until.is_some() || now - last.1 < patience_ns;
            if done(self, &totals) || !patient || until.is_some_and(|until| now >= until) {
                return;
            }
            if self.interrupted || !self.errors.is_empty() {
                return;
            }
            self.take_latencies(&totals, now);
            let left = until.map_or(poll, |until| Duration::from_nanos(until - now).min(poll));
            tokio::select! {
                Some(event) = self.events.recv() => self.take_event(event),
                () = tokio::time::sleep(left) => {}
                _ = tokio::signal::ctrl_c() => self.interrupted = true,
            }
        }
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Ready => self.ready += 1,
            Event::Finished => self.finished += 1,
            Event::Failed(error) => self.errors.push(format!("{error:#}")),
        }
    }

    fn take_latencies(&mut self, totals: &Totals, now: u64) {
        if *self.phase.borrow() == Phase::Setup || !self.progress.is_due(now) {
            return;
        }
        self.collect_latencies(Some((totals, now)));
    }

    /// Moves what the workers have measured into ours; with `line`, says how it goes.
    fn collect_latencies(&mut self, line: Option<(&Totals, u64)>) {
        let (mut latency, mut confirm_latency) = (Histogram::default(), Histogram::default());
        for gauge in self.context.gauges() {
            latency.take_from(&mut gauge.latency());
            confirm_latency.take_from(&mut gauge.confirm_latency());
        }
        if let Some((totals, now)) = line {
            let shown = if latency.count() > 0 {
                &latency
            } else {
                &confirm_latency
            };
            self.progress.say(totals, shown, now);
        }
        self.latency.take_from(&mut latency);
        self.confirm_latency.take_from(&mut confirm_latency);
    }

    /// What each stream has sent, sorted by stream.
    async fn join(&mut self) -> Ended {
        let mut streams = Ended::new();
        for producer in std::mem::take(&mut self.producers) {
            // Errors were told as events.
            if let Ok(Ok(Ok(ended))) = tokio::time::timeout(STOP_LIMIT, producer).await {
                streams.extend(ended);
            }
        }
        for consumer in std::mem::take(&mut self.consumers) {
            let _ = tokio::time::timeout(STOP_LIMIT, consumer).await;
        }
        while let Ok(event) = self.events.try_recv() {
            self.take_event(event);
        }
        self.collect_latencies(None);
        streams.sort_unstable_by_key(|(stream, _)| *stream);
        streams
    }

    /// For loads that end before their time.
    async fn stop_workers(&mut self) {
        self.phase.send_replace(Phase::Stop);
        self.join().await;
    }

    fn judge(&self, streams: &Ended) -> Findings {
        let plan = &self.context.plan;
        // The queue that each stream leads to; in a fanout it is every queue.
        let mut by_queue: Vec<Vec<usize>> = vec![Vec::new(); plan.queues as usize];
        for producer in 0..plan.producers {
            let first = plan.first_stream(producer) as u32;
            for (queue, stream) in plan.targets(producer).zip(first..) {
                let found = streams.binary_search_by_key(&stream, |(stream, _)| *stream);
                let Ok(at) = found else { continue };
                by_queue[queue as usize].push(at);
            }
        }
        let every: Vec<usize> = (0..streams.len()).collect();
        let mut findings = Findings::default();
        for (queue, leading) in by_queue.iter().enumerate() {
            let leading = if plan.is_fanout() { &every } else { leading };
            let sent = leading.iter().map(|at| (streams[*at].0, &streams[*at].1));
            if let Some(check) = self.context.check(queue as u32) {
                findings.add(&locked(check).judge(sent));
            }
        }
        findings
    }

    fn report(&self, marks: [Mark; 4], findings: Option<Findings>) -> Report {
        let [start, sent, drain, end] = marks;
        let plan = &self.context.plan;
        let totals = Totals::of(self.context.gauges());
        let sending = seconds(sent.at_ns - start.at_ns);
        // With a number of messages the time is what it takes to receive them all.
        let counted = plan.messages.is_some() && plan.drains();
        let (from, to) = match plan.load {
            Load::Backlog => (drain, end),
            _ if counted => (start, end),
            _ => (start, sent),
        };
        let last_ns = if counted {
            to.totals.last_ns.max(from.at_ns + 1)
        } else {
            to.at_ns
        };
        let receiving = seconds(last_ns - from.at_ns);
        let received = to.totals.received - from.totals.received;
        let to_measure = if counted { end } else { sent };
        let phase = |from: &Mark, to: &Mark, messages, seconds| Part {
            seconds: rounded(seconds),
            messages,
            rate: rate(messages, seconds),
            cost: cost(from, to, messages),
        };
        let backlog = plan.load == Load::Backlog;
        Report {
            load: plan.load.name(),
            ok: self.errors.is_empty() && findings.is_none_or(|found| found.is_clean()),
            errors: self.errors.clone(),
            seconds: rounded(seconds(to_measure.at_ns - start.at_ns)),
            totals,
            send_rate: rate(sent.totals.sent - start.totals.sent, sending),
            confirm_rate: rate(sent.totals.confirmed - start.totals.confirmed, sending),
            receive_rate: rate(received, receiving),
            latency_us: Latency::of(&self.latency, self.percentiles),
            confirm_latency_us: Latency::of(&self.confirm_latency, self.percentiles),
            findings,
            cost: cost(
                &start,
                &to_measure,
                messages_between(plan, &start, &to_measure),
            ),
            publish_phase: backlog.then(|| {
                phase(
                    &start,
                    &drain,
                    drain.totals.sent,
                    seconds(drain.at_ns - start.at_ns),
                )
            }),
            drain_phase: backlog.then(|| phase(&drain, &end, received, receiving)),
        }
    }
}

fn messages_between(plan: &Plan, from: &Mark, to: &Mark) -> u64 {
    if plan.consumers > 0 {
        to.totals.received - from.totals.received
    } else {
        to.totals.sent - from.totals.sent
    }
}

fn cost(from: &Mark, to: &Mark, messages: u64) -> Option<super::process::Cost> {
    let (before, after) = from.usage.as_ref().zip(to.usage.as_ref())?;
    Some(after.since(before, seconds(to.at_ns - from.at_ns), messages))
}

/// Tells the leader when the worker fails.
async fn telling<T: Default>(
    events: mpsc::Sender<Event>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match work.await {
        Ok(result) => Ok(result),
        Err(error) => {
            // Nobody listens any more only when the load has ended.
            let _ = events.send(Event::Failed(error)).await;
            Ok(T::default())
        }
    }
}
