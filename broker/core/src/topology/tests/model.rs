//! The topology against a naive model: a list of rows, and routing by looking at all of them.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const EXCHANGES: [(&str, ExchangeKind); 5] = [
    ("direct", ExchangeKind::Direct),
    ("fanout", ExchangeKind::Fanout),
    ("topic", ExchangeKind::Topic),
    ("headers", ExchangeKind::Headers),
    ("amq.topic", ExchangeKind::Topic),
];
const QUEUES: [&str; 3] = ["q", "r", "s"];
const PATTERNS: [&str; 7] = ["", "a", "a.b", "*", "#", "a.*", "#.b"];
const KEYS: [&str; 5] = ["", "a", "a.b", "b", "a.a.b"];

#[derive(Clone, Debug)]
enum Step {
    Exchange {
        at: usize,
        alternate: Option<usize>,
        present: bool,
    },
    Queue {
        at: usize,
        present: bool,
    },
    Bind {
        source: usize,
        to_exchange: bool,
        destination: usize,
        key: usize,
        marked: bool,
        present: bool,
    },
}

/// All rows that there are; one store.
#[derive(Default)]
struct Model {
    exchanges: BTreeMap<&'static str, ExchangeRow>,
    queues: BTreeSet<&'static str>,
    bindings: Vec<Bound>,
}

fn step() -> impl Strategy<Value = Step> {
    let exchange = (
        0..EXCHANGES.len() - 1,
        proptest::option::of(0..4_usize),
        any::<bool>(),
    );
    let exchange = exchange.prop_map(|(at, alternate, present)| Step::Exchange {
        at,
        alternate,
        present,
    });
    let queue = (0..QUEUES.len(), any::<bool>());
    let queue = queue.prop_map(|(at, present)| Step::Queue { at, present });
    let bind = (
        0..EXCHANGES.len(),
        any::<bool>(),
        0..4_usize,
        0..PATTERNS.len(),
        any::<bool>(),
        proptest::bool::weighted(0.7),
    );
    let bind =
        bind.prop_map(
            |(source, to_exchange, destination, key, marked, present)| Step::Bind {
                source,
                to_exchange,
                destination,
                key,
                marked,
                present,
            },
        );
    prop_oneof![1 => exchange, 1 => queue, 3 => bind]
}

fn apply(step: &Step, world: &mut World, model: &mut Model) {
    match *step {
        Step::Exchange {
            at,
            alternate,
            present,
        } => {
            let (name, kind) = EXCHANGES[at];
            let row = exchange_row(kind, alternate.map(|at| EXCHANGES[at].0));
            world.exchange(Store::Replicated, name, present.then_some(&row));
            match present {
                true => model.exchanges.insert(name, row),
                false => model.exchanges.remove(name),
            };
        }
        Step::Queue { at, present } => {
            world.queue(Store::Replicated, QUEUES[at], present);
            match present {
                true => model.queues.insert(QUEUES[at]),
                false => model.queues.remove(QUEUES[at]),
            };
        }
        Step::Bind {
            source,
            to_exchange,
            destination,
            key,
            marked,
            present,
        } => {
            let (kind, destination) = match to_exchange {
                true => (DestinationKind::Exchange, EXCHANGES[destination].0),
                false => (DestinationKind::Queue, QUEUES[destination % QUEUES.len()]),
            };
            let bound = Bound {
                source: EXCHANGES[source].0.to_owned(),
                destination: destination.to_owned(),
                kind,
                key: PATTERNS[key].to_owned(),
                arguments: table(marked.then_some("h=1").into_iter()),
            };
            world.bind(Store::Replicated, &bound, present);
            model.bindings.retain(|known| *known != bound);
            if present {
                model.bindings.push(bound);
            }
        }
    }
}

/// Topic matching as the specification says it, one word at a time.
fn topic_matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        (["#", pattern @ ..], key) => {
            (0..=key.len()).any(|taken| topic_matches(pattern, &key[taken..]))
        }
        (["*", pattern @ ..], [_, key @ ..]) => topic_matches(pattern, key),
        ([word, pattern @ ..], [other, key @ ..]) => word == other && topic_matches(pattern, key),
        ([_, ..] | [], _) => false,
    }
}

fn words(key: &str) -> Vec<&str> {
    if key.is_empty() {
        return Vec::new();
    }
    key.split('.').collect()
}

impl Model {
    fn kind(&self, name: &str) -> Option<ExchangeKind> {
        if name == "amq.topic" {
            return Some(ExchangeKind::Topic);
        }
        self.exchanges.get(name).map(|row| row.kind)
    }

    fn exists(&self, bound: &Bound) -> bool {
        let destination = match bound.kind {
            DestinationKind::Queue => self.queues.contains(&*bound.destination),
            DestinationKind::Exchange => self.kind(&bound.destination).is_some(),
        };
        destination && self.kind(&bound.source).is_some()
    }

    fn route(&self, exchange: &str, key: &str, marked: bool) -> Vec<String> {
        let mut seen = BTreeSet::from([exchange.to_owned()]);
        let mut work = vec![exchange.to_owned()];
        let mut queues = BTreeSet::new();
        while let Some(exchange) = work.pop() {
            let Some(kind) = self.kind(&exchange) else {
                continue;
            };
            let matches = |bound: &&Bound| match kind {
                ExchangeKind::Direct => bound.key == key,
                ExchangeKind::Fanout => true,
                ExchangeKind::Topic => topic_matches(&words(&bound.key), &words(key)),
                ExchangeKind::Headers => marked || bound.arguments.is_empty(),
            };
            let from_here = self
                .bindings
                .iter()
                .filter(|bound| bound.source == exchange);
            let found: Vec<_> = from_here
                .filter(|bound| self.exists(bound))
                .filter(matches)
                .collect();
            for bound in &found {
                let name = bound.destination.clone();
                match bound.kind {
                    DestinationKind::Queue => {
                        queues.insert(name);
                    }
                    DestinationKind::Exchange if seen.insert(name.clone()) => work.push(name),
                    DestinationKind::Exchange => {}
                }
            }
            let row = self.exchanges.get(&*exchange).filter(|_| found.is_empty());
            if let Some(alternate) = row.and_then(ExchangeRow::alternate) {
                let alternate = String::from_utf8_lossy(alternate).into_owned();
                if seen.insert(alternate.clone()) {
                    work.push(alternate);
                }
            }
        }
        queues.into_iter().collect()
    }
}

proptest! {
    #[test]
    fn routes_are_those_of_the_model(steps in vec(step(), 1..60)) {
        let mut world = World::new();
        let mut model = Model::default();
        for step in &steps {
            apply(step, &mut world, &mut model);
            let dangling = model.bindings.iter().filter(|bound| !model.exists(bound)).count();
            prop_assert_eq!(world.topology.dangling().count(), dangling);
            for (exchange, _) in EXCHANGES {
                if model.kind(exchange).is_none() {
                    continue;
                }
                for key in KEYS {
                    for marked in [false, true] {
                        let headers = table(marked.then_some("h=1").into_iter());
                        let found = world.route(exchange, key, &headers);
                        prop_assert_eq!(found, Ok(model.route(exchange, key, marked)));
                    }
                }
            }
        }
    }

    #[test]
    fn the_trie_matches_as_the_specification_says(
        steps in vec(("([ab*#]\\.){0,5}[ab*#]", 0..3_usize, any::<bool>()), 1..40),
        keys in vec("([abc]\\.){0,6}[abc]", 1..8),
    ) {
        let mut world = World::new();
        for queue in QUEUES {
            world.queue(Store::Replicated, queue, true);
        }
        let mut patterns = BTreeSet::new();
        for (pattern, at, present) in steps {
            let queue = QUEUES[at];
            let bound = Bound {
                source: "amq.topic".to_owned(),
                destination: queue.to_owned(),
                kind: DestinationKind::Queue,
                key: pattern.clone(),
                arguments: FieldTable::new(),
            };
            world.bind(Store::Replicated, &bound, present);
            match present {
                true => patterns.insert((pattern, queue)),
                false => patterns.remove(&(pattern, queue)),
            };
            for key in &keys {
                let matches = patterns
                    .iter()
                    .filter(|(pattern, _)| topic_matches(&words(pattern), &words(key)))
                    .map(|(_, queue)| (*queue).to_owned());
                let expected: BTreeSet<_> = matches.collect();
                let found = world.route("amq.topic", key, &FieldTable::new());
                prop_assert_eq!(found, Ok(expected.into_iter().collect::<Vec<_>>()));
            }
        }
    }
}
