//! Section 4: one tenant can write, keep and hold open a bounded amount, and takes nothing from others.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use keyrelay_bench::source;
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use super::{Needs, Row, Verdict};
use crate::api::{Body, Caller, Credentials, Proof, Reply, Tally, at_once};
use crate::clock::Stopwatch;
use crate::scene::{Kind, Scene};

pub(super) static ROWS: &[Row] = &[
    Row {
        name: "registration-writes",
        claim: "a registration access token writes at a rate; its secret can be ended all the same",
        scene: Kind::Rates,
        needs: Needs::Nothing,
        run: registration_writes,
    },
    Row {
        name: "own-rotations",
        claim: "a client rotates its own secret at a rate; its secret can be ended all the same",
        scene: Kind::Rates,
        needs: Needs::Nothing,
        run: own_rotations,
    },
    Row {
        name: "admin-writes",
        claim: "an admin writes at a rate; secrets can be retired and ended all the same",
        scene: Kind::Rates,
        needs: Needs::Nothing,
        run: admin_writes,
    },
    Row {
        name: "events-kept",
        claim: "the events of one tenant push out none that another was not told yet",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: events_kept,
    },
    Row {
        name: "callers-shared",
        claim: "the callers of one tenant's secrets hide no caller of another's",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: callers_shared,
    },
    Row {
        name: "streams-taken",
        claim: "ten tenants that open all the event streams they can leave one for the next",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: streams_taken,
    },
    Row {
        name: "connections-taken",
        claim: "ten thousand connections that say nothing leave one for a probe",
        scene: Kind::Usual,
        needs: Needs::Time,
        run: connections_taken,
    },
];

/// Parallel writers.
const WRITERS: usize = 8;

/// Writes so many times, from several threads. Each write gets the number of its thread.
fn storm(count: usize, write: impl Fn(usize) -> Reply + Sync) -> Vec<Reply> {
    let left = AtomicUsize::new(count);
    let take = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    let replies = at_once(WRITERS, |n| {
        let mut replies = Vec::new();
        while take() {
            replies.push(write(n));
        }
        replies
    });
    replies.into_iter().flatten().collect()
}

/// Holds if a rate or a quota refused some writes, nothing failed, and the secret could be ended afterwards.
fn limited(replies: &[Reply], ended: &Reply) -> Verdict {
    let tally = Tally::over(replies);
    let fault = replies.iter().find(|reply| reply.is_fault());
    let is_limit =
        |reply: &&Reply| reply.status == 429 || reply.status == 403 && reply.text.contains("too-costly");
    let limited = replies.iter().filter(is_limit).count();
    let mut verdict = match fault {
        Some(fault) => Verdict::Fails(format!("{fault} (of {tally})")),
        None => Verdict::of(limited > 0, format!("{tally}; {limited} refused by a limit")),
    };
    if ended.status != 200 {
        verdict = verdict.and_fails(&format!("$revoke-secret: {ended}"));
    }
    verdict
}

fn revoke(scene: &Scene<'_>, client: &str) -> Reply {
    let path = format!("fhir/R4/ClientApplication/{client}/$revoke-secret");
    scene.admin().post(&path, json!({ "slot": "secret" }))
}

fn registration_writes(scene: &Scene<'_>) -> Result<Verdict> {
    let path = format!("admin/projects/{}/registration", scene.a.project);
    let initial = scene.admin().post(&path, json!({})).expect(201)?.text_at("/initial_access_token")?;
    let body = json!({ "client_name": "Writes itself", "grant_types": ["client_credentials"] });
    let registered =
        scene.attacker.with(Proof::Bearer(initial)).post("oauth2/register", body.clone()).expect(201)?;
    let own = scene.attacker.with(Proof::Bearer(registered.text_at("/registration_access_token")?));
    let uri = registered.text_at("/registration_client_uri")?;
    let path = uri
        .split_once("/oauth2/")
        .map(|(_, rest)| format!("oauth2/{rest}"))
        .context("the URI of a registration")?;
    let client = registered.text_at("/client_id")?;
    let mut put = body;
    put["client_id"] = json!(client);
    // About 30 KB, different each time.
    let uri = |n: usize, m: usize| format!("https://{n}-{m}.example.test/{}", "x".repeat(1400));
    let replies = storm(scene.setting.pick(100, 1_000), |n| {
        let mut put = put.clone();
        put["redirect_uris"] = (0..20).map(|m| json!(uri(n, m))).collect::<Vec<_>>().into();
        own.send("PUT", &path, Body::Json(put))
    });
    Ok(limited(&replies, &revoke(scene, &client)))
}

/// Rotates again and again, each time with the secret of the last answer.
fn rotations(count: usize, caller: impl Fn(&Credentials) -> Caller, client: &Credentials) -> Vec<Reply> {
    let mut secret = client.secret.clone();
    let mut replies = Vec::new();
    for _ in 0..count {
        let reply = caller(&client.with(&secret)).rotate(&client.id, "secret", &secret);
        secret = reply.text_at("/secret").unwrap_or(secret);
        replies.push(reply);
    }
    replies
}

fn own_rotations(scene: &Scene<'_>) -> Result<Verdict> {
    let rules = json!([{ "resourceType": "ClientApplication", "interaction": ["rotate-own-secret"] }]);
    let client = scene.make_client("Rotates itself", Some(rules))?;
    let replies =
        rotations(scene.setting.pick(300, 2_000), |client| scene.attacker.as_client(client), &client);
    Ok(limited(&replies, &revoke(scene, &client.id)))
}

fn admin_writes(scene: &Scene<'_>) -> Result<Verdict> {
    let admin = scene.admin();
    let client = scene.make_client("Written to", None)?;
    let fresh = admin.rotate(&client.id, "secret", &client.secret).expect(200)?.text_at("/secret")?;
    let replies = storm(scene.setting.pick(150, 3_000), |n| {
        admin.add(&client.path(), "/description", &json!(format!("{n} {}", "d".repeat(60_000))))
    });
    let retired = admin.rotate(&client.id, "retiringSecret", &client.secret);
    let verdict = limited(&replies, &revoke(scene, &client.id));
    let refused = scene.nobody().grant(&client.with(&fresh), &[]);
    let is_ended = retired.status == 200 && refused.status == 401;
    Ok(if is_ended {
        verdict
    } else {
        verdict.and_fails(&format!("retiring: {retired}; the ended secret: {refused}"))
    })
}

fn events(caller: &Caller, project: &str) -> Result<String> {
    Ok(caller.get(&format!("admin/projects/{project}/events?follow=false")).expect(200)?.text)
}

fn events_kept(scene: &Scene<'_>) -> Result<Verdict> {
    let b = scene.worker.as_client(&scene.b.admin);
    let webhooks = format!("admin/projects/{}/webhooks", scene.b.project);
    // No receiver listens there, so nothing is delivered for now.
    let silent = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let webhook = json!({ "url": format!("http://{silent}/"), "types": ["client.secret.former_seen"] });
    let webhook = b.post(&webhooks, webhook).expect(201)?.text_at("/id")?;
    let client = scene.make_client_in(&scene.b.project, "Has a former secret", None)?;
    b.rotate(&client.id, "secret", &client.secret).expect(200)?;
    b.rotate(&client.id, "retiringSecret", &client.secret).expect(200)?;
    scene.worker.with(Proof::Nobody).grant(&client, &[]).expect(401)?;
    let told = |text: &str| text.contains("former_seen");
    let watch = Stopwatch::start();
    while !told(&events(&b, &scene.b.project)?) {
        if watch.elapsed() > Duration::from_secs(10) {
            return Ok(Verdict::Fails("no event of the former secret within 10 s".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let admin = scene.admin();
    let clients =
        (0..WRITERS).map(|n| scene.make_client(&format!("Rotated {n}"), None)).collect::<Result<Vec<_>>>()?;
    let (time, watch) = (Duration::from_secs(scene.setting.pick(3, 45)), Stopwatch::start());
    let counts = at_once(WRITERS, |n| {
        let (mut secret, mut count, mut done) = (clients[n].secret.clone(), 0_u64, 0_u64);
        while watch.elapsed() < time {
            let reply = admin.rotate(&clients[n].id, "secret", &secret);
            count += 1;
            done += u64::from(reply.status == 200);
            secret = reply.text_at("/secret").unwrap_or(secret);
        }
        (count, done)
    });
    let (asked, done) = counts.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let kept = told(&events(&b, &scene.b.project)?);
    let shown = b.get(&format!("{webhooks}/{webhook}")).expect(200)?.json();
    let pending = shown["pending"].as_u64().unwrap_or(0);
    let seen =
        format!("{done} of {asked} rotations by A; B's event kept: {kept}, deliveries pending: {pending}");
    Ok(Verdict::of(kept && pending > 0, seen))
}

/// Grants of a client, each as a different caller.
struct Crowd {
    target: keyrelay_bench::http::Target,
    clients: Vec<keyrelay_bench::product::Credentials>,
    connection: usize,
    n: usize,
    request: Vec<u8>,
}

impl keyrelay_bench::load::Source for Crowd {
    fn request(&mut self) -> &[u8] {
        let client = &self.clients[self.n % self.clients.len()];
        self.request = client.grant_as(self.target, &format!("crowd-{}-{}", self.connection, self.n));
        self.n += 1;
        &self.request
    }
}

fn callers_shared(scene: &Scene<'_>) -> Result<Verdict> {
    const OWN_CALLERS: usize = 5;
    let target = keyrelay_bench::http::Target::parse(scene.attacker.base())?;
    let clients = (0..100)
        .map(|n| {
            let made = scene.make_client(&format!("Crowded {n}"), None)?;
            Ok(keyrelay_bench::product::Credentials { client_id: made.id, client_secret: made.secret })
        })
        .collect::<Result<Vec<_>>>()?;
    let own = scene.make_client_in(&scene.b.project, "Has a few callers", None)?;
    let sources = (0..16)
        .map(|connection| Crowd { target, clients: clients.clone(), connection, n: 0, request: Vec::new() })
        .collect();
    let plan = keyrelay_bench::load::Plan::timed(target, Duration::from_secs(scene.setting.pick(3, 20)));
    let callers = std::thread::scope(|scope| {
        let load = scope.spawn(|| keyrelay_bench::load::run(plan, sources));
        let nobody = scene.worker.with(Proof::Nobody);
        // While the table is full.
        std::thread::sleep(plan.duration * 3 / 4);
        for n in 0..OWN_CALLERS {
            let form = vec![
                ("grant_type", "client_credentials".to_owned()),
                ("client_id", own.id.clone()),
                ("client_secret", own.secret.clone()),
            ];
            let instance = format!("own-{n}");
            nobody
                .send_with("POST", "oauth2/token", Body::Form(form), &[("x-client-instance", &instance)])
                .expect(200)?;
        }
        load.join().ok().context("the load ended early")?
    })?;
    // Counts are recorded every five seconds.
    let b = scene.worker.as_client(&scene.b.admin);
    let (watch, mut seen) = (Stopwatch::start(), 0);
    while seen < OWN_CALLERS && watch.elapsed() < Duration::from_secs(15) {
        let status = b.get(&format!("{}/$secret-status", own.path())).expect(200)?.text;
        seen = (0..OWN_CALLERS).filter(|n| status.contains(&format!("own-{n}"))).count();
        std::thread::sleep(Duration::from_millis(250));
    }
    let text = format!("{} grants by A; {seen} of {OWN_CALLERS} callers of B are told apart", callers.good());
    Ok(Verdict::of(seen == OWN_CALLERS, text))
}

fn streams_taken(scene: &Scene<'_>) -> Result<Verdict> {
    const TENANTS: usize = 10;
    const EACH: usize = 25;
    let mut open = Vec::new();
    let mut tally = Tally::default();
    for n in 0..TENANTS {
        let body = json!({ "resourceType": "Project", "name": format!("Listener {n}") });
        let project = scene.supers.post("fhir/R4/Project", body).expect(201)?.text_at("/id")?;
        let admin = scene.make_client_in(&project, "Listens", None)?;
        let membership =
            crate::scene::membership_of(&scene.supers, &format!("ClientApplication/{}", admin.id))?;
        let path = format!("fhir/R4/ProjectMembership/{membership}");
        scene.supers.add(&path, "/admin", &json!(true)).expect(200)?;
        let caller = scene.attacker.as_client(&admin);
        for _ in 0..EACH {
            let (status, stream) = caller.open_stream(&format!("admin/projects/{project}/events"))?;
            tally.count_as(&status.to_string());
            open.push(stream);
        }
    }
    let b = scene.worker.as_client(&scene.b.admin);
    let (status, _stream) = b.open_stream(&format!("admin/projects/{}/events", scene.b.project))?;
    Ok(Verdict::of(status == 200, format!("streams of others: {tally}; B's own: {status}")))
}

fn connections_taken(scene: &Scene<'_>) -> Result<Verdict> {
    const CONNECTIONS: usize = 10_500;
    const EACH: usize = 450;
    let room = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if room < u64::try_from(CONNECTIONS)? + 1_000 {
        return Ok(Verdict::Skipped(format!("needs {CONNECTIONS} open files, and {room} are allowed")));
    }
    let to: SocketAddr = scene.attacker.base().trim_start_matches("http://").trim_end_matches('/').parse()?;
    let open: Vec<TcpStream> = at_once(WRITERS, |writer| {
        let mut open = Vec::new();
        for n in (writer..CONNECTIONS).step_by(WRITERS) {
            // From many addresses, because one address has its own bound.
            let from = Ipv4Addr::new(127, 0, 10, u8::try_from(1 + n / EACH).unwrap_or(1));
            open.extend(source::connect(from, to).ok());
        }
        open
    })
    .into_iter()
    .flatten()
    .collect();
    let replies: Vec<Reply> = (0..5).map(|_| scene.worker.with(Proof::Nobody).get("livez")).collect();
    let holds = replies.iter().all(|reply| reply.status == 200);
    let seen = format!("{} connections; /livez: {}", open.len(), Tally::over(&replies));
    Ok(Verdict::of(holds, seen))
}
