//! Section 3: an expensive request delays its own caller only.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Needs, Row, Verdict};
use crate::api::{Body, Reply, Tally, at_once};
use crate::scene::{Kind, Scene};

pub(super) static ROWS: &[Row] = &[
    Row {
        name: "search-storm",
        claim: "searches that look at everything end in time, and nobody waits for them",
        scene: Kind::Many,
        needs: Needs::Nothing,
        run: search_storm,
    },
    Row {
        name: "conditional-creates",
        claim: "the search of a conditional create holds up no other write",
        scene: Kind::Many,
        needs: Needs::Nothing,
        run: conditional_creates,
    },
    Row {
        name: "one-of-many-creates",
        claim: "of conditional creates at once, one creates",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: one_of_many_creates,
    },
    Row {
        name: "rule-checks",
        claim: "long checks of rules hold up no answer to others",
        scene: Kind::Many,
        needs: Needs::Nothing,
        run: rule_checks,
    },
];

/// Holds if each answer is one of these or a documented refusal.
fn in_time(replies: &[Reply], good: &[u16]) -> Verdict {
    let bad = replies.iter().find(|reply| !good.contains(&reply.status) && !reply.is_refusal());
    let longest = replies.iter().map(|reply| reply.took).max().unwrap_or_default();
    match bad {
        Some(bad) => Verdict::Fails(format!("{bad} (of {})", Tally::over(replies))),
        None => {
            Verdict::Holds(format!("{}, the longest {:.1} s", Tally::over(replies), longest.as_secs_f64()))
        }
    }
}

fn filters(count: usize) -> String {
    vec!["name:contains=e"; count].join("&")
}

fn search_storm(scene: &Scene<'_>) -> Result<Verdict> {
    let admin = scene.admin();
    let repeated = format!("fhir/R4/ClientApplication?{}", filters(64));
    // The same without repetition: different values are not one filter.
    let letters = ('a'..='z').chain('0'..='9').map(|letter| format!("name:contains={letter}"));
    let different = format!("fhir/R4/ClientApplication?{}", letters.collect::<Vec<_>>().join("&"));
    let everywhere = format!("fhir/R4/ClientApplication?_total=accurate&_sort=-name&{}", filters(8));
    let mut replies = Vec::new();
    for path in [&repeated, &different, &everywhere] {
        replies.extend(at_once(scene.setting.pick(4, 8), |_| admin.get(path)));
    }
    Ok(in_time(&replies, &[200]))
}

fn conditional_creates(scene: &Scene<'_>) -> Result<Verdict> {
    let admin = scene.admin();
    let body = json!({ "resourceType": "ClientApplication", "name": "Conditional" });
    // The last one never matches, so all before it are evaluated.
    let condition = format!("{}&name:contains=no-client-is-called-so", filters(30));
    let replies: Vec<Reply> = at_once(2, |_| {
        let headers = [("if-none-exist", condition.as_str())];
        let create =
            |_| admin.send_with("POST", "fhir/R4/ClientApplication", Body::Json(body.clone()), &headers);
        (0..scene.setting.pick(2, 5)).map(create).collect::<Vec<_>>()
    })
    .into_iter()
    .flatten()
    .collect();
    Ok(in_time(&replies, &[200, 201]))
}

fn one_of_many_creates(scene: &Scene<'_>) -> Result<Verdict> {
    let admin = scene.admin();
    let mut holds = true;
    let mut all = Vec::new();
    for round in 0..scene.setting.pick(3, 20) {
        let name = format!("Only one {round}");
        let body = json!({ "resourceType": "ClientApplication", "name": name });
        let condition = format!("name:exact={}", name.replace(' ', "%20"));
        let replies = at_once(16, |_| {
            let headers = [("if-none-exist", condition.as_str())];
            admin.send_with("POST", "fhir/R4/ClientApplication", Body::Json(body.clone()), &headers)
        });
        let found = admin.get(&format!("fhir/R4/ClientApplication?{condition}")).expect(200)?;
        holds &= found.json()["entry"].as_array().map_or(0, Vec::len) == 1;
        all.extend(replies);
    }
    let verdict = in_time(&all, &[200, 201]);
    Ok(if holds { verdict } else { verdict.and_fails("not exactly one was made") })
}

/// Rules whose criteria nothing matches, and a last one that matches everything.
fn rules() -> Value {
    let rule = |n: usize| json!({ "resourceType": "ClientApplication", "criteria": format!("ClientApplication?_tag=urn:seed|none{n}") });
    let last =
        json!({ "resourceType": "ClientApplication", "criteria": "ClientApplication?_tag=urn:seed|t479" });
    (0..99).map(rule).chain([last]).collect::<Vec<_>>().into()
}

fn rule_checks(scene: &Scene<'_>) -> Result<Verdict> {
    let project = scene.seeded.as_deref().context("the project of tagged clients")?;
    let bound =
        scene.attacker.as_client(&scene.make_client_in(project, "Under many rules", Some(rules()))?);
    let mut replies = Vec::new();
    for path in
        ["fhir/R4/ClientApplication?_count=1000", "fhir/R4/ClientApplication?_count=1000&name:contains=e"]
    {
        replies.extend(at_once(6, |_| bound.get(path)));
    }
    let listed = replies.iter().map(|reply| reply.json()["entry"].as_array().map_or(0, Vec::len)).max();
    let verdict = in_time(&replies, &[200]);
    // If every request is refused, the bound of the cost was not shown.
    let some = listed.is_some_and(|listed| listed > 0);
    Ok(if some { verdict } else { verdict.and_fails("nothing was ever listed") })
}
