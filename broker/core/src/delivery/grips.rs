//! A message that this leader has handed out at least once and that is still in its queue.

use crate::queue::blocks::Record;

/// Where such a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Out with the holder of this slot.
    Held(u32),
    /// Its removal is on the way into the log: nobody gets it any more.
    Leaving,
    /// Back, and to be handed out before newer ones.
    Returned,
}

/// What the leader knows of one message that is or was out. Its id is where the grip lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grip {
    pub(crate) state: State,
    /// Failed deliveries, the ones that are not yet in the log included.
    pub(crate) delivery_count: u16,
    offset: u16,
}

const _: () = assert!(size_of::<Grip>() == 12);

impl Grip {
    pub(crate) fn new(state: State, delivery_count: u16) -> Self {
        Self {
            state,
            delivery_count,
            offset: 0,
        }
    }
}

impl Record for Grip {
    fn offset(&self) -> u16 {
        self.offset
    }

    fn set_offset(&mut self, offset: u16) {
        self.offset = offset;
    }
}
