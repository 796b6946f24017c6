//! What a change must pass, one function for each step.

use std::path::PathBuf;
use std::process::Command;

use crate::bench::PRODUCT;
use crate::command::{cargo, program, root, run, target_dir};
use crate::postgres;
use crate::setup::{cargo_deny, environment_python};
use crate::steps::{Done, Selection};

pub fn format(_: &Selection) -> Result<Done, String> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Done::Passed)
}

pub fn lint(_: &Selection) -> Result<Done, String> {
    run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    Ok(Done::Passed)
}

/// The rules of `deny.toml`. Known vulnerabilities are checked only if their database was fetched before, because a
/// test run needs no network.
pub fn deny(_: &Selection) -> Result<Done, String> {
    let mut command = cargo_deny()?;
    command.arg("check");
    let without = if advisories_fetched() {
        command.args(["--disable-fetch", "advisories"]);
        None
    } else {
        Some("known vulnerabilities: their database is not here; `cargo deny fetch` gets it")
    };
    run(command.args(["--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
    Ok(without.map_or(Done::Passed, |without| Done::PassedWithout(without.to_owned())))
}

/// All Rust tests; examples in the documentation are a step of their own.
///
/// Uses the test runner of cargo, which every machine has, so that every machine runs the same tests.
pub fn rust_tests(_: &Selection) -> Result<Done, String> {
    run(&mut all_tests())?;
    Ok(Done::Passed)
}

/// The same tests again: those that use a database use PostgreSQL.
///
/// The whole workspace is built, as for the step before: with fewer packages features would differ, and everything
/// would be built again.
pub fn postgres_tests(_: &Selection) -> Result<Done, String> {
    let server = postgres::Server::start(postgres::Disk::NotWaited)?;
    run(all_tests().env("KEYRELAY_TEST_POSTGRES", server.url()))?;
    Ok(Done::Passed)
}

fn all_tests() -> Command {
    let mut command = cargo();
    command.args(["test", "--quiet", "--workspace", "--all-targets"]);
    command
}

pub fn doc_tests(_: &Selection) -> Result<Done, String> {
    run(cargo().args(["test", "--quiet", "--workspace", "--doc"]))?;
    Ok(Done::Passed)
}

/// Published clients against the real binary.
pub fn end_to_end(_: &Selection) -> Result<Done, String> {
    run(cargo().args(["build", "--quiet", "--package", PRODUCT, "--bin", PRODUCT]))?;
    let binary = target_dir()?.join("debug").join(PRODUCT);
    run(program("npm").arg("test").current_dir(root().join("e2e")).env("KEYRELAY_BIN", &binary))?;
    let mut python = environment_python()?;
    // Compiled files would lie beside the sources.
    python.args(["-B", "-m", "unittest", "discover", "--start-directory"]).arg(root().join("e2e/python"));
    run(python.env("KEYRELAY_BIN", binary))?;
    Ok(Done::Passed)
}

fn advisories_fetched() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let fallback = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    home.or_else(fallback)
        .and_then(|home| std::fs::read_dir(home.join("advisory-dbs")).ok())
        .is_some_and(|mut entries| entries.next().is_some())
}
