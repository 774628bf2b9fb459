//! Purges and closes on their way through the log, and who waits for them.

use warren_cluster_core::machine::Context;

use crate::ids::{Holder, MessageId, QueueId, SessionId, Token};
use crate::queue::Queue;
use crate::shard::command;
use crate::shard::effect::{Effect, Reply};

use super::grips::State;
use super::settling::add_to_runs;
use super::{Delivery, Sessions, reply};

/// Runs that one purge command names at most, so that entries stay small.
const KEPT_RUNS_MAX: usize = 16_384;

/// A purge that is proposed and not yet applied.
#[derive(Debug)]
pub(super) struct Purge {
    /// Where its last command ends.
    end: u64,
    messages: u64,
    asker: SessionId,
    token: Token,
}

impl Delivery {
    /// Proposes to remove every ready message. From here on none of them goes out.
    pub(crate) fn purge(
        &mut self,
        queue: &Queue,
        asker: SessionId,
        token: Token,
        context: &mut Context<'_, Effect>,
    ) {
        let messages = self.ready(queue);
        let mut kept = Vec::new();
        for (id, grip) in self.grips.range(0..=u64::MAX) {
            if grip.state != State::Returned {
                add_to_runs(&mut kept, id);
            }
        }
        self.doomed += messages - self.returned.len() as u64;
        self.leaving += self.returned.len() as u64;
        for id in std::mem::take(&mut self.returned) {
            if let Some(grip) = self.grips.get_mut(id) {
                grip.state = State::Leaving;
            }
        }
        self.cursor = queue.next;
        propose_purge(queue, &kept, context);
        self.purges.push_back(Purge {
            end: queue.next,
            messages,
            asker,
            token,
        });
    }

    /// A purge command was applied that ended before `end`.
    pub(crate) fn purged(&mut self, end: u64, effects: &mut Vec<Effect>) {
        let Some(purge) = self.purges.pop_front_if(|purge| purge.end == end) else {
            return;
        };
        let messages = purge.messages;
        effects.push(reply(purge.asker, purge.token, Reply::Purged { messages }));
    }

    /// Proposes to close the queue, and stops handing out. `if_next` as in the command.
    pub(crate) fn close(
        &mut self,
        queue: QueueId,
        unused: bool,
        if_next: MessageId,
        context: &mut Context<'_, Effect>,
    ) {
        self.closing = true;
        let write = |out: &mut _| command::encode_close(out, queue, unused, if_next);
        context.proposals.push(write);
        context.urgent = true;
    }

    /// Somebody waits for the close.
    pub(crate) fn await_close(&mut self, asker: SessionId, token: Token) {
        self.closers.push((asker, token));
    }

    /// A drop is on its way: nothing goes out any more.
    pub(crate) fn stop(&mut self) {
        self.closing = true;
    }

    /// The close was applied and did nothing: a message had come before it.
    pub(crate) fn not_closed(&mut self, effects: &mut Vec<Effect>) {
        self.closing = false;
        for (asker, token) in std::mem::take(&mut self.closers) {
            effects.push(reply(asker, token, Reply::NotEmpty));
        }
    }

    /// The queue is closed or dropped: everybody who waits for something hears of it.
    pub(crate) fn end(self, queue: &Queue, sessions: &mut Sessions, effects: &mut Vec<Effect>) {
        let messages = self.ready(queue);
        for (holder, consumes) in self.holders.iter() {
            let Holder { session, number } = holder;
            sessions.remove(&(session, queue.id, number));
            if consumes {
                effects.push(Effect::Cancelled {
                    session,
                    number,
                    queue: queue.id,
                });
            }
        }
        for get in &self.gets {
            if let Some(party) = self.holders.party(get.slot) {
                effects.push(reply(party.holder.session, get.token, Reply::NoQueue));
            }
        }
        for purge in &self.purges {
            let messages = purge.messages;
            effects.push(reply(purge.asker, purge.token, Reply::Purged { messages }));
        }
        for (asker, token) in self.closers {
            effects.push(reply(asker, token, Reply::Closed { messages }));
        }
    }
}

/// One command, or several that each cover a window of ids when very much is out.
fn propose_purge(queue: &Queue, kept: &[(u64, u64)], context: &mut Context<'_, Effect>) {
    let mut first = 1;
    let mut rest = kept;
    while rest.len() > KEPT_RUNS_MAX {
        let (now, later) = rest.split_at(KEPT_RUNS_MAX);
        let end = now[KEPT_RUNS_MAX - 1].1 + 1;
        let write = |out: &mut _| command::encode_purge(out, queue.id, (first, end), now);
        context.proposals.push(write);
        (first, rest) = (end, later);
    }
    let window = (first, queue.next);
    let write = |out: &mut _| command::encode_purge(out, queue.id, window, rest);
    context.proposals.push(write);
    context.urgent = true;
}
