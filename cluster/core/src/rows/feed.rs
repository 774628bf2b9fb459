//! One node's unlogged rows on their way to another: all that there are, then what changes.
//!
//! Always holds:
//! - pieces are numbered within their stream and sent again until they are said to have come;
//! - few pieces are on their way at a time, and what has changed meanwhile waits as rows: a slow
//!   peer costs no more memory than the rows themselves, more or less.
//!
//! Layout of a piece, little endian: flags u8 (1: begins anew, 2: whole up to the version), version
//! u64, then rows: kind u8, key (u32 length), version u64, 0 for a deletion or 1 and the value
//! (u32 length).

use std::collections::VecDeque;
use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use imbl::OrdSet;

use super::kept::Kept;
use super::{Change, RowKey, Rows, Version, codec};
use crate::ids::{Instant, Life, Seq};
use crate::link::{Parcel, Piece};
use crate::replica::Sender;

/// The piece begins with the first of all rows.
pub(super) const BEGINS: u8 = 1;
/// With this piece the receiver has all up to its version.
pub(super) const WHOLE: u8 = 2;

/// Bytes of rows in a piece, but for a single larger row.
const PIECE_BYTES: usize = 32 << 10;
/// Room that a piece begins with.
const FEW_BYTES: usize = 512;
/// Pieces on their way.
const PIECES_MAX: usize = 16;
/// Changes that wait; with more of them all rows are sent anew.
const CHANGES_MAX: usize = 1 << 16;

/// What one peer is told.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Tells this stream from earlier ones to the same peer.
    stream: u64,
    sender: Sender,
    walk: Option<Walk>,
    /// What changed after the rows that are being walked, or since.
    changes: VecDeque<Change>,
    /// What is in `changes`, or was sent, reaches up to here.
    version: Version,
    /// The peer has all up to here.
    got: Version,
}

/// All rows of a moment, and how many of them were sent.
#[derive(Debug)]
struct Walk {
    rows: OrdSet<Kept>,
    version: Version,
    begun: bool,
    after: Option<RowKey>,
}

impl Feed {
    pub(crate) fn new(stream: u64, rows: &Rows) -> Self {
        Self {
            stream,
            sender: Sender::default(),
            walk: Some(Walk::new(rows)),
            changes: VecDeque::new(),
            version: rows.version(),
            got: Version(0),
        }
    }

    /// The peer has everything up to this version.
    pub(crate) fn got(&self) -> Version {
        self.got
    }

    /// `rows` are as they are after these changes.
    pub(crate) fn changed(&mut self, changes: &[Change], rows: &Rows) {
        self.version = rows.version();
        if self.changes.len() + changes.len() > CHANGES_MAX {
            self.changes.clear();
            self.walk = Some(Walk::new(rows));
        } else {
            self.changes.extend(changes.iter().cloned());
        }
    }

    /// Sends what may be sent now, as long as something of it is not newer than `hurry`: other
    /// changes wait for company.
    pub(crate) fn pump(
        &mut self,
        hurry: Version,
        life: Life,
        now: Instant,
        mut send: impl FnMut(&Parcel),
    ) {
        while self.is_wanted(hurry)
            && self.sender.unacked() < PIECES_MAX
            && let Some(bytes) = self.next_piece()
        {
            let seq = self.sender.push(vec![bytes.clone()], now);
            send(&self.parcel(life, seq, bytes));
        }
    }

    fn is_wanted(&self, hurry: Version) -> bool {
        let next = self.changes.front();
        self.walk.is_some() || next.is_some_and(|change| change.version <= hurry)
    }

    /// Sends again what had no answer for long.
    pub(crate) fn resend(&mut self, life: Life, now: Instant, send: impl FnMut(&Parcel)) {
        if self.sender.is_overdue(now) {
            self.again(life, now, send);
        }
    }

    /// The peer has what this says, of this stream.
    pub(crate) fn acked(
        &mut self,
        (life, stream): (Life, u64),
        (got, version, again): (Seq, Version, bool),
        now: Instant,
        send: impl FnMut(&Parcel),
    ) {
        if stream != self.stream {
            return;
        }
        self.sender.acked(got, now);
        self.got = self.got.max(version.min(self.version));
        if again {
            self.again(life, now, send);
        }
    }

    fn again(&mut self, life: Life, now: Instant, mut send: impl FnMut(&Parcel)) {
        for (seq, bytes) in self.sender.again(now) {
            let bytes = bytes.concat().into();
            send(&self.parcel(life, seq, bytes));
        }
    }

    fn parcel(&self, life: Life, seq: Seq, bytes: Bytes) -> Parcel {
        Parcel::Rows(Piece {
            life,
            stream: self.stream,
            seq,
            bytes,
        })
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        if let Some(walk) = &mut self.walk {
            let (bytes, ended) = walk.next_piece();
            if ended {
                self.walk = None;
            }
            return Some(bytes);
        }
        let mut version = self.changes.front()?.version;
        let mut rows = BytesMut::with_capacity(FEW_BYTES);
        while rows.len() < PIECE_BYTES
            && let Some(change) = self.changes.pop_front()
        {
            version = change.version;
            codec::put_change(&mut rows, &change);
        }
        Some(piece(WHOLE, version, &rows))
    }
}

impl Walk {
    fn new(rows: &Rows) -> Self {
        Self {
            rows: rows.snapshot(),
            version: rows.version(),
            begun: false,
            after: None,
        }
    }

    /// The next rows, and whether they are the last.
    fn next_piece(&mut self) -> (Bytes, bool) {
        let from = self
            .after
            .as_ref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let mut out = BytesMut::with_capacity(FEW_BYTES);
        let mut last = None;
        let mut ended = true;
        for row in self.rows.range::<_, RowKey>((from, Bound::Unbounded)) {
            if out.len() >= PIECE_BYTES {
                ended = false;
                break;
            }
            codec::put_change(&mut out, &row.change());
            last = Some(row);
        }
        let flags = u8::from(!self.begun) * BEGINS + u8::from(ended) * WHOLE;
        self.begun = true;
        self.after = last.map(Kept::row_key).or_else(|| self.after.take());
        (piece(flags, self.version, &out), ended)
    }
}

fn piece(flags: u8, version: Version, rows: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(9 + rows.len());
    out.put_u8(flags);
    out.put_u64_le(version.0);
    out.put_slice(rows);
    out.freeze()
}
