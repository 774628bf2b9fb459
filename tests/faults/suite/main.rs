//! Faults: what real `warren` processes do when they are killed, run out of memory or disk, or are
//! told to stop.
//!
//! `WARREN_BIN` names the `warren` under test; without it every test is reported as ignored.
//! `WARREN_FAULTS=full` runs the long forms, `WARREN_FAULTS_SEED` repeats a run's random choices,
//! `WARREN_FAULTS_ROUNDS` says how often the tests of clusters do what they do.
//! What always holds: nothing waits without a limit, every test has nodes and folders of its own,
//! and how long something took is printed but never decides. Tests run one after the other, so that
//! what they print of time and memory means something.

mod admin;
mod alarms;
mod backlog;
mod broker;
mod client;
mod cluster;
mod dev;
mod failed_sync;
mod flood;
mod folder;
mod full_disk;
mod homes;
mod kills;
mod lifecycle;
mod perf;
mod refusals;
mod restart;
mod seed;
mod sync_order;
mod system;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::Runtime;

use crate::seed::Seed;

/// What every test is given.
pub(crate) struct Context {
    /// The `warren` under test.
    binary: PathBuf,
    /// Whether the long form is wanted.
    full: bool,
    seed: u64,
    rounds: Option<u64>,
}

impl Context {
    /// `short`, or `full` where the long form is wanted.
    pub(crate) fn choose<T>(&self, short: T, full: T) -> T {
        if self.full { full } else { short }
    }

    /// How often a test does what it does: as `WARREN_FAULTS_ROUNDS` says, else as
    /// [`Self::choose`].
    pub(crate) fn rounds(&self, short: u64, full: u64) -> u64 {
        self.rounds.unwrap_or_else(|| self.choose(short, full))
    }

    /// The random choices of one test.
    pub(crate) fn seed(&self, test: &str) -> Seed {
        println!("{test}: WARREN_FAULTS_SEED={}", self.seed);
        Seed::new(self.seed)
    }
}

/// Why a test was not run; the text says what is missing.
#[derive(Debug)]
pub(crate) struct Ignored(pub(crate) String);

impl std::fmt::Display for Ignored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Ignored {}

type Test = fn(&Context, &Runtime) -> anyhow::Result<()>;

/// Pairs each function with its name.
macro_rules! tests {
    ($($module:ident :: $test:ident),* $(,)?) => {
        &[$((stringify!($test), $module::$test)),*]
    };
}

const TESTS: &[(&str, Test)] = tests![
    kills::kill_9_under_confirmed_load,
    sync_order::no_confirm_before_sync,
    sync_order::the_trace_tells_when_nothing_is_synced,
    failed_sync::failed_sync_stops_the_node,
    backlog::restart_with_backlog,
    backlog::backlog_beyond_memory,
    backlog::one_old_message_does_not_pin_the_disk,
    alarms::memory_alarm_blocks_publishers_alone,
    alarms::disk_alarm_blocks_publishers_alone,
    full_disk::disk_alarm_comes_before_the_disk_is_full,
    full_disk::full_disk_refuses_and_loses_nothing,
    full_disk::kill_on_a_full_disk_loses_nothing,
    refusals::second_start_on_a_folder_is_refused,
    refusals::taken_port_is_refused,
    refusals::tests_are_given_each_port_once,
    refusals::unknown_flags_and_keys_are_refused,
    refusals::check_starts_nothing,
    lifecycle::sigterm_tells_clients_and_exits_with_0,
    lifecycle::second_signal_exits_at_once,
    restart::ready_line_and_node_json_agree,
    restart::restart_keeps_what_is_durable,
    admin::users_of_the_command_line_log_in_over_amqp,
    admin::strangers_are_told_why_they_are_not_let_in,
    admin::definitions_go_out_and_come_in,
    admin::backups_are_made_verified_and_restored,
    admin::a_failed_backup_is_counted_and_logged,
    homes::replies_reach_requesters_on_other_nodes,
    homes::transient_objects_are_the_whole_clusters,
    homes::exclusive_queues_are_locked_on_every_node,
    homes::what_lives_with_a_node_goes_with_it,
    homes::a_fenced_node_goes_on_in_a_new_life,
    homes::consumers_go_on_after_a_pause,
    dev::dev_runs_a_cluster,
    dev::dev_keeps_what_it_is_to_keep,
    cluster::cluster_kill_9,
    cluster::cluster_stopped_process,
    cluster::cluster_partition,
    cluster::cluster_one_way_partition,
    cluster::cluster_lossy_network,
    cluster::cluster_hung_disk,
    cluster::cluster_full_disk,
    cluster::cluster_is_operated,
];

fn main() -> ExitCode {
    cluster::enter();
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let seed = set("WARREN_FAULTS_SEED").and_then(|text| text.parse().ok());
    let rounds = set("WARREN_FAULTS_ROUNDS").and_then(|text| text.parse().ok());
    let full = set("WARREN_FAULTS").is_some_and(|form| form == "full");
    let context = set("WARREN_BIN").map(|binary| {
        Arc::new(Context {
            binary: PathBuf::from(binary),
            full,
            seed: seed.unwrap_or_else(Seed::fresh),
            rounds,
        })
    });
    let trials = TESTS.iter().map(|&(name, test)| {
        let context = context.clone();
        Trial::ignorable_test(name, move || run(name, test, context.as_deref()))
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
}

fn run(name: &str, test: Test, context: Option<&Context>) -> Result<Completion, Failed> {
    let Some(context) = context else {
        return Ok(Completion::ignored_with(
            "set WARREN_BIN (the warren to start)",
        ));
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let begin = Instant::now();
    let outcome = test(context, &runtime);
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => {
            println!("{name}: {:.1} s in all", begin.elapsed().as_secs_f64());
            Ok(Completion::Completed)
        }
        Err(error) => match error.downcast::<Ignored>() {
            Ok(Ignored(reason)) => Ok(Completion::ignored_with(reason)),
            Err(error) => Err(Failed::from(format!("{error:#}"))),
        },
    }
}
