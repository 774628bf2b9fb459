//! `measure failover`: how long the clients of other nodes wait for a confirm when the leader of
//! their shards is killed, stopped or cut off. The load, the faults and the checks are those of
//! `tests/faults`; here is how often, and what came of it.

use anyhow::{Context as _, Result, ensure};

use super::brokers;
use super::table::{Series, markdown, number};
use crate::arguments::Arguments;
use crate::run::Call;

/// Something that is done to a leader.
struct Fault {
    test: &'static str,
    /// In what the test says.
    name: &'static str,
    what: &'static str,
    /// How many kills there are for each of it.
    kills: usize,
    /// Milliseconds until the first new confirm, of the slowest queue.
    limit: f64,
}

const FAULTS: &[Fault] = &[
    Fault {
        test: "cluster_kill_9",
        name: "kill",
        what: "`kill -9`",
        kills: 1,
        limit: 1000.0,
    },
    Fault {
        test: "cluster_stopped_process",
        name: "stop",
        what: "SIGSTOP",
        kills: 5,
        limit: 2000.0,
    },
    Fault {
        test: "cluster_partition",
        name: "partition",
        what: "all packets to and from its peers dropped",
        kills: 5,
        limit: 2000.0,
    },
];

/// Runs each fault many times.
///
/// # Errors
/// When a message was lost, doubled or out of order, or a confirm came later than it may.
pub(super) fn run(arguments: &mut Arguments) -> Result<()> {
    let kills = arguments.rounds(50)?;
    arguments.finish()?;
    let warren = brokers::build_warren()?;
    let (mut rows, mut beyond) = (Vec::new(), Vec::new());
    for fault in FAULTS {
        let Fault { test, what, .. } = fault;
        let rounds = (kills / fault.kills).max(1);
        let mut figures = Figures::default();
        // The profile of the tests, so that only what is measured is built for release.
        let profile = ["test", "--profile", crate::ci::PROFILE, "--workspace"];
        let test = ["--test", "faults", "--", "--exact", test, "--nocapture"];
        let call = Call::new("cargo").args(profile).args(test);
        let ran = call
            .env("WARREN_BIN", warren.to_string_lossy())
            .env("WARREN_FAULTS_ROUNDS", rounds.to_string())
            .run_watched(|line| figures.take(fault.name, line));
        let found = figures.confirm.0.len();
        ran.with_context(|| format!("{what}: failed, and {found} of {rounds} rounds had figures"))?;
        beyond.extend(figures.beyond(fault));
        ensure!(
            found == rounds,
            "{found} of {rounds} rounds ran: are namespaces to be had?"
        );
        rows.push(vec![
            (*what).to_owned(),
            rounds.to_string(),
            figures.confirm.shown(),
            format!("≤ {}", number(fault.limit)),
            figures.delivery.shown(),
        ]);
    }
    let head = [
        "fault of the leader",
        "rounds",
        "first new confirm, ms",
        "reach",
        "first new delivery, ms",
    ];
    println!(
        "\nMedian (least..most) over the rounds, in each the slowest of 18 queues. Lost, doubled, \
         out of order: 0, or this would have failed.\n\n{}",
        markdown(&head, &rows)
    );
    ensure!(
        beyond.is_empty(),
        "the first new confirm was late:\n{}",
        beyond.join("\n")
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
    /// The rounds whose confirm came too late.
    fn beyond(&self, fault: &Fault) -> Vec<String> {
        let Fault { what, limit, .. } = fault;
        let rounds = (1..).zip(&self.confirm.0);
        let late = rounds.filter(|(_, took)| *took > limit);
        late.map(|(round, took)| format!("{what}, round {round}: {took} ms, {limit} at most"))
            .collect()
    }

    /// `kill: node 1 led 3 of 7 shards, 8 of 18 queues; on every queue first new confirm after
    /// 523 ms, first new delivery after 603 ms`.
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
    fn rounds_that_are_late_are_named() {
        let figures = Figures {
            confirm: Series(vec![523.0, 1001.0, 1000.0]),
            ..Figures::default()
        };
        assert_eq!(
            figures.beyond(&FAULTS[0]),
            ["`kill -9`, round 2: 1001 ms, 1000 at most"]
        );
        assert_eq!(figures.beyond(&FAULTS[1]), [""; 0]);
    }

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
