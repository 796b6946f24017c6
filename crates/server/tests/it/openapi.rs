//! The description of the routes beside FHIR, `docs/openapi.json`, and the server: the same routes, and
//! every answer to a test of whatever theme is one that is described. So is what a test sent, if it was
//! accepted. Nothing here has to be called: [`crate::app::Request::send`] does.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use keyrelay_server::ROUTES;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::app::{Answer, As, TestApp};

const TEXT: &str = include_str!("../../../../docs/openapi.json");
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(TEXT).unwrap());

/// Follows a `$ref` into the document.
fn resolved(value: &'static Value) -> &'static Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(to) => DOCUMENT.pointer(&to[1..]).unwrap_or_else(|| panic!("{to} is nowhere")),
        None => value,
    }
}

/// A schema of the document by itself, with what it may refer to. Made once, for it takes longer than a
/// request.
fn validator(schema: &'static Value) -> Arc<jsonschema::Validator> {
    static MADE: LazyLock<Mutex<HashMap<usize, Arc<jsonschema::Validator>>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = std::ptr::from_ref(schema).addr();
    Arc::clone(made.entry(place).or_insert_with(|| Arc::new(make(schema))))
}

fn make(schema: &Value) -> jsonschema::Validator {
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": DOCUMENT["components"],
        "allOf": [schema],
    });
    jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{schema}: {error}"))
}

/// Fails the test unless a body is as its media type is described.
#[track_caller]
fn check_body(what: &str, content: &'static Value, media_type: &str, text: &str) {
    let media = media_type.split(';').next().unwrap_or_default().trim();
    let described = content.get(media).unwrap_or_else(|| panic!("{what}: {media} is not described"));
    let value = match media {
        "application/x-www-form-urlencoded" => {
            let pairs = form_urlencoded::parse(text.as_bytes());
            Value::Object(pairs.map(|(name, value)| (name.into_owned(), json!(value))).collect())
        }
        media if media.ends_with("json") => serde_json::from_str(text).unwrap(),
        _ => Value::String(text.to_owned()),
    };
    let wrong: Vec<String> = validator(&described["schema"])
        .iter_errors(&value)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(wrong.is_empty(), "{what} is not as docs/openapi.json says:\n{}\n{text}", wrong.join("\n"));
}

/// The path of the document that a request's path is of: one that is named as a whole before one with
/// parameters.
fn described(path: &str) -> Option<(&'static str, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let is_of = |template: &str| {
        let (mut wanted, mut given) = (template.split('/'), path.split('/'));
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return true,
                (Some(wanted), Some(given)) if wanted == given => {}
                (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => {}
                _ => return false,
            }
        }
    };
    let found = paths.get_key_value(path).or_else(|| paths.iter().find(|(template, _)| is_of(template)));
    found.map(|(template, item)| (template.as_str(), item))
}

/// What a request asked, kept until its answer is there.
pub struct Asked {
    method: Method,
    path: String,
    media: String,
    body: String,
}

impl Asked {
    pub fn of(request: &reqwest::Request) -> Self {
        let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
        let media = request.headers().get("content-type").and_then(|value| value.to_str().ok());
        Self {
            method: request.method().clone(),
            path: request.url().path().to_owned(),
            media: media.unwrap_or_default().to_owned(),
            body: String::from_utf8_lossy(body).into_owned(),
        }
    }

    /// Fails the test if something was said that is not described.
    #[track_caller]
    pub fn check(&self, answer: &Answer) {
        let Some((template, item)) = described(&self.path) else { return };
        let (method, status) = (self.method.as_str(), answer.status.as_u16());
        let what = format!("{method} {template}: {status}");
        let name = if self.method == Method::HEAD { "get" } else { &method.to_lowercase() };
        let Some(operation) = item.get(name) else {
            let is_preflight = self.method == Method::OPTIONS && status == 204;
            return assert!(is_preflight || status == 405, "{what}: the method is not described");
        };
        let response = operation["responses"].get(status.to_string());
        let response =
            resolved(response.unwrap_or_else(|| panic!("{what} is not described: {}", answer.text)));
        for (name, header) in response.get("headers").and_then(Value::as_object).into_iter().flatten() {
            let needed = header["required"] == true;
            assert!(!needed || answer.headers.contains_key(name), "{what}: {name} is missing");
        }
        match response.get("content") {
            None => assert_eq!(answer.text, "", "{what}: no body is described"),
            Some(_) if self.method == Method::HEAD => {}
            Some(content) => check_body(&what, content, answer.header("content-type"), &answer.text),
        }
        let wanted = operation.get("requestBody");
        if answer.status.is_success()
            && let Some(wanted) = wanted
            && !(self.body.is_empty() && wanted["required"] != true)
        {
            check_body(&format!("the body of {what}"), &wanted["content"], &self.media, &self.body);
        }
    }
}

fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static Value)> {
    const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
    DOCUMENT["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        let named = item.as_object().unwrap().iter().filter(|(name, _)| METHODS.contains(&name.as_str()));
        named.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

#[test]
fn what_is_described_is_what_there_is() {
    // What the CapabilityStatement describes.
    let is_fhir = |path: &str| matches!(path, "/fhir/R4" | "/fhir/R4/" | "/fhir/R4/{*path}");
    let beside = ROUTES.iter().filter(|route| !is_fhir(route.path));
    let routes: BTreeSet<String> = beside
        .flat_map(|route| route.methods.iter().map(|method| format!("{method} {}", route.path)))
        .collect();
    let described: BTreeSet<String> =
        operations().map(|(path, method, _)| format!("{} {path}", method.to_uppercase())).collect();
    let missing: Vec<_> = routes.difference(&described).collect();
    let invented: Vec<_> = described.difference(&routes).collect();
    assert!(missing.is_empty() && invented.is_empty(), "not described: {missing:?}; not there: {invented:?}");
}

#[test]
fn the_description_holds_together() {
    assert_eq!(DOCUMENT["openapi"], "3.1.0");
    assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap();
    schemas.values().for_each(|schema| drop(validator(schema)));
    let mut ids = BTreeSet::new();
    let mut used = BTreeSet::new();
    for (path, method, operation) in operations() {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}: its id is taken");
        let own = operation.get("parameters").into_iter();
        let parameters = own.chain(DOCUMENT["paths"][path].get("parameters"));
        let named: BTreeSet<&str> = parameters
            .flat_map(|list| list.as_array().unwrap())
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        let wanted: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        assert_eq!(named, wanted, "{method} {path}");
        for scheme in operation.get("security").and_then(Value::as_array).into_iter().flatten() {
            for name in scheme.as_object().unwrap().keys() {
                assert!(DOCUMENT["components"]["securitySchemes"].get(name).is_some(), "{name}");
            }
        }
        used.extend(operation["responses"].as_object().unwrap().values().filter_map(|response| {
            resolved(response);
            response.get("$ref")?.as_str()?.rsplit('/').next()
        }));
    }
    let shared: Map<String, Value> = DOCUMENT["components"]["responses"].as_object().unwrap().clone();
    assert_eq!(used, shared.keys().map(String::as_str).collect(), "an answer that no operation gives");
}

#[tokio::test]
async fn the_description_is_served() {
    let test = TestApp::start().await;
    let answer = test.request(As::Anonymous, Method::GET, "openapi.json").send().await.expect(200);
    assert_eq!(answer.text, TEXT);
}

#[test]
#[should_panic(expected = "is not described")]
fn a_status_that_is_not_described_is_noticed() {
    let asked = asked("/livez", "");
    asked.check(&answered(418, "ok"));
}

#[test]
#[should_panic(expected = "is not as docs/openapi.json says")]
fn a_body_that_is_not_as_described_is_noticed() {
    asked("/livez", "").check(&answered(200, "not quite"));
}

fn asked(path: &str, body: &str) -> Asked {
    Asked { method: Method::GET, path: path.to_owned(), media: String::new(), body: body.to_owned() }
}

fn answered(status: u16, text: &str) -> Answer {
    let headers = [("content-type", "text/plain")];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    Answer {
        status: reqwest::StatusCode::from_u16(status).unwrap(),
        headers: headers.into_iter().collect(),
        text: text.to_owned(),
    }
}
