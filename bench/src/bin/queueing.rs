//! `keyrelay-queueing`: the figures of `docs/SCALE.md` that come from the model and not from a machine.
#![forbid(unsafe_code)]

use clap::Parser;
use keyrelay_bench::queueing::{Outcome, Reading, Setting, capacity, simulate};
use keyrelay_bench::report::{Table, per_second};

/// Group reads beside one query for each request, in a model.
#[derive(Parser)]
struct Arguments {
    /// What a query costs the database, in microseconds of a core, whatever it asks.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    query_us: u64,
    /// What each row adds.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    row_us: u64,
    /// Cores of the database.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=200))]
    cores: u8,
    /// The time within which 99 of 100 requests are to be answered, in milliseconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    p99_ms: u64,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// As many as the product has by default, and as many as it may have.
const IN_FLIGHT: [usize; 2] = [2, 20];
const SIZE_MAX: usize = 64;
const NODES: [usize; 4] = [1, 4, 16, 64];
const ROUND_TRIPS_US: [u64; 4] = [100, 500, 2_000, 10_000];

fn main() {
    let arguments = Arguments::parse();
    println!("{}", most(&arguments));
    println!("{}", times(&arguments));
}

fn setting(arguments: &Arguments, reading: Reading, nodes: usize, round_trip_us: u64) -> Setting {
    Setting {
        reading,
        nodes,
        round_trip_us,
        cores: usize::from(arguments.cores),
        query_us: arguments.query_us,
        row_us: arguments.row_us,
        per_second: 1_000,
        seed: arguments.seed,
    }
}

#[allow(clippy::cast_precision_loss, reason = "rates stay far below 2^52")]
fn most(arguments: &Arguments) -> Table {
    let mut rows = Vec::new();
    for round_trip_us in ROUND_TRIPS_US {
        for nodes in NODES {
            let most = |reading| {
                let most =
                    capacity(setting(arguments, reading, nodes, round_trip_us), arguments.p99_ms * 1_000);
                per_second(most as f64)
            };
            let mut row = vec![ms(round_trip_us), nodes.to_string(), most(Reading::OneEach)];
            row.extend(IN_FLIGHT.map(|in_flight| most(Reading::Groups { in_flight, size_max: SIZE_MAX })));
            rows.push(row);
        }
    }
    Table {
        title: "Most reads a second",
        note: format!(
            "99 of 100 answered within {} ms; a query costs {} µs and {} µs for each row, on one of {} cores.",
            arguments.p99_ms, arguments.query_us, arguments.row_us, arguments.cores
        ),
        columns: vec![
            "round trip",
            "servers",
            "one query each",
            "groups, 2 in flight",
            "groups, 20 in flight",
        ],
        rows,
    }
}

fn times(arguments: &Arguments) -> Table {
    let nodes = 4;
    let mut rows = Vec::new();
    for round_trip_us in ROUND_TRIPS_US {
        for rate in [1_000_u32, 20_000, 100_000, 200_000] {
            let outcome = |reading| {
                let setting = setting(arguments, reading, nodes, round_trip_us);
                simulate(Setting { per_second: u64::from(rate), ..setting })
            };
            let told = |outcome: Option<Outcome>| match outcome {
                Some(Outcome { median_us, p99_us, .. }) => format!("{} / {}", ms(median_us), ms(p99_us)),
                None => "too much".to_owned(),
            };
            let groups = outcome(Reading::Groups { in_flight: 2, size_max: SIZE_MAX });
            let size = groups.map_or("–".to_owned(), |groups| {
                format!("{}.{}", groups.group_tenths / 10, groups.group_tenths % 10)
            });
            rows.push(vec![
                ms(round_trip_us),
                per_second(f64::from(rate)),
                told(outcome(Reading::OneEach)),
                told(groups),
                size,
            ]);
        }
    }
    Table {
        title: "How long a read takes",
        note: format!("Median and 99th percentile, {nodes} servers, the same costs."),
        columns: vec!["round trip", "reads/s", "one query each", "groups, 2 in flight", "in a group"],
        rows,
    }
}

fn ms(us: u64) -> String {
    format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10)
}
