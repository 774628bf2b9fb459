//! `measure queues`: many durable queues on three nodes, declared by an import of definitions: what
//! they cost, how fast messages go to them, and how long a node takes to come back.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::admin::Admin;
use super::brokers::{self, Broker};
use super::contents;
use super::definitions::largest;
use super::process::Usage;
use super::restart::Restarted;
use super::table::{Figures, Series, field, markdown};
use crate::arguments::Arguments;
use crate::run::Call;

const QUEUES: u64 = 1_000_000;
const PREFIX: &str = "many";
const IMPORT_LIMIT: Duration = Duration::from_secs(600);
/// How long nodes have to come to rest before their memory counts.
const REST: Duration = Duration::from_secs(15);
/// Publishes with confirms, and nobody who consumes: what is compared is the way in.
const LOAD: &str = "perf throughput --producers 10 --consumers 0 --predeclared --keep --durable \
                    --persistent --confirm 1000 --warmup 3 --time 10 --json";

/// Does it in each of `--rounds`, with `--queues` (a million).
///
/// # Errors
/// When something fails, or takes minutes longer than it may.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let rounds = arguments.rounds(1)?;
    let queues: u64 = arguments.value("--queues")?.unwrap_or(QUEUES);
    arguments.finish()?;
    ensure!(queues >= 10, "--queues are too few");
    let binary = brokers::build_warren()?;
    let mut figures = Figures::default();
    for round in 1..=rounds {
        println!("\n# round {round} of {rounds}");
        measure(&binary, queues, &mut figures)?;
    }
    let head = format!("three nodes, {queues} durable queues");
    println!(
        "\nMedians of {rounds} rounds (least..most); memory of the largest node.\n\n{}\n- load: \
         `warren {LOAD}`",
        markdown(&[&head, ""], &figures.rows())
    );
    let ten = figures.of(TEN).and_then(Series::median);
    let all = figures.of(ALL).and_then(Series::median);
    let share = all.context("measured")? / ten.context("measured")?;
    println!("to random queues of all: {share:.2} of the rate to ten");
    Ok(())
}

const TEN: &str = "publishes to ten of them, confirmed, messages/s";
const ALL: &str = "publishes to random ones of all, confirmed, messages/s";

fn measure(binary: &Path, queues: u64, figures: &mut Figures) -> Result<()> {
    let cluster = Broker::warren_cluster(binary, 3)?;
    let admin = Admin::new(binary, &cluster);
    let path = cluster.file("definitions.json");
    let all = (0..queues).map(|at| contents::queue(&format!("{PREFIX}-{at}"), &json!({})));
    contents::write(&path, vec![("queues", Box::new(all))])?;
    let before = largest(&cluster, |usage| usage.resident)?;
    let words = ["definitions", "import", &path.to_string_lossy()];
    let (took, said) = admin.timed_within(&words, IMPORT_LIMIT)?;
    let wanted = format!("{queues} created");
    ensure!(said.contains(&wanted), "`{wanted}` was to be said: {said}");
    figures.add("`definitions import`, seconds", took);
    thread::sleep(REST);
    let after = largest(&cluster, |usage| usage.resident)?;
    figures.add("resident, MiB", after);
    let grown = (after - before) * f64::from(1 << 20);
    figures.add("for each queue, bytes", grown / queues as f64);
    figures.add(TEN, rate(binary, &cluster, 10, &[])?);
    figures.add(ALL, rate(binary, &cluster, queues, &["--random"])?);
    let mut node = Restarted::new(&cluster)?;
    let took = node.restart(binary, &admin)?;
    figures.add("a node stopped in order, seconds", took.stopped);
    figures.add("started: takes connections, seconds", took.serving);
    figures.add(
        "started: leads as many shards as before, seconds",
        took.leading,
    );
    let after = Usage::of(node.pid)?.resident as f64 / f64::from(1 << 20);
    figures.add("resident after its start, MiB", after);
    Ok(())
}

/// How many publishes were confirmed in a second.
fn rate(binary: &Path, cluster: &Broker, queues: u64, flags: &[&str]) -> Result<f64> {
    let count = queues.to_string();
    let call = Call::new(binary)
        .args(LOAD.split(' '))
        .args(flags.iter().copied());
    let call = call.args([
        "--prefix",
        PREFIX,
        "--queues",
        &count,
        "--uri",
        &cluster.uri,
    ]);
    let said = call.output()?;
    let summary: Value = serde_json::from_str(&said).context("the load's summary")?;
    field(&summary, "/confirm_rate")
}
