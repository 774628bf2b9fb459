//! What the unit tests of this package share.

use bytes::Bytes;

use crate::ids::Place;
use crate::machine::Bodies;

/// A message store for machines that never ask for a body.
pub(crate) struct NoBodies;

impl Bodies for NoBodies {
    fn get(&mut self, _place: Place, _len: u32) -> Option<Bytes> {
        None
    }

    fn want(&mut self, _key: u64, _place: Place, _len: u32) {}

    fn retain(&mut self, _key: u64, _id: u64, _place: Place, _len: u32) {}

    fn release(&mut self, _place: Place, _len: u32) {}
}

/// Compares bytes with a file of `testdata`, in hexadecimal: what this build writes, and what
/// builds to come must read. `UPDATE_EXPECT=1` writes it anew (with a new version number only).
pub(crate) fn fixture(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    if option_env!("UPDATE_EXPECT").is_some() {
        let lines = bytes.chunks(32).map(|line| {
            let digits = line.iter().map(|byte| format!("{byte:02x}"));
            digits.collect::<String>() + "\n"
        });
        update(&path.join(name), &lines.collect::<String>());
    }
    recorded(name)
}

/// The bytes of a fixture that an earlier build wrote.
pub(crate) fn recorded(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let text = std::fs::read_to_string(path.join(name)).expect("the fixture is in the tree");
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("hexadecimal digits");
        u8::from_str_radix(pair, 16).expect("hexadecimal digits")
    };
    digits.chunks(2).map(byte).collect()
}

#[allow(clippy::disallowed_methods)] // the one place where a test writes into the tree
fn update(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).expect("the tree can be written to");
}
