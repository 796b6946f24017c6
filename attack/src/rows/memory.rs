//! Section 2: requests, caches and lists are bounded by their weight. All these rows run at the same time, and the
//! memory of the server after them has a bound.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Needs, Row, Verdict};
use crate::api::{Body, Credentials, Proof, Reply, Tally, at_once};
use crate::scene::{Kind, Scene, patiently};

pub(super) static ROWS: &[Row] = &[
    Row {
        name: "login-junk",
        claim: "90 logins at once with a megabyte of junk each are refused, and cost no memory",
        scene: Kind::Large,
        needs: Needs::Nothing,
        run: login_junk,
    },
    Row {
        name: "big-pages",
        claim: "a search over many large resources comes in pages, and finds all",
        scene: Kind::Large,
        needs: Needs::Nothing,
        run: big_pages,
    },
    Row {
        name: "long-history",
        claim: "small patches of a large resource and its history cost no memory",
        scene: Kind::Large,
        needs: Needs::Nothing,
        run: long_history,
    },
    Row {
        name: "scoped-tokens",
        claim: "many tokens with long scopes are remembered within a bound",
        scene: Kind::Large,
        needs: Needs::Nothing,
        run: scoped_tokens,
    },
    Row {
        name: "big-policies",
        claim: "many large policies are remembered within a bound",
        scene: Kind::Large,
        needs: Needs::Nothing,
        run: big_policies,
    },
];

/// Parallel callers, where sequential requests would take long.
const CALLERS: usize = 8;

/// Holds if each answer is a success or a documented refusal.
fn documented(replies: &[Reply], seen: impl Fn(Tally) -> String) -> Verdict {
    match replies.iter().find(|reply| !(200..300).contains(&reply.status) && !reply.is_refusal()) {
        Some(bad) => Verdict::Fails(format!("{bad} (of {})", Tally::over(replies))),
        None => Verdict::Holds(seen(Tally::over(replies))),
    }
}

fn login_junk(scene: &Scene<'_>) -> Result<Verdict> {
    const BODY_BYTES: usize = 1_000_000;
    let mut body = br#"{"email":"nobody@example.test","password":"not the password","junk":[0"#.to_vec();
    while body.len() < BODY_BYTES {
        body.extend_from_slice(b",0");
    }
    body.extend_from_slice(b"]}");
    let nobody = scene.nobody();
    let mut replies = Vec::new();
    for _ in 0..scene.setting.pick(1, 3) {
        replies.extend(at_once(90, |_| {
            nobody.send("POST", "auth/login", Body::Raw("application/json", body.clone()))
        }));
    }
    Ok(documented(&replies, |tally| tally.to_string()))
}

/// Reads all pages after one, and returns how many resources they have.
fn walk(caller: &crate::api::Caller, path: &str) -> Result<(usize, usize)> {
    const PAGES_MAX: usize = 1000;
    let (mut next, mut pages, mut found) = (Some(path.to_owned()), 0, 0);
    while let Some(path) = next.take() {
        let page = patiently(|| caller.get(&path)).expect(200)?.json();
        pages += 1;
        found += page["entry"].as_array().map_or(0, Vec::len);
        let links = page["link"].as_array().cloned().unwrap_or_default();
        let link = links.iter().find(|link| link["relation"] == "next").and_then(|link| link["url"].as_str());
        next = link.and_then(|url| url.split_once("/fhir/R4/")).map(|(_, rest)| format!("fhir/R4/{rest}"));
        next = next.filter(|_| pages < PAGES_MAX);
    }
    Ok((pages, found))
}

fn big_pages(scene: &Scene<'_>) -> Result<Verdict> {
    let project = scene.seeded.as_deref().context("the project of large clients")?;
    let reader = scene.attacker.as_client(&scene.make_client_in(project, "Reader", None)?);
    let path = "fhir/R4/ClientApplication?_count=1000&_elements=name";
    let replies = at_once(CALLERS, |_| reader.get(path));
    let whole = at_once(CALLERS, |_| reader.get("fhir/R4/ClientApplication?_count=1000"));
    let (pages, found) = walk(&reader, path)?;
    let expected = scene.setting.pick(100, 300) + 1;
    if found != expected {
        return Ok(Verdict::Fails(format!("{found} of {expected} were found on {pages} pages")));
    }
    let largest = whole.iter().map(|reply| reply.text.len()).max().unwrap_or(0);
    let all: Vec<Reply> = replies.into_iter().chain(whole).collect();
    let verdict =
        documented(&all, |tally| format!("{tally}; {found} on {pages} pages, at most {largest} bytes"));
    // A megabyte, and one resource beyond it.
    Ok(if largest > 1_300_000 { verdict.and_fails("a page is larger than 1 MiB") } else { verdict })
}

fn long_history(scene: &Scene<'_>) -> Result<Verdict> {
    let admin = scene.admin();
    let body =
        json!({ "resourceType": "ClientApplication", "name": "Grows", "description": "d".repeat(60_000) });
    let path = format!(
        "fhir/R4/ClientApplication/{}",
        admin.post("fhir/R4/ClientApplication", body).expect(201)?.text_at("/id")?
    );
    let left = AtomicUsize::new(scene.setting.pick(100, 1000));
    let patches: Vec<Reply> = at_once(4, |n| {
        let mut replies = Vec::new();
        while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let reply = admin.add(&path, "/name", &json!(format!("Grows {n} {}", replies.len())));
            let is_over = reply.status != 200;
            replies.push(reply);
            if is_over {
                break;
            }
        }
        replies
    })
    .into_iter()
    .flatten()
    .collect();
    let histories = at_once(CALLERS, |_| admin.get(&format!("{path}/_history?_count=1000")));
    let largest = histories.iter().map(|reply| reply.text.len()).max().unwrap_or(0);
    let tally = Tally::over(&patches);
    let all: Vec<Reply> = patches.into_iter().chain(histories).collect();
    let verdict = documented(&all, |_| format!("patches: {tally}; a history of at most {largest} bytes"));
    Ok(if largest > 1_300_000 { verdict.and_fails("a page is larger than 1 MiB") } else { verdict })
}

fn scoped_tokens(scene: &Scene<'_>) -> Result<Verdict> {
    let member = scene.make_client("Has many tokens", None)?;
    // More connections than one address has ports.
    let callers = (100_u8..).take(CALLERS).map(|last| scene.caller_from(last)).collect::<Result<Vec<_>>>()?;
    let each = scene.setting.pick(500, 20_000) / CALLERS;
    let bad = at_once(CALLERS, |caller| {
        let (mut tally, nobody) = (Tally::default(), &callers[caller]);
        for n in 0..each {
            // Different each time, and near the allowed length.
            let part =
                |m: usize| format!("system/ClientApplication.rs?name=n{caller}-{n}-{m}-{}", "x".repeat(180));
            let scope = (0..8).map(part).collect::<Vec<_>>().join(" ");
            let granted = nobody.grant(&member, &[("scope", &scope)]);
            let token = granted.text_at("/access_token");
            if !granted.is_refusal() && granted.status != 200 {
                return (tally, Some(granted.to_string()));
            }
            tally.count(&granted);
            let Ok(token) = token else { continue };
            let used = nobody.with(Proof::Bearer(token)).get("fhir/R4/ClientApplication?_count=1");
            if used.status != 200 && !used.is_refusal() {
                return (tally, Some(used.to_string()));
            }
        }
        (tally, None)
    });
    let granted: u64 = bad.iter().map(|(tally, _)| tally.of("200")).sum();
    let fault = bad.into_iter().find_map(|(_, fault)| fault);
    Ok(Verdict::of(fault.is_none() && granted > 0, fault.unwrap_or_else(|| format!("{granted} tokens"))))
}

/// A policy of about 57 KB.
fn big_policy(n: usize) -> Value {
    let rule = |m: usize| {
        let criteria = format!("ClientApplication?name=n{n}-{m}-{}", "x".repeat(560));
        json!({ "resourceType": "ClientApplication", "criteria": criteria })
    };
    (0..90).map(rule).collect::<Vec<_>>().into()
}

fn big_policies(scene: &Scene<'_>) -> Result<Verdict> {
    let each = scene.setting.pick(32, 500) / CALLERS;
    let made: Vec<Result<(u64, Option<String>)>> = at_once(CALLERS, |caller| {
        let mut made = 0;
        for n in 0..each {
            let client: Credentials = match scene.make_client(
                &format!("Under a large policy {caller} {n}"),
                Some(big_policy(caller * each + n)),
            ) {
                Ok(client) => client,
                // A quota that is used up is a bound too.
                Err(error) if made > 0 && format!("{error:#}").contains("got 4") => break,
                Err(error) => return Err(error),
            };
            made += 1;
            let used = scene.attacker.as_client(&client).get("fhir/R4/ClientApplication?_count=1");
            if used.status != 200 && !used.is_refusal() {
                return Ok((made, Some(used.to_string())));
            }
        }
        Ok((made, None))
    });
    let made = made.into_iter().collect::<Result<Vec<_>>>()?;
    let count: u64 = made.iter().map(|(count, _)| count).sum();
    let fault = made.into_iter().find_map(|(_, fault)| fault);
    Ok(Verdict::of(fault.is_none(), fault.unwrap_or_else(|| format!("{count} policies"))))
}
