//! How rows become bytes: integers little endian in values, big endian lengths in keys (so that
//! keys sort), strings with a 16-bit length, a field table in wire form as the last part.

use bytes::Bytes;
use warren_protocol::table::{FieldTable, Table, TableError};

/// Why bytes are not a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RowError {
    #[error("the row ends inside {field}")]
    Truncated { field: &'static str },
    #[error("{bytes} bytes behind the last field")]
    Trailing { bytes: usize },
    #[error("row of format {found}, this version knows up to {known}")]
    Version { found: u8, known: u8 },
    #[error("{field} has the unknown value {value}")]
    Unknown { field: &'static str, value: u8 },
    #[error("{field} is not UTF-8")]
    NotUtf8 { field: &'static str },
    #[error("arguments: {0}")]
    Arguments(#[from] TableError),
}

/// Appends the parts of a key or a value.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn key() -> Self {
        Self(Vec::with_capacity(64))
    }

    /// A value, its version first.
    pub(super) fn value(version: u8) -> Self {
        Self(vec![version])
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A string. What is longer than 65,535 bytes is cut; callers check lengths where they parse.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_be_bytes());
        self.0.extend_from_slice(&bytes[..usize::from(len)]);
        self
    }

    /// A list of strings, at most 65,535 of them.
    pub(super) fn strings(self, strings: &[String]) -> Self {
        let len = u16::try_from(strings.len()).unwrap_or(u16::MAX);
        let mut writer = self.raw(&len.to_be_bytes());
        for text in &strings[..usize::from(len)] {
            writer = writer.bytes(text.as_bytes());
        }
        writer
    }

    /// An optional number: a flag and, when there is one, eight bytes.
    pub(super) fn optional(self, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.u8(1).u64(value),
            None => self.u8(0),
        }
    }

    /// The last part, without a length.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The last part: a table.
    pub(super) fn table(mut self, table: &FieldTable) -> Self {
        table.encode(&mut self.0);
        self
    }

    pub(super) fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// Takes a key or a value apart.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn key(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// A value whose version byte must be 1 to `known`; gives the version too.
    pub(super) fn value(bytes: &'a [u8], known: u8) -> Result<Self, RowError> {
        let mut reader = Self(bytes);
        let found = reader.u8("version")?;
        if found == 0 || found > known {
            return Err(RowError::Version { found, known });
        }
        Ok(reader)
    }

    fn chunk<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RowError> {
        let (chunk, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(RowError::Truncated { field })?;
        self.0 = rest;
        Ok(*chunk)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, RowError> {
        self.chunk::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, RowError> {
        self.chunk(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, RowError> {
        self.chunk(field).map(u64::from_le_bytes)
    }

    fn len(&mut self, field: &'static str) -> Result<usize, RowError> {
        self.chunk(field).map(u16::from_be_bytes).map(usize::from)
    }

    pub(super) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], RowError> {
        let len = self.len(field)?;
        let (bytes, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(RowError::Truncated { field })?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, RowError> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| RowError::NotUtf8 { field })
    }

    pub(super) fn strings(&mut self, field: &'static str) -> Result<Vec<String>, RowError> {
        let len = self.len(field)?;
        (0..len)
            .map(|_| self.text(field).map(str::to_owned))
            .collect()
    }

    pub(super) fn optional(&mut self, field: &'static str) -> Result<Option<u64>, RowError> {
        match self.u8(field)? {
            0 => Ok(None),
            1 => self.u64(field).map(Some),
            value => Err(RowError::Unknown { field, value }),
        }
    }

    /// All that is left, a table.
    pub(super) fn table(self) -> Result<FieldTable, RowError> {
        if self.0.is_empty() {
            return Ok(FieldTable::new());
        }
        Ok(Table::from_raw(self.0).to_field_table()?)
    }

    /// Says that nothing must be left.
    pub(super) fn finish(self) -> Result<(), RowError> {
        match self.0.len() {
            0 => Ok(()),
            bytes => Err(RowError::Trailing { bytes }),
        }
    }
}
