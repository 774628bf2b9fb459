//! Bodies that say which publish they are, and show when a byte of them was changed.

use crate::checker::MessageKey;

/// Bytes in front of a body's filling: queue, publisher, seq.
const ID_BYTES: usize = 16;
const PATTERN_BYTES: usize = 4096;

static PATTERN: [u8; PATTERN_BYTES] = pattern();

const fn pattern() -> [u8; PATTERN_BYTES] {
    let mut bytes = [0; PATTERN_BYTES];
    let mut at = 0;
    let mut state: u32 = 1;
    while at < PATTERN_BYTES {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes[at] = (state >> 24) as u8;
        at += 1;
    }
    bytes
}

/// The pieces of the filling of `key`'s body, `bytes` in all: where the pattern begins is its own.
fn filling(key: MessageKey, bytes: usize) -> impl Iterator<Item = &'static [u8]> {
    let start = ((key.seq as usize).wrapping_mul(31) ^ key.publisher as usize) % PATTERN_BYTES;
    let mut from = start;
    let mut left = bytes;
    std::iter::from_fn(move || {
        let take = left.min(PATTERN_BYTES - from);
        let piece = &PATTERN[from..from + take];
        left -= take;
        from = 0;
        (take > 0).then_some(piece)
    })
}

/// The body of a publish, with `bytes` behind its id.
#[must_use]
pub fn write(key: MessageKey, bytes: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(ID_BYTES + bytes);
    body.extend_from_slice(&key.queue.to_le_bytes());
    body.extend_from_slice(&key.publisher.to_le_bytes());
    body.extend_from_slice(&key.seq.to_le_bytes());
    for piece in filling(key, bytes) {
        body.extend_from_slice(piece);
    }
    body
}

/// The id in a body, and whether the rest is what belongs to it.
#[must_use]
pub fn read(body: &[u8]) -> Option<(MessageKey, bool)> {
    let (id, mut rest) = body.split_first_chunk::<ID_BYTES>()?;
    let number = |at: usize| u32::from_le_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]);
    let key = MessageKey {
        queue: number(0),
        publisher: number(4),
        seq: u64::from(number(8)) | u64::from(number(12)) << 32,
    };
    let mut whole = true;
    for piece in filling(key, rest.len()) {
        let (have, behind) = rest.split_at(piece.len());
        whole &= have == piece;
        rest = behind;
    }
    Some((key, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_reads_back_and_a_changed_one_shows() {
        let key = MessageKey {
            queue: 3,
            publisher: 4,
            seq: 1 << 33,
        };
        for bytes in [0, 1, 4095, 4096, 10_000] {
            let mut body = write(key, bytes);
            assert_eq!(read(&body), Some((key, true)));
            if let Some(last) = body[ID_BYTES..].last_mut() {
                *last ^= 1;
                assert_eq!(read(&body), Some((key, false)));
            }
        }
        assert_eq!(read(&[0; 15]), None);
    }
}
