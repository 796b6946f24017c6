//! Section 5: records name the actor, and each member of a body is applied or refused.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Needs, Row, Verdict};
use crate::api::{Body, Proof, Reply};
use crate::scene::{Kind, Scene, invite};
use crate::tenant::PASSWORD;

pub(super) static ROWS: &[Row] = &[
    Row {
        name: "profile-of-another",
        claim: "the profile of one person is given to no other",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: profile_of_another,
    },
    Row {
        name: "invite-members",
        claim: "every member of an invitation is honoured or refused",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: invite_members,
    },
    Row {
        name: "odd-names",
        claim: "names that a terminal or a page would show as something else are refused",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: odd_names,
    },
];

fn is_refused(reply: &Reply) -> bool {
    (400..500).contains(&reply.status)
}

/// The names of the members that were not refused.
fn all_refused(cases: &[(&str, Reply)]) -> Verdict {
    let taken: Vec<String> = cases
        .iter()
        .filter(|(_, reply)| !is_refused(reply))
        .map(|(name, reply)| format!("{name}: {reply}"))
        .collect();
    if taken.is_empty() {
        Verdict::Holds(format!("{} refused", cases.len()))
    } else {
        Verdict::Fails(taken.join("; "))
    }
}

fn profile_of_another(scene: &Scene<'_>) -> Result<Verdict> {
    let (admin, project) = (scene.admin(), format!("Project/{}", scene.a.project));
    let innocent = invite(&scene.supers, &scene.a.project, "innocent@example.test")?;
    let other = invite(&scene.supers, &scene.a.project, "other@example.test")?;
    let profile = innocent["profile"]["reference"].as_str().context("the profile of a person")?;
    let user = json!({
        "resourceType": "User", "firstName": "No", "lastName": "Body", "email": "double@example.test",
        "project": { "reference": project },
    });
    let user = admin.post("fhir/R4/User", user);
    let made = user.text_at("/id").unwrap_or_default();
    let membership = |user: &str| {
        json!({
            "resourceType": "ProjectMembership", "project": { "reference": project }, "admin": true,
            "user": { "reference": user }, "profile": { "reference": profile },
        })
    };
    let user = format!("User/{made}");
    let path = format!("fhir/R4/ProjectMembership/{}", other["id"].as_str().unwrap_or_default());
    let mut whole = admin.get(&path).expect(200)?.json();
    whole["profile"]["reference"] = json!(profile);
    let entry =
        json!({ "resource": membership(&user), "request": { "method": "POST", "url": "ProjectMembership" } });
    let transaction = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [entry] });
    let replace = json!([{ "op": "replace", "path": "/profile/reference", "value": profile }]);
    let cases = [
        ("create", admin.post("fhir/R4/ProjectMembership", membership(&user))),
        ("update", admin.send("PUT", &path, Body::Json(whole))),
        ("patch", admin.send("PATCH", &path, Body::Patch(replace))),
        ("transaction", admin.post("fhir/R4", transaction)),
    ];
    Ok(all_refused(&cases))
}

fn invite_members(scene: &Scene<'_>) -> Result<Verdict> {
    let (admin, project) = (scene.admin(), &scene.a.project);
    let policy = json!({ "resourceType": "AccessPolicy", "name": "Reads projects", "resource": [{ "resourceType": "Project" }] });
    let policy = admin.post("fhir/R4/AccessPolicy", policy).expect(201)?.text_at("/id")?;
    let reference = json!({ "reference": format!("AccessPolicy/{policy}") });
    let cases = [
        ("access", json!({ "access": [{ "policy": reference }] })),
        ("active", json!({ "active": false })),
        ("userName", json!({ "userName": "ann" })),
        ("externalId", json!({ "externalId": "42" })),
        ("identifier", json!({ "identifier": [{ "system": "urn:x", "value": "42" }] })),
        ("nonsense", json!({ "nonsense": true })),
        ("admin", json!({ "admin": "yes" })),
    ];
    let mut dropped = Vec::new();
    for (name, membership) in &cases {
        let email = format!("invited-{name}@example.test").to_lowercase();
        let body = json!({
            "resourceType": "Practitioner", "firstName": "Ann", "lastName": "Doe", "email": email,
            "password": PASSWORD, "membership": membership,
        });
        let reply = admin.post(&format!("admin/projects/{project}/invite"), body);
        if is_refused(&reply) {
            continue;
        }
        let stored = admin.get(&format!("fhir/R4/ProjectMembership/{}", reply.text_at("/id")?)).json();
        // One policy without parameters may be kept in the element that holds one.
        let as_one = *name == "access" && stored["accessPolicy"] == reference;
        if stored[*name] != membership[*name] && !as_one {
            dropped.push((*name).to_owned());
        }
        if *name == "active" {
            let login = json!({ "email": email, "password": PASSWORD });
            let reply = scene.nobody().post("auth/login", login);
            if reply.status == 200 {
                dropped.push("somebody who is not active logs in".to_owned());
            }
        }
    }
    let holds = dropped.is_empty();
    Ok(Verdict::of(
        holds,
        if holds { "7 honoured or refused".to_owned() } else { format!("dropped: {}", dropped.join(", ")) },
    ))
}

fn odd_names(scene: &Scene<'_>) -> Result<Verdict> {
    let admin = scene.admin();
    let registration = format!("admin/projects/{}/registration", scene.a.project);
    let mut cases: Vec<(&str, Reply)> = Vec::new();
    for name in [
        "Bank\u{202e}kcatta",
        "Bank\u{2066}\u{2069}",
        "Bank\u{1b}[2J",
        "Bank\u{7}",
        "Bank\rroot",
        "Bank\u{9b}2J",
    ] {
        let client = json!({ "resourceType": "ClientApplication", "name": name });
        let initial = admin.post(&registration, json!({})).expect(201)?.text_at("/initial_access_token")?;
        let register = json!({ "client_name": name, "grant_types": ["client_credentials"] });
        let rename: Value = json!(name);
        cases.extend([
            ("create", admin.post("fhir/R4/ClientApplication", client)),
            ("patch", admin.add(&scene.a.member.path(), "/name", &rename)),
            (
                "admin route",
                admin.post(&format!("admin/projects/{}/client", scene.a.project), json!({ "name": name })),
            ),
            ("registration", scene.attacker.with(Proof::Bearer(initial)).post("oauth2/register", register)),
        ]);
    }
    Ok(all_refused(&cases))
}
