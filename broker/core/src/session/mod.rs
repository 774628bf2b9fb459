//! One client connection with all its channels, without the socket.
//!
//! A driver hands in bytes, events and the time, and carries out what comes back: [`Work`] for the
//! rest of the node, bytes in the [`Outbox`] for the client. Its loop:
//! 1. what was read goes to [`Session::handle_bytes`]; what that did not consume stays in the
//!    buffer and is handed in again when there is more behind it, and when
//!    [`Session::wants_read`] has become true;
//! 2. events go to [`Session::handle_event`], the time of [`Session::timeout`] to
//!    [`Session::handle_timeout`];
//! 3. [`Session::pump`] fills the outbox; the driver writes, and pumps again while something went
//!    out;
//! 4. the work of every call is handed over in order;
//! 5. once [`Session::is_finished`], the outbox is written and the socket closed; the session can
//!    be dropped when [`Session::is_over`] (after [`Session::handle_disconnect`] too).
//!
//! Invariants:
//! - no input panics, and every queue in here is bounded;
//! - a channel's error leaves the other channels alone;
//! - all that a session holds of the node's is given back when its connection ends, however it
//!   ends.

mod acknowledge;
mod catch_up;
mod channel;
mod channels;
mod close;
mod common;
mod confirms;
mod consume;
mod declare;
mod deliver;
pub mod direct_reply;
pub mod event;
mod events;
mod expiration;
mod fault;
mod flow;
mod frames;
mod handshake;
mod heartbeat;
mod holders;
mod info;
mod lookup;
mod options;
pub mod outbox;
mod publish;
mod random;
mod routing;
mod transaction;
mod unacked;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use warren_cluster_core::ids::Instant;

pub use common::{Env, ReplyDirectory};
pub use info::{ChannelInfo, ConsumerInfo, SessionInfo, State};
pub use options::{Peer, SessionOptions};

use self::channels::ChannelTable;
use self::common::{Common, Turn};
use self::event::Event;
use self::frames::CutBody;
use self::handshake::Handshake;
use self::heartbeat::{Due, Heartbeat};
use self::outbox::Outbox;
use crate::auth::LoginError;
use crate::dispatch::work::Work;
use crate::ids::SessionId;

/// Spare memory is given back after so long without anything to do.
const TRIM_AFTER_MS: u64 = 5_000;

/// A client connection.
pub struct Session {
    common: Common,
    channels: ChannelTable,
    phase: Phase,
    heartbeat: Heartbeat,
    cut_body: Option<CutBody>,
    /// When something last happened.
    active: Instant,
    /// What it held is given back.
    released: bool,
}

/// How far the connection is.
enum Phase {
    Handshake(Box<Handshake>),
    Open,
    /// The client has asked to close; its publishes and operations end first.
    Draining {
        deadline: Instant,
    },
    /// connection.close is sent, close-ok has not come. What cannot be read any more is thrown
    /// away.
    Closing {
        deadline: Instant,
        deaf: bool,
    },
    Finished,
}

impl Session {
    /// A connection just accepted. `seed` is different for every session.
    #[must_use]
    pub fn new(
        options: Arc<SessionOptions>,
        id: SessionId,
        peer: Peer,
        now: Instant,
        seed: u64,
    ) -> Self {
        let deadline = now.plus_millis(options.handshake_timeout_ms);
        Self {
            common: Common::new(options, id, peer, seed),
            channels: ChannelTable::default(),
            phase: Phase::Handshake(Box::new(Handshake::new(deadline))),
            heartbeat: Heartbeat::new(now),
            cut_body: None,
            active: now,
            released: false,
        }
    }

    /// Takes what the client has sent; gives how many bytes are done with. The rest has to be
    /// handed in again with what comes behind it. The driver's buffer must have room for a whole
    /// frame that is not a body's: `frame_max` and 8 bytes.
    pub fn handle_bytes(
        &mut self,
        now: Instant,
        env: &Env<'_>,
        input: &[u8],
        work: &mut Work,
    ) -> usize {
        self.active = now;
        self.heartbeat.received(now);
        self.common.publisher.begin(input.len());
        let mut turn = Turn::new(now, env, work);
        let consumed = self.take_frames(input, &mut turn);
        self.end_turn(&mut turn);
        let is_open = matches!(self.phase, Phase::Open);
        if is_open && self.common.outbox.is_empty() && self.heartbeat.goes_along(now) {
            self.send_heartbeat(now);
        }
        consumed
    }

    /// Takes what the rest of the node has to say.
    pub fn handle_event(&mut self, now: Instant, env: &Env<'_>, event: Event, work: &mut Work) {
        self.active = now;
        let mut turn = Turn::new(now, env, work);
        self.take_event(event, &mut turn);
        self.end_turn(&mut turn);
    }

    /// When [`Session::handle_timeout`] is due.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Handshake(handshake) => Some(handshake.deadline),
            Phase::Draining { deadline } | Phase::Closing { deadline, .. } => Some(*deadline),
            // A peer that does not read must not keep its socket.
            Phase::Finished => (!self.common.outbox.is_empty()).then(|| self.last_words_at()),
            Phase::Open => {
                let due = [
                    self.heartbeat.timeout(),
                    self.trim_at(),
                    self.common.flow.stale,
                ];
                due.into_iter().flatten().min()
            }
        }
    }

    /// Does what the time demands; harmless when it comes too early.
    pub fn handle_timeout(&mut self, now: Instant, env: &Env<'_>, work: &mut Work) {
        let mut turn = Turn::new(now, env, work);
        match &self.phase {
            Phase::Handshake(handshake) if now >= handshake.deadline => self.cut_off(&mut turn),
            Phase::Draining { deadline } | Phase::Closing { deadline, .. } if now >= *deadline => {
                self.cut_off(&mut turn);
            }
            Phase::Open => {
                self.beat(&mut turn);
                self.look_at_definitions(&mut turn);
            }
            Phase::Finished if now >= self.last_words_at() => self.cut_off(&mut turn),
            Phase::Handshake(_)
            | Phase::Draining { .. }
            | Phase::Closing { .. }
            | Phase::Finished => {}
        }
        if self.trim_at().is_some_and(|at| now >= at) {
            self.trim();
        }
        self.end_turn(&mut turn);
    }

    /// The peer had its time: nothing more is said to it.
    fn cut_off(&mut self, turn: &mut Turn<'_, '_>) {
        self.finish(turn);
        self.common.outbox = Outbox::default();
    }

    /// How long a finished connection may take to read what it was told.
    fn last_words_at(&self) -> Instant {
        self.active
            .plus_millis(self.common.options.close_timeout_ms)
    }

    /// Goes on with what is to be routed if the definitions are fresh again.
    fn look_at_definitions(&mut self, turn: &mut Turn<'_, '_>) {
        if self.common.flow.stale.is_none_or(|at| turn.now < at) {
            return;
        }
        if turn.is_stale() {
            self.common.wait_on_for_definitions(turn);
        } else {
            self.common.flow.stale = None;
            self.go_on(turn);
        }
    }

    fn beat(&mut self, turn: &mut Turn<'_, '_>) {
        if !self.wants_read() {
            // Its heartbeats lie unread in the socket.
            self.heartbeat.received(turn.now);
        }
        match self.heartbeat.due(turn.now) {
            Due::Nothing => {}
            Due::Send => self.send_heartbeat(turn.now),
            Due::Dead => self.cut_off(turn),
        }
    }

    fn send_heartbeat(&mut self, now: Instant) {
        warren_protocol::frame::encode_heartbeat(self.common.out());
        self.heartbeat.sent(now);
    }

    /// The socket is gone. All that the session held is given back; it lives on (without bytes)
    /// only while [`Session::is_over`] is false.
    pub fn handle_disconnect(&mut self, now: Instant, env: &Env<'_>, work: &mut Work) {
        let mut turn = Turn::new(now, env, work);
        self.cut_off(&mut turn);
        self.end_turn(&mut turn);
    }

    /// Puts deliveries and confirms into the outbox while it has room, and gives credit back. To be
    /// called before every write.
    pub fn pump(&mut self, now: Instant, env: &Env<'_>, work: &mut Work) {
        let mut turn = Turn::new(now, env, work);
        self.write_confirms();
        self.write_deliveries(&mut turn);
        self.end_turn(&mut turn);
        if !self.common.outbox.is_empty() {
            self.heartbeat.sent(now);
        }
    }

    /// What there is to write.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.common.outbox
    }

    /// Whether the driver may read. While it is false nothing is consumed.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        match self.phase {
            Phase::Handshake(_) | Phase::Draining { .. } | Phase::Closing { .. } => true,
            Phase::Open => !self.is_stalled(),
            Phase::Finished => false,
        }
    }

    /// Whether the socket is to be closed once the outbox is written.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished)
    }

    /// Whether it is finished and no operation that it began still needs its events.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_finished() && self.common.orphans.is_empty()
    }

    /// Why the client was not let in: for the log alone.
    #[must_use]
    pub fn login_error(&self) -> Option<LoginError> {
        self.common.login_error
    }

    /// The reply consumers as (channel, nonce), when one came or went since this was last asked:
    /// what the driver's [`ReplyDirectory`] goes by.
    pub fn take_reply_consumers(&mut self) -> Option<Vec<(u16, u64)>> {
        let changed = std::mem::take(&mut self.common.replies_changed);
        changed.then(|| {
            let channels = self.channels.iter();
            let consumers = channels.filter_map(|it| Some((it.number, it.reply.as_ref()?.nonce)));
            consumers.collect()
        })
    }

    /// The session's number.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.common.id
    }

    /// Nothing may be left open when a call ends.
    fn end_turn(&mut self, turn: &mut Turn<'_, '_>) {
        self.common.publisher.flush(turn.work);
        self.common.settles.flush(turn.work);
        if !self.common.catching_up.is_empty() {
            self.note_what_came();
        }
    }

    fn trim_at(&self) -> Option<Instant> {
        let trimmable = self.common.outbox.is_trimmable() || self.common.routing.is_some();
        trimmable.then(|| self.active.plus_millis(TRIM_AFTER_MS))
    }

    fn trim(&mut self) {
        let common = &mut self.common;
        common.outbox.trim();
        common.publisher.trim();
        common.routing = None;
        common.unconfirmed = Vec::new();
        if common.deliveries.is_empty() {
            common.deliveries = std::collections::VecDeque::new();
        }
        self.channels.iter_mut().for_each(channel::Channel::trim);
    }
}
