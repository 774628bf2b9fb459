//! `warren user`, `definitions` and `backup` as people run them, against a real node.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::Context;
use crate::broker::Node;
use crate::client::{Client, Kind};
use crate::system;

/// Exit code of an answer that is not the hoped-for one.
const NO: i32 = 3;
const BACKUP_LIMIT: Duration = Duration::from_secs(30);

/// Runs a verb with the certificate of the node's folder.
fn verb(node: &Node, words: &[&str]) -> Command {
    let mut command = Command::new(node.binary());
    command.args(words).arg("--data-dir").arg(node.data());
    command
        .env_remove("WARREN_SERVER")
        .env_remove("WARREN_PASSWORD");
    command.stdin(Stdio::null());
    command
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Runs a verb that must succeed; gives what it prints.
fn done(node: &Node, words: &[&str]) -> Result<String> {
    let output = verb(node, words).output()?;
    ensure!(output.status.success(), "{words:?}: {}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a verb that must end with `wanted`; gives what it prints.
fn ends_with(node: &Node, words: &[&str], wanted: i32) -> Result<String> {
    let output = verb(node, words).output()?;
    let text = said(&output);
    ensure!(code(&output) == Some(wanted), "{words:?}: {text}");
    Ok(text)
}

/// What a verb that must succeed says to programs.
pub(crate) fn json(node: &Node, words: &[&str]) -> Result<Value> {
    let words: Vec<_> = words.iter().copied().chain(["--json"]).collect();
    Ok(serde_json::from_str(&done(node, &words)?)?)
}

/// Runs a verb that reads a password.
fn with_password(mut command: Command, password: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("is piped")?;
    writeln!(stdin, "{password}")?;
    drop(stdin);
    Ok(child.wait_with_output()?)
}

pub(crate) fn users_of_the_command_line_log_in_over_amqp(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let node = Node::new(context, "admin-users")?;
    let running = node.start()?;
    let added = with_password(verb(&node, &["user", "add", "ann"]), "first")?;
    ensure!(added.status.success(), "{}", said(&added));
    let all = ["--configure", ".*", "--write", ".*", "--read", ".*"];
    done(
        &node,
        &[&["user", "permissions", "set", "ann"][..], &all].concat(),
    )?;
    let uri = |password: &str| format!("amqp://ann:{password}@{}/%2f", node.address("amqp"));
    runtime.block_on(async {
        let client = Client::connect(&uri("first")).await?;
        client.declare("q", Kind::Durable).await?;
        client.close().await
    })?;
    let changed = with_password(verb(&node, &["user", "password", "ann"]), "second")?;
    ensure!(changed.status.success(), "{}", said(&changed));
    runtime.block_on(async {
        let old = Client::connect(&uri("first")).await;
        ensure!(old.is_err(), "the old password still lets in");
        Client::connect(&uri("second")).await?.close().await
    })?;
    // As a user: only with the tag, and only with the right password.
    let as_ann = |password: &str| -> Result<Output> {
        let mut command = verb(&node, &["user", "list", "--user", "ann"]);
        Ok(command.env("WARREN_PASSWORD", password).output()?)
    };
    let refused = as_ann("second")?;
    ensure!(code(&refused) == Some(1), "{}", said(&refused));
    ensure!(
        said(&refused).contains("not allowed: user 'ann'"),
        "{}",
        said(&refused)
    );
    done(&node, &["user", "tags", "ann", "administrator"])?;
    let listed = as_ann("second")?;
    ensure!(listed.status.success(), "{}", said(&listed));
    let refused = as_ann("first")?;
    ensure!(said(&refused).contains("not let in"), "{}", said(&refused));
    let users = json(&node, &["user", "list"])?;
    ensure!(
        users[0]["name"] == "ann" && users[0]["tags"][0] == "administrator",
        "{users}"
    );
    // What was done is on disk.
    running.kill()?;
    let running = node.start()?;
    let users = json(&node, &["user", "list"])?;
    ensure!(users[0]["name"] == "ann", "{users}");
    done(&node, &["user", "delete", "ann"])?;
    runtime.block_on(async {
        let gone = Client::connect(&uri("second")).await;
        ensure!(gone.is_err(), "a deleted user logs in");
        Ok(())
    })?;
    running.stop()
}

/// Without anything to show, with that of another node, and where no node is.
pub(crate) fn strangers_are_told_why_they_are_not_let_in(
    context: &Context,
    _: &Runtime,
) -> Result<()> {
    let (node, other) = (
        Node::new(context, "admin-node")?,
        Node::new(context, "admin-other")?,
    );
    let nobody = ends_with(&node, &["user", "list"], 1)?;
    ensure!(
        nobody.contains("no administrator's certificate in"),
        "{nobody}"
    );
    let (running, others) = (node.start()?, other.start()?);
    let words = ["user", "list", "--server", &node.address("cluster")];
    let foreign = ends_with(&other, &words, 1)?;
    ensure!(foreign.contains("is not whom we want"), "{foreign}");
    others.stop()?;
    let away = ends_with(&other, &["user", "list"], 1)?;
    ensure!(away.contains("cannot connect"), "{away}");
    // Its own port, with keys of its own, is that of the admin API; that of AMQP is not.
    let words = ["user", "list", "--server", &node.address("amqp")];
    let amqp = ends_with(&node, &words, 1)?;
    ensure!(amqp.contains(&node.address("amqp")), "{amqp}");
    running.stop()
}

fn written(node: &Node, name: &str, text: &str) -> Result<PathBuf> {
    let path = node.folder().join(name);
    fs::write(&path, text)?;
    Ok(path)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("folders of tests have plain names")
}

pub(crate) fn definitions_go_out_and_come_in(context: &Context, runtime: &Runtime) -> Result<()> {
    let node = Node::new(context, "admin-definitions")?;
    let running = node.start()?;
    runtime.block_on(async {
        let client = Client::connect(&node.uri()).await?;
        client.declare("one", Kind::Durable).await?;
        client.declare("two", Kind::Durable).await?;
        client.publish("one", b"kept").await?;
        client.close().await
    })?;
    let file = node.folder().join("definitions.json");
    done(&node, &["definitions", "export", "--output", text(&file)])?;
    done(&node, &["definitions", "diff", text(&file)])?;
    let whole = fs::read_to_string(&file)?;
    ensure!(
        done(&node, &["definitions", "export"])? == whole,
        "exports differ"
    );
    let renamed = written(
        &node,
        "renamed.json",
        &whole.replace("\"two\"", "\"three\""),
    )?;
    let differs = ends_with(&node, &["definitions", "diff", text(&renamed)], NO)?;
    ensure!(
        differs.contains("+ queue 'three' in vhost '/'"),
        "{differs}"
    );
    ensure!(differs.contains("- queue 'two' in vhost '/'"), "{differs}");
    let prune = ["definitions", "import", text(&renamed), "--prune"];
    let planned = done(&node, &[&prune[..], &["--dry-run"]].concat())?;
    ensure!(
        planned.contains("create queue 'three' in vhost '/'"),
        "{planned}"
    );
    ensure!(
        planned.contains("delete queue 'two' in vhost '/'"),
        "{planned}"
    );
    done(&node, &["definitions", "diff", text(&file)])?;
    let imported = json(&node, &prune)?;
    ensure!(
        imported["created"] == 1 && imported["deleted"] == 1,
        "{imported}"
    );
    done(&node, &["definitions", "diff", text(&renamed)])?;
    let broken = written(
        &node,
        "broken.json",
        &whole.replace("\"durable\":true", "\"durable\":7"),
    )?;
    let refused = ends_with(&node, &["definitions", "import", text(&broken)], 1)?;
    ensure!(refused.contains("queues[0] 'one', durable"), "{refused}");
    let missing = ends_with(&node, &["definitions", "import", "no-such-file"], 1)?;
    ensure!(missing.contains("cannot read no-such-file"), "{missing}");
    done(&node, &["definitions", "diff", text(&renamed)])?;
    // What was imported outlives a kill, and what was there before it too.
    running.kill()?;
    let running = node.start()?;
    done(&node, &["definitions", "diff", text(&renamed)])?;
    runtime.block_on(async {
        let client = Client::connect(&node.uri()).await?;
        client.must_hold("one", 1).await?;
        client.must_hold("three", 0).await?;
        client.close().await
    })?;
    running.stop()
}

pub(crate) fn backups_are_made_verified_and_restored(
    context: &Context,
    runtime: &Runtime,
) -> Result<()> {
    let node = Node::new(context, "admin-backups")?;
    let running = node.start()?;
    // Made once at the first start, beside serving.
    let mut first = String::new();
    system::until("a backup", BACKUP_LIMIT, || {
        let listed = json(&node, &["backup", "list"])?;
        let name = listed["backups"][0]["name"].as_str();
        first = name.unwrap_or_default().to_owned();
        Ok(name.is_some())
    })?;
    done(&node, &["backup", "verify", &first])?;
    runtime.block_on(async {
        let client = Client::connect(&node.uri()).await?;
        client.declare("kept", Kind::Durable).await?;
        client.close().await
    })?;
    let name = done(&node, &["backup", "create"])?;
    let name = name.trim();
    let restored = json(
        &node,
        &["backup", "restore", &first, "--prune", "--dry-run"],
    )?;
    ensure!(restored["deleted"] == 1, "{restored}");
    done(&node, &["backup", "restore", &first, "--prune"])?;
    let restored = json(&node, &["backup", "restore", name])?;
    ensure!(restored["created"] == 1, "{restored}");
    let file = node
        .data()
        .join("backups")
        .join(name)
        .join("definitions.json");
    let bytes = fs::read(&file)?;
    fs::write(&file, &bytes[..bytes.len() - 1])?;
    let faults = ends_with(&node, &["backup", "verify", name], NO)?;
    ensure!(faults.contains("cut short"), "{faults}");
    let refused = ends_with(&node, &["backup", "restore", name], 1)?;
    ensure!(refused.contains("cut short"), "{refused}");
    running.stop()
}

/// The value of a metric without labels.
fn metric(node: &Node, name: &str) -> Result<f64> {
    let mut stream = TcpStream::connect(node.address("metrics"))?;
    stream.set_read_timeout(Some(BACKUP_LIMIT))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines()
        .find_map(of)
        .with_context(|| format!("no metric {name}: {text}"))
}

pub(crate) fn a_failed_backup_is_counted_and_logged(context: &Context, _: &Runtime) -> Result<()> {
    const FAILED: &str = "warren_backup_failed_total";
    const SUCCESS: &str = "warren_backup_last_success_timestamp_seconds";
    let mut node = Node::new(context, "admin-no-backup")?;
    let place = node.folder().join("backups");
    fs::write(&place, "a file where the folder should be")?;
    node.set("WARREN_BACKUP_FOLDER", text(&place));
    let running = node.start()?;
    system::until("a failed backup", BACKUP_LIMIT, || {
        Ok(metric(&node, FAILED)? == 1.0)
    })?;
    let log = fs::read_to_string(node.log_path())?;
    ensure!(
        log.contains("backup failed") && log.contains(text(&place)),
        "{log}"
    );
    let refused = ends_with(&node, &["backup", "create"], 1)?;
    ensure!(refused.contains(text(&place)), "{refused}");
    ensure!(metric(&node, FAILED)? == 2.0, "it is counted");
    fs::remove_file(&place)?;
    done(&node, &["backup", "create"])?;
    ensure!(metric(&node, SUCCESS)? > 1e9, "the last success has a time");
    running.stop()
}
