//! What a session is told once: limits and names. Each limit has its unit in its name or doc.

use core::net::IpAddr;
use std::sync::{Arc, OnceLock};

use warren_protocol::limits::{
    CHANNEL_MAX_DEFAULT, FRAME_MAX_BYTES_DEFAULT, HEARTBEAT_SECONDS_DEFAULT,
};

use crate::shard::input::Window;

/// The same for all sessions of a node.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Bytes of a whole frame that we offer at most.
    pub frame_max: u32,
    /// Channels open at once that we offer at most.
    pub channel_max: u16,
    /// Seconds that we propose; the client's choice rules. 0 is off.
    pub heartbeat: u16,
    /// For all of the handshake.
    pub handshake_timeout_ms: u64,
    /// How long a closing connection waits for the client (and for unfinished publishes).
    pub close_timeout_ms: u64,
    /// Bytes of one body.
    pub max_message_size: u64,
    /// 0 is no limit.
    pub consumer_max_per_channel: u32,
    /// Publishes without an outcome, beyond which nothing is read.
    pub in_flight_bytes_max: usize,
    /// Frames that wait for an operation of their channel, beyond which nothing is read.
    pub held_bytes_max: usize,
    /// Bodies of which only a part has come, over all channels of a connection.
    pub content_bytes_max: usize,
    /// Publishes and acknowledgements of transactions that are not committed, a connection.
    pub transaction_bytes_max: usize,
    /// Deliveries are encoded while less than this is unsent.
    pub outbox_bytes: usize,
    /// What a shard may hand to a consumer before the session says that it has written some.
    pub window: Window,
    /// Warren's own version.
    pub version: Arc<str>,
    pub cluster_name: Arc<str>,
    /// What `connection.start` says of this server, encoded by the first session.
    pub server_properties: OnceLock<Vec<u8>>,
    /// Users that can only connect from this machine.
    pub loopback_users: Vec<String>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            frame_max: FRAME_MAX_BYTES_DEFAULT,
            channel_max: CHANNEL_MAX_DEFAULT,
            heartbeat: HEARTBEAT_SECONDS_DEFAULT,
            handshake_timeout_ms: 10_000,
            close_timeout_ms: 10_000,
            max_message_size: 16 * 1024 * 1024,
            consumer_max_per_channel: 0,
            in_flight_bytes_max: 4 * 1024 * 1024,
            held_bytes_max: 1024 * 1024,
            content_bytes_max: 256 * 1024 * 1024,
            transaction_bytes_max: 256 * 1024 * 1024,
            outbox_bytes: 256 * 1024,
            window: Window {
                messages: 2048,
                bytes: 256 * 1024,
            },
            version: Arc::from(env!("CARGO_PKG_VERSION")),
            cluster_name: Arc::from("warren"),
            server_properties: OnceLock::new(),
            loopback_users: vec!["guest".to_owned()],
        }
    }
}

/// Who is at the other end of the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    pub address: IpAddr,
    pub port: u16,
    pub tls: bool,
}

impl Peer {
    /// Whether users that are bound to loopback may log in.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => address.is_loopback(),
            IpAddr::V6(address) => {
                address.is_loopback()
                    || address
                        .to_ipv4_mapped()
                        .is_some_and(|address| address.is_loopback())
            }
        }
    }
}
