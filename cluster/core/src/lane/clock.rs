//! Whether this node's clock on the wall is to be believed (rule 12): what others' clocks show.
//!
//! Entries bear the time of whoever leads, and messages expire by it. So a node whose clock is
//! wrong leads nothing that somebody else could lead, and what it still does goes by the others'
//! time.
//!
//! Always holds:
//! - a clock that was set while it ran is not followed before another one's has agreed, unless the
//!   node is a cluster of its own;
//! - a clock is called wrong by two others at least: of two that differ nobody can say which is.

use std::collections::BTreeMap;

use crate::ids::{Instant, NodeId, Now, Time};

/// A clock so far off the median of all is wrong, and one that moves so far in no time was set.
pub(super) const OFF_MILLIS_MAX: u64 = 500;
/// What was heard longer ago than twice this is forgotten.
const HEARD_MILLIS: u64 = 4_000;
/// Others that it takes.
const OTHERS_MIN: usize = 2;

#[derive(Debug, Default)]
pub(super) struct WallClock {
    /// What the clocks showed at the last step.
    shown: Option<Now>,
    /// The time that it went by.
    went_by: Now,
    /// The same of the last step that is known to have gone by the right time, while this clock is
    /// not believed.
    last_right: Option<Now>,
    others: BTreeMap<NodeId, Ahead>,
    /// By how many milliseconds the median of all clocks is ahead of this one; `None` as long as
    /// too few others are known.
    behind: Option<i64>,
}

/// By how many milliseconds another node's clock is ahead. Word of it is late, never early: of
/// what was heard the largest is the nearest.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    /// What the other node's clocks showed last.
    showed: Now,
    since: Instant,
    now: i64,
    before: Option<i64>,
}

impl Ahead {
    fn millis(&self) -> i64 {
        self.before.map_or(self.now, |before| before.max(self.now))
    }
}

impl WallClock {
    /// What the clocks showed at the beginning of this step.
    pub(super) fn shows(&self) -> Now {
        self.shown.unwrap_or_default()
    }

    /// Another node's clocks showed this, a moment before word of it came, which the lane may have
    /// let wait since.
    pub(super) fn heard(&mut self, node: NodeId, showed: Now, came: Instant) {
        let Some(shown) = self.shown else {
            return;
        };
        let waited = shown.mono.micros_since(came) / 1000;
        let then = Time(shown.wall.0.saturating_sub(waited));
        let millis = difference(showed.wall, then);
        let first = Ahead {
            showed,
            since: shown.mono,
            now: millis,
            before: None,
        };
        let ahead = self.others.entry(node).or_insert(first);
        if was_set(ahead.showed, showed) {
            // Or its process is a new one.
            *ahead = first;
        }
        ahead.showed = showed;
        if ahead.since.plus_millis(HEARD_MILLIS) <= shown.mono {
            let recent = ahead.since.plus_millis(2 * HEARD_MILLIS) > shown.mono;
            ahead.before = recent.then_some(ahead.now);
            (ahead.since, ahead.now) = (shown.mono, millis);
        }
        ahead.now = ahead.now.max(millis);
        self.behind = self.median();
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.others.remove(&node);
        self.behind = self.median();
    }

    /// See `behind`.
    fn median(&self) -> Option<i64> {
        if self.others.len() < OTHERS_MIN {
            return None;
        }
        let mut all: Vec<i64> = self.others.values().map(Ahead::millis).collect();
        all.push(0);
        all.sort_unstable();
        // Of an even number the one in the middle that is nearer to this clock.
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        Some(if low.abs() <= high.abs() { low } else { high })
    }

    /// By how many milliseconds this node's clock is ahead of the others', if that is too many.
    pub(super) fn off(&self) -> Option<i64> {
        let behind = self.behind?;
        (behind.unsigned_abs() > OFF_MILLIS_MAX).then_some(-behind)
    }

    /// Whether another node's clock is as wrong, as far as is known here.
    pub(super) fn is_off(&self, node: NodeId) -> bool {
        let median = self.behind;
        let ahead = self.others.get(&node).map(Ahead::millis);
        let apart = median
            .zip(ahead)
            .map(|(median, ahead)| ahead.abs_diff(median));
        apart.is_some_and(|apart| apart > OFF_MILLIS_MAX)
    }

    /// The time that a step goes by, given what the clocks show and whether this node is alone.
    pub(super) fn read(&mut self, now: Now, alone: bool) -> Now {
        if cfg!(warren_break = "wrong_clock") {
            return now;
        }
        let before = self.shown.replace(now);
        if before.is_some_and(|before| was_set(before, now)) {
            // What was heard was measured against another clock.
            self.others.clear();
            self.behind = None;
            self.last_right.get_or_insert(self.went_by);
        }
        let off = self.off();
        let agrees = |ahead: &Ahead| ahead.millis().unsigned_abs() <= OFF_MILLIS_MAX;
        let agreed = self.behind.is_some() || self.others.values().any(agrees);
        if alone || (agreed && off.is_none()) {
            self.last_right = None;
        }
        let wall = match (off, self.last_right) {
            (Some(off), _) => Time(now.wall.0.saturating_add_signed(-off)),
            (None, Some(then)) => on_from(then, now.mono),
            (None, None) => now.wall,
        };
        self.went_by = Now { wall, ..now };
        if off.is_some() {
            // For when there are too few others to tell.
            self.last_right = Some(self.went_by);
        }
        self.went_by
    }
}

/// Whether a clock on the wall was set between two looks at it.
fn was_set(before: Now, now: Now) -> bool {
    now.mono < before.mono
        || difference(now.wall, on_from(before, now.mono)).unsigned_abs() > OFF_MILLIS_MAX
}

/// What a clock that showed `then` shows at `mono`.
fn on_from(then: Now, mono: Instant) -> Time {
    Time(
        then.wall
            .0
            .saturating_add(mono.micros_since(then.mono) / 1000),
    )
}

/// `a - b` in milliseconds.
fn difference(a: Time, b: Time) -> i64 {
    let apart = i64::try_from(a.0.abs_diff(b.0)).unwrap_or(i64::MAX);
    if a >= b { apart } else { -apart }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three nodes' clocks as the first of them sees them.
    struct Rig {
        clock: WallClock,
        now: Now,
        /// By how much the wall clock of this node and the others' are ahead.
        skews: [i64; 3],
    }

    impl Rig {
        fn new(skews: [i64; 3]) -> Self {
            let now = Now {
                mono: Instant(1_000_000),
                wall: Time(1_700_000_000_000),
            };
            let clock = WallClock::default();
            let mut rig = Self { clock, now, skews };
            rig.pass(10_000);
            rig
        }

        fn true_time(&self) -> i64 {
            self.now.wall.0 as i64
        }

        /// Time goes by, with word of the others twice a second; by how much the time that steps
        /// go by is ahead in the end.
        fn pass(&mut self, millis: u64) -> i64 {
            let mut ahead = 0;
            for passed in 0..=millis / 50 {
                self.now.mono = self.now.mono.plus_millis(50);
                self.now.wall.0 += 50;
                let shown = Now {
                    wall: Time((self.true_time() + self.skews[0]) as u64),
                    ..self.now
                };
                ahead = self.clock.read(shown, false).wall.0 as i64 - self.true_time();
                if passed % 10 == 1 {
                    for (node, skew) in [(2, self.skews[1]), (3, self.skews[2])] {
                        let late = 3;
                        let wall = Time((self.true_time() + skew - late) as u64);
                        let mono = Instant(self.now.mono.0 - late as u64 * 1000);
                        let came = self.now.mono;
                        self.clock.heard(NodeId(node), Now { mono, wall }, came);
                    }
                }
            }
            ahead
        }
    }

    #[test]
    fn clocks_that_are_a_little_apart_are_believed() {
        let mut rig = Rig::new([400, 0, -90]);
        assert_eq!(rig.clock.off(), None);
        assert_eq!(rig.pass(1000), 400);
        assert!(!rig.clock.is_off(NodeId(2)));
    }

    #[test]
    fn the_one_that_is_wrong_knows_it_and_the_others_do() {
        for wrong in [3_600_000, -3_600_000, 700] {
            let mut rig = Rig::new([wrong, 0, 10]);
            assert!(rig.clock.off().is_some_and(|off| (off - wrong).abs() < 20));
            assert!(rig.pass(1000).abs() < 20, "it goes by the others' time");
            let mut rig = Rig::new([0, 10, wrong]);
            assert_eq!(rig.clock.off(), None);
            assert_eq!(rig.pass(1000), 0);
            assert!(rig.clock.is_off(NodeId(3)));
            assert!(!rig.clock.is_off(NodeId(2)));
        }
    }

    #[test]
    fn a_clock_that_is_set_is_not_followed_before_others_were_heard() {
        let mut rig = Rig::new([0, 0, 0]);
        rig.skews[0] = 3_600_000;
        // Neither for a moment nor later.
        for _ in 0..100 {
            assert!(rig.pass(100).abs() < 10);
        }
        assert!(rig.clock.off().is_some());
        // also while there is only one other one,
        rig.clock.forget(NodeId(3));
        assert!(rig.pass(50).abs() < 10);
        // and once it is right again nothing moves.
        rig.skews[0] = 0;
        for _ in 0..100 {
            assert!(rig.pass(100).abs() < 10);
        }
        assert_eq!(rig.clock.off(), None);
        assert_eq!(rig.pass(50), 0);
    }

    #[test]
    fn another_clock_that_is_right_again_counts_at_once() {
        let mut rig = Rig::new([0, 3_600_000, 0]);
        rig.skews[1] = 0;
        rig.pass(1000);
        rig.skews[2] = 3_600_000;
        for _ in 0..100 {
            assert_eq!(rig.pass(100), 0);
        }
    }

    #[test]
    fn word_that_comes_late_does_not_make_a_clock_wrong() {
        let mut rig = Rig::new([0, 0, 0]);
        // Five seconds in which nothing comes, and then what was said at their beginning.
        let late = rig.now;
        rig.now.mono = rig.now.mono.plus_millis(5_000);
        rig.now.wall.0 += 5_000;
        rig.clock.read(rig.now, false);
        for node in [2, 3] {
            rig.clock.heard(NodeId(node), late, rig.now.mono);
        }
        assert_eq!(rig.clock.off(), None);
    }

    #[test]
    fn what_waits_for_the_lane_is_not_late() {
        let mut rig = Rig::new([0, 0, 0]);
        for _ in 0..10 {
            let said = rig.now;
            rig.now.mono = rig.now.mono.plus_millis(2_000);
            rig.now.wall.0 += 2_000;
            rig.clock.read(rig.now, false);
            for node in [2, 3] {
                rig.clock.heard(NodeId(node), said, said.mono);
            }
        }
        assert_eq!((rig.clock.behind, rig.clock.off()), (Some(0), None));
    }

    #[test]
    fn nobody_judges_by_a_single_other_one() {
        let mut clock = WallClock::default();
        let mut now = Now {
            mono: Instant(0),
            wall: Time(1_000_000),
        };
        clock.read(now, false);
        let wall = Time(9_000_000);
        clock.heard(NodeId(2), Now { wall, ..now }, now.mono);
        assert_eq!(clock.off(), None);
        assert_eq!(clock.read(now, false), now);
        // A clock that is set is followed once the other one shows the same,
        let before = now;
        now.wall.0 += 3_600_000;
        clock.read(now, false);
        clock.heard(NodeId(2), before, now.mono);
        assert_eq!(clock.read(now, false), before);
        clock.heard(NodeId(2), now, now.mono);
        assert_eq!(clock.read(now, false), now);
        // and where there are no others at once.
        now.wall.0 += 3_600_000;
        clock.forget(NodeId(2));
        assert_ne!(clock.read(now, false), now);
        assert_eq!(clock.read(now, true), now);
    }
}
