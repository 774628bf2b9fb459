//! Starts that are refused, and how that is told.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::runtime::Runtime;

use crate::Context;
use crate::broker::Node;
use crate::system;

const REFUSAL_LIMIT: Duration = Duration::from_secs(20);

/// Runs a command that must end by itself.
pub(crate) fn run(command: &mut Command) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Err(error) = system::wait(&mut child, REFUSAL_LIMIT) {
        child.kill()?;
        child.wait()?;
        return Err(error);
    }
    Ok(child.wait_with_output()?)
}

/// The command must exit with `code` and name all of `words` on stderr.
fn refused(command: &mut Command, code: i32, words: &[&str]) -> Result<()> {
    let output = run(command)?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(code),
        "{}: {text}",
        output.status
    );
    for word in words {
        ensure!(text.contains(word), "does not name {word}: {text}");
    }
    Ok(())
}

pub(crate) fn second_start_on_a_folder_is_refused(context: &Context, _: &Runtime) -> Result<()> {
    let node = Node::new(context, "locked")?;
    let running = node.start()?;
    let mut second = Node::new(context, "locked-second")?;
    second.keep_data_in(node.data().to_owned());
    let folder = node.data().display().to_string();
    let pid = format!("process {}", running.pid);
    refused(&mut second.command(), 1, &[&folder, &pid])?;
    running.kill()?;
    // The lock goes with its holder, however that ended.
    second.start()?.stop()
}

pub(crate) fn taken_port_is_refused(context: &Context, _: &Runtime) -> Result<()> {
    let node = Node::new(context, "taken-port")?;
    let running = node.start()?;
    for which in ["amqp", "http", "metrics", "cluster"] {
        let second = Node::new(context, "taken-port-second")?;
        let (flag, address) = (format!("--{which}-addr"), node.address(which));
        let mut command = Command::new(second.binary());
        command.arg("start").arg("--data-dir").arg(second.data());
        for other in ["amqp", "http", "metrics", "cluster"] {
            let free = second.address(other);
            let address = if other == which { &address } else { &free };
            command.arg(format!("--{other}-addr")).arg(address);
        }
        refused(&mut command, 1, &[&flag, &address])?;
        ensure!(
            !second.data().exists(),
            "a refused start made a data folder"
        );
    }
    running.stop()
}

/// Two addresses of one node had the same port, once in some hundred nodes.
pub(crate) fn tests_are_given_each_port_once(_: &Context, _: &Runtime) -> Result<()> {
    let mut ports = BTreeSet::new();
    for _ in 0..1000 {
        let port = system::free_port()?;
        ensure!(ports.insert(port), "port {port} was given twice");
    }
    Ok(())
}

pub(crate) fn unknown_flags_and_keys_are_refused(context: &Context, _: &Runtime) -> Result<()> {
    let node = Node::new(context, "unknown")?;
    let mut command = node.command();
    refused(command.arg("--no-such-flag"), 2, &["--no-such-flag"])?;

    let file = node.folder().join("warren.toml");
    let with_file = |text: &str, words: &[&str]| {
        std::fs::write(&file, text)?;
        let mut words = words.to_vec();
        words.push("warren.toml");
        refused(node.command().arg("--config").arg(&file), 1, &words)
    };
    with_file("hartbeat = 30\n", &["'hartbeat'", "'heartbeat'"])?;
    with_file("[log]\nsyncs = \"os\"\n", &["'log.syncs'"])?;
    with_file("listeners.ssl.default = 5671\n", &["listeners.ssl.default"])?;
    with_file("heartbeat = \"often\"\n", &["'heartbeat'", "often"])?;
    with_file("heartbeat = \n", &[])?;
    let missing = node.folder().join("missing.toml");
    let mut command = node.command();
    refused(command.arg("--config").arg(missing), 1, &["missing.toml"])?;
    ensure!(!node.data().exists(), "a refused start made a data folder");
    Ok(())
}

pub(crate) fn check_starts_nothing(context: &Context, _: &Runtime) -> Result<()> {
    let node = Node::new(context, "check")?;
    let output = run(node.command().arg("--check").env("WARREN_NO_SUCH_KEY", "1"))?;
    ensure!(output.status.success(), "--check: {}", output.status);
    let warning = String::from_utf8_lossy(&output.stderr);
    ensure!(warning.contains("WARREN_NO_SUCH_KEY"), "stderr: {warning}");
    ensure!(!node.data().exists(), "--check made a data folder");

    let file = node.folder().join("warren.toml");
    std::fs::write(&file, "hartbeat = 30\n")?;
    let mut command = node.command();
    refused(
        command.arg("--check").arg("--config").arg(&file),
        1,
        &["'hartbeat'"],
    )
}
