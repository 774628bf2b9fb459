//! What kind of cluster a seed makes, and how often which fault strikes.

use std::sync::Arc;

use warren_broker_core::session::SessionOptions;
use warren_cluster_core::lane;

use crate::client::QueueSpec;
use crate::rng::Rng;
use crate::temper::{any, lane_options, session_options};

/// How often what happens, in 100,000 steps each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Faults {
    /// A machine loses power; a process is killed, stopped in order, or does not run for a while.
    pub(super) crash: u64,
    pub(super) kill: u64,
    pub(super) stop: u64,
    pub(super) pause: u64,
    /// A client's connection breaks.
    pub(super) cut: u64,
    /// Nothing passes from one node to another one, in either direction, or to and from one.
    pub(super) one_way: u64,
    pub(super) both_ways: u64,
    pub(super) isolate: u64,
    /// A node and the leader of the definitions alone.
    pub(super) deaf: u64,
    /// A way gets slow; the weather changes.
    pub(super) slow: u64,
    pub(super) weather: u64,
    /// A disk hangs, is said to be short of room, is full.
    pub(super) stall: u64,
    pub(super) short: u64,
    pub(super) full: u64,
    pub(super) alarm: u64,
    /// A node's clock on the wall is set, far off the others'.
    pub(super) clock: u64,
    /// A lead is handed over.
    pub(super) transfer: u64,
    /// Those that have failed as the rules tell: a leader that lags behind with definitions, one
    /// that is cut off from its peers and not from its clients.
    pub(super) lag: u64,
    pub(super) cut_off: u64,
    /// A node joins; one is drained, and resumed or removed; one loses its disk.
    pub(super) join: u64,
    pub(super) drain: u64,
    pub(super) lose: u64,
    /// Nodes come back, ways open.
    pub(super) repair: u64,
}

/// A run's settings.
#[derive(Clone, Debug)]
pub(super) struct Temper {
    pub(super) nodes: u64,
    pub(super) lane: lane::Options,
    pub(super) session: Arc<SessionOptions>,
    pub(super) queues: Vec<QueueSpec>,
    pub(super) publishers: u64,
    pub(super) consumers: u64,
    pub(super) getters: u64,
    pub(super) churners: u32,
    pub(super) fleeting: u32,
    pub(super) callers: u32,
    /// Milliseconds that clocks on walls may be apart, and parts in a million that clocks may run
    /// too fast.
    pub(super) skew_millis: u64,
    pub(super) drift_ppm: u64,
    pub(super) faults: Faults,
}

impl Faults {
    fn draw(rng: &mut Rng) -> Self {
        let mut often = |most: u64| match rng.below(4) {
            0 => 0,
            1 => most,
            _ => most / 4,
        };
        Self {
            crash: often(150),
            kill: often(100),
            stop: often(50),
            pause: often(100),
            cut: often(500),
            one_way: often(100),
            both_ways: often(100),
            isolate: often(100),
            deaf: often(500),
            slow: often(200),
            weather: often(200),
            stall: often(200),
            short: often(50),
            full: often(50),
            alarm: often(100),
            clock: often(100),
            transfer: often(500),
            lag: often(100),
            cut_off: often(100),
            join: often(60),
            drain: often(60),
            lose: often(40),
            repair: 1000,
        }
    }
}

impl Temper {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        // Many are declared throughout the run.
        let queues = if rng.permille(250) {
            24
        } else {
            rng.between(2, 6) as u32
        };
        Self {
            nodes: any(rng, &[3, 3, 3, 3, 4, 5, 5, 6, 7]),
            lane: lane::Options {
                shards: rng.between(1, 3) as u32,
                ..lane_options(rng)
            },
            session: Arc::new(session_options(rng)),
            queues: (0..queues)
                .map(|number| QueueSpec {
                    number,
                    durable: true,
                })
                .collect(),
            publishers: rng.between(1, 4),
            consumers: rng.between(2, 6),
            getters: rng.below(2),
            churners: rng.below(3) as u32,
            fleeting: rng.below(3) as u32,
            callers: any(rng, &[0, 0, 2, 4]),
            skew_millis: any(rng, &[0, 100, 400]),
            drift_ppm: any(rng, &[0, 100, 10_000]),
            faults: Faults::draw(rng),
        }
    }
}
