//! Kills under load: nothing confirmed is lost, nothing comes from nowhere, order is kept.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::runtime::Runtime;

use crate::Context;
use crate::broker::{Node, Running};
use crate::perf::Perf;
use crate::seed::Seed;

/// Two producers and consumers, with what `--check` needs to judge.
const LOAD: &str = "--durable --persistent --confirm 200 --check --reconnect --producers 2 \
                    --consumers 2 --queues 2 --ack multiple:20 --prefetch 100 --patience 30";
/// A node that serves lives at most so long; one in four is killed while it starts.
const LIFE_MS: u64 = 1_500;
const START_MS: u64 = 150;
/// Seconds of load for each kill: more than the kill and the restart take.
const SECONDS_A_KILL: u64 = 2;

pub(crate) fn kill_9_under_confirmed_load(context: &Context, _: &Runtime) -> Result<()> {
    let mut seed = context.seed("kill_9_under_confirmed_load");
    let wanted = context.choose(5, 30);
    let node = Node::new(context, "kills")?;
    let mut running = node.start()?;
    let mut kills = 0;
    let (mut confirmed, mut reconnects) = (0, 0);
    while kills < wanted {
        // On a slow machine a load may end before its kills: then there is another one.
        let seconds = (wanted - kills) * SECONDS_A_KILL + 2;
        let mut load = Perf::start(&node, "throughput", &format!("{LOAD} --time {seconds}"))?;
        while kills < wanted {
            // tidy: allow sleep: a moment to be killed at, from the seed
            thread::sleep(seed.millis(LIFE_MS));
            if !load.is_running()? {
                break;
            }
            running = kill_and_start(&node, running, &mut seed, &mut kills)?;
        }
        let summary = load.wait(Duration::from_secs(seconds + 120))?;
        confirmed += summary.count("confirmed")?;
        reconnects += summary.count("reconnects")?;
    }
    println!("{kills} kills, {reconnects} connections made again, {confirmed} messages confirmed");
    ensure!(confirmed > 0, "the load never ran");
    ensure!(reconnects >= kills, "a kill went unnoticed");
    running.stop()
}

/// Kills the node, perhaps once more while it starts, and gives one that serves.
fn kill_and_start(
    node: &Node,
    running: Running,
    seed: &mut Seed,
    kills: &mut u64,
) -> Result<Running> {
    running.kill()?;
    *kills += 1;
    if seed.one_in(4) {
        let starting = node.spawn()?;
        // tidy: allow sleep: a moment to be killed at, from the seed
        thread::sleep(seed.millis(START_MS));
        starting.kill()?;
    }
    node.start()
}
