//! A row as it is kept: one piece of memory that knows its key, so that a million of them cost
//! little beside their bytes.
//!
//! Layout, little endian: version u64, length of the key u32, kind u8, key, value.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use equivalent::{Comparable, Equivalent};

use super::{Change, Row, RowKey, Version};

const KIND_AT: usize = 12;
const KEY_AT: usize = 13;

/// Ordered, and equal, by its key alone.
#[derive(Clone, Debug)]
pub(super) struct Kept(Arc<[u8]>);

impl Kept {
    /// A copy: what it comes from is not kept alive.
    pub(super) fn new(row: &RowKey, value: &[u8], version: Version) -> Self {
        let length = u32::try_from(row.key.len()).expect("a row is shorter than an entry");
        let mut bytes = Vec::with_capacity(KEY_AT + row.key.len() + value.len());
        bytes.extend_from_slice(&version.0.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.push(row.kind);
        bytes.extend_from_slice(&row.key);
        bytes.extend_from_slice(value);
        Self(bytes.into())
    }

    pub(super) fn version(&self) -> Version {
        let bytes = self.0.first_chunk().expect("begins with its version");
        Version(u64::from_le_bytes(*bytes))
    }

    fn key_end(&self) -> usize {
        let bytes = self.0[8..].first_chunk().expect("then a length");
        KEY_AT + u32::from_le_bytes(*bytes) as usize
    }

    /// Kind and key.
    pub(super) fn named(&self) -> (u8, &[u8]) {
        (self.0[KIND_AT], &self.0[KEY_AT..self.key_end()])
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.0[self.key_end()..]
    }

    pub(super) fn row_key(&self) -> RowKey {
        let (kind, key) = self.named();
        RowKey {
            kind,
            key: Bytes::copy_from_slice(key),
        }
    }

    pub(super) fn row(&self) -> Row {
        Row {
            value: Bytes::copy_from_slice(self.value()),
            version: self.version(),
        }
    }

    /// What made it so.
    pub(super) fn change(&self) -> Change {
        Change {
            row: self.row_key(),
            value: Some(Bytes::copy_from_slice(self.value())),
            version: self.version(),
        }
    }
}

fn named(row: &RowKey) -> (u8, &[u8]) {
    (row.kind, &row.key)
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.named() == other.named()
    }
}

impl Eq for Kept {}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> Ordering {
        self.named().cmp(&other.named())
    }
}

impl Equivalent<Kept> for RowKey {
    fn equivalent(&self, kept: &Kept) -> bool {
        named(self) == kept.named()
    }
}

impl Comparable<Kept> for RowKey {
    fn compare(&self, kept: &Kept) -> Ordering {
        named(self).cmp(&kept.named())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: u8, key: &'static [u8]) -> RowKey {
        let key = Bytes::from_static(key);
        RowKey { kind, key }
    }

    #[test]
    fn it_is_what_it_was_made_of() {
        for value in [&b""[..], b"value"] {
            for row in [key(3, b""), key(255, b"a key")] {
                let kept = Kept::new(&row, value, Version(1 << 60));
                assert_eq!(kept.row_key(), row);
                assert_eq!((kept.value(), kept.version()), (value, Version(1 << 60)));
                assert!(row.equivalent(&kept));
            }
        }
    }

    #[test]
    fn the_order_is_that_of_keys() {
        let mut keys = [
            key(2, b"a"),
            key(1, b"b"),
            key(1, b"ab"),
            key(1, b""),
            key(0, b"z"),
        ];
        let kept = |row: &RowKey| Kept::new(row, b"v", Version(1));
        let mut all: Vec<Kept> = keys.iter().map(kept).collect();
        all.sort();
        keys.sort();
        assert!(all.iter().map(Kept::row_key).eq(keys.iter().cloned()));
        for (at, row) in keys.iter().enumerate() {
            for (other, kept) in all.iter().enumerate() {
                assert_eq!(row.compare(kept), at.cmp(&other));
            }
        }
    }
}
