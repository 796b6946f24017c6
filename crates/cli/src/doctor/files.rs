//! The files of an installation, and the room for them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use indicatif::HumanBytes;
use keyrelay_core::keyring::Keyring;
use keyrelay_core::limits::CONNECTIONS_MAX;
use keyrelay_core::time::{Clock, SystemClock};
use keyrelay_store::operations::Place;
use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, getrlimit};

use super::report::Report;
use crate::installation::{keyring, master_key_file, place};
use crate::settings::Settings;

/// Free space below which a server may soon not be able to write.
const FREE_BYTES_MIN: u64 = 128 * 1024 * 1024;
/// Free space that calls for attention.
const FREE_BYTES_LOW: u64 = 1024 * 1024 * 1024;
/// A certificate is renewed before it is this close to its end, in milliseconds.
const EXPIRES_SOON_MS: i64 = 14 * 24 * 60 * 60 * 1000;
/// Files beside connections.
const FILES_BESIDE: u64 = 100;

pub fn data_dir(settings: &Settings, report: &mut Report) {
    let dir = settings.data_dir();
    let Ok(meta) = fs::metadata(&dir) else {
        let advice = "the first start makes it; if there was one already, name it with --data-dir";
        return report.warn("data directory", format!("{} is not there", dir.display()), advice);
    };
    if !meta.is_dir() || access(&dir, Access::WRITE_OK | Access::READ_OK | Access::EXEC_OK).is_err() {
        let advice = "run doctor as the user of the server; then: chown it to that user, chmod 700";
        return report.fail("data directory", format!("{} cannot be written to", dir.display()), advice);
    }
    if is_open_to_others(&dir) {
        let said = format!("{} is open to others", dir.display());
        report.warn("data directory", said, format!("chmod 700 {}", dir.display()));
    } else {
        report.ok("data directory", dir.display().to_string());
    }
    if let Ok(Place::File(database)) = place(settings)
        && is_open_to_others(&database)
    {
        let said = format!("{} can be read by others", database.display());
        report.fail("database file", said, format!("chmod 600 {}", database.display()));
    }
    let bootstrap = dir.join("bootstrap.json");
    if bootstrap.exists() {
        let said = format!("{} still holds the secret of the first client", bootstrap.display());
        report.warn("first credentials", said, "take it to your secret store, then delete the file");
    }
    room(&dir, report);
}

fn room(dir: &Path, report: &mut Report) {
    let Ok(room) = statvfs(dir) else { return };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let said = format!("{} free for {}", HumanBytes(free), dir.display());
    let advice = "make room: a database that cannot grow refuses every change";
    if free < FREE_BYTES_MIN {
        report.fail("disk space", said, advice);
    } else if free < FREE_BYTES_LOW {
        report.warn("disk space", said, advice);
    } else {
        report.ok("disk space", said);
    }
}

/// Whether the master key file is there, good, and its owner's alone. Gives its keys.
pub fn master_key(settings: &Settings, report: &mut Report) -> Option<Keyring> {
    let file = master_key_file(settings);
    let is_named = settings.master_key_file.is_some();
    let is_new = matches!(place(settings), Ok(Place::File(database)) if !database.exists());
    if !file.exists() && !is_named && is_new {
        report.warn(
            "master key file",
            format!("{} is not there", file.display()),
            "the first start makes it",
        );
        return None;
    }
    match keyring(settings, false) {
        Ok(keys) => {
            let count = keys.key_ids().len();
            let said = format!("{}: {count} {}", file.display(), if count == 1 { "key" } else { "keys" });
            if is_open_to_others(&file) {
                let said = format!("{} can be read by others", file.display());
                report.fail("master key file", said, format!("chmod 600 {}", file.display()));
            } else {
                report.ok("master key file", said);
            }
            Some(keys)
        }
        Err(error) => {
            let advice = "put the right file back; without it no secret in the database is of any use";
            report.fail("master key file", format!("{error:#}"), advice);
            None
        }
    }
}

pub fn tls(settings: &Settings, report: &mut Report) {
    let tls = match settings.tls() {
        Ok(Some(tls)) => tls,
        Ok(None) => return,
        Err(error) => {
            return report.fail(
                "TLS certificate",
                format!("{error:#}"),
                "the server would not start: correct it",
            );
        }
    };
    let Some((from, until)) = tls.validity() else {
        return report.warn(
            "TLS certificate",
            "its dates cannot be read",
            "look at it with: openssl x509 -text",
        );
    };
    let now = SystemClock.now();
    if now < from {
        report.fail(
            "TLS certificate",
            format!("it is good from {from} only"),
            "correct the clock, or the certificate",
        );
    } else if now >= until {
        report.fail(
            "TLS certificate",
            format!("it has expired at {until}"),
            "renew it; a running server takes it up",
        );
    } else if until.epoch_ms() - now.epoch_ms() < EXPIRES_SOON_MS {
        report.warn(
            "TLS certificate",
            format!("it expires at {until}"),
            "renew it; a running server takes it up",
        );
    } else {
        report.ok("TLS certificate", format!("good until {until}"));
    }
    if let Some(key) = &settings.tls_key
        && is_open_to_others(key)
    {
        let said = format!("{} can be read by others", key.display());
        report.fail("TLS key", said, format!("chmod 600 {}", key.display()));
    }
}

pub fn open_files(report: &mut Report) {
    let wanted = CONNECTIONS_MAX as u64 + FILES_BESIDE;
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < wanted => report.warn(
            "open files",
            format!("at most {limit} here; {wanted} are wanted"),
            "LimitNOFILE=65536 in the service, or ulimit -n",
        ),
        _ => report.ok("open files", format!("enough for {CONNECTIONS_MAX} connections")),
    }
}

fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}
