//! `cargo xtask sim`: builds and runs the simulator; with `--break NAME` one that is broken on
//! purpose, which must be caught.
//!
//! The simulator's side of the contract: it takes `--seeds N`, `--seed S` and `--cluster`, exits 0
//! when every invariant held and 1 when one was violated, and prints the seed.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::arguments::Arguments;
use crate::ci::PROFILE;
use crate::run::Call;
use crate::workspace::Workspace;

const PACKAGE: &str = "warren-sim";

/// What can be broken on purpose: the values of `cfg(warren_break)`, as in the root's Cargo.toml,
/// and whether it takes a cluster to notice.
const BREAKS: &[(&str, bool)] = &[
    ("reconcile_absence", true),
    ("refused_forgotten", true),
    ("no_dedup", true),
    ("fuzzy_checkpoint", false),
    ("rebuild_same_id", true),
    ("vote_not_synced", false),
    ("no_fsync", false),
    ("commit_without_sync", false),
    ("no_barrier", true),
    ("claims_without_promise", true),
    ("stale_definitions", true),
    ("wrong_clock", true),
    ("names_not_asked_for", true),
    ("waiting_spins", true),
];
/// Tells this program that it stands in for the compiler, and what it breaks.
const BREAK_VARIABLE: &str = "WARREN_BREAK";

/// Every one of them.
const ALL: &str = "all";
const SEEDS: u64 = 20;
/// Seeds within which a broken build must be caught.
const BREAK_SEEDS: u64 = 500;

/// What to simulate.
#[derive(Debug)]
pub(crate) struct Options {
    seeds: Option<u64>,
    seed: Option<u64>,
    cluster: bool,
    broken: Option<String>,
    release: bool,
    passed_on: Vec<String>,
}

impl Options {
    /// Reads the whole command line.
    ///
    /// # Errors
    /// What it does not know, or what cannot go together.
    pub(crate) fn parse(arguments: &mut Arguments) -> Result<Self> {
        let options = Self {
            seeds: arguments.value("--seeds")?,
            seed: arguments.value("--seed")?,
            cluster: arguments.flag("--cluster"),
            broken: arguments.value("--break")?,
            release: arguments.flag("--release"),
            passed_on: arguments.passed_on(),
        };
        arguments.finish()?;
        if options.seeds.is_some() && options.seed.is_some() {
            bail!("--seeds says how many, --seed says which one: give one of them");
        }
        if let Some(name) = options.broken.as_deref()
            && name != ALL
            && !BREAKS.iter().any(|(known, _)| *known == name)
        {
            let names: Vec<&str> = BREAKS.iter().map(|(name, _)| *name).collect();
            bail!(
                "--break cannot be `{name}`; it is one of: {}; or {ALL}",
                names.join(", ")
            );
        }
        Ok(options)
    }

    /// What the simulator itself is told. `cluster`: also when that was not asked for.
    fn passed(&self, cluster: bool) -> Vec<String> {
        let mut args = match (self.seed, self.seeds) {
            (Some(seed), _) => vec!["--seed".to_owned(), seed.to_string()],
            (None, Some(seeds)) => vec!["--seeds".to_owned(), seeds.to_string()],
            (None, None) => {
                let seeds = if self.broken.is_some() {
                    BREAK_SEEDS
                } else {
                    SEEDS
                };
                vec!["--seeds".to_owned(), seeds.to_string()]
            }
        };
        if self.cluster || cluster {
            args.push("--cluster".to_owned());
        }
        args.extend(self.passed_on.iter().cloned());
        args
    }
}

/// Runs the simulator.
///
/// # Errors
/// When it finds a violation; with `--break`, when it finds none.
pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::load()?;
    if !exists(&workspace) {
        bail!("the workspace has no simulator: package {PACKAGE} with a binary of that name");
    }
    let profile = if options.release { "release" } else { PROFILE };
    let began = Instant::now();
    match &options.broken {
        None => {
            build(profile).run()?;
            let binary = workspace.binary(profile, PACKAGE);
            Call::new(binary).args(options.passed(false)).run()?;
        }
        Some(name) => {
            for (broken, cluster) in BREAKS.iter().filter(|(it, _)| name == ALL || name == it) {
                run_broken(&workspace, profile, broken, *cluster, options)?;
            }
        }
    }
    println!("simulated in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Builds with one safety taken out, in a target folder apart, and expects to be caught.
///
/// Only the workspace's own crates are built for each: the compiler is this program under another
/// name, which hands the `cfg` on for them alone. Cargo tells builds with different ones apart.
fn run_broken(
    workspace: &Workspace,
    profile: &str,
    name: &str,
    cluster: bool,
    options: &Options,
) -> Result<()> {
    let folder: PathBuf = workspace.target.join("break");
    let compilers = folder.join("compilers");
    std::fs::create_dir_all(&compilers)?;
    let compiler = compilers.join(name);
    std::fs::copy(std::env::current_exe()?, &compiler)?;
    build(profile)
        .env("RUSTC_WORKSPACE_WRAPPER", compiler.to_string_lossy())
        .env(BREAK_VARIABLE, name)
        .env("CARGO_TARGET_DIR", folder.to_string_lossy())
        .run()?;
    let binary = folder.join(profile).join(PACKAGE);
    let args = options.passed(cluster);
    let status = Call::new(&binary).args(args).arg("--first").status()?;
    match status
        .code()
        .with_context(|| format!("the simulator was ended: {status}"))?
    {
        0 => bail!("`{name}` is broken on purpose, and the simulator did not notice"),
        1 => println!("`{name}` was caught"),
        code => bail!("the simulator itself failed with exit code {code}"),
    }
    Ok(())
}

/// Whether this program was called in the compiler's place: then it has compiled.
pub(crate) fn as_compiler() -> Option<ExitCode> {
    let name = std::env::var(BREAK_VARIABLE).ok()?;
    let mut words = std::env::args_os().skip(1);
    let compiler = words.next()?;
    let compiled = Command::new(compiler)
        .args(words)
        .args(["--cfg".to_owned(), format!("warren_break=\"{name}\"")])
        .status();
    Some(match compiled {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Whether the workspace has a simulator to run.
pub(crate) fn exists(workspace: &Workspace) -> bool {
    workspace
        .package(PACKAGE)
        .is_some_and(|package| package.targets("bin").any(|b| b == PACKAGE))
}

/// Builds it, with the features of the whole workspace.
pub(crate) fn build(profile: &str) -> Call {
    Call::cargo("build").args(["--profile", profile, "--workspace", "--bin", PACKAGE])
}

/// Runs the first `count` seeds of what [`build`] built.
pub(crate) fn seeds(workspace: &Workspace, profile: &str, count: u64) -> Call {
    Call::new(workspace.binary(profile, PACKAGE)).args(["--seeds".to_owned(), count.to_string()])
}

/// The same of whole clusters.
pub(crate) fn cluster_seeds(workspace: &Workspace, profile: &str, count: u64) -> Call {
    seeds(workspace, profile, count).arg("--cluster")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&mut Arguments::new(
            line.split_whitespace().map(str::to_owned),
        ))
    }

    #[test]
    fn arguments_reach_the_simulator() {
        let passed = |line: &str| parse(line).unwrap().passed(false).join(" ");
        assert_eq!(passed(""), "--seeds 20");
        assert_eq!(passed("--break no_dedup"), "--seeds 500");
        assert_eq!(
            passed("--seed 7 --cluster -- --trace"),
            "--seed 7 --cluster --trace"
        );
        assert_eq!(passed("--seeds 500 --release"), "--seeds 500");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(parse("--seed 1 --seeds 2").is_err());
        let error = parse("--break everything").unwrap_err().to_string();
        assert!(error.contains("no_fsync"), "{error}");
        assert!(parse("--sedes 3").is_err());
    }

    #[test]
    fn the_manifest_declares_what_can_be_broken() {
        let manifest = include_str!("../../Cargo.toml");
        for (name, _) in BREAKS {
            assert!(
                manifest.contains(&format!("\"{name}\"")),
                "{name} is not in check-cfg"
            );
        }
    }
}
