//! The flags that loads share, and what their values are made of.

use std::str::FromStr;
use std::time::Duration;

use warren_protocol::{FieldTable, FieldValue, ShortString};

use super::uri::Uri;

/// Flags of every load.
#[derive(clap::Args, Debug)]
pub(super) struct Common {
    /// Brokers, given several times or separated by commas; connections take them in turn.
    #[arg(
        long,
        value_name = "URI",
        default_value = "amqp://127.0.0.1:5672",
        value_delimiter = ','
    )]
    pub(super) uri: Vec<Uri>,
    /// Processes of the broker: their CPU time and memory are reported.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(super) pid: Vec<u32>,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub(super) json: bool,
    /// Percentiles of the latencies.
    #[arg(
        long,
        value_name = "LIST",
        default_value = "50,90,99,99.9",
        value_delimiter = ',',
        value_parser = percentile
    )]
    pub(super) percentiles: Vec<f64>,
    /// Threads that carry the load [default: 2, or 1 where latency counts].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) threads: Option<u16>,
}

/// Flags of the loads that publish and consume.
#[derive(clap::Args, Debug)]
pub(super) struct Traffic {
    #[command(flatten)]
    pub(super) common: Common,
    /// Producers, each with its own connection.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) producers: u32,
    /// Consumers, each with its own connection [default: 1; fanout: one a queue].
    #[arg(long, value_name = "N")]
    pub(super) consumers: Option<u32>,
    /// Queues; producers and consumers share them out [default: 1; fanout: 10].
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(super) queues: Option<u32>,
    /// Bytes of a message's body, as 16, 1k (1024) or 10m; below 16 there is no latency.
    #[arg(long, value_name = "BYTES", default_value = "1k", value_parser = size)]
    pub(super) size: usize,
    /// Messages per second of all producers together; latency then counts from when a message was
    /// due [default: as fast as it goes; latency: 1000].
    #[arg(long, value_name = "RATE", value_parser = positive)]
    pub(super) rate: Option<f64>,
    /// Publisher confirms, with at most so many messages outstanding for each producer.
    #[arg(long, value_name = "WINDOW", value_parser = window)]
    pub(super) confirm: Option<usize>,
    /// auto (none), each, or multiple:N (one for every N messages).
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(super) ack: Ack,
    /// Messages of each of its queues that a consumer may hold unacknowledged; 0 is no limit.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) prefetch: u16,
    /// Publish with delivery mode 2.
    #[arg(long)]
    pub(super) persistent: bool,
    /// Publish as mandatory; what comes back is counted as returned.
    #[arg(long)]
    pub(super) mandatory: bool,
    #[command(flatten)]
    pub(super) declare: Declare,
    /// Do not declare the queues: they are there, named PREFIX-0, PREFIX-1, ..
    #[arg(long, requires = "prefix")]
    pub(super) predeclared: bool,
    /// Leave the queues behind.
    #[arg(long)]
    pub(super) keep: bool,
    /// Each producer publishes to all queues, in random order.
    #[arg(long)]
    pub(super) random: bool,
    /// Consumers use all brokers but the first, which declares the queues and so leads them.
    #[arg(long)]
    pub(super) consume_elsewhere: bool,
    /// How long to publish, warm-up not counted [default: 10, without --messages].
    #[arg(long, value_name = "SECS", value_parser = time)]
    pub(super) time: Option<Duration>,
    /// How many messages to publish in all; then wait until they are consumed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) messages: Option<u64>,
    /// Load before measuring begins.
    #[arg(long, value_name = "SECS", default_value = "0", value_parser = time)]
    pub(super) warmup: Duration,
    /// Check by sequence numbers that nothing is lost, doubled, out of order or never sent.
    #[arg(long)]
    pub(super) check: bool,
    /// Connect again when a connection is lost; publish again what was not confirmed.
    #[arg(long)]
    pub(super) reconnect: bool,
    /// In the end, give up waiting for messages or confirms when none came for so long.
    #[arg(long, value_name = "SECS", default_value = "5", value_parser = time)]
    pub(super) patience: Duration,
}

/// Flags that say what queues are like.
#[derive(clap::Args, Debug)]
pub(super) struct Declare {
    /// Names of queues (and of the exchange) begin with it [default: perf-PID].
    #[arg(long, value_name = "NAME")]
    pub(super) prefix: Option<String>,
    /// Declare durable queues.
    #[arg(long)]
    pub(super) durable: bool,
    /// An argument of the queues: numbers and true or false are sent as such, `K=str:V` as text.
    #[arg(long, value_name = "K=V")]
    pub(super) queue_arg: Vec<QueueArgument>,
}

impl Declare {
    pub(super) fn prefix(&self) -> String {
        let unique = || format!("perf-{}", std::process::id());
        self.prefix.clone().unwrap_or_else(unique)
    }

    /// The arguments in wire form.
    pub(super) fn arguments(&self) -> Vec<u8> {
        let pair = |argument: &QueueArgument| (argument.0.clone(), argument.1.clone());
        self.queue_arg
            .iter()
            .map(pair)
            .collect::<FieldTable>()
            .to_bytes()
    }
}

/// When a consumer acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    Auto,
    Each,
    /// One `multiple` for so many.
    Multiple(u32),
}

impl FromStr for Ack {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "each" => Ok(Self::Each),
            _ => match text.strip_prefix("multiple:").map(str::parse) {
                Some(Ok(count)) if count > 0 => Ok(Self::Multiple(count)),
                _ => Err("auto, each or multiple:N is expected".to_owned()),
            },
        }
    }
}

/// A queue argument with its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueArgument(ShortString, FieldValue);

impl FromStr for QueueArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("K=V is expected")?;
        let name = ShortString::try_from(name).map_err(|_| "the name is too long")?;
        let text = |text: &str| FieldValue::LongStr(text.as_bytes().to_vec());
        let value = match (value.strip_prefix("str:"), value.parse(), value.parse()) {
            (Some(value), ..) => text(value),
            (None, Ok(number), _) => FieldValue::Long(number),
            (None, _, Ok(flag)) => FieldValue::Bool(flag),
            (None, ..) => text(value),
        };
        Ok(Self(name, value))
    }
}

/// Parses a number of things of which there must be one.
pub(super) fn at_least_one() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// A number of bytes, with `k` or `m` for powers of 1024.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.as_bytes() {
        [.., b'k'] => (&lower[..lower.len() - 1], 1024),
        [.., b'm'] => (&lower[..lower.len() - 1], 1024 * 1024),
        _ => (lower.as_str(), 1),
    };
    let number: usize = digits.parse().map_err(|_| "not a number of bytes")?;
    let bytes = number.saturating_mul(unit);
    if bytes as u64 > warren_protocol::limits::BODY_BYTES_MAX {
        return Err("larger than a message may be (512m)".to_owned());
    }
    Ok(bytes)
}

/// Seconds, with a fraction.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number <= 1e9 => Ok(number),
        _ => Err("a number above 0 is expected".to_owned()),
    }
}

fn percentile(text: &str) -> Result<f64, String> {
    match text.trim_start_matches('p').parse() {
        Ok(number) if number > 0.0 && number <= 100.0 => Ok(number),
        _ => Err("a number above 0, up to 100, is expected".to_owned()),
    }
}

fn window(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(window) if (1..=1_000_000).contains(&window) => Ok(window),
        _ => Err("a number from 1 to 1000000 is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(size("16"), Ok(16));
        assert_eq!(size("1k"), Ok(1024));
        assert_eq!(size("10M"), Ok(10 << 20));
        assert!(size("1g").is_err());
        assert!(size("513m").is_err());
        assert_eq!(time("0.5"), Ok(Duration::from_millis(500)));
        assert!(time("-1").is_err());
        assert!(window("0").is_err());
        assert_eq!(percentile("p99.9"), Ok(99.9));
        assert!(percentile("101").is_err());
    }

    #[test]
    fn acks() {
        assert_eq!("each".parse(), Ok(Ack::Each));
        assert_eq!("multiple:50".parse(), Ok(Ack::Multiple(50)));
        assert!("multiple:0".parse::<Ack>().is_err());
        assert!("multiple".parse::<Ack>().is_err());
    }

    #[test]
    fn queue_arguments_have_types() {
        let value = |text: &str| text.parse::<QueueArgument>().expect(text).1;
        assert_eq!(value("x-max-length=10"), FieldValue::Long(10));
        assert_eq!(
            value("x-single-active-consumer=true"),
            FieldValue::Bool(true)
        );
        assert_eq!(
            value("x-queue-type=quorum"),
            FieldValue::LongStr(b"quorum".to_vec())
        );
        assert_eq!(value("x=str:10"), FieldValue::LongStr(b"10".to_vec()));
        assert!("x".parse::<QueueArgument>().is_err());
    }
}
