//! The byte form of transactions (a command in the log) and of rows (chunks of a checkpoint).
//!
//! Both begin with a version byte. Numbers are little endian. Reading never panics and never
//! reserves more memory than the input is long.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::kept::Kept;
use super::{Change, Precondition, Row, RowKey, Transaction, Version, Write};
use crate::machine::Malformed;

/// The version that this build writes.
pub(super) const VERSION: u8 = 1;

const ABSENT: u8 = 1;
const PRESENT: u8 = 2;
const UNCHANGED: u8 = 3;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Reads from the front of some bytes; what it gives are slices of them.
pub(super) struct Reader {
    what: &'static str,
    length: usize,
    rest: Bytes,
}

impl Reader {
    pub(super) fn new(what: &'static str, bytes: Bytes) -> Self {
        Self {
            what,
            length: bytes.len(),
            rest: bytes,
        }
    }

    pub(super) fn malformed(&self, cause: &'static str) -> Malformed {
        Malformed {
            what: self.what,
            at: self.length - self.rest.len(),
            cause,
        }
    }

    fn need(&self, bytes: usize) -> Result<(), Malformed> {
        if self.rest.len() < bytes {
            return Err(self.malformed("ends too early"));
        }
        Ok(())
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.need(1)?;
        Ok(self.rest.get_u8())
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.need(4)?;
        Ok(self.rest.get_u32_le())
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.need(8)?;
        Ok(self.rest.get_u64_le())
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        self.need(length)?;
        Ok(self.rest.split_to(length))
    }

    pub(super) fn version(&mut self) -> Result<(), Malformed> {
        if self.u8()? != VERSION {
            return Err(self.malformed("unknown version"));
        }
        Ok(())
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if !self.rest.is_empty() {
            return Err(self.malformed("bytes left over"));
        }
        Ok(())
    }

    pub(super) fn row_key(&mut self) -> Result<RowKey, Malformed> {
        let kind = self.u8()?;
        let key = self.bytes()?;
        Ok(RowKey { kind, key })
    }
}

fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a row is shorter than an entry, which is u32");
    out.put_u32_le(length);
    out.put_slice(bytes);
}

fn put_row_key(out: &mut impl BufMut, row: &RowKey) {
    out.put_u8(row.kind);
    put_bytes(out, &row.key);
}

fn put_count(out: &mut impl BufMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("fewer rows than bytes in an entry"));
}

impl Transaction {
    /// Appends its byte form.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(VERSION);
        put_count(out, self.preconditions.len());
        for precondition in &self.preconditions {
            match precondition {
                Precondition::Absent(row) => {
                    out.put_u8(ABSENT);
                    put_row_key(out, row);
                }
                Precondition::Present(row) => {
                    out.put_u8(PRESENT);
                    put_row_key(out, row);
                }
                Precondition::Unchanged(row, version) => {
                    out.put_u8(UNCHANGED);
                    put_row_key(out, row);
                    out.put_u64_le(version.0);
                }
            }
        }
        put_count(out, self.writes.len());
        for write in &self.writes {
            match write {
                Write::Put { row, value } => {
                    out.put_u8(PUT);
                    put_row_key(out, row);
                    put_bytes(out, value);
                }
                Write::Delete { row } => {
                    out.put_u8(DELETE);
                    put_row_key(out, row);
                }
            }
        }
    }

    /// Bytes that [`Self::encode`] will write.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let row = |row: &RowKey| 6 + row.key.len();
        let preconditions = self.preconditions.iter().map(|it| match it {
            Precondition::Absent(key) | Precondition::Present(key) => row(key),
            Precondition::Unchanged(key, _) => row(key) + 8,
        });
        let writes = self.writes.iter().map(|it| match it {
            Write::Put { row: key, value } => row(key) + 4 + value.len(),
            Write::Delete { row: key } => row(key),
        });
        9 + preconditions.sum::<usize>() + writes.sum::<usize>()
    }

    /// Reads the whole of `bytes` as one transaction, whose keys and values are slices of it.
    ///
    /// # Errors
    /// Bytes that this build cannot read.
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new("transaction", bytes);
        reader.version()?;
        let mut transaction = Self::default();
        for _ in 0..reader.u32()? {
            let tag = reader.u8()?;
            let row = reader.row_key()?;
            transaction.preconditions.push(match tag {
                ABSENT => Precondition::Absent(row),
                PRESENT => Precondition::Present(row),
                UNCHANGED => Precondition::Unchanged(row, Version(reader.u64()?)),
                _ => return Err(reader.malformed("unknown precondition")),
            });
        }
        for _ in 0..reader.u32()? {
            let tag = reader.u8()?;
            let row = reader.row_key()?;
            transaction.writes.push(match tag {
                PUT => Write::Put {
                    row,
                    value: reader.bytes()?,
                },
                DELETE => Write::Delete { row },
                _ => return Err(reader.malformed("unknown write")),
            });
        }
        reader.end()?;
        Ok(transaction)
    }
}

/// Appends a row of a checkpoint.
pub(super) fn put_row(out: &mut impl BufMut, row: &Kept) {
    let (kind, key) = row.named();
    out.put_u8(kind);
    put_bytes(out, key);
    out.put_u64_le(row.version().0);
    put_bytes(out, row.value());
}

/// Reads what [`put_row`] wrote.
pub(super) fn row(reader: &mut Reader) -> Result<(RowKey, Row), Malformed> {
    let key = reader.row_key()?;
    let version = Version(reader.u64()?);
    let value = reader.bytes()?;
    Ok((key, Row { value, version }))
}

/// Appends a row as it is after a change.
pub(super) fn put_change(out: &mut impl BufMut, change: &Change) {
    put_row_key(out, &change.row);
    out.put_u64_le(change.version.0);
    match &change.value {
        None => out.put_u8(0),
        Some(value) => {
            out.put_u8(1);
            put_bytes(out, value);
        }
    }
}

/// Reads all that [`put_change`] wrote; what it gives are copies.
pub(super) fn changes(what: &'static str, bytes: Bytes) -> Result<Vec<Change>, Malformed> {
    let mut reader = Reader::new(what, bytes);
    let mut changes = Vec::new();
    while !reader.rest.is_empty() {
        let RowKey { kind, key } = reader.row_key()?;
        let version = Version(reader.u64()?);
        let value = match reader.u8()? {
            0 => None,
            1 => Some(Bytes::copy_from_slice(&reader.bytes()?)),
            _ => return Err(reader.malformed("neither there nor gone")),
        };
        let key = Bytes::copy_from_slice(&key);
        let row = RowKey { kind, key };
        changes.push(Change {
            row,
            value,
            version,
        });
    }
    Ok(changes)
}
