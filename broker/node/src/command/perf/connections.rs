//! Opens connections and keeps them: how fast, and what one costs the broker.
//!
//! Invariant: a connection that is open sends its heartbeats and notices when none come, until the
//! test is over.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use warren_protocol::{FrameKind, Method, frame};

use super::arguments::{Common, at_least_one, time};
use super::bulk::{Bulk, Outcome};
use super::client::{self, Connection, Options};
use super::clock::Clock;
use super::gauge::Counter;
use super::process::{Cost, Usage};
use super::report::{print, rounded};
use super::threads::{self, Threads};
use super::uri::Uri;

/// How long a connection may take to say good-bye.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// How many to open.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    connections: u32,
    /// Channels to open on each.
    #[arg(long, value_name = "N", default_value_t = 0)]
    channels: u16,
    /// How many are being opened at the same time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one())]
    concurrency: u32,
    /// How long to keep them once all are open.
    #[arg(long, value_name = "SECS", default_value = "0", value_parser = time)]
    time: Duration,
    /// Seconds between heartbeats, if the broker does not want fewer; 0 for none.
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    heartbeat: u16,
    /// Local addresses to connect from, in turn: A, or A-B for all from A to B. An address has
    /// some 28,000 ports.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    source_addresses: Vec<Sources>,
}

/// Addresses from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sources(u32, u32);

/// What the workers share.
#[derive(Debug)]
struct Shared {
    bulk: Bulk,
    uris: Vec<Uri>,
    sources: Vec<IpAddr>,
    channels: u16,
    heartbeat: u16,
    open: AtomicU64,
    lost: Counter,
    heartbeats_received: Counter,
    over: watch::Sender<bool>,
}

#[derive(Debug, Serialize)]
struct Report {
    load: &'static str,
    ok: bool,
    errors: Vec<String>,
    #[serde(flatten)]
    connect: Outcome,
    /// While they were kept.
    hold: Option<Hold>,
    connections_lost: u64,
    heartbeats_received: u64,
}

#[derive(Debug, Serialize)]
struct Hold {
    seconds: f64,
    #[serde(flatten)]
    cost: Option<Cost>,
    rss_bytes_each: Option<f64>,
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| match text.parse::<Ipv4Addr>() {
            Ok(address) => Ok(u32::from(address)),
            Err(_) => Err(format!("{text} is not an IPv4 address")),
        };
        let (first, last) = (number(first)?, number(last)?);
        if last < first || last - first > 0xffff {
            return Err("A-B with at most 65536 addresses is expected".to_owned());
        }
        Ok(Self(first, last))
    }
}

impl Sources {
    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        (self.0..=self.1).map(|number| IpAddr::V4(number.into()))
    }
}

/// Runs the load and prints its report; gives the exit code.
///
/// # Errors
/// When it cannot begin.
pub(super) fn run(arguments: &Arguments) -> Result<i32> {
    let limit = super::system::raise_descriptor_limit();
    if limit < u64::from(arguments.connections) + 50 {
        bail!("this process may open {limit} descriptors only");
    }
    let (over, _) = watch::channel(false);
    let shared = Arc::new(Shared {
        bulk: Bulk::new(Clock::start(), u64::from(arguments.connections)),
        uris: arguments.common.uri.clone(),
        sources: arguments
            .source_addresses
            .iter()
            .flat_map(|range| range.addresses())
            .collect(),
        channels: arguments.channels,
        heartbeat: arguments.heartbeat,
        open: AtomicU64::new(0),
        lost: Counter::default(),
        heartbeats_received: Counter::default(),
        over,
    });
    let mut threads = Threads::start(usize::from(arguments.common.threads.unwrap_or(2)))?;
    let report = threads::runtime()?.block_on(lead(arguments, &shared, &mut threads))?;
    print(&report, arguments.common.json)?;
    Ok(i32::from(!report.ok))
}

async fn lead(
    arguments: &Arguments,
    shared: &Arc<Shared>,
    threads: &mut Threads,
) -> Result<Report> {
    let common = &arguments.common;
    let mut workers: Vec<_> = (0..arguments.concurrency)
        .map(|_| threads.spawn(open_some(Arc::clone(shared))))
        .collect();
    let bulk = &shared.bulk;
    let connect = bulk
        .watch("connections", &mut workers, None, common)
        .await?;
    let before_hold = Usage::read(&common.pid)?;
    let began = Instant::now();
    if !arguments.time.is_zero() && connect.done == u64::from(arguments.connections) {
        tokio::select! {
            () = tokio::time::sleep(arguments.time) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let hold = (!arguments.time.is_zero()).then_some(Hold {
        seconds: rounded(seconds),
        cost: before_hold
            .zip(Usage::read(&common.pid)?)
            .map(|(before, after)| after.since(&before, seconds, 0)),
        rss_bytes_each: None,
    });
    let hold = hold.map(|hold| hold.with_memory(&connect));
    shared.over.send_replace(true);
    let closing = Instant::now();
    while shared.open.load(Ordering::Relaxed) > 0 && closing.elapsed() < CLOSE_LIMIT * 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let errors: Vec<_> = bulk
        .take_error()
        .iter()
        .map(|error| format!("{error:#}"))
        .collect();
    Ok(Report {
        load: "connections",
        ok: errors.is_empty() && shared.lost.get() == 0,
        errors,
        connect,
        hold,
        connections_lost: shared.lost.get(),
        heartbeats_received: shared.heartbeats_received.get(),
    })
}

impl Hold {
    /// Memory at the end of the hold against that before the first connection.
    fn with_memory(mut self, connect: &Outcome) -> Self {
        if let (Some(cost), Some(before)) = (self.cost, connect.cost)
            && connect.done > 0
        {
            let grown = cost.broker_rss_bytes as f64 - before.broker_rss_bytes_before as f64;
            self.rss_bytes_each = Some(rounded(grown / connect.done as f64));
        }
        self
    }
}

/// Opens connections one after the other and leaves each to a task of its own.
async fn open_some(shared: Arc<Shared>) -> Result<()> {
    while let Some(piece) = shared.bulk.take() {
        let began = shared.bulk.clock.now();
        let connection = open(&shared, piece as usize)
            .await
            .inspect_err(|_| shared.bulk.stop())?;
        shared.bulk.finish(began);
        shared.open.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Err(error) = keep(&shared, connection).await {
                shared.lost.add(1);
                shared.bulk.fail(error);
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

async fn open(shared: &Shared, turn: usize) -> Result<Connection> {
    let options = Options {
        source: shared
            .sources
            .get(turn % shared.sources.len().max(1))
            .copied(),
        heartbeat: shared.heartbeat,
        ..Options::SMALL
    };
    let uri = &shared.uris[turn % shared.uris.len()];
    let mut connection = Connection::open(uri, options).await?;
    for channel in 1..=shared.channels {
        connection.open_channel(channel).await?;
    }
    connection.slim();
    Ok(connection)
}

/// Sends heartbeats twice as often as agreed and expects one within twice the time agreed.
async fn keep(shared: &Shared, mut connection: Connection) -> Result<()> {
    let mut over = shared.over.subscribe();
    let heartbeat = Duration::from_secs(u64::from(connection.heartbeat));
    let beats = !heartbeat.is_zero();
    let (mut send_at, mut expect_by) = (
        Instant::now() + heartbeat / 2,
        Instant::now() + heartbeat * 2,
    );
    while !*over.borrow_and_update() {
        tokio::select! {
            ready = connection.ready(false) => {
                ready?;
                read(shared, &mut connection)?;
                expect_by = Instant::now() + heartbeat * 2;
            }
            () = tokio::time::sleep_until(send_at), if beats => {
                frame::encode_heartbeat(&mut connection.out);
                connection.flush()?;
                send_at += heartbeat / 2;
                if Instant::now() > expect_by {
                    bail!("no heartbeat from the broker for {:?}", heartbeat * 2);
                }
            }
            _ = over.changed() => {}
        }
    }
    // The test is over: a good-bye that fails changes nothing.
    let _ = timeout(CLOSE_LIMIT, connection.close()).await;
    Ok(())
}

fn read(shared: &Shared, connection: &mut Connection) -> Result<()> {
    connection.fill()?;
    while let Some(frame) = connection.next_frame()? {
        match frame.kind {
            FrameKind::Heartbeat => shared.heartbeats_received.add(1),
            FrameKind::Method => {
                if let Some(error) = client::refusal(&Method::parse(frame.payload)?) {
                    return Err(error);
                }
            }
            FrameKind::Header | FrameKind::Body => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_addresses() {
        let range: Sources = "127.0.0.254-127.0.1.1".parse().expect("a range");
        let shown: Vec<_> = range
            .addresses()
            .map(|address| address.to_string())
            .collect();
        assert_eq!(
            shown,
            ["127.0.0.254", "127.0.0.255", "127.0.1.0", "127.0.1.1"]
        );
        assert_eq!(
            "127.0.0.9"
                .parse::<Sources>()
                .map(|one| one.addresses().count()),
            Ok(1)
        );
        assert!("127.0.0.2-127.0.0.1".parse::<Sources>().is_err());
        assert!("localhost".parse::<Sources>().is_err());
    }
}
