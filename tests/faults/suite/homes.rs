//! Exclusive and transient objects on three nodes: known and reached from everywhere, and gone with
//! the node that they live on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_lite::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation, Consumer, ExchangeKind, message};
use tokio::runtime::Runtime;

use crate::Context;
use crate::broker::{Node, Running};
use crate::client::{Client, Kind, answer};

/// For what takes a cluster some seconds: a node ruled out, its life fenced.
const CLUSTER_LIMIT: Duration = Duration::from_secs(90);
const AGAIN: Duration = Duration::from_millis(50);
/// The least that can be set, in milliseconds.
const FENCE_AFTER: u64 = 3_000;

/// Three nodes of one cluster.
struct Trio {
    nodes: Vec<Node>,
    running: Vec<Option<Running>>,
}

impl Trio {
    fn start(context: &Context, name: &str) -> Result<Self> {
        let mut nodes = Vec::new();
        let mut running = Vec::new();
        for number in 1..=3 {
            let mut node = Node::new(context, &format!("{name}-{number}"))?;
            let first = nodes.first().unwrap_or(&node);
            let token = first.folder().join("token").display().to_string();
            let join = first.address("cluster");
            if number > 1 {
                node.set("WARREN_JOIN", join);
            }
            node.set("WARREN_BOOTSTRAP_TOKEN_FILE", token);
            node.set("WARREN_CLUSTER_FENCE_AFTER", FENCE_AFTER.to_string());
            running.push(Some(node.start()?));
            nodes.push(node);
        }
        Ok(Self { nodes, running })
    }

    /// A client of the node with this number, from 0.
    async fn client(&self, node: usize) -> Result<Client> {
        Client::connect(&self.nodes[node].uri()).await
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        self.running[node].take().context("it runs")?.kill()
    }

    fn signal(&self, node: usize, signal: libc::c_int) -> Result<()> {
        self.running[node]
            .as_ref()
            .context("it runs")?
            .signal(signal)
    }

    fn start_again(&mut self, node: usize) -> Result<()> {
        self.running[node] = Some(self.nodes[node].start()?);
        Ok(())
    }

    fn stop(self) -> Result<()> {
        self.running
            .into_iter()
            .flatten()
            .try_for_each(Running::stop)
    }
}

/// Asks again until it is as wanted, or `CLUSTER_LIMIT` is over.
async fn eventually<F>(what: &str, mut ask: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let until = Instant::now() + CLUSTER_LIMIT;
    let mut period = tokio::time::interval(AGAIN);
    loop {
        period.tick().await;
        match ask().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error.context(what.to_owned())),
            Err(_) => {}
        }
    }
}

/// An exclusive queue with a name of the server's.
async fn reply_queue(client: &Client) -> Result<String> {
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declare = client
        .channel
        .queue_declare("".into(), options, FieldTable::default());
    let queue = answer("queue.declare-ok", declare).await?;
    Ok(queue.name().to_string())
}

async fn next(what: &str, consumer: &mut Consumer) -> Result<message::Delivery> {
    let next = async { consumer.next().await.transpose() };
    let delivery = answer(what, next).await?;
    delivery.with_context(|| format!("cancelled before {what}"))
}

async fn consume(client: &Client, queue: &str, no_ack: bool) -> Result<Consumer> {
    let options = BasicConsumeOptions {
        no_ack,
        ..BasicConsumeOptions::default()
    };
    let consume =
        client
            .channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default());
    answer("basic.consume-ok", consume).await
}

/// Publishes and gives the confirm.
async fn publish(
    client: &Client,
    exchange: &str,
    key: &str,
    reply_to: Option<&str>,
    body: &[u8],
) -> Result<Confirmation> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let mut properties = BasicProperties::default();
    if let Some(reply_to) = reply_to {
        properties = properties.with_reply_to(reply_to.into());
    }
    let publish =
        client
            .channel
            .basic_publish(exchange.into(), key.into(), options, body, properties);
    answer("a confirm", answer("a publish to be taken", publish).await?).await
}

/// Fails unless a publish was taken and not returned.
fn must_be_stored(confirmation: &Confirmation) -> Result<()> {
    ensure!(
        matches!(confirmation, Confirmation::Ack(None)),
        "not stored: {confirmation:?}"
    );
    Ok(())
}

/// Fails unless a publish was returned.
fn must_be_returned(confirmation: &Confirmation) -> Result<()> {
    ensure!(
        matches!(confirmation, Confirmation::Ack(Some(_))),
        "not returned: {confirmation:?}"
    );
    Ok(())
}

/// Fails unless the answer is an error with this text.
fn must_fail<T>(what: &str, result: Result<T>, text: &str) -> Result<()> {
    let Err(error) = result else {
        bail!("{what} was allowed");
    };
    let shown = format!("{error:#}");
    ensure!(
        shown.contains(text),
        "{what}: expected `{text}`, got `{shown}`"
    );
    Ok(())
}

/// A requester on the first node, its server on the second.
pub(crate) fn replies_reach_requesters_on_other_nodes(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let trio = Trio::start(context, "replies")?;
    runtime.block_on(async {
        let (requester, server) = (trio.client(0).await?, trio.client(1).await?);
        let other = trio.client(2).await?;
        other.declare("requests", Kind::Durable).await?;
        let mut requests = consume(&server, "requests", true).await?;
        let direct = "amq.rabbitmq.reply-to";
        let own = reply_queue(&requester).await?;
        // What was answered on one node is there for the next request on any other.
        for number in 0..200 {
            let fresh = reply_queue(&requester).await?;
            let body = number.to_string();
            let key = fresh.as_str();
            must_be_stored(&publish(&server, "", key, None, body.as_bytes()).await?)?;
            let got = requester.get(&fresh).await?.context("it was stored")?;
            ensure!(got.data == body.as_bytes(), "another message");
        }
        let mut direct_replies = consume(&requester, direct, true).await?;
        let mut own_replies = consume(&requester, &own, false).await?;
        for number in 0..200 {
            let (reply_to, replies) = if number % 2 == 0 {
                (direct, &mut direct_replies)
            } else {
                (own.as_str(), &mut own_replies)
            };
            let body = format!("request {number}");
            let asked = publish(&requester, "", "requests", Some(reply_to), body.as_bytes());
            must_be_stored(&asked.await?)?;
            let request = next("a request", &mut requests).await?;
            let to = request.properties.reply_to().clone();
            let to = to.context("the request says where replies go")?;
            let answered = publish(&server, "", to.as_str(), None, &request.data).await?;
            must_be_stored(&answered)?;
            let reply = next("a reply", replies).await?;
            ensure!(
                reply.data == body.as_bytes(),
                "the reply to another request"
            );
        }
        requester.close().await?;
        // Whoever answers somebody who has gone gets it back.
        eventually("the reply queue goes with its connection", || async {
            must_be_returned(&publish(&server, "", &own, None, b"late").await?)
        })
        .await?;
        server.close().await?;
        other.close().await
    })?;
    trio.stop()
}

/// A transient queue and exchange of one node are declared, bound, used and deleted from others.
pub(crate) fn transient_objects_are_the_whole_clusters(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let trio = Trio::start(context, "transient")?;
    runtime.block_on(async {
        let clients = [
            trio.client(0).await?,
            trio.client(1).await?,
            trio.client(2).await?,
        ];
        declare_everywhere(&trio, &clients).await?;
        use_everywhere(&clients).await
    })?;
    trio.stop()
}

async fn declare_everywhere(trio: &Trio, [one, two, three]: &[Client; 3]) -> Result<()> {
    one.declare("shared", Kind::Transient).await?;
    two.declare("shared", Kind::Transient).await?;
    three.declare("shared", Kind::Passive).await?;
    let text = "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'shared'";
    let other = trio.client(1).await?.declare("shared", Kind::Durable).await;
    must_fail("another kind of queue", other, text)?;
    for client in [one, two] {
        let declare = client.channel.exchange_declare(
            "events".into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        );
        answer("exchange.declare-ok", declare).await?;
    }
    let bind = three.channel.queue_bind(
        "shared".into(),
        "events".into(),
        "a.*".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    answer("queue.bind-ok", bind).await
}

async fn use_everywhere(clients: &[Client; 3]) -> Result<()> {
    let [one, two, three] = clients;
    for client in clients {
        must_be_stored(&publish(client, "events", "a.b", None, b"event").await?)?;
    }
    three.must_hold("shared", 3).await?;
    let got = two.get("shared").await?.context("there are three")?;
    ensure!(got.data == b"event", "another message");
    let ack = got.acker.ack(Default::default());
    answer("an ack to be taken", ack).await?;
    let mut consumer = consume(three, "shared", false).await?;
    for _ in 0..2 {
        let delivery = next("an event", &mut consumer).await?;
        let ack = delivery.acker.ack(Default::default());
        answer("an ack to be taken", ack).await?;
    }
    let tag = consumer.tag();
    let cancel = three.channel.basic_cancel(tag, Default::default());
    answer("basic.cancel-ok", cancel).await?;
    must_be_stored(&publish(two, "", "shared", None, b"left").await?)?;
    let options = QueuePurgeOptions::default();
    let purge = three.channel.queue_purge("shared".into(), options);
    ensure!(answer("queue.purge-ok", purge).await? == 1, "one was left");
    let options = QueueDeleteOptions::default();
    let delete = two.channel.queue_delete("shared".into(), options);
    answer("queue.delete-ok", delete).await?;
    let gone = publish(one, "", "shared", None, b"late").await?;
    must_be_returned(&gone)
}

/// An exclusive queue is its connection's alone on every node, and its name is taken on all.
pub(crate) fn exclusive_queues_are_locked_on_every_node(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let trio = Trio::start(context, "locked")?;
    runtime.block_on(async {
        let owner = trio.client(0).await?;
        let drawn = reply_queue(&owner).await?;
        owner.declare("mine", Kind::Exclusive).await?;
        for queue in [drawn.as_str(), "mine"] {
            let text = format!(
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in \
                 vhost '/'. It could be originally declared on another connection or the exclusive \
                 property value does not match that of the original declaration."
            );
            for node in 0..3 {
                let passive = trio.client(node).await?.declare(queue, Kind::Passive).await;
                must_fail("declaring it", passive, &text)?;
                let client = trio.client(node).await?;
                must_fail("consuming", consume(&client, queue, true).await, &text)?;
            }
        }
        for kind in [Kind::Durable, Kind::Exclusive] {
            let other = trio.client(2).await?.declare("mine", kind).await;
            must_fail("its name", other, "RESOURCE_LOCKED")?;
        }
        owner.close().await?;
        eventually("the name is free", || async {
            trio.client(1).await?.declare("mine", Kind::Durable).await?;
            Ok(())
        })
        .await
    })?;
    trio.stop()
}

/// A node dies: confirms end, consumers are cancelled, names come free; it comes back without.
pub(crate) fn what_lives_with_a_node_goes_with_it(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let mut trio = Trio::start(context, "homes")?;
    let (drawn, mut consumer, other) = runtime.block_on(async {
        let (host, other) = (trio.client(2).await?, trio.client(0).await?);
        host.declare("transient", Kind::Transient).await?;
        host.declare("exclusive", Kind::Exclusive).await?;
        let drawn = reply_queue(&host).await?;
        for queue in ["transient", "exclusive", drawn.as_str()] {
            must_be_stored(&publish(&other, "", queue, None, b"before").await?)?;
        }
        let consumer = consume(&other, "transient", true).await?;
        // Its connection must not say goodbye.
        std::mem::forget(host);
        Ok::<_, anyhow::Error>((drawn, consumer, other))
    })?;
    trio.kill(2)?;
    runtime.block_on(async {
        next("what was there", &mut consumer).await?;
        // Refused while the rows are there, returned when they are gone; never without an answer.
        let queues = ["transient", "exclusive", drawn.as_str()];
        for queue in queues {
            eventually("the rows go", || {
                let confirm = publish(&other, "", queue, None, b"after");
                async { must_be_returned(&confirm.await?) }
            })
            .await?;
        }
        let ended = async { Ok::<_, lapin::Error>(consumer.next().await.is_none()) };
        ensure!(answer("basic.cancel", ended).await?, "the consumer goes on");
        eventually("the name is free", || async {
            let client = trio.client(1).await?;
            client.declare("exclusive", Kind::Transient).await?;
            client.publish("exclusive", b"again").await
        })
        .await
    })?;
    trio.start_again(2)?;
    runtime.block_on(async {
        let host = trio.client(2).await?;
        host.must_hold("exclusive", 1).await?;
        let passive = trio
            .client(2)
            .await?
            .declare("transient", Kind::Passive)
            .await;
        must_fail("an earlier life's queue", passive, "no queue 'transient'")?;
        let fresh = reply_queue(&host).await?;
        must_be_stored(&publish(&other, "", &fresh, None, b"new").await?)
    })?;
    trio.stop()
}

/// A node is ruled out and comes back alive: its owners are told, and it goes on in a new life.
pub(crate) fn a_fenced_node_goes_on_in_a_new_life(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let trio = Trio::start(context, "fenced")?;
    let (drawn, owner, other) = runtime.block_on(async {
        let (owner, other) = (trio.client(2).await?, trio.client(0).await?);
        owner.declare("named", Kind::Exclusive).await?;
        let drawn = reply_queue(&owner).await?;
        must_be_stored(&publish(&other, "", &drawn, None, b"before").await?)?;
        Ok::<_, anyhow::Error>((drawn, owner, other))
    })?;
    trio.signal(2, libc::SIGSTOP)?;
    runtime.block_on(async {
        for queue in ["named", drawn.as_str()] {
            eventually("its rows go", || {
                let confirm = publish(&other, "", queue, None, b"after");
                async { must_be_returned(&confirm.await?) }
            })
            .await?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    trio.signal(2, libc::SIGCONT)?;
    runtime.block_on(async {
        eventually("the owner is told", || async {
            let connected = owner.connection.status().connected();
            ensure!(!connected, "it is still connected");
            Ok(())
        })
        .await?;
        eventually("a new reply queue is reached", || async {
            let client = trio.client(2).await?;
            let fresh = reply_queue(&client).await?;
            must_be_stored(&publish(&other, "", &fresh, None, b"new").await?)?;
            client.declare("named", Kind::Exclusive).await?;
            must_be_stored(&publish(&other, "", "named", None, b"new").await?)
        })
        .await
    })?;
    trio.stop()
}

/// A node stands still for so long that it is ruled out; its consumers go on when it does.
pub(crate) fn consumers_go_on_after_a_pause(context: &Context, runtime: &Runtime) -> Result<()> {
    let trio = Trio::start(context, "pause")?;
    runtime.block_on(async {
        let (host, paused) = (trio.client(0).await?, trio.client(2).await?);
        host.declare("transient", Kind::Transient).await?;
        host.declare("durable", Kind::Durable).await?;
        let mut consumers = Vec::new();
        for queue in ["transient", "durable"] {
            consumers.push((queue, consume(&paused, queue, true).await?));
        }
        trio.signal(2, libc::SIGSTOP)?;
        eventually("it is ruled out", || async {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let name = "transient".into();
            let declare = host
                .channel
                .queue_declare(name, options, FieldTable::default());
            let queue = answer("queue.declare-ok", declare).await?;
            ensure!(queue.consumer_count() == 0, "it has a consumer");
            Ok(())
        })
        .await?;
        trio.signal(2, libc::SIGCONT)?;
        for (queue, consumer) in &mut consumers {
            must_be_stored(&publish(&host, "", queue, None, b"on").await?)?;
            next("a message after the pause", consumer).await?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    trio.stop()
}
