//! The project's own tasks, as `cargo xtask <task>`: one command for everything a change must pass.
//!
//! Only the standard library, so that it compiles in a moment and never waits for what it is about to check.
#![forbid(unsafe_code)]

mod attack;
mod bench;
mod chaos;
mod checks;
mod command;
mod fuzz;
mod postgres;
mod setup;
mod steps;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask <task>

  test    Everything a change must pass: installs what is missing, then format, lints,
          dependency rules, Rust tests, the same on PostgreSQL, and the end-to-end tests
          --only GROUP[,GROUP]   run only these groups of steps
          --skip GROUP[,GROUP]   leave these groups out
          groups: setup, fmt, lint, deny, rust, postgres, e2e, attack
  e2e     The end-to-end tests alone: the real client against the real binary
  fuzz    Feed the parsers what a fuzzer invents; needs cargo-fuzz
          --seconds N   for each target; 600 where nothing is said
          TARGET...     only these
  chaos   Break servers and their database under load, and check every answer; what follows is
          passed on (see `cargo xtask chaos --help`)
          --minutes N   how long; 10 where nothing is said
          --seed S      which faults, in which order
  attack  Build for release and attack it as one tenant, while another one works; what follows is
          passed on (see `cargo xtask attack --list`)
          --database sqlite|postgres|both   sqlite where nothing is said
          --only ROW[,ROW]                  only these
          --short                           with less, in a minute or so
          --binary PATH                     this binary, and build none
  bench   Build for release and measure; what follows is passed on (see `cargo xtask bench --help`)
          --database postgres   on a PostgreSQL server that is made for it";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((task, rest)) => run(task, rest),
        None => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &str, rest: &[String]) -> Result<(), String> {
    match task {
        "test" => steps::run(&steps::Selection::parse(rest)?),
        "e2e" if rest.is_empty() => steps::run(&steps::Selection::only(steps::Group::E2e)),
        "fuzz" => fuzz::run_fuzz(rest),
        "attack" => attack::run_attack(rest),
        "chaos" => chaos::run_chaos(rest),
        "bench" => bench::run_bench(rest.strip_prefix(&["--".to_owned()]).unwrap_or(rest)),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(format!("there is no task `{task}` with these arguments\n\n{USAGE}")),
    }
}
