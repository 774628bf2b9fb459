//! The broker under test: one that runs already, or a `warren`, or a cluster of some, that is
//! started for the tests.
//!
//! A started node gets free ports, an empty data folder and its log in a file; it must print its
//! ready line within `READY_LIMIT` and must exit with 0 within `STOP_LIMIT` of a SIGTERM. Of a
//! cluster each client is given another node.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::outcome::Outcome;

const READY_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// For a cluster's shards to have all their replicas.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Nodes that `WARREN_CLUSTER` can ask for.
const NODES_MAX: usize = 9;
/// The clients, in the order in which they get nodes.
const CLIENTS: [&str; 6] = ["raw", "lapin", "pika", "amqplib", "amqp091-go", "java"];
/// Milliseconds that a started broker waits for a handshake; RabbitMQ's own default is 10 s.
const HANDSHAKE_TIMEOUT_MS: &str = "3000";

/// Where tests keep what they build and write.
pub(crate) fn scratch_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance")
}

/// The broker under test.
pub(crate) struct Broker {
    source: Source,
    started: OnceLock<Result<Vec<String>, String>>,
    running: Mutex<Vec<Running>>,
}

enum Source {
    Urls(Vec<String>),
    Binary {
        binary: PathBuf,
        nodes: usize,
    },
    /// With what to do about it.
    None(String),
}

struct Running {
    child: Child,
    folder: PathBuf,
}

impl Broker {
    /// Reads `AMQP_URL`, `WARREN_BIN` and `WARREN_CLUSTER`; starts nothing yet.
    pub(crate) fn from_environment() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let source = match (set("AMQP_URL"), set("WARREN_BIN")) {
            (Some(urls), _) => Source::Urls(urls.split(',').map(str::to_owned).collect()),
            (None, Some(binary)) => match set("WARREN_CLUSTER").map(|text| text.parse()) {
                None => Source::binary(binary, 1),
                Some(Ok(nodes @ 1..=NODES_MAX)) => Source::binary(binary, nodes),
                Some(_) => Source::None(format!("WARREN_CLUSTER wants a number up to {NODES_MAX}")),
            },
            (None, None) => Source::None(
                "set AMQP_URL (a running broker) or WARREN_BIN (the warren to start)".to_owned(),
            ),
        };
        Self {
            source,
            started: OnceLock::new(),
            running: Mutex::default(),
        }
    }

    /// The AMQP URL that a client tests, starting the broker at first use.
    pub(crate) fn url(&self, client: &str) -> Result<&str, Outcome> {
        let urls = match &self.source {
            Source::Urls(urls) => urls,
            Source::None(reason) => return Err(Outcome::Ignored(reason.clone())),
            Source::Binary { binary, nodes } => {
                let started = self.started.get_or_init(|| self.start(binary, *nodes));
                let failed = |reason: &String| Outcome::Failed(reason.clone());
                started.as_ref().map_err(failed)?
            }
        };
        let at = CLIENTS.iter().position(|known| *known == client);
        let at = at.expect("every client is in the list");
        Ok(&urls[at % urls.len()])
    }

    fn start(&self, binary: &Path, nodes: usize) -> Result<Vec<String>, String> {
        let mut urls = Vec::new();
        let mut first = None;
        for node in 0..nodes {
            let name = format!("broker-{}-{node}", std::process::id());
            let folder = scratch_folder().join(name);
            let ready = self.start_node(binary, &folder, first.as_ref())?;
            urls.push(format!("amqp://guest:guest@{}/%2f", field(&ready, "amqp")?));
            if first.is_none() {
                let cluster = field(&ready, "cluster")?;
                first = Some(First { folder, cluster });
            }
        }
        if let Some(first) = first.filter(|_| nodes > 1) {
            settle(binary, &first.folder, nodes)?;
        }
        Ok(urls)
    }

    /// Starts a node; gives its ready line.
    fn start_node(
        &self,
        binary: &Path,
        folder: &Path,
        first: Option<&First>,
    ) -> Result<String, String> {
        let (child, ready) = spawn(binary, folder, first)
            .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let log = folder.join("log");
        self.running
            .lock()
            .expect("no holder panics")
            .push(Running {
                child,
                folder: folder.to_owned(),
            });
        ready.recv_timeout(READY_LIMIT).map_err(|error| {
            let reason = match error {
                RecvTimeoutError::Timeout => format!("no ready line within {READY_LIMIT:?}"),
                RecvTimeoutError::Disconnected => "it ended without a ready line".to_owned(),
            };
            let binary = binary.display();
            format!("{binary}: {reason}; the log ends: {}", tail(&log))
        })
    }

    /// Stops a started broker with SIGTERM, node by node; each must exit with 0. Nothing to do for
    /// any other.
    pub(crate) fn stop(&self) -> Result<(), String> {
        let running = std::mem::take(&mut *self.running.lock().expect("no holder panics"));
        for mut running in running {
            let status = terminate(&mut running.child)?;
            if !status.success() {
                let log = tail(&running.folder.join("log"));
                return Err(format!("it ended with {status}; the log ends: {log}"));
            }
            fs::remove_dir_all(&running.folder).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

impl Source {
    fn binary(binary: String, nodes: usize) -> Self {
        Self::Binary {
            binary: PathBuf::from(binary),
            nodes,
        }
    }
}

/// The node that the others join.
struct First {
    folder: PathBuf,
    cluster: String,
}

/// What a ready line says under this name.
fn field(ready: &str, name: &str) -> Result<String, String> {
    let mut words = ready.split_whitespace();
    let word = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let word = word.ok_or_else(|| format!("the ready line names no {name} address: {ready}"))?;
    Ok(word.to_owned())
}

/// Waits until all shards are where they are to be, as the cluster says.
fn settle(binary: &Path, folder: &Path, nodes: usize) -> Result<(), String> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        let mut status = Command::new(binary);
        status.args(["cluster", "status", "--json", "--data-dir"]);
        let output = status.arg(folder.join("data")).output();
        let output = output.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        let document: Option<serde_json::Value> = serde_json::from_str(&said).ok();
        let settled = document.is_some_and(|status| {
            let there = status["nodes"].as_array().map_or(0, Vec::len);
            there == nodes && status["settled"] == true
        });
        if settled {
            return Ok(());
        }
        if Instant::now() > deadline {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(format!("not settled in {SETTLE_LIMIT:?}: {said} {error}"));
        }
        // tidy: allow sleep: between two looks; the deadline above bounds it
        thread::sleep(Duration::from_millis(100));
    }
}

impl Drop for Running {
    /// A panicking runner leaves no process behind.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts the binary; the receiver gets its ready line, or closes when it ends without one.
fn spawn(
    binary: &Path,
    folder: &Path,
    first: Option<&First>,
) -> std::io::Result<(Child, mpsc::Receiver<String>)> {
    fs::create_dir_all(folder)?;
    let mut command = Command::new(binary);
    command
        .arg("start")
        .arg("--data-dir")
        .arg(folder.join("data"));
    for flag in [
        "--amqp-addr",
        "--http-addr",
        "--metrics-addr",
        "--cluster-addr",
    ] {
        command.args([flag, "127.0.0.1:0"]);
    }
    let token = first.map_or(folder, |first| &first.folder).join("token");
    command.arg("--bootstrap-token-file").arg(token);
    if let Some(first) = first {
        command.arg("--join").arg(&first.cluster);
    }
    let mut child = command
        .env_remove("WARREN_CLUSTER")
        .env("WARREN_HANDSHAKE_TIMEOUT", HANDSHAKE_TIMEOUT_MS)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(folder.join("log"))?)
        .spawn()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.starts_with("ready ") {
                let _ = sender.send(line);
            }
        }
    });
    Ok((child, receiver))
}

fn terminate(child: &mut Child) -> Result<ExitStatus, String> {
    let pid = child.id().to_string();
    Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .map_err(|error| format!("cannot run kill: {error}"))?;
    let deadline = Instant::now() + STOP_LIMIT;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            return Err(format!("it still ran {STOP_LIMIT:?} after SIGTERM"));
        }
        // tidy: allow sleep: a child's end can only be polled for; the deadline above bounds it
        thread::sleep(Duration::from_millis(20));
    }
}

/// The last lines of a log file, on one line.
pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join(" | ")
}
