//! A `warren` process on ports and a folder of its own, started, killed and started again.
//!
//! A `Node` keeps its ports and its data over restarts; its log goes on in one file. A process must
//! print its ready line within `READY_LIMIT`, and none is left behind when a test ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::Context;
use crate::folder::{Folder, disk_bytes, tail};
use crate::system;

const READY_LIMIT: Duration = Duration::from_secs(60);
/// What is said to this suite and not to nodes.
pub(crate) const OWN_VARIABLES: [&str; 6] = [
    "WARREN_FAULTS_KEEP",
    "WARREN_FAULTS_NET",
    "WARREN_FAULTS",
    "WARREN_FAULTS_SEED",
    "WARREN_FAULTS_ROUNDS",
    "WARREN_BIN",
];
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A node's settings, data and ports; it may run or not.
pub(crate) struct Node {
    binary: PathBuf,
    folder: Folder,
    data: PathBuf,
    settings: Vec<(&'static str, String)>,
    /// The program that `warren` runs under, with its arguments.
    wrapper: Vec<String>,
    /// Flags of `warren start` beside its folder and addresses.
    flags: Vec<String>,
    host: String,
    ports: [u16; 4],
}

/// The flags that name a node's addresses, in the order of the ready line.
const ADDRESSES: [&str; 4] = ["amqp", "http", "metrics", "cluster"];

impl Node {
    pub(crate) fn new(context: &Context, name: &str) -> Result<Self> {
        let mut ports = [0; 4];
        for port in &mut ports {
            *port = system::free_port()?;
        }
        Self::at(context, name, "127.0.0.1", ports)
    }

    /// One that listens at addresses of the caller's choice.
    pub(crate) fn at(context: &Context, name: &str, host: &str, ports: [u16; 4]) -> Result<Self> {
        let folder = Folder::new(name)?;
        Ok(Self {
            binary: context.binary.clone(),
            data: folder.path().join("data"),
            folder,
            settings: Vec::new(),
            wrapper: Vec::new(),
            flags: Vec::new(),
            host: host.to_owned(),
            ports,
        })
    }

    /// Sets an environment variable (`WARREN_..`) of the process, in place of an earlier value.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.settings.retain(|(set, _)| *set != name);
        self.settings.push((name, value.into()));
    }

    /// Lets the process run under another program.
    pub(crate) fn run_under(&mut self, program: &[&str]) {
        self.wrapper = program.iter().map(ToString::to_string).collect();
    }

    /// Starts the process with these flags, too.
    pub(crate) fn add_flags(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(ToString::to_string));
    }

    pub(crate) fn keep_data_in(&mut self, data: PathBuf) {
        self.data = data;
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The node's own folder, around the data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    pub(crate) fn address(&self, which: &str) -> String {
        let at = ADDRESSES.iter().position(|name| *name == which);
        let port = self.ports[at.expect("tests name addresses that there are")];
        format!("{}:{port}", self.host)
    }

    pub(crate) fn uri(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address("amqp"))
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Bytes of disk that the data takes.
    pub(crate) fn disk_bytes(&self) -> Result<u64> {
        Ok(disk_bytes(&self.data)?)
    }

    /// The command line that starts this node.
    pub(crate) fn command(&self) -> Command {
        let mut words = self.wrapper.iter().map(String::as_str);
        let mut command = match words.next() {
            Some(program) => {
                let mut command = Command::new(program);
                command.args(words).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command.arg("start").arg("--data-dir").arg(&self.data);
        for name in ADDRESSES {
            command
                .arg(format!("--{name}-addr"))
                .arg(self.address(name));
        }
        command.args(&self.flags);
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        command
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts the process without waiting for it.
    pub(crate) fn spawn(&self) -> Result<Starting> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let begin = Instant::now();
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send((line, begin.elapsed()));
            }
        });
        let process = Process(child);
        Ok(Starting { process, lines })
    }

    /// Starts the process and waits until it can serve.
    pub(crate) fn start(&self) -> Result<Running> {
        self.spawn()?.wait(self)
    }
}

/// A process that a test started; killed when it is dropped.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A process that has not said yet that it can serve.
pub(crate) struct Starting {
    process: Process,
    /// What it prints, and how long after its start.
    lines: mpsc::Receiver<(String, Duration)>,
}

impl Starting {
    /// Waits for a line that begins with `word`.
    pub(crate) fn line(&self, word: &str, node: &Node) -> Result<(String, Duration)> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).map_err(|error| {
                let reason = match error {
                    RecvTimeoutError::Timeout => format!("no {word} line within {READY_LIMIT:?}"),
                    RecvTimeoutError::Disconnected => format!("it ended without a {word} line"),
                };
                anyhow!("{reason}; the log ends: {}", tail(&node.log_path()))
            })?;
            if line.0.split(' ').next() == Some(word) {
                return Ok(line);
            }
        }
    }

    pub(crate) fn wait(self, node: &Node) -> Result<Running> {
        let (line, took) = self.line("ready", node)?;
        let text = fs::read_to_string(node.data.join("node.json"))?;
        let document: serde_json::Value = serde_json::from_str(&text)?;
        let pid = document["pid"].as_u64().context("node.json has no pid")?;
        Ok(Running {
            process: self.process,
            pid: u32::try_from(pid)?,
            ready_line: line,
            ready_after: took,
            log: node.log_path(),
        })
    }

    /// `kill -9` while it starts. For processes that run under no other program.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.process.0.kill()?;
        self.process.0.wait()?;
        Ok(())
    }
}

/// A process that serves.
pub(crate) struct Running {
    process: Process,
    /// Of `warren` itself, also when it runs under another program.
    pub(crate) pid: u32,
    pub(crate) ready_line: String,
    /// From its start to its ready line.
    pub(crate) ready_after: Duration,
    log: PathBuf,
}

impl Running {
    /// `kill -9`; returns when the process is gone.
    pub(crate) fn kill(mut self) -> Result<()> {
        system::signal(self.pid, libc::SIGKILL)?;
        system::wait(&mut self.process.0, STOP_LIMIT)?;
        Ok(())
    }

    pub(crate) fn signal(&self, signal: libc::c_int) -> Result<()> {
        Ok(system::signal(self.pid, signal)?)
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(mut self) -> Result<ExitStatus> {
        system::wait(&mut self.process.0, STOP_LIMIT)
            .with_context(|| format!("the log ends: {}", tail(&self.log)))
    }

    /// SIGTERM; it must exit with 0.
    pub(crate) fn stop(self) -> Result<()> {
        self.signal(libc::SIGTERM)?;
        let log = self.log.clone();
        let status = self.wait()?;
        ensure!(status.success(), "it ended with {status}: {}", tail(&log));
        Ok(())
    }

    /// Fails when the process is gone.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.process.0.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the node ended with {status}: {}", tail(&self.log)),
        }
    }

    pub(crate) fn memory_peak_bytes(&self) -> Result<u64> {
        system::memory_peak_bytes(self.pid)
    }
}
