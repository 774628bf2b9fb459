//! What the HTTP API and the metrics show of a session.

use std::sync::Arc;

use warren_protocol::FieldTable;

use super::channel::{Channel, Mode};
use super::options::Peer;
use super::{Phase, Session};
use crate::ids::QueueId;

/// How far a connection is, in RabbitMQ's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Starting,
    Running,
    /// It published during an alarm, or while the definitions were not fresh, and is not read.
    Blocked,
    /// An alarm is on; it has not published since.
    Blocking,
    /// Its publishes wait for their outcomes.
    Flow,
    Closing,
    Closed,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub peer: Peer,
    pub state: State,
    /// Empty until the connection is open.
    pub user: Arc<str>,
    pub vhost: Arc<str>,
    pub mechanism: &'static str,
    pub client_properties: Arc<FieldTable>,
    pub frame_max: u32,
    pub channel_max: u16,
    /// Seconds; 0 is off.
    pub heartbeat: u64,
    pub channels: Vec<ChannelInfo>,
}

/// An open channel.
#[derive(Clone, Debug)]
pub struct ChannelInfo {
    pub number: u16,
    pub confirm: bool,
    pub transactional: bool,
    pub prefetch_count: u16,
    pub global_prefetch_count: u16,
    pub messages_unacknowledged: usize,
    pub messages_unconfirmed: u64,
    pub acks_uncommitted: usize,
    pub consumers: Vec<ConsumerInfo>,
}

/// A consumer.
#[derive(Clone, Debug)]
pub struct ConsumerInfo {
    pub tag: Vec<u8>,
    pub queue: QueueId,
    pub auto_ack: bool,
    pub exclusive: bool,
    pub priority: i32,
    pub prefetch_count: u32,
    pub messages_unacknowledged: u32,
}

impl Session {
    /// A picture of the session as it is now.
    #[must_use]
    pub fn info(&self) -> SessionInfo {
        let common = &self.common;
        let login = common.login.as_deref();
        SessionInfo {
            peer: common.peer,
            state: self.state(),
            user: login.map_or_else(|| Arc::from(""), |l| l.actor.user.clone()),
            vhost: login.map_or_else(|| Arc::from(""), |l| l.actor.vhost.clone()),
            mechanism: login.map_or("", |l| l.mechanism),
            client_properties: login
                .map(|l| Arc::clone(&l.client_properties))
                .unwrap_or_default(),
            frame_max: common.frame_max,
            channel_max: common.channel_max,
            heartbeat: self.heartbeat.seconds(),
            channels: self.channels.iter().map(|c| self.channel(c)).collect(),
        }
    }

    fn state(&self) -> State {
        let flow = &self.common.flow;
        match &self.phase {
            Phase::Handshake(_) => State::Starting,
            Phase::Open if self.common.is_held_up() => State::Blocked,
            Phase::Open if flow.alarm.is_some() => State::Blocking,
            Phase::Open if self.is_stalled() => State::Flow,
            Phase::Open => State::Running,
            Phase::Draining { .. } | Phase::Closing { .. } => State::Closing,
            Phase::Finished => State::Closed,
        }
    }

    fn channel(&self, channel: &Channel) -> ChannelInfo {
        let (unconfirmed, uncommitted) = match &channel.mode {
            Mode::Plain => (0, 0),
            Mode::Confirm(confirms) => (confirms.unconfirmed(), 0),
            Mode::Transaction(transaction) => (0, transaction.settles()),
        };
        ChannelInfo {
            number: channel.number,
            confirm: matches!(channel.mode, Mode::Confirm(_)),
            transactional: matches!(channel.mode, Mode::Transaction(_)),
            prefetch_count: channel.prefetch,
            global_prefetch_count: channel.global_prefetch,
            messages_unacknowledged: channel.unacked.len(),
            messages_unconfirmed: unconfirmed,
            acks_uncommitted: uncommitted,
            consumers: self.consumers(channel),
        }
    }

    fn consumers(&self, channel: &Channel) -> Vec<ConsumerInfo> {
        let holders = &self.common.holders;
        let holdings = channel.consumers.iter().filter_map(|n| holders.get(*n));
        holdings
            .map(|holding| ConsumerInfo {
                tag: holding.tag.as_bytes().to_vec(),
                queue: holding.queue,
                auto_ack: holding.auto_ack,
                exclusive: holding.exclusive,
                priority: holding.priority,
                prefetch_count: holding.prefetch,
                messages_unacknowledged: holding.outstanding,
            })
            .collect()
    }
}
