//! Direct reply-to: answers go from publisher to consumer without a queue, at most once.
//!
//! A reply consumer's address is `amq.rabbitmq.reply-to.` and 36 hexadecimal digits: session,
//! channel and a nonce. Whoever has it may answer through the default exchange as long as the
//! consumer lives.

use warren_protocol::methods::{BasicConsume, BasicConsumeOk};
use warren_protocol::{ReplyCode, ShortStr, ShortString};

use super::channel::Channel;
use super::common::{Common, Pending, short};
use super::deliver::write_delivery;
use super::fault::Fault;
use crate::dispatch::work::ReplyAddress;
use crate::ids::{MessageId, SessionId};
use crate::shard::effect::Delivered;

/// The pseudo-queue's name, and what a request's `reply_to` says.
pub(super) const NAME: &str = "amq.rabbitmq.reply-to";

/// What an address begins with.
pub const ADDRESS_PREFIX: &str = "amq.rabbitmq.reply-to.";

/// Replies that wait for room in the outbox are dropped beyond this.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The reply consumer of a channel.
#[derive(Debug)]
pub(super) struct ReplyConsumer {
    tag: ShortString,
    pub(super) nonce: u64,
}

impl ReplyConsumer {
    pub(super) fn has_tag(&self, tag: ShortStr<'_>) -> bool {
        self.tag.as_bytes() == tag.as_bytes()
    }
}

/// The address as clients see it.
#[must_use]
pub fn address_text(address: ReplyAddress) -> String {
    let ReplyAddress {
        session,
        channel,
        nonce,
    } = address;
    format!(
        "{ADDRESS_PREFIX}{:016x}{channel:04x}{nonce:016x}",
        session.0
    )
}

/// Reads an address; `None` for anything else.
#[must_use]
pub fn parse_address(name: &[u8]) -> Option<ReplyAddress> {
    let digits = name.strip_prefix(ADDRESS_PREFIX.as_bytes())?;
    let digits = std::str::from_utf8(digits).ok()?;
    if digits.len() != 36 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    Some(ReplyAddress {
        session: SessionId(u64::from_str_radix(&digits[..16], 16).ok()?),
        channel: u16::from_str_radix(&digits[16..20], 16).ok()?,
        nonce: u64::from_str_radix(&digits[20..], 16).ok()?,
    })
}

impl Channel {
    /// `basic.consume` on [`NAME`].
    pub(super) fn consume_replies(
        &mut self,
        consume: &BasicConsume<'_>,
        common: &mut Common,
    ) -> Result<(), Fault> {
        let refused = |text: &str| Fault::new(ReplyCode::PreconditionFailed, text);
        if self.reply.is_some() {
            return Err(refused("reply consumer already set"));
        }
        if !consume.no_ack {
            return Err(refused("reply consumer cannot acknowledge"));
        }
        self.check_tag_is_free(consume.consumer_tag, common)?;
        let tag = if consume.consumer_tag.is_empty() {
            short(common.random.name("amq.ctag-").as_bytes())
        } else {
            consume.consumer_tag.to_short_string()
        };
        if !consume.nowait {
            let consumer_tag = tag.as_short_str();
            BasicConsumeOk { consumer_tag }.encode_frame(self.number, common.out());
        }
        let nonce = common.random.draw();
        self.reply = Some(Box::new(ReplyConsumer { tag, nonce }));
        common.replies_changed = true;
        Ok(())
    }

    /// Where replies to requests of this channel go.
    pub(super) fn reply_address(&self, common: &Common) -> Result<ReplyAddress, Fault> {
        let Some(reply) = &self.reply else {
            return Err(Fault::new(
                ReplyCode::PreconditionFailed,
                "fast reply consumer does not exist",
            ));
        };
        Ok(ReplyAddress {
            session: common.id,
            channel: self.number,
            nonce: reply.nonce,
        })
    }

    /// Writes a reply, if its consumer is still the same.
    pub(super) fn write_reply(
        &mut self,
        address: ReplyAddress,
        message: bytes::Bytes,
        common: &mut Common,
    ) {
        if self.reply.as_ref().is_none_or(|r| r.nonce != address.nonce) {
            return;
        }
        let tag = self.tag();
        let Some(reply) = &self.reply else { return };
        let delivered = Delivered {
            id: MessageId(0),
            redelivered: false,
            delivery_count: 0,
            message,
        };
        let consumer_tag = reply.tag.as_bytes();
        let frame_max = common.frame_max;
        write_delivery(
            &mut common.outbox,
            frame_max,
            self.number,
            tag,
            consumer_tag,
            &delivered,
        );
    }
}

impl Common {
    /// Takes a reply for one of the channels, unless too much waits already.
    pub(super) fn take_reply(&mut self, address: ReplyAddress, message: bytes::Bytes) {
        if self.reply_bytes + message.len() > WAITING_BYTES_MAX {
            return;
        }
        self.reply_bytes += message.len();
        self.deliveries
            .push_back(Pending::Reply { address, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_and_nothing_else_is_one() {
        let address = ReplyAddress {
            session: SessionId(u64::MAX - 3),
            channel: 2047,
            nonce: 99,
        };
        let text = address_text(address);
        assert_eq!(parse_address(text.as_bytes()), Some(address));
        assert_eq!(parse_address(&text.as_bytes()[..57]), None);
        assert_eq!(parse_address(b"amq.rabbitmq.reply-to"), None);
        let signs = format!("{ADDRESS_PREFIX}{}", "+".repeat(36));
        assert_eq!(parse_address(signs.as_bytes()), None);
    }
}
