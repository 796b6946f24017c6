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
    assert_eq!(
        names,
        ["secret", "retiringSecret", "retireAfter", "onlyIfUnused", "revokeTokens", "force", "return"]
    );
    let path = format!("OperationDefinition/{}", definition["id"].as_str().unwrap());
    assert_eq!(test.get(&test.member, &path).await.expect(200).json(), *definition);
    assert_eq!(test.get(&test.member, url.split_once("/R4/").unwrap().1).await.status, 200, "{url}");
}

/// Statement, definitions and routing know the same operations.
#[tokio::test]
async fn an_operation_is_answered_where_it_is_claimed_and_nowhere_else() {
    let test = TestApp::start().await;
    let statement = metadata(&test).await;
    let definitions = test.get(&test.member, "OperationDefinition").await.expect(200).resources();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (mut types, mut claimed, mut defined) = (Vec::new(), Vec::new(), Vec::new());
    for resource in list(&statement["rest"][0]["resource"]) {
        types.push(word(&resource["type"]));
        for operation in list(&resource["operation"]) {
            let [name, url] = ["name", "definition"].map(|element| word(&operation[element]));
            claimed.push([word(&resource["type"]), name, url]);
        }
    }
    for definition in &definitions {
        let (code, url) = (word(&definition["code"]), word(&definition["url"]));
        defined.extend(list(&definition["resource"]).iter().map(|on| [word(on), code.clone(), url.clone()]));
        let at = |level: &str| definition[level] == true;
        let mut places = vec![(format!("${code}"), at("system"))];
        for name in &types {
            let is_on = list(&definition["resource"]).contains(&json!(name));
            places.push((format!("{name}/${code}"), is_on && at("type")));
            places.push((format!("{name}/{}/${code}", test.member.id), is_on && at("instance")));
        }
        // What changes something is there for POST only, which is what GET is told; and the other way round.
        let (wrong, right) = if at("affectsState") { (Method::GET, "POST") } else { (Method::POST, "GET") };
        for (path, is_there) in places {
            let method = if is_there { wrong.clone() } else { Method::GET };
            let answer = test.fhir(&test.super_admin, method, &path).send().await;
            let expected = if is_there { (405, right) } else { (404, "") };
            assert_eq!((answer.status.as_u16(), answer.header("allow")), expected, "{path}");
        }
    }
    claimed.sort();
    defined.sort();
    assert_eq!(claimed, defined);
    test.get(&test.super_admin, &format!("{}/$nothing", test.member.path())).await.refused(404, "not-found");
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
