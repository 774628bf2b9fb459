//! Messages whose time is over.
//!
//! Only the head of a queue is looked at, as in RabbitMQ's classic queues: what waits behind a
//! message that lives longer stays until that one goes. The leader names what goes, in the same
//! command as what is acknowledged, because it alone knows what is out with a consumer; from then
//! on nobody gets it.

use warren_cluster_core::ids::Time;
use warren_cluster_core::machine::Bodies;

use crate::queue::Queue;
use crate::queue::reference::MessageRef;

use super::grips::State;
use super::settling::add_to_runs;
use super::{Delivery, Terms};

/// The message that goes out next.
pub(super) struct Head<'a> {
    pub(super) id: u64,
    /// It was out before.
    pub(super) returned: bool,
    pub(super) message: &'a MessageRef,
}

impl Delivery {
    /// A message came that expires. Whoever waits for one now may have it, however soon that is.
    pub(crate) fn expects(&mut self, id: u64) {
        if self.wants() {
            self.fresh.get_or_insert(id);
        }
    }

    /// Lets go of what has expired at the head of the queue.
    pub(crate) fn expire(&mut self, queue: &mut Queue, terms: Terms, bodies: &mut dyn Bodies) {
        while let Some(expiry) = self.next_expiry(queue)
            && expiry <= terms.now
            && let Some(Head { id, returned, .. }) = self.head(queue)
        {
            if returned {
                self.returned.remove(&id);
            } else {
                self.cursor = id + 1;
            }
            if !terms.logged {
                self.grips.remove(id);
                queue.remove(id..=id, bodies, |_| {});
                continue;
            }
            if let Some(grip) = self.grips.get_mut(id) {
                grip.state = State::Leaving;
                self.leaving += 1;
            } else {
                self.doomed += 1;
            }
            add_to_runs(&mut self.settles, id);
        }
    }

    /// When the head of the queue expires, if it does and nobody is about to get it.
    pub(crate) fn next_expiry(&self, queue: &Queue) -> Option<Time> {
        if !queue.expires || self.closing {
            return None;
        }
        let head = self.head(queue)?;
        let taken = !head.returned && self.fresh.is_some_and(|fresh| fresh <= head.id);
        head.message.expiry().filter(|_| !taken)
    }

    pub(super) fn head<'a>(&self, queue: &'a Queue) -> Option<Head<'a>> {
        let returned = self.returned.first().copied();
        let found = match returned {
            Some(id) => queue.messages.get(id).map(|message| (id, message)),
            None => queue.messages.first_from(self.cursor),
        };
        debug_assert!(
            found.is_some() || returned.is_none(),
            "a returned message is in the queue"
        );
        let (id, message) = found?;
        Some(Head {
            id,
            returned: returned.is_some(),
            message,
        })
    }
}
