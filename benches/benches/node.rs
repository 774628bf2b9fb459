//! A whole node, stage by stage: publishes become batches, entries, deliveries and confirms.
//!
//! The disk is memory, and its work is left out: the lane's figure is what the lane itself costs.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use warren_benches::BATCH;
use warren_benches::stand::{Stages, Stand};

/// A stage's name, and how to read its time.
type Stage = (&'static str, fn(&Stages) -> Duration);

const STAGES: [Stage; 4] = [
    ("publish turn", |it| it.publish),
    ("lane", |it| it.lane),
    ("deliver turn", |it| it.deliver),
    ("confirm turn", |it| it.confirm),
];

fn stages(criterion: &mut Criterion) {
    for (kind, durable) in [("logged", true), ("unlogged", false)] {
        let mut group = criterion.benchmark_group(format!("node/{kind}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        for body_bytes in [100, 2048] {
            let mut stand = Stand::new(durable, body_bytes);
            for (name, read) in STAGES {
                group.bench_function(BenchmarkId::new(name, body_bytes), |bencher| {
                    bencher.iter_custom(|rounds| (0..rounds).map(|_| read(&stand.round())).sum());
                });
            }
        }
    }
}

criterion_group!(benches, stages);
criterion_main!(benches);
