//! Handshake, limits, heartbeats, closing.

use std::time::Duration;

use futures_lite::{StreamExt, future};
use lapin::Event;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use super::context::{Ch, Context, Trouble, answer, no_queue, refused};
use super::{Check, checks};
use crate::outcome::{CheckResult, Stop, ensure, equal};

pub(super) const CHECKS: &[(&str, Check)] = checks![
    wrong_password,
    unknown_vhost,
    close_clean,
    heartbeat_idle,
    tune_limits,
    many_channels,
    blocked_capability,
    channel_error_isolated,
];

async fn wrong_password(c: &Context) -> CheckResult {
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. \
                For details see the broker logfile.";
    let wrong =
        c.connect_with(|uri| "not the password".clone_into(&mut uri.authority.userinfo.password));
    refused(403, text, wrong).await
}

async fn unknown_vhost(c: &Context) -> CheckResult {
    let text = "NOT_ALLOWED - vhost no-such-vhost not found";
    let unknown = c.connect_with(|uri| "no-such-vhost".clone_into(&mut uri.vhost));
    refused(530, text, unknown).await
}

async fn close_clean(c: &Context) -> CheckResult {
    for _ in 0..2 {
        let connection = c.connect().await?;
        let ch = Ch::open(&connection).await?;
        answer("channel.close-ok", ch.raw.close(200, "done".into())).await?;
        answer("connection.close-ok", connection.close(200, "done".into())).await?;
    }
    Ok(())
}

async fn heartbeat_idle(c: &Context) -> CheckResult {
    let connection = c.connect_with(|uri| uri.query.heartbeat = Some(1)).await?;
    equal(
        connection.configuration().heartbeat(),
        1,
        "heartbeat agreed on",
    )?;
    let ch = Ch::open(&connection).await?;
    let mut events = connection.events_listener();
    let closed = async {
        loop {
            match events.next().await {
                Some(Event::Error(error)) => return error.to_string(),
                Some(_) => {}
                None => return "without a reason".to_owned(),
            }
        }
    };
    if let Ok(reason) = tokio::time::timeout(Duration::from_secs(5), closed).await {
        return Err(Stop::Failed(format!(
            "the idle connection was closed: {reason}"
        )));
    }
    ch.declare("", QueueDeclareOptions::exclusive(), FieldTable::default())
        .await?;
    Ok(())
}

async fn tune_limits(c: &Context) -> CheckResult {
    let connection = c
        .connect_with(|uri| {
            uri.query.frame_max = Some(8192);
            uri.query.channel_max = Some(10);
        })
        .await?;
    equal(connection.configuration().frame_max(), 8192, "frame_max")?;
    equal(connection.configuration().channel_max(), 10, "channel_max")?;
    let mut ch = Ch::open(&connection).await?;
    for _ in 1..10 {
        ch = Ch::open(&connection).await?;
    }
    ch.confirm().await?;
    let queue = c.queue(&ch).await?;
    let body = "b".repeat(50_000);
    ch.publish("", &queue, &body).await?;
    ensure(
        ch.drain(&queue).await? == [body],
        "the body in frames of 8192 differs",
    )
}

async fn many_channels(c: &Context) -> CheckResult {
    let connection = c.connect().await?;
    let mut channels = Vec::new();
    for _ in 0..500 {
        channels.push(Ch::open(&connection).await?);
    }
    let queue = c.queue(&channels[0]).await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut inbox = channels[0]
        .consume_with(&queue, "", options, FieldTable::default())
        .await?;
    for (number, ch) in channels.iter().enumerate() {
        let body = number.to_string();
        let options = BasicPublishOptions::default();
        ch.publish_with("", &queue, options, body.as_bytes(), Default::default())
            .await?;
    }
    let mut bodies = inbox.seen(500).await?;
    bodies.sort();
    bodies.dedup();
    equal(bodies.len(), 500, "messages, one from each channel")?;
    for ch in &channels[1..] {
        answer("channel.close-ok", ch.raw.close(200, "done".into())).await?;
    }
    channels[0].depth(&queue).await?;
    Ok(answer("connection.close-ok", connection.close(200, "done".into())).await?)
}

async fn blocked_capability(c: &Context) -> CheckResult {
    let connection = c.connect().await?;
    let mut events = connection.events_listener();
    let ch = Ch::open(&connection).await?;
    ch.declare("", QueueDeclareOptions::exclusive(), FieldTable::default())
        .await?;
    let mut next = future::poll_once(events.next()).await.flatten();
    while let Some(event) = next {
        ensure(
            !matches!(event, Event::ConnectionBlocked(_)),
            "blocked without an alarm",
        )?;
        next = future::poll_once(events.next()).await.flatten();
    }
    Ok(())
}

async fn channel_error_isolated(c: &Context) -> CheckResult {
    let (good, bad) = (c.channel().await?, c.channel().await?);
    let queue = c.queue(&good).await?;
    let missing = c.name("q");
    refused(404, no_queue(&missing), bad.depth(&missing)).await?;
    good.publish("", &queue, "still here").await?;
    equal(
        good.drain(&queue).await?,
        ["still here"],
        "on the other channel",
    )?;
    match bad.depth(&queue).await {
        Err(Trouble::Closed { .. } | Trouble::Other(_)) => {}
        Ok(_) => return Err(Stop::Failed("the closed channel still answers".to_owned())),
    }
    c.channel().await?.depth(&queue).await?;
    Ok(())
}
