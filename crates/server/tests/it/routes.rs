//! The routes beside FHIR, and what the server says about itself.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};

async fn anonymous(test: &TestApp, path: &str) -> Answer {
    test.request(As::Anonymous, Method::GET, path).send().await
}

async fn create_client(test: &TestApp, who: impl Into<As>, project: &str, body: &Value) -> Answer {
    test.request(who, Method::POST, &format!("admin/projects/{project}/client")).json(body).send().await
}

#[tokio::test]
async fn a_client_is_made_with_its_secret_and_its_membership() {
    let test = TestApp::start().await;
    let policy =
        json!({ "resourceType": "AccessPolicy", "resource": [{ "resourceType": "*", "readonly": true }] });
    let policy = test.post(&test.admin, "AccessPolicy", &policy).await.expect(201).text_at("/id");
    let policy = json!({ "reference": format!("AccessPolicy/{policy}") });
    let body = json!({
        "name": "Nightly export",
        "description": "Runs at night",
        "redirectUris": ["https://app.example.test/callback"],
        "accessPolicy": policy,
        "accessTokenLifetime": "5m",
        "refreshTokenLifetime": "30d",
    });
    let answer = create_client(&test, &test.admin, &test.project, &body).await.expect(201);
    assert_eq!(answer.header("cache-control"), "no-store");
    let client = Credentials { id: answer.text_at("/id"), secret: answer.text_at("/secret") };
    assert!(client.secret.starts_with("krs_"));
    for (name, value) in body.as_object().unwrap() {
        let expected = (name != "accessPolicy").then_some(value);
        assert_eq!(answer.json().get(name), expected, "{name}");
    }
    assert_eq!(test.get(&test.admin, &client.path()).await.json(), answer.json());
    assert!(test.lets_in(&client.id, &client.secret).await);
    assert_eq!(test.grant(&client.id, &client.secret).await.json()["expires_in"], 300);

    let membership = test.membership_of(&client).await;
    assert_eq!((&membership["accessPolicy"], membership.get("admin")), (&policy, None));
    assert_eq!(membership["project"]["reference"], format!("Project/{}", test.project));
    let reference = json!({ "reference": client.path(), "display": "Nightly export" });
    assert_eq!((&membership["user"], &membership["profile"]), (&reference, &reference));
}

#[tokio::test]
async fn only_an_admin_makes_clients_and_only_in_its_project() {
    let test = TestApp::start().await;
    let body = json!({ "name": "Nightly export" });
    let unknown = "0198c2f0-1111-4222-8333-944455566677";
    create_client(&test, As::Anonymous, &test.project, &body).await.refused(401, "login");
    create_client(&test, &test.member, &test.project, &body).await.refused(403, "forbidden");
    create_client(&test, &test.member, "no-uuid", &json!([])).await.refused(403, "forbidden");
    for project in [&test.other_project, unknown, "no-uuid", "%FF"] {
        create_client(&test, &test.admin, project, &body).await.refused(404, "not-found");
    }
    create_client(&test, &test.super_admin, unknown, &body).await.refused(404, "not-found");
    create_client(&test, &test.super_admin, &test.other_project, &body).await.expect(201);
    let path = format!("admin/projects/{}/client", test.project);
    let answer = test.request(&test.admin, Method::GET, &path).send().await;
    answer.refused(405, "not-supported");
    assert_eq!(answer.header("allow"), "POST");
}

#[tokio::test]
async fn a_client_that_cannot_be_made_is_not_made() {
    let test = TestApp::start().await;
    let theirs = json!({ "resourceType": "AccessPolicy", "resource": [{ "resourceType": "*" }] });
    let theirs = test.post(&test.stranger, "AccessPolicy", &theirs).await.expect(201).text_at("/id");
    let named = |name: &str, value: Value| json!({ "name": "Nightly export", name: value });
    let policy = |reference: &str| named("accessPolicy", json!({ "reference": reference }));
    for (body, code) in [
        (json!({}), "invalid"),
        (json!([]), "invalid"),
        (json!({ "name": "" }), "invalid"),
        (json!({ "name": 7 }), "invalid"),
        (named("secret", json!("mine, of more than thirty-two characters")), "invalid"),
        (named("status", json!("off")), "invalid"),
        (policy(&format!("AccessPolicy/{theirs}")), "invalid"),
        (policy("Project/x"), "invalid"),
        (named("redirectUris", json!("x")), "structure"),
        (named("accessTokenLifetime", json!("soon")), "value"),
        (named("accessTokenLifetime", json!("25h")), "invalid"),
    ] {
        create_client(&test, &test.admin, &test.project, &body).await.refused(400, code);
    }
    let found = test.get(&test.admin, "ClientApplication?_summary=count").await.expect(200);
    assert_eq!(found.json()["total"], 2);
}

#[tokio::test]
async fn me_is_who_asks() {
    let test = TestApp::start().await;
    for (who, role) in
        [(&test.super_admin, "super-admin"), (&test.admin, "project-admin"), (&test.member, "member")]
    {
        for caller in [As::from(who), test.bearer(who).await] {
            let me = test.request(caller, Method::GET, "auth/me").send().await.expect(200);
            assert_eq!(me.header("cache-control"), "no-store");
            assert_eq!((me.text_at("/role"), me.text_at("/profile/id")), (role.to_owned(), who.id.clone()));
            assert_eq!(me.text_at("/membership/profile/reference"), who.path());
            assert_eq!(me.text_at("/project/resourceType"), "Project");
            assert!(!me.text.contains("ecret\""), "{}", me.text);
        }
    }
    anonymous(&test, "auth/me").await.refused(401, "login");
    let answer = test.request(&test.member, Method::POST, "auth/me").send().await;
    answer.refused(405, "not-supported");
    assert_eq!(answer.header("allow"), "GET");
}

#[tokio::test]
async fn probes_need_no_credentials() {
    let test = TestApp::start().await;
    let health = anonymous(&test, "healthcheck").await.expect(200);
    assert_eq!(health.json(), json!({ "ok": true, "version": env!("CARGO_PKG_VERSION") }));
    assert_eq!(health.header("cache-control"), "no-store");
    for path in ["livez", "readyz"] {
        assert_eq!(anonymous(&test, path).await.expect(200).text, "ok");
    }
    for path in ["healthcheck", "livez", "readyz", "metrics", ".well-known/jwks.json"] {
        let answer = test.request(As::Anonymous, Method::POST, path).send().await;
        answer.refused(405, "not-supported");
        assert!(answer.header("allow").starts_with("GET"), "{path}: {}", answer.header("allow"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn metrics_count_and_name_nobody() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let value = async |series: &str| {
        let all = anonymous(&test, "metrics").await.expect(200).text;
        let line =
            all.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("{series}: {all}"));
        line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
    };
    let before = [value("keyrelay_rotations_total").await, value("keyrelay_retirements_total").await];
    let refused = value("keyrelay_proofs_refused_total").await;
    let new = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.text_at("/secret");
    let retiring = value("keyrelay_secret_uses_total{slot=\"retiring\"}").await;
    test.grant(&client.id, &client.secret).await.expect(200);
    assert_eq!(value("keyrelay_secret_uses_total{slot=\"retiring\"}").await - retiring, 1);
    test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
    test.grant(&client.id, "wrong").await.expect(401);
    assert_eq!(value("keyrelay_rotations_total").await - before[0], 1);
    assert_eq!(value("keyrelay_retirements_total").await - before[1], 1);
    assert_eq!(value("keyrelay_proofs_refused_total").await - refused, 1);
    let all = anonymous(&test, "metrics").await.text;
    for hidden in [&client.id, &client.secret, &new, &test.project, "Nightly"] {
        assert!(!all.contains(hidden), "{hidden} in {all}");
    }
}

#[tokio::test]
async fn client_libraries_find_everything_by_the_metadata() {
    let test = TestApp::start().await;
    let base = format!("http://{}/", test.address);
    let methods = json!(["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]);
    let mut smart = Vec::new();
    for path in [
        ".well-known/openid-configuration",
        ".well-known/oauth-authorization-server",
        ".well-known/smart-configuration",
        "fhir/R4/.well-known/smart-configuration",
    ] {
        let answer = anonymous(&test, path).await.expect(200);
        let body = answer.json();
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(body["issuer"], base, "{path}");
        assert_eq!(body["token_endpoint"], format!("{base}oauth2/token"));
        assert_eq!(body["jwks_uri"], format!("{base}.well-known/jwks.json"));
        assert_eq!(body["token_endpoint_auth_methods_supported"], methods);
        assert_eq!(
            body["grant_types_supported"],
            json!(["client_credentials", "authorization_code", "refresh_token"])
        );
        // Only what is there is named.
        for (name, url) in body.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_endpoint")) {
            let path = url.as_str().unwrap().strip_prefix(&base).unwrap();
            let answer = test.request(As::Anonymous, Method::POST, path).send().await;
            assert_ne!(answer.status, 404, "{name}");
        }
        if path.ends_with("smart-configuration") {
            smart.push(body);
        }
    }
    assert_eq!(smart[0], smart[1]);
    assert!(smart[0]["capabilities"].as_array().unwrap().contains(&json!("client-confidential-symmetric")));
    let resource = anonymous(&test, ".well-known/oauth-protected-resource").await.expect(200).json();
    assert_eq!((&resource["resource"], &resource["authorization_servers"]), (&json!(base), &json!([base])));

    let jwks = anonymous(&test, ".well-known/jwks.json").await.expect(200).json();
    let key = &jwks["keys"][0];
    assert_eq!(
        (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
        (&json!("EC"), &json!("P-256"), &json!("ES256"), &json!("sig"))
    );
    assert_eq!(key.get("d"), None);
}

#[tokio::test]
async fn unknown_paths_are_an_outcome() {
    let test = TestApp::start().await;
    for path in [
        "",
        "nowhere",
        "oauth2",
        "oauth2/nowhere",
        "admin/projects",
        "fhir",
        "fhir/R5/Project",
        "auth/me/x",
        "%FF",
    ] {
        assert_eq!(anonymous(&test, path).await.refused(404, "not-found"), "Not found", "{path}");
    }
    // Below the FHIR base nothing is told to who has not logged in.
    anonymous(&test, "fhir/R4/Nonsense").await.refused(401, "login");
    anonymous(&test, "fhir/R4").await.refused(401, "login");
}
