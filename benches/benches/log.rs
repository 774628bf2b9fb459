//! What every entry costs: a record's head and checksum, and a transaction on rows.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use warren_cluster_core::ids::{SegmentId, ShardId};
use warren_cluster_core::log::record::{self, At, Head, Kind};
use warren_cluster_core::rows::{Precondition, RowKey, Rows, Transaction, Write};

const ROWS: u32 = 100_000;

const AT: At = At {
    log: 1,
    segment: SegmentId(1),
    offset: record::SEGMENT_HEAD_BYTES,
};

const HEAD: Head = Head {
    kind: Kind::Entry,
    entry_kind: 0,
    shard: ShardId(1),
    term: 1,
    index: 1,
};

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    for payload_bytes in [256, 16 * 1024, 512 * 1024] {
        let payload = vec![7; payload_bytes];
        group.throughput(Throughput::Bytes(payload_bytes as u64));
        let mut out = BytesMut::with_capacity(64);
        group.bench_function(BenchmarkId::new("record head", payload_bytes), |b| {
            b.iter(|| {
                out.clear();
                record::encode_head(AT, &HEAD, black_box(&payload), &mut out);
                black_box(out.len())
            });
        });
        out.clear();
        record::encode_head(AT, &HEAD, &payload, &mut out);
        out.extend_from_slice(&payload);
        out.extend_from_slice(record::padding(payload_bytes as u32));
        group.bench_function(BenchmarkId::new("record read", payload_bytes), |b| {
            b.iter(|| record::parse(AT, black_box(&out)).expect("ours").size);
        });
    }
}

fn key(number: u32) -> RowKey {
    let key = format!("/ a queue with the number {number:08}");
    RowKey {
        kind: 6,
        key: Bytes::from(key),
    }
}

fn put(number: u32) -> Transaction {
    let value = Bytes::from_static(&[0; 48]);
    Transaction {
        preconditions: vec![Precondition::Present(key(0))],
        writes: vec![Write::Put {
            row: key(number),
            value,
        }],
    }
}

/// Decodes and applies a transaction that writes one of many rows again.
fn transactions(criterion: &mut Criterion) {
    let mut rows = Rows::default();
    let mut changes = Vec::new();
    for number in 0..ROWS {
        let mut first = put(number);
        first.preconditions.clear();
        rows.transact(&first, &mut changes);
        changes.clear();
    }
    let encoded: Vec<Bytes> = (0..64)
        .map(|at| {
            let mut out = BytesMut::new();
            put(at * 1543 % ROWS).encode(&mut out);
            out.freeze()
        })
        .collect();
    let mut group = criterion.benchmark_group("rows");
    group.throughput(Throughput::Elements(encoded.len() as u64));
    group.bench_function(BenchmarkId::new("transaction", ROWS), |b| {
        b.iter(|| {
            for bytes in &encoded {
                let transaction = Transaction::decode(bytes.clone()).expect("ours");
                black_box(rows.transact(&transaction, &mut changes));
            }
            changes.clear();
        });
    });
}

criterion_group!(benches, records, transactions);
criterion_main!(benches);
