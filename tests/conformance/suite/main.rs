//! The conformance suite: real AMQP 0-9-1 clients, and bare sockets, against one broker.
//!
//! With `AMQP_URL` set the broker behind it is tested (several URLs, with commas: each client gets
//! another one); else the `warren` that `WARREN_BIN` names is started on free ports,
//! `WARREN_CLUSTER` of it as one cluster, and stopped at the end; with neither every test is
//! reported as ignored.
//! A test is one (client, check): `lapin::nack_requeue`, `pika::nack_requeue`,
//! `raw::truncated_frame`. What always holds: nothing waits without a limit, a missing language
//! runtime is reported by name (and is a failure when `CI=true`), and a check that an older
//! RabbitMQ cannot pass says since when.

mod broker;
mod lapin_client;
mod list;
mod outcome;
mod programs;
mod raw;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use crate::broker::Broker;
use crate::outcome::Outcome;
use crate::programs::Program;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let broker = Arc::new(Broker::from_environment());
    let mut trials = raw::trials(&broker);
    trials.extend(lapin_client::trials(&broker));
    for (name, language) in programs::LANGUAGES {
        trials.extend(program_trials(&args, &broker, name, *language));
    }
    let conclusion = libtest_mimic::run(&args, trials);
    let stopped = broker.stop();
    if let Err(reason) = &stopped {
        eprintln!("the broker did not stop cleanly: {reason}");
    }
    if conclusion.has_failed() || stopped.is_err() {
        ExitCode::from(101)
    } else {
        ExitCode::SUCCESS
    }
}

/// One trial for each check of a client; the client's program runs once, for all that are selected.
fn program_trials(
    args: &Arguments,
    broker: &Arc<Broker>,
    client: &'static str,
    language: programs::Language,
) -> Vec<Trial> {
    let checks = list::checks_of(client);
    let trial_name = |check: &str| format!("{client}::{check}");
    let selected = checks
        .iter()
        .copied()
        .filter(|check| !args.is_filtered_out(&Trial::test(trial_name(check), || Ok(()))))
        .collect();
    let program = Arc::new(Program::new(client, language, selected));
    checks
        .iter()
        .map(|check| {
            let (broker, program, check) = (broker.clone(), program.clone(), *check);
            Trial::ignorable_test(trial_name(check), move || match broker.url(client) {
                Ok(url) => program.outcome(url, check).into_completion(),
                Err(unavailable) => unavailable.into_completion(),
            })
        })
        .collect()
}

/// A trial that needs nothing but the broker's URL.
fn broker_trial(
    name: String,
    broker: &Arc<Broker>,
    run: impl FnOnce(&Broker, &str) -> Outcome + Send + 'static,
) -> Trial {
    let broker = broker.clone();
    let client = name.split("::").next().unwrap_or_default().to_owned();
    Trial::ignorable_test(name, move || match broker.url(&client) {
        Ok(url) => run(&broker, url).into_completion(),
        Err(unavailable) => unavailable.into_completion(),
    })
}
