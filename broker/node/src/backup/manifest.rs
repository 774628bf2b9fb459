//! `manifest.json`: what a backup consists of, and the sums to check it by, its own among them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;
use super::files::{self, Part};

const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
const BYTES_LIMIT: u64 = 1 << 20;

/// What stands in the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// The cluster's id.
    pub(super) cluster: String,
    pub(super) cluster_name: String,
    pub(super) node: String,
    /// The version of Warren that wrote it.
    pub(super) version: String,
    pub(super) created: String,
    pub(super) created_ms: u64,
    pub(super) objects: u64,
    /// What definitions files cannot say.
    pub(super) notes: Vec<String>,
    pub(super) files: Vec<FileSum>,
    /// SHA-256 of this file's values, with nothing in this one.
    pub(super) checksum: String,
}

/// A file of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct FileSum {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            format: FORMAT,
            cluster: String::new(),
            cluster_name: String::new(),
            node: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created: String::new(),
            created_ms: 0,
            objects: 0,
            notes: Vec::new(),
            files: Vec::new(),
            checksum: String::new(),
        }
    }
}

impl Manifest {
    /// Writes it into a backup that is being made.
    pub(super) fn write(mut self, part: &Part) -> Result<(), Error> {
        self.checksum = self.sum();
        let text = serde_json::to_string_pretty(&self).expect("its values are text and numbers");
        let mut file = part.create(MANIFEST)?;
        file.write(text.as_bytes());
        file.write(b"\n");
        file.finish().map(drop)
    }

    /// Reads that of a backup; else says what is wrong with it.
    pub(super) fn read(folder: &Path) -> Result<Self, String> {
        let bytes = files::read(&folder.join(MANIFEST), BYTES_LIMIT)?;
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| format!("{MANIFEST} cannot be read: {error}"))?;
        if manifest.format != FORMAT {
            let format = manifest.format;
            return Err(format!("{MANIFEST} has format {format}, not {FORMAT}"));
        }
        if manifest.sum() != manifest.checksum {
            return Err(format!("{MANIFEST} was changed: its checksum is another"));
        }
        Ok(manifest)
    }

    /// What is wrong with the contents of a file.
    pub(super) fn faults_of(&self, name: &str, contents: &[u8]) -> Vec<String> {
        let Some(file) = self.files.iter().find(|file| file.name == name) else {
            return vec![format!("{MANIFEST} does not know {name}")];
        };
        let bytes = contents.len() as u64;
        if bytes < file.bytes {
            let missing = file.bytes - bytes;
            let all = file.bytes;
            return vec![format!(
                "{name} is cut short: {missing} of {all} bytes are missing"
            )];
        }
        if bytes > file.bytes {
            let more = bytes - file.bytes;
            return vec![format!("{name} has {more} bytes more than were written")];
        }
        if hex(&Sha256::digest(contents)) != file.sha256 {
            return vec![format!("{name} was changed: its checksum is another")];
        }
        Vec::new()
    }

    fn sum(&self) -> String {
        let bare = Self {
            checksum: String::new(),
            ..self.clone()
        };
        let text = serde_json::to_vec(&bare).expect("its values are text and numbers");
        hex(&Sha256::digest(text))
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
