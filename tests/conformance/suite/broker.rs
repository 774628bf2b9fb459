//! The broker under test: one that runs already, or a `warren` that is started for the tests.
//!
//! A started broker gets free ports, an empty data folder and its log in a file; it must print its
//! ready line within `READY_LIMIT` and must exit with 0 within `STOP_LIMIT` of a SIGTERM.

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
/// Milliseconds that a started broker waits for a handshake; RabbitMQ's own default is 10 s.
const HANDSHAKE_TIMEOUT_MS: &str = "3000";

/// Where tests keep what they build and write.
pub(crate) fn scratch_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance")
}

/// The broker under test.
pub(crate) struct Broker {
    source: Source,
    started: OnceLock<Result<String, String>>,
    running: Mutex<Option<Running>>,
}

enum Source {
    Url(String),
    Binary(PathBuf),
    None,
}

struct Running {
    child: Child,
    folder: PathBuf,
}

impl Broker {
    /// Reads `AMQP_URL` and `WARREN_BIN`; starts nothing yet.
    pub(crate) fn from_environment() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let source = match (set("AMQP_URL"), set("WARREN_BIN")) {
            (Some(url), _) => Source::Url(url),
            (None, Some(binary)) => Source::Binary(PathBuf::from(binary)),
            (None, None) => Source::None,
        };
        Self {
            source,
            started: OnceLock::new(),
            running: Mutex::new(None),
        }
    }

    /// The AMQP URL to test, starting the broker at first use.
    pub(crate) fn url(&self) -> Result<&str, Outcome> {
        match &self.source {
            Source::Url(url) => Ok(url),
            Source::None => Err(Outcome::Ignored(
                "set AMQP_URL (a running broker) or WARREN_BIN (the warren to start)".to_owned(),
            )),
            Source::Binary(binary) => {
                let started = self.started.get_or_init(|| self.start(binary));
                started
                    .as_deref()
                    .map_err(|reason| Outcome::Failed(reason.clone()))
            }
        }
    }

    fn start(&self, binary: &Path) -> Result<String, String> {
        let folder = scratch_folder().join(format!("broker-{}", std::process::id()));
        let (child, ready) = spawn(binary, &folder)
            .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let log = folder.join("log");
        self.running
            .lock()
            .expect("no holder panics")
            .replace(Running { child, folder });
        let line = ready.recv_timeout(READY_LIMIT).map_err(|error| {
            let reason = match error {
                RecvTimeoutError::Timeout => format!("no ready line within {READY_LIMIT:?}"),
                RecvTimeoutError::Disconnected => "it ended without a ready line".to_owned(),
            };
            format!(
                "{}: {reason}; the log ends: {}",
                binary.display(),
                tail(&log)
            )
        })?;
        let address = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("amqp="))
            .ok_or_else(|| format!("the ready line names no amqp address: {line}"))?;
        Ok(format!("amqp://guest:guest@{address}/%2f"))
    }

    /// Stops a started broker with SIGTERM; it must exit with 0. Nothing to do for any other.
    pub(crate) fn stop(&self) -> Result<(), String> {
        let Some(mut running) = self.running.lock().expect("no holder panics").take() else {
            return Ok(());
        };
        let status = terminate(&mut running.child)?;
        if !status.success() {
            let log = running.folder.join("log");
            return Err(format!(
                "it ended with {status}; the log ends: {}",
                tail(&log)
            ));
        }
        fs::remove_dir_all(&running.folder).map_err(|error| error.to_string())
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
fn spawn(binary: &Path, folder: &Path) -> std::io::Result<(Child, mpsc::Receiver<String>)> {
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
    let mut child = command
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
