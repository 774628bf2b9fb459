//! Declares queues, pipelined: how fast, and what one costs the broker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use warren_protocol::methods::{QueueDeclare, QueueDelete};
use warren_protocol::{FrameKind, Method, ShortStr, Table};

use super::arguments::{Common, Declare, at_least_one};
use super::bulk::{Bulk, Outcome};
use super::client::{self, Connection, Options};
use super::clock::Clock;
use super::report::print;
use super::threads::{self, Threads};
use super::uri::Uri;

const INPUT_BYTES: usize = 64 * 1024;

#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// How many to declare.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    queues: u32,
    #[command(flatten)]
    declare: Declare,
    /// Declare transient queues; durable ones otherwise.
    #[arg(long, conflicts_with = "durable")]
    transient: bool,
    /// Connections that declare at the same time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    connections: u32,
    /// Channels of each connection.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = channel())]
    channels: u16,
    /// Declares on their way on each channel.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one())]
    window: u32,
    /// Delete the queues afterwards, and measure that too.
    #[arg(long)]
    cleanup: bool,
}

/// Parses the number of channels.
fn channel() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=2047)
}

/// What to do with each queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Declare,
    Delete,
}

#[derive(Debug)]
struct Shared {
    bulk: Bulk,
    act: Act,
    uris: Vec<Uri>,
    prefix: String,
    durable: bool,
    arguments: Vec<u8>,
    channels: u16,
    window: u32,
}

#[derive(Debug, Serialize)]
struct Report {
    load: &'static str,
    ok: bool,
    errors: Vec<String>,
    #[serde(flatten)]
    declare: Outcome,
    delete: Option<Outcome>,
}

/// Runs the load and prints its report; gives the exit code.
///
/// # Errors
/// When it cannot begin.
pub(super) fn run(arguments: &Arguments) -> Result<i32> {
    let mut threads = Threads::start(usize::from(arguments.common.threads.unwrap_or(1)))?;
    let report = threads::runtime()?.block_on(async {
        let mut errors = Vec::new();
        let declare = act(Act::Declare, arguments, &mut threads, &mut errors).await?;
        let delete = if arguments.cleanup {
            Some(act(Act::Delete, arguments, &mut threads, &mut errors).await?)
        } else {
            None
        };
        anyhow::Ok(Report {
            load: "queues",
            ok: errors.is_empty(),
            errors,
            declare,
            delete,
        })
    })?;
    print(&report, arguments.common.json)?;
    Ok(i32::from(!report.ok))
}

async fn act(
    act: Act,
    arguments: &Arguments,
    threads: &mut Threads,
    errors: &mut Vec<String>,
) -> Result<Outcome> {
    let shared = Arc::new(Shared {
        bulk: Bulk::new(Clock::start(), u64::from(arguments.queues)),
        act,
        uris: arguments.common.uri.clone(),
        prefix: arguments.declare.prefix(),
        durable: !arguments.transient,
        arguments: arguments.declare.arguments(),
        channels: arguments.channels,
        window: arguments.window,
    });
    let mut workers: Vec<_> = (0..arguments.connections)
        .map(|turn| threads.spawn(work(Arc::clone(&shared), turn as usize)))
        .collect();
    let what = match act {
        Act::Declare => "declared",
        Act::Delete => "deleted",
    };
    let outcome = shared
        .bulk
        .watch(what, &mut workers, None, &arguments.common)
        .await?;
    errors.extend(shared.bulk.take_error().map(|error| format!("{error:#}")));
    Ok(outcome)
}

/// One connection with its channels, each with its window.
async fn work(shared: Arc<Shared>, turn: usize) -> Result<()> {
    let result = pipeline(&shared, turn).await;
    result.inspect_err(|_| shared.bulk.stop())
}

async fn pipeline(shared: &Shared, turn: usize) -> Result<()> {
    let uri = &shared.uris[turn % shared.uris.len()];
    let options = Options {
        input_bytes: INPUT_BYTES,
        ..Options::SMALL
    };
    let mut connection = Connection::open(uri, options).await?;
    // When each was sent, by channel: answers come in that order.
    let mut began = vec![VecDeque::new(); usize::from(shared.channels) + 1];
    let mut outstanding = 0;
    for channel in 1..=shared.channels {
        connection.open_channel(channel).await?;
    }
    let window = usize::from(shared.channels) * shared.window as usize;
    for channel in (1..=shared.channels).cycle().take(window) {
        outstanding += put_next(shared, &mut connection, channel, &mut began)?;
    }
    while outstanding > 0 {
        let frame = connection.wait_frame().await?;
        if frame.kind == FrameKind::Heartbeat {
            continue;
        }
        let channel = frame.channel;
        if let Some(error) = client::refusal(&Method::parse(frame.payload)?) {
            return Err(error);
        }
        let waiting = began
            .get_mut(usize::from(channel))
            .context("an unknown channel")?;
        let began_ns = waiting
            .pop_front()
            .context("an answer that nobody asked for")?;
        shared.bulk.finish(began_ns);
        outstanding -= 1;
        outstanding += put_next(shared, &mut connection, channel, &mut began)?;
    }
    // All is done: a good-bye that fails changes nothing.
    let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
    Ok(())
}

/// Lays out the method for the next queue; gives how many are on their way more.
fn put_next(
    shared: &Shared,
    connection: &mut Connection,
    channel: u16,
    began: &mut [VecDeque<u64>],
) -> Result<usize> {
    let Some(piece) = shared.bulk.take() else {
        return Ok(0);
    };
    let name = format!("{}-{piece}", shared.prefix);
    let queue = ShortStr::new(name.as_bytes())?;
    let method = match shared.act {
        Act::Declare => Method::QueueDeclare(QueueDeclare {
            queue,
            passive: false,
            durable: shared.durable,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: Table::from_raw(&shared.arguments),
        }),
        Act::Delete => Method::QueueDelete(QueueDelete {
            queue,
            if_unused: false,
            if_empty: false,
            nowait: false,
        }),
    };
    connection.put(channel, &method);
    began[usize::from(channel)].push_back(shared.bulk.clock.now());
    Ok(1)
}
