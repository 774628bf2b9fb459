//! Brokers to measure, as processes of ours: each with ports and a folder of its own, ended by its
//! process id and gone from the disk when dropped.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::run::Call;
use crate::workspace::Workspace;

/// Debian's start script, without the wrapper that changes the user.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A running broker.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    /// Where AMQP is spoken, with a user who may do everything.
    pub(crate) uri: String,
    /// The process that does the work: whose CPU time and memory count.
    pub(crate) pid: u32,
    /// The process that is to be ended.
    child: Child,
    /// The port of Erlang's name service that was started along.
    epmd_port: Option<u16>,
    folder: PathBuf,
}

impl Broker {
    /// Starts the `warren` at `binary`, with `flags` on top.
    ///
    /// # Errors
    /// When it does not say that it is ready.
    pub(crate) fn warren(binary: &Path, flags: &[&str]) -> Result<Self> {
        let folder = folder("warren")?;
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
        let child = start(command.args(flags), &folder)?;
        let version = Call::new(binary)
            .arg("--version")
            .quiet()
            .output()?
            .trim()
            .to_owned();
        let mut broker = Self {
            name: "warren",
            version,
            uri: String::new(),
            pid: child.id(),
            child,
            epmd_port: None,
            folder,
        };
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
            broker.uri = format!("amqp://guest:guest@{address}");
            true
        })?;
        Ok(broker)
    }

    /// Starts the RabbitMQ of the Debian package; `None` when it is not installed.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub(crate) fn rabbitmq() -> Result<Option<Self>> {
        if !Path::new(RABBITMQ).exists() {
            return Ok(None);
        }
        let folder = folder("rabbitmq")?;
        fs::write(folder.join("enabled_plugins"), "[].\n").context("cannot write plugins")?;
        let [port, dist_port, epmd_port] = [free_port()?, free_port()?, free_port()?];
        let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let mut command = Command::new(RABBITMQ);
        command
            .env("HOME", &folder)
            .env(
                "RABBITMQ_NODENAME",
                format!("measure-{}@localhost", std::process::id()),
            )
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", dist_port.to_string())
            .env("ERL_EPMD_PORT", epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_CONF_ENV_FILE", at("rabbitmq-env.conf"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", at("pid"));
        let child = start(&mut command, &folder)?;
        let query = ["-W", "-f=${Version}", "rabbitmq-server"];
        let version = Call::new("dpkg-query").args(query).quiet().output()?;
        let mut broker = Self {
            name: "rabbitmq",
            version,
            uri: format!("amqp://guest:guest@127.0.0.1:{port}"),
            pid: child.id(),
            child,
            epmd_port: Some(epmd_port),
            folder,
        };
        let pid_file = broker.folder.join("pid");
        broker.wait_for("an answer over AMQP", |broker| {
            let pid = fs::read_to_string(&pid_file)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            broker.pid = pid.unwrap_or(broker.pid);
            pid.is_some() && answers(port)
        })?;
        Ok(Some(broker))
    }

    fn wait_for(&mut self, what: &str, mut ready: impl FnMut(&mut Self) -> bool) -> Result<()> {
        let began = Instant::now();
        while !ready(self) {
            let name = self.name;
            if let Some(status) = self
                .child
                .try_wait()
                .context("cannot wait for the broker")?
            {
                let said = fs::read_to_string(self.folder.join("stderr")).unwrap_or_default();
                bail!("{name} ended ({status}) before {what}:\n{said}");
            }
            if began.elapsed() > START_LIMIT {
                bail!("{name}: no sign of {what} within {START_LIMIT:?}");
            }
            thread::sleep(POLL);
        }
        println!(
            "# {name} {} is pid {} at {}",
            self.version,
            self.pid,
            self.uri,
            name = self.name
        );
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        Call::new("kill").args(["-TERM", &pid]).quiet().run()?;
        let began = Instant::now();
        while self
            .child
            .try_wait()
            .context("cannot wait for the broker")?
            .is_none()
        {
            if began.elapsed() > STOP_LIMIT {
                bail!(
                    "{} (pid {pid}) does not end within {STOP_LIMIT:?}",
                    self.name
                );
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("xtask: {error:#}; killing it");
            // It may be gone already; there is nothing left to try.
            let _ = self.child.kill();
            let _ = self.child.wait();
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

/// Builds the `warren` of the release profile and says where it is.
///
/// # Errors
/// When it does not build.
pub(super) fn build_warren() -> Result<PathBuf> {
    Call::cargo("build")
        .args(["--release", "--package", "warren"])
        .run()?;
    Ok(Workspace::load()?.binary("release", "warren"))
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

/// A port that nobody listens on at the moment.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr().context("no free port")?.port())
}

/// Whether somebody on `port` answers AMQP's protocol header.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        stream.read_exact(&mut [0])
    };
    ask().is_ok()
}
