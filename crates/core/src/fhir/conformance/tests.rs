//! Tests of the published definitions, in one place because they check them against each other.

use std::collections::HashSet;

use serde_json::Value;

use super::super::schema::DEFINITIONS;
use super::*;

const BASE: &str = "https://keys.example.com/";

fn statement() -> Value {
    capability_statement(&Conformance {
        base_url: BASE,
        version: "1.2.3",
        date_rfc3339: "2024-05-01T12:00:00Z",
        oauth_endpoints: &[OauthEndpoint::Token, OauthEndpoint::Authorize],
    })
}

fn generated() -> Vec<Value> {
    let mut all = operation_definitions(BASE);
    all.extend(structure_definitions());
    all.extend(search_parameters(BASE));
    all
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a Vec<Value> {
    value.pointer(pointer).and_then(Value::as_array).expect(pointer)
}

fn strings<'a>(value: &'a Value, pointer: &str, member: &str) -> Vec<&'a str> {
    let items = list(value, pointer).iter();
    items.filter_map(|item| item[member].as_str()).collect()
}

#[test]
fn the_statement_has_what_r4_requires() {
    let statement = statement();
    for (pointer, expected) in [
        ("/status", "active"),
        ("/kind", "instance"),
        ("/fhirVersion", "4.0.1"),
        ("/date", "2024-05-01T12:00:00Z"),
        ("/software/version", "1.2.3"),
        ("/implementation/url", "https://keys.example.com/fhir/R4"),
        ("/rest/0/mode", "server"),
        ("/rest/0/security/service/0/coding/0/code", "SMART-on-FHIR"),
        ("/rest/0/security/extension/0/extension/0/valueUri", "https://keys.example.com/oauth2/token"),
    ] {
        let found = statement.pointer(pointer).and_then(Value::as_str);
        assert_eq!(found, Some(expected), "{pointer}");
    }
}

#[test]
fn only_writable_types_offer_writing() {
    let statement = statement();
    for resource in list(&statement, "/rest/0/resource") {
        let name = resource["type"].as_str().unwrap();
        let resource_type: ResourceType = name.parse().unwrap();
        let codes = strings(resource, "/interaction", "code");
        for code in ["create", "update", "patch", "delete"] {
            assert_eq!(codes.contains(&code), resource_type.is_writable(), "{name} {code}");
        }
        assert_eq!(resource["conditionalCreate"], resource_type.is_writable());
        let has_operation = resource.get("operation").is_some();
        assert_eq!(has_operation, resource_type == ResourceType::ClientApplication);
    }
}

#[test]
fn every_definition_that_is_named_is_published() {
    let statement = statement();
    let all = generated();
    let urls: HashSet<&str> = all.iter().filter_map(|item| item["url"].as_str()).collect();
    for resource in list(&statement, "/rest/0/resource") {
        for pointer in ["/searchParam", "/operation"] {
            let definitions = resource.pointer(pointer).and_then(Value::as_array);
            for definition in definitions.into_iter().flatten() {
                let url = definition["definition"].as_str().unwrap();
                assert!(urls.contains(url), "{url}");
            }
        }
    }
}

#[test]
fn ids_are_uuids_unique_and_constant() {
    let all = generated();
    let ids: HashSet<&str> = all.iter().filter_map(|item| item["id"].as_str()).collect();
    assert_eq!(ids.len(), all.len());
    assert!(ids.iter().all(|id| uuid::Uuid::try_parse(id).is_ok()));
    assert_eq!(
        definition_id(ResourceType::OperationDefinition, Operation::RotateSecret.code()),
        "1f1d9fa0-352c-5957-99fc-862866514371"
    );
}

#[test]
fn the_operation_is_described() {
    let operations = operation_definitions(BASE);
    let operation = &operations[0];
    assert_eq!(operation["code"], "rotate-secret");
    assert_eq!(operation["affectsState"], true);
    let levels = ["system", "type", "instance"].map(|level| operation[level] == true);
    assert_eq!(levels, [false, false, true]);
    assert_eq!(
        strings(operation, "/parameter", "name"),
        ["secret", "retiringSecret", "retireAfter", "onlyIfUnused", "revokeTokens", "force", "return"]
    );
    assert_eq!(strings(operation, "/parameter", "use"), ["in", "in", "in", "in", "in", "in", "out"]);
    let operation = &operations[1];
    assert_eq!(operation["code"], "secret-status");
    assert_eq!(operation["affectsState"], false);
    assert_eq!(strings(operation, "/parameter", "name"), ["unusedFor", "minutes", "return"]);
}

#[test]
fn snapshots_hold_each_element_once_below_its_parent() {
    let definitions = structure_definitions();
    assert_eq!(definitions.len(), DEFINITIONS.len());
    for definition in &definitions {
        let paths = strings(definition, "/snapshot/element", "path");
        let unique: HashSet<&str> = paths.iter().copied().collect();
        assert_eq!(unique.len(), paths.len());
        for path in paths.iter().skip(1) {
            let (parent, _) = path.rsplit_once('.').unwrap();
            assert!(unique.contains(parent), "{path}");
        }
        for element in list(definition, "/snapshot/element").iter().skip(1) {
            assert!(!list(element, "/type").is_empty());
            assert!(element["definition"].is_string() && element["base"].is_object());
        }
    }
    let client = definitions.iter().find(|definition| definition["name"] == "ClientApplication").unwrap();
    let paths = strings(client, "/snapshot/element", "path");
    assert!(paths.contains(&"ClientApplication.signInForm.logo"));
    let project = &definitions[0];
    let paths = strings(project, "/snapshot/element", "path");
    assert!(paths.contains(&"Project.setting.value[x]"));
}

#[test]
fn search_parameters_carry_an_expression() {
    let all = search_parameters(BASE);
    let find = |name: &str| all.iter().find(|item| item["name"] == name).unwrap();
    assert_eq!(
        find("ProjectMembership-access-policy")["expression"],
        "ProjectMembership.accessPolicy | ProjectMembership.access.policy"
    );
    assert_eq!(find("AuditEvent-date")["comparator"].as_array().unwrap().len(), 8);
    assert_eq!(find("ProjectMembership-project")["target"][0], "Project");
}
