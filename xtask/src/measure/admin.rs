//! `warren` as administrators use it: with the certificate of a node's folder, and a limit of time
//! for whatever it does or is waited for.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::brokers::Broker;
use crate::run::Call;

/// For one command, and for what is waited for.
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// Who may do everything to a broker.
#[derive(Debug)]
pub(super) struct Admin {
    binary: PathBuf,
    data: PathBuf,
}

impl Admin {
    /// Asks the first node of `broker`.
    pub(super) fn new(binary: &Path, broker: &Broker) -> Self {
        Self {
            binary: binary.to_owned(),
            data: broker.data.clone(),
        }
    }

    /// A command that `timeout` ends with an exit status of 124.
    fn call(&self, words: &[&str], limit: Duration) -> Call {
        Call::new("timeout")
            .arg(limit.as_secs().to_string())
            .arg(self.binary.to_string_lossy())
            .args(words.iter().copied())
            .arg("--data-dir")
            .arg(self.data.to_string_lossy())
    }

    /// Carries a command out; how many seconds it took, and what it said.
    ///
    /// # Errors
    /// When it fails, or takes longer than the limit.
    pub(super) fn timed(&self, words: &[&str]) -> Result<(f64, String)> {
        self.timed_within(words, LIMIT)
    }

    /// The same with a limit of its own.
    ///
    /// # Errors
    /// As [`Self::timed`].
    pub(super) fn timed_within(&self, words: &[&str], limit: Duration) -> Result<(f64, String)> {
        let call = self.call(words, limit);
        let began = Instant::now();
        let said = call
            .output()
            .with_context(|| format!("after {:.1} s", began.elapsed().as_secs_f64()))?;
        Ok((began.elapsed().as_secs_f64(), said))
    }

    /// Asks for something.
    ///
    /// # Errors
    /// As [`Self::timed`], or when the answer is no JSON.
    pub(super) fn json(&self, words: &[&str]) -> Result<Value> {
        let said = self.call(words, LIMIT).arg("--json").quiet().output()?;
        serde_json::from_str(&said).with_context(|| format!("answer to {words:?}"))
    }
}

/// What a status says of the node with this number among those of `warren dev`. Ids are given in
/// the order of joining, which is another one.
pub(super) fn node(status: &Value, number: usize) -> Option<&Value> {
    let name = format!("warren{number}@localhost");
    let mut nodes = status["nodes"].as_array()?.iter();
    nodes.find(|node| node["name"] == *name)
}

/// Looks again and again; how many seconds it took.
///
/// # Errors
/// When it is not there within the limit, or cannot be looked for.
pub(super) fn wait(what: &str, mut is_there: impl FnMut() -> Result<bool>) -> Result<f64> {
    let began = Instant::now();
    while !is_there()? {
        if began.elapsed() > LIMIT {
            bail!("no sign of {what} within {LIMIT:?}");
        }
        thread::sleep(POLL);
    }
    Ok(began.elapsed().as_secs_f64())
}
