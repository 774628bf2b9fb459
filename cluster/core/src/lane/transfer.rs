//! The sender's side of rebuilding a peer's replica: a checkpoint of one index, then the bodies
//! that it refers to, as the receiver asks for them.
//!
//! Always holds:
//! - while a transfer runs, its checkpoint stays and this replica keeps every entry above it;
//! - one transfer a shard at a time; one that nobody asks anything of ends.

use bytes::Bytes;

use super::{Lane, queue_at, rows_at};
use crate::consensus::SnapshotOf;
use crate::ids::{Index, Instant, NodeId, ReplicaId, SegmentId, ShardId};
use crate::link::{About, BodyOf, Parcel, Transfer};
use crate::machine::{Bodies, LiveRef, Machine};
use crate::replica::Replica;

/// A transfer without a word of its receiver ends after this.
const SILENCE_MILLIS_MAX: u64 = 5_000;
/// An offer that nothing came of is made again after this.
const OFFER_AGAIN_MILLIS: u64 = 500;
/// Bytes of the checkpoint's file in one piece.
pub(super) const CHUNK_BYTES: u32 = 256 << 10;
/// Bodies that are looked up for one request.
const BODIES_MAX: usize = 4096;

/// A transfer under way.
pub(super) struct Sending {
    pub(super) to: ReplicaId,
    /// The checkpoint's entry; `None` while one is being written.
    index: Option<Index>,
    /// When the receiver was last heard, and when it was last told of the checkpoint.
    heard: Instant,
    offered: Instant,
    /// The receiver has the state; what is above it is kept until it has that too.
    installed: bool,
    request: Option<Request>,
}

/// Bodies that were asked for, and those that were found so far.
struct Request {
    wanted: Vec<BodyOf>,
    found: Vec<Option<Bytes>>,
}

impl<M: Machine, T: Copy> Lane<M, T> {
    /// Goes on with what is under way.
    pub(super) fn send_transfers(&mut self, now: Instant) {
        let running: Vec<ShardId> = self.sending.keys().copied().collect();
        for shard in running {
            self.go_on_sending(shard, now);
        }
    }

    /// When a transfer wants a step though nothing happens.
    pub(super) fn transfer_deadline(&self) -> Option<Instant> {
        let offers = self.sending.values().map(|it| it.offered);
        offers.min().map(|at| at.plus_millis(OFFER_AGAIN_MILLIS))
    }

    /// Takes up what the shard's consensus wants a snapshot for.
    pub(super) fn begin_transfer(&mut self, shard: ShardId, now: Instant) {
        if shard.is_unlogged() || self.sending.contains_key(&shard) {
            return;
        }
        let Some(consensus) = self.consensus(shard) else {
            return;
        };
        let first = consensus.first_kept();
        let mut wants = consensus.take_snapshot_wants().into_iter();
        // One that has caught up meanwhile would not answer.
        let lacks = |to: &ReplicaId| consensus.matched(*to).is_some_and(|it| it.0 + 1 < first.0);
        let Some(to) = wants.find(lacks) else {
            return;
        };
        consensus.pin(Index(first.0 - 1));
        self.store.log.hold_checkpoint(shard);
        self.sending.insert(
            shard,
            Sending {
                to,
                index: None,
                heard: now,
                offered: Instant(0),
                installed: false,
                request: None,
            },
        );
    }

    fn go_on_sending(&mut self, shard: ShardId, now: Instant) {
        self.check_installed(shard);
        let durable = self.store.log.durable_checkpoint(shard);
        let Some(consensus) = self.consensus(shard) else {
            return;
        };
        let (leads, first) = (consensus.leads().is_some(), consensus.first_kept());
        let members_at = consensus.members_at();
        let Some(sending) = self.sending.get_mut(&shard) else {
            return;
        };
        let silent = sending.heard.plus_millis(SILENCE_MILLIS_MAX) <= now;
        if !leads || silent {
            self.end_transfer(shard);
            return;
        }
        if sending.index.is_some_and(|index| index < members_at) {
            // The receiver may be no member as of that entry: then it does not take it.
            (sending.index, sending.installed) = (None, false);
            sending.request = None;
        }
        if sending.index.is_none() {
            // One from which on entries can be sent, and that has the receiver as a member.
            let good = durable
                .filter(|durable| durable.index.0 + 1 >= first.0 && durable.index >= members_at);
            match good {
                Some(durable) => {
                    sending.index = Some(durable.index);
                    sending.heard = now;
                }
                None => {
                    sending.heard = now;
                    sending.offered = now;
                    self.store.log.request_checkpoint(shard);
                    return;
                }
            }
        }
        if let Some(durable) = durable
            && !sending.installed
            && sending.index != Some(durable.index)
        {
            // One that was under way when the transfer began took its place.
            sending.index = Some(durable.index);
            sending.request = None;
            sending.offered = Instant(0);
        }
        let due = sending.offered.plus_millis(OFFER_AGAIN_MILLIS) <= now;
        if let (Some(index), Some(durable)) = (sending.index, durable)
            && due
        {
            sending.offered = now;
            let offer = About::Offer {
                bytes: durable.bytes,
            };
            let to = sending.to;
            self.tell_receiver(shard, to, index, offer);
            if let Some(consensus) = self.consensus(shard) {
                consensus.pin(index);
            }
        }
        self.check_installed(shard);
        self.answer_bodies(shard);
    }

    fn check_installed(&mut self, shard: ShardId) {
        let Some(Sending {
            to,
            index,
            installed: true,
            ..
        }) = self.sending.get(&shard)
        else {
            return;
        };
        let (to, index) = (*to, *index);
        let matched = self.consensus(shard).and_then(|it| it.matched(to));
        if matched >= index {
            self.end_transfer(shard);
        }
    }

    fn end_transfer(&mut self, shard: ShardId) {
        self.sending.remove(&shard);
        self.store.log.release_checkpoint(shard);
        if let Some(consensus) = self.consensus(shard) {
            consensus.unpin();
        }
    }

    fn tell_receiver(&mut self, shard: ShardId, replica: ReplicaId, index: Index, about: About) {
        let durable = self.store.log.durable_checkpoint(shard);
        let transfer = Transfer {
            replica,
            index,
            number: durable.map_or(0, |durable| durable.number),
            about,
        };
        let parcel = Parcel::Transfer(transfer);
        self.store.mail.send(replica.node(), shard, &parcel);
    }

    /// What a receiver says to the sender.
    pub(super) fn asked(&mut self, from: NodeId, shard: ShardId, transfer: Transfer, now: Instant) {
        let Transfer {
            replica,
            index,
            number,
            about,
        } = transfer;
        if replica.node() != from {
            return;
        }
        if let About::Installed { term, members } = about {
            let of = SnapshotOf {
                index,
                term,
                members,
            };
            if let Some(consensus) = self.consensus(shard) {
                consensus.offer_snapshot(replica, of);
            }
            if let Some(sending) = self.sending.get_mut(&shard).filter(|it| it.to == replica) {
                sending.heard = now;
                sending.installed = true;
                sending.index = Some(index);
            }
            return;
        }
        let Some(sending) = self.sending.get_mut(&shard) else {
            return;
        };
        if sending.to != replica || sending.index != Some(index) {
            return;
        }
        sending.heard = now;
        sending.offered = now;
        let durable = self.store.log.durable_checkpoint(shard);
        let same = durable.is_some_and(|durable| durable.number == number);
        match about {
            // Of another one than before: it is offered anew.
            About::Pull { .. } if !same => sending.offered = Instant(0),
            About::Pull { offset } => {
                self.store.log.read_checkpoint(shard, offset, CHUNK_BYTES);
            }
            About::PullBodies(mut wanted) => {
                wanted.truncate(BODIES_MAX);
                let found = Vec::new();
                sending.request = Some(Request { wanted, found });
                self.answer_bodies(shard);
            }
            _ => {}
        }
    }

    /// A piece of the checkpoint was read.
    pub(super) fn checkpoint_read(&mut self, shard: ShardId, offset: u64, bytes: Bytes) {
        if let Some(Sending {
            to,
            index: Some(index),
            ..
        }) = self.sending.get(&shard)
        {
            let (to, index) = (*to, *index);
            self.tell_receiver(shard, to, index, About::Chunk { offset, bytes });
        }
    }

    /// Bodies of the shard are in memory that were not: looks for those that are asked for again.
    pub(super) fn answer_bodies(&mut self, shard: ShardId) {
        let Some(sending) = self.sending.get_mut(&shard) else {
            return;
        };
        let (Some(index), Some(mut request)) = (sending.index, sending.request.take()) else {
            return;
        };
        let to = sending.to;
        let Some(at) = queue_at(shard, &self.options) else {
            return;
        };
        let machine = self.queues[at].machine();
        let mut view = self.store.log.bodies(shard);
        if request.find(machine, &mut view) {
            if let Some(first) = request.wanted.first().copied() {
                let bodies = request.found;
                self.tell_receiver(shard, to, index, About::Bodies { first, bodies });
            }
        } else if let Some(sending) = self.sending.get_mut(&shard) {
            sending.request = Some(request);
        }
    }

    /// The consensus of a shard's replica.
    pub(super) fn consensus(&mut self, shard: ShardId) -> Option<&mut crate::consensus::Consensus> {
        if let Some(at) = rows_at(shard) {
            return Some(self.rows[at].consensus_mut());
        }
        let at = queue_at(shard, &self.options)?;
        Some(Replica::consensus_mut(&mut self.queues[at]))
    }
}

impl Request {
    /// Looks for bodies from where it stopped; true when all were found (or are gone).
    fn find<M: Machine>(&mut self, machine: &M, bodies: &mut dyn Bodies) -> bool {
        let mut live = Vec::new();
        while let Some(wanted) = self.wanted.get(self.found.len()) {
            live.clear();
            machine.live(wanted.key, wanted.id..=wanted.id, &mut live);
            let found = match live.first() {
                // It was settled since the checkpoint: what comes after it says so.
                None => None,
                // The same, before this process: the entry is in the log, and not known to be
                // committed any more. Who waited for the body here would wait for ever.
                Some(LiveRef { place, .. }) if place.segment == SegmentId::NOWHERE => None,
                Some(LiveRef { place, len, .. }) => {
                    let Some(bytes) = bodies.get(*place, *len) else {
                        bodies.want(wanted.key, *place, *len);
                        return false;
                    };
                    Some(bytes)
                }
            };
            self.found.push(found);
        }
        true
    }
}
