//! `cargo xtask bench`: builds for release and hands over to the program that measures.
//!
//! Measuring needs an HTTP stack and a database, which is why it is a crate of its own and not part of this one.

use crate::command::{cargo, program, run, target_dir};
use crate::postgres::{self, Disk};

/// The package of the product, and its binary.
pub const PRODUCT: &str = "keyrelay";
const BENCH: &str = "keyrelay-bench";

pub fn run_bench(arguments: &[String]) -> Result<(), String> {
    // Two builds, or the product would be built with features that only the benchmark asks for.
    for package in [PRODUCT, BENCH] {
        run(cargo().args(["build", "--quiet", "--release", "--package", package]))?;
    }
    let mut command = program(target_dir()?.join("release").join(BENCH));
    let (database, rest) = database(arguments)?;
    match database {
        Database::Sqlite => run(command.args(rest)),
        Database::Postgres => {
            let server = postgres::Server::start(Disk::Waited)?;
            command.args(["--postgres", &server.url(), "--pgbench"]).arg(server.program("pgbench"));
            run(command.args(rest))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Database {
    Sqlite,
    Postgres,
}

/// Takes `--database NAME` out of what is passed on.
fn database(arguments: &[String]) -> Result<(Database, Vec<String>), String> {
    let mut rest = arguments.to_vec();
    let Some(at) = rest.iter().position(|argument| argument == "--database") else {
        return Ok((Database::Sqlite, rest));
    };
    let named = rest.drain(at..rest.len().min(at + 2)).nth(1);
    match named.as_deref() {
        Some("sqlite") => Ok((Database::Sqlite, rest)),
        Some("postgres") => Ok((Database::Postgres, rest)),
        _ => Err("`--database` is sqlite or postgres".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_chosen_and_the_rest_passed_on() {
        let given = |text: &str| database(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let (chosen, rest) = given("--only grants --database postgres --rounds 2").expect("a choice");
        assert_eq!((chosen, rest.join(" ")), (Database::Postgres, "--only grants --rounds 2".to_owned()));
        assert_eq!(given("--rounds 2").expect("a choice").0, Database::Sqlite);
        assert!(given("--database").is_err() && given("--database oracle").is_err());
    }
}
