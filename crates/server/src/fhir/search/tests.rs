//! While the rules of a policy are compared with many resources, the thread answers others.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::task::Poll;

use axum::body::Body;
use http::header::CONTENT_TYPE;
use keyrelay_core::caller::{Profile, Role};
use keyrelay_core::fhir::search::index_entries;
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, SecretId, VersionId};
use keyrelay_core::keyring::Keyring;
use keyrelay_core::policy::AccessPolicy;
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::scope::Scope;
use keyrelay_core::time::{ManualClock, Timestamp};
use keyrelay_store::{Change, TestDatabase};
use std::sync::Arc;
use tower::ServiceExt;

use super::*;
use crate::auth::ClientAddress;
use crate::bootstrap::first_start;
use crate::{BaseUrl, Config, router};

const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);
const FROM: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// More than the database lets a search wait.
const CLIENTS: usize = 60;

async fn answered(app: &App, request: http::request::Builder, body: Body) -> bool {
    let mut request = request.body(body).unwrap();
    request.extensions_mut().insert(ClientAddress(FROM));
    router(app.clone()).oneshot(request).await.unwrap().status().is_success()
}

/// A member under as many rules as there may be, of which the last lets it see the clients.
fn caller(project: ProjectId) -> Caller {
    let rule = |criteria: &str| json!({ "resourceType": "ClientApplication", "criteria": criteria });
    let mut rules: Vec<Value> =
        (0..99).map(|n| rule(&format!("ClientApplication?_tag=other-{n},another-{n}"))).collect();
    rules.push(rule("ClientApplication?name:missing=false"));
    let policy = json!({ "resource": rules });
    Caller {
        client: Some(ClientId::NIL),
        login: None,
        profile: Profile::client(ClientId::NIL),
        name: None,
        membership: MembershipId::NIL,
        project,
        role: Role::Member,
        policy: Some(Arc::new(AccessPolicy::from_resource(policy.as_object().unwrap()).unwrap())),
        scope: Scope::default(),
        proof: SecretId::NIL,
        by_token: true,
        token: None,
    }
}

#[tokio::test]
async fn other_requests_run_between_two_resources_of_an_answer() {
    let (dir, entropy) = (tempfile::tempdir().unwrap(), Arc::new(SeededEntropy::new(1)));
    let store = TestDatabase::new(dir.path()).await.open().await.unwrap();
    let config = Config::new(BaseUrl::parse("http://127.0.0.1/").unwrap());
    let keyring = Keyring::parse_file(&Keyring::new_file(entropy.as_ref())).unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let app = App::start(config, store, keyring, clock, Arc::clone(&entropy) as _).await.unwrap();
    let file = dir.path().join("first.json");
    first_start(&app, None, &file).await.unwrap();
    let first: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();

    let project = ProjectId::random(entropy.as_ref());
    for n in 0..CLIENTS {
        let tags: Vec<Value> = (0..400).map(|tag| json!({ "code": format!("tag-{tag}") })).collect();
        let resource = json!({
            "resourceType": "ClientApplication", "name": format!("Client {n}"), "meta": { "tag": tags },
        });
        let version = ResourceVersion {
            resource_type: ResourceType::ClientApplication,
            id: ResourceId::random(entropy.as_ref()),
            project: Some(project),
            version: VersionId::random(entropy.as_ref()),
            revision: 1,
            last_updated: NOW,
            deleted: false,
            content: resource.to_string(),
        };
        // Each by a change of its own: a change has a bound of time.
        let mut change = Change::new();
        change
            .create(version, &index_entries(ResourceType::ClientApplication, resource.as_object().unwrap()));
        app.store.commit(change).await.unwrap();
    }

    let caller = caller(project);
    let act = Act::now(&app, &caller, FROM);
    let mut search = pin!(search(act, ResourceType::ClientApplication, "_count=1000&_elements=name", false));
    // How often the search has let others run; each time it is woken before it is asked again.
    let mut yields = 0;
    std::future::poll_fn(|context| {
        assert!(search.as_mut().poll(context).is_pending(), "not done yet");
        yields += 1;
        if yields < CLIENTS / 2 { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    // In the midst of it, on the same thread:
    assert!(answered(&app, http::Request::get("/livez"), Body::empty()).await);
    let grant = [("grant_type", "client_credentials")];
    let grant = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(grant)
        .append_pair("client_id", first["clientId"].as_str().unwrap())
        .append_pair("client_secret", first["clientSecret"].as_str().unwrap())
        .finish();
    let request =
        http::Request::post("/oauth2/token").header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    assert!(answered(&app, request, Body::from(grant)).await);

    let reply = std::future::poll_fn(|context| {
        let polled = search.as_mut().poll(context);
        yields += usize::from(polled.is_pending());
        polled
    })
    .await;
    assert!(yields >= CLIENTS, "{yields}");
    assert_eq!(reply.map(|reply| reply.status).ok(), Some(http::StatusCode::OK));
    app.close().await;
}
