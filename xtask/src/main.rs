//! Tasks of the workspace: `cargo xtask help` lists them.
//!
//! Every task prints each command before it runs it, so that any step can be repeated by hand.

mod arguments;
mod bench;
mod ci;
mod codegen;
mod counts;
mod docker;
mod layers;
mod measure;
mod run;
mod sim;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};
use arguments::Arguments;

const HELP: &str = "\
cargo xtask TASK

  check                 fmt, clippy, tidy, unit tests, 20 simulator seeds: before every commit
  ci                    everything: check, all tests, 200 seeds, real clients, fuzz smoke, docs
  tidy                  the house rules that no compiler knows: layers, words, lengths, headers
  codegen [--check]     writes the generated files; with --check fails when one is stale
  docker                lints docker/, and checks the command line of each service with `warren`
  sim                   runs the simulator
      --seeds N         that many seeds (default 20)
      --seed S          this one seed
      --cluster         several nodes instead of one
      --break NAME      build with that safety broken on purpose; passes only if it is caught
      --release         with the release profile instead of `ci`
      -- ARGS           passed to the simulator as they stand
  bench [FILTER]        criterion benchmarks; `bench -- ARGS` passes ARGS to criterion
      --check           instead counts instructions of the hot paths (needs valgrind), and fails
                        when one has grown by more than 5 %; --write makes these the limits
  measure NAME          starts brokers and measures them; without a name lists what there is;
                        WARREN_BIN names a `warren` to measure in place of one that is built
      --rounds N        that many rounds, of which the medians count (default 5; of `failover` 50)
      --only TEXT       of `versus` and `cluster`, the loads whose name contains TEXT
  help                  this text
";

fn main() -> ExitCode {
    if let Some(code) = sim::as_compiler() {
        return code;
    }
    match task(&mut Arguments::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn task(arguments: &mut Arguments) -> Result<()> {
    let Some(name) = arguments.next_word() else {
        bail!("name a task\n\n{HELP}");
    };
    match name.as_str() {
        "check" => arguments.finish().and_then(|()| ci::check()),
        "ci" => arguments.finish().and_then(|()| ci::ci()),
        "docker" => arguments.finish().and_then(|()| docker::run()),
        "tidy" => arguments.finish().and_then(|()| tidy::run()),
        "sim" => sim::Options::parse(arguments).and_then(|options| sim::run(&options)),
        "codegen" => {
            let check = arguments.flag("--check");
            arguments.finish().and_then(|()| codegen::run(check))
        }
        "bench" => bench::run(arguments),
        "measure" => measure::run(arguments),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("there is no task `{other}`\n\n{HELP}"),
    }
}
