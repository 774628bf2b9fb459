//! The checks of `list::CHECKS` through lapin, each an async function of its own name.
//!
//! Each has `CHECK_LIMIT` in all and names what it was waiting for; what it declared is deleted
//! afterwards, whether it passed or not.

mod connection;
mod context;
mod delivery;
mod exchange;
mod message;
mod queue;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libtest_mimic::Trial;
use tokio::runtime::Runtime;

use self::context::Context;
use crate::broker::Broker;
use crate::outcome::{CheckResult, Outcome, Stop};
use crate::{broker_trial, list};

const CHECK_LIMIT: Duration = Duration::from_secs(20);

type CheckFuture<'a> = Pin<Box<dyn Future<Output = CheckResult> + Send + 'a>>;
type Check = for<'a> fn(&'a Context) -> CheckFuture<'a>;

/// Pairs each function with its name.
macro_rules! checks {
    ($($check:ident),* $(,)?) => {
        &[$((stringify!($check), |context| Box::pin($check(context)))),*]
    };
}
use checks;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a process can start two threads")
});

/// One trial for each check; a listed check without a function fails.
pub(crate) fn trials(broker: &Arc<Broker>) -> Vec<Trial> {
    let groups = [
        connection::CHECKS,
        queue::CHECKS,
        message::CHECKS,
        delivery::CHECKS,
        exchange::CHECKS,
    ];
    let known: HashMap<&str, Check> = groups.into_iter().flatten().copied().collect();
    list::checks_of("lapin")
        .into_iter()
        .map(|name| {
            let check = known.get(name).copied();
            broker_trial(
                format!("lapin::{name}"),
                broker,
                move |_, url| match check {
                    Some(check) => RUNTIME.block_on(run(name, check, url)),
                    None => Outcome::Failed("the suite has no such check".to_owned()),
                },
            )
        })
        .collect()
}

async fn run(name: &'static str, check: Check, url: &str) -> Outcome {
    let context = Context::new(name, url);
    let result = match tokio::time::timeout(CHECK_LIMIT, check(&context)).await {
        Ok(result) => result,
        Err(_) => Err(Stop::Failed(format!("not done after {CHECK_LIMIT:?}"))),
    };
    let cleaned = match tokio::time::timeout(CHECK_LIMIT, context.clean_up()).await {
        Ok(cleaned) => cleaned,
        Err(_) => Err(Stop::Failed(format!(
            "clean-up not done after {CHECK_LIMIT:?}"
        ))),
    };
    result.and(cleaned).into()
}
