//! What happened in a run: a number that two runs of one seed must share, and lines to read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::checker::MessageKey;

/// Bytes of a text mixed at once.
const WORD: usize = 8;

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    step: u64,
    into: Into,
}

/// Where lines go.
#[derive(Debug)]
enum Into {
    Nowhere,
    Output,
    Lines(Lines),
}

/// The last lines of a trace.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<VecDeque<String>>>);

/// Lines that are kept.
const LINES_MAX: usize = 60;

impl Lines {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// Writes them to the standard output.
    pub fn print(&self) {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().for_each(|line| println!("{line}"));
    }
}

impl Trace {
    /// A trace that writes its lines to the standard output, or only adds them up.
    #[must_use]
    pub fn new(prints: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            step: 0,
            into: if prints { Into::Output } else { Into::Nowhere },
        }
    }

    /// A trace whose last lines are kept.
    #[must_use]
    pub fn into_lines(lines: Lines) -> Self {
        Self {
            into: Into::Lines(lines),
            ..Self::new(false)
        }
    }

    fn line(&self, text: impl FnOnce() -> String) {
        match &self.into {
            Into::Nowhere => {}
            Into::Output => println!("{:>6}  {}", self.step, text()),
            Into::Lines(lines) => lines.push(format!("{:>6}  {}", self.step, text())),
        }
    }

    /// The next line belongs to this step of the run.
    pub fn at(&mut self, step: u64) {
        self.step = step;
        self.mix(step);
    }

    /// Something happened, to `who`, `much` of it.
    pub fn note(&mut self, what: &'static str, who: u64, much: u64) {
        self.bytes(what.as_bytes());
        self.mix(who);
        self.mix(much);
        self.line(|| format!("{what} {who}: {much}"));
    }

    /// Something happened to a message.
    pub fn message(&mut self, what: &'static str, key: MessageKey) {
        self.bytes(what.as_bytes());
        self.mix(u64::from(key.queue) << 32 | u64::from(key.publisher));
        self.mix(key.seq);
        self.line(|| {
            let MessageKey {
                queue,
                publisher,
                seq,
            } = key;
            format!("{what} {publisher}.{seq} of queue {queue}")
        });
    }

    /// Something happened that is not worth a line.
    pub fn count(&mut self, who: u64, much: u64) {
        self.mix(who);
        self.mix(much);
    }

    /// Something to read in a whole trace alone, that says nothing new.
    pub fn detail(&self, text: impl FnOnce() -> String) {
        if matches!(self.into, Into::Output) {
            self.line(text);
        }
    }

    /// Something to read that says nothing new.
    pub fn say(&self, text: impl FnOnce() -> String) {
        self.line(text);
    }

    /// Bytes that a client got.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<WORD>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.mix(u64::from(*byte));
        }
    }

    /// The same for two runs in which the same happened.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }
}
