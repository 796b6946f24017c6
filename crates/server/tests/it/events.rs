//! The stream of events for admins: what happens arrives, on whichever server it happened; nothing is missed by
//! who comes back; and it ends with the right to listen.

use std::time::Duration;

use keyrelay_core::limits::{DRAIN_TIMEOUT, STREAMS_PER_PROJECT_MAX, TOKEN_LIFETIME_DEFAULT};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{As, Credentials, TestApp};

/// A stream that is read as it comes.
struct Stream {
    response: reqwest::Response,
    text: String,
}

#[derive(Debug, PartialEq)]
struct Event {
    id: i64,
    kind: String,
    data: Value,
}

impl Event {
    fn client(&self) -> &str {
        self.data["data"]["client"].as_str().unwrap()
    }
}

impl Stream {
    async fn open(test: &TestApp, who: impl Into<As>, last: Option<i64>) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap();
        let url = format!("http://{}/admin/projects/{}/events", test.address, test.project);
        let request = match who.into() {
            As::Bearer(token) => http.get(url).bearer_auth(token),
            As::Basic(credentials) => http.get(url).basic_auth(credentials.id, Some(credentials.secret)),
            As::Anonymous => http.get(url),
        };
        let request = last.into_iter().fold(request, |request, last| request.header("last-event-id", last));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let mut stream = Self { response, text: String::new() };
        assert!(stream.block().await.unwrap().starts_with("retry: 3000\nid: "));
        stream
    }

    /// What comes up to the next empty line; none at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let chunk = self.response.chunk().await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            if block != ":" {
                return Some(event(&block));
            }
        }
    }
}

fn event(block: &str) -> Event {
    let lines: Vec<&str> = block.lines().collect();
    let [id, kind, data] = lines[..] else { panic!("{block}") };
    let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    let kind = kind.strip_prefix("event: ").unwrap().to_owned();
    assert_eq!(data["type"], kind);
    Event { id: id.strip_prefix("id: ").unwrap().parse().unwrap(), kind, data }
}

/// All that is told to somebody who does not stay.
async fn kept(test: &TestApp, last: Option<i64>) -> Vec<Event> {
    let path = format!("admin/projects/{}/events?follow=false", test.project);
    let request = test.request(&test.admin, Method::GET, &path);
    let last = last.map(|last| last.to_string());
    let request = last.iter().fold(request, |request, last| request.header("last-event-id", last));
    let told = request.send().await.expect(200).text;
    told.split("\n\n").skip(1).filter(|block| !block.is_empty()).map(event).collect()
}

async fn rotate(test: &TestApp, client: &mut Credentials) {
    let rotated = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    client.secret = rotated.text_at("/secret");
}

#[tokio::test]
async fn what_happens_on_any_server_arrives() {
    let test = TestApp::start().await;
    let other = test.beside().await;
    let mut client = test.make_client(&test.project, "Nightly export").await;
    let (mut here, mut there) =
        (Stream::open(&test, &test.admin, None).await, Stream::open(&other, &test.super_admin, None).await);
    let elsewhere = test.make_client(&test.other_project, "Elsewhere").await;
    test.rotate(&test.stranger, &elsewhere.id, "secret", &elsewhere.secret).await.expect(200);
    rotate(&test, &mut client).await;
    rotate(&other, &mut client).await;
    for stream in [&mut here, &mut there] {
        let (first, second) = (stream.next().await.unwrap(), stream.next().await.unwrap());
        assert_eq!(first.kind, "client.secret.rotated");
        assert_eq!((first.client(), second.client()), (client.path().as_str(), client.path().as_str()));
        assert!(first.id < second.id);
        assert_ne!(first.data["id"], second.data["id"]);
    }
}

#[tokio::test]
async fn who_comes_back_misses_nothing() {
    let test = TestApp::start().await;
    let mut client = test.make_client(&test.project, "Nightly export").await;
    rotate(&test, &mut client).await;
    let mut stream = Stream::open(&test, &test.admin, None).await;
    rotate(&test, &mut client).await;
    let seen = stream.next().await.unwrap();
    drop(stream);
    for _ in 0..3 {
        rotate(&test, &mut client).await;
    }
    let mut again = Stream::open(&test, &test.admin, Some(seen.id)).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(again.next().await.unwrap().id);
    }
    let all = kept(&test, None).await;
    assert_eq!(all.len(), 5);
    assert_eq!(all[1], seen);
    assert_eq!(all[2..].iter().map(|event| event.id).collect::<Vec<_>>(), ids);
    assert_eq!(kept(&test, Some(seen.id)).await, all[2..]);
    assert_eq!(kept(&test, Some(ids[2])).await, []);
    // A number from another life of the database.
    assert_eq!(kept(&test, Some(ids[2] + 1_000_000)).await, all);
    let path = format!("admin/projects/{}/events", test.project);
    for id in ["x", "-1", "1.5"] {
        let request = test.request(&test.admin, Method::GET, &path).header("last-event-id", id);
        request.send().await.refused(400, "invalid");
    }
    let unknown = format!("{path}?follow=perhaps");
    test.request(&test.admin, Method::GET, &unknown).send().await.refused(400, "invalid");
}

#[tokio::test]
async fn a_stream_ends_with_the_right_to_listen() {
    let test = TestApp::start().await;
    let mut client = test.make_client(&test.project, "Nightly export").await;
    let operator = test.make_client(&test.project, "Second operator").await;
    test.make_admin(&operator).await;
    let token = test.bearer(&operator).await;
    let mut by_token = Stream::open(&test, &token, None).await;
    let mut by_basic = Stream::open(&test, &operator, None).await;
    rotate(&test, &mut client).await;
    assert!(by_token.next().await.is_some() && by_basic.next().await.is_some());

    let no_admin = json!([{ "op": "replace", "path": "/admin", "value": false }]);
    test.patch_membership(&operator, &no_admin).await;
    rotate(&test, &mut client).await;
    assert_eq!((by_token.next().await, by_basic.next().await), (None, None));

    let token = test.bearer(&test.admin).await;
    let mut stream = Stream::open(&test, &token, None).await;
    test.clock.advance(TOKEN_LIFETIME_DEFAULT);
    rotate(&test, &mut client).await;
    assert_eq!(stream.next().await, None, "its token has expired");
}

#[tokio::test]
async fn streams_are_so_many_and_end_with_the_server() {
    let test = TestApp::start().await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_PER_PROJECT_MAX {
        streams.push(Stream::open(&test, &test.admin, None).await);
    }
    let path = format!("admin/projects/{}/events", test.project);
    let refused = test.request(&test.admin, Method::GET, &path).send().await;
    refused.refused(429, "throttled");
    let began = std::time::Instant::now();
    test.restart_configured(|_| {}).await;
    assert!(began.elapsed() < DRAIN_TIMEOUT, "they were cut off, not ended");
    for mut stream in streams {
        assert_eq!(stream.next().await, None);
    }
}
