//! Consuming, getting, acknowledging, limits on delivery.

use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRecoverOptions, BasicRejectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};

use super::context::{Answer, Ch, Context, Inbox, Trouble, answer, no_queue, refused, seen, table};
use super::{Check, checks};
use crate::outcome::{CheckResult, Stop, ensure, equal};

pub(super) const CHECKS: &[(&str, Check)] = checks![
    consume,
    consume_missing_queue,
    consumer_tag_generated,
    consumer_tag_reuse,
    ack,
    ack_multiple,
    ack_all,
    nack_requeue,
    nack_multiple,
    reject,
    redelivered,
    recover,
    unknown_delivery_tag,
    get,
    get_empty,
    cancel,
    consumer_cancel_notify,
    consumer_exclusive,
    consumer_priority,
    qos_per_consumer,
    qos_global,
];

const ALL_AGAIN: [&str; 3] = ["1 again", "2 again", "3 again"];
const MULTIPLE: BasicAckOptions = BasicAckOptions { multiple: true };

fn none() -> FieldTable {
    FieldTable::default()
}

async fn settle(ch: &Ch, tag: u64, options: BasicAckOptions) -> Answer<()> {
    answer("basic.ack", ch.raw.basic_ack(tag, options)).await
}

async fn nack(ch: &Ch, tag: u64, multiple: bool, requeue: bool) -> Answer<()> {
    answer(
        "basic.nack",
        ch.raw
            .basic_nack(tag, BasicNackOptions { multiple, requeue }),
    )
    .await
}

async fn return_one(ch: &Ch, tag: u64, requeue: bool) -> Answer<()> {
    answer(
        "basic.reject",
        ch.raw.basic_reject(tag, BasicRejectOptions { requeue }),
    )
    .await
}

async fn qos(ch: &Ch, count: u16, global: bool) -> Answer<()> {
    answer(
        "basic.qos-ok",
        ch.raw.basic_qos(count, BasicQosOptions { global }),
    )
    .await
}

async fn stop(ch: &Ch, inbox: &Inbox<'_>) -> Answer<()> {
    let cancel = ch
        .raw
        .basic_cancel(inbox.tag().into(), BasicCancelOptions::default());
    answer("basic.cancel-ok", cancel).await
}

async fn consume(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    ch.bind(&queue, "amq.topic", &queue, none()).await?;
    let options = BasicConsumeOptions::default();
    let mut inbox = ch.consume_with(&queue, "my-tag", options, none()).await?;
    equal(inbox.tag(), "my-tag", "consume-ok")?;
    for body in ["1", "2", "3"] {
        ch.publish("amq.topic", &queue, body).await?;
    }
    for (number, delivery) in (1_u64..).zip(inbox.take(3).await?) {
        equal(
            (delivery.delivery_tag, seen(&delivery)),
            (number, number.to_string()),
            "delivery",
        )?;
        let found = (delivery.exchange.as_str(), delivery.routing_key.as_str());
        equal(found, ("amq.topic", queue.as_str()), "where it came from")?;
    }
    Ok(())
}

async fn consume_missing_queue(c: &Context) -> CheckResult {
    let missing = c.name("q");
    let ch = c.channel().await?;
    refused(404, no_queue(&missing), ch.consume(&missing)).await
}

async fn consumer_tag_generated(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let (first, second) = (
        ch.consume(&queue).await?.tag(),
        ch.consume(&queue).await?.tag(),
    );
    ensure(first.starts_with("amq.ctag-") && first != second, first)
}

async fn consumer_tag_reuse(c: &Context) -> CheckResult {
    let connection = c.connect().await?;
    let ch = Ch::open(&connection).await?;
    let queue = c.queue(&ch).await?;
    let options = BasicConsumeOptions::default();
    let _first = ch.consume_with(&queue, "twice", options, none()).await?;
    let reason = "NOT_ALLOWED - attempt to reuse consumer tag 'twice'";
    refused(
        530,
        reason,
        ch.consume_with(&queue, "twice", options, none()),
    )
    .await
}

async fn ack(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.three(&ch).await?;
    // Kept: lapin cancels a consumer that is dropped, maybe behind the channel's close.
    let mut consumer = ch.consume(&queue).await?;
    let taken = consumer.take(3).await?;
    settle(&ch, taken[1].delivery_tag, BasicAckOptions::default()).await?;
    equal(
        c.left(&ch, &queue).await?,
        ["1 again", "3 again"],
        "left after an ack of 2",
    )
}

async fn ack_multiple(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.three(&ch).await?;
    // Kept: lapin cancels a consumer that is dropped, maybe behind the channel's close.
    let mut consumer = ch.consume(&queue).await?;
    let taken = consumer.take(3).await?;
    settle(&ch, taken[1].delivery_tag, MULTIPLE).await?;
    equal(
        c.left(&ch, &queue).await?,
        ["3 again"],
        "left after an ack up to 2",
    )
}

async fn ack_all(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.three(&ch).await?;
    let mut consumer = ch.consume(&queue).await?;
    consumer.take(3).await?;
    settle(&ch, 0, MULTIPLE).await?;
    ensure(
        c.left(&ch, &queue).await?.is_empty(),
        "left after an ack of all (tag 0)",
    )
}

async fn nack_requeue(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.three(&ch).await?;
    let first = ch.must_get(&queue).await?.delivery_tag;
    let second = ch.must_get(&queue).await?.delivery_tag;
    nack(&ch, first, false, true).await?;
    equal(
        seen(&ch.must_get(&queue).await?.delivery),
        "1 again",
        "back in its place",
    )?;
    nack(&ch, second, false, false).await?;
    equal(c.left(&ch, &queue).await?, ["1 again", "3"], "left")
}

async fn nack_multiple(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.three(&ch).await?;
    ch.must_get(&queue).await?;
    let second = ch.must_get(&queue).await?.delivery_tag;
    ch.must_get(&queue).await?;
    nack(&ch, second, true, true).await?;
    equal(
        ch.drain(&queue).await?,
        ["1 again", "2 again"],
        "returned, in order",
    )?;
    nack(&ch, 0, true, false).await?;
    ensure(
        c.left(&ch, &queue).await?.is_empty(),
        "left after a nack of all without requeue",
    )
}

async fn reject(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.three(&ch).await?;
    let first = ch.must_get(&queue).await?.delivery_tag;
    let second = ch.must_get(&queue).await?.delivery_tag;
    return_one(&ch, first, false).await?;
    return_one(&ch, second, true).await?;
    equal(c.left(&ch, &queue).await?, ["2 again", "3"], "left")
}

async fn redelivered(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.three(&ch).await?;
    let mut consumer = ch.consume(&queue).await?;
    equal(consumer.seen(3).await?, ["1", "2", "3"], "the first time")?;
    let connection = c.connect().await?;
    let other = Ch::open(&connection).await?;
    let mut inbox = other.consume(&queue).await?;
    answer("channel.close-ok", ch.raw.close(200, "done".into())).await?;
    equal(inbox.seen(3).await?, ALL_AGAIN, "after the channel closed")?;
    answer("connection.close-ok", connection.close(200, "done".into())).await?;
    equal(
        c.channel().await?.drain(&queue).await?,
        ALL_AGAIN,
        "after the connection closed",
    )
}

async fn recover(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.three(&ch).await?;
    let mut inbox = ch.consume(&queue).await?;
    inbox.take(3).await?;
    let recover = ch.raw.basic_recover(BasicRecoverOptions { requeue: true });
    answer("basic.recover-ok", recover).await?;
    equal(inbox.seen(3).await?, ALL_AGAIN, "delivered again")
}

async fn unknown_delivery_tag(c: &Context) -> CheckResult {
    let queue = c.queue(&c.channel().await?).await?;
    for wrong in [Wrong::AckTwice, Wrong::Nack, Wrong::Reject] {
        unknown_tag(c, &queue, wrong).await?;
    }
    Ok(())
}

/// How a tag is used that the broker does not know.
#[derive(Clone, Copy)]
enum Wrong {
    AckTwice,
    Nack,
    Reject,
}

/// On a channel of its own, which is closed.
async fn unknown_tag(c: &Context, queue: &str, wrong: Wrong) -> CheckResult {
    loop {
        let ch = c.channel().await?;
        let tag = match wrong {
            Wrong::AckTwice => {
                // Of its own: nobody knows how often this is asked again.
                ch.publish("", queue, "acknowledged twice").await?;
                let tag = ch.must_get(queue).await?.delivery_tag;
                settle(&ch, tag, BasicAckOptions::default()).await?;
                settle(&ch, tag, BasicAckOptions::default()).await?;
                tag
            }
            Wrong::Nack => {
                nack(&ch, 82, false, false).await?;
                82
            }
            Wrong::Reject => {
                return_one(&ch, 83, false).await?;
                83
            }
        };
        let text = format!("PRECONDITION_FAILED - unknown delivery tag {tag}");
        match ch.depth(queue).await {
            // The close was quicker than the question, and lapin does not say why it is closed.
            Err(Trouble::Other(why)) if why.contains("invalid channel state") => {}
            asked => return refused(406, text, async { asked }).await,
        }
    }
}

async fn get(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.three(&ch).await?;
    for number in 1..=3_u32 {
        let found = ch.must_get(&queue).await?;
        let counts = (found.delivery_tag, found.message_count);
        equal(
            counts,
            (u64::from(number), 3 - number),
            "delivery tag and messages left",
        )?;
        let place = (found.exchange.as_str(), found.routing_key.as_str());
        equal(place, ("", queue.as_str()), "where it came from")?;
        equal(seen(&found), number.to_string(), "body")?;
    }
    Ok(())
}

async fn get_empty(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    ensure(
        ch.get(&queue, false).await?.is_none(),
        "a message out of an empty queue",
    )?;
    let missing = c.name("q");
    refused(404, no_queue(&missing), ch.get(&missing, false)).await
}

async fn cancel(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut inbox = ch.consume_with(&queue, "", options, none()).await?;
    ch.publish("", &queue, "1").await?;
    inbox.take(1).await?;
    stop(&ch, &inbox).await?;
    c.channel().await?.publish("", &queue, "2").await?;
    equal(inbox.settled().await?, 0, "deliveries after cancel-ok")?;
    equal(ch.depth(&queue).await?, (1, 0), "the queue")
}

async fn consumer_cancel_notify(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let mut inbox = ch.consume(&queue).await?;
    c.channel()
        .await?
        .delete(&queue, QueueDeleteOptions::default())
        .await?;
    let next = async { inbox.consumer.next().await.transpose() };
    let end = answer("basic.cancel from the broker", next).await?;
    ensure(end.is_none(), "a delivery instead of a cancel")?;
    ch.declare("", QueueDeclareOptions::exclusive(), none())
        .await?;
    Ok(())
}

async fn consumer_exclusive(c: &Context) -> CheckResult {
    let owner = c.channel().await?;
    let queue = c.queue(&owner).await?;
    let exclusive = BasicConsumeOptions {
        exclusive: true,
        ..BasicConsumeOptions::default()
    };
    let inbox = owner.consume_with(&queue, "", exclusive, none()).await?;
    let reason = format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use");
    let second = c.channel().await?;
    refused(403, &reason, second.consume(&queue)).await?;
    stop(&owner, &inbox).await?;
    let _shared = owner.consume(&queue).await?;
    let third = c.channel().await?;
    refused(
        403,
        &reason,
        third.consume_with(&queue, "", exclusive, none()),
    )
    .await
}

async fn consumer_priority(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let consumers = c.channel().await?;
    qos(&consumers, 2, false).await?;
    let mut low = consumers.consume(&queue).await?;
    let arguments = table([("x-priority", AMQPValue::LongInt(10))]);
    let options = BasicConsumeOptions::default();
    let mut high = consumers
        .consume_with(&queue, "", options, arguments)
        .await?;
    for body in ["1", "2", "3", "4"] {
        ch.publish("", &queue, body).await?;
    }
    equal(
        high.seen(2).await?,
        ["1", "2"],
        "the higher priority has credit",
    )?;
    equal(
        low.seen(2).await?,
        ["3", "4"],
        "the lower one gets the rest",
    )
}

async fn five(c: &Context, ch: &Ch) -> Answer<String> {
    let queue = c.three(ch).await?;
    ch.publish("", &queue, "4").await?;
    ch.publish("", &queue, "5").await?;
    Ok(queue)
}

async fn qos_per_consumer(c: &Context) -> CheckResult {
    let (ch, consumers) = (c.channel().await?, c.channel().await?);
    let queue = five(c, &ch).await?;
    qos(&consumers, 2, false).await?;
    let mut first = consumers.consume(&queue).await?;
    let taken = first.take(2).await?;
    equal(first.settled().await?, 0, "more than the prefetch count")?;
    qos(&consumers, 1, false).await?;
    let mut second = consumers.consume(&queue).await?;
    equal(
        second.seen(1).await?,
        ["3"],
        "the second consumer's own limit",
    )?;
    equal(
        second.settled().await?,
        0,
        "more than the second prefetch count",
    )?;
    settle(
        &consumers,
        taken[0].delivery_tag,
        BasicAckOptions::default(),
    )
    .await?;
    equal(first.seen(1).await?, ["4"], "credit that came back")?;
    equal(ch.depth(&queue).await?, (1, 2), "ready and consumers")
}

async fn qos_global(c: &Context) -> CheckResult {
    let server = c.server()?;
    if !server.is_warren && server.version >= (4, 3) {
        let reason = "since 4.3 RabbitMQ takes a global limit as one for each consumer";
        return Err(Stop::Skipped(reason.to_owned()));
    }
    let (ch, consumers) = (c.channel().await?, c.channel().await?);
    let queue = five(c, &ch).await?;
    qos(&consumers, 3, true).await?;
    let mut first = consumers.consume(&queue).await?;
    let mut second = consumers.consume(&queue).await?;
    in_all(3, &mut first, &mut second).await?;
    let tag = first
        .first_tag()
        .or_else(|| second.first_tag())
        .unwrap_or_default();
    settle(&consumers, tag, BasicAckOptions::default()).await?;
    in_all(4, &mut first, &mut second).await
}

/// Both consumers together have got just as many; the check's own limit bounds the wait.
async fn in_all(count: usize, first: &mut Inbox<'_>, second: &mut Inbox<'_>) -> CheckResult {
    while first.settled().await? + second.arrived_now().await < count {}
    first.settled().await?;
    let found = first.arrived_now().await + second.arrived_now().await;
    equal(found, count, "deliveries to both consumers")
}
