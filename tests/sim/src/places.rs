//! What there is a client for, again and again: each time that its connection is gone.

use crate::client::{QueueSpec, Role};
use crate::rng::Rng;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Publisher,
    Churner {
        id: u32,
    },
    Fleeting {
        id: u32,
    },
    Caller,
    /// Of the queue with this index.
    Consumer {
        queue: usize,
        auto_ack: bool,
    },
    Getter {
        queue: usize,
    },
}

impl Kind {
    /// What a client with queues of its own asked on its last connection may still happen, until
    /// that is over.
    pub(crate) fn waits_for(self, last: Role) -> bool {
        match (self, last) {
            (Self::Churner { id }, Role::Churner { id: of })
            | (Self::Fleeting { id }, Role::Fleeting { id: of }) => id == of,
            _ => false,
        }
    }

    /// A client's role: its `id` is new; `queues` are those that there are.
    pub(crate) fn role(self, id: u32, drains: bool, queues: &[QueueSpec], rng: &mut Rng) -> Role {
        let of = |queue: usize| queues[queue.min(queues.len() - 1)];
        match self {
            Self::Publisher => Role::Publisher { id },
            Self::Churner { id } => Role::Churner { id },
            Self::Fleeting { id } => Role::Fleeting { id },
            Self::Caller => Role::Caller,
            Self::Consumer { queue, auto_ack } => Role::Consumer {
                queue: of(queue),
                id: u64::from(id),
                auto_ack,
                // The end of a run must not take for ever.
                prefetch: [0, 50, 3, 1][rng.below(if drains { 2 } else { 4 }) as usize],
            },
            Self::Getter { queue } => Role::Getter {
                queue: of(queue),
                id: u64::from(id),
            },
        }
    }
}
