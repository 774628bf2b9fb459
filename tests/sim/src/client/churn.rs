//! A client that declares, binds, unbinds and deletes durable queues of its own, and looks whether
//! what was answered is so.
//!
//! One thing at a time. What was asked and not answered (the connection broke) is unknown until it
//! is looked at.

use warren_protocol::methods::{
    BasicPublish, ChannelClose, ChannelCloseOk, ChannelOpen, ConfirmSelect, QueueBind,
    QueueDeclare, QueueDelete, QueueUnbind,
};
use warren_protocol::{Method, Properties, ReplyCode, ShortStr, Table, content};

use super::{CHANNEL, Client, FRAME_MAX, Stage};
use crate::checker::{Checker, Known};

const DIRECT: &str = "amq.direct";
/// Queues of one client.
const SLOTS: u32 = 3;

/// What it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Declare,
    Delete,
    Bind,
    Unbind,
    /// Declares passively: is it there?
    Look,
    /// Publishes by the binding's key: does it go somewhere?
    Publish,
}

/// What it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Churn {
    asked: Option<(Act, u32)>,
    /// The publish under way came back.
    returned: bool,
}

impl Churn {
    pub(super) fn is_quiet(self) -> bool {
        self.asked.is_none()
    }
}

impl Client {
    /// Asks for something, if nothing is asked.
    pub(super) fn churn_some(&mut self, id: u32, checker: &mut Checker) {
        if self.churn.asked.is_some() {
            return;
        }
        let slot = self.rng.below(u64::from(SLOTS)) as u32;
        if self.draining {
            let is_left = |slot: &u32| checker.names(id, *slot).queue != Known::Absent;
            if let Some(slot) = (0..SLOTS).find(is_left) {
                self.ask(Act::Delete, id, slot, checker);
            }
            return;
        }
        let known = checker.names(id, slot);
        let act = match self.rng.below(12) {
            0..3 => Act::Declare,
            3 => Act::Delete,
            4..6 if known.queue == Known::Present => Act::Bind,
            6 if known.queue == Known::Present => Act::Unbind,
            7..9 => Act::Publish,
            _ => Act::Look,
        };
        self.ask(act, id, slot, checker);
    }

    /// Whether a churning client has left nothing behind.
    #[must_use]
    pub fn has_tidied_up(id: u32, checker: &Checker) -> bool {
        (0..SLOTS).all(|slot| checker.names(id, slot).queue == Known::Absent)
    }

    /// A churning client's slots, and the names of their queues.
    pub fn churned_slots(id: u32) -> impl Iterator<Item = (u32, String)> {
        (0..SLOTS).map(move |slot| (slot, name(id, slot)))
    }

    fn ask(&mut self, act: Act, id: u32, slot: u32, checker: &mut Checker) {
        checker.note_names(act_name(act), id, slot);
        let mut known = checker.names(id, slot);
        match act {
            Act::Declare => known.queue = known.queue.unless(Known::Present),
            Act::Delete => {
                known.queue = known.queue.unless(Known::Absent);
                known.binding = known.binding.unless(Known::Absent);
            }
            Act::Bind => known.binding = known.binding.unless(Known::Present),
            Act::Unbind => known.binding = known.binding.unless(Known::Absent),
            Act::Look | Act::Publish => {}
        }
        checker.set_names(id, slot, known);
        self.churn = Churn {
            asked: Some((act, slot)),
            returned: false,
        };
        let name = name(id, slot);
        let queue = ShortStr::truncated(&name);
        let exchange = ShortStr::truncated(DIRECT);
        let arguments = Table::from_raw(&[]);
        self.send(|out| match act {
            Act::Declare | Act::Look => QueueDeclare {
                queue,
                passive: act == Act::Look,
                durable: true,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments,
            }
            .encode_frame(CHANNEL, out),
            Act::Delete => QueueDelete {
                queue,
                if_unused: false,
                if_empty: false,
                nowait: false,
            }
            .encode_frame(CHANNEL, out),
            Act::Bind => QueueBind {
                queue,
                exchange,
                routing_key: queue,
                nowait: false,
                arguments,
            }
            .encode_frame(CHANNEL, out),
            Act::Unbind => QueueUnbind {
                queue,
                exchange,
                routing_key: queue,
                arguments,
            }
            .encode_frame(CHANNEL, out),
            Act::Publish => {
                BasicPublish {
                    exchange,
                    routing_key: queue,
                    mandatory: true,
                    immediate: false,
                }
                .encode_frame(CHANNEL, out);
                let properties = Properties::from_raw(&[]);
                content::encode(out, CHANNEL, properties, name.as_bytes(), FRAME_MAX);
            }
        });
    }

    /// What the broker says to a churning client.
    pub(super) fn churned(&mut self, id: u32, method: &Method<'_>, checker: &mut Checker) {
        match method {
            Method::ChannelOpenOk(_) => {
                self.send(|out| ConfirmSelect { nowait: false }.encode_frame(CHANNEL, out));
                return;
            }
            Method::ConfirmSelectOk(_) => {
                self.stage = Stage::Ready;
                return;
            }
            Method::BasicReturn(_) => {
                self.churn.returned = true;
                return;
            }
            _ => {}
        }
        let Some((act, slot)) = self.churn.asked else {
            return;
        };
        let mut known = checker.names(id, slot);
        match (method, act) {
            (Method::QueueDeclareOk(_), Act::Declare) => {
                if known.queue == Known::Absent {
                    known.binding = Known::Absent;
                }
                known.queue = Known::Present;
            }
            (Method::QueueDeclareOk(_), Act::Look) => {
                if known.queue == Known::Absent {
                    checker.declared_is_gone(slot, "deleted, and there again");
                }
                known.queue = Known::Present;
            }
            (Method::QueueDeleteOk(_), Act::Delete) => {
                known.queue = Known::Absent;
                known.binding = Known::Absent;
            }
            (Method::QueueBindOk(_), Act::Bind) => known.binding = Known::Present,
            (Method::QueueUnbindOk(_), Act::Unbind) => known.binding = Known::Absent,
            (Method::BasicAck(_), Act::Publish) => {
                self.routed(slot, known.binding, checker);
            }
            (Method::BasicNack(_), Act::Publish) => {}
            (Method::ChannelClose(close), _) => {
                self.refused(close, act, slot, known.queue, checker);
                known.queue = Known::Absent;
                known.binding = Known::Absent;
            }
            _ => return,
        }
        self.churn.asked = None;
        checker.set_names(id, slot, known);
    }

    fn routed(&self, slot: u32, binding: Known, checker: &mut Checker) {
        match (binding, self.churn.returned) {
            (Known::Present, true) => checker.declared_is_gone(slot, "bound, and not routed to"),
            (Known::Absent, false) => checker.declared_is_gone(slot, "unbound, and routed to"),
            _ => {}
        }
    }

    fn refused(
        &mut self,
        close: &ChannelClose<'_>,
        act: Act,
        slot: u32,
        queue: Known,
        checker: &mut Checker,
    ) {
        if close.reply_code != ReplyCode::NotFound.code() || act == Act::Declare {
            checker.violate("wire", format!("channel closed: {close:?}"));
        }
        if queue == Known::Present {
            checker.declared_is_gone(slot, "declared, and not there");
        }
        self.stage = Stage::Preparing;
        self.send(|out| {
            ChannelCloseOk.encode_frame(CHANNEL, out);
            ChannelOpen.encode_frame(CHANNEL, out);
        });
    }
}

fn name(id: u32, slot: u32) -> String {
    format!("churn-{id}-{slot}")
}

fn act_name(act: Act) -> &'static str {
    match act {
        Act::Declare => "declares",
        Act::Delete => "deletes",
        Act::Bind => "binds",
        Act::Unbind => "unbinds",
        Act::Look => "looks at",
        Act::Publish => "publishes to",
    }
}
