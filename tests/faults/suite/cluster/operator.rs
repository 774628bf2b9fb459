//! What an operator has: the `warren` command, the administrator's certificate, and the events.
//!
//! A verb is a process of its own, which must end within `VERB_LIMIT`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::broker::{Node, Process};
use crate::system;

/// For a verb that waits until a node leads nothing, or has left.
const VERB_LIMIT: Duration = Duration::from_secs(60);
const EVENT_LIMIT: Duration = Duration::from_secs(30);

/// Somebody who has the administrator's certificate, and asks one node.
pub(crate) struct Operator {
    binary: PathBuf,
    folder: PathBuf,
    server: String,
}

/// What a verb that succeeded has printed.
pub(crate) struct Said {
    pub(crate) out: String,
    /// Its progress, too.
    pub(crate) err: String,
}

/// Shards by their ids.
pub(crate) type Shards = BTreeMap<u64, Shard>;

/// A shard as `warren shard list` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shard {
    pub(crate) leader: u64,
    /// Nodes that vote and are to go on voting.
    pub(crate) voters: Vec<u64>,
}

impl Operator {
    /// `folder_of` is the node that has the certificate, `server` the one that is asked.
    pub(crate) fn new(folder_of: &Node, server: &Node) -> Self {
        Self {
            binary: folder_of.binary().to_owned(),
            folder: folder_of.data().to_owned(),
            server: server.address("cluster"),
        }
    }

    fn verb(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(words)
            .arg("--data-dir")
            .arg(&self.folder)
            .args(["--server", &self.server])
            .env_remove("WARREN_PASSWORD")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn end_of(&self, words: &[&str]) -> Result<Output> {
        let mut child = self.verb(words).spawn()?;
        if let Err(error) = system::wait(&mut child, VERB_LIMIT) {
            child.kill()?;
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(error.context(format!("{words:?} said: {said}")));
        }
        Ok(child.wait_with_output()?)
    }

    /// Runs a verb that must succeed.
    pub(crate) fn does(&self, words: &[&str]) -> Result<Said> {
        let output = self.end_of(words)?;
        let out = String::from_utf8(output.stdout)?;
        let err = String::from_utf8(output.stderr)?;
        let code = output.status.code();
        ensure!(code == Some(0), "{words:?} ended with {code:?}: {out}{err}");
        Ok(Said { out, err })
    }

    /// Runs a verb that must fail, with exit code 1 and a reason; gives that.
    pub(crate) fn is_refused(&self, words: &[&str]) -> Result<String> {
        let output = self.end_of(words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        ensure!(code == Some(1), "{words:?} ended with {code:?}: {said}");
        ensure!(!said.trim().is_empty(), "{words:?} gives no reason");
        Ok(said)
    }

    /// Runs a verb that must answer what nobody hopes for, with exit code 3.
    pub(crate) fn is_told_no(&self, words: &[&str]) -> Result<String> {
        let output = self.end_of(words)?;
        let (out, code) = (String::from_utf8(output.stdout)?, output.status.code());
        ensure!(code == Some(3), "{words:?} ended with {code:?}: {out}");
        Ok(out)
    }

    /// Runs a verb that must succeed and shows on stderr how far it is, although that is a pipe.
    pub(crate) fn does_in_steps(&self, words: &[&str]) -> Result<Said> {
        let said = self.does(words)?;
        let what = words.get(1).context("a verb has two words")?;
        let mut lines = said.err.lines();
        let is_progress = |line: &str| {
            let parts = line.strip_prefix(what).and_then(|it| it.strip_prefix(": "));
            let numbers = parts.and_then(|it| it.strip_suffix(" parts")?.split_once(" of "));
            numbers.is_some_and(|(done, total)| {
                matches!((done.parse::<u32>(), total.parse::<u32>()), (Ok(done), Ok(total))
                    if done <= total)
            })
        };
        ensure!(
            lines.any(is_progress),
            "{words:?}: no progress: {}",
            said.err
        );
        Ok(said)
    }

    pub(crate) fn json(&self, words: &[&str]) -> Result<Value> {
        let words: Vec<_> = words.iter().copied().chain(["--json"]).collect();
        let said = self.does(&words)?;
        serde_json::from_str(&said.out).with_context(|| format!("{words:?}: {}", said.out))
    }

    /// A node of `cluster status`, by its id; nothing where it is no member.
    pub(crate) fn status_of(&self, id: u64) -> Result<Option<Value>> {
        let status = self.json(&["cluster", "status"])?;
        let nodes = status["nodes"].as_array().context("has no nodes")?;
        Ok(nodes.iter().find(|node| node["id"] == id).cloned())
    }

    /// What `shard list` says.
    pub(crate) fn shards(&self) -> Result<Shards> {
        let list = self.json(&["shard", "list"])?;
        let list = list.as_array().context("`shard list` gives no list")?;
        let shards = list.iter().map(|it| {
            let shard = shard(it).with_context(|| format!("`shard list` has {it}"))?;
            let id = it["id"].as_u64().context("a shard has no id")?;
            Ok((id, shard))
        });
        shards.collect()
    }

    /// Watches what happens, by a process that goes on in the background.
    pub(crate) fn watches(&self) -> Result<Events> {
        let mut child = self.verb(&["cluster", "events"]).spawn()?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let lines = Arc::default();
        let shared: Arc<Mutex<Vec<String>>> = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut lines = shared.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push(line);
            }
        });
        Ok(Events {
            process: Process(child),
            lines,
        })
    }
}

fn shard(value: &Value) -> Option<Shard> {
    let replicas = value["replicas"].as_array()?.iter();
    let voters = replicas.filter(|it| it["role"] == "voter");
    let voters: Option<Vec<u64>> = voters.map(|it| it["node"].as_u64()).collect();
    Some(Shard {
        leader: value["leader"].as_u64()?,
        voters: voters?,
    })
}

/// `warren cluster events` in the background, and its lines so far.
pub(crate) struct Events {
    process: Process,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Events {
    fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock();
        lines.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many there were so far.
    pub(crate) fn mark(&self) -> usize {
        self.lines().len()
    }

    /// Waits for an event of this kind whose text has `words`, after the first `mark` ones.
    pub(crate) fn must_tell(&self, mark: usize, kind: &str, words: &str) -> Result<()> {
        let is_it = |line: &String| {
            let mut parts = line.split_whitespace();
            let is_timed = parts.next().is_some_and(|time| time.contains(':'));
            is_timed && parts.next() == Some(kind) && line.contains(words)
        };
        let found = system::until(&format!("`{kind} .. {words}`"), EVENT_LIMIT, || {
            Ok(self.lines().iter().skip(mark).any(is_it))
        });
        found.map_err(|error| error.context(anyhow!("told: {}", self.lines().join("\n"))))
    }

    /// Waits for the end of the process, whose node has gone: it must fail.
    pub(crate) fn must_end(mut self) -> Result<()> {
        let status = system::wait(&mut self.process.0, EVENT_LIMIT)
            .context("whoever watches the events of a node that has gone")?;
        if status.success() {
            bail!("events ended as if there were no more: {status}");
        }
        Ok(())
    }
}
