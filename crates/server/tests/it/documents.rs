//! The bounds of documents hold wherever one is built: by patches, by links of a transaction, and by stored elements
//! that the author does not see.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyrelay_core::limits::{BYTES_IN_FLIGHT_DEFAULT, DOCUMENT_BYTES_MAX, RESOURCE_BYTES_DEFAULT};
use serde_json::{Value, json};

use crate::app::{Credentials, TestApp};

/// A server that accepts the largest possible resource, and requests heavy enough for it.
async fn large() -> TestApp {
    TestApp::start_configured(|config| {
        config.resource_bytes_max = DOCUMENT_BYTES_MAX;
        config.bytes_in_flight = 4 * BYTES_IN_FLIGHT_DEFAULT;
    })
    .await
}

/// Nested arrays.
fn nested(levels: usize) -> Value {
    (1..levels).fold(json!([]), |inner, _| json!([inner]))
}

/// The end of the innermost of them, below a member.
fn innermost(member: &str, levels: usize) -> String {
    format!("/{member}{}/-", "/0".repeat(levels - 1))
}

/// Doubles the depth of a document again and again.
fn deepening(first: usize, times: u32) -> Value {
    let add = json!({ "op": "add", "path": "/x", "value": nested(first) });
    let copies = (0..times).map(|n| {
        let levels = first * 2_usize.pow(n);
        json!({ "op": "copy", "from": "/x", "path": innermost("x", levels) })
    });
    std::iter::once(add).chain(copies).collect()
}

#[tokio::test]
async fn no_patch_nests_a_document_deeper_than_a_body_may() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Deep").await;
    let before = test.get(&test.admin, &client.path()).await.expect(200);
    let told = test.patch(&test.admin, &client.path(), &deepening(60, 10)).await.refused(400, "invalid");
    assert!(told.contains("Operation 1 ") && told.contains("deeper than 64 levels"), "{told}");
    let moved = json!([
        { "op": "add", "path": "/x", "value": nested(40) },
        { "op": "add", "path": "/y", "value": nested(40) },
        { "op": "move", "from": "/y", "path": innermost("x", 40) },
    ]);
    let told = test.patch(&test.admin, &client.path(), &moved).await.refused(400, "invalid");
    assert!(told.contains("Operation 2 ") && told.contains("deeper than 64 levels"), "{told}");

    // By a member that may change itself, and in Bundles.
    test.put_under_policy(&test.member, &json!({ "resource": [{ "resourceType": "ClientApplication" }] }))
        .await;
    test.patch(&test.member, &test.member.path(), &deepening(60, 10)).await.refused(400, "invalid");
    let patch = STANDARD.encode(deepening(32, 11).to_string());
    let binary =
        json!({ "resourceType": "Binary", "contentType": "application/json-patch+json", "data": patch });
    let entry = json!({ "request": { "method": "PATCH", "url": client.path() }, "resource": binary });
    for kind in ["batch", "transaction"] {
        let bundle = json!({ "resourceType": "Bundle", "type": kind, "entry": [entry] });
        let answer = test.post(&test.admin, "", &bundle).await;
        assert!(answer.text.contains("deeper than 64 levels"), "{}", answer.text);
    }
    let after = test.get(&test.admin, &client.path()).await.expect(200);
    assert_eq!(after.json(), before.json(), "nothing was changed");
}

/// An extension with extensions in it: the only element that nests.
fn extension(levels: usize) -> Value {
    (1..levels).fold(
        json!({ "url": "urn:x", "valueCoding": { "code": "x" } }),
        |inner, _| json!({ "url": "urn:x", "extension": [inner] }),
    )
}

#[tokio::test]
async fn the_deepest_document_is_stored_read_compared_and_changed() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Deepest").await;
    // The resource, a list and an object for each extension, and the value of the innermost: 1 + 2 × 31 + 1 levels.
    let mut body = test.get(&test.admin, &client.path()).await.expect(200).json();
    body["extension"] = json!([extension(31)]);
    test.put(&test.admin, &client.path(), &body).await.expect(200);
    let path = format!("/extension{}", "/0/extension".repeat(30));
    let deeper = json!([{ "op": "remove", "path": format!("{path}/0/valueCoding") },
                        { "op": "add", "path": format!("{path}/0/extension"), "value": [extension(1)] }]);
    let told = test.patch(&test.admin, &client.path(), &deeper).await.refused(400, "invalid");
    assert!(told.contains("deeper than 64 levels"), "{told}");

    let mut read = test.get(&test.admin, &client.path()).await.expect(200).json();
    let version = read["meta"]["versionId"].clone();
    let same = test.put(&test.admin, &client.path(), &read).await.expect(200).json();
    assert_eq!(same["meta"]["versionId"], version, "it says the same");
    read["name"] = json!("Another name");
    test.put(&test.admin, &client.path(), &read).await.expect(200);
    test.get(&test.admin, &format!("{}/_history", client.path())).await.expect(200);
    let found = test.get(&test.admin, "ClientApplication?name=Another").await.expect(200);
    assert_eq!(found.resources().first(), Some(&test.get(&test.admin, &client.path()).await.json()));
    let rotated = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    assert!(test.lets_in(&client.id, &rotated.text_at("/secret")).await);
}

#[tokio::test]
async fn one_patch_does_not_copy_the_document_again_and_again() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Copied").await;
    let mut operations = vec![json!({ "op": "add", "path": "/x", "value": "x".repeat(400 * 1024) })];
    operations.extend(vec![json!({ "op": "copy", "from": "/x", "path": "/y" }); 50]);
    let patch = Value::Array(operations);
    let told = test.patch(&test.admin, &client.path(), &patch).await.refused(400, "invalid");
    assert!(told.contains("Operation 3 ") && told.contains("send several patches"), "{told}");
    let mut operations = vec![json!({ "op": "add", "path": "/x", "value": vec![vec![0; 1000]; 60] })];
    operations.push(json!({ "op": "copy", "from": "/x", "path": "/x/-" }));
    let told =
        test.patch(&test.admin, &client.path(), &Value::Array(operations)).await.refused(400, "invalid");
    assert!(told.contains("more than 100000 values"), "{told}");
}

#[tokio::test]
async fn links_do_not_make_a_resource_larger_than_a_document_may_be() {
    let test = large().await;
    let reference = json!({ "url": "u:", "valueReference": { "reference": "urn:oid:1" } });
    let extension = json!({ "url": "u:", "extension": vec![reference; 600] });
    let large = json!({ "resourceType": "Practitioner", "extension": vec![extension; 20] });
    let entry = json!({
        "fullUrl": "urn:oid:1",
        "request": { "method": "POST", "url": "Practitioner" },
        "resource": large,
    });
    let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [entry] });
    let told = test.post(&test.admin, "", &bundle).await.refused(400, "invalid");
    assert!(told.contains("larger than"), "{told}");
    let found = test.get(&test.admin, "Practitioner?_summary=count").await.expect(200);
    assert_eq!(found.json()["total"], 0);
}

async fn writer_without_description(test: &TestApp) -> Credentials {
    let writer = test.make_client(&test.project, "Writer").await;
    let rule = json!({ "resourceType": "ClientApplication", "hiddenFields": ["description"] });
    test.put_under_policy(&writer, &json!({ "resource": [rule] })).await;
    writer
}

#[tokio::test]
async fn what_is_hidden_from_an_author_counts_as_well() {
    let test = large().await;
    let client = test.make_client(&test.project, "Half").await;
    let writer = writer_without_description(&test).await;
    let half = "x".repeat(600 * 1024);
    let add = json!([{ "op": "add", "path": "/description", "value": half }]);
    test.patch(&test.admin, &client.path(), &add).await.expect(200);
    let other =
        json!([{ "op": "add", "path": "/extension", "value": [{ "url": "u:", "valueString": half }] }]);
    let told = test.patch(&writer, &client.path(), &other).await.refused(400, "invalid");
    assert!(told.contains("larger than"), "{told}");
    let small =
        json!([{ "op": "add", "path": "/extension", "value": [{ "url": "u:", "valueString": "x" }] }]);
    test.patch(&writer, &client.path(), &small).await.expect(200);
}

#[tokio::test]
async fn a_resource_has_a_bound_and_a_larger_stored_one_can_shrink() {
    let test = large().await;
    let client = test.make_client(&test.project, "Grown").await;
    let describe =
        |bytes: usize| json!([{ "op": "add", "path": "/description", "value": "x".repeat(bytes) }]);
    test.patch(&test.admin, &client.path(), &describe(900 * 1024)).await.expect(200);
    let test = test.restart_configured(|_| {}).await;

    let mut read = test.get(&test.admin, &client.path()).await.expect(200).json();
    let told = test.patch(&test.admin, &client.path(), &describe(901 * 1024)).await.refused(400, "invalid");
    assert!(told.contains(&format!("larger than {RESOURCE_BYTES_DEFAULT} bytes")), "{told}");
    test.patch(&test.admin, &client.path(), &describe(800 * 1024)).await.expect(200);
    read["description"] = json!("x".repeat(850 * 1024));
    test.put(&test.admin, &client.path(), &read).await.refused(400, "invalid");
    read["description"] = json!("x".repeat(700 * 1024));
    test.put(&test.admin, &client.path(), &read).await.expect(200);
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
    test.patch(&test.admin, &client.path(), &describe(10)).await.expect(200);
    test.patch(&test.admin, &client.path(), &describe(RESOURCE_BYTES_DEFAULT)).await.refused(400, "invalid");

    let new = json!({ "resourceType": "Practitioner", "extension": [{ "url": "u:", "valueString": "x".repeat(RESOURCE_BYTES_DEFAULT) }] });
    test.post(&test.admin, "Practitioner", &new).await.refused(400, "invalid");
}
