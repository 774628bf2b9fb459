//! Another node's unlogged rows, as it tells of them ([`super::feed`]).
//!
//! Always holds:
//! - watchers see rows of one life of the node at a time, and all of its rows or none: what is
//!   begun anew takes the place of what there was once it is whole;
//! - what a peer makes this node keep is bounded, and what it sends is a row of its own or refused.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};

use super::feed::{BEGINS, WHOLE};
use super::{Change, Row, RowKey, Version, codec};
use crate::ids::{Life, NodeId, Seq};
use crate::link::{Parcel, Piece};
use crate::machine::Malformed;
use crate::replica::Receiver;

/// Bytes of rows that a node may have here: some millions of queues.
const BYTES_MAX: usize = 256 << 20;
/// What a row costs beside its key and value.
const ROW_BYTES: usize = 64;

/// What one node told.
#[derive(Debug)]
pub(crate) struct Mirror {
    node: NodeId,
    life: Life,
    stream: u64,
    receiver: Receiver,
    rows: BTreeMap<RowKey, Row>,
    /// All rows up to here are in `rows`.
    version: Version,
    /// What takes the place of `rows` when it is whole.
    next: Option<BTreeMap<RowKey, Row>>,
    /// Of both.
    bytes: usize,
}

impl Mirror {
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            life: Life(0),
            stream: 0,
            receiver: Receiver::default(),
            rows: BTreeMap::new(),
            version: Version(0),
            next: None,
            bytes: 0,
        }
    }

    /// Whether all of the node's rows have come once.
    pub(crate) fn is_whole(&self) -> bool {
        self.version != Version(0)
    }

    /// All rows up to here have come.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Takes a piece; what changes for watchers goes to `changes`.
    ///
    /// # Errors
    /// What no node of this version sends; it changes nothing.
    pub(crate) fn take(
        &mut self,
        piece: &Piece,
        changes: &mut Vec<Change>,
    ) -> Result<(), Malformed> {
        let at = (piece.life, piece.stream);
        if at < (self.life, self.stream) {
            return Ok(());
        }
        let (flags, version, rows) = self.read(&piece.bytes)?;
        if at > (self.life, self.stream) {
            (self.life, self.stream) = at;
            self.receiver = Receiver::default();
            self.drop_next();
        }
        if !self.receiver.take(piece.seq) {
            return Ok(());
        }
        if flags & BEGINS != 0 {
            self.drop_next();
            self.next = Some(BTreeMap::new());
        }
        if let Some(next) = &mut self.next {
            for change in rows {
                self.bytes += put(next, change);
            }
        } else {
            for change in rows {
                self.bytes -= self
                    .rows
                    .get(&change.row)
                    .map_or(0, |it| size(&change.row, it));
                self.rows.remove(&change.row);
                if change.value.is_some() {
                    self.bytes += put(&mut self.rows, change.clone());
                }
                changes.push(change);
            }
        }
        if flags & WHOLE != 0 {
            self.take_place(version, changes);
            self.version = version;
        }
        Ok(())
    }

    /// The node's rows up to its life `life` are gone: nothing of it is taken any more. True when
    /// there was something.
    pub(crate) fn forget(&mut self, life: Life, changes: &mut Vec<Change>) {
        if self.life > life {
            return;
        }
        self.drop_next();
        self.next = Some(BTreeMap::new());
        self.take_place(self.version, changes);
        (self.life, self.stream) = (Life(life.0.saturating_add(1)), 0);
        self.receiver = Receiver::default();
    }

    /// What the node is to be told.
    pub(crate) fn news(&mut self) -> Option<Parcel> {
        let (got, again): (Seq, bool) = self.receiver.news()?;
        Some(Parcel::RowsGot {
            stream: self.stream,
            got,
            version: self.version,
            again,
        })
    }

    /// What is whole takes its place: deletions first, so that a name is free for what follows.
    fn take_place(&mut self, version: Version, changes: &mut Vec<Change>) {
        let Some(next) = self.next.take() else {
            return;
        };
        let before = std::mem::replace(&mut self.rows, next);
        for (key, row) in &before {
            self.bytes -= size(key, row);
            if !self.rows.contains_key(key) {
                changes.push(Change {
                    row: key.clone(),
                    value: None,
                    version,
                });
            }
        }
        for (key, row) in &self.rows {
            if before.get(key) != Some(row) {
                changes.push(Change {
                    row: key.clone(),
                    value: Some(row.value.clone()),
                    version: row.version,
                });
            }
        }
    }

    fn drop_next(&mut self) {
        let next = self.next.take().unwrap_or_default();
        self.bytes -= next.iter().map(|(key, row)| size(key, row)).sum::<usize>();
    }

    fn read(&self, bytes: &Bytes) -> Result<(u8, Version, Vec<Change>), Malformed> {
        let malformed = |cause| Malformed {
            what: "rows of a node",
            at: 0,
            cause,
        };
        let mut rest = bytes.clone();
        let flags = rest.try_get_u8().map_err(|_| malformed("ends too early"))?;
        let version = rest.try_get_u64_le();
        let version = Version(version.map_err(|_| malformed("ends too early"))?);
        if flags & !(BEGINS | WHOLE) != 0 {
            return Err(malformed("unknown flags"));
        }
        let changes = codec::changes("rows of a node", rest)?;
        let foreign = |change: &&Change| change.version.node() != Some(self.node);
        if version.node() != Some(self.node) || changes.iter().find(foreign).is_some() {
            return Err(malformed("a version of another node"));
        }
        let new = changes.iter().map(|it| {
            let value = it.value.as_ref().map_or(0, Bytes::len);
            it.row.key.len() + value + ROW_BYTES
        });
        if self.bytes + new.sum::<usize>() > BYTES_MAX {
            return Err(malformed("more rows than a node may have"));
        }
        Ok((flags, version, changes))
    }
}

fn size(key: &RowKey, row: &Row) -> usize {
    key.key.len() + row.value.len() + ROW_BYTES
}

/// Puts what a change has made of a row; gives its size.
fn put(rows: &mut BTreeMap<RowKey, Row>, change: Change) -> usize {
    let Change {
        row,
        value,
        version,
    } = change;
    let Some(value) = value else {
        return 0;
    };
    let kept = Row { value, version };
    let bytes = size(&row, &kept);
    let before = rows.insert(row.clone(), kept);
    bytes - before.map_or(0, |it| size(&row, &it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Instant;
    use crate::rows::feed::Feed;
    use crate::rows::{Rows, Transaction, Write};

    const NODE: NodeId = NodeId(3);
    const LIFE: Life = Life(1);

    fn key(number: u8) -> RowKey {
        RowKey {
            kind: 1,
            key: Bytes::copy_from_slice(&[number]),
        }
    }

    fn rows(count: u8) -> Rows {
        let mut rows = Rows::beginning_at(Version::local(NODE, LIFE));
        let put = |number| Write::Put {
            row: key(number),
            value: Bytes::from(vec![number; 10_000]),
        };
        let transaction = Transaction {
            preconditions: Vec::new(),
            writes: (0..count).map(put).collect(),
        };
        rows.transact(&transaction, &mut Vec::new());
        rows
    }

    fn pieces(feed: &mut Feed) -> Vec<Piece> {
        let mut pieces = Vec::new();
        feed.pump(Version(0), LIFE, Instant(0), |parcel| {
            if let Parcel::Rows(piece) = parcel {
                pieces.push(piece.clone());
            }
        });
        pieces
    }

    #[test]
    fn watchers_see_all_rows_or_none() {
        let mut feed = Feed::new(1, &rows(20));
        let pieces = pieces(&mut feed);
        assert!(pieces.len() > 3, "not in one piece");
        let mut mirror = Mirror::new(NODE);
        for (at, piece) in pieces.iter().enumerate() {
            let mut changes = Vec::new();
            mirror.take(piece, &mut changes).expect("a piece of ours");
            let whole = at + 1 == pieces.len();
            assert_eq!(changes.len(), if whole { 20 } else { 0 });
            assert_eq!(mirror.is_whole(), whole);
            mirror.take(piece, &mut changes).expect("once more");
        }
        let floor = mirror.bytes;
        // A later stream of fewer rows: what is not in it goes.
        let mut changes = Vec::new();
        for piece in self::pieces(&mut Feed::new(2, &rows(5))) {
            mirror.take(&piece, &mut changes).expect("a piece of ours");
        }
        assert_eq!(changes.len(), 15);
        assert!(changes.iter().all(|change| change.value.is_none()));
        assert!(mirror.bytes < floor);
        // An earlier one means nothing any more.
        mirror.take(&pieces[0], &mut changes).expect("a late piece");
        assert_eq!(changes.len(), 15);
        mirror.forget(LIFE, &mut changes);
        assert_eq!(changes.len(), 20);
        assert_eq!(mirror.bytes, 0, "nothing is kept");
        mirror.take(&pieces[0], &mut changes).expect("a late piece");
        assert_eq!(mirror.bytes, 0);
    }

    #[test]
    fn what_is_cut_short_or_of_another_node_is_an_error_and_changes_nothing() {
        let piece = pieces(&mut Feed::new(1, &rows(2))).remove(0);
        for cut in 0..piece.bytes.len() {
            let mut mirror = Mirror::new(NODE);
            let mut changes = Vec::new();
            let bytes = piece.bytes.slice(..cut);
            let taken = mirror.take(
                &Piece {
                    bytes,
                    ..piece.clone()
                },
                &mut changes,
            );
            // What ends between two rows is fewer rows.
            assert!(taken.is_err() || changes.len() < 2, "cut at {cut}");
        }
        let mut other = Mirror::new(NodeId(4));
        assert!(other.take(&piece, &mut Vec::new()).is_err());
        let mut random = 1_u64;
        for _ in 0..20_000 {
            let mut bytes = piece.bytes[..60.min(piece.bytes.len())].to_vec();
            for _ in 0..3 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (random >> 33) as usize % bytes.len();
                bytes[at] = (random >> 20) as u8;
            }
            let bytes = bytes.into();
            let _ = Mirror::new(NODE).take(
                &Piece {
                    bytes,
                    ..piece.clone()
                },
                &mut Vec::new(),
            );
        }
    }

    #[test]
    fn a_peer_cannot_make_a_node_keep_more_than_its_share() {
        let mut mirror = Mirror::new(NODE);
        mirror.bytes = BYTES_MAX - 10_000;
        let piece = pieces(&mut Feed::new(1, &rows(2))).remove(0);
        let taken = mirror.take(&piece, &mut Vec::new());
        assert!(taken.is_err_and(|it| it.cause.contains("more rows")));
        assert_eq!(mirror.bytes, BYTES_MAX - 10_000);
    }
}
