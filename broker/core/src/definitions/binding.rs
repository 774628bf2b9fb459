//! A binding: all of it is its identity. Key: vhost, destination kind u8, destination, source,
//! routing key, arguments in canonical form to the end. Value: the version 1.
//!
//! The destination comes first, so that the bindings of a queue lie side by side.

use bytes::Bytes;
use warren_cluster_core::rows::RowKey;
use warren_protocol::table::FieldTable;

use super::codec::{Reader, RowError, Writer};
use super::{destination_letter, kind};
use crate::dispatch::operation::DestinationKind;

const VERSION: u8 = 1;

/// What names a binding, and all that there is to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BindingKey<'a> {
    pub vhost: &'a str,
    pub source: &'a [u8],
    pub destination: &'a [u8],
    pub destination_kind: DestinationKind,
    pub routing_key: &'a [u8],
    pub arguments: FieldTable,
}

/// The same fields in the order of their names: two bindings are the same when these are, in types
/// and values. Fields of one name keep their order.
#[must_use]
pub fn canonical_arguments(arguments: &FieldTable) -> FieldTable {
    let mut sorted = arguments.clone();
    sorted.0.sort_by(|(a, _), (b, _)| a.cmp(b));
    sorted
}

impl<'a> BindingKey<'a> {
    /// The row's key; arguments are put into canonical order.
    #[must_use]
    pub fn encode(&self) -> RowKey {
        let writer = Self::destination_writer(self.vhost, self.destination_kind, self.destination)
            .bytes(self.source)
            .bytes(self.routing_key);
        let writer = if self.arguments.is_empty() {
            writer
        } else {
            writer.table(&canonical_arguments(&self.arguments))
        };
        RowKey {
            kind: kind::BINDING,
            key: writer.finish(),
        }
    }

    /// What the keys of all bindings to one destination begin with.
    #[must_use]
    pub fn destination_prefix(vhost: &str, kind: DestinationKind, destination: &[u8]) -> Bytes {
        Self::destination_writer(vhost, kind, destination).finish()
    }

    fn destination_writer(vhost: &str, kind: DestinationKind, destination: &[u8]) -> Writer {
        Writer::key()
            .bytes(vhost.as_bytes())
            .u8(destination_letter(kind))
            .bytes(destination)
    }

    /// The row's value, the same for all.
    #[must_use]
    pub fn value() -> Bytes {
        const VALUE: &[u8] = &[VERSION];
        Bytes::from_static(VALUE)
    }

    /// # Errors
    /// When the bytes are no such key.
    pub fn decode(key: &'a [u8]) -> Result<Self, RowError> {
        let mut reader = Reader::key(key);
        let vhost = reader.text("vhost")?;
        let destination_kind = match reader.u8("destination type")? {
            0 => DestinationKind::Queue,
            1 => DestinationKind::Exchange,
            value => {
                let field = "destination type";
                return Err(RowError::Unknown { field, value });
            }
        };
        Ok(Self {
            vhost,
            destination_kind,
            destination: reader.bytes("destination")?,
            source: reader.bytes("source")?,
            routing_key: reader.bytes("routing key")?,
            arguments: reader.table()?,
        })
    }

    /// # Errors
    /// When the bytes are no binding's value.
    pub fn check_value(value: &[u8]) -> Result<(), RowError> {
        Reader::value(value, VERSION)?.finish()
    }
}
