//! Load by `warren perf`, and what it found.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::broker::Node;
use crate::folder::tail;
use crate::system;

/// A load that runs; stopped when it is dropped.
pub(crate) struct Perf {
    child: Child,
    summary: Option<JoinHandle<String>>,
    log: PathBuf,
}

/// What came of a load: the fields of `docs/load-testing.md`.
#[derive(Debug)]
pub(crate) struct Summary(Value);

impl Perf {
    /// Starts `warren perf LOAD` against a node; `flags` as on a command line, split at spaces.
    pub(crate) fn start(node: &Node, load: &str, flags: &str) -> Result<Self> {
        Self::start_at(node, &[node.uri()], load, flags)
    }

    /// The same against several nodes; its log is in the folder of `node`.
    pub(crate) fn start_at(node: &Node, uris: &[String], load: &str, flags: &str) -> Result<Self> {
        let log = node.folder().join("perf-log");
        let mut child = Command::new(node.binary())
            .args(["perf", load, "--json", "--uri", &uris.join(",")])
            .args(flags.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()?;
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let summary = thread::spawn(move || {
            let mut text = String::new();
            // What cannot be read is no summary, which `wait` says.
            let _ = stdout.read_to_string(&mut text);
            text
        });
        Ok(Self {
            child,
            summary: Some(summary),
            log,
        })
    }

    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for the end of the load, which must have gone well.
    pub(crate) fn wait(mut self, limit: Duration) -> Result<Summary> {
        let status = system::wait(&mut self.child, limit)
            .with_context(|| format!("warren perf says: {}", tail(&self.log)))?;
        let reader = self.summary.take().expect("it is taken once");
        let text = reader.join().unwrap_or_default();
        ensure!(
            status.success(),
            "warren perf ended with {status}: {} {}",
            text.trim(),
            tail(&self.log)
        );
        let summary = Summary(serde_json::from_str(&text).context("no summary")?);
        ensure!(summary.0["ok"] == true, "warren perf found: {text}");
        Ok(summary)
    }
}

impl Drop for Perf {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Summary {
    /// A count.
    pub(crate) fn count(&self, field: &str) -> Result<u64> {
        let value = self.0[field].as_u64();
        value.with_context(|| format!("the summary has no {field}: {}", self.0))
    }

    /// A number in `part` of the summary, such as `drain_phase`, for people to read.
    pub(crate) fn figure(&self, part: &str, field: &str) -> f64 {
        self.0[part][field].as_f64().unwrap_or(f64::NAN)
    }
}
