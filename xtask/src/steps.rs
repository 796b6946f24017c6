//! The steps of `cargo xtask test`: which there are, which are chosen, and how a run of them is told.
//!
//! Each is announced with one line and timed; the first that fails ends the run; a table sums it up either way.
#![allow(
    clippy::disallowed_methods,
    reason = "the time a step takes is shown to a person, and nothing depends on it"
)]

use std::time::{Duration, Instant};

use crate::{attack, chaos, checks, setup};

/// Steps that are chosen or left out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Setup,
    Fmt,
    Lint,
    Deny,
    Rust,
    Postgres,
    E2e,
    Attack,
}

/// What became of a step that did not fail.
#[derive(Debug)]
pub enum Done {
    Passed,
    /// Nothing to do, for this reason.
    Nothing(&'static str),
    /// Passed without one part, which is named with the reason.
    PassedWithout(String),
}

impl Done {
    const fn word(&self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Nothing(_) => "ready",
            Self::PassedWithout(_) => "partly",
        }
    }
}

struct Step {
    group: Group,
    title: &'static str,
    run: fn(&Selection) -> Result<Done, String>,
}

const STEPS: [Step; 14] = [
    Step { group: Group::Setup, title: "install missing system packages", run: setup::packages },
    Step { group: Group::Setup, title: "look for rustfmt and clippy", run: setup::components },
    Step { group: Group::Fmt, title: "check the format", run: checks::format },
    Step { group: Group::Lint, title: "check the lints", run: checks::lint },
    Step { group: Group::Deny, title: "install cargo-deny", run: setup::cargo_deny_program },
    Step { group: Group::Deny, title: "check the rules for dependencies", run: checks::deny },
    Step { group: Group::Rust, title: "run the Rust tests", run: checks::rust_tests },
    Step { group: Group::Rust, title: "run the examples in the documentation", run: checks::doc_tests },
    Step { group: Group::Postgres, title: "run the tests on PostgreSQL", run: checks::postgres_tests },
    Step { group: Group::Postgres, title: "break three servers and their database", run: chaos::short },
    Step {
        group: Group::E2e,
        title: "install the npm packages of the end-to-end tests",
        run: setup::node_modules,
    },
    Step {
        group: Group::E2e,
        title: "install the Python packages of the end-to-end tests",
        run: setup::python_environment,
    },
    Step { group: Group::E2e, title: "run the end-to-end tests", run: checks::end_to_end },
    Step { group: Group::Attack, title: "attack as one tenant while another works", run: attack::short },
];

/// The chosen groups.
#[derive(Debug, PartialEq, Eq)]
pub struct Selection(Vec<Group>);

impl Group {
    const ALL: [Self; 8] =
        [Self::Setup, Self::Fmt, Self::Lint, Self::Deny, Self::Rust, Self::Postgres, Self::E2e, Self::Attack];

    fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Fmt => "fmt",
            Self::Lint => "lint",
            Self::Deny => "deny",
            Self::Rust => "rust",
            Self::Postgres => "postgres",
            Self::E2e => "e2e",
            Self::Attack => "attack",
        }
    }

    fn parse(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|group| group.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no group of steps `{name}`; there are: {names}")
        })
    }
}

impl Selection {
    /// Reads `--only a,b` and `--skip a,b`; everything when neither is given.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut chosen = Group::ALL.to_vec();
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("`{flag}` needs the names of groups"))?;
            let named = value.split(',').map(Group::parse).collect::<Result<Vec<_>, _>>()?;
            match flag.as_str() {
                "--only" => chosen.retain(|group| named.contains(group)),
                "--skip" => chosen.retain(|group| !named.contains(group)),
                _ => {
                    return Err(format!("there is no flag `{flag}`; there are: --only, --skip"));
                }
            }
        }
        if chosen.is_empty() {
            return Err("nothing is left to run".to_owned());
        }
        Ok(Self(chosen))
    }

    /// One group alone.
    pub fn only(group: Group) -> Self {
        Self(vec![group])
    }

    pub fn includes(&self, group: Group) -> bool {
        self.0.contains(&group)
    }
}

/// The only place of this crate that reads the clock.
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Runs the chosen steps in order, up to the first that fails. Lists the skipped steps at the end, with the reason.
pub fn run(selection: &Selection) -> Result<(), String> {
    let whole = Stopwatch::start();
    let chosen = STEPS.iter().filter(|step| selection.includes(step.group)).count();
    let mut number = 0;
    let mut summary = Vec::with_capacity(STEPS.len());
    let mut skipped = Vec::new();
    let mut failure = None;
    for step in &STEPS {
        if !selection.includes(step.group) {
            skipped.push(format!("{}: its group was not chosen", step.title));
            continue;
        }
        if failure.is_some() {
            skipped.push(format!("{}: a step before it failed", step.title));
            continue;
        }
        number += 1;
        println!("==> {number}/{chosen} {}", step.title);
        let watch = Stopwatch::start();
        let result = (step.run)(selection);
        let word = result.as_ref().map_or("FAILED", Done::word);
        match result {
            Ok(Done::Passed) => {}
            Ok(Done::Nothing(reason)) => println!("    {reason}"),
            Ok(Done::PassedWithout(part)) => skipped.push(format!("{}: {part}", step.title)),
            Err(message) => failure = Some(format!("\n{} failed: {message}", step.group.name())),
        }
        let seconds = watch.elapsed().as_secs_f64();
        println!("    {word} in {seconds:.1} s");
        summary.push((step, word, seconds));
    }
    println!();
    for (step, word, seconds) in &summary {
        println!("  {:<8}  {:<52}  {word:<6}  {seconds:>7.1} s", step.group.name(), step.title);
    }
    println!("  {:<8}  {:<52}  {:<6}  {:>7.1} s", "", "all of it", "", whole.elapsed().as_secs_f64());
    if skipped.is_empty() {
        println!("\nNothing was skipped.");
    } else {
        println!("\nSkipped:");
        for part in &skipped {
            println!("  {part}");
        }
    }
    failure.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Selection, String> {
        Selection::parse(&arguments.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn groups_are_chosen_and_left_out() {
        assert_eq!(parse(&[]), Ok(Selection(Group::ALL.to_vec())));
        assert_eq!(parse(&["--only", "rust,fmt"]), Ok(Selection(vec![Group::Fmt, Group::Rust])));
        let without = parse(&["--skip", "e2e,setup"]).expect("a selection");
        assert!(
            !without.includes(Group::E2e) && !without.includes(Group::Setup) && without.includes(Group::Rust)
        );
    }

    #[test]
    fn what_does_not_exist_is_named() {
        assert!(parse(&["--only", "ruts"]).is_err_and(|message| message.contains("`ruts`")));
        assert!(parse(&["--fast", "rust"]).is_err_and(|message| message.contains("`--fast`")));
        assert!(parse(&["--only"]).is_err());
        assert!(parse(&["--only", "rust", "--skip", "rust"]).is_err());
    }
}
