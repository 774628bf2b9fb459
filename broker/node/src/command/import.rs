//! What imports and restores answer, as people and programs read it.

use std::io::{self, BufWriter, Write};

use anyhow::bail;
use serde_json::{Value, json};
use tonic::{Response, Status, Streaming};

use super::client::refused;
use super::output::{self, EXIT_NO, Progress};
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::import_response::Part;

/// Shows what an import answers, to its end; gives the exit code.
pub(super) async fn show(
    what: &'static str,
    answer: Result<Response<Streaming<proto::ImportResponse>>, Status>,
    dry_run: bool,
    is_json: bool,
) -> anyhow::Result<i32> {
    let mut stream = answer.map_err(refused)?.into_inner();
    let mut progress = Progress::new(what);
    let mut entries = Vec::new();
    let result = loop {
        let Some(message) = stream.message().await.map_err(refused)? else {
            bail!("the node ended its answer before the result");
        };
        match message.part {
            Some(Part::Entries(some)) => {
                let mut some = some.entries;
                if !dry_run && !is_json {
                    // What is done is counted; what is in the way is shown.
                    some.retain(|entry| blocks(entry.action()));
                }
                if is_json {
                    entries.extend(some.iter().map(as_json));
                } else {
                    print(&some)?;
                }
            }
            Some(Part::Progress(step)) => progress.set(step.done, step.total),
            Some(Part::Result(result)) => break result,
            None => {}
        }
    };
    progress.finish();
    let code = if result.blocked.is_empty() {
        0
    } else {
        EXIT_NO
    };
    if is_json {
        output::json(&result_as_json(&result, &entries))?;
    } else {
        summarize(&result)?;
    }
    Ok(code)
}

fn blocks(action: proto::Action) -> bool {
    matches!(action, proto::Action::Conflict | proto::Action::Unsupported)
}

fn name_of(action: proto::Action) -> &'static str {
    match action {
        proto::Action::Create => "create",
        proto::Action::Change => "change",
        proto::Action::Conflict => "conflict",
        proto::Action::Unsupported => "unsupported",
        proto::Action::Delete => "delete",
        proto::Action::Unspecified => "?",
    }
}

fn print(entries: &[proto::Entry]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for entry in entries {
        write!(out, "{} {} ", name_of(entry.action()), entry.kind)?;
        out.write_all(named(&entry.kind, &entry.vhost, &entry.name).as_bytes())?;
        if !entry.cause.is_empty() {
            write!(out, ": {}", entry.cause)?;
        }
        writeln!(out)?;
    }
    out.flush()
}

/// An object as people are shown it.
pub(super) fn named(kind: &str, vhost: &str, name: &str) -> String {
    // These names are sentences of their own.
    let quoted = match kind {
        "binding" | "permission" => name.to_owned(),
        _ => format!("'{name}'"),
    };
    if vhost.is_empty() {
        quoted
    } else {
        format!("{quoted} in vhost '{vhost}'")
    }
}

fn summarize(result: &proto::ImportResult) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for note in &result.notes {
        writeln!(out, "note: {note}")?;
    }
    for blocked in &result.blocked {
        writeln!(out, "nothing done for {}: {}", blocked.unit, blocked.cause)?;
    }
    let proto::ImportResult {
        created,
        changed,
        deleted,
        same,
        ..
    } = result;
    let would = if result.dry_run { "would be " } else { "" };
    writeln!(
        out,
        "{created} {would}created, {changed} changed, {deleted} deleted, {same} there already"
    )?;
    out.flush()
}

fn as_json(entry: &proto::Entry) -> Value {
    json!({
        "action": name_of(entry.action()),
        "kind": entry.kind,
        "vhost": entry.vhost,
        "name": entry.name,
        "cause": entry.cause,
    })
}

fn result_as_json(result: &proto::ImportResult, entries: &[Value]) -> Value {
    let blocked =
        |blocked: &proto::Blocked| json!({ "unit": blocked.unit, "cause": blocked.cause });
    json!({
        "dry_run": result.dry_run,
        "created": result.created,
        "changed": result.changed,
        "deleted": result.deleted,
        "same": result.same,
        "blocked": result.blocked.iter().map(blocked).collect::<Vec<_>>(),
        "notes": result.notes,
        "entries": entries,
    })
}
