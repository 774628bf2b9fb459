//! Definitions files: in, out, compared.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use warren_broker_core::definitions::interchange::parse;
use warren_broker_core::definitions::plan::{PlanOptions, plan};

use super::*;
use crate::admin::import::{self, ImportOptions};
use crate::proto::admin_v1::diff_request;

const PLAIN: proto::ImportOptions = proto::ImportOptions {
    dry_run: false,
    prune: false,
    vhost: String::new(),
};

async fn diff(node: &Node, file: &[u8]) -> Vec<proto::Difference> {
    let options = diff_request::Part::Options(proto::DiffOptions::default());
    let chunk = diff_request::Part::Chunk(Bytes::copy_from_slice(file));
    let messages = [options, chunk].map(|part| proto::DiffRequest { part: Some(part) });
    let answer = node
        .definitions()
        .await
        .diff(tokio_stream::iter(messages))
        .await;
    let mut stream = answer.expect("answers").into_inner();
    let mut found = Vec::new();
    while let Some(message) = stream.message().await.expect("goes on") {
        found.extend(message.differences);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_rabbitmq_comes_back_equal() {
    let node = Node::start(|_| {}).await;
    let before = node.version();
    let dry = proto::ImportOptions {
        dry_run: true,
        ..PLAIN
    };
    let dry = node.import(FIXTURE, dry).await.expect("plans");
    assert_eq!(node.version(), before, "a dry run changes nothing");
    assert!(dry.result.dry_run && dry.progress.is_empty());
    assert!(!diff(&node, FIXTURE).await.is_empty());
    let imported = node.import(FIXTURE, PLAIN).await.expect("imports");
    assert_eq!(imported.result.blocked, []);
    assert_eq!(imported.entries, dry.entries);
    let made = imported.result.created + imported.result.changed;
    assert_eq!(imported.entries.len() as u64, made);
    assert_eq!(imported.result.created, dry.result.created);
    let last = imported.progress.last().expect("tells of its progress");
    assert_eq!(last.done, last.total);
    let differences: Vec<_> = diff(&node, FIXTURE).await;
    let unlike: Vec<_> = differences
        .iter()
        .filter(|difference| difference.change() != proto::Change::Removed)
        .collect();
    // The user `guest` and the like that were there before the file was.
    assert!(unlike.is_empty(), "{unlike:?}");
    let exported = node.export("").await;
    assert_eq!(diff(&node, &exported).await, []);
    let again = node.import(&exported, PLAIN).await.expect("imports");
    assert_eq!(again.entries, []);
    // And into a blank node, whose export is the same but for the name of its cluster.
    let other = Node::start(|_| {}).await;
    let prune = proto::ImportOptions {
        prune: true,
        ..PLAIN
    };
    other.import(&exported, prune).await.expect("imports");
    assert_eq!(diff(&other, &exported).await, []);
    assert_eq!(other.export("").await, exported);
    node.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_deletes_what_the_file_lacks() {
    let node = Node::start(|_| {}).await;
    let file = |queues: &str| format!(r#"{{"queues":[{queues}],"bindings":[]}}"#);
    let queue = |name: &str| {
        format!(
            r#"{{"name":"{name}","vhost":"/","durable":true,"auto_delete":false,"arguments":{{}}}}"#
        )
    };
    let both = file(&[queue("a"), queue("b")].join(","));
    node.import(both.as_bytes(), PLAIN).await.expect("imports");
    let one = file(&queue("b"));
    let kept = node.import(one.as_bytes(), PLAIN).await.expect("imports");
    assert_eq!((kept.result.deleted, kept.result.same), (0, 1));
    let prune = proto::ImportOptions {
        prune: true,
        ..PLAIN
    };
    let pruned = node.import(one.as_bytes(), prune).await.expect("imports");
    assert_eq!(pruned.result.deleted, 1);
    let [entry] = pruned.entries.as_slice() else {
        panic!("{:?}", pruned.entries);
    };
    assert_eq!((entry.action(), &*entry.name), (proto::Action::Delete, "a"));
    let topology = node.broker.topology().clone();
    let vhost = topology.vhost("/").expect("is there");
    assert!(vhost.queue(b"a").is_none() && vhost.queue(b"b").is_some());
    // The file has no users, so it says nothing of them.
    assert!(topology.user("guest").is_some());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_named_and_changes_nothing() {
    let node = Node::start(|_| {}).await;
    let before = node.version();
    let cases: [(&[u8], &str); 4] = [
        (b"{\"users\":[{\"name\":7}]}", "users[0]"),
        (b"not JSON", "line 1"),
        (&FIXTURE[..FIXTURE.len() / 2], "line"),
        (
            br#"{"queues":[{"name":"q","durable":true,"auto_delete":false,"arguments":{}}]}"#,
            "queues[0] 'q', vhost",
        ),
    ];
    for (file, place) in cases {
        let refused = node.import(file, PLAIN).await.map(|_| ());
        let refused = refused.expect_err("is refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(place), "{refused}");
    }
    let no_options = tokio_stream::iter(import_messages(b"{}", PLAIN).split_off(1));
    let refused = node.definitions().await.import(no_options).await;
    let refused = refused.map(drop).expect_err("is refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(node.version(), before);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_keeps_its_vhost_and_no_other_from_changing() {
    let node = Node::start(|_| {}).await;
    let file = |durable_type: &str| {
        format!(
            r#"{{"vhosts":[{{"name":"v"}}],
              "exchanges":[{{"name":"x","vhost":"/","type":"{durable_type}","durable":true,
                "auto_delete":false,"internal":false,"arguments":{{}}}}],
              "queues":[{{"name":"q","vhost":"v","durable":true,"auto_delete":false,
                "arguments":{{}}}}]}}"#
        )
    };
    let first = node.import(file("fanout").as_bytes(), PLAIN).await;
    assert_eq!(first.expect("imports").result.blocked, []);
    let text = file("topic").replace("\"q\"", "\"p\"");
    let second = node.import(text.as_bytes(), PLAIN).await.expect("imports");
    let [blocked] = second.result.blocked.as_slice() else {
        panic!("{:?}", second.result);
    };
    assert_eq!(blocked.unit, "vhost '/'");
    assert_eq!(second.result.created, 1, "the queue 'p' of the other vhost");
    let topology = node.broker.topology().clone();
    assert!(topology.vhost("v").expect("there").queue(b"p").is_some());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_import_is_told_of_the_first() {
    let node = Node::start(|_| {}).await;
    // The first one may come while the place is still a second one's, and be refused itself.
    let (refused, answer) = loop {
        let mut messages = import_messages(FIXTURE, PLAIN).into_iter();
        let (sender, receiver) = mpsc::channel(4);
        let options = messages.next().expect("options");
        sender.send(options).await.expect("goes");
        let mut client = node.definitions().await;
        let first = tokio::spawn(async move { client.import(ReceiverStream::new(receiver)).await });
        // Until it has begun, the second one may come through.
        let refused = loop {
            match node.import(b"{}", PLAIN).await {
                Ok(_) if first.is_finished() => break None,
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => break Some(status),
            }
        };
        for message in messages {
            // Nobody takes it any more if the first one was refused.
            let _ = sender.send(message).await;
        }
        drop(sender);
        match (refused, first.await.expect("does not panic")) {
            (Some(refused), Ok(answer)) => break (refused, answer),
            (_, Err(status)) => assert_eq!(status.code(), Code::Aborted, "{status}"),
            (None, Ok(_)) => panic!("it ended before it had all"),
        }
    };
    assert_eq!(refused.code(), Code::Aborted);
    let who = "an import by the administrator's certificate from 127.0.0.1";
    assert!(refused.message().starts_with(who), "{refused}");
    let imported = imported(answer.into_inner()).await.expect("imports");
    assert!(imported.result.created > 50);
    // The place is free again once the first has ended.
    let mut third = node.import(b"{}", PLAIN).await;
    while third
        .as_ref()
        .is_err_and(|status| status.code() == Code::Aborted)
    {
        third = node.import(b"{}", PLAIN).await;
    }
    assert!(third.is_ok());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_race_is_planned_again() {
    let node = Node::start(|_| {}).await;
    let file = parse(FIXTURE, None).expect("parses");
    let options = PlanOptions {
        prune: false,
        random: 1,
        shards: 4,
    };
    let stale = plan(&file, &node.broker.topology(), &options);
    // Somebody is quicker with a part of it.
    let part = br#"{"vhosts":[{"name":"shop"}]}"#;
    node.import(part, PLAIN).await.expect("imports");
    let (listener, mut steps) = mpsc::channel(8);
    let heard = tokio::spawn(async move { while steps.recv().await.is_some() {} });
    let committed = import::commit(&node.broker, stale.transactions, &listener).await;
    assert!(matches!(committed, Ok(false)), "the vhost is there already");
    let options = ImportOptions {
        dry_run: false,
        prune: false,
    };
    let outcome = import::import(&node.broker, Arc::new(file), options, &listener).await;
    drop(listener);
    heard.await.expect("does not panic");
    assert!(outcome.expect("does the rest").blocked.is_empty());
    let differences = diff(&node, FIXTURE).await;
    let all_removed =
        |difference: &proto::Difference| difference.change() == proto::Change::Removed;
    assert!(differences.iter().all(all_removed), "{differences:?}");
    node.stop().await;
}
