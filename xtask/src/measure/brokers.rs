//! Brokers to measure, as processes of ours: each with ports and a folder of its own, ended by its
//! process id and gone from the disk when dropped.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::run::Call;
use crate::workspace::Workspace;

/// Debian's start script, without the wrapper that changes the user.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const RABBITMQCTL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// Between the ports of `warren dev` and those of somebody's own.
pub(super) const DEV_OFFSET: &str = "3000";
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A running broker.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    /// Where AMQP is spoken, with a user who may do everything; of several nodes with commas.
    pub(crate) uri: String,
    /// The processes that do the work, a node each: whose CPU time and memory count.
    pub(crate) pids: Vec<u32>,
    /// The processes that are to be ended, and the folders where what they say goes.
    children: Vec<(Child, PathBuf)>,
    /// The port of Erlang's name service that was started along.
    epmd_port: Option<u16>,
    folder: PathBuf,
    /// The data of Warren's first node, which has the administrator's certificate.
    pub(super) data: PathBuf,
}

impl Broker {
    /// One of which nothing runs yet.
    fn new(name: &'static str, version: String, folder: &Path) -> Self {
        Self {
            name,
            version,
            uri: String::new(),
            pids: Vec::new(),
            children: Vec::new(),
            epmd_port: None,
            folder: folder.to_owned(),
            data: folder.join("data"),
        }
    }

    /// Starts the `warren` at `binary`, with `flags` on top.
    ///
    /// # Errors
    /// When it does not say that it is ready.
    pub(crate) fn warren(binary: &Path, flags: &[&str]) -> Result<Self> {
        let folder = folder("warren")?;
        let mut command = Command::new(binary);
        command
            .args(["start", "--data-dir"])
            .arg(folder.join("data"));
        for flag in [
            "--amqp-addr",
            "--http-addr",
            "--metrics-addr",
            "--cluster-addr",
        ] {
            command.args([flag, "127.0.0.1:0"]);
        }
        let child = start(command.args(flags), &folder)?;
        let mut broker = Self::new("warren", version(binary)?, &folder);
        broker.pids = vec![child.id()];
        broker.children = vec![(child, folder)];
        let stdout = broker.folder.join("stdout");
        broker.wait_for("its `ready` line", |broker| {
            let said = fs::read_to_string(&stdout).unwrap_or_default();
            let line = said
                .lines()
                .find(|line| line.starts_with("ready ") && said.ends_with('\n'));
            let field = |line: &str| {
                line.split(' ')
                    .find_map(|word| word.strip_prefix("amqp="))
                    .map(str::to_owned)
            };
            let Some(address) = line.and_then(field) else {
                return false;
            };
            broker.uri = uri([address].into_iter());
            true
        })?;
        Ok(broker)
    }

    /// Starts so many nodes as `warren dev` does, with all shards in place.
    ///
    /// # Errors
    /// When it does not say that it is ready.
    pub(crate) fn warren_cluster(binary: &Path, nodes: usize) -> Result<Self> {
        let folder = folder("warren-cluster")?;
        let mut command = Command::new(binary);
        command.args(["dev", "--nodes", &nodes.to_string()]);
        command.args(["--port-offset", DEV_OFFSET, "--keep"]);
        let child = start(command.arg(folder.join("data")), &folder)?;
        let mut broker = Self::new("warren", version(binary)?, &folder);
        broker.data = folder.join("data").join("node-1");
        broker.children = vec![(child, folder)];
        let stdout = broker.folder.join("stdout");
        broker.wait_for("its `ready` line", |broker| {
            let said = fs::read_to_string(&stdout).unwrap_or_default();
            let nodes: Vec<(u32, String)> = said.lines().filter_map(node_line).collect();
            broker.uri = uri(nodes.iter().map(|(_, amqp)| amqp.clone()));
            broker.pids = nodes.iter().map(|(pid, _)| *pid).collect();
            said.lines().any(|line| line == "ready")
        })?;
        Ok(broker)
    }

    /// Starts the RabbitMQ of the Debian package; `None` when it is not installed.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub(crate) fn rabbitmq() -> Result<Option<Self>> {
        Self::rabbitmq_nodes(1)
    }

    /// Starts three of them as a cluster.
    ///
    /// # Errors
    /// As [`Self::rabbitmq`].
    pub(crate) fn rabbitmq_cluster() -> Result<Option<Self>> {
        let broker = Self::rabbitmq_nodes(3)?;
        if let Some(broker) = &broker {
            Call::new(RABBITMQCTL)
                .args(["-n", &node_name(0), "await_online_nodes", "3"])
                .env("HOME", broker.folder.to_string_lossy())
                .env(
                    "ERL_EPMD_PORT",
                    broker.epmd_port.unwrap_or_default().to_string(),
                )
                .run()?;
        }
        Ok(broker)
    }

    fn rabbitmq_nodes(count: usize) -> Result<Option<Self>> {
        if !Path::new(RABBITMQ).exists() {
            return Ok(None);
        }
        let folder = folder("rabbitmq")?;
        let epmd_port = free_port()?;
        let query = ["-W", "-f=${Version}", "rabbitmq-server"];
        let version = Call::new("dpkg-query").args(query).quiet().output()?;
        let mut broker = Self::new("rabbitmq", version, &folder);
        broker.epmd_port = Some(epmd_port);
        let mut nodes = Vec::new();
        for at in 0..count {
            let port = free_port()?;
            let folder = broker.folder.join(at.to_string());
            fs::create_dir(&folder).context("cannot make a folder")?;
            let child = start_rabbitmq(&folder, (at, count), (port, epmd_port))?;
            nodes.push((folder.join("pid"), port));
            broker.children.push((child, folder));
        }
        broker.uri = uri(nodes.iter().map(|(_, port)| format!("127.0.0.1:{port}")));
        broker.wait_for("an answer over AMQP", |broker| {
            let pid = |file: &PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
            broker.pids = nodes.iter().filter_map(|(file, _)| pid(file)).collect();
            broker.pids.len() == count && nodes.iter().all(|(_, port)| answers(*port))
        })?;
        Ok(Some(broker))
    }

    /// Where a file may be that goes with the broker.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn wait_for(&mut self, what: &str, mut ready: impl FnMut(&mut Self) -> bool) -> Result<()> {
        let began = Instant::now();
        while !ready(self) {
            let name = self.name;
            for (child, folder) in &mut self.children {
                if let Some(status) = child.try_wait().context("cannot wait for the broker")? {
                    let said = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
                    bail!("{name} ended ({status}) before {what}:\n{said}");
                }
            }
            if began.elapsed() > START_LIMIT {
                bail!("{name}: no sign of {what} within {START_LIMIT:?}");
            }
            thread::sleep(POLL);
        }
        println!(
            "# {name} {} is pid {:?} at {}",
            self.version,
            self.pids,
            self.uri,
            name = self.name
        );
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let pids = self
            .children
            .iter()
            .map(|(child, _)| child.id().to_string());
        let signal = Call::new("kill").arg("-TERM").args(pids);
        signal.quiet().run()?;
        let began = Instant::now();
        for (child, _) in &mut self.children {
            while child
                .try_wait()
                .context("cannot wait for the broker")?
                .is_none()
            {
                if began.elapsed() > STOP_LIMIT {
                    let (name, pid) = (self.name, child.id());
                    bail!("{name} (pid {pid}) does not end within {STOP_LIMIT:?}");
                }
                thread::sleep(POLL);
            }
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("xtask: {error:#}; killing it");
            // It may be gone already; there is nothing left to try.
            for (child, _) in &mut self.children {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if let Some(port) = self.epmd_port {
            // Ends only the one that listens on this port; it may have ended by itself.
            let epmd = Command::new("epmd")
                .args(["-port", &port.to_string(), "-kill"])
                .output();
            if let Err(error) = epmd {
                eprintln!("xtask: cannot end epmd on port {port}: {error}");
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("xtask: cannot remove {}: {error}", self.folder.display());
        }
    }
}

/// Builds the `warren` of the release profile and says where it is; `WARREN_BIN` names one that is
/// there already.
///
/// # Errors
/// When it does not build.
pub(super) fn build_warren() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("WARREN_BIN") {
        return Ok(binary.into());
    }
    Call::cargo("build")
        .args(["--release", "--package", "warren"])
        .run()?;
    Ok(Workspace::load()?.binary("release", "warren"))
}

/// Where AMQP is spoken, of all these addresses.
fn uri(addresses: impl Iterator<Item = String>) -> String {
    let uris: Vec<_> = addresses
        .map(|address| format!("amqp://guest:guest@{address}"))
        .collect();
    uris.join(",")
}

fn version(binary: &Path) -> Result<String> {
    let said = Call::new(binary).arg("--version").quiet().output()?;
    Ok(said.trim().to_owned())
}

/// The name of a RabbitMQ node of ours.
fn node_name(at: usize) -> String {
    format!("measure-{}-{at}@localhost", std::process::id())
}

/// Starts the node `at` of so many, which find each other by what their configuration says.
fn start_rabbitmq(
    folder: &Path,
    (at, count): (usize, usize),
    (port, epmd_port): (u16, u16),
) -> Result<Child> {
    fs::write(folder.join("enabled_plugins"), "[].\n").context("cannot write plugins")?;
    if count > 1 {
        let mut config = "cluster_formation.peer_discovery_backend = classic_config\n".to_owned();
        for node in 0..count {
            let name = node_name(node);
            config += &format!(
                "cluster_formation.classic_config.nodes.{} = {name}\n",
                node + 1
            );
        }
        fs::write(folder.join("rabbitmq.conf"), config).context("cannot write settings")?;
    }
    let within = |name: &str| folder.join(name).to_string_lossy().into_owned();
    // Where Erlang keeps the cookie that its nodes share.
    let home = folder.parent().unwrap_or(folder);
    let mut command = Command::new(RABBITMQ);
    command
        .env("HOME", home)
        .env("RABBITMQ_NODENAME", node_name(at))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", free_port()?.to_string())
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_MNESIA_BASE", within("mnesia"))
        .env("RABBITMQ_LOG_BASE", within("log"))
        .env("RABBITMQ_CONF_ENV_FILE", within("rabbitmq-env.conf"))
        .env("RABBITMQ_CONFIG_FILE", within("rabbitmq"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", within("enabled_plugins"))
        .env("RABBITMQ_PID_FILE", within("pid"));
    start(&mut command, folder)
}

/// The process and the AMQP address of a line that `warren dev` prints for a node.
pub(super) fn node_line(line: &str) -> Option<(u32, String)> {
    let mut words = line.strip_prefix("node ")?.split_whitespace();
    let pid = words.by_ref().skip_while(|word| *word != "pid").nth(1)?;
    let amqp = words.skip_while(|word| *word != "amqp").nth(1)?;
    Some((pid.parse().ok()?, amqp.to_owned()))
}

fn start(command: &mut Command, folder: &Path) -> Result<Child> {
    let file = |name: &str| fs::File::create(folder.join(name)).context("cannot write output");
    command
        .stdin(Stdio::null())
        .stdout(file("stdout")?)
        .stderr(file("stderr")?);
    let shown: Vec<_> = command
        .get_args()
        .map(|arg| arg.to_string_lossy())
        .collect();
    let program = command.get_program().to_string_lossy().into_owned();
    println!("+ {program} {} &", shown.join(" "));
    command
        .spawn()
        .with_context(|| format!("cannot start {program}"))
}

/// A new folder for a broker's data, where temporary files go.
fn folder(name: &str) -> Result<PathBuf> {
    let stem = format!("warren-measure-{}-{name}", std::process::id());
    for attempt in 0..100 {
        let path = std::env::temp_dir().join(format!("{stem}-{attempt}"));
        if fs::create_dir(&path).is_ok() {
            return Ok(path);
        }
    }
    bail!(
        "cannot make a folder like {}/{stem}-0",
        std::env::temp_dir().display()
    )
}

/// A port that nobody listens on at the moment, that was not given before and that the system
/// gives to no outgoing connection: who takes a while to start finds it free.
fn free_port() -> Result<u16> {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 10_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Measurements after each other begin elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let next = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + next % COUNT).context("no port")?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free from {FIRST} on")
}

/// Whether somebody on `port` answers AMQP's protocol header.
pub(super) fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        stream.read_exact(&mut [0])
    };
    ask().is_ok()
}
