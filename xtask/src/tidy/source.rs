//! A Rust file as tidy sees it: code without strings and comments, and comments without code.
//!
//! Invariants:
//! - `code` has as many lines as the file, and what stood in strings, characters and comments is
//!   blank there, so that a rule never trips over a text;
//! - an allowance (`// tidy: allow RULE: reason`) is for the line that it stands on, or for the
//!   next line of code below it.

use std::cell::Cell;

use super::tokens::{self, Token};

/// One Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// The lines as they stand in the file.
    pub(crate) lines: Vec<String>,
    pub(crate) comments: Vec<String>,
    pub(crate) tokens: Vec<Token>,
    /// For each line, whether only tests see it.
    pub(crate) tests: Vec<bool>,
    /// `mod name;` under `#[cfg(test)]`: files that only tests see.
    pub(crate) test_modules: Vec<String>,
    pub(crate) allowances: Vec<Allowance>,
}

/// A rule that is set aside for one line, for a reason.
#[derive(Debug)]
pub(crate) struct Allowance {
    pub(crate) rule: String,
    pub(crate) reason: String,
    /// Where it stands, and for which line; counted from 0.
    pub(crate) written: usize,
    pub(crate) line: usize,
    pub(crate) used: Cell<bool>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let masked = Masked::new(text);
        let code: Vec<String> = masked.code.split('\n').map(str::to_owned).collect();
        let comments: Vec<String> = masked.comments.split('\n').map(str::to_owned).collect();
        let tokens = tokens::tokens(&code);
        let regions = tokens::test_regions(&tokens);
        let of_tests = is_of_tests(path);
        let in_region = |line| regions.spans.iter().any(|span| span.contains(&line));
        Self {
            path: path.to_owned(),
            lines: text.split('\n').map(str::to_owned).collect(),
            tests: (0..code.len())
                .map(|line| of_tests || in_region(line))
                .collect(),
            test_modules: regions.modules,
            allowances: allowances(&code, &comments),
            comments,
            tokens,
        }
    }

    /// Whether a machine wrote the file: lengths do not count there.
    pub(crate) fn is_generated(&self) -> bool {
        self.lines
            .first()
            .is_some_and(|line| line.starts_with("// @generated"))
    }

    /// Everything in it is seen by tests only.
    pub(crate) fn mark_as_tests(&mut self) {
        self.tests.fill(true);
    }

    /// Whether `rule` is set aside on `line`; marks the allowance as used.
    pub(crate) fn allows(&self, rule: &str, line: usize) -> bool {
        let mut found = false;
        for allowance in &self.allowances {
            if allowance.line == line && allowance.rule == rule {
                allowance.used.set(true);
                found = true;
            }
        }
        found
    }
}

/// Whether a path alone says that only tests see the file.
fn is_of_tests(path: &str) -> bool {
    path.starts_with("tests/")
        || path.contains("/tests/")
        || path.ends_with("/tests.rs")
        || path.starts_with("benches/")
        || path.contains("/benches/")
}

fn allowances(code: &[String], comments: &[String]) -> Vec<Allowance> {
    let has_code = |line: &usize| !code[*line].trim().is_empty();
    let mut found = Vec::new();
    for (written, comment) in comments.iter().enumerate() {
        let text = comment.trim().trim_start_matches('/').trim_start();
        let Some(text) = text.strip_prefix("tidy: allow ") else {
            continue;
        };
        let (rule, reason) = text.split_once(':').unwrap_or((text, ""));
        let line = (written..code.len()).find(has_code).unwrap_or(written);
        found.push(Allowance {
            rule: rule.trim().to_owned(),
            reason: reason.trim().to_owned(),
            written,
            line,
            used: Cell::new(false),
        });
    }
    found
}

/// A file's text split into code and comments, both with its line breaks.
struct Masked {
    code: String,
    comments: String,
}

/// Where a character of the file belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Comment,
    Text,
}

impl Masked {
    fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut masked = Self {
            code: String::with_capacity(text.len()),
            comments: String::new(),
        };
        let mut at = 0;
        while at < chars.len() {
            let (end, part) = piece(&chars, at);
            chars[at..end].iter().for_each(|&c| masked.push(c, part));
            at = end;
        }
        masked
    }

    fn push(&mut self, c: char, part: Part) {
        let in_part = |wanted| if part == wanted || c == '\n' { c } else { ' ' };
        self.code.push(in_part(Part::Code));
        self.comments.push(in_part(Part::Comment));
    }
}

/// The piece of the file that begins at `at`: where it ends, and what it is.
fn piece(chars: &[char], at: usize) -> (usize, Part) {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => (find(chars, at, '\n'), Part::Comment),
        '/' if next == Some('*') => (block_comment_end(chars, at), Part::Comment),
        '"' => (quoted_end(chars, at, '"'), Part::Text),
        '\'' => match character_end(chars, at) {
            Some(end) => (end, Part::Text),
            None => (at + 1, Part::Code),
        },
        'r' if at == 0 || !is_word(chars[at - 1]) || is_raw_prefix(chars, at - 1) => {
            match raw_string_end(chars, at) {
                Some(end) => (end, Part::Text),
                None => (at + 1, Part::Code),
            }
        }
        _ => (at + 1, Part::Code),
    }
}

pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `chars[at]` is the `b` or `c` of `br"..."` or `cr"..."`.
fn is_raw_prefix(chars: &[char], at: usize) -> bool {
    matches!(chars[at], 'b' | 'c') && (at == 0 || !is_word(chars[at - 1]))
}

fn find(chars: &[char], from: usize, wanted: char) -> usize {
    chars[from..]
        .iter()
        .position(|&c| c == wanted)
        .map_or(chars.len(), |offset| from + offset)
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(chars.len())
}

fn quoted_end(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// The end of a character literal; `None` for a lifetime.
fn character_end(chars: &[char], start: usize) -> Option<usize> {
    match (chars.get(start + 1)?, chars.get(start + 2)?) {
        ('\\', _) => Some(quoted_end(chars, start, '\'')),
        (_, '\'') => Some(start + 3),
        _ => None,
    }
}

/// The end of `r"..."` or `r#"..."#`; `None` when no raw string begins here.
fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let quote = start + 1 + hashes;
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    let mut at = quote + 1;
    loop {
        at = find(chars, at, '"');
        if at >= chars.len() {
            return Some(chars.len());
        }
        if chars[at + 1..]
            .iter()
            .take(hashes)
            .filter(|&&c| c == '#')
            .count()
            == hashes
        {
            return Some(at + 1 + hashes);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_comments_are_no_code() {
        let text = "let a = \"x // \\\" y\"; // why 'z'\n/* one /* two */\n */ b('\\'', 'c', \"\")";
        let masked = Masked::new(text);
        let squeezed = masked.code.replace(' ', "");
        assert_eq!(squeezed, "leta=;\n\nb(,,)");
        assert!(
            masked
                .comments
                .starts_with("                     // why 'z'\n/* one /* two */\n")
        );
    }

    #[test]
    fn raw_strings_and_lifetimes() {
        let text = "f::<'a>(r#\"un\"quoted\"#, br\"x\", b\"y\", r#type, for_r)";
        assert_eq!(
            Masked::new(text).code.replace(' ', ""),
            "f::<'a>(,b,b,r#type,for_r)"
        );
    }

    #[test]
    fn an_allowance_is_for_its_line_or_the_next_of_code() {
        let text = "// tidy: allow sleep: the clock\n// is real.\nnap();\nx(); // tidy: allow y\n";
        let source = Source::new("a.rs", text);
        assert!(source.allows("sleep", 2));
        assert!(!source.allows("sleep", 3));
        assert!(source.allows("y", 3));
        assert_eq!(source.allowances[0].reason, "the clock");
        assert_eq!(source.allowances[1].reason, "");
    }

    #[test]
    fn test_code_is_known_by_path_and_by_attribute() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}";
        let source = Source::new("x/src/lib.rs", text);
        assert_eq!(source.tests, [false, true, true, true, true, false]);
        assert!(Source::new("tests/sim/src/lib.rs", "fn a() {}").tests[0]);
        assert!(Source::new("x/src/queue/tests.rs", "fn a() {}").tests[0]);
    }
}
