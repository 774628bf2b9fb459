//! The channels of a connection, by number.

use super::channel::Channel;

/// What stands under a channel's number.
pub(super) enum Slot {
    Open(Box<Channel>),
    /// channel.close is sent: all is ignored until close-ok comes.
    Closing,
}

/// Channels in ascending order of their numbers. The one used last is found at once.
#[derive(Default)]
pub(super) struct ChannelTable {
    slots: Vec<(u16, Slot)>,
    last: usize,
}

impl ChannelTable {
    /// How many numbers are taken.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, number: u16) -> Option<&mut Slot> {
        if self
            .slots
            .get(self.last)
            .is_none_or(|(of, _)| *of != number)
        {
            self.last = self.position(number).ok()?;
        }
        Some(&mut self.slots[self.last].1)
    }

    /// The channel, if it is open.
    #[inline]
    pub(super) fn open_mut(&mut self, number: u16) -> Option<&mut Channel> {
        match self.get_mut(number) {
            Some(Slot::Open(channel)) => Some(channel),
            Some(Slot::Closing) | None => None,
        }
    }

    /// Puts a slot under a number, in place of what is there.
    pub(super) fn set(&mut self, number: u16, slot: Slot) {
        match self.position(number) {
            Ok(at) => self.slots[at].1 = slot,
            Err(at) => self.slots.insert(at, (number, slot)),
        }
    }

    pub(super) fn remove(&mut self, number: u16) {
        if let Ok(at) = self.position(number) {
            self.slots.remove(at);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Open(channel) => Some(&**channel),
            Slot::Closing => None,
        })
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.slots.iter_mut().filter_map(|(_, slot)| match slot {
            Slot::Open(channel) => Some(&mut **channel),
            Slot::Closing => None,
        })
    }

    #[inline]
    fn position(&self, number: u16) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&number, |(of, _)| *of)
    }
}
