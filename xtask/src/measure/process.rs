//! What a process has used, from `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

use crate::run::Call;

/// CPU time and memory of one process up to now.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Usage {
    /// User and system time of all its threads, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Resident now, and at most so far, in bytes.
    pub(crate) resident: u64,
    pub(crate) resident_peak: u64,
}

impl Usage {
    /// Reads it.
    ///
    /// # Errors
    /// When the process is gone, or the system is not Linux.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let hertz = Call::new("getconf").arg("CLK_TCK").quiet().output()?;
        let hertz = hertz.trim().parse().context("CLK_TCK is no number")?;
        Self::parse(&read("stat")?, &read("status")?, hertz).context("/proc reads unlike Linux's")
    }

    /// Of several processes together.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn total(pids: &[u32]) -> Result<Self> {
        let nothing = Self {
            cpu_seconds: 0.0,
            resident: 0,
            resident_peak: 0,
        };
        pids.iter().try_fold(nothing, |sum, pid| {
            let one = Self::of(*pid)?;
            Ok(Self {
                cpu_seconds: sum.cpu_seconds + one.cpu_seconds,
                resident: sum.resident + one.resident,
                resident_peak: sum.resident_peak + one.resident_peak,
            })
        })
    }

    fn parse(stat: &str, status: &str, hertz: f64) -> Option<Self> {
        // The name in parentheses may hold anything: fields count from behind it. Behind it comes
        // the state as field 3; utime and stime are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')')?;
        let field = |number: usize| {
            fields
                .split_whitespace()
                .nth(number - 3)?
                .parse::<f64>()
                .ok()
        };
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib * 1024)
        };
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / hertz,
            resident: bytes("VmRSS:")?,
            resident_peak: bytes("VmHWM:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_and_status_are_read() {
        let stat = "42 (a ) b) S 1 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 100 1 2 3";
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let usage = Usage::parse(stat, status, 100.0).unwrap();
        assert_eq!(
            usage,
            Usage {
                cpu_seconds: 3.0,
                resident: 1 << 20,
                resident_peak: 2 << 20
            }
        );
        assert_eq!(Usage::parse("42 (x", status, 100.0), None);
    }

    #[test]
    fn our_own_usage_is_there() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident > 0);
        assert!(usage.resident_peak > 0);
    }
}
