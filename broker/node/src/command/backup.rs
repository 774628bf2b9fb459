//! `warren backup`: backups of all definitions, on the node.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{self, Connection, Target, refused};
use super::import;
use super::output::{self, EXIT_NO};
use crate::proto::admin_v1 as proto;
use crate::proto::admin_v1::backup_client::BackupClient;

/// Backups of all definitions.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a backup now, and read it back.
    Create,
    /// List the backups, the oldest first.
    List,
    /// Read a backup back. Exits with 3 when it is not as it was written.
    Verify { name: String },
    /// Verify a backup, then import its definitions.
    Restore {
        name: String,
        /// Say what would be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Delete what the backup has not.
        #[arg(long)]
        prune: bool,
    },
}

/// Does it; gives the exit code.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { target, verb } = arguments;
    client::run(async {
        let mut backups = BackupClient::new(target.connect().await?);
        match verb {
            Verb::Create => create(&mut backups, target.json).await,
            Verb::List => list(&mut backups, target.json).await,
            Verb::Verify { name } => verify(&mut backups, name, target.json).await,
            Verb::Restore {
                name,
                dry_run,
                prune,
            } => {
                let request = proto::RestoreRequest {
                    name,
                    dry_run,
                    prune,
                };
                let answer = backups.restore(request).await;
                import::show("restore", answer, dry_run, target.json).await
            }
        }
    })
}

async fn create(backups: &mut BackupClient<Connection>, is_json: bool) -> anyhow::Result<i32> {
    let answer = backups.create(proto::CreateRequest {}).await;
    let made = answer.map_err(refused)?.into_inner().backup;
    let made = made.context("the node does not say what it made")?;
    if is_json {
        output::json(&as_json(&made))?;
    } else {
        println!("{}", made.name);
    }
    Ok(0)
}

async fn list(backups: &mut BackupClient<Connection>, is_json: bool) -> anyhow::Result<i32> {
    let answer = backups.list(proto::ListRequest {}).await;
    let found = answer.map_err(refused)?.into_inner();
    if is_json {
        let all: Vec<_> = found.backups.iter().map(as_json).collect();
        output::json(&json!({ "folder": found.folder, "backups": all }))?;
        return Ok(0);
    }
    let rows = found.backups.into_iter().map(|backup| {
        let age = UNIX_EPOCH + Duration::from_millis(backup.created_ms);
        let age = age.elapsed().unwrap_or_default();
        let state = if backup.fault.is_empty() {
            "ok".to_owned()
        } else {
            backup.fault
        };
        [
            backup.name,
            since(age),
            backup.objects.to_string(),
            backup.bytes.to_string(),
            state,
        ]
    });
    output::table(["NAME", "AGE", "OBJECTS", "BYTES", "MANIFEST"], rows)?;
    Ok(0)
}

async fn verify(
    backups: &mut BackupClient<Connection>,
    name: String,
    is_json: bool,
) -> anyhow::Result<i32> {
    let answer = backups.verify(proto::VerifyRequest { name: name.clone() });
    let faults = answer.await.map_err(refused)?.into_inner().faults;
    if is_json {
        output::json(&json!({ "name": name, "faults": faults }))?;
    } else if faults.is_empty() {
        println!("ok");
    } else {
        for fault in &faults {
            println!("{fault}");
        }
    }
    Ok(if faults.is_empty() { 0 } else { EXIT_NO })
}

/// A length of time in its largest unit.
fn since(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn as_json(backup: &proto::BackupInfo) -> Value {
    json!({
        "name": backup.name,
        "created_ms": backup.created_ms,
        "bytes": backup.bytes,
        "objects": backup.objects,
        "fault": backup.fault,
    })
}
