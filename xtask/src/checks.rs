//! What a change must pass, one function for each step.

use std::path::PathBuf;

use crate::bench::PRODUCT;
use crate::command::{cargo, program, root, run, target_dir, works};
use crate::postgres;
use crate::setup::environment_python;
use crate::steps::{Done, Selection};

pub fn format(_: &Selection) -> Result<Done, String> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Done::Passed)
}

pub fn lint(_: &Selection) -> Result<Done, String> {
    run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    Ok(Done::Passed)
}

/// Known vulnerabilities are only looked for when their database was fetched before: a test run needs no network.
pub fn deny(_: &Selection) -> Result<Done, String> {
    if !works(cargo().args(["deny", "--version"])) {
        return Ok(Done::Skipped(
            "cargo-deny is not installed; `cargo install cargo-deny` adds it".to_owned(),
        ));
    }
    let mut command = cargo();
    command.args(["deny", "check"]);
    if advisories_fetched() {
        command.args(["--disable-fetch", "advisories"]);
    } else {
        println!("    without advisories: their database is not here; `cargo deny fetch` gets it");
    }
    run(command.args(["bans", "licenses", "sources"]))?;
    Ok(Done::Passed)
}

/// All Rust tests; examples in the documentation are a step of their own.
pub fn rust_tests(_: &Selection) -> Result<Done, String> {
    if works(cargo().args(["nextest", "--version"])) {
        run(cargo().args(["nextest", "run", "--workspace"]))?;
    } else {
        run(cargo().args(["test", "--quiet", "--workspace", "--all-targets"]))?;
    }
    Ok(Done::Passed)
}

/// The tests of whatever speaks to a database, once more on PostgreSQL.
pub fn postgres_tests(_: &Selection) -> Result<Done, String> {
    let server = postgres::Server::start(postgres::Disk::NotWaited)?;
    let mut command = cargo();
    if works(cargo().args(["nextest", "--version"])) {
        // The whole workspace is built, as for the step before; otherwise features differ, and with them
        // everything is built again.
        command.args(["nextest", "run", "--workspace", "--filterset"]);
        command.arg("package(keyrelay-store) or package(keyrelay-server) or test(crash) or test(counting)");
    } else {
        command.args(["test", "--quiet", "--workspace", "--all-targets"]);
    }
    run(command.env("KEYRELAY_TEST_POSTGRES", server.url()))?;
    Ok(Done::Passed)
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
