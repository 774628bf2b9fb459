//! What a load with producers and consumers consists of: the flags, made whole.
//!
//! Invariants:
//! - a stream is a producer and one of its targets; streams are numbered producer by producer;
//! - each queue has a consumer when there are any, and each producer a target.

use std::time::Duration;

use super::arguments::{Ack, Traffic};
use super::stamp::{STREAMS_MAX, Stamp};
use super::uri::Uri;

/// A load.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) load: Load,
    pub(super) uris: Vec<Uri>,
    pub(super) producers: u32,
    pub(super) consumers: u32,
    pub(super) queues: u32,
    pub(super) random: bool,
    pub(super) consume_elsewhere: bool,
    pub(super) size: usize,
    pub(super) rate: Option<f64>,
    pub(super) confirm: Option<usize>,
    pub(super) ack: Ack,
    pub(super) prefetch: u16,
    pub(super) persistent: bool,
    pub(super) mandatory: bool,
    pub(super) prefix: String,
    pub(super) durable: bool,
    /// Wire form.
    pub(super) arguments: Vec<u8>,
    pub(super) predeclared: bool,
    pub(super) keep: bool,
    /// How long to publish; `None` for as long as `messages` take.
    pub(super) time: Option<Duration>,
    pub(super) messages: Option<u64>,
    pub(super) warmup: Duration,
    pub(super) check: bool,
    pub(super) reconnect: bool,
    pub(super) patience: Duration,
    pub(super) threads: usize,
    /// Tells this run's messages from those of others.
    pub(super) run: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    Throughput,
    Latency,
    Fanout,
    Backlog,
}

impl Load {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
            Self::Fanout => "fanout",
            Self::Backlog => "backlog",
        }
    }
}

const MESSAGES_OF_BACKLOG: u64 = 1_000_000;
const RATE_OF_LATENCY: f64 = 1_000.0;
const QUEUES_OF_FANOUT: u32 = 10;
const TIME: Duration = Duration::from_secs(10);

impl Plan {
    /// # Errors
    /// When the flags contradict each other; the text says how.
    pub(super) fn new(load: Load, flags: &Traffic, run: u64) -> Result<Self, String> {
        let fanout = load == Load::Fanout;
        let queues = flags
            .queues
            .unwrap_or(if fanout { QUEUES_OF_FANOUT } else { 1 });
        let consumers = if fanout { queues } else { 1 };
        let messages = match load {
            Load::Backlog => Some(flags.messages.unwrap_or(MESSAGES_OF_BACKLOG)),
            _ => flags.messages,
        };
        let latency = load == Load::Latency;
        let threads = flags.common.threads.unwrap_or(if latency { 1 } else { 2 });
        let plan = Self {
            load,
            uris: flags.common.uri.clone(),
            producers: flags.producers,
            consumers: flags.consumers.unwrap_or(consumers),
            queues,
            random: flags.random,
            consume_elsewhere: flags.consume_elsewhere,
            size: flags.size,
            rate: flags.rate.or_else(|| latency.then_some(RATE_OF_LATENCY)),
            confirm: flags.confirm,
            ack: flags.ack,
            prefetch: flags.prefetch,
            persistent: flags.persistent,
            mandatory: flags.mandatory,
            prefix: flags.declare.prefix(),
            durable: flags.declare.durable,
            arguments: flags.declare.arguments(),
            predeclared: flags.predeclared,
            keep: flags.keep || flags.predeclared,
            time: flags.time.or_else(|| messages.is_none().then_some(TIME)),
            messages,
            warmup: flags.warmup,
            check: flags.check,
            reconnect: flags.reconnect,
            patience: flags.patience,
            threads: usize::from(threads),
            run,
        };
        plan.contradiction().map_or(Ok(plan), Err)
    }

    fn contradiction(&self) -> Option<String> {
        let too_many_acks = match self.ack {
            Ack::Multiple(count) => self.prefetch > 0 && count > u32::from(self.prefetch),
            Ack::Auto | Ack::Each => false,
        };
        let stamped = self.size >= Stamp::BYTES;
        let rules = [
            (
                too_many_acks,
                "--ack multiple:N needs a --prefetch of N or more",
            ),
            (
                self.check && !stamped,
                "--check needs a --size of 16 or more",
            ),
            (self.check && self.consumers == 0, "--check needs consumers"),
            (
                self.check && self.reconnect && self.confirm.is_none(),
                "--check with --reconnect needs --confirm: without, loss cannot be told",
            ),
            (
                self.load == Load::Latency && (!stamped || self.consumers == 0),
                "latency needs consumers and a --size of 16 or more",
            ),
            (
                self.load == Load::Backlog && self.producers == 0,
                "a backlog needs producers",
            ),
            (
                self.load == Load::Backlog && !self.warmup.is_zero(),
                "a backlog has no --warmup: each of its phases is measured from its start",
            ),
            (
                self.producers + self.consumers == 0,
                "there is nothing to do",
            ),
            (
                self.consume_elsewhere && self.uris.len() < 2,
                "--consume-elsewhere needs a second --uri",
            ),
            (
                self.streams() > STREAMS_MAX,
                "too many producers times queues (16777216)",
            ),
        ];
        rules
            .into_iter()
            .find_map(|(broken, why)| broken.then(|| why.to_owned()))
    }

    pub(super) fn uri(&self, connection: u32) -> &Uri {
        &self.uris[connection as usize % self.uris.len()]
    }

    pub(super) fn consumer_uri(&self, connection: u32) -> &Uri {
        let first = usize::from(self.consume_elsewhere);
        let uris = &self.uris[first..];
        &uris[connection as usize % uris.len()]
    }

    pub(super) fn queue_name(&self, queue: u32) -> String {
        format!("{}-{queue}", self.prefix)
    }

    /// The exchange that is published to.
    pub(super) fn exchange(&self) -> &str {
        if self.is_fanout() { &self.prefix } else { "" }
    }

    pub(super) fn is_fanout(&self) -> bool {
        self.load == Load::Fanout
    }

    /// How many queues get each message.
    pub(super) fn copies(&self) -> u64 {
        if self.is_fanout() {
            u64::from(self.queues)
        } else {
            1
        }
    }

    /// The queues that a producer publishes to, in turn (or at random). In a fanout it is the
    /// exchange, whatever the key: one target.
    pub(super) fn targets(&self, producer: u32) -> impl Iterator<Item = u32> + use<> {
        let (first, step, end) = if self.is_fanout() {
            (0, 1, 1)
        } else if self.random {
            (0, 1, self.queues)
        } else if self.queues <= self.producers {
            let queue = producer % self.queues;
            (queue, 1, queue + 1)
        } else {
            (producer, self.producers, self.queues)
        };
        (first..end).step_by(step as usize)
    }

    /// The queues that a consumer reads.
    pub(super) fn sources(&self, consumer: u32) -> impl Iterator<Item = u32> + use<> {
        let (first, step, end) = if self.queues <= self.consumers {
            let queue = consumer % self.queues;
            (queue, 1, queue + 1)
        } else {
            (consumer, self.consumers, self.queues)
        };
        (first..end).step_by(step as usize)
    }

    /// The number of a producer's first stream.
    pub(super) fn first_stream(&self, producer: u32) -> u64 {
        let (producer, producers) = (u64::from(producer), u64::from(self.producers));
        let queues = u64::from(self.queues);
        if self.is_fanout() || (queues <= producers && !self.random) {
            producer
        } else if self.random || producers == 0 {
            producer * queues
        } else {
            producer * (queues / producers) + producer.min(queues % producers)
        }
    }

    fn streams(&self) -> u64 {
        self.first_stream(self.producers)
    }

    /// How many of the load's messages a producer publishes; `None` without a limit.
    pub(super) fn share(&self, producer: u32) -> Option<u64> {
        let producers = u64::from(self.producers);
        let messages = self.messages?;
        Some(messages / producers + u64::from(u64::from(producer) < messages % producers))
    }

    /// Whether all that was published is to be waited for.
    pub(super) const fn drains(&self) -> bool {
        self.consumers > 0 && (self.check || self.messages.is_some() || self.rate.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        traffic: Traffic,
    }

    fn plan(load: Load, line: &str) -> Result<Plan, String> {
        let words = std::iter::once("perf").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        Plan::new(load, &line.traffic, 0)
    }

    #[test]
    fn the_lines_of_the_speed_table_can_be_said() {
        for (load, line) in [
            (Load::Throughput, "--size 16"),
            (
                Load::Throughput,
                "--durable --persistent --confirm 1000 --ack multiple:100",
            ),
            (
                Load::Throughput,
                "--producers 10 --consumers 10 --queues 10 --durable --persistent --confirm 1000 \
                 --ack multiple:100 --queue-arg x-queue-type=quorum --uri amqp://a:b@127.0.0.1:1,\
                 amqp://127.0.0.1:2 --pid 1,2,3",
            ),
            (Load::Fanout, "--queues 50"),
            (
                Load::Backlog,
                "--messages 1000000 --durable --persistent --confirm 1000",
            ),
            (
                Load::Latency,
                "--rate 5000 --durable --persistent --confirm 1000 --ack each",
            ),
            (
                Load::Throughput,
                "--durable --prefetch 1 --ack each --check --json",
            ),
        ] {
            if let Err(error) = plan(load, line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for (line, word) in [
            ("--ack multiple:10 --prefetch 5", "--prefetch"),
            ("--check --size 8", "--size"),
            ("--check --reconnect", "--confirm"),
            ("--producers 0 --consumers 0", "nothing to do"),
            ("--random --producers 17 --queues 1000000", "too many"),
        ] {
            let error = plan(Load::Throughput, line).expect_err(line);
            assert!(error.contains(word), "{line}: {error}");
        }
        assert!(plan(Load::Backlog, "--warmup 1").is_err());
        assert!(plan(Load::Latency, "--consumers 0").is_err());
    }

    #[test]
    fn queues_are_shared_out() {
        let of = |line| plan(Load::Throughput, line).expect(line);
        let targets = |plan: &Plan, at| plan.targets(at).collect::<Vec<_>>();
        let more_queues = of("--producers 2 --consumers 2 --queues 5");
        assert_eq!(targets(&more_queues, 0), [0, 2, 4]);
        assert_eq!(targets(&more_queues, 1), [1, 3]);
        assert!(more_queues.sources(1).eq([1, 3]));
        assert_eq!(more_queues.first_stream(1), 3);
        let fewer_queues = of("--producers 3 --consumers 3 --queues 2");
        assert_eq!(targets(&fewer_queues, 2), [0]);
        assert!(fewer_queues.sources(2).eq([0]));
        assert_eq!(fewer_queues.first_stream(2), 2);
        let random = of("--random --producers 3 --queues 4");
        assert_eq!((targets(&random, 2).len(), random.first_stream(2)), (4, 8));
    }

    #[test]
    fn consumers_may_keep_off_the_first_broker() {
        let three = "--uri amqp://127.0.0.1:1,amqp://127.0.0.1:2,amqp://127.0.0.1:3";
        let elsewhere = plan(Load::Throughput, &format!("{three} --consume-elsewhere"));
        let elsewhere = elsewhere.expect("a plan");
        let port = |uri: &Uri| uri.address.port();
        assert_eq!([0, 1, 2].map(|at| port(elsewhere.uri(at))), [1, 2, 3]);
        assert_eq!(
            [0, 1, 2].map(|at| port(elsewhere.consumer_uri(at))),
            [2, 3, 2]
        );
        let one = plan(Load::Throughput, "--consume-elsewhere").expect_err("one broker");
        assert!(one.contains("second --uri"), "{one}");
    }

    #[test]
    fn messages_are_shared_out() {
        let plan = plan(Load::Backlog, "--messages 10 --producers 4").expect("a plan");
        assert_eq!((0..4).filter_map(|at| plan.share(at)).sum::<u64>(), 10);
        assert_eq!(plan.share(3), Some(2));
    }
}
