//! The house rules that neither the compiler nor clippy knows, as a program.
//!
//! Each rule is a function from a file (or the workspace) to findings, and has a sample in its
//! own tests that it fails on. What is not tracked by git, but not ignored either, counts too: a
//! new file is checked before it is committed.

mod manifests;
mod pages;
mod shape;
mod source;
mod tokens;
mod words;

use std::fmt;

use anyhow::{Context as _, Result, bail};

use crate::layers;
use crate::run::Call;
use crate::workspace::Workspace;
use source::Source;

/// One place that breaks a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// Counted from 0; printed from 1.
    pub(crate) line: usize,
    pub(crate) rule: &'static str,
    pub(crate) text: String,
}

impl Finding {
    fn new(source: &Source, line: usize, rule: &'static str, text: String) -> Self {
        Self {
            path: source.path.clone(),
            line,
            rule,
            text,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: [{}] {}",
            self.path,
            self.line + 1,
            self.rule,
            self.text
        )
    }
}

/// Checks the whole workspace.
///
/// # Errors
/// When a rule is broken; each place is printed.
pub(crate) fn run() -> Result<()> {
    let workspace = Workspace::load()?;
    let mut findings = layers::check(&workspace);
    let mut sources = Vec::new();
    let files = files()?;
    for path in &files {
        let bytes = match std::fs::read(workspace.root.join(path)) {
            Ok(bytes) => bytes,
            // Deleted, and not committed yet; or a link that leads nowhere.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        shape::machine_paths(path, &text, &mut findings);
        if path.ends_with("/Cargo.toml") {
            manifests::check(path, &text, &mut findings);
        }
        if path.ends_with(".md") {
            pages::check(
                path,
                &text,
                |target| workspace.root.join(target).exists(),
                &mut findings,
            );
        }
        if path.ends_with(".rs") {
            sources.push(Source::new(path, &text));
        }
    }
    check_sources(&mut sources, &mut findings);
    findings.sort();
    findings.iter().for_each(|finding| println!("{finding}"));
    if !findings.is_empty() {
        bail!("tidy has {} findings", findings.len());
    }
    println!("tidy: {} files, nothing to say", files.len());
    Ok(())
}

fn files() -> Result<Vec<String>> {
    let list = Call::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .quiet()
        .output()
        .context("tidy asks git for the files")?;
    Ok(list.split_terminator('\0').map(str::to_owned).collect())
}

fn check_sources(sources: &mut [Source], findings: &mut Vec<Finding>) {
    mark_test_modules(sources);
    for source in sources.iter() {
        shape::check(source, findings);
        words::check(source, findings);
        allowances(source, findings);
    }
}

/// A file behind `#[cfg(test)] mod name;` is test code as a whole.
fn mark_test_modules(sources: &mut [Source]) {
    let mut places = Vec::new();
    for source in sources.iter() {
        let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
        let stem = file.trim_end_matches(".rs");
        let folder = match stem {
            "mod" | "lib" | "main" => folder.to_owned(),
            _ => format!("{folder}/{stem}"),
        };
        places.extend(
            source
                .test_modules
                .iter()
                .map(|name| format!("{folder}/{name}")),
        );
    }
    for source in sources {
        let is_in = |place: &String| {
            let rest = source.path.strip_prefix(place.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        if places.iter().any(is_in) {
            source.mark_as_tests();
        }
    }
}

/// An allowance names a rule that can be set aside, gives its reason, and is needed.
fn allowances(source: &Source, findings: &mut Vec<Finding>) {
    for allowance in &source.allowances {
        let rule = &allowance.rule;
        let text = if !words::allowable().any(|name| name == rule) {
            format!("there is no rule `{rule}` that could be allowed")
        } else if allowance.reason.is_empty() {
            format!("`tidy: allow {rule}: ` wants a reason")
        } else if !allowance.used.get() {
            format!("allows `{rule}` where nothing needs it")
        } else {
            continue;
        };
        findings.push(Finding::new(source, allowance.written, "allowance", text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)]) -> Vec<String> {
        let mut sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source::new(path, text))
            .collect();
        let mut findings = Vec::new();
        check_sources(&mut sources, &mut findings);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn findings_name_file_line_and_rule() {
        let found = check(&[("broker/core/src/a.rs", "//! A.\n\nuse std::fs;\n")]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("broker/core/src/a.rs:3: [words] `std::fs`"),
            "{found:?}"
        );
    }

    #[test]
    fn modules_declared_for_tests_are_test_code() {
        let parent = (
            "broker/core/src/queue/mod.rs",
            "//! Q.\n#[cfg(test)]\nmod model;\n",
        );
        let child = "//! M.\nuse std::fs;\n";
        let file = ("broker/core/src/queue/model.rs", child);
        assert_eq!(check(&[parent, file]), Vec::<String>::new());
        let folder = ("broker/core/src/queue/model/deep.rs", child);
        assert_eq!(check(&[parent, folder]), Vec::<String>::new());
        let beside = ("broker/core/src/queue/models.rs", child);
        assert_eq!(check(&[parent, beside]).len(), 1);
    }

    #[test]
    fn allowances_are_known_reasoned_and_needed() {
        let found = check(&[(
            "a/src/b.rs",
            "//! B.\n// tidy: allow everything: why\nx();\n",
        )]);
        assert!(found[0].contains("no rule `everything`"), "{found:?}");
        let found = check(&[("a/src/b.rs", "//! B.\n// tidy: allow sleep: why\nx();\n")]);
        assert!(found[0].contains("nothing needs it"), "{found:?}");
        let sleeps = "//! B.\n// tidy: allow sleep\nstd::thread::sleep(d);\n";
        let found = check(&[("tests/b.rs", sleeps)]);
        assert!(found[0].contains("wants a reason"), "{found:?}");
    }
}
