//! Permissions: regular expressions that names must match.
//!
//! As RabbitMQ: a pattern may match anywhere in the name, the empty pattern matches the empty name
//! alone, and one that is no valid expression matches nothing. It is matched on bytes.

use std::sync::OnceLock;

use regex::bytes::{Regex, RegexBuilder};

/// Bytes that a compiled expression may take; larger ones match nothing.
const COMPILED_BYTES_MAX: usize = 256 * 1024;

/// A permission's pattern, compiled when it is first needed.
#[derive(Debug)]
pub struct Pattern {
    source: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    #[must_use]
    pub fn new(source: &str) -> Self {
        Self {
            source: source.into(),
            compiled: OnceLock::new(),
        }
    }

    /// Whether the name matches.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        match &*self.source {
            "" => name.is_empty(),
            ".*" => true,
            source => {
                let compiled = self.compiled.get_or_init(|| compile(source));
                compiled.as_ref().is_some_and(|regex| regex.is_match(name))
            }
        }
    }
}

/// Bytes first, as Erlang's `re` without the option `unicode`; what then is not valid, as a class
/// with letters beyond ASCII, is taken as Unicode.
fn compile(source: &str) -> Option<Regex> {
    let build = |unicode| {
        RegexBuilder::new(source)
            .unicode(unicode)
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .ok()
    };
    build(false).or_else(|| build(true))
}
