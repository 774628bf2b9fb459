//! The receiver's side of rebuilding a replica: takes a peer's checkpoint apart, fetches the
//! bodies that it refers to into its own log, and takes the place of what was here.
//!
//! Always holds:
//! - nothing of it counts before a checkpoint of this node's own is on disk; then the leader is
//!   told, and not earlier;
//! - until then the log keeps what the state before referred to: the next start may need it;
//! - one replica of a lane is rebuilt at a time; what is on its way is bounded by one request.

use bytes::{Buf, Bytes, BytesMut};

use super::background::HEAD_PART;
use super::{Lane, queue_at, rows_at};
use crate::batch::Outcome;
use crate::checkpoint::{MACHINE_PART, Reader, Step};
use crate::consensus::Members;
use crate::ids::{Index, Instant, NodeId, Now, Place, ReplicaId, SegmentId, ShardId, Term};
use crate::inbox::Outputs;
use crate::link::{About, BodyOf, Parcel, Transfer};
use crate::log::{Log, Position};
use crate::machine::{Bodies, Machine, Malformed};
use crate::replica::{Head, Replica, State};
use crate::rows::{Change, Rows};

/// What had no answer is asked for again after this.
const ASK_AGAIN_MILLIS: u64 = 1_000;
/// Without an answer for so long it is given up.
const SILENCE_MILLIS_MAX: u64 = 10_000;
/// Bodies asked for at once, and their bytes, about.
const BODIES_MAX: usize = 1024;
const BODY_BYTES_MAX: u64 = 512 << 10;
/// Bodies that wait for the disk before more are asked for, in bytes.
const PENDING_BYTES_MAX: u64 = 4 << 20;

/// A replica that is being rebuilt.
pub(super) struct Install<M> {
    shard: ShardId,
    from: NodeId,
    replica: ReplicaId,
    index: Index,
    number: u64,
    /// [`Log::adopted_losses`] when it began.
    losses: u64,
    state: State<M>,
    head: Option<Head>,
    phase: Phase,
    asked: Instant,
    heard: Instant,
    /// What was asked for is on its way.
    waits: bool,
    rate: Rate,
}

enum Phase {
    Checkpoint {
        reader: Box<Reader>,
        rest: BytesMut,
        bytes: u64,
    },
    Bodies(Missing),
    /// All is here and must come to the disk.
    Syncing(Position),
    /// The replica has it; its checkpoint is being written. What the state before referred to.
    Saving {
        begun: bool,
        before: Missing,
    },
}

/// Bodies that are still to be fetched, and where the sender had them.
#[derive(Default)]
pub(super) struct Missing {
    refs: Vec<(BodyOf, Place)>,
    next: usize,
}

/// Which of the two kinds of machines is being rebuilt.
pub(super) enum Installing<M> {
    Queues(Install<M>),
    Rows(Install<Rows>),
}

/// Bytes a second that may come in.
struct Rate {
    bytes_per_second: u64,
    free_at: Instant,
}

impl Rate {
    fn spend(&mut self, bytes: u64, now: Instant) {
        let micros = bytes * 1_000_000 / self.bytes_per_second.max(1);
        self.free_at = Instant(self.free_at.max(now).0 + micros);
    }
}

/// Collects what a machine refers to instead of retaining it.
impl Bodies for Missing {
    fn get(&mut self, _place: Place, _len: u32) -> Option<Bytes> {
        None
    }

    fn want(&mut self, _key: u64, _place: Place, _len: u32) {}

    fn retain(&mut self, key: u64, id: u64, place: Place, len: u32) {
        self.refs.push((BodyOf { key, id, len }, place));
    }

    fn release(&mut self, _place: Place, _len: u32) {}
}

/// The log for a machine whose references are to another node's log until they are changed.
struct Adopting<'a> {
    log: &'a mut Log,
    shard: ShardId,
}

impl Bodies for Adopting<'_> {
    fn get(&mut self, _place: Place, _len: u32) -> Option<Bytes> {
        None
    }

    fn want(&mut self, _key: u64, _place: Place, _len: u32) {}

    fn retain(&mut self, key: u64, id: u64, place: Place, len: u32) {
        self.log.bodies(self.shard).retain(key, id, place, len);
    }

    fn release(&mut self, _place: Place, _len: u32) {}
}

impl<M: Machine> Install<M> {
    fn new(offer: &Offered, state: State<M>, bytes_per_second: u64, log: &Log) -> Self {
        Self {
            losses: log.adopted_losses(),
            shard: offer.shard,
            from: offer.from,
            replica: offer.replica,
            index: offer.index,
            number: offer.number,
            state,
            head: None,
            phase: Phase::Checkpoint {
                reader: Box::new(Reader::new(offer.number)),
                rest: BytesMut::new(),
                bytes: offer.bytes,
            },
            asked: Instant(0),
            heard: offer.now,
            waits: false,
            rate: Rate {
                bytes_per_second,
                free_at: Instant(0),
            },
        }
    }

    fn take(&mut self, about: About, log: &mut Log, now: Instant) -> Result<(), Malformed> {
        match about {
            About::Chunk { offset, bytes } => self.take_chunk(offset, &bytes, now),
            About::Bodies { first, bodies } => {
                self.take_bodies(first, bodies, log, now);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_chunk(&mut self, at: u64, bytes: &Bytes, now: Instant) -> Result<(), Malformed> {
        let Phase::Checkpoint { reader, rest, .. } = &mut self.phase else {
            return Ok(());
        };
        if reader.offset() + rest.len() as u64 != at || bytes.is_empty() {
            return Ok(());
        }
        self.heard = now;
        self.waits = false;
        self.rate.spend(bytes.len() as u64, now);
        rest.extend_from_slice(bytes);
        loop {
            let before = reader.offset();
            let step = reader
                .step(&rest[..])
                .map_err(|_| unlike("it is damaged"))?;
            match step {
                Step::Need(_) => return Ok(()),
                Step::Header(header) => {
                    if (header.shard, header.index) != (self.shard, self.index) {
                        return Err(unlike("it is of another shard or entry"));
                    }
                }
                Step::Part { kind, bytes } if kind == HEAD_PART => {
                    let head = Head::decode(bytes)?;
                    if (head.shard, head.applied.0) != (self.shard, self.index) {
                        return Err(unlike("its head is of another shard or entry"));
                    }
                    self.head = Some(head);
                }
                Step::Part { kind, bytes } if kind == MACHINE_PART => {
                    self.state.machine_mut().restore(bytes)?;
                }
                Step::Part { .. } => return Err(unlike("it has a part of unknown kind")),
                Step::End => return self.whole(),
            }
            rest.advance((reader.offset() - before) as usize);
        }
    }

    /// The checkpoint is here: what does it refer to?
    fn whole(&mut self) -> Result<(), Malformed> {
        let head = self.head.clone().ok_or_else(|| unlike("it has no head"))?;
        self.state.restore(head);
        let mut missing = Missing::default();
        self.state.machine_mut().restored()?;
        self.state.machine().retain_all(&mut missing);
        self.phase = Phase::Bodies(missing);
        Ok(())
    }

    fn take_bodies(
        &mut self,
        first: BodyOf,
        bodies: Vec<Option<Bytes>>,
        log: &mut Log,
        now: Instant,
    ) {
        let Phase::Bodies(missing) = &mut self.phase else {
            return;
        };
        let wanted = missing.refs.get(missing.next).map(|(body, _)| *body);
        if wanted != Some(first) {
            return;
        }
        self.heard = now;
        self.waits = false;
        for bytes in bodies {
            let Some((body, from)) = missing.refs.get(missing.next).copied() else {
                return;
            };
            let to = match bytes {
                Some(bytes) if bytes.len() != body.len as usize => return,
                Some(bytes) => {
                    self.rate.spend(u64::from(body.len), now);
                    log.adopt(self.shard, body.key, body.id, &bytes)
                }
                None => Place {
                    segment: SegmentId::NOWHERE,
                    offset: 0,
                },
            };
            missing.next += 1;
            let shard = self.shard;
            let mut bodies = Adopting { log, shard };
            let machine = self.state.machine_mut();
            machine.relocate(body.key, body.id, from, to, &mut bodies);
        }
    }

    /// What to ask the sender for now.
    fn question(&mut self, log: &Log, now: Instant) -> Option<About> {
        let again = self.asked.plus_millis(ASK_AGAIN_MILLIS) <= now;
        if (self.waits && !again) || now < self.rate.free_at {
            return None;
        }
        let about = match &mut self.phase {
            Phase::Checkpoint {
                reader,
                rest,
                bytes,
            } => {
                let offset = reader.offset() + rest.len() as u64;
                (offset < *bytes).then_some(About::Pull { offset })
            }
            Phase::Bodies(missing) if log.adopted_pending() < PENDING_BYTES_MAX => {
                missing.question()
            }
            _ => None,
        };
        if about.is_some() {
            self.asked = now;
            self.waits = true;
        }
        about
    }

    fn says(&self, about: About) -> Transfer {
        Transfer {
            replica: self.replica,
            index: self.index,
            number: self.number,
            about,
        }
    }

    /// All bodies are here.
    fn is_complete(&self) -> bool {
        matches!(&self.phase, Phase::Bodies(missing) if missing.next == missing.refs.len())
    }

    fn deadline(&self) -> Instant {
        let again = self.asked.plus_millis(ASK_AGAIN_MILLIS);
        if self.waits || matches!(self.phase, Phase::Syncing(_) | Phase::Saving { .. }) {
            again
        } else {
            self.rate.free_at
        }
    }

    /// Lets go of what its machine refers to in this node's log.
    fn abandon(&mut self, log: &mut Log) {
        let mut held = Missing::default();
        if let Phase::Bodies(missing) = &self.phase {
            let adopted = &missing.refs[..missing.next];
            for (body, _) in adopted {
                let mut live = Vec::new();
                let machine = self.state.machine();
                machine.live(body.key, body.id..=body.id, &mut live);
                held.refs.extend(live.iter().map(|it| (*body, it.place)));
            }
        } else if matches!(self.phase, Phase::Syncing(_)) {
            self.state.machine().retain_all(&mut held);
        }
        held.release(log, self.shard);
    }
}

impl Missing {
    pub(super) fn release(self, log: &mut Log, shard: ShardId) {
        let mut view = log.bodies(shard);
        for (body, place) in self.refs {
            view.release(place, body.len);
        }
    }

    fn question(&self) -> Option<About> {
        let mut bytes = 0;
        let rest = self.refs[self.next..].iter().map(|(body, _)| *body);
        let some = rest.take(BODIES_MAX).take_while(|body| {
            let room = bytes < BODY_BYTES_MAX;
            bytes += u64::from(body.len);
            room
        });
        let some: Vec<BodyOf> = some.collect();
        (!some.is_empty()).then_some(About::PullBodies(some))
    }
}

/// An offer of a checkpoint.
pub(super) struct Offered {
    shard: ShardId,
    from: NodeId,
    replica: ReplicaId,
    index: Index,
    number: u64,
    bytes: u64,
    now: Instant,
}

/// Does the same for either kind of machine.
macro_rules! on_install {
    ($installing:expr, $install:ident => $call:expr) => {
        match $installing {
            Installing::Queues($install) => $call,
            Installing::Rows($install) => $call,
        }
    };
}

impl<M: Machine, T: Copy> Lane<M, T> {
    /// What a sender says to the receiver.
    pub(super) fn offered_or_sent(
        &mut self,
        from: NodeId,
        shard: ShardId,
        transfer: Transfer,
        now: Instant,
        outputs: &mut Outputs<M::Effect, T>,
    ) {
        if let About::Offer { bytes } = transfer.about {
            self.take_offer(&Offered {
                shard,
                from,
                replica: transfer.replica,
                index: transfer.index,
                number: transfer.number,
                bytes,
                now,
            });
            return;
        }
        let Some(installing) = &mut self.installing else {
            return;
        };
        let log = &mut self.store.log;
        let taken = on_install!(installing, it => {
            let ours = (it.shard, it.replica, it.index);
            if ours != (shard, transfer.replica, transfer.index) || it.from != from {
                return;
            }
            let chunk = matches!(transfer.about, About::Chunk { .. });
            if chunk && it.number != transfer.number {
                return;
            }
            it.take(transfer.about, log, now)
        });
        if let Err(malformed) = taken {
            outputs.foreign.push((from, malformed));
            self.give_up_install();
        }
    }

    fn take_offer(&mut self, offer: &Offered) {
        let shard = offer.shard;
        let standing = with_replica!(self, shard, it => it.standing());
        let Some((id, applied, members)) = standing else {
            return;
        };
        if id != offer.replica || id == ReplicaId(0) {
            return;
        }
        if offer.index <= applied.0 {
            // Installed and saved before, and the word of it was lost, maybe with the process that
            // had it to tell: the one after knows of no install, and has the state all the same.
            if self.installing_shard() != Some(shard) {
                self.tell_installed(shard, offer.from, id, applied, members);
            }
            return;
        }
        if let Some(installing) = &self.installing {
            let stays = on_install!(installing, it => {
                let other = (it.from, it.number) != (offer.from, offer.number);
                let other = other && matches!(it.phase, Phase::Checkpoint { .. });
                let newer = offer.index > it.index || (offer.index == it.index && other);
                it.shard != shard || !newer || matches!(it.phase, Phase::Saving { .. })
            });
            if stays {
                return;
            }
            self.give_up_install();
        }
        let rate = self.options.transfer_bytes_per_second;
        self.installing = Some(if let Some(at) = rows_at(shard) {
            let blank = self.rows[at].blank_state();
            Installing::Rows(Install::new(offer, blank, rate, &self.store.log))
        } else if let Some(at) = queue_at(shard, &self.options) {
            let blank = self.queues[at].blank_state();
            Installing::Queues(Install::new(offer, blank, rate, &self.store.log))
        } else {
            return;
        });
    }

    fn tell_installed(
        &mut self,
        shard: ShardId,
        to: NodeId,
        replica: ReplicaId,
        (index, term): (Index, Term),
        members: Members,
    ) {
        let transfer = Transfer {
            replica,
            index,
            number: 0,
            about: About::Installed { term, members },
        };
        let mail = &mut self.store.mail;
        mail.send(to, shard, &Parcel::Transfer(transfer));
    }

    /// Goes on with the replica that is being rebuilt.
    pub(super) fn go_on_installing(&mut self, clocks: Now, outputs: &mut Outputs<M::Effect, T>) {
        let now = clocks.mono;
        let Some(installing) = &mut self.installing else {
            return;
        };
        let log = &mut self.store.log;
        let losses = log.adopted_losses();
        let (shard, index, in_vain) = on_install!(installing, it => {
            let saves = matches!(it.phase, Phase::Saving { .. });
            let silent = it.waits && it.heard.plus_millis(SILENCE_MILLIS_MAX) <= now;
            // What is being saved has all of its bodies on disk.
            let lost = it.losses != losses && !saves;
            (it.shard, if saves { Index(u64::MAX) } else { it.index }, silent || lost)
        });
        let applied = match rows_at(shard) {
            Some(at) => self.rows[at].applied(),
            None => queue_at(shard, &self.options)
                .map_or((Index(0), Term(0)), |at| self.queues[at].applied()),
        };
        // Entries may have brought the replica further than the snapshot would.
        if in_vain || applied.0 >= index {
            self.give_up_install();
            return;
        }
        on_install!(installing, it => {
            if it.is_complete() {
                it.phase = Phase::Syncing(log.adopted_tail());
            }
            if let Some(about) = it.question(log, now) {
                let transfer = it.says(about);
                self.store.mail.send(it.from, it.shard, &Parcel::Transfer(transfer));
            }
        });
        let durable = self.store.log.adopted_durable();
        let pending = self.store.log.adopted_pending();
        let synced = on_install!(installing, it => match it.phase {
            Phase::Syncing(position) => pending == 0 || position <= durable,
            _ => false,
        });
        if synced {
            self.take_place(clocks, outputs);
        }
        self.save_installed();
    }

    /// The state is whole: it takes the place of what the replica had.
    fn take_place(&mut self, now: Now, outputs: &mut Outputs<M::Effect, T>) {
        let (options, log) = (&self.options, &mut self.store.log);
        match &mut self.installing {
            Some(Installing::Queues(it)) => {
                if let Some(at) = queue_at(it.shard, options) {
                    replace(it, &mut self.queues[at], log, now, &mut outputs.done);
                }
            }
            Some(Installing::Rows(it)) => {
                if let Some(at) = rows_at(it.shard) {
                    let before = self.rows[at].machine().all();
                    let mut settled = Vec::new();
                    replace(it, &mut self.rows[at], log, now, &mut settled);
                    // What came of them in detail is known to those alone who applied them.
                    let told = settled.into_iter().filter_map(|(wait, _)| wait.ticket());
                    outputs.committed.extend(told.map(|ticket| (ticket, None)));
                    let changes = changes(&before, self.rows[at].machine());
                    outputs.changes.push((it.shard, changes));
                }
            }
            None => {}
        }
    }

    /// Begins the checkpoint that makes it count.
    fn save_installed(&mut self) {
        let idle = self.store.log.checkpoint_is_idle();
        let Some(installing) = &mut self.installing else {
            return;
        };
        let shard = on_install!(installing, it => match &mut it.phase {
            Phase::Saving { begun, .. } if !*begun && idle => {
                *begun = true;
                it.shard
            }
            _ => return,
        });
        self.checkpoint(shard);
    }

    /// A checkpoint is on disk, or failed.
    pub(super) fn installed_is_saved(&mut self, shard: ShardId, saved: Option<Index>) {
        let Some(installing) = &mut self.installing else {
            return;
        };
        let log = &mut self.store.log;
        let (from, replica) = on_install!(installing, it => {
            let Phase::Saving { begun, before } = &mut it.phase else {
                return;
            };
            if it.shard != shard {
                return;
            }
            if saved.is_none_or(|index| index < it.index) {
                *begun = false;
                return;
            }
            std::mem::take(before).release(log, shard);
            (it.from, it.replica)
        });
        self.installing = None;
        let standing = with_replica!(self, shard, it => {
            it.installed_is_saved();
            it.standing()
        });
        if let Some((_, applied, members)) = standing {
            self.tell_installed(shard, from, replica, applied, members);
        }
    }

    /// The replica stays what it was; the sender will offer again.
    pub(super) fn give_up_install(&mut self) {
        let log = &mut self.store.log;
        if let Some(mut installing) = self.installing.take() {
            on_install!(&mut installing, it => it.abandon(log));
        }
    }

    /// The shard whose replica is being rebuilt.
    pub(super) fn installing_shard(&self) -> Option<ShardId> {
        let installing = self.installing.as_ref()?;
        Some(on_install!(installing, it => it.shard))
    }

    /// When the replica that is being rebuilt wants a step.
    pub(super) fn install_deadline(&self) -> Option<Instant> {
        let installing = self.installing.as_ref()?;
        Some(on_install!(installing, it => it.deadline()))
    }
}

fn replace<M: Machine, T: Copy>(
    install: &mut Install<M>,
    replica: &mut Replica<M, T>,
    log: &mut Log,
    now: Now,
    settled: &mut Vec<(T, Outcome)>,
) {
    let mut before = Missing::default();
    let blank = replica.blank_state();
    let state = std::mem::replace(&mut install.state, blank);
    let members = install.head.take().map(|head| head.members);
    let state = replica.install(state, members.unwrap_or_default(), now, settled);
    state.machine().retain_all(&mut before);
    if log.checkpoint_shard() == Some(install.shard) {
        // It was of the state before.
        log.checkpoint_abort();
    }
    install.phase = Phase::Saving {
        begun: false,
        before,
    };
}

/// What watchers of rows must hear: rows that are new or other than before, and that are gone.
fn changes(before: &[Change], now: &Rows) -> Vec<Change> {
    let mut changes = Vec::new();
    for old in before {
        if now.row(&old.row).is_none() {
            changes.push(Change {
                row: old.row.clone(),
                value: None,
                version: now.version(),
            });
        }
    }
    let known: std::collections::BTreeMap<_, _> =
        before.iter().map(|it| (&it.row, it.version)).collect();
    let all = now.all().into_iter();
    changes.extend(all.filter(|it| known.get(&it.row) != Some(&it.version)));
    changes
}

fn unlike(cause: &'static str) -> Malformed {
    Malformed {
        what: "checkpoint of a peer",
        at: 0,
        cause,
    }
}
