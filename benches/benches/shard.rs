//! A shard of queues by itself, stage by stage.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use warren_benches::BATCH;
use warren_benches::queues::Queues;

#[derive(Clone, Copy)]
struct Stages {
    enqueue: Duration,
    deliver: Duration,
    settle: Duration,
}

fn round(queues: &mut Queues) -> Stages {
    let begun = Instant::now();
    queues.enqueue();
    let enqueue = begun.elapsed();

    let begun = Instant::now();
    queues.deliver();
    let deliver = begun.elapsed();

    let answers = queues.answers();
    let begun = Instant::now();
    queues.settle(answers);
    let settle = begun.elapsed();
    Stages {
        enqueue,
        deliver,
        settle,
    }
}

type Stage = (&'static str, fn(&Stages) -> Duration);

const STAGES: [Stage; 3] = [
    ("enqueue", |it| it.enqueue),
    ("deliver", |it| it.deliver),
    ("settle", |it| it.settle),
];

fn stages(criterion: &mut Criterion) {
    for (kind, logged) in [("logged", true), ("unlogged", false)] {
        let mut group = criterion.benchmark_group(format!("shard/{kind}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        for queues in [1, 16] {
            let mut all = Queues::new(logged, queues, 100);
            for (name, read) in STAGES {
                group.bench_function(BenchmarkId::new(name, queues), |bencher| {
                    bencher.iter_custom(|rounds| (0..rounds).map(|_| read(&round(&mut all))).sum());
                });
            }
        }
    }
}

criterion_group!(benches, stages);
criterion_main!(benches);
