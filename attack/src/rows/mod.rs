//! The rows: each is a short program for a failure that was once seen. One file for each section of the issue that
//! they
//! come from.
#![allow(
    clippy::unnecessary_wraps,
    reason = "all rows have one signature, and most can fail to set their scene"
)]

use crate::scene::{Kind, Scene, Setting};

mod commands;
mod disk;
mod keys;
mod login;
mod memory;
mod outbound;
mod process;
mod records;
mod time;

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// The claim that it checks.
    pub claim: &'static str,
    /// Its scene.
    pub scene: Kind,
    /// What it needs to run.
    pub needs: Needs,
    /// The attack.
    pub run: fn(&Scene<'_>) -> anyhow::Result<Verdict>,
}

/// What a row needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// More time than a short run allows.
    Time,
    /// A database in a file.
    File,
    /// To be root, in a directory of another user.
    Root,
    /// To be root, and a database in a file.
    RootAndFile,
}

/// Whether a row holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds; with the result of the attack.
    Holds(String),
    /// It does not hold; with the reason.
    Fails(String),
    /// This run cannot decide; with the reason.
    Skipped(String),
}

impl Verdict {
    /// Whether it holds, with details.
    #[must_use]
    pub fn of(holds: bool, seen: impl Into<String>) -> Self {
        if holds { Self::Holds(seen.into()) } else { Self::Fails(seen.into()) }
    }

    /// Adds a reason why it does not hold.
    #[must_use]
    pub fn and_fails(self, reason: &str) -> Self {
        match self {
            Self::Holds(seen) if seen.is_empty() => Self::Fails(reason.to_owned()),
            Self::Holds(seen) => Self::Fails(format!("{reason} ({seen})")),
            Self::Fails(seen) | Self::Skipped(seen) => Self::Fails(format!("{seen}; {reason}")),
        }
    }

    /// Whether no reason against it was found.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        !matches!(self, Self::Fails(_))
    }
}

/// All rows, in the order of the sections.
pub static ROWS: [&[Row]; 9] = [
    keys::ROWS,
    process::ROWS,
    memory::ROWS,
    time::ROWS,
    disk::ROWS,
    outbound::ROWS,
    records::ROWS,
    login::ROWS,
    commands::ROWS,
];

/// One after another.
pub fn all() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().copied().flatten()
}

impl Row {
    /// Why it cannot run here.
    #[must_use]
    pub fn left_out(&self, setting: &Setting) -> Option<String> {
        let is_root = rustix::process::geteuid().is_root();
        let text = match self.needs {
            Needs::Time if setting.short => "takes longer than a short run",
            Needs::File | Needs::RootAndFile if setting.postgres.is_some() => "is about SQLite",
            Needs::Root | Needs::RootAndFile if !is_root => "needs root",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_a_name_of_its_own() {
        let names: Vec<_> = all().map(|row| row.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), names.len());
        assert!(names.iter().all(|name| name.len() <= 22), "the table has room for 22 characters");
    }

    #[test]
    fn a_row_that_fails_says_every_reason() {
        let seen = Verdict::of(true, "12 × 413").and_fails("one").and_fails("two");
        assert_eq!(seen, Verdict::Fails("one (12 × 413); two".to_owned()));
        assert!(!seen.is_good() && Verdict::Skipped(String::new()).is_good());
    }
}
