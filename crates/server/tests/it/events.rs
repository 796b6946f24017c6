//! The stream of events for admins: what happens arrives, on whichever server it happened; nothing is missed by
//! who comes back; and it ends with the right to listen.

use std::time::Duration;

use futures_util::future::select_all;
use keyrelay_core::limits::{
    DRAIN_TIMEOUT, EVENTS_KEPT, STREAMS_MAX, STREAMS_PER_PROJECT_MAX, TOKEN_LIFETIME_DEFAULT,
};
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
        Self::open_of(test, &test.project, who, last).await
    }

    async fn open_of(test: &TestApp, project: &str, who: impl Into<As>, last: Option<i64>) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap();
        let url = format!("http://{}/admin/projects/{project}/events", test.address);
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
    let told = refused.refused(429, "throttled");
    assert!(told.contains(&format!("{STREAMS_PER_PROJECT_MAX} open event streams")), "{told}");
    assert!(!refused.header("retry-after").is_empty());
    let restarted = tokio::time::timeout(DRAIN_TIMEOUT, test.restart_configured(|_| {})).await;
    assert!(restarted.is_ok(), "they were cut off, not ended");
    for mut stream in streams {
        assert_eq!(stream.next().await, None);
    }
}

#[tokio::test]
async fn a_project_without_streams_takes_a_place_of_others() {
    let test = TestApp::start().await;
    let (mut taken, mut newest) = (Vec::new(), Vec::new());
    for n in 0..STREAMS_MAX / STREAMS_PER_PROJECT_MAX {
        let project = test.make_project(&format!("Tenant {n}")).await;
        for _ in 1..STREAMS_PER_PROJECT_MAX {
            taken.push(Stream::open_of(&test, &project, &test.super_admin, None).await);
        }
        newest.push((Stream::open_of(&test, &project, &test.super_admin, None).await, project));
    }
    let mut stream = Stream::open(&test, &test.admin, None).await;
    let ends = newest.iter_mut().map(|(stream, project)| {
        Box::pin(async move {
            assert_eq!(stream.next().await, None);
            project.clone()
        })
    });
    let (poorer, _, _) = select_all(ends).await;
    // The project that lost a stream has its share, and no other project has two more.
    let path = format!("admin/projects/{poorer}/events");
    let refused = test.request(&test.super_admin, Method::GET, &path).send().await;
    let told = refused.refused(429, "throttled");
    assert!(told.contains(&format!("The server has {STREAMS_MAX} open event streams")), "{told}");
    let mut client = test.make_client(&test.project, "Nightly export").await;
    rotate(&test, &mut client).await;
    assert_eq!(stream.next().await.unwrap().client(), client.path());
}

async fn kinds(test: &TestApp, last: i64) -> Vec<String> {
    kept(test, Some(last)).await.into_iter().map(|event| event.kind).collect()
}

async fn rotate_until(test: &TestApp, client: &Credentials, retire_after: &str) -> Credentials {
    let body = json!({ "secret": client.secret, "retireAfter": retire_after });
    let path = format!("{}/$rotate-secret", client.path());
    client.with(&test.post(&test.admin, &path, &body).await.expect(200).text_at("/secret"))
}

#[tokio::test]
async fn a_deadline_is_told_when_it_is_near_and_when_it_has_passed_once() {
    let test = TestApp::start().await;
    let other = test.beside().await;
    let look = async || tokio::join!(test.app.tell_deadlines(), other.app.tell_deadlines());
    let client = test.make_client(&test.project, "Nightly export").await;
    rotate_until(&test, &client, "3d").await;
    let rotated = kept(&test, None).await.remove(0);
    let (secret, ends) = (&rotated.data["data"]["retiring"], &rotated.data["data"]["retiringEnds"]);
    assert_eq!(ends, "2026-01-04T00:00:00.000Z");
    look().await;
    assert_eq!(kinds(&test, 1).await, [""; 0], "a warning of seven days would come before the rotation");

    test.clock.advance(Duration::from_hours(48));
    look().await;
    look().await;
    let told = kept(&test, Some(1)).await;
    assert_eq!(told.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["client.secret.expiring"]);
    let data = &told[0].data["data"];
    assert_eq!((told[0].client(), &data["secret"], &data["ends"]), (client.path().as_str(), secret, ends));
    assert_eq!((&data["cause"], &data["endsAccess"]), (&json!("retireAfter"), &json!(true)));

    // The last of the warnings that hold where nobody says otherwise.
    test.clock.advance(Duration::from_hours(23));
    look().await;
    assert_eq!(kinds(&test, 2).await, ["client.secret.expiring"]);
    test.clock.advance(Duration::from_hours(1));
    look().await;
    look().await;
    let told = kept(&test, Some(3)).await;
    assert_eq!(told.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["client.secret.expired"]);
    assert_eq!((&told[0].data["data"]["secret"], &told[0].data["data"]["ends"]), (secret, ends));
    let path = format!("AuditEvent?entity={}&subtype=end-secret-by-deadline", client.path());
    let recorded = test.get(&test.admin, &path).await.expect(200).resources();
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!(
        (&recorded[0]["period"]["start"], &recorded[0]["agent"][0]["requestor"]),
        (ends, &json!(false))
    );
    assert_eq!(recorded[0]["entity"][0]["detail"], json!([{ "type": "ended", "valueString": secret }]));
}

#[tokio::test]
async fn a_deadline_long_past_is_not_told_again_by_the_move_that_finds_it() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let mut client = rotate_until(&test, &client, "1h").await;
    test.clock.advance(Duration::from_hours(1));
    test.app.tell_deadlines().await;
    assert_eq!(kinds(&test, 1).await, ["client.secret.expired"]);
    // By then it is forgotten that it was told.
    test.clock.advance(EVENTS_KEPT * 2 + Duration::from_hours(2));
    test.app.sweep().await;
    rotate(&test, &mut client).await;
    assert_eq!(kinds(&test, 2).await, ["client.secret.rotated"]);
}

#[tokio::test]
async fn a_retiring_secret_is_told_of_when_it_becomes_too_old() {
    let test = TestApp::start().await;
    test.set(&test.project, "secretMaximumAge", "30d").await;
    let mut client = test.make_client(&test.project, "Nightly export").await;
    let day = Duration::from_hours(24);
    test.clock.advance(Duration::from_hours(24 * 29 - 1));
    rotate(&test, &mut client).await;
    let retiring = kept(&test, None).await.remove(0).data["data"]["retiring"].clone();
    for (wait, kind) in [(Duration::from_hours(1), "expiring"), (day, "expired")] {
        test.clock.advance(wait);
        test.app.tell_deadlines().await;
        let mut told = kept(&test, Some(1)).await.into_iter().filter(|event| event.client() == client.path());
        let told = told.next_back().unwrap();
        assert_eq!(told.kind, format!("client.secret.{kind}"));
        assert_eq!(told.data["data"]["secret"], retiring);
    }
}

#[tokio::test]
async fn a_project_says_how_old_a_secret_may_become_and_when_it_is_warned_of() {
    let test = TestApp::start().await;
    let settings = json!([{ "op": "add", "path": "/setting", "value": [
        { "name": "secretMaximumAge", "valueString": "30d" },
        { "name": "secretWarnBefore", "valueString": "5d, 2d" },
    ] }]);
    test.patch(&test.super_admin, &format!("Project/{}", test.project), &settings).await.expect(200);
    test.clock.advance(Duration::from_hours(24 * 24));
    let mut client = test.make_client(&test.project, "Nightly export").await;
    test.app.tell_deadlines().await;
    let day = Duration::from_hours(24);
    let told_since = async |last: i64| {
        let told = kept(&test, Some(last)).await.into_iter();
        let of_client = told.filter(|event| event.client() == client.path());
        of_client.map(|event| (event.kind, event.data["data"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(told_since(0).await, []);
    for (days, kinds) in [(25, 1), (3, 2), (2, 3)] {
        test.clock.advance(day * days);
        test.app.tell_deadlines().await;
        test.app.tell_deadlines().await;
        assert_eq!(told_since(0).await.len(), kinds, "{days}");
    }
    let told = told_since(0).await;
    let kinds: Vec<_> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["client.secret.expiring", "client.secret.expiring", "client.secret.expired"]);
    for (_, data) in &told {
        assert_eq!((&data["cause"], &data["endsAccess"]), (&json!("maximumAge"), &json!(false)), "{data}");
    }
    assert!(test.lets_in(&client.id, &client.secret).await, "it is only told");
    rotate(&test, &mut client).await;
}

#[tokio::test]
async fn a_former_secret_that_is_seen_again_is_told_once_an_hour() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
    // Both happened in the same millisecond.
    let before = kept(&test, None).await;
    let last = before.iter().map(|event| event.id).max().unwrap();
    let ended = before.iter().find(|event| event.kind == "client.secret.retired").unwrap();
    let attempt = async || {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &client.id),
            ("client_secret", &client.secret),
        ];
        let request = test.request_elsewhere(As::Anonymous, Method::POST, "oauth2/token");
        request.header("user-agent", "old-deployment/1.0").form(&form).send().await.expect(401);
        // Waits until it was looked at.
        test.app.flush_usage().await;
    };
    for _ in 0..3 {
        attempt().await;
    }
    test.grant(&client.id, "a-wrong-secret-that-nobody-ever-had-0001").await.expect(401);
    test.app.flush_usage().await;
    let told = kept(&test, Some(last)).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].kind, "client.secret.former_seen");
    let data = json!({
        "project": format!("Project/{}", test.project),
        "client": client.path(),
        "secret": ended.data["data"]["ended"][0],
        "address": "127.0.0.2",
        "userAgent": "old-deployment/1.0",
        "times": 1,
    });
    assert_eq!(told[0].data["data"], data);
    test.clock.advance(Duration::from_hours(1));
    attempt().await;
    let told = kept(&test, Some(told[0].id)).await;
    assert_eq!((told.len(), &told[0].data["data"]["times"]), (1, &json!(4)));
}

#[tokio::test]
async fn a_rotation_that_ends_a_secret_in_use_is_told() {
    let test = TestApp::start().await;
    let mut client = test.make_client(&test.project, "Nightly export").await;
    // Used, and moved on from.
    test.bearer(&client).await;
    rotate(&test, &mut client).await;
    test.clock.advance(Duration::from_mins(1));
    test.bearer(&client).await;
    test.app.flush_usage().await;
    rotate(&test, &mut client).await;
    assert_eq!(kinds(&test, 0).await, ["client.secret.rotated"; 2]);
    // Used, and not moved on from.
    let seen = kept(&test, None).await.pop().unwrap();
    rotate(&test, &mut client).await;
    let told = kept(&test, Some(seen.id)).await;
    assert_eq!(told.len(), 2, "{told:?}");
    let alarm = told.iter().find(|event| event.kind == "client.secret.overwritten_in_use").unwrap();
    assert_eq!(alarm.data["data"]["secret"], seen.data["data"]["retiring"]);
    assert_eq!(alarm.data["data"]["by"], test.admin.path());
}
