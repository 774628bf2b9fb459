//! Every hot path, again and again, for whoever counts instructions: `cargo xtask bench --check`
//! runs this under callgrind. What is counted is what the functions named there use, by name.

use std::hint::black_box;

use bytes::BytesMut;
use warren_benches::definitions::{self, topology};
use warren_benches::queues::Queues;
use warren_benches::stand::Stand;
use warren_benches::{BATCH, PERSISTENT, publishes, wire};
use warren_broker_core::topology::{RouteBuffer, RouteCache};

const BODY_BYTES: usize = 100;

fn main() {
    let rounds = std::env::args().nth(1).and_then(|it| it.parse().ok());
    let Some(rounds) = rounds else {
        eprintln!("usage: warren-counts ROUNDS");
        std::process::exit(2);
    };
    frames(rounds);
    routes(rounds);
    let mut queues = Queues::new(true, 1, BODY_BYTES);
    for _ in 0..rounds {
        queues.enqueue();
        queues.deliver();
        let answers = queues.answers();
        queues.settle(answers);
    }
    let mut stand = Stand::new(true, BODY_BYTES);
    for _ in 0..rounds {
        stand.round();
    }
}

fn frames(rounds: u32) {
    let input = publishes("amq.topic", "a.routing.key", BODY_BYTES);
    let body = [b'x'; BODY_BYTES];
    let mut out = BytesMut::with_capacity(BATCH * (BODY_BYTES + 256));
    for _ in 0..rounds {
        black_box(wire::decode(black_box(&input)));
        black_box(wire::deliveries(&mut out, black_box(&body)));
    }
}

fn routes(rounds: u32) {
    let topology = topology();
    let vhost = topology.vhost("/").expect("it is there");
    let (mut buffer, mut cache) = (RouteBuffer::new(), RouteCache::new());
    let to = ("amq.topic", "region.5.order.opened");
    for _ in 0..rounds as usize * BATCH {
        let queues = definitions::route(vhost, black_box(to), &PERSISTENT, &mut buffer);
        let cached =
            definitions::route_cached(&mut cache, vhost, black_box(to), &PERSISTENT, &mut buffer);
        assert_eq!((queues, cached), (1, 1));
    }
}
