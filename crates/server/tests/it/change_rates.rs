//! Rates at which tenants may write to the disk, and bounds of kept versions: no client and no project can fill the
//! disk, and no bound prevents the end of a secret.

use std::time::Duration;

use keyrelay_core::change_rates::{ChangeRate, ChangeRates, ResourcesMax};
use keyrelay_core::limits::{
    HISTORY_KEPT, HISTORY_TRIM_INTERVAL, HISTORY_VERSIONS_KEPT, REGISTRATION_GRANTS_PER_PROJECT_MAX,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};
use crate::assertion::{Key, claims, header, present};
use crate::registration::Registered;

async fn start(client: Option<u64>, project: Option<u64>) -> TestApp {
    let rates = ChangeRates { client: ChangeRate(client), project: ChangeRate(project) };
    TestApp::start_configured(|config| config.change_rates = rates).await
}

/// Repeats a request until it is refused, and returns that answer.
async fn until_refused(mut act: impl AsyncFnMut() -> Answer) -> Answer {
    for _ in 0..1000 {
        let answer = act().await;
        if answer.status != 200 {
            return answer;
        }
    }
    panic!("no bound was met")
}

async fn rotate(test: &TestApp, client: &mut Credentials) -> Answer {
    let answer = test.rotate(&test.admin, &client.id, "secret", &client.secret).await;
    if answer.status == 200 {
        client.secret = answer.text_at("/secret");
    }
    answer
}

#[tokio::test]
async fn a_client_that_writes_too_much_waits_and_can_still_retire_its_secret() {
    let test = start(Some(1024), None).await;
    let mut registered = Registered::new(&test).await;
    let old = registered.client.secret.clone();
    let body = json!({ "client_secret": old, "rotate_secret": true });
    registered.client.secret = registered.put(&test, &body).await.expect(200).text_at("/client_secret");
    let mut n = 0;
    let refused = until_refused(async || {
        n += 1;
        registered.put(&test, &json!({ "client_name": format!("Nightly export {n}") })).await
    })
    .await;
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("temporarily_unavailable"))
    );
    let said = refused.text_at("/error_description");
    assert!(said.contains("--client-change-rate"), "{said}");
    let wait: u64 = refused.header("retry-after").parse().unwrap();

    // Other members can write, and the flooder can authenticate and retire its old secret.
    let mut other = test.make_client(&test.project, "Another").await;
    rotate(&test, &mut other).await.expect(200);
    assert!(test.lets_in(&registered.client.id, &registered.client.secret).await);
    let retire = json!({ "client_name": format!("Nightly export {}", n - 1), "retire_secret": old });
    registered.put(&test, &retire).await.expect(200);
    assert!(!test.lets_in(&registered.client.id, &old).await);
    let again = json!({ "client_name": "Nightly export" });
    registered.put(&test, &again).await.expect(429);

    test.clock.advance(Duration::from_secs(wait));
    registered.put(&test, &again).await.expect(200);
    let metrics = test.request(As::Anonymous, Method::GET, "metrics").send().await.text;
    let line = "keyrelay_changes_over_rate_total{of=\"client\"} 2";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
}

#[tokio::test]
async fn a_project_over_its_rate_can_end_secrets_and_blocks_no_other() {
    let test = start(None, Some(1024)).await;
    let mut client = test.make_client(&test.project, "Nightly export").await;
    let (mut leaked, gone) =
        (test.make_client(&test.project, "Leaked").await, test.make_client(&test.project, "Gone").await);
    let old = leaked.secret.clone();
    rotate(&test, &mut leaked).await.expect(200);
    let refused = until_refused(async || rotate(&test, &mut client).await).await;
    let said = refused.refused(429, "throttled");
    assert!(said.contains("--project-change-rate"), "{said}");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    // Each heavier than the rotation that found no room.
    let much = "x".repeat(10_000);
    let named = json!([{ "op": "add", "path": "/description", "value": much }]);
    test.patch(&test.admin, &client.path(), &named).await.refused(429, "throttled");
    let made = json!({ "resourceType": "ClientApplication", "name": "One more", "description": much });
    test.post(&test.admin, "ClientApplication", &made).await.refused(429, "throttled");

    // A request that ends a secret succeeds, whatever was written before.
    test.rotate(&test.admin, &leaked.id, "retiringSecret", &old).await.expect(200);
    let revoke = format!("{}/$revoke-secret", leaked.path());
    test.post(&test.admin, &revoke, &json!({ "slot": "secret" })).await.expect(200);
    assert!(!test.lets_in(&leaked.id, &leaked.secret).await);
    test.post(&test.admin, &format!("{}/$undo-rotation", client.path()), &json!({})).await.expect(200);
    test.delete(&test.admin, &gone.path()).await.expect(200);
    test.post(&test.admin, "ClientApplication", &made).await.refused(429, "throttled");

    // Another project, and a Super Admin in this one.
    let elsewhere = test.make_client(&test.other_project, "Elsewhere").await;
    test.rotate(&test.stranger, &elsewhere.id, "secret", &elsewhere.secret).await.expect(200);
    test.patch(&test.super_admin, &client.path(), &named).await.expect(200);
    test.clock.advance(Duration::from_mins(5));
    test.post(&test.admin, "ClientApplication", &made).await.expect(201);
}

#[tokio::test]
async fn no_rate_keeps_anybody_from_being_shut_out() {
    let test = start(None, Some(1024)).await;
    let grant = crate::registration::initial(&test, &json!({})).await;
    let grants = format!("admin/projects/{}/registration", test.project);
    let issued = test.request(&test.admin, Method::GET, &grants).send().await.expect(200).json();
    let user = json!({
        "resourceType": "User", "firstName": "Ann", "lastName": "Example", "email": "ann@example.test",
    });
    let user = test.post(&test.admin, "User", &user).await.expect(201).text_at("/id");
    let leaked = test.make_client(&test.project, "Leaked").await;
    let member = test.make_client(&test.project, "Member").await;
    let membership = test.membership_of(&member).await["id"].as_str().unwrap().to_owned();
    let mut client = test.make_client(&test.project, "Nightly export").await;
    until_refused(async || rotate(&test, &mut client).await).await.refused(429, "throttled");

    let membership = format!("ProjectMembership/{membership}");
    let user = format!("User/{user}");
    let set =
        |element: &str, value: Value| json!([{ "op": "add", "path": format!("/{element}"), "value": value }]);
    let (off, inactive) = (set("status", json!("off")), set("active", json!(false)));
    for (path, change) in [(&leaked.path(), &off), (&membership, &inactive), (&user, &inactive)] {
        test.patch(&test.admin, path, change).await.expect(200);
    }
    for client in [&leaked, &member] {
        assert!(!test.lets_in(&client.id, &client.secret).await);
    }
    let grant_path = format!("{grants}/{}", issued["registrations"][0]["id"].as_str().unwrap());
    test.request(&test.admin, Method::DELETE, &grant_path).send().await.expect(204);
    crate::registration::register(&test, &grant, &crate::registration::robot()).await.expect(401);

    // These changes count: an update to active must wait, and so must another update of an inactive resource.
    let (on, active) = (set("status", json!("active")), set("active", json!(true)));
    let named = set("name", json!("Leaked once"));
    for (path, change) in
        [(&leaked.path(), &on), (&leaked.path(), &named), (&membership, &active), (&user, &active)]
    {
        test.patch(&test.admin, path, change).await.refused(429, "throttled");
    }
    test.clock.advance(Duration::from_mins(5));
    test.patch(&test.admin, &leaked.path(), &on).await.expect(200);
    assert!(test.lets_in(&leaked.id, &leaked.secret).await);
}

async fn versions(test: &TestApp, path: &str) -> Vec<Value> {
    test.get(&test.admin, &format!("{path}/_history")).await.expect(200).resources()
}

#[tokio::test]
async fn the_newest_versions_and_all_of_a_day_are_kept() {
    let test = TestApp::start().await;
    let mut client = test.make_client(&test.project, "Nightly export").await;
    let first = test.get(&test.admin, &client.path()).await.expect(200).json()["meta"]["versionId"].clone();
    let first = format!("{}/_history/{}", client.path(), first.as_str().unwrap());
    let kept = usize::try_from(HISTORY_VERSIONS_KEPT).unwrap();
    let slack = usize::try_from(HISTORY_TRIM_INTERVAL).unwrap();
    for _ in 0..kept + 2 * slack {
        rotate(&test, &mut client).await.expect(200);
    }
    assert_eq!(versions(&test, &client.path()).await.len(), kept + 2 * slack + 1, "all of today");
    test.get(&test.admin, &first).await.expect(200);

    test.clock.advance(HISTORY_KEPT + Duration::from_secs(1));
    for _ in 0..slack {
        rotate(&test, &mut client).await.expect(200);
    }
    let left = versions(&test, &client.path()).await;
    assert!((kept..=kept + slack + 1).contains(&left.len()), "{}", left.len());
    test.get(&test.admin, &first).await.refused(404, "not-found");
    let statement = test.get(As::Anonymous, "metadata").await.expect(200).json();
    for resource in statement["rest"][0]["resource"].as_array().unwrap() {
        let rule = resource["documentation"].as_str().unwrap_or_default();
        assert_eq!(rule.contains("newest 100"), resource["readHistory"] == true, "{resource}");
    }
    let newest = left[0]["meta"]["versionId"].as_str().unwrap();
    test.get(&test.admin, &format!("{}/_history/{newest}", client.path())).await.expect(200);
    assert!(test.lets_in(&client.id, &client.secret).await);
}

#[tokio::test]
async fn a_project_at_its_quota_creates_nothing_and_can_end_secrets() {
    let test = TestApp::start().await;
    let mut client = test.make_client(&test.project, "Nightly export").await;
    let old = client.secret.clone();
    rotate(&test, &mut client).await.expect(200);
    let registration = crate::registration::initial(&test, &json!({})).await;
    let test = test.restart_configured(|config| config.project_resources_max = ResourcesMax(Some(20))).await;
    let made = json!({ "resourceType": "AccessPolicy", "name": "One more" });
    let mut last = String::new();
    let refused = loop {
        let answer = test.post(&test.admin, "AccessPolicy", &made).await;
        if answer.status != 201 {
            break answer;
        }
        last = answer.text_at("/id");
    };
    let said = refused.refused(403, "too-costly");
    assert!(said.contains("20 resources") && said.contains("--project-resources-max"), "{said}");
    let refused = crate::registration::register(&test, &registration, &crate::registration::robot()).await;
    refused.expect(403);
    let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
        { "request": { "method": "POST", "url": "AccessPolicy" }, "resource": made },
    ] });
    test.post(&test.admin, "", &bundle).await.refused(403, "too-costly");

    // Existing resources can be changed, and their secrets moved and ended.
    test.rotate(&test.admin, &client.id, "retiringSecret", &old).await.expect(200);
    rotate(&test, &mut client).await.expect(200);
    let named = json!([{ "op": "replace", "path": "/name", "value": "Weekly export" }]);
    test.patch(&test.admin, &client.path(), &named).await.expect(200);
    let revoke = format!("{}/$revoke-secret", client.path());
    test.post(&test.admin, &revoke, &json!({ "slot": "secret" })).await.expect(200);

    // No other project is blocked, and a deletion makes room.
    test.post(&test.stranger, "AccessPolicy", &made).await.expect(201);
    test.delete(&test.admin, &format!("AccessPolicy/{last}")).await.expect(200);
    test.post(&test.admin, "AccessPolicy", &made).await.expect(201);
    test.post(&test.admin, "AccessPolicy", &made).await.refused(403, "too-costly");
    let metrics = test.request(As::Anonymous, Method::GET, "metrics").send().await.text;
    assert!(metrics.lines().any(|line| line == "keyrelay_changes_over_quota_total 4"), "{metrics}");
}

#[tokio::test]
async fn initial_access_tokens_of_a_project_are_bounded_and_all_listed() {
    let test = TestApp::start().await;
    let body = json!({ "lifetime": "1h" });
    for _ in 0..REGISTRATION_GRANTS_PER_PROJECT_MAX {
        crate::registration::initial(&test, &body).await;
    }
    let path = format!("admin/projects/{}/registration", test.project);
    let one_more = async || test.request(&test.admin, Method::POST, &path).json(&body).send().await;
    let said = one_more().await.refused(403, "too-costly");
    assert!(said.contains("1000 initial access tokens"), "{said}");
    let listed = test.request(&test.admin, Method::GET, &path).send().await.expect(200).json();
    let listed = listed["registrations"].as_array().unwrap();
    assert_eq!(listed.len(), REGISTRATION_GRANTS_PER_PROJECT_MAX);

    let one = format!("{path}/{}", listed[0]["id"].as_str().unwrap());
    test.request(&test.admin, Method::DELETE, &one).send().await.expect(204);
    one_more().await.expect(201);
    one_more().await.refused(403, "too-costly");
    test.clock.advance(Duration::from_hours(1));
    one_more().await.expect(201);
}

#[tokio::test]
async fn assertions_have_a_rate_of_their_own() {
    let test = start(Some(64), None).await;
    let [flooder, other] = [test.member.clone(), test.make_client(&test.project, "Another").await];
    let key = Key::es384();
    let set = json!({ "keys": [key.jwk("k1")] }).to_string();
    let publish = json!([{ "op": "add", "path": "/jwks", "value": set }]);
    for client in [&flooder, &other] {
        test.patch(&test.admin, &client.path(), &publish).await.expect(200);
    }
    let sign = |client: &Credentials, jti: &str| key.sign(&header(&key), &claims(&test, &client.id, jti));
    let mut n = 0;
    let refused = until_refused(async || {
        n += 1;
        present(&test, &sign(&flooder, &format!("j{n}"))).await
    })
    .await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{}", refused.text);
    assert_eq!(refused.text_at("/error"), "temporarily_unavailable");
    let wait = refused.header("retry-after").parse().unwrap();

    assert!(test.lets_in(&flooder.id, &flooder.secret).await, "by its secret");
    present(&test, &sign(&other, "j1")).await.expect(200);
    test.clock.advance(Duration::from_secs(wait));
    present(&test, &sign(&flooder, "after")).await.expect(200);
}
