//! Figures of several rounds, and a Markdown table of their medians.

use std::fmt::Display;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// One figure of one broker, round by round.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Series(pub(crate) Vec<f64>);

impl Series {
    /// Takes a round's figure, and says it at once: who measures for long keeps what there was
    /// before a failure.
    pub(crate) fn take(&mut self, what: impl Display, figure: f64) {
        println!("# {what}: {}", number(figure));
        self.0.push(figure);
    }

    /// The middle figure; of an even number the mean of the two in the middle.
    pub(crate) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = sorted.get(middle)?;
        if sorted.len() % 2 == 1 {
            return Some(*upper);
        }
        Some(f64::midpoint(sorted[middle - 1], *upper))
    }

    /// The median with the smallest and largest figure behind it.
    pub(crate) fn shown(&self) -> String {
        let Some(median) = self.median() else {
            return "-".to_owned();
        };
        if self.0.len() == 1 {
            return number(median);
        }
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("{} ({}..{})", number(median), number(least), number(most))
    }
}

/// Figures by what they are of, in the order in which they were first seen.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<(&'static str, Series)>);

impl Figures {
    pub(crate) fn add(&mut self, what: &'static str, figure: f64) {
        let known = self.0.iter().position(|(known, _)| *known == what);
        let at = known.unwrap_or_else(|| {
            self.0.push((what, Series::default()));
            self.0.len() - 1
        });
        self.0[at].1.take(what, figure);
    }

    pub(crate) fn of(&self, what: &str) -> Option<&Series> {
        let found = self.0.iter().find(|(known, _)| *known == what);
        found.map(|(_, series)| series)
    }

    /// A row each.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let row = |(what, series): &(&str, Series)| vec![(*what).to_owned(), series.shown()];
        self.0.iter().map(row).collect()
    }
}

/// A number of a load's summary.
///
/// # Errors
/// When there is none.
pub(crate) fn field(summary: &Value, pointer: &str) -> Result<f64> {
    let found = summary.pointer(pointer).and_then(Value::as_f64);
    found.with_context(|| format!("no {pointer} in {summary}"))
}

/// A figure with three significant digits, or all of those before the point.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        return format!("{:.2}M", value / 1e6);
    }
    if size >= 1e4 {
        return format!("{:.1}k", value / 1e3);
    }
    let digits = match size {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Rows below a head, padded so that they read without a renderer too.
pub(crate) fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[&str]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(c, w)| format!("{c:<w$}"))
            .collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = line(head) + &line(&rules.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows {
        text += &line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Series::default().median(), None);
        assert_eq!(Series(vec![3.0, 9.0, 1.0]).median(), Some(3.0));
        assert_eq!(Series(vec![3.0, 9.0, 1.0, 5.0]).median(), Some(4.0));
        assert_eq!(Series(vec![3.0, 9.0, 1.0]).shown(), "3.00 (1.00..9.00)");
        assert_eq!(Series::default().shown(), "-");
    }

    #[test]
    fn figures_are_rows_in_the_order_of_their_first_round() {
        let mut figures = Figures::default();
        for (what, figure) in [("b", 1.0), ("a", 5.0), ("b", 3.0)] {
            figures.add(what, figure);
        }
        assert_eq!(
            figures.rows(),
            [["b", "2.00 (1.00..3.00)"], ["a", "5.00"]].map(|row| row.map(str::to_owned))
        );
        assert_eq!(figures.of("a"), Some(&Series(vec![5.0])));
        assert_eq!(figures.of("c"), None);
    }

    #[test]
    fn figures_keep_three_digits() {
        let shown: Vec<String> = [0.1239, 1.239, 12.39, 123.9, 1239.0, 12390.0, 1_239_000.0]
            .map(number)
            .into();
        assert_eq!(
            shown,
            ["0.124", "1.24", "12.4", "124", "1239", "12.4k", "1.24M"]
        );
    }

    #[test]
    fn tables_are_markdown() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), "22".to_owned()],
        ];
        let text = markdown(&["load", "x"], &rows);
        assert_eq!(
            text,
            "| load | x  |\n| ---- | -- |\n| a    | 1  |\n| long | 22 |\n"
        );
    }
}
