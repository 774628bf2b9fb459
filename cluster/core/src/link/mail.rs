//! What a lane's step has for other nodes, and what of it waits for company.
//!
//! Always holds:
//! - parcels of one class to one node leave in the order in which they were added, also those that
//!   wait for a beat: what is newer takes them along;
//! - no envelope is larger than [`ENVELOPE_BYTES_MAX`], but for one that holds a single larger
//!   parcel.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};

use super::{Class, ENVELOPE_BYTES_MAX, PATIENT, Parcel, VERSION};
use crate::ids::{NodeId, ShardId};
use crate::parts::Parts;

/// Room that an envelope begins with, and that is kept for what waits for a beat.
const OPEN_BYTES: usize = 1 << 10;
const WAITING_BYTES_KEPT: usize = 4 << 10;

/// An envelope on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    pub to: NodeId,
    pub class: Class,
    /// In order; what is large is by reference.
    pub parts: Vec<Bytes>,
}

/// What leaves at the end of a lane's step beside what is in a hurry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Beat {
    #[default]
    None,
    /// To each node that anything waits for which counts on this beat: all that waits.
    Some,
    All,
}

/// What waits for a beat.
#[derive(Debug, Default)]
struct Waiting {
    parts: Parts,
    /// Whether any of it counts on the next one.
    counts: bool,
}

impl Waiting {
    /// Goes out with `parts`; keeps room for the next beat's, and not for what is rare.
    fn leave(&mut self, parts: &mut Parts) {
        parts.append(&mut self.parts);
        self.counts = false;
        if self.parts.room() > WAITING_BYTES_KEPT {
            self.parts = Parts::default();
        }
    }
}

/// What a step of a lane has for other nodes, gathered by node and class.
#[derive(Debug, Default)]
pub struct Mail {
    open: BTreeMap<(NodeId, Class), Parts>,
    /// What goes along with the next envelope on the control link, at the next beat at the latest.
    waiting: BTreeMap<NodeId, Waiting>,
    full: Vec<Envelope>,
    /// Empty between parcels.
    body: Parts,
}

impl Mail {
    /// Adds a parcel.
    pub fn send(&mut self, to: NodeId, shard: ShardId, parcel: &Parcel) {
        let mut body = std::mem::take(&mut self.body);
        self.add(to, parcel.class(), |parts| {
            parcel.encode(shard, &mut body, parts);
        });
        self.body = body;
    }

    fn add(&mut self, to: NodeId, class: Class, put: impl FnOnce(&mut Parts)) {
        let parts = self.open.entry((to, class)).or_default();
        if parts.is_empty() {
            parts.open().reserve(OPEN_BYTES);
            parts.open().put_u8(VERSION);
            // What waited is older than what it goes along with.
            if class == Class::Control
                && let Some(waiting) = self.waiting.get_mut(&to)
            {
                waiting.leave(parts);
            }
        }
        put(parts);
        if parts.len() >= ENVELOPE_BYTES_MAX / 2 {
            let parts = parts.take();
            self.full.push(Envelope { to, class, parts });
        }
    }

    /// Adds a parcel that nobody waits for: a write for it alone would cost more than it is worth.
    /// It is small.
    pub fn send_with_beat(&mut self, to: NodeId, shard: ShardId, parcel: &Parcel) {
        self.wait(to, shard, parcel, true);
    }

    /// Adds one that even waits for a beat of all: it is about what is idle.
    pub fn send_with_idle_beat(&mut self, to: NodeId, shard: ShardId, parcel: &Parcel) {
        self.wait(to, shard, parcel, false);
    }

    fn wait(&mut self, to: NodeId, shard: ShardId, parcel: &Parcel, counts: bool) {
        debug_assert_eq!(parcel.class(), Class::Control);
        let open = self.open.get(&(to, Class::Control));
        if open.is_some_and(|parts| !parts.is_empty()) {
            self.send(to, shard, parcel);
            return;
        }
        let waiting = self.waiting.entry(to).or_default();
        waiting.counts |= counts;
        parcel.encode(shard, &mut self.body, &mut waiting.parts);
        // It goes along with less than half of an envelope.
        if waiting.parts.len() >= ENVELOPE_BYTES_MAX / 4 {
            let mut waiting = std::mem::take(waiting);
            self.add(to, Class::Control, |parts| waiting.leave(parts));
        }
    }

    /// All envelopes; leaves nothing but what waits for a beat that this is not.
    pub fn take(&mut self, beat: Beat, out: &mut Vec<Envelope>) {
        if beat == Beat::All {
            // Nobody has anything for a node that is gone: no room is kept for that.
            self.waiting.retain(|_, waiting| !waiting.parts.is_empty());
            self.open.retain(|_, parts| !parts.is_empty());
        }
        if beat != Beat::None {
            for (to, waiting) in &mut self.waiting {
                if waiting.parts.is_empty() || !(waiting.counts || beat == Beat::All) {
                    continue;
                }
                // Nothing is open there: it would have taken along what waits.
                let parts = self.open.entry((*to, Class::Control)).or_default();
                let wanted = waiting.parts.len() + 1;
                parts.open().reserve(OPEN_BYTES.max(wanted));
                parts.open().put_u8(VERSION | PATIENT);
                waiting.leave(parts);
            }
        }
        out.append(&mut self.full);
        for (&(to, class), parts) in &mut self.open {
            if parts.is_empty() {
                continue;
            }
            let parts = parts.take();
            out.push(Envelope { to, class, parts });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{joined, propose};
    use super::super::{is_patient, open};
    use super::*;
    use crate::ids::Term;

    #[test]
    fn what_can_wait_goes_along_or_with_the_beat() {
        let node = |id| Parcel::Leader {
            node: NodeId(id),
            term: Term(1),
        };
        let shard = ShardId(1);
        let mut mail = Mail::default();
        let take = |mail: &mut Mail, beat| {
            let mut envelopes = Vec::new();
            mail.take(beat, &mut envelopes);
            let read = |it: &Envelope| (it.to, open(&joined(it)).expect("whole"));
            envelopes.iter().map(read).collect::<Vec<_>>()
        };
        mail.send_with_beat(NodeId(2), shard, &node(1));
        mail.send_with_beat(NodeId(3), shard, &node(2));
        mail.send(NodeId(2), shard, &propose(Bytes::from_static(b"data")));
        let data = propose(Bytes::from_static(b"data"));
        assert_eq!(
            take(&mut mail, Beat::None),
            [(NodeId(2), vec![(shard, data)])],
            "on the other link"
        );
        mail.send(NodeId(2), shard, &node(3));
        // An older word after a newer one would be taken for the last.
        mail.send_with_beat(NodeId(2), shard, &node(7));
        mail.send(NodeId(2), shard, &node(8));
        let all = [1, 3, 7, 8].map(|id| (shard, node(id))).to_vec();
        assert_eq!(take(&mut mail, Beat::None), [(NodeId(2), all)]);
        assert_eq!(take(&mut mail, Beat::None), []);
        let one = vec![(shard, node(2))];
        assert_eq!(take(&mut mail, Beat::Some), [(NodeId(3), one)]);
        assert_eq!(take(&mut mail, Beat::Some), []);
        // What is about something idle waits longer, or goes along.
        mail.send_with_idle_beat(NodeId(2), shard, &node(4));
        mail.send_with_idle_beat(NodeId(3), shard, &node(5));
        mail.send_with_beat(NodeId(3), shard, &node(6));
        let both = vec![(shard, node(5)), (shard, node(6))];
        assert_eq!(take(&mut mail, Beat::Some), [(NodeId(3), both)]);
        assert_eq!(take(&mut mail, Beat::Some), []);
        let one = vec![(shard, node(4))];
        assert_eq!(take(&mut mail, Beat::All), [(NodeId(2), one)]);
        assert_eq!(take(&mut mail, Beat::All), []);
        assert!(
            mail.waiting.is_empty() && mail.open.is_empty(),
            "nothing is kept for who is told nothing"
        );
        // Only what waited for the beat is patient.
        let mut patience = |waits: bool, hurries: bool| {
            if waits {
                mail.send_with_beat(NodeId(2), shard, &node(1));
            }
            if hurries {
                mail.send(NodeId(2), shard, &node(3));
            }
            let mut envelopes = Vec::new();
            mail.take(Beat::Some, &mut envelopes);
            is_patient(&joined(&envelopes[0]))
        };
        assert!(patience(true, false));
        assert!(!patience(true, true) && !patience(false, true));
        // However many wait.
        let beats = ENVELOPE_BYTES_MAX / 20;
        (0..beats).for_each(|_| mail.send_with_beat(NodeId(2), shard, &node(1)));
        let mut envelopes = Vec::new();
        mail.take(Beat::Some, &mut envelopes);
        let small = |it: &Envelope| joined(it).len() <= ENVELOPE_BYTES_MAX;
        assert!(envelopes.len() > 1 && envelopes.iter().all(small));
    }

    #[test]
    fn envelopes_stay_small() {
        let mut mail = Mail::default();
        let entry = Bytes::from(vec![1; 300 << 10]);
        for _ in 0..9 {
            mail.send(NodeId(2), ShardId(1), &propose(entry.clone()));
        }
        let mut envelopes = Vec::new();
        mail.take(Beat::None, &mut envelopes);
        assert!(envelopes.len() > 3);
        for envelope in envelopes {
            assert!(joined(&envelope).len() <= ENVELOPE_BYTES_MAX);
        }
    }
}
