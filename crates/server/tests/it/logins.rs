//! What a person does about its own logins from within an application: chooses the project, ends one
//! of them, and takes the second factor away again.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{As, TestApp};
use crate::authenticator::Authenticator;
use crate::people::{EMAIL, PASSWORD, claims, invite, json_post, log_in, make_ann, redeem, token};

/// A person who is a member of several projects: Super Admins keep the account, and it is for all of them.
/// Gives the memberships.
async fn make_ann_of_all(test: &TestApp) -> Vec<Value> {
    let own = test.membership_of(&test.super_admin).await["project"].clone();
    let path =
        format!("admin/projects/{}/invite", own["reference"].as_str().unwrap().replace("Project/", ""));
    let body = json!({
        "resourceType": "Practitioner", "firstName": "Ann", "lastName": "Doe", "email": EMAIL, "password": PASSWORD,
    });
    let first =
        test.request(&test.super_admin, Method::POST, &path).json(&body).send().await.expect(200).json();
    let for_all = json!([{ "op": "remove", "path": "/project" }]);
    test.patch(&test.super_admin, first["user"]["reference"].as_str().unwrap(), &for_all).await.expect(200);
    let mut memberships = vec![first.clone()];
    for project in [&test.project, &test.other_project] {
        let profile = json!({ "resourceType": "Practitioner", "meta": { "project": project } });
        let profile = test.post(&test.super_admin, "Practitioner", &profile).await.expect(201).text_at("/id");
        let body = json!({
            "resourceType": "ProjectMembership",
            "meta": { "project": project },
            "project": { "reference": format!("Project/{project}") },
            "user": first["user"],
            "profile": { "reference": format!("Practitioner/{profile}") },
        });
        let made = test.post(&test.super_admin, "ProjectMembership", &body).await.expect(201);
        memberships.push(made.json());
    }
    memberships
}

/// A member of the project who is not Ann; gives the membership.
async fn make_bo(test: &TestApp) -> Value {
    let body = json!({
        "resourceType": "Practitioner", "firstName": "Bo", "lastName": "Roe",
        "email": "bo@example.test", "password": PASSWORD,
    });
    invite(test, &body).await.expect(200).json()
}

#[tokio::test]
async fn who_belongs_to_several_projects_chooses_one_and_acts_there() {
    let test = TestApp::start().await;
    let memberships = make_ann_of_all(&test).await;
    let others = make_bo(&test).await;
    let choose = async |login: &str, membership: &Value| {
        let body = json!({ "login": login, "profile": membership["id"] });
        json_post(&test, As::Anonymous, "auth/profile", &body).await
    };
    for chosen in &memberships {
        let begun = log_in(&test, PASSWORD).await.expect(200);
        let (login, offered) = (begun.text_at("/login"), begun.json()["memberships"].clone());
        let offered = offered.as_array().unwrap();
        assert_eq!((offered.len(), &begun.json()["code"]), (3, &Value::Null), "{offered:?}");
        for membership in &memberships {
            let offer = offered.iter().find(|offer| offer["id"] == membership["id"]).unwrap();
            for element in ["project", "profile"] {
                assert_eq!(offer[element]["reference"], membership[element]["reference"]);
            }
        }
        choose(&login, &others).await.refused(400, "invalid");
        let answer = choose(&login, chosen).await.expect(200);
        assert_eq!(answer.text_at("/login"), login);
        choose(&login, chosen).await.refused(400, "invalid");
        let tokens = redeem(&test, &answer.text_at("/code")).await.expect(200);
        for element in ["project", "profile"] {
            assert_eq!(tokens.json()[element]["reference"], chosen[element]["reference"]);
        }
        let bearer = As::Bearer(tokens.text_at("/access_token"));
        let me = test.request(&bearer, Method::GET, "auth/me").send().await.expect(200).json();
        assert_eq!(me["membership"]["id"], chosen["id"]);
        let project = format!("Project/{}", me["project"]["id"].as_str().unwrap());
        assert_eq!(project, chosen["project"]["reference"]);
    }
    // Where the project is known there is nothing to choose.
    let body = json!({ "email": EMAIL, "password": PASSWORD, "projectId": test.other_project });
    let begun = json_post(&test, As::Anonymous, "auth/login", &body).await.expect(200);
    let tokens = redeem(&test, &begun.text_at("/code")).await.expect(200);
    assert_eq!(tokens.json()["project"]["reference"], memberships[2]["project"]["reference"]);
}

#[tokio::test]
async fn a_person_ends_one_of_its_own_logins_and_nobody_elses() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    make_bo(&test).await;
    let (own, other) = (token(&test).await, token(&test).await);
    let body = json!({ "email": "bo@example.test", "password": PASSWORD });
    let code = json_post(&test, As::Anonymous, "auth/login", &body).await.expect(200).text_at("/code");
    let bo = As::Bearer(redeem(&test, &code).await.expect(200).text_at("/access_token"));
    let revoke = async |who: As, whose: &As| {
        let login = claims(whose.text())["login_id"].clone();
        json_post(&test, who, "auth/revoke", &json!({ "loginId": login })).await
    };
    for stranger in [bo.clone(), As::from(&test.admin), As::from(&test.super_admin)] {
        revoke(stranger, &other).await.refused(404, "not-found");
    }
    test.get(&other, "Practitioner").await.expect(200);

    let answer = revoke(own.clone(), &other).await.expect(200).json();
    assert_eq!(
        (&answer["resourceType"], &answer["issue"][0]["severity"]),
        (&json!("OperationOutcome"), &json!("information"))
    );
    test.get(&other, "Practitioner").await.refused(401, "login");
    for alive in [&own, &bo] {
        test.get(alive, "Practitioner").await.expect(200);
    }
    revoke(own.clone(), &own).await.expect(200);
    test.get(&own, "Practitioner").await.refused(401, "login");
}

#[tokio::test]
async fn a_second_factor_is_taken_away_by_a_last_code_of_it() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let bearer = token(&test).await;
    let app = Authenticator::enrol(&test, &bearer).await;
    let send =
        async |path: &str, code: String| json_post(&test, &bearer, path, &json!({ "token": code })).await;
    let asks_for_it = async || log_in(&test, PASSWORD).await.expect(200).json()["mfaRequired"] == true;
    test.clock.advance(Duration::from_mins(1));
    send("auth/mfa/disable", app.wrong_code(&test)).await.refused(400, "invalid");
    assert!(asks_for_it().await);
    let answer = send("auth/mfa/disable", app.code(&test)).await.expect(200);
    assert_eq!(answer.json(), json!({ "enrolled": false }));
    assert!(!asks_for_it().await);
    // What the app has is of no more use: another one is set up by another key.
    let status = test.request(&bearer, Method::GET, "auth/mfa/status").send().await.expect(200);
    assert_eq!(status.json()["enrolled"], false);
    let next = Authenticator::offered(&test, &bearer).await;
    test.clock.advance(Duration::from_mins(1));
    send("auth/mfa/enroll", app.code(&test)).await.refused(400, "invalid");
    send("auth/mfa/enroll", next.code(&test)).await.expect(200);
    assert!(asks_for_it().await);
}
