//! When a connection is not read: alarms, credit, and frames that have to wait.
//!
//! Invariant: what stops reading ends without anything more being read: an outcome, an answer, room
//! in the outbox, the end of an alarm.

use std::sync::Arc;

/// The reasons that are not simple counts.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Publishers must wait, and why.
    pub(super) alarm: Option<Arc<str>>,
    /// It published during the alarm: nothing is read until the alarm ends.
    pub(super) blocked: bool,
    /// connection.blocked is sent, connection.unblocked not yet.
    pub(super) told: bool,
    /// The client wants to be told.
    pub(super) notify: bool,
    /// Bytes in the channels' held frames.
    pub(super) held_bytes: usize,
    /// Bytes of bodies of which a part is missing.
    pub(super) content_bytes: usize,
    /// Bytes of transactions that are not committed.
    pub(super) transaction_bytes: usize,
}
