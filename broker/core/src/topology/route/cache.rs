//! What a session remembers of where its messages went.
//!
//! Invariants:
//! - an answer is given only if walking the exchanges again would give the same: the vhost's
//!   serial has not moved since the entry was checked, or the generation of every exchange that
//!   was walked has not;
//! - a session that never publishes to a named exchange pays three words, and no session holds
//!   more than [`SLOTS_MAX`] entries of at most [`DESTINATIONS_MAX`] queues;
//! - an entry that takes another's place takes its memory too, so that nothing is allocated once
//!   the cache has its size.
//!
//! A cache belongs to one vhost. The default exchange is not in it: it is one look-up by itself.

use std::hash::{BuildHasher, Hasher};

use warren_protocol::Properties;

use super::super::{Destination, Exchange, Seed, Vhost};
use super::{RouteBuffer, Routed, Walk};
use crate::exception::Exception;
use crate::names::Name;

/// Entries of a session that begins to publish.
const SLOTS_MIN: usize = 4;
/// The most entries of a session.
const SLOTS_MAX: usize = 128;
/// Messages to more queues than these are routed anew: that costs little beside sending them.
const DESTINATIONS_MAX: usize = 32;
/// Nobody but the session itself can make its keys collide.
const SEED: Seed = Seed(0x5b1c_e37a_90d2_4f68);

/// A session's cache. See the module's text.
#[derive(Debug, Default)]
pub struct RouteCache {
    /// None or a power of two; a key has one slot that it can be in.
    slots: Vec<Slot>,
    /// Entries that lost their slot to another key since the cache last grew.
    evicted: usize,
}

#[derive(Debug, Default, Clone)]
struct Slot {
    hash: u64,
    /// Length of the exchange's name in one byte, the name, the routing key. Empty: no entry.
    key: Vec<u8>,
    /// The vhost's when the entry was last known to hold.
    serial: u64,
    /// Of the exchange that the message was published to.
    generation: u64,
    /// The other exchanges that were walked.
    further: Vec<(Name, u64)>,
    destinations: Vec<Destination>,
}

impl RouteCache {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything and gives the memory back, as for an idle session.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Finds the queues of a message, the way [`Vhost::exchange_to_publish`] and [`Vhost::route`]
    /// would. `properties` have been validated. The vhost is always the same, of any topology.
    ///
    /// # Errors
    /// 404 and 403 for the exchange, 406 when `CC` or `BCC` is no array.
    pub fn route(
        &mut self,
        vhost: &Vhost,
        exchange: &[u8],
        routing_key: &[u8],
        properties: Properties<'_>,
        out: &mut RouteBuffer,
    ) -> Result<(), Exception> {
        out.clear();
        let message = Routed::new(routing_key, properties)?;
        if exchange.is_empty() {
            out.has_bcc = message.extra[1].is_some();
            vhost.walk(
                vhost.require_exchange(exchange)?,
                &message,
                &mut out.destinations,
            );
            return Ok(());
        }
        if message.has_extra_keys() || exchange.len() > usize::from(u8::MAX) {
            out.has_bcc = message.extra[1].is_some();
            let exchange = vhost.exchange_to_publish(exchange)?;
            vhost.walk(exchange, &message, &mut out.destinations);
            return Ok(());
        }
        let hash = hash(exchange, routing_key);
        if let Some(slot) = self.find(hash, exchange, routing_key)
            && slot.holds(vhost, exchange)
        {
            out.destinations.extend_from_slice(&slot.destinations);
            return Ok(());
        }
        let found = vhost.exchange_to_publish(exchange)?;
        let walk = vhost.walk(found, &message, &mut out.destinations);
        if walk.repeatable && out.destinations.len() <= DESTINATIONS_MAX {
            let slot = self.take_slot(hash, exchange, routing_key);
            slot.fill(vhost, &walk, &out.destinations);
        }
        Ok(())
    }

    #[inline]
    fn find(&mut self, hash: u64, exchange: &[u8], routing_key: &[u8]) -> Option<&mut Slot> {
        let mask = self.slots.len().wrapping_sub(1);
        let slot = self.slots.get_mut(hash as usize & mask)?;
        slot.is_for(hash, exchange, routing_key).then_some(slot)
    }

    /// The key's slot, with its hash and its key. The cache grows when keys drive each other out.
    fn take_slot(&mut self, hash: u64, exchange: &[u8], routing_key: &[u8]) -> &mut Slot {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS_MIN, Slot::default);
        }
        let at = hash as usize & (self.slots.len() - 1);
        let slot = &self.slots[at];
        let evicts = !slot.key.is_empty() && !slot.is_for(hash, exchange, routing_key);
        self.evicted += usize::from(evicts);
        if evicts && self.evicted > self.slots.len() && self.slots.len() < SLOTS_MAX {
            self.grow();
        }
        let at = hash as usize & (self.slots.len() - 1);
        let slot = &mut self.slots[at];
        slot.hash = hash;
        slot.key.clear();
        slot.key.push(exchange.len() as u8);
        slot.key.extend_from_slice(exchange);
        slot.key.extend_from_slice(routing_key);
        slot
    }

    fn grow(&mut self) {
        self.evicted = 0;
        let mut slots = Vec::new();
        slots.resize_with(self.slots.len() * 2, Slot::default);
        for slot in self.slots.drain(..) {
            let at = slot.hash as usize & (slots.len() - 1);
            slots[at] = slot;
        }
        self.slots = slots;
    }
}

impl Slot {
    #[inline]
    fn is_for(&self, hash: u64, exchange: &[u8], routing_key: &[u8]) -> bool {
        let Some((&len, names)) = self.key.split_first() else {
            return false;
        };
        self.hash == hash
            && usize::from(len) == exchange.len()
            && names.len() == exchange.len() + routing_key.len()
            && names[..exchange.len()] == *exchange
            && names[exchange.len()..] == *routing_key
    }

    /// Whether the entry still tells the way; then it is good for this serial without a look-up.
    #[inline]
    fn holds(&mut self, vhost: &Vhost, exchange: &[u8]) -> bool {
        if self.serial == vhost.serial() {
            return true;
        }
        let unchanged = |name: &[u8], generation: u64| {
            let exchange = vhost.exchange(name);
            exchange.is_some_and(|exchange| exchange.generation() == generation)
        };
        let further = &self.further;
        let holds = unchanged(exchange, self.generation)
            && further
                .iter()
                .all(|(name, generation)| unchanged(name, *generation));
        if holds {
            self.serial = vhost.serial();
        }
        holds
    }

    fn fill(&mut self, vhost: &Vhost, walk: &Walk<'_>, destinations: &[Destination]) {
        self.serial = vhost.serial();
        self.generation = walk.walked[0].generation();
        self.further.clear();
        let named = |exchange: &&Exchange| (exchange.name.clone(), exchange.generation());
        self.further.extend(walk.walked[1..].iter().map(named));
        self.destinations.clear();
        self.destinations.extend_from_slice(destinations);
    }
}

#[inline]
fn hash(exchange: &[u8], routing_key: &[u8]) -> u64 {
    let mut hasher = SEED.build_hasher();
    hasher.write(exchange);
    hasher.write_u8(exchange.len() as u8);
    hasher.write(routing_key);
    hasher.finish()
}
