//! Clients that come and go: connect, declare an exclusive queue (and bind it), publish, get,
//! close, again and again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use warren_protocol::methods::{BasicGet, BasicPublish, QueueBind, QueueDeclare};
use warren_protocol::{FrameKind, Method, Properties, ShortStr, ShortString, Table, content};

use super::arguments::{Common, at_least_one, size, time};
use super::bulk::{Bulk, Outcome};
use super::client::{self, Answer, Connection, Options};
use super::clock::Clock;
use super::context::CHANNEL;
use super::report::print;
use super::schedule::Schedule;
use super::threads::{self, Threads};
use super::uri::Uri;

#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Clients that do it at the same time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one())]
    workers: u32,
    /// Bytes of the message's body.
    #[arg(long, value_name = "BYTES", default_value = "16", value_parser = size)]
    size: usize,
    /// How long.
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = time)]
    time: Duration,
    /// How many times in all, at most.
    #[arg(long, value_name = "N")]
    cycles: Option<u64>,
    /// Cycles per second of all clients together, as an open loop [default: as fast as it goes].
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Bind each queue to this exchange by its name, and publish there.
    #[arg(long, value_name = "EXCHANGE")]
    bind: Option<String>,
}

#[derive(Debug)]
struct Shared {
    bulk: Bulk,
    uris: Vec<Uri>,
    body: Vec<u8>,
    schedule: Option<Schedule>,
    /// The default exchange when it is empty: nothing is bound there.
    exchange: ShortString,
}

#[derive(Debug, Serialize)]
struct Report {
    load: &'static str,
    ok: bool,
    errors: Vec<String>,
    #[serde(flatten)]
    cycles: Outcome,
}

/// Runs the load and prints its report; gives the exit code.
///
/// # Errors
/// When it cannot begin.
pub(super) fn run(arguments: &Arguments) -> Result<i32> {
    super::system::raise_descriptor_limit();
    let clock = Clock::start();
    let schedule = |rate| Schedule::new(clock.now(), rate, 0, 1);
    let exchange = arguments.bind.as_deref().unwrap_or_default();
    let shared = Arc::new(Shared {
        schedule: arguments.rate.map(schedule),
        exchange: ShortStr::new(exchange.as_bytes())?.to_short_string(),
        bulk: Bulk::new(clock, arguments.cycles.unwrap_or(u64::MAX)),
        uris: arguments.common.uri.clone(),
        body: vec![b'.'; arguments.size],
    });
    let mut threads = Threads::start(usize::from(arguments.common.threads.unwrap_or(1)))?;
    let mut workers: Vec<_> = (0..arguments.workers)
        .map(|_| threads.spawn(work(Arc::clone(&shared))))
        .collect();
    let (bulk, time) = (&shared.bulk, Some(arguments.time));
    let outcome = threads::runtime()?.block_on(async {
        bulk.watch("cycles", &mut workers, time, &arguments.common)
            .await
    })?;
    let errors: Vec<_> = bulk
        .take_error()
        .iter()
        .map(|error| format!("{error:#}"))
        .collect();
    let report = Report {
        load: "churn",
        ok: errors.is_empty(),
        errors,
        cycles: outcome,
    };
    print(&report, arguments.common.json)?;
    Ok(i32::from(!report.ok))
}

async fn work(shared: Arc<Shared>) -> Result<()> {
    while let Some(piece) = shared.bulk.take() {
        let mut began = shared.bulk.clock.now();
        if let Some(schedule) = &shared.schedule {
            let due = schedule.due(piece);
            let early = Duration::from_nanos(due.saturating_sub(began));
            tokio::time::sleep(early).await;
            began = due;
        }
        let uri = &shared.uris[piece as usize % shared.uris.len()];
        cycle(uri, &shared.exchange, &shared.body)
            .await
            .inspect_err(|_| shared.bulk.stop())?;
        shared.bulk.finish(began);
    }
    Ok(())
}

async fn cycle(uri: &Uri, exchange: &ShortString, body: &[u8]) -> Result<()> {
    let mut connection = Connection::open(uri, Options::SMALL).await?;
    connection.open_channel(CHANNEL).await?;
    let declare = QueueDeclare {
        queue: ShortStr::EMPTY,
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        nowait: false,
        arguments: Table::EMPTY,
    };
    let declare = Method::QueueDeclare(declare);
    let Answer::Queue(queue) = connection.call(CHANNEL, &declare).await? else {
        bail!("no declare-ok for a declare");
    };
    if !exchange.as_bytes().is_empty() {
        let bind = QueueBind {
            queue: queue.as_short_str(),
            exchange: exchange.as_short_str(),
            routing_key: queue.as_short_str(),
            nowait: false,
            arguments: Table::EMPTY,
        };
        let bind = Method::QueueBind(bind);
        connection.call(CHANNEL, &bind).await?;
    }
    let publish = BasicPublish {
        exchange: exchange.as_short_str(),
        routing_key: queue.as_short_str(),
        mandatory: false,
        immediate: false,
    };
    connection.put(CHANNEL, &Method::BasicPublish(publish));
    let frame_max = connection.frame_max;
    content::encode(
        &mut connection.out,
        CHANNEL,
        Properties::EMPTY,
        body,
        frame_max,
    );
    get(&mut connection, &queue, body.len() as u64).await?;
    connection.close().await
}

/// Asks until the message is there.
async fn get(connection: &mut Connection, queue: &ShortString, body_bytes: u64) -> Result<()> {
    let get = BasicGet {
        queue: queue.as_short_str(),
        no_ack: true,
    };
    connection.put(CHANNEL, &Method::BasicGet(get));
    let mut left = body_bytes;
    loop {
        let frame = connection.wait_frame().await?;
        match frame.kind {
            FrameKind::Method => {
                let method = Method::parse(frame.payload)?;
                if let Some(error) = client::refusal(&method) {
                    return Err(error);
                }
                if let Method::BasicGetEmpty(_) = method {
                    connection.put(CHANNEL, &Method::BasicGet(get));
                }
            }
            FrameKind::Header | FrameKind::Body => {
                if frame.kind == FrameKind::Body {
                    left = left.saturating_sub(frame.payload.len() as u64);
                }
                if left == 0 {
                    return Ok(());
                }
            }
            FrameKind::Heartbeat => {}
        }
    }
}
