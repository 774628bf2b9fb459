//! `cargo xtask sim`: builds and runs the simulator; with `--break NAME` one that is broken on
//! purpose, which must be caught.
//!
//! The simulator's side of the contract: it takes `--seeds N`, `--seed S` and `--cluster`, exits 0
//! when every invariant held and 1 when one was violated, and prints the seed.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::arguments::Arguments;
use crate::ci::PROFILE;
use crate::run::Call;
use crate::workspace::Workspace;

const PACKAGE: &str = "warren-sim";

/// What can be broken on purpose: the values of `cfg(warren_break)`, as in the root's Cargo.toml.
const BREAKS: &[&str] = &[
    "reconcile_absence",
    "refused_forgotten",
    "no_dedup",
    "fuzzy_checkpoint",
    "rebuild_same_id",
    "vote_not_synced",
    "no_fsync",
    "commit_without_sync",
    "no_barrier",
    "claims_without_promise",
];

const SEEDS: u64 = 20;
/// Seeds within which a broken build must be caught.
const BREAK_SEEDS: u64 = 200;

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
            && !BREAKS.contains(&name)
        {
            bail!(
                "--break cannot be `{name}`; it is one of: {}",
                BREAKS.join(", ")
            );
        }
        Ok(options)
    }

    /// What the simulator itself is told.
    fn passed(&self) -> Vec<String> {
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
        if self.cluster {
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
            Call::new(binary).args(options.passed()).run()?;
        }
        Some(name) => run_broken(&workspace, profile, name, options)?,
    }
    println!("simulated in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Builds with one safety taken out, in a target folder of its own, and expects to be caught.
fn run_broken(workspace: &Workspace, profile: &str, name: &str, options: &Options) -> Result<()> {
    let folder: PathBuf = workspace.target.join("break").join(name);
    build(profile)
        .env("RUSTFLAGS", format!("--cfg warren_break=\"{name}\""))
        .env("CARGO_TARGET_DIR", folder.to_string_lossy())
        .run()?;
    let binary = folder.join(profile).join(PACKAGE);
    let status = Call::new(&binary).args(options.passed()).status()?;
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
        let passed = |line: &str| parse(line).unwrap().passed().join(" ");
        assert_eq!(passed(""), "--seeds 20");
        assert_eq!(passed("--break no_dedup"), "--seeds 200");
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
        for name in BREAKS {
            assert!(
                manifest.contains(&format!("\"{name}\"")),
                "{name} is not in check-cfg"
            );
        }
    }
}
