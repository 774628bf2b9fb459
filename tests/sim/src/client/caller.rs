//! A client that is called back, as those are that wait for replies: it has an exclusive queue with
//! a name of the server's, tells the others of it as soon as it knows the name, and publishes to
//! theirs, at whatever node it is. What was answered must be so there, too.

use warren_protocol::methods::{
    BasicConsume, BasicPublish, ConfirmSelect, QueueDeclare, QueueDelete,
};
use warren_protocol::{Method, Properties, ShortStr, Table, content};

use super::{CHANNEL, Client, FRAME_MAX, Stage};
use crate::checker::Checker;

/// What it has and waits for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Calls {
    /// Its queue.
    own: Option<String>,
    /// Whom it publishes to, and how often their nodes had been apart when it began.
    asked: Option<(String, u64)>,
    /// The publish under way came back.
    returned: bool,
}

impl Calls {
    pub(super) fn is_quiet(&self) -> bool {
        self.asked.is_none()
    }
}

impl Client {
    /// The client is gone, and its queue with it.
    pub fn hang_up(&self, checker: &mut Checker) {
        if let Some(own) = &self.calls.own {
            checker.hung_up(own);
        }
    }

    /// Publishes to the queue of another client, or changes its own for a new one.
    pub(super) fn call(&mut self, checker: &mut Checker) {
        if self.calls.asked.is_some() {
            return;
        }
        if self.draining || self.rng.permille(100) {
            self.give_up_own(checker);
            return;
        }
        let Some((to, apart_count)) = checker.someone_to_call(&mut self.rng) else {
            return;
        };
        self.calls.asked = Some((to.clone(), apart_count));
        self.calls.returned = false;
        self.send(|out| {
            BasicPublish {
                exchange: ShortStr::EMPTY,
                routing_key: ShortStr::truncated(&to),
                mandatory: true,
                immediate: false,
            }
            .encode_frame(CHANNEL, out);
            content::encode(out, CHANNEL, Properties::EMPTY, b"ring", FRAME_MAX);
        });
    }

    fn give_up_own(&mut self, checker: &mut Checker) {
        let Some(own) = self.calls.own.take() else {
            return;
        };
        checker.hung_up(&own);
        self.stage = Stage::Preparing;
        self.send(|out| {
            QueueDelete {
                queue: ShortStr::truncated(&own),
                if_unused: false,
                if_empty: false,
                nowait: false,
            }
            .encode_frame(CHANNEL, out);
        });
    }

    fn declare_own(&mut self) {
        self.send(|out| {
            QueueDeclare {
                queue: ShortStr::EMPTY,
                passive: false,
                durable: false,
                exclusive: true,
                auto_delete: false,
                nowait: false,
                arguments: Table::EMPTY,
            }
            .encode_frame(CHANNEL, out);
        });
    }

    /// What the broker says to it; false when that is nothing special.
    pub(super) fn called(&mut self, method: &Method<'_>, checker: &mut Checker) -> bool {
        match method {
            Method::ChannelOpenOk(_) => {
                self.send(|out| ConfirmSelect { nowait: false }.encode_frame(CHANNEL, out));
            }
            Method::ConfirmSelectOk(_) => self.declare_own(),
            Method::QueueDeclareOk(declared) => {
                let own = declared.queue.to_string();
                checker.can_be_called(&own, self.node);
                self.send(|out| {
                    BasicConsume {
                        queue: ShortStr::truncated(&own),
                        consumer_tag: ShortStr::EMPTY,
                        no_local: false,
                        no_ack: true,
                        exclusive: false,
                        nowait: false,
                        arguments: Table::EMPTY,
                    }
                    .encode_frame(CHANNEL, out);
                });
                self.calls.own = Some(own);
            }
            // Its queue is gone, by its own wish.
            Method::BasicCancel(_) => {}
            Method::QueueDeleteOk(_) if self.draining => self.stage = Stage::Idle,
            Method::QueueDeleteOk(_) => self.declare_own(),
            Method::BasicReturn(_) => self.calls.returned = true,
            Method::BasicAck(_) | Method::BasicNack(_) => {
                if let Some((to, apart_count)) = self.calls.asked.take() {
                    checker.called(&to, apart_count, self.calls.returned);
                }
            }
            _ => return false,
        }
        true
    }
}
