//! What the channels of a connection share, and what a turn may use.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::IntoIter;

use bytes::BytesMut;
use warren_cluster_core::ids::{Instant, ShardId};
use warren_protocol::{FieldTable, ShortString};

use super::flow::Flow;
use super::holders::HolderTable;
use super::options::{Peer, SessionOptions};
use super::outbox::Outbox;
use super::random::Random;
use crate::auth::LoginError;
use crate::dispatch::control::{Control, Home};
use crate::dispatch::operation::Actor;
use crate::dispatch::publish::Publisher;
use crate::dispatch::settle::SettleRuns;
use crate::dispatch::work::{ReplyAddress, Work};
use crate::ids::{Holder, QueueId, SessionId, Token};
use crate::shard::effect::Delivered;
use crate::shard::input::Input;
use crate::topology::{Topology, Vhost};

/// What a session is shown of the node in each call.
pub struct Env<'a> {
    pub topology: &'a Topology,
    pub replies: &'a dyn ReplyDirectory,
    /// Queue shards of the cluster.
    pub shards: u32,
    /// This node and this start of it.
    pub home: Home,
    /// Until when messages may be routed by this topology: then they wait (rule 10).
    pub fresh_until: Instant,
}

/// Who waits at direct reply-to addresses.
pub trait ReplyDirectory {
    /// Whether a reply consumer stands behind the address now.
    fn alive(&self, address: ReplyAddress) -> bool;
}

/// What one call may use.
pub(super) struct Turn<'a, 'e> {
    pub(super) now: Instant,
    pub(super) env: &'a Env<'e>,
    pub(super) work: &'a mut Work,
    /// The session's, once it was asked for.
    pub(super) vhost: Option<&'a Vhost>,
}

impl<'a, 'e> Turn<'a, 'e> {
    /// Whether nothing may be routed by the definitions as this node knows them.
    #[inline]
    pub(super) fn is_stale(&self) -> bool {
        self.now >= self.env.fresh_until
    }

    pub(super) fn new(now: Instant, env: &'a Env<'e>, work: &'a mut Work) -> Self {
        Self {
            now,
            env,
            work,
            vhost: None,
        }
    }
}

/// What the client has told us of itself and agreed to.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) actor: Actor,
    pub(super) mechanism: &'static str,
    pub(super) client_properties: Arc<FieldTable>,
    pub(super) impersonator: bool,
}

/// Something on its way to the client that has to keep its place among the deliveries.
#[derive(Debug)]
pub(super) enum Pending {
    Messages {
        number: u32,
        messages: IntoIter<Delivered>,
    },
    /// The answer to `basic.cancel`, behind the last delivery.
    CancelOk { channel: u16, number: u32 },
    /// The queue is gone from under a consumer.
    Cancelled { number: u32 },
    Reply {
        address: ReplyAddress,
        message: bytes::Bytes,
    },
}

/// The state of a connection that is not one channel's.
pub(super) struct Common {
    pub(super) id: SessionId,
    pub(super) options: Arc<SessionOptions>,
    pub(super) peer: Peer,
    /// `None` until connection.open.
    pub(super) login: Option<Box<Login>>,
    pub(super) login_error: Option<LoginError>,
    pub(super) frame_max: u32,
    pub(super) channel_max: u16,
    pub(super) cancel_notify: bool,
    pub(super) flow: Flow,
    pub(super) outbox: Outbox,
    pub(super) publisher: Publisher,
    pub(super) settles: SettleRuns,
    pub(super) holders: HolderTable,
    pub(super) deliveries: VecDeque<Pending>,
    /// Bytes of [`Pending::Reply`]: the only ones that no window bounds.
    pub(super) reply_bytes: usize,
    /// Channels with confirms to tell.
    pub(super) unconfirmed: Vec<u16>,
    /// Channels that wait for their publishes.
    pub(super) awaiting: Vec<u16>,
    /// Channels that have asked another node in this turn.
    pub(super) catching_up: Vec<u16>,
    /// Operations whose channel is gone; they go on to their end.
    pub(super) orphans: Vec<(Token, Box<Control>)>,
    pub(super) random: Random,
    pub(super) routing: Option<Box<super::routing::Routing>>,
    /// A reply consumer came or went since the driver last asked.
    pub(super) replies_changed: bool,
    next_token: u64,
    next_incarnation: u32,
}

impl Common {
    pub(super) fn new(options: Arc<SessionOptions>, id: SessionId, peer: Peer, seed: u64) -> Self {
        Self {
            id,
            peer,
            login: None,
            login_error: None,
            frame_max: warren_protocol::limits::FRAME_MAX_BYTES_BEFORE_TUNE,
            channel_max: options.channel_max,
            cancel_notify: false,
            flow: Flow::default(),
            outbox: Outbox::default(),
            publisher: Publisher::default(),
            settles: SettleRuns::default(),
            holders: HolderTable::default(),
            deliveries: VecDeque::new(),
            reply_bytes: 0,
            unconfirmed: Vec::new(),
            awaiting: Vec::new(),
            catching_up: Vec::new(),
            orphans: Vec::new(),
            random: Random::new(seed),
            routing: None,
            replies_changed: false,
            next_token: 0,
            next_incarnation: 0,
            options,
        }
    }

    /// A number for a question of this channel; the answer finds the channel by it.
    pub(super) fn token(&mut self, channel: u16) -> Token {
        self.next_token += 1;
        Token(self.next_token << 16 | u64::from(channel))
    }

    /// Tells a channel from a later one of the same number.
    pub(super) fn incarnation(&mut self) -> u32 {
        self.next_incarnation = self.next_incarnation.wrapping_add(1);
        self.next_incarnation
    }

    /// Asks a shard's leader; what was settled before goes first.
    pub(super) fn ask(&mut self, shard: ShardId, input: Input, work: &mut Work) {
        self.settles.flush(work);
        work.ask(shard, input);
    }

    /// The vhost that the client opened; empty before.
    #[inline]
    pub(super) fn vhost_name(&self) -> &str {
        let login = self.login.as_deref();
        login.map_or("", |login| &login.actor.vhost)
    }

    /// A holder of this session.
    pub(super) fn holder(&self, number: u32) -> Holder {
        Holder {
            session: self.id,
            number,
        }
    }

    /// Tells the shard that a holder is gone with all that it held.
    pub(super) fn gone(&mut self, shard: ShardId, queue: QueueId, number: u32, work: &mut Work) {
        let holder = self.holder(number);
        self.ask(shard, Input::Gone { queue, holder }, work);
    }

    /// Where method frames are written.
    #[inline]
    pub(super) fn out(&mut self) -> &mut BytesMut {
        self.outbox.tail()
    }
}

/// The channel that asked with this token.
pub(super) fn channel_of(token: Token) -> u16 {
    (token.0 & 0xffff) as u16
}

/// A short string out of bytes that came as one.
pub(super) fn short(bytes: &[u8]) -> ShortString {
    ShortString::try_from(&bytes[..bytes.len().min(255)]).unwrap_or_default()
}
