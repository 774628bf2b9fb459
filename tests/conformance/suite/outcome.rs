//! How a check ended, and how that is told to the test harness.

use libtest_mimic::{Completion, Failed};

/// How a check ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Passed,
    /// Not run, or not expected of this broker, for the reason given.
    Ignored(String),
    Failed(String),
}

impl Outcome {
    pub(crate) fn into_completion(self) -> Result<Completion, Failed> {
        match self {
            Self::Passed => Ok(Completion::Completed),
            Self::Ignored(reason) => Ok(Completion::ignored_with(reason)),
            Self::Failed(reason) => Err(Failed::from(reason)),
        }
    }
}

/// Why a check stopped before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The broker is older than the behaviour: `since 4.3 why`.
    Skipped(String),
    Failed(String),
}

/// What a check written in Rust gives; `?` works on every error that can be shown.
pub(crate) type CheckResult = Result<(), Stop>;

impl<E: std::fmt::Display> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<CheckResult> for Outcome {
    fn from(result: CheckResult) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(Stop::Skipped(reason)) => Self::Ignored(reason),
            Err(Stop::Failed(reason)) => Self::Failed(reason),
        }
    }
}

/// Fails the check unless the two are equal.
#[allow(
    clippy::needless_pass_by_value,
    reason = "callers compare what they were just given"
)]
#[track_caller]
pub(crate) fn equal<T, U>(found: T, expected: U, what: &str) -> CheckResult
where
    T: PartialEq<U> + std::fmt::Debug,
    U: std::fmt::Debug,
{
    if found == expected {
        return Ok(());
    }
    let line = std::panic::Location::caller();
    Err(Stop::Failed(format!(
        "{line}: {what}: found {found:?}, expected {expected:?}"
    )))
}

/// Fails the check unless the condition holds.
#[track_caller]
pub(crate) fn ensure(condition: bool, what: impl std::fmt::Display) -> CheckResult {
    if condition {
        return Ok(());
    }
    let line = std::panic::Location::caller();
    Err(Stop::Failed(format!("{line}: {what}")))
}
