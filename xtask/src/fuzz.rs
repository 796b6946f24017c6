//! `cargo xtask fuzz`: gives each fuzz target some time, one after another, and stops at the first finding.
//!
//! What a run invents goes to the target folder. The corpora in `fuzz/corpus` are chosen from that by hand, and
//! are fed to the same functions by an ordinary test.

use std::fs;
use std::path::Path;

use crate::command::{cargo, program, root, run, target_dir, works};

/// How long each target is given where nothing is said: as long as a change to a parser deserves.
const SECONDS_DEFAULT: u32 = 600;
/// The longest input, in bytes, and the longest that one may take, in seconds.
const INPUT_BYTES_MAX: u32 = 4096;
const INPUT_SECONDS_MAX: u32 = 10;

/// Reads `--seconds N` and the names of targets; all of them where none is named.
pub fn run_fuzz(arguments: &[String]) -> Result<(), String> {
    let mut seconds = SECONDS_DEFAULT;
    let mut targets = targets()?;
    let mut named = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            let value = arguments.next().and_then(|value| value.parse().ok());
            seconds = value.ok_or("`--seconds` needs a whole number")?;
        } else if targets.contains(argument) {
            named.push(argument.clone());
        } else {
            return Err(format!("there is no fuzz target `{argument}`; there are: {}", targets.join(", ")));
        }
    }
    if !named.is_empty() {
        targets = named;
    }
    if !works(cargo().args(["fuzz", "--version"])) {
        return Err("cargo-fuzz is not installed; `cargo install cargo-fuzz` adds it".to_owned());
    }
    for target in &targets {
        fuzz(target, seconds)?;
    }
    Ok(())
}

fn targets() -> Result<Vec<String>, String> {
    let folder = root().join("fuzz/corpus");
    let entries = fs::read_dir(&folder).map_err(|error| format!("fuzz/corpus cannot be read: {error}"))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    Ok(names)
}

fn fuzz(target: &str, seconds: u32) -> Result<(), String> {
    let folder = target_dir()?.join("fuzz");
    let found = folder.join("corpus").join(target);
    fs::create_dir_all(&found).map_err(|error| format!("{} cannot be made: {error}", found.display()))?;
    let mut command = program(cargo().get_program());
    // The instrumentation is not stable yet. No sanitizer: there is no unsafe code to watch.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.args(["fuzz", "run", "--fuzz-dir", "fuzz", "--sanitizer", "none", "--target-dir"]).arg(&folder);
    // The first folder takes what is found, the second is only read.
    command.arg(target).arg(&found).arg(Path::new("fuzz/corpus").join(target)).arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    run(command.arg(format!("-timeout={INPUT_SECONDS_MAX}")))
}
