//! The command line, taken apart word by word.
//!
//! What no task has asked for by [`Arguments::finish`] is an error that names it.

use std::collections::VecDeque;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};

/// Words not yet asked for, and what stood behind `--`.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    words: VecDeque<String>,
    passed_on: Vec<String>,
}

impl Arguments {
    /// The process's own arguments.
    pub(crate) fn from_env() -> Self {
        Self::new(std::env::args().skip(1))
    }

    /// These words.
    pub(crate) fn new(words: impl IntoIterator<Item = String>) -> Self {
        let mut words = words.into_iter();
        let own = words.by_ref().take_while(|word| word != "--").collect();
        Self {
            words: own,
            passed_on: words.collect(),
        }
    }

    /// The next word, whatever it is.
    pub(crate) fn next_word(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// Whether `--name` stands among the words; takes it out.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let Some(at) = self.words.iter().position(|word| word == name) else {
            return false;
        };
        self.words.remove(at);
        true
    }

    /// The value of `--name VALUE` or `--name=VALUE`; takes it out.
    ///
    /// # Errors
    /// A flag without its value, or a value that cannot be read.
    pub(crate) fn value<T>(&mut self, name: &str) -> Result<Option<T>>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let glued = format!("{name}=");
        let found = self
            .words
            .iter()
            .position(|word| word == name || word.starts_with(glued.as_str()));
        let Some(at) = found else {
            return Ok(None);
        };
        let word = self.words.remove(at).unwrap_or_default();
        let text = match word.strip_prefix(glued.as_str()) {
            Some(text) => text.to_owned(),
            None => self
                .words
                .remove(at)
                .with_context(|| format!("{name} wants a value"))?,
        };
        let value = text
            .parse()
            .with_context(|| format!("{name} cannot be `{text}`"))?;
        Ok(Some(value))
    }

    /// What stood behind `--`.
    pub(crate) fn passed_on(&mut self) -> Vec<String> {
        std::mem::take(&mut self.passed_on)
    }

    /// The value of `--rounds`, else `usually`.
    ///
    /// # Errors
    /// As [`Self::value`], or when it is 0.
    pub(crate) fn rounds(&mut self, usually: usize) -> Result<usize> {
        let rounds = self.value("--rounds")?.unwrap_or(usually);
        ensure!(rounds > 0, "--rounds cannot be 0");
        Ok(rounds)
    }

    /// Ends the command line.
    ///
    /// # Errors
    /// A word that nobody asked for.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if let Some(word) = self.words.front() {
            bail!("does not know `{word}`; see `cargo xtask help`");
        }
        if let Some(word) = self.passed_on.first() {
            bail!("passes nothing on, but `{word}` stands behind `--`");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Arguments {
        Arguments::new(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_and_values_in_any_order() {
        let mut line = arguments("sim --cluster --seed=7 --seeds 12 -- --trace");
        assert_eq!(line.next_word().as_deref(), Some("sim"));
        assert_eq!(line.value::<u64>("--seeds").unwrap(), Some(12));
        assert_eq!(line.value::<u64>("--seed").unwrap(), Some(7));
        assert_eq!(line.value::<u64>("--other").unwrap(), None);
        assert!(line.flag("--cluster"));
        assert!(!line.flag("--cluster"));
        assert_eq!(line.passed_on(), ["--trace"]);
        line.finish().unwrap();
    }

    #[test]
    fn what_nobody_asked_for_is_named() {
        let error = arguments("--sedes").finish().unwrap_err().to_string();
        assert!(error.contains("`--sedes`"), "{error}");
        let error = arguments("-- x").finish().unwrap_err().to_string();
        assert!(error.contains("`x`"), "{error}");
    }

    #[test]
    fn values_that_cannot_be_read_are_errors() {
        assert!(arguments("--seed").value::<u64>("--seed").is_err());
        let error = arguments("--seed many").value::<u64>("--seed").unwrap_err();
        assert!(error.to_string().contains("`many`"), "{error}");
    }
}
