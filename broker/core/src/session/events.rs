//! What the rest of the node tells a session, and what waits to be written.
//!
//! Invariant: an event for something that is gone (a channel, a consumer, a question) is harmless.

use bytes::Bytes;
use warren_cluster_core::batch::Outcome;

use super::channel::{Channel, Mode, Wait};
use super::common::{Common, Pending, Turn, channel_of};
use super::confirms::Range;
use super::deliver::Written;
use super::event::Event;
use super::fault::Fault;
use super::{Phase, Session};
use crate::dispatch::operation::Response;
use crate::dispatch::publish::ConfirmRun;
use crate::dispatch::work::ReplyAddress;
use crate::ids::Token;
use crate::shard::effect::Effect;

impl Session {
    pub(super) fn take_event(&mut self, event: Event, turn: &mut Turn<'_, '_>) {
        match event {
            Event::Done { number, outcome } => self.done(number, outcome, turn),
            Event::Committed { token, committed } => {
                self.respond(token, Response::Committed(committed), turn);
            }
            Event::NotCommitted { token } => self.respond(token, Response::NotCommitted, turn),
            Event::CaughtUp { token } => {
                self.with_channel(
                    token,
                    turn,
                    |channel, _, _| Ok(channel.has_caught_up(token)),
                );
            }
            Event::Shard(effect) => self.effect(effect, turn),
            Event::DirectReply { address, message } => {
                if matches!(self.phase, Phase::Open) {
                    self.common.take_reply(address, message);
                }
            }
            Event::Blocked(Some(reason)) => self.common.flow.alarm = Some(reason),
            Event::Blocked(None) => {
                self.common.flow.alarm = None;
                if std::mem::take(&mut self.common.flow.blocked) {
                    self.go_on(turn);
                }
            }
            Event::Close { text } => self.force_close(&text, turn),
        }
        self.drained(turn);
    }

    fn effect(&mut self, effect: Effect, turn: &mut Turn<'_, '_>) {
        match effect {
            Effect::Deliver {
                number, messages, ..
            } => {
                if self.common.holders.get(number).is_some() {
                    let messages = messages.into_iter();
                    let pending = Pending::Messages { number, messages };
                    self.common.deliveries.push_back(pending);
                }
            }
            Effect::Got {
                token,
                message,
                ready,
                ..
            } => self.with_channel(token, turn, |channel, common, turn| {
                Ok(channel.got(token, message.as_ref(), ready, common, turn))
            }),
            Effect::Attached { token, .. } => {
                self.with_channel(token, turn, |channel, common, _| {
                    Ok(channel.attached(token, common))
                });
            }
            Effect::Refused { token, refusal, .. } => {
                self.with_channel(token, turn, |channel, common, _| {
                    match channel.refused(token, refusal, common) {
                        Some(fault) => Err(fault),
                        None => Ok(false),
                    }
                });
            }
            Effect::Detached { token, .. } => {
                self.with_channel(token, turn, |channel, common, _| {
                    channel.detached(token, common);
                    Ok(false)
                });
            }
            Effect::Cancelled { number, .. } => {
                self.common
                    .deliveries
                    .push_back(Pending::Cancelled { number });
            }
            Effect::Settled { token, .. } => {
                self.with_channel(token, turn, |channel, common, _| {
                    channel.settled(token, common)
                });
            }
            Effect::Reply { token, reply, .. } => {
                self.respond(token, Response::Reply(reply), turn);
            }
            Effect::Closed { .. } | Effect::Dropped { .. } => {}
        }
    }

    /// Runs `act` on the channel that asked; when it says that the channel waits no more, what was
    /// held goes on.
    fn with_channel(
        &mut self,
        token: Token,
        turn: &mut Turn<'_, '_>,
        act: impl FnOnce(&mut Channel, &mut Common, &mut Turn<'_, '_>) -> Result<bool, Fault>,
    ) {
        let number = channel_of(token);
        let Some(channel) = self.channels.open_mut(number) else {
            return;
        };
        match act(channel, &mut self.common, turn) {
            Ok(true) => self.replay(number, turn),
            Ok(false) => {}
            Err(fault) => self.fail_and_replay(number, &fault, turn),
        }
    }

    /// What was held behind the failure is not lost on the client: it may be its channel.close.
    fn fail_and_replay(&mut self, number: u16, fault: &Fault, turn: &mut Turn<'_, '_>) {
        let held = match self.channels.open_mut(number) {
            Some(channel) => {
                self.common.flow.held_bytes -= channel.held.len();
                std::mem::take(&mut channel.held)
            }
            None => return,
        };
        self.fail(number, fault, turn);
        self.replay_frames(number, &held, turn);
    }

    fn respond(&mut self, token: Token, response: Response, turn: &mut Turn<'_, '_>) {
        if self.common.orphans.iter().any(|(asked, _)| *asked == token) {
            self.common.resume_orphan(token, response, turn);
            return;
        }
        self.with_channel(token, turn, |channel, common, turn| {
            channel.resume(token, response, common, turn)
        });
    }

    /// A batch of publishes has its outcome.
    fn done(&mut self, number: u64, outcome: Outcome, turn: &mut Turn<'_, '_>) {
        let refused = match outcome {
            Outcome::Stored => false,
            Outcome::Refused => true,
        };
        for run in self.common.publisher.done(number) {
            if let Some(channel) = self.channels.open_mut(run.channel)
                && channel.incarnation == run.incarnation
            {
                channel.published(&run, refused, &mut self.common);
            }
        }
        self.publishes_awaited(turn);
    }

    /// Looks after the channels that wait for publishes.
    fn publishes_awaited(&mut self, turn: &mut Turn<'_, '_>) {
        for number in std::mem::take(&mut self.common.awaiting) {
            let Some(channel) = self.channels.open_mut(number) else {
                continue;
            };
            match channel.wait.as_deref() {
                Some(Wait::Publishes) => {
                    if channel.has_published(&self.common) {
                        channel.wait = None;
                    } else {
                        self.common.await_publishes(number);
                    }
                }
                Some(Wait::Commit { .. }) => match channel.commit_progress(&mut self.common) {
                    Ok(()) => {
                        if channel.wait.is_some() {
                            self.common.await_publishes(number);
                        }
                    }
                    Err(fault) => self.fail_and_replay(number, &fault, turn),
                },
                _ => {}
            }
            self.replay(number, turn);
        }
    }

    /// Whatever held publishers up has ended.
    pub(super) fn go_on(&mut self, turn: &mut Turn<'_, '_>) {
        self.common.unblock();
        let held: Vec<u16> = self
            .channels
            .iter()
            .filter(|channel| channel.wait.is_none() && !channel.held.is_empty())
            .map(|channel| channel.number)
            .collect();
        for number in held {
            self.replay(number, turn);
        }
    }

    /// Writes the confirms that are known.
    pub(super) fn write_confirms(&mut self) {
        for at in 0..self.common.unconfirmed.len() {
            let number = self.common.unconfirmed[at];
            if let Some(channel) = self.channels.open_mut(number) {
                channel.flush_confirms(&mut self.common);
            }
        }
        self.common.unconfirmed.clear();
    }

    /// Writes deliveries while the outbox has room.
    pub(super) fn write_deliveries(&mut self, turn: &mut Turn<'_, '_>) {
        while self.common.outbox.len() < self.common.options.outbox_bytes {
            let Some(pending) = self.common.deliveries.pop_front() else {
                break;
            };
            match pending {
                Pending::Messages { number, messages } => {
                    let Some(channel) = self.common.holders.get(number).map(|h| h.channel) else {
                        continue;
                    };
                    let Some(channel) = self.channels.open_mut(channel) else {
                        continue;
                    };
                    let mut messages = messages;
                    let common = &mut self.common;
                    match channel.write_messages(number, &mut messages, common, turn) {
                        Written::All => {}
                        Written::OutboxFull => {
                            let pending = Pending::Messages { number, messages };
                            self.common.deliveries.push_front(pending);
                            break;
                        }
                        Written::Gated => {
                            channel.gated.push(Pending::Messages { number, messages });
                        }
                    }
                }
                Pending::CancelOk { channel, number } => {
                    if let Some(open) = self.channels.open_mut(channel)
                        && open.cancelled(number, &mut self.common, turn)
                    {
                        self.replay(channel, turn);
                    }
                }
                Pending::Cancelled { number } => self.queue_gone(number, turn),
                Pending::Reply { address, message } => self.write_reply(address, message),
            }
        }
        self.drained(turn);
    }

    fn queue_gone(&mut self, number: u32, turn: &mut Turn<'_, '_>) {
        let Some(channel) = self.common.holders.get(number).map(|h| h.channel) else {
            return;
        };
        if let Some(open) = self.channels.open_mut(channel)
            && open.queue_gone(number, &mut self.common)
        {
            self.replay(channel, turn);
        }
    }

    fn write_reply(&mut self, address: ReplyAddress, message: Bytes) {
        self.common.reply_bytes -= message.len();
        if let Some(channel) = self.channels.open_mut(address.channel) {
            channel.write_reply(address, message, &mut self.common);
        }
    }
}

impl Channel {
    /// A run of its publishes has the outcome of one batch.
    fn published(&mut self, run: &ConfirmRun, refused: bool, common: &mut Common) {
        match &mut self.mode {
            Mode::Plain => {}
            Mode::Confirm(confirms) if run.spread => confirms.settle_spread(run.first, refused),
            Mode::Confirm(confirms) => {
                let (first, end) = (run.first, run.first + u64::from(run.count));
                confirms.settle(Range { first, end }, refused);
            }
            Mode::Transaction(_) if refused => self.commit_refused(),
            Mode::Transaction(_) => {}
        }
        self.confirms_changed(common);
    }
}

impl Common {
    /// The channel is to be looked after when publishes have their outcome.
    pub(super) fn await_publishes(&mut self, channel: u16) {
        if !self.awaiting.contains(&channel) {
            self.awaiting.push(channel);
        }
    }
}
