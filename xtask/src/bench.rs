//! `cargo xtask bench`: builds for release and hands over to the program that measures.
//!
//! Measuring needs an HTTP stack and a database, which is why it is a crate of its own and not part of this one.

use crate::command::{cargo, program, run, target_dir};

/// The package of the product, and its binary.
pub const PRODUCT: &str = "keyrelay";
const BENCH: &str = "keyrelay-bench";

pub fn run_bench(arguments: &[String]) -> Result<(), String> {
    // Two builds, or the product would be built with features that only the benchmark asks for.
    for package in [PRODUCT, BENCH] {
        run(cargo().args(["build", "--quiet", "--release", "--package", package]))?;
    }
    let binary = target_dir()?.join("release").join(BENCH);
    run(program(binary).args(arguments))
}
