//! Files of backups: readable by their owner alone, for password hashes are in them; synced before
//! they count.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Error;
use super::manifest::{FileSum, hex};
use super::stamp;

pub(super) const DEFINITIONS: &str = "definitions.json";

fn failed<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> Error + use<'p> {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Makes the folder that backups are in, if it is not there.
pub(super) fn make_folder(folder: &Path) -> Result<(), Error> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.map_err(failed("make", folder))
}

/// The names of backups in a folder; none where there is no folder.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("read", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("read", folder))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if stamp::of_name(&name).is_some() {
            names.push(name);
        }
    }
    Ok(names)
}

/// A file of at most `limit` bytes; else what is wrong with it.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let read = || {
        let mut bytes = Vec::new();
        let count = File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok((bytes, count as u64))
    };
    match read() {
        Ok((_, count)) if count > limit => Err(format!("{name} has more than {limit} bytes")),
        Ok((bytes, _)) => Ok(bytes),
        Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => {
            Err(format!("{name} is missing"))
        }
        Err(error) => Err(format!("{name} cannot be read: {error}")),
    }
}

/// Removes what earlier attempts left behind.
pub(super) fn remove_parts(folder: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            // What stays is in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes a backup: from one moment to the next it has no name, `gone` has its files.
pub(super) fn remove(path: &Path, gone: &Path) -> Result<(), Error> {
    fs::rename(path, gone)
        .and_then(|()| fs::remove_dir_all(gone))
        .map_err(failed("remove", path))
}

/// A backup that is being made; removed when it does not come to its end.
pub(super) struct Part {
    path: PathBuf,
    is_done: bool,
}

impl Part {
    pub(super) fn new(path: PathBuf) -> Result<Self, Error> {
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(failed("make", &path))?;
        let is_done = false;
        Ok(Self { path, is_done })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A new file of it.
    pub(super) fn create(&self, name: &'static str) -> Result<Writing, Error> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("make", &path))?;
        Ok(Writing {
            name,
            path,
            file: BufWriter::with_capacity(256 << 10, file),
            hash: Sha256::new(),
            bytes: 0,
            fault: None,
        })
    }

    /// Gives it its name, for good.
    pub(super) fn publish(mut self, folder: &Path, name: &str) -> Result<(), Error> {
        let sync = |path: &Path| File::open(path)?.sync_all();
        let path = folder.join(name);
        sync(&self.path)
            .and_then(|()| fs::rename(&self.path, &path))
            .map_err(failed("make", &path))?;
        self.is_done = true;
        sync(folder).map_err(failed("sync", folder))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_done {
            // The next backup tries again.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A file that is being written, and its sum.
pub(super) struct Writing {
    name: &'static str,
    path: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
    /// The first failure; [`Writing::finish`] gives it.
    fault: Option<io::Error>,
}

impl Writing {
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.fault = self.file.write_all(bytes).err();
    }

    /// Syncs the file.
    pub(super) fn finish(mut self) -> Result<FileSum, Error> {
        let written = match self.fault.take() {
            Some(fault) => Err(fault),
            None => self.file.flush(),
        };
        written
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(failed("write", &self.path))?;
        Ok(FileSum {
            name: self.name.to_owned(),
            bytes: self.bytes,
            sha256: hex(&self.hash.finalize()),
        })
    }
}
