//! When a connection is not read: alarms, credit, and frames that have to wait.
//!
//! Invariant: what stops reading ends without anything more being read: an outcome, an answer, room
//! in the outbox, the end of an alarm, definitions that are fresh again.

use std::sync::Arc;

use warren_cluster_core::ids::Instant;
use warren_protocol::frame::Frame;
use warren_protocol::methods::{ConnectionBlocked, ConnectionUnblocked};
use warren_protocol::{FrameKind, ShortStr};

use super::common::{Common, Turn};

/// How often a session whose publishes wait for definitions looks whether they are fresh again.
const RECHECK_MILLIS: u64 = 50;
/// What its client is told if they are not by then.
const STALE: &str = "this node does not hear from the cluster's leader";

/// `basic.publish` and `tx.commit`: class and method.
const ROUTES: [[u8; 4]; 2] = [[0, 60, 0, 40], [0, 90, 0, 20]];

/// Whether handling the frame may route a message.
pub(super) fn routes(frame: &Frame<'_>) -> bool {
    match frame.kind {
        FrameKind::Header | FrameKind::Body => true,
        FrameKind::Method => ROUTES
            .iter()
            .any(|method| frame.payload.starts_with(method)),
        FrameKind::Heartbeat => false,
    }
}

/// The reasons that are not simple counts.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Publishers must wait, and why.
    pub(super) alarm: Option<Arc<str>>,
    /// It published during the alarm: nothing is read until the alarm ends.
    pub(super) blocked: bool,
    /// A message is to be routed and the definitions are not fresh: nothing is read until they are,
    /// which is looked at again at this time.
    pub(super) stale: Option<Instant>,
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

impl Common {
    /// Whether publishers are held up, by an alarm or by definitions that are not fresh.
    pub(super) fn is_held_up(&self) -> bool {
        self.flow.blocked || self.flow.stale.is_some()
    }

    /// The connection has published during an alarm: it is not read until the alarm ends.
    #[cold]
    pub(super) fn block(&mut self) {
        self.flow.blocked = true;
        let Some(reason) = self.flow.alarm.clone() else {
            return;
        };
        self.tell_blocked(&reason);
    }

    /// Tells the client why it is not read, if it wants to know and was not told before.
    fn tell_blocked(&mut self, reason: &str) {
        if self.flow.told || !self.flow.notify {
            return;
        }
        self.flow.told = true;
        let reason = ShortStr::truncated(reason);
        ConnectionBlocked { reason }.encode_frame(0, self.out());
    }

    /// The alarm has ended, or definitions are fresh again.
    pub(super) fn unblock(&mut self) {
        if !self.is_held_up() && std::mem::take(&mut self.flow.told) {
            ConnectionUnblocked.encode_frame(0, self.out());
        }
    }

    /// A message is to be routed, and the definitions are not fresh: nothing more is read.
    #[cold]
    pub(super) fn wait_for_definitions(&mut self, turn: &Turn<'_, '_>) {
        let again = turn.now.plus_millis(RECHECK_MILLIS);
        self.flow.stale.get_or_insert(again);
    }

    /// The definitions are still not fresh: looks again a little later.
    pub(super) fn wait_on_for_definitions(&mut self, turn: &Turn<'_, '_>) {
        self.flow.stale = Some(turn.now.plus_millis(RECHECK_MILLIS));
        self.tell_blocked(STALE);
    }
}
