//! Names that the server draws for queues. They say on which node the queue lives, so that the
//! others need not hear of it before anybody uses it: whoever misses such a name asks that node.
//!
//! 22 letters, as RabbitMQ's have, of 16 bytes (base64url), little endian: random u64, node u32 and
//! check u32, both mixed with the random number. Nobody can guess them, and what a client made up
//! is not taken for one of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use warren_cluster_core::ids::NodeId;

use crate::splitmix::mix;

/// Letters behind the last dash.
const LETTERS: usize = 22;

/// `prefix`, a dash and the letters, for a queue that lives on `home`.
pub(crate) fn draw(prefix: &[u8], home: NodeId, random: u64) -> Vec<u8> {
    let (node, check) = disguise(home.0 as u32, random);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.to_le_bytes());
    bytes[8..12].copy_from_slice(&node.to_le_bytes());
    bytes[12..].copy_from_slice(&check.to_le_bytes());
    let mut name = prefix.to_vec();
    name.push(b'-');
    name.extend_from_slice(URL_SAFE_NO_PAD.encode(bytes).as_bytes());
    name
}

/// The node that drew the name; `None` for any other name.
#[inline]
pub(crate) fn home_of(name: &[u8]) -> Option<NodeId> {
    let (front, letters) = name.split_at_checked(name.len().checked_sub(LETTERS)?)?;
    if front.last() != Some(&b'-') {
        return None;
    }
    read(letters)
}

fn read(letters: &[u8]) -> Option<NodeId> {
    let mut bytes = [0; 16];
    let count = URL_SAFE_NO_PAD.decode_slice(letters, &mut bytes).ok()?;
    let word = |at: usize| {
        let word = bytes[at..].first_chunk()?;
        Some(u32::from_le_bytes(*word))
    };
    let random = u64::from_le_bytes(*bytes.first_chunk()?);
    let node = word(8)? ^ (mix(random, 1) as u32);
    let is_ours = count == bytes.len() && disguise(node, random) == (word(8)?, word(12)?);
    is_ours.then_some(NodeId(u64::from(node)))
}

/// The node as it stands in the name, and what tells such a name from others.
fn disguise(node: u32, random: u64) -> (u32, u32) {
    let mixed = mix(random, 1);
    let check = mix(mixed ^ u64::from(node), 1) >> 32;
    (node ^ mixed as u32, check as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_where_its_queue_lives() {
        for node in [1, 2, 40, 70_000, u64::from(u32::MAX >> 1)] {
            for random in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
                for prefix in [&b"amq.gen"[..], b"x-y", b""] {
                    let name = draw(prefix, NodeId(node), random);
                    assert_eq!(name.len(), prefix.len() + 23);
                    assert!(name.starts_with(prefix));
                    assert_eq!(home_of(&name), Some(NodeId(node)));
                }
            }
        }
    }

    #[test]
    fn what_a_client_makes_up_is_no_name_of_the_servers() {
        let name = draw(b"amq.gen", NodeId(3), 77);
        for at in 0..name.len() {
            let front = at < name.len() - LETTERS - 1;
            for letter in *b"AZaz09-_ \xff" {
                let mut other = name.clone();
                other[at] = letter;
                // What stands in front says nothing.
                if other != name && !front {
                    assert_eq!(home_of(&other), None, "{}", other.escape_ascii());
                }
            }
            if at > 0 {
                assert_eq!(home_of(&name[..at]), None, "cut at {at}");
            }
        }
        for other in [
            "",
            "-",
            "amq.gen-JzTY20BRgKO-HjmUJj0wLg",
            "orders",
            "AAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert_eq!(home_of(other.as_bytes()), None, "{other}");
        }
    }
}
