//! What cargo knows of the workspace: its packages, their dependencies and targets.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::run::Call;

/// The workspace as `cargo metadata` tells it.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One member.
#[derive(Debug, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Its folder, relative to the root, with `/`.
    pub(crate) folder: String,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// One line of a `[dependencies]` table.
#[derive(Debug)]
pub(crate) struct Dependency {
    /// The package's own name, whatever it is renamed to.
    pub(crate) name: String,
    /// Only tests, benches and examples see it.
    pub(crate) dev: bool,
}

/// One thing that cargo builds from a package.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, `bench`..
    pub(crate) kind: String,
}

impl Workspace {
    /// Asks cargo.
    ///
    /// # Errors
    /// When cargo cannot be run, or answers what we do not understand.
    pub(crate) fn load() -> Result<Self> {
        let text = Call::cargo("metadata")
            .args(["--no-deps", "--format-version", "1"])
            .quiet()
            .output()
            .context("cargo metadata")?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("cargo metadata is not JSON")?;
        let root = PathBuf::from(string(&value["workspace_root"]));
        let packages = list(&value["packages"]).map(|package| Package::parse(package, &root));
        Ok(Self {
            target: PathBuf::from(string(&value["target_directory"])),
            packages: packages.collect(),
            root,
        })
    }

    /// The member of that name, if it exists already.
    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// Where cargo puts the binary `name` with `profile`.
    pub(crate) fn binary(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }
}

impl Package {
    fn parse(value: &Value, root: &Path) -> Self {
        let manifest = PathBuf::from(string(&value["manifest_path"]));
        let folder = manifest
            .parent()
            .and_then(|folder| folder.strip_prefix(root).ok());
        let folder =
            folder.map_or_else(String::new, |folder| folder.to_string_lossy().into_owned());
        let dependencies = list(&value["dependencies"]).map(|dependency| Dependency {
            name: string(&dependency["name"]),
            dev: dependency["kind"] == "dev",
        });
        let targets = list(&value["targets"]).map(|target| Target {
            name: string(&target["name"]),
            kind: string(&target["kind"][0]),
        });
        Self {
            name: string(&value["name"]),
            folder,
            dependencies: dependencies.collect(),
            targets: targets.collect(),
        }
    }

    /// Names of its targets of a kind.
    pub(crate) fn targets<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.targets
            .iter()
            .filter(move |target| target.kind == kind)
            .map(|t| t.name.as_str())
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read() {
        let text = r#"{"workspace_root": "/w", "target_directory": "/t", "packages": [
            {"name": "a", "manifest_path": "/w/some/a/Cargo.toml",
             "dependencies": [{"name": "b", "kind": null}, {"name": "c", "kind": "dev"}],
             "targets": [{"name": "a", "kind": ["bin"]}, {"name": "t", "kind": ["test"]}]}]}"#;
        let workspace = Workspace::parse(text).unwrap();
        let package = workspace.package("a").unwrap();
        assert_eq!(package.folder, "some/a");
        let dev: Vec<bool> = package.dependencies.iter().map(|d| d.dev).collect();
        assert_eq!(dev, [false, true]);
        assert_eq!(package.targets("test").collect::<Vec<_>>(), ["t"]);
        assert!(workspace.package("z").is_none());
        assert_eq!(workspace.binary("ci", "a"), Path::new("/t/ci/a"));
    }
}
