//! Frames that name a queue of another node's which is not known here: they wait until all is known
//! that there was when they came. A name that the server drew says where its queue lives, and its
//! row is not waited for anywhere else when it is declared.
//!
//! Invariants:
//! - what is said not to be there was asked for at its node after the frame had come;
//! - one question does for all frames that have come by then.

use warren_cluster_core::ids::NodeId;
use warren_protocol::{Method, Properties};

use super::Session;
use super::channel::{Channel, Wait};
use super::common::{Common, Turn};
use crate::dispatch::work::Item;
use crate::ids::Token;
use crate::server_names;
use crate::topology::route;

/// Frames of a channel's that came before their node was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct CaughtUp {
    node: NodeId,
    bytes: usize,
}

impl Channel {
    /// Whether the queue may be there and is not known here; then its node is asked, and the frame
    /// is to be held.
    #[inline]
    pub(super) fn must_catch_up(
        &mut self,
        queue: &[u8],
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> bool {
        match server_names::home_of(queue) {
            Some(node) => self.misses(queue, node, common, turn),
            None => false,
        }
    }

    #[cold]
    fn misses(
        &mut self,
        queue: &[u8],
        node: NodeId,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> bool {
        let vhost = turn.env.topology.vhost(common.vhost_name());
        let is_known = vhost.is_some_and(|vhost| vhost.queue(queue).is_some());
        let has_asked = self.caught_up.is_some_and(|it| it.node == node);
        let is_own = node == turn.env.home.node;
        if is_known || has_asked || is_own || cfg!(warren_break = "names_not_asked_for") {
            return false;
        }
        let token = common.token(self.number);
        self.wait = Some(Box::new(Wait::CatchUp {
            token,
            node,
            bytes: 0,
        }));
        common.catching_up.push(self.number);
        turn.work.items.push(Item::CatchUp { node, token });
        true
    }

    /// The same for what a message to the default exchange names beside its routing key.
    #[cold]
    pub(super) fn extra_keys_must_catch_up(
        &mut self,
        properties: Properties<'_>,
        common: &mut Common,
        turn: &mut Turn<'_, '_>,
    ) -> bool {
        let mut waits = false;
        route::for_each_extra_key(properties, |key| {
            waits = waits || self.must_catch_up(key, common, turn);
        });
        waits
    }

    /// All is known that there was when this was asked; false when nobody waits for that.
    pub(super) fn has_caught_up(&mut self, answered: Token) -> bool {
        match self.wait.as_deref() {
            Some(&Wait::CatchUp { token, node, bytes }) if token == answered => {
                self.wait = None;
                self.caught_up = Some(CaughtUp { node, bytes });
                true
            }
            _ => false,
        }
    }

    /// So much of what was held is done with.
    pub(super) fn replayed(&mut self, bytes: usize) {
        if let Some(caught_up) = &mut self.caught_up {
            caught_up.bytes = caught_up.bytes.saturating_sub(bytes);
        }
        self.caught_up.take_if(|caught_up| caught_up.bytes == 0);
    }
}

impl Session {
    /// The end of a turn: what has come by now came before its node is asked.
    pub(super) fn note_what_came(&mut self) {
        for number in std::mem::take(&mut self.common.catching_up) {
            if let Some(channel) = self.channels.open_mut(number)
                && let Some(Wait::CatchUp { bytes, .. }) = channel.wait.as_deref_mut()
            {
                *bytes = channel.held.len();
            }
        }
    }
}

/// The queue that a method is about, by the name that it has for it.
pub(super) fn named_queue<'a>(method: &Method<'a>) -> Option<&'a [u8]> {
    let name = match method {
        Method::QueueDeclare(it) => it.queue,
        Method::QueueBind(it) => it.queue,
        Method::QueueUnbind(it) => it.queue,
        Method::QueuePurge(it) => it.queue,
        Method::QueueDelete(it) => it.queue,
        Method::BasicConsume(it) => it.queue,
        Method::BasicGet(it) => it.queue,
        _ => return None,
    };
    Some(name.as_bytes())
}
