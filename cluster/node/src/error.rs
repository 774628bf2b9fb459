//! Why a node cannot open its data folder.

use std::path::PathBuf;

/// What stands in the way of a start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("data folder {} is in use by {}", folder.display(), holder(*pid))]
    Locked { folder: PathBuf, pid: Option<u32> },
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("local store of data folder {}: {cause}", folder.display())]
    Store { folder: PathBuf, cause: String },
    /// The folder belongs to another version, or was made with other options.
    #[error("data folder {}: {cause}", folder.display())]
    Foreign { folder: PathBuf, cause: String },
    /// What is on disk cannot be trusted: the log or a checkpoint is damaged.
    #[error("cannot recover {}: {cause}", folder.display())]
    Recovery { folder: PathBuf, cause: String },
    #[error("shards did not start within {seconds} s: the disk does not answer")]
    Stalled { seconds: u64 },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}
