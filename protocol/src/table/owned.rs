//! Owned tables: for arguments that are kept and for headers that the broker makes.
//!
//! Invariant: encoding what was decoded gives a table that decodes to the same value. The bytes are
//! the same too, but for the two spellings that RabbitMQ normalises as well: `L` becomes `l`, a
//! true bool becomes 1.

use crate::ShortString;
use crate::table::{Array, Table, TableError, Value};

/// An ordered list of named values. Names may repeat; look-ups find the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FieldTable(pub Vec<(ShortString, FieldValue)>);

/// An owned value. Variants as [`Value`]'s; floats are equal when their bits are.
#[derive(Debug, Clone)]
pub enum FieldValue {
    Bool(bool),
    Byte(i8),
    UnsignedByte(u8),
    Short(i16),
    UnsignedShort(u16),
    SignedInt(i32),
    UnsignedInt(u32),
    Long(i64),
    Float(f32),
    Double(f64),
    Decimal { scale: u8, value: u32 },
    LongStr(Vec<u8>),
    Binary(Vec<u8>),
    Timestamp(u64),
    Array(Vec<Self>),
    Table(FieldTable),
    Void,
}

impl FieldTable {
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&FieldValue> {
        let field = |field: &&(ShortString, FieldValue)| field.0.as_bytes() == name.as_bytes();
        self.0.iter().find(field).map(|(_, value)| value)
    }

    /// Puts the value in the place of the first of that name, or at the end; later ones of that
    /// name go.
    pub fn set(&mut self, name: ShortString, value: FieldValue) {
        let Some(at) = self.0.iter().position(|(found, _)| *found == name) else {
            self.0.push((name, value));
            return;
        };
        let mut seen = 0;
        self.0.retain(|(found, _)| {
            seen += usize::from(*found == name);
            *found != name || seen == 1
        });
        self.0[at].1 = value;
    }

    /// [`FieldTable::set`] for a name known when compiling.
    ///
    /// # Panics
    /// When the name has more than 255 bytes.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<FieldValue>) -> Self {
        let name = ShortString::try_from(name).expect("names in the code are short");
        self.set(name, value.into());
        self
    }

    /// Takes all values of that name out and gives the first.
    pub fn remove(&mut self, name: &str) -> Option<FieldValue> {
        let at = self
            .0
            .iter()
            .position(|(found, _)| found.as_bytes() == name.as_bytes())?;
        let (_, value) = self.0.remove(at);
        self.0
            .retain(|(found, _)| found.as_bytes() != name.as_bytes());
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ShortString, &FieldValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Appends the content in wire form, without the length in front.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            let name = name.as_bytes();
            out.push(u8::try_from(name.len()).expect("a ShortString has at most 255 bytes"));
            out.extend_from_slice(name);
            value.encode(out);
        }
    }

    /// The content in wire form, without the length in front: borrow it as [`Table::from_raw`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

impl FromIterator<(ShortString, FieldValue)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (ShortString, FieldValue)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

impl FieldValue {
    /// The value, borrowed, but for arrays and tables, which exist in wire form only when encoded.
    fn scalar(&self) -> Option<Value<'_>> {
        Some(match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Byte(value) => Value::Byte(*value),
            Self::UnsignedByte(value) => Value::UnsignedByte(*value),
            Self::Short(value) => Value::Short(*value),
            Self::UnsignedShort(value) => Value::UnsignedShort(*value),
            Self::SignedInt(value) => Value::SignedInt(*value),
            Self::UnsignedInt(value) => Value::UnsignedInt(*value),
            Self::Long(value) => Value::Long(*value),
            Self::Float(value) => Value::Float(*value),
            Self::Double(value) => Value::Double(*value),
            Self::Decimal { scale, value } => Value::Decimal {
                scale: *scale,
                value: *value,
            },
            Self::LongStr(text) => Value::LongStr(crate::LongStr(text)),
            Self::Binary(bytes) => Value::Binary(bytes),
            Self::Timestamp(seconds) => Value::Timestamp(*seconds),
            Self::Void => Value::Void,
            Self::Array(_) | Self::Table(_) => return None,
        })
    }

    /// The number, whatever integer type it has.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.scalar().and_then(Value::as_i64)
    }

    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        self.scalar().and_then(Value::as_bool)
    }

    /// The bytes of a long string.
    #[must_use]
    pub fn as_long_str(&self) -> Option<&[u8]> {
        self.scalar().and_then(Value::as_long_str)
    }

    /// The text of a long string that is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        self.as_long_str()
            .and_then(|text| std::str::from_utf8(text).ok())
    }

    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_table(&self) -> Option<&FieldTable> {
        match self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    /// RabbitMQ's name of the type, as its error texts print it.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Array(_) => "array",
            Self::Table(_) => "table",
            _ => self.scalar().map_or("void", Value::type_name),
        }
    }

    /// Appends type letter and value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => put(out, b't', [u8::from(*value)]),
            Self::Byte(value) => put(out, b'b', value.to_be_bytes()),
            Self::UnsignedByte(value) => put(out, b'B', [*value]),
            Self::Short(value) => put(out, b's', value.to_be_bytes()),
            Self::UnsignedShort(value) => put(out, b'u', value.to_be_bytes()),
            Self::SignedInt(value) => put(out, b'I', value.to_be_bytes()),
            Self::UnsignedInt(value) => put(out, b'i', value.to_be_bytes()),
            Self::Long(value) => put(out, b'l', value.to_be_bytes()),
            Self::Float(value) => put(out, b'f', value.to_be_bytes()),
            Self::Double(value) => put(out, b'd', value.to_be_bytes()),
            Self::Decimal { scale, value } => {
                put(out, b'D', [*scale]);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Self::LongStr(text) => put_long(out, b'S', |out| out.extend_from_slice(text)),
            Self::Binary(bytes) => put_long(out, b'x', |out| out.extend_from_slice(bytes)),
            Self::Timestamp(seconds) => put(out, b'T', seconds.to_be_bytes()),
            Self::Array(values) => put_long(out, b'A', |out| {
                values.iter().for_each(|value| value.encode(out));
            }),
            Self::Table(table) => put_long(out, b'F', |out| table.encode(out)),
            Self::Void => out.push(b'V'),
        }
    }
}

fn put<const N: usize>(out: &mut Vec<u8>, letter: u8, value: [u8; N]) {
    out.push(letter);
    out.extend_from_slice(&value);
}

/// A letter, a 32-bit length, and what `content` appends.
fn put_long(out: &mut Vec<u8>, letter: u8, content: impl FnOnce(&mut Vec<u8>)) {
    put(out, letter, [0; 4]);
    let start = out.len();
    content(out);
    let len = u32::try_from(out.len() - start).expect("values stay below 4 GiB");
    out[start - 4..start].copy_from_slice(&len.to_be_bytes());
}

/// Copies a table that has been validated, so that its depth is bounded.
pub(super) fn copy_table(table: Table<'_>) -> Result<FieldTable, TableError> {
    let mut fields = Vec::new();
    for field in table {
        let (name, value) = field?;
        fields.push((name.to_short_string(), copy_value(value)?));
    }
    Ok(FieldTable(fields))
}

fn copy_array(array: Array<'_>) -> Result<Vec<FieldValue>, TableError> {
    array.iter().map(|value| copy_value(value?)).collect()
}

fn copy_value(value: Value<'_>) -> Result<FieldValue, TableError> {
    Ok(match value {
        Value::Bool(value) => FieldValue::Bool(value),
        Value::Byte(value) => FieldValue::Byte(value),
        Value::UnsignedByte(value) => FieldValue::UnsignedByte(value),
        Value::Short(value) => FieldValue::Short(value),
        Value::UnsignedShort(value) => FieldValue::UnsignedShort(value),
        Value::SignedInt(value) => FieldValue::SignedInt(value),
        Value::UnsignedInt(value) => FieldValue::UnsignedInt(value),
        Value::Long(value) => FieldValue::Long(value),
        Value::Float(value) => FieldValue::Float(value),
        Value::Double(value) => FieldValue::Double(value),
        Value::Decimal { scale, value } => FieldValue::Decimal { scale, value },
        Value::LongStr(text) => FieldValue::LongStr(text.0.to_vec()),
        Value::Binary(bytes) => FieldValue::Binary(bytes.to_vec()),
        Value::Timestamp(seconds) => FieldValue::Timestamp(seconds),
        Value::Array(array) => FieldValue::Array(copy_array(array)?),
        Value::Table(table) => FieldValue::Table(copy_table(table)?),
        Value::Void => FieldValue::Void,
    })
}

impl PartialEq for FieldValue {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Double(a), Self::Double(b)) => a.to_bits() == b.to_bits(),
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Byte(a), Self::Byte(b)) => a == b,
            (Self::UnsignedByte(a), Self::UnsignedByte(b)) => a == b,
            (Self::Short(a), Self::Short(b)) => a == b,
            (Self::UnsignedShort(a), Self::UnsignedShort(b)) => a == b,
            (Self::SignedInt(a), Self::SignedInt(b)) => a == b,
            (Self::UnsignedInt(a), Self::UnsignedInt(b)) => a == b,
            (Self::Long(a), Self::Long(b)) => a == b,
            (
                Self::Decimal { scale, value },
                Self::Decimal {
                    scale: other_scale,
                    value: other_value,
                },
            ) => scale == other_scale && value == other_value,
            (Self::LongStr(a), Self::LongStr(b)) | (Self::Binary(a), Self::Binary(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Table(a), Self::Table(b)) => a == b,
            (Self::Void, Self::Void) => true,
            _ => false,
        }
    }
}

impl Eq for FieldValue {}

impl std::hash::Hash for FieldValue {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes.hash(state);
    }
}

impl From<&str> for FieldValue {
    fn from(text: &str) -> Self {
        Self::LongStr(text.as_bytes().to_vec())
    }
}

impl From<String> for FieldValue {
    fn from(text: String) -> Self {
        Self::LongStr(text.into_bytes())
    }
}

impl From<bool> for FieldValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for FieldValue {
    fn from(value: i32) -> Self {
        Self::SignedInt(value)
    }
}

impl From<i64> for FieldValue {
    fn from(value: i64) -> Self {
        Self::Long(value)
    }
}

impl From<FieldTable> for FieldValue {
    fn from(table: FieldTable) -> Self {
        Self::Table(table)
    }
}

impl From<Vec<Self>> for FieldValue {
    fn from(values: Vec<Self>) -> Self {
        Self::Array(values)
    }
}
