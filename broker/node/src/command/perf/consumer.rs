//! A consumer: reads deliveries where they lie in the input buffer, counts, checks, acknowledges.
//!
//! Invariants:
//! - no allocation and no copy a message;
//! - acknowledgements of all messages of one read go out in one write, after the last of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use warren_protocol::methods::{BasicConsume, BasicDeliver, BasicQos};
use warren_protocol::{ContentHeader, Frame, FrameKind, Method, ShortStr, Table, hot};

use super::arguments::Ack;
use super::client::{self, Connection};
use super::context::{CHANNEL, Context, Event, Lead, Phase};
use super::gauge::locked;
use super::histogram::Histogram;
use super::stamp::Stamp;

/// Between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Consumer {
    context: Arc<Context>,
    lead: Lead,
    id: u32,
    /// Consume-oks that are still to come.
    starting: u32,
    /// Whether the lead knows that this consumer is ready.
    told: bool,
}

/// The message that is being received.
#[derive(Debug, Clone, Copy, Default)]
struct Arriving {
    delivery_tag: u64,
    redelivered: bool,
    queue: u32,
    /// The header is still to come.
    header: bool,
    body_bytes: u64,
    /// Its first frame has been read.
    stamped: bool,
}

/// What one connection has brought.
#[derive(Debug)]
struct Reader<'a> {
    context: &'a Context,
    consumer: u32,
    arriving: Arriving,
    ack: Ack,
    /// Messages since the last `multiple`, and the last of them.
    unacked: u32,
    last_tag: u64,
    counts: Counts,
}

/// What one read has brought.
#[derive(Debug, Default)]
struct Counts {
    received: u64,
    fresh: u64,
    redelivered: u64,
    foreign: u64,
}

/// Consumes until the load stops.
///
/// # Errors
/// When the connection is lost and is not to be made again.
pub(super) async fn run(context: Arc<Context>, lead: Lead, id: u32) -> Result<()> {
    let mut consumer = Consumer {
        context,
        lead,
        id,
        starting: 0,
        told: false,
    };
    let mut turn = id;
    loop {
        let error = match consumer.work(turn).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !(consumer.context.plan.reconnect && consumer.told) {
            return Err(error);
        }
        if consumer.lead.phase() == Phase::Stop {
            return Ok(());
        }
        turn += 1;
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

impl Consumer {
    /// Connects, consumes, closes.
    async fn work(&mut self, turn: u32) -> Result<()> {
        let context = Arc::clone(&self.context);
        let mut connection = self.subscribe(turn).await?;
        if self.told {
            context.consumer_gauge(self.id).reconnects.add(1);
        }
        let mut reader = Reader {
            context: &context,
            consumer: self.id,
            arriving: Arriving::default(),
            ack: context.plan.ack,
            unacked: 0,
            last_tag: 0,
            counts: Counts::default(),
        };
        while self.lead.phase() != Phase::Stop {
            let read = connection.fill()?;
            if read {
                self.read(&mut connection, &mut reader)?;
            }
            let written = connection.flush()?;
            if self.starting == 0 && !self.told {
                self.told = true;
                self.lead.tell(Event::Ready).await;
            }
            if read {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                ready = connection.ready(!written) => ready?,
                () = self.lead.changed() => {}
            }
        }
        reader.settle_rest(&mut connection);
        // The load is over: a good-bye that fails changes nothing.
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
        Ok(())
    }

    /// Connects and asks for the messages of its queues.
    async fn subscribe(&mut self, turn: u32) -> Result<Connection> {
        let plan = &self.context.plan;
        let mut connection = self.context.connect(plan.consumer_uri(turn)).await?;
        if plan.prefetch > 0 {
            let qos = BasicQos {
                prefetch_size: 0,
                prefetch_count: plan.prefetch,
                // Quorum queues know no other; it holds for each queue that is consumed.
                global: false,
            };
            connection.call(CHANNEL, &Method::BasicQos(qos)).await?;
        }
        self.starting = 0;
        for queue in plan.sources(self.id) {
            let name = plan.queue_name(queue);
            let tag = queue.to_string();
            let consume = BasicConsume {
                queue: ShortStr::new(name.as_bytes())?,
                consumer_tag: ShortStr::new(tag.as_bytes())?,
                no_local: false,
                no_ack: plan.ack == Ack::Auto,
                exclusive: false,
                nowait: false,
                arguments: Table::EMPTY,
            };
            connection.put(CHANNEL, &Method::BasicConsume(consume));
            self.starting += 1;
        }
        Ok(connection)
    }

    /// Takes in all whole frames that were read.
    fn read(&mut self, connection: &mut Connection, reader: &mut Reader<'_>) -> Result<()> {
        let context = Arc::clone(&self.context);
        let gauge = context.consumer_gauge(self.id);
        let now = context.clock.now();
        let mut latency = gauge.latency();
        let mut acks = std::mem::take(&mut connection.out);
        while let Some(frame) = connection.next_frame()? {
            match frame.kind {
                FrameKind::Method => match Method::parse(frame.payload)? {
                    Method::BasicDeliver(deliver) => reader.delivery(&deliver)?,
                    Method::BasicConsumeOk(_) => self.starting = self.starting.saturating_sub(1),
                    method => {
                        if let Some(error) = client::refusal(&method) {
                            return Err(error);
                        }
                    }
                },
                FrameKind::Header | FrameKind::Body => {
                    if reader.content(&frame, now, &mut latency)? {
                        reader.settle(&mut acks);
                    }
                }
                FrameKind::Heartbeat => {}
            }
        }
        connection.out = acks;
        let counts = std::mem::take(&mut reader.counts);
        gauge.received.add(counts.received);
        gauge.fresh.add(counts.fresh);
        gauge.redelivered.add(counts.redelivered);
        gauge.foreign.add(counts.foreign);
        if counts.received > 0 {
            gauge.last_ns.set(now);
        }
        Ok(())
    }
}

impl Reader<'_> {
    #[inline]
    fn delivery(&mut self, deliver: &BasicDeliver<'_>) -> Result<()> {
        let tag = deliver.consumer_tag.as_bytes();
        let digit = |sum: u32, digit: &u8| sum * 10 + u32::from(digit.wrapping_sub(b'0'));
        self.arriving = Arriving {
            delivery_tag: deliver.delivery_tag,
            redelivered: deliver.redelivered,
            // Tags are the queues' numbers, as we gave them.
            queue: tag.iter().fold(0, digit),
            header: true,
            body_bytes: 0,
            stamped: false,
        };
        Ok(())
    }

    /// Takes in a header or body frame; true when the message is whole.
    #[inline]
    fn content(&mut self, frame: &Frame<'_>, now: u64, latency: &mut Histogram) -> Result<bool> {
        if frame.kind == FrameKind::Header {
            if !self.arriving.header {
                bail!("a content header that no delivery announced");
            }
            self.arriving.header = false;
            self.arriving.body_bytes = ContentHeader::parse(frame.payload)?.body_size;
            if self.arriving.body_bytes == 0 {
                self.stamped(b"", now, latency);
            }
            return Ok(self.arriving.body_bytes == 0);
        }
        if !self.arriving.stamped {
            self.arriving.stamped = true;
            self.stamped(frame.payload, now, latency);
        }
        let bytes = frame.payload.len() as u64;
        let rest = self.arriving.body_bytes.checked_sub(bytes);
        self.arriving.body_bytes = rest.context("a body longer than its header said")?;
        Ok(self.arriving.body_bytes == 0)
    }

    /// Looks at the start of a body.
    #[inline]
    fn stamped(&mut self, body: &[u8], now: u64, latency: &mut Histogram) {
        self.counts.received += 1;
        let redelivered = self.arriving.redelivered;
        self.counts.redelivered += u64::from(redelivered);
        let Some(stamp) = Stamp::read(body, self.context.plan.run) else {
            self.counts.foreign += u64::from(self.context.plan.size >= Stamp::BYTES);
            self.counts.fresh += u64::from(!redelivered);
            return;
        };
        if stamp.due_ns >= self.context.measured_from_ns() {
            latency.record(now.saturating_sub(stamp.due_ns));
        }
        let fresh = match self.context.check(self.arriving.queue) {
            Some(check) => locked(check).received(self.consumer, &stamp, redelivered),
            None => !redelivered,
        };
        self.counts.fresh += u64::from(fresh);
    }

    /// Acknowledges the message that has just become whole, if it is time to.
    #[inline]
    fn settle(&mut self, out: &mut bytes::BytesMut) {
        self.last_tag = self.arriving.delivery_tag;
        match self.ack {
            Ack::Auto => {}
            Ack::Each => hot::encode_ack(out, CHANNEL, self.last_tag, false),
            Ack::Multiple(count) => {
                self.unacked += 1;
                if self.unacked >= count {
                    self.unacked = 0;
                    hot::encode_ack(out, CHANNEL, self.last_tag, true);
                }
            }
        }
    }

    fn settle_rest(&mut self, connection: &mut Connection) {
        if self.unacked > 0 {
            hot::encode_ack(&mut connection.out, CHANNEL, self.last_tag, true);
        }
    }
}
