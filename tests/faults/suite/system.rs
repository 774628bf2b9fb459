//! What the tests ask of the machine: processes, ports, programs, memory.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often it is looked whether a process has ended, or a state is reached.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Sends a signal to a process that a test started.
pub(crate) fn signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes two numbers and touches no memory of ours.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for a process to end, for `limit` at most.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            bail!("process {} still runs after {limit:?}", child.id());
        }
        // tidy: allow sleep: between two looks at what is waited for
        thread::sleep(POLL);
    }
}

/// Looks again and again until `done` gives true, for `limit` at most.
pub(crate) fn until(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done()? {
        if Instant::now() > deadline {
            bail!("waited {limit:?} for {what}");
        }
        // tidy: allow sleep: between two looks at what is waited for
        thread::sleep(POLL);
    }
    Ok(())
}

/// A port that is free now, was not given before and is not given to outgoing connections: a node
/// that was killed finds it free again.
pub(crate) fn free_port() -> Result<u16> {
    const FIRST: u64 = 20_000;
    const COUNT: u64 = 10_000;
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut seed = crate::seed::Seed::new(crate::seed::Seed::fresh());
    for _ in 0..1_000 {
        let port = u16::try_from(FIRST + seed.next() % COUNT)?;
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!("no port is free from {FIRST} on")
}

/// The most memory that a process ever had resident (`VmHWM`), in bytes.
pub(crate) fn memory_peak_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let kib: Option<u64> = status.lines().find_map(|line| {
        let value = line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?;
        value.parse().ok()
    });
    Ok(kib.with_context(|| format!("{path} has no VmHWM"))? * 1024)
}

/// Whether all threads of a process are stopped.
pub(crate) fn stands_still(pid: u32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
        // The state follows the name, which is in brackets.
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        if !state.is_some_and(|rest| rest.starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a program can be run at all.
pub(crate) fn runs(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Bytes as people read them.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}
