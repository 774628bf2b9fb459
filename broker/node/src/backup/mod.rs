//! Backups of all definitions, each a folder of its own: `warren-<cluster>-<UTC time>` with
//! `definitions.json` and `manifest.json`.
//!
//! Invariants:
//! - a backup that has its name was written, synced and read back: before, it is called `.part-..`;
//! - an older one goes only after a newer one was verified, and only of the same cluster;
//! - names from outside are names of backups, never paths.
//!
//! All of this waits for disks: it is called on threads that serve nobody, by one at a time who
//! holds [`Backups::slot`].

mod files;
mod manifest;
mod schedule;
mod stamp;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{counter, describe_counter, describe_gauge, gauge};
use warren_broker_core::definitions::interchange::{Exported, FILE_BYTES_MAX, Scope, parse};
use warren_cluster::tls::ClusterId;

use self::files::{DEFINITIONS, Part};
use self::manifest::{FileSum, Manifest};
use crate::broker::Broker;
use crate::definitions::export;
use crate::slot::Slot;

pub(crate) use schedule::run;
#[cfg(test)]
pub(crate) use tests::age;

const FAILED: &str = "warren_backup_failed_total";
const LAST_SUCCESS: &str = "warren_backup_last_success_timestamp_seconds";
const DAY_MS: u64 = 24 * 3_600_000;

/// What is known of a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Info {
    pub(crate) name: String,
    pub(crate) created_ms: u64,
    pub(crate) bytes: u64,
    pub(crate) objects: u64,
    /// Why its manifest cannot be read.
    pub(crate) fault: Option<String>,
}

/// Why something cannot be done with backups.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("'{name}' is not the name of a backup")]
    Name { name: String },
    #[error("there is no backup '{name}' in {}", folder.display())]
    Unknown { name: String, folder: PathBuf },
    #[error("{name}: {}", faults.join("; "))]
    Damaged { name: String, faults: Vec<String> },
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

/// The backups of a node's cluster.
pub(crate) struct Backups {
    broker: Arc<Broker>,
    folder: PathBuf,
    cluster: ClusterId,
    slot: Arc<Slot>,
    /// When the newest of this cluster was made, in milliseconds; 0: there is none.
    last_ms: AtomicU64,
}

impl Backups {
    pub(crate) fn new(broker: Arc<Broker>, cluster: ClusterId) -> Self {
        describe_counter!(FAILED, "Backups that could not be made.");
        describe_gauge!(LAST_SUCCESS, "When the last backup was made.");
        counter!(FAILED).increment(0);
        let config = broker.config();
        let folder = config.backup_folder.clone();
        let folder = folder.unwrap_or_else(|| config.data_dir.join("backups"));
        Self {
            broker,
            folder,
            cluster,
            slot: Arc::default(),
            last_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Of those who make or verify backups.
    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Makes a backup, reads it back, and deletes those that have become too old.
    pub(crate) fn create(&self) -> Result<Info, Error> {
        let made = self.write();
        match &made {
            Ok(info) => {
                self.note_success(info.created_ms);
                tracing::info!(
                    backup = info.name,
                    objects = info.objects,
                    bytes = info.bytes,
                    "backup made"
                );
                self.prune(info);
            }
            Err(error) => {
                counter!(FAILED).increment(1);
                tracing::error!(%error, folder = %self.folder.display(), "backup failed");
                let me = Some(self.broker.lane().node());
                let text = format!("a backup failed: {error}");
                self.broker.events().tell("backup-failed", me, None, text);
            }
        }
        made
    }

    /// All that are there, the oldest first; of any cluster.
    pub(crate) fn list(&self) -> Result<Vec<Info>, Error> {
        let mut found: Vec<_> = files::names(&self.folder)?
            .into_iter()
            .map(|name| self.info(name))
            .collect();
        found.sort_unstable_by(|a, b| (a.created_ms, &a.name).cmp(&(b.created_ms, &b.name)));
        Ok(found)
    }

    /// Reads a backup back; gives what is wrong with it.
    pub(crate) fn verify(&self, name: &str) -> Result<(Info, Vec<String>), Error> {
        let folder = self.path(name)?;
        let faults = faults(&folder);
        Ok((self.info(name.to_owned()), faults))
    }

    /// The definitions of a backup that is as it was written.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let folder = self.path(name)?;
        let damaged = |faults| Error::Damaged {
            name: name.to_owned(),
            faults,
        };
        let manifest = Manifest::read(&folder).map_err(|fault| damaged(vec![fault]))?;
        let path = folder.join(DEFINITIONS);
        let file = files::read(&path, FILE_BYTES_MAX as u64);
        let file = file.map_err(|fault| damaged(vec![fault]))?;
        let faults = manifest.faults_of(DEFINITIONS, &file);
        if faults.is_empty() {
            Ok(file)
        } else {
            Err(damaged(faults))
        }
    }

    fn path(&self, name: &str) -> Result<PathBuf, Error> {
        if stamp::of_name(name).is_none() {
            let name = name.to_owned();
            return Err(Error::Name { name });
        }
        let path = self.folder.join(name);
        if !path.is_dir() {
            return Err(Error::Unknown {
                name: name.to_owned(),
                folder: self.folder.clone(),
            });
        }
        Ok(path)
    }

    fn info(&self, name: String) -> Info {
        let read = Manifest::read(&self.folder.join(&name));
        let stamped = stamp::of_name(&name).unwrap_or(0);
        match read {
            Ok(manifest) => Info {
                name,
                created_ms: manifest.created_ms,
                bytes: manifest.files.iter().map(|file| file.bytes).sum(),
                objects: manifest.objects,
                fault: None,
            },
            Err(fault) => Info {
                name,
                created_ms: stamped,
                bytes: 0,
                objects: 0,
                fault: Some(fault),
            },
        }
    }

    fn write(&self) -> Result<Info, Error> {
        files::make_folder(&self.folder)?;
        let prefix = format!(".part-{}-", self.cluster);
        files::remove_parts(&self.folder, &prefix);
        let created_ms = self.broker.lane().now().wall.0;
        let stamp = stamp::of_time(created_ms);
        let part = Part::new(self.folder.join(format!("{prefix}{stamp}")))?;
        let (sum, exported) = self.write_definitions(&part)?;
        let (bytes, objects) = (sum.bytes, exported.objects);
        let config = self.broker.config();
        let manifest = Manifest {
            cluster: self.cluster.to_string(),
            cluster_name: config.cluster_name().to_owned(),
            node: config.node_name.clone(),
            created: stamp::readable(created_ms),
            created_ms,
            objects,
            notes: exported.notes,
            files: vec![sum],
            ..Manifest::default()
        };
        manifest.write(&part)?;
        let cluster = stamp::file_name(config.cluster_name());
        let name = format!("warren-{cluster}-{stamp}");
        let faults = faults(part.path());
        if !faults.is_empty() {
            return Err(Error::Damaged { name, faults });
        }
        part.publish(&self.folder, &name)?;
        Ok(Info {
            name,
            created_ms,
            bytes,
            objects,
            fault: None,
        })
    }

    fn write_definitions(&self, part: &Part) -> Result<(FileSum, Exported), Error> {
        let mut file = part.create(DEFINITIONS)?;
        let internal_exchanges = true;
        let exported = export(
            &self.broker,
            Scope::Cluster,
            internal_exchanges,
            &mut |piece| file.write(piece),
        );
        // The scope is the whole cluster, which is always there.
        let exported = exported.unwrap_or_default();
        Ok((file.finish()?, exported))
    }

    /// Deletes what is older than it need be, now that `newest` is there and verified.
    fn prune(&self, newest: &Info) {
        let keep_ms = u64::from(self.broker.config().backup_keep_days) * DAY_MS;
        let until = newest.created_ms.saturating_sub(keep_ms);
        let found = match self.list() {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "backups that are too old stay");
                return;
            }
        };
        for old in found {
            let is_ours = || self.is_ours(&old.name);
            if old.fault.is_some() || old.created_ms >= until || !is_ours() {
                continue;
            }
            let gone = self.folder.join(format!(".part-{}-old", self.cluster));
            match files::remove(&self.folder.join(&old.name), &gone) {
                Ok(()) => tracing::info!(backup = old.name, "backup deleted: it is too old"),
                Err(error) => tracing::warn!(%error, "a backup that is too old stays"),
            }
        }
    }

    fn is_ours(&self, name: &str) -> bool {
        let manifest = Manifest::read(&self.folder.join(name));
        manifest.is_ok_and(|manifest| manifest.cluster == self.cluster.to_string())
    }

    /// When the newest of this cluster was made, by what is on disk.
    fn newest_ms(&self) -> Option<u64> {
        let found = self.list().ok()?;
        let whole = found.iter().filter(|info| info.fault.is_none());
        let newest = whole.rev().find(|info| self.is_ours(&info.name))?;
        self.note_success(newest.created_ms);
        Some(newest.created_ms)
    }

    fn note_success(&self, created_ms: u64) {
        let last = self.last_ms.fetch_max(created_ms, Ordering::Relaxed);
        gauge!(LAST_SUCCESS).set((last.max(created_ms) / 1000) as f64);
    }
}

/// What is wrong with a backup's files.
fn faults(folder: &Path) -> Vec<String> {
    let manifest = match Manifest::read(folder) {
        Ok(manifest) => manifest,
        Err(fault) => return vec![fault],
    };
    let file = match files::read(&folder.join(DEFINITIONS), FILE_BYTES_MAX as u64) {
        Ok(file) => file,
        Err(fault) => return vec![fault],
    };
    let mut faults = manifest.faults_of(DEFINITIONS, &file);
    if faults.is_empty()
        && let Err(error) = parse(&file, None)
    {
        faults.push(format!("{DEFINITIONS} cannot be read: {error}"));
    }
    faults
}
