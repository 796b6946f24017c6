//! What a project, or else the server, decides about secrets: their maximum age, when they retire, and whether
//! they are shown again.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyrelay_core::keyring::SecretVisibility;
use keyrelay_core::limits::FAILURE_FORGIVEN_AFTER;
use keyrelay_core::secret_rules::{MaximumAge, PastMaximumAge, RetireAfter, SecretRules};
use keyrelay_server::Config;
use serde_json::{Value, json};

use crate::app::{As, Credentials, TestApp};
use crate::bounds::with_late_body;
use crate::secret_status::{part, status};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_hours(24);
/// Thirty days but for a millisecond.
const LAST_MS: Duration = Duration::from_millis(30 * 24 * 60 * 60 * 1000 - 1);

/// Secrets are refused at the age of thirty days, unless a project says otherwise.
fn refusing(config: &mut Config) {
    config.secrets = SecretRules {
        maximum_age: MaximumAge(Some(30 * DAY)),
        past_maximum_age: PastMaximumAge::Refuse,
        ..SecretRules::default()
    };
}

/// Has the project say this, and nothing else that matters.
async fn set(test: &TestApp, settings: &[(&str, &str)]) {
    let settings: Vec<_> = [("other", "x")]
        .iter()
        .chain(settings)
        .map(|(name, value)| json!({ "name": name, "valueString": value }))
        .collect();
    let patch = json!([{ "op": "add", "path": "/setting", "value": settings }]);
    test.patch(&test.super_admin, &format!("Project/{}", test.project), &patch).await.expect(200);
}

async fn rotate(test: &TestApp, admin: impl Into<As>, client: &Credentials) -> Credentials {
    let answer = test.rotate(admin, &client.id, "secret", &client.secret).await.expect(200);
    client.with(&answer.text_at("/secret"))
}

#[tokio::test]
async fn a_secret_is_accepted_a_millisecond_before_its_maximum_age_and_refused_at_it_on_every_node() {
    let test = TestApp::start().await;
    let nodes = [&test, &test.beside().await];
    let old = test.make_client(&test.project, "Nightly export").await;
    set(&test, &[("secretMaximumAge", "30d"), ("secretPastMaximumAge", "refuse")]).await;
    test.clock.advance(LAST_MS);
    for node in nodes {
        assert!(node.lets_in(&old.id, &old.secret).await);
    }
    test.clock.advance(MS);
    for node in nodes {
        // As any refusal: the client does not learn that its secret is right.
        let refused = node.grant(&old.id, &old.secret).await.expect(401);
        let wrong = node.grant(&old.id, &"x".repeat(40)).await.expect(401);
        assert_eq!(refused.text, wrong.text);
        assert_eq!(refused.text_at("/error"), "invalid_client");
    }
}

#[tokio::test]
async fn an_admin_sees_why_and_rotates_a_secret_that_is_too_old() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    set(&test, &[("secretMaximumAge", "30d"), ("secretPastMaximumAge", "refuse")]).await;
    test.clock.advance(30 * DAY);
    // The admin's own secret is as old.
    let admin = &test.super_admin;
    test.get(&test.admin, &old.path()).await.refused(401, "login");
    test.grant(&old.id, &old.secret).await.expect(401);
    test.app.flush_usage().await;

    let path = format!("{}/$secret-status", old.path());
    let told = test.get(admin, &path).await.expect(200).json();
    assert_eq!(part(&told, &["secret", "expires"]), "2026-01-31T00:00:00.000Z");
    assert_eq!(part(&told, &["secret", "dueBy"]), "2026-01-31T00:00:00.000Z");
    assert_eq!(
        part(&told, &["secret", "overdue"]),
        "Past its maximum age by 0 s. It grants no access any more: rotate it."
    );
    assert_eq!(part(&told, &["secret", "uses"]), 0);
    assert_eq!(part(&told, &["secret", "caller", "refused"]), 1, "who still comes with it is told: {told}");
    assert_eq!(part(&told, &["refused", "refusedLastHour"]), 0);

    let new = rotate(&test, admin, &old).await;
    test.clock.advance(FAILURE_FORGIVEN_AFTER);
    assert!(test.lets_in(&new.id, &new.secret).await);
    assert!(!test.lets_in(&old.id, &old.secret).await, "it retires, and is as old as before");
    test.rotate(admin, &old.id, "retiringSecret", &old.secret).await.expect(200);
}

#[tokio::test]
async fn where_it_is_only_reported_it_grants_access() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    set(&test, &[("secretMaximumAge", "30d")]).await;
    test.clock.advance(LAST_MS);
    let told = status(&test, &old, "").await;
    assert_eq!(part(&told, &["secret", "dueBy"]), "2026-01-31T00:00:00.000Z");
    assert_eq!(part(&told, &["secret", "overdue"]), &Value::Null);
    test.clock.advance(2 * DAY);
    let told = status(&test, &old, "").await;
    assert_eq!(part(&told, &["secret", "expires"]), &Value::Null);
    assert_eq!(
        part(&told, &["secret", "overdue"]),
        "Past its maximum age by 47 h. It still grants access: rotate it."
    );
    assert!(test.lets_in(&old.id, &old.secret).await);
}

#[tokio::test]
async fn the_servers_maximum_age_holds_for_a_project_that_does_not_say() {
    let test = TestApp::start_configured(refusing).await;
    let stranger = test.stranger.clone();
    set(&test, &[("secretMaximumAge", "none")]).await;
    test.clock.advance(LAST_MS);
    assert!(test.lets_in(&stranger.id, &stranger.secret).await);
    test.clock.advance(MS);
    assert!(!test.lets_in(&stranger.id, &stranger.secret).await);
    assert!(test.lets_in(&test.member.id, &test.member.secret).await);
}

#[tokio::test]
async fn a_caller_by_basic_is_not_let_in_after_its_body_has_arrived_too_late() {
    let test = TestApp::start_configured(refusing).await;
    let admin = test.admin.clone();
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", admin.id, admin.secret)));
    let body = json!({ "resourceType": "AccessPolicy", "name": "Made at the last moment" });
    test.clock.advance(LAST_MS);
    test.post(&admin, "AccessPolicy", &body).await.expect(201);
    let at_last = async { test.clock.advance(MS) };
    let answer = with_late_body(&test, "/fhir/R4/AccessPolicy", &basic, &body, at_last).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn a_rotation_that_names_no_deadline_takes_the_projects_and_else_the_servers() {
    let day = |config: &mut Config| config.secrets.retire_after = RetireAfter(Some(DAY));
    let test = TestApp::start_configured(day).await;
    for (setting, named, ends_after) in [
        (None, None, Some(DAY)),
        (None, Some("2h"), Some(DAY / 12)),
        (None, Some("none"), None),
        (Some("1h"), None, Some(DAY / 24)),
        (Some("none"), None, None),
    ] {
        let settings: Vec<_> = setting.iter().map(|setting| ("secretRetireAfter", *setting)).collect();
        set(&test, &settings).await;
        let old = test.make_client(&test.project, "Nightly export").await;
        let mut body = json!({ "secret": old.secret });
        if let Some(named) = named {
            body["retireAfter"] = json!(named);
        }
        test.post(&test.admin, &format!("{}/$rotate-secret", old.path()), &body).await.expect(200);
        test.clock.advance(ends_after.unwrap_or(400 * DAY).saturating_sub(MS));
        assert!(test.lets_in(&old.id, &old.secret).await, "{setting:?} {named:?}");
        test.clock.advance(MS);
        let is_in = test.lets_in(&old.id, &old.secret).await;
        assert_eq!(is_in, ends_after.is_none(), "{setting:?} {named:?}");
    }
}

#[tokio::test]
async fn a_server_that_shows_secrets_once_does_so_for_projects_that_do_not_say() {
    let once = |config: &mut Config| config.secrets.visibility = SecretVisibility::Once;
    let test = TestApp::start_configured(once).await;
    let read = async |client: &Credentials| {
        test.get(&test.super_admin, &client.path()).await.expect(200).json()["secret"].clone()
    };
    assert_eq!(read(&test.admin).await, Value::Null);
    set(&test, &[("secretVisibility", "recoverable")]).await;
    let told = test.make_client(&test.project, "Nightly export").await;
    assert_eq!(read(&told).await, told.secret);
    let new = rotate(&test, &test.admin, &told).await;
    assert_eq!(read(&new).await, new.secret);
    set(&test, &[]).await;
    assert_eq!(read(&new).await, Value::Null);
    set(&test, &[("secretVisibility", "recoverable")]).await;
    assert_eq!(read(&new).await, Value::Null, "its ciphertext is gone");
}

#[tokio::test]
async fn a_setting_that_cannot_be_is_refused_with_what_can() {
    let test = TestApp::start().await;
    for (name, value, allowed) in [
        ("secretMaximumAge", "10m", "none, or a time from 1h to 3650d, such as 90d"),
        ("secretPastMaximumAge", "perhaps", "report or refuse"),
        ("secretRetireAfter", "soon", "none, or a time from 1m to 400d, such as 24h"),
        ("secretWarnBefore", "1d;2d", "none, or up to 8 times from 1m to 400d, such as 30d, 7d, 1d"),
    ] {
        let setting = json!([{ "name": name, "valueString": value }]);
        let patch = json!([{ "op": "add", "path": "/setting", "value": setting }]);
        let answer = test.patch(&test.admin, &format!("Project/{}", test.project), &patch).await;
        let why = answer.refused(400, "invalid");
        assert_eq!(why, format!("{name} must have a valueString that is {allowed}"));
    }
    // In the project of Super Admins nobody would be left.
    let first = test.get(&test.super_admin, "Project?name=Super").await.expect(200).resources();
    let refuse = json!([{ "name": "secretPastMaximumAge", "valueString": "refuse" }]);
    let patch = json!([{ "op": "add", "path": "/setting", "value": refuse }]);
    let project = format!("Project/{}", first[0]["id"].as_str().unwrap());
    let why = test.patch(&test.super_admin, &project, &patch).await.refused(400, "invalid");
    assert!(why.contains("set it for the server"), "{why}");
}
