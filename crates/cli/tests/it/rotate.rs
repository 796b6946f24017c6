//! `keyrelay rotate` with a fleet at work: killed at each of its steps and run again, it ends with one new
//! secret everywhere and the old one gone, and no worker was refused.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::fleet::{Fleet, From, dotenv};
use crate::process::{grant, http};
use crate::stage::{Said, Stage, end, names};
use crate::way::Way;

/// The whole of it, as short as it gets.
const WHOLE: [&str; 9] = [
    "--to",
    "file:secret",
    "--to",
    "dotenv:.env#SECRET",
    "--exec",
    "cat > by-command",
    "--wait-unused",
    "1s",
    "--retire",
];

/// The command, by a way.
pub fn by(way: &Way, stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = stage.command("rotate", arguments);
    command.env("KEYRELAY_URL", &way.base);
    command
}

/// Everything is as it must be after `rotations` of them.
async fn is_done(stage: &Stage, said: &Said, rotations: u64) {
    assert_eq!(said.code, Some(0), "{}", said.text);
    let (secret, retiring) = stage.secrets().await;
    assert_eq!(retiring, None, "{}", said.text);
    for held in [stage.read("secret"), dotenv(&stage.path(".env")), stage.read("by-command")] {
        assert!(held == secret, "{}", said.text);
    }
    assert_eq!(stage.rotations().await, rotations, "{}", said.text);
    assert!(!stage.state_file().exists());
    let expected = [".env", "by-command", "data", "home", "log", "secret"];
    assert_eq!(names(stage.dir.path()), expected);
}

fn fleet(stage: &Stage) -> Fleet {
    let places = [From::File(stage.path("secret")), From::Dotenv(stage.path(".env"))];
    Fleet::start(&stage.server.base, &stage.client, &places)
}

pub async fn nobody_was_refused(fleet: Fleet) {
    fleet.goes_on().await;
    let (granted, refused) = fleet.stop().await;
    assert_eq!(refused, 0, "of {granted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_message_it_is_gone_on_with_and_nobody_is_refused() {
    let stage = Stage::set().await;
    let way = Way::to(&stage.server.base).await;
    let fleet = fleet(&stage);
    let mut killed = 0;
    loop {
        way.cut_after(killed);
        let mut first = by(&way, &stage, &WHOLE).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let ended = tokio::select! {
            ended = first.wait() => Some(ended.unwrap()),
            () = way.is_cut() => None,
        };
        if let Some(ended) = ended {
            assert_eq!(ended.code(), Some(0));
            break;
        }
        first.kill().await.unwrap();
        fleet.goes_on().await;
        way.mend();
        let said = end(by(&way, &stage, &WHOLE)).await;
        killed += 1;
        is_done(&stage, &said, u64::try_from(killed).unwrap()).await;
    }
    // Status, secrets, rotation, status, waiting, secrets, retirement: there and back.
    assert!(killed >= 14, "{killed}");
    nobody_was_refused(fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_anything_that_it_said_it_is_gone_on_with() {
    let stage = Stage::set().await;
    let fleet = fleet(&stage);
    let mut killed = 0;
    loop {
        let mut command = stage.command("rotate", &WHOLE);
        let mut first = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
        let mut said = 0;
        while said <= killed && lines.next_line().await.unwrap().is_some() {
            said += 1;
        }
        if said <= killed {
            assert!(first.wait().await.unwrap().success());
            break;
        }
        first.kill().await.unwrap();
        fleet.goes_on().await;
        // What was killed at its last word had come to its end: this is another one then.
        let rotations = stage.rotations().await + u64::from(!stage.state_file().exists());
        let said = stage.run("rotate", &WHOLE).await;
        is_done(&stage, &said, rotations).await;
        killed += 1;
    }
    assert!(killed >= 6, "{killed}");
    nobody_was_refused(fleet).await;
}

#[tokio::test]
async fn files_keep_their_mode_owner_and_everything_else() {
    let stage = Stage::set().await;
    let old = stage.read("secret");
    let env = format!("# a\r\nSECRETS='1'\r\nexport SECRET=\"{old}\" # b\r\nSECRET_2={old}");
    std::fs::write(stage.path(".env"), &env).unwrap();
    std::fs::write(stage.path("secret"), format!("{old}\n")).unwrap();
    for (name, mode) in [("secret", 0o640), (".env", 0o644)] {
        std::fs::set_permissions(stage.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let owner = std::fs::metadata(stage.path("secret")).unwrap().uid();
    let said = stage
        .run("rotate", &["--to", "file:secret", "--to", "dotenv:.env#SECRET", "--to", "file:fresh"])
        .await;
    assert_eq!(said.code, Some(0), "{}", said.text);
    let (new, retiring) = stage.secrets().await;
    assert_eq!(retiring.as_ref(), Some(&old), "without --retire it stays");
    assert_eq!((stage.read("secret"), stage.read("fresh")), (format!("{new}\n"), new.clone()));
    assert_eq!(stage.read(".env"), env.replacen(&old, &new, 1));
    for (name, mode) in [("secret", 0o640), (".env", 0o644), ("fresh", 0o600)] {
        let meta = std::fs::metadata(stage.path(name)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (mode, owner), "{name}");
    }
    assert!(said.text.contains("keyrelay retire") && !stage.state_file().exists(), "{}", said.text);

    // The next one does not end that secret by accident.
    let again = ["--to", "file:secret"];
    let said = stage.run("rotate", &again).await;
    assert!(said.code == Some(1) && said.text.contains("(--resume)"), "{}", said.text);
    assert_eq!(stage.secrets().await, (new.clone(), Some(old.clone())));
    let said = stage.run("rotate", &[&again[..], &["--resume"]].concat()).await;
    assert_eq!((said.code, stage.secrets().await.0), (Some(0), new.clone()), "{}", said.text);
    // Not even where the project refuses it, unless it is meant: the retiring one was used just now.
    stage.set_project("secretOverwrite", "refuse").await;
    assert_eq!(grant(&http(), &stage.server.base, &stage.client, &old).await, 200);
    let said = stage.run("rotate", &[&again[..], &["--force"]].concat()).await;
    assert_eq!((said.code, stage.secrets().await.1), (Some(0), Some(new)), "{}", said.text);
}

#[tokio::test]
async fn what_cannot_be_delivered_is_not_made() {
    let stage = Stage::set().await;
    std::fs::create_dir(stage.path("dir")).unwrap();
    for (target, expected) in [
        ("file:none/secret", "cannot deliver to none/secret"),
        ("file:dir", "dir is not a file"),
        ("dotenv:secret#SECRET", "secret is named twice"),
    ] {
        let said = stage.run("rotate", &["--to", "file:secret", "--to", target]).await;
        assert!(said.code == Some(1) && said.text.contains(expected), "{}", said.text);
    }
    for arguments in [&["--to", "secret"][..], &["--retire"], &["--to", "file:secret", "--timeout", "1s"]] {
        let said = stage.run("rotate", arguments).await;
        assert_eq!(said.code, Some(2), "{}", said.text);
    }
    assert_eq!((stage.rotations().await, stage.secrets().await.1), (0, None));
}

#[tokio::test]
async fn two_clients_may_have_their_secrets_in_one_file() {
    let mut stage = Stage::set().await;
    stage.set_project("secretVisibility", "once").await;
    let first = (stage.client.clone(), stage.read("secret"));
    stage.make_client().await;
    let second = (stage.client.clone(), stage.read("secret"));
    std::fs::write(stage.path(".env"), format!("FIRST={}\nSECOND={}\n", first.1, second.1)).unwrap();
    let both = [("dotenv:.env#FIRST", first), ("dotenv:.env#SECOND", second)];
    for (wait, code) in [("2h", 4), ("1s", 0)] {
        for (target, (client, old)) in &both {
            stage.client.clone_from(client);
            let arguments = ["--to", target, "--retire", "--wait-unused", wait, "--timeout", "1s"];
            let said = stage.run("rotate", &arguments[..if code == 0 { 5 } else { 7 }]).await;
            assert_eq!(said.code, Some(code), "{}", said.text);
            let granted = grant(&http(), &stage.server.base, client, old).await;
            assert_eq!(granted, if code == 0 { 401 } else { 200 });
        }
    }
    let env = stage.read(".env");
    for (line, (_, (client, _))) in env.lines().zip(&both) {
        let secret = line.split_once('=').unwrap().1;
        assert_eq!(grant(&http(), &stage.server.base, client, secret).await, 200);
    }
    assert_eq!(names(stage.dir.path()), [".env", "data", "home", "log", "secret"]);
}

#[tokio::test]
async fn a_command_that_fails_leaves_both_secrets_working() {
    let stage = Stage::set().await;
    let old = stage.read("secret");
    let arguments = ["--exec", "cat > got; test -e allowed", "--to", "file:secret"];
    let said = stage.run("rotate", &[&arguments[..], &["--json"]].concat()).await;
    assert_eq!(said.code, Some(1));
    assert!(said.text.contains("run the same command again"), "{}", said.text);
    assert!(said.text.contains("{\"event\":\"failed\","), "{}", said.text);
    let new = stage.read("secret");
    for secret in [&old, &new] {
        assert_eq!(grant(&http(), &stage.server.base, &stage.client, secret).await, 200);
    }
    std::fs::write(stage.path("allowed"), "").unwrap();
    let said = stage.run("rotate", &arguments).await;
    assert_eq!((said.code, stage.rotations().await), (Some(0), 1), "{}", said.text);
    assert_eq!((stage.read("got"), stage.read("secret")), (new.clone(), new));
}

#[tokio::test]
async fn a_secret_in_use_is_not_retired_until_the_time_is_up() {
    let stage = Stage::set().await;
    let old = stage.read("secret");
    let stubborn = stage.path("stubborn");
    std::fs::write(&stubborn, &old).unwrap();
    let fleet = Fleet::start(&stage.server.base, &stage.client, &[From::File(stubborn.clone())]);
    fleet.goes_on().await;
    let patient = ["--to", "file:secret", "--retire", "--wait-unused", "1s", "--timeout", "2s"];
    let said = stage.run("rotate", &patient).await;
    assert_eq!(said.code, Some(4), "{}", said.text);
    assert!(
        said.text.contains("worker-0") && said.text.contains("--wait-unused is shorter"),
        "{}",
        said.text
    );
    let said = stage.run("rotate", &patient[..3]).await;
    assert_eq!(said.code, Some(3), "it is looked at once: {}", said.text);
    let said = stage.run("retire", &["--json"]).await;
    assert!(said.code == Some(3) && said.text.contains("\"event\":\"still in use\""), "{}", said.text);
    assert_eq!(stage.secrets().await.1.as_ref(), Some(&old));

    // One at a time: this one waits for the callers, and the next one is turned away.
    let mut waiting = stage.command("rotate", &patient[..5]);
    let mut waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(waiting.stdout.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("An earlier run has rotated"));
    std::fs::write(stage.path(".secret.keyrelay-part"), "about to be delivered").unwrap();
    let said = stage.run("rotate", &patient).await;
    assert!(said.code == Some(1) && said.text.contains("is running"), "{}", said.text);
    assert_eq!(stage.read(".secret.keyrelay-part"), "about to be delivered");
    waiting.kill().await.unwrap();

    std::fs::rename(stage.path("secret"), &stubborn).unwrap();
    let said = stage.run("rotate", &patient[..5]).await;
    assert_eq!((said.code, stage.secrets().await.1), (Some(0), None), "{}", said.text);
    nobody_was_refused(fleet).await;
    let said = stage.run("retire", &[]).await;
    assert!(said.code == Some(0) && said.text.contains("There is no retiring secret."), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_with_the_old_secret_in_the_last_moment_is_not_locked_out() {
    let stage = Stage::set().await;
    let stubborn = stage.path("stubborn");
    std::fs::copy(stage.path("secret"), &stubborn).unwrap();
    let way = Way::to(&stage.server.base).await;
    way.mend();
    let arguments = ["--to", "file:secret", "--retire", "--timeout", "3s", "--wait-unused"];
    let said = end(by(&way, &stage, &[&arguments[..], &["2h"]].concat())).await;
    assert_eq!(said.code, Some(4), "{}", said.text);
    // Status, secrets, and the status by which it can go.
    way.cut_after(6);
    let rotate = tokio::spawn(end(by(&way, &stage, &[&arguments[..], &["1s"]].concat())));
    way.is_cut().await;
    let fleet = Fleet::start(&stage.server.base, &stage.client, &[From::File(stubborn)]);
    fleet.goes_on().await;
    way.mend();
    way.release_held();
    let said = rotate.await.unwrap();
    assert_eq!(said.code, Some(4), "{}", said.text);
    nobody_was_refused(fleet).await;
}

#[tokio::test]
async fn while_the_server_is_away_it_waits_on() {
    let stage = Stage::set().await;
    assert_eq!(grant(&http(), &stage.server.base, &stage.client, &stage.read("secret")).await, 200);
    let arguments = ["--to", "file:secret", "--retire", "--wait-unused", "2h", "--timeout", "3s", "--json"];
    let mut child = stage.command("rotate", &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut events = Vec::new();
    let mut server = Some(stage.server);
    while let Some(line) = lines.next_line().await.unwrap() {
        let told: Value = serde_json::from_str(&line).unwrap();
        events.push(told["event"].as_str().unwrap().to_owned());
        if told["event"] == "callers"
            && let Some(server) = server.take()
        {
            server.kill().await;
        }
    }
    assert_eq!(events, ["rotated", "delivered", "callers", "unanswered", "timed out"]);
    assert_eq!(child.wait().await.unwrap().code(), Some(4));
}

#[tokio::test]
async fn the_secret_is_nowhere_but_where_it_was_sent() {
    let stage = Stage::set().await;
    let old = stage.read("secret");
    let look = "cat > by-command; tr '\\0' '\\n' < /proc/$$/environ > seen; \
                cat /proc/$$/cmdline /proc/$PPID/cmdline /proc/$PPID/environ >> seen; \
                cat home/.local/state/keyrelay/* >> seen; cat 2>/dev/null by-command >/dev/null";
    // Used just now, so that the rotation stays where it can be looked at.
    assert_eq!(grant(&http(), &stage.server.base, &stage.client, &old).await, 200);
    let arguments = ["--to", "file:secret", "--exec", look, "--json", "--retire", "--wait-unused", "1s"];
    let first = stage.run("rotate", &arguments[..6]).await;
    assert_eq!(first.code, Some(3), "{}", first.text);
    let record = std::fs::read_to_string(stage.state_file()).unwrap();
    let said = stage.run("rotate", &arguments).await;
    assert_eq!(said.code, Some(0), "{}", said.text);
    let new = stage.read("secret");
    assert_eq!(stage.read("by-command"), new);
    let seen = stage.read("seen");
    assert!(seen.contains("--to") && seen.contains("\"from\""), "{seen}");
    let status = stage.run("status", &[]).await;
    assert!(status.code == Some(0) && status.text.contains("no retiring secret"), "{}", status.text);
    let (_, admin) = crate::process::bootstrap(&stage.path("data"));
    for secret in [&old, &new, &admin] {
        let log = stage.read("log");
        for (place, text) in [
            ("output", &first.text),
            ("output", &said.text),
            ("seen", &seen),
            ("record", &record),
            ("log", &log),
            ("status", &status.text),
        ] {
            assert!(!text.contains(secret.as_str()), "a secret is in the {place}");
        }
    }
}
