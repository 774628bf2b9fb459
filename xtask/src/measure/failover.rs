//! `measure failover`: how long the clients of other nodes wait for a confirm when the leader of
//! their shards is killed, stopped or cut off. The load, the faults and the checks are those of
//! `tests/faults`; here is how often, and what came of it.

use anyhow::{Context as _, Result, bail, ensure};

use super::brokers;
use super::table::{Series, markdown};
use crate::arguments::Arguments;
use crate::run::Call;

/// A test, what it does to the leader, and how often by default for each kill.
const FAULTS: &[(&str, &str, &str, u32)] = &[
    ("cluster_kill_9", "kill", "`kill -9`", 1),
    ("cluster_stopped_process", "stop", "SIGSTOP", 5),
    (
        "cluster_partition",
        "partition",
        "all packets to and from its peers dropped",
        5,
    ),
];

/// Runs each fault many times.
///
/// # Errors
/// When a message was lost, doubled or out of order, or nothing went on.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let kills: u32 = arguments.value("--rounds")?.unwrap_or(50);
    arguments.finish()?;
    if kills == 0 {
        bail!("--rounds cannot be 0");
    }
    let warren = brokers::build_warren()?;
    let mut rows = Vec::new();
    for (test, name, what, part) in FAULTS {
        let rounds = (kills / part).max(1);
        let mut figures = Figures::default();
        // The profile of the tests, so that only what is measured is built for release.
        let profile = ["test", "--profile", crate::ci::PROFILE, "--workspace"];
        let test = ["--test", "faults", "--", "--exact", test, "--nocapture"];
        let call = Call::new("cargo").args(profile).args(test);
        call.env("WARREN_BIN", warren.to_string_lossy())
            .env("WARREN_FAULTS_ROUNDS", rounds.to_string())
            .run_watched(|line| figures.take(name, line))?;
        let found = figures.confirm.0.len();
        ensure!(
            found as u32 == rounds,
            "{found} of {rounds} rounds ran: are namespaces to be had?"
        );
        rows.push(vec![
            (*what).to_owned(),
            rounds.to_string(),
            figures.confirm.shown(),
            figures.delivery.shown(),
        ]);
    }
    let head = [
        "fault of the leader",
        "rounds",
        "first new confirm, ms",
        "first new delivery, ms",
    ];
    println!(
        "\nMedian (least..most) over the rounds, in each the slowest of 18 queues. Lost, doubled, \
         out of order: 0, or this would have failed.\n\n{}",
        markdown(&head, &rows)
    );
    Ok(())
}

/// Milliseconds, round by round.
#[derive(Default)]
struct Figures {
    confirm: Series,
    delivery: Series,
}

impl Figures {
    /// `kill: node 1 led 3 of 7 shards; on every queue first new confirm after 523 ms, first new
    /// delivery after 603 ms`.
    fn take(&mut self, name: &str, line: &str) {
        let Some((_, rest)) = line.split_once(&format!("{name}: node ")) else {
            return;
        };
        let after = |what: &str| -> Result<f64> {
            let (_, rest) = rest.split_once(what).context("not there")?;
            let figure = rest.split(' ').next().unwrap_or_default();
            figure.parse().context("no number")
        };
        if let (Ok(confirm), Ok(delivery)) = (after("confirm after "), after("delivery after ")) {
            self.confirm.0.push(confirm);
            self.delivery.0.push(delivery);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_the_suite_says() {
        let mut figures = Figures::default();
        let line = "test x ... kill: node 1 led 3 of 7 shards; on every queue first new confirm \
                    after 523 ms, first new delivery after 603 ms";
        figures.take("kill", line);
        figures.take("stop", line);
        figures.take(
            "kill",
            "2 kills, 13655 messages confirmed beside the victims",
        );
        assert_eq!(figures.confirm, Series(vec![523.0]));
        assert_eq!(figures.delivery, Series(vec![603.0]));
    }
}
