//! Words and signs of a masked file, and what can be told from them without parsing Rust: paths,
//! functions, what only tests see.
//!
//! Works on code that rustfmt and the compiler accept; brackets are taken to be balanced.

use std::ops::RangeInclusive;

use super::source::is_word;

/// A word, `::` or any other single sign, with its line (from 0).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// A path such as `std::fs::File`, written out or put together from a `use` tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Path {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    /// From a `use` declaration.
    pub(crate) imported: bool,
}

/// A function with a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// From `fn` to the closing brace; from 0.
    pub(crate) lines: RangeInclusive<usize>,
}

/// What stands under `#[cfg(test)]` or `#[test]`.
#[derive(Debug, Default)]
pub(crate) struct TestRegions {
    pub(crate) spans: Vec<RangeInclusive<usize>>,
    /// Names of `mod name;`.
    pub(crate) modules: Vec<String>,
}

/// Splits masked lines into tokens.
pub(crate) fn tokens(code: &[String]) -> Vec<Token> {
    let mut found = Vec::new();
    for (line, text) in code.iter().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            found.push(Token {
                text: rest[..len].to_owned(),
                line,
            });
            rest = rest[len..].trim_start();
        }
    }
    found
}

fn is_name(token: Option<&Token>) -> bool {
    let first = token.and_then(|token| token.text.chars().next());
    first.is_some_and(|c| is_word(c) && !c.is_ascii_digit())
}

fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// All paths of a file, `use` trees spread out.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        // `use<..>` in a bound is no declaration.
        if text(tokens, at) == "use" && text(tokens, at + 1) != "<" {
            at = use_tree(tokens, at + 1, &[], &mut found);
        } else if is_name(tokens.get(at)) {
            let end = path_end(tokens, at);
            // What follows a dot is a field or method, not a path.
            if at == 0 || text(tokens, at - 1) != "." {
                let segments = tokens[at..end]
                    .iter()
                    .step_by(2)
                    .map(|token| token.text.clone());
                let (segments, line) = (segments.collect(), tokens[at].line);
                found.push(Path {
                    segments,
                    line,
                    imported: false,
                });
            }
            at = end;
        } else {
            at += 1;
        }
    }
    found
}

/// Where `a::b::c` that begins at `at` ends.
fn path_end(tokens: &[Token], mut at: usize) -> usize {
    while text(tokens, at + 1) == "::" && is_name(tokens.get(at + 2)) {
        at += 2;
    }
    at + 1
}

/// Takes one branch of a `use` tree from `at`; gives where it ends.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while at < tokens.len() {
        match text(tokens, at) {
            "::" => at += 1,
            "{" => {
                at += 1;
                while !matches!(text(tokens, at), "}" | ";" | "") {
                    at = use_tree(tokens, at, &segments, found);
                    at += usize::from(text(tokens, at) == ",");
                }
                return at + 1;
            }
            "as" => at += 2,
            "," | "}" | ";" => break,
            other => {
                // `self` at the end of a branch stands for the branch itself.
                if other != "self" || segments.is_empty() {
                    segments.push(other.to_owned());
                }
                at += 1;
            }
        }
    }
    found.push(Path {
        segments,
        line,
        imported: true,
    });
    at
}

/// All functions with a body, nested ones too.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let mut name = at + 1;
        // `fn $name` in a macro; `fn(` is a type.
        name += usize::from(text(tokens, name) == "$");
        if text(tokens, at) != "fn" || !is_name(tokens.get(name)) {
            continue;
        }
        if let Some(body) = item_body(tokens, name) {
            let lines = tokens[at].line..=tokens[block_end(tokens, body)].line;
            found.push(Function {
                name: tokens[name].text.clone(),
                lines,
            });
        }
    }
    found
}

/// The `{` of the item that goes on at `at`; `None` when it ends with `;`.
fn item_body(tokens: &[Token], at: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "{" if depth == 0 => return Some(index),
            ";" | "}" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The `}` for the `{` at `open`, or the last token.
fn block_end(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_i32;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len() - 1
}

/// Finds what only tests see.
pub(crate) fn test_regions(tokens: &[Token]) -> TestRegions {
    let mut regions = TestRegions::default();
    for at in 0..tokens.len() {
        if text(tokens, at) != "#" || text(tokens, at + 1) != "[" {
            continue;
        }
        let end = attribute_end(tokens, at + 1);
        if !is_test_attribute(&tokens[at + 2..end]) {
            continue;
        }
        let mut item = end + 1;
        while text(tokens, item) == "#" {
            item = attribute_end(tokens, item + 1) + 1;
        }
        if let Some(body) = item_body(tokens, item) {
            regions
                .spans
                .push(tokens[at].line..=tokens[block_end(tokens, body)].line);
        } else if let Some(name) = module_name(tokens, item) {
            regions.modules.push(name);
        }
    }
    regions
}

/// The `]` of the attribute whose `[` stands at `open`, or the last token.
fn attribute_end(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_i32;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "[" => depth += 1,
            "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len() - 1
}

fn is_test_attribute(inside: &[Token]) -> bool {
    let has = |word: &str| inside.iter().any(|token| token.text == word);
    match text(inside, 0) {
        "test" => inside.len() == 1,
        "cfg" => has("test") && !has("not"),
        // `#[tokio::test]`.
        _ => inside.len() == 3 && text(inside, 2) == "test",
    }
}

fn module_name(tokens: &[Token], item: usize) -> Option<String> {
    let end = tokens[item..].iter().position(|token| token.text == ";")? + item;
    let at = tokens[item..end]
        .iter()
        .position(|token| token.text == "mod")?
        + item;
    tokens.get(at + 1).map(|token| token.text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Token> {
        tokens(&text.split('\n').map(str::to_owned).collect::<Vec<_>>())
    }

    fn joined(text: &str) -> Vec<String> {
        paths(&lines(text))
            .iter()
            .map(|path| path.segments.join("::"))
            .collect()
    }

    #[test]
    fn use_trees_are_spread_out() {
        let text = "pub use std::{fs::{self, File}, thread as t}; use a; use b::*;";
        let paths = joined(text);
        assert_eq!(
            paths,
            [
                "pub",
                "std::fs",
                "std::fs::File",
                "std::thread",
                "a",
                "b::*"
            ]
        );
    }

    #[test]
    fn inline_paths_are_found_and_fields_are_not() {
        let paths = joined("x.rand + ::std::time::Instant::now() + v::<u8>");
        assert_eq!(paths, ["x", "std::time::Instant::now", "v", "u8"]);
    }

    #[test]
    fn what_is_no_use_tree_still_ends() {
        let text = "fn f() -> impl T + use<'a> { g(); std::fs::x() }";
        assert!(joined(text).contains(&"std::fs::x".to_owned()));
        assert_eq!(joined("use a::{b; c"), ["a::b", "c"]);
        assert_eq!(joined("use a::{b, {"), ["a::b"]);
    }

    #[test]
    fn functions_have_their_lines() {
        let text = "trait T { fn no_body(&self); }\nfn a<F: Fn(u8) -> [u8; { 2 }]>(f: F)\n\
            where F: Copy\n{\n    fn inner() {}\n    if x { y } else { z }\n}\ntype G = fn(u8);";
        let found = functions(&lines(text));
        assert_eq!(
            found[0],
            Function {
                name: "a".into(),
                lines: 1..=6
            }
        );
        assert_eq!(
            found[1],
            Function {
                name: "inner".into(),
                lines: 4..=4
            }
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn test_regions_are_modules_functions_and_files() {
        let text = "#[cfg(test)]\n#[path = x]\nmod model;\n#[cfg(all(test, unix))]\nmod t {\n}\n\
            #[test]\nfn f() {\n}\n#[tokio::test]\nasync fn g() {\n}\n#[cfg(not(test))]\nmod n {\n}";
        let regions = test_regions(&lines(text));
        assert_eq!(regions.modules, ["model"]);
        assert_eq!(regions.spans, [3..=5, 6..=8, 9..=11]);
    }
}
