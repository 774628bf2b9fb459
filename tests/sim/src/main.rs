//! `warren-sim`: runs seeds, says which of them broke what.

use std::process::ExitCode;

use warren_sim::trace::{Lines, Trace};
use warren_sim::world::{Figures, Report};
use warren_sim::{cluster, world};

/// Steps of a run, of one node or of a cluster, unless told otherwise.
const STEPS: u64 = 20_000;
const CLUSTER_STEPS: u64 = 8_000;
/// Violations of one seed that are printed.
const PRINTED_MAX: usize = 10;

const USAGE: &str = "\
warren-sim [--cluster] [--seed S | --seeds N] [--start S] [--steps K] [--first]
           [--trace]

  --cluster   whole clusters instead of one node
  --seed S    run this seed
  --seeds N   run N seeds (20), from --start on (1)
  --steps K   steps of a run before it heals (20000; of a cluster 8000)
  --first     stop at the first seed that fails
  --trace     print what happens; two runs of a seed print the same
";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Arguments {
    first: u64,
    count: u64,
    cluster: bool,
    steps: u64,
    first_only: bool,
    trace: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            first: 1,
            count: 20,
            cluster: false,
            steps: 0,
            first_only: false,
            trace: false,
        };
        while let Some(word) = words.next() {
            let mut number = || {
                let value = words
                    .next()
                    .ok_or_else(|| format!("{word} needs a number"))?;
                value
                    .parse()
                    .map_err(|_| format!("{word} {value}: not a number"))
            };
            match word.as_str() {
                "--seed" => {
                    arguments.first = number()?;
                    arguments.count = 1;
                }
                "--seeds" => arguments.count = number()?,
                "--start" => arguments.first = number()?,
                "--steps" => arguments.steps = number()?,
                "--cluster" => arguments.cluster = true,
                "--first" => arguments.first_only = true,
                "--trace" => arguments.trace = true,
                _ => return Err(format!("{word}: unknown")),
            }
        }
        if arguments.steps == 0 {
            arguments.steps = if arguments.cluster {
                CLUSTER_STEPS
            } else {
                STEPS
            };
        }
        Ok(arguments)
    }

    /// The line that runs a seed of these again.
    fn replay(&self, seed: u64) -> String {
        let cluster = if self.cluster { " --cluster" } else { "" };
        let steps = self.steps;
        format!("cargo xtask sim{cluster} --seed {seed} -- --steps {steps} --trace")
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut failed = 0;
    let mut figures = Figures::default();
    for seed in arguments.first..arguments.first.saturating_add(arguments.count) {
        match run_one(seed, arguments, Trace::new(arguments.trace)) {
            Ok(report) if report.violations.is_empty() => figures.add(&report.figures),
            outcome => {
                failed += 1;
                print_failure(seed, arguments, &outcome);
                if arguments.first_only {
                    break;
                }
            }
        }
    }
    println!("{} seeds, {failed} failed; {figures:?}", arguments.count);
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// A run, or the text of its panic: a broken invariant inside the node stops it.
fn run_one(seed: u64, arguments: Arguments, trace: Trace) -> Result<Report, String> {
    let run = if arguments.cluster {
        cluster::run
    } else {
        world::run
    };
    let outcome = std::panic::catch_unwind(|| run(seed, arguments.steps, trace));
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "without a text".to_owned())
    })
}

/// What failed, how to see all of it, and what came just before: from a second run, which is the
/// same.
fn print_failure(seed: u64, arguments: Arguments, outcome: &Result<Report, String>) {
    if !arguments.trace {
        let lines = Lines::default();
        let again = run_one(seed, arguments, Trace::into_lines(lines.clone()));
        lines.print();
        if again != *outcome {
            println!("seed {seed} failed: another run of it was another one");
        }
    }
    match outcome {
        Ok(report) => {
            for violation in report.violations.iter().take(PRINTED_MAX) {
                println!("seed {seed} failed: {violation}");
            }
        }
        Err(text) => println!("seed {seed} failed: panic: {text}"),
    }
    println!("  replay: {}", arguments.replay(seed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let parse = |line: &str| Arguments::parse(line.split_whitespace().map(str::to_owned));
        let one = parse("--seed 7 --trace").expect("well formed");
        assert_eq!((one.first, one.count, one.trace), (7, 1, true));
        let many = parse("--seeds 500 --start 3 --steps 9").expect("well formed");
        assert_eq!((many.first, many.count, many.steps), (3, 500, 9));
        let clusters = parse("--cluster --seeds 3").expect("well formed");
        assert!(clusters.cluster);
        let line = "cargo xtask sim --cluster --seed 2 -- --steps 8000 --trace";
        assert_eq!(clusters.replay(2), line);
        assert!(parse("--seeds").is_err());
        assert!(parse("--seeds x").is_err());
        assert!(parse("--sedes 1").is_err());
    }
}
