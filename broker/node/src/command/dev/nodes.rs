//! The children of `warren dev`: their folder, command lines, lives and ends.
//!
//! `unsafe` is used for one call (`kill`).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, bail, ensure};

use super::NODES_MAX;
use super::settled::At;

/// What is said of a node that ended as it was told.
pub(super) const WELL: &str = "stopped";

/// A listener of a node: the flag's stem, and the port of node 0.
const LISTENERS: [(&str, u16); 4] = [
    ("amqp", 5_671),
    ("http", 15_671),
    ("metrics", 15_691),
    ("cluster", 25_671),
];

/// Where the nodes' data is.
pub(super) struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    /// The folder to keep, made where there is none, or a new one that goes when this is dropped.
    pub(super) fn new(keep: Option<&Path>, nodes: u16, offset: u16) -> anyhow::Result<Self> {
        let Some(path) = keep else {
            return Self::temporary();
        };
        let cannot = || format!("cannot make {}", path.display());
        fs::create_dir_all(path).with_context(cannot)?;
        // Its shards may have replicas on nodes that are not started.
        let more = (nodes + 1..=NODES_MAX).find(|number| path.join(data_name(*number)).exists());
        if let Some(number) = more {
            let path = path.display();
            bail!("{path} has the data of node {number}, too: start as many with --nodes");
        }
        keep_offset(path, offset)?;
        Ok(Self {
            path: path.to_owned(),
            temporary: false,
        })
    }

    fn temporary() -> anyhow::Result<Self> {
        for attempt in 0..100 {
            let name = format!("warren-dev-{}-{attempt}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        temporary: true,
                    });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {}", path.display()));
                }
            }
        }
        bail!("cannot make a temporary folder: choose one with --keep")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("warren: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Nodes know each other by their addresses: with other ports none would find another.
fn keep_offset(folder: &Path, offset: u16) -> anyhow::Result<()> {
    let path = folder.join("port-offset");
    match fs::read_to_string(&path) {
        Ok(kept) if kept.trim() == offset.to_string() => Ok(()),
        Ok(kept) => bail!(
            "{} is of nodes that were started with --port-offset {}: start them so",
            folder.display(),
            kept.trim()
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let written = fs::write(&path, format!("{offset}\n"));
            written.with_context(|| format!("cannot write {}", path.display()))
        }
        Err(error) => bail!("cannot read {}: {error}", path.display()),
    }
}

fn data_name(number: u16) -> String {
    format!("node-{number}")
}

/// All nodes, those that run and those that have ended.
pub(super) struct Nodes {
    program: PathBuf,
    folder: PathBuf,
    offset: u16,
    /// Node `i` at `i - 1`.
    children: Vec<Option<Child>>,
    stopping: bool,
}

impl Nodes {
    pub(super) fn new(folder: &Path, count: u16, offset: u16) -> anyhow::Result<Self> {
        // One of an earlier run is too old for nodes that are new.
        let token = folder.join("token");
        match fs::remove_file(&token) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", token.display()));
            }
            _ => {}
        }
        Ok(Self {
            program: std::env::current_exe().context("cannot tell which program this is")?,
            folder: folder.to_owned(),
            offset,
            children: (0..count).map(|_| None).collect(),
            stopping: false,
        })
    }

    fn addresses(&self, number: u16) -> [(&'static str, SocketAddr); 4] {
        LISTENERS.map(|(name, first)| {
            let port = first + number + self.offset;
            (name, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into())
        })
    }

    /// Where the nodes can be asked, all by the administrator whom the first one made.
    pub(super) fn at(&self) -> Vec<At> {
        let count = self.children.len() as u16;
        let at = |number| At {
            address: self.addresses(number)[3].1.to_string(),
            data: self.folder.join(data_name(1)),
        };
        (1..=count).map(at).collect()
    }

    fn arguments(&self, number: u16) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![
            "start".into(),
            "--node-name".into(),
            format!("warren{number}@localhost").into(),
            "--data-dir".into(),
            self.folder.join(data_name(number)).into(),
            "--bootstrap-token-file".into(),
            self.folder.join("token").into(),
        ];
        for (name, address) in self.addresses(number) {
            words.push(format!("--{name}-addr").into());
            words.push(address.to_string().into());
        }
        if number > 1 {
            words.push("--join".into());
            words.push(self.addresses(1)[3].1.to_string().into());
        }
        words
    }

    fn log_path(&self, number: u16) -> PathBuf {
        self.folder.join(format!("node-{number}.log"))
    }

    fn child(&mut self, number: u16) -> anyhow::Result<&mut Option<Child>> {
        let count = self.children.len();
        let at = usize::from(number).checked_sub(1);
        let child = at.and_then(|at| self.children.get_mut(at));
        child.with_context(|| format!("there is no node {number}, but 1 to {count}"))
    }

    /// Starts a node that does not run; gives the line that says where it is.
    pub(super) fn start(&mut self, number: u16) -> anyhow::Result<String> {
        if let Some(child) = self.child(number)? {
            bail!("node {number} runs already, as process {}", child.id());
        }
        let path = self.log_path(number);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        let child = Command::new(&self.program)
            .args(self.arguments(number))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C is for this process, which tells its children.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let pid = child.id();
        *self.child(number)? = Some(child);
        let addresses = self.addresses(number);
        let addresses = addresses.map(|(name, address)| format!("{name} {address}"));
        Ok(format!(
            "node {number}  pid {pid}  {}",
            addresses.join("  ")
        ))
    }

    /// SIGKILL, at once; returns when the process is gone.
    pub(super) fn kill(&mut self, number: u16) -> anyhow::Result<String> {
        let slot = self.child(number)?;
        let mut child = slot
            .take()
            .with_context(|| format!("node {number} does not run"))?;
        let pid = child.id();
        child.kill().context("cannot kill it")?;
        child.wait().context("cannot wait for it")?;
        Ok(format!("node {number}  pid {pid}  killed"))
    }

    /// What has ended since the last look.
    pub(super) fn ended(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for at in 0..self.children.len() {
            let Some(child) = &mut self.children[at] else {
                continue;
            };
            if let Ok(Some(status)) = child.try_wait() {
                let pid = child.id();
                self.children[at] = None;
                let number = at as u16 + 1;
                let end = self.describe(number, status);
                lines.push(format!("node {number}  pid {pid}  {end}"));
            }
        }
        lines
    }

    fn describe(&self, number: u16, status: ExitStatus) -> String {
        if self.stopping && status.success() {
            return WELL.to_owned();
        }
        let log = fs::read(self.log_path(number)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().last().unwrap_or("nothing");
        format!("ended ({status}); its log ends: {last}")
    }

    /// Tells all that run to hand over and end.
    pub(super) fn terminate(&mut self) {
        self.stopping = true;
        for child in self.children.iter().flatten() {
            // It was not waited for, so the number is still its own.
            if let Err(error) = terminate(child) {
                eprintln!("warren: cannot stop process {}: {error}", child.id());
            }
        }
    }

    /// Whether any of them runs, as of the last look.
    pub(super) fn run(&self) -> bool {
        self.children.iter().any(Option::is_some)
    }

    pub(super) fn kill_all(&mut self) {
        for mut child in self.children.iter_mut().filter_map(Option::take) {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn terminate(child: &Child) -> anyhow::Result<()> {
    let pid = libc::pid_t::try_from(child.id()).context("no process id")?;
    // SAFETY: takes two numbers and touches no memory of ours.
    let done = unsafe { libc::kill(pid, libc::SIGTERM) };
    ensure!(done == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_the_addresses_that_are_promised() {
        let folder = Folder::temporary().expect("a folder");
        let nodes = Nodes::new(folder.path(), 20, 100).expect("nodes");
        let ports = |number| nodes.addresses(number).map(|(_, address)| address.port());
        assert_eq!(ports(1), [5_772, 15_772, 15_792, 25_772]);
        assert_eq!(ports(20), [5_791, 15_791, 15_811, 25_791]);
        let words = |number| {
            let words = nodes.arguments(number);
            let words = words.iter().map(|word| word.to_string_lossy().into_owned());
            words.collect::<Vec<_>>().join(" ")
        };
        assert!(!words(1).contains("--join"), "{}", words(1));
        assert!(words(2).contains("--join 127.0.0.1:25772"), "{}", words(2));
        assert!(words(2).contains("--amqp-addr 127.0.0.1:5773"));
    }

    #[test]
    fn what_does_not_run_is_not_killed() {
        let folder = Folder::temporary().expect("a folder");
        let mut nodes = Nodes::new(folder.path(), 3, 0).expect("nodes");
        for (number, wanted) in [(0, "no node 0"), (4, "no node 4"), (2, "does not run")] {
            let error = nodes.kill(number).expect_err("refused").to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(!nodes.run());
        assert!(nodes.ended().is_empty());
    }

    #[test]
    fn a_folder_that_is_kept_holds_all_its_nodes() {
        let outer = Folder::temporary().expect("a folder");
        let kept = outer.path().join("kept");
        fs::create_dir_all(kept.join(data_name(3))).expect("made");
        let error = Folder::new(Some(&kept), 2, 0).err().expect("refused");
        assert!(error.to_string().contains("node 3"), "{error}");
        drop(Folder::new(Some(&kept), 3, 7).expect("all of them"));
        let error = Folder::new(Some(&kept), 3, 0).err().expect("refused");
        assert!(error.to_string().contains("--port-offset 7"), "{error}");
        drop(Folder::new(Some(&kept), 4, 7).expect("one more, at these ports"));
        assert!(kept.exists());
        let gone = outer.path().to_owned();
        drop(outer);
        assert!(!gone.exists());
    }
}
