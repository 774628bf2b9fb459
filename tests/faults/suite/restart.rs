//! What a restart keeps, and what a node says of itself.

use anyhow::{Context as _, Result, ensure};
use lapin::ExchangeKind;
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};
use tokio::runtime::Runtime;

use crate::Context;
use crate::broker::Node;
use crate::client::{Client, Kind, answer};

pub(crate) fn ready_line_and_node_json_agree(context: &Context, _: &Runtime) -> Result<()> {
    let node = Node::new(context, "node-json")?;
    let running = node.start()?;
    println!(
        "ready after {:.2} s on an empty folder",
        running.ready_after.as_secs_f64()
    );
    let text = std::fs::read_to_string(node.data().join("node.json"))?;
    let document: serde_json::Value = serde_json::from_str(&text)?;
    let field = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
    let line = format!(
        "ready node={} amqp={} http={} metrics={} cluster={}",
        field("node"),
        field("amqp"),
        field("http"),
        field("metrics"),
        field("cluster")
    );
    ensure!(running.ready_line == line, "{}: {text}", running.ready_line);
    for which in ["amqp", "http", "metrics", "cluster"] {
        ensure!(field(which) == node.address(which), "{which}: {text}");
    }
    ensure!(field("node").starts_with("warren@"), "{text}");
    running.stop()
}

pub(crate) fn restart_keeps_what_is_durable(context: &Context, runtime: &Runtime) -> Result<()> {
    let node = Node::new(context, "restart")?;
    let running = node.start()?;
    let declarer = runtime.block_on(declare_all(&node))?;
    running.stop()?;
    drop(declarer);
    let running = node.start()?;
    runtime.block_on(find_the_durable(&node, 1))?;
    let declarer = runtime.block_on(declare_all(&node))?;
    running.kill()?;
    drop(declarer);
    let running = node.start()?;
    runtime.block_on(find_the_durable(&node, 3))?;
    running.stop()
}

async fn declare_exchange(client: &Client, name: &str, durable: bool, passive: bool) -> Result<()> {
    let options = ExchangeDeclareOptions {
        durable,
        passive,
        ..ExchangeDeclareOptions::default()
    };
    let declare = client.channel.exchange_declare(
        name.into(),
        ExchangeKind::Topic,
        options,
        FieldTable::default(),
    );
    answer("exchange.declare-ok", declare).await
}

async fn route(client: &Client, body: &[u8]) -> Result<()> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    // Not persistent: in a durable queue it is kept all the same.
    let publish = client.channel.basic_publish(
        "lasting".into(),
        "a.b".into(),
        options,
        body,
        BasicProperties::default(),
    );
    let confirm = answer("a publish to be taken", publish).await?;
    let confirmed = answer("a confirm", confirm).await?;
    ensure!(confirmed == Confirmation::Ack(None), "{confirmed:?}");
    Ok(())
}

/// Declares one of each and publishes one message; gives the client, which the exclusive queue
/// belongs to.
async fn declare_all(node: &Node) -> Result<Client> {
    let client = Client::connect(&node.uri()).await?;
    declare_exchange(&client, "lasting", true, false).await?;
    declare_exchange(&client, "passing", false, false).await?;
    client.declare("lasting", Kind::Durable).await?;
    client.declare("passing", Kind::Transient).await?;
    client.declare("mine", Kind::Exclusive).await?;
    let bind = client.channel.queue_bind(
        "lasting".into(),
        "lasting".into(),
        "a.*".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    answer("queue.bind-ok", bind).await?;
    client.publish("passing", b"passing").await?;
    client.publish("mine", b"mine").await?;
    route(&client, b"kept").await?;
    Ok(client)
}

/// The durable ones are there, with `messages`, and route; the others are not.
async fn find_the_durable(node: &Node, messages: u64) -> Result<()> {
    let client = Client::connect(&node.uri()).await?;
    client.must_hold("lasting", messages).await?;
    declare_exchange(&client, "lasting", true, true).await?;
    route(&client, b"kept").await?;
    client.must_hold("lasting", messages + 1).await?;
    client.close().await?;
    for queue in ["passing", "mine"] {
        let client = Client::connect(&node.uri()).await?;
        let found = client.declare(queue, Kind::Passive).await;
        let error = found
            .err()
            .with_context(|| format!("'{queue}' outlived its node"))?;
        ensure!(format!("{error:#}").contains("NOT_FOUND"), "{error:#}");
        client.close().await?;
    }
    let client = Client::connect(&node.uri()).await?;
    let found = declare_exchange(&client, "passing", false, true).await;
    let error = found
        .err()
        .context("a transient exchange outlived its node")?;
    ensure!(format!("{error:#}").contains("NOT_FOUND"), "{error:#}");
    client.close().await
}
