//! What goes because the file lacks it, and what never does.

use std::fmt::Write as _;

use warren_cluster_core::rows::Write;

use super::*;
use crate::definitions::{TopicPermissionKey, TopicPermissionRow};

const FULL: &str = r#"{"vhosts":[{"name":"/"},{"name":"old"}],
    "users":[{"name":"root","tags":"administrator"},{"name":"u"},{"name":"w"}],
    "permissions":[{"user":"root","vhost":"/","configure":".*","write":".*","read":".*"},
        {"user":"u","vhost":"/","configure":"","write":"","read":""},
        {"user":"root","vhost":"old","configure":"","write":"","read":""}],
    "exchanges":[{"name":"e","vhost":"/","type":"topic","auto_delete":true},
        {"name":"x","vhost":"/","type":"fanout"},{"name":"i","vhost":"/","type":"fanout",
         "internal":true},{"name":"e","vhost":"old","type":"topic"}],
    "queues":[{"name":"a","vhost":"/"},{"name":"b","vhost":"/"},{"name":"c","vhost":"old"}],
    "bindings":[
        {"source":"e","vhost":"/","destination":"a","destination_type":"queue","routing_key":"k"},
        {"source":"e","vhost":"/","destination":"b","destination_type":"queue","routing_key":"k"},
        {"source":"x","vhost":"/","destination":"e","destination_type":"exchange"},
        {"source":"i","vhost":"/","destination":"a","destination_type":"queue"},
        {"source":"amq.topic","vhost":"/","destination":"a","destination_type":"queue"},
        {"source":"e","vhost":"old","destination":"c","destination_type":"queue"}]}"#;

#[test]
fn what_the_file_lacks_goes() {
    let mut world = World::with(FULL);
    let json = r#"{"vhosts":[{"name":"/"}],"users":[{"name":"root","tags":"administrator"}],
        "permissions":[{"user":"root","vhost":"/","configure":".*","write":".*","read":".*"}],
        "exchanges":[{"name":"e","vhost":"/","type":"topic","auto_delete":true}],
        "queues":[{"name":"a","vhost":"/"}],"bindings":[]}"#;
    let kept = world.import(&read(json), &OPTIONS);
    assert_eq!(shown(&kept), Vec::<String>::new());
    let plan = world.import(&read(json), &PRUNE);
    assert_eq!(
        shown(&plan),
        [
            "delete permission 'root' in vhost 'old'",
            "delete permission 'u' in vhost '/'",
            "delete user 'u'",
            "delete user 'w'",
            "delete vhost 'old'",
            "delete binding 'e' -> queue 'a' with key 'k' in vhost '/'",
            "delete binding 'amq.topic' -> queue 'a' in vhost '/'",
            "delete binding 'e' -> queue 'b' with key 'k' in vhost '/'",
            "delete binding 'x' -> exchange 'e' in vhost '/'",
            "delete queue 'b' in vhost '/': its messages go with it",
            "delete exchange 'x' in vhost '/'",
            "delete binding 'e' -> queue 'c' in vhost 'old'",
            "delete queue 'c' in vhost 'old': its messages go with it",
            "delete exchange 'e' in vhost 'old'",
        ]
    );
    assert_eq!(world.topology.tombstones().count(), 2);
    // An internal exchange and what is bound to it are not a file's to take away.
    let vhost = world.topology.vhost("/").expect("it stays");
    assert!(vhost.exchange(b"i").is_some());
    assert_eq!(vhost.bindings().count(), 1);
    assert!(vhost.exchange(b"amq.topic").is_some());
    assert!(world.topology.vhost("old").is_none());
    assert_eq!(world.topology.all_grants().count(), 1);
}

#[test]
fn sections_that_the_file_lacks_are_left_alone() {
    let mut world = World::with(FULL);
    let plan = world.import(&read(r#"{"queues":[{"name":"a","vhost":"/"}]}"#), &PRUNE);
    assert_eq!(
        shown(&plan),
        [
            "delete binding 'e' -> queue 'b' with key 'k' in vhost '/'",
            "delete queue 'b' in vhost '/': its messages go with it",
        ]
    );
    let file = parse(br#"{"queues":[],"exchanges":[]}"#, Some("old")).expect("the file is right");
    let plan = world.import(&file, &PRUNE);
    assert_eq!(
        shown(&plan),
        [
            "delete binding 'e' -> queue 'c' in vhost 'old'",
            "delete queue 'c' in vhost 'old': its messages go with it",
            "delete exchange 'e' in vhost 'old'",
        ]
    );
    let plan = world.import(&read("{}"), &PRUNE);
    assert_eq!(plan.entries, []);
    // A file of one vhost says nothing of the cluster, not even with empty sections.
    let json = br#"{"users":[],"vhosts":[],"permissions":[]}"#;
    let file = parse(json, Some("/")).expect("the file is right");
    assert_eq!(world.import(&file, &PRUNE).entries, []);
}

#[test]
fn the_last_administrator_stays() {
    let mut world = World::with(FULL);
    let json = r#"{"users":[{"name":"u"}],"permissions":[]}"#;
    let plan = world.import(&read(json), &PRUNE);
    assert_eq!(
        shown(&plan),
        [
            "delete permission 'u' in vhost '/'",
            "same user 'root': the file lacks it; kept, because no administrator would be left",
            "delete user 'w'",
        ]
    );
    assert!(world.topology.permission("root", "/").is_some());
    let other = r#"{"users":[{"name":"chief","tags":"administrator"}]}"#;
    let plan = world.import(&read(other), &PRUNE);
    assert_eq!(
        shown(&plan),
        [
            "create user 'chief'",
            "delete permission 'root' in vhost '/'",
            "delete permission 'root' in vhost 'old'",
            "delete user 'root'",
            "delete user 'u'",
        ]
    );
}

#[test]
fn a_blocked_unit_deletes_nothing() {
    let mut world = World::with(FULL);
    let before = world.export(Scope::Cluster);
    let json = r#"{"vhosts":[{"name":"/"}],"users":[{"name":"n","limits":{"max-channels":1},
        "tags":"administrator"}],"queues":[{"name":"a","vhost":"/","durable":false}]}"#;
    let plan = world.import(&read(json), &PRUNE);
    assert_eq!(plan.blocked.len(), 2);
    assert_eq!(plan.transactions, []);
    assert_eq!(world.export(Scope::Cluster), before);
}

/// Whoever gets the name next must not get what the last one was allowed.
#[test]
fn topic_permissions_go_with_their_user() {
    let mut world = World::with(FULL);
    let key = TopicPermissionKey {
        user: "u",
        vhost: "/",
        exchange: b"e",
    };
    let row = TopicPermissionRow {
        write: "^a".into(),
        read: "^b".into(),
    };
    let transaction = Transaction {
        preconditions: Vec::new(),
        writes: vec![Write::Put {
            row: key.encode(),
            value: row.encode(),
        }],
    };
    world.commit(Store::Replicated, &transaction);
    let json = r#"{"users":[{"name":"root","tags":"administrator"},{"name":"w"}]}"#;
    let plan = world.import(&read(json), &PRUNE);
    assert_eq!(
        shown(&plan),
        [
            "delete permission 'u' in vhost '/'",
            "delete topic permission 'u///e'",
            "delete user 'u'",
        ]
    );
    assert!(world.topology.grants("u", "/").is_none());
}

/// 20,000 queues with a binding each: in parts, each an entry, and with a stop in the middle.
#[test]
fn many_queues_in_parts() {
    const QUEUES: usize = 20_000;
    let json = many(QUEUES);
    let file = read(&json);
    let mut world = World::with(r#"{"vhosts":[{"name":"/"}]}"#);
    let plan = world.plan(&file, &OPTIONS);
    assert_eq!(plan.count(Action::Create), 2 * QUEUES);
    assert!(plan.transactions.len() > 2, "{}", plan.transactions.len());
    let sizes = plan
        .transactions
        .iter()
        .map(|it| it.transaction.encoded_len());
    let largest = sizes.max().expect("there are some");
    assert!(largest <= TRANSACTION_BYTES_MAX, "{largest}");
    let first = &plan.transactions[0];
    let committed = world.commit(first.store, &first.transaction);
    assert!(matches!(committed, Committed::Yes { .. }), "{committed:?}");
    let rest = world.import(&file, &OPTIONS);
    assert!(rest.count(Action::Same) > 0);
    assert_eq!(
        rest.count(Action::Create) + rest.count(Action::Same),
        2 * QUEUES + 1
    );
    let mut pieces = 0;
    let mut longest = 0;
    let exported = crate::definitions::interchange::export(
        &world.topology,
        &export_options(Scope::Cluster),
        &mut |piece| {
            pieces += 1;
            longest = longest.max(piece.len());
        },
    );
    let exported = exported.expect("the cluster is there");
    assert_eq!(exported.objects, 2 * QUEUES as u64 + 1);
    assert!(longest < 64 << 10, "{longest}");
    assert!(pieces > 50, "{pieces}");
    assert_same(&file, &world.export(Scope::Cluster));
    let empty = r#"{"vhosts":[{"name":"/"}],"queues":[],"bindings":[]}"#;
    let plan = world.import(&read(empty), &PRUNE);
    assert_eq!(plan.count(Action::Delete), 2 * QUEUES);
    assert_eq!(world.topology.queues().count(), 0);
}

/// A file with a vhost, queues, and a binding to each.
pub(super) fn many(queues: usize) -> String {
    let mut json = String::from(r#"{"vhosts":[{"name":"/"}],"queues":["#);
    for at in 0..queues {
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(
            json,
            r#"{comma}{{"name":"queue-{at}","vhost":"/","type":"quorum","durable":true,
                "auto_delete":false,"arguments":{{"x-queue-type":"quorum"}}}}"#
        );
    }
    json.push_str(r#"],"bindings":["#);
    for at in 0..queues {
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(
            json,
            r#"{comma}{{"source":"amq.topic","vhost":"/","destination":"queue-{at}",
                "destination_type":"queue","routing_key":"key.{at}","arguments":{{}}}}"#
        );
    }
    json.push_str("]}");
    json
}
