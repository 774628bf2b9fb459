//! A client with an auto-delete queue that only it uses: it declares it, consumes, goes away from
//! it (with the connection, or by cancelling), and declares it again. That must always work.

use warren_protocol::methods::{BasicCancel, BasicConsume, BasicPublish, QueueDeclare};
use warren_protocol::{Method, Properties, ShortStr, Table, content};

use super::{CHANNEL, Client, FRAME_MAX, Stage};
use crate::checker::Checker;

const TAG: &str = "fleeting";

impl Client {
    /// What the names of such queues begin with.
    pub const FLEETING: &str = "fleeting-";

    /// Declares its queue, on a new channel or after the one before has gone.
    fn declare_fleeting(&mut self, id: u32) {
        self.stage = Stage::Preparing;
        let name = name(id, self.node);
        self.send(|out| {
            QueueDeclare {
                queue: ShortStr::truncated(&name),
                passive: false,
                durable: is_durable(id),
                exclusive: false,
                auto_delete: true,
                nowait: false,
                arguments: Table::from_raw(&[]),
            }
            .encode_frame(CHANNEL, out);
        });
    }

    /// Publishes to its queue, or cancels its consumer, and with it the queue.
    pub(super) fn fleet(&mut self, id: u32) {
        if !self.draining && self.rng.permille(700) {
            let name = name(id, self.node);
            self.send(|out| {
                BasicPublish {
                    exchange: ShortStr::EMPTY,
                    routing_key: ShortStr::truncated(&name),
                    mandatory: true,
                    immediate: false,
                }
                .encode_frame(CHANNEL, out);
                content::encode(out, CHANNEL, Properties::from_raw(&[]), b"here", FRAME_MAX);
            });
            return;
        }
        self.cancel_fleeting();
    }

    fn cancel_fleeting(&mut self) {
        self.stage = Stage::Preparing;
        self.send(|out| {
            BasicCancel {
                consumer_tag: ShortStr::truncated(TAG),
                nowait: false,
            }
            .encode_frame(CHANNEL, out);
        });
    }

    /// What the broker says to it; false when that is nothing special.
    pub(super) fn fleeted(&mut self, id: u32, method: &Method<'_>, checker: &Checker) -> bool {
        match method {
            Method::ChannelOpenOk(_) => self.declare_fleeting(id),
            Method::QueueDeclareOk(_) => {
                let name = name(id, self.node);
                self.send(|out| {
                    BasicConsume {
                        queue: ShortStr::truncated(&name),
                        consumer_tag: ShortStr::truncated(TAG),
                        no_local: false,
                        no_ack: true,
                        exclusive: false,
                        nowait: false,
                        arguments: Table::from_raw(&[]),
                    }
                    .encode_frame(CHANNEL, out);
                });
            }
            Method::BasicCancelOk(_) if self.draining => self.stage = Stage::Idle,
            Method::BasicCancelOk(_) => self.declare_fleeting(id),
            // Its consumer was none any more while its node was ruled out, and the queue went.
            Method::BasicReturn(_) if checker.is_doubtful() => {
                if self.stage == Stage::Ready {
                    self.cancel_fleeting();
                }
            }
            _ => return false,
        }
        true
    }
}

fn is_durable(id: u32) -> bool {
    id.is_multiple_of(2)
}

/// What is not durable lives with the node that it was declared at, and ends with it: a client that
/// has come from there does not count on it.
fn name(id: u32, node: u64) -> String {
    let prefix = Client::FLEETING;
    if is_durable(id) {
        format!("{prefix}{id}")
    } else {
        format!("{prefix}{id}-at-{node}")
    }
}
