//! `measure definitions`: a file of 100,000 queues and as many bindings, taken in by one node and
//! by three, and what it costs to look at it again.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::admin::Admin;
use super::brokers::{self, Broker};
use super::contents::{self, Objects};
use super::process::Usage;
use super::table::{Figures, Series, markdown};
use crate::arguments::Arguments;

const QUEUES: usize = 100_000;
const EXCHANGES: usize = 4;
/// How long nodes have to come to rest before their memory counts.
const REST: Duration = Duration::from_secs(10);
const IMPORT: &str = "`import`, seconds";
/// What an import may take, in seconds.
const IMPORT_LIMIT: f64 = 10.0;

/// Imports the file in each of `--rounds` into new nodes.
///
/// # Errors
/// When a command fails, or does something else than it is to, or the import takes too long.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let rounds = arguments.rounds(5)?;
    arguments.finish()?;
    let binary = brokers::build_warren()?;
    let (mut one, mut three) = (Figures::default(), Figures::default());
    for round in 1..=rounds {
        println!("\n# round {round} of {rounds}");
        measure(&binary, &Broker::warren(&binary, &[])?, &mut one)?;
        let cluster = Broker::warren_cluster(&binary, 3)?;
        measure(&binary, &cluster, &mut three)?;
    }
    let rows = one.rows().into_iter().zip(three.rows());
    let rows: Vec<Vec<String>> = rows
        .map(|(one, three)| [one, three[1..].to_vec()].concat())
        .collect();
    println!(
        "\nMedians of {rounds} rounds (least..most); of three nodes, the memory of the largest.\n\
         \n{}",
        markdown(
            &["100,000 queues and bindings", "one node", "three nodes"],
            &rows
        )
    );
    for (nodes, figures) in [("one node", one), ("three nodes", three)] {
        let took = figures.of(IMPORT).and_then(Series::median);
        ensure!(
            took.is_some_and(|took| took <= IMPORT_LIMIT),
            "the import into {nodes} took longer than {IMPORT_LIMIT} s"
        );
    }
    Ok(())
}

fn measure(binary: &Path, broker: &Broker, figures: &mut Figures) -> Result<()> {
    let path = broker.file("definitions.json");
    write(&path)?;
    let path = path.to_string_lossy();
    let admin = Admin::new(binary, broker);
    let add_memory = |what, figures: &mut Figures| -> Result<()> {
        let resident = largest(broker, |usage| usage.resident)?;
        figures.add(what, resident);
        Ok(())
    };
    add_memory("resident before, MiB", figures)?;
    let objects = 2 * QUEUES + EXCHANGES;
    let (took, said) = admin.timed(&["definitions", "import", &path])?;
    expect(&said, &format!("{objects} created, 0 changed, 0 deleted"))?;
    figures.add(IMPORT, took);
    thread::sleep(REST);
    add_memory("resident after the import, MiB", figures)?;
    let (took, said) = admin.timed(&["definitions", "import", &path])?;
    expect(&said, "0 created, 0 changed, 0 deleted")?;
    figures.add("`import` again, nothing to change, seconds", took);
    let (took, said) = admin.timed(&["definitions", "import", "--dry-run", &path])?;
    expect(&said, "0 would be created, 0 changed, 0 deleted")?;
    figures.add("`import --dry-run`, seconds", took);
    let exported = broker.file("exported.json");
    let words = [
        "definitions",
        "export",
        "--output",
        &exported.to_string_lossy(),
    ];
    let (took, _) = admin.timed(&words)?;
    figures.add("`export`, seconds", took);
    let text = fs::read(&exported).context("cannot read the export")?;
    let all: Value = serde_json::from_slice(&text).context("the export")?;
    for kind in ["queues", "bindings"] {
        let count = all[kind].as_array().map(Vec::len);
        ensure!(count == Some(QUEUES), "exported {kind}: {count:?}");
    }
    // It exits with 3 where anything differs.
    let (took, _) = admin.timed(&["definitions", "diff", &path])?;
    figures.add("`diff`, seconds", took);
    thread::sleep(REST);
    add_memory("resident at the end, MiB", figures)?;
    figures.add(
        "resident at most, MiB",
        largest(broker, |usage| usage.resident_peak)?,
    );
    Ok(())
}

/// The most of any node, in MiB.
///
/// # Errors
/// When one of them is gone.
pub(super) fn largest(broker: &Broker, of: impl Fn(&Usage) -> u64) -> Result<f64> {
    let mut most = 0;
    for pid in &broker.pids {
        most = most.max(of(&Usage::of(*pid)?));
    }
    Ok(most as f64 / f64::from(1 << 20))
}

fn expect(said: &str, wanted: &str) -> Result<()> {
    let is_said = said.lines().any(|line| line.starts_with(wanted));
    ensure!(is_said, "`{wanted}` was to be said: {said}");
    Ok(())
}

/// Classic and quorum queues in turn, a binding each.
fn write(path: &Path) -> Result<()> {
    let source = |at: usize| format!("orders-{}", at % EXCHANGES);
    let name = |at: usize| format!("queue-{at:06}");
    let queue = |at: usize| {
        let kind = ["classic", "quorum"][at % 2];
        contents::queue(&name(at), &json!({ "x-queue-type": kind }))
    };
    let binding = |at: usize| contents::binding(&source(at), &name(at), &format!("key-{at:06}"));
    let exchange = |at| contents::exchange(&source(at));
    let sections: Vec<(&str, Objects<'_>)> = vec![
        ("vhosts", Box::new(std::iter::once(json!({ "name": "/" })))),
        ("exchanges", Box::new((0..EXCHANGES).map(exchange))),
        ("queues", Box::new((0..QUEUES).map(queue))),
        ("bindings", Box::new((0..QUEUES).map(binding))),
    ];
    contents::write(path, sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_a_binding_of_every_queue() {
        let name = format!("warren-definitions-{}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        write(&path).expect("a file");
        let text = fs::read(&path).expect("written");
        fs::remove_file(&path).expect("removed");
        let file: Value = serde_json::from_slice(&text).expect("JSON");
        let (queues, bindings) = (&file["queues"], &file["bindings"]);
        for at in [0, 1, QUEUES - 1] {
            assert_eq!(queues[at]["name"], bindings[at]["destination"]);
        }
        assert_eq!(queues[QUEUES], Value::Null);
        assert_eq!(bindings[QUEUES], Value::Null);
    }

    #[test]
    fn what_is_said_is_compared() {
        assert!(expect("note: x\n0 created, 5 there\n", "0 created").is_ok());
        assert!(expect("10 created\n", "0 created").is_err());
    }
}
