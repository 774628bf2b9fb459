//! Rows and keys: they read back, any bytes are read or refused, and what older versions wrote
//! still reads (`testdata/rows.txt`).

use proptest::prelude::*;
use warren_cluster_core::ids::NodeId;
use warren_cluster_core::rows::{RowKey, Version};
use warren_protocol::table::FieldTable;

use super::*;
use crate::ids::{QueueId, SessionId};

/// Reads a key and a value of any kind and gives what they say.
fn read(kind: u8, key: &[u8], value: &[u8]) -> Result<String, RowError> {
    Ok(match kind {
        kind::VHOST => format!(
            "{:?} {:?}",
            VhostKey::decode(key)?,
            VhostRow::decode(value)?
        ),
        kind::USER => {
            let row = UserRow::decode(value)?;
            format!(
                "{:?} {row:?} {:?}",
                UserKey::decode(key)?,
                row.password_hash
            )
        }
        kind::PERMISSION => {
            let key = PermissionKey::decode(key)?;
            format!("{key:?} {:?}", PermissionRow::decode(value)?)
        }
        kind::TOPIC_PERMISSION => {
            let key = TopicPermissionKey::decode(key)?;
            format!("{key:?} {:?}", TopicPermissionRow::decode(value)?)
        }
        kind::EXCHANGE => {
            let key = ExchangeKey::decode(key)?;
            format!("{key:?} {:?}", ExchangeRow::decode(value)?)
        }
        kind::QUEUE => format!(
            "{:?} {:?}",
            QueueKey::decode(key)?,
            QueueRow::decode(value)?
        ),
        kind::BINDING => {
            BindingKey::check_value(value)?;
            format!("{:?}", BindingKey::decode(key)?)
        }
        kind::TOMBSTONE => {
            let queue = Tombstone::decode_key(key)?;
            format!("{:?}", Tombstone::decode(queue, value)?)
        }
        kind::LIFE => {
            let node = LifeRow::decode_key(key)?;
            format!("{node:?} {:?}", LifeRow::decode(value)?)
        }
        value => {
            let field = "kind";
            return Err(RowError::Unknown { field, value });
        }
    })
}

const KINDS: std::ops::RangeInclusive<u8> = kind::VHOST..=kind::TOMBSTONE;

fn queue_row() -> QueueRow {
    let owner = Owner {
        session: SessionId(7),
        node: NodeId(8),
        incarnation: 9,
    };
    QueueRow {
        kind: QueueKind::Quorum,
        durable: true,
        auto_delete: false,
        owner: Some(Box::new(owner)),
        shard: ShardId(5),
        created: Some(Version(6)),
        home: None,
        arguments: FieldTable::new().with("x-queue-type", "quorum"),
    }
}

const HOME: Home = Home {
    node: NodeId(2),
    incarnation: 3,
};

fn transient_exchange(durable: ExchangeRow) -> ExchangeRow {
    ExchangeRow {
        home: Some(HOME),
        durable: false,
        ..durable
    }
}

fn transient_queue() -> QueueRow {
    QueueRow {
        owner: None,
        home: Some(Box::new(HOME)),
        durable: false,
        ..queue_row()
    }
}

fn tombstone() -> (RowKey, bytes::Bytes) {
    let tombstone = Tombstone {
        queue: QueueId(258),
        shard: ShardId(3),
    };
    match tombstone.put() {
        warren_cluster_core::rows::Write::Put { row, value } => (row, value),
        warren_cluster_core::rows::Write::Delete { .. } => panic!("a tombstone is put"),
    }
}

fn life() -> (RowKey, bytes::Bytes) {
    let life = LifeRow {
        incarnation: HOME.incarnation,
        fenced: true,
    };
    match life.put(HOME.node) {
        warren_cluster_core::rows::Write::Put { row, value } => (row, value),
        warren_cluster_core::rows::Write::Delete { .. } => panic!("a life is put"),
    }
}

/// One row of each kind.
fn examples() -> Vec<(RowKey, bytes::Bytes)> {
    let (user, vhost) = ("u", "/");
    let binding = BindingKey {
        vhost,
        source: b"s",
        destination: b"d",
        destination_kind: DestinationKind::Exchange,
        routing_key: b"k",
        arguments: FieldTable::new().with("b", 1).with("a", "x"),
    };
    let topic = TopicPermissionKey {
        user,
        vhost,
        exchange: b"x",
    };
    let vhost_row = VhostRow {
        description: "d".to_owned(),
        tags: vec!["t".to_owned()],
        default_queue_type: "quorum".to_owned(),
    };
    let user_row = UserRow {
        password_hash: vec![1, 2, 3, 4, 5],
        algorithm: HashingAlgorithm::Sha512,
        tags: vec!["administrator".to_owned(), "t".to_owned()],
        limits: UserLimits {
            connections_max: Some(3),
            channels_max: None,
        },
    };
    let permission = PermissionRow {
        configure: "^c".to_owned(),
        write: String::new(),
        read: ".*".to_owned(),
    };
    let topic_row = TopicPermissionRow {
        write: "w".to_owned(),
        read: "r".to_owned(),
    };
    let exchange = ExchangeRow {
        kind: ExchangeKind::Headers,
        durable: true,
        auto_delete: true,
        internal: true,
        home: None,
        arguments: FieldTable::new().with("alternate-exchange", "ae"),
    };
    let name: &[u8] = b"n";
    vec![
        (VhostKey { name: vhost }.encode(), vhost_row.encode()),
        (UserKey { name: user }.encode(), user_row.encode()),
        (PermissionKey { user, vhost }.encode(), permission.encode()),
        (topic.encode(), topic_row.encode()),
        (ExchangeKey { vhost, name }.encode(), exchange.encode()),
        (
            ExchangeKey { vhost, name }.encode(),
            transient_exchange(exchange).encode(),
        ),
        (QueueKey { vhost, name }.encode(), queue_row().encode()),
        (
            QueueKey { vhost, name }.encode(),
            transient_queue().encode(),
        ),
        (binding.encode(), BindingKey::value()),
        tombstone(),
        life(),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] * 16 + pair[1]) as u8)
        .collect()
}

/// Lines of `kind key value = what they say`. A format that has been released is never taken out.
#[test]
fn rows_of_every_format_still_read() {
    let mut kinds = Vec::new();
    for line in include_str!("testdata/rows.txt").lines() {
        let (bytes, expected) = line.split_once(" = ").expect("bytes = meaning");
        let mut words = bytes.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let kind = word().parse().expect("a number");
        kinds.push(kind);
        let (key, value) = (unhex(word()), unhex(word()));
        assert_eq!(read(kind, &key, &value).as_deref(), Ok(expected), "{line}");
    }
    assert!(KINDS.into_iter().all(|kind| kinds.contains(&kind)));
    assert!(kinds.contains(&kind::LIFE));
}

#[test]
fn rows_are_written_as_in_the_newest_format() {
    let text: String = examples()
        .iter()
        .map(|(row, value)| {
            let meaning = read(row.kind, &row.key, value).expect("it was just written");
            format!(
                "{} {} {} = {meaning}\n",
                row.kind,
                hex(&row.key),
                hex(value)
            )
        })
        .collect();
    assert!(
        include_str!("testdata/rows.txt").ends_with(&text),
        "now:\n{text}"
    );
}

#[test]
fn every_cut_and_every_longer_row_is_refused_or_means_something() {
    for (row, value) in examples() {
        for cut in 0..row.key.len() {
            // What is left may be a key with fewer arguments, but never the same one.
            let whole = read(row.kind, &row.key, &value);
            assert_ne!(read(row.kind, &row.key[..cut], &value), whole);
        }
        for cut in 0..value.len() {
            let whole = read(row.kind, &row.key, &value);
            assert_ne!(read(row.kind, &row.key, &value[..cut]), whole);
        }
        let newer = [&[2][..], &value[1..]].concat();
        let (found, known) = (2, 1);
        assert_eq!(
            read(row.kind, &row.key, &newer),
            Err(RowError::Version { found, known })
        );
    }
}

#[test]
fn bindings_are_the_same_in_any_order_of_arguments() {
    let key = |arguments| {
        let key = BindingKey {
            vhost: "/",
            source: b"s",
            destination: b"d",
            destination_kind: DestinationKind::Queue,
            routing_key: b"k",
            arguments,
        };
        key.encode()
    };
    let ab = FieldTable::new().with("a", 1).with("b", 2);
    let ba = FieldTable::new().with("b", 2).with("a", 1);
    assert_eq!(key(ab.clone()), key(ba));
    assert_ne!(key(ab), key(FieldTable::new().with("a", 1)));
    assert_ne!(key(FieldTable::new()), key(FieldTable::new().with("a", 1)));
    let prefix = BindingKey::destination_prefix("/", DestinationKind::Queue, b"d");
    assert!(key(FieldTable::new()).key.starts_with(&prefix));
}

#[test]
fn the_id_of_a_queue_is_the_version_that_made_it() {
    let fresh = QueueRow {
        created: None,
        ..queue_row()
    };
    assert_eq!(fresh.id(Store::Replicated, Version(4)), QueueId(4));
    assert_eq!(fresh.id(Store::Local, Version(4)), QueueId::local(4));
    assert_eq!(queue_row().id(Store::Replicated, Version(40)), QueueId(6));
}

#[test]
fn where_things_belong() {
    assert_eq!(Store::of_queue(true, false), Store::Replicated);
    assert_eq!(Store::of_queue(true, true), Store::Local);
    assert_eq!(Store::of_queue(false, true), Store::Replicated);
    assert_eq!(
        Store::of_binding(Store::Replicated, Store::Local),
        Store::Local
    );
    assert_eq!(
        Store::of_binding(Store::Replicated, Store::Replicated),
        Store::Replicated
    );
    for store in [Store::Replicated, Store::Local] {
        assert_eq!(Store::of_shard(store.shard()), Some(store));
    }
    assert_eq!(Store::of_shard(ShardId(1)), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        kind in KINDS,
        key in proptest::collection::vec(any::<u8>(), 0..40),
        value in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let versioned = [&[1][..], &value].concat();
        let _ = read(kind, &key, &value);
        let _ = read(kind, &key, &versioned);
    }

    #[test]
    fn keys_of_any_names_read_back(
        vhost in ".{0,9}",
        names in proptest::array::uniform3(any::<[u8; 5]>()),
    ) {
        let key = BindingKey {
            vhost: &vhost,
            source: &names[0],
            destination: &names[1],
            destination_kind: DestinationKind::Queue,
            routing_key: &names[2],
            arguments: FieldTable::new(),
        };
        let encoded = key.encode();
        prop_assert_eq!(BindingKey::decode(&encoded.key), Ok(key));
    }
}
