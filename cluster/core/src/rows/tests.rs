//! The rows machine against a plain map, its codec, and checkpoints taken beside writes.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::machine::{CheckpointWriter, Machine};
use crate::testing::fixture;

fn key(kind: u8, key: &[u8]) -> RowKey {
    RowKey {
        kind,
        key: Bytes::copy_from_slice(key),
    }
}

fn put(row: RowKey, value: &'static [u8]) -> Write {
    Write::Put {
        row,
        value: Bytes::from_static(value),
    }
}

fn transaction(preconditions: Vec<Precondition>, writes: Vec<Write>) -> Transaction {
    Transaction {
        preconditions,
        writes,
    }
}

#[derive(Default)]
struct Chunks {
    chunks: Vec<Vec<u8>>,
    written: u64,
}

impl CheckpointWriter for Chunks {
    fn chunk(&mut self, bytes: &[u8]) {
        self.chunks.push(bytes.to_vec());
        self.written += bytes.len() as u64;
    }

    fn written(&self) -> u64 {
        self.written
    }
}

#[test]
fn a_transaction_is_applied_whole_or_not_at_all() {
    let mut rows = Rows::default();
    let mut changes = Vec::new();
    let make = transaction(
        vec![Precondition::Absent(key(1, b"a"))],
        vec![put(key(1, b"a"), b"x"), put(key(1, b"b"), b"y")],
    );
    let yes = rows.transact(&make, &mut changes);
    assert_eq!(yes, Committed::Yes { first: Version(1) });
    assert_eq!(changes.len(), 2);

    changes.clear();
    let no = rows.transact(&make, &mut changes);
    let conflict = Committed::Conflict {
        row: key(1, b"a"),
        found: Some(Version(1)),
    };
    assert_eq!(no, conflict);
    assert!(changes.is_empty());
    assert_eq!(rows.version(), Version(2));

    let stale = Precondition::Unchanged(key(1, b"b"), Version(1));
    let no = rows.transact(&transaction(vec![stale], vec![]), &mut changes);
    assert!(matches!(
        no,
        Committed::Conflict {
            found: Some(Version(2)),
            ..
        }
    ));
    let missing = Precondition::Present(key(2, b"b"));
    let no = rows.transact(&transaction(vec![missing], vec![]), &mut changes);
    assert!(matches!(no, Committed::Conflict { found: None, .. }));
}

#[test]
fn deleting_what_is_not_there_takes_a_version() {
    let mut rows = Rows::default();
    let mut changes = Vec::new();
    let delete = Write::Delete { row: key(1, b"a") };
    let yes = rows.transact(&transaction(vec![], vec![delete]), &mut changes);
    assert_eq!(yes, Committed::Yes { first: Version(1) });
    assert_eq!(changes[0].version, Version(1));
    assert_eq!(changes[0].value, None);
}

#[test]
fn a_checkpoint_is_of_one_version_and_restores() {
    let mut rows = Rows::default();
    let mut changes = Vec::new();
    for number in 0_u32..20_000 {
        let row = key(3, &number.to_be_bytes());
        rows.transact(
            &transaction(vec![], vec![put(row, b"some value")]),
            &mut changes,
        );
    }
    let before = rows.all();
    let mut out = Chunks::default();
    rows.checkpoint_begin(&mut out);
    let mut turns = 0;
    while !rows.checkpoint_step(100_000, &mut out) {
        turns += 1;
        let last = key(3, &19_999_u32.to_be_bytes());
        let delete = Write::Delete { row: last };
        rows.transact(&transaction(vec![], vec![delete]), &mut changes);
    }
    assert!(turns > 3);
    assert!(out.chunks.iter().all(|chunk| chunk.len() < 80_000));

    let mut again = Rows::default();
    for chunk in out.chunks.iter().rev() {
        again.restore(chunk).expect("own chunk");
    }
    again.restored().expect("whole");
    assert_eq!(again.all(), before);
    assert_eq!(again.version(), Version(20_000));

    let mut cut = Rows::default();
    for chunk in &out.chunks[..out.chunks.len() - 1] {
        cut.restore(chunk).expect("own chunk");
    }
    assert!(cut.restored().is_err());
}

#[test]
fn the_byte_forms_are_those_of_the_fixtures() {
    let (a, b) = (key(1, b"a"), key(2, b"key"));
    let all = transaction(
        vec![
            Precondition::Absent(a.clone()),
            Precondition::Present(b.clone()),
            Precondition::Unchanged(b.clone(), Version(7)),
        ],
        vec![put(a, b"value"), Write::Delete { row: b }],
    );
    let mut out = BytesMut::new();
    all.encode(&mut out);
    let bytes = fixture("transaction_v1.hex", &out);
    assert_eq!(out, bytes);
    assert_eq!(Transaction::decode(bytes.into()), Ok(all));

    let mut rows = Rows::default();
    let writes = vec![put(key(1, b"a"), b"value"), put(key(2, b"key"), b"")];
    rows.transact(&transaction(vec![], writes), &mut Vec::new());
    let mut out = Chunks::default();
    rows.checkpoint_begin(&mut out);
    while !rows.checkpoint_step(1000, &mut out) {}
    let mut again = Rows::default();
    for (number, chunk) in out.chunks.iter().enumerate() {
        let bytes = fixture(&format!("rows_chunk_v1_{number}.hex"), chunk);
        assert_eq!(&bytes, chunk);
        again.restore(&bytes).expect("a chunk of this version");
    }
    again.restored().expect("whole");
    assert_eq!(again.all(), rows.all());
}

fn any_transaction() -> impl Strategy<Value = Transaction> {
    let row = || (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20));
    let row = move || row().prop_map(|(kind, bytes)| key(kind, &bytes));
    let precondition = prop_oneof![
        row().prop_map(Precondition::Absent),
        row().prop_map(Precondition::Present),
        (row(), any::<u64>()).prop_map(|(row, v)| Precondition::Unchanged(row, Version(v))),
    ];
    let value = proptest::collection::vec(any::<u8>(), 0..50);
    let write = prop_oneof![
        (row(), value).prop_map(|(row, value)| Write::Put {
            row,
            value: value.into()
        }),
        row().prop_map(|row| Write::Delete { row }),
    ];
    (
        proptest::collection::vec(precondition, 0..5),
        proptest::collection::vec(write, 0..5),
    )
        .prop_map(|(preconditions, writes)| transaction(preconditions, writes))
}

proptest! {
    #[test]
    fn a_transaction_reads_back(transaction in any_transaction()) {
        let mut out = BytesMut::new();
        transaction.encode(&mut out);
        prop_assert_eq!(out.len(), transaction.encoded_len());
        prop_assert_eq!(Transaction::decode(out.freeze()), Ok(transaction));
    }

    #[test]
    fn garbage_is_an_error(transaction in any_transaction(), cut in 0_usize..200, noise: Vec<u8>) {
        let mut out = BytesMut::new();
        transaction.encode(&mut out);
        let whole = out.freeze();
        if cut < whole.len() {
            prop_assert!(Transaction::decode(whole.slice(..cut)).is_err());
        }
        let _ = Transaction::decode(noise.clone().into());
        let _ = Rows::default().restore(&noise);
    }
}
