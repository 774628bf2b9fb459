//! From bytes to frames to channels.
//!
//! Invariants:
//! - frames of one channel are handled in their order, also when some of them were held;
//! - a body that comes in pieces is taken piece by piece, so that the driver's buffer stays small.

use warren_protocol::frame::{self, Frame};
use warren_protocol::hot::{self, Hot};
use warren_protocol::limits::{FRAME_END, FRAME_HEAD_BYTES};
use warren_protocol::methods::{ChannelCloseOk, ChannelOpenOk};
use warren_protocol::{DecodeError, FrameKind, FrameSnippet, Method, ReplyCode};

use super::catch_up::named_queue;
use super::channel::{Channel, Handled, Wait};
use super::channels::Slot;
use super::common::{Common, Turn};
use super::fault::Fault;
use super::flow::routes;
use super::{Phase, Session};
use crate::shard::input::Verdict;

/// A body frame is taken in part when this much of it is there.
const CUT_BODY_BYTES: usize = 2048;

/// Unsent bytes beyond which nothing more is read: deliveries stop long before.
const OUTBOX_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A body frame whose first part is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct CutBody {
    channel: u16,
    bytes_left: usize,
}

impl Session {
    /// Whether something has to end before more is read.
    #[inline]
    pub(super) fn is_stalled(&self) -> bool {
        let common = &self.common;
        common.is_held_up()
            || common.publisher.bytes_in_flight() >= common.options.in_flight_bytes_max
            || common.flow.held_bytes >= common.options.held_bytes_max
            || common.outbox.len() >= OUTBOX_BYTES_MAX
    }

    /// Handles what is whole in the input; gives how much that was.
    pub(super) fn take_frames(&mut self, input: &[u8], turn: &mut Turn<'_, '_>) -> usize {
        let mut at = 0;
        if let Phase::Handshake(handshake) = &self.phase
            && handshake.wants_preamble()
        {
            at = self.preamble(input);
        }
        loop {
            match &self.phase {
                Phase::Handshake(handshake) if handshake.wants_preamble() => return at,
                Phase::Handshake(_) => {}
                Phase::Open if self.is_stalled() => return at,
                Phase::Open => {}
                Phase::Closing { deaf: true, .. } | Phase::Draining { .. } | Phase::Finished => {
                    return input.len();
                }
                Phase::Closing { .. } => {}
            }
            let rest = &input[at..];
            if rest.is_empty() {
                return at;
            }
            if self.cut_body.is_some() {
                if turn.is_stale() {
                    self.common.wait_for_definitions(turn);
                    return at;
                }
                at += self.continue_body(rest, turn);
                continue;
            }
            match frame::parse(rest, self.common.frame_max) {
                Ok(Some((frame, _))) if turn.is_stale() && routes(&frame) => {
                    self.common.wait_for_definitions(turn);
                    return at;
                }
                Ok(Some((frame, used))) => {
                    let (raw, behind) = rest.split_at(used);
                    at += used + self.handle_frame(&frame, raw, behind, turn);
                }
                Ok(None) => {
                    let cut = self.begin_cut_body(rest, turn);
                    if cut == 0 {
                        return at;
                    }
                    at += cut;
                }
                Err(error) => {
                    self.framing_lost(error, turn);
                    return input.len();
                }
            }
        }
    }

    /// Handles a frame and what goes wrong with it; gives the bytes of `behind` done with.
    fn handle_frame(
        &mut self,
        frame: &Frame<'_>,
        raw: &[u8],
        behind: &[u8],
        turn: &mut Turn<'_, '_>,
    ) -> usize {
        match self.frame(frame, raw, behind, turn) {
            Ok(used) => used,
            Err(fault) => {
                self.fail(frame.channel, &fault, turn);
                0
            }
        }
    }

    #[inline]
    fn frame(
        &mut self,
        frame: &Frame<'_>,
        raw: &[u8],
        behind: &[u8],
        turn: &mut Turn<'_, '_>,
    ) -> Result<usize, Fault> {
        match &self.phase {
            Phase::Open | Phase::Draining { .. } => {}
            Phase::Handshake(_) => return self.handshake_frame(frame, turn).map(|()| 0),
            Phase::Closing { .. } => {
                self.closing_frame(frame);
                return Ok(0);
            }
            Phase::Finished => return Ok(0),
        }
        if frame.kind == FrameKind::Heartbeat {
            return Ok(0);
        }
        if frame.channel == 0 {
            return self.connection_frame(frame, turn).map(|()| 0);
        }
        match self.channels.get_mut(frame.channel) {
            Some(Slot::Open(channel)) => {
                if channel.is_held() {
                    channel.hold(raw, &mut self.common);
                    return Ok(0);
                }
                let common = &mut self.common;
                let (used, handled) = channel_frame(channel, frame, behind, common, turn)?;
                match handled {
                    Handled::Yes => {}
                    Handled::Later => channel.hold(raw, common),
                    Handled::Closed => {
                        ChannelCloseOk.encode_frame(frame.channel, common.out());
                        self.channels.remove(frame.channel);
                    }
                }
                if let Some(channel) = self.channels.open_mut(frame.channel)
                    && matches!(
                        channel.wait.as_deref(),
                        Some(Wait::Publishes | Wait::Commit { .. })
                    )
                {
                    self.common.await_publishes(frame.channel);
                }
                Ok(used)
            }
            Some(Slot::Closing) => {
                self.closing_channel_frame(frame);
                Ok(0)
            }
            None => self.open_channel(frame).map(|()| 0),
        }
    }

    /// Anything but close and close-ok on a channel that we have closed is ignored.
    fn closing_channel_frame(&mut self, frame: &Frame<'_>) {
        if frame.kind != FrameKind::Method {
            return;
        }
        match Method::parse(frame.payload) {
            Ok(Method::ChannelClose(_)) => {
                ChannelCloseOk.encode_frame(frame.channel, self.common.out());
            }
            Ok(Method::ChannelCloseOk(_)) => self.channels.remove(frame.channel),
            _ => {}
        }
    }

    fn open_channel(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        let number = frame.channel;
        let opens = frame.kind == FrameKind::Method
            && matches!(Method::parse(frame.payload)?, Method::ChannelOpen(_));
        if !opens {
            let fault = Fault::new(ReplyCode::ChannelError, "expected 'channel.open'");
            let ids = Method::parse(frame.payload).map_or((0, 0), |method| method.ids());
            return Err(fault.of(ids));
        }
        let count = self.channels.len();
        let max = self.common.channel_max;
        if count >= usize::from(max) {
            let text = format!(
                "number of channels opened ({count}) has reached the negotiated channel_max ({max})"
            );
            return Err(Fault::new(ReplyCode::NotAllowed, text).of((20, 10)));
        }
        let incarnation = self.common.incarnation();
        let channel = Box::new(Channel::new(number, incarnation));
        self.channels.set(number, Slot::Open(channel));
        ChannelOpenOk.encode_frame(number, self.common.out());
        Ok(())
    }

    /// The channel waits no more: handles what was held, as far as it goes.
    pub(super) fn replay(&mut self, number: u16, turn: &mut Turn<'_, '_>) {
        let Some(channel) = self.channels.open_mut(number) else {
            return;
        };
        if channel.wait.is_some() || channel.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut channel.held);
        self.common.flow.held_bytes -= held.len();
        self.replay_frames(number, &held, turn);
    }

    /// Handles whole frames of one channel; what cannot be handled yet is held again.
    pub(super) fn replay_frames(&mut self, number: u16, held: &[u8], turn: &mut Turn<'_, '_>) {
        self.common.publisher.begin(held.len());
        let mut rest = held;
        while !rest.is_empty() {
            let Ok(Some((frame, used))) = frame::parse(rest, self.common.frame_max) else {
                return;
            };
            if turn.is_stale() && routes(&frame) {
                self.common.wait_for_definitions(turn);
            }
            let keep = self.common.is_held_up();
            if let Some(channel) = self.channels.open_mut(number)
                && (keep || channel.wait.is_some())
            {
                channel.hold(rest, &mut self.common);
                return;
            }
            let (raw, behind) = rest.split_at(used);
            let used = self.handle_frame(&frame, raw, behind, turn);
            rest = &behind[used..];
            if let Some(channel) = self.channels.open_mut(number) {
                channel.replayed(raw.len() + used);
            }
        }
    }

    /// The input cannot be divided into frames any more.
    fn framing_lost(&mut self, error: DecodeError, turn: &mut Turn<'_, '_>) {
        if !matches!(self.phase, Phase::Closing { .. }) {
            self.fail(0, &error.into(), turn);
        }
        if let Phase::Closing { deaf, .. } = &mut self.phase {
            *deaf = true;
        }
    }

    /// Takes the part of a body frame that is there, if it is worth it; gives how much that is.
    fn begin_cut_body(&mut self, rest: &[u8], turn: &mut Turn<'_, '_>) -> usize {
        let Some((head, part)) = rest.split_first_chunk::<FRAME_HEAD_BYTES>() else {
            return 0;
        };
        let [kind, c0, c1, size @ ..] = *head;
        let number = u16::from_be_bytes([c0, c1]);
        let size = u32::from_be_bytes(size) as usize;
        if kind != FrameKind::Body as u8 || part.len() < CUT_BODY_BYTES {
            return 0;
        }
        match self.channels.get_mut(number) {
            Some(Slot::Open(channel)) => {
                let missing = channel.content.as_ref().and_then(|c| c.bytes_missing());
                // What is out of order is left to the frame as a whole.
                if channel.is_held() || missing.is_none_or(|missing| missing < size) {
                    return 0;
                }
            }
            Some(Slot::Closing) => {}
            None if matches!(self.phase, Phase::Closing { .. }) => {}
            None => return 0,
        }
        let part = &part[..part.len().min(size)];
        self.cut_body = Some(CutBody {
            channel: number,
            bytes_left: size,
        });
        FRAME_HEAD_BYTES + self.continue_body(part, turn)
    }

    /// Takes more of a body frame whose first part is taken.
    fn continue_body(&mut self, rest: &[u8], turn: &mut Turn<'_, '_>) -> usize {
        let Some(cut) = &mut self.cut_body else {
            return 0;
        };
        let number = cut.channel;
        if cut.bytes_left == 0 {
            self.cut_body = None;
            return self.end_cut_body(number, rest, turn);
        }
        let piece = &rest[..rest.len().min(cut.bytes_left)];
        cut.bytes_left -= piece.len();
        if let Some(channel) = self.channels.open_mut(number)
            && let Err(fault) = channel.body_bytes(piece, &mut self.common)
        {
            self.fail(number, &fault, turn);
        }
        piece.len()
    }

    fn end_cut_body(&mut self, number: u16, rest: &[u8], turn: &mut Turn<'_, '_>) -> usize {
        let found = rest[0];
        if found != FRAME_END {
            let error = DecodeError::FrameEnd {
                kind: FrameKind::Body as u8,
                found,
                payload: FrameSnippet::new(&[]),
            };
            self.framing_lost(error, turn);
            return rest.len();
        }
        if let Some(channel) = self.channels.open_mut(number)
            && let Err(fault) = channel.publish_if_whole(&mut self.common, turn)
        {
            self.fail(number, &fault, turn);
        }
        1
    }
}

/// Handles a frame of an open channel that waits for nothing; gives the bytes behind it that belong
/// to it.
#[inline]
fn channel_frame(
    channel: &mut Channel,
    frame: &Frame<'_>,
    behind: &[u8],
    common: &mut Common,
    turn: &mut Turn<'_, '_>,
) -> Result<(usize, Handled), Fault> {
    if frame.kind != FrameKind::Method || channel.content.is_some() {
        if channel.header_must_catch_up(frame, common, turn) {
            return Ok((0, Handled::Later));
        }
        channel.content_frame(frame.kind, frame.payload, common, turn)?;
        return Ok((0, Handled::Yes));
    }
    let settled = |result: Result<(), Fault>, ids| {
        result
            .map(|()| (0, Handled::Yes))
            .map_err(|fault| fault.of(ids))
    };
    match hot::parse(frame.payload) {
        Some(Hot::Publish(publish)) => channel.publish_frame(&publish, behind, common, turn),
        Some(Hot::Ack(ack)) => {
            let verdict = Verdict::Ack;
            let result = channel.settle(ack.delivery_tag, ack.multiple, verdict, common, turn);
            settled(result, (60, 80))
        }
        Some(Hot::Nack(nack)) => {
            let verdict = if nack.requeue {
                Verdict::Requeue { failed: false }
            } else {
                Verdict::Reject
            };
            let result = channel.settle(nack.delivery_tag, nack.multiple, verdict, common, turn);
            settled(result, (60, 120))
        }
        Some(Hot::Reject(reject)) => {
            let verdict = if reject.requeue {
                Verdict::Requeue { failed: true }
            } else {
                Verdict::Reject
            };
            let result = channel.settle(reject.delivery_tag, false, verdict, common, turn);
            settled(result, (60, 90))
        }
        None => {
            let method = Method::parse(frame.payload)?;
            if let Some(queue) = named_queue(&method)
                && channel.must_catch_up(queue, common, turn)
            {
                return Ok((0, Handled::Later));
            }
            let handled = channel
                .method(&method, common, turn)
                .map_err(|fault| fault.of(method.ids()))?;
            Ok((0, handled))
        }
    }
}
