//! `keyrelay agent` beside a fleet at work: it rotates its application's own secret again and again, is killed at
//! its steps and started again, and no worker is refused.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::fleet::{Fleet, From};
use crate::process::{grant, http, keyrelay};
use crate::stage::{Stage, end, names};
use crate::way::Way;

/// As often as it can be said.
const OFTEN: [&str; 4] = ["--every", "1s", "--wait-unused", "1s"];

/// An agent with nothing but the client's own secret.
fn agent(stage: &Stage, base: &str, arguments: &[&str]) -> Command {
    let mut command = keyrelay();
    command.current_dir(stage.dir.path()).env("HOME", stage.path("home")).env("KEYRELAY_URL", base);
    command.args(["agent", "--client", &stage.client, "--secret-file", "secret", "--json"]).args(arguments);
    command
}

fn silent(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

async fn terminate(mut agent: Child) -> Option<i32> {
    let pid = agent.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    agent.wait().await.unwrap().code()
}

async fn prepared(visibility: &str) -> Stage {
    let stage = Stage::set().await;
    stage.set_project("secretVisibility", visibility).await;
    stage.let_rotate_itself().await;
    stage
}

async fn nobody_was_refused(fleet: Fleet) {
    fleet.goes_on().await;
    let (granted, refused) = fleet.stop().await;
    assert_eq!(refused, 0, "of {granted}");
}

/// Runs it to the end of what was begun. Looks may come too early for the evidence, and each is a run of its own.
async fn finish(stage: &Stage, rotations: u64) {
    loop {
        let said = end(agent(stage, &stage.server.base, &[&OFTEN[..], &["--once"]].concat())).await;
        assert_eq!(said.code, Some(0), "{}", said.text);
        if !stage.state_file().exists() && stage.rotations().await >= rotations {
            return;
        }
    }
}

/// They name an admin there, whose secret must not be rotated for the application's.
#[tokio::test]
async fn it_does_not_take_the_variables_of_the_other_commands() {
    let mut command = keyrelay();
    command.args(["agent", "--to", "file:secret", "--every", "1d", "--wait-unused", "1d", "--once"]);
    command.env("KEYRELAY_URL", "http://127.0.0.1:9/").env("KEYRELAY_SECRET_FILE", "secret");
    command.env("KEYRELAY_CLIENT_ID", "00000000-0000-4000-8000-000000000001");
    let said = end(command).await;
    assert!(said.code == Some(2) && said.text.contains("--client"), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_rotates_again_and_again_and_ends_in_order() {
    let stage = prepared("recoverable").await;
    let first = stage.read("secret");
    let fleet = Fleet::start(&stage.server.base, &stage.client, &[From::File(stage.path("secret"))]);
    let mut running =
        agent(&stage, &stage.server.base, &[&OFTEN[..], &["--exec", "cat > by-command"]].concat());
    let mut running = running.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let (mut retired, mut said) = (0, String::new());
    while retired < 3 {
        let line = lines.next_line().await.unwrap().expect("it goes on");
        retired += usize::from(line.contains("\"event\":\"retired\""));
        said.push_str(&line);
    }
    assert_eq!(terminate(running).await, Some(0));
    nobody_was_refused(fleet).await;
    finish(&stage, 3).await;
    let (secret, retiring) = stage.secrets().await;
    assert_eq!((stage.read("secret"), retiring), (secret.clone(), None));
    assert_eq!(stage.read("by-command").len(), secret.len());
    for value in [&first, &secret] {
        assert!(!said.contains(value.as_str()) && !stage.read("log").contains(value.as_str()));
    }
    assert_eq!(names(stage.dir.path()), [".env", "by-command", "data", "home", "log", "secret"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_message_it_goes_on_at_the_next_start() {
    let stage = prepared("once").await;
    let way = Way::to(&stage.server.base).await;
    let fleet = Fleet::start(&stage.server.base, &stage.client, &[From::File(stage.path("secret"))]);
    for killed in 0..16 {
        let (old, rotations) = (stage.read("secret"), stage.rotations().await);
        way.cut_after(killed);
        let mut first = silent(agent(&stage, &way.base, &OFTEN));
        way.is_cut().await;
        first.kill().await.unwrap();
        fleet.goes_on().await;
        // The record names the way that it went.
        way.mend();
        loop {
            let said = end(agent(&stage, &way.base, &[&OFTEN[..], &["--once"]].concat())).await;
            assert_eq!(said.code, Some(0), "{killed}: {}", said.text);
            if !stage.state_file().exists() && stage.rotations().await > rotations {
                break;
            }
        }
        let new = stage.read("secret");
        assert_ne!(new, old);
        assert_eq!(grant(&http(), &stage.server.base, &stage.client, &new).await, 200);
        assert_eq!(grant(&http(), &stage.server.base, &stage.client, &old).await, 401);
        assert_eq!(names(stage.dir.path()), [".env", "data", "home", "log", "secret"]);
    }
    nobody_was_refused(fleet).await;
}

#[tokio::test]
async fn while_the_server_is_away_it_waits_and_a_start_is_no_reason_to_rotate() {
    let stage = prepared("recoverable").await;
    let seldom = ["--every", "30d", "--once"];
    for _ in 0..2 {
        let said = end(agent(&stage, &stage.server.base, &seldom)).await;
        assert_eq!((said.code, stage.rotations().await), (Some(0), 0), "{}", said.text);
    }
    let base = stage.server.base.clone();
    let mut command = agent(&stage, &base, &OFTEN);
    let Stage { server, dir, .. } = stage;
    server.kill().await;
    let mut running = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    for seconds in [1, 2] {
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.contains("\"event\":\"failed\"") && line.contains("did not answer"), "{line}");
        assert!(line.contains(&format!("\"againInSeconds\":{seconds}")), "{line}");
    }
    assert_eq!(terminate(running).await, Some(0));
    drop(dir);
}

#[tokio::test]
async fn after_its_new_secret_was_revoked_it_makes_another_one_by_the_one_before() {
    let stage = prepared("recoverable").await;
    let old = stage.read("secret");
    while stage.rotations().await == 0 {
        let said = end(agent(&stage, &stage.server.base, &["--every", "1s", "--once"])).await;
        assert_eq!(said.code, Some(0), "{}", said.text);
    }
    let revoked = stage.read("secret");
    let revoke = format!("fhir/R4/ClientApplication/{}/$revoke-secret", stage.client);
    stage.ask("POST", &revoke, Some(serde_json::json!({ "slot": "secret" }))).await;
    let said = end(agent(&stage, &stage.server.base, &["--once"])).await;
    assert_eq!((said.code, stage.rotations().await), (Some(0), 2), "{}", said.text);
    let (secret, retiring) = stage.secrets().await;
    assert!(stage.read("secret") == secret && secret != revoked && retiring.as_ref() == Some(&old));
    // Without the one before, there is nothing that it could be let in by.
    std::fs::remove_file(stage.kept_file()).unwrap();
    stage.ask("POST", &revoke, Some(serde_json::json!({ "slot": "secret" }))).await;
    let said = end(agent(&stage, &stage.server.base, &["--once"])).await;
    assert!(said.code == Some(1) && said.text.contains("401"), "{}", said.text);
}

#[tokio::test]
async fn what_others_have_ended_is_no_reason_to_rotate() {
    let stage = prepared("recoverable").await;
    let old = stage.read("secret");
    while stage.rotations().await == 0 {
        let said = end(agent(&stage, &stage.server.base, &["--every", "1s", "--once"])).await;
        assert_eq!(said.code, Some(0), "{}", said.text);
    }
    stage.operate("retiringSecret", &old).await;
    assert!(stage.state_file().exists());
    let said = end(agent(&stage, &stage.server.base, &["--every", "30d", "--once"])).await;
    assert_eq!((said.code, stage.rotations().await), (Some(0), 1), "{}", said.text);
    assert!(!stage.state_file().exists());
}

#[tokio::test]
async fn a_second_one_touches_nothing() {
    let stage = prepared("recoverable").await;
    std::fs::create_dir_all(stage.state_file().parent().unwrap()).unwrap();
    let lock = std::fs::File::create(stage.state_file().with_extension("json.lock")).unwrap();
    lock.lock().unwrap();
    std::fs::write(stage.path(".secret.keyrelay-part"), "about to be delivered").unwrap();
    let said = end(agent(&stage, &stage.server.base, &["--once"])).await;
    assert!(said.code == Some(1) && said.text.contains("is running"), "{}", said.text);
    assert_eq!(stage.read(".secret.keyrelay-part"), "about to be delivered");
}

#[tokio::test]
async fn the_old_secret_may_end_by_itself() {
    let stage = prepared("recoverable").await;
    let old = stage.read("secret");
    let arguments = ["--every", "1s", "--retire-after", "1h", "--to", "dotenv:.env#SECRET", "--once"];
    while stage.rotations().await == 0 {
        let said = end(agent(&stage, &stage.server.base, &arguments)).await;
        assert_eq!(said.code, Some(0), "{}", said.text);
    }
    let (secret, retiring) = stage.secrets().await;
    assert_eq!((stage.read("secret"), retiring), (secret.clone(), Some(old)));
    assert!(stage.read(".env").contains(&secret));
    assert_eq!(names(stage.dir.path()), [".env", "data", "home", "log", "secret"]);
    let status = stage.run("status", &[]).await;
    assert_eq!(status.code, Some(0), "{}", status.text);
}

#[tokio::test]
async fn without_the_permission_it_says_so_and_changes_nothing() {
    let stage = Stage::set().await;
    let said = end(agent(&stage, &stage.server.base, &[&OFTEN[..], &["--once"]].concat())).await;
    assert!(said.code == Some(1) && said.text.contains("403"), "{}", said.text);
    assert_eq!((stage.rotations().await, stage.secrets().await.1), (0, None));
}
