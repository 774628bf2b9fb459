//! `check` and `ci`: lists of steps, run in order, that stop at the first failure.
//!
//! A step whose package, target or script the workspace does not have is not in the list. All
//! steps build with one profile and the features of the whole workspace, so that dependencies
//! are built once for clippy and once for everything else.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::bench;
use crate::counts;
use crate::run::Call;
use crate::sim;
use crate::workspace::{Package, Workspace};

/// The profile of everything that is not a measurement.
pub(crate) const PROFILE: &str = "ci";

const CHECK_SEEDS: u64 = 20;
const CI_SEEDS: u64 = 200;
/// How long each fuzz target runs.
const FUZZ_MILLIS: u64 = 30_000;

/// Read by proptest, for all of its tests.
const RANDOM_SEED: &str = "PROPTEST_RNG_SEED";

/// Packages whose tests have a step of their own.
const CONFORMANCE: &str = "warren-conformance";
const FAULTS: &str = "warren-faults";
const FUZZ: &str = "warren-fuzz";

/// What has a name, is run, and can be repeated by hand.
struct Step {
    name: &'static str,
    call: Call,
}

/// Before every commit.
///
/// # Errors
/// When a step fails.
pub(crate) fn check() -> Result<()> {
    let workspace = Workspace::load()?;
    let seed = random_seed();
    let mut steps = lints();
    steps.push(Step {
        name: "unit tests",
        call: test(seed.as_deref()).args(["--lib", "--bins"]),
    });
    let wire: Vec<String> = test_flags(workspace.package("warren-protocol"));
    if !wire.is_empty() {
        steps.push(Step {
            name: "protocol tests",
            call: test(seed.as_deref()).args(wire),
        });
    }
    if sim::exists(&workspace) {
        steps.push(Step {
            name: "build the simulator",
            call: sim::build(PROFILE),
        });
        steps.push(Step {
            name: "simulator",
            call: sim::seeds(&workspace, PROFILE, CHECK_SEEDS),
        });
        steps.push(Step {
            name: "simulator of clusters",
            call: sim::cluster_seeds(&workspace, PROFILE, CHECK_SEEDS),
        });
    }
    run(&steps)
}

/// Everything.
///
/// # Errors
/// When a step fails.
pub(crate) fn ci() -> Result<()> {
    let workspace = Workspace::load()?;
    let mut steps = lints();
    steps.push(Step {
        name: "codegen",
        call: own(&["codegen", "--check"]),
    });
    steps.push(Step {
        name: "build",
        call: cargo("build").args(["--workspace", "--bins", "--tests"]),
    });
    steps.extend(tests(&workspace, random_seed().as_deref()));
    let warren = workspace.binary(PROFILE, "warren");
    steps.push(Step {
        name: "docker",
        call: own(&["docker"]).env("WARREN_BIN", warren.to_string_lossy()),
    });
    if sim::exists(&workspace) {
        steps.push(Step {
            name: "simulator",
            call: sim::seeds(&workspace, PROFILE, CI_SEEDS),
        });
        steps.push(Step {
            name: "simulator of clusters",
            call: sim::cluster_seeds(&workspace, PROFILE, CI_SEEDS),
        });
    }
    let doc = Call::cargo("doc").args(["--profile", PROFILE, "--workspace", "--no-deps"]);
    let doc = doc
        .arg("--document-private-items")
        .env("RUSTDOCFLAGS", "-D warnings");
    steps.push(Step {
        name: "docs",
        call: doc,
    });
    if bench::exists(&workspace) {
        // Only that they build: with the profile at hand, not the one that measures.
        let call = cargo("bench").args(["--workspace", "--bench", "*", "--no-run"]);
        steps.push(Step {
            name: "benches build",
            call,
        });
        if counts::can_count() {
            steps.push(Step {
                name: "instructions of hot paths",
                call: own(&["bench", "--check"]),
            });
        } else {
            println!("instructions of hot paths: ignored, valgrind is not installed");
        }
    }
    run(&steps)
}

fn lints() -> Vec<Step> {
    let clippy = cargo("clippy").args(["--workspace", "--all-targets", "--", "-D", "warnings"]);
    vec![
        Step {
            name: "fmt",
            call: Call::cargo("fmt").args(["--all", "--check"]),
        },
        Step {
            name: "clippy",
            call: clippy,
        },
        Step {
            name: "tidy",
            call: own(&["tidy"]),
        },
    ]
}

/// All tests: those without a special need at once, then package by package.
///
/// Targets are selected by name and never by package: `-p` and `--exclude` would change which
/// features the dependencies have, and build them again.
fn tests(workspace: &Workspace, seed: Option<&str>) -> Vec<Step> {
    let special = [CONFORMANCE, FAULTS, FUZZ].map(|name| workspace.package(name));
    let is_special = |package: &Package| [CONFORMANCE, FAULTS, FUZZ].contains(&&*package.name);
    let ordinary = workspace
        .packages
        .iter()
        .filter(|package| !is_special(package));
    let flags = ordinary.flat_map(|package| test_flags(Some(package)));
    let mut steps = vec![
        Step {
            name: "tests",
            call: test(seed).args(["--lib", "--bins"]).args(flags),
        },
        Step {
            name: "doc tests",
            call: test(seed).arg("--doc"),
        },
    ];
    let warren = workspace
        .binary(PROFILE, "warren")
        .to_string_lossy()
        .into_owned();
    let fuzz_millis = FUZZ_MILLIS.to_string();
    let [conformance, faults, fuzz] = special;
    let wanted = [
        ("conformance", conformance, ("WARREN_BIN", warren.as_str())),
        ("faults", faults, ("WARREN_BIN", warren.as_str())),
        (
            "fuzz",
            fuzz,
            ("BOLERO_RANDOM_TEST_TIME_MS", fuzz_millis.as_str()),
        ),
    ];
    for (name, package, (variable, value)) in wanted {
        let flags = test_flags(package);
        if !flags.is_empty() {
            let call = test(seed).args(flags).env(variable, value);
            if name == "conformance" {
                steps.push(Step {
                    name: "conformance on three nodes",
                    call: call.clone().env("WARREN_CLUSTER", "3"),
                });
            }
            steps.push(Step { name, call });
        }
    }
    steps
}

fn cargo(subcommand: &str) -> Call {
    Call::cargo(subcommand).args(["--profile", PROFILE])
}

fn test(seed: Option<&str>) -> Call {
    let call = cargo("test").arg("--workspace");
    match seed {
        Some(seed) => call.env(RANDOM_SEED, seed),
        None => call,
    }
}

/// What randomised tests begin with, where nobody said so: each tree its own, so that a tree that
/// passed here passes elsewhere, and one that fails can be tried again.
fn random_seed() -> Option<String> {
    if let Ok(seed) = std::env::var(RANDOM_SEED) {
        return Some(seed);
    }
    let tree = Call::new("git").args(["rev-parse", "HEAD^{tree}"]).quiet();
    seed_of(tree.output().ok()?.trim()).map(|seed| seed.to_string())
}

fn seed_of(tree: &str) -> Option<u64> {
    u64::from_str_radix(tree.get(..15)?, 16).ok()
}

/// `--test NAME` for each of a package's test targets: with `--workspace` in front this selects
/// the same features as everything else, which `-p` would not.
fn test_flags(package: Option<&Package>) -> Vec<String> {
    let names = package
        .into_iter()
        .flat_map(|package| package.targets("test"));
    names
        .flat_map(|name| ["--test".to_owned(), name.to_owned()])
        .collect()
}

/// A task of this program.
fn own(task: &[&str]) -> Call {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("xtask"));
    Call::new(program).args(task.iter().copied())
}

fn run(steps: &[Step]) -> Result<()> {
    let mut results = Results::default();
    let began = Instant::now();
    for (at, step) in steps.iter().enumerate() {
        println!("\n== {}/{} {}", at + 1, steps.len(), step.name);
        let step_began = Instant::now();
        let outcome = step.call.run_watched(|line| results.take(line));
        results.times.push((step.name, step_began.elapsed()));
        println!("== {}: {}", step.name, seconds(step_began.elapsed()));
        if let Err(error) = outcome {
            results.print();
            println!("\nrepeat with: {}", step.call);
            bail!("step `{}`: {error:#}", step.name);
        }
    }
    results.print();
    println!(
        "\nall {} steps passed in {}",
        steps.len(),
        seconds(began.elapsed())
    );
    Ok(())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// What cargo's tests said, to be said again at the end.
#[derive(Default)]
struct Results {
    running: String,
    lines: Vec<String>,
    times: Vec<(&'static str, Duration)>,
}

impl Results {
    fn take(&mut self, line: &str) {
        let line = without_colours(line);
        let line = line.trim();
        if line.starts_with("Running ") || line.starts_with("Doc-tests ") {
            line.clone_into(&mut self.running);
        } else if line.starts_with("test result:") {
            if !self.running.is_empty() {
                self.lines.push(std::mem::take(&mut self.running));
            }
            self.lines.push(line.to_owned());
        }
    }

    fn print(&self) {
        println!("\n== results");
        self.lines.iter().for_each(|line| println!("{line}"));
        println!("\n== times");
        for (name, time) in &self.times {
            println!("{:>9}  {name}", seconds(*time));
        }
    }
}

/// `text` without the escape sequences that colour it.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut in_escape = false;
    for c in text.chars() {
        match c {
            '\u{1b}' => in_escape = true,
            'a'..='z' | 'A'..='Z' if in_escape => in_escape = false,
            _ if in_escape => {}
            _ => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Target;

    fn workspace(packages: &[(&str, &[(&str, &str)])]) -> Workspace {
        let packages = packages.iter().map(|(name, targets)| Package {
            name: (*name).to_owned(),
            targets: targets
                .iter()
                .map(|(kind, name)| Target {
                    name: (*name).to_owned(),
                    kind: (*kind).to_owned(),
                })
                .collect(),
            ..Package::default()
        });
        Workspace {
            root: PathBuf::from("/w"),
            target: PathBuf::from("/t"),
            packages: packages.collect(),
        }
    }

    #[test]
    fn a_tree_has_a_seed() {
        assert_eq!(seed_of("00000000000001ff0"), Some(0x1f));
        assert!(seed_of("4b825dc642cb6eb9a060e54bf8d69288fbee4904").is_some());
        assert_eq!(seed_of("not a tree at all"), None);
        assert_eq!(seed_of(""), None);
    }

    #[test]
    fn steps_are_those_that_the_workspace_has() {
        let names = |workspace: &Workspace| -> Vec<&str> {
            let steps = tests(workspace, None);
            steps.iter().map(|step| step.name).collect()
        };
        let small: &[(&str, &[(&str, &str)])] = &[("warren", &[("bin", "warren")])];
        assert_eq!(names(&workspace(small)), ["tests", "doc tests"]);
        let full: &[(&str, &[(&str, &str)])] = &[
            (
                "warren-protocol",
                &[("lib", "warren_protocol"), ("test", "codec")],
            ),
            (CONFORMANCE, &[("test", "clients")]),
            (FUZZ, &[("test", "frames"), ("test", "records")]),
            (FAULTS, &[("lib", "faults")]),
        ];
        let seeded = &tests(&workspace(small), Some("31"))[0].call;
        let seeded = seeded.to_string();
        assert!(
            seeded.starts_with("PROPTEST_RNG_SEED=31 cargo test"),
            "{seeded}"
        );
        let steps = tests(&workspace(full), None);
        let lines: Vec<String> = steps.iter().map(|step| step.call.to_string()).collect();
        assert_eq!(
            lines,
            [
                "cargo test --profile ci --workspace --lib --bins --test codec",
                "cargo test --profile ci --workspace --doc",
                "WARREN_BIN=/t/ci/warren WARREN_CLUSTER=3 cargo test --profile ci --workspace \
                 --test clients",
                "WARREN_BIN=/t/ci/warren cargo test --profile ci --workspace --test clients",
                "BOLERO_RANDOM_TEST_TIME_MS=30000 cargo test --profile ci --workspace \
                 --test frames --test records",
            ]
        );
    }

    #[test]
    fn results_are_kept_with_what_they_are_of() {
        let mut results = Results::default();
        let lines = [
            "\u{1b}[1m\u{1b}[32m     Running\u{1b}[0m unittests src/lib.rs (t/x)",
            "test a ... ok",
            "test result: ok. 1 passed; 0 failed",
            "   Doc-tests x",
            "test result: ok. 0 passed; 0 failed",
        ];
        lines.iter().for_each(|line| results.take(line));
        assert_eq!(
            results.lines,
            [
                "Running unittests src/lib.rs (t/x)",
                "test result: ok. 1 passed; 0 failed",
                "Doc-tests x",
                "test result: ok. 0 passed; 0 failed"
            ]
        );
    }

    #[test]
    fn a_failing_step_ends_the_run() {
        let step = |name, code: &str| Step {
            name,
            call: Call::new("sh").args(["-c", code]).quiet(),
        };
        run(&[step("one", "true")]).unwrap();
        let error = run(&[step("one", "false"), step("two", "exit 7")]).unwrap_err();
        assert!(error.to_string().starts_with("step `one`"), "{error}");
    }
}
