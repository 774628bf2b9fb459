//! AMQP's bytes: publishes in, deliveries out.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use warren_benches::wire::{decode, deliveries};
use warren_benches::{BATCH, publishes};

const BODIES: [usize; 3] = [16, 1024, 16 * 1024];

fn decode_publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/decode publish");
    group.throughput(Throughput::Elements(BATCH as u64));
    for body_bytes in BODIES {
        let input = publishes("amq.topic", "a.routing.key", body_bytes);
        group.bench_with_input(BenchmarkId::from_parameter(body_bytes), &input, |b, it| {
            b.iter(|| decode(black_box(it)));
        });
    }
}

fn encode_delivery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/encode delivery");
    group.throughput(Throughput::Elements(BATCH as u64));
    for body_bytes in BODIES {
        let body = vec![b'x'; body_bytes];
        let mut out = BytesMut::with_capacity(BATCH * (body_bytes + 256));
        group.bench_function(BenchmarkId::from_parameter(body_bytes), |b| {
            b.iter(|| deliveries(&mut out, black_box(&body)));
        });
    }
}

criterion_group!(benches, decode_publish, encode_delivery);
criterion_main!(benches);
