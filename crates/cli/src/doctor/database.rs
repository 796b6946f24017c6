//! The database: whether it answers, how fast, what it promises, and whether its master keys are there.

use std::time::Duration;

use keyrelay_core::change_rates::ResourcesMax;
use keyrelay_core::keyring::Keyring;
use keyrelay_core::limits::DATABASE_CONNECT_MAX;
use keyrelay_core::time::SystemClock;
use keyrelay_store::operations::{
    Health, Place, PostgresHealth, health, keys_used, largest_projects, schema, shared_profiles,
};

use super::report::Report;
use crate::installation::place;
use crate::settings::Settings;
use crate::stopwatch::Stopwatch;

/// Every grant asks the database once: above this, all of them are slow.
const LATENCY_SLOW: Duration = Duration::from_millis(5);
/// How far the clocks may be apart before something is wrong, in milliseconds.
const CLOCK_WRONG_MS: i64 = 5_000;
/// How far they may be apart unnoticed, in milliseconds.
const CLOCK_OFF_MS: i64 = 1_000;
/// The oldest PostgreSQL that is known to work, as `server_version_num`.
const POSTGRES_VERSION_MIN: i64 = 140_000;
/// Connections that one server takes: 2 for grants, 4 for other reads, 8 that write.
const CONNECTIONS_PER_NODE: i64 = 14;
const DATABASE: &str = "database";

pub async fn check(settings: &Settings, keyring: Option<&Keyring>, report: &mut Report) {
    let place = match place(settings) {
        Ok(place) => place,
        Err(error) => return report.fail(DATABASE, format!("{error:#}"), "correct --database-url"),
    };
    if let Place::File(file) = &place
        && !file.exists()
    {
        let said = format!("{} is not there", file.display());
        return report.warn(
            DATABASE,
            said,
            "the first start makes it; to bring one back: keyrelay restore FILE",
        );
    }
    let watch = Stopwatch::start();
    let asked = async { health(&place, &SystemClock, &|| watch.elapsed()).await };
    let found = match tokio::time::timeout(2 * DATABASE_CONNECT_MAX, asked).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            let advice =
                "see whether it runs, and whether host, user, password file and certificate are right";
            return report.fail(DATABASE, error.to_string(), advice);
        }
        Err(_) => return report.fail(DATABASE, "it does not answer in time", "see whether it runs"),
    };
    latency(&found, report);
    if let Some(postgres) = &found.postgres {
        clock(&found, report);
        durability(postgres, report);
        connections(postgres, report);
    }
    if versions(&place, report).await {
        if let Some(keyring) = keyring {
            master_keys(&place, keyring, report).await;
        }
        profiles(&place, report).await;
        quota(&place, settings.project_resources_max(), report).await;
    }
}

/// Projects near their bound of resources: above four fifths of it.
async fn quota(place: &Place, ResourcesMax(most): ResourcesMax, report: &mut Report) {
    let check = "resources";
    let largest = match largest_projects(place).await {
        Ok(largest) => largest,
        Err(error) => return report.fail(check, error.to_string(), "see whether the database is whole"),
    };
    let is_near = |count: i64| most.is_some_and(|most| count >= most - most / 5);
    let near = largest.iter().filter(|(_, count)| is_near(*count));
    let near: Vec<_> = near.map(|(project, count)| format!("Project/{project} has {count}")).collect();
    if near.is_empty() {
        let count = largest.first().map_or(0, |(_, count)| *count);
        report.ok(check, format!("the largest project has {count}"));
    } else {
        let advice = "raise --project-resources-max, or have the project delete what it does not need";
        report.warn(check, near.join(", "), advice);
    }
}

/// Profiles that several people share: records under such a profile do not show which person acted.
async fn profiles(place: &Place, report: &mut Report) {
    let check = "profiles";
    match shared_profiles(place).await {
        Ok(shared) if shared.is_empty() => report.ok(check, "each belongs to one user of its project"),
        Ok(shared) => {
            let named = shared.iter().map(|shared| {
                format!("{} of Project/{} ({} users)", shared.profile, shared.project, shared.users)
            });
            let advice = "give each ProjectMembership a Practitioner of its own: records name the profile";
            report.warn(check, format!("shared: {}", named.collect::<Vec<_>>().join(", ")), advice);
        }
        Err(error) => report.fail(check, error.to_string(), "see whether the database is whole"),
    }
}

fn latency(found: &Health, report: &mut Report) {
    let said = format!("answers in {:.1} ms", found.latency.as_secs_f64() * 1000.0);
    if found.latency > LATENCY_SLOW {
        report.warn(DATABASE, said, "every request waits for it: move servers and database closer together");
    } else {
        report.ok(DATABASE, said);
    }
}

async fn versions(place: &Place, report: &mut Report) -> bool {
    match schema(place).await {
        Ok(versions) if versions.from == versions.to => {
            report.ok("schema", format!("version {}", versions.to));
            true
        }
        Ok(versions) if versions.from < versions.to => {
            let said = format!("version {}; this program has {}", versions.from, versions.to);
            report.warn("schema", said, "keyrelay migrate; or the next start does it");
            false
        }
        Ok(versions) => {
            let said =
                format!("version {}, which is newer than the {} of this program", versions.from, versions.to);
            report.fail("schema", said, "use the keyrelay that the servers use");
            false
        }
        Err(error) => {
            report.fail("schema", error.to_string(), "see whether this is the right database");
            false
        }
    }
}

async fn master_keys(place: &Place, keyring: &Keyring, report: &mut Report) {
    match keys_used(place).await {
        Ok(used) => match used.require(keyring) {
            Ok(()) => report.ok("master keys", "the file has every key that the database needs"),
            Err(error) => {
                let advice = "put the missing keys back into the file, after the first: until then those are locked out";
                report.fail("master keys", error.to_string(), advice);
            }
        },
        Err(error) => report.fail("master keys", error.to_string(), "see whether the database is whole"),
    }
}

fn clock(found: &Health, report: &mut Report) {
    let Some(ahead_ms) = found.clock_ahead_ms else { return };
    let said = format!("{} ms from the database's", ahead_ms.abs());
    let advice = "synchronize the clocks of all machines (NTP): tokens and logins live by them";
    if ahead_ms.abs() > CLOCK_WRONG_MS {
        report.fail("clock", said, advice);
    } else if ahead_ms.abs() > CLOCK_OFF_MS {
        report.warn("clock", said, advice);
    } else {
        report.ok("clock", said);
    }
}

fn durability(postgres: &PostgresHealth, report: &mut Report) {
    let check = "durability";
    let commit = postgres.synchronous_commit.as_str();
    if postgres.version < POSTGRES_VERSION_MIN {
        report.warn("PostgreSQL", "it is older than 14", "use 14 or newer");
    }
    if !postgres.fsync || !postgres.full_page_writes {
        let said = "fsync or full_page_writes is off: a power cut may lose everything";
        report.fail(check, said, "set both to on");
    } else if commit == "off" {
        let said = "synchronous_commit is off: a crash may lose rotations that were answered";
        report.fail(check, said, "set synchronous_commit = on for this database");
    } else if postgres.standbys > 0 && (postgres.synchronous_standbys.is_empty() || commit == "local") {
        let said = "there are standbys, and none is synchronous: a failover may lose the last rotations";
        report.warn(check, said, "name one in synchronous_standby_names, with synchronous_commit = on");
    } else {
        report.ok(check, format!("fsync is on, synchronous_commit is {commit}"));
    }
}

fn connections(postgres: &PostgresHealth, report: &mut Report) {
    let (max, now) = (postgres.connections_max, postgres.connections);
    let said = format!("{now} of {max}; each server takes {CONNECTIONS_PER_NODE}");
    if max - now < CONNECTIONS_PER_NODE {
        report.warn("connections", said, "there is no room for one more server: raise max_connections");
    } else {
        report.ok("connections", said);
    }
}
