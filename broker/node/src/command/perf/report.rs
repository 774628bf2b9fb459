//! What a load test says in the end: one JSON object, or the same as lines.
//!
//! The names of the fields are stable; what does not apply is left out. Rates are per second of the
//! measured part (after the warm-up), counts are of the whole run.

use serde::{Serialize, Serializer};

use super::check::Findings;
use super::gauge::Totals;
use super::histogram::Histogram;
use super::process::Cost;

/// The result of a load with producers and consumers.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) load: &'static str,
    /// Whether there was no error and no finding.
    pub(super) ok: bool,
    pub(super) errors: Vec<String>,
    /// Length of the measured part.
    pub(super) seconds: f64,
    #[serde(flatten)]
    pub(super) totals: Totals,
    pub(super) send_rate: f64,
    pub(super) confirm_rate: f64,
    pub(super) receive_rate: f64,
    /// From when a message was due (or was encoded, without a rate) until it was received.
    #[serde(skip_serializing_if = "Latency::is_none")]
    pub(super) latency_us: Latency,
    /// The same until it was confirmed.
    #[serde(skip_serializing_if = "Latency::is_none")]
    pub(super) confirm_latency_us: Latency,
    #[serde(flatten)]
    pub(super) findings: Option<Findings>,
    #[serde(flatten)]
    pub(super) cost: Option<Cost>,
    /// A backlog's two phases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) publish_phase: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) drain_phase: Option<Part>,
}

/// A part of a run by itself.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub(super) seconds: f64,
    pub(super) messages: u64,
    pub(super) rate: f64,
    #[serde(flatten)]
    pub(super) cost: Option<Cost>,
}

/// A summary of durations, in microseconds.
#[derive(Debug)]
pub(super) struct Latency(Vec<(String, f64)>);

impl Latency {
    /// Count, minimum, mean, each of `percentiles` and maximum; nothing without values.
    pub(super) fn of(histogram: &Histogram, percentiles: &[f64]) -> Self {
        if histogram.count() == 0 {
            return Self(Vec::new());
        }
        let mut fields = vec![
            ("count".to_owned(), histogram.count() as f64),
            ("min".to_owned(), microseconds(histogram.min())),
            ("mean".to_owned(), microseconds(histogram.mean())),
        ];
        for percent in percentiles {
            let value = microseconds(histogram.percentile(*percent));
            fields.push((format!("p{percent}"), value));
        }
        fields.push(("max".to_owned(), microseconds(histogram.max())));
        Self(fields)
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Prints a report on stdout.
///
/// # Errors
/// Not in practice: reports have only names as keys.
pub(super) fn print(report: &impl Serialize, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{}", lines(&serde_json::to_string_pretty(report)?));
    }
    Ok(())
}

/// JSON with a field a line, without its punctuation.
fn lines(pretty: &str) -> String {
    let mut out = String::new();
    for line in pretty.lines() {
        let line = line
            .strip_prefix("  ")
            .unwrap_or(line)
            .trim_end_matches(['{', '[', ',']);
        if line.trim().is_empty() || line.trim() == "}" || line.trim() == "]" {
            continue;
        }
        let line = line
            .trim_end_matches("[]")
            .replacen('"', "", 2)
            .replace('"', "");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// To three decimals.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// How many a second; 0 when no time has passed.
pub(super) fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        rounded(count as f64 / seconds)
    } else {
        0.0
    }
}

pub(super) fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut histogram = Histogram::default();
        histogram.record(1_500);
        Report {
            load: "latency",
            ok: false,
            errors: vec!["connection lost".to_owned()],
            seconds: 1.0,
            totals: Totals::default(),
            send_rate: 2.5,
            confirm_rate: 0.0,
            receive_rate: 0.0,
            latency_us: Latency::of(&histogram, &[50.0, 99.9]),
            confirm_latency_us: Latency::of(&Histogram::default(), &[50.0]),
            findings: Some(Findings::default()),
            cost: None,
            publish_phase: None,
            drain_phase: None,
        }
    }

    #[test]
    fn names_are_stable() {
        let json = serde_json::to_value(report()).expect("a report");
        let names: Vec<_> = json
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        let expected = "blocked confirm_rate confirmed duplicated duplicated_by_redelivery \
                        duplicated_by_resend errors foreign ghosts latency_us load lost nacked ok \
                        receive_rate received reconnects redelivered reordered \
                        reordered_by_resend resent returned seconds send_rate sent";
        assert_eq!(names.join(" "), expected);
        assert_eq!(json["latency_us"]["p99.9"], 1.5);
    }

    #[test]
    fn lines_are_the_same_without_punctuation() {
        let pretty = serde_json::to_string_pretty(&report()).expect("a report");
        let text = lines(&pretty);
        assert!(
            text.starts_with("load: latency\nok: false\nerrors:\n  connection lost\n"),
            "{text}"
        );
        assert!(text.contains("latency_us:\n  count: 1.0\n"), "{text}");
        assert!(!text.contains(['{', '}', '"', ',']), "{text}");
    }
}
