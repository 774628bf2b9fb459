//! Which words may stand where: what the packages' import table is too coarse to say.
//!
//! A ban is on paths (`std::fs`), found in code and `use` trees, never in strings or comments.

use super::Finding;
use super::source::Source;
use super::tokens::{self, Path};

/// Some paths that must not be used in some files.
struct Ban {
    /// What a `// tidy: allow NAME: reason` calls it; bans without one cannot be set aside.
    name: Option<&'static str>,
    words: &'static [Word],
    /// Files and folders (with `/` at the end) that it holds for; all when empty.
    within: &'static [&'static str],
    /// Files and folders that may use the words all the same.
    except: &'static [&'static str],
    tests: Tests,
    why: &'static str,
}

/// What to look for.
enum Word {
    /// These segments, one after the other, anywhere in a path.
    Path(&'static str),
    /// A crate: the first segment of an import or of a path with more than one.
    Crate(&'static str),
    /// A crate of which only these modules may be used.
    CrateBut(&'static str, &'static [&'static str]),
}

/// What a ban says of code that only tests see.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tests {
    Exempt,
    Included,
    Only,
}

const CORES: &[&str] = &["protocol/src/", "cluster/core/src/", "broker/core/src/"];
const STEPPED: &[&str] = &[
    "protocol/src/",
    "cluster/core/src/",
    "broker/core/src/",
    "tests/sim/src/",
];

const BANS: &[Ban] = &[
    Ban {
        name: None,
        words: &[
            Word::Path("Instant::now"),
            Word::Path("std::time::Instant"),
            Word::Path("SystemTime"),
            Word::Path("std::net"),
            Word::Path("std::thread"),
            Word::Crate("rand"),
            Word::Crate("tokio"),
        ],
        within: STEPPED,
        except: &["tests/sim/src/main.rs"],
        tests: Tests::Included,
        why: "a core is pure: time, seeds and bytes come in as arguments",
    },
    Ban {
        name: None,
        words: &[
            Word::Path("std::fs"),
            Word::Path("std::env"),
            Word::Path("std::process"),
            Word::Path("std::io::stdout"),
            Word::Path("std::io::stderr"),
            Word::Crate("tracing"),
        ],
        within: CORES,
        except: &[],
        tests: Tests::Exempt,
        why: "a core does no I/O: what it wants done goes out as a value",
    },
    Ban {
        name: Some("hash-map"),
        words: &[
            Word::Path("collections::HashMap"),
            Word::Path("collections::HashSet"),
            Word::Path("collections::hash_map"),
            Word::Path("collections::hash_set"),
            Word::Path("RandomState"),
        ],
        within: CORES,
        except: &[],
        tests: Tests::Exempt,
        why: "its order differs from process to process: take a BTreeMap or an ordered table",
    },
    Ban {
        name: Some("hash-map"),
        words: &[
            Word::Path("collections::HashMap"),
            Word::Path("collections::HashSet"),
            Word::Path("RandomState"),
        ],
        within: &["tests/sim/src/"],
        except: &[],
        tests: Tests::Included,
        why: "its order differs from process to process, so a seed would not replay",
    },
    Ban {
        name: None,
        words: &[Word::Crate("raft"), Word::Crate("raft_proto")],
        within: &[],
        except: &[
            "cluster/core/src/consensus.rs",
            "cluster/core/src/consensus/",
        ],
        tests: Tests::Included,
        why: "raft-rs is named in cluster/core/src/consensus.rs and its folder alone",
    },
    Ban {
        name: None,
        words: &[Word::CrateBut(
            "warren_cluster_core",
            &["batch", "ids", "machine", "parts", "rows"],
        )],
        within: &["broker/core/src/"],
        except: &[],
        tests: Tests::Included,
        why: "the broker's core knows of cluster/core batch, ids, machine, parts and rows alone",
    },
    Ban {
        name: None,
        words: &[Word::Crate("serde"), Word::Crate("serde_json")],
        within: &["broker/core/src/"],
        except: &[
            "broker/core/src/definitions/interchange.rs",
            "broker/core/src/definitions/interchange/",
        ],
        tests: Tests::Included,
        why: "domain types carry no serialization: JSON is in definitions/interchange.rs alone",
    },
    Ban {
        name: None,
        words: &[Word::Path("std::fs")],
        within: &["cluster/node/src/"],
        except: &[
            "cluster/node/src/disk.rs",
            "cluster/node/src/disk/",
            "cluster/node/src/local.rs",
            "cluster/node/src/tls/files.rs",
        ],
        tests: Tests::Exempt,
        why: "files are opened in disk.rs, local.rs and tls/files.rs alone",
    },
    Ban {
        name: None,
        words: &[Word::Crate("sled")],
        within: &[],
        except: &["cluster/node/src/local.rs"],
        tests: Tests::Included,
        why: "the local store is named in cluster/node/src/local.rs alone",
    },
    Ban {
        name: None,
        words: &[
            Word::Crate("prost"),
            Word::Crate("tonic"),
            Word::Crate("tonic_prost"),
        ],
        within: &["cluster/node/src/"],
        except: &[
            "cluster/node/src/colleagues.rs",
            "cluster/node/src/grpc.rs",
            "cluster/node/src/join/",
            "cluster/node/src/proto/",
        ],
        tests: Tests::Included,
        why: "gRPC is named in colleagues.rs, grpc.rs, join/ and proto/ alone",
    },
    Ban {
        name: None,
        words: &[Word::Crate("rcgen"), Word::Crate("x509_parser")],
        within: &[],
        except: &["cluster/node/src/tls/"],
        tests: Tests::Included,
        why: "certificates are made and read in cluster/node/src/tls alone",
    },
    Ban {
        name: None,
        words: &[Word::Path("TcpStream"), Word::Path("TcpSocket")],
        within: &["broker/node/src/"],
        except: &[
            "broker/node/src/connection.rs",
            "broker/node/src/listener.rs",
            "broker/node/src/command/health.rs",
            "broker/node/src/command/perf.rs",
            "broker/node/src/command/perf/",
        ],
        tests: Tests::Exempt,
        why: "sockets are in connection.rs, listener.rs, command/perf and command/health.rs alone",
    },
    Ban {
        name: None,
        words: &[Word::Path("crate::node"), Word::Path("super::super::node")],
        within: &["broker/node/src/command/"],
        except: &[
            "broker/node/src/command/start.rs",
            "broker/node/src/command/dev.rs",
        ],
        tests: Tests::Included,
        why: "client verbs share no code paths with the server",
    },
    Ban {
        name: Some("sleep"),
        words: &[Word::Path("thread::sleep"), Word::Path("time::sleep")],
        within: &[],
        except: &[],
        tests: Tests::Only,
        why: "a test waits for what it wants to see, not for time to pass",
    },
];

/// Names that an allowance may use.
pub(super) fn allowable() -> impl Iterator<Item = &'static str> {
    BANS.iter().filter_map(|ban| ban.name)
}

/// Checks one file against every ban.
pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let paths = tokens::paths(&source.tokens);
    for ban in BANS.iter().filter(|ban| ban.holds_for(&source.path)) {
        for path in &paths {
            let Some(word) = ban.words.iter().find(|word| word.is_in(path)) else {
                continue;
            };
            let wanted = match ban.tests {
                Tests::Included => true,
                Tests::Exempt => !source.tests[path.line],
                Tests::Only => source.tests[path.line],
            };
            let allowed = |name| source.allows(name, path.line);
            if wanted && !ban.name.is_some_and(allowed) {
                let text = format!("`{}`: {}", word.shown(path), ban.why);
                findings.push(Finding::new(
                    source,
                    path.line,
                    ban.name.unwrap_or("words"),
                    text,
                ));
            }
        }
    }
}

impl Ban {
    fn holds_for(&self, path: &str) -> bool {
        let listed = |places: &[&str]| {
            places
                .iter()
                .any(|place| path == *place || (place.ends_with('/') && path.starts_with(place)))
        };
        (self.within.is_empty() || listed(self.within)) && !listed(self.except)
    }
}

impl Word {
    fn is_in(&self, path: &Path) -> bool {
        let segments = &path.segments;
        let as_crate = segments.len() > 1 || path.imported;
        match self {
            Self::Path(word) => {
                let word: Vec<&str> = word.split("::").collect();
                segments.windows(word.len()).any(|window| window == word)
            }
            Self::Crate(name) => as_crate && segments[0] == *name,
            Self::CrateBut(name, modules) => {
                as_crate
                    && segments[0] == *name
                    && !segments
                        .get(1)
                        .is_some_and(|module| modules.contains(&module.as_str()))
            }
        }
    }

    fn shown(&self, path: &Path) -> String {
        match self {
            Self::Path(word) => (*word).to_owned(),
            Self::Crate(name) => (*name).to_owned(),
            Self::CrateBut(..) => path.segments.join("::"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules that `code` in `path` breaks.
    fn broken(path: &str, code: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(&Source::new(path, code), &mut findings);
        findings.into_iter().map(|finding| finding.text).collect()
    }

    #[track_caller]
    fn bans(path: &str, code: &str, word: &str) {
        let found = broken(path, code);
        assert_eq!(found.len(), 1, "{path}: {code}: {found:?}");
        assert!(found[0].starts_with(&format!("`{word}`:")), "{found:?}");
    }

    #[track_caller]
    fn takes(path: &str, code: &str) {
        assert_eq!(broken(path, code), Vec::<String>::new(), "{path}: {code}");
    }

    #[test]
    fn cores_are_pure() {
        for core in CORES {
            let lib = format!("{core}lib.rs");
            bans(&lib, "let t = Instant::now();", "Instant::now");
            bans(
                &lib,
                "use std::time::{Duration, Instant};",
                "std::time::Instant",
            );
            bans(&lib, "use std::time::SystemTime;", "SystemTime");
            bans(&lib, "use std::{fs, fmt};", "std::fs");
            bans(&lib, "std::thread::spawn(f);", "std::thread");
            bans(&lib, "let a: std::net::IpAddr;", "std::net");
            bans(&lib, "rand::random()", "rand");
            bans(&lib, "use tokio::sync::mpsc;", "tokio");
            bans(&lib, "tracing::info!(x);", "tracing");
            bans(&lib, "std::env::var(x)", "std::env");
            bans(
                &lib,
                "use std::collections::{BTreeMap, HashMap};",
                "collections::HashMap",
            );
            bans(
                &lib,
                "use std::collections;\nx: collections::HashSet",
                "collections::HashSet",
            );
            takes(
                &lib,
                "use crate::ids::Instant; // std::fs\nlet s = \"tokio::x\"; self.rand",
            );
        }
        takes(
            "cluster/core/src/a.rs",
            "#[cfg(test)]\nmod tests {\n use std::fs;\n}",
        );
        bans("tests/sim/src/world.rs", "Instant::now()", "Instant::now");
        bans(
            "tests/sim/src/world.rs",
            "use std::collections::HashMap;",
            "collections::HashMap",
        );
        takes(
            "tests/sim/src/main.rs",
            "use std::time::Instant; Instant::now();",
        );
        takes(
            "broker/node/src/node.rs",
            "Instant::now(); std::fs::read(x); HashMap::new()",
        );
    }

    #[test]
    fn a_hash_map_may_be_allowed_with_a_reason() {
        let code = "// tidy: allow hash-map: never walked\nuse std::collections::HashMap;";
        takes("broker/core/src/topology/direct.rs", code);
    }

    #[test]
    fn libraries_stay_in_their_files() {
        bans("cluster/core/src/lane.rs", "use raft::RawNode;", "raft");
        takes("cluster/core/src/consensus.rs", "use raft::RawNode;");
        takes("cluster/core/src/consensus/membership.rs", "raft::x()");
        takes("cluster/core/src/lane.rs", "let raft = self.raft; raft(x)");
        bans("cluster/node/src/thread.rs", "sled::open(x)", "sled");
        takes(
            "cluster/node/src/local.rs",
            "sled::open(x); std::fs::read(y)",
        );
        bans(
            "cluster/node/src/thread.rs",
            "use std::fs::File;",
            "std::fs",
        );
        takes("cluster/node/src/disk.rs", "use std::fs::File;");
        bans("cluster/node/src/handle.rs", "use tonic::Status;", "tonic");
        takes("cluster/node/src/join/server.rs", "use tonic::Status;");
        bans("cluster/node/src/token.rs", "rcgen::x()", "rcgen");
        takes(
            "cluster/node/src/tls/files.rs",
            "std::fs::read(x); rcgen::x()",
        );
        bans(
            "broker/core/src/message.rs",
            "use serde::Serialize;",
            "serde",
        );
        takes(
            "broker/core/src/definitions/interchange.rs",
            "use serde::Serialize;",
        );
        takes(
            "broker/core/src/definitions/interchange/parse.rs",
            "use serde::de::Visitor;",
        );
        bans(
            "broker/core/src/definitions/plan.rs",
            "serde_json::to_string(x)",
            "serde_json",
        );
    }

    #[test]
    fn sockets_and_the_node_stay_in_their_files() {
        bans(
            "broker/node/src/node.rs",
            "use tokio::net::TcpStream;",
            "TcpStream",
        );
        takes("broker/node/src/http/mod.rs", "TcpListener::bind(a)");
        takes(
            "broker/node/src/connection.rs",
            "use tokio::net::TcpStream;",
        );
        takes(
            "broker/node/src/command/perf/client.rs",
            "use tokio::net::TcpStream;",
        );
        bans(
            "broker/node/src/command/cluster.rs",
            "use crate::node::Node;",
            "crate::node",
        );
        takes("broker/node/src/command/start.rs", "use crate::node::Node;");
    }

    #[test]
    fn the_brokers_core_sees_four_modules_of_the_clusters() {
        let path = "broker/core/src/shard/mod.rs";
        bans(
            path,
            "use warren_cluster_core::lane::Lane;",
            "warren_cluster_core::lane::Lane",
        );
        bans(
            path,
            "use warren_cluster_core::{ids, log};",
            "warren_cluster_core::log",
        );
        takes(
            path,
            "use warren_cluster_core::{batch, ids::{Seq, Term}, machine, rows};",
        );
        takes(
            "cluster/node/src/lib.rs",
            "use warren_cluster_core::lane::Lane;",
        );
    }

    #[test]
    fn tests_do_not_sleep_and_hope() {
        bans(
            "tests/faults/src/a.rs",
            "std::thread::sleep(d)",
            "thread::sleep",
        );
        bans(
            "x/src/a.rs",
            "#[test]\nfn f() { tokio::time::sleep(d) }",
            "time::sleep",
        );
        takes("x/src/a.rs", "std::thread::sleep(d)");
        takes(
            "tests/faults/src/a.rs",
            "thread::sleep(d) // tidy: allow sleep: polls a process",
        );
    }
}
