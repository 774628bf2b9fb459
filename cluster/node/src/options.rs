//! The cluster's part of the configuration.

use std::path::PathBuf;

/// How a node keeps its data.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder; made when missing.
    pub folder: PathBuf,
    /// For people and logs; the node's identity is a number of its own, drawn once.
    pub name: String,
    /// `cluster.shards`: queue shards of a cluster, fixed when its first node starts.
    pub shards: u32,
    /// Bytes a log segment's file has.
    pub segment_bytes: u32,
    /// Recent message bodies kept in memory, in bytes of their backing buffers.
    pub young_bytes: u64,
    /// Message bodies read back from disk and kept for a while, in bytes.
    pub read_cache_bytes: u64,
    /// `log.sync = "os"`: confirm without waiting for the disk, trusting the page cache. Messages
    /// confirmed in the last seconds are lost when the machine (not the process) dies.
    pub sync_is_left_to_the_os: bool,
    /// `cluster.transfer_rate`: bytes a second that a replica which is being rebuilt takes in.
    pub transfer_bytes_per_second: u64,
}

impl Options {
    /// The defaults for a data folder.
    #[must_use]
    pub fn new(folder: PathBuf, name: String) -> Self {
        Self {
            folder,
            name,
            shards: 64,
            segment_bytes: 64 << 20,
            young_bytes: 64 << 20,
            read_cache_bytes: 32 << 20,
            sync_is_left_to_the_os: false,
            transfer_bytes_per_second: 64 << 20,
        }
    }
}
