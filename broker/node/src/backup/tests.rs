//! What tests of the admin API need to know of backups' files.

use std::path::Path;

use super::DEFINITIONS;
use super::files::{self, Part};
use super::manifest::Manifest;

/// Copies a backup as if it had been made at another time.
pub(crate) fn age(from: &Path, to: &Path, created_ms: u64) {
    let mut manifest = Manifest::read(from).expect("reads");
    manifest.created_ms = created_ms;
    let contents = files::read(&from.join(DEFINITIONS), 1 << 20).expect("reads");
    let parent = to.parent().expect("is in a folder");
    let part = Part::new(parent.join(".part-aged")).expect("makes");
    let mut file = part.create(DEFINITIONS).expect("makes");
    file.write(&contents);
    file.finish().expect("writes");
    manifest.write(&part).expect("writes");
    let name = to.file_name().expect("has a name").to_string_lossy();
    part.publish(parent, &name).expect("renames");
}
