//! What a step does for one shard: propose, append, apply, flush, until nothing moves.

use super::peers::FOLLOWER_IDLE_MILLIS;
use super::store::Store;
use crate::batch::Outcome;
use crate::consensus::{EntryKind, Ready};
use crate::ids::{Now, ShardId, Term};
use crate::link::Parcel;
use crate::machine::{Machine, Malformed};
use crate::replica::Replica;

/// Rounds of propose, apply and flush that a shard gets in one step.
const ROUNDS_MAX: u32 = 8;

/// Where what comes out of a shard goes.
pub(super) struct Out<'a, M: Machine, T> {
    pub(super) effects: &'a mut Vec<M::Effect>,
    pub(super) roles: &'a mut Vec<(ShardId, Option<Term>)>,
    /// Takes a ticket's outcome; the machine has just applied the batch.
    pub(super) answer: &'a mut dyn FnMut(&mut M, T, Outcome),
}

/// Moves a shard as far as it can go; true when it wants to go on in the next step.
pub(super) fn run<M: Machine, T: Copy>(
    replica: &mut Replica<M, T>,
    store: &mut Store,
    now: Now,
    out: &mut Out<'_, M, T>,
) -> Result<bool, Malformed> {
    replica.check_memory()?;
    let before = replica.leads();
    let mut more = true;
    for _ in 0..ROUNDS_MAX {
        replica.pump(now, store.known, &mut store.mail);
        drain(replica, store, now, out)?;
        let mut turn = store.turn(replica.shard(), now, out.effects);
        replica.follow_if_lost(&mut turn);
        replica.flush(&mut turn);
        replica.ask_for_lease(now.mono);
        more = replica.pump(now, store.known, &mut store.mail);
        if !more {
            break;
        }
    }
    drain(replica, store, now, out)?;
    replica.end_step();
    if replica.leads() != before {
        out.roles.push((replica.shard(), replica.leads()));
    }
    Ok(more)
}

/// Does what consensus wants done, until it wants nothing.
fn drain<M: Machine, T: Copy>(
    replica: &mut Replica<M, T>,
    store: &mut Store,
    now: Now,
    out: &mut Out<'_, M, T>,
) -> Result<(), Malformed> {
    // Nobody counts on what is said of it.
    let idle = replica.is_idle(FOLLOWER_IDLE_MILLIS, now.mono) && !replica.votes_on_definitions();
    while let Some(mut ready) = replica.ready() {
        append(replica, store, &ready);
        for message in std::mem::take(&mut ready.messages) {
            let (to, shard) = (message.to.node(), replica.shard());
            let can_wait = message.can_wait();
            let parcel = Parcel::Raft(message);
            if can_wait && idle {
                store.mail.send_with_idle_beat(to, shard, &parcel);
            } else if can_wait {
                store.mail.send_with_beat(to, shard, &parcel);
            } else {
                store.mail.send(to, shard, &parcel);
            }
        }
        for entry in &ready.committed {
            let place = replica.next_place();
            let mut turn = store.turn(replica.shard(), now, out.effects);
            let answered = replica.apply(entry, &mut turn)?;
            if let Some((tickets, outcome)) = answered {
                for ticket in tickets {
                    (out.answer)(replica.machine_mut(), ticket, outcome);
                }
            }
            store.applied(replica.shard(), place);
            if entry.kind != EntryKind::Normal {
                // Who took part before may be gone for ever by the next start: nobody else could
                // tell then that this was agreed on.
                let hard = replica.recorded(replica.consensus().hard());
                store.promise(replica.shard(), hard);
            }
        }
    }
    Ok(())
}

fn append<M: Machine, T: Copy>(replica: &mut Replica<M, T>, store: &mut Store, ready: &Ready) {
    let shard = replica.shard();
    let hard = ready.hard;
    let hard = hard.filter(|_| !cfg!(warren_break = "vote_not_synced"));
    if let Some(hard) = hard {
        store.promise(shard, replica.recorded(hard));
    }
    for entry in &ready.entries {
        let place = store.append(shard, entry);
        replica.appended(entry, place);
    }
    if !ready.entries.is_empty()
        && let Some(hard) = replica.commit_to_record()
    {
        store.promise(shard, hard);
    }
    let writes = hard.is_some() || !ready.entries.is_empty();
    if ready.holds && !writes && !store.awaits(shard) {
        replica.on_persisted(ready.number);
    } else if writes || ready.holds {
        if cfg!(warren_break = "commit_without_sync") {
            replica.on_persisted(ready.number);
        } else {
            store.await_disk(shard, ready.number);
        }
    }
}
