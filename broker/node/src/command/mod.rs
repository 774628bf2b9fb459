//! The command line. One file a verb; only `start` runs a node.

mod health;
mod perf;
mod start;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "warren",
    version,
    about = "A message broker that RabbitMQ's clients work with unchanged"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node (what `warren` does when it is given no command).
    Start(start::Arguments),
    /// Say whether the node on this machine answers.
    Health(health::Arguments),
    /// Put load on a broker and measure what it does.
    Perf(perf::Arguments),
}

/// Runs what the command line asks for; gives the exit code.
pub(crate) fn run() -> i32 {
    let command = CommandLine::parse().command;
    let result = match command {
        None => start::run(&start::Arguments::default()),
        Some(Command::Start(arguments)) => start::run(&arguments),
        Some(Command::Health(arguments)) => health::run(&arguments),
        Some(Command::Perf(arguments)) => perf::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("warren: {error:#}");
            1
        }
    }
}
