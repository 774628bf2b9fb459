//! How channels and connections end: by the client, by an error, by the node, by silence.
//!
//! Invariants:
//! - a channel's error gives back what that channel held and nothing else;
//! - behind channel.close and connection.close nothing is said but their answers;
//! - the client's own close is answered when all that it published before has its outcome, and the
//!   queues that were its own are gone.

use warren_cluster_core::ids::ShardId;
use warren_protocol::frame::Frame;
use warren_protocol::methods::{
    ChannelClose, ConnectionClose, ConnectionCloseOk, ConnectionUpdateSecret,
    ConnectionUpdateSecretOk,
};
use warren_protocol::{FrameKind, Method, ReplyCode, ShortStr, reply_text};

use super::channels::Slot;
use super::common::Turn;
use super::fault::Fault;
use super::{Phase, Session, handshake, lookup};
use crate::definitions::Store;
use crate::dispatch::control;
use crate::exception::Scope;
use crate::shard::input::Input;

impl Session {
    /// Says what went wrong and ends what it went wrong in.
    pub(super) fn fail(&mut self, channel: u16, fault: &Fault, turn: &mut Turn<'_, '_>) {
        match (fault.exception.scope, channel) {
            (Scope::Channel, 1..) => self.fail_channel(channel, fault, turn),
            (Scope::Channel, 0) | (Scope::Connection, _) => self.fail_connection(fault, turn),
        }
    }

    fn fail_channel(&mut self, number: u16, fault: &Fault, turn: &mut Turn<'_, '_>) {
        if let Some(channel) = self.channels.open_mut(number) {
            channel.release(&mut self.common, turn);
        }
        let text = reply_text(fault.exception.code, &fault.exception.text);
        let close = ChannelClose {
            reply_code: fault.exception.code.code(),
            reply_text: ShortStr::truncated(&text),
            class_id: fault.ids.0,
            method_id: fault.ids.1,
        };
        close.encode_frame(number, self.common.out());
        self.channels.set(number, Slot::Closing);
    }

    fn fail_connection(&mut self, fault: &Fault, turn: &mut Turn<'_, '_>) {
        if matches!(self.phase, Phase::Closing { .. } | Phase::Finished) {
            return;
        }
        self.release_all(turn);
        let text = reply_text(fault.exception.code, &fault.exception.text);
        let close = ConnectionClose {
            reply_code: fault.exception.code.code(),
            reply_text: ShortStr::truncated(&text),
            class_id: fault.ids.0,
            method_id: fault.ids.1,
        };
        close.encode_frame(0, self.common.out());
        let deadline = turn.now.plus_millis(self.common.options.close_timeout_ms);
        let deaf = false;
        self.phase = Phase::Closing { deadline, deaf };
    }

    /// The node ends the connection.
    pub(super) fn force_close(&mut self, text: &str, turn: &mut Turn<'_, '_>) {
        if let Phase::Handshake(handshake) = &self.phase
            && !handshake.may_be_told()
        {
            self.finish(turn);
            return;
        }
        self.fail_connection(&Fault::new(ReplyCode::ConnectionForced, text), turn);
    }

    /// The end, without another word.
    pub(super) fn finish(&mut self, turn: &mut Turn<'_, '_>) {
        self.release_all(turn);
        self.phase = Phase::Finished;
    }

    /// Gives back all that the session holds of the node's.
    fn release_all(&mut self, turn: &mut Turn<'_, '_>) {
        if self.released {
            return;
        }
        self.released = true;
        let common = &mut self.common;
        for number in std::mem::take(&mut common.unconfirmed) {
            if let Some(channel) = self.channels.open_mut(number) {
                channel.flush_confirms(common);
            }
        }
        common.settles.flush(turn.work);
        let mut shards: Vec<ShardId> = common.holders.iter().map(|h| h.shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let session = common.id;
        for shard in shards {
            turn.work.ask(shard, Input::SessionGone { session });
        }
        common.holders = super::holders::HolderTable::default();
        common.deliveries = std::collections::VecDeque::new();
        common.routing = None;
        for channel in self.channels.iter_mut() {
            channel.release(common, turn);
        }
        self.channels.clear();
        if common.login.is_some() {
            let token = common.token(0);
            control::end_session(turn.env.topology, session, token, turn.work);
        }
    }

    /// A frame on channel 0 of an open connection.
    pub(super) fn connection_frame(
        &mut self,
        frame: &Frame<'_>,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        if frame.kind != FrameKind::Method {
            let text = "expected method frame, got non method frame instead";
            return Err(Fault::new(ReplyCode::UnexpectedFrame, text));
        }
        let method = Method::parse(frame.payload)?;
        match &method {
            Method::ConnectionClose(_) => {
                let deadline = turn.now.plus_millis(self.common.options.close_timeout_ms);
                self.phase = Phase::Draining { deadline };
                self.common.publisher.flush(turn.work);
                self.drained(turn);
                Ok(())
            }
            Method::ConnectionCloseOk(_) => Ok(()),
            Method::ConnectionUpdateSecret(update) => self.update_secret(update, turn),
            other if other.ids().0 == 10 => {
                let text = "unexpected method in connection state running";
                Err(Fault::new(ReplyCode::ChannelError, text).of(other.ids()))
            }
            other => Err(lookup::unexpected(other).of(other.ids())),
        }
    }

    fn update_secret(
        &mut self,
        update: &ConnectionUpdateSecret<'_>,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        if !handshake::is_secret_right(update.new_secret.as_bytes(), &self.common, turn) {
            let text = "New secret was refused by one of the backends";
            return Err(Fault::new(ReplyCode::NotAllowed, text).of((10, 70)));
        }
        self.common.routing = None;
        ConnectionUpdateSecretOk.encode_frame(0, self.common.out());
        Ok(())
    }

    /// A frame behind our connection.close.
    pub(super) fn closing_frame(&mut self, frame: &Frame<'_>) {
        if frame.channel != 0 || frame.kind != FrameKind::Method {
            return;
        }
        match Method::parse(frame.payload) {
            Ok(Method::ConnectionClose(_)) => {
                ConnectionCloseOk.encode_frame(0, self.common.out());
                self.phase = Phase::Finished;
            }
            Ok(Method::ConnectionCloseOk(_)) => self.phase = Phase::Finished,
            _ => {}
        }
    }

    /// Answers the client's connection.close when nothing of it is under way any more.
    pub(super) fn drained(&mut self, turn: &mut Turn<'_, '_>) {
        if !matches!(self.phase, Phase::Draining { .. }) {
            return;
        }
        let busy = self.common.publisher.newest().is_some()
            || !self.common.orphans.is_empty()
            || self.channels.iter().any(|channel| channel.is_held());
        if busy {
            return;
        }
        self.release_all(turn);
        // Whoever is told that the connection is closed may have others look for its queues: on
        // nodes that share their rows. Those of this node alone are gone before anybody can ask.
        let mut owned = turn.env.topology.queues_owned_by(self.common.id);
        if owned.any(|queue| queue.store == Store::Replicated) {
            return;
        }
        ConnectionCloseOk.encode_frame(0, self.common.out());
        self.phase = Phase::Finished;
    }
}
