//! AMQP's bytes: publishes in, deliveries out.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use warren_benches::{BATCH, PERSISTENT, publishes};
use warren_protocol::hot::{self, Deliver};
use warren_protocol::{ContentHeader, FrameKind, Properties, frame, limits};

const FRAME_MAX: u32 = limits::FRAME_MAX_BYTES_DEFAULT;
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

/// Reads all frames as a session does; gives the bytes of bodies.
fn decode(input: &[u8]) -> usize {
    let (mut rest, mut bytes) = (input, 0);
    while let Ok(Some((frame, used))) = frame::parse(rest, FRAME_MAX) {
        match frame.kind {
            FrameKind::Method => drop(black_box(hot::parse(frame.payload))),
            FrameKind::Header => {
                let header = ContentHeader::parse(frame.payload).expect("ours");
                black_box(header.properties.validate()).expect("ours");
            }
            FrameKind::Body => bytes += black_box(frame.payload).len(),
            FrameKind::Heartbeat => {}
        }
        rest = &rest[used..];
    }
    bytes
}

fn encode_delivery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/encode delivery");
    group.throughput(Throughput::Elements(BATCH as u64));
    for body_bytes in BODIES {
        let body = vec![b'x'; body_bytes];
        let mut out = BytesMut::with_capacity(BATCH * (body_bytes + 256));
        group.bench_function(BenchmarkId::from_parameter(body_bytes), |b| {
            b.iter(|| {
                out.clear();
                for delivery_tag in 0..BATCH as u64 {
                    let deliver = Deliver {
                        consumer_tag: b"a consumer's tag",
                        delivery_tag,
                        redelivered: false,
                        exchange: b"amq.topic",
                        routing_key: b"a.routing.key",
                    };
                    let properties = Properties::from_raw(&PERSISTENT);
                    let body = black_box(&body);
                    hot::encode_delivery(&mut out, 1, &deliver, properties, body, FRAME_MAX);
                }
                black_box(out.len())
            });
        });
    }
}

criterion_group!(benches, decode_publish, encode_delivery);
criterion_main!(benches);
