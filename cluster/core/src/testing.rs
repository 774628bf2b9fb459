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
