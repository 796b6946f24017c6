//! Section 1: no request and no full disk ends the process or one of its threads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use super::{Needs, Row, Verdict};
use crate::api::{Body, DEADLINE, Reply, Tally};
use crate::command::Running;
use crate::scene::{Kind, Scene};

pub(super) static ROWS: &[Row] = &[
    Row {
        name: "patch-depth",
        claim: "a JSON Patch that doubles the depth of a document ten times is refused",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: patch_depth,
    },
    Row {
        name: "patch-depth-own",
        claim: "the same by a member who may update its own client",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: patch_depth_own,
    },
    Row {
        name: "body-depth",
        claim: "bodies of any depth are refused, on every route that reads one",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: body_depth,
    },
    Row {
        name: "early-answer",
        claim: "an answer that comes before the body was read says that the connection ends",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: early_answer,
    },
    Row {
        name: "log-full",
        claim: "where nothing can be logged, everything is answered",
        scene: Kind::LogFull,
        needs: Needs::Nothing,
        run: log_full,
    },
    Row {
        name: "disk-full",
        claim: "when there is room again, the server writes again",
        scene: Kind::DiskFull,
        needs: Needs::File,
        run: disk_full,
    },
    Row {
        name: "output-full",
        claim: "a command whose output is full or closed ends with an error",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: output_full,
    },
];

/// `add /x` an array nested so deep, then copy it into its own innermost array, so many times.
const NESTED: usize = 60;
const DOUBLED: usize = 10;

fn deep_patch() -> Value {
    let mut value = json!([]);
    for _ in 1..NESTED {
        value = json!([value]);
    }
    let mut operations = vec![json!({ "op": "add", "path": "/x", "value": value })];
    for round in 0..DOUBLED {
        let depth = NESTED << round;
        let innermost = format!("/x{}/-", "/0".repeat(depth - 1));
        operations.push(json!({ "op": "copy", "from": "/x", "path": innermost }));
    }
    operations.into()
}

fn refused(reply: &Reply) -> Verdict {
    Verdict::of((400..500).contains(&reply.status), reply.to_string())
}

fn patch_depth(scene: &Scene<'_>) -> Result<Verdict> {
    let reply = scene.admin().send("PATCH", &scene.a.member.path(), Body::Patch(deep_patch()));
    Ok(refused(&reply))
}

fn patch_depth_own(scene: &Scene<'_>) -> Result<Verdict> {
    let rules = json!([{ "resourceType": "ClientApplication", "interaction": ["read", "update"] }]);
    let member = scene.make_client("Updates itself", Some(rules))?;
    let caller = scene.attacker.as_client(&member);
    caller.add(&member.path(), "/description", &json!("mine")).expect(200)?;
    Ok(refused(&caller.send("PATCH", &member.path(), Body::Patch(deep_patch()))))
}

fn body_depth(scene: &Scene<'_>) -> Result<Verdict> {
    const DEPTH: usize = 100_000;
    let deep = [vec![b'['; DEPTH], vec![b']'; DEPTH]].concat();
    let objects = [b"{\"a\":".repeat(DEPTH), b"1".to_vec(), b"}".repeat(DEPTH)].concat();
    let (admin, project) = (scene.admin(), &scene.a.project);
    let invite = format!("admin/projects/{project}/invite");
    let own = scene.a.member.path();
    let rotate = format!("{own}/$rotate-secret");
    let routes = [
        ("POST", "fhir/R4/ClientApplication"),
        ("POST", "fhir/R4"),
        ("PUT", own.as_str()),
        ("PATCH", own.as_str()),
        ("POST", rotate.as_str()),
        ("POST", invite.as_str()),
        ("POST", "auth/login"),
        ("POST", "oauth2/register"),
    ];
    let mut replies = Vec::new();
    for (method, route) in routes {
        let media = if method == "PATCH" { "application/json-patch+json" } else { "application/json" };
        for bytes in [&deep, &objects] {
            replies.push(admin.send(method, route, Body::Raw(media, bytes.clone())));
        }
    }
    let bad = replies.iter().find(|reply| !(400..500).contains(&reply.status));
    Ok(Verdict::of(bad.is_none(), bad.map_or_else(|| Tally::over(&replies).to_string(), Reply::to_string)))
}

/// A connection that a proxy shares between tenants must not close during the next request without an announcement.
fn early_answer(scene: &Scene<'_>) -> Result<Verdict> {
    let address = scene.attacker.base().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut silent = Vec::new();
    for (path, length) in
        [("/auth/login", 1_000_000), ("/oauth2/register", 1_000), ("/fhir/R4/ClientApplication", 1_000)]
    {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        // Until the end of the connection: the rest of the body never comes.
        stream.take(64 * 1024).read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        if !answer.contains("connection: close") {
            silent.push(format!("{path}: {}", answer.lines().next().unwrap_or("no answer")));
        }
    }
    let holds = silent.is_empty();
    Ok(Verdict::of(
        holds,
        if holds {
            "3 routes".to_owned()
        } else {
            format!("closed without saying so: {}", silent.join("; "))
        },
    ))
}

fn log_full(scene: &Scene<'_>) -> Result<Verdict> {
    let (nobody, admin, member) = (scene.nobody(), scene.admin(), &scene.a.member);
    let wrong = member.with("a-secret-that-this-client-never-had-0001");
    let mut tally = Tally::default();
    let mut expect = |name: &str, reply: &Reply, status: u16| {
        tally.count_as(&format!(
            "{name} {}",
            if reply.status == status { "answered" } else { "NOT ANSWERED" }
        ));
        reply.status == status
    };
    let mut holds = true;
    for _ in 0..20 {
        holds &= expect("refused proof", &nobody.grant(&wrong, &[]), 401);
    }
    let mut secret = member.secret.clone();
    for _ in 0..5 {
        let reply = admin.rotate(&member.id, "secret", &secret);
        holds &= expect("rotation", &reply, 200);
        secret = reply.text_at("/secret").unwrap_or(secret);
    }
    holds &= expect("grant", &nobody.grant(&member.with(&secret), &[]), 200);
    Ok(Verdict::of(holds, tally.to_string()))
}

/// Whether the answer to a write is true: it reports a refusal, or makes no false statement.
fn is_honest(reply: &Reply) -> bool {
    reply.status == 200 || reply.status == 503 || reply.status == 507
}

fn disk_full(scene: &Scene<'_>) -> Result<Verdict> {
    let pid = Pid::from_raw(i32::try_from(scene.process())?).context("the process of the server")?;
    let limit = |bytes: Option<u64>| {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(pid), Resource::Fsize, limit).context("limiting the size of files").map(drop)
    };
    let (admin, nobody, member) = (scene.admin(), scene.nobody(), &scene.a.member);
    let wrong = member.with("a-secret-that-this-client-never-had-0001");
    // No file can grow, and no write beyond the first byte of a file succeeds: neither to the database nor to the log.
    limit(Some(1))?;
    let mut full = Vec::new();
    for _ in 0..5 {
        full.push(admin.add(&member.path(), "/description", &json!("while it is full")));
        full.push(nobody.grant(&wrong, &[]));
    }
    limit(None)?;
    let dishonest = full.iter().find(|reply| !is_honest(reply) && reply.status != 401);
    if let Some(reply) = dishonest {
        return Ok(Verdict::Fails(format!("while the disk was full: {reply}")));
    }
    let again = admin.rotate(&member.id, "secret", &member.secret);
    let seen = format!("full: {}; room again: {again}", Tally::over(&full));
    Ok(Verdict::of(again.status == 200, seen))
}

/// How long a command with one request may take.
const COMMAND_WAIT: Duration = Duration::from_secs(30);

fn output_full(scene: &Scene<'_>) -> Result<Verdict> {
    let home = scene.directory()?;
    let full = || std::fs::File::options().write(true).open("/dev/full");
    let mut seen = Vec::new();
    let mut holds = true;
    let mut judge = |name: &str, command: &mut std::process::Command| -> Result<()> {
        let (status, _) = Running::start(command)?.wait(COMMAND_WAIT)?;
        // A panic ends a Rust program with 101; success would mean that the output was read.
        let good = status.and_then(|status| status.code()).is_some_and(|code| code != 0 && code != 101);
        holds &= good;
        let words = status.map_or_else(|| "did not end".to_owned(), |status| status.to_string());
        seen.push(format!("{name}: {words}"));
        Ok(())
    };
    for arguments in
        [vec!["status", &scene.a.member.id], vec!["status", &scene.a.member.id, "--json"], vec!["man"]]
    {
        let mut command = scene.command(home.path());
        command.args(&arguments).stdout(full()?).stderr(Stdio::null());
        judge(&format!("{} >/dev/full", arguments[0]), &mut command)?;
    }
    // An error that cannot be printed: a client that does not exist.
    let unknown = scene.a.member.id.replace(|digit: char| digit.is_ascii_hexdigit(), "0");
    let product = scene.command(home.path());
    let mut closed = std::process::Command::new("/bin/sh");
    for (name, value) in product.get_envs() {
        match value {
            Some(value) => closed.env(name, value),
            None => closed.env_remove(name),
        };
    }
    closed
        .current_dir(home.path())
        .args(["-c", "exec \"$0\" \"$@\" >/dev/null 2>&-"])
        .arg(product.get_program());
    judge("status 2>&-", closed.args(["status", &unknown]))?;
    let mut error_full = scene.command(home.path());
    error_full.args(["status", &unknown]).stdout(Stdio::null()).stderr(full()?);
    judge("status 2>/dev/full", &mut error_full)?;
    Ok(Verdict::of(holds, seen.join(", ")))
}
