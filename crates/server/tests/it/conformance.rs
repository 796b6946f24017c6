//! The `CapabilityStatement` and the definitions: what a client can know before it asks.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{As, TestApp};

async fn metadata(test: &TestApp) -> Value {
    test.get(As::Anonymous, "metadata").await.expect(200).json()
}

#[tokio::test]
async fn anyone_reads_what_the_server_can_do() {
    let test = TestApp::start().await;
    let statement = metadata(&test).await;
    assert_eq!(
        (&statement["resourceType"], &statement["fhirVersion"]),
        (&json!("CapabilityStatement"), &json!("4.0.1"))
    );
    assert_eq!(statement["implementation"]["url"], format!("http://{}/fhir/R4", test.address));
    let rest = &statement["rest"][0];
    let types: Vec<&str> = rest["resource"]
        .as_array()
        .unwrap()
        .iter()
        .map(|resource| resource["type"].as_str().unwrap())
        .collect();
    for name in ["Project", "ClientApplication", "ProjectMembership", "AccessPolicy", "AuditEvent"] {
        assert!(types.contains(&name), "{name} in {types:?}");
    }
    let endpoints = rest["security"]["extension"][0]["extension"].as_array().unwrap();
    for name in ["authorize", "token", "introspect", "revoke"] {
        let url = format!("http://{}/oauth2/{name}", test.address);
        assert!(endpoints.contains(&json!({ "url": name, "valueUri": url })), "{name} in {endpoints:?}");
    }
    test.get(&test.member, "metadata").await.expect(200);
}

#[tokio::test]
async fn the_statement_claims_only_bundles_that_are_done() {
    let test = TestApp::start().await;
    let statement = metadata(&test).await;
    for interaction in statement["rest"][0]["interaction"].as_array().unwrap() {
        let bundle = json!({ "resourceType": "Bundle", "type": interaction["code"], "entry": [] });
        test.post(&test.admin, "", &bundle).await.expect(200);
    }
}

#[tokio::test]
async fn every_resource_of_the_statement_can_be_searched() {
    let test = TestApp::start().await;
    let statement = metadata(&test).await;
    for resource in statement["rest"][0]["resource"].as_array().unwrap() {
        let name = resource["type"].as_str().unwrap();
        test.get(&test.super_admin, name).await.expect(200);
        for param in resource["searchParam"].as_array().unwrap() {
            let code = param["name"].as_str().unwrap();
            test.get(&test.super_admin, &format!("{name}?{code}:missing=true")).await.expect(200);
        }
    }
}

#[tokio::test]
async fn the_operation_is_defined_where_the_statement_says() {
    let test = TestApp::start().await;
    let statement = metadata(&test).await;
    let resources = statement["rest"][0]["resource"].as_array().unwrap();
    let client = resources.iter().find(|resource| resource["type"] == "ClientApplication").unwrap();
    assert_eq!(client["operation"][0]["name"], "rotate-secret");
    let url = client["operation"][0]["definition"].as_str().unwrap();
    let found = test.get(&test.member, "OperationDefinition?code=rotate-secret").await.expect(200);
    let definition = &found.resources()[0];
    assert_eq!(definition["url"], url);
    assert_eq!(
        (&definition["affectsState"], &definition["instance"], &definition["type"], &definition["system"]),
        (&json!(true), &json!(true), &json!(false), &json!(false))
    );
    let names: Vec<&Value> =
        definition["parameter"].as_array().unwrap().iter().map(|parameter| &parameter["name"]).collect();
    assert_eq!(names, ["secret", "retiringSecret", "return"]);
    let path = format!("OperationDefinition/{}", definition["id"].as_str().unwrap());
    assert_eq!(test.get(&test.member, &path).await.expect(200).json(), *definition);
    assert_eq!(test.get(&test.member, url.split_once("/R4/").unwrap().1).await.status, 200, "{url}");
}

#[tokio::test]
async fn definitions_are_searched_but_not_written_and_not_for_strangers() {
    let test = TestApp::start().await;
    let found = test.get(&test.member, "StructureDefinition?type=ClientApplication&_total=accurate").await;
    let found = found.expect(200);
    assert_eq!(found.json()["total"], 1);
    let paths: Vec<String> = found.resources()[0]["snapshot"]["element"]
        .as_array()
        .unwrap()
        .iter()
        .map(|element| element["path"].as_str().unwrap().to_owned())
        .collect();
    for path in ["ClientApplication.secret", "ClientApplication.retiringSecret"] {
        assert!(paths.iter().any(|found| found == path), "{path}");
    }
    let page = test.get(&test.member, "SearchParameter?base=ClientApplication&_count=1").await.expect(200);
    assert_eq!((page.resources().len(), page.text_at("/link/1/relation")), (1, "next".to_owned()));
    test.get(&test.member, "StructureDefinition?nonsense=1").await.refused(400, "invalid");
    test.get(&test.member, "StructureDefinition/nonsense").await.refused(404, "not-found");
    test.get(As::Anonymous, "StructureDefinition").await.refused(401, "login");
    let definition = json!({ "resourceType": "StructureDefinition" });
    let answer =
        test.fhir(&test.super_admin, Method::PUT, "StructureDefinition/x").json(&definition).send().await;
    answer.refused(405, "not-supported");
}
