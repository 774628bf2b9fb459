//! What each object comes to: created, changed, the same, in conflict.

use bytes::Bytes;
use warren_cluster_core::rows::{Precondition, Write};
use warren_protocol::table::{FieldTable, FieldValue};

use super::*;
use crate::auth::password;
use crate::definitions::{
    BindingKey, ExchangeKey, ExchangeKind, ExchangeRow, QueueKey, QueueKind, QueueRow, UserKey,
    VhostKey,
};
use crate::dispatch::operation::DestinationKind;

const PRESENT: &str = r#"{"vhosts":[{"name":"/"},{"name":"q","default_queue_type":"quorum"}],
    "users":[{"name":"guest","password":"guest","tags":"administrator"}],
    "permissions":[{"user":"guest","vhost":"/","configure":".*","write":".*","read":".*"}],
    "exchanges":[{"name":"e","vhost":"/","type":"topic"},{"name":"h","vhost":"/","type":"headers"}],
    "queues":[{"name":"c","vhost":"/"},{"name":"a","vhost":"/","auto_delete":true}],
    "bindings":[{"source":"e","vhost":"/","destination":"c","destination_type":"queue",
        "routing_key":"k"}]}"#;

/// What a file with this one item comes to beside `PRESENT`.
#[track_caller]
fn comes_to(section: &str, item: &str, expected: &[&str]) {
    let world = World::with(PRESENT);
    let plan = world.plan(&read(&format!(r#"{{"{section}":[{item}]}}"#)), &OPTIONS);
    assert_eq!(shown(&plan), expected, "{item}");
    let wrong = plan.entries.iter().any(|entry| entry.action.blocks());
    assert_eq!(plan.is_whole(), !wrong, "{item}");
    assert_eq!(
        plan.transactions.is_empty(),
        wrong || expected.is_empty(),
        "{item}"
    );
}

const QUEUES: &[(&str, &[&str])] = &[
    (r#"{"name":"c","vhost":"/"}"#, &[]),
    (
        r#"{"name":"c","vhost":"/","type":"classic","arguments":{"x-unknown":1}}"#,
        &[],
    ),
    (
        r#"{"name":"n","vhost":"/"}"#,
        &["create queue 'n' in vhost '/'"],
    ),
    (
        r#"{"name":"amq.gen-x","vhost":"/"}"#,
        &["create queue 'amq.gen-x' in vhost '/'"],
    ),
    (
        r#"{"name":"c","vhost":"/","durable":false}"#,
        &[
            "conflict queue 'c' in vhost '/': inequivalent arg 'durable' for queue 'c' in vhost \
           '/': received 'false' but current is 'true'",
        ],
    ),
    (
        r#"{"name":"a","vhost":"/"}"#,
        &[
            "conflict queue 'a' in vhost '/': inequivalent arg 'auto_delete' for queue 'a' in \
           vhost '/': received 'false' but current is 'true'",
        ],
    ),
    (
        r#"{"name":"c","vhost":"/","type":"quorum"}"#,
        &[
            "conflict queue 'c' in vhost '/': inequivalent arg 'x-queue-type' for queue 'c' in \
           vhost '/': received 'quorum' but current is 'classic'",
        ],
    ),
    (
        r#"{"name":"c","vhost":"/","arguments":{"x-message-ttl":10}}"#,
        &[
            "conflict queue 'c' in vhost '/': inequivalent arg 'x-message-ttl' for queue 'c' in \
           vhost '/': received the value '10' of type 'long' but current is none",
        ],
    ),
    (
        r#"{"name":"n","vhost":"/","arguments":{"x-max-length":10}}"#,
        &["unsupported queue 'n' in vhost '/': argument 'x-max-length' is not supported yet"],
    ),
    (
        r#"{"name":"n","vhost":"/","arguments":{"x-max-length":-10}}"#,
        &[
            "conflict queue 'n' in vhost '/': invalid arg 'x-max-length' for queue 'n' in vhost \
           '/': {value_negative,-10}",
        ],
    ),
    (
        r#"{"name":"n","vhost":"/","type":"quorum","auto_delete":true}"#,
        &[
            "conflict queue 'n' in vhost '/': invalid property 'auto-delete' for queue 'n' in \
           vhost '/'",
        ],
    ),
    (
        r#"{"name":"n","vhost":"/","type":"fast"}"#,
        &[
            "conflict queue 'n' in vhost '/': invalid arg 'x-queue-type' for queue 'n' in vhost \
           '/': \"unsupported queue type 'fast'\"",
        ],
    ),
    (
        r#"{"name":"n","vhost":"/","durable":false}"#,
        &[
            "unsupported queue 'n' in vhost '/': what is not durable lives on the node that a \
           client declared it on",
        ],
    ),
];

#[test]
fn queues() {
    for (item, expected) in QUEUES {
        comes_to("queues", item, expected);
    }
    let world = World::with(PRESENT);
    let file = read(r#"{"queues":[{"name":"n","vhost":"nowhere"}]}"#);
    let plan = world.plan(&file, &OPTIONS);
    assert_eq!(shown(&plan), ["create queue 'n' in vhost 'nowhere'"]);
    assert_eq!(
        blocked(&plan),
        ["vhost 'nowhere': vhost 'nowhere' not found"]
    );
    assert_eq!(plan.transactions, []);
}

const EXCHANGES: &[(&str, &[&str])] = &[
    (r#"{"name":"e","vhost":"/","type":"topic"}"#, &[]),
    (r#"{"name":"amq.topic","vhost":"/","type":"topic"}"#, &[]),
    (
        r#"{"name":"n","vhost":"/","type":"direct","internal":true}"#,
        &["create exchange 'n' in vhost '/'"],
    ),
    (
        r#"{"name":"e","vhost":"/","type":"direct"}"#,
        &[
            "conflict exchange 'e' in vhost '/': inequivalent arg 'type' for exchange 'e' in \
           vhost '/': received 'direct' but current is 'topic'",
        ],
    ),
    (
        r#"{"name":"e","vhost":"/","type":"topic","arguments":{"alternate-exchange":"x"}}"#,
        &[
            "conflict exchange 'e' in vhost '/': inequivalent arg 'alternate-exchange' for \
           exchange 'e' in vhost '/': received the value 'x' of type 'longstr' but current is \
           none",
        ],
    ),
    (
        r#"{"name":"n","vhost":"/","type":"direct","arguments":{"alternate-exchange":1}}"#,
        &[
            "conflict exchange 'n' in vhost '/': invalid type 'long' for arg \
           'alternate-exchange' in exchange 'n' in vhost '/'",
        ],
    ),
    (
        r#"{"name":"amq.mine","vhost":"/","type":"direct"}"#,
        &[
            "conflict exchange 'amq.mine' in vhost '/': exchange name 'amq.mine' contains \
           reserved prefix 'amq.*'",
        ],
    ),
    (
        r#"{"name":"n","vhost":"/","type":"x-delayed-message"}"#,
        &["unsupported exchange 'n' in vhost '/': unknown exchange type 'x-delayed-message'"],
    ),
    (
        r#"{"name":"n","vhost":"/","type":"direct","durable":false}"#,
        &[
            "unsupported exchange 'n' in vhost '/': what is not durable lives on the node that \
           a client declared it on",
        ],
    ),
];

#[test]
fn exchanges() {
    for (item, expected) in EXCHANGES {
        comes_to("exchanges", item, expected);
    }
}

#[test]
fn bindings() {
    let binding = |source: &str, destination: &str, kind: &str, rest: &str| {
        format!(
            r#"{{"source":"{source}","destination":"{destination}","destination_type":"{kind}",
                "vhost":"/"{rest}}}"#
        )
    };
    let cases: [(String, &[&str]); 6] = [
        (binding("e", "c", "queue", r#","routing_key":"k""#), &[]),
        (
            binding(
                "amq.direct",
                "e",
                "exchange",
                r#","arguments":{"b":1,"a":"x"}"#,
            ),
            &[
                "create binding 'amq.direct' -> exchange 'e' and arguments {\"a\":\"x\",\"b\":1} \
               in vhost '/'",
            ],
        ),
        (
            binding("e", "n", "queue", ""),
            &["conflict binding 'e' -> queue 'n' in vhost '/': no queue 'n' in vhost '/'"],
        ),
        (
            binding("n", "c", "queue", ""),
            &[
                "conflict binding 'n' -> queue 'c' in vhost '/': no exchange 'n' in vhost '/' \
               (files of RabbitMQ lack internal exchanges: declare it first)",
            ],
        ),
        (
            binding("h", "c", "queue", r#","arguments":{"x-match":"some"}"#),
            &[
                "conflict binding 'h' -> queue 'c' and arguments {\"x-match\":\"some\"} in vhost \
               '/': Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or \
               any-with-x",
            ],
        ),
        (
            binding("h", "c", "queue", r#","arguments":{"x-match":1}"#),
            &[
                "conflict binding 'h' -> queue 'c' and arguments {\"x-match\":1} in vhost '/': \
               Invalid x-match field type long (value 1); expected longstr",
            ],
        ),
    ];
    for (item, expected) in cases {
        comes_to("bindings", &item, expected);
    }
}

#[test]
fn users_vhosts_and_permissions() {
    comes_to(
        "users",
        r#"{"name":"guest","password":"guest","tags":"administrator"}"#,
        &[],
    );
    comes_to(
        "users",
        r#"{"name":"new","tags":"management"}"#,
        &["create user 'new'"],
    );
    comes_to(
        "users",
        r#"{"name":"guest","password":"other","tags":["administrator","monitoring"]}"#,
        &["change user 'guest': password, tags: 'administrator' -> 'administrator,monitoring'"],
    );
    comes_to(
        "users",
        r#"{"name":"guest","password":"guest","tags":"management"}"#,
        &["conflict user 'guest': no user would be left with the tag 'administrator'"],
    );
    comes_to("vhosts", r#"{"name":"/"}"#, &[]);
    comes_to(
        "vhosts",
        r#"{"name":"/","metadata":{"description":"d","tags":["t"],"default_queue_type":"quorum"}}"#,
        &[
            "change vhost '/': description: \"\" -> \"d\", tags: [] -> [\"t\"], \
           default_queue_type: \"\" -> \"quorum\"",
        ],
    );
    comes_to(
        "vhosts",
        r#"{"name":"n","default_queue_type":"stream"}"#,
        &["unsupported vhost 'n': default queue type 'stream' is not supported yet"],
    );
    let permission = |user: &str, vhost: &str, read: &str| {
        format!(
            r#"{{"user":"{user}","vhost":"{vhost}","configure":".*","write":".*","read":"{read}"}}"#
        )
    };
    comes_to("permissions", &permission("guest", "/", ".*"), &[]);
    comes_to(
        "permissions",
        &permission("guest", "/", "^a"),
        &["change permission 'guest' in vhost '/': read: \".*\" -> \"^a\""],
    );
    comes_to(
        "permissions",
        &permission("nobody", "/", "^a"),
        &["conflict permission 'nobody' in vhost '/': user 'nobody' not found"],
    );
    comes_to(
        "permissions",
        &permission("guest", "n", "^a"),
        &["conflict permission 'guest' in vhost 'n': vhost 'n' not found"],
    );
}

#[test]
fn a_password_is_salted_and_works() {
    let mut world = World::new();
    let json = r#"{"users":[{"name":"a","password":"geheim"},{"name":"b","password":"geheim"}]}"#;
    world.import(&read(json), &OPTIONS);
    let row = |name: &str| world.topology.user(name).expect("it was made").row.clone();
    assert_eq!(password::check(&row("a"), b"geheim"), Ok(()));
    assert_eq!(password::check(&row("b"), b"geheim"), Ok(()));
    assert_ne!(row("a").password_hash, row("b").password_hash);
}

#[test]
fn the_type_of_a_queue_is_the_files_not_the_vhosts() {
    let mut world = World::with(PRESENT);
    let json = r#"{"queues":[{"name":"c","vhost":"q","type":"classic"},
        {"name":"d","vhost":"q"},{"name":"e","vhost":"q","type":"quorum"}]}"#;
    world.import(&read(json), &OPTIONS);
    let vhost = world.topology.vhost("q").expect("it is there");
    let kind = |name: &[u8]| vhost.queue(name).expect("it was made").row.kind;
    assert_eq!(kind(b"c"), QueueKind::Classic);
    assert_eq!(kind(b"d"), QueueKind::Quorum);
    assert_eq!(kind(b"e"), QueueKind::Quorum);
}

/// Old files have them; a new vhost has them as well.
#[test]
fn predeclared_exchanges_are_there_already() {
    let json = r#"{"vhosts":[{"name":"n"}],
        "exchanges":[{"name":"amq.topic","vhost":"n","type":"topic"}],
        "queues":[{"name":"q","vhost":"n"}],
        "bindings":[{"source":"amq.topic","vhost":"n","destination":"q",
            "destination_type":"queue","routing_key":"k"}]}"#;
    let mut world = World::new();
    let plan = world.import(&read(json), &OPTIONS);
    assert!(plan.is_whole(), "{plan:?}");
    assert_eq!(
        (plan.count(Action::Same), plan.count(Action::Create)),
        (1, 3)
    );
    assert_eq!(
        shown(&world.plan(&read(json), &PRUNE)),
        Vec::<String>::new()
    );
    let json = json.replace(r#""type":"topic""#, r#""type":"fanout""#);
    let plan = World::new().plan(&read(&json), &OPTIONS);
    assert_eq!(blocked(&plan), ["vhost 'n': 1 in conflict"]);
}

#[test]
fn a_vhost_waits_for_the_unit_that_makes_it() {
    let json = r#"{"vhosts":[{"name":"n"},{"name":"s","default_queue_type":"stream"}],
        "queues":[{"name":"a","vhost":"n"},{"name":"b","vhost":"/"}]}"#;
    let mut world = World::with(PRESENT);
    let plan = world.import(&read(json), &OPTIONS);
    assert_eq!(
        blocked(&plan),
        [
            "users, vhosts and permissions: 1 unsupported",
            "vhost 'n': vhost 'n' is not created, because users, vhosts and permissions are not \
             applied",
        ]
    );
    let vhost = world.topology.vhost("/").expect("it is there");
    assert!(vhost.queue(b"b").is_some());
    assert!(world.topology.vhost("n").is_none());
}

/// JSON has one type of integer: a binding that a client made with another is still the same.
#[test]
fn a_binding_is_the_same_in_the_types_of_json() {
    let mut world = World::with(PRESENT);
    let arguments = FieldTable::new()
        .with("x-match", "all")
        .with("count", FieldValue::SignedInt(3))
        .with("at", FieldValue::Timestamp(9));
    let key = BindingKey {
        vhost: "/",
        source: b"h",
        destination: b"c",
        destination_kind: DestinationKind::Queue,
        routing_key: b"\xFF",
        arguments,
    };
    let write = Write::Put {
        row: key.encode(),
        value: BindingKey::value(),
    };
    world.commit(Store::Replicated, &one(write));
    let file = world.export(Scope::Cluster);
    let plan = world.import(&file, &PRUNE);
    assert_eq!(shown(&plan), Vec::<String>::new());
    assert_eq!(
        world
            .topology
            .vhost("/")
            .expect("it is there")
            .bindings()
            .count(),
        2
    );
    let exported = crate::definitions::interchange::export(
        &world.topology,
        &export_options(Scope::Cluster),
        &mut |_| {},
    );
    let notes = exported.expect("the cluster is there").notes;
    assert_eq!(
        notes,
        ["binding 'h -> c' in vhost '/' has bytes that are no text"]
    );
}

fn one(write: Write) -> Transaction {
    Transaction {
        preconditions: Vec::new(),
        writes: vec![write],
    }
}

/// What of this node alone a file neither has nor takes.
#[test]
fn transient_objects_stay_out_of_files() {
    let mut world = World::with(PRESENT);
    let before = world.export(Scope::Cluster);
    let row = QueueRow {
        kind: QueueKind::Classic,
        durable: false,
        auto_delete: false,
        owner: None,
        shard: warren_cluster_core::ids::ShardId::queues_of(warren_cluster_core::ids::NodeId(1)),
        created: None,
        home: None,
        arguments: FieldTable::new(),
    };
    let exchange = ExchangeRow {
        kind: ExchangeKind::Direct,
        durable: false,
        auto_delete: false,
        internal: false,
        home: None,
        arguments: FieldTable::new(),
    };
    let put = |row, value: Bytes| Write::Put { row, value };
    let (vhost, name): (_, &[u8]) = ("/", b"t");
    let binding = BindingKey {
        vhost,
        source: b"e",
        destination: name,
        destination_kind: DestinationKind::Queue,
        routing_key: b"",
        arguments: FieldTable::new(),
    };
    let writes = [
        put(QueueKey { vhost, name }.encode(), row.encode()),
        put(ExchangeKey { vhost, name }.encode(), exchange.encode()),
        put(binding.encode(), BindingKey::value()),
    ];
    for write in writes {
        world.commit(Store::Local, &one(write));
    }
    assert_eq!(world.export(Scope::Cluster), before);
    let json = r#"{"bindings":[{"source":"t","vhost":"/","destination":"c",
        "destination_type":"queue"}],"queues":[{"name":"t","vhost":"/","durable":false}]}"#;
    let plan = world.plan(&read(json), &OPTIONS);
    assert_eq!(
        shown(&plan),
        [
            "unsupported binding 't' -> queue 'c' in vhost '/': what is not durable lives on the \
          node that a client declared it on"
        ]
    );
}

/// Another declares the same in between: nothing is overwritten, and a new plan does the rest.
#[test]
fn a_lost_race_is_a_conflict() {
    let json = r#"{"vhosts":[{"name":"/"}],"queues":[{"name":"a","vhost":"/"},
        {"name":"b","vhost":"/"}]}"#;
    let mut world = World::with(r#"{"vhosts":[{"name":"/"}]}"#);
    let late = world.plan(&read(json), &OPTIONS);
    world.import(&read(r#"{"queues":[{"name":"b","vhost":"/"}]}"#), &OPTIONS);
    let [planned] = &late.transactions[..] else {
        panic!("one transaction: {late:?}");
    };
    let committed = world.commit(planned.store, &planned.transaction);
    let row = QueueKey {
        vhost: "/",
        name: b"b",
    };
    assert!(
        matches!(&committed, Committed::Conflict { row: found, .. } if *found == row.encode()),
        "{committed:?}"
    );
    assert!(
        world
            .topology
            .vhost("/")
            .expect("it is there")
            .queue(b"a")
            .is_none()
    );
    let plan = world.import(&read(json), &OPTIONS);
    assert_eq!(shown(&plan), ["create queue 'a' in vhost '/'"]);
    // The vhost goes before the contents come.
    let late = world.plan(&read(r#"{"queues":[{"name":"n","vhost":"/"}]}"#), &OPTIONS);
    let gone = Write::Delete {
        row: VhostKey { name: "/" }.encode(),
    };
    world.commit(Store::Replicated, &one(gone));
    let committed = world.commit(Store::Replicated, &late.transactions[0].transaction);
    assert!(
        matches!(committed, Committed::Conflict { .. }),
        "{committed:?}"
    );
}

#[test]
fn a_changed_user_is_not_overwritten_blindly() {
    let world = World::with(PRESENT);
    let json = r#"{"users":[{"name":"guest","password":"x","tags":"administrator"}]}"#;
    let plan = world.plan(&read(json), &OPTIONS);
    let key = UserKey { name: "guest" }.encode();
    let version = world.topology.user("guest").expect("it is there").version;
    assert_eq!(
        plan.transactions[0].transaction.preconditions,
        [Precondition::Unchanged(key, version)]
    );
}
