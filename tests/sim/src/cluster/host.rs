//! A machine that a node runs on: its disk, its clocks, and what it takes to start it again.

use warren_cluster_core::ids::{Instant, NodeId, Now, Time};
use warren_cluster_core::inbox::Input;
use warren_cluster_core::lane;
use warren_cluster_core::log::sim::SimDisk;

use super::steward::Steward;
use crate::node::{Node, Options};
use crate::trace::Trace;

/// Where the clock on the wall begins, in milliseconds since 1970.
const WALL_MILLIS: u64 = 1_700_000_000_000;
/// A million parts.
const MILLION: u64 = 1_000_000;

pub(super) struct Host {
    pub(super) id: NodeId,
    pub(super) options: Options,
    pub(super) disk: SimDisk,
    pub(super) node: Option<Node>,
    pub(super) life: u64,
    /// Milliseconds by which its clock on the wall is ahead.
    pub(super) skew_millis: u64,
    /// Where its other clock began, and how much too fast it runs.
    pub(super) offset_micros: u64,
    pub(super) drift_ppm: u64,
    pub(super) steward: Steward,
    pub(super) steward_at: u64,
    /// Faults that last, until when.
    pub(super) paused_until: u64,
    pub(super) stalled_until: u64,
    pub(super) short_until: u64,
    pub(super) full_until: u64,
    pub(super) alarm_until: u64,
    /// Until when its clock on the wall is off by so many milliseconds more.
    pub(super) wrong_until: u64,
    pub(super) wrong_millis: i64,
    /// It is to end in order, and does so in any case by then.
    pub(super) ends_by: Option<u64>,
    /// It is told how much room its disk has.
    pub(super) measured_at: u64,
    /// What is not in reach of it may have ruled it out, from then on, and until then.
    pub(super) away_since: Option<u64>,
    pub(super) doubtful_until: u64,
    /// Some of what its disk held is not what was written.
    pub(super) rotten: bool,
    /// It was removed, or what it held is lost: it never comes back.
    pub(super) gone: bool,
}

impl Host {
    pub(super) fn new(options: Options, disk: SimDisk) -> Self {
        Self {
            id: options.lane.node,
            options,
            disk,
            node: None,
            life: 0,
            skew_millis: 0,
            offset_micros: MILLION,
            drift_ppm: 0,
            steward: Steward::default(),
            steward_at: 0,
            paused_until: 0,
            stalled_until: 0,
            short_until: 0,
            full_until: 0,
            alarm_until: 0,
            wrong_until: 0,
            wrong_millis: 0,
            ends_by: None,
            measured_at: 0,
            away_since: None,
            doubtful_until: 0,
            rotten: false,
            gone: false,
        }
    }

    /// Its clocks, when so many microseconds of the run have passed.
    pub(super) fn now(&self, micros: u64) -> Now {
        let drift = micros / MILLION * self.drift_ppm;
        Now {
            mono: Instant(self.offset_micros + micros + drift),
            wall: Time(
                (wall(micros).0 + self.skew_millis).saturating_add_signed(self.wrong_millis),
            ),
        }
    }

    /// Starts the node on what its disk holds.
    pub(super) fn start(&mut self) -> Result<(), lane::Error> {
        self.life += 1;
        self.set_clock_right();
        self.steward = Steward::default();
        self.disk.set_bytes_limit(u64::MAX);
        self.disk.set_stalled(false);
        let node = Node::start(self.options.clone(), &mut self.disk, self.life)?;
        self.node = Some(node);
        Ok(())
    }

    pub(super) fn set_clock_right(&mut self) {
        (self.wrong_until, self.wrong_millis) = (0, 0);
    }

    /// Its process runs.
    pub(super) fn runs(&self, micros: u64) -> bool {
        self.node.is_some() && self.paused_until <= micros
    }

    /// A turn of the lane, if there is something to do.
    pub(super) fn turn(&mut self, micros: u64, trace: &mut Trace) -> Result<bool, lane::Error> {
        let now = self.now(micros);
        let Some(node) = &mut self.node else {
            return Ok(false);
        };
        if !node.wants_turn(now.mono) {
            return Ok(false);
        }
        node.step(now, &mut self.disk, trace)?;
        Ok(true)
    }

    /// Up to `most` answers of the disk.
    pub(super) fn disk_answers(&mut self, most: u64) -> bool {
        let mut any = false;
        for _ in 0..most {
            let Some(completion) = self.disk.complete_one() else {
                break;
            };
            any = true;
            if let Some(node) = &mut self.node {
                node.push(Input::Disk(completion));
            }
        }
        any
    }
}

/// The true time on the wall.
pub(super) fn wall(micros: u64) -> Time {
    Time(WALL_MILLIS + micros / 1000)
}
