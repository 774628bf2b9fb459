//! Lengths, headers, leftovers, and what no tracked file may hold.

use super::Finding;
use super::source::{Source, is_word};
use super::tokens;

/// Lines of a file.
const FILE_LINES_LIMIT: usize = 800;
/// Lines of a function, from `fn` to the closing brace.
const FUNCTION_LINES_LIMIT: usize = 70;
/// Characters of a line.
const LINE_WIDTH_LIMIT: usize = 100;

/// Words that mark unfinished work.
const LEFTOVERS: &[&str] = &["FIXME", "TODO", "XXX", "HACK"];
/// Macros that are for the moment only.
const MACROS: &[&str] = &["dbg", "todo", "unimplemented"];
/// Attributes that make a test say less than it seems to.
const ATTRIBUTES: &[&str] = &["ignore", "should_panic"];
/// Folders of somebody's machine; put together so that this file does not hold them.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tmp/", "wt"),
    concat!("/ro", "ot/"),
];

/// Checks one Rust file.
pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    if !source.is_generated() {
        lengths(source, findings);
        header(source, findings);
    }
    leftovers(source, findings);
    attributes(source, findings);
}

fn lengths(source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.lines.len() - usize::from(source.lines.last().is_some_and(String::is_empty));
    if lines > FILE_LINES_LIMIT {
        let text = format!("{lines} lines, more than {FILE_LINES_LIMIT}: split it by concern");
        findings.push(Finding::new(source, FILE_LINES_LIMIT, "length", text));
    }
    for function in tokens::functions(&source.tokens) {
        let lines = function.lines.end() - function.lines.start() + 1;
        if lines > FUNCTION_LINES_LIMIT {
            let name = &function.name;
            let text = format!("fn {name} has {lines} lines, more than {FUNCTION_LINES_LIMIT}");
            findings.push(Finding::new(
                source,
                *function.lines.start(),
                "length",
                text,
            ));
        }
    }
    for (at, line) in source.lines.iter().enumerate() {
        let width = line.chars().count();
        if width > LINE_WIDTH_LIMIT && !line.contains("://") {
            let text = format!("{width} columns, more than {LINE_WIDTH_LIMIT}");
            findings.push(Finding::new(source, at, "width", text));
        }
    }
}

fn header(source: &Source, findings: &mut Vec<Finding>) {
    let first = source.lines.first().map_or("", String::as_str);
    let says_something = first
        .strip_prefix("//!")
        .is_some_and(|text| !text.trim().is_empty());
    if !says_something {
        let text = "the first line is a `//!` header: what the file is for, what always holds";
        findings.push(Finding::new(source, 0, "header", text.to_owned()));
    }
}

fn leftovers(source: &Source, findings: &mut Vec<Finding>) {
    for (at, comment) in source.comments.iter().enumerate() {
        let words: Vec<&str> = comment.split(|c| !is_word(c)).collect();
        if let Some(word) = LEFTOVERS.iter().find(|word| words.contains(word)) {
            let text = format!("{word}: finish it, or file an issue");
            findings.push(Finding::new(source, at, "leftover", text));
        }
    }
    for pair in source.tokens.windows(2) {
        if pair[1].text == "!" && MACROS.contains(&pair[0].text.as_str()) {
            let text = format!("{}! is for the moment only", pair[0].text);
            findings.push(Finding::new(source, pair[0].line, "leftover", text));
        }
    }
}

fn attributes(source: &Source, findings: &mut Vec<Finding>) {
    for triple in source.tokens.windows(3) {
        let opens = triple[0].text == "#" && triple[1].text == "[";
        if opens && ATTRIBUTES.contains(&triple[2].text.as_str()) {
            let text = format!(
                "#[{}]: a test runs, and says what it expects",
                triple[2].text
            );
            findings.push(Finding::new(source, triple[2].line, "attribute", text));
        }
    }
}

/// Checks any file's text for paths of the machine that it was written on.
pub(super) fn machine_paths(path: &str, text: &str, findings: &mut Vec<Finding>) {
    for (line, content) in text.lines().enumerate() {
        if let Some(found) = MACHINE_PATHS.iter().find(|found| content.contains(*found)) {
            let text = format!("{found} is a path of one machine");
            findings.push(Finding {
                path: path.to_owned(),
                line,
                rule: "machine-path",
                text,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<&'static str> {
        let mut findings = Vec::new();
        check(&Source::new("a/src/b.rs", text), &mut findings);
        findings.into_iter().map(|finding| finding.rule).collect()
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn a_file_has_a_header_and_a_limit() {
        assert_eq!(rules("//! What it is for.\n"), NONE);
        assert_eq!(rules("fn a() {}\n"), ["header"]);
        assert_eq!(rules("//!\n//! Late.\n"), ["header"]);
        let long = format!("//! Long.\n{}", "\n".repeat(FILE_LINES_LIMIT - 1));
        assert_eq!(rules(&long), NONE);
        assert_eq!(rules(&format!("{long}\n")), ["length"]);
        assert_eq!(rules(&format!("// @generated by us\n{long}\n")), NONE);
    }

    #[test]
    fn a_function_has_a_limit() {
        let function = |lines: usize| {
            format!(
                "//! F.\nfn f(\n) {{\n{}}}\n",
                "    x();\n".repeat(lines - 3)
            )
        };
        assert_eq!(rules(&function(FUNCTION_LINES_LIMIT)), NONE);
        assert_eq!(rules(&function(FUNCTION_LINES_LIMIT + 1)), ["length"]);
    }

    #[test]
    fn a_line_has_a_limit_in_characters() {
        let line = |width: usize| format!("//! W.\n// {}\n", "é".repeat(width - 3));
        assert_eq!(rules(&line(LINE_WIDTH_LIMIT)), NONE);
        assert_eq!(rules(&line(LINE_WIDTH_LIMIT + 1)), ["width"]);
        assert_eq!(
            rules(&format!("//! W.\n// https://{}\n", "x".repeat(100))),
            NONE
        );
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(rules("//! L.\n// FIXME later\n"), ["leftover"]);
        assert_eq!(rules("//! L.\nx(); // TODO: y\n"), ["leftover"]);
        assert_eq!(rules("//! L.\n/* XXX */\n"), ["leftover"]);
        assert_eq!(rules("//! L.\nfn f() { dbg!(x) }\n"), ["leftover"]);
        assert_eq!(rules("//! L.\nfn f() { todo!() }\n"), ["leftover"]);
        assert_eq!(rules("//! L.\nlet todos = \"TODO dbg!\"; // todos\n"), NONE);
    }

    #[test]
    fn tests_are_neither_skipped_nor_vague() {
        assert_eq!(
            rules("//! T.\n#[test]\n#[ignore]\nfn f() {}\n"),
            ["attribute"]
        );
        assert_eq!(
            rules("//! T.\n#[ignore = \"slow\"]\nfn f() {}\n"),
            ["attribute"]
        );
        assert_eq!(
            rules("//! T.\n#[should_panic(expected = \"x\")]\nfn f() {}\n"),
            ["attribute"]
        );
    }

    #[test]
    fn paths_of_a_machine_are_found_in_any_file() {
        for path in MACHINE_PATHS {
            let mut findings = Vec::new();
            machine_paths(
                "README.md",
                &format!("# Title\nsee {path}x\n"),
                &mut findings,
            );
            assert_eq!((findings.len(), findings[0].line), (1, 1), "{path}");
        }
        let mut findings = Vec::new();
        machine_paths("README.md", "a framework/ and its workers", &mut findings);
        assert!(findings.is_empty());
    }
}
