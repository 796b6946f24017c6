//! Pages of searches and histories end before they become too heavy, with a link to the next page.

use keyrelay_core::change_rates::{ChangeRate, ChangeRates};
use keyrelay_core::limits::{
    BYTES_IN_FLIGHT_MIN, BYTES_IN_FLIGHT_SHARES, DOCUMENT_BYTES_MAX, PAGE_BYTES_MAX,
};
use serde_json::{Value, json};

use crate::app::{Answer, As, TestApp};

const LARGE: usize = 400 * 1024;

async fn large() -> TestApp {
    TestApp::start_configured(|config| config.resource_bytes_max = DOCUMENT_BYTES_MAX).await
}

fn link(answer: &Answer, relation: &str) -> Option<String> {
    let links = answer.json()["link"].as_array().cloned().unwrap_or_default();
    let found = links.iter().find(|link| link["relation"] == relation)?;
    Some(found["url"].as_str().unwrap().split("/fhir/R4/").nth(1).unwrap().to_owned())
}

/// Follows the links to the next page from the first to the last.
async fn all_pages(test: &TestApp, first: &str) -> Vec<Answer> {
    pages_of(test, &As::from(&test.admin), first).await
}

async fn pages_of(test: &TestApp, who: &As, first: &str) -> Vec<Answer> {
    let (mut pages, mut next) = (Vec::new(), Some(first.to_owned()));
    while let Some(path) = next {
        assert!(pages.len() < 100, "the pages have no end");
        let page = test.get(who, &path).await.expect(200);
        next = link(&page, "next");
        pages.push(page);
    }
    pages
}

async fn make_large(test: &TestApp, name: &str) {
    let client = test.make_client(&test.project, name).await;
    let add = json!([{ "op": "add", "path": "/description", "value": "x".repeat(LARGE) }]);
    test.patch(&test.admin, &client.path(), &add).await.expect(200);
}

#[tokio::test]
async fn a_page_ends_before_its_resources_are_too_heavy() {
    let test = large().await;
    for n in 0..7 {
        make_large(&test, &format!("Large {n}")).await;
    }
    for query in ["name=Large&_sort=name&_count=1000", "name=Large&_sort=name&_count=1000&_elements=name"] {
        let pages = all_pages(&test, &format!("ClientApplication?{query}")).await;
        let found: Vec<Vec<Value>> = pages.iter().map(Answer::resources).collect();
        let sizes: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 2, 1], "two of {LARGE} bytes fit {PAGE_BYTES_MAX}");
        let names: Vec<Value> = found.concat().iter().map(|client| client["name"].clone()).collect();
        let expected: Vec<Value> = (0..7).map(|n| json!(format!("Large {n}"))).collect();
        assert_eq!(names, expected, "each is there once, in order");
        assert!(pages.iter().all(|page| page.text.len() < 2 * PAGE_BYTES_MAX));
    }
    let counted = test.get(&test.admin, "ClientApplication?name=Large&_total=accurate").await.expect(200);
    assert_eq!(counted.json()["total"], 7);
    let pages = all_pages(&test, "ClientApplication?name=Large&_count=3&_sort=-name").await;
    assert_eq!(pages.iter().map(|page| page.resources().len()).collect::<Vec<_>>(), [2, 2, 2, 1]);
}

#[tokio::test]
async fn a_resource_heavier_than_a_page_is_a_page_of_its_own() {
    let test = large().await;
    for name in ["Heavy 1", "Heavy 2"] {
        let client = test.make_client(&test.project, name).await;
        let bytes = DOCUMENT_BYTES_MAX - 1000;
        let add = json!([{ "op": "add", "path": "/description", "value": "x".repeat(bytes) }]);
        test.patch(&test.admin, &client.path(), &add).await.expect(200);
    }
    let pages = all_pages(&test, "ClientApplication?name=Heavy").await;
    assert_eq!(pages.iter().map(|page| page.resources().len()).collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn a_history_has_pages_too() {
    let test = large().await;
    let client = test.make_client(&test.project, "Changed").await;
    for n in 0..6 {
        let add =
            json!([{ "op": "add", "path": "/description", "value": format!("{n}{}", "x".repeat(LARGE)) }]);
        test.patch(&test.admin, &client.path(), &add).await.expect(200);
    }
    let path = format!("{}/_history", client.path());
    let pages = all_pages(&test, &path).await;
    assert_eq!(pages.iter().map(|page| page.resources().len()).collect::<Vec<_>>(), [2, 2, 3]);
    assert!(pages.iter().all(|page| page.json()["total"] == 7 && page.text.len() < 2 * PAGE_BYTES_MAX));
    let firsts: Vec<Option<char>> = pages
        .iter()
        .flat_map(Answer::resources)
        .map(|version| version["description"].as_str().and_then(|text| text.chars().next()))
        .collect();
    assert_eq!(firsts, [Some('5'), Some('4'), Some('3'), Some('2'), Some('1'), Some('0'), None]);

    let one = test.get(&test.admin, &format!("{path}?_count=1&_offset=5")).await.expect(200);
    assert_eq!(one.resources().len(), 1);
    assert_eq!(link(&one, "self"), Some(format!("{path}?_count=1&_offset=5")));
    assert_eq!(link(&one, "next"), Some(format!("{path}?_count=1&_offset=6")));
    let behind = test.get(&test.admin, &format!("{path}?_offset=7")).await.expect(200);
    assert_eq!((behind.resources().len(), link(&behind, "next")), (0, None));
    for bad in ["_count=1001", "_count=-1", "_offset=x"] {
        test.get(&test.admin, &format!("{path}?{bad}")).await.refused(400, "invalid");
    }
    test.get(&test.admin, &format!("{path}?_since=2026")).await.refused(400, "not-supported");
}

/// Almost the largest allowed resource.
const WEIGHT: usize = 60 * 1024;
/// Their sum is more than one project may have in flight.
const HEAVY: usize = 110;
const _: () = assert!(HEAVY * WEIGHT > BYTES_IN_FLIGHT_MIN * 3 / 4 / BYTES_IN_FLIGHT_SHARES);

async fn with_few_bytes() -> TestApp {
    TestApp::start_configured(|config| {
        config.bytes_in_flight = BYTES_IN_FLIGHT_MIN;
        config.change_rates = ChangeRates { client: ChangeRate(None), project: ChangeRate(None) };
    })
    .await
}

/// What pages show of one element, sorted.
fn shown(pages: &[Answer], element: &str) -> Vec<Value> {
    let resources = pages.iter().flat_map(Answer::resources);
    let mut shown: Vec<Value> = resources.map(|resource| resource[element].clone()).collect();
    shown.sort_by_key(ToString::to_string);
    shown
}

#[tokio::test]
async fn wide_searches_page_to_the_end_within_the_bytes_of_a_project() {
    let test = with_few_bytes().await;
    test.put_under_policy(&test.member, &json!({ "resource": [{ "resourceType": "ClientApplication" }] }))
        .await;
    let names: Vec<Value> = (0..HEAVY).map(|n| json!(format!("Heavy {n:03}"))).collect();
    for names in names.chunks(10) {
        let entry = |name| {
            let client = json!({
                "resourceType": "ClientApplication", "name": name, "description": "x".repeat(WEIGHT),
            });
            json!({ "resource": client, "request": { "method": "POST", "url": "ClientApplication" } })
        };
        let entries: Vec<Value> = names.iter().map(entry).collect();
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": entries });
        let answer = test.post(&test.admin, "", &batch).await.expect(200);
        for entry in answer.json()["entry"].as_array().unwrap() {
            assert_eq!(entry["response"]["status"], "201", "{entry}");
        }
    }
    let search = "ClientApplication?name=Heavy&_count=1000";
    let pages = all_pages(&test, search).await;
    assert!(pages.len() > 5);
    assert_eq!(shown(&pages, "name"), names, "none is lost, and none is there twice");

    let (member, few) = (test.bearer(&test.member).await, format!("{search}&_elements=name"));
    let at_once = tokio::join!(
        pages_of(&test, &member, &few),
        pages_of(&test, &member, &few),
        pages_of(&test, &member, &few),
        pages_of(&test, &member, &few),
        pages_of(&test, &member, &few),
        pages_of(&test, &member, &few),
        pages_of(&test, &member, &few),
        pages_of(&test, &member, &few),
    );
    for pages in <[Vec<Answer>; 8]>::from(at_once) {
        assert_eq!(shown(&pages, "name"), names);
    }
}

#[tokio::test]
async fn a_heavy_history_pages_to_the_end_within_the_bytes_of_a_project() {
    let test = with_few_bytes().await;
    let client = test.make_client(&test.project, "Changed").await;
    let add = json!([{ "op": "add", "path": "/description", "value": "x".repeat(WEIGHT) }]);
    test.patch(&test.admin, &client.path(), &add).await.expect(200);
    for n in 0..HEAVY {
        let name = json!([{ "op": "replace", "path": "/name", "value": format!("Heavy {n:03}") }]);
        test.patch(&test.admin, &client.path(), &name).await.expect(200);
    }
    let pages = all_pages(&test, &format!("{}/_history", client.path())).await;
    assert!(pages.len() > 5);
    let mut names = vec![json!("Changed"); 2];
    names.extend((0..HEAVY).map(|n| json!(format!("Heavy {n:03}"))));
    assert_eq!(shown(&pages, "name"), names, "no version is lost, and none is there twice");
}
