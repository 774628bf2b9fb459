//! Whatever happens to a cluster, plans bring it to rest and hurt nothing on the way.

use proptest::prelude::*;

use super::toy::{NodeState, Toy, is_even};
use crate::ids::NodeId;

#[derive(Clone, Copy, Debug)]
enum Event {
    Add(u8),
    State(u8, NodeState),
    Kill(u8),
    Revive(u8),
    Delay,
    Weigh(u8, u16),
    Turns(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![
        Just(NodeState::Active),
        Just(NodeState::Draining),
        Just(NodeState::Leaving)
    ];
    prop_oneof![
        3 => any::<u8>().prop_map(Event::Add),
        2 => (any::<u8>(), state).prop_map(|(node, state)| Event::State(node, state)),
        2 => any::<u8>().prop_map(Event::Kill),
        2 => any::<u8>().prop_map(Event::Revive),
        1 => Just(Event::Delay),
        2 => (any::<u8>(), any::<u16>()).prop_map(|(shard, weight)| Event::Weigh(shard, weight)),
        4 => any::<u8>().prop_map(Event::Turns),
    ]
}

fn happen(toy: &mut Toy, event: Event, zones: u8) {
    let known = toy.cluster.nodes.len();
    let nth = |toy: &Toy, at: u8| -> NodeId { toy.cluster.nodes[usize::from(at) % known].id };
    match event {
        Event::Add(zone) => {
            toy.add(["a", "b", "c", "d"][usize::from(zone % zones)]);
        }
        Event::State(node, state) => {
            let node = nth(toy, node);
            toy.set(node, state);
        }
        Event::Kill(node) => {
            let node = nth(toy, node);
            toy.kill(node);
        }
        Event::Revive(node) => {
            let node = nth(toy, node);
            toy.revive(node);
        }
        Event::Delay => toy.wait_out_the_delay(),
        Event::Weigh(shard, weight) => {
            let at = usize::from(shard) % toy.cluster.shards.len();
            let id = toy.cluster.shards[at].id;
            toy.weigh(id, u64::from(weight));
        }
        Event::Turns(turns) => {
            for _ in 0..turns % 32 {
                toy.turn();
            }
        }
    }
}

/// A cluster that this happened to, after it came to rest.
fn after(shards: u32, copying_max: usize, zones: u8, events: &[Event]) -> Toy {
    let mut toy = Toy::new(shards, "a");
    toy.options.copying_max = copying_max;
    for event in events {
        happen(&mut toy, *event, zones);
    }
    toy.settle();
    toy.check_rest();
    toy
}

/// All nodes are alive and active, and the cluster comes to rest again.
fn make_well(toy: &mut Toy) {
    let nodes: Vec<NodeId> = toy.cluster.nodes.iter().map(|node| node.id).collect();
    for id in nodes {
        toy.revive(id);
        toy.set(id, NodeState::Active);
    }
    toy.settle();
    toy.check_rest();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_life_comes_to_rest(
        shards in 1..20_u32,
        zones in 1..5_u8,
        copying_max in 1..4_usize,
        events in proptest::collection::vec(event(), 0..40),
    ) {
        let mut toy = after(shards, copying_max, zones, &events);
        let changes = toy.plan().changes;
        prop_assert!(changes.is_empty(), "{changes:?}");
        make_well(&mut toy);
        prop_assert!(toy.plan().is_empty());
        for shard in &toy.cluster.shards {
            prop_assert_eq!(shard.members.all().count(), toy.copies_wanted(shard.id));
            prop_assert_eq!(shard.members.voters.len(), toy.voters_wanted(shard.id));
        }
        let zoned = toy.cluster.nodes.iter().any(|node| node.zone != toy.cluster.nodes[0].zone);
        if !zoned {
            prop_assert!(is_even(&toy.copies()), "{:?}", toy.copies());
            let voters = toy.cluster.shards.len() > 2 && toy.cluster.nodes.len() == 3;
            prop_assert!(!voters || is_even(&toy.leaders()), "{:?}", toy.leaders());
        }
    }

    #[test]
    fn zones_are_as_wide_as_they_can_be(
        shards in 1..20_u32,
        nodes in proptest::collection::vec(0..4_usize, 2..12),
    ) {
        let mut toy = Toy::new(shards, "a");
        for zone in nodes {
            toy.add(["a", "b", "c", "d"][zone]);
            toy.settle();
        }
        toy.check_rest();
        let mut sizes = std::collections::BTreeMap::new();
        for node in &toy.cluster.nodes {
            *sizes.entry(node.zone.as_str()).or_insert(0_usize) += 1;
        }
        for shard in &toy.cluster.shards {
            let (wide, most) = toy.zones(shard);
            let voters = shard.members.voters.len();
            prop_assert_eq!(wide, voters.min(sizes.len()), "shard {}", shard.id);
            // No zone has more than one above what the others have room for.
            let mut fair = 1;
            while sizes.values().map(|size| *size.min(&fair)).sum::<usize>() < voters {
                fair += 1;
            }
            prop_assert!(most <= fair, "shard {}: {most} in one zone", shard.id);
        }
    }
}

/// The only voter of a shard that was to be copied dies: its copies stand still, and others go on.
#[test]
fn copies_that_nobody_makes_hold_up_no_others() {
    let events = [
        Event::Add(0),
        Event::Add(0),
        Event::Add(0),
        Event::State(0, NodeState::Leaving),
        Event::Turns(9),
        Event::Kill(0),
        Event::Add(0),
        Event::Add(0),
    ];
    after(3, 1, 1, &events);
}

/// Two of three leave and one comes: a row that was right before that one came is carried out.
#[test]
fn a_row_is_carried_out_though_more_nodes_have_come() {
    let events = [
        Event::Add(0),
        Event::Add(0),
        Event::Turns(10),
        Event::State(1, NodeState::Leaving),
        Event::Add(0),
        Event::State(2, NodeState::Leaving),
        Event::Turns(5),
        Event::Add(0),
    ];
    after(4, 1, 1, &events);
}

/// Five of seven vote, then three are gone and two leave; then all are back before the votes that
/// were to be fewer are.
#[test]
fn a_row_for_few_is_carried_out_though_the_others_are_back() {
    let events = [
        Event::Add(0),
        Event::Add(0),
        Event::Add(0),
        Event::Add(0),
        Event::Turns(6),
        Event::Kill(4),
        Event::Kill(0),
        Event::State(2, NodeState::Leaving),
        Event::Add(0),
        Event::Add(0),
        Event::Delay,
        Event::Kill(5),
        Event::State(1, NodeState::Leaving),
    ];
    let mut toy = after(1, 1, 1, &events);
    make_well(&mut toy);
}
