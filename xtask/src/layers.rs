//! Which package may use which: the import table of the house, compared with `cargo metadata`.
//!
//! Dependencies point one way: drivers know cores, the broker knows the cluster, everybody knows
//! bytes. A package that is not in the table fails, and so does one that is elsewhere than it says.

use crate::tidy::Finding;
use crate::workspace::{Package, Workspace};

/// One package's row.
struct Layer {
    package: &'static str,
    folder: &'static str,
    /// Packages of ours that it may use, in its tests too.
    ours: &'static [&'static str],
    /// Crates of others that it must not use (its tests and benches may).
    banned: &'static [&'static str],
}

/// What would bring a clock, randomness, I/O, threads or a runtime into a core.
const IMPURE: &[&str] = &[
    "anyhow",
    "arc-swap",
    "async-trait",
    "axum",
    "chrono",
    "clap",
    "crossbeam",
    "crossbeam-channel",
    "fastrand",
    "futures",
    "getrandom",
    "h2",
    "hyper",
    "hyper-util",
    "lapin",
    "libc",
    "log",
    "metrics",
    "mio",
    "nix",
    "num_cpus",
    "parking_lot",
    "prost",
    "rand",
    "rcgen",
    "rayon",
    "rustix",
    "rustls",
    "sled",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "tokio-rustls",
    "tokio-stream",
    "tokio-util",
    "tonic",
    "tonic-prost",
    "tower",
    "tracing",
    "tracing-subscriber",
    "uuid",
    "x509-parser",
];

const LAYERS: &[Layer] = &[
    Layer {
        package: "warren-protocol",
        folder: "protocol",
        ours: &[],
        banned: IMPURE,
    },
    Layer {
        package: "warren-cluster-core",
        folder: "cluster/core",
        ours: &[],
        banned: IMPURE,
    },
    Layer {
        package: "warren-cluster",
        folder: "cluster/node",
        ours: &["warren-cluster-core"],
        banned: &["anyhow", "axum", "clap", "lapin", "raft"],
    },
    Layer {
        package: "warren-broker-core",
        folder: "broker/core",
        ours: &["warren-protocol", "warren-cluster-core"],
        banned: IMPURE,
    },
    Layer {
        package: "warren",
        folder: "broker/node",
        ours: &[
            "warren-protocol",
            "warren-cluster-core",
            "warren-cluster",
            "warren-broker-core",
        ],
        banned: &["lapin", "prometheus", "raft", "rcgen", "sled"],
    },
    Layer {
        package: "warren-sim",
        folder: "tests/sim",
        ours: &[
            "warren-protocol",
            "warren-cluster-core",
            "warren-broker-core",
        ],
        banned: &[
            "crossbeam",
            "getrandom",
            "lapin",
            "mio",
            "rand",
            "sled",
            "socket2",
            "tokio",
        ],
    },
    Layer {
        package: "warren-conformance",
        folder: "tests/conformance",
        ours: &["warren-protocol"],
        banned: &[],
    },
    Layer {
        package: "warren-faults",
        folder: "tests/faults",
        ours: &["warren-protocol"],
        banned: &[],
    },
    Layer {
        package: "warren-fuzz",
        folder: "tests/fuzz",
        ours: &[
            "warren-protocol",
            "warren-cluster-core",
            "warren-broker-core",
            "warren-sim",
        ],
        banned: &[],
    },
    Layer {
        package: "warren-benches",
        folder: "benches",
        ours: &[
            "warren-protocol",
            "warren-cluster-core",
            "warren-cluster",
            "warren-broker-core",
            "warren-sim",
        ],
        banned: &[],
    },
    Layer {
        package: "xtask",
        folder: "xtask",
        ours: &[],
        banned: &["clap", "protox", "tokio", "tonic-prost-build"],
    },
    Layer {
        package: "xtask-grpc",
        folder: "xtask/grpc",
        ours: &[],
        banned: &["clap", "tokio"],
    },
];

/// Compares the workspace with the table.
pub(crate) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &workspace.packages {
        let mut say = |text: String| {
            let path = format!("{}/Cargo.toml", package.folder);
            findings.push(Finding {
                path,
                line: 0,
                rule: "layers",
                text,
            });
        };
        let Some(layer) = LAYERS.iter().find(|layer| layer.package == package.name) else {
            say(format!(
                "{} has no row in xtask/src/layers.rs",
                package.name
            ));
            continue;
        };
        if layer.folder != package.folder {
            say(format!("{} belongs in {}/", package.name, layer.folder));
        }
        for breach in layer.breaches(package) {
            say(breach);
        }
    }
    findings
}

impl Layer {
    fn breaches(&self, package: &Package) -> Vec<String> {
        let is_ours = |name: &str| LAYERS.iter().any(|layer| layer.package == name);
        let mut found = Vec::new();
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if is_ours(name) && !self.ours.contains(&name) {
                found.push(format!("{} must not know {name}", self.package));
            }
            if self.banned.contains(&name) && !dependency.dev {
                found.push(format!("{} must not use the crate {name}", self.package));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;
    use std::path::PathBuf;

    fn broken(name: &str, folder: &str, dependencies: &[(&str, bool)]) -> Vec<String> {
        let dependencies = dependencies
            .iter()
            .map(|&(name, dev)| Dependency {
                name: name.to_owned(),
                dev,
            })
            .collect();
        let package = Package {
            name: name.to_owned(),
            folder: folder.to_owned(),
            dependencies,
            targets: Vec::new(),
        };
        let workspace = Workspace {
            root: PathBuf::new(),
            target: PathBuf::new(),
            packages: vec![package],
        };
        check(&workspace)
            .into_iter()
            .map(|finding| finding.text)
            .collect()
    }

    #[test]
    fn dependencies_point_one_way() {
        let good = [
            ("warren-protocol", false),
            ("bytes", false),
            ("proptest", true),
        ];
        assert_eq!(
            broken("warren-broker-core", "broker/core", &good),
            Vec::<String>::new()
        );
        let up = [("warren-broker-core", false)];
        let found = broken("warren-cluster", "cluster/node", &up);
        assert_eq!(found, ["warren-cluster must not know warren-broker-core"]);
        let in_tests = [("warren-cluster", true)];
        let found = broken("warren-protocol", "protocol", &in_tests);
        assert_eq!(found, ["warren-protocol must not know warren-cluster"]);
    }

    #[test]
    fn cores_stay_without_a_runtime() {
        let found = broken("warren-cluster-core", "cluster/core", &[("tokio", false)]);
        assert_eq!(found, ["warren-cluster-core must not use the crate tokio"]);
        assert!(broken("warren-cluster-core", "cluster/core", &[("tokio", true)]).is_empty());
        assert!(!broken("warren", "broker/node", &[("raft", false)]).is_empty());
    }

    #[test]
    fn packages_are_known_and_in_their_place() {
        assert!(broken("warren-extra", "extra", &[])[0].contains("no row"));
        assert!(broken("warren", "node", &[])[0].contains("belongs in broker/node"));
    }

    #[test]
    fn the_table_names_only_packages_that_it_has() {
        for name in LAYERS.iter().flat_map(|layer| layer.ours) {
            assert!(LAYERS.iter().any(|layer| layer.package == *name), "{name}");
        }
    }
}
