//! lapin, with every answer bounded in time, and no more of it than these tests need.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures_lite::{Stream, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, Event,
    PublisherConfirm, message,
};

/// For one answer of the broker.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Messages that a draining consumer may hold, and how many it acknowledges at once.
const PREFETCH: u16 = 2_000;
const ACK_EVERY: u64 = 500;

/// Waits for an answer; `what` is named when it does not come.
pub(crate) async fn answer<T, E>(what: &str, call: impl Future<Output = Result<T, E>>) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match tokio::time::timeout(ANSWER_LIMIT, call).await {
        Ok(answer) => answer.with_context(|| what.to_owned()),
        Err(_) => bail!("waited {ANSWER_LIMIT:?} for {what}"),
    }
}

/// A connection with one channel in confirm mode.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) channel: Channel,
}

/// What kind of queue to declare.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Durable,
    Transient,
    Exclusive,
    Passive,
}

impl Client {
    pub(crate) async fn connect(uri: &str) -> Result<Self> {
        let properties = ConnectionProperties::default();
        let connection = answer("connect", Connection::connect(uri, properties)).await?;
        let channel = answer("channel.open-ok", connection.create_channel()).await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        answer("confirm.select-ok", select).await?;
        Ok(Self {
            connection,
            channel,
        })
    }

    /// Declares a queue; gives the number of its ready messages.
    pub(crate) async fn declare(&self, queue: &str, kind: Kind) -> Result<u32> {
        let options = QueueDeclareOptions {
            durable: matches!(kind, Kind::Durable),
            exclusive: matches!(kind, Kind::Exclusive),
            passive: matches!(kind, Kind::Passive),
            ..QueueDeclareOptions::default()
        };
        let declare = self
            .channel
            .queue_declare(queue.into(), options, FieldTable::default());
        Ok(answer("queue.declare-ok", declare).await?.message_count())
    }

    /// Fails unless the queue has this many ready messages.
    pub(crate) async fn must_hold(&self, queue: &str, messages: u64) -> Result<()> {
        let found = u64::from(self.declare(queue, Kind::Passive).await?);
        ensure!(
            found == messages,
            "'{queue}' has {found} messages, not {messages}"
        );
        Ok(())
    }

    /// Publishes to a queue, as persistent; the confirm is the caller's to wait for.
    pub(crate) async fn send(&self, queue: &str, body: &[u8]) -> Result<PublisherConfirm> {
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default().with_delivery_mode(2);
        let publish =
            self.channel
                .basic_publish("".into(), queue.into(), options, body, properties);
        answer("a publish to be taken", publish).await
    }

    /// Publishes and waits for the confirm.
    pub(crate) async fn publish(&self, queue: &str, body: &[u8]) -> Result<()> {
        match answer("a confirm", self.send(queue, body).await?).await? {
            Confirmation::Ack(None) => Ok(()),
            other => Err(anyhow!("not confirmed: {other:?}")),
        }
    }

    pub(crate) async fn get(&self, queue: &str) -> Result<Option<message::BasicGetMessage>> {
        let get = self
            .channel
            .basic_get(queue.into(), BasicGetOptions { no_ack: false });
        answer("basic.get-ok", get).await
    }

    pub(crate) async fn consume(&self, queue: &str) -> Result<Consumer> {
        let qos = self.channel.basic_qos(PREFETCH, BasicQosOptions::default());
        answer("basic.qos-ok", qos).await?;
        let consume = self.channel.basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        answer("basic.consume-ok", consume).await
    }

    /// Consumes `count` messages and acknowledges them; `look` sees each body.
    pub(crate) async fn drain(
        &self,
        queue: &str,
        count: u64,
        mut look: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut consumer = self.consume(queue).await?;
        for number in 0..count {
            let what = format!("message {number} of {count} from '{queue}'");
            let next = async { consumer.next().await.transpose() };
            let delivery = answer(&what, next).await?;
            let delivery = delivery.with_context(|| format!("cancelled before {what}"))?;
            look(number, &delivery.data)?;
            if number % ACK_EVERY == ACK_EVERY - 1 || number + 1 == count {
                let options = BasicAckOptions { multiple: true };
                answer("an ack to be taken", delivery.acker.ack(options)).await?;
            }
        }
        let cancel = self
            .channel
            .basic_cancel(consumer.tag(), Default::default());
        answer("basic.cancel-ok", cancel).await
    }

    pub(crate) async fn close(self) -> Result<()> {
        let close = self.connection.close(200, "done".into());
        answer("connection.close-ok", close).await
    }
}

/// Waits until the events of a connection satisfy `found`.
pub(crate) async fn event(
    what: &str,
    events: &mut (impl Stream<Item = Event> + Unpin),
    found: impl Fn(&Event) -> bool,
) -> Result<Event> {
    let search = async {
        while let Some(event) = events.next().await {
            if found(&event) {
                return Ok(event);
            }
        }
        bail!("the connection ended, waiting for {what}")
    };
    match tokio::time::timeout(ANSWER_LIMIT, search).await {
        Ok(event) => event,
        Err(_) => bail!("waited {ANSWER_LIMIT:?} for {what}"),
    }
}
