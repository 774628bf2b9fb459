//! Disks that hang or are full, this node's and others' (rule 6), and clocks that are wrong.
//!
//! Always holds:
//! - a lane whose oldest write has not come back for `STALLED_MICROS`, or whose clock on the wall
//!   is off the others' (rule 12), leads nothing that somebody else could lead, for as long as that
//!   lasts;
//! - a leader takes no publishes while the disk of one of its shard's voters has no room, as far
//!   as it was told: settles, votes and claims still find room there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Lane, queue_at};
use crate::consensus::Members;
use crate::ids::{Instant, NodeId, ShardId};
use crate::link::{Mail, Parcel};
use crate::machine::Machine;

/// A write or sync that takes longer than this means a disk that hangs.
const STALLED_MICROS: u64 = 500_000;
/// How often others are told whether there is room, though nothing has changed: word may be lost.
const TELL_MILLIS: u64 = 1_000;

/// What is known of room on disks.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Nodes that have said that they have none.
    full: BTreeSet<NodeId>,
    /// Bytes that the others have for publishes.
    bytes: BTreeMap<NodeId, u64>,
    /// What others were told last, and when they are told again.
    told: Option<bool>,
    again_at: Instant,
}

impl Room {
    /// Another node's word.
    pub(super) fn heard(&mut self, from: NodeId, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            self.full.remove(&from);
            self.bytes.insert(from, bytes);
        } else {
            self.full.insert(from);
        }
    }

    /// There is no way to the node: what it said last is old.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.full.remove(&node);
        self.bytes.remove(&node);
    }

    /// The next tick tells everybody.
    pub(super) fn tell_again(&mut self) {
        self.told = None;
    }

    /// Whether all voters have room, and this much for themselves.
    fn is_with(&self, members: &Members, bytes: u64) -> bool {
        let mut voters = members.voters.iter().chain(&members.outgoing);
        voters.all(|voter| {
            let node = voter.node();
            let known = self.bytes.get(&node).copied().unwrap_or(u64::MAX);
            !self.full.contains(&node) && known >= bytes
        })
    }

    /// Tells `nodes` how much room this one has.
    fn tell(
        &mut self,
        bytes: Option<u64>,
        nodes: &BTreeSet<NodeId>,
        now: Instant,
        mail: &mut Mail,
    ) {
        let has_room = bytes.is_some();
        if self.told == Some(has_room) && now < self.again_at {
            return;
        }
        let news = self.told != Some(has_room);
        self.told = Some(has_room);
        self.again_at = now.plus_millis(TELL_MILLIS);
        for node in nodes {
            let parcel = Parcel::Room { bytes };
            if news {
                mail.send(*node, ShardId::DEFINITIONS, &parcel);
            } else {
                mail.send_with_idle_beat(*node, ShardId::DEFINITIONS, &parcel);
            }
        }
    }
}

impl<M: Machine, T: Copy> Lane<M, T> {
    /// Whether a shard's voters have room on their disks for a batch of so many bytes; where
    /// another node leads, that one looks.
    pub(super) fn voters_have_room(&self, shard: ShardId, bytes: usize) -> bool {
        let wanted = self.store.log.room_wanted(bytes);
        if (self.room.full.is_empty() && wanted == 0) || shard.is_unlogged() {
            return true;
        }
        let Some(at) = queue_at(shard, &self.options) else {
            return true;
        };
        let consensus = self.queues[at].consensus();
        consensus.leads().is_none() || self.room.is_with(consensus.members(), wanted)
    }

    /// By how many milliseconds this node's clock on the wall is ahead of the median of those that
    /// it knows, if that is too many for it to lead.
    #[must_use]
    pub fn clock_off_millis(&self) -> Option<i64> {
        self.clock.off()
    }

    /// Whether this node is to lead nothing: its disk hangs, or its clock is off.
    pub(super) fn is_unfit(&self, now: Instant) -> bool {
        self.store.log.sync_age(now) > STALLED_MICROS || self.clock.off().is_some()
    }

    /// Tells other nodes of a full disk.
    pub(super) fn tell_of_room(&mut self, now: Instant) {
        let room = self.store.log.room_for_publishes();
        let mail = &mut self.store.mail;
        self.room.tell(room, &self.nodes, now, mail);
    }
}
