//! What becomes of a rotation between two runs of `keyrelay rotate`: answers are lost, others undo, revoke, retire or
//! replace, and files are not what they were. Whatever happened, no secret is delivered that has ended.

use std::process::Stdio;

use serde_json::json;

use crate::fleet::{Fleet, From};
use crate::process::{grant, http};
use crate::rotate::{by, nobody_was_refused};
use crate::stage::{Stage, end, names};
use crate::way::Way;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_project_shows_once_is_not_lost_either() {
    const ONCE: [&str; 5] = ["--to", "file:secret", "--wait-unused", "1s", "--retire"];
    let mut stage = Stage::set().await;
    stage.set_project("secretVisibility", "once").await;
    let way = Way::to(&stage.server.base).await;
    for killed in 0.. {
        stage.make_client().await;
        let (old, rotations) = (stage.read("secret"), stage.rotations().await);
        let fleet = Fleet::start(&stage.server.base, &stage.client, &[From::File(stage.path("secret"))]);
        fleet.goes_on().await;
        way.cut_after(killed);
        let mut first = by(&way, &stage, &ONCE).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let ended = tokio::select! {
            ended = first.wait() => Some(ended.unwrap()),
            () = way.is_cut() => None,
        };
        if ended.is_none() {
            first.kill().await.unwrap();
            way.mend();
            let said = end(by(&way, &stage, &ONCE)).await;
            assert_eq!(said.code, Some(0), "{killed}: {}", said.text);
        }
        nobody_was_refused(fleet).await;
        assert_eq!(stage.rotations().await, rotations + 1, "one new secret, and it is delivered");
        assert_ne!(stage.read("secret"), old);
        assert_eq!(grant(&http(), &stage.server.base, &stage.client, &old).await, 401);
        assert_eq!(names(stage.dir.path()), [".env", "data", "home", "log", "secret"]);
        if let Some(ended) = ended {
            assert_eq!(ended.code(), Some(0));
            break;
        }
    }
    let said = stage.run("rotate", &["--exec", "cat > by-command"]).await;
    assert!(said.code == Some(1) && said.text.contains("name a file with --to"), "{}", said.text);
}

/// A rotation in a project that shows secrets once, whose answer was held back; gives the way, which is mended by
/// now, and the old secret.
async fn with_a_lost_answer(stage: &Stage) -> (Way, String) {
    stage.set_project("secretVisibility", "once").await;
    let old = stage.read("secret");
    let way = Way::to(&stage.server.base).await;
    // Status, the client, and the rotation, but for its answer.
    way.cut_after(5);
    let mut first = by(&way, stage, &["--to", "file:secret"]);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    way.is_cut().await;
    first.kill().await.unwrap();
    assert_eq!((stage.rotations().await, stage.read("secret")), (1, old.clone()));
    way.mend();
    (way, old)
}

#[tokio::test]
async fn a_lost_answer_that_is_out_of_date_by_now_is_not_delivered() {
    let stage = Stage::set().await;
    let (way, old) = with_a_lost_answer(&stage).await;
    // An admin helps itself, and writes another secret directly.
    let client = format!("fhir/R4/ClientApplication/{}", stage.client);
    let chosen = "chosen by an admin, long enough to be allowed";
    let patch = json!([{ "op": "add", "path": "/secret", "value": chosen }]);
    stage.ask("PATCH", &client, Some(patch)).await;
    let said = end(by(&way, &stage, &["--to", "file:secret"])).await;
    assert!(said.code == Some(1) && said.text.contains("an answer that did not arrive"), "{}", said.text);
    assert_eq!(stage.read("secret"), old);
    // And brings it where it belongs.
    let beside = stage.path("beside");
    std::fs::write(&beside, chosen).unwrap();
    std::fs::rename(beside, stage.path("secret")).unwrap();
    let said = end(by(&way, &stage, &["--to", "file:secret", "--to", "file:fresh"])).await;
    assert_eq!((said.code, stage.read("fresh").as_str()), (Some(0), chosen), "{}", said.text);
}

#[tokio::test]
async fn the_old_secret_that_somebody_puts_back_is_not_taken_for_the_new_one() {
    let stage = Stage::set().await;
    let (way, old) = with_a_lost_answer(&stage).await;
    std::fs::write(stage.path("beside"), &old).unwrap();
    std::fs::rename(stage.path("beside"), stage.path("secret")).unwrap();
    let arguments = ["--to", "file:secret", "--retire", "--wait-unused"];
    for (wait, code) in [("2h", Some(4)), ("1s", Some(0))] {
        let arguments = [&arguments[..], &[wait, "--timeout", "3s"]].concat();
        let said = end(by(&way, &stage, &arguments)).await;
        assert_eq!((said.code, stage.rotations().await), (code, 1), "{}", said.text);
        assert_eq!(grant(&http(), &stage.server.base, &stage.client, &stage.read("secret")).await, 200);
        // Also after the new one had got there.
        std::fs::write(stage.path("secret"), &old).unwrap();
    }
    assert_eq!(grant(&http(), &stage.server.base, &stage.client, &old).await, 401);
}

#[tokio::test]
async fn what_others_have_rotated_cannot_be_resumed_where_nobody_says_the_secret() {
    let stage = Stage::set().await;
    stage.set_project("secretVisibility", "once").await;
    let old = stage.read("secret");
    let made = stage.operate("secret", &old).await["secret"].as_str().unwrap().to_owned();
    let said = stage.run("rotate", &["--to", "file:secret"]).await;
    assert!(
        said.code == Some(1) && said.text.contains("if the client's project shows secrets"),
        "{}",
        said.text
    );
    let said = stage.run("rotate", &["--to", "file:secret", "--resume"]).await;
    assert!(said.code == Some(1) && said.text.contains("only who rotated has it"), "{}", said.text);
    assert!(!said.text.contains("run the same command again") && !stage.state_file().exists());
    // What it says can be done.
    std::fs::write(stage.path("secret"), made).unwrap();
    let said = stage.run("rotate", &["--to", "file:secret", "--force"]).await;
    assert_eq!((said.code, stage.rotations().await), (Some(0), 2), "{}", said.text);
    assert_eq!(grant(&http(), &stage.server.base, &stage.client, &old).await, 401);
    assert_eq!(grant(&http(), &stage.server.base, &stage.client, &stage.read("secret")).await, 200);
}

#[tokio::test]
async fn a_secret_that_was_replaced_is_not_delivered_from_the_first_target() {
    let stage = Stage::set().await;
    stage.set_project("secretVisibility", "once").await;
    let waits = ["--to", "file:secret", "--retire", "--wait-unused", "2h", "--timeout", "1s"];
    let said = stage.run("rotate", &waits).await;
    assert_eq!(said.code, Some(4), "{}", said.text);
    let chosen = "chosen by an admin, long enough to be allowed";
    let patch = json!([{ "op": "add", "path": "/secret", "value": chosen }]);
    stage.ask("PATCH", &format!("fhir/R4/ClientApplication/{}", stage.client), Some(patch)).await;
    let fresh = [&["--to", "file:secret", "--to", "file:fresh"], &waits[2..]].concat();
    let said = stage.run("rotate", &fresh).await;
    assert_eq!((said.code, stage.path("fresh").exists()), (Some(1), false), "{}", said.text);
    std::fs::write(stage.path("secret"), chosen).unwrap();
    let said = stage.run("rotate", &fresh).await;
    assert_eq!((said.code, stage.read("fresh").as_str()), (Some(4), chosen), "{}", said.text);
}

#[tokio::test]
async fn a_file_that_holds_another_secret_is_named_and_can_be_put_right() {
    let stage = Stage::set().await;
    stage.set_project("secretVisibility", "once").await;
    let current = stage.read("secret");
    std::fs::write(stage.path("secret"), "of another client").unwrap();
    let said = stage.run("rotate", &["--to", "file:secret"]).await;
    assert!(said.code == Some(1) && said.text.contains("secret does not hold the current"), "{}", said.text);
    std::fs::write(stage.path("secret"), current).unwrap();
    let said = stage.run("rotate", &["--to", "file:secret"]).await;
    assert_eq!((said.code, stage.rotations().await), (Some(0), 1), "{}", said.text);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_as_it_was_at_first() {
    let stage = Stage::set().await;
    let (way, old) = with_a_lost_answer(&stage).await;
    let record = std::fs::read_to_string(stage.state_file()).unwrap();
    assert!(record.contains("\"key\"") && !record.contains(&old), "{record}");
    let said = end(by(&way, &stage, &["--to", "file:secret"])).await;
    assert_eq!((said.code, stage.rotations().await), (Some(0), 1), "{}", said.text);
    assert_eq!(grant(&http(), &stage.server.base, &stage.client, &stage.read("secret")).await, 200);
}

/// How a rotation that was answered can be taken back before it is gone on with.
async fn take_back(stage: &Stage, by_undoing: bool) {
    let client = format!("fhir/R4/ClientApplication/{}", stage.client);
    let operate = async |operation, body| {
        stage.ask("POST", &format!("{client}/{operation}"), Some(body)).await;
    };
    if by_undoing {
        operate("$undo-rotation", json!({})).await;
        operate("$revoke-secret", json!({ "slot": "retiringSecret" })).await;
    } else {
        operate("$revoke-secret", json!({ "slot": "secret" })).await;
    }
}

#[tokio::test]
async fn a_secret_that_has_ended_between_two_runs_is_not_delivered_again() {
    const WAITS: [&str; 9] = [
        "--to",
        "file:secret",
        "--exec",
        "cat > by-command",
        "--retire",
        "--wait-unused",
        "2h",
        "--timeout",
        "1s",
    ];
    let mut stage = Stage::set().await;
    for visibility in ["recoverable", "once"] {
        stage.set_project("secretVisibility", visibility).await;
        for by_undoing in [false, true] {
            stage.make_client().await;
            let old = stage.read("secret");
            let said = stage.run("rotate", &WAITS).await;
            assert_eq!(said.code, Some(4), "{}", said.text);
            let ended = stage.read("secret");
            take_back(&stage, by_undoing).await;
            let said = stage.run("rotate", &WAITS).await;
            assert_eq!(said.code, Some(4), "{visibility}, {by_undoing}: {}", said.text);
            let new = stage.read("secret");
            assert!(new != ended && new == stage.read("by-command"), "{visibility}, {by_undoing}");
            for (secret, expected) in [(&new, 200), (&old, 200), (&ended, 401)] {
                let granted = grant(&http(), &stage.server.base, &stage.client, secret).await;
                assert_eq!(granted, expected, "{visibility}, {by_undoing}");
            }
            // In a project that shows secrets once, the old one is still at hand to be retired.
            let said = stage.run("rotate", &["--to", "file:secret", "--retire", "--wait-unused", "1s"]).await;
            assert_eq!(said.code, Some(0), "{visibility}, {by_undoing}: {}", said.text);
            assert_eq!(grant(&http(), &stage.server.base, &stage.client, &old).await, 401);
        }
    }
}

#[tokio::test]
async fn a_lost_answer_whose_secret_has_ended_is_not_taken() {
    for by_undoing in [false, true] {
        let stage = Stage::set().await;
        let (way, old) = with_a_lost_answer(&stage).await;
        take_back(&stage, by_undoing).await;
        let said = end(by(&way, &stage, &["--to", "file:secret"])).await;
        assert_eq!((said.code, stage.rotations().await), (Some(0), 2), "{}", said.text);
        for secret in [&stage.read("secret"), &old] {
            assert_eq!(grant(&http(), &stage.server.base, &stage.client, secret).await, 200);
        }
    }
}

#[tokio::test]
async fn what_others_have_ended_is_rotated_anew_unless_it_is_to_be_resumed() {
    let stage = Stage::set().await;
    let waits = ["--to", "file:secret", "--retire", "--wait-unused", "2h", "--timeout", "1s"];
    for (more, rotations) in [(&[][..], 2), (&["--resume"], 3)] {
        let old = stage.read("secret");
        let said = stage.run("rotate", &waits).await;
        assert_eq!(said.code, Some(4), "{}", said.text);
        stage.operate("retiringSecret", &old).await;
        let said = stage.run("rotate", &[&waits[..2], more].concat()).await;
        assert_eq!((said.code, stage.rotations().await), (Some(0), rotations), "{}", said.text);
        let text = if more.is_empty() { "rotated anew" } else { "An earlier run has rotated" };
        assert!(said.text.contains(text), "{}", said.text);
        let (secret, retiring) = stage.secrets().await;
        assert!(stage.read("secret") == secret && !stage.state_file().exists(), "{}", said.text);
        if let Some(retiring) = retiring {
            stage.operate("retiringSecret", &retiring).await;
        }
    }
}

/// A command that was added between two runs may be what restarts the workers: without it the old secret must not go.
#[tokio::test]
async fn a_command_that_an_earlier_run_did_not_have_is_run_and_no_other_again() {
    let stage = Stage::set().await;
    let first = ["--to", "file:secret", "--exec", "cat >> first"];
    let said = stage.run("rotate", &[&first[..], &["--wait-unused", "2h", "--timeout", "1s"]].concat()).await;
    assert_eq!(said.code, Some(4), "{}", said.text);
    let ends = ["--exec", "cat > second", "--retire", "--wait-unused", "1s"];
    let said = stage.run("rotate", &[&first[..], &ends].concat()).await;
    assert_eq!(said.code, Some(0), "{}", said.text);
    let new = stage.read("secret");
    assert!(stage.read("first") == new && stage.read("second") == new, "{}", said.text);
}

/// Whoever rotates the secret by which it is let in itself does not lose its way in.
#[tokio::test]
async fn the_secret_that_the_command_is_let_in_by_is_not_ended() {
    let mut stage = Stage::set().await;
    let credentials = stage.read("data/bootstrap.json");
    let field = |name: &str| {
        serde_json::from_str::<serde_json::Value>(&credentials).unwrap()[name].as_str().unwrap().to_owned()
    };
    let (id, old) = (field("clientId"), field("clientSecret"));
    stage.client.clone_from(&id);
    std::fs::write(stage.path("secret"), &old).unwrap();
    let said = stage.run("rotate", &["--to", "file:secret"]).await;
    assert_eq!(said.code, Some(0), "{}", said.text);
    let ends = ["--to", "file:secret", "--resume", "--retire", "--wait-unused", "1s"];
    for (command, arguments) in [("retire", &["--force"][..]), ("rotate", &ends)] {
        let said = stage.run(command, arguments).await;
        assert!(
            said.code == Some(1) && said.text.contains("bootstrap.json has the old secret"),
            "{}",
            said.text
        );
        assert_eq!(grant(&http(), &stage.server.base, &id, &old).await, 200);
    }
    std::fs::write(stage.path("data/bootstrap.json"), credentials.replace(&old, &stage.read("secret")))
        .unwrap();
    let said = stage.run("retire", &["--force"]).await;
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert_eq!(grant(&http(), &stage.server.base, &id, &old).await, 401);
}
