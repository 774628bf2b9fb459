//! What a member's `Cargo.toml` must hold: versions and lints of the workspace, not its own.

use super::Finding;

/// Checks the manifest of a member (the root's own is where versions stand).
pub(super) fn check(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let mut table = "";
    let mut takes_lints = false;
    for (line, content) in text.lines().enumerate() {
        let content = content.trim();
        if content.starts_with('[') {
            table = content;
            continue;
        }
        let (key, value) = content.split_once('=').unwrap_or((content, ""));
        let (key, value) = (key.trim(), value.trim());
        let inherits = key.ends_with(".workspace") || value.contains("workspace = true");
        takes_lints |= table == "[lints]" && key == "workspace" && value == "true";
        let is_entry = !content.is_empty() && !content.starts_with('#');
        if table.ends_with("dependencies]") && is_entry && !inherits {
            let text = format!("`{key}`: versions stand once, in the root's Cargo.toml");
            findings.push(Finding {
                path: path.to_owned(),
                line,
                rule: "manifest",
                text,
            });
        }
    }
    if !takes_lints {
        let text = "takes the workspace's lints: `[lints] workspace = true`".to_owned();
        findings.push(Finding {
            path: path.to_owned(),
            line: 0,
            rule: "manifest",
            text,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check("a/Cargo.toml", text, &mut findings);
        findings.into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn versions_and_lints_are_the_workspaces() {
        let good = "[lints]\nworkspace = true\n[dependencies]\n# why\na.workspace = true\n\
            b = { workspace = true, features = [\"x\"] }\n[[bin]]\nname = \"c\"\n";
        assert_eq!(broken(good), Vec::<String>::new());
        let own_version = format!("{good}[dev-dependencies]\nd = \"1\"\n");
        assert!(
            broken(&own_version)[0].starts_with("`d`"),
            "{:?}",
            broken(&own_version)
        );
        assert!(broken("[package]\nname = \"a\"\n")[0].contains("lints"));
    }
}
