//! `measure empty`: an empty node, from the start to the first answer, and its memory then.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::brokers::{self, Broker};
use super::process::Usage;
use super::table::{Series, markdown};
use crate::arguments::Arguments;

/// How long a node has to come to rest before its memory counts.
const REST: Duration = Duration::from_secs(3);

/// What one broker did, round by round.
#[derive(Default)]
struct Figures {
    version: String,
    start_ms: Series,
    resident_mib: Series,
    idle_cpu_percent: Series,
}

/// Starts each broker in turn, several times.
///
/// # Errors
/// When a broker does not start.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let rounds = arguments.rounds(5)?;
    arguments.finish()?;
    let warren = brokers::build_warren()?;
    let mut of_warren = Figures::default();
    let mut of_rabbitmq = Figures::default();
    for round in 1..=rounds {
        println!("\n# round {round} of {rounds}");
        let began = Instant::now();
        of_warren.add(&Broker::warren(&warren, &[])?, began)?;
        let began = Instant::now();
        if let Some(broker) = Broker::rabbitmq()? {
            of_rabbitmq.add(&broker, began)?;
        }
    }
    let row = |name: &str, figures: &Figures| {
        let Figures {
            version,
            start_ms,
            resident_mib,
            idle_cpu_percent,
        } = figures;
        let name = format!("{name} {version}");
        vec![
            name,
            start_ms.shown(),
            resident_mib.shown(),
            idle_cpu_percent.shown(),
        ]
    };
    let head = [
        "broker",
        "ready after, ms",
        "resident, MiB",
        "idle CPU, % of a core",
    ];
    let rows = [row("warren", &of_warren), row("rabbitmq", &of_rabbitmq)];
    println!(
        "\nMedians of {rounds} rounds (least..most).\n\n{}",
        markdown(&head, &rows)
    );
    Ok(())
}

impl Figures {
    fn add(&mut self, broker: &Broker, began: Instant) -> Result<()> {
        self.start_ms.0.push(began.elapsed().as_secs_f64() * 1e3);
        broker.version.clone_into(&mut self.version);
        let before = Usage::of(broker.pids[0])?;
        thread::sleep(REST);
        let after = Usage::of(broker.pids[0])?;
        let idle = (after.cpu_seconds - before.cpu_seconds) / REST.as_secs_f64();
        self.idle_cpu_percent.0.push(idle * 100.0);
        self.resident_mib
            .0
            .push(after.resident as f64 / f64::from(1 << 20));
        Ok(())
    }
}
