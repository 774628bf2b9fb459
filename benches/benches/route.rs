//! Where a message goes: each kind of exchange, with and without a session's cache.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warren_benches::PERSISTENT;
use warren_benches::definitions::{Definitions, header, route, route_cached, topology};
use warren_broker_core::definitions::{BindingKey, Store};
use warren_broker_core::topology::{RouteBuffer, RouteCache, Vhost};
use warren_cluster_core::rows::Version;
use warren_protocol::{FieldTable, Properties};

/// Checks that a message goes to so many queues; gives what routes it.
fn router<'a>(
    vhost: &'a Vhost,
    (exchange, key): (&'a str, &'a str),
    properties: &'a [u8],
    queues: usize,
) -> impl FnMut() -> usize + 'a {
    let mut buffer = RouteBuffer::new();
    let mut once = move || route(vhost, black_box((exchange, key)), properties, &mut buffer);
    assert_eq!(once(), queues, "{key}");
    once
}

fn routes(criterion: &mut Criterion) {
    let topology = topology();
    let vhost: &Arc<Vhost> = topology.vhost("/").expect("it is there");
    let mut group = criterion.benchmark_group("route");
    group.throughput(Throughput::Elements(1));
    let plain = &PERSISTENT[..];
    let with_header = Properties::EMPTY.edit().headers_from(&header(50)).finish();
    let cases = [
        ("default", ("", "queue-004321"), plain, 1),
        ("direct", ("amq.direct", "queue-000050"), plain, 1),
        (
            "topic, 100k bindings",
            ("amq.topic", "region.5.order.opened"),
            plain,
            1,
        ),
        (
            "topic, 100k bindings, unroutable",
            ("amq.topic", "region.none.order.opened"),
            plain,
            0,
        ),
        ("fanout to 100", ("amq.fanout", ""), plain, 100),
        (
            "headers, 100 bindings",
            ("amq.headers", ""),
            &with_header,
            1,
        ),
    ];
    for (name, to, properties, queues) in cases {
        let mut once = router(vhost, to, properties, queues);
        group.bench_function(name, |b| b.iter(&mut once));
    }

    let mut cache = RouteCache::new();
    let mut buffer = RouteBuffer::new();
    group.bench_function("topic, 100k bindings, cached", |b| {
        b.iter(|| {
            let to = black_box(("amq.topic", "region.5.order.opened"));
            route_cached(&mut cache, vhost, to, plain, &mut buffer)
        });
    });
}

/// What a bind costs the topology: every node does it for every declaration.
fn change(criterion: &mut Criterion) {
    let mut topology = topology();
    let mut one = Definitions::default();
    one.bind("amq.topic", 1, "a.new.*.binding", FieldTable::new());
    let mut bind = one.0;
    let mut version = topology.version(Store::Replicated).0;
    let mut group = criterion.benchmark_group("topology");
    group.throughput(Throughput::Elements(2));
    group.bench_function("bind and unbind beside 100k", |b| {
        b.iter(|| {
            for value in [Some(BindingKey::value()), None] {
                version += 1;
                bind[0].value = value;
                bind[0].version = Version(version);
                let mut next = topology.clone();
                next.apply(Store::Replicated, &bind).expect("readable");
                topology = next;
            }
        });
    });
}

criterion_group!(benches, routes, change);
criterion_main!(benches);
