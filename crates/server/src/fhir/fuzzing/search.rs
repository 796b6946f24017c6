//! Searches: every query that is taken is answered by SQL, and the answer is what the filters say when
//! they are evaluated in memory. Policies are decided in memory and lists by SQL, so the two must agree.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::{
    COUNT_MAX, IndexEntry, IndexRows, OFFSET_MAX, PARAMETERS_MAX, Rule, SearchQuery, index_entries, matches,
    matches_rows,
};
use keyrelay_core::id::{ProjectId, ResourceId, VersionId};
use keyrelay_core::limits::SEARCH_VALUES_MAX;
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, ResourceVersion, Search, Store};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::fhir::search::{bundle, read_query};
use crate::fuzzing::is_clear_refusal;

/// A store with a few resources of each type.
struct Stage {
    runtime: Runtime,
    store: Store,
    stored: Vec<Stored>,
    _dir: TempDir,
}

struct Stored {
    version: ResourceVersion,
    index: Vec<IndexEntry>,
}

/// A search query: a byte that chooses the type, and the query string.
pub fn search_query(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let resource_type = ResourceType::ALL[usize::from(*choice) % ResourceType::ALL.len()];
    let query = match read_query(resource_type, text) {
        Ok(query) => query,
        Err(outcome) => {
            is_clear_refusal(outcome);
            return;
        }
    };
    check_bounds(&query);
    check_links(resource_type, text, &query);
    check_answer(resource_type, &query);
}

fn check_bounds(query: &SearchQuery) {
    assert!(query.count <= COUNT_MAX && query.offset <= OFFSET_MAX && query.filters.len() <= PARAMETERS_MAX);
    let values = query.filters.iter().map(|filter| match &filter.rule {
        Rule::Any(tests) | Rule::None(tests) => tests.len(),
        Rule::Missing(_) => 1,
    });
    assert!(values.sum::<usize>() <= SEARCH_VALUES_MAX);
}

/// The links of a page lead to the same search, at their place in it.
fn check_links(resource_type: ResourceType, text: &str, query: &SearchQuery) {
    let page = bundle("https://relay.test/x", text, query, Some(OFFSET_MAX), None, Vec::new());
    let page = serde_json::to_value(page).expect("a Bundle");
    for (n, offset) in [query.offset, OFFSET_MAX].into_iter().enumerate() {
        let url = page["link"][n]["url"].as_str().expect("a link");
        let linked = url.split_once('?').map_or("", |(_, linked)| linked);
        let linked = read_query(resource_type, linked).expect("a link can be followed");
        assert_eq!(linked, SearchQuery { offset, ..query.clone() });
    }
}

fn check_answer(resource_type: ResourceType, query: &SearchQuery) {
    let stage = stage();
    let query = SearchQuery { count: COUNT_MAX, offset: 0, ..query.clone() };
    let search = Search { resource_type, project: None, query: &query, limits: &[] };
    let turn = stage.runtime.block_on(stage.store.turn(ProjectId::NIL)).expect("a turn");
    let page =
        stage.runtime.block_on(stage.store.search(search, true, &turn)).expect("every search is answered");
    let by_sql: BTreeSet<String> = page.matches.iter().map(|version| version.id.to_string()).collect();
    assert_eq!((page.total, page.more), (i64::try_from(by_sql.len()).ok(), false));
    let in_memory = stage.stored.iter().filter(|stored| stored.version.resource_type == resource_type);
    let in_memory: BTreeSet<String> = in_memory
        .filter(|Stored { version, index }| {
            let (id, updated_ms) = (version.id.to_string(), version.last_updated.epoch_ms());
            let found = matches(&query.filters, index, &id, updated_ms);
            assert_eq!(found, matches_rows(&query.filters, &IndexRows::new(index.clone()), &id, updated_ms));
            found
        })
        .map(|stored| stored.version.id.to_string())
        .collect();
    assert_eq!(by_sql, in_memory, "SQL and memory differ on {:?}", query.filters);
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let stored = stored();
        let store = runtime.block_on(async {
            let store = Store::open_sqlite(&dir.path().join("fuzz.sqlite")).await.expect("a store");
            let mut change = Change::new();
            for Stored { version, index } in &stored {
                change.create(version.clone(), index);
            }
            store.commit(change).await.expect("the resources are written");
            store
        });
        Stage { runtime, store, stored, _dir: dir }
    })
}

/// Resources with values in every way that the index knows.
fn stored() -> Vec<Stored> {
    let entropy = SeededEntropy::new(7);
    let project = ProjectId::random(&entropy);
    let bodies = [
        json!({ "resourceType": "Project", "name": "Cardiology", "active": true,
                "identifier": [{ "system": "https://x.test", "value": "a,b|c" }, { "value": "plain" }] }),
        json!({ "resourceType": "Project", "name": "100 % \\ Über_Ärzte", "superAdmin": true }),
        json!({ "resourceType": "ClientApplication", "name": "Nightly export", "status": "active" }),
        json!({ "resourceType": "ClientApplication", "name": "Nightly  EXPORT 2", "status": "off" }),
        json!({ "resourceType": "ClientApplication" }),
        json!({ "resourceType": "ProjectMembership", "admin": true, "active": false, "userName": "Lab Robot",
                "user": { "reference": "ClientApplication/c" }, "profile": { "reference": "ClientApplication/c" },
                "project": { "reference": format!("Project/{project}") },
                "accessPolicy": { "reference": "https://elsewhere.test/fhir/R4/AccessPolicy/p" } }),
        json!({ "resourceType": "ProjectMembership", "user": { "reference": "User/c" },
                "profile": { "reference": "urn:uuid:0198c2f0-1111-4222-8333-944455566677" } }),
        json!({ "resourceType": "AccessPolicy", "name": "Read only" }),
        json!({ "resourceType": "User", "email": "ann@example.test", "firstName": "Ann", "lastName": "O'Doe" }),
        json!({ "resourceType": "Practitioner", "name": [{ "family": "Doe", "given": ["Ann", "Q."] }],
                "telecom": [{ "system": "email", "value": "ann@example.test" }] }),
        json!({ "resourceType": "AuditEvent", "recorded": "2026-01-01T00:00:00.000Z", "action": "U", "outcome": "0",
                "type": { "system": "https://t.test", "code": "rest" },
                "agent": [{ "requestor": true, "who": { "reference": "ClientApplication/c" },
                            "network": { "address": "192.0.2.1", "type": "2" } }],
                "entity": [{ "what": { "reference": "ClientApplication/d" } }] }),
    ];
    (0..)
        .zip(bodies)
        .map(|(n, body)| {
            let id = ResourceId::random(&entropy);
            let Value::Object(mut body) = body else { unreachable!("an object") };
            let last_updated = Timestamp::from_epoch_ms(1_767_225_600_000 + n * 86_400_000);
            body.insert("id".to_owned(), json!(id.to_string()));
            body.insert(
                "meta".to_owned(),
                json!({ "project": project.to_string(), "lastUpdated": last_updated.to_instant(),
                        "compartment": [{ "reference": format!("Project/{project}") }],
                        "tag": [{ "system": "https://t.test", "code": "one" }, { "code": "two" }] }),
            );
            stored_as(&body, id, project, last_updated, VersionId::random(&entropy))
        })
        .collect()
}

fn stored_as(
    body: &Map<String, Value>,
    id: ResourceId,
    project: ProjectId,
    last_updated: Timestamp,
    version: VersionId,
) -> Stored {
    let resource_type: ResourceType =
        body["resourceType"].as_str().and_then(|name| name.parse().ok()).expect("a type");
    let version = ResourceVersion {
        resource_type,
        id,
        project: Some(project),
        version,
        revision: 1,
        last_updated,
        deleted: false,
        content: Value::Object(body.clone()).to_string(),
    };
    Stored { version, index: index_entries(resource_type, body) }
}
