//! Group reads, connections and transactions against a database that fails, in virtual time and from a
//! seed: the real code of the store and the real driver, and a server that is simulated. One seed is one
//! run, whatever the machine does meanwhile.

mod faults;
mod server;

use std::panic::{catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ResourceId, VersionId};
use keyrelay_core::limits::{DATABASE_CONNECT_MAX, DATABASE_READ_MAX, DATABASE_WAIT_MAX, WRITE_QUEUE_MAX};
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::time::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::faults::{Dice, Fault, Faults};
use self::server::Server;
use super::{Postgres, Sizes};
use crate::audit::WhenKnown;
use crate::database::{Arg, Database};
use crate::group::{GroupQuery, GroupReader, placeholders};
use crate::writer::Writer;
use crate::{Change, ResourceVersion, StoreError};

/// Runs where no other number is set. `KEYRELAY_SIMULATION_SEEDS=FIRST..LAST` makes others.
const SEEDS: std::ops::Range<u64> = 0..2_000;
/// A group read: each key, and when it was read.
const READ: &str = "SELECT key, tick FROM reading WHERE key IN";
/// A change that must not happen twice, and how it is asked after.
const CREATE: &str = "INSERT INTO resource (";
const WITNESS: &str = "SELECT 1 FROM resource WHERE id = $1";
/// Whether a server is still at work for a client that has gone.
const IS_BUSY: &str = "SELECT 1 FROM pg_stat_activity";
/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(40);
/// How soon after that everything works again.
const RECOVERY: Duration = Duration::from_secs(10);
const ASKERS: u64 = 4;
const ASKS: u64 = 8;
/// The longest that a change may take: for its turn and its decision, for the end of a transaction that is
/// refused, for its commit, and to find out about one to which no answer came.
const CHANGE_ANSWERED_MAX: Duration = DATABASE_WAIT_MAX.saturating_mul(4);

const QUERY: GroupQuery<u64, i64> = GroupQuery {
    text: |keys| {
        let args = keys.iter().map(|key| Arg::from(key.to_string())).collect();
        (format!("{READ} ({})", placeholders(keys.len())), args)
    },
    row: |row| {
        let key = row.text(0)?.parse().map_err(|_| StoreError::Corrupt { what: "a key" })?;
        Ok((key, row.int(1)?))
    },
};

/// What the askers of a run share.
struct Stage {
    server: Server,
    reader: GroupReader<u64, i64>,
    writer: Writer,
    began: Instant,
}

impl Stage {
    async fn new(faults: Faults, group: usize) -> Self {
        let began = Instant::now();
        let server = Server::new(faults);
        let sizes = Sizes { group, access: 1, small: 1, search: 1, write: 2 };
        let postgres = Postgres::on(server.connector(), &server.connector(), sizes, DATABASE_WAIT_MAX);
        let database = Database::Postgres(postgres);
        let reader = GroupReader::start(&database, QUERY).await.unwrap();
        let writer = Writer::start(&database, &WhenKnown::default()).await.unwrap();
        Self { server, reader, writer, began }
    }

    /// Whether whatever is asked now must succeed.
    fn is_healed(&self) -> bool {
        Instant::now() >= self.began + TROUBLE + RECOVERY
    }

    async fn read(&self, key: u64, at: &str) -> String {
        let (healed, asked, tick) = (self.is_healed(), Instant::now(), self.server.tick());
        let answer = self.reader.read(key).await;
        assert!(asked.elapsed() <= DATABASE_WAIT_MAX + Duration::from_millis(1), "{at}: late");
        match &answer {
            Ok(read) => assert!(*read > Some(tick), "{at}: {read:?} was read before {tick}"),
            Err(error) => assert!(!healed && matches!(error, StoreError::Busy), "{at}: {error}"),
        }
        format!("{:?} {at} read {answer:?}", self.began.elapsed())
    }

    async fn change(&self, name: String) -> String {
        let (healed, asked) = (self.is_healed(), Instant::now());
        let mut change = Change::new();
        change.create(made(&name), &[]);
        let answer = self.writer.commit(change).await;
        assert!(asked.elapsed() <= CHANGE_ANSWERED_MAX, "{name}: late, {:?}", asked.elapsed());
        match &answer {
            Ok(()) => {
                assert_eq!(self.server.applied(&made(&name).id.to_string()), 1, "{name} was answered Ok");
            }
            Err(error) => assert!(!healed, "{name}: {error}"),
        }
        format!("{:?} {name} {answer:?}", self.began.elapsed())
    }

    /// What a change came to in the end: a refused one has not happened, and none has happened twice.
    fn audit(&self, name: &str, answer: &str) {
        let applied = self.server.applied(&made(name).id.to_string());
        assert!(applied <= 1, "{name} happened {applied} times");
        if answer.ends_with("Err(Busy)") {
            assert_eq!(applied, 0, "{name} was refused and happened");
        }
    }
}

/// What a change makes: something of an id that its name gives.
fn made(name: &str) -> ResourceVersion {
    let entropy = SeededEntropy::new(name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte)));
    ResourceVersion {
        // Of a type whose writes are not counted: a change is one statement.
        resource_type: ResourceType::AuditEvent,
        id: ResourceId::random(&entropy),
        project: None,
        version: VersionId::random(&entropy),
        revision: 1,
        last_updated: Timestamp::from_epoch_ms(0),
        deleted: false,
        content: String::new(),
    }
}

/// Somebody will want to know what led to a failure.
impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#?}", self.server.log());
        }
    }
}

/// One run, and all that happened in it.
async fn run(seed: u64) -> Vec<String> {
    let stage = Arc::new(Stage::new(Faults::new(seed, Instant::now() + TROUBLE), 2).await);
    let mut askers = JoinSet::new();
    for asker in 0..ASKERS {
        let stage = Arc::clone(&stage);
        askers.spawn(async move {
            let mut dice = Dice(seed ^ (asker + 1).wrapping_mul(0x5851_f42d_4c95_7f2d));
            let mut told = Vec::new();
            for n in 0..ASKS {
                let name = format!("{seed}/{asker}/{n}");
                if n + 2 == ASKS {
                    // The last two are a read and a change after everything has healed.
                    sleep_until(stage.began + TROUBLE + RECOVERY).await;
                }
                sleep(dice.millis(6_000)).await;
                let reads = if n + 2 < ASKS { dice.below(2) == 0 } else { n + 1 == ASKS };
                if reads {
                    told.push((String::new(), stage.read(dice.below(3), &name).await));
                } else {
                    let answer = stage.change(name.clone()).await;
                    told.push((name, answer));
                }
            }
            told
        });
    }
    let mut told = Vec::new();
    while let Some(asker) = askers.join_next().await {
        told.extend(asker.unwrap_or_else(|panic| resume_unwind(panic.into_panic())));
    }
    // A commit that is on its way may still arrive.
    sleep(DATABASE_WAIT_MAX * 2).await;
    for (name, answer) in told.iter().filter(|(name, _)| !name.is_empty()) {
        stage.audit(name, answer);
    }
    let mut log = stage.server.log();
    log.extend(told.into_iter().map(|(_, answer)| answer));
    log
}

fn simulate(seed: u64) -> Vec<String> {
    in_virtual_time(run(seed))
}

fn in_virtual_time<T>(work: impl Future<Output = T>) -> T {
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(work)
}

fn seeds() -> std::ops::Range<u64> {
    let set = std::env::var("KEYRELAY_SIMULATION_SEEDS").ok();
    let range = set.and_then(|set| {
        let (first, last) = set.split_once("..")?;
        Some(first.parse().ok()?..last.parse().ok()?)
    });
    range.unwrap_or(SEEDS)
}

/// Runs of many seeds, on every core: what happened in any of them.
fn simulate_all(seeds: std::ops::Range<u64>) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let run = |seed: u64| {
        catch_unwind(|| simulate(seed)).unwrap_or_else(|panic| {
            eprintln!("in the run of seed {seed}: KEYRELAY_SIMULATION_SEEDS={seed}..{}", seed + 1);
            resume_unwind(panic)
        })
    };
    std::thread::scope(|scope| {
        let shares = (0..cores).map(|core| {
            let seeds = seeds.clone().skip(core).step_by(cores);
            scope.spawn(move || seeds.flat_map(run).collect::<Vec<_>>())
        });
        let shares: Vec<_> = shares.collect();
        shares
            .into_iter()
            .flat_map(|share| share.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

/// Every request is answered in time, from a read that began after it; no change is answered unless it is
/// committed, none happens twice, none that was refused happens; and all is well when the trouble is over.
#[test]
fn whatever_fails_what_is_answered_is_true() {
    let happened = simulate_all(seeds());
    // The runs are worth something only if what they are about happens in them.
    for what in [
        "COMMIT: CutAfter",
        "COMMIT: CutBefore",
        "COMMIT: SilenceAfter",
        "COMMIT: Error(\"40001\")",
        "BEGIN: Error",
        "read: SilenceBefore",
        "connect: ",
        ": true",
        ": false",
        "read Err(Busy)",
        " Err(Busy)",
        " Err(Unknown)",
    ] {
        assert!(happened.iter().any(|line| line.contains(what)), "{what:?} never happened");
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..20 {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed}");
    }
}

/// Reads for which these things go wrong, over so many connections, the second a second after the first.
async fn two_reads(planned: Vec<(&'static str, Fault)>, group: usize) -> [(Duration, bool); 2] {
    let stage = Stage::new(Faults::planned(planned, Instant::now() + Duration::from_hours(1)), group).await;
    // Every connection is made by then.
    sleep(Duration::from_secs(1)).await;
    let timed = async |key| {
        let asked = Instant::now();
        let answer = stage.reader.read(key).await;
        (asked.elapsed(), answer.is_ok())
    };
    let second = async {
        sleep(Duration::from_secs(1)).await;
        timed(2).await
    };
    tokio::join!(timed(1), second).into()
}

#[test]
fn a_read_that_hangs_or_fails_takes_nobody_with_it() {
    let hangs = || vec![("read", Fault::SilenceBefore)];
    let [first, second] = in_virtual_time(two_reads(hangs(), 2));
    assert_eq!(first, (DATABASE_READ_MAX, false));
    assert!(second.1 && second.0 < Duration::from_millis(10), "{second:?}");
    // With one connection, whoever waits behind it is read once it is given up.
    let [first, second] = in_virtual_time(two_reads(hangs(), 1));
    assert_eq!(first, (DATABASE_READ_MAX, false));
    assert!(second.1 && second.0 < DATABASE_READ_MAX, "{second:?}");
    let [first, second] = in_virtual_time(two_reads(vec![("read", Fault::Error("57014"))], 1));
    assert!(!first.1 && first.0 < Duration::from_millis(10) && second.1, "{first:?} {second:?}");
    // A read whose connection is lost is asked again over the next.
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        let both = in_virtual_time(two_reads(vec![("read", fault)], 1));
        assert!(
            both.iter().all(|(time, is_answered)| *is_answered && *time < Duration::from_millis(100)),
            "{fault:?} {both:?}"
        );
    }
}

/// One connection that cannot be made is no reason to wait while there is another.
#[test]
fn a_connection_that_is_being_made_holds_nothing_up() {
    // Those that are not for group reads come first.
    let hangs = vec![("connect", Fault::SilenceBefore); 6];
    for (first, is_answered) in in_virtual_time(two_reads(hangs, 5)) {
        assert!(is_answered && first < Duration::from_millis(10), "{first:?}");
    }
}

#[test]
fn changes_that_wait_for_a_database_that_is_away_are_refused_in_time() {
    in_virtual_time(async {
        // Nobody connects for an hour.
        let away = vec![("connect", Fault::CutBefore); 100_000];
        let stage = Arc::new(Stage::new(Faults::planned(away, Instant::now()), 1).await);
        let mut changes = JoinSet::new();
        for n in 0..WRITE_QUEUE_MAX {
            let stage = Arc::clone(&stage);
            changes.spawn(async move { stage.change(n.to_string()).await });
        }
        let told = changes.join_all().await;
        assert!(told.iter().all(|answer| answer.ends_with("Err(Busy)")));
        assert!(stage.began.elapsed() <= 2 * DATABASE_WAIT_MAX, "{:?}", stage.began.elapsed());
    });
}

#[test]
fn a_connection_is_made_again_within_the_time_that_recovery_may_take() {
    assert!(DATABASE_CONNECT_MAX < RECOVERY);
}
