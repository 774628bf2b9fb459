//! A producer: publishes what is due, in batches, and keeps the account of confirms.
//!
//! Invariants:
//! - with a confirm window, no more than so many messages are outstanding;
//! - sequence numbers count per stream without gap; a message that is sent again keeps its own and
//!   the time at which it was due, and goes out before newer ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use warren_protocol::hot::{self, Hot};
use warren_protocol::methods::{ChannelClose, ConfirmSelect};
use warren_protocol::{FrameKind, Method, Properties, ShortStr};

use super::batch::{Batch, Shape};
use super::check::Sent;
use super::client::{self, Connection};
use super::confirms::Confirms;
use super::context::{CHANNEL, Context, Event, Lead, Phase};
use super::gauge::Gauge;
use super::schedule::Schedule;
use super::stamp::{self, Stamp};
use super::system::Timer;

/// Between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How long the good-bye may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What a producer says in the end: what it sent, by stream.
pub(super) type Ended = Vec<(u32, Sent)>;

#[derive(Debug)]
struct Publisher {
    context: Arc<Context>,
    lead: Lead,
    id: u32,
    first_stream: u32,
    /// The next sequence number of each stream.
    next: Vec<u64>,
    /// Messages taken from the schedule so far.
    taken: u64,
    share: Option<u64>,
    schedule: Option<Schedule>,
    timer: Timer,
    confirms: Option<Confirms>,
    /// To be sent again.
    resend: VecDeque<Stamp>,
    /// Refused by the broker; kept for the check.
    nacked: Vec<Stamp>,
    random: u64,
    /// New messages in the batch that is being written.
    batch_new: u64,
}

/// Publishes until its share is done or the load ends.
///
/// # Errors
/// When the connection is lost and is not to be made again.
pub(super) async fn run(context: Arc<Context>, lead: Lead, id: u32) -> Result<Ended> {
    let mut publisher = Publisher::new(context, lead, id)?;
    let (mut connection, mut batch) = publisher.connect(id).await?;
    publisher.lead.tell(Event::Ready).await;
    while publisher.lead.phase() == Phase::Setup {
        publisher.lead.changed().await;
    }
    publisher.start();
    let mut turn = id;
    while let Err(error) = publisher.publish(&mut connection, &mut batch).await {
        if !publisher.context.plan.reconnect {
            return Err(error);
        }
        publisher.connection_lost(&mut batch);
        drop(connection);
        (connection, batch) = loop {
            turn += 1;
            if publisher.lead.phase() == Phase::Stop {
                return Ok(publisher.end());
            }
            match publisher.connect(turn).await {
                Ok(connected) => break connected,
                Err(_) => tokio::time::sleep(RECONNECT_PAUSE).await,
            }
        };
        publisher.gauge().reconnects.add(1);
    }
    publisher.lead.tell(Event::Finished).await;
    // All is confirmed: a good-bye that fails changes nothing.
    let _ = tokio::time::timeout(CLOSE_LIMIT, close(connection)).await;
    Ok(publisher.end())
}

/// Closes the channel first: a broker may drop what a channel has not worked through when its
/// connection closes.
async fn close(mut connection: Connection) -> Result<()> {
    let close = ChannelClose {
        reply_code: 200,
        reply_text: ShortStr::from_static("bye"),
        class_id: 0,
        method_id: 0,
    };
    connection
        .call(CHANNEL, &Method::ChannelClose(close))
        .await?;
    connection.close().await
}

impl Publisher {
    fn new(context: Arc<Context>, lead: Lead, id: u32) -> Result<Self> {
        let plan = &context.plan;
        Ok(Self {
            id,
            lead,
            // `Plan` has checked that all streams have a number.
            first_stream: plan.first_stream(id) as u32,
            next: vec![0; plan.targets(id).count()],
            taken: 0,
            share: plan.share(id),
            schedule: None,
            timer: Timer::new()?,
            confirms: plan.confirm.map(Confirms::new),
            resend: VecDeque::new(),
            nacked: Vec::new(),
            random: 0x9e37_79b9_7f4a_7c15 ^ u64::from(id) << 32 | 1,
            batch_new: 0,
            context,
        })
    }

    async fn connect(&self, turn: u32) -> Result<(Connection, Batch)> {
        let plan = &self.context.plan;
        let mut connection = self.context.connect(plan.uri(turn)).await?;
        if plan.confirm.is_some() {
            let select = Method::ConfirmSelect(ConfirmSelect { nowait: false });
            connection.call(CHANNEL, &select).await?;
        }
        let mode = if plan.persistent { 2 } else { 1 };
        let properties = Properties::EMPTY.edit().delivery_mode(mode).finish();
        let shape = Shape {
            exchange: plan.exchange(),
            mandatory: plan.mandatory,
            properties: &properties,
            body: &stamp::blank_body(plan.size, plan.run),
            frame_max: connection.frame_max,
        };
        let keys = plan.targets(self.id).map(|queue| plan.queue_name(queue));
        let batch = Batch::new(CHANNEL, keys, &shape)?;
        Ok((connection, batch))
    }

    fn gauge(&self) -> &Gauge {
        self.context.producer_gauge(self.id)
    }

    /// What was laid out is sent, or else lost with its connection and sent again.
    fn count_batch(&mut self) {
        let messages = std::mem::take(&mut self.batch_new);
        self.gauge().sent.add(messages);
    }

    fn start(&mut self) {
        let plan = &self.context.plan;
        if let (Phase::Publish { start_ns }, Some(rate)) = (self.lead.phase(), plan.rate) {
            self.schedule = Some(Schedule::new(start_ns, rate, self.id, plan.producers));
        }
    }

    /// Publishes until all is sent and confirmed, or the load stops.
    async fn publish(&mut self, connection: &mut Connection, batch: &mut Batch) -> Result<()> {
        loop {
            let phase = self.lead.phase();
            let publishing = matches!(phase, Phase::Publish { .. });
            if batch.is_written() {
                self.next_batch(batch, publishing);
                if phase == Phase::Stop || (batch.is_written() && self.is_done(publishing)) {
                    return Ok(());
                }
            }
            let idle = batch.is_written();
            let written = connection.flush()? && batch.write(connection)?;
            let read = connection.fill()?;
            if read {
                self.read(connection)?;
            }
            if phase == Phase::Stop {
                return Ok(());
            }
            if read || (written && !idle) {
                // Others on this thread take their turn.
                tokio::task::yield_now().await;
            } else {
                self.wait(connection, !written, publishing).await?;
            }
        }
    }

    /// Whether nothing is left to send or to wait for.
    fn is_done(&self, publishing: bool) -> bool {
        let all_taken = !publishing || self.share.is_some_and(|share| self.taken >= share);
        let confirmed = self
            .confirms
            .as_ref()
            .is_none_or(|all| all.outstanding() == 0);
        all_taken && confirmed && self.resend.is_empty()
    }

    /// Waits for the broker, the next message that is due, or the next phase.
    async fn wait(&mut self, connection: &Connection, write: bool, publish: bool) -> Result<()> {
        let due = match &self.schedule {
            Some(schedule) if publish && !write && self.may_send() => {
                Some(schedule.due(self.taken))
            }
            _ => None,
        };
        let until = due.map_or(0, |due| due.saturating_sub(self.context.clock.now()));
        tokio::select! {
            biased;
            ready = connection.ready(write) => ready,
            waited = self.timer.wait(until), if due.is_some() => Ok(waited?),
            () = self.lead.changed() => Ok(()),
        }
    }

    fn may_send(&self) -> bool {
        self.share.is_none_or(|share| self.taken < share)
            && self.confirms.as_ref().is_none_or(Confirms::has_room)
    }

    /// Counts what was written and lays out what may be sent now.
    fn next_batch(&mut self, batch: &mut Batch, publishing: bool) {
        batch.clear();
        self.count_batch();
        let now = self.context.clock.now();
        while !batch.is_full() && self.confirms.as_ref().is_none_or(Confirms::has_room) {
            let stamp = match self.resend.pop_front() {
                Some(stamp) => stamp,
                None if publishing => match self.take(now) {
                    Some(stamp) => stamp,
                    None => break,
                },
                None => break,
            };
            batch.push((stamp.stream - self.first_stream) as usize, &stamp);
            if let Some(confirms) = &mut self.confirms {
                confirms.sent(stamp);
            }
        }
    }

    /// The next new message, if it is due.
    #[inline]
    fn take(&mut self, now: u64) -> Option<Stamp> {
        if self.share.is_some_and(|share| self.taken >= share) {
            return None;
        }
        let due_ns = match &self.schedule {
            Some(schedule) => Some(schedule.due(self.taken)).filter(|due| *due <= now)?,
            None => now,
        };
        let target = self.target();
        let sequence = self.next[target];
        self.next[target] += 1;
        self.taken += 1;
        self.batch_new += 1;
        Some(Stamp {
            resent: false,
            stream: self.first_stream + target as u32,
            sequence,
            due_ns,
        })
    }

    #[inline]
    fn target(&mut self) -> usize {
        let targets = self.next.len() as u64;
        if targets == 1 {
            return 0;
        }
        if !self.context.plan.random {
            return (self.taken % targets) as usize;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % targets) as usize
    }

    /// Reads all frames that are there.
    fn read(&mut self, connection: &mut Connection) -> Result<()> {
        let now = self.context.clock.now();
        while let Some(frame) = connection.next_frame()? {
            if frame.kind != FrameKind::Method {
                continue; // heartbeats, and the content of what is returned
            }
            match hot::parse(frame.payload) {
                Some(Hot::Ack(ack)) => self.confirmed(ack.delivery_tag, ack.multiple, now),
                Some(Hot::Nack(nack)) => self.refused(nack.delivery_tag, nack.multiple),
                _ => self.other(&Method::parse(frame.payload)?)?,
            }
        }
        Ok(())
    }

    fn other(&self, method: &Method<'_>) -> Result<()> {
        if let Some(error) = client::refusal(method) {
            return Err(error);
        }
        match method {
            Method::BasicReturn(_) => self.gauge().returned.add(1),
            Method::ConnectionBlocked(_) => self.gauge().blocked.add(1),
            _ => {}
        }
        Ok(())
    }

    fn confirmed(&mut self, tag: u64, multiple: bool, now: u64) {
        let Some(confirms) = &mut self.confirms else {
            return;
        };
        let gauge = self.context.producer_gauge(self.id);
        let measured_from = self.context.measured_from_ns();
        let mut latency = gauge.confirm_latency();
        let mut count = 0;
        confirms.settle(tag, multiple, |stamp| {
            count += 1;
            if stamp.due_ns >= measured_from {
                latency.record(now.saturating_sub(stamp.due_ns));
            }
        });
        gauge.confirmed.add(count);
        gauge.last_ns.set(now);
    }

    fn refused(&mut self, tag: u64, multiple: bool) {
        let Some(confirms) = &mut self.confirms else {
            return;
        };
        let gauge = self.context.producer_gauge(self.id);
        let keep = self.context.plan.check;
        let nacked = &mut self.nacked;
        confirms.settle(tag, multiple, |stamp| {
            gauge.nacked.add(1);
            if keep {
                nacked.push(stamp);
            }
        });
    }

    /// What was outstanding is to be sent again, before what had been waiting for that already.
    fn connection_lost(&mut self, batch: &mut Batch) {
        batch.clear();
        self.count_batch();
        let Some(confirms) = &mut self.confirms else {
            return;
        };
        let mut again: VecDeque<Stamp> = confirms
            .take_back()
            .map(|stamp| Stamp {
                resent: true,
                ..stamp
            })
            .collect();
        self.context
            .producer_gauge(self.id)
            .resent
            .add(again.len() as u64);
        again.append(&mut self.resend);
        self.resend = again;
    }

    fn end(mut self) -> Ended {
        self.count_batch();
        let outstanding = self.confirms.iter_mut().flat_map(Confirms::take_back);
        let mut unconfirmed: Vec<_> = outstanding
            .chain(self.resend.drain(..))
            .chain(self.nacked.drain(..))
            .map(|stamp| (stamp.stream, stamp.sequence))
            .collect();
        unconfirmed.sort_unstable();
        let mut streams: Ended = (self.first_stream..)
            .zip(&self.next)
            .map(|(stream, count)| {
                let sent = Sent {
                    count: *count,
                    unconfirmed: Vec::new(),
                };
                (stream, sent)
            })
            .collect();
        for (stream, sequence) in unconfirmed {
            let at = (stream - self.first_stream) as usize;
            streams[at].1.unconfirmed.push(sequence);
        }
        streams
    }
}
