//! Bytes from a disk: whatever they are, reading them ends with a value or an error.
//!
//! Checksums keep most random bytes from ever being looked at, so each target also damages
//! something whole.

use bytes::{Bytes, BytesMut};
use warren_cluster_core::batch;
use warren_cluster_core::checkpoint::{self, Header, Writer};
use warren_cluster_core::ids::{Index, Life, NodeId, SegmentId, Seq, ShardId, Term};
use warren_cluster_core::link;
use warren_cluster_core::log::disk::FileName;
use warren_cluster_core::log::record::{self, At, Head, Kind};
use warren_cluster_core::log::sim::SimDisk;
use warren_cluster_core::log::{Item, Options, Position, Recovery};
use warren_cluster_core::machine::{CheckpointWriter, Machine};
use warren_cluster_core::origins::Origins;
use warren_cluster_core::replica;
use warren_cluster_core::rows::{Precondition, RowKey, Rows, Transaction, Version, Write};
use warren_fuzz::bytes_up_to;

const AT: At = At {
    log: 1,
    segment: SegmentId(1),
    offset: record::SEGMENT_HEAD_BYTES,
};

fn number(bytes: &[u8], at: usize) -> usize {
    let mut word = [0; 2];
    for (to, from) in word.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    usize::from(u16::from_le_bytes(word))
}

/// Overwrites part of `target` with `bytes`, from a place that they name themselves.
fn damage(target: &mut [u8], bytes: &[u8]) {
    let from = number(bytes, 0) % target.len();
    for (to, byte) in target[from..].iter_mut().zip(bytes.iter().skip(2)) {
        *to = *byte;
    }
}

fn record_of(payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let head = Head {
        kind: Kind::Entry,
        entry_kind: 0,
        shard: ShardId(1),
        term: 1,
        index: 1,
    };
    record::encode_head(AT, &head, payload, &mut out);
    out.extend_from_slice(payload);
    out.extend_from_slice(record::padding(payload.len() as u32));
    out
}

#[test]
fn records() {
    let input = bytes_up_to(600);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            let _ = record::mark_at(AT, bytes);
            let _ = record::parse_segment_head(SegmentId(1), bytes);
            if let Ok(record) = record::parse(AT, bytes) {
                assert!(record.size as usize <= bytes.len());
            }
            let whole = record_of(bytes);
            let read = record::parse(AT, &whole).expect("what we wrote we read");
            assert_eq!(read.payload, bytes);
        });
}

#[test]
fn segments() {
    let input = bytes_up_to(600);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            let mut segment = BytesMut::from(&record::encode_segment_head(1, SegmentId(1))[..]);
            segment.extend_from_slice(&record_of(b"an entry"));
            segment.resize(segment.len() + 64, 0);
            let mut segment = segment.to_vec();
            damage(&mut segment, bytes);
            let mut disk = SimDisk::new(1);
            disk.put(FileName::Segment(SegmentId(1)), segment);
            let Ok(mut recovery) = Recovery::open(Options::new(1), &mut disk) else {
                return;
            };
            while let Ok(Some(item)) = recovery.next(&mut disk) {
                if let Item::Entry { payload, .. } = item {
                    assert_eq!(payload, &b"an entry"[..]);
                }
            }
        });
}

#[test]
fn checkpoints() {
    let input = bytes_up_to(600);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            let _ = checkpoint::read(1, bytes);
            let header = Header {
                shard: ShardId(1),
                index: Index(1),
                term: Term(1),
                log: 1,
                number: 1,
                begun: Position::new(1, 0),
                replay_from: 1,
                survivors: 1,
                floor: Position::from_u64(0),
            };
            let mut writer = Writer::new(&header);
            writer.chunk(b"a chunk");
            writer.finish();
            let whole = writer.take();
            let mut damaged = whole.to_vec();
            damage(&mut damaged, bytes);
            if let Ok(read) = checkpoint::read(1, &damaged) {
                assert_eq!(read.header, header);
                assert_eq!(read.parts, [(0, &b"a chunk"[..])]);
            }
        });
}

/// What another node sends: any bytes are parcels or an error, and parcels are sent as they were
/// read.
#[test]
fn envelopes() {
    bolero::check!()
        .with_generator(bytes_up_to(600))
        .for_each(|bytes: &Vec<u8>| {
            let mut versioned = vec![link::VERSION];
            versioned.extend_from_slice(bytes);
            let Ok(parcels) = link::open(&versioned.into()) else {
                return;
            };
            let mut mail = link::Mail::default();
            for (shard, parcel) in &parcels {
                mail.send(NodeId(1), *shard, parcel);
            }
            let mut envelopes = Vec::new();
            mail.take(link::Beat::None, &mut envelopes);
            let again: usize = envelopes
                .iter()
                .map(|it| link::open(&it.parts.concat().into()).expect("ours").len())
                .sum();
            assert_eq!(again, parcels.len());
        });
}

#[test]
fn states() {
    let input = bytes_up_to(600);
    bolero::check!()
        .with_generator(input)
        .for_each(|bytes: &Vec<u8>| {
            let _ = batch::Header::decode(bytes);
            if let Ok(origins) = Origins::decode(bytes) {
                let mut again = Vec::new();
                origins.encode(&mut again);
                assert_eq!(Origins::decode(&again).as_ref(), Ok(&origins));
            }
            if let Ok(head) = replica::head::Head::decode(bytes) {
                assert_eq!(
                    replica::head::Head::decode(&head.encode()).as_ref(),
                    Ok(&head)
                );
            }
            if let Ok(transaction) = Transaction::decode(Bytes::copy_from_slice(bytes)) {
                let mut again = BytesMut::new();
                transaction.encode(&mut again);
                assert_eq!(again, bytes);
                assert_eq!(transaction.encoded_len(), bytes.len());
                Rows::default().transact(&transaction, &mut Vec::new());
            }
            let mut rows = Rows::default();
            if rows.restore(bytes).is_ok() && rows.restored().is_ok() {
                assert!(rows.all().iter().all(|row| row.version <= rows.version()));
            }
            damaged_states(bytes);
        });
}

/// Whole ones with some damage: random bytes seldom come as far as the second field.
fn damaged_states(bytes: &[u8]) {
    let mut origins = Origins::default();
    let origin = origins.open(NodeId(1), Life(4), Index(3));
    origins.record(origin, Seq(1), batch::Outcome::Stored);
    let mut head = Vec::new();
    origins.encode(&mut head);
    damage(&mut head, bytes);
    let _ = Origins::decode(&head);

    let key = |key: &'static [u8]| RowKey {
        kind: 1,
        key: Bytes::from_static(key),
    };
    let transaction = Transaction {
        preconditions: vec![
            Precondition::Absent(key(b"a")),
            Precondition::Unchanged(key(b"b"), Version(1)),
        ],
        writes: vec![
            Write::Put {
                row: key(b"c"),
                value: Bytes::from_static(b"value"),
            },
            Write::Delete { row: key(b"d") },
        ],
    };
    let mut encoded = BytesMut::new();
    transaction.encode(&mut encoded);
    damage(&mut encoded, bytes);
    let _ = Transaction::decode(encoded.freeze());
}
