//! Networks of a cluster's own: every node in a network namespace, joined by a bridge in the
//! namespace of this process.
//!
//! What always holds: nothing of it is in the machine's own network, and all of it goes with this
//! process, however that ends. A node's namespace lives as long as a `cat` in it, which ends when
//! its standard input does; the bridge lives in the namespace that the whole suite was started in
//! anew ([`enter`]).

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{Ignored, system};

/// Set once this process is in a namespace of its own.
const ENTERED: &str = "WARREN_FAULTS_NET";

/// Starts this program anew in a network namespace of its own, where that can be had; else it goes
/// on in the machine's network, and tests that need one are ignored.
pub(crate) fn enter() {
    if has_own() || !system::runs("unshare", &["--net", "ip", "link", "set", "lo", "up"]) {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let script = "ip link set lo up && exec \"$0\" \"$@\"";
    let error = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(ENTERED, "own")
        .exec();
    eprintln!("unshare: {error}");
}

fn has_own() -> bool {
    std::env::var_os(ENTERED).is_some()
}

/// The networks of some nodes.
pub(crate) struct Net {
    bridge: String,
    spaces: Vec<Space>,
}

/// A network namespace, as long as its process runs.
struct Space(Child);

/// What does not get through.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Nothing between the node and its peers, either way.
    Partition,
    /// Nothing from its peers.
    Deaf,
    /// Nothing to its peers.
    Mute,
    /// A fifth of what its peers send.
    Loss,
}

impl Net {
    /// Makes `nodes` namespaces, each with an address ([`Self::host`]) that this process reaches.
    pub(crate) fn new(nodes: usize) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        if !has_own() {
            let missing = "network namespaces cannot be made (unshare --net, ip)".to_owned();
            return Err(Ignored(missing).into());
        }
        if !system::runs("nft", &["--version"]) {
            let reason = "nft is missing (package nftables)";
            if std::env::var("CI").is_ok_and(|ci| ci == "true") {
                bail!("{reason}");
            }
            return Err(Ignored(reason.to_owned()).into());
        }
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let bridge = format!("bridge{number}");
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        let mut net = Self {
            bridge: bridge.clone(),
            spaces: Vec::new(),
        };
        run("ip", &["addr", "add", "10.0.0.100/24", "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for node in 0..nodes {
            net.spaces.push(Space::new()?);
            let end = format!("node{number}x{node}");
            let space = net.path(node);
            let pair = ["type", "veth", "peer", "name", "eth0", "netns", &space];
            run("ip", &[&["link", "add", &end][..], &pair].concat())?;
            run("ip", &["link", "set", &end, "master", &bridge, "up"])?;
            let address = format!("{}/24", Self::host(node));
            net.inside(node, &["ip", "addr", "add", &address, "dev", "eth0"])?;
            net.inside(node, &["ip", "link", "set", "eth0", "up"])?;
            net.inside(node, &["ip", "link", "set", "lo", "up"])?;
        }
        Ok(net)
    }

    /// The address of a node.
    pub(crate) fn host(node: usize) -> String {
        format!("10.0.0.{}", node + 1)
    }

    fn path(&self, node: usize) -> String {
        format!("/proc/{}/ns/net", self.spaces[node].0.id())
    }

    /// What a program is run under to be in a node's namespace.
    pub(crate) fn wrapper(&self, node: usize) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net={}", self.path(node))]
    }

    fn inside(&self, node: usize, command: &[&str]) -> Result<()> {
        let [program, space] = self.wrapper(node);
        run(&program, &[&[space.as_str()][..], command].concat())
    }

    /// From here on the node's network has this fault, towards its peers alone: clients, which are
    /// in this process' namespace, do not notice.
    pub(crate) fn break_link(&self, node: usize, fault: Fault) -> Result<()> {
        let peers: Vec<_> = (0..self.spaces.len())
            .filter(|peer| *peer != node)
            .map(Self::host)
            .collect();
        let peers = peers.join(", ");
        let hear = format!("add rule inet faults in ip saddr {{ {peers} }}");
        let say = format!("add rule inet faults out ip daddr {{ {peers} }} drop\n");
        let rules = match fault {
            Fault::Partition => format!("{hear} drop\n{say}"),
            Fault::Deaf => format!("{hear} drop\n"),
            Fault::Mute => say,
            Fault::Loss => format!("{hear} numgen random mod 100 < 20 drop\n"),
        };
        let chains = "add table inet faults\n\
                      add chain inet faults in { type filter hook input priority 0; }\n\
                      add chain inet faults out { type filter hook output priority 0; }\n";
        self.nft(node, &format!("{chains}{rules}"))
    }

    /// All gets through again.
    pub(crate) fn heal(&self, node: usize) -> Result<()> {
        self.nft(node, "delete table inet faults\n")
    }

    fn nft(&self, node: usize, script: &str) -> Result<()> {
        let [program, space] = self.wrapper(node);
        let mut child = Command::new(program)
            .args([space.as_str(), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(script.as_bytes())?;
        drop(stdin);
        let status = child.wait()?;
        ensure!(status.success(), "nft ended with {status} for {script}");
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // The pairs go with the namespaces.
        let _ = run("ip", &["link", "del", &self.bridge]);
    }
}

impl Space {
    fn new() -> Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo there && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let stdout = child.stdout.as_mut().expect("stdout is piped");
        let told = stdout.read_exact(&mut [0; 6]);
        let space = Self(child);
        told.context("no network namespace")?;
        Ok(space)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let call = arguments.join(" ");
    ensure!(output.status.success(), "{program} {call}: {}", said.trim());
    Ok(())
}
