//! What there is beside rotating and retiring: a retirement that asks for evidence, undoing, revoking, and
//! tokens that end with the secret that they were got by.

use std::time::Duration;

use keyrelay_core::limits::TOKEN_LIFETIME_DEFAULT;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};
use crate::login_grants::{Way, code_form, make_confidential, refresh_form, send};
use crate::people::{browse, make_ann};
use crate::registration::{Registered, not_let_in};

async fn call(test: &TestApp, client: &Credentials, operation: &str, body: &Value) -> Answer {
    test.post(&test.admin, &format!("{}/{operation}", client.path()), body).await
}

/// A client in the middle of a rotation: with its old secret, and with its new one.
async fn rotated(test: &TestApp) -> (Credentials, Credentials) {
    let old = test.make_client(&test.project, "Nightly export").await;
    let new = test.rotate(&test.admin, &old.id, "secret", &old.secret).await.expect(200);
    (old.clone(), old.with(&new.text_at("/secret")))
}

/// Whether a token works: on the API, and in the words of introspection, which must agree.
async fn works(test: &TestApp, token: &As) -> bool {
    let asked = [("token", token.text())];
    let told = test.request(&test.super_admin, Method::POST, "oauth2/introspect").form(&asked).send().await;
    let active = told.expect(200).json()["active"] == true;
    let status = test.get(token, "Practitioner").await.status.as_u16();
    assert_eq!(status, if active { 200 } else { 401 });
    active
}

#[tokio::test]
async fn a_secret_is_retired_only_if_unused_where_that_is_asked_for() {
    let test = TestApp::start().await;
    let (old, new) = rotated(&test).await;
    test.bearer(&old).await;
    test.clock.advance(Duration::from_secs(40));
    let asked = json!({ "retiringSecret": old.secret, "onlyIfUnused": "1m" });
    let why = call(&test, &old, "$rotate-secret", &asked).await.refused(409, "conflict");
    assert!(why.starts_with("The retiring secret was used 40 s ago. 0 of 1 callers have moved"), "{why}");
    assert!(why.contains("127.0.0.1") && why.ends_with("Complete up to 2026-01-01T00:00:40.000Z."), "{why}");
    assert!(!why.contains(&old.secret) && !why.contains(&new.secret));
    assert!(test.grant(&old.id, &old.secret).await.status.is_success(), "nothing was changed");

    // What does not match is told before what is known of its use.
    let wrong = json!({ "retiringSecret": "wrong", "onlyIfUnused": "1m" });
    call(&test, &old, "$rotate-secret", &wrong).await.refused(400, "invalid");
    test.clock.advance(Duration::from_mins(1));
    call(&test, &old, "$rotate-secret", &asked).await.expect(200);
    assert!(!test.lets_in(&old.id, &old.secret).await);
}

#[tokio::test]
async fn who_forces_it_retires_a_secret_that_is_in_use() {
    let test = TestApp::start().await;
    let (old, _) = rotated(&test).await;
    test.bearer(&old).await;
    let body = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "retiringSecret", "valueString": old.secret },
        { "name": "onlyIfUnused", "valueString": "24h" },
        { "name": "force", "valueBoolean": true },
    ] });
    call(&test, &old, "$rotate-secret", &body).await.expect(200);
    assert!(!test.lets_in(&old.id, &old.secret).await);
}

/// What another server has counted is not known here before it has written that down: it is waited for.
#[tokio::test]
async fn a_use_on_another_server_a_moment_before_is_evidence_too() {
    let test = TestApp::start().await;
    if !test.is_shared() {
        // One server counts alone there.
        return;
    }
    let (other, store) = (test.beside().await, test.store().await);
    test.set(&test.project, "secretOverwrite", "refuse").await;
    let (old, new) = rotated(&test).await;
    test.clock.advance(Duration::from_hours(2));
    other.app.flush_usage().await;
    other.bearer(&old).await;
    for asked in
        [json!({ "retiringSecret": old.secret, "onlyIfUnused": "1h" }), json!({ "secret": new.secret })]
    {
        let flushes = async || {
            let marks = store.usage_marks().await.unwrap();
            marks.iter().map(|mark| mark.flushes).sum::<i64>()
        };
        let before = flushes().await;
        let write_down = async {
            // The one that is asked has looked, and looks again.
            while flushes().await < before + 2 {}
            loop {
                test.clock.advance(Duration::from_millis(1));
                other.app.flush_usage().await;
            }
        };
        let answer = tokio::select! {
            answer = call(&test, &old, "$rotate-secret", &asked) => answer,
            () = write_down => unreachable!("it has no end"),
        };
        let why = answer.refused(409, "conflict");
        assert!(why.contains("Still on the retiring one: 127.0.0.1"), "{why}");
    }
    assert!(test.lets_in(&old.id, &old.secret).await);
}

#[tokio::test]
async fn overwriting_a_retiring_secret_in_use_follows_the_setting_of_the_project() {
    for setting in ["allow", "warn", "refuse"] {
        let test = TestApp::start().await;
        test.set(&test.project, "secretOverwrite", setting).await;
        let (old, new) = rotated(&test).await;
        test.bearer(&old).await;
        let asked = json!({ "secret": new.secret });
        let answer = call(&test, &old, "$rotate-secret", &asked).await;
        assert_eq!(answer.header("warning").contains("was still in use"), setting == "warn");
        if setting == "refuse" {
            let why = answer.refused(409, "conflict");
            assert!(why.contains("Still on the retiring one: 127.0.0.1"), "{why}");
            assert!(test.lets_in(&old.id, &old.secret).await, "nothing was changed");
            let forced = json!({ "secret": new.secret, "force": true });
            call(&test, &old, "$rotate-secret", &forced).await.expect(200);
        } else {
            answer.expect(200);
        }
        assert!(!test.lets_in(&old.id, &old.secret).await);
        for (subtype, count) in
            [("overwrite-secret-in-use", usize::from(setting == "warn")), ("rotate-secret", 2)]
        {
            let path = format!("AuditEvent?entity={}&subtype={subtype}", old.path());
            let events = test.get(&test.admin, &path).await.expect(200).resources();
            assert_eq!(events.len(), count, "{setting} {subtype}");
        }
    }
}

#[tokio::test]
async fn whoever_has_one_secret_only_does_not_revoke_it() {
    let test = TestApp::start().await;
    let admin = &test.super_admin;
    let revoke = async |who: As, slot: &str| {
        let path = format!("{}/$revoke-secret", admin.path());
        test.fhir(who, Method::POST, &path).json(&json!({ "slot": slot })).send().await
    };
    for who in [admin.into(), test.bearer(admin).await] {
        assert!(revoke(who, "secret").await.refused(409, "conflict").contains("lock you out"));
    }
    let new = test.rotate(admin, &admin.id, "secret", &admin.secret).await.expect(200);
    let new = admin.with(&new.text_at("/secret"));
    revoke(admin.into(), "retiringSecret").await.expect(200);
    assert!(!test.lets_in(&admin.id, &admin.secret).await && test.lets_in(&new.id, &new.secret).await);
}

/// A Bundle with one move of secrets.
async fn in_bundle(
    test: &TestApp,
    kind: &str,
    client: &Credentials,
    operation: &str,
    body: &Value,
) -> Answer {
    let request = json!({ "method": "POST", "url": format!("{}/{operation}", client.path()) });
    let entry = json!({ "request": request, "resource": body });
    let bundle = json!({ "resourceType": "Bundle", "type": kind, "entry": [entry] });
    test.post(&test.admin, "", &bundle).await
}

#[tokio::test]
async fn a_bundle_undoes_and_revokes_too_and_warns_of_its_entries() {
    for kind in ["batch", "transaction"] {
        let test = TestApp::start().await;
        test.set(&test.project, "secretOverwrite", "warn").await;
        let (old, new) = rotated(&test).await;
        let undone = in_bundle(&test, kind, &old, "$undo-rotation", &json!({})).await.expect(200);
        assert_eq!(undone.text_at("/entry/0/resource/secret"), old.secret);
        assert_eq!(undone.json()["entry"][0]["response"]["outcome"], Value::Null);
        let revoke = json!({ "slot": "retiringSecret" });
        let of_gone = test.bearer(&new).await;
        in_bundle(&test, kind, &old, "$revoke-secret", &revoke).await.expect(200);
        assert!(!works(&test, &of_gone).await && !test.lets_in(&new.id, &new.secret).await);
        let again = in_bundle(&test, kind, &old, "$revoke-secret", &revoke).await;
        let outcome =
            if kind == "batch" { "/entry/0/response/outcome/issue/0/code" } else { "/issue/0/code" };
        assert_eq!(again.text_at(outcome), "conflict");

        let next = test.rotate(&test.admin, &old.id, "secret", &old.secret).await.text_at("/secret");
        test.bearer(&old).await;
        let rotated = in_bundle(&test, kind, &old, "$rotate-secret", &json!({ "secret": next })).await;
        let issue = &rotated.expect(200).json()["entry"][0]["response"]["outcome"]["issue"][0];
        assert_eq!(issue["severity"], "warning");
        assert!(issue["details"]["text"].as_str().unwrap().contains("was still in use"), "{issue}");
        let metrics = test.request(As::Anonymous, Method::GET, "metrics").send().await.text;
        for line in ["keyrelay_rotations_undone_total 1", "keyrelay_revocations_total 1"] {
            assert!(metrics.contains(line), "{metrics}");
        }
    }
}

#[tokio::test]
async fn who_had_the_current_secret_of_a_registered_client_makes_no_other_once_it_is_revoked() {
    let test = TestApp::start().await;
    let registered = Registered::new(&test).await;
    let client = &registered.client;
    let fresh = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.text_at("/secret");
    call(&test, client, "$revoke-secret", &json!({ "slot": "retiringSecret" })).await.expect(200);
    let again = registered.put(&test, &json!({ "client_secret": fresh, "rotate_secret": true })).await;
    again.expect(200);
    call(&test, client, "$revoke-secret", &json!({ "slot": "secret" })).await.expect(200);
    not_let_in(&registered.put(&test, &json!({})).await);
}

#[tokio::test]
async fn overwriting_a_retiring_secret_that_nobody_uses_is_never_refused() {
    let test = TestApp::start().await;
    test.set(&test.project, "secretOverwrite", "refuse").await;
    let (old, new) = rotated(&test).await;
    let asked = json!({ "secret": new.secret });
    call(&test, &old, "$rotate-secret", &asked).await.expect(200);
    let unknown = json!([{ "op": "add", "path": "/setting",
        "value": [{ "name": "secretOverwrite", "valueString": "perhaps" }] }]);
    test.patch(&test.super_admin, &format!("Project/{}", test.project), &unknown)
        .await
        .refused(400, "invalid");
}

#[tokio::test]
async fn undoing_a_rotation_swaps_the_two_and_shuts_nobody_out() {
    let test = TestApp::start().await;
    let node = test.beside().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    call(&test, &old, "$undo-rotation", &json!({})).await.refused(409, "conflict");
    let body = json!({ "secret": old.secret, "retireAfter": "1h" });
    let answer = call(&test, &old, "$rotate-secret", &body).await.expect(200);
    let new = old.with(&answer.text_at("/secret"));
    call(&test, &old, "$undo-rotation", &json!({ "secret": old.secret })).await.refused(400, "invalid");
    let undone = call(&test, &old, "$undo-rotation", &json!({})).await.expect(200);
    assert_eq!(undone.text_at("/secret"), old.secret);
    assert_eq!(undone.text_at("/retiringSecret"), new.secret);
    // The deadline was that of a secret that retired, and it does not any more.
    test.clock.advance(Duration::from_hours(2));
    for node in [&test, &node] {
        assert!(node.lets_in(&old.id, &old.secret).await);
        assert!(node.lets_in(&new.id, &new.secret).await);
    }
    test.rotate(&test.admin, &old.id, "retiringSecret", &new.secret).await.expect(200);
    assert!(test.lets_in(&old.id, &old.secret).await);
    assert!(!test.lets_in(&new.id, &new.secret).await);
}

#[tokio::test]
async fn a_revoked_secret_ends_with_its_tokens_on_every_node_and_the_other_stays() {
    for slot in ["secret", "retiringSecret"] {
        let test = TestApp::start().await;
        let node = test.beside().await;
        let (old, new) = rotated(&test).await;
        let (gone, left) = if slot == "secret" { (&new, &old) } else { (&old, &new) };
        let (of_gone, of_left) = (test.bearer(gone).await, test.bearer(left).await);
        let answer = call(&test, &old, "$revoke-secret", &json!({ "slot": slot })).await.expect(200);
        assert_eq!(answer.text_at("/secret"), left.secret);
        assert_eq!(answer.json()["retiringSecret"], Value::Null);
        for node in [&test, &node] {
            assert!(!node.lets_in(&gone.id, &gone.secret).await);
            assert!(node.lets_in(&left.id, &left.secret).await);
            assert!(!works(node, &of_gone).await, "{slot}");
            assert!(works(node, &of_left).await, "{slot}");
        }
        let path = format!("AuditEvent?entity=ClientApplication/{}&subtype=revoke-secret", old.id);
        let events = test.get(&test.admin, &path).await.expect(200).resources();
        assert_eq!(events.len(), 1, "{events:?}");
        // It stays so for as long as such a token could have lived.
        test.clock.advance(TOKEN_LIFETIME_DEFAULT / 2);
        assert!(!works(&test, &of_gone).await);
    }
}

#[tokio::test]
async fn tokens_stay_where_they_are_not_to_end() {
    let test = TestApp::start().await;
    let (old, new) = rotated(&test).await;
    let (of_old, of_new) = (test.bearer(&old).await, test.bearer(&new).await);
    test.rotate(&test.admin, &old.id, "retiringSecret", &old.secret).await.expect(200);
    assert!(works(&test, &of_old).await, "as ever");
    let body = json!({ "slot": "secret", "revokeTokens": false });
    call(&test, &old, "$revoke-secret", &body).await.expect(200);
    assert!(works(&test, &of_new).await);
    assert!(!test.lets_in(&new.id, &new.secret).await);
}

#[tokio::test]
async fn retiring_a_secret_ends_its_tokens_where_that_is_asked_for() {
    let test = TestApp::start().await;
    let (old, new) = rotated(&test).await;
    let (of_old, of_new) = (test.bearer(&old).await, test.bearer(&new).await);
    let body = json!({ "retiringSecret": old.secret, "revokeTokens": true });
    call(&test, &old, "$rotate-secret", &body).await.expect(200);
    assert!(!works(&test, &of_old).await);
    assert!(works(&test, &of_new).await);
}

#[tokio::test]
async fn the_token_of_a_login_ends_with_the_secret_of_its_client() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_confidential(&test, json!({})).await;
    let code = browse(&test, &client.id, "&scope=openid+offline_access").await;
    let first = send(&test, "oauth2/token", &client, Way::Basic, &code_form(&code)).await.expect(200);
    let token = As::Bearer(first.text_at("/access_token"));
    assert!(works(&test, &token).await);
    call(&test, &client, "$revoke-secret", &json!({ "slot": "secret" })).await.expect(200);
    assert!(!works(&test, &token).await);

    // A client whose last secret was revoked is not one that never had any: nobody takes it at its word.
    let refresh = first.text_at("/refresh_token");
    let by_name: Vec<_> =
        refresh_form(&refresh).into_iter().chain([("client_id", client.id.as_str())]).collect();
    test.token(As::Anonymous, &by_name).await.expect(401);
    // An admin gives it another one.
    let secret = "chosen by an admin, long enough to be allowed";
    let patch = json!([{ "op": "add", "path": "/secret", "value": secret }]);
    test.patch(&test.admin, &client.path(), &patch).await.expect(200);
    let client = client.with(secret);
    send(&test, "oauth2/token", &client, Way::Form, &refresh_form(&refresh)).await.expect(200);
}

#[tokio::test]
async fn a_caller_whose_secret_is_revoked_writes_nothing_with_a_token_of_it() {
    let test = TestApp::start().await;
    let operator = test.make_client(&test.project, "Second operator").await;
    test.make_admin(&operator).await;
    let As::Bearer(token) = test.bearer(&operator).await else { unreachable!() };
    let revoke = async {
        call(&test, &operator, "$revoke-secret", &json!({ "slot": "secret" })).await.expect(200);
    };
    let body = json!({ "resourceType": "AccessPolicy", "name": "Too late" });
    let bearer = format!("Bearer {token}");
    let answer = crate::bounds::with_late_body(&test, "/fhir/R4/AccessPolicy", &bearer, &body, revoke).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn what_is_wrong_with_a_revocation_is_told() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    for body in [
        json!({}),
        json!({ "slot": "active" }),
        json!({ "slot": true }),
        json!({ "slot": "secret", "revokeTokens": "true" }),
        json!({ "slot": "secret", "secret": client.secret }),
    ] {
        call(&test, &client, "$revoke-secret", &body).await.refused(400, "invalid");
    }
    call(&test, &client, "$revoke-secret", &json!({ "slot": "retiringSecret" }))
        .await
        .refused(409, "conflict");
    assert!(test.lets_in(&client.id, &client.secret).await);
}
