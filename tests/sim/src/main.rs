//! `warren-sim`: runs seeds, says which of them broke what.

use std::process::ExitCode;

use warren_sim::trace::Trace;
use warren_sim::world::{Figures, Report, run};

/// Steps of a run, unless told otherwise.
const STEPS: u64 = 20_000;
/// Violations of one seed that are printed.
const PRINTED_MAX: usize = 10;

const USAGE: &str = "\
warren-sim [--seed S | --seeds N] [--start S] [--steps K] [--trace]

  --seed S    run this seed
  --seeds N   run N seeds (20), from --start on (1)
  --steps K   steps of a run before it heals (20000)
  --trace     print what happens; two runs of a seed print the same
";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Arguments {
    first: u64,
    count: u64,
    steps: u64,
    trace: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            first: 1,
            count: 20,
            steps: STEPS,
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
                "--trace" => arguments.trace = true,
                _ => return Err(format!("{word}: unknown")),
            }
        }
        Ok(arguments)
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
        match run_one(seed, arguments) {
            Ok(report) if report.violations.is_empty() => figures.add(&report.figures),
            Ok(report) => {
                failed += 1;
                print_failure(seed, arguments.steps, &report);
            }
            Err(text) => {
                failed += 1;
                println!("seed {seed} failed: panic: {text}");
                print_replay(seed, arguments.steps);
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
fn run_one(seed: u64, arguments: Arguments) -> Result<Report, String> {
    let trace = Trace::new(arguments.trace);
    let outcome = std::panic::catch_unwind(|| run(seed, arguments.steps, trace));
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "without a text".to_owned())
    })
}

fn print_failure(seed: u64, steps: u64, report: &Report) {
    for violation in report.violations.iter().take(PRINTED_MAX) {
        println!("seed {seed} failed: {violation}");
    }
    print_replay(seed, steps);
}

fn print_replay(seed: u64, steps: u64) {
    println!("  replay: cargo xtask sim --seed {seed} -- --steps {steps} --trace");
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
        assert!(parse("--seeds").is_err());
        assert!(parse("--seeds x").is_err());
        assert!(parse("--sedes 1").is_err());
    }
}
