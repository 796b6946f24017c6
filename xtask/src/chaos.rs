//! `cargo xtask chaos`: builds the product and hands over to the program that breaks it.
//!
//! Breaking needs HTTP and PostgreSQL clients, which is why it is a crate of its own and not part of this one.

use crate::bench::PRODUCT;
use crate::command::{cargo, program, run, target_dir};
use crate::postgres;
use crate::steps::{Done, Selection};

const CHAOS: &str = "keyrelay-chaos";
/// The run that is part of the tests. The seed is one that draws every kind of fault in little time.
const SHORT: [&str; 6] = ["--minutes", "0", "--seconds", "43", "--seed", "615"];

/// Passes the arguments on.
pub fn run_chaos(arguments: &[String]) -> Result<(), String> {
    let postgres =
        postgres::programs().ok_or("PostgreSQL is not installed; `apt-get install postgresql` adds it")?;
    run(cargo().args(["build", "--quiet", "--package", PRODUCT, "--bin", PRODUCT]))?;
    run(cargo().args(["build", "--quiet", "--package", CHAOS]))?;
    let binaries = target_dir()?.join("debug");
    let mut command = program(binaries.join(CHAOS));
    command.arg("--keyrelay").arg(binaries.join(PRODUCT)).arg("--postgres").arg(postgres);
    run(command.arg("--folder").arg(target_dir()?.join("chaos")).args(arguments))
}

/// A short run.
pub fn short(_: &Selection) -> Result<Done, String> {
    run_chaos(&SHORT.map(str::to_owned))?;
    Ok(Done::Passed)
}
