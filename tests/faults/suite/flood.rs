//! A publisher that goes on until the broker blocks it, and a consumer that frees it again.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use futures_lite::{Stream, StreamExt};
use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::{BasicProperties, Confirmation, Event, PublisherConfirm};
use tokio::task::JoinHandle;

use crate::client::{Client, answer, event};

/// Messages that are published, numbered from 0, until the flood is stopped.
pub(crate) struct Flood {
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    stopped: Arc<AtomicBool>,
    task: JoinHandle<Result<Answers>>,
}

/// What the broker said of the messages that were published, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) confirmed: BTreeSet<u64>,
    pub(crate) refused: BTreeSet<u64>,
}

impl Answers {
    /// Waits for the broker's word on a message.
    pub(crate) async fn take(&mut self, number: u64, confirm: PublisherConfirm) -> Result<()> {
        match answer("an ack or a nack", confirm).await? {
            Confirmation::Ack(None) => self.confirmed.insert(number),
            Confirmation::Nack(_) => self.refused.insert(number),
            other => bail!("message {number}: {other:?}"),
        };
        Ok(())
    }

    /// Fails unless `found` are the confirmed ones, all of them, in order.
    pub(crate) fn must_be(&self, found: &[u64]) -> Result<()> {
        ensure!(found.is_sorted(), "out of order: {found:?}");
        let found: BTreeSet<u64> = found.iter().copied().collect();
        let lost: Vec<_> = self.confirmed.difference(&found).collect();
        ensure!(lost.is_empty(), "confirmed and lost: {lost:?}");
        let ghosts: Vec<_> = found.difference(&self.confirmed).collect();
        ensure!(ghosts.is_empty(), "not confirmed and delivered: {ghosts:?}");
        Ok(())
    }
}

/// A body that begins with the message's number.
pub(crate) fn body(number: u64, bytes: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(bytes, b'f');
    body
}

/// The number of a message by its body.
pub(crate) fn number_of(body: &[u8]) -> u64 {
    body.first_chunk()
        .map_or(u64::MAX, |number| u64::from_be_bytes(*number))
}

impl Flood {
    /// Publishes bodies of `bytes`, `limit` times at most, without waiting for confirms.
    pub(crate) fn start(publisher: &Client, queue: &'static str, limit: u64, bytes: usize) -> Self {
        let events = Box::pin(publisher.connection.events_listener());
        let stopped = Arc::new(AtomicBool::new(false));
        let (channel, stop) = (publisher.channel.clone(), Arc::clone(&stopped));
        let task = tokio::spawn(async move {
            let mut confirms = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = confirms.len() as u64;
                ensure!(number < limit, "{limit} messages, and never blocked");
                let options = BasicPublishOptions::default();
                let properties = BasicProperties::default().with_delivery_mode(2);
                let body = body(number, bytes);
                let publish =
                    channel.basic_publish("".into(), queue.into(), options, &body, properties);
                // While the connection is blocked, the client holds it back.
                confirms.push(answer("a publish to be taken", publish).await?);
                tokio::task::yield_now().await;
            }
            let mut answers = Answers::default();
            for (number, confirm) in (0..).zip(confirms) {
                answers.take(number, confirm).await?;
            }
            Ok(answers)
        });
        Self {
            events,
            stopped,
            task,
        }
    }

    /// Waits for `connection.blocked`; gives its reason. The flood then ends as soon as it can.
    pub(crate) async fn blocked(&mut self) -> Result<String> {
        let what = "connection.blocked";
        let is_blocked = |event: &Event| matches!(event, Event::ConnectionBlocked(_));
        let blocked = event(what, &mut self.events, is_blocked).await?;
        self.stopped.store(true, Ordering::Relaxed);
        match blocked {
            Event::ConnectionBlocked(reason) => Ok(reason),
            other => bail!("{other:?}"),
        }
    }

    /// Consumes all that was confirmed, while the publisher is freed again. Fails when something is
    /// missing, out of order, or was not confirmed.
    pub(crate) async fn drain(mut self, consumer: &Client, queue: &str) -> Result<Answers> {
        let mut deliveries = consumer.consume(queue).await?;
        let (mut answers, mut found) = (None::<Answers>, Vec::new());
        while answers
            .as_ref()
            .is_none_or(|a| found.len() < a.confirmed.len())
        {
            let next = async {
                tokio::select! {
                    ended = &mut self.task, if answers.is_none() => Ok((Some(ended), None)),
                    delivery = deliveries.next() => {
                        delivery.transpose().map(|delivery| (None, delivery))
                    }
                }
            };
            match answer(&format!("message {} from '{queue}'", found.len()), next).await? {
                (Some(ended), _) => answers = Some(ended??),
                (None, Some(delivery)) => {
                    found.push(number_of(&delivery.data));
                    let ack = delivery.acker.ack(BasicAckOptions::default());
                    answer("an ack to be taken", ack).await?;
                }
                (None, None) => bail!("cancelled after {} messages", found.len()),
            }
        }
        let is_unblocked = |event: &Event| matches!(event, Event::ConnectionUnblocked);
        event("connection.unblocked", &mut self.events, is_unblocked).await?;
        let cancel = consumer
            .channel
            .basic_cancel(deliveries.tag(), Default::default());
        answer("basic.cancel-ok", cancel).await?;
        let answers = answers.context("the flood has ended")?;
        answers.must_be(&found)?;
        Ok(answers)
    }
}
