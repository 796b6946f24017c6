//! `keyrelay undo`: the two secrets change places, nobody is locked out, and what is not meant does not happen.

use crate::process::{grant, http};
use crate::stage::{Stage, end};
use crate::way::Way;

/// A client in the middle of a rotation: its old secret, and its new one.
async fn rotated(stage: &Stage) -> (String, String) {
    let old = stage.read("secret");
    let new = stage.operate("secret", &old).await["secret"].as_str().unwrap().to_owned();
    (old, new)
}

#[tokio::test]
async fn it_swaps_the_secrets_and_both_work() {
    let stage = Stage::set().await;
    let said = stage.run("undo", &["--yes"]).await;
    assert!(said.code == Some(1) && said.text.contains("there is nothing to undo"), "{}", said.text);
    let (old, new) = rotated(&stage).await;
    let said = stage.run("undo", &["--yes", "--json"]).await;
    assert!(said.code == Some(0) && said.text.contains("{\"event\":\"undone\","), "{}", said.text);
    let shown = stage.ask("GET", "fhir/R4/AuditEvent?subtype=read-secret&_count=1", None).await;
    assert!(shown["entry"].is_null(), "it asked for the secrets: {shown}");
    assert_eq!(stage.secrets().await, (old.clone(), Some(new.clone())));
    for secret in [&old, &new] {
        assert_eq!(grant(&http(), &stage.server.base, &stage.client, secret).await, 200);
        assert!(!said.text.contains(secret.as_str()));
    }
}

#[tokio::test]
async fn without_anybody_to_ask_it_must_be_said_that_it_is_meant() {
    let stage = Stage::set().await;
    let (old, new) = rotated(&stage).await;
    let said = stage.run("undo", &[]).await;
    assert!(said.code == Some(1) && said.text.contains("say --yes"), "{}", said.text);
    assert_eq!(stage.secrets().await, (new, Some(old)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_undone_is_what_it_looked_at() {
    let stage = Stage::set().await;
    let (old, new) = rotated(&stage).await;
    let way = Way::to(&stage.server.base).await;
    // Client and status; the request itself does not arrive any more.
    way.cut_after(4);
    let mut command = stage.command("undo", &["--yes"]);
    command.env("KEYRELAY_URL", &way.base);
    let undo = tokio::spawn(end(command));
    way.is_cut().await;
    stage.operate("retiringSecret", &old).await;
    let newest = stage.operate("secret", &new).await["secret"].as_str().unwrap().to_owned();
    // It asks again, and by now that is another rotation.
    way.mend();
    way.drop_held();
    let said = undo.await.unwrap();
    assert!(said.code == Some(1) && said.text.contains("412"), "{}", said.text);
    assert_eq!(stage.secrets().await, (newest, Some(new)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_lost_is_asked_for_again_and_nothing_is_swapped_back() {
    let stage = Stage::set().await;
    let (old, new) = rotated(&stage).await;
    let way = Way::to(&stage.server.base).await;
    way.cut_after(5);
    let mut command = stage.command("undo", &["--yes"]);
    command.env("KEYRELAY_URL", &way.base);
    let undo = tokio::spawn(end(command));
    way.is_cut().await;
    assert_eq!(stage.secrets().await.0, old);
    way.mend();
    way.drop_held();
    let said = undo.await.unwrap();
    assert_eq!((said.code, stage.secrets().await), (Some(0), (old, Some(new))), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_it_was_undone_can_be_left_to_the_next_run() {
    let stage = Stage::set().await;
    let (old, new) = rotated(&stage).await;
    let way = Way::to(&stage.server.base).await;
    way.cut_after(5);
    let mut command = stage.command("undo", &["--yes"]);
    command.env("KEYRELAY_URL", &way.base);
    let undo = tokio::spawn(end(command));
    // It asks three times. The first one arrived, and no answer does.
    for _ in 0..3 {
        way.is_cut().await;
        way.drop_held();
    }
    let said = undo.await.unwrap();
    let (_, wanted) = said.text.split_once("--current ").unwrap_or_else(|| panic!("{}", said.text));
    let wanted = wanted.split(',').next().unwrap();
    assert_eq!(said.code, Some(1), "{}", said.text);
    for _ in 0..2 {
        let said = stage.run("undo", &["--yes", "--current", wanted]).await;
        assert!(said.code == Some(0) && said.text.contains("is current already"), "{}", said.text);
        assert_eq!(stage.secrets().await, (old.clone(), Some(new.clone())));
    }
    let said = stage.run("undo", &["--yes"]).await;
    assert_eq!((said.code, stage.secrets().await.0), (Some(0), new.clone()), "{}", said.text);
    let said = stage.run("undo", &["--yes", "--current", wanted]).await;
    assert_eq!((said.code, stage.secrets().await.0), (Some(0), old.clone()), "{}", said.text);
    let said = stage.run("undo", &["--yes", "--current", "another"]).await;
    assert!(said.code == Some(1) && said.text.contains("neither the current nor"), "{}", said.text);
    assert_eq!(stage.secrets().await, (old, Some(new)));
}
