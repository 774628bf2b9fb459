//! What kind of world a seed makes: sizes that are small enough for everything to happen often,
//! and how often which fault strikes.

use std::sync::Arc;

use warren_broker_core::session::SessionOptions;
use warren_broker_core::shard::input::Window;
use warren_cluster_core::ids::{Life, NodeId};
use warren_cluster_core::lane;

use crate::client::QueueSpec;
use crate::node;
use crate::rng::Rng;

/// How often what happens, in 100,000 steps each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faults {
    /// The power goes.
    pub crash: u64,
    /// The process is killed.
    pub kill: u64,
    /// The node is stopped in order.
    pub stop: u64,
    /// A connection breaks.
    pub cut: u64,
    /// The disk hangs.
    pub stall: u64,
    /// An alarm is raised.
    pub alarm: u64,
    /// The disk is short of room.
    pub short: u64,
    /// The clock jumps ahead.
    pub jump: u64,
}

impl Faults {
    fn draw(rng: &mut Rng) -> Self {
        let mut often = |most: u64| match rng.below(4) {
            0 => 0,
            1 => most,
            _ => most / 5,
        };
        Self {
            crash: often(150),
            kill: often(100),
            stop: often(50),
            cut: often(500),
            stall: often(200),
            alarm: often(100),
            short: often(50),
            jump: often(1000),
        }
    }
}

/// A run's settings.
#[derive(Clone, Debug)]
pub struct Temper {
    pub node: node::Options,
    pub queues: Vec<QueueSpec>,
    pub publishers: u64,
    pub consumers: u64,
    pub churners: u32,
    pub fleeting: u32,
    pub faults: Faults,
}

impl Temper {
    /// Draws them.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let durable = rng.between(1, 4) as u32;
        let transient = rng.below(3) as u32;
        let queue = |number| QueueSpec {
            number,
            durable: number < durable,
        };
        Self {
            node: node::Options {
                lane: lane_options(rng),
                session: Arc::new(session_options(rng)),
                founds: true,
                replica: None,
            },
            queues: (0..durable + transient).map(queue).collect(),
            publishers: rng.between(1, 4),
            consumers: rng.between(1, 6),
            churners: rng.below(3) as u32,
            fleeting: rng.below(3) as u32,
            faults: Faults::draw(rng),
        }
    }
}

pub(crate) fn any<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len() as u64) as usize]
}

pub(crate) fn lane_options(rng: &mut Rng) -> lane::Options {
    lane::Options {
        seed: rng.draw(),
        segment_bytes: any(rng, &[32 << 10, 64 << 10, 256 << 10]),
        young_bytes: any(rng, &[8 << 10, 64 << 10, 1 << 20]),
        read_cache_bytes: any(rng, &[16 << 10, 256 << 10]),
        resend_after_millis: any(rng, &[20, 100, 1000]),
        checkpoint_bytes_min: any(rng, &[4 << 10, 32 << 10, 256 << 10]),
        last_checkpoint_bytes_min: any(rng, &[1, 1 << 20]),
        checkpoint_step_bytes: any(rng, &[1, 4 << 10, 256 << 10]),
        ..lane::Options::new(NodeId(7), Life(1), rng.between(1, 4) as u32)
    }
}

pub(crate) fn session_options(rng: &mut Rng) -> SessionOptions {
    SessionOptions {
        in_flight_bytes_max: any(rng, &[8 << 10, 1 << 20]),
        outbox_bytes: any(rng, &[4 << 10, 256 << 10]),
        window: Window {
            messages: any(rng, &[1, 10, 2048]),
            bytes: any(rng, &[1 << 10, 256 << 10]),
        },
        ..SessionOptions::default()
    }
}
