//! Publishing, bodies, properties, direct replies, transactions.

use std::time::Instant;

use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, DecimalValue, FieldTable};
use lapin::{BasicProperties, Confirmation};

use super::context::{
    Answer, Ch, Context, WAIT_LIMIT, answer, no_exchange, refused, seen, table, text,
};
use super::{Check, checks};
use crate::outcome::{CheckResult, Stop, ensure, equal};

pub(super) const CHECKS: &[(&str, Check)] = checks![
    publish_confirm,
    publish_missing_exchange,
    publish_immediate,
    mandatory_return,
    body_large,
    body_empty,
    body_frame_boundaries,
    properties_all,
    expiration_expires,
    header_types,
    user_id_mismatch,
    direct_reply_to,
    direct_reply_to_refusals,
    tx_publish,
    tx_ack,
    tx_refusals,
];

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

fn mandatory() -> BasicPublishOptions {
    BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    }
}

async fn with_properties(
    ch: &Ch,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Answer<Confirmation> {
    ch.publish_with("", key, BasicPublishOptions::default(), body, properties)
        .await
}

async fn publish_confirm(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let bodies: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let mut confirms = Vec::new();
    for body in &bodies {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let key = queue.as_str().into();
        let publish = ch
            .raw
            .basic_publish("".into(), key, options, body.as_bytes(), properties);
        confirms.push(answer("basic.publish", publish).await?);
    }
    for confirm in confirms {
        let confirmation = answer("a publisher confirm", confirm).await?;
        equal(confirmation, Confirmation::Ack(None), "confirm")?;
    }
    equal(
        ch.depth(&queue).await?.0,
        100,
        "messages once all are confirmed",
    )?;
    equal(ch.drain(&queue).await?, bodies, "order")
}

async fn publish_missing_exchange(c: &Context) -> CheckResult {
    let missing = c.name("x");
    refused(
        404,
        no_exchange(&missing),
        c.channel().await?.publish(&missing, "key", ""),
    )
    .await
}

async fn publish_immediate(c: &Context) -> CheckResult {
    let connection = c.connect().await?;
    let ch = Ch::open(&connection).await?;
    ch.confirm().await?;
    let options = BasicPublishOptions {
        immediate: true,
        ..BasicPublishOptions::default()
    };
    let publish = ch.publish_with("", "key", options, b"", BasicProperties::default());
    refused(540, "NOT_IMPLEMENTED - immediate=true", publish).await
}

async fn mandatory_return(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let missing = c.name("q");
    let typed = BasicProperties::default().with_type("t".into());
    // The message is part of the confirmation only if it was returned before.
    let confirmation = ch
        .publish_with("", &missing, mandatory(), b"back", typed)
        .await?;
    let Confirmation::Ack(Some(returned)) = confirmation else {
        return Err(Stop::Failed(format!(
            "confirmed, but not returned before: {confirmation:?}"
        )));
    };
    equal(
        (returned.reply_code, returned.reply_text.as_str()),
        (312, "NO_ROUTE"),
        "basic.return",
    )?;
    equal(
        returned.delivery.routing_key.as_str(),
        missing.as_str(),
        "its routing key",
    )?;
    equal(seen(&returned.delivery), "back", "its body")?;
    let kind = returned
        .delivery
        .properties
        .kind()
        .as_ref()
        .map(|kind| kind.as_str().to_owned());
    equal(kind.as_deref(), Some("t"), "its properties")?;
    ch.publish("", &missing, "gone").await?;
    let queue = c.queue(&ch).await?;
    let here = ch.publish_with("", &queue, mandatory(), b"here", BasicProperties::default());
    equal(
        here.await?,
        Confirmation::Ack(None),
        "a routed mandatory message",
    )
}

async fn round_trip(c: &Context, body: &[u8]) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let persistent = BasicProperties::default().with_delivery_mode(2);
    with_properties(&ch, &queue, body, persistent).await?;
    let found = ch.must_get(&queue).await?;
    let sizes = format!("{} bytes back differ from {}", found.data.len(), body.len());
    ensure(found.data == body, sizes)?;
    let mut inbox = ch.consume(&queue).await?;
    with_properties(&ch, &queue, body, BasicProperties::default()).await?;
    ensure(
        inbox.take(1).await?[0].data == body,
        "the delivered body differs",
    )
}

async fn body_large(c: &Context) -> CheckResult {
    let body: Vec<u8> = (0..10 * 1024 * 1024_u32)
        .map(|index| index.to_le_bytes()[0])
        .collect();
    round_trip(c, &body).await
}

async fn body_empty(c: &Context) -> CheckResult {
    round_trip(c, b"").await
}

async fn body_frame_boundaries(c: &Context) -> CheckResult {
    let frame_max = c.main().await?.configuration().frame_max();
    let frame = usize::try_from(frame_max)? - 8;
    for size in [frame - 1, frame, frame + 1, 2 * frame, 2 * frame + 1] {
        round_trip(c, &vec![b'x'; size]).await?;
    }
    Ok(())
}

async fn properties_all(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let user = c.uri()?.authority.userinfo.username;
    let sent = BasicProperties::default()
        .with_content_type("text/plain".into())
        .with_content_encoding("utf-8".into())
        .with_headers(table([("h", text("v"))]))
        .with_delivery_mode(2)
        .with_priority(7)
        .with_correlation_id("correlation".into())
        .with_reply_to("reply".into())
        .with_expiration("60000".into())
        .with_message_id("id".into())
        .with_timestamp(1_700_000_000)
        .with_type("type".into())
        .with_user_id(user.into())
        .with_app_id("app".into())
        .with_cluster_id("cluster".into());
    with_properties(&ch, &queue, b"x", sent.clone()).await?;
    equal(&ch.must_get(&queue).await?.properties, &sent, "properties")?;
    with_properties(&ch, &queue, b"x", BasicProperties::default()).await?;
    let bare = ch.must_get(&queue).await?;
    equal(
        &bare.properties,
        &BasicProperties::default(),
        "no properties",
    )
}

async fn expiration_expires(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    for (body, expiration) in [("short", "50"), ("long", "60000")] {
        let properties = BasicProperties::default().with_expiration(expiration.into());
        with_properties(&ch, &queue, body.as_bytes(), properties).await?;
    }
    let begun = Instant::now();
    while ch.depth(&queue).await?.0 > 1 {
        ensure(
            begun.elapsed() < WAIT_LIMIT,
            "the first message has not expired",
        )?;
    }
    let left = ch.drain(&queue).await?;
    equal(&left, &vec!["long".to_owned()], "what lives longer")
}

async fn header_types(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let four = AMQPValue::FieldTable(table([("four", AMQPValue::LongInt(4))]));
    let inner = AMQPValue::FieldArray(vec![AMQPValue::LongInt(3), four].into());
    let list = vec![AMQPValue::LongInt(1), text("two"), inner, AMQPValue::Void];
    let deep = table([("deep", AMQPValue::FieldTable(table([("er", text("x"))])))]);
    let headers = table([
        ("string", text("longstr äöü €")),
        ("empty", text("")),
        ("bytes", AMQPValue::ByteArray(vec![0, 255, 254].into())),
        ("true", AMQPValue::Boolean(true)),
        ("false", AMQPValue::Boolean(false)),
        ("int8", AMQPValue::ShortShortInt(i8::MIN)),
        ("uint8", AMQPValue::ShortShortUInt(u8::MAX)),
        ("int16", AMQPValue::ShortInt(i16::MIN)),
        ("uint16", AMQPValue::ShortUInt(u16::MAX)),
        ("int32", AMQPValue::LongInt(i32::MIN)),
        ("uint32", AMQPValue::LongUInt(u32::MAX)),
        ("int64", AMQPValue::LongLongInt(i64::MAX)),
        ("float", AMQPValue::Float(0.5)),
        ("double", AMQPValue::Double(123.456)),
        (
            "decimal",
            AMQPValue::DecimalValue(DecimalValue {
                scale: 2,
                value: 12345,
            }),
        ),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("void", AMQPValue::Void),
        ("list", AMQPValue::FieldArray(list.into())),
        ("table", AMQPValue::FieldTable(deep)),
    ]);
    let sent = BasicProperties::default().with_headers(headers.clone());
    with_properties(&ch, &queue, b"x", sent).await?;
    let found = ch.must_get(&queue).await?;
    equal(found.properties.headers(), &Some(headers), "headers")
}

async fn user_id_mismatch(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let reason = format!(
        "PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was '{}'",
        c.uri()?.authority.userinfo.username
    );
    let properties = BasicProperties::default().with_user_id("somebody".into());
    refused(406, reason, with_properties(&ch, &queue, b"", properties)).await
}

async fn direct_reply_to(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut replies = ch
        .consume_with(REPLY_TO, "", options, FieldTable::default())
        .await?;
    let ask = BasicProperties::default()
        .with_reply_to(REPLY_TO.into())
        .with_correlation_id("7".into());
    with_properties(&ch, &queue, b"question", ask).await?;
    let connection = c.connect().await?;
    let server = Ch::open(&connection).await?;
    server.confirm().await?;
    let question = server.must_get(&queue).await?;
    let reply_to = question.properties.reply_to().clone().unwrap_or_default();
    ensure(
        reply_to.as_str().starts_with("amq.rabbitmq.reply-to."),
        &reply_to,
    )?;
    let properties = BasicProperties::default().with_correlation_id("7".into());
    with_properties(&server, reply_to.as_str(), b"answer", properties.clone()).await?;
    let reply = replies.take(1).await?.remove(0);
    equal(
        (seen(&reply).as_str(), reply.exchange.as_str()),
        ("answer", ""),
        "reply",
    )?;
    equal(reply.properties, properties, "properties of the reply")
}

async fn direct_reply_to_refusals(c: &Context) -> CheckResult {
    let (first, second) = (c.channel().await?, c.channel().await?);
    let cannot = "PRECONDITION_FAILED - reply consumer cannot acknowledge";
    refused(406, cannot, first.consume(REPLY_TO)).await?;
    let queue = c.queue(&second).await?;
    let ask = BasicProperties::default().with_reply_to(REPLY_TO.into());
    let none = "PRECONDITION_FAILED - fast reply consumer does not exist";
    refused(406, none, with_properties(&second, &queue, b"", ask)).await
}

async fn tx_publish(c: &Context) -> CheckResult {
    let (ch, other) = (c.plain().await?, c.channel().await?);
    let queue = c.queue(&ch).await?;
    answer("tx.select-ok", ch.raw.tx_select()).await?;
    with_properties(&ch, &queue, b"rolled back", BasicProperties::default()).await?;
    answer("tx.rollback-ok", ch.raw.tx_rollback()).await?;
    with_properties(&ch, &queue, b"1", BasicProperties::default()).await?;
    with_properties(&ch, &queue, b"2", BasicProperties::default()).await?;
    equal(other.depth(&queue).await?.0, 0, "before the commit")?;
    answer("tx.commit-ok", ch.raw.tx_commit()).await?;
    equal(other.drain(&queue).await?, ["1", "2"], "after the commit")
}

async fn tx_ack(c: &Context) -> CheckResult {
    let ch = c.plain().await?;
    let queue = c.three(&c.channel().await?).await?;
    answer("tx.select-ok", ch.raw.tx_select()).await?;
    let mut tags = Vec::new();
    for _ in 0..3 {
        tags.push(ch.must_get(&queue).await?.delivery_tag);
    }
    let ack = |tag| {
        answer(
            "basic.ack",
            ch.raw.basic_ack(tag, BasicAckOptions::default()),
        )
    };
    ack(tags[0]).await?;
    answer("tx.rollback-ok", ch.raw.tx_rollback()).await?;
    ack(tags[1]).await?;
    answer("tx.commit-ok", ch.raw.tx_commit()).await?;
    ack(tags[2]).await?;
    let left = c.left(&ch, &queue).await?;
    equal(
        left,
        ["1 again", "3 again"],
        "only the committed ack counts",
    )
}

async fn tx_refusals(c: &Context) -> CheckResult {
    let not_tx = "PRECONDITION_FAILED - channel is not transactional";
    let ch = c.plain().await?;
    refused(406, not_tx, answer("tx.commit-ok", ch.raw.tx_commit())).await?;
    let ch = c.plain().await?;
    refused(406, not_tx, answer("tx.rollback-ok", ch.raw.tx_rollback())).await?;
    let ch = c.plain().await?;
    answer("tx.select-ok", ch.raw.tx_select()).await?;
    let reason = "PRECONDITION_FAILED - cannot switch from tx to confirm mode";
    refused(406, reason, ch.confirm()).await?;
    let ch = c.channel().await?;
    ch.declare("", QueueDeclareOptions::exclusive(), FieldTable::default())
        .await?;
    let reason = "PRECONDITION_FAILED - cannot switch from confirm to tx mode";
    refused(406, reason, answer("tx.select-ok", ch.raw.tx_select())).await
}
