//! What no client library would send: bare sockets and frames encoded by hand.
//!
//! Each check runs on a thread of the test harness with a deadline for every read, and ends with a
//! well-behaved connection: whatever the bad peer did, it cost only its own connection.

mod channels;
mod frames;
mod handshake;
mod peers;
mod wire;

use std::sync::Arc;

use libtest_mimic::Trial;

use self::wire::{Peer, Target};
use crate::broker::Broker;
use crate::broker_trial;
use crate::outcome::{CheckResult, Stop};

/// What a broker says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    /// (major, minor) of `server_properties.version`.
    pub(crate) version: (u32, u32),
    pub(crate) is_warren: bool,
}

/// Asks the broker for its server properties.
pub(crate) fn server(url: &str) -> Result<Server, Stop> {
    let start = Peer::connect(&Target::parse(url)?)?.start()?;
    let text = start.property("version").unwrap_or_default();
    let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => Ok(Server {
            version: (major, minor),
            is_warren: start
                .property("platform")
                .is_some_and(|name| name.contains("Warren")),
        }),
        _ => Err(Stop::Failed(format!(
            "version {text:?} is not dotted decimal"
        ))),
    }
}

type Check = fn(&Target) -> CheckResult;

/// Pairs each function with its name.
macro_rules! checks {
    ($($check:ident),* $(,)?) => {
        &[$((stringify!($check), $check)),*]
    };
}
use checks;

/// One trial for each check.
pub(crate) fn trials(broker: &Arc<Broker>) -> Vec<Trial> {
    let groups = [
        handshake::CHECKS,
        frames::CHECKS,
        channels::CHECKS,
        peers::CHECKS,
    ];
    let checks: Vec<(&str, Check)> = groups.into_iter().flatten().copied().collect();
    checks
        .into_iter()
        .map(|(name, check)| {
            broker_trial(format!("raw::{name}"), broker, move |_, url| {
                run(check, url).into()
            })
        })
        .collect()
}

fn run(check: Check, url: &str) -> CheckResult {
    let target = Target::parse(url)?;
    check(&target)?;
    let mut witness = Peer::open(&target).map_err(|stop| {
        Stop::Failed(format!("another client cannot connect after it: {stop:?}"))
    })?;
    witness.close()
}

/// Skips the check when the broker is an older RabbitMQ.
fn since(target: &Target, major: u32, minor: u32, reason: &str) -> CheckResult {
    if server(&target.url)?.version < (major, minor) {
        return Err(Stop::Skipped(format!("since {major}.{minor} {reason}")));
    }
    Ok(())
}
