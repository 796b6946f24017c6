//! Who may do what: every route, by every kind of caller, against the table in `matrix.txt`. A route, a
//! method of a route, a resource type, or an interaction or operation of the `CapabilityStatement` that has
//! no row fails the test, and so does a status that is not the one in the table.

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::conformance::{Conformance, Operation, capability_statement, definition_id};
use keyrelay_core::limits::LOGIN_ATTEMPT_FORGIVEN_AFTER;
use keyrelay_server::{ROUTES, Route};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};

const TABLE: &str = include_str!("matrix.txt");
/// In the order of the table's columns.
const CALLERS: usize = 8;
const NARROW_SCOPE: &str = "system/Practitioner.rs";
/// What every resource type is asked for: a method, and what follows the type. `{}` is an id.
const INTERACTIONS: [(&str, &str); 9] = [
    ("GET", ""),
    ("POST", ""),
    ("POST", "/_search"),
    ("GET", "/{}"),
    ("PUT", "/{}"),
    ("PATCH", "/{}"),
    ("DELETE", "/{}"),
    ("GET", "/{}/_history"),
    ("GET", "/{}/_history/{}"),
];

/// One line of the table.
struct Row {
    method: &'static str,
    path: &'static str,
    statuses: Vec<&'static str>,
    body: &'static str,
}

fn rows() -> Vec<Row> {
    let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (told, body) = line.split_once(" < ").unwrap_or((line, ""));
            let mut words = told.split_whitespace();
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let statuses: Vec<_> = words.collect();
            assert_eq!(statuses.len(), CALLERS, "{line}");
            Row { method, path, statuses, body }
        })
        .collect()
}

/// What the rows are about; made anew whenever a row has changed it.
struct Target {
    client: Credentials,
    /// What stands for what in a row.
    names: Vec<(&'static str, String)>,
    /// A token of [`Target::client`].
    token: As,
}

/// Everybody who does not come and go with the target.
struct Callers {
    member: (Credentials, As),
    read_only: (Credentials, As),
    stranger: (Credentials, As),
    admin: (Credentials, As),
    super_admin: (Credentials, As),
    narrow: As,
}

async fn with_token(test: &TestApp, who: &Credentials) -> (Credentials, As) {
    (who.clone(), test.bearer(who).await)
}

impl Callers {
    /// With tokens that nobody has revoked.
    async fn come(test: &TestApp, read_only: &Credentials) -> Self {
        let form = [("grant_type", "client_credentials"), ("scope", NARROW_SCOPE)];
        let narrow = test.token(&test.admin, &form).await.expect(200).text_at("/access_token");
        Self {
            member: with_token(test, &test.member).await,
            read_only: with_token(test, read_only).await,
            stranger: with_token(test, &test.stranger).await,
            admin: with_token(test, &test.admin).await,
            super_admin: with_token(test, &test.super_admin).await,
            narrow: As::Bearer(narrow),
        }
    }

    /// Forms of the authorization server are sent with Basic, as clients do; all else with a token.
    fn all(&self, target: &Target, basic: bool) -> [As; CALLERS] {
        let choose = |(credentials, token): &(Credentials, As)| {
            if basic { As::from(credentials) } else { token.clone() }
        };
        [
            As::Anonymous,
            choose(&self.stranger),
            choose(&self.member),
            choose(&self.read_only),
            choose(&(target.client.clone(), target.token.clone())),
            choose(&self.admin),
            choose(&self.super_admin),
            self.narrow.clone(),
        ]
    }
}

impl Target {
    async fn make(test: &TestApp, serial: usize) -> Self {
        // An invitation is one of the few things that an address may do only so often.
        test.clock.advance(LOGIN_ATTEMPT_FORGIVEN_AFTER);
        let client = test.make_client(&test.project, "Nightly export").await;
        let token = test.bearer(&client).await;
        let policy =
            json!({ "resourceType": "AccessPolicy", "name": "All", "resource": [{ "resourceType": "*" }] });
        let policy = test.post(&test.admin, "AccessPolicy", &policy).await.expect(201).text_at("/id");
        let email = format!("person{serial}@example.test");
        let invitation =
            json!({ "resourceType": "Practitioner", "firstName": "Ann", "lastName": "Doe", "email": email });
        let path = format!("admin/projects/{}/invite", test.project);
        let invited = test.request(&test.admin, Method::POST, &path).json(&invitation).send().await;
        let invited = invited.expect(200).json();
        let id_in = |element: &str| {
            let reference = invited[element]["reference"].as_str().unwrap();
            reference.rsplit('/').next().unwrap().to_owned()
        };
        let membership = test.membership_of(&client).await["id"].as_str().unwrap().to_owned();
        let event = test.get(&test.super_admin, "AuditEvent?_count=1").await.expect(200);
        let As::Bearer(own) = token.clone() else { unreachable!("`bearer` gives a token") };
        let path = format!("admin/projects/{}/webhooks", test.project);
        let had = test.request(&test.super_admin, Method::GET, &path).send().await.expect(200);
        for webhook in had.json()["webhooks"].as_array().unwrap() {
            // A project may have a few only.
            let one = format!("{path}/{}", webhook["id"].as_str().unwrap());
            test.request(&test.super_admin, Method::DELETE, &one).send().await.expect(204);
        }
        let webhook = json!({ "url": "http://127.0.0.1:9/" });
        let webhook = test.request(&test.super_admin, Method::POST, &path).json(&webhook).send().await;
        let webhook = webhook.expect(201).text_at("/id");
        let names = vec![
            ("{project}", test.project.clone()),
            ("{webhook}", webhook),
            ("{spare}", test.make_project("Spare").await),
            ("{client}", client.id.clone()),
            ("{secret}", client.secret.clone()),
            ("{membership}", membership),
            ("{policy}", policy),
            ("{user}", id_in("user")),
            ("{practitioner}", id_in("profile")),
            (
                "{event}",
                event
                    .json()
                    .pointer("/entry/0/resource/id")
                    .map_or_else(String::new, |id| id.as_str().unwrap().to_owned()),
            ),
            ("{structure}", definition_id(ResourceType::StructureDefinition, "ClientApplication")),
            ("{operation}", definition_id(ResourceType::OperationDefinition, Operation::RotateSecret.code())),
            ("{parameter}", definition_id(ResourceType::SearchParameter, "ClientApplication-name")),
            ("{serial}", serial.to_string()),
            ("{token}", own),
        ];
        Self { client, names, token }
    }

    fn fill(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }
}

async fn send(test: &TestApp, who: As, row: &Row, path: &str, body: String) -> Answer {
    let method: Method = row.method.parse().unwrap();
    let request = test.request(who, method.clone(), path.trim_start_matches('/'));
    match (body.as_bytes().first(), method) {
        (None, _) => request.send().await,
        (Some(b'[' | b'{'), Method::PATCH) => request.body("application/json-patch+json", body).send().await,
        (Some(b'[' | b'{'), _) => request.json(&body.parse().unwrap()).send().await,
        (Some(_), _) => request.body("application/x-www-form-urlencoded", body).send().await,
    }
}

#[tokio::test]
async fn each_caller_gets_exactly_its_own() {
    let test = TestApp::start().await;
    let read_only = test.make_client(&test.project, "Read-only").await;
    let policy = json!({ "name": "Read-only", "resource": [{ "resourceType": "*", "readonly": true }] });
    test.put_under_policy(&read_only, &policy).await;
    let mut callers = Callers::come(&test, &read_only).await;
    let mut target = Target::make(&test, 0).await;
    let mut wrong = Vec::new();
    let mut serial = 0;
    for row in rows() {
        let is_form = row.path.starts_with("/oauth2/") && !row.body.is_empty();
        let mut found = Vec::new();
        for column in 0..CALLERS {
            let who = callers.all(&target, is_form)[column].clone();
            let path = target.fill(row.path);
            let answer = send(&test, who, &row, &path, target.fill(row.body)).await;
            if answer.status.is_success() && row.method != "GET" {
                serial += 1;
                target = Target::make(&test, serial).await;
                callers = Callers::come(&test, &read_only).await;
            }
            found.push(answer.status.as_str().to_owned());
        }
        if found != row.statuses {
            let body = if row.body.is_empty() { String::new() } else { format!(" < {}", row.body) };
            wrong.push(format!("{:<6} {:<58} {}{body}", row.method, row.path, found.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "these rows are not as in matrix.txt:\n{}", wrong.join("\n"));
}

/// Whether a path of the table is one of a route: `{name}` is any segment, `{*name}` all that follow.
fn is_of(route: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let (mut given, mut known) = (path.split('/'), route.split('/'));
    loop {
        match (given.next(), known.next()) {
            (None, None) => return true,
            (Some(_), Some(name)) if name.starts_with("{*") => return true,
            (Some(segment), Some(name)) if segment == name => {}
            (Some(segment), Some(name)) if name.starts_with('{') && !segment.starts_with(['_', '$']) => {}
            _ => return false,
        }
    }
}

/// Fails the test unless the table has a row for a method of a route, with that in its body.
fn must_have_row(method: &str, route: &str, body: &str) {
    let is_it = |row: &Row| row.method == method && is_of(route, row.path) && row.body.contains(body);
    assert!(rows().iter().any(is_it), "matrix.txt has no row for {method} {route} {body}");
}

#[test]
fn every_route_and_method_has_a_row() {
    let has_row = |method: &str, route: &str| must_have_row(method, route, "");
    for Route { path, methods, .. } in ROUTES {
        for method in *methods {
            has_row(method, path);
        }
    }
    for kept in ResourceType::ALL.into_iter().filter(|known| !known.is_conformance()) {
        for (method, rest) in INTERACTIONS {
            has_row(method, &format!("/fhir/R4/{kept}{rest}"));
        }
    }
}

/// How an interaction with a resource type is asked for (FHIR R4 §3.1.0): the method, and what follows the
/// type.
fn request_of(interaction: &str) -> (&'static str, &'static str) {
    match interaction {
        "read" => ("GET", "/{}"),
        "vread" => ("GET", "/{}/_history/{}"),
        "update" => ("PUT", "/{}"),
        "patch" => ("PATCH", "/{}"),
        "delete" => ("DELETE", "/{}"),
        "history-instance" => ("GET", "/{}/_history"),
        "create" => ("POST", ""),
        "search-type" => ("GET", ""),
        other => panic!("{other} is new: say here how it is asked for, and in matrix.txt who may"),
    }
}

fn texts<'a>(list: &'a Value, name: &'a str) -> impl Iterator<Item = &'a str> {
    list.as_array().into_iter().flatten().map(move |element| element[name].as_str().unwrap())
}

/// All of FHIR is one route; what there is behind it, the statement says.
#[test]
fn everything_in_the_capability_statement_has_a_row() {
    let statement = capability_statement(&Conformance {
        base_url: "http://127.0.0.1/",
        version: "0",
        date_rfc3339: "2026-01-01T00:00:00Z",
        oauth_endpoints: &[],
    });
    let rest = &statement["rest"][0];
    for bundle in texts(&rest["interaction"], "code") {
        must_have_row("POST", "/fhir/R4", &format!("\"type\":\"{bundle}\""));
    }
    for resource in rest["resource"].as_array().unwrap() {
        let base = format!("/fhir/R4/{}", resource["type"].as_str().unwrap());
        for interaction in texts(&resource["interaction"], "code") {
            let (method, rest) = request_of(interaction);
            must_have_row(method, &format!("{base}{rest}"), "");
        }
        for code in texts(&resource["operation"], "name") {
            let changes = Operation::ALL.iter().any(|known| known.code() == code && known.affects_state());
            must_have_row(if changes { "POST" } else { "GET" }, &format!("{base}/{{}}/${code}"), "");
        }
    }
}

#[tokio::test]
async fn other_methods_are_refused_and_told_which_there_are() {
    let test = TestApp::start().await;
    for route in ROUTES.iter().filter(|route| !route.path.starts_with("/fhir/")) {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if route.methods.contains(&method) {
                continue;
            }
            let path = route.path.replace("{id}", &test.project).replace("{ticket}", "x");
            let request = test.request(As::Anonymous, method.parse().unwrap(), path.trim_start_matches('/'));
            let answer = request.send().await;
            assert_eq!(answer.status, 405, "{method} {}: {}", route.path, answer.text);
            let mut allowed: Vec<&str> =
                answer.header("allow").split(',').map(str::trim).filter(|name| *name != "HEAD").collect();
            allowed.sort_unstable();
            let mut methods = route.methods.to_vec();
            methods.sort_unstable();
            assert_eq!(allowed, methods, "{method} {}", route.path);
        }
    }
}
