//! `cargo xtask attack`: builds the product and starts the program that attacks it.
//!
//! Attacks need HTTP and PostgreSQL clients, so they are a separate crate and not part of this one.

use std::path::PathBuf;

use crate::bench::PRODUCT;
use crate::command::{cargo, program, run, target_dir};
use crate::postgres::{self, Disk};
use crate::steps::{Done, Selection};

const ATTACK: &str = "keyrelay-attack";

/// Bound of resident memory in a short attack on a binary without optimization, whose code takes more memory.
const MEMORY_DEBUG_MIB: &str = "256";

/// Where the database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Database {
    Sqlite,
    Postgres,
}

/// The arguments.
#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    databases: Vec<Database>,
    /// The binary to attack, if it is not to be built.
    binary: Option<PathBuf>,
    /// Arguments for the attacking program.
    rest: Vec<String>,
}

/// Reads `--database` and `--binary`, and passes the other arguments on.
pub fn run_attack(arguments: &[String]) -> Result<(), String> {
    let arguments = parse(arguments)?;
    if arguments.binary.is_none() {
        // Two builds, or the product would get features that only the attack needs.
        run(cargo().args(["build", "--quiet", "--release", "--package", PRODUCT, "--bin", PRODUCT]))?;
    }
    run(cargo().args(["build", "--quiet", "--package", ATTACK]))?;
    let binary = match arguments.binary {
        Some(binary) => binary,
        None => target_dir()?.join("release").join(PRODUCT),
    };
    let mut failed = Vec::new();
    for database in arguments.databases {
        if let Err(error) = attack(database, &binary, &arguments.rest) {
            failed.push(error);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

fn attack(database: Database, binary: &PathBuf, rest: &[String]) -> Result<(), String> {
    let folder = target_dir()?;
    let mut command = program(folder.join("debug").join(ATTACK));
    command.arg("--keyrelay").arg(binary).arg("--scratch").arg(folder.join("attack")).args(rest);
    match database {
        Database::Sqlite => run(&mut command),
        Database::Postgres => {
            let server = postgres::Server::start(Disk::NotWaited)?;
            run(command.args(["--postgres", &server.url()]))
        }
    }
}

/// A short attack, on the binary that the end-to-end tests build, with SQLite.
pub fn short(_: &Selection) -> Result<Done, String> {
    run(cargo().args(["build", "--quiet", "--package", PRODUCT, "--bin", PRODUCT]))?;
    run(cargo().args(["build", "--quiet", "--package", ATTACK]))?;
    let binary = target_dir()?.join("debug").join(PRODUCT);
    attack(Database::Sqlite, &binary, &["--short", "--memory-mib", MEMORY_DEBUG_MIB].map(str::to_owned))?;
    Ok(Done::Passed)
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let mut parsed = Arguments { databases: vec![Database::Sqlite], binary: None, rest: Vec::new() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--database" => {
                parsed.databases = match arguments.next().map(String::as_str) {
                    Some("sqlite") => vec![Database::Sqlite],
                    Some("postgres") => vec![Database::Postgres],
                    Some("both") => vec![Database::Sqlite, Database::Postgres],
                    _ => return Err("`--database` is sqlite, postgres or both".to_owned()),
                };
            }
            "--binary" => {
                let path = arguments.next().ok_or("`--binary` needs the path of a keyrelay binary")?;
                parsed.binary = Some(path.into());
            }
            _ => parsed.rest.push(argument.clone()),
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_databases_and_the_binary_are_chosen_and_the_rest_passed_on() {
        let given = |text: &str| parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let parsed =
            given("--only log-full --database both --binary target/debug/keyrelay").expect("a choice");
        let expected = Arguments {
            databases: vec![Database::Sqlite, Database::Postgres],
            binary: Some("target/debug/keyrelay".into()),
            rest: vec!["--only".to_owned(), "log-full".to_owned()],
        };
        assert_eq!(parsed, expected);
        assert!(
            given("--database").is_err() && given("--database oracle").is_err() && given("--binary").is_err()
        );
    }
}
