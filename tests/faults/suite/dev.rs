//! `warren dev`: a cluster of child processes, and what other processes ask of it.
//!
//! It prints every line in the order in which things happen, so each line is waited for and must be
//! the one that comes next.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lapin::Confirmation;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::runtime::Runtime;

use crate::Context;
use crate::broker::{OWN_VARIABLES, Process};
use crate::client::{Client, answer};
use crate::folder::{Folder, tail};
use crate::seed::Seed;
use crate::{refusals, system};

const NODES: u16 = 3;
/// The ports of a node 0 without an offset.
const PORTS: [u16; 4] = [5_671, 15_671, 15_691, 25_671];
/// Below it no port is one that is given to outgoing connections.
const OFFSET_END: usize = 7_000;
/// For a line, for an answer of a cluster that runs, for a node that serves again, for the end.
const LIMIT: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);
const MESSAGES: u64 = 50;
const QUEUE: &str = "q";

pub(crate) fn dev_runs_a_cluster(context: &Context, runtime: &Runtime) -> Result<()> {
    let home = Home::new("dev")?;
    let dev = Dev::start(context, &home, free_offset()?, NODES, &[])?;
    ensure!(home.temporary()?.len() == 1, "{:?}", home.temporary());
    runtime.block_on(async {
        let client = dev.client(1).await?;
        declare_quorum(&client).await?;
        client.close().await?;
        publish(dev.client(3).await?).await
    })?;

    let killed = dev.nodes[&2].clone();
    dev.asked("kill", 2)?;
    dev.line(&format!("node 2  pid {}  killed", killed.pid))?;
    // It is dead, its ports are free, and nobody starts it.
    ensure!(system::signal(killed.pid, 0).is_err(), "node 2 runs");
    let refused = dev.refused("kill", 2)?;
    ensure!(refused.contains("node 2 does not run"), "{refused}");
    let refused = dev.refused("start", 1)?;
    ensure!(refused.contains("node 1 runs already"), "{refused}");
    runtime.block_on(async { publish(dev.client(3).await?).await })?;
    drop(TcpListener::bind(&killed.amqp).context("node 2 listens")?);

    dev.asked("start", 2)?;
    let (number, back) = child(&dev.line("node ")?)?;
    ensure!((number, &back.amqp) == (2, &killed.amqp), "{back:?}");
    ensure!(back.pid != killed.pid, "{back:?}");
    runtime.block_on(async {
        publish(serves(&back.amqp).await?).await?;
        let client = serves(&back.amqp).await?;
        client.must_hold(QUEUE, 3 * MESSAGES).await?;
        client.drain(QUEUE, 3 * MESSAGES, |_, _| Ok(())).await?;
        client.close().await
    })?;
    dev.interrupt(3)?;
    ensure!(home.temporary()?.is_empty(), "{:?}", home.temporary());
    Ok(())
}

pub(crate) fn dev_keeps_what_it_is_to_keep(context: &Context, runtime: &Runtime) -> Result<()> {
    let home = Home::new("dev-kept")?;
    let kept = home.path().join("kept");
    let keep = ["--keep", kept.to_str().context("no UTF-8")?];
    let offset = free_offset()?;
    let dev = Dev::start(context, &home, offset, 1, &keep)?;
    runtime.block_on(async {
        let client = dev.client(1).await?;
        declare_quorum(&client).await?;
        publish(client).await
    })?;
    // One that ends by itself is told of, and stays ended.
    let pid = dev.nodes[&1].pid;
    system::signal(pid, libc::SIGKILL)?;
    let line = dev.line(&format!("node 1  pid {pid}  ended"))?;
    ensure!(line.contains("SIGKILL"), "{line}");
    let refused = dev.refused("kill", 1)?;
    ensure!(refused.contains("node 1 does not run"), "{refused}");
    dev.interrupt(0)?;

    // They find each other at the same ports alone.
    let mut elsewhere = home.command(context, offset + 1);
    let output = refusals::run(elsewhere.args(["--nodes", "1"]).args(keep))?;
    let reason = String::from_utf8_lossy(&output.stderr);
    let wanted = format!("--port-offset {offset}");
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(reason.contains(&wanted), "{reason}");
    let dev = Dev::start(context, &home, offset, 1, &keep)?;
    runtime.block_on(async {
        let client = dev.client(1).await?;
        client.must_hold(QUEUE, MESSAGES).await?;
        client.close().await
    })?;
    dev.interrupt(1)?;
    ensure!(kept.join("node-1.log").is_file(), "nothing is kept");
    ensure!(home.temporary()?.is_empty(), "{:?}", home.temporary());
    Ok(())
}

/// Where a `warren dev` has its temporary folder and its socket, apart from those of others.
struct Home {
    folder: Folder,
    /// Elsewhere: the path of a socket must be short.
    sockets: PathBuf,
}

impl Home {
    fn new(name: &str) -> Result<Self> {
        let sockets = format!("warren-{name}-{}", std::process::id());
        let sockets = std::env::temp_dir().join(sockets);
        std::fs::create_dir(&sockets)?;
        Ok(Self {
            folder: Folder::new(name)?,
            sockets,
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, context: &Context, offset: usize) -> Command {
        let mut command = Command::new(&context.binary);
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        command
            .args(["dev", "--port-offset", &offset.to_string()])
            .env("TMPDIR", self.path())
            .env("XDG_RUNTIME_DIR", &self.sockets)
            .stdin(Stdio::null());
        command
    }

    /// The temporary folders that are there.
    fn temporary(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.path())? {
            let entry = entry?;
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with("warren-dev-")
            {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.sockets);
    }
}

/// A node as the cluster tells where it is.
#[derive(Clone, Debug)]
struct Child {
    pid: u32,
    amqp: String,
}

/// A `warren dev` that runs.
struct Dev<'a> {
    context: &'a Context,
    home: &'a Home,
    offset: usize,
    process: Process,
    lines: mpsc::Receiver<String>,
    /// As they were started first.
    nodes: BTreeMap<u16, Child>,
}

impl<'a> Dev<'a> {
    /// Starts it, and waits until all is in place.
    fn start(
        context: &'a Context,
        home: &'a Home,
        offset: usize,
        nodes: u16,
        flags: &[&str],
    ) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(home.path().join("log"))?;
        let mut command = home.command(context, offset);
        command.args(["--nodes", &nodes.to_string()]).args(flags);
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = process.stdout.take().context("stdout is piped")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut dev = Self {
            context,
            home,
            offset,
            process: Process(process),
            lines,
            nodes: BTreeMap::new(),
        };
        for number in 1..=nodes {
            let (told, node) = child(&dev.line("node ")?)?;
            ensure!(told == number, "node {told}: {node:?}");
            dev.nodes.insert(number, node);
        }
        dev.line("ready")?;
        Ok(dev)
    }

    /// Waits for the next line, which must begin like this.
    fn line(&self, begin: &str) -> Result<String> {
        let line = self.lines.recv_timeout(LIMIT).map_err(|error| {
            let reason = match error {
                RecvTimeoutError::Timeout => format!("no line within {LIMIT:?}"),
                RecvTimeoutError::Disconnected => "it has ended".to_owned(),
            };
            let log = tail(&self.home.path().join("log"));
            anyhow::anyhow!("{reason}, not `{begin}`; it said: {log}")
        })?;
        ensure!(line.starts_with(begin), "`{line}`, not `{begin}`");
        Ok(line)
    }

    async fn client(&self, number: u16) -> Result<Client> {
        Client::connect(&uri(&self.nodes[&number].amqp)).await
    }

    /// Asks it from another process.
    fn ask(&self, verb: &str, node: u16) -> Result<Output> {
        let mut command = self.home.command(self.context, self.offset);
        refusals::run(command.args([verb, &node.to_string()]))
    }

    fn asked(&self, verb: &str, node: u16) -> Result<()> {
        let output = self.ask(verb, node)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{verb} {node}: {output:?}");
        ensure!(said.starts_with(&format!("node {node}  pid ")), "{said}");
        Ok(())
    }

    /// Asks it for what it must refuse; gives its reason.
    fn refused(&self, verb: &str, node: u16) -> Result<String> {
        let output = self.ask(verb, node)?;
        ensure!(output.status.code() == Some(1), "{verb} {node}: {output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Ctrl-C: so many nodes that run must stop as they should, and it, too.
    fn interrupt(mut self, running: usize) -> Result<()> {
        system::signal(self.process.0.id(), libc::SIGINT)?;
        self.line("stopping")?;
        for _ in 0..running {
            let line = self.line("node ")?;
            ensure!(line.ends_with("  stopped"), "{line}");
        }
        let status = system::wait(&mut self.process.0, LIMIT)?;
        ensure!(status.code() == Some(0), "it ended with {status}");
        let more: Vec<String> = self.lines.iter().collect();
        ensure!(more.is_empty(), "it went on: {more:?}");
        Ok(())
    }
}

/// Its children must not outlive a test that failed: a second signal kills them.
impl Drop for Dev<'_> {
    fn drop(&mut self) {
        for _ in 0..2 {
            if !matches!(self.process.0.try_wait(), Ok(None)) {
                return;
            }
            let _ = system::signal(self.process.0.id(), libc::SIGTERM);
            let _ = system::wait(&mut self.process.0, LIMIT);
        }
    }
}

fn uri(address: &str) -> String {
    format!("amqp://guest:guest@{address}/%2f")
}

/// What a line says of a node that was started.
fn child(line: &str) -> Result<(u16, Child)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let ["node", number, "pid", pid, "amqp", amqp, "http", ..] = words[..] else {
        bail!("no line of a node: {line}");
    };
    let pid = pid.parse()?;
    let amqp = amqp.to_owned();
    Ok((number.parse()?, Child { pid, amqp }))
}

/// An offset with which all ports are free.
fn free_offset() -> Result<usize> {
    let mut seed = Seed::new(Seed::fresh());
    for _ in 0..1_000 {
        let offset = 100 + seed.below(OFFSET_END - 100);
        let firsts = PORTS.map(|first| usize::from(first) + offset);
        let of_nodes = |first| (1..=NODES).map(move |it| first + usize::from(it));
        let ports = firsts.into_iter().flat_map(of_nodes);
        let sockets = ports.map(|port| TcpListener::bind(("127.0.0.1", port as u16)));
        if sockets.collect::<std::io::Result<Vec<_>>>().is_ok() {
            return Ok(offset);
        }
    }
    bail!("no offset has all ports free")
}

async fn declare_quorum(client: &Client) -> Result<()> {
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    let declare = client
        .channel
        .queue_declare(QUEUE.into(), options, arguments);
    answer("queue.declare-ok", declare).await?;
    Ok(())
}

/// Publishes messages, all of which must be confirmed, and goes.
async fn publish(client: Client) -> Result<()> {
    let mut confirms = Vec::new();
    for number in 0..MESSAGES {
        confirms.push(client.send(QUEUE, &number.to_le_bytes()).await?);
    }
    for confirm in confirms {
        let confirmed = answer("a confirm", confirm).await?;
        let is_stored = matches!(confirmed, Confirmation::Ack(None));
        ensure!(is_stored, "{confirmed:?}");
    }
    client.close().await
}

/// A client of a node that is starting.
async fn serves(address: &str) -> Result<Client> {
    let until = Instant::now() + LIMIT;
    let mut period = tokio::time::interval(AGAIN);
    loop {
        period.tick().await;
        match Client::connect(&uri(address)).await {
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => {}
            Ok(client) => return Ok(client),
        }
    }
}
