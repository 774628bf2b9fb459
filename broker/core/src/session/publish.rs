//! Publishes: checked, routed, and written once, from where they were read into their batch.
//!
//! Invariants:
//! - a publish whose frames lie together in the input costs no copy but the one into its batch;
//! - nothing of a publish takes effect before all of it has come and all checks have passed;
//! - `basic.return` comes before the publish's confirm.

use bytes::BytesMut;
use warren_protocol::frame::Frame;
use warren_protocol::hot::{self, Return};
use warren_protocol::methods::BasicPublish;
use warren_protocol::{
    ContentHeader, FrameKind, Properties, Property, ReplyCode, ShortStr, ShortString, content,
    frame,
};

use super::channel::{Channel, Handled, Mode};
use super::common::{Common, Turn};
use super::direct_reply::{self, ADDRESS_PREFIX};
use super::expiration::{self, check_expiration};
use super::fault::Fault;
use super::routing::Routing;
use crate::dispatch::publish::ConfirmRun;
use crate::dispatch::work::{DirectReply, Item};
use crate::message::Parts;
use crate::shard::command::encode_enqueue;

/// Class and method id of basic.publish.
pub(super) const PUBLISH: (u16, u16) = (60, 40);

/// Room for a body is taken in steps, whatever its header announces.
const BODY_STEP_BYTES: usize = 64 * 1024;

/// What basic.publish says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Publish<'a> {
    pub(super) exchange: &'a [u8],
    pub(super) routing_key: &'a [u8],
    pub(super) mandatory: bool,
    pub(super) immediate: bool,
}

/// A publish of which some frames have not come.
#[derive(Debug)]
pub(super) struct Content {
    exchange: ShortString,
    routing_key: ShortString,
    mandatory: bool,
    immediate: bool,
    /// `None` until the header has come.
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    properties: Vec<u8>,
    bytes: BytesMut,
    size: usize,
}

impl Content {
    /// Bytes that it keeps.
    pub(super) fn bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.bytes.len())
    }

    /// Bytes of body that are still to come; `None` before the header.
    pub(super) fn bytes_missing(&self) -> Option<usize> {
        let body = self.body.as_ref()?;
        Some(body.size - body.bytes.len())
    }
}

impl Channel {
    /// Handles basic.publish; `rest` is the input behind its frame. Gives the bytes of `rest` that
    /// belong to it and are done with, none if it has to wait.
    #[inline]
    pub(super) fn publish_frame(
        &mut self,
        publish: &BasicPublish<'_>,
        rest: &[u8],
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(usize, Handled), Fault> {
        let names_queues = publish.exchange.is_empty();
        if names_queues && self.must_catch_up(publish.routing_key.as_bytes(), common, turn) {
            return Ok((0, Handled::Later));
        }
        let Some(whole) = whole_content(self.number, rest, common.frame_max) else {
            self.content = Some(Box::new(Content {
                exchange: publish.exchange.to_short_string(),
                routing_key: publish.routing_key.to_short_string(),
                mandatory: publish.mandatory,
                immediate: publish.immediate,
                body: None,
            }));
            return Ok((0, Handled::Yes));
        };
        let properties = whole.properties;
        if names_queues
            && properties.has(Property::Headers)
            && self.extra_keys_must_catch_up(properties, common, turn)
        {
            return Ok((0, Handled::Later));
        }
        check_size(whole.body.len() as u64, common)?;
        let publish = Publish {
            exchange: publish.exchange.as_bytes(),
            routing_key: publish.routing_key.as_bytes(),
            mandatory: publish.mandatory,
            immediate: publish.immediate,
        };
        self.publish(&publish, whole.properties, whole.body, common, turn)?;
        Ok((whole.frame_bytes, Handled::Yes))
    }

    /// Whether the header of the publish that has begun names a queue that may be there and is not
    /// known here.
    pub(super) fn header_must_catch_up(
        &mut self,
        frame: &Frame<'_>,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> bool {
        let begun = self.content.as_ref();
        let names_queues = begun.is_some_and(|content| content.exchange.as_bytes().is_empty());
        if frame.kind != FrameKind::Header || !names_queues {
            return false;
        }
        let header = ContentHeader::parse(frame.payload);
        let properties = header.map_or(Properties::EMPTY, |header| header.properties);
        properties.has(Property::Headers) && self.extra_keys_must_catch_up(properties, common, turn)
    }

    /// Handles the header or a body frame of the publish that has begun.
    pub(super) fn content_frame(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        let Some(content) = self.content.as_deref_mut() else {
            return Err(unexpected(
                "expected method frame, got non method frame instead",
            ));
        };
        match (&mut content.body, kind) {
            (None, FrameKind::Header) => {
                let header = ContentHeader::parse(payload)?;
                if header.class_id != content::CLASS_BASIC {
                    let text = format!(
                        "expected content header for class 60, got one for class {} instead",
                        header.class_id
                    );
                    return Err(unexpected(text).of(PUBLISH));
                }
                if let Err(fault) = check_size(header.body_size, common) {
                    self.content = None;
                    return Err(fault);
                }
                content.body = Some(Body {
                    properties: header.properties.as_bytes().to_vec(),
                    bytes: BytesMut::new(),
                    size: header.body_size as usize,
                });
            }
            (None, _) => {
                return Err(unexpected(
                    "expected content header for class 60, got non content header frame instead",
                )
                .of(PUBLISH));
            }
            (Some(_), FrameKind::Body) => self.body_bytes(payload, common)?,
            (Some(_), _) => {
                return Err(unexpected(
                    "expected content body, got non content body frame instead",
                )
                .of(PUBLISH));
            }
        }
        self.publish_if_whole(common, turn)
    }

    /// Appends a piece of a body, which may be less than a frame.
    pub(super) fn body_bytes(&mut self, piece: &[u8], common: &mut Common) -> Result<(), Fault> {
        let Some(body) = self.content.as_mut().and_then(|c| c.body.as_mut()) else {
            return Ok(());
        };
        if body.bytes.len() + piece.len() > body.size {
            let text = format!("expected content body of {} bytes, got more", body.size);
            return Err(unexpected(text).of(PUBLISH));
        }
        common.flow.content_bytes += piece.len();
        if common.flow.content_bytes > common.options.content_bytes_max {
            return Err(Fault::new(
                ReplyCode::ResourceError,
                format!(
                    "unfinished messages of this connection exceed {} bytes",
                    common.options.content_bytes_max
                ),
            ));
        }
        if body.bytes.capacity() - body.bytes.len() < piece.len() {
            let step = body.bytes.len().max(BODY_STEP_BYTES).max(piece.len());
            body.bytes.reserve(step.min(body.size - body.bytes.len()));
        }
        body.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// Publishes when the last byte of the body is there.
    pub(super) fn publish_if_whole(
        &mut self,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        if self.content.as_ref().and_then(|c| c.bytes_missing()) != Some(0) {
            return Ok(());
        }
        let Some(content) = self.content.take() else {
            return Ok(());
        };
        let Some(body) = &content.body else {
            return Ok(());
        };
        common.flow.content_bytes -= body.bytes.len();
        let publish = Publish {
            exchange: content.exchange.as_bytes(),
            routing_key: content.routing_key.as_bytes(),
            mandatory: content.mandatory,
            immediate: content.immediate,
        };
        let properties = Properties::from_raw(&body.properties);
        self.publish(&publish, properties, &body.bytes, common, turn)
    }

    /// Publishes a whole message, or keeps it for the commit.
    #[inline]
    fn publish(
        &mut self,
        publish: &Publish<'_>,
        properties: Properties<'_>,
        body: &[u8],
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        if publish.immediate {
            let fault = Fault::new(ReplyCode::NotImplemented, "immediate=true");
            return Err(fault.of(PUBLISH));
        }
        if common.flow.alarm.is_some() {
            common.block();
        }
        self.publish_checked(publish, properties, body, common, turn)
            .map_err(|fault| fault.of(PUBLISH))
    }

    fn publish_checked(
        &mut self,
        publish: &Publish<'_>,
        properties: Properties<'_>,
        body: &[u8],
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        let vhost = turn.vhost(common, publish.exchange)?;
        let mut routing = common.take_routing();
        let allowed = routing.check(turn, vhost, publish);
        common.routing = Some(routing);
        allowed?;
        properties
            .validate()
            .map_err(warren_protocol::DecodeError::from)?;
        const LOOKED_AT: u16 =
            Property::ReplyTo.flag() | Property::Expiration.flag() | Property::UserId.flag();
        let rewritten;
        let mut properties = properties;
        if properties.flags() & LOOKED_AT != 0 {
            check_user(properties, common)?;
            check_expiration(properties)?;
            if properties
                .reply_to()
                .is_some_and(|to| to == direct_reply::NAME)
            {
                let address = direct_reply::address_text(self.reply_address(common)?);
                let reply_to = ShortStr::truncated(&address);
                rewritten = properties.edit().reply_to(reply_to).finish();
                properties = Properties::from_raw(&rewritten);
            }
        }
        if let Mode::Transaction(transaction) = &mut self.mode {
            vhost.exchange_to_publish(publish.exchange)?;
            let parts = Parts {
                exchange: publish.exchange,
                routing_key: publish.routing_key,
                properties: properties.as_bytes(),
                body,
            };
            return transaction.publish(&parts, publish.mandatory, common);
        }
        self.route_and_store(publish, properties, body, common, turn)
    }

    /// Routes a checked message and hands it to its destinations' batches.
    pub(super) fn route_and_store(
        &mut self,
        publish: &Publish<'_>,
        properties: Properties<'_>,
        body: &[u8],
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> Result<(), Fault> {
        let seq = match &mut self.mode {
            Mode::Plain => None,
            Mode::Confirm(confirms) => Some(confirms.issue()),
            Mode::Transaction(transaction) => {
                transaction.next += 1;
                Some(transaction.next)
            }
        };
        if publish.exchange.is_empty() && publish.routing_key.starts_with(ADDRESS_PREFIX.as_bytes())
        {
            self.publish_reply(publish, properties, body, common, turn);
            self.confirm_at_once(seq, common);
            return Ok(());
        }
        let vhost = turn.vhost(common, publish.exchange)?;
        let mut routing = common.take_routing();
        let routed = routing.route(vhost, publish, properties);
        match routed {
            Ok(()) if routing.is_unroutable() => {
                if publish.mandatory {
                    write_return(common, self.number, publish, properties, body);
                }
                self.confirm_at_once(seq, common);
            }
            Ok(()) => self.store(publish, properties, body, seq, &mut routing, common, turn),
            Err(_) => {}
        }
        common.routing = Some(routing);
        routed
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one publish")]
    fn store(
        &mut self,
        publish: &Publish<'_>,
        properties: Properties<'_>,
        body: &[u8],
        seq: Option<u64>,
        routing: &mut Routing,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) {
        let rewritten = routing.delivered_properties(properties);
        let properties = rewritten.as_deref().unwrap_or(properties.as_bytes());
        let parts = Parts {
            exchange: publish.exchange,
            routing_key: publish.routing_key,
            properties,
            body,
        };
        // Checked when it came, and not rewritten since.
        let ttl = expiration::ttl(Properties::from_raw(properties));
        let batches = routing.shards();
        if batches > 1
            && let Mode::Confirm(confirms) = &mut self.mode
            && let Some(seq) = seq
        {
            confirms.spread(seq, batches);
        }
        let run = seq.map(|first| ConfirmRun {
            channel: self.number,
            incarnation: self.incarnation,
            first,
            count: 1,
            spread: batches > 1,
        });
        routing.each_shard(|shard, queues| {
            let number = common.publisher.push(shard, run, turn.work, |out| {
                encode_enqueue(out, queues, ttl, &parts);
            });
            self.batches_end = self.batches_end.max(number + 1);
        });
    }

    /// A publish that needs nobody's outcome is confirmed when the turn ends.
    fn confirm_at_once(&mut self, seq: Option<u64>, common: &mut Common) {
        if let (Mode::Confirm(confirms), Some(first)) = (&mut self.mode, seq) {
            let end = first + 1;
            confirms.settle(super::confirms::Range { first, end }, false);
            self.confirms_changed(common);
        }
    }

    fn publish_reply(
        &self,
        publish: &Publish<'_>,
        properties: Properties<'_>,
        body: &[u8],
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) {
        let address = direct_reply::parse_address(publish.routing_key);
        let alive = address.filter(|address| turn.env.replies.alive(*address));
        let Some(address) = alive else {
            if publish.mandatory {
                write_return(common, self.number, publish, properties, body);
            }
            return;
        };
        let parts = Parts {
            exchange: publish.exchange,
            routing_key: publish.routing_key,
            properties: properties.as_bytes(),
            body,
        };
        let mut message = BytesMut::with_capacity(parts.encoded_len());
        parts.encode(&mut message);
        let message = message.freeze();
        turn.work
            .items
            .push(Item::Reply(DirectReply { address, message }));
    }
}

/// A publish's content when all of it lies at the start of the input.
struct WholeContent<'a> {
    properties: Properties<'a>,
    body: &'a [u8],
    /// Bytes of all its frames.
    frame_bytes: usize,
}

/// The content at the start of `rest`, if it is there in at most one body frame and in good order.
/// Whatever is not is left to [`Channel::content_frame`].
#[inline]
fn whole_content(channel: u16, rest: &[u8], frame_max: u32) -> Option<WholeContent<'_>> {
    let (header_frame, header_bytes) = frame::parse(rest, frame_max).ok()??;
    if header_frame.kind != FrameKind::Header || header_frame.channel != channel {
        return None;
    }
    let header = ContentHeader::parse(header_frame.payload).ok()?;
    if header.class_id != content::CLASS_BASIC {
        return None;
    }
    let properties = header.properties;
    if header.body_size == 0 {
        return Some(WholeContent {
            properties,
            body: &[],
            frame_bytes: header_bytes,
        });
    }
    let (body_frame, body_bytes) = frame::parse(&rest[header_bytes..], frame_max).ok()??;
    let fits = body_frame.kind == FrameKind::Body
        && body_frame.channel == channel
        && body_frame.payload.len() as u64 == header.body_size;
    fits.then_some(WholeContent {
        properties,
        body: body_frame.payload,
        frame_bytes: header_bytes + body_bytes,
    })
}

#[inline]
fn check_size(size: u64, common: &Common) -> Result<(), Fault> {
    let limit = common.options.max_message_size;
    if size <= limit {
        return Ok(());
    }
    let text = if limit >= warren_protocol::limits::BODY_BYTES_MAX {
        format!("message size {size} is larger than max size {limit}")
    } else {
        format!("message size {size} is larger than configured max size {limit}")
    };
    Err(Fault::new(ReplyCode::PreconditionFailed, text).of(PUBLISH))
}

fn check_user(properties: Properties<'_>, common: &Common) -> Result<(), Fault> {
    let (Some(claimed), Some(login)) = (properties.user_id(), &common.login) else {
        return Ok(());
    };
    let user = &login.actor.user;
    if claimed == **user || login.impersonator {
        return Ok(());
    }
    let text = format!("user_id property set to '{claimed}' but authenticated user was '{user}'");
    Err(Fault::new(ReplyCode::PreconditionFailed, text))
}

/// Gives an unroutable message back.
fn write_return(
    common: &mut Common,
    channel: u16,
    publish: &Publish<'_>,
    properties: Properties<'_>,
    body: &[u8],
) {
    let returned = Return {
        reply_code: ReplyCode::NoRoute.code(),
        reply_text: ReplyCode::NoRoute.name().as_bytes(),
        exchange: publish.exchange,
        routing_key: publish.routing_key,
    };
    let frame_max = common.frame_max;
    let out = common.out();
    hot::encode_return(out, channel, &returned);
    content::encode(out, channel, properties, body, frame_max);
}

fn unexpected(text: impl Into<String>) -> Fault {
    Fault::new(ReplyCode::UnexpectedFrame, text)
}
