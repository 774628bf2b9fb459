//! What one caller at a time may do: a second one is told who does it.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::sessions::lock;

/// The place of the one who works.
#[derive(Default)]
pub(crate) struct Slot {
    holder: Mutex<Option<Holder>>,
}

struct Holder {
    what: &'static str,
    who: String,
    since: Instant,
}

/// Somebody else works.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} by {who} has been running for {seconds} s")]
pub(crate) struct Busy {
    what: &'static str,
    who: String,
    seconds: u64,
}

/// The right to work, until it is dropped.
pub(crate) struct Held(Arc<Slot>);

impl Slot {
    /// Takes the place, to do `what` for `who`.
    pub(crate) fn take(self: &Arc<Self>, what: &'static str, who: &str) -> Result<Held, Busy> {
        let mut holder = lock(&self.holder);
        if let Some(holder) = &*holder {
            return Err(Busy {
                what: holder.what,
                who: holder.who.clone(),
                seconds: holder.since.elapsed().as_secs(),
            });
        }
        *holder = Some(Holder {
            what,
            who: who.to_owned(),
            since: Instant::now(),
        });
        Ok(Held(Arc::clone(self)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *lock(&self.0.holder) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_next_is_told_of_whom() {
        let slot = Arc::new(Slot::default());
        let held = slot.take("an import", "user 'ann'").expect("it is free");
        let busy = slot.take("an import", "user 'bob'").map(drop);
        let text = busy.expect_err("it is taken").to_string();
        assert_eq!(text, "an import by user 'ann' has been running for 0 s");
        drop(held);
        assert!(slot.take("a backup", "user 'bob'").is_ok());
    }
}
