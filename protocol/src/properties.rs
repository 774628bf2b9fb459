//! The properties of a message: kept in wire form, read field by field when asked.
//!
//! Wire form: 16 bits of flags, the highest for the first property, then the fields whose flag is
//! set, in order (AMQP 0-9-1, 4.2.6.1). Two bytes of zeros are no properties at all.
//!
//! Invariants:
//! - [`Properties`] may hold anything; [`Properties::validate`] walks it once, and after its `Ok`
//!   every accessor tells the truth. Without it a malformed field reads as absent. Nothing panics;
//! - what is not edited is carried over byte for byte.

use std::fmt;

use crate::limits::SHORTSTR_BYTES_MAX;
use crate::wire::Reader;
use crate::{FieldTable, LongStr, ShortStr, Table, TableError};

/// The properties of class `basic`, in the order of their flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Property {
    ContentType,
    ContentEncoding,
    Headers,
    DeliveryMode,
    Priority,
    CorrelationId,
    ReplyTo,
    Expiration,
    MessageId,
    Timestamp,
    Type,
    UserId,
    AppId,
    ClusterId,
}

impl Property {
    const COUNT: usize = 14;

    /// All properties, in the order of the wire.
    pub const ALL: [Self; Self::COUNT] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::Headers,
        Self::DeliveryMode,
        Self::Priority,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::MessageId,
        Self::Timestamp,
        Self::Type,
        Self::UserId,
        Self::AppId,
        Self::ClusterId,
    ];

    /// The property's bit in the flags.
    #[must_use]
    #[inline]
    pub const fn flag(self) -> u16 {
        1 << (15 - self as u16)
    }

    /// The name as RabbitMQ's HTTP API writes it, such as `content_type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContentType => "content_type",
            Self::ContentEncoding => "content_encoding",
            Self::Headers => "headers",
            Self::DeliveryMode => "delivery_mode",
            Self::Priority => "priority",
            Self::CorrelationId => "correlation_id",
            Self::ReplyTo => "reply_to",
            Self::Expiration => "expiration",
            Self::MessageId => "message_id",
            Self::Timestamp => "timestamp",
            Self::Type => "type",
            Self::UserId => "user_id",
            Self::AppId => "app_id",
            Self::ClusterId => "cluster_id",
        }
    }
}

/// What can be wrong with properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    #[error("they end inside a field")]
    Truncated,
    #[error("{bytes} bytes behind the last field")]
    Trailing { bytes: usize },
    /// The two lowest bits have no property, and no class needs a second word of flags.
    #[error("flags {flags:#06x} have no meaning")]
    UnknownFlags { flags: u16 },
    #[error("headers: {0}")]
    Headers(#[from] TableError),
}

/// A message's properties in wire form, flags first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Properties<'a>(&'a [u8]);

impl Default for Properties<'_> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<'a> Properties<'a> {
    /// No property set.
    pub const EMPTY: Properties<'static> = Properties(&[0, 0]);

    /// Takes the bytes as they are, for instance out of the log. No bytes stand for no properties.
    #[must_use]
    #[inline]
    pub const fn from_raw(bytes: &'a [u8]) -> Self {
        if bytes.is_empty() {
            Self::EMPTY
        } else {
            Self(bytes)
        }
    }

    /// The wire form, flags first.
    #[must_use]
    #[inline]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The flags: which properties are set.
    #[must_use]
    #[inline]
    pub const fn flags(self) -> u16 {
        match self.0 {
            [high, low, ..] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        }
    }

    /// Whether the property is set.
    #[must_use]
    #[inline]
    pub const fn has(self, property: Property) -> bool {
        self.flags() & property.flag() != 0
    }

    /// Walks every byte once, the headers' nested values included.
    ///
    /// # Errors
    /// The first thing wrong.
    pub fn validate(self) -> Result<(), PropertyError> {
        let mut reader = Reader::new(self.0);
        let flags = reader.u16().ok_or(PropertyError::Truncated)?;
        if flags & 0b11 != 0 {
            return Err(PropertyError::UnknownFlags { flags });
        }
        let mut left = flags;
        while left != 0 {
            let property = Property::ALL[left.leading_zeros() as usize];
            left &= !property.flag();
            if property == Property::Headers {
                reader.table().ok_or(PropertyError::Truncated)?.validate()?;
            } else {
                skip_field(&mut reader, property).ok_or(PropertyError::Truncated)?;
            }
        }
        match reader.rest().len() {
            0 => Ok(()),
            bytes => Err(PropertyError::Trailing { bytes }),
        }
    }

    /// The bytes of one field, with the length that strings and tables carry in front.
    #[must_use]
    pub fn raw_field(self, property: Property) -> Option<&'a [u8]> {
        let start = self.at(property)?;
        let mut end = start;
        skip_field(&mut end, property)?;
        Some(&start.rest()[..start.rest().len() - end.rest().len()])
    }

    /// A reader at the field's first byte.
    #[inline]
    fn at(self, property: Property) -> Option<Reader<'a>> {
        if !self.has(property) {
            return None;
        }
        let mut reader = Reader::new(self.0);
        let flags = reader.u16()?;
        // The fields in front are those of the higher flags.
        let mut in_front = flags & !(property.flag() | (property.flag() - 1));
        while in_front != 0 {
            let passed = Property::ALL[in_front.leading_zeros() as usize];
            in_front &= !passed.flag();
            skip_field(&mut reader, passed)?;
        }
        Some(reader)
    }

    fn short_str(self, property: Property) -> Option<ShortStr<'a>> {
        self.at(property)?.short_str()
    }

    #[must_use]
    pub fn content_type(self) -> Option<ShortStr<'a>> {
        self.short_str(Property::ContentType)
    }

    #[must_use]
    pub fn content_encoding(self) -> Option<ShortStr<'a>> {
        self.short_str(Property::ContentEncoding)
    }

    #[must_use]
    pub fn headers(self) -> Option<Table<'a>> {
        self.at(Property::Headers)?.table()
    }

    /// 1 is transient, 2 persistent.
    #[must_use]
    #[inline]
    pub fn delivery_mode(self) -> Option<u8> {
        self.at(Property::DeliveryMode)?.u8()
    }

    /// Whether the delivery mode is 2.
    #[must_use]
    #[inline]
    pub fn is_persistent(self) -> bool {
        self.delivery_mode() == Some(2)
    }

    #[must_use]
    pub fn priority(self) -> Option<u8> {
        self.at(Property::Priority)?.u8()
    }

    #[must_use]
    pub fn correlation_id(self) -> Option<ShortStr<'a>> {
        self.short_str(Property::CorrelationId)
    }

    #[must_use]
    pub fn reply_to(self) -> Option<ShortStr<'a>> {
        self.short_str(Property::ReplyTo)
    }

    /// The message's own time to live: milliseconds in decimal, as the client wrote them.
    #[must_use]
    pub fn expiration(self) -> Option<ShortStr<'a>> {
        self.short_str(Property::Expiration)
    }

    #[must_use]
    pub fn message_id(self) -> Option<ShortStr<'a>> {
        self.short_str(Property::MessageId)
    }

    /// Seconds since 1970, as the client says.
    #[must_use]
    pub fn timestamp(self) -> Option<u64> {
        self.at(Property::Timestamp)?.u64()
    }

    /// The application's name for the kind of message (`type` in AMQP).
    #[must_use]
    pub fn message_type(self) -> Option<ShortStr<'a>> {
        self.short_str(Property::Type)
    }

    #[must_use]
    pub fn user_id(self) -> Option<ShortStr<'a>> {
        self.short_str(Property::UserId)
    }

    #[must_use]
    pub fn app_id(self) -> Option<ShortStr<'a>> {
        self.short_str(Property::AppId)
    }

    #[must_use]
    pub fn cluster_id(self) -> Option<ShortStr<'a>> {
        self.short_str(Property::ClusterId)
    }

    /// Starts a changed copy.
    #[must_use]
    pub fn edit(self) -> PropertiesEditor<'a> {
        let mut fields = [const { Field::Absent }; Property::COUNT];
        for property in Property::ALL {
            if let Some(raw) = self.raw_field(property) {
                fields[property as usize] = Field::Kept(raw);
            }
        }
        PropertiesEditor { fields }
    }
}

/// For traces: the properties that are set, by name.
impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(error) = self.validate() {
            return write!(f, "properties of {} bytes ({error})", self.0.len());
        }
        let mut map = f.debug_map();
        for property in Property::ALL {
            let Some(mut field) = self.at(property) else {
                continue;
            };
            map.key(&format_args!("{}", property.name()));
            match property {
                Property::Headers => map.value(&field.table().unwrap_or_default()),
                Property::DeliveryMode | Property::Priority => map.value(&field.u8().unwrap_or(0)),
                Property::Timestamp => map.value(&field.u64().unwrap_or(0)),
                _ => map.value(&field.short_str().unwrap_or_default()),
            };
        }
        map.finish()
    }
}

#[inline]
fn skip_field(reader: &mut Reader<'_>, property: Property) -> Option<()> {
    match property {
        Property::Headers => reader.long_bytes().map(|_| ()),
        Property::DeliveryMode | Property::Priority => reader.u8().map(|_| ()),
        Property::Timestamp => reader.u64().map(|_| ()),
        Property::ContentType
        | Property::ContentEncoding
        | Property::CorrelationId
        | Property::ReplyTo
        | Property::Expiration
        | Property::MessageId
        | Property::Type
        | Property::UserId
        | Property::AppId
        | Property::ClusterId => reader.short_str().map(|_| ()),
    }
}

/// Makes new properties out of old ones (or of [`Properties::EMPTY`]) with some fields replaced or
/// removed.
#[derive(Debug, Clone)]
pub struct PropertiesEditor<'a> {
    fields: [Field<'a>; Property::COUNT],
}

#[derive(Debug, Clone)]
enum Field<'a> {
    Absent,
    Kept(&'a [u8]),
    New(Vec<u8>),
}

impl PropertiesEditor<'_> {
    /// Takes the property away.
    #[must_use]
    pub fn remove(mut self, property: Property) -> Self {
        self.fields[property as usize] = Field::Absent;
        self
    }

    fn put(mut self, property: Property, raw: Vec<u8>) -> Self {
        self.fields[property as usize] = Field::New(raw);
        self
    }

    fn put_short_str(self, property: Property, text: ShortStr<'_>) -> Self {
        let mut raw = Vec::with_capacity(1 + text.len());
        debug_assert!(text.len() <= SHORTSTR_BYTES_MAX);
        raw.push(text.len() as u8);
        raw.extend_from_slice(text.as_bytes());
        self.put(property, raw)
    }

    #[must_use]
    pub fn content_type(self, text: ShortStr<'_>) -> Self {
        self.put_short_str(Property::ContentType, text)
    }

    #[must_use]
    pub fn content_encoding(self, text: ShortStr<'_>) -> Self {
        self.put_short_str(Property::ContentEncoding, text)
    }

    /// Headers already in wire form.
    #[must_use]
    pub fn headers(self, table: Table<'_>) -> Self {
        self.put(Property::Headers, long_bytes(LongStr(table.as_bytes())))
    }

    #[must_use]
    pub fn headers_from(self, table: &FieldTable) -> Self {
        self.headers(Table::from_raw(&table.to_bytes()))
    }

    #[must_use]
    pub fn delivery_mode(self, mode: u8) -> Self {
        self.put(Property::DeliveryMode, vec![mode])
    }

    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.put(Property::Priority, vec![priority])
    }

    #[must_use]
    pub fn correlation_id(self, text: ShortStr<'_>) -> Self {
        self.put_short_str(Property::CorrelationId, text)
    }

    #[must_use]
    pub fn reply_to(self, text: ShortStr<'_>) -> Self {
        self.put_short_str(Property::ReplyTo, text)
    }

    #[must_use]
    pub fn expiration(self, text: ShortStr<'_>) -> Self {
        self.put_short_str(Property::Expiration, text)
    }

    #[must_use]
    pub fn message_id(self, text: ShortStr<'_>) -> Self {
        self.put_short_str(Property::MessageId, text)
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn timestamp(self, seconds: u64) -> Self {
        self.put(Property::Timestamp, seconds.to_be_bytes().to_vec())
    }

    #[must_use]
    pub fn message_type(self, text: ShortStr<'_>) -> Self {
        self.put_short_str(Property::Type, text)
    }

    #[must_use]
    pub fn user_id(self, text: ShortStr<'_>) -> Self {
        self.put_short_str(Property::UserId, text)
    }

    #[must_use]
    pub fn app_id(self, text: ShortStr<'_>) -> Self {
        self.put_short_str(Property::AppId, text)
    }

    #[must_use]
    pub fn cluster_id(self, text: ShortStr<'_>) -> Self {
        self.put_short_str(Property::ClusterId, text)
    }

    /// The new properties in wire form: borrow them as [`Properties::from_raw`].
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        let mut out = vec![0, 0];
        let mut flags = 0;
        for property in Property::ALL {
            let raw = match &self.fields[property as usize] {
                Field::Absent => continue,
                Field::Kept(raw) => raw,
                Field::New(raw) => raw.as_slice(),
            };
            flags |= property.flag();
            out.extend_from_slice(raw);
        }
        out[..2].copy_from_slice(&flags.to_be_bytes());
        out
    }
}

fn long_bytes(bytes: LongStr<'_>) -> Vec<u8> {
    let len = u32::try_from(bytes.0.len()).expect("tables stay below 4 GiB");
    let mut out = Vec::with_capacity(4 + bytes.0.len());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(text: &str) -> ShortStr<'_> {
        ShortStr::try_from(text).expect("short")
    }

    #[test]
    fn fields_are_found_behind_any_others() {
        let headers = FieldTable::new().with("x", 7);
        let raw = Properties::EMPTY
            .edit()
            .content_type(short("text/plain"))
            .headers_from(&headers)
            .delivery_mode(2)
            .reply_to(short("r"))
            .timestamp(1_700_000_000)
            .cluster_id(short(""))
            .finish();
        let properties = Properties::from_raw(&raw);
        assert_eq!(properties.validate(), Ok(()));
        assert_eq!(properties.content_type(), Some(short("text/plain")));
        assert_eq!(properties.content_encoding(), None);
        let table = properties.headers().expect("set").to_field_table();
        assert_eq!(table, Ok(headers));
        assert!(properties.is_persistent());
        assert_eq!(properties.priority(), None);
        assert_eq!(properties.reply_to(), Some(short("r")));
        assert_eq!(properties.timestamp(), Some(1_700_000_000));
        assert_eq!(properties.cluster_id(), Some(ShortStr::EMPTY));
        assert_eq!(
            properties.edit().finish(),
            raw,
            "an edit of nothing changes nothing"
        );
        let without = properties
            .edit()
            .remove(Property::Headers)
            .reply_to(short("r2"))
            .finish();
        let without = Properties::from_raw(&without);
        assert_eq!(without.headers(), None);
        assert_eq!(without.reply_to(), Some(short("r2")));
        assert_eq!(without.timestamp(), properties.timestamp());
    }

    #[test]
    fn each_malformed_form_has_its_error() {
        let check = |raw: &[u8], expected| {
            assert_eq!(
                Properties::from_raw(raw).validate(),
                Err(expected),
                "{raw:?}"
            );
        };
        check(&[0x80], PropertyError::Truncated);
        check(&[0x80, 0], PropertyError::Truncated);
        check(&[0x80, 0, 3, b'a', b'b'], PropertyError::Truncated);
        check(&[0, 0, 9], PropertyError::Trailing { bytes: 1 });
        check(&[0, 1], PropertyError::UnknownFlags { flags: 1 });
        check(&[0, 2], PropertyError::UnknownFlags { flags: 2 });
        check(&[0x20, 0, 0, 0, 0, 9], PropertyError::Truncated);
        let letter = TableError::UnknownType { letter: b'?' };
        check(
            &[0x20, 0, 0, 0, 0, 2, 0, b'?'],
            PropertyError::Headers(letter),
        );
        assert_eq!(Properties::from_raw(&[0x80, 0, 9]).content_type(), None);
        assert_eq!(Properties::from_raw(&[]), Properties::EMPTY);
    }
}
