//! What the runs found, as tables: aligned text for a terminal, Markdown for a file.
//!
//! Both come from the same cells, so they cannot differ. Nothing here names the host or a path.

use std::fmt::{self, Write as _};
use std::time::Duration;

/// Tables with a line about the machine.
#[derive(Debug)]
pub struct Report {
    /// Cores and processor.
    pub machine: String,
    /// In the order of the runs.
    pub tables: Vec<Table>,
}

/// One table: the first column names the row, the others hold figures.
#[derive(Debug)]
pub struct Table {
    /// The heading.
    pub title: &'static str,
    /// How the figures were made.
    pub note: String,
    /// Their headings.
    pub columns: Vec<&'static str>,
    /// As many cells in each as there are columns.
    pub rows: Vec<Vec<String>>,
}

impl Report {
    /// An empty report that describes this machine.
    #[must_use]
    pub fn new() -> Self {
        Self { machine: machine(), tables: Vec::new() }
    }

    /// The report as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# Measurements\n\n{}\n", self.machine);
        for table in &self.tables {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n## {}\n\n{}\n\n", table.title, table.note);
            let _ = writeln!(text, "| {} |", table.columns.join(" | "));
            let _ = writeln!(text, "|---{}|", "|--:".repeat(table.columns.len().saturating_sub(1)));
            for row in &table.rows {
                let _ = writeln!(text, "| {} |", row.join(" | "));
            }
        }
        text
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header: Vec<String> = self.columns.iter().map(|&column| column.to_owned()).collect();
        let widths: Vec<usize> = (0..header.len())
            .map(|column| {
                let cells = std::iter::once(&header).chain(&self.rows);
                cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        writeln!(out, "{}\n{}", self.title, self.note)?;
        for row in std::iter::once(&header).chain(&self.rows) {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    write!(out, "  {cell:<width$}")?;
                } else {
                    write!(out, "  {cell:>width$}")?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Cores, processor and memory of this machine, in one line.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model.trim());
    format!("{cores} cores ({model}); the load generator runs on the same cores as what it measures.")
}

/// The middle value; the mean of the two middle ones of an even number; 0 of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// A rate, in whole events, with a space between thousands.
#[must_use]
pub fn per_second(rate: f64) -> String {
    let digits = format!("{rate:.0}");
    let mut text = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A duration in milliseconds, or in microseconds when it is short.
#[must_use]
pub fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 1.0 {
        format!("{:.0} µs", ms * 1e3)
    } else if ms < 10.0 {
        format!("{ms:.2} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// A size in megabytes of a million bytes.
#[must_use]
pub fn megabytes(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "sizes stay far below 2^52 bytes")]
    let bytes = bytes as f64;
    format!("{:.1} MB", bytes / 1e6)
}

/// `part` of `whole`, in percent; a dash when there is no whole.
#[must_use]
pub fn share(ratio: f64) -> String {
    if ratio > 0.0 { format!("{:.0} %", ratio * 100.0) } else { "–".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let cases: [(&[f64], f64); 3] = [(&[], 0.0), (&[3.0, 1.0, 2.0], 2.0), (&[4.0, 1.0, 3.0, 2.0], 2.5)];
        for (values, expected) in cases {
            assert!((median(values) - expected).abs() < f64::EPSILON);
        }
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(per_second(999.4), "999");
        assert_eq!(per_second(1_234_567.0), "1 234 567");
        assert_eq!(ms(Duration::from_micros(1_234)), "1.23 ms");
        assert_eq!(ms(Duration::from_micros(93)), "93 µs");
        assert_eq!(share(0.876), "88 %");
    }

    #[test]
    fn both_forms_hold_the_same_cells() {
        let table = Table {
            title: "Grants",
            note: "a note".to_owned(),
            columns: vec!["connections", "grants/s"],
            rows: vec![vec!["1".to_owned(), "8 000".to_owned()]],
        };
        assert_eq!(table.to_string(), "Grants\na note\n  connections  grants/s\n  1               8 000\n");
        let report = Report { machine: "here".to_owned(), tables: vec![table] };
        assert_eq!(
            report.markdown(),
            "# Measurements\n\nhere\n\n## Grants\n\na note\n\n| connections | grants/s |\n|---|--:|\n| 1 | 8 000 |\n"
        );
    }
}
