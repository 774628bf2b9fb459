//! What lies on disk: every version ever written must open, and nothing else may be believed.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::model::{Model, body};
use super::{publish, small};
use crate::checkpoint::{self, Header, Writer};
use crate::ids::{Index, Place, SegmentId, ShardId, Term};
use crate::log::disk::{FileName, RecoveryDisk};
use crate::log::record::{self, At, HEAD_BYTES, Head, Kind, SEGMENT_HEAD_BYTES};
use crate::log::sim::SimDisk;
use crate::log::{HardState, Item, Position, Recovery};
use crate::machine::{Bodies, CheckpointWriter, LiveRef};
use crate::testing::fixture;

const SHARD: ShardId = ShardId(1);
const SECOND: FileName = FileName::Segment(SegmentId(2));

/// A segment as the log writes it: three entries and a hard state.
fn segment() -> Vec<u8> {
    let mut model = Model::new(1, 1, small());
    for id in 1..=3 {
        model.append(0, &[publish(7, id, 20)]);
        if id == 2 {
            model.log.append_hard_state(SHARD, hard_state());
        }
        model.settle();
    }
    let first = FileName::Segment(SegmentId(1));
    let end = model.log.tail().offset() as usize;
    model.disk.read(first, 0, end).expect("reads").to_vec()
}

fn hard_state() -> HardState {
    HardState {
        term: Term(4),
        vote: 2,
        commit: Index(9),
    }
}

#[test]
fn a_segment_of_version_1_opens() {
    let bytes = segment();
    let stored = fixture("segment_v1.hex", &bytes);
    assert_eq!(bytes, stored, "a new format needs a new version");
    let mut disk = SimDisk::new(1);
    disk.put(FileName::Segment(SegmentId(1)), stored);
    let mut recovery = Recovery::open(small(), &mut disk).expect("opens");
    let mut items = Vec::new();
    while let Some(item) = recovery.next(&mut disk).expect("reads") {
        items.push(item);
    }
    let indexes: Vec<_> = items
        .iter()
        .map(|item| match item {
            Item::Entry { index, payload, .. } => {
                assert!(payload.ends_with(&body(SHARD, 7, index.0, 20)));
                index.0
            }
            Item::HardState { shard, state } => {
                assert_eq!((*shard, *state), (SHARD, hard_state()));
                0
            }
        })
        .collect();
    assert_eq!(indexes, [1, 2, 0, 3]);
}

fn checkpoint() -> (FileName, Vec<u8>) {
    let number = 5;
    let mut writer = Writer::new(&Header {
        shard: SHARD,
        index: Index(2),
        term: Term(1),
        log: small().log,
        number,
        begun: Position::new(2, SEGMENT_HEAD_BYTES),
        replay_from: 2,
        survivors: 3,
        floor: Position::from_u64(0),
    });
    writer.part(1, b"replica");
    writer.chunk(b"machine");
    writer.chunk(b"");
    writer.finish();
    let shard = SHARD;
    let file = FileName::Checkpoint { shard, number };
    (file, writer.take().to_vec())
}

#[test]
fn a_checkpoint_of_version_1_opens() {
    let (file, bytes) = checkpoint();
    let stored = fixture("checkpoint_v1.hex", &bytes);
    assert_eq!(bytes, stored, "a new format needs a new version");
    let whole = checkpoint::read(5, &stored).expect("whole");
    assert_eq!(whole.header.index, Index(2));
    let expected: [(u8, &[u8]); 3] = [(1, b"replica"), (0, b"machine"), (0, b"")];
    assert_eq!(whole.parts, expected);
    let mut disk = SimDisk::new(1);
    disk.put(file, stored.clone());
    let mut recovery = Recovery::open(small(), &mut disk).expect("opens");
    assert_eq!(recovery.checkpoints(), [whole.header]);
    let mut parts = Vec::new();
    let take = |kind, bytes: &[u8]| {
        parts.push((kind, bytes.to_vec()));
        Ok::<(), String>(())
    };
    recovery
        .read_checkpoint(SHARD, &mut disk, take)
        .expect("whole");
    assert_eq!(parts.len(), 3);
    for end in 0..stored.len() {
        assert!(checkpoint::read(5, &stored[..end]).is_err());
    }
    assert!(checkpoint::read(6, &stored).is_err(), "another file's");
}

/// A survivors' segment with one body in it.
fn survivors() -> Vec<u8> {
    let segment = SegmentId::survivor(1);
    let log = small().log;
    let mut out = BytesMut::from(&record::encode_segment_head(log, segment)[..]);
    let at = |out: &BytesMut| At {
        log,
        segment,
        offset: out.len() as u32,
    };
    let mark = Head::mark(Position::new(1, SEGMENT_HEAD_BYTES));
    record::encode_head(at(&out), &mark, &[], &mut out);
    let body = body(SHARD, 7, 3, 21);
    let head = Head {
        kind: Kind::Survivor,
        entry_kind: 0,
        shard: SHARD,
        term: 7,
        index: 3,
    };
    record::encode_head(at(&out), &head, &body, &mut out);
    out.extend_from_slice(&body);
    out.extend_from_slice(record::padding(body.len() as u32));
    out.to_vec()
}

#[test]
fn a_survivor_of_version_1_is_found() {
    let stored = fixture("survivors_v1.hex", &survivors());
    assert_eq!(survivors(), stored, "a new format needs a new version");
    let copies = SegmentId::survivor(1);
    let mut disk = SimDisk::new(1);
    disk.put(FileName::Segment(copies), stored);
    let (file, checkpoint) = checkpoint();
    disk.put(file, checkpoint);
    let mut recovery = Recovery::open(small(), &mut disk).expect("opens");
    let place = Place {
        segment: SegmentId(1),
        offset: 5000,
    };
    recovery.log().bodies(SHARD).retain(7, 3, place, 21);
    let live = |_, _, _, out: &mut Vec<LiveRef>| {
        out.push(LiveRef {
            id: 3,
            place,
            len: 21,
        });
    };
    let moved = recovery
        .relocations(&mut disk, live, &|_| false)
        .expect("found");
    let expected = Place {
        segment: copies,
        offset: SEGMENT_HEAD_BYTES + 2 * HEAD_BYTES,
    };
    assert_eq!(moved.len(), 1);
    assert_eq!((moved[0].from, moved[0].to), (place, expected));
    let wrong_length = |_, _, _, out: &mut Vec<LiveRef>| {
        out.push(LiveRef {
            id: 3,
            place,
            len: 22,
        });
    };
    assert!(
        recovery
            .relocations(&mut disk, wrong_length, &|_| false)
            .is_err()
    );
}

#[test]
fn a_later_version_is_refused_by_name() {
    let mut bytes = segment();
    bytes[8] = 2;
    let sum = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&sum.to_le_bytes());
    let mut disk = SimDisk::new(1);
    disk.put(FileName::Segment(SegmentId(1)), bytes);
    let Err(error) = Recovery::open(small(), &mut disk) else {
        panic!("version 2 is not known");
    };
    assert!(error.to_string().contains("format version 2"), "{error}");
}

#[test]
fn names_of_files_read_back() {
    let number = 12;
    let shard = ShardId(3);
    for file in [
        SECOND,
        FileName::Segment(SegmentId::survivor(9)),
        FileName::Checkpoint { shard, number },
        FileName::CheckpointPart { shard, number },
    ] {
        assert_eq!(FileName::parse(&file.to_string()), Some(file));
    }
    for name in [
        "",
        "lock",
        "log-1.segment",
        "log-00000000001.segment",
        "log-4294967295.segment",
        "shard-1.checkpoint",
        "shard-01-2.checkpoint",
        "shard-1-2.checkpoint~",
    ] {
        assert_eq!(FileName::parse(name), None, "{name}");
    }
}

fn any_head() -> impl Strategy<Value = Head> {
    let kind = prop_oneof![
        Just(Kind::Entry),
        Just(Kind::HardState),
        Just(Kind::Mark),
        Just(Kind::Seal),
        Just(Kind::Survivor)
    ];
    (kind, any::<u8>(), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
        |(kind, entry_kind, shard, term, index)| Head {
            kind,
            entry_kind,
            shard: ShardId(shard),
            term,
            index,
        },
    )
}

proptest! {
    #[test]
    fn records_read_back_and_only_where_they_lie(
        head in any_head(),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        offset in any::<u32>(),
        flip in any::<prop::sample::Index>(),
    ) {
        let at = At { log: 1, segment: SegmentId(3), offset };
        let mut out = BytesMut::new();
        record::encode_head(at, &head, &payload, &mut out);
        out.extend_from_slice(&payload);
        let length = payload.len() as u32;
        out.extend_from_slice(record::padding(length));
        prop_assert_eq!(out.len() as u32, record::size(length));
        let read = record::parse(at, &out).expect("whole");
        prop_assert_eq!((read.head, read.payload), (head, &payload[..]));
        let elsewhere = At { offset: offset ^ 8, ..at };
        prop_assert!(record::parse(elsewhere, &out).is_err());
        let other_log = At { log: 2, ..at };
        prop_assert!(record::parse(other_log, &out).is_err());
        let bit = flip.index((HEAD_BYTES as usize + payload.len()) * 8);
        out[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(record::parse(at, &out).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let at = At { log: 1, segment: SegmentId(1), offset: 0 };
        let _ = record::parse(at, &bytes);
        let _ = record::mark_at(at, &bytes);
        let _ = record::parse_segment_head(SegmentId(1), &bytes);
        let _ = checkpoint::read(1, &bytes);
    }

    #[test]
    fn any_bytes_in_a_segment_open_or_are_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        at in 0..5000_usize,
    ) {
        let mut segment = segment();
        let end = (at + bytes.len()).min(segment.len());
        let at = at.min(end);
        segment[at..end].copy_from_slice(&bytes[..end - at]);
        let mut disk = SimDisk::new(1);
        disk.put(FileName::Segment(SegmentId(1)), segment);
        if let Ok(mut recovery) = Recovery::open(small(), &mut disk) {
            while let Ok(Some(_)) = recovery.next(&mut disk) {}
        }
    }
}

#[test]
fn padding_fills_up_to_eight() {
    for length in 0..20 {
        let padded = HEAD_BYTES + length + record::padding(length).len() as u32;
        assert_eq!(padded % 8, 0);
        assert_eq!(padded, record::size(length));
    }
    assert!(
        Bytes::from_static(record::padding(3))
            .iter()
            .all(|byte| *byte == 0)
    );
}
