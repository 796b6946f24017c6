//! Section 4, outbound connections: a peer whose answer never ends costs neither the server nor a command much.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{Needs, Row, Verdict};
use crate::clock::Stopwatch;
use crate::command;
use crate::peers::{Endless, Peer};
use crate::scene::{Kind, Scene};

pub(super) static ROWS: &[Row] = &[
    Row {
        name: "webhook-early-hints",
        claim: "a receiver that answers 103 for ever is left after a bounded answer",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: webhook_early_hints,
    },
    Row {
        name: "endless-answer",
        claim: "a command reads a bounded part of an answer",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: endless_answer,
    },
    Row {
        name: "endless-exec",
        claim: "a command that `--exec` names has a time limit, and is ended by it",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: endless_exec,
    },
];

/// More than the buffers of both sides hold, and far less than a receiver sends in ten seconds.
const SENT_BYTES_MAX: u64 = 16 * 1024 * 1024;

fn webhook_early_hints(scene: &Scene<'_>) -> Result<Verdict> {
    let peer = Peer::start(Endless::EarlyHints)?;
    let admin = scene.admin();
    let webhook = json!({ "url": peer.url() });
    admin.post(&format!("admin/projects/{}/webhooks", scene.a.project), webhook).expect(201)?;
    admin.rotate(&scene.a.member.id, "secret", &scene.a.member.secret).expect(200)?;
    let watch = Stopwatch::start();
    let is_over = |peer: &Peer| peer.accepted() > 0 && peer.open() == 0 || peer.sent() > 4 * SENT_BYTES_MAX;
    while !is_over(&peer) && watch.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (sent, accepted, open) = (peer.sent(), peer.accepted(), peer.open());
    let seen = format!("{accepted} deliveries, {open} still open, {} KiB taken", sent / 1024);
    Ok(Verdict::of(accepted > 0 && open == 0 && sent < accepted * SENT_BYTES_MAX, seen))
}

/// More memory than a command needs, even if it was built without optimization.
const COMMAND_BYTES_MAX: u64 = 100 * 1024 * 1024;

fn endless_answer(scene: &Scene<'_>) -> Result<Verdict> {
    let peer = Peer::start(Endless::Body)?;
    let home = scene.directory()?;
    let mut seen = Vec::new();
    let mut holds = true;
    let file = format!("file:{}", home.path().join("secret").display());
    let client = scene.a.member.id.as_str();
    for arguments in [vec!["status", client], vec!["rotate", client, "--to", &file]] {
        let mut command = scene.command(home.path());
        command.env("KEYRELAY_URL", peer.url()).args(&arguments);
        let ended = command::run(command, home.path(), Duration::from_secs(30))?;
        holds &= ended.is_orderly() && !ended.is_success() && ended.peak < COMMAND_BYTES_MAX;
        seen.push(format!("{}: {} MiB, {}", arguments[0], ended.peak / (1024 * 1024), ended.words()));
    }
    Ok(Verdict::of(holds, seen.join("; ")))
}

fn endless_exec(scene: &Scene<'_>) -> Result<Verdict> {
    let home = scene.directory()?;
    let file = format!("file:{}", home.path().join("secret").display());
    let noted = home.path().join("process");
    // Longer than any wait; writes its process id, to check whether it is left behind.
    let exec = format!("echo $$ > {}; exec sleep 600", noted.display());
    let mut command = scene.command(home.path());
    command.args(["rotate", &scene.a.member.id, "--to", &file, "--exec", &exec, "--exec-timeout", "2s"]);
    let ended = command::run(command, home.path(), Duration::from_mins(1))?;
    let Ok(process) = std::fs::read_to_string(&noted) else {
        return Ok(Verdict::Fails(format!("the command was not run: {}", ended.words())));
    };
    let is_left = std::fs::exists(format!("/proc/{}", process.trim()))?;
    let seen = format!("{}{}", if is_left { "the process is still there; " } else { "" }, ended.words());
    Ok(Verdict::of(ended.is_orderly() && !ended.is_success() && !is_left, seen))
}
