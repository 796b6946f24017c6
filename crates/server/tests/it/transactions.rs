//! Transaction Bundles: all of the entries are done or none, and they may name each other.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::app::{Answer, Credentials, TestApp};

/// Full URLs, as clients make them up.
const CLIENT: &str = "urn:uuid:11111111-1111-4111-8111-111111111111";
const POLICY: &str = "urn:uuid:22222222-2222-4222-8222-222222222222";
const PROJECT: &str = "urn:oid:1.2.3.4.5";
const USER: &str = "urn:uuid:33333333-3333-4333-8333-333333333333";
const PRACTITIONER: &str = "urn:uuid:44444444-4444-4444-8444-444444444444";
/// Chosen, long enough.
const CHOSEN: &str = "a secret that somebody chose and that is long";

fn request(method: &str, url: &str) -> Value {
    json!({ "request": { "method": method, "url": url } })
}

fn with(method: &str, url: &str, resource: &Value) -> Value {
    json!({ "request": { "method": method, "url": url }, "resource": resource })
}

/// Makes a resource, which others may call by that full URL.
fn make(full_url: &str, resource: &Value) -> Value {
    let mut entry = with("POST", resource["resourceType"].as_str().unwrap(), resource);
    entry["fullUrl"] = json!(full_url);
    entry
}

fn make_if_none(full_url: &str, condition: &str, resource: &Value) -> Value {
    let mut entry = make(full_url, resource);
    entry["request"]["ifNoneExist"] = json!(condition);
    entry
}

fn patch(url: &str, operations: &Value) -> Value {
    let binary = json!({
        "resourceType": "Binary",
        "contentType": "application/json-patch+json",
        "data": STANDARD.encode(operations.to_string()),
    });
    with("PATCH", url, &binary)
}

fn rename(url: &str, name: &str) -> Value {
    patch(url, &json!([{ "op": "add", "path": "/name", "value": name }]))
}

fn if_match(mut entry: Value, version: &str) -> Value {
    entry["request"]["ifMatch"] = json!(format!("W/\"{version}\""));
    entry
}

fn rotate(client: &Credentials, name: &str, value: &str) -> Value {
    let url = format!("{}/$rotate-secret", client.path());
    with(
        "POST",
        &url,
        &json!({ "resourceType": "Parameters", "parameter": [{ "name": name, "valueString": value }] }),
    )
}

fn policy(name: &str) -> Value {
    json!({ "resourceType": "AccessPolicy", "name": name, "resource": [{ "resourceType": "*" }] })
}

fn client(name: &str) -> Value {
    json!({ "resourceType": "ClientApplication", "name": name })
}

/// The membership of a client application in a project.
fn membership(project: &str, client: &str) -> Value {
    json!({
        "resourceType": "ProjectMembership",
        "project": { "reference": project },
        "user": { "reference": client },
        "profile": { "reference": client },
    })
}

async fn transaction(test: &TestApp, who: &Credentials, entries: &Value) -> Answer {
    let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
    test.post(who, "", &bundle).await
}

fn statuses(answer: &Answer) -> Vec<String> {
    let entries = answer.json()["entry"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| entry["response"]["status"].as_str().unwrap().to_owned()).collect()
}

/// Where an answer says that the fault is.
fn at(answer: &Answer) -> Vec<String> {
    let expression = answer.json()["issue"][0]["expression"].as_array().cloned().unwrap_or_default();
    expression.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

async fn count(test: &TestApp, query: &str) -> i64 {
    let answer = test.get(&test.super_admin, &format!("{query}&_summary=count")).await.expect(200);
    answer.json()["total"].as_i64().unwrap()
}

async fn version_of(test: &TestApp, path: &str) -> String {
    test.get(&test.super_admin, path).await.expect(200).text_at("/meta/versionId")
}

fn path_of(membership: &Value) -> String {
    format!("ProjectMembership/{}", membership["id"].as_str().unwrap())
}

#[tokio::test]
async fn entries_are_done_in_the_order_of_fhir_and_answered_in_their_own() {
    let test = TestApp::start().await;
    let one = test.make_client(&test.project, "Before").await;
    let old = test.membership_of(&one).await;
    // A client has one membership: the new one can be made only once the old one is gone.
    let new = membership(&format!("Project/{}", test.project), &one.path());
    let entries = json!([
        request("GET", "ClientApplication?name=After"),
        request("HEAD", &path_of(&test.membership_of(&test.member).await)),
        rename(&one.path(), "After"),
        with("POST", "ProjectMembership", &new),
        request("POST", "ClientApplication/_search?name=After"),
        request("DELETE", &path_of(&old)),
    ]);
    let answer = transaction(&test, &test.admin, &entries).await.expect(200);
    assert_eq!(
        (answer.text_at("/resourceType"), answer.text_at("/type")),
        ("Bundle".to_owned(), "transaction-response".to_owned())
    );
    assert_eq!(statuses(&answer), ["200", "200", "200", "201", "200", "200"], "{}", answer.text);
    // What only reads sees what the others have done.
    assert_eq!(answer.text_at("/entry/0/resource/entry/0/resource/id"), one.id);
    assert_eq!(answer.text_at("/entry/4/resource/entry/0/resource/id"), one.id);
    let version = version_of(&test, &one.path()).await;
    assert_eq!(answer.text_at("/entry/2/response/etag"), format!("W/\"{version}\""));
    let made = test.membership_of(&one).await;
    assert_ne!(made["id"], old["id"]);
    assert_eq!(answer.text_at("/entry/3/resource/id"), made["id"].as_str().unwrap());
    assert!(answer.text_at("/entry/3/response/location").contains(&path_of(&made)));
    test.get(&test.admin, &path_of(&old)).await.refused(410, "deleted");
}

#[tokio::test]
async fn one_entry_that_fails_undoes_all_the_others() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let other = test.make_client(&test.project, "Other").await;
    let member = path_of(&test.membership_of(&test.member).await);
    let before = test.get(&test.admin, &client.path()).await.text;
    let stale = version_of(&test, &client.path()).await;
    let double = membership(&format!("Project/{}", test.project), &other.path());
    let own = format!("Project/{}", test.project);
    for (last, status, code, entry) in [
        (if_match(rename(&other.path(), "New"), &stale), 412, "conflict", true),
        (if_match(request("DELETE", &other.path()), &stale), 412, "conflict", true),
        (rotate(&other, "secret", "wrong"), 400, "invalid", true),
        (rename(&test.stranger.path(), "Mine"), 404, "not-found", true),
        (request("DELETE", &own), 403, "forbidden", true),
        (
            with("POST", "ClientApplication", &json!({"resourceType": "ClientApplication", "nam": "x"})),
            400,
            "structure",
            true,
        ),
        (with("PUT", &other.path(), &client_with_status(&other, "odd")), 400, "value", true),
        (with("POST", "Patient", &json!({ "resourceType": "Patient" })), 404, "not-found", true),
        (with("POST", "AuditEvent", &json!({ "resourceType": "AuditEvent" })), 405, "not-supported", true),
        (request("GET", &test.stranger.path()), 404, "not-found", true),
        (request("GET", "ClientApplication?odd=1"), 400, "invalid", true),
        (request("GET", &format!("{}/$rotate-secret", other.path())), 405, "not-supported", true),
        (json!(7), 400, "invalid", true),
        (request("BREW", "ClientApplication"), 400, "invalid", true),
        // The database says so, of all of them.
        (with("POST", "ProjectMembership", &double), 409, "conflict", false),
    ] {
        let entries = json!([
            make(POLICY, &policy("Whole")),
            rotate(&client, "secret", &client.secret),
            request("DELETE", &member),
            make(
                "urn:uuid:1",
                &json!({ "resourceType": "ClientApplication", "name": "Whole", "secret": CHOSEN })
            ),
            last,
        ]);
        let answer = transaction(&test, &test.admin, &entries).await;
        answer.refused(status, code);
        if entry {
            assert!(at(&answer).iter().any(|named| named.starts_with("Bundle.entry[4]")), "{}", answer.text);
        }
        assert_eq!(test.get(&test.admin, &client.path()).await.text, before, "{}", answer.text);
        test.get(&test.admin, &member).await.expect(200);
    }
    assert!(test.lets_in(&client.id, &client.secret).await);
    for query in ["AccessPolicy?name=Whole", "ClientApplication?name=Whole", MOVES] {
        assert_eq!(count(&test, query).await, 0, "{query}");
    }
}

/// The records of what became of secrets, without those of who was shown them.
const MOVES: &str = "AuditEvent?subtype=rotate-secret,retire-secret,replace-secret,delete-secret";

fn client_with_status(client: &Credentials, status: &str) -> Value {
    json!({ "resourceType": "ClientApplication", "id": client.id, "status": status })
}

#[tokio::test]
async fn a_client_with_its_policy_and_membership_comes_into_being_at_once() {
    let test = TestApp::start().await;
    let project = format!("Project/{}", test.project);
    let mut member = membership(&project, CLIENT);
    // A link to a version is one to the resource.
    member["accessPolicy"] = json!({ "reference": format!("{POLICY}/_history/1"), "display": POLICY });
    let new = json!({ "resourceType": "ClientApplication", "name": "New", "secret": CHOSEN });
    let entries = json!([
        make("urn:uuid:membership", &member),
        make(CLIENT, &new),
        make(POLICY, &policy("All")),
        request("GET", "ProjectMembership?profile:missing=false&_sort=-_lastUpdated&_count=1"),
    ]);
    let answer = transaction(&test, &test.admin, &entries).await.expect(200);
    assert_eq!(statuses(&answer), ["201", "201", "201", "200"], "{}", answer.text);
    let (client, policy) = (answer.text_at("/entry/1/resource/id"), answer.text_at("/entry/2/resource/id"));
    assert_eq!(answer.text_at("/entry/1/resource/secret"), CHOSEN);
    let stored = test.get(&test.admin, &path_of(&answer.json()["entry"][0]["resource"])).await.expect(200);
    assert_eq!(stored.json(), answer.json()["entry"][0]["resource"]);
    for element in ["user", "profile"] {
        assert_eq!(stored.text_at(&format!("/{element}/reference")), format!("ClientApplication/{client}"));
    }
    assert_eq!(stored.text_at("/accessPolicy/reference"), format!("AccessPolicy/{policy}"));
    // Only a reference is a link.
    assert_eq!(stored.text_at("/accessPolicy/display"), POLICY);
    assert!(test.lets_in(&client, CHOSEN).await);
}

#[tokio::test]
async fn a_super_admin_makes_a_project_with_all_that_is_in_it() {
    let test = TestApp::start().await;
    let once = json!([{ "name": "secretVisibility", "valueString": "once" }]);
    let within = json!({ "project": PROJECT });
    let mut person = membership(PROJECT, USER);
    person["profile"] = json!({ "reference": PRACTITIONER });
    let entries = json!([
        make("urn:uuid:1", &person),
        make("urn:uuid:2", &membership(PROJECT, CLIENT)),
        make(
            CLIENT,
            &json!({ "resourceType": "ClientApplication", "meta": within, "name": "New", "secret": CHOSEN })
        ),
        // These two name each other.
        make(
            USER,
            &json!({
                "resourceType": "User", "meta": within, "project": { "reference": PROJECT },
                "firstName": "Ann", "lastName": "Doe", "email": "ann@example.test",
            })
        ),
        make(
            PROJECT,
            &json!({ "resourceType": "Project", "name": "Ward", "owner": { "reference": USER }, "setting": once })
        ),
        make(
            PRACTITIONER,
            &json!({ "resourceType": "Practitioner", "meta": within, "name": [{ "family": "Doe" }] })
        ),
    ]);
    let answer = transaction(&test, &test.super_admin, &entries).await.expect(200);
    assert_eq!(statuses(&answer), ["201"; 6], "{}", answer.text);
    let id = |n: usize| answer.text_at(&format!("/entry/{n}/resource/id"));
    assert_eq!(answer.text_at("/entry/4/resource/owner/reference"), format!("User/{}", id(3)));
    assert_eq!(answer.text_at("/entry/3/resource/project/reference"), format!("Project/{}", id(4)));
    assert!(test.lets_in(&id(2), CHOSEN).await);
    let read = test.fhir(&test.super_admin, reqwest::Method::GET, &format!("ClientApplication/{}", id(2)));
    let read = read.header("x-medplum", "extended").send().await.expect(200);
    assert_eq!(read.text_at("/meta/project"), id(4));
    // It was shown when it was written, as the project that came with it wants.
    assert_eq!(answer.text_at("/entry/2/resource/secret"), CHOSEN);
    assert_eq!(read.json().get("secret"), None);
}

#[tokio::test]
async fn a_patch_may_name_what_the_transaction_makes() {
    let test = TestApp::start().await;
    let member = path_of(&test.membership_of(&test.member).await);
    for (path, value) in
        [("/accessPolicy", json!({ "reference": POLICY })), ("/accessPolicy/reference", json!(POLICY))]
    {
        let entries = json!([
            patch(&member, &json!([{ "op": "add", "path": path, "value": value }])),
            make(POLICY, &policy("All")),
        ]);
        let answer = transaction(&test, &test.admin, &entries).await.expect(200);
        let policy = answer.text_at("/entry/1/resource/id");
        assert_eq!(
            answer.text_at("/entry/0/resource/accessPolicy/reference"),
            format!("AccessPolicy/{policy}")
        );
    }
}

#[tokio::test]
async fn what_is_found_instead_of_being_made_is_what_the_others_name() {
    let test = TestApp::start().await;
    let client = json!({ "resourceType": "ClientApplication", "name": "New" });
    let there = test.post(&test.admin, "AccessPolicy", &policy("All")).await.expect(201);
    let mut member = membership(&format!("Project/{}", test.project), CLIENT);
    member["accessPolicy"] = json!({ "reference": POLICY });
    let entries = json!([
        make_if_none(POLICY, "name=All", &policy("All")),
        make_if_none(CLIENT, "name=New", &client),
        make("urn:uuid:1", &member),
    ]);
    let answer = transaction(&test, &test.admin, &entries).await.expect(200);
    assert_eq!(statuses(&answer), ["200", "201", "201"], "{}", answer.text);
    assert_eq!(answer.json()["entry"][0]["resource"], there.json());
    let named = answer.text_at("/entry/2/resource/accessPolicy/reference");
    assert_eq!(named, format!("AccessPolicy/{}", there.text_at("/id")));

    // The client is there now, and has a membership.
    transaction(&test, &test.admin, &entries).await.refused(409, "conflict");
    let entries = json!([entries[0], entries[1]]);
    let again = transaction(&test, &test.admin, &entries).await.expect(200);
    assert_eq!(statuses(&again), ["200", "200"]);
    assert_eq!(again.text_at("/entry/1/resource/id"), answer.text_at("/entry/1/resource/id"));
    assert_eq!(count(&test, "AccessPolicy?name=All").await, 1);
}

#[tokio::test]
async fn conditions_see_what_the_rest_of_the_transaction_does() {
    let test = TestApp::start().await;
    let there = test.post(&test.admin, "AccessPolicy", &policy("All")).await.expect(201);
    let path = format!("AccessPolicy/{}", there.text_at("/id"));
    let found = make_if_none(POLICY, "name=All", &policy("All"));
    let new = |full_url| make_if_none(full_url, "name=New", &policy("New"));
    for (entries, n) in [
        (json!([found, request("DELETE", &path)]), 0),
        (json!([found, rename(&path, "Other")]), 0),
        (json!([new("urn:uuid:1"), new("urn:uuid:2")]), 1),
        (json!([make("urn:uuid:1", &policy("New")), new("urn:uuid:2")]), 1),
    ] {
        let answer = transaction(&test, &test.admin, &entries).await;
        answer.refused(400, "invalid");
        assert_eq!(at(&answer), [format!("Bundle.entry[{n}]")], "{}", answer.text);
    }
    test.post(&test.admin, "AccessPolicy", &policy("All")).await.expect(201);
    transaction(&test, &test.admin, &json!([found])).await.refused(412, "conflict");
    assert_eq!(count(&test, "AccessPolicy?name=New").await, 0);
}

#[tokio::test]
async fn a_resource_is_for_one_entry_alone() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let path = client.path();
    let whole = json!({ "resourceType": "ClientApplication", "id": client.id, "name": "Put" });
    let all = [
        request("DELETE", &path),
        with("PUT", &path, &whole),
        rename(&path, "Patched"),
        rotate(&client, "secret", &client.secret),
    ];
    for one in &all {
        for other in &all {
            let answer = transaction(&test, &test.admin, &json!([one, other])).await;
            answer.refused(400, "invalid");
            assert_eq!(at(&answer), ["Bundle.entry[1]"]);
        }
    }
    assert_eq!(test.get(&test.admin, &path).await.text_at("/name"), "Nightly export");
    assert!(test.lets_in(&client.id, &client.secret).await);
}

#[tokio::test]
async fn nothing_may_name_what_the_transaction_deletes() {
    let test = TestApp::start().await;
    let project = format!("Project/{}", test.project);
    let bare = test.post(&test.admin, "ClientApplication", &client("Bare")).await.expect(201).text_at("/id");
    let bare = format!("ClientApplication/{bare}");
    let unused = test.post(&test.admin, "AccessPolicy", &policy("All")).await.expect(201).text_at("/id");
    let unused = format!("AccessPolicy/{unused}");
    let mut bound = membership(&project, &bare);
    bound["accessPolicy"] = json!({ "reference": unused });
    let refer = json!([{ "op": "add", "path": "/accessPolicy", "value": { "reference": unused } }]);
    let member = path_of(&test.membership_of(&test.member).await);
    for (entries, status, code) in [
        (
            json!([
                with("POST", "ProjectMembership", &membership(&project, &bare)),
                request("DELETE", &bare)
            ]),
            400,
            "invalid",
        ),
        (json!([with("POST", "ProjectMembership", &bound), request("DELETE", &unused)]), 400, "invalid"),
        (json!([patch(&member, &refer), request("DELETE", &unused)]), 400, "invalid"),
        (json!([request("GET", &unused), request("DELETE", &unused)]), 410, "deleted"),
    ] {
        let answer = transaction(&test, &test.admin, &entries).await;
        answer.refused(status, code);
        assert_eq!(at(&answer).last().unwrap(), "Bundle.entry[0]", "{}", answer.text);
    }
    test.get(&test.admin, &bare).await.expect(200);

    let ward = test.make_project("Ward").await;
    let within = json!({ "resourceType": "ClientApplication", "name": "New", "meta": { "project": ward } });
    let entries =
        json!([with("POST", "ClientApplication", &within), request("DELETE", &format!("Project/{ward}"))]);
    transaction(&test, &test.super_admin, &entries).await.refused(400, "invalid");
    test.get(&test.super_admin, &format!("Project/{ward}")).await.expect(200);
}

#[tokio::test]
async fn what_one_entry_may_not_nobody_of_them_does() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let rules = json!([{ "resourceType": "ClientApplication" }]);
    test.put_under_policy(&test.member, &json!({ "resource": rules })).await;
    let mine = rename(&client.path(), "Mine");
    let secret = json!({ "resourceType": "ClientApplication", "name": "Mine", "secret": CHOSEN });
    for forbidden in [
        rotate(&test.member, "secret", &test.member.secret),
        make(POLICY, &policy("Mine")),
        make(CLIENT, &secret),
        request("DELETE", &path_of(&test.membership_of(&client).await)),
        request("GET", "User"),
    ] {
        let answer = transaction(&test, &test.member, &json!([mine, forbidden])).await;
        answer.refused(403, "forbidden");
        assert_eq!(at(&answer).last().unwrap(), "Bundle.entry[1]");
    }
    assert_eq!(test.get(&test.admin, &client.path()).await.text_at("/name"), "Nightly export");
    assert_eq!(statuses(&transaction(&test, &test.member, &json!([mine])).await), ["200"]);
}

#[tokio::test]
async fn secrets_are_rotated_and_retired_together_with_other_changes() {
    let test = TestApp::start().await;
    let [one, two] =
        [test.make_client(&test.project, "One").await, test.make_client(&test.project, "Two").await];
    let new = test.rotate(&test.admin, &two.id, "secret", &two.secret).await.expect(200).text_at("/secret");
    let events = count(&test, MOVES).await;
    let version = version_of(&test, &one.path()).await;
    let entries = json!([
        if_match(rotate(&one, "secret", &one.secret), &version),
        rotate(&two, "retiringSecret", &two.secret),
        request("GET", &one.path()),
        make(POLICY, &policy("Beside")),
    ]);
    let answer = transaction(&test, &test.admin, &entries).await.expect(200);
    assert_eq!(statuses(&answer), ["200", "200", "200", "201"], "{}", answer.text);
    let fresh = answer.text_at("/entry/0/resource/secret");
    assert_eq!(answer.text_at("/entry/0/resource/retiringSecret"), one.secret);
    assert_eq!(answer.text_at("/entry/2/resource/secret"), fresh);
    assert_eq!(answer.json()["entry"][1]["resource"].get("retiringSecret"), None);
    assert_eq!(
        [
            test.lets_in(&one.id, &fresh).await,
            test.lets_in(&one.id, &one.secret).await,
            test.lets_in(&two.id, &new).await,
            test.lets_in(&two.id, &two.secret).await,
        ],
        [true, true, true, false]
    );
    assert_eq!(count(&test, MOVES).await, events + 2);
    // The same again: the value is no longer the current one.
    transaction(&test, &test.admin, &json!([rotate(&one, "secret", &one.secret)]))
        .await
        .refused(400, "invalid");
}

#[tokio::test]
async fn who_ends_its_own_proof_is_still_the_author_of_the_rest() {
    let test = TestApp::start().await;
    let old = test.admin.clone();
    let new = test.rotate(&test.admin, &old.id, "secret", &old.secret).await.expect(200).text_at("/secret");
    let entries = json!([rotate(&old, "retiringSecret", &old.secret), make(POLICY, &policy("After"))]);
    let answer = transaction(&test, &old, &entries).await.expect(200);
    assert_eq!(statuses(&answer), ["200", "201"], "{}", answer.text);
    assert!(!test.lets_in(&old.id, &old.secret).await);
    test.get(&old.with(&new), &format!("AccessPolicy/{}", answer.text_at("/entry/1/resource/id")))
        .await
        .expect(200);
}

#[tokio::test]
async fn the_setting_that_comes_with_a_secret_decides_who_reads_it_again() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let set = |value: &str| {
        let setting = json!([{ "name": "secretVisibility", "valueString": value }]);
        let operations = json!([{ "op": "add", "path": "/setting", "value": setting }]);
        patch(&format!("Project/{}", test.project), &operations)
    };
    let entries = json!([set("once"), rotate(&client, "secret", &client.secret)]);
    let answer = transaction(&test, &test.admin, &entries).await.expect(200);
    let fresh = answer.text_at("/entry/1/resource/secret");
    assert_eq!(test.get(&test.admin, &client.path()).await.json().get("secret"), None);
    assert!(test.lets_in(&client.id, &fresh).await);

    let retire = json!([rotate(&client, "retiringSecret", &client.secret)]);
    let answer = transaction(&test, &test.admin, &retire).await.expect(200);
    assert_eq!(answer.json()["entry"][0]["resource"].get("secret"), None);

    let write = patch(&client.path(), &json!([{ "op": "add", "path": "/secret", "value": CHOSEN }]));
    let answer = transaction(&test, &test.admin, &json!([set("recoverable"), write])).await.expect(200);
    assert_eq!(answer.text_at("/entry/1/resource/secret"), CHOSEN);
    assert_eq!(test.get(&test.admin, &client.path()).await.text_at("/secret"), CHOSEN);
}

#[tokio::test]
async fn of_transactions_on_one_version_one_is_made_and_the_others_leave_nothing() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let rounds = (0..6).map(|n| {
        let entries = json!([
            make(POLICY, &policy("Beside")),
            rename(&test.member.path(), &format!("Round {n}")),
            rotate(&client, "secret", &client.secret)
        ]);
        let test = &test;
        async move { transaction(test, &test.admin, &entries).await }
    });
    let answers = join_all(rounds).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!((made.len(), refused.len()), (1, 5));
    for answer in refused {
        answer.refused(400, "invalid");
        assert_eq!(at(answer), ["Bundle.entry[2]"]);
    }
    let secret = made[0].text_at("/entry/2/resource/secret");
    assert_eq!(test.get(&test.admin, &client.path()).await.text_at("/secret"), secret);
    assert_eq!(count(&test, "AccessPolicy?name=Beside").await, 1);
    let member = test.get(&test.admin, &test.member.path()).await;
    assert_eq!(member.text_at("/name"), made[0].text_at("/entry/1/resource/name"));
}

#[tokio::test]
async fn transactions_that_do_not_contradict_each_other_are_all_made() {
    let test = TestApp::start().await;
    let [one, two] =
        [test.make_client(&test.project, "One").await, test.make_client(&test.project, "Two").await];
    let rounds = (0..6).map(|n| {
        let (first, second) = if n % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let name = format!("Round {n}");
        let entries = json!([
            rename(&first.path(), &name),
            rename(&second.path(), &name),
            make_if_none(POLICY, "name=Once", &policy("Once")),
        ]);
        let test = &test;
        async move { transaction(test, &test.admin, &entries).await.expect(200) }
    });
    let answers = join_all(rounds).await;
    let mut names = Vec::new();
    for client in [&one, &two] {
        names.push(test.get(&test.admin, &client.path()).await.text_at("/name"));
    }
    assert_eq!(names[0], names[1]);
    let history = test.get(&test.admin, &format!("{}/_history", one.path())).await.json();
    assert_eq!(history["total"], 7);
    // All of them were told of the same policy, which one of them made.
    let made = answers.iter().filter(|answer| answer.text_at("/entry/2/response/status") == "201");
    assert_eq!(made.count(), 1);
    assert_eq!(count(&test, "AccessPolicy?name=Once").await, 1);
}

#[tokio::test]
async fn full_urls_that_say_nothing_clear_are_refused() {
    let test = TestApp::start().await;
    let bare = membership(&format!("Project/{}", test.project), CLIENT);
    let mut elsewhere = make(CLIENT, &client("New"));
    elsewhere["resource"]["extension"] = json!([{
        "url": "https://example.test/odd",
        "extension": [{ "url": "deep", "valueReference": { "reference": POLICY } }],
    }]);
    let mut within = make(CLIENT, &client("New"));
    within["resource"]["meta"] = json!({ "project": PROJECT });
    for (entries, named) in [
        (json!([make(CLIENT, &client("New")), make(CLIENT, &client("New"))]), "Bundle.entry[1].fullUrl"),
        (json!([make("ClientApplication/1", &client("New"))]), "Bundle.entry[0].fullUrl"),
        (json!([make(&format!("{CLIENT}/_history/1"), &client("New"))]), "Bundle.entry[0].fullUrl"),
        (
            json!([{ "fullUrl": 7, "request": { "method": "GET", "url": "Project" } }]),
            "Bundle.entry[0].fullUrl",
        ),
        (json!([make("urn:uuid:1", &bare)]), "Bundle.entry[0]"),
        (json!([elsewhere]), "Bundle.entry[0]"),
        (json!([within]), "Bundle.entry[0]"),
        (json!([request("POST", "")]), "Bundle.entry[0].request.url"),
        (
            json!([with("POST", "", &json!({ "resourceType": "Bundle", "type": "transaction" }))]),
            "Bundle.entry[0].request.url",
        ),
        (json!(vec![request("GET", "Project"); 101]), "Bundle.entry"),
    ] {
        let answer = transaction(&test, &test.admin, &entries).await;
        answer.refused(400, "invalid");
        assert_eq!(at(&answer).last().unwrap(), named, "{}", answer.text);
    }
    // What a link leads to must fit, as if its id had been known: this membership is said to be of itself.
    let answer = transaction(&test, &test.admin, &json!([make(CLIENT, &bare)])).await;
    answer.refused(400, "value");
    assert_eq!(at(&answer), ["ProjectMembership.user.reference", "Bundle.entry[0]"]);
    let nested = with("POST", "Bundle", &json!({ "resourceType": "Bundle", "type": "batch" }));
    transaction(&test, &test.admin, &json!([nested])).await.refused(404, "not-found");
    assert_eq!(count(&test, "ClientApplication?name=New").await, 0);
}

#[tokio::test]
async fn links_are_put_in_place_at_any_depth_and_into_no_secret() {
    let test = TestApp::start().await;
    let mut new = client("New");
    new["secret"] = json!(POLICY);
    new["description"] = json!(POLICY);
    new["extension"] = json!([{
        "url": "https://example.test/odd",
        "extension": [{ "url": "deep", "valueReference": { "reference": POLICY } }],
    }]);
    let entries = json!([make(CLIENT, &new), make(POLICY, &policy("All"))]);
    let answer = transaction(&test, &test.admin, &entries).await.expect(200);
    let named = answer.text_at("/entry/0/resource/extension/0/extension/0/valueReference/reference");
    assert_eq!(named, format!("AccessPolicy/{}", answer.text_at("/entry/1/resource/id")));
    assert_eq!(answer.text_at("/entry/0/resource/description"), POLICY);
    test.rotate(&test.admin, &answer.text_at("/entry/0/resource/id"), "secret", POLICY).await.expect(200);
}

#[tokio::test]
async fn a_transaction_is_bounded() {
    let test = TestApp::start_configured(|config| config.bytes_in_flight *= 4).await;
    let identifiers: Vec<Value> = (0..400).map(|n| json!({ "value": n.to_string() })).collect();
    let many = json!({ "resourceType": "Practitioner", "identifier": identifiers });
    let entries = vec![with("POST", "Practitioner", &many); 100];
    let answer = transaction(&test, &test.admin, &json!(entries)).await;
    let said = answer.refused(413, "too-costly");
    assert!(said.contains("2000"), "{said}");
    assert_eq!(count(&test, "Practitioner?identifier=7").await, 0);
    let answer = transaction(&test, &test.admin, &json!(entries[..50])).await.expect(200);
    assert_eq!(statuses(&answer), ["201"; 50]);
    assert_eq!(statuses(&transaction(&test, &test.admin, &json!([])).await.expect(200)), [""; 0]);
}
