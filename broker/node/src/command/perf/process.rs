//! What the broker's processes cost: CPU time and memory, from `/proc`.

use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Units of `/proc/PID/stat`'s times: USER_HZ, which Linux fixes at 100 on every architecture that
/// we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// The sum over some processes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) rss_bytes: u64,
    /// The most that was ever resident, each process at its own moment.
    pub(super) rss_peak_bytes: u64,
}

/// What a part of a run cost the broker.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Cost {
    /// User and system time of the measured part.
    pub(super) broker_cpu_seconds: f64,
    /// Per message that was received (or sent, where nothing is received).
    pub(super) messages_per_broker_cpu_second: Option<f64>,
    /// Cores in use on average.
    pub(super) broker_cores: f64,
    pub(super) broker_rss_bytes_before: u64,
    /// At the end of the measured part.
    pub(super) broker_rss_bytes: u64,
    /// `VmHWM`: of the process's whole life.
    pub(super) broker_rss_peak_bytes: u64,
}

impl Usage {
    /// Reads what the processes use now; `None` for no processes.
    ///
    /// # Errors
    /// When one of them is gone.
    pub(super) fn read(pids: &[u32]) -> Result<Option<Self>> {
        let mut sum = Self::default();
        for pid in pids {
            let read = |name: &str| {
                let path = format!("/proc/{pid}/{name}");
                fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
            };
            let one = Self::parse(&read("stat")?, &read("status")?)
                .with_context(|| format!("cannot make sense of /proc/{pid}"))?;
            sum.cpu_seconds += one.cpu_seconds;
            sum.rss_bytes += one.rss_bytes;
            sum.rss_peak_bytes += one.rss_peak_bytes;
        }
        Ok((!pids.is_empty()).then_some(sum))
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The second field is the command in brackets, which may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let user: f64 = fields.nth(11)?.parse().ok()?;
        let system: f64 = fields.next()?.parse().ok()?;
        let kibibytes = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        Some(Self {
            cpu_seconds: (user + system) / TICKS_PER_SECOND,
            rss_bytes: kibibytes("VmRSS:")? * 1024,
            rss_peak_bytes: kibibytes("VmHWM:")? * 1024,
        })
    }

    /// What was used from `before` until now, over `seconds`, for `messages`.
    pub(super) fn since(&self, before: &Self, seconds: f64, messages: u64) -> Cost {
        let cpu_seconds = self.cpu_seconds - before.cpu_seconds;
        let measurable = cpu_seconds > 0.0 && messages > 0;
        Cost {
            broker_cpu_seconds: super::report::rounded(cpu_seconds),
            messages_per_broker_cpu_second: measurable
                .then(|| super::report::rounded(messages as f64 / cpu_seconds)),
            broker_cores: super::report::rounded(cpu_seconds / seconds.max(1e-9)),
            broker_rss_bytes_before: before.rss_bytes,
            broker_rss_bytes: self.rss_bytes,
            broker_rss_peak_bytes: self.rss_peak_bytes,
        }
    }
}

impl Cost {
    /// By how much memory has grown; negative when it has shrunk.
    pub(super) const fn broker_rss_growth_bytes(&self) -> i64 {
        self.broker_rss_bytes as i64 - self.broker_rss_bytes_before as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_whatever_the_command_is_called() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0";
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let expected = Usage {
            cpu_seconds: 3.0,
            rss_bytes: 1 << 20,
            rss_peak_bytes: 2 << 20,
        };
        assert_eq!(Usage::parse(stat, status), Some(expected));
        assert_eq!(Usage::parse("7 (a", status), None);
        assert_eq!(Usage::parse(stat, "Name:\ta\n"), None);
    }

    #[test]
    fn reads_this_process() {
        let usage = Usage::read(&[std::process::id()]).expect("we exist");
        assert!(usage.expect("one process").rss_bytes > 0);
        assert_eq!(Usage::read(&[]).expect("nothing to read"), None);
    }
}
