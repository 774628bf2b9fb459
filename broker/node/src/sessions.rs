//! The mailboxes of this node's sessions: lanes put events in, connection tasks take them out.
//!
//! - An event for a session that is gone is dropped.
//! - A task is woken once for however many events a lane's step left it, and not at all while
//!   it is running: it looks again before it sleeps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::Waker;

use warren_broker_core::dispatch::work::ReplyAddress;
use warren_broker_core::ids::SessionId;
use warren_broker_core::session::event::Event;
use warren_cluster_core::ids::NodeId;

/// What waits for one session.
#[derive(Default)]
pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    events: Vec<Event>,
    /// Set while the task is not running; whoever adds an event takes and wakes it.
    sleeper: Option<Waker>,
    /// The reply consumers of this session, by channel.
    replies: Vec<(u16, u64)>,
}

/// Locks that are never held across a panic's path can be taken over when poisoned: what they
/// guard is changed in single steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailbox {
    /// Adds events and wakes the session's task if it sleeps.
    pub(crate) fn put(&self, events: impl IntoIterator<Item = Event>) {
        let sleeper = {
            let mut inner = lock(&self.inner);
            inner.events.extend(events);
            inner.sleeper.take()
        };
        if let Some(waker) = sleeper {
            waker.wake();
        }
    }

    /// Moves all that waits into `into`, which must be empty.
    pub(crate) fn take(&self, into: &mut Vec<Event>) {
        std::mem::swap(&mut lock(&self.inner).events, into);
    }

    /// Goes to sleep unless something waits; true when the task may sleep.
    pub(crate) fn sleep(&self, waker: &Waker) -> bool {
        let mut inner = lock(&self.inner);
        if !inner.events.is_empty() {
            return false;
        }
        match &mut inner.sleeper {
            Some(present) => present.clone_from(waker),
            empty => *empty = Some(waker.clone()),
        }
        true
    }

    /// The task runs again: nobody needs to wake it.
    pub(crate) fn awake(&self) {
        lock(&self.inner).sleeper = None;
    }

    /// The session's reply consumers, as (channel, nonce).
    pub(crate) fn set_replies(&self, replies: Vec<(u16, u64)>) {
        lock(&self.inner).replies = replies;
    }
}

/// Bits of a session's id that are its slot, and of those that count the slot's uses.
const INDEX_BITS: u32 = 24;
const USES_MAX: u32 = (1 << 24) - 1;

fn parts(id: SessionId) -> (u32, u32) {
    let index = id.0 as u32 & ((1 << INDEX_BITS) - 1);
    ((id.0 >> INDEX_BITS) as u32 & USES_MAX, index)
}

/// All sessions of this node. A session's id is its node, its slot and a count of how often the
/// slot was used, so that an id never comes back.
pub(crate) struct Sessions {
    slots: RwLock<Slots>,
}

#[derive(Default)]
struct Slots {
    entries: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Slot {
    uses: u32,
    mailbox: Option<Arc<Mailbox>>,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self {
            slots: RwLock::new(Slots::default()),
        }
    }

    /// A new session's id and mailbox.
    pub(crate) fn open(&self, node: NodeId) -> (SessionId, Arc<Mailbox>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.entries.push(Slot::default());
            (slots.entries.len() - 1) as u32
        });
        let slot = &mut slots.entries[index as usize];
        slot.uses += 1;
        let mailbox = Arc::new(Mailbox::default());
        slot.mailbox = Some(Arc::clone(&mailbox));
        let number = u64::from(slot.uses) << INDEX_BITS | u64::from(index);
        (SessionId::new(node, number), mailbox)
    }

    /// Forgets a session; what comes for it from now on is dropped.
    pub(crate) fn close(&self, id: SessionId) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let (uses, index) = parts(id);
        let Some(slot) = slots.entries.get_mut(index as usize) else {
            return;
        };
        // A slot that was used as often as an id can tell is not used again.
        if slot.uses == uses && slot.mailbox.take().is_some() && uses < USES_MAX {
            slots.free.push(index);
        }
    }

    /// The mailbox of a session that is still there.
    pub(crate) fn find(&self, id: SessionId) -> Option<Arc<Mailbox>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let (uses, index) = parts(id);
        let slot = slots.entries.get(index as usize)?;
        if slot.uses != uses {
            return None;
        }
        slot.mailbox.clone()
    }

    /// Puts events that stand in runs by session, with one wake-up a run.
    pub(crate) fn put(&self, id: SessionId, events: impl IntoIterator<Item = Event>) {
        if let Some(mailbox) = self.find(id) {
            mailbox.put(events);
        }
    }

    /// Tells every session.
    pub(crate) fn put_all(&self, event: &Event) {
        let all: Vec<_> = {
            let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            slots
                .entries
                .iter()
                .filter_map(|slot| slot.mailbox.clone())
                .collect()
        };
        for mailbox in all {
            mailbox.put([event.clone()]);
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let open = |slot: &&Slot| slot.mailbox.is_some();
        slots.entries.iter().filter(open).count()
    }

    /// Whether a reply consumer is still there.
    pub(crate) fn replies_to(&self, address: ReplyAddress) -> bool {
        self.find(address.session).is_some_and(|mailbox| {
            lock(&mailbox.inner)
                .replies
                .contains(&(address.channel, address.nonce))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_comes_back() {
        let sessions = Sessions::new();
        let (first, _) = sessions.open(NodeId(3));
        sessions.close(first);
        sessions.close(first);
        let (second, _) = sessions.open(NodeId(3));
        assert_ne!(first, second);
        assert!(sessions.find(first).is_none());
        assert!(sessions.find(second).is_some());
        assert_eq!(sessions.count(), 1);
    }

    #[test]
    fn a_sleeper_is_woken_once_and_only_when_it_sleeps() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mailbox = Mailbox::default();
        assert!(mailbox.sleep(&waker));
        mailbox.put([Event::Blocked(None)]);
        mailbox.put([Event::Blocked(None)]);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(!mailbox.sleep(&waker), "something waits");
        let mut events = Vec::new();
        mailbox.take(&mut events);
        assert_eq!(events.len(), 2);
        assert!(mailbox.sleep(&waker));
        mailbox.awake();
        mailbox.put([Event::Blocked(None)]);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
