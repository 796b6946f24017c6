//! Tests of the resource check; in a file of their own to keep the walk readable on one screen.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn check(resource: Value) -> Vec<(&'static str, String, String)> {
    let Value::Object(object) = resource else {
        panic!("the tests pass objects");
    };
    validate(&object)
        .err()
        .unwrap_or_default()
        .into_iter()
        .map(|issue| (issue.code.as_str(), issue.expression, issue.text))
        .collect()
}

fn places(resource: Value) -> Vec<(&'static str, String)> {
    check(resource).into_iter().map(|(code, expression, _)| (code, expression)).collect()
}

fn client(member: &str, value: Value) -> Value {
    let mut resource = json!({"resourceType": "ClientApplication"});
    resource[member] = value;
    resource
}

fn place(code: &'static str, expression: &str) -> Vec<(&'static str, String)> {
    vec![(code, expression.to_owned())]
}

#[test]
fn full_resources_pass() {
    let client = json!({
        "resourceType": "ClientApplication", "id": "c1", "status": "active", "name": "Lab",
        "_name": {"extension": [{"url": "https://example.com/x", "valueBoolean": true}]},
        "meta": {"versionId": "1", "lastUpdated": "2024-05-01T12:00:00.000Z", "project": "p1",
            "author": {"reference": "ClientApplication/a"}, "tag": [{"code": "x"}],
            "compartment": [{"reference": "Project/p1"}]},
        "secret": "s", "retiringSecret": "r", "redirectUris": ["https://example.com/cb"],
        "signInForm": {"welcomeString": "Hello", "logo": {"contentType": "image/png", "url": "https://example.com/l"}},
        "launchIdentifierSystems": [{"resourceType": "Patient", "system": "https://example.com/mrn"}],
        "identityProvider": {"authorizeUrl": "https://idp", "usePkce": true, "tokenAuthMethod": "client_secret_post"},
        "accessTokenLifetime": "1h", "grantType": ["client_credentials"], "pkceOptional": false,
        "extension": [{"url": "https://example.com/e", "valueReference": {"reference": "Patient/1"}}],
        "text": {"status": "generated", "div": "<div>x</div>"},
    });
    assert_eq!(check(client), []);
    let membership = json!({
        "resourceType": "ProjectMembership", "project": {"reference": "Project/p"},
        "user": {"reference": "ClientApplication/c"}, "profile": {"reference": "ClientApplication/c"},
        "access": [{"policy": {"reference": "AccessPolicy/a"},
            "parameter": [{"name": "org", "valueReference": {"reference": "Organization/1"}}]}],
        "admin": true, "active": true, "identifier": [{"system": "https://x", "value": "1"}],
    });
    assert_eq!(check(membership), []);
    let audit = json!({
        "resourceType": "AuditEvent", "recorded": "2024-05-01T12:00:00Z", "type": {"code": "rest"},
        "agent": [{"who": {"reference": "ClientApplication/c"}, "requestor": true,
            "network": {"address": "10.0.0.1", "type": "2"}}],
        "source": {"observer": {"display": "keyrelay"}}, "outcome": "0", "action": "E",
        "entity": [{"what": {"reference": "Anything/1"}, "detail": [{"type": "sid", "valueString": "x"}]}],
    });
    assert_eq!(check(audit), []);
    let policy = json!({
        "resourceType": "AccessPolicy", "name": "p", "compartment": {"reference": "%org"},
        "resource": [{"resourceType": "*", "interaction": ["read"], "hiddenFields": ["secret"],
            "writeConstraint": [{"language": "text/fhirpath", "expression": "true"}]}],
        "ipAccessRule": [{"value": "10.0.0.0/8", "action": "block"}],
    });
    assert_eq!(check(policy), []);
    let project = json!({
        "resourceType": "Project", "setting": [{"name": "a", "valueDecimal": 1.5}],
        "secret": [{"name": "k", "valueString": "v"}], "features": ["bots"],
        "site": [{"name": "s", "domain": ["example.com"]}], "owner": {"reference": "User/1"},
    });
    assert_eq!(check(project), []);
}

#[test]
fn unknown_elements_are_named_with_the_nearest() {
    let found = check(client("stauts", json!("active")));
    let expected = (
        "structure",
        "ClientApplication.stauts".to_owned(),
        "unknown element 'stauts'; did you mean 'status'?".to_owned(),
    );
    assert_eq!(found, [expected]);
    assert_eq!(places(client("a b", json!(1))), place("structure", "ClientApplication"));
    assert_eq!(places(client("_nope", json!({}))), place("structure", "ClientApplication"));
    assert_eq!(
        places(client("signInForm", json!({"resourceType": "x"}))),
        place("structure", "ClientApplication.signInForm.resourceType")
    );
}

#[test]
fn enums_show_the_list_and_not_the_value() {
    let found = check(client("status", json!("krs_oops")));
    let expected =
        ("value", "ClientApplication.status".to_owned(), "must be one of active, off, error".to_owned());
    assert_eq!(found, [expected]);
}

#[test]
fn shapes_and_cardinality() {
    for (member, value, expression) in [
        ("name", json!(5), "ClientApplication.name"),
        ("name", json!(null), "ClientApplication.name"),
        ("name", json!(["x"]), "ClientApplication.name"),
        ("redirectUris", json!("https://x"), "ClientApplication.redirectUris"),
        ("redirectUris", json!([]), "ClientApplication.redirectUris"),
        ("redirectUris", json!(["https://x", 5]), "ClientApplication.redirectUris[1]"),
        ("redirectUris", json!([null]), "ClientApplication.redirectUris[0]"),
        ("signInForm", json!({}), "ClientApplication.signInForm"),
        ("signInForm", json!("x"), "ClientApplication.signInForm"),
        ("pkceOptional", json!("true"), "ClientApplication.pkceOptional"),
        ("contained", json!([{"resourceType": "Basic"}]), "ClientApplication.contained[0]"),
        ("_name", json!("x"), "ClientApplication._name"),
        ("_signInForm", json!({"id": "x"}), "ClientApplication._signInForm"),
    ] {
        assert_eq!(places(client(member, value)), place("structure", expression));
    }
}

#[test]
fn formats() {
    for (member, value, expression) in [
        ("name", json!(""), "ClientApplication.name"),
        ("name", json!("  "), "ClientApplication.name"),
        ("id", json!("a b"), "ClientApplication.id"),
        ("jwksUri", json!("a b"), "ClientApplication.jwksUri"),
        ("accessTokenLifetime", json!("1 hour"), "ClientApplication.accessTokenLifetime"),
        ("accessTokenLifetime", json!("100y"), "ClientApplication.accessTokenLifetime"),
        ("meta", json!({"lastUpdated": "2024"}), "ClientApplication.meta.lastUpdated"),
    ] {
        assert_eq!(places(client(member, value)), place("value", expression));
    }
}

#[test]
fn required_elements_choices_and_targets() {
    assert_eq!(
        places(json!({"resourceType": "ProjectMembership", "project": {"reference": "Project/p"},
            "user": {"reference": "Patient/1"}})),
        [
            ("value", "ProjectMembership.user.reference".to_owned()),
            ("required", "ProjectMembership.profile".to_owned()),
        ]
    );
    let setting = |value: Value| json!({"resourceType": "Project", "setting": [value]});
    assert_eq!(places(setting(json!({"name": "a"}))), place("required", "Project.setting[0].value"));
    assert_eq!(
        places(setting(json!({"name": "a", "valueString": "x", "valueInteger": 1}))),
        place("structure", "Project.setting[0].value")
    );
    assert_eq!(
        places(setting(json!({"name": "a", "valueInteger": 1, "valueDate": "2024"}))),
        place("structure", "Project.setting[0].valueDate")
    );
}

#[test]
fn references_to_allowed_types() {
    let owner = |reference: &str| json!({"resourceType": "Project", "owner": {"reference": reference}});
    for good in ["User/1", "https://x/fhir/R4/User/1", "urn:uuid:x", "User?email=x"] {
        assert_eq!(check(owner(good)), [], "{good}");
    }
    for bad in ["Patient/1", "User", "1", "Patient?x=y"] {
        assert_eq!(places(owner(bad)), place("value", "Project.owner.reference"), "{bad}");
    }
}

#[test]
fn resource_types() {
    assert_eq!(places(json!({"id": "x"})), place("required", "resourceType"));
    assert_eq!(places(json!({"resourceType": 5})), place("structure", "resourceType"));
    for other in ["Patient", "CapabilityStatement", ""] {
        assert_eq!(places(json!({"resourceType": other})), place("value", "resourceType"));
    }
}

#[test]
fn nulls_in_lists_stand_for_extensions() {
    let sibling = json!({"resourceType": "ClientApplication", "defaultScope": [null, "x"],
        "_defaultScope": [{"id": "a"}, null]});
    assert_eq!(check(sibling), []);
}

#[test]
fn reports_are_bounded() {
    let mut many = Map::new();
    many.insert("resourceType".into(), json!("Project"));
    for number in 0..1000 {
        many.insert(format!("x{number}"), json!(1));
    }
    assert_eq!(validate(&many).unwrap_err().len(), ISSUES_MAX);
    let list = |length: usize| client("defaultScope", json!(vec!["x"; length]));
    assert_eq!(check(list(LIST_ITEMS_MAX)), []);
    assert_eq!(check(list(LIST_ITEMS_MAX + 1)).len(), 1);
    let extensions = |length: usize| client("_defaultScope", json!(vec![Value::Null; length]));
    assert_eq!(check(extensions(LIST_ITEMS_MAX)), []);
    assert_eq!(check(extensions(LIST_ITEMS_MAX + 1)).len(), 1);
    let mut deep = json!({"url": "x", "valueString": "y"});
    for _ in 0..500 {
        deep = json!({"url": "x", "extension": [deep]});
    }
    assert_eq!(check(client("extension", json!([deep]))).len(), 1);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        Just("name".to_owned()),
        Just("secret".to_owned()),
        Just("extension".to_owned()),
        Just("url".to_owned()),
        Just("meta".to_owned()),
        Just("valueString".to_owned()),
        Just("_name".to_owned()),
        Just("reference".to_owned()),
        Just("user".to_owned()),
        Just("identifier".to_owned()),
        Just("resource".to_owned()),
        any::<String>(),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_resource_panics(kind in 0_usize..9, body in any_json()) {
        if let Value::Object(mut object) = body {
            object.insert("resourceType".into(), ResourceType::ALL[kind].as_str().into());
            if let Err(issues) = validate(&object) {
                prop_assert!(!issues.is_empty() && issues.len() <= ISSUES_MAX);
            }
        }
    }

    #[test]
    fn texts_never_repeat_a_value(member in prop::sample::select(vec![
        "secret", "retiringSecret", "status", "accessTokenLifetime", "redirectUris", "meta", "id"])) {
        let value = json!("krs_Zq8 topsecret\u{1}");
        for (_, expression, text) in check(client(member, value)) {
            prop_assert!(!text.contains("topsecret") && !expression.contains("topsecret"));
        }
    }
}
