//! Markdown pages: links inside the tree lead somewhere, and the compatibility page knows three
//! states and no fourth.

use super::Finding;

const COMPATIBILITY: &str = "docs/compatibility.md";
const STATES: &[&str] = &["obeyed", "accepted", "refused"];

/// Checks one page; `exists` says whether a path, relative to the root, is in the tree.
pub(super) fn check(
    path: &str,
    text: &str,
    exists: impl Fn(&str) -> bool,
    findings: &mut Vec<Finding>,
) {
    let mut in_code = false;
    for (line, content) in text.lines().enumerate() {
        in_code ^= content.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        for target in links(content) {
            if !exists(&resolved(path, target)) {
                let text = format!("`{target}` leads nowhere");
                findings.push(Finding {
                    path: path.to_owned(),
                    line,
                    rule: "link",
                    text,
                });
            }
        }
    }
    if path == COMPATIBILITY {
        states(path, text, findings);
    }
}

/// Targets of the links of a line that stay inside the tree, without their fragments.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let targets = targets.map(|target| target.split('#').next().unwrap_or(target));
    targets.filter(|target| !target.is_empty() && !target.contains(':'))
}

/// `target` as seen from the page at `path`, relative to the root.
fn resolved(path: &str, target: &str) -> String {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    parts.join("/")
}

/// In every table with a column `state`, each row has one of the three.
fn states(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let mut column = None;
    for (line, content) in text.lines().enumerate() {
        if !content.starts_with('|') {
            column = None;
            continue;
        }
        let cells: Vec<&str> = content.split('|').map(str::trim).collect();
        let Some(column) = column else {
            column = cells.iter().position(|cell| *cell == "state");
            continue;
        };
        let state = cells.get(column).copied().unwrap_or_default();
        let is_rule = state.starts_with("--");
        let known = STATES
            .iter()
            .any(|known| state.split(' ').next() == Some(known));
        if !is_rule && !known {
            let text = format!("`{state}` is none of {}", STATES.join(", "));
            findings.push(Finding {
                path: path.to_owned(),
                line,
                rule: "compatibility",
                text,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        let exists = |path: &str| ["README.md", "docs/a.md", "docs/sub"].contains(&path);
        check(path, text, exists, &mut findings);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn links_lead_somewhere() {
        let good = "[a](a.md) [up](../README.md#two) [sub](sub/) [out](https://x.y/z) [in](#here)";
        assert_eq!(broken("docs/b.md", good), Vec::<String>::new());
        assert_eq!(broken("b.md", "```\n[x](y)\n```\n"), Vec::<String>::new());
        let found = broken("docs/b.md", "fine\n[gone](gone.md)");
        assert_eq!(found, ["docs/b.md:2: [link] `gone.md` leads nowhere"]);
    }

    #[test]
    fn there_is_no_fourth_state() {
        let table = |state: &str| {
            format!("| what | state |\n|---|---|\n| x | {state} |\n\n| other |\n|---|\n| free |\n")
        };
        for good in [
            "obeyed",
            "refused",
            "accepted",
            "refused for `active=false`",
        ] {
            assert_eq!(broken(COMPATIBILITY, &table(good)), Vec::<String>::new());
        }
        let found = broken(COMPATIBILITY, &table("ignored"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("`ignored`"), "{found:?}");
        assert_eq!(broken("docs/a.md", &table("ignored")), Vec::<String>::new());
    }
}
