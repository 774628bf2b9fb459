//! The node's metrics: a recorder behind the `metrics` facade, and Prometheus' text form.
//!
//! Names are RabbitMQ's, so that its dashboards work. What is counted per message is counted in
//! the session and added here once a turn.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

use crate::sessions::lock;

/// Upper bounds of every histogram's buckets, with the spelling that dashboards expect.
const BUCKETS: [(f64, &str); 8] = [
    (100.0, "100.0"),
    (1e3, "1000.0"),
    (1e4, "10000.0"),
    (1e5, "100000.0"),
    (1e6, "1e+06"),
    (1e7, "1e+07"),
    (5e7, "5e+07"),
    (1e8, "1e+08"),
];

#[derive(Default)]
struct Cell(AtomicU64);

impl CounterFn for Cell {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

/// A gauge keeps the bits of its float.
#[derive(Default)]
struct Level(AtomicU64);

impl Level {
    fn change(&self, by: f64) {
        let mut bits = self.0.load(Ordering::Relaxed);
        loop {
            let next = (f64::from_bits(bits) + by).to_bits();
            match self
                .0
                .compare_exchange_weak(bits, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => bits = now,
            }
        }
    }
}

impl GaugeFn for Level {
    fn increment(&self, value: f64) {
        self.change(value);
    }

    fn decrement(&self, value: f64) {
        self.change(-value);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Buckets {
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum: Level,
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let bucket = BUCKETS.iter().position(|(bound, _)| value <= *bound);
        self.counts[bucket.unwrap_or(BUCKETS.len())].fetch_add(1, Ordering::Relaxed);
        self.sum.change(value);
    }
}

#[derive(Default)]
struct Tables {
    counters: BTreeMap<Key, Arc<Cell>>,
    gauges: BTreeMap<Key, Arc<Level>>,
    histograms: BTreeMap<Key, Arc<Buckets>>,
    help: BTreeMap<String, SharedString>,
}

/// Keeps every metric of the process. Names and labels are the program's own, so their number
/// is bounded by the source.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    tables: Arc<Mutex<Tables>>,
}

impl Registry {
    fn describe(&self, name: &KeyName, help: SharedString) {
        lock(&self.tables)
            .help
            .insert(name.as_str().to_owned(), help);
    }

    /// Prometheus' text exposition format, version 0.0.4.
    pub(crate) fn render(&self) -> String {
        let tables = lock(&self.tables);
        let mut out = String::with_capacity(16 * 1024);
        let mut last = String::new();
        for (key, cell) in &tables.counters {
            head(&mut out, &mut last, key.name(), "counter", &tables.help);
            let value = cell.0.load(Ordering::Relaxed);
            let _ = writeln!(out, "{}{} {value}", key.name(), labels(key, None));
        }
        for (key, level) in &tables.gauges {
            head(&mut out, &mut last, key.name(), "gauge", &tables.help);
            let value = f64::from_bits(level.0.load(Ordering::Relaxed));
            let _ = writeln!(out, "{}{} {value}", key.name(), labels(key, None));
        }
        for (key, buckets) in &tables.histograms {
            head(&mut out, &mut last, key.name(), "histogram", &tables.help);
            render_histogram(&mut out, key, buckets);
        }
        out
    }
}

fn render_histogram(out: &mut String, key: &Key, buckets: &Buckets) {
    let mut total = 0;
    let bounds = BUCKETS.iter().map(|(_, text)| *text).chain(["+Inf"]);
    for (count, bound) in buckets.counts.iter().zip(bounds) {
        total += count.load(Ordering::Relaxed);
        let _ = writeln!(
            out,
            "{}_bucket{} {total}",
            key.name(),
            labels(key, Some(bound))
        );
    }
    let sum = f64::from_bits(buckets.sum.0.load(Ordering::Relaxed));
    let _ = writeln!(out, "{}_sum{} {sum}", key.name(), labels(key, None));
    let _ = writeln!(out, "{}_count{} {total}", key.name(), labels(key, None));
}

fn head(
    out: &mut String,
    last: &mut String,
    name: &str,
    kind: &str,
    help: &BTreeMap<String, SharedString>,
) {
    if last == name {
        return;
    }
    if let Some(text) = help.get(name) {
        let _ = writeln!(out, "# HELP {name} {text}");
    }
    let _ = writeln!(out, "# TYPE {name} {kind}");
    name.clone_into(last);
}

fn labels(key: &Key, bound: Option<&str>) -> String {
    let mut pairs: Vec<String> = key
        .labels()
        .map(|label| {
            let value = label
                .value()
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{}=\"{value}\"", label.key())
        })
        .collect();
    pairs.extend(bound.map(|bound| format!("le=\"{bound}\"")));
    if pairs.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", pairs.join(","))
    }
}

impl Recorder for Registry {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&key, help);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&key, help);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&key, help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut tables = lock(&self.tables);
        Counter::from_arc(Arc::clone(tables.counters.entry(key.clone()).or_default()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut tables = lock(&self.tables);
        Gauge::from_arc(Arc::clone(tables.gauges.entry(key.clone()).or_default()))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut tables = lock(&self.tables);
        Histogram::from_arc(Arc::clone(
            tables.histograms.entry(key.clone()).or_default(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_prometheus_reads() {
        let registry = Registry::default();
        metrics::with_local_recorder(&registry, || {
            metrics::describe_counter!("warren_test_total", "Tests.");
            metrics::counter!("warren_test_total", "protocol" => "amqp\"091").increment(3);
            metrics::gauge!("warren_level").set(1.5);
            metrics::histogram!("warren_size_bytes").record(1000.0);
            metrics::histogram!("warren_size_bytes").record(2e9);
        });
        let text = registry.render();
        assert!(text.contains("# HELP warren_test_total Tests.\n"));
        assert!(text.contains("# TYPE warren_test_total counter\n"));
        assert!(text.contains("warren_test_total{protocol=\"amqp\\\"091\"} 3\n"));
        assert!(text.contains("warren_level 1.5\n"));
        assert!(text.contains("warren_size_bytes_bucket{le=\"100.0\"} 0\n"));
        assert!(text.contains("warren_size_bytes_bucket{le=\"1000.0\"} 1\n"));
        assert!(text.contains("warren_size_bytes_bucket{le=\"+Inf\"} 2\n"));
        assert!(text.contains("warren_size_bytes_count 2\n"));
    }
}
