//! Files that a real RabbitMQ 3.10 wrote, as they are.

use super::*;

const CLUSTER: &str = include_str!("../../testdata/rabbitmq-3.10-cluster.json");
const VHOST: &str = include_str!("../../testdata/rabbitmq-3.10-vhost.json");
const UNSUPPORTED: &str = include_str!("../../testdata/rabbitmq-3.10-unsupported.json");

#[test]
fn a_cluster_imports_exports_and_compares_equal() {
    let file = read(CLUSTER);
    assert_eq!(file.users.len(), 5);
    assert_eq!(file.vhosts.len(), 3);
    assert_eq!(file.permissions.len(), 6);
    let mut world = World::new();
    let plan = world.import(&file, &OPTIONS);
    assert_eq!(plan.blocked, []);
    assert_eq!(plan.count(Action::Create), file.len());
    assert_eq!(plan.entries.len(), file.len());
    assert_eq!(
        plan.transactions.len(),
        3,
        "one a unit: the third vhost is empty"
    );
    assert!(plan.notes.is_empty() && plan.is_whole());
    let exported = world.export(Scope::Cluster);
    assert_same(&file, &exported);
    assert_same(&exported, &file);
    // And once more, from our own file into an empty broker.
    let mut other = World::new();
    other.import(&exported, &OPTIONS);
    assert_eq!(other.export(Scope::Cluster), exported);
    // Pruning finds nothing to prune.
    let pruned = world.plan(&file, &PRUNE);
    assert_eq!(shown(&pruned), Vec::<String>::new());
}

#[test]
fn queues_are_as_they_were_declared() {
    let mut world = World::new();
    world.import(&read(CLUSTER), &OPTIONS);
    let vhost = world.topology.vhost("shop").expect("it was made");
    let name = "Zürich 東京 🐇 \"quoted\" \\ /slash";
    assert!(vhost.queue(name.as_bytes()).is_some());
    let kind = |name: &str| {
        vhost
            .queue(name.as_bytes())
            .expect("it was made")
            .row
            .kind
            .name()
    };
    assert_eq!(kind("quorum"), "quorum");
    assert_eq!(kind("plain"), "classic");
    let shards: BTreeSet<u32> = vhost.queues().map(|queue| queue.row.shard.0).collect();
    assert!(
        shards
            .iter()
            .all(|shard| (1..=OPTIONS.shards).contains(shard))
    );
    assert!(shards.len() > 1, "{shards:?}");
    assert_eq!(vhost.row().description, "Orders & invoices");
}

#[test]
fn a_vhost_imports_into_any_other() {
    let mut world = World::with(r#"{"vhosts":[{"name":"elsewhere"}]}"#);
    let file = parse(VHOST.as_bytes(), Some("elsewhere")).expect("the file is right");
    let plan = world.import(&file, &OPTIONS);
    assert_eq!(plan.count(Action::Create), file.len());
    assert_same(&file, &world.export(Scope::Vhost("elsewhere")));
    let vhost = world.topology.vhost("elsewhere").expect("it was made");
    assert!(vhost.exchange(b"inner").expect("it was made").row.internal);
    // RabbitMQ's own files of a cluster have no internal exchanges, and ours need not.
    let options = ExportOptions {
        internal_exchanges: false,
        ..export_options(Scope::Vhost("elsewhere"))
    };
    let without = Definitions::of_topology(&world.topology, &options).expect("it can be read");
    let missing: Vec<_> = diff(&file, &without)
        .into_iter()
        .map(|found| found.name)
        .collect();
    assert_eq!(missing, ["inner", "'inner' -> queue 'plain' with key 'x'"]);
    let plan = World::new().plan(&file, &OPTIONS);
    assert_eq!(
        blocked(&plan),
        ["vhost 'elsewhere': vhost 'elsewhere' not found"]
    );
    assert_eq!(plan.transactions, []);
}

#[test]
fn what_warren_lacks_is_named_and_keeps_its_unit_out() {
    let file = read(UNSUPPORTED);
    let mut world = World::with(CLUSTER);
    let before = world.export(Scope::Cluster);
    let plan = world.plan(&file, &OPTIONS);
    let hint = "(files of RabbitMQ lack internal exchanges: declare it first)";
    let expected = [
        "unsupported user limit 'bob/max-connections': limits of users are not supported yet",
        "unsupported vhost limit 'max-queues' in vhost 'shop': limits of vhosts are not supported \
         yet",
        "unsupported global parameter 'site': global parameters are not supported yet",
        &format!(
            "conflict binding 'inner' -> queue 'plain' with key 'x' in vhost '/': no exchange \
             'inner' in vhost '/' {hint}"
        ),
        "unsupported topic permission 'bob/amq.topic' in vhost 'shop': topic permissions are not \
         supported yet",
        "unsupported policy 'ttl' in vhost 'shop': policies are not supported yet",
        "unsupported operator policy 'cap' in vhost 'shop': operator policies are not supported \
         yet",
        "unsupported queue 'dead' in vhost 'shop': argument 'x-message-ttl' is not supported yet",
        "unsupported queue 'stream' in vhost 'shop': queue type 'stream' is not supported yet",
        "unsupported queue 'transient' in vhost 'shop': what is not durable lives on the node that \
         a client declared it on",
        &format!(
            "conflict binding 'inner' -> queue 'plain' with key 'x' in vhost 'shop': no exchange \
             'inner' in vhost 'shop' {hint}"
        ),
    ];
    assert_eq!(shown(&plan), expected);
    assert_eq!(
        blocked(&plan),
        [
            "users, vhosts and permissions: 3 unsupported",
            "vhost '/': 1 in conflict",
            "vhost 'shop': 1 in conflict, 6 unsupported",
        ]
    );
    assert_eq!(plan.transactions, []);
    world.apply(&plan);
    assert_eq!(world.export(Scope::Cluster), before);
    assert!(!plan.is_whole());
}
