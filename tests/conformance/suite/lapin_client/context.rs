//! What every lapin check uses: connections, unique names, waits with a name, clean-up.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_lite::{StreamExt, future};
use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    ExchangeKind,
};
use tokio::sync::Mutex as AsyncMutex;

use crate::outcome::{CheckResult, Stop, equal};
use crate::raw;

/// For one answer of the broker.
pub(super) const WAIT_LIMIT: Duration = Duration::from_secs(8);

/// Why a call gave nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The broker closed the channel or the connection.
    Closed { code: u16, text: String },
    /// Anything else, with what was asked.
    Other(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code, text } => write!(f, "closed by the broker: {code} {text}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

pub(super) type Answer<T> = Result<T, Trouble>;

/// Waits for an answer, bounded in time; `what` is named when it does not come.
pub(super) async fn answer<T>(
    what: &str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Answer<T> {
    match tokio::time::timeout(WAIT_LIMIT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(match error.kind() {
            ErrorKind::ProtocolError(reason) => Trouble::Closed {
                code: reason.get_id(),
                text: reason.get_message().to_string(),
            },
            _ => Trouble::Other(format!("{what}: {error}")),
        }),
        Err(_) => Err(Trouble::Other(format!("waited {WAIT_LIMIT:?} for {what}"))),
    }
}

/// The call must be answered by a close with this code and text.
#[track_caller]
pub(super) fn refused<T>(
    code: u16,
    text: impl Into<String>,
    call: impl Future<Output = Answer<T>>,
) -> impl Future<Output = CheckResult> {
    let line = std::panic::Location::caller();
    let text = text.into();
    async move {
        match call.await {
            Ok(_) => Err(Stop::Failed(format!(
                "{line}: not refused; expected {code} {text}"
            ))),
            Err(Trouble::Closed {
                code: found,
                text: why,
            }) => equal((found, why), (code, text), "close").map_err(|stop| match stop {
                Stop::Failed(reason) => Stop::Failed(format!("{line}: {reason}")),
                skipped @ Stop::Skipped(_) => skipped,
            }),
            Err(other) => Err(Stop::Failed(format!("{line}: {other}"))),
        }
    }
}

pub(super) fn no_queue(name: &str) -> String {
    format!("NOT_FOUND - no queue '{name}' in vhost '/'")
}

pub(super) fn no_exchange(name: &str) -> String {
    format!("NOT_FOUND - no exchange '{name}' in vhost '/'")
}

/// A field table from pairs.
pub(super) fn table<const N: usize>(pairs: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in pairs {
        table.insert(key.into(), value);
    }
    table
}

pub(super) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// "body", or "body again" for a redelivered message.
pub(super) fn seen(delivery: &Delivery) -> String {
    let again = if delivery.redelivered { " again" } else { "" };
    format!("{}{again}", String::from_utf8_lossy(&delivery.data))
}

/// One check's connections and what it declared.
pub(super) struct Context {
    check: &'static str,
    url: String,
    main: AsyncMutex<Option<std::sync::Arc<Connection>>>,
    queues: Mutex<Vec<String>>,
    exchanges: Mutex<Vec<String>>,
}

impl Context {
    pub(super) fn new(check: &'static str, url: &str) -> Self {
        Self {
            check,
            url: url.to_owned(),
            main: AsyncMutex::default(),
            queues: Mutex::default(),
            exchanges: Mutex::default(),
        }
    }

    pub(super) fn uri(&self) -> Result<AMQPUri, Stop> {
        AMQPUri::from_str(&self.url).map_err(Stop::Failed)
    }

    pub(super) async fn connect(&self) -> Result<Connection, Stop> {
        self.connect_with(|_| ()).await.map_err(Stop::from)
    }

    pub(super) async fn connect_with(
        &self,
        change: impl FnOnce(&mut AMQPUri),
    ) -> Answer<Connection> {
        let mut uri = AMQPUri::from_str(&self.url).map_err(Trouble::Other)?;
        change(&mut uri);
        answer(
            "connect",
            Connection::connect_uri(uri, ConnectionProperties::default()),
        )
        .await
    }

    /// The check's own connection, opened at first use.
    pub(super) async fn main(&self) -> Result<std::sync::Arc<Connection>, Stop> {
        let mut main = self.main.lock().await;
        if main.is_none() {
            *main = Some(std::sync::Arc::new(self.connect().await?));
        }
        Ok(main.clone().expect("it was opened just now"))
    }

    /// A channel of the check's own connection, in confirm mode.
    pub(super) async fn channel(&self) -> Result<Ch, Stop> {
        let ch = self.plain().await?;
        ch.confirm().await?;
        Ok(ch)
    }

    pub(super) async fn plain(&self) -> Result<Ch, Stop> {
        Ok(Ch::open(&*self.main().await?).await?)
    }

    pub(super) fn name(&self, suffix: &str) -> String {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        format!(
            "conf.lapin.{}.{suffix}.{:x}.{number:x}",
            self.check,
            std::process::id()
        )
    }

    /// A queue name that is deleted at the end.
    pub(super) fn queue_name(&self) -> String {
        let name = self.name("q");
        self.queues
            .lock()
            .expect("no holder panics")
            .push(name.clone());
        name
    }

    pub(super) async fn queue(&self, ch: &Ch) -> Answer<String> {
        self.queue_with(ch, QueueDeclareOptions::durable()).await
    }

    pub(super) async fn queue_with(&self, ch: &Ch, options: QueueDeclareOptions) -> Answer<String> {
        let name = self.queue_name();
        ch.declare(&name, options, FieldTable::default()).await?;
        Ok(name)
    }

    /// A queue with the messages 1, 2 and 3.
    pub(super) async fn three(&self, ch: &Ch) -> Answer<String> {
        let queue = self.queue(ch).await?;
        for body in ["1", "2", "3"] {
            ch.publish("", &queue, body).await?;
        }
        Ok(queue)
    }

    pub(super) async fn exchange(&self, ch: &Ch, kind: ExchangeKind) -> Answer<String> {
        self.exchange_with(
            ch,
            kind,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await
    }

    pub(super) async fn exchange_with(
        &self,
        ch: &Ch,
        kind: ExchangeKind,
        options: ExchangeDeclareOptions,
        arguments: FieldTable,
    ) -> Answer<String> {
        let name = self.name("x");
        self.exchanges
            .lock()
            .expect("no holder panics")
            .push(name.clone());
        ch.declare_exchange(&name, kind, options, arguments).await?;
        Ok(name)
    }

    /// Closes the channel that holds messages and gives what is then in the queue, in order.
    pub(super) async fn left(&self, ch: &Ch, queue: &str) -> Result<Vec<String>, Stop> {
        answer("channel.close-ok", ch.raw.close(200, "done".into())).await?;
        Ok(self.channel().await?.drain(queue).await?)
    }

    /// Skips the check when the broker is older.
    pub(super) fn since(&self, major: u32, minor: u32, reason: &str) -> CheckResult {
        if raw::server(&self.url)?.version < (major, minor) {
            return Err(Stop::Skipped(format!("since {major}.{minor} {reason}")));
        }
        Ok(())
    }

    /// The broker's version and whether it is Warren; lapin keeps server properties to itself.
    pub(super) fn server(&self) -> Result<raw::Server, Stop> {
        raw::server(&self.url)
    }

    pub(super) async fn clean_up(&self) -> CheckResult {
        if let Some(main) = self.main.lock().await.take() {
            // It may have been closed by the broker, as the check wanted.
            let _ = answer("connection.close-ok", main.close(200, "done".into())).await;
        }
        let queues = std::mem::take(&mut *self.queues.lock().expect("no holder panics"));
        let exchanges = std::mem::take(&mut *self.exchanges.lock().expect("no holder panics"));
        if queues.is_empty() && exchanges.is_empty() {
            return Ok(());
        }
        let connection = self.connect().await?;
        let ch = Ch::open(&connection).await?;
        for name in queues {
            ch.delete(&name, QueueDeleteOptions::default()).await?;
        }
        for name in exchanges {
            ch.delete_exchange(&name, false).await?;
        }
        Ok(answer("connection.close-ok", connection.close(200, "done".into())).await?)
    }
}

/// A channel whose calls are bounded in time.
pub(super) struct Ch {
    pub(super) raw: Channel,
}

impl Ch {
    pub(super) async fn open(connection: &Connection) -> Answer<Self> {
        Ok(Self {
            raw: answer("channel.open-ok", connection.create_channel()).await?,
        })
    }

    pub(super) async fn confirm(&self) -> Answer<()> {
        let select = self.raw.confirm_select(ConfirmSelectOptions::default());
        answer("confirm.select-ok", select).await
    }

    /// (ready messages, consumers) of the declared queue.
    pub(super) async fn declare(
        &self,
        name: &str,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Answer<(String, u32, u32)> {
        let declare = self.raw.queue_declare(name.into(), options, arguments);
        let queue = answer("queue.declare-ok", declare).await?;
        Ok((
            queue.name().to_string(),
            queue.message_count(),
            queue.consumer_count(),
        ))
    }

    /// (ready messages, consumers) by a passive declare.
    pub(super) async fn depth(&self, name: &str) -> Answer<(u32, u32)> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let (_, messages, consumers) = self.declare(name, options, FieldTable::default()).await?;
        Ok((messages, consumers))
    }

    pub(super) async fn delete(&self, name: &str, options: QueueDeleteOptions) -> Answer<u32> {
        answer(
            "queue.delete-ok",
            self.raw.queue_delete(name.into(), options),
        )
        .await
    }

    pub(super) async fn bind(
        &self,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: FieldTable,
    ) -> Answer<()> {
        let options = QueueBindOptions::default();
        let bind = self.raw.queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            options,
            arguments,
        );
        answer("queue.bind-ok", bind).await
    }

    pub(super) async fn unbind(
        &self,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: FieldTable,
    ) -> Answer<()> {
        let unbind = self
            .raw
            .queue_unbind(queue.into(), exchange.into(), key.into(), arguments);
        answer("queue.unbind-ok", unbind).await
    }

    pub(super) async fn declare_exchange(
        &self,
        name: &str,
        kind: ExchangeKind,
        options: ExchangeDeclareOptions,
        arguments: FieldTable,
    ) -> Answer<()> {
        let declare = self
            .raw
            .exchange_declare(name.into(), kind, options, arguments);
        answer("exchange.declare-ok", declare).await
    }

    pub(super) async fn passive_exchange(&self, name: &str) -> Answer<()> {
        let options = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        self.declare_exchange(name, ExchangeKind::Direct, options, FieldTable::default())
            .await
    }

    pub(super) async fn delete_exchange(&self, name: &str, if_unused: bool) -> Answer<()> {
        let options = ExchangeDeleteOptions {
            if_unused,
            ..ExchangeDeleteOptions::default()
        };
        answer(
            "exchange.delete-ok",
            self.raw.exchange_delete(name.into(), options),
        )
        .await
    }

    /// Publishes and waits for the confirm.
    pub(super) async fn publish(&self, exchange: &str, key: &str, body: &str) -> Answer<()> {
        let properties = BasicProperties::default();
        let options = BasicPublishOptions::default();
        let confirm = self
            .publish_with(exchange, key, options, body.as_bytes(), properties)
            .await?;
        match confirm {
            Confirmation::Ack(None) => Ok(()),
            other => Err(Trouble::Other(format!("not confirmed: {other:?}"))),
        }
    }

    pub(super) async fn publish_with(
        &self,
        exchange: &str,
        key: &str,
        options: BasicPublishOptions,
        body: &[u8],
        properties: BasicProperties,
    ) -> Answer<Confirmation> {
        let (exchange, key) = (exchange.into(), key.into());
        let publish = async {
            self.raw
                .basic_publish(exchange, key, options, body, properties)
                .await?
                .await
        };
        answer("a publisher confirm", publish).await
    }

    pub(super) async fn get(&self, queue: &str, no_ack: bool) -> Answer<Option<BasicGetMessage>> {
        answer(
            "basic.get-ok",
            self.raw.basic_get(queue.into(), BasicGetOptions { no_ack }),
        )
        .await
    }

    pub(super) async fn must_get(&self, queue: &str) -> Answer<BasicGetMessage> {
        let found = self.get(queue, false).await?;
        found.ok_or_else(|| Trouble::Other(format!("no message in {queue}")))
    }

    /// All ready messages, taken with automatic acknowledgement, as `seen` shows them.
    pub(super) async fn drain(&self, queue: &str) -> Answer<Vec<String>> {
        let mut found = Vec::new();
        while let Some(message) = self.get(queue, true).await? {
            found.push(seen(&message));
        }
        Ok(found)
    }

    /// Publishes one message and gives the labels of the queues that got it, sorted.
    pub(super) async fn routed(
        &self,
        exchange: &str,
        key: &str,
        queues: &HashMap<String, String>,
        headers: Option<FieldTable>,
    ) -> Answer<Vec<String>> {
        let properties = match headers {
            Some(headers) => BasicProperties::default().with_headers(headers),
            None => BasicProperties::default(),
        };
        self.publish_with(
            exchange,
            key,
            BasicPublishOptions::default(),
            b"probe",
            properties,
        )
        .await?;
        let mut labels = Vec::new();
        for (label, queue) in queues {
            labels.extend(self.drain(queue).await?.into_iter().map(|_| label.clone()));
        }
        labels.sort();
        Ok(labels)
    }

    pub(super) async fn consume(&self, queue: &str) -> Answer<Inbox<'_>> {
        self.consume_with(
            queue,
            "",
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
    }

    pub(super) async fn consume_with(
        &self,
        queue: &str,
        tag: &str,
        options: BasicConsumeOptions,
        arguments: FieldTable,
    ) -> Answer<Inbox<'_>> {
        let consume = self
            .raw
            .basic_consume(queue.into(), tag.into(), options, arguments);
        let consumer = answer("basic.consume-ok", consume).await?;
        Ok(Inbox {
            ch: self,
            queue: queue.to_owned(),
            consumer,
            arrived: VecDeque::new(),
        })
    }
}

/// A consumer that keeps what it was sent.
pub(super) struct Inbox<'a> {
    ch: &'a Ch,
    queue: String,
    pub(super) consumer: Consumer,
    arrived: VecDeque<Delivery>,
}

impl Inbox<'_> {
    pub(super) fn tag(&self) -> String {
        self.consumer.tag().to_string()
    }

    pub(super) async fn take(&mut self, count: usize) -> Answer<Vec<Delivery>> {
        while self.arrived.len() < count {
            let have = self.arrived.len();
            let what = format!("{count} deliveries from {} (have {have})", self.queue);
            match answer(&what, async { self.consumer.next().await.transpose() }).await? {
                Some(delivery) => self.arrived.push_back(delivery),
                None => return Err(Trouble::Other(format!("cancelled, waiting for {what}"))),
            }
        }
        Ok(self.arrived.drain(..count).collect())
    }

    pub(super) async fn seen(&mut self, count: usize) -> Answer<Vec<String>> {
        Ok(self.take(count).await?.iter().map(seen).collect())
    }

    /// How many have arrived once the queue has answered a question asked after everything else.
    pub(super) async fn settled(&mut self) -> Answer<usize> {
        self.ch.depth(&self.queue).await?;
        Ok(self.arrived_now().await)
    }

    /// How many wait to be taken, without asking the broker.
    pub(super) async fn arrived_now(&mut self) -> usize {
        while let Some(Some(Ok(delivery))) = future::poll_once(self.consumer.next()).await {
            self.arrived.push_back(delivery);
        }
        self.arrived.len()
    }

    pub(super) fn first_tag(&self) -> Option<u64> {
        self.arrived.front().map(|delivery| delivery.delivery_tag)
    }
}
