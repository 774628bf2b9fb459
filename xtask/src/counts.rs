//! `cargo xtask bench --check`: instructions of the hot paths, counted by callgrind, beside limits
//! that are committed. A count that has grown by more than `GROWTH_MAX` fails.
//!
//! Counts do not depend on how busy a machine is. They do on the compiler, which is pinned, and a
//! little on the processor's kind.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::ci::PROFILE;
use crate::run::{Call, is_ci};
use crate::workspace::Workspace;

const PACKAGE: &str = "warren-benches";
const PROGRAM: &str = "warren-counts";
const LIMITS: &str = "benches/limits.toml";
const ROUNDS: u32 = 200;
/// As in the benchmarks.
const BATCH: u32 = 64;
/// By how much a count may grow, as a part of its limit.
const GROWTH_MAX: f64 = 0.05;

/// A hot path's name and the function that is all of it.
const PATHS: &[(&str, &str)] = &[
    ("decode publish", "wire::decode"),
    ("encode delivery", "wire::deliveries"),
    ("route: topic, 100k bindings", "definitions::route"),
    ("route: cached", "definitions::route_cached"),
    ("shard: enqueue", "queues::Queues::enqueue"),
    ("shard: deliver", "queues::Queues::deliver"),
    ("shard: settle", "queues::Queues::settle"),
    ("node: publish", "stand::Stand::publish"),
    ("node: lane", "stand::Stand::step"),
    ("node: deliver", "stand::Stand::deliver"),
    ("node: confirm", "stand::Stand::confirm"),
];

/// Instructions a message, by path.
type Counts = BTreeMap<String, f64>;

/// Whether there is what counts. In CI there must be.
pub(crate) fn can_count() -> bool {
    let version = Call::new("valgrind").arg("--version").quiet().output();
    is_ci() || version.is_ok()
}

/// Counts, and compares with the limits; or, if `write`, makes what was counted the limits.
///
/// # Errors
/// When a count is above its limit, or one has no other side.
pub(crate) fn check(write: bool) -> Result<()> {
    let workspace = Workspace::load()?;
    let counts = count(&workspace)?;
    let file = workspace.root.join(LIMITS);
    if write {
        let text = toml::to_string(&counts).context("counts are a table")?;
        let text = format!(
            "# Instructions a message, with profile `{PROFILE}`: `cargo xtask bench --check`\n\
             # fails when one grows by more than {:.0} %, `--write` makes today's the limits.\n\n\
             {text}",
            GROWTH_MAX * 100.0
        );
        std::fs::write(&file, text).with_context(|| format!("cannot write {LIMITS}"))?;
        println!("{LIMITS} is what was counted");
        return Ok(());
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {LIMITS}"))?;
    let limits: Counts = toml::from_str(&text).with_context(|| format!("{LIMITS} is damaged"))?;
    let (table, grown) = compare(&counts, &limits)?;
    println!("{table}");
    if !grown.is_empty() {
        bail!(
            "more instructions than {LIMITS} allows: {}; find out why, or, if it is worth it, \
             `cargo xtask bench --check --write`",
            grown.join(", ")
        );
    }
    Ok(())
}

fn count(workspace: &Workspace) -> Result<Counts> {
    let build = Call::cargo("build").args(["--profile", PROFILE, "--workspace", "--bin", PROGRAM]);
    build.run()?;
    let out = workspace.target.join("callgrind.out");
    let binary = workspace.binary(PROFILE, PROGRAM);
    Call::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--dump-line=no"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .args([binary.to_string_lossy(), ROUNDS.to_string().into()])
        .run()
        .with_context(|| format!("counting instructions of {PACKAGE} needs valgrind"))?;
    read(&out)
}

fn read(out: &Path) -> Result<Counts> {
    let text = std::fs::read_to_string(out);
    let text = text.with_context(|| format!("cannot read {}", out.display()))?;
    let functions = inclusive(&text)?;
    let messages = f64::from(ROUNDS * BATCH);
    let of_path = |(name, function): &(&str, &str)| {
        let function = format!("warren_benches::{function}");
        let count = functions.get(&function);
        let count = count.with_context(|| format!("{function} was not called, or is inlined"))?;
        Ok(((*name).to_owned(), (*count as f64 / messages).round()))
    };
    PATHS.iter().map(of_path).collect()
}

/// Instructions of each function with all that it calls, by name, from callgrind's own format:
/// `fn=(id) name` begins a function, `calls=` a call, whose cost is in the line behind it.
fn inclusive(text: &str) -> Result<BTreeMap<String, u64>> {
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    let mut costs: BTreeMap<String, u64> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        let named = line
            .strip_prefix("fn=")
            .or_else(|| line.strip_prefix("cfn="));
        if let Some(named) = named {
            let (id, name) = named.split_once(')').context("a function without an id")?;
            if !name.trim().is_empty() {
                names.insert(id, plain(name.trim()));
            }
            if line.starts_with("fn=") {
                current = names.get(id).cloned();
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split_whitespace().nth(1).map(str::parse::<u64>);
            if let (Some(Ok(cost)), Some(function)) = (cost, &current) {
                *costs.entry(function.clone()).or_default() += cost;
            }
        }
    }
    ensure!(!costs.is_empty(), "callgrind counted nothing");
    Ok(costs)
}

/// Without brackets and hashes: `<a::B>::c` and `a::B::c::h0123456789abcdef` are `a::B::c`.
fn plain(name: &str) -> String {
    let name = match name.rsplit_once("::h") {
        Some((front, hash)) if hash.len() == 16 => front,
        _ => name,
    };
    name.replace(['<', '>'], "")
}

/// A table of all paths, and those that have grown too much.
fn compare(counts: &Counts, limits: &Counts) -> Result<(String, Vec<String>)> {
    let same = counts.keys().eq(limits.keys());
    ensure!(
        same,
        "{LIMITS} names other paths than there are: --check --write"
    );
    let mut table = format!(
        "{:<30} {:>9} {:>9} {:>8}\n",
        "instructions a message", "counted", "limit", ""
    );
    let mut grown = Vec::new();
    for (name, count) in counts {
        let limit = limits[name];
        let growth = count / limit - 1.0;
        table += &format!(
            "{name:<30} {count:>9.0} {limit:>9.0} {:>+7.1} %\n",
            growth * 100.0
        );
        if *count > limit * (1.0 + GROWTH_MAX) {
            grown.push(format!("{name} ({:+.1} %)", growth * 100.0));
        }
    }
    Ok((table, grown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_costs_what_it_calls_too() {
        let text = "events: Ir\n\nfn=(1) <warren_benches::wire>::decode\n0 100\n\
                    cfn=(2) core::str::len::h0123456789abcdef\ncalls=4 0\n0 40\n\n\
                    fn=(2)\n0 40\n\nfn=(1)\n0 7\n";
        let costs = inclusive(text).unwrap();
        assert_eq!(costs["warren_benches::wire::decode"], 147);
        assert_eq!(costs["core::str::len"], 40);
        assert!(inclusive("events: Ir\n").is_err());
    }

    #[test]
    fn what_has_grown_by_more_than_a_twentieth_is_named() {
        let of = |a: f64, b: f64| Counts::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        let (_, grown) = compare(&of(105.0, 50.0), &of(100.0, 100.0)).unwrap();
        assert!(grown.is_empty());
        let (table, grown) = compare(&of(106.0, 100.0), &of(100.0, 100.0)).unwrap();
        assert_eq!(grown, ["a (+6.0 %)"]);
        assert!(table.contains("+6.0 %"), "{table}");
        assert!(compare(&of(1.0, 1.0), &Counts::new()).is_err());
    }
}
