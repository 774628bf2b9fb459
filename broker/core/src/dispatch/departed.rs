//! Consumers that went, as long as the log may not have what followed from it: a queue that goes
//! with its last consumer. A leader that is new is told that they were there, and that they went.
//!
//! Always holds: what a new leader is told of them gives them no message, and their names (a
//! session and a number) are nobody else's.

use std::collections::VecDeque;

use warren_cluster_core::ids::Seq;

use crate::ids::Token;
use crate::shard::input::{Attach, Input, Window};

/// Asks for no answer: what sessions ask is numbered from 1.
const NOBODY: Token = Token(0);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Departed {
    /// In the order of their numbers.
    sent: VecDeque<(Seq, Attach)>,
    /// Those that are being sent again.
    again: VecDeque<Attach>,
}

impl Departed {
    /// The consumer went, as the input with this number says.
    pub(super) fn left(&mut self, seq: Seq, consumer: &Attach) {
        self.sent.push_back((seq, consumer.clone()));
    }

    pub(super) fn paid(&mut self, seq: Seq) {
        while self.sent.front().is_some_and(|(of, _)| *of <= seq) {
            self.sent.pop_front();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// As they are claimed: without a window.
    pub(super) fn claims(&self) -> impl Iterator<Item = Attach> {
        self.sent.iter().map(|(_, attach)| Attach {
            exclusive: false,
            window: Window {
                messages: 0,
                bytes: 0,
            },
            ..attach.clone()
        })
    }

    /// What a new leader hears after the claim. Counts as not sent.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Input> {
        self.again = std::mem::take(&mut self.sent)
            .into_iter()
            .map(|(_, attach)| attach)
            .collect();
        self.again.iter().map(|attach| Input::Detach {
            queue: attach.queue,
            holder: attach.holder,
            token: NOBODY,
        })
    }

    /// Whether the question is one of [`Self::take`], in their order, which has its number now.
    pub(super) fn sent_again(&mut self, seq: Seq, token: Token) -> bool {
        if token != NOBODY {
            return false;
        }
        if let Some(attach) = self.again.pop_front() {
            self.sent.push_back((seq, attach));
        }
        true
    }

    pub(super) fn clear(&mut self) {
        self.sent.clear();
        self.again.clear();
    }
}
