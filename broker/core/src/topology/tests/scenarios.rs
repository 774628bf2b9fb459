//! Runs `testdata/*.txt`. A block is commands, `----`, and a line for each `route` in it:
//!
//! ```text
//! exchange NAME TYPE [internal] [alternate=NAME] [local]
//! queue NAME [local]                    no-exchange NAME [local]       no-queue NAME [local]
//! bind SOURCE KEY NAME [local] [name=value ..]                         unbind: the same
//! bind SOURCE KEY exchange:NAME ..
//! route EXCHANGE KEY [header=value ..]
//! ```
//! `''` is the empty name or key. Blocks are parted by empty lines, and build upon each other.

use super::*;

const SCENARIOS: &[(&str, &str)] = &[
    ("default", include_str!("../testdata/default.txt")),
    ("direct", include_str!("../testdata/direct.txt")),
    ("fanout", include_str!("../testdata/fanout.txt")),
    ("topic", include_str!("../testdata/topic.txt")),
    ("headers", include_str!("../testdata/headers.txt")),
    (
        "exchanges",
        include_str!("../testdata/exchange_to_exchange.txt"),
    ),
    ("alternate", include_str!("../testdata/alternate.txt")),
    ("copies", include_str!("../testdata/copies.txt")),
    ("stores", include_str!("../testdata/stores.txt")),
];

#[test]
fn scenarios() {
    for (name, text) in SCENARIOS {
        let mut world = World::new();
        for (number, block) in text.split("\n\n").enumerate() {
            let block = block.trim();
            if block.is_empty() {
                continue;
            }
            let (commands, expected) = block.split_once("\n----").unwrap_or((block, ""));
            let lines = commands.lines().filter(|line| !line.starts_with('#'));
            let found: Vec<_> = lines.filter_map(|line| run(&mut world, line)).collect();
            let expected: Vec<_> = expected.trim().lines().collect();
            assert_eq!(found, expected, "{name}, block {number}:\n{block}");
        }
    }
}

fn run(world: &mut World, line: &str) -> Option<String> {
    let mut words: Vec<_> = line
        .split_whitespace()
        .map(|word| if word == "''" { "" } else { word })
        .collect();
    let local = words.iter().position(|word| *word == "local");
    let store = local.map_or(Store::Replicated, |at| {
        words.remove(at);
        Store::Local
    });
    match words[..] {
        ["exchange", name, kind, ref options @ ..] => {
            let kind = ExchangeKind::from_name(kind.as_bytes()).expect("a known type");
            let alternate = options
                .iter()
                .find_map(|word| word.strip_prefix("alternate="));
            let mut row = exchange_row(kind, alternate);
            row.internal = options.contains(&"internal");
            world.exchange(store, name, Some(&row));
        }
        ["no-exchange", name] => world.exchange(store, name, None),
        ["queue", name] => {
            world.queue(store, name, true);
        }
        ["no-queue", name] => {
            world.queue(store, name, false);
        }
        [
            verb @ ("bind" | "unbind"),
            source,
            key,
            to,
            ref arguments @ ..,
        ] => {
            let (kind, destination) = match to.strip_prefix("exchange:") {
                Some(exchange) => (DestinationKind::Exchange, exchange),
                None => (DestinationKind::Queue, to),
            };
            let bound = Bound {
                source: source.to_owned(),
                destination: destination.to_owned(),
                kind,
                key: key.to_owned(),
                arguments: table(arguments.iter().copied()),
            };
            world.bind(store, &bound, verb == "bind");
        }
        ["route", exchange, key, ref headers @ ..] => {
            return Some(
                match world.route(exchange, key, &table(headers.iter().copied())) {
                    Ok(names) if names.is_empty() => "nowhere".to_owned(),
                    Ok(names) => names.join(" "),
                    Err(error) => format!("{} {}", error.code.code(), error.text),
                },
            );
        }
        _ => panic!("unknown command: {line}"),
    }
    None
}
