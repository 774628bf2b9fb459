//! replicas-agree on one node: what a node held when it ended, and what the next one makes of its
//! log, are the same state wherever they stand at the same entry.

use std::collections::BTreeMap;

use warren_broker_core::dispatch::work::Ticket;
use warren_broker_core::shard::Shard;
use warren_cluster_core::ids::ShardId;
use warren_cluster_core::lane::{Head, Lane};
use warren_cluster_core::rows::Change;

/// The states of a lane's logged shards.
pub(crate) struct States(BTreeMap<ShardId, State>);

struct State {
    head: Head,
    rows: Vec<Change>,
    /// The queues, without the places of their bodies.
    queues: Vec<u8>,
}

impl States {
    /// What a lane's shards hold.
    pub(crate) fn of(lane: &Lane<Shard, Ticket>, shards: u32) -> Self {
        let state = |shard| {
            let mut queues = Vec::new();
            if let Some(machine) = lane.machine(shard) {
                machine.dump(&mut queues);
            }
            let state = State {
                head: lane.head(shard)?,
                rows: lane.rows(shard).map(|rows| rows.all()).unwrap_or_default(),
                queues,
            };
            Some((shard, state))
        };
        Self((0..=shards).map(ShardId).filter_map(state).collect())
    }

    /// How the states of two lanes differ that should be the same, if they do. The later one may
    /// be further than the earlier, unless that ended `in_order`; then they are not compared.
    pub(crate) fn difference(&self, later: &Self, in_order: bool) -> Option<String> {
        let both = self.0.iter().zip(later.0.values());
        both.filter_map(|((shard, one), two)| difference(*shard, one, two, in_order))
            .next()
    }
}

fn difference(shard: ShardId, one: &State, two: &State, in_order: bool) -> Option<String> {
    // The one who starts stands for election at once: never again in a term that it has led.
    let (led, stands) = (one.head.applied.1, two.head.hard.term);
    if stands <= led {
        return Some(format!(
            "shard {shard} led term {led}, now stands in {stands}"
        ));
    }
    let (before, now) = (one.head.applied, two.head.applied);
    if before != now {
        let is_wrong = in_order || now < before;
        return is_wrong.then(|| format!("shard {shard} was at {before:?}, now {now:?}"));
    }
    let parts = [
        ("time", one.head.time == two.head.time),
        ("members", one.head.members == two.head.members),
        ("origins", one.head.origins == two.head.origins),
        ("rows", one.rows == two.rows),
        ("queues", one.queues == two.queues),
    ];
    let (part, _) = parts.into_iter().find(|(_, same)| !same)?;
    Some(format!("shard {shard} at {now:?}: {part} differ"))
}
