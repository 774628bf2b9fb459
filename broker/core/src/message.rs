//! A message as it lies in an entry, and as it goes out again: one run of bytes, never re-encoded.
//!
//! Layout, little endian: exchange length u8, routing key length u8, zero u16, properties
//! length u32, then exchange, routing key, properties (AMQP's wire form: flags and fields) and
//! the body to the end.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes in front of the exchange's name.
pub const HEAD_BYTES: usize = 8;

/// The parts of a message, as slices of wherever they lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parts<'a> {
    /// At most 255 bytes.
    pub exchange: &'a [u8],
    /// At most 255 bytes.
    pub routing_key: &'a [u8],
    /// AMQP's property flags and fields; empty stands for no properties at all.
    pub properties: &'a [u8],
    pub body: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Bytes that [`Parts::encode`] appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEAD_BYTES
            + self.exchange.len()
            + self.routing_key.len()
            + self.properties.len()
            + self.body.len()
    }

    /// Appends the message. Names longer than 255 bytes cannot come from the wire; they are cut.
    pub fn encode(&self, out: &mut BytesMut) {
        let exchange = &self.exchange[..self.exchange.len().min(255)];
        let routing_key = &self.routing_key[..self.routing_key.len().min(255)];
        out.reserve(self.encoded_len());
        out.put_u8(exchange.len() as u8);
        out.put_u8(routing_key.len() as u8);
        out.put_u16_le(0);
        out.put_u32_le(self.properties.len() as u32);
        out.put_slice(exchange);
        out.put_slice(routing_key);
        out.put_slice(self.properties);
        out.put_slice(self.body);
    }

    /// Takes a message apart; `None` when the lengths do not fit the bytes.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let properties = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (exchange, rest) = rest.split_at_checked(usize::from(head[0]))?;
        let (routing_key, rest) = rest.split_at_checked(usize::from(head[1]))?;
        let (properties, body) = rest.split_at_checked(properties)?;
        Some(Self {
            exchange,
            routing_key,
            properties,
            body,
        })
    }
}

/// The body of an encoded message, by reference; `None` when it is not one.
#[must_use]
pub fn body(message: &Bytes) -> Option<Bytes> {
    let parts = Parts::decode(message)?;
    Some(message.slice(message.len() - parts.body.len()..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_survive_the_way_through_an_entry() {
        let parts = Parts {
            exchange: b"amq.topic",
            routing_key: b"a.b",
            properties: &[0, 0],
            body: b"hi",
        };
        let mut out = BytesMut::new();
        parts.encode(&mut out);
        assert_eq!(out.len(), parts.encoded_len());
        assert_eq!(Parts::decode(&out), Some(parts));
        assert_eq!(body(&out.clone().freeze()), Some(Bytes::from_static(b"hi")));
        for cut in 0..out.len() - 2 {
            assert_eq!(Parts::decode(&out[..cut]), None, "cut at {cut}");
        }
    }
}
