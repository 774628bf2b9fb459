//! The loads of `measure versus` and `measure cluster`, as flags of `warren perf`, and what Warren
//! is to reach in each.

/// One line of load for `warren perf`.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) name: &'static str,
    /// The verb and its flags, without URI, process id and output form.
    pub(super) perf: &'static str,
    /// What is added for RabbitMQ alone; `None` where it is not asked.
    pub(super) rabbitmq: Option<&'static str>,
    pub(super) figures: &'static [Figure],
}

/// One figure of a load's result.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    /// Where it stands in the result, as a JSON pointer.
    pub(super) pointer: &'static str,
    pub(super) reach: Reach,
}

/// A floor or a ceiling for Warren's median.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reach {
    /// At least this many times RabbitMQ's.
    Times(f64),
    AtLeast(f64),
    AtMost(f64),
}

const fn rate(times: f64) -> Figure {
    Figure {
        name: "messages/s",
        pointer: "/receive_rate",
        reach: Reach::Times(times),
    }
}

const fn per_cpu(least: f64) -> Figure {
    Figure {
        name: "messages per broker CPU-second",
        pointer: "/messages_per_broker_cpu_second",
        reach: Reach::AtLeast(least),
    }
}

const fn per_second(name: &'static str, times: f64) -> Figure {
    Figure {
        name,
        pointer: "/rate",
        reach: Reach::Times(times),
    }
}

const fn bytes_each(name: &'static str, most: f64) -> Figure {
    Figure {
        name,
        pointer: "/rss_bytes_each",
        reach: Reach::AtMost(most),
    }
}

const fn micros(name: &'static str, pointer: &'static str, most: f64) -> Figure {
    Figure {
        name,
        pointer,
        reach: Reach::AtMost(most),
    }
}

/// Of one node; 1 KiB unless said otherwise.
pub(super) const LOADS: &[Load] = &[
    Load {
        name: "transient, auto-ack, 16 B",
        perf: "throughput --size 16 --warmup 2 --time 10",
        rabbitmq: Some(""),
        figures: &[rate(10.0), per_cpu(1.5e6)],
    },
    Load {
        name: "transient, auto-ack",
        perf: "throughput --warmup 2 --time 10",
        rabbitmq: Some(""),
        figures: &[rate(4.0), per_cpu(400e3)],
    },
    Load {
        name: "durable, confirms, 1p/1c",
        perf: "throughput --durable --persistent --confirm 1000 --ack multiple:100 \
               --prefetch 1000 --warmup 2 --time 10",
        rabbitmq: Some(""),
        figures: &[rate(10.0), per_cpu(230e3)],
    },
    Load {
        name: "durable, confirms, 10p/10c, 10 queues",
        perf: "throughput --producers 10 --consumers 10 --queues 10 --durable --persistent \
               --confirm 1000 --ack multiple:100 --prefetch 1000 --warmup 2 --time 10",
        rabbitmq: Some(""),
        figures: &[rate(10.0)],
    },
    Load {
        name: "durable, confirms, 10p/10c, 10 queues, RabbitMQ's are quorum queues",
        perf: "throughput --producers 10 --consumers 10 --queues 10 --durable --persistent \
               --confirm 1000 --ack multiple:100 --prefetch 1000 --warmup 2 --time 10",
        rabbitmq: Some("--queue-arg x-queue-type=quorum"),
        figures: &[rate(9.0)],
    },
    Load {
        name: "fanout to 50 queues",
        perf: "fanout --queues 50 --warmup 2 --time 10",
        rabbitmq: Some(""),
        figures: &[rate(6.0)],
    },
    Load {
        name: "backlog of 1M",
        perf: "backlog --messages 1000000 --durable --persistent --confirm 1000 \
               --ack multiple:100 --prefetch 1000",
        rabbitmq: Some(""),
        figures: &[
            Figure {
                name: "published/s",
                pointer: "/publish_phase/rate",
                reach: Reach::Times(10.0),
            },
            Figure {
                name: "drained/s",
                pointer: "/drain_phase/rate",
                reach: Reach::Times(10.0),
            },
        ],
    },
    Load {
        name: "5k messages/s, durable, confirms",
        perf: "latency --rate 5000 --durable --persistent --confirm 1000 --ack multiple:100 \
               --prefetch 1000 --warmup 2 --time 10",
        rabbitmq: Some(""),
        figures: &[
            micros("end to end p50, µs", "/latency_us/p50", 600.0),
            micros("end to end p99, µs", "/latency_us/p99", 2500.0),
        ],
    },
    Load {
        name: "durable, prefetch 1, ack each, while publishing",
        perf: "throughput --durable --persistent --confirm 1000 --ack each --prefetch 1 \
               --warmup 2 --time 10",
        rabbitmq: Some(""),
        figures: &[rate(8.0)],
    },
    Load {
        // Drained from a backlog, so that it is the consumer that is measured and not the producer
        // that keeps it from the processor.
        name: "durable, prefetch 1, ack each, draining",
        perf: "backlog --messages 20000 --durable --persistent --confirm 1000 --ack each \
               --prefetch 1",
        rabbitmq: Some(""),
        figures: &[Figure {
            name: "drained/s",
            pointer: "/drain_phase/rate",
            reach: Reach::Times(8.0),
        }],
    },
    Load {
        name: "bulk: declare durable queues, pipelined",
        perf: "queues --queues 5000 --durable",
        rabbitmq: Some(""),
        figures: &[
            per_second("declared/s", 10.0),
            bytes_each("memory of each, bytes", 1024.0),
        ],
    },
    Load {
        name: "bulk: connect, declare exclusive queue, publish, get, close",
        perf: "churn --time 10",
        rabbitmq: Some(""),
        figures: &[per_second("cycles/s", 6.0)],
    },
    Load {
        name: "bulk: idle connections with a channel",
        perf: "connections --connections 2000 --channels 1 --time 2",
        rabbitmq: Some(""),
        figures: &[bytes_each("memory of each, bytes", 15.0 * 1024.0)],
    },
];

/// Of three nodes, the clients spread over them. RabbitMQ's queues are quorum queues.
pub(super) const CLUSTER_LOADS: &[Load] = &[
    Load {
        name: "durable, confirms, 10p/10c, 10 queues",
        perf: "throughput --producers 10 --consumers 10 --queues 10 --durable --persistent \
               --confirm 1000 --ack multiple:100 --prefetch 1000 --warmup 3 --time 10",
        rabbitmq: Some("--queue-arg x-queue-type=quorum"),
        figures: &[rate(10.0), per_cpu(100e3)],
    },
    Load {
        name: "the same, consumers on other nodes than the leader",
        perf: "throughput --producers 10 --consumers 10 --queues 10 --durable --persistent \
               --confirm 1000 --ack multiple:100 --prefetch 1000 --warmup 3 --time 10 \
               --consume-elsewhere",
        rabbitmq: Some("--queue-arg x-queue-type=quorum"),
        figures: &[rate(7.0)],
    },
    Load {
        name: "1k messages/s, durable, confirms",
        perf: "latency --rate 1000 --durable --persistent --confirm 1000 --ack multiple:100 \
               --prefetch 1000 --warmup 2 --time 10",
        rabbitmq: Some("--queue-arg x-queue-type=quorum"),
        figures: &[
            micros("end to end p50, µs", "/latency_us/p50", 1500.0),
            micros("end to end p99, µs", "/latency_us/p99", 8000.0),
        ],
    },
    Load {
        name: "bulk: declare 10,000 durable queues, pipelined",
        perf: "queues --queues 10000 --durable",
        rabbitmq: None,
        figures: &[Figure {
            name: "declared/s",
            pointer: "/rate",
            reach: Reach::AtLeast(10_000.0 / 60.0),
        }],
    },
];
