//! The protocol header: the first eight bytes that a client sends (AMQP 0-9-1, 4.2.2).

/// The header of AMQP 0-9-1: what a client opens with, and what a server answers to any other.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// What the bytes seen so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preamble {
    /// The client speaks AMQP 0-9-1; `consumed` bytes are done with.
    Accepted { consumed: usize },
    /// It speaks something else (AMQP 1.0's header and garbage alike): write `answer`, then close.
    Refused { answer: [u8; 8] },
    /// So far it may become the right header.
    NeedMore,
}

/// Judges the start of a connection. Garbage is refused at the first wrong byte that makes it so.
///
/// The first four bytes decide alone whether this is AMQP at all; a header of another version is
/// judged once all eight are there, because clients read the answer only after having sent theirs.
#[must_use]
pub fn parse(input: &[u8]) -> Preamble {
    const NAME_BYTES: usize = 4;
    let refused = Preamble::Refused {
        answer: PROTOCOL_HEADER,
    };
    if let Some(header) = input.first_chunk::<8>() {
        if *header == PROTOCOL_HEADER {
            return Preamble::Accepted {
                consumed: PROTOCOL_HEADER.len(),
            };
        }
        return refused;
    }
    let seen = input.len().min(NAME_BYTES);
    if input[..seen] == PROTOCOL_HEADER[..seen] {
        Preamble::NeedMore
    } else {
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Preamble = Preamble::Refused {
        answer: PROTOCOL_HEADER,
    };

    #[test]
    fn the_right_header_is_accepted_however_it_arrives() {
        for cut in 0..8 {
            assert_eq!(
                parse(&PROTOCOL_HEADER[..cut]),
                Preamble::NeedMore,
                "{cut} bytes"
            );
        }
        assert_eq!(parse(&PROTOCOL_HEADER), Preamble::Accepted { consumed: 8 });
        assert_eq!(
            parse(b"AMQP\x00\x00\x09\x01\x01\x00"),
            Preamble::Accepted { consumed: 8 }
        );
    }

    #[test]
    fn other_protocols_and_garbage_are_refused() {
        assert_eq!(parse(b"AMQP\x00\x01\x00\x00"), REFUSED, "AMQP 1.0");
        assert_eq!(
            parse(b"AMQP\x03\x01\x00\x00"),
            REFUSED,
            "AMQP 1.0 with SASL"
        );
        assert_eq!(parse(b"AMQP\x01\x01\x08\x00"), REFUSED, "AMQP 0-8");
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), REFUSED);
        assert_eq!(parse(b"\x16\x03"), REFUSED, "a TLS hello");
        assert_eq!(parse(b"AMX"), REFUSED);
    }
}
