//! Search: its parameters, its pages, its bounds.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, TestApp};

/// The names of the clients that a search by the admin finds, in order.
async fn names(test: &TestApp, query: &str) -> Vec<String> {
    names_in(&test.get(&test.admin, &format!("ClientApplication?{query}")).await.expect(200))
}

fn names_in(answer: &Answer) -> Vec<String> {
    answer.resources().iter().map(|found| found["name"].as_str().unwrap().to_owned()).collect()
}

/// Five more clients, a second apart, one of them switched off.
async fn stage() -> TestApp {
    let test = TestApp::start().await;
    for name in ["Alpha", "Alphabet", "beta", "Gamma", "Delta"] {
        test.clock.advance(Duration::from_secs(1));
        let status = if name == "Gamma" { "off" } else { "active" };
        let body = json!({ "resourceType": "ClientApplication", "name": name, "status": status });
        test.post(&test.admin, "ClientApplication", &body).await.expect(201);
    }
    test
}

#[tokio::test]
async fn parameters_find_what_they_say() {
    let test = stage().await;
    for (query, expected) in [
        ("name=alpha&_sort=name", &["Alpha", "Alphabet"][..]),
        ("name:exact=Alpha", &["Alpha"]),
        ("name:exact=alpha", &[]),
        ("name:contains=ET&_sort=name", &["Alphabet", "beta"]),
        ("name=beta,Delta&_sort=-name", &["Delta", "beta"]),
        ("status=off", &["Gamma"]),
        ("status=active&name=gamma", &[]),
        ("status:missing=true&_sort=name", &["Operator", "Reader"]),
        ("status:not=active&_sort=name", &["Gamma", "Operator", "Reader"]),
        ("_lastUpdated=gt2026-01-01T00:00:03Z&_sort=name", &["Delta", "Gamma"]),
        ("_lastUpdated=2026-01-01&_count=1&_sort=-_lastUpdated", &["Delta"]),
        ("_sort=-_lastUpdated&_count=2", &["Delta", "Gamma"]),
    ] {
        let mut found = names(&test, query).await;
        if query.contains("_sort=-name") {
            found.sort();
        }
        assert_eq!(found, expected, "{query}");
    }
    let id = &test.member.id;
    assert_eq!(names(&test, &format!("_id={id}")).await, ["Reader"]);
    assert_eq!(names(&test, &format!("_id={id},{}&_sort=name", test.admin.id)).await, ["Operator", "Reader"]);
    // The index follows the resource.
    let rename = json!([{ "op": "replace", "path": "/name", "value": "Zeta" }]);
    test.patch(&test.admin, &test.member.path(), &rename).await.expect(200);
    assert_eq!(names(&test, "name=zeta").await, ["Zeta"]);
    assert_eq!(names(&test, "name=reader").await, [""; 0]);
}

#[tokio::test]
async fn memberships_and_projects_are_found_too() {
    let test = TestApp::start().await;
    let found = async |query: &str| test.get(&test.admin, query).await.expect(200).resources();
    let profile = test.member.path();
    for query in [
        format!("ProjectMembership?profile={profile}"),
        format!("ProjectMembership?user={profile}"),
        format!("ProjectMembership?user:ClientApplication={}", test.member.id),
        "ProjectMembership?admin:not=true".to_owned(),
    ] {
        let memberships = found(&query).await;
        assert_eq!(memberships.len(), 1, "{query}");
        assert_eq!(memberships[0]["profile"]["reference"], profile);
    }
    assert_eq!(found("ProjectMembership?admin=true").await[0]["profile"]["reference"], test.admin.path());
    assert_eq!(found("ProjectMembership?profile-type=ClientApplication").await.len(), 2);
    assert_eq!(found("Project?name=clinic").await[0]["id"], test.project);
}

#[tokio::test]
async fn pages_lead_to_each_other_and_miss_nothing() {
    let test = stage().await;
    let base = format!("http://{}/fhir/R4/", test.address);
    let mut path = "ClientApplication?_count=3&_sort=name&_total=accurate".to_owned();
    let mut all = Vec::new();
    for page in 0..3 {
        let answer = test.get(&test.admin, &path).await.expect(200);
        assert_eq!((answer.text_at("/type"), &answer.json()["total"]), ("searchset".to_owned(), &json!(7)));
        let links = answer.json()["link"].as_array().unwrap().clone();
        assert_eq!(links[0], json!({ "relation": "self", "url": format!("{base}{path}") }));
        all.extend(names_in(&answer));
        let Some(next) = links.get(1) else {
            assert_eq!(page, 2);
            break;
        };
        assert_eq!(next["relation"], "next");
        path = next["url"].as_str().unwrap().strip_prefix(&base).unwrap().to_owned();
    }
    all.sort_by_key(|name| name.to_lowercase());
    assert_eq!(all, ["Alpha", "Alphabet", "beta", "Delta", "Gamma", "Operator", "Reader"]);
    let answer = test.get(&test.admin, "ClientApplication?_count=1").await;
    let entry = &answer.json()["entry"][0];
    let id = entry["resource"]["id"].as_str().unwrap();
    assert_eq!(entry["fullUrl"], format!("{base}ClientApplication/{id}"));
    assert_eq!(entry["search"], json!({ "mode": "match" }));
}

#[tokio::test]
async fn a_count_needs_no_entries() {
    let test = stage().await;
    for query in ["_summary=count", "_count=0", "_count=0&_total=accurate"] {
        let answer =
            test.get(&test.admin, &format!("ClientApplication?name=alpha&{query}")).await.expect(200);
        assert_eq!((&answer.json()["total"], answer.json().get("entry")), (&json!(2), None), "{query}");
        assert_eq!(answer.json()["link"].as_array().unwrap().len(), 1, "{query}: {}", answer.text);
    }
    assert_eq!(test.get(&test.admin, "ClientApplication").await.json().get("total"), None);
}

#[tokio::test]
async fn a_search_by_post_is_the_same_search() {
    let test = stage().await;
    let post =
        |query: &str| test.fhir(&test.admin, Method::POST, &format!("ClientApplication/_search{query}"));
    let answer = post("").form(&[("name", "alpha"), ("_sort", "name")]).send().await.expect(200);
    assert_eq!(names_in(&answer), ["Alpha", "Alphabet"]);
    let answer = post("?_sort=name").form(&[("name", "alpha"), ("_count", "1")]).send().await.expect(200);
    assert_eq!(names_in(&answer), ["Alpha"]);
    assert_eq!(names_in(&post("?name=beta").send().await.expect(200)), ["beta"]);
    post("").json(&json!({ "name": "alpha" })).send().await.refused(415, "not-supported");
}

#[tokio::test]
async fn elements_are_what_was_asked_for() {
    let test = stage().await;
    let answer = test.get(&test.admin, "ClientApplication?name=gamma&_elements=status").await.expect(200);
    let found = &answer.resources()[0];
    let names: Vec<&str> = found.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["resourceType", "id", "meta", "status"]);
    assert_eq!(found["status"], "off");
}

#[tokio::test]
async fn what_is_not_understood_is_refused_not_ignored() {
    let test = TestApp::start().await;
    for query in [
        "nmae=x",
        "secret=x",
        "retiringSecret=x",
        "name:above=x",
        "status:exact=off",
        "_lastUpdated=yesterday",
        "_count=1001",
        "_count=-1",
        "_count=x",
        "_offset=-1",
        "_count=1&_count=2",
        "_sort=secret",
        "_summary=short",
        "_total=roughly",
        "_include=*",
        "_format=xml",
    ] {
        test.get(&test.admin, &format!("ClientApplication?{query}")).await.refused(400, "invalid");
    }
    test.get(&test.admin, "ClientApplication?_offset=10000").await.expect(200);
    let said = test.get(&test.admin, "ClientApplication?_offset=10001").await.refused(403, "too-costly");
    assert!(said.contains("at most 10000") && said.contains("_lastUpdated"), "{said}");
    let many = vec!["name=x"; 65].join("&");
    test.get(&test.admin, &format!("ClientApplication?{many}")).await.refused(400, "invalid");
    let found = test.get(&test.admin, "ClientApplication?nmae=x").await.refused(400, "invalid");
    assert!(found.contains("did you mean 'name'?"), "{found}");
    test.get(&test.admin, "ClientApplication?_summary=true").await.refused(400, "not-supported");
}

#[tokio::test]
async fn a_search_stays_within_reach() {
    let test = TestApp::start().await;
    let count = async |who, query: &str| {
        let answer = test.get(who, query).await.expect(200);
        answer.resources().iter().map(|found: &Value| found["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(count(&test.stranger, "ClientApplication").await, [test.stranger.id.as_str()]);
    assert_eq!(count(&test.stranger, "Project").await, [test.other_project.as_str()]);
    for query in [
        format!("ClientApplication?_project={}", test.project),
        format!("ClientApplication?_compartment=Project/{}", test.project),
        format!("ClientApplication?_id={}", test.member.id),
    ] {
        assert!(count(&test.stranger, &query).await.is_empty(), "{query}");
    }
    assert_eq!(
        count(&test.super_admin, &format!("ClientApplication?_project={}", test.project)).await.len(),
        2
    );
    assert_eq!(count(&test.super_admin, "ClientApplication").await.len(), 4);
}
