//! Rows as a machine: a batch is one transaction.
//!
//! Rows are copied out of their entry, so that they keep no log segment and no buffer alive. A
//! checkpoint walks a snapshot of the (path-copied) map and never sees later writes.

use std::convert::Infallible;
use std::ops::{Bound, RangeInclusive};

use bytes::{BufMut, Bytes};
use imbl::OrdSet;

use super::codec::{self, Reader, VERSION};
use super::kept::Kept;
use super::{Change, Committed, Precondition, Row, RowKey, Transaction, Version, Write};
use crate::ids::{Instant, NodeId, Place};
use crate::machine::{
    ApplyMeta, Bodies, CheckpointWriter, Context, LiveRef, Machine, Malformed, NoDesk,
};

/// Bytes of rows that one chunk of a checkpoint aims at.
const CHUNK_BYTES: usize = 64 << 10;

const HEAD: u8 = 1;
const ROWS: u8 = 2;

/// The state of a rows shard.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    rows: OrdSet<Kept>,
    last: Version,
    /// What came of the transaction applied last, until it is taken.
    committed: Option<Committed>,
    checkpoint: Option<Snapshot>,
    restoring: Option<u64>,
}

/// The rows as they were when a checkpoint began, and the last one that is written.
#[derive(Clone, Debug)]
struct Snapshot {
    rows: OrdSet<Kept>,
    written: Option<RowKey>,
}

impl Rows {
    /// No rows; the first write has the version after `version`.
    #[must_use]
    pub fn beginning_at(version: Version) -> Self {
        Self {
            last: version,
            ..Self::default()
        }
    }

    /// The rows of this moment; cheap.
    pub(super) fn snapshot(&self) -> OrdSet<Kept> {
        self.rows.clone()
    }

    /// The version of the last write.
    #[must_use]
    pub fn version(&self) -> Version {
        self.last
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row `key`, if it exists; a copy.
    #[must_use]
    pub fn row(&self, key: &RowKey) -> Option<Row> {
        self.rows.get(key).map(Kept::row)
    }

    fn version_of(&self, key: &RowKey) -> Option<Version> {
        self.rows.get(key).map(Kept::version)
    }

    /// All rows as changes, in the order of their keys: what a watcher starts with.
    #[must_use]
    pub fn all(&self) -> Vec<Change> {
        self.rows.iter().map(Kept::change).collect()
    }

    /// What came of the transaction applied last; only once.
    pub fn take_committed(&mut self) -> Option<Committed> {
        self.committed.take()
    }

    /// The first precondition of `transaction` that does not hold.
    fn conflict(&self, transaction: &Transaction) -> Option<Committed> {
        let broken = |precondition: &Precondition| {
            let (row, holds) = match precondition {
                Precondition::Absent(row) => (row, !self.rows.contains(row)),
                Precondition::Present(row) => (row, self.rows.contains(row)),
                Precondition::Unchanged(row, version) => {
                    (row, self.version_of(row) == Some(*version))
                }
            };
            (!holds).then(|| Committed::Conflict {
                row: copied_key(row),
                found: self.version_of(row),
            })
        };
        transaction.preconditions.iter().find_map(broken)
    }

    /// Applies a transaction, whole or not at all; its changes go to `changes`.
    pub fn transact(&mut self, transaction: &Transaction, changes: &mut Vec<Change>) -> Committed {
        if let Some(conflict) = self.conflict(transaction) {
            return conflict;
        }
        let first = Version(self.last.0 + 1);
        for write in &transaction.writes {
            self.last.0 += 1;
            changes.push(self.write(write));
        }
        Committed::Yes { first }
    }

    fn write(&mut self, write: &Write) -> Change {
        let version = self.last;
        match write {
            Write::Put { row, value } => {
                let kept = Kept::new(row, value, version);
                let change = kept.change();
                self.rows.insert(kept);
                change
            }
            Write::Delete { row } => {
                self.rows.remove(row);
                Change {
                    row: copied_key(row),
                    value: None,
                    version,
                }
            }
        }
    }
}

/// A key that does not keep the entry it came in alive.
fn copied_key(row: &RowKey) -> RowKey {
    RowKey {
        kind: row.kind,
        key: Bytes::copy_from_slice(&row.key),
    }
}

impl Machine for Rows {
    type Input = Infallible;
    /// Every replica emits its changes: each node derives its view from its own copy.
    type Effect = Change;
    type Desk = NoDesk;
    const RECONCILES: bool = false;

    fn blank(&self) -> Self {
        Self::default()
    }

    fn apply(
        &mut self,
        _meta: &ApplyMeta,
        payload: &Bytes,
        context: &mut Context<'_, Change>,
    ) -> Result<(), Malformed> {
        let transaction = Transaction::decode(payload.clone())?;
        self.committed = Some(self.transact(&transaction, context.effects));
        Ok(())
    }

    fn input(&mut self, input: Infallible, _context: &mut Context<'_, Change>) {
        match input {}
    }

    fn lead(&mut self, _nodes: &[NodeId], _context: &mut Context<'_, Change>) {}

    fn node_down(&mut self, _node: NodeId, _context: &mut Context<'_, Change>) {}

    fn follow(&mut self, _context: &mut Context<'_, Change>) {}

    fn resume(&mut self, _key: u64, _context: &mut Context<'_, Change>) {}

    fn flush(&mut self, _context: &mut Context<'_, Change>) {}

    fn has_parked(&self) -> bool {
        false
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn checkpoint_begin(&mut self, out: &mut dyn CheckpointWriter) {
        let mut head = Vec::with_capacity(18);
        head.put_u8(VERSION);
        head.put_u8(HEAD);
        head.put_u64_le(self.last.0);
        head.put_u64_le(self.rows.len() as u64);
        out.chunk(&head);
        self.checkpoint = Some(Snapshot {
            rows: self.rows.clone(),
            written: None,
        });
    }

    fn checkpoint_step(&mut self, budget: usize, out: &mut dyn CheckpointWriter) -> bool {
        let Some(snapshot) = &mut self.checkpoint else {
            return true;
        };
        let begun = out.written();
        loop {
            if !snapshot.chunk(out) {
                self.checkpoint = None;
                return true;
            }
            if out.written() - begun >= budget as u64 {
                return false;
            }
        }
    }

    fn checkpoint_abort(&mut self) {
        self.checkpoint = None;
    }

    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new("rows checkpoint", Bytes::copy_from_slice(chunk));
        reader.version()?;
        match reader.u8()? {
            HEAD => {
                self.last = Version(reader.u64()?);
                self.restoring = Some(reader.u64()?);
            }
            ROWS => {
                for _ in 0..reader.u32()? {
                    let (key, row) = codec::row(&mut reader)?;
                    self.rows.insert(Kept::new(&key, &row.value, row.version));
                }
            }
            _ => return Err(reader.malformed("unknown chunk")),
        }
        reader.end()
    }

    fn restored(&mut self) -> Result<(), Malformed> {
        let newest = self.rows.iter().map(Kept::version).max();
        let whole = self.restoring == Some(self.rows.len() as u64);
        if !whole || newest > Some(self.last) {
            return Err(Malformed {
                what: "rows checkpoint",
                at: 0,
                cause: "rows do not add up to its head",
            });
        }
        self.restoring = None;
        Ok(())
    }

    fn retain_all(&self, _bodies: &mut dyn Bodies) {}

    fn live(&self, _key: u64, _ids: RangeInclusive<u64>, _out: &mut Vec<LiveRef>) {}

    fn relocate(&mut self, _: u64, _: u64, _: Place, _: Place, _: &mut dyn Bodies) {}
}

impl Snapshot {
    /// Writes the next chunk; false when there is no row left.
    fn chunk(&mut self, out: &mut dyn CheckpointWriter) -> bool {
        let from = self
            .written
            .as_ref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = Vec::new();
        let mut count: u32 = 0;
        let mut last = None;
        for row in self.rows.range::<_, RowKey>((from, Bound::Unbounded)) {
            codec::put_row(&mut rows, row);
            count += 1;
            last = Some(row);
            if rows.len() >= CHUNK_BYTES {
                break;
            }
        }
        let Some(last) = last.map(Kept::row_key) else {
            return false;
        };
        let mut chunk = Vec::with_capacity(6 + rows.len());
        chunk.put_u8(VERSION);
        chunk.put_u8(ROWS);
        chunk.put_u32_le(count);
        chunk.extend_from_slice(&rows);
        out.chunk(&chunk);
        self.written = Some(last);
        true
    }
}
