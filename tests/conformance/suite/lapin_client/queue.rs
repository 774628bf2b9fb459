//! Declaring, deleting, purging and binding queues, with the exact texts of refusals.

use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};

use super::context::{Ch, Context, answer, no_exchange, no_queue, refused, table, text};
use super::{Check, checks};
use crate::outcome::{CheckResult, ensure, equal};

pub(super) const CHECKS: &[(&str, Check)] = checks![
    queue_declare,
    queue_declare_passive,
    queue_passive_missing,
    reply_text_truncated,
    queue_inequivalent,
    queue_type_classic,
    queue_server_named,
    queue_reserved_name,
    queue_exclusive_locked,
    queue_exclusive_gone,
    queue_auto_delete,
    queue_purge_delete_counts,
    queue_delete_if_unused,
    queue_delete_if_empty,
    queue_bind_unbind,
    queue_bind_missing,
];

fn none() -> FieldTable {
    FieldTable::default()
}

async fn queue_declare(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let name = c.queue_name();
    for round in 0..2 {
        let found = ch
            .declare(&name, QueueDeclareOptions::durable(), none())
            .await?;
        equal(found, (name.clone(), round, 0), "declare-ok")?;
        ch.publish("", &name, "").await?;
    }
    Ok(())
}

async fn queue_declare_passive(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    equal(ch.depth(&queue).await?, (0, 0), "an empty queue")?;
    ch.publish("", &queue, "").await?;
    ch.publish("", &queue, "").await?;
    equal(ch.depth(&queue).await?, (2, 0), "with two messages")?;
    let consumer = c.channel().await?;
    answer(
        "basic.qos-ok",
        consumer.raw.basic_qos(1, BasicQosOptions::default()),
    )
    .await?;
    // lapin cancels a consumer that is dropped: it must outlive the question.
    let mut inbox = consumer.consume(&queue).await?;
    inbox.take(1).await?;
    equal(
        ch.depth(&queue).await?,
        (1, 1),
        "ready messages and consumers",
    )
}

async fn queue_passive_missing(c: &Context) -> CheckResult {
    let name = c.name("q");
    refused(404, no_queue(&name), c.channel().await?.depth(&name)).await
}

async fn reply_text_truncated(c: &Context) -> CheckResult {
    let name = "n".repeat(255);
    let cut = format!("{}...", &no_queue(&name)[..252]);
    refused(404, cut, c.channel().await?.depth(&name)).await
}

async fn queue_inequivalent(c: &Context) -> CheckResult {
    let queue = c.queue(&c.channel().await?).await?;
    let reason = |key: &str, received: bool| {
        format!(
            "PRECONDITION_FAILED - inequivalent arg '{key}' for queue '{queue}' in vhost '/': \
             received '{received}' but current is '{}'",
            !received
        )
    };
    let ch = c.channel().await?;
    let transient = ch.declare(&queue, QueueDeclareOptions::default(), none());
    refused(406, reason("durable", false), transient).await?;
    let ch = c.channel().await?;
    let auto_delete = ch.declare(&queue, QueueDeclareOptions::durable().auto_delete(), none());
    refused(406, reason("auto_delete", true), auto_delete).await
}

async fn queue_type_classic(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let name = c.queue_name();
    let classic = table([("x-queue-type", text("classic"))]);
    let inner = table([("a", text("b"))]);
    let array = vec![AMQPValue::LongInt(1), AMQPValue::FieldTable(inner)];
    let unknown = table([("x-no-such-argument", AMQPValue::FieldArray(array.into()))]);
    for arguments in [classic.clone(), classic, unknown] {
        ch.declare(&name, QueueDeclareOptions::durable(), arguments)
            .await?;
    }
    Ok(())
}

async fn queue_server_named(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let (first, ..) = ch
        .declare("", QueueDeclareOptions::exclusive(), none())
        .await?;
    let (second, ..) = ch
        .declare("", QueueDeclareOptions::exclusive(), none())
        .await?;
    ensure(first.starts_with("amq.gen-") && first.len() > 16, &first)?;
    ensure(first != second, "the same name twice")?;
    ch.depth(&first).await?;
    Ok(())
}

async fn queue_reserved_name(c: &Context) -> CheckResult {
    let reason = "ACCESS_REFUSED - queue name 'amq.conformance' contains reserved prefix 'amq.*'";
    let ch = c.channel().await?;
    refused(
        403,
        reason,
        ch.declare("amq.conformance", QueueDeclareOptions::durable(), none()),
    )
    .await
}

async fn queue_exclusive_locked(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    // Short: a longer text would be cut off.
    let queue = format!("conf.{:x}", std::process::id());
    ch.declare(&queue, QueueDeclareOptions::exclusive(), none())
        .await?;
    let reason = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. \
         It could be originally declared on another connection or the exclusive property value \
         does not match that of the original declaration."
    );
    let connection = c.connect().await?;
    let other = Ch::open(&connection).await?;
    let declare = other.declare(&queue, QueueDeclareOptions::exclusive(), none());
    refused(405, &reason, declare).await?;
    let other = Ch::open(&connection).await?;
    refused(405, &reason, other.get(&queue, true)).await?;
    let other = Ch::open(&connection).await?;
    refused(405, &reason, other.consume(&queue)).await?;
    let other = Ch::open(&connection).await?;
    refused(
        405,
        &reason,
        other.delete(&queue, QueueDeleteOptions::default()),
    )
    .await?;
    equal(ch.depth(&queue).await?, (0, 0), "for its own connection")
}

async fn queue_exclusive_gone(c: &Context) -> CheckResult {
    let owner = c.connect().await?;
    let queue = c.name("q");
    let ch = Ch::open(&owner).await?;
    ch.declare(&queue, QueueDeclareOptions::exclusive(), none())
        .await?;
    answer("connection.close-ok", owner.close(200, "done".into())).await?;
    refused(404, no_queue(&queue), c.channel().await?.depth(&queue)).await
}

async fn queue_auto_delete(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c
        .queue_with(&ch, QueueDeclareOptions::durable().auto_delete())
        .await?;
    ch.publish("", &queue, "").await?;
    equal(
        ch.depth(&queue).await?,
        (1, 0),
        "before it ever had a consumer",
    )?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let first = ch.consume_with(&queue, "", options, none()).await?;
    let second = ch.consume_with(&queue, "", options, none()).await?;
    let cancel = |tag: String| {
        ch.raw
            .basic_cancel(tag.into(), BasicCancelOptions::default())
    };
    answer("basic.cancel-ok", cancel(first.tag())).await?;
    equal(ch.depth(&queue).await?, (0, 1), "with one consumer left")?;
    answer("basic.cancel-ok", cancel(second.tag())).await?;
    refused(404, no_queue(&queue), ch.depth(&queue)).await
}

async fn queue_purge_delete_counts(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.three(&ch).await?;
    ch.must_get(&queue).await?;
    let purge = ch
        .raw
        .queue_purge(queue.as_str().into(), QueuePurgeOptions::default());
    equal(
        answer("queue.purge-ok", purge).await?,
        2,
        "purged (one is out)",
    )?;
    ch.publish("", &queue, "").await?;
    let options = QueueDeleteOptions::default();
    equal(
        ch.delete(&queue, options).await?,
        1,
        "messages in delete-ok",
    )?;
    equal(
        ch.delete(&queue, options).await?,
        0,
        "delete of a missing queue",
    )
}

async fn queue_delete_if_unused(c: &Context) -> CheckResult {
    let (ch, other) = (c.channel().await?, c.channel().await?);
    let queue = c.queue(&ch).await?;
    let inbox = ch.consume(&queue).await?;
    let options = QueueDeleteOptions {
        if_unused: true,
        ..QueueDeleteOptions::default()
    };
    let reason = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use");
    refused(406, reason, other.delete(&queue, options)).await?;
    let cancel = ch
        .raw
        .basic_cancel(inbox.tag().into(), BasicCancelOptions::default());
    answer("basic.cancel-ok", cancel).await?;
    ch.delete(&queue, options).await?;
    Ok(())
}

async fn queue_delete_if_empty(c: &Context) -> CheckResult {
    let (ch, other) = (c.channel().await?, c.channel().await?);
    let queue = c.three(&ch).await?;
    let options = QueueDeleteOptions {
        if_empty: true,
        ..QueueDeleteOptions::default()
    };
    let reason = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty");
    refused(406, reason, other.delete(&queue, options)).await?;
    ch.drain(&queue).await?;
    ch.delete(&queue, options).await?;
    Ok(())
}

async fn queue_bind_unbind(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let arguments = table([("k", AMQPValue::LongInt(1))]);
    ch.bind(&queue, "amq.direct", &queue, none()).await?;
    ch.bind(&queue, "amq.direct", &queue, none()).await?;
    ch.publish("amq.direct", &queue, "once").await?;
    equal(ch.drain(&queue).await?, ["once"], "a duplicate binding")?;
    ch.bind(&queue, "amq.direct", &queue, arguments.clone())
        .await?;
    ch.publish("amq.direct", &queue, "once").await?;
    equal(
        ch.drain(&queue).await?,
        ["once"],
        "two bindings of one queue",
    )?;
    ch.unbind(&queue, "amq.direct", &queue, none()).await?;
    ch.publish("amq.direct", &queue, "other").await?;
    equal(
        ch.drain(&queue).await?,
        ["other"],
        "the binding with arguments stays",
    )?;
    ch.unbind(&queue, "amq.direct", &queue, arguments).await?;
    ch.publish("amq.direct", &queue, "none").await?;
    ensure(ch.drain(&queue).await?.is_empty(), "routed after unbind")?;
    Ok(ch.unbind(&queue, "amq.direct", &queue, none()).await?)
}

async fn queue_bind_missing(c: &Context) -> CheckResult {
    let (first, second) = (c.channel().await?, c.channel().await?);
    let (queue, missing) = (c.queue(&first).await?, c.name("q"));
    refused(
        404,
        no_exchange(&missing),
        first.bind(&queue, &missing, "", none()),
    )
    .await?;
    refused(
        404,
        no_queue(&missing),
        second.bind(&missing, "amq.direct", "", none()),
    )
    .await
}
