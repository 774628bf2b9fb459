//! `measure logins`: clients that come and go a thousand times a second, each with a queue and a
//! binding of its own, on three nodes; and what others' traffic has to pay for it.
//!
//! Each round runs the traffic alone, the logins alone and both: what both use beyond the logins
//! alone is the traffic's.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::brokers::{self, Broker};
use super::process::Usage;
use super::table::{Figures, field, markdown};
use crate::arguments::Arguments;
use crate::run::Call;

const RATE: f64 = 1000.0;
const TRAFFIC: &str = "perf latency --rate 1000 --producers 5 --consumers 5 --queues 5 --durable \
                       --persistent --confirm 1000 --ack multiple:100 --prefetch 1000 --json";
const LOGINS: &str = "perf churn --rate 1000 --workers 32 --bind amq.direct --json";
/// How long each part is looked at, in seconds, and before.
const TIME: &str = "10";
const WARM: Duration = Duration::from_secs(2);
/// Logins begin before the traffic and end after it.
const AROUND: &str = "16";

/// Does it in each of `--rounds`.
///
/// # Errors
/// When either of them fails, or there were fewer logins than there were to be.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let rounds = arguments.rounds(5)?;
    arguments.finish()?;
    let binary = brokers::build_warren()?;
    let cluster = Broker::warren_cluster(&binary, 3)?;
    let mut figures = Figures::default();
    for round in 1..=rounds {
        println!("\n# round {round} of {rounds}");
        measure(&binary, &cluster, &mut figures)?;
    }
    println!(
        "\nMedians of {rounds} rounds (least..most).\n\n{}\n- traffic: `warren {TRAFFIC} --time \
         {TIME}`\n- logins: `warren {LOGINS}`",
        markdown(&["three nodes", ""], &figures.rows())
    );
    Ok(())
}

fn measure(binary: &Path, cluster: &Broker, figures: &mut Figures) -> Result<()> {
    let alone = traffic(binary, cluster)?;
    let logins = start_logins(binary, cluster)?;
    thread::sleep(WARM);
    let before = cpu(cluster)?;
    thread::sleep(Duration::from_secs(10));
    let of_logins = (cpu(cluster)? - before) / 10.0;
    finish_logins(logins)?;
    let logins = start_logins(binary, cluster)?;
    thread::sleep(WARM);
    let both = traffic(binary, cluster)?;
    let (rate, p50) = finish_logins(logins)?;
    figures.add("logins a second", rate);
    figures.add("a login, all of it, p50, ms", p50 / 1e3);
    figures.add("CPU of the logins alone, cores", of_logins);
    let each = |cores: f64| cores / RATE * 1e6;
    figures.add("CPU a message, alone, µs", each(alone.cores));
    figures.add(
        "CPU a message, beside logins, µs",
        each(both.cores - of_logins),
    );
    figures.add(
        "the same as a ratio",
        (both.cores - of_logins) / alone.cores,
    );
    figures.add("p50 of others, alone, µs", alone.p50);
    figures.add("p50 of others, beside logins, µs", both.p50);
    figures.add("the same p50 as a ratio", both.p50 / alone.p50);
    figures.add("p99 of others, alone, µs", alone.p99);
    figures.add("p99 of others, beside logins, µs", both.p99);
    Ok(())
}

/// What the traffic met, and all nodes used meanwhile.
struct Traffic {
    cores: f64,
    p50: f64,
    p99: f64,
}

fn traffic(binary: &Path, cluster: &Broker) -> Result<Traffic> {
    let pids: Vec<String> = cluster.pids.iter().map(u32::to_string).collect();
    let call = Call::new(binary).args(TRAFFIC.split(' '));
    let call = call.args(["--warmup", "2", "--time", TIME, "--uri", &cluster.uri]);
    let summary: Value = serde_json::from_str(&call.args(["--pid", &pids.join(",")]).output()?)?;
    let field = |pointer| field(&summary, pointer);
    Ok(Traffic {
        cores: field("/broker_cores")?,
        p50: field("/latency_us/p50")?,
        p99: field("/latency_us/p99")?,
    })
}

fn start_logins(binary: &Path, cluster: &Broker) -> Result<std::process::Child> {
    let call = Call::new(binary).args(LOGINS.split(' '));
    call.args(["--time", AROUND, "--uri", &cluster.uri]).spawn()
}

/// How many there were a second, and how long one took in the middle, in microseconds.
fn finish_logins(child: std::process::Child) -> Result<(f64, f64)> {
    let output = child.wait_with_output().context("the logins")?;
    let summary: Value = serde_json::from_slice(&output.stdout).context("their summary")?;
    let rate = summary["rate"].as_f64().unwrap_or_default();
    ensure!(
        summary["ok"] == true && rate > 950.0,
        "the logins: {summary}"
    );
    let p50 = summary["latency_us"]["p50"].as_f64();
    Ok((rate, p50.context("no latency")?))
}

fn cpu(cluster: &Broker) -> Result<f64> {
    Ok(Usage::total(&cluster.pids)?.cpu_seconds)
}
