//! `measure versus`: the loads of the one-node table on a release `warren` and on the RabbitMQ of
//! the Debian package, in turns; medians, ratios, and what Warren is to reach.
//!
//! `measure cluster` does the same with three nodes of each.
//!
//! The load comes from `warren perf`, each time the same build. Each round starts both brokers
//! anew, so that no load inherits what the one before left behind.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::brokers::{self, Broker};
use super::loads::{CLUSTER_LOADS, Figure, LOADS, Load, Reach};
use super::table::{Series, markdown, number};
use crate::arguments::Arguments;
use crate::run::Call;

/// What one figure of one load came to, round by round.
#[derive(Clone, Debug, Default)]
struct Pair {
    warren: Series,
    rabbitmq: Series,
}

/// How the two are started.
struct Brokers {
    warren: fn(&Path) -> Result<Broker>,
    rabbitmq: fn() -> Result<Option<Broker>>,
}

/// Runs the loads whose name contains `--only`, or all.
///
/// # Errors
/// When a broker does not start, or a load fails.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let brokers = Brokers {
        warren: |binary| Broker::warren(binary, &[]),
        rabbitmq: Broker::rabbitmq,
    };
    compare(arguments, LOADS, &brokers)
}

/// The same for three nodes.
///
/// # Errors
/// As [`run`].
pub(super) fn run_cluster(arguments: &mut Arguments) -> Result<()> {
    let brokers = Brokers {
        warren: |binary| Broker::warren_cluster(binary, 3),
        rabbitmq: Broker::rabbitmq_cluster,
    };
    compare(arguments, CLUSTER_LOADS, &brokers)
}

fn compare(arguments: &mut Arguments, all: &'static [Load], brokers: &Brokers) -> Result<()> {
    let rounds = arguments.rounds(5)?;
    let only: String = arguments.value("--only")?.unwrap_or_default();
    arguments.finish()?;
    let loads: Vec<&Load> = all
        .iter()
        .filter(|load| load.name.contains(&only))
        .collect();
    if loads.is_empty() {
        let names: Vec<&str> = all.iter().map(|load| load.name).collect();
        bail!(
            "nothing to measure: --only is in none of: {}",
            names.join("; ")
        );
    }
    let binary = brokers::build_warren()?;
    let mut rows = Vec::new();
    for load in &loads {
        let pairs = measure(&binary, load, rounds, brokers)?;
        rows.extend(
            load.figures
                .iter()
                .zip(&pairs)
                .map(|(figure, pair)| row(load, figure, pair)),
        );
    }
    let head = ["load", "RabbitMQ", "Warren", "ratio", "reach", "met"];
    println!(
        "\nMedians of {rounds} rounds (least..most).\n\n{}",
        markdown(&head, &rows)
    );
    for load in &loads {
        println!("- {}: `warren perf {}`", load.name, load.perf);
    }
    Ok(())
}

/// One load, on each broker in turn.
fn measure(binary: &Path, load: &Load, rounds: usize, of: &Brokers) -> Result<Vec<Pair>> {
    let mut pairs = vec![Pair::default(); load.figures.len()];
    for round in 1..=rounds {
        println!("\n# {}: round {round} of {rounds}", load.name);
        let warren = (of.warren)(binary)?;
        let result = perf(binary, &warren, load, "")?;
        drop(warren);
        for (pair, (name, figure)) in pairs.iter_mut().zip(figures(load, &result)?) {
            pair.warren.take(format_args!("Warren: {name}"), figure);
        }
        if let Some(more) = load.rabbitmq
            && let Some(rabbitmq) = (of.rabbitmq)()?
        {
            let result = perf(binary, &rabbitmq, load, more)?;
            for (pair, (name, figure)) in pairs.iter_mut().zip(figures(load, &result)?) {
                pair.rabbitmq.take(format_args!("RabbitMQ: {name}"), figure);
            }
        }
    }
    Ok(pairs)
}

/// Puts one load on `broker`.
fn perf(binary: &Path, broker: &Broker, load: &Load, more: &str) -> Result<Value> {
    let text = Call::new(binary)
        .arg("perf")
        .args(load.perf.split_whitespace())
        .args(more.split_whitespace())
        .args(["--uri", &broker.uri, "--json"])
        .args(broker.pids.iter().map(|pid| format!("--pid={pid}")))
        .output()?;
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    let line = line.with_context(|| format!("`{}` printed no JSON", load.name))?;
    serde_json::from_str(line).with_context(|| format!("result of `{}`", load.name))
}

/// The load's figures with their names, in their order.
fn figures(load: &Load, result: &Value) -> Result<Vec<(&'static str, f64)>> {
    let one = |figure: &Figure| {
        let value = result.pointer(figure.pointer).and_then(Value::as_f64);
        let value =
            value.with_context(|| format!("`{}` gave no {}: {result}", load.name, figure.pointer));
        Ok((figure.name, value?))
    };
    load.figures.iter().map(one).collect()
}

fn row(load: &Load, figure: &Figure, pair: &Pair) -> Vec<String> {
    let [warren, rabbitmq] = [pair.warren.median(), pair.rabbitmq.median()];
    let ratio = warren.zip(rabbitmq).map(|(ours, theirs)| ours / theirs);
    let (reach, met) = match figure.reach {
        Reach::Times(times) => (format!("≥ {times} ×"), ratio.map(|ratio| ratio >= times)),
        Reach::AtLeast(least) => (
            format!("≥ {}", number(least)),
            warren.map(|ours| ours >= least),
        ),
        Reach::AtMost(most) => (
            format!("≤ {}", number(most)),
            warren.map(|ours| ours <= most),
        ),
    };
    vec![
        format!("{}: {}", load.name, figure.name),
        pair.rabbitmq.shown(),
        pair.warren.shown(),
        ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{} ×", number(ratio))),
        reach,
        met.map_or("-", |met| if met { "yes" } else { "no" })
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: &[Figure] = &[
        Figure {
            name: "messages/s",
            pointer: "/rate",
            reach: Reach::Times(10.0),
        },
        Figure {
            name: "p50, ms",
            pointer: "/latency/p50",
            reach: Reach::AtMost(0.6),
        },
        Figure {
            name: "per CPU-second",
            pointer: "/cpu",
            reach: Reach::AtLeast(230e3),
        },
    ];
    const LOAD: Load = Load {
        name: "x",
        perf: "throughput",
        rabbitmq: None,
        figures: FIGURES,
    };

    #[test]
    fn figures_become_rows() {
        let ours = serde_json::json!({"rate": 240e3, "latency": {"p50": 0.7}, "cpu": 250e3});
        let theirs = serde_json::json!({"rate": 20e3, "latency": {"p50": 1.4}, "cpu": 1e3});
        let ours = figures(&LOAD, &ours).unwrap();
        let theirs = figures(&LOAD, &theirs).unwrap();
        let rows: Vec<String> = (0..FIGURES.len())
            .map(|at| {
                let pair = Pair {
                    warren: Series(vec![ours[at].1]),
                    rabbitmq: Series(vec![theirs[at].1]),
                };
                row(&LOAD, &FIGURES[at], &pair).join(" | ")
            })
            .collect();
        assert_eq!(
            rows[0],
            "x: messages/s | 20.0k | 240.0k | 12.0 × | ≥ 10 × | yes"
        );
        assert_eq!(
            rows[1],
            "x: p50, ms | 1.40 | 0.700 | 0.500 × | ≤ 0.600 | no"
        );
        assert_eq!(
            rows[2],
            "x: per CPU-second | 1000 | 250.0k | 250 × | ≥ 230.0k | yes"
        );
    }

    #[test]
    fn without_rabbitmq_there_is_no_ratio() {
        let pair = Pair {
            warren: Series(vec![5.0]),
            rabbitmq: Series::default(),
        };
        assert_eq!(
            row(&LOAD, &FIGURES[0], &pair)[1..],
            ["-", "5.00", "-", "≥ 10 ×", "-"]
        );
    }

    #[test]
    fn a_missing_figure_is_an_error() {
        let error = figures(&LOAD, &serde_json::json!({"rate": 1})).unwrap_err();
        assert!(error.to_string().contains("/latency/p50"), "{error}");
    }
}
