//! Progress bars, on a terminal only.

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Rows, pages, clients.
    Things(&'static str),
    /// Bytes.
    Bytes,
}

/// A bar on standard error, which shows nothing where nobody looks on.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// An empty bar. `task` says what is under way.
    pub fn new(task: &'static str, unit: Unit) -> Self {
        let count = match unit {
            Unit::Things(name) => format!("{{human_pos}} of {{human_len}} {name}"),
            Unit::Bytes => "{binary_bytes} of {binary_total_bytes}".to_owned(),
        };
        let template = format!("{task} {{wide_bar}} {count}, {{eta}} left");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(0).with_style(style))
    }

    /// How much is done, of how much.
    pub fn set(&mut self, done: u64, total: u64) {
        if self.0.length() != Some(total) {
            self.0.set_length(total);
        }
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The size of a file, for people.
pub fn size_of(file: &std::path::Path) -> String {
    HumanBytes(std::fs::metadata(file).map_or(0, |meta| meta.len())).to_string()
}
