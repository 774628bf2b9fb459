//! What client verbs print: tables for people, JSON for programs, progress while something runs.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// Without a terminal: a line so often.
const LINE_PERIOD: Duration = Duration::from_secs(2);

/// The exit code of a command that was carried out, with an answer that is not the hoped-for one.
pub(crate) const EXIT_NO: i32 = 3;

/// Prints rows under a head.
pub(crate) fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head);
    table.add_rows(rows);
    let mut out = io::stdout().lock();
    for line in table.lines() {
        writeln!(out, "{}", line.trim())?;
    }
    out.flush()
}

/// Prints JSON.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value:#}")?;
    out.flush()
}

/// Shows on standard error how far something is.
pub(crate) struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    said: Option<Instant>,
    at: Option<(u32, u32)>,
}

impl Progress {
    pub(crate) fn new(what: &'static str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {elapsed}");
            let bar = ProgressBar::new(0).with_message(what);
            match style {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        });
        Self {
            what,
            bar,
            said: None,
            at: None,
        }
    }

    pub(crate) fn set(&mut self, done: u32, total: u32) {
        if let Some(bar) = &self.bar {
            bar.set_length(u64::from(total));
            bar.set_position(u64::from(done));
            return;
        }
        // What stands still is said seldom.
        let period = if self.at == Some((done, total)) {
            10 * LINE_PERIOD
        } else {
            LINE_PERIOD
        };
        let is_due = self.said.is_none_or(|said| said.elapsed() >= period);
        if is_due {
            self.said = Some(Instant::now());
            self.at = Some((done, total));
            eprintln!("{}: {done} of {total} parts", self.what);
        }
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
