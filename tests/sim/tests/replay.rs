//! A seed is the whole report of a failure only if it replays.

use warren_sim::trace::Trace;
use warren_sim::world::run;

const STEPS: u64 = 2000;

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=5 {
        let first = run(seed, STEPS, Trace::new(false));
        let second = run(seed, STEPS, Trace::new(false));
        assert_eq!(first, second, "seed {seed}");
        assert_eq!(first.violations, [], "seed {seed}");
    }
}

#[test]
fn another_seed_is_another_run() {
    let trace = |seed| run(seed, STEPS, Trace::new(false)).trace;
    assert_ne!(trace(1), trace(2));
}
