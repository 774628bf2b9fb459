//! Exchanges: kinds, what they route, and what may not be done to them.

use std::collections::HashMap;

use lapin::options::{
    BasicPublishOptions, ExchangeBindOptions, ExchangeDeclareOptions, ExchangeUnbindOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, ExchangeKind};

use super::context::{Answer, Ch, Context, Trouble, answer, no_exchange, refused, table, text};
use super::{Check, checks};
use crate::outcome::{CheckResult, Stop, ensure, equal};

pub(super) const CHECKS: &[(&str, Check)] = checks![
    exchange_default,
    exchange_direct,
    exchange_fanout,
    exchange_topic,
    exchange_headers,
    exchange_headers_with_x,
    exchange_headers_bad_match,
    exchange_to_exchange,
    alternate_exchange,
    cc_bcc,
    cc_not_an_array,
    exchange_internal,
    exchange_auto_delete,
    exchange_inequivalent,
    exchange_passive,
    exchange_predeclared,
    exchange_reserved_name,
    exchange_default_forbidden,
    exchange_delete,
];

const DURABLE: ExchangeDeclareOptions = ExchangeDeclareOptions {
    passive: false,
    durable: true,
    auto_delete: false,
    internal: false,
    nowait: false,
};
const TRANSIENT: ExchangeDeclareOptions = ExchangeDeclareOptions {
    durable: false,
    ..DURABLE
};

fn none() -> FieldTable {
    FieldTable::default()
}

fn int(value: i32) -> AMQPValue {
    AMQPValue::LongInt(value)
}

fn with_headers(headers: FieldTable) -> BasicProperties {
    BasicProperties::default().with_headers(headers)
}

/// A queue for each (label, routing key, arguments), by label.
async fn bound(
    c: &Context,
    ch: &Ch,
    exchange: &str,
    bindings: &[(&str, &str, FieldTable)],
) -> Answer<HashMap<String, String>> {
    let mut queues = HashMap::new();
    for (label, key, arguments) in bindings {
        let queue = c.queue(ch).await?;
        ch.bind(&queue, exchange, key, arguments.clone()).await?;
        queues.insert((*label).to_owned(), queue);
    }
    Ok(queues)
}

async fn bind_exchange(ch: &Ch, target: &str, source: &str, key: &str) -> Answer<()> {
    let options = ExchangeBindOptions::default();
    let bind = ch
        .raw
        .exchange_bind(target.into(), source.into(), key.into(), options, none());
    answer("exchange.bind-ok", bind).await
}

async fn exchange_default(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    ch.publish("", &queue, "by name").await?;
    equal(
        ch.drain(&queue).await?,
        ["by name"],
        "through the default exchange",
    )
}

async fn exchange_direct(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let exchange = c.exchange(&ch, ExchangeKind::Direct).await?;
    let bindings = [
        ("a", "a", none()),
        ("a too", "a", none()),
        ("b", "b", none()),
    ];
    let queues = bound(c, &ch, &exchange, &bindings).await?;
    equal(
        ch.routed(&exchange, "a", &queues, None).await?,
        ["a", "a too"],
        "key a",
    )?;
    equal(
        ch.routed(&exchange, "b", &queues, None).await?,
        ["b"],
        "key b",
    )?;
    ensure(
        ch.routed(&exchange, "c", &queues, None).await?.is_empty(),
        "key c was routed",
    )
}

async fn exchange_fanout(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let exchange = c
        .exchange_with(&ch, ExchangeKind::Fanout, DURABLE, none())
        .await?;
    let bindings = [("a", "x", none()), ("b", "", none()), ("c", "y", none())];
    let queues = bound(c, &ch, &exchange, &bindings).await?;
    equal(
        ch.routed(&exchange, "whatever", &queues, None).await?,
        ["a", "b", "c"],
        "fanout",
    )
}

async fn exchange_topic(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let exchange = c.exchange(&ch, ExchangeKind::Topic).await?;
    let patterns = [
        "#", "*", "a.*", "a.#", "*.b", "#.c", "a.*.c", "a.#.c", "a.b.c", "*.*", "",
    ];
    let bindings = patterns.map(|pattern| (pattern, pattern, none()));
    let queues = bound(c, &ch, &exchange, &bindings).await?;
    let cases: [(&str, &[&str]); 9] = [
        ("", &["", "#"]),
        ("a", &["#", "*", "a.#"]),
        ("a.b", &["#", "*.*", "*.b", "a.#", "a.*"]),
        ("a.b.c", &["#", "#.c", "a.#", "a.#.c", "a.*.c", "a.b.c"]),
        ("a.c", &["#", "#.c", "*.*", "a.#", "a.#.c", "a.*"]),
        ("a.b.d.c", &["#", "#.c", "a.#", "a.#.c"]),
        ("a..c", &["#", "#.c", "a.#", "a.#.c", "a.*.c"]),
        ("c", &["#", "#.c", "*"]),
        ("x.y", &["#", "*.*"]),
    ];
    for (key, expected) in cases {
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        equal(
            ch.routed(&exchange, key, &queues, None).await?,
            expected,
            key,
        )?;
    }
    Ok(())
}

async fn headers_routes(
    c: &Context,
    bindings: &[(&str, &str, FieldTable)],
    cases: &[(Option<FieldTable>, &[&str])],
) -> CheckResult {
    let ch = c.channel().await?;
    let exchange = c.exchange(&ch, ExchangeKind::Headers).await?;
    let queues = bound(c, &ch, &exchange, bindings).await?;
    for (headers, expected) in cases {
        let found = ch.routed(&exchange, "", &queues, headers.clone()).await?;
        equal(found, expected.to_vec(), &format!("{headers:?}"))?;
    }
    Ok(())
}

async fn exchange_headers(c: &Context) -> CheckResult {
    let matching = |how| ("x-match", text(how));
    let (one, two) = (("a", int(1)), ("b", text("two")));
    let bindings = [
        (
            "all",
            "",
            table([matching("all"), one.clone(), two.clone()]),
        ),
        (
            "any",
            "",
            table([matching("any"), one.clone(), two.clone()]),
        ),
        ("default", "", table([one.clone(), two.clone()])),
        (
            "present",
            "",
            table([matching("all"), ("a", AMQPValue::Void)]),
        ),
        (
            "skips x-",
            "",
            table([matching("all"), one.clone(), ("x-k", text("no"))]),
        ),
    ];
    let three = ("b", text("three"));
    let cases: [(Option<FieldTable>, &[&str]); 7] = [
        (
            Some(table([one.clone(), two.clone()])),
            &["all", "any", "default", "present", "skips x-"],
        ),
        (Some(table([one.clone()])), &["any", "present", "skips x-"]),
        (Some(table([("a", text("1"))])), &["present"]),
        (
            Some(table([two, ("z", AMQPValue::Boolean(true))])),
            &["any"],
        ),
        (
            Some(table([one, three, ("x-k", text("no"))])),
            &["any", "present", "skips x-"],
        ),
        (Some(none()), &[]),
        (None, &[]),
    ];
    headers_routes(c, &bindings, &cases).await
}

async fn exchange_headers_with_x(c: &Context) -> CheckResult {
    c.since(3, 10, "x-match forms all-with-x and any-with-x")?;
    let binding = |how| table([("x-match", text(how)), ("a", int(1)), ("x-k", text("yes"))]);
    let bindings = [
        ("all", "", binding("all-with-x")),
        ("any", "", binding("any-with-x")),
        ("plain any", "", binding("any")),
    ];
    let yes = ("x-k", text("yes"));
    let cases: [(Option<FieldTable>, &[&str]); 4] = [
        (
            Some(table([("a", int(1)), yes.clone()])),
            &["all", "any", "plain any"],
        ),
        (Some(table([yes])), &["any"]),
        (Some(table([("a", int(1))])), &["any", "plain any"]),
        (Some(table([("a", int(2)), ("x-k", text("no"))])), &[]),
    ];
    headers_routes(c, &bindings, &cases).await
}

async fn exchange_headers_bad_match(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let queue = c.queue(&ch).await?;
    let reason = "PRECONDITION_FAILED - Invalid x-match field value <<\"some\">>; \
                  expected all, any, all-with-x, or any-with-x";
    let arguments = table([("x-match", text("some"))]);
    refused(406, reason, ch.bind(&queue, "amq.headers", "", arguments)).await
}

async fn exchange_to_exchange(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let source = c.exchange(&ch, ExchangeKind::Topic).await?;
    let target = c.exchange(&ch, ExchangeKind::Fanout).await?;
    let queues = bound(c, &ch, &target, &[("q", "", none())]).await?;
    ch.bind(&queues["q"], &source, "a.#", none()).await?;
    bind_exchange(&ch, &target, &source, "a.*").await?;
    equal(
        ch.routed(&source, "a.b", &queues, None).await?,
        ["q"],
        "two ways to one queue",
    )?;
    ch.unbind(&queues["q"], &source, "a.#", none()).await?;
    equal(
        ch.routed(&source, "a.b", &queues, None).await?,
        ["q"],
        "through the second",
    )?;
    bind_exchange(&ch, &source, &target, "a.b").await?;
    equal(
        ch.routed(&source, "a.b", &queues, None).await?,
        ["q"],
        "round in a circle",
    )?;
    let options = ExchangeUnbindOptions::default();
    let (to, from) = (target.as_str().into(), source.as_str().into());
    let unbind = ch
        .raw
        .exchange_unbind(to, from, "a.*".into(), options, none());
    answer("exchange.unbind-ok", unbind).await?;
    ensure(
        ch.routed(&source, "a.b", &queues, None).await?.is_empty(),
        "routed after unbind",
    )
}

async fn alternate_exchange(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let spare = c.exchange(&ch, ExchangeKind::Fanout).await?;
    let arguments = table([("alternate-exchange", text(&spare))]);
    let main = c
        .exchange_with(&ch, ExchangeKind::Direct, TRANSIENT, arguments)
        .await?;
    let mut queues = bound(c, &ch, &spare, &[("spare", "", none())]).await?;
    queues.extend(bound(c, &ch, &main, &[("main", "key", none())]).await?);
    equal(
        ch.routed(&main, "key", &queues, None).await?,
        ["main"],
        "routed",
    )?;
    equal(
        ch.routed(&main, "other", &queues, None).await?,
        ["spare"],
        "not routed",
    )?;
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let publish = ch.publish_with(&main, "other", options, b"", BasicProperties::default());
    equal(
        publish.await?,
        Confirmation::Ack(None),
        "mandatory, taken by the alternate",
    )
}

async fn cc_bcc(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let mut queues = HashMap::new();
    for label in ["to", "cc", "bcc"] {
        queues.insert(label.to_owned(), c.queue(&ch).await?);
    }
    let array = |keys: &[&String]| {
        AMQPValue::FieldArray(keys.iter().map(|key| text(key)).collect::<Vec<_>>().into())
    };
    let copies = array(&[&queues["cc"], &queues["to"]]);
    let blind = array(&[&queues["bcc"]]);
    let headers = table([("CC", copies.clone()), ("BCC", blind), ("k", text("v"))]);
    let found = ch
        .routed("", &queues["to"], &queues, Some(headers.clone()))
        .await?;
    equal(found, ["bcc", "cc", "to"], "once each")?;
    let options = BasicPublishOptions::default();
    ch.publish_with("", &queues["to"], options, b"", with_headers(headers))
        .await?;
    let expected = table([("CC", copies), ("k", text("v"))]);
    for queue in queues.values() {
        let message = ch.must_get(queue).await?;
        equal(
            message.properties.headers().as_ref(),
            Some(&expected),
            "headers",
        )?;
    }
    Ok(())
}

async fn cc_not_an_array(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let headers = with_headers(table([("CC", text("queue"))]));
    match ch
        .publish_with("", "x", BasicPublishOptions::default(), b"", headers)
        .await
    {
        Err(Trouble::Closed { code: 406, text }) => {
            let start = "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,";
            ensure(text.starts_with(start), text)
        }
        other => Err(Stop::Failed(format!(
            "a CC header that is a string: {other:?}"
        ))),
    }
}

async fn exchange_internal(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let options = ExchangeDeclareOptions {
        internal: true,
        ..TRANSIENT
    };
    let internal = c
        .exchange_with(&ch, ExchangeKind::Fanout, options, none())
        .await?;
    let source = c.exchange(&ch, ExchangeKind::Fanout).await?;
    bind_exchange(&ch, &internal, &source, "").await?;
    let queues = bound(c, &ch, &internal, &[("q", "", none())]).await?;
    equal(
        ch.routed(&source, "", &queues, None).await?,
        ["q"],
        "through another exchange",
    )?;
    let reason =
        format!("ACCESS_REFUSED - cannot publish to internal exchange '{internal}' in vhost '/'");
    refused(403, reason, ch.publish(&internal, "", "")).await
}

async fn exchange_auto_delete(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let options = ExchangeDeclareOptions {
        auto_delete: true,
        ..TRANSIENT
    };
    let exchange = c
        .exchange_with(&ch, ExchangeKind::Direct, options, none())
        .await?;
    let queue = c.queue(&ch).await?;
    ch.passive_exchange(&exchange).await?;
    ch.bind(&queue, &exchange, "a", none()).await?;
    ch.bind(&queue, &exchange, "b", none()).await?;
    ch.unbind(&queue, &exchange, "a", none()).await?;
    ch.passive_exchange(&exchange).await?;
    ch.unbind(&queue, &exchange, "b", none()).await?;
    refused(404, no_exchange(&exchange), ch.passive_exchange(&exchange)).await
}

async fn exchange_inequivalent(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    let exchange = c
        .exchange_with(&ch, ExchangeKind::Direct, DURABLE, none())
        .await?;
    ch.declare_exchange(&exchange, ExchangeKind::Direct, DURABLE, none())
        .await?;
    for (key, received, current, kind, options, arguments) in inequivalent_declarations() {
        let reason = format!(
            "PRECONDITION_FAILED - inequivalent arg '{key}' for exchange '{exchange}' \
             in vhost '/': received {received} but current is {current}"
        );
        let ch = c.channel().await?;
        refused(
            406,
            reason,
            ch.declare_exchange(&exchange, kind, options, arguments),
        )
        .await?;
    }
    Ok(())
}

/// What differs from a durable direct exchange: key, the value received, the current one, and how
/// it is declared.
fn inequivalent_declarations() -> [Inequivalent; 5] {
    let auto_delete = ExchangeDeclareOptions {
        auto_delete: true,
        ..DURABLE
    };
    let internal = ExchangeDeclareOptions {
        internal: true,
        ..DURABLE
    };
    let spare = table([("alternate-exchange", text("spare"))]);
    let received = "the value 'spare' of type 'longstr'";
    let direct = ExchangeKind::Direct;
    [
        (
            "type",
            "'fanout'",
            "'direct'",
            ExchangeKind::Fanout,
            DURABLE,
            none(),
        ),
        (
            "durable",
            "'false'",
            "'true'",
            direct.clone(),
            TRANSIENT,
            none(),
        ),
        (
            "auto_delete",
            "'true'",
            "'false'",
            direct.clone(),
            auto_delete,
            none(),
        ),
        (
            "internal",
            "'true'",
            "'false'",
            direct.clone(),
            internal,
            none(),
        ),
        (
            "alternate-exchange",
            received,
            "none",
            direct,
            DURABLE,
            spare,
        ),
    ]
}

type Inequivalent = (
    &'static str,
    &'static str,
    &'static str,
    ExchangeKind,
    ExchangeDeclareOptions,
    FieldTable,
);

async fn exchange_passive(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    ch.passive_exchange("amq.topic").await?;
    let missing = c.name("x");
    refused(404, no_exchange(&missing), ch.passive_exchange(&missing)).await
}

async fn exchange_predeclared(c: &Context) -> CheckResult {
    let ch = c.channel().await?;
    for (name, kind) in [
        ("amq.direct", ExchangeKind::Direct),
        ("amq.fanout", ExchangeKind::Fanout),
        ("amq.topic", ExchangeKind::Topic),
        ("amq.headers", ExchangeKind::Headers),
        ("amq.match", ExchangeKind::Headers),
    ] {
        ch.declare_exchange(name, kind, DURABLE, none()).await?;
    }
    Ok(())
}

async fn exchange_reserved_name(c: &Context) -> CheckResult {
    let reason =
        "ACCESS_REFUSED - exchange name 'amq.conformance' contains reserved prefix 'amq.*'";
    let ch = c.channel().await?;
    let declare = ch.declare_exchange("amq.conformance", ExchangeKind::Direct, DURABLE, none());
    refused(403, reason, declare).await
}

async fn exchange_default_forbidden(c: &Context) -> CheckResult {
    let queue = c.queue(&c.channel().await?).await?;
    let reason = "ACCESS_REFUSED - operation not permitted on the default exchange";
    let ch = c.channel().await?;
    refused(403, reason, ch.bind(&queue, "", "k", none())).await?;
    let ch = c.channel().await?;
    refused(403, reason, ch.unbind(&queue, "", &queue, none())).await?;
    let ch = c.channel().await?;
    refused(403, reason, ch.delete_exchange("", false)).await?;
    let ch = c.channel().await?;
    refused(
        403,
        reason,
        ch.declare_exchange("", ExchangeKind::Direct, DURABLE, none()),
    )
    .await
}

async fn exchange_delete(c: &Context) -> CheckResult {
    let (ch, other, third) = (c.channel().await?, c.channel().await?, c.channel().await?);
    let exchange = c.exchange(&ch, ExchangeKind::Direct).await?;
    let queue = c.queue(&ch).await?;
    ch.bind(&queue, &exchange, "k", none()).await?;
    let reason = format!("PRECONDITION_FAILED - exchange '{exchange}' in vhost '/' in use");
    refused(406, reason, other.delete_exchange(&exchange, true)).await?;
    ch.unbind(&queue, &exchange, "k", none()).await?;
    ch.delete_exchange(&exchange, true).await?;
    ch.delete_exchange(&exchange, false).await?;
    equal(ch.depth(&queue).await?, (0, 0), "the queue stays")?;
    let reason =
        "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed";
    refused(403, reason, third.delete_exchange("amq.direct", false)).await
}
