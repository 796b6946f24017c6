//! A failing log fails no request, and a full disk fails only changes, until space is free.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use reqwest::{Client, Response};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::process::{BINARY, Process, bootstrap, grant, http, keyrelay, parameters};

async fn rotate(http: &Client, base: &str, id: &str, secret: &str) -> Response {
    let url = format!("{base}fhir/R4/ClientApplication/{id}/$rotate-secret");
    let request = http.post(url).basic_auth(id, Some(secret)).json(&parameters("secret", secret));
    request.send().await.expect("an answer")
}

async fn lost_lines(http: &Client, base: &str) -> u64 {
    let text = http.get(format!("{base}metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("keyrelay_log_lines_lost_total "));
    line.expect("the metric").parse().unwrap()
}

/// Sends requests until a line is lost: earlier lines wait in the pipe and in the server.
async fn lose_lines(http: &Client, base: &str) {
    let mut requests = 0;
    while lost_lines(http, base).await == 0 {
        requests += 1;
        assert!(requests < 20_000, "no line is lost");
    }
}

/// A server with a verbose log whose output fails.
async fn works_without_a_log(stderr: Stdio) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = keyrelay();
    command.env("KEYRELAY_LOG", "trace").stderr(stderr);
    let server = Process::start_with(command, dir.path()).await;
    let (id, secret) = bootstrap(dir.path());
    let (http, base) = (http(), &server.base);
    assert_eq!(grant(&http, base, &id, "krs_wrong").await, 401);
    let rotated = rotate(&http, base, &id, &secret).await;
    assert_eq!(rotated.status(), 200);
    let body: serde_json::Value = rotated.json().await.unwrap();
    let fresh = body["secret"].as_str().expect("the answer has the new secret");
    assert_eq!(grant(&http, base, &id, fresh).await, 200);
    lose_lines(&http, base).await;
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn a_log_on_a_full_disk_fails_no_request() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    works_without_a_log(full.into()).await;
}

#[tokio::test]
async fn a_closed_log_fails_no_request() {
    works_without_a_log(Stdio::piped()).await;
}

#[tokio::test]
async fn a_log_without_a_reader_delays_no_request() {
    let (mut reader, stderr) = std::io::pipe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut command = keyrelay();
    command.env("KEYRELAY_LOG", "trace").stderr(stderr);
    let server = Process::start_with(command, dir.path()).await;
    let (id, secret) = bootstrap(dir.path());
    let (http, base) = (http(), &server.base);
    lose_lines(&http, base).await;
    assert_eq!(grant(&http, base, &id, "krs_wrong").await, 401);
    assert_eq!(rotate(&http, base, &id, &secret).await.status(), 200);
    assert!(server.terminate().await.success(), "the end waits a bounded time for the log");
    let mut log = Vec::new();
    reader.read_to_end(&mut log).unwrap();
    assert!(log.len() > 4096, "{}", log.len());
    let first = log.split(|byte| *byte == b'\n').next().unwrap();
    serde_json::from_slice::<serde_json::Value>(first).expect("whole lines");
}

#[tokio::test]
async fn the_last_lines_of_the_log_are_written_before_the_end() {
    let (mut reader, stderr) = std::io::pipe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut command = keyrelay();
    command.env("KEYRELAY_LOG", "info").stderr(stderr);
    let server = Process::start_with(command, dir.path()).await;
    assert!(server.terminate().await.success());
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(log.contains(r#""message":"stopped""#), "{log}");
}

#[tokio::test]
async fn a_command_whose_error_cannot_be_written_ends_with_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = keyrelay();
    command.args(["serve", "--data-dir", "/dev/null/keyrelay"]).stderr(full);
    assert_eq!(command.status().await.unwrap().code(), Some(1), "a panic is 101");
}

/// From now on no file of a process may grow beyond this size, as on a full disk.
fn limit_files(pid: u32, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    let limit = Rlimit { current: bytes, maximum: getrlimit(Resource::Fsize).maximum };
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

async fn start_on_small_disk(dir: &Path) -> Process {
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = tokio::process::Command::new("sh");
    // Otherwise the signal ends a process that writes beyond its limit.
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", BINARY]);
    command.env_clear().env("KEYRELAY_LOG", "trace").kill_on_drop(true).stdin(Stdio::null()).stderr(log);
    Process::start_with(command, dir).await
}

#[tokio::test]
async fn a_full_disk_fails_only_changes_until_space_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_on_small_disk(dir.path()).await;
    let (id, secret) = bootstrap(dir.path());
    let (http, base) = (http(), &server.base);
    limit_files(server.pid(), Some(1024));
    for _ in 0..3 {
        let refused = rotate(&http, base, &id, &secret).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        assert!(refused.text().await.unwrap().contains("nothing was changed"));
        assert_eq!(grant(&http, base, &id, &secret).await, 200, "clients are let in as before");
        assert_eq!(grant(&http, base, &id, "krs_wrong").await, 401);
    }
    // The log is on the same disk.
    lose_lines(&http, base).await;
    limit_files(server.pid(), getrlimit(Resource::Fsize).maximum);
    let rotated = rotate(&http, base, &id, &secret).await;
    assert_eq!(rotated.status(), 200);
    let body: serde_json::Value = rotated.json().await.unwrap();
    for secret in [secret.as_str(), body["secret"].as_str().unwrap()] {
        assert_eq!(grant(&http, base, &id, secret).await, 200);
    }
    assert!(server.terminate().await.success());
}
