//! What happened in a run: a number that two runs of one seed must share, and lines to read.

use crate::checker::MessageKey;

/// Bytes of a text mixed at once.
const WORD: usize = 8;

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    step: u64,
    prints: bool,
}

impl Trace {
    /// A trace that writes its lines to the standard output, or only adds them up.
    #[must_use]
    pub fn new(prints: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            step: 0,
            prints,
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
        if self.prints {
            println!("{:>6}  {what} {who}: {much}", self.step);
        }
    }

    /// Something happened to a message.
    pub fn message(&mut self, what: &'static str, key: MessageKey) {
        self.bytes(what.as_bytes());
        self.mix(u64::from(key.queue) << 32 | u64::from(key.publisher));
        self.mix(key.seq);
        if self.prints {
            let MessageKey {
                queue,
                publisher,
                seq,
            } = key;
            println!(
                "{:>6}  {what} {publisher}.{seq} of queue {queue}",
                self.step
            );
        }
    }

    /// Something to read that says nothing new.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>6}  {}", self.step, text());
        }
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
