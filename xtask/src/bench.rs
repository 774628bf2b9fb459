//! `cargo xtask bench`: the criterion benchmarks of the workspace, and the guard on instructions.

use anyhow::{Result, bail};

use crate::arguments::Arguments;
use crate::counts;
use crate::run::Call;
use crate::workspace::Workspace;

/// Runs the benchmarks whose name contains the filter; what stands behind `--` goes to criterion.
///
/// # Errors
/// When there are none, or they fail.
pub(crate) fn run(arguments: &mut Arguments) -> Result<()> {
    if arguments.flag("--check") {
        let write = arguments.flag("--write");
        arguments.finish()?;
        return counts::check(write);
    }
    let filter = arguments.next_word();
    let passed_on = arguments.passed_on();
    arguments.finish()?;
    if !exists(&Workspace::load()?) {
        bail!("the workspace has no benchmarks yet");
    }
    // Not `--benches`: that takes libraries and binaries along, which know no criterion.
    let call = Call::cargo("bench").args(["--workspace", "--bench", "*"]);
    if filter.is_none() && passed_on.is_empty() {
        return call.run();
    }
    call.arg("--").args(filter).args(passed_on).run()
}

/// Whether the workspace has benchmarks.
pub(crate) fn exists(workspace: &Workspace) -> bool {
    workspace
        .packages
        .iter()
        .any(|package| package.targets("bench").next().is_some())
}
