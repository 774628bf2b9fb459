//! Field tables and arrays as they stand on the wire: kept raw, read when asked.
//!
//! Type letters are RabbitMQ's (<https://www.rabbitmq.com/amqp-0-9-1-errata>):
//! `t b B s u I i l L f d D S x A F T V`, where `l` and `L` are both signed 64-bit.
//!
//! Invariants:
//! - a [`Table`] or [`Array`] may hold anything; errors come out where the bytes are read;
//! - reading never recurses deeper than [`TABLE_DEPTH_MAX`];
//! - `Debug` is safe on any bytes: what is malformed prints as its size and its error;
//! - a key may occur twice; look-ups find the first, as RabbitMQ's do.

use std::fmt;

use crate::limits::{TABLE_BYTES_MAX, TABLE_DEPTH_MAX};
use crate::wire::Reader;
use crate::{LongStr, ShortStr};

mod owned;

pub use owned::{FieldTable, FieldValue};

/// What can be wrong inside a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("it ends inside a field")]
    Truncated,
    #[error("field of unknown type {letter}")]
    UnknownType { letter: u8 },
    #[error("nested deeper than {depth_limit}")]
    TooDeep { depth_limit: usize },
    #[error("{bytes} bytes, at most {bytes_limit} are allowed")]
    TooLarge { bytes: usize, bytes_limit: usize },
}

/// A field table's content: name, type letter, value, and again. Without the 32-bit length in
/// front.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Table<'a>(&'a [u8]);

/// A field array's content: type letter, value, and again. Without the 32-bit length in front.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Array<'a>(&'a [u8]);

/// One value, borrowed.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// `t`; any octet but 0 is true.
    Bool(bool),
    /// `b`
    Byte(i8),
    /// `B`
    UnsignedByte(u8),
    /// `s`
    Short(i16),
    /// `u`
    UnsignedShort(u16),
    /// `I`
    SignedInt(i32),
    /// `i`
    UnsignedInt(u32),
    /// `l` or `L`
    Long(i64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: `value` divided by ten to the power of `scale`.
    Decimal { scale: u8, value: u32 },
    /// `S`
    LongStr(LongStr<'a>),
    /// `x`
    Binary(&'a [u8]),
    /// `T`: seconds since 1970
    Timestamp(u64),
    /// `A`
    Array(Array<'a>),
    /// `F`
    Table(Table<'a>),
    /// `V`
    Void,
}

impl<'a> Table<'a> {
    /// A table without fields.
    pub const EMPTY: Table<'static> = Table(b"");

    /// Takes the bytes as they are; [`Table::validate`] says whether they are a table.
    #[must_use]
    pub const fn from_raw(content: &'a [u8]) -> Self {
        Self(content)
    }

    /// The content in wire form, without the length in front.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Walks every byte once.
    ///
    /// # Errors
    /// The first thing wrong; after `Ok` no reading of this table or what is nested in it fails.
    pub fn validate(self) -> Result<(), TableError> {
        check_size(self.0)?;
        let mut reader = Reader::new(self.0);
        skip_table(&mut reader, 1)
    }

    /// The fields in order; after an error the iterator ends.
    #[must_use]
    pub const fn iter(self) -> TableIter<'a> {
        TableIter {
            reader: Reader::new(self.0),
        }
    }

    /// The first field of that name.
    ///
    /// # Errors
    /// What is wrong in front of it.
    pub fn get(self, name: &[u8]) -> Result<Option<Value<'a>>, TableError> {
        for field in self.iter() {
            let (found, value) = field?;
            if found.as_bytes() == name {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// An owned copy of the whole table.
    ///
    /// # Errors
    /// As [`Table::validate`].
    pub fn to_field_table(self) -> Result<FieldTable, TableError> {
        self.validate()?;
        owned::copy_table(self)
    }

    /// Appends to `out` the content without the fields of that name, byte for byte otherwise. Says
    /// whether there were any.
    ///
    /// # Errors
    /// As [`Table::validate`], of the outermost level only; `out` then holds a part.
    pub fn copy_without(self, name: &[u8], out: &mut Vec<u8>) -> Result<bool, TableError> {
        let mut fields = self.iter();
        let mut found_any = false;
        loop {
            let before = fields.reader.rest();
            let Some(field) = fields.next() else {
                return Ok(found_any);
            };
            let (found, _) = field?;
            if found.as_bytes() == name {
                found_any = true;
            } else {
                out.extend_from_slice(&before[..before.len() - fields.reader.rest().len()]);
            }
        }
    }
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.validate() {
            Ok(()) => f.debug_map().entries(self.iter().flatten()).finish(),
            Err(error) => write!(f, "table of {} bytes ({error})", self.0.len()),
        }
    }
}

impl<'a> IntoIterator for Table<'a> {
    type Item = Result<(ShortStr<'a>, Value<'a>), TableError>;
    type IntoIter = TableIter<'a>;

    fn into_iter(self) -> TableIter<'a> {
        self.iter()
    }
}

/// Iterates over a table's fields.
#[derive(Clone)]
pub struct TableIter<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for TableIter<'a> {
    type Item = Result<(ShortStr<'a>, Value<'a>), TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.rest().is_empty() {
            return None;
        }
        let field = match self.reader.short_str() {
            Some(name) => read_value(&mut self.reader).map(|value| (name, value)),
            None => Err(TableError::Truncated),
        };
        if field.is_err() {
            self.reader = Reader::new(b"");
        }
        Some(field)
    }
}

impl<'a> Array<'a> {
    /// Takes the bytes as they are.
    #[must_use]
    pub const fn from_raw(content: &'a [u8]) -> Self {
        Self(content)
    }

    /// The content in wire form, without the length in front.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The values in order; after an error the iterator ends.
    #[must_use]
    pub const fn iter(self) -> ArrayIter<'a> {
        ArrayIter {
            reader: Reader::new(self.0),
        }
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match skip_array(&mut Reader::new(self.0), 1) {
            Ok(()) => f.debug_list().entries(self.iter().flatten()).finish(),
            Err(error) => write!(f, "array of {} bytes ({error})", self.0.len()),
        }
    }
}

impl<'a> IntoIterator for Array<'a> {
    type Item = Result<Value<'a>, TableError>;
    type IntoIter = ArrayIter<'a>;

    fn into_iter(self) -> ArrayIter<'a> {
        self.iter()
    }
}

/// Iterates over an array's values.
#[derive(Clone)]
pub struct ArrayIter<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for ArrayIter<'a> {
    type Item = Result<Value<'a>, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.rest().is_empty() {
            return None;
        }
        let value = read_value(&mut self.reader);
        if value.is_err() {
            self.reader = Reader::new(b"");
        }
        Some(value)
    }
}

impl<'a> Value<'a> {
    /// The number, whatever integer type it came in. RabbitMQ takes all of them as one class.
    #[must_use]
    pub fn as_i64(self) -> Option<i64> {
        match self {
            Self::Byte(value) => Some(i64::from(value)),
            Self::UnsignedByte(value) => Some(i64::from(value)),
            Self::Short(value) => Some(i64::from(value)),
            Self::UnsignedShort(value) => Some(i64::from(value)),
            Self::SignedInt(value) => Some(i64::from(value)),
            Self::UnsignedInt(value) => Some(i64::from(value)),
            Self::Long(value) => Some(value),
            Self::Bool(_)
            | Self::Float(_)
            | Self::Double(_)
            | Self::Decimal { .. }
            | Self::LongStr(_)
            | Self::Binary(_)
            | Self::Timestamp(_)
            | Self::Array(_)
            | Self::Table(_)
            | Self::Void => None,
        }
    }

    /// The bytes of a long string.
    #[must_use]
    pub fn as_long_str(self) -> Option<&'a [u8]> {
        match self {
            Self::LongStr(text) => Some(text.0),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_bool(self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_array(self) -> Option<Array<'a>> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_table(self) -> Option<Table<'a>> {
        match self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    /// RabbitMQ's name of the type, as its error texts print it (`signedint`, `longstr`, ..).
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Byte(_) => "byte",
            Self::UnsignedByte(_) => "unsignedbyte",
            Self::Short(_) => "short",
            Self::UnsignedShort(_) => "unsignedshort",
            Self::SignedInt(_) => "signedint",
            Self::UnsignedInt(_) => "unsignedint",
            Self::Long(_) => "long",
            Self::Float(_) => "float",
            Self::Double(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongStr(_) => "longstr",
            Self::Binary(_) => "binary",
            Self::Timestamp(_) => "timestamp",
            Self::Array(_) => "array",
            Self::Table(_) => "table",
            Self::Void => "void",
        }
    }
}

fn read_value<'a>(reader: &mut Reader<'a>) -> Result<Value<'a>, TableError> {
    let letter = reader.u8().ok_or(TableError::Truncated)?;
    let value = match letter {
        b't' => reader.u8().map(|octet| Value::Bool(octet != 0)),
        b'b' => reader.array().map(i8::from_be_bytes).map(Value::Byte),
        b'B' => reader.u8().map(Value::UnsignedByte),
        b's' => reader.array().map(i16::from_be_bytes).map(Value::Short),
        b'u' => reader.u16().map(Value::UnsignedShort),
        b'I' => reader.array().map(i32::from_be_bytes).map(Value::SignedInt),
        b'i' => reader.u32().map(Value::UnsignedInt),
        b'l' | b'L' => reader.array().map(i64::from_be_bytes).map(Value::Long),
        b'f' => reader.array().map(f32::from_be_bytes).map(Value::Float),
        b'd' => reader.array().map(f64::from_be_bytes).map(Value::Double),
        b'D' => reader.array().map(|[scale, a, b, c, d]| Value::Decimal {
            scale,
            value: u32::from_be_bytes([a, b, c, d]),
        }),
        b'S' => reader.long_str().map(Value::LongStr),
        b'x' => reader.long_bytes().map(Value::Binary),
        b'T' => reader.u64().map(Value::Timestamp),
        b'A' => reader.long_bytes().map(Array).map(Value::Array),
        b'F' => reader.table().map(Value::Table),
        b'V' => Some(Value::Void),
        _ => return Err(TableError::UnknownType { letter }),
    };
    value.ok_or(TableError::Truncated)
}

fn check_size(content: &[u8]) -> Result<(), TableError> {
    if content.len() > TABLE_BYTES_MAX {
        return Err(TableError::TooLarge {
            bytes: content.len(),
            bytes_limit: TABLE_BYTES_MAX,
        });
    }
    Ok(())
}

/// Walks a table's content to the end of `reader`.
fn skip_table(reader: &mut Reader<'_>, depth: usize) -> Result<(), TableError> {
    check_depth(depth)?;
    while !reader.rest().is_empty() {
        reader.short_str().ok_or(TableError::Truncated)?;
        skip_value(reader, depth)?;
    }
    Ok(())
}

fn skip_array(reader: &mut Reader<'_>, depth: usize) -> Result<(), TableError> {
    check_depth(depth)?;
    while !reader.rest().is_empty() {
        skip_value(reader, depth)?;
    }
    Ok(())
}

fn skip_value(reader: &mut Reader<'_>, depth: usize) -> Result<(), TableError> {
    match read_value(reader)? {
        Value::Table(table) => skip_table(&mut Reader::new(table.0), depth + 1),
        Value::Array(array) => skip_array(&mut Reader::new(array.0), depth + 1),
        _ => Ok(()),
    }
}

fn check_depth(depth: usize) -> Result<(), TableError> {
    if depth > TABLE_DEPTH_MAX {
        return Err(TableError::TooDeep {
            depth_limit: TABLE_DEPTH_MAX,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
