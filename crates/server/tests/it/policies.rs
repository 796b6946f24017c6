//! `AccessPolicies` with criteria, hidden and read-only elements: what is left out is left out of every
//! route, and nothing that somebody sends changes or betrays it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};

const KIND: &str = "ClientApplication";
/// What nobody may find who must not.
const HUSH: &str = "hush-hush";

fn client(name: &str) -> Value {
    json!({ "resourceType": KIND, "name": name, "description": HUSH, "meta": { "tag": [{ "code": "red" }] } })
}

/// Makes a client; gives its path.
async fn made(test: &TestApp, body: &Value) -> String {
    format!("{KIND}/{}", test.post(&test.admin, KIND, body).await.expect(201).text_at("/id"))
}

/// An admin of the project under a policy.
async fn bound(test: &TestApp, rules: Value) -> Credentials {
    let who = test.make_client(&test.project, "Bound").await;
    test.make_admin(&who).await;
    test.put_under_policy(&who, &json!({ "resource": rules })).await;
    who
}

fn patch(op: &str, path: &str, value: &Value) -> Value {
    json!([{ "op": op, "path": path, "value": value }])
}

fn batch(method: &str, url: &str, resource: Option<&Value>) -> Value {
    let mut entry = json!({ "request": { "method": method, "url": url } });
    if let Some(resource) = resource {
        entry["resource"] = resource.clone();
    }
    json!({ "resourceType": "Bundle", "type": "batch", "entry": [entry] })
}

fn names(answer: &Answer) -> Vec<String> {
    let mut names: Vec<String> = answer
        .resources()
        .iter()
        .map(|found| found["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_criteria_leave_out_is_not_there() {
    let test = TestApp::start().await;
    let (own, other) = (made(&test, &client("Own one")).await, made(&test, &client("Other")).await);
    let who = bound(&test, json!([{ "resourceType": KIND, "criteria": "ClientApplication?name=own" }])).await;
    test.get(&who, &own).await.expect(200);
    test.get(&who, &format!("{own}/_history")).await.expect(200);
    let version = test.get(&test.admin, &other).await.text_at("/meta/versionId");
    let renamed = patch("replace", "/name", &json!("Own two"));
    let mut whole = test.get(&test.admin, &other).await.json();
    whole["name"] = json!("Own two");
    for answer in [
        test.get(&who, &other).await,
        test.get(&who, &format!("{other}/_history")).await,
        test.get(&who, &format!("{other}/_history/{version}")).await,
        test.patch(&who, &other, &renamed).await,
        test.patch(&who, &other, &json!([])).await,
        test.put(&who, &other, &whole).await,
        test.delete(&who, &other).await,
        test.fhir(&who, Method::PATCH, &other)
            .header("if-match", "W/\"0\"")
            .body("application/json-patch+json", "[]")
            .send()
            .await,
    ] {
        answer.refused(404, "not-found");
        assert_eq!(answer.header("etag"), "");
    }
    for (method, url) in
        [("GET", other.clone()), ("GET", format!("{other}/_history")), ("DELETE", other.clone())]
    {
        let answer = test.post(&who, "", &batch(method, &url, None)).await.expect(200);
        assert_eq!(answer.text_at("/entry/0/response/status"), "404");
        assert!(!answer.text.contains(HUSH));
    }
    // Deleting it does not bring it to light.
    test.delete(&test.admin, &other).await.expect(200);
    test.get(&who, &other).await.refused(404, "not-found");
    test.delete(&test.admin, &own).await.expect(200);
    test.get(&who, &own).await.refused(404, "not-found");
    test.get(&test.admin, &own).await.refused(410, "deleted");
}

#[tokio::test]
async fn a_search_counts_and_pages_only_what_is_within_the_criteria() {
    let test = TestApp::start().await;
    for n in 0..7 {
        made(&test, &client(&format!("Own {n}"))).await;
        made(&test, &client(&format!("Other {n}"))).await;
    }
    let rules = json!([
        { "resourceType": KIND, "criteria": "ClientApplication?name=own&_tag=red" },
        { "resourceType": KIND, "criteria": "ClientApplication?name:exact=Other 3", "readonly": true },
    ]);
    let who = bound(&test, rules).await;
    let count = test.get(&who, "ClientApplication?_summary=count").await.expect(200);
    assert_eq!(count.json()["total"], 8);
    let mut found = Vec::new();
    let mut path = "ClientApplication?_count=3&_sort=-name&_total=accurate".to_owned();
    loop {
        let page = test.get(&who, &path).await.expect(200);
        assert_eq!(page.json()["total"], 8);
        found.extend(names(&page));
        let links = page.json()["link"].clone();
        let next = links.as_array().unwrap().iter().find(|link| link["relation"] == "next").cloned();
        let Some(next) = next else { break };
        let url = next["url"].as_str().unwrap();
        assert!(page.resources().len() == 3 && found.len() < 8, "{links}");
        path = url.split("/fhir/R4/").nth(1).unwrap().to_owned();
    }
    assert_eq!(found.len(), 8);
    assert_eq!(names(&test.get(&who, "ClientApplication?name=other").await), ["Other 3"]);
    let form = test.fhir(&who, Method::POST, "ClientApplication/_search").form(&[("name:contains", "other")]);
    assert_eq!(names(&form.send().await.expect(200)), ["Other 3"]);
    assert!(test.get(&who, "Project").await.refused(403, "forbidden").contains("search"));
}

/// The same filters in SQL and on one resource.
#[tokio::test]
async fn a_search_finds_what_a_read_shows() {
    let test = TestApp::start().await;
    let mut paths = Vec::new();
    for (name, status, tag) in [
        ("Alpha", "active", "red"),
        ("alphabet", "off", "blue"),
        ("Été 100%", "active", "red"),
        ("x_y", "off", "red"),
    ] {
        let body = json!({ "resourceType": KIND, "name": name, "status": status, "meta": { "tag": [{ "system": "s", "code": tag }] } });
        paths.push(made(&test, &body).await);
    }
    let who = test.make_client(&test.project, "Bound").await;
    test.make_admin(&who).await;
    let first = paths[0].split_once('/').unwrap().1.to_owned();
    for query in [
        "name=alpha",
        "name:exact=Alpha",
        "name:contains=_",
        "name:contains=100%25",
        "name=%C3%89t%C3%A9",
        "status:not=off",
        "status:missing=true",
        "status=active,off&_tag=s|red",
        "_tag=|red",
        "_tag=s|",
        "_tag:not=red",
        &format!("_id={first}"),
        &format!("_id:not={first}"),
        &format!("_project={}", test.project),
        &format!("_project:not={}", test.project),
        &format!("_compartment=Project/{}", test.project),
        "_compartment=Project/x",
        "_project:missing=true",
        "_lastUpdated=gt2020",
        "_lastUpdated=lt2020",
        "identity-provider-issuer:missing=true",
    ] {
        let rules = json!([{ "resourceType": KIND, "criteria": format!("{KIND}?{query}") }]);
        test.put_under_policy(&who, &json!({ "resource": rules })).await;
        let all = test.get(&who, "ClientApplication?_count=100").await.expect(200);
        let found: Vec<String> =
            all.resources().iter().map(|found| format!("{KIND}/{}", found["id"].as_str().unwrap())).collect();
        for path in &paths {
            let status = test.get(&who, path).await.status.as_u16();
            assert_eq!(status == 200, found.contains(path), "{query}: {path} {status}");
        }
    }
}

#[tokio::test]
async fn a_write_stays_within_the_criteria_before_and_after() {
    let test = TestApp::start().await;
    let seen = made(&test, &client("Seen")).await;
    let own = made(&test, &client("Own one")).await;
    let rules = json!([
        { "resourceType": KIND, "criteria": "ClientApplication?name=own" },
        { "resourceType": KIND, "criteria": "ClientApplication?name=seen", "readonly": true },
    ]);
    let who = bound(&test, rules).await;
    test.post(&who, KIND, &client("Foreign")).await.refused(403, "forbidden");
    test.post(&who, KIND, &client("Seen too")).await.refused(403, "forbidden");
    test.post(&who, KIND, &client("Own two")).await.expect(201);
    for name in ["Foreign", "Seen too"] {
        test.patch(&who, &own, &patch("replace", "/name", &json!(name))).await.refused(403, "forbidden");
    }
    test.patch(&who, &own, &patch("replace", "/name", &json!("Own other"))).await.expect(200);
    test.patch(&who, &seen, &patch("replace", "/name", &json!("Own now"))).await.refused(403, "forbidden");
    test.delete(&who, &seen).await.refused(403, "forbidden");
    let answer = test.post(&who, "", &batch("POST", KIND, Some(&client("Foreign")))).await;
    assert_eq!(answer.text_at("/entry/0/response/status"), "403");
    assert_eq!(test.get(&test.admin, &seen).await.text_at("/name"), "Seen");
    test.delete(&who, &own).await.expect(200);
}

#[tokio::test]
async fn a_condition_finds_only_what_one_sees() {
    let test = TestApp::start().await;
    made(&test, &client("Other")).await;
    let who = bound(&test, json!([{ "resourceType": KIND, "criteria": "ClientApplication?name=own", "hiddenFields": ["description"] }])).await;
    let create = |query: &str, name: &str| {
        test.fhir(&who, Method::POST, KIND).header("if-none-exist", query).json(&client(name)).send()
    };
    create("name=other", "Own one").await.expect(201);
    let found = create("name=own", "Own two").await.expect(200);
    assert_eq!(found.text_at("/name"), "Own one");
    assert!(!found.text.contains(HUSH));
    create("name=x", "Foreign").await.refused(403, "forbidden");
}

#[tokio::test]
async fn what_once_was_within_the_criteria_is_not_shown_after_it_left() {
    let test = TestApp::start().await;
    let path = made(&test, &client("Own one")).await;
    let then = test.get(&test.admin, &path).await.text_at("/meta/versionId");
    let who = bound(&test, json!([{ "resourceType": KIND, "criteria": "ClientApplication?name=own" }])).await;
    test.patch(&test.admin, &path, &patch("replace", "/name", &json!("Left"))).await.expect(200);
    let between = test.get(&test.admin, &path).await.text_at("/meta/versionId");
    test.get(&who, &format!("{path}/_history/{then}")).await.refused(404, "not-found");
    test.patch(&test.admin, &path, &patch("replace", "/name", &json!("Own again"))).await.expect(200);
    test.get(&who, &format!("{path}/_history/{then}")).await.expect(200);
    test.get(&who, &format!("{path}/_history/{between}")).await.refused(404, "not-found");
    let history = test.get(&who, &format!("{path}/_history")).await.expect(200);
    assert_eq!((history.json()["total"].clone(), history.resources().len()), (json!(2), 2));
    assert!(!history.text.contains("Left"));
}

#[tokio::test]
async fn a_hidden_element_is_in_no_answer_and_answers_no_question() {
    let test = TestApp::start().await;
    let path = made(&test, &client("Known")).await;
    let hidden = json!(["description", "meta.tag", "status"]);
    let who = bound(&test, json!([{ "resourceType": KIND, "hiddenFields": hidden }])).await;
    let version = test.get(&test.admin, &path).await.text_at("/meta/versionId");
    for url in [
        path.clone(),
        format!("{path}/_history"),
        format!("{path}/_history/{version}"),
        "ClientApplication?name=known".to_owned(),
        "ClientApplication?name=known&_elements=description,status".to_owned(),
        "ClientApplication?name=known&_summary=data".to_owned(),
    ] {
        let answer =
            test.fhir(&who, Method::GET, &url).header("x-medplum", "extended").send().await.expect(200);
        assert!(!answer.text.contains(HUSH) && !answer.text.contains("red"), "{url}: {}", answer.text);
        let answer = test.post(&who, "", &batch("GET", &url, None)).await.expect(200);
        assert!(!answer.text.contains(HUSH) && !answer.text.contains("red"), "{url}: {}", answer.text);
    }
    // Searching, sorting and conditions would tell.
    for query in
        ["status=active", "status:missing=true", "status:not=off", "_tag=red", "_sort=status", "_sort=-_tag"]
    {
        test.get(&who, &format!("ClientApplication?{query}")).await.refused(403, "forbidden");
        let search = batch("GET", &format!("ClientApplication?{query}"), None);
        assert_eq!(test.post(&who, "", &search).await.text_at("/entry/0/response/status"), "403");
    }
    let create = test.fhir(&who, Method::POST, KIND).header("if-none-exist", "_tag=red").json(&client("New"));
    create.send().await.refused(403, "forbidden");
    // So would a patch that asks: the right value and a wrong one are answered alike.
    let mut told = Vec::new();
    for value in [json!(HUSH), json!("other"), Value::Null] {
        let asked = test.patch(&who, &path, &patch("test", "/description", &value)).await;
        told.push((asked.status, asked.text.replace(asked.header("x-request-id"), "")));
    }
    assert!(told[0] == told[1] && told[1] == told[2], "{told:?}");
    assert_eq!(told[0].0, 400);
    for from in ["/description", "/meta/tag"] {
        let copy = json!([{ "op": "copy", "from": from, "path": "/name" }]);
        test.patch(&who, &path, &copy).await.refused(400, "invalid");
    }
}

#[tokio::test]
async fn the_query_of_a_scope_does_not_ask_what_is_hidden() {
    let test = TestApp::start().await;
    let mut body = client("Known");
    body["status"] = json!("off");
    let path = made(&test, &body).await;
    let who = bound(&test, json!([{ "resourceType": KIND, "hiddenFields": ["status"] }])).await;
    let with = async |query: &str| {
        let scope = format!("system/ClientApplication.rs?name=known{query}");
        let form = [("grant_type", "client_credentials"), ("scope", scope.as_str())];
        As::Bearer(test.token(&who, &form).await.expect(200).text_at("/access_token"))
    };
    test.get(&with("").await, &path).await.expect(200);
    for query in ["&status=off", "&status=active", "&status:missing=false"] {
        let token = with(query).await;
        test.get(&token, &path).await.refused(404, "not-found");
        let found = test.get(&token, "ClientApplication?_total=accurate").await.expect(200);
        assert_eq!(found.json()["total"], 0, "{query}");
    }
}

#[tokio::test]
async fn a_write_leaves_what_is_withheld_as_it_was() {
    let test = TestApp::start().await;
    let mut body = client("Known");
    body["identityProvider"] = json!({
        "authorizeUrl": "https://x.example.test/a", "tokenUrl": "https://x.example.test/t",
        "userInfoUrl": "https://x.example.test/u", "clientId": "theirs",
    });
    let path = made(&test, &body).await;
    let rules = json!([{
        "resourceType": KIND, "hiddenFields": ["description", "identityProvider.clientId"],
        "readonlyFields": ["name", "meta.tag"],
    }]);
    let who = bound(&test, rules).await;
    let mut seen = test.get(&who, &path).await.expect(200).json();
    assert!(seen.get("description").is_none() && seen["identityProvider"].get("clientId").is_none());
    assert_eq!(seen["meta"]["tag"][0]["code"], "red");
    seen["name"] = json!("Renamed");
    seen["description"] = json!("Overwritten");
    seen["status"] = json!("off");
    seen["meta"]["tag"] = json!([{ "code": "blue" }]);
    let answer = test.put(&who, &path, &seen).await.expect(200);
    assert!(!answer.text.contains(HUSH) && !answer.text.contains("theirs"));
    let changes = json!([
        { "op": "add", "path": "/description", "value": "Overwritten" },
        { "op": "remove", "path": "/name" },
        { "op": "remove", "path": "/meta/tag" },
        { "op": "replace", "path": "/identityProvider/tokenUrl", "value": "https://x.example.test/new" },
    ]);
    let answer = test.patch(&who, &path, &changes).await.expect(200);
    assert!(!answer.text.contains(HUSH) && !answer.text.contains("theirs"));
    let stored = test.get(&test.admin, &path).await.json();
    assert_eq!((&stored["name"], &stored["description"]), (&json!("Known"), &json!(HUSH)));
    assert_eq!((&stored["status"], &stored["meta"]["tag"][0]["code"]), (&json!("off"), &json!("red")));
    let provider = &stored["identityProvider"];
    assert_eq!(
        (&provider["clientId"], &provider["tokenUrl"]),
        (&json!("theirs"), &json!("https://x.example.test/new"))
    );
    // In what is new there is nothing of it.
    let id = test.post(&who, KIND, &client("New")).await.expect(201).text_at("/id");
    let stored = test.get(&test.admin, &format!("{KIND}/{id}")).await.json();
    assert!(stored.get("name").is_none() && stored.get("description").is_none(), "{stored}");
}

#[tokio::test]
async fn a_policy_binds_rotation() {
    let test = TestApp::start().await;
    let target = test.make_client(&test.project, "Target").await;
    let rotate = async |who: &Credentials| test.rotate(who, &target.id, "secret", &target.secret).await;
    for (rules, status) in [
        (json!([{ "resourceType": "Project" }]), 403),
        (json!([{ "resourceType": KIND, "readonly": true }]), 403),
        (json!([{ "resourceType": KIND, "interaction": ["update"] }]), 403),
        (json!([{ "resourceType": KIND, "criteria": "ClientApplication?name=other" }]), 404),
        (
            json!([
                { "resourceType": KIND, "criteria": "ClientApplication?name=other" },
                { "resourceType": KIND, "readonly": true },
            ]),
            403,
        ),
        (json!([{ "resourceType": KIND, "hiddenFields": ["secret"] }]), 403),
        (json!([{ "resourceType": KIND, "hiddenFields": ["retiringSecret"] }]), 403),
        (json!([{ "resourceType": KIND, "readonlyFields": ["secret"] }]), 403),
    ] {
        let who = bound(&test, rules.clone()).await;
        let answer = rotate(&who).await;
        assert_eq!(answer.status.as_u16(), status, "{rules}: {}", answer.text);
        let url = format!("{}/$rotate-secret", target.path());
        let entry = batch("POST", &url, Some(&json!({ "secret": target.secret })));
        let answer = test.post(&who, "", &entry).await.expect(200);
        assert_eq!(answer.text_at("/entry/0/response/status"), status.to_string(), "{rules}");
        assert!(test.lets_in(&target.id, &target.secret).await, "{rules}");
    }
    let shown = test.get(&test.admin, &target.path()).await.json();
    assert_eq!((&shown["secret"], &shown["retiringSecret"]), (&json!(target.secret), &Value::Null));

    let who = bound(&test, json!([{ "resourceType": KIND, "criteria": "ClientApplication?name=target", "hiddenFields": ["name"] }])).await;
    let answer = rotate(&who).await.expect(200);
    assert!(answer.json().get("name").is_none(), "{}", answer.text);
    assert!(test.lets_in(&target.id, &answer.text_at("/secret")).await);
    assert_eq!(test.get(&test.admin, &target.path()).await.text_at("/name"), "Target");
}

#[tokio::test]
async fn a_withheld_secret_is_neither_shown_nor_written_nor_guessed() {
    let test = TestApp::start().await;
    let target = test.make_client(&test.project, "Target").await;
    let fresh = "a-brand-new-secret-of-forty-characters-!";
    let write = |value: &str| patch("add", "/secret", &json!(value));
    let who = bound(&test, json!([{ "resourceType": KIND, "hiddenFields": ["secret"] }])).await;
    for url in [target.path(), format!("{KIND}?name=target")] {
        assert!(!test.get(&who, &url).await.expect(200).text.contains(&target.secret));
    }
    let told = [
        test.patch(&who, &target.path(), &write(&target.secret)).await,
        test.patch(&who, &target.path(), &write(fresh)).await,
    ];
    assert_eq!(told[0].refused(403, "forbidden"), told[1].refused(403, "forbidden"));
    let renamed = test.patch(&who, &target.path(), &patch("replace", "/name", &json!("Target two"))).await;
    assert!(!renamed.expect(200).text.contains(&target.secret));
    let mut new = client("New");
    new["secret"] = json!(fresh);
    test.post(&who, KIND, &new).await.refused(403, "forbidden");

    let who = bound(&test, json!([{ "resourceType": KIND, "readonlyFields": ["secret"] }])).await;
    let body = test.get(&who, &target.path()).await.expect(200).json();
    assert_eq!(body["secret"], json!(target.secret));
    test.put(&who, &target.path(), &body).await.expect(200);
    test.patch(&who, &target.path(), &write(fresh)).await.refused(403, "forbidden");
    // Whoever may not change a client sees no secret of it, even if it may change others.
    let rules = json!([{ "resourceType": KIND, "criteria": "ClientApplication?name=x" }, { "resourceType": KIND, "readonly": true }]);
    let who = bound(&test, rules).await;
    for url in [target.path(), KIND.to_owned()] {
        assert!(!test.get(&who, &url).await.expect(200).text.contains(&target.secret));
    }
    assert!(test.lets_in(&target.id, &target.secret).await);
}

#[tokio::test]
async fn the_admin_routes_are_no_way_round() {
    let test = TestApp::start().await;
    let membership = json!({ "resourceType": "ProjectMembership" });
    let create = async |rules: Value, body: Value| {
        let who = bound(&test, rules).await;
        let path = format!("admin/projects/{}/client", test.project);
        test.request(&who, Method::POST, &path).json(&body).send().await
    };
    let own = json!({ "resourceType": KIND, "criteria": "ClientApplication?name=own" });
    create(json!([own, membership]), json!({ "name": "Foreign" })).await.refused(403, "forbidden");
    create(json!([own, membership]), json!({ "name": "Own" })).await.expect(201);
    let withheld = |name: &str| json!([{ "resourceType": KIND, name: ["description"] }, membership]);
    for name in ["hiddenFields", "readonlyFields"] {
        create(withheld(name), json!({ "name": "Own", "description": "x" })).await.refused(403, "forbidden");
        create(withheld(name), json!({ "name": "Own" })).await.expect(201);
    }
    let secret = json!([{ "resourceType": KIND, "hiddenFields": ["secret"] }, membership]);
    create(secret, json!({ "name": "Own" })).await.refused(403, "forbidden");
    let not_admins = json!([{ "resourceType": KIND }, { "resourceType": "ProjectMembership", "criteria": "ProjectMembership?admin=true" }]);
    create(not_admins, json!({ "name": "Own" })).await.refused(403, "forbidden");

    let who = bound(&test, json!([own, membership])).await;
    let path = format!("admin/projects/{}/registration", test.project);
    let token = test.request(&who, Method::POST, &path).json(&json!({})).send().await;
    token.refused(403, "forbidden");

    let invite = async |rules: Value| {
        let who = bound(&test, rules).await;
        let path = format!("admin/projects/{}/invite", test.project);
        let body = json!({ "resourceType": "Practitioner", "firstName": "Ann", "lastName": "Doe", "email": "ann@example.test" });
        test.request(&who, Method::POST, &path).json(&body).send().await
    };
    let rest = [json!({ "resourceType": "Practitioner" }), membership.clone()];
    let with = |rule: Value| json!([rule, rest[0], rest[1]]);
    invite(with(json!({ "resourceType": "User", "criteria": "User?email=bob" })))
        .await
        .refused(403, "forbidden");
    invite(with(json!({ "resourceType": "User", "readonlyFields": ["firstName"] })))
        .await
        .refused(403, "forbidden");
    invite(with(json!({ "resourceType": "User" }))).await.expect(200);
    // The link that is given for an account that is there sets its password.
    let blind = json!({ "resourceType": "User", "criteria": "User?email=bob" });
    invite(with(blind)).await.refused(403, "forbidden");
    invite(with(json!({ "resourceType": "User", "interaction": ["create", "read"] })))
        .await
        .refused(403, "forbidden");
}

#[tokio::test]
async fn what_one_is_told_of_oneself_is_bound_too() {
    let test = TestApp::start().await;
    test.patch(&test.super_admin, &test.member.path(), &patch("add", "/description", &json!(HUSH)))
        .await
        .expect(200);
    let me = async || test.request(&test.member, Method::GET, "auth/me").send().await.expect(200);
    assert_eq!(me().await.text_at("/profile/description"), HUSH);
    test.put_under_policy(
        &test.member,
        &json!({ "resource": [{ "resourceType": KIND, "hiddenFields": ["description"] }] }),
    )
    .await;
    let told = me().await;
    assert!(!told.text.contains(HUSH) && !told.text.contains("Clinic"));
    assert_eq!(told.text_at("/profile/name"), "Reader");
    assert_eq!(told.text_at("/membership/resourceType"), "ProjectMembership");
    test.put_under_policy(&test.member, &json!({ "resource": [{ "resourceType": "Project" }] })).await;
    let told = me().await;
    assert_eq!(told.json()["profile"], json!({ "resourceType": KIND, "id": test.member.id }));
    assert_eq!(told.text_at("/project/name"), "Clinic");
}

#[tokio::test]
async fn who_may_only_write_is_told_only_that_it_was_written() {
    let test = TestApp::start().await;
    let path = made(&test, &client("Known")).await;
    let who = bound(&test, json!([{ "resourceType": KIND, "interaction": ["update", "create"] }])).await;
    for answer in [
        test.patch(&who, &path, &json!([])).await.expect(200),
        test.patch(&who, &path, &patch("add", "/status", &json!("off"))).await.expect(200),
        test.post(&who, KIND, &client("New")).await.expect(201),
    ] {
        let body = answer.json();
        let members: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["resourceType", "id", "meta"]);
        assert!(answer.header("etag").starts_with("W/\""));
    }
    assert_eq!(test.get(&test.admin, &path).await.text_at("/status"), "off");
}

#[tokio::test]
async fn members_are_bound_as_admins_are() {
    let test = TestApp::start().await;
    let (own, other) = (made(&test, &client("Own one")).await, made(&test, &client("Other")).await);
    let rules = json!([{ "resourceType": KIND, "criteria": "ClientApplication?name=own", "readonlyFields": ["status"] }]);
    test.put_under_policy(&test.member, &json!({ "resource": rules })).await;
    let who: As = test.bearer(&test.member).await;
    test.get(&who, &other).await.refused(404, "not-found");
    let off = patch("add", "/status", &json!("off"));
    test.patch(&who, &own, &off).await.expect(200);
    assert!(test.get(&test.admin, &own).await.json().get("status").is_none());
    assert_eq!(names(&test.get(&who, KIND).await), ["Own one"]);
}
