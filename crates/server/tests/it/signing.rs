//! Signing keys that come and go while the server runs: each is published before it signs, and stays
//! until its tokens are dead. What the schedule promises for any run is in `core/tests/signing_model.rs`.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use keyrelay_core::limits::{
    SIGNING_KEY_KEPT, SIGNING_KEY_LIFETIME_DEFAULT, SIGNING_KEY_PUBLISH_AHEAD, SIGNING_KEYS_INTERVAL,
    TOKEN_LIFETIME_MAX,
};
use keyrelay_core::signing::{Schedule, SigningAlgorithm};
use keyrelay_core::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, TestApp};
use crate::{jwt, people};

const SECOND: Duration = Duration::from_secs(1);

async fn well_known(test: &TestApp, name: &str) -> Answer {
    test.request(As::Anonymous, Method::GET, &format!(".well-known/{name}")).send().await.expect(200)
}

async fn jwks(test: &TestApp) -> Value {
    well_known(test, "jwks.json").await.json()
}

fn texts(list: &Value, name: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|key| key[name].as_str().unwrap().to_owned()).collect()
}

/// The published keys, that which signs first.
async fn published(test: &TestApp) -> Vec<String> {
    texts(&jwks(test).await["keys"], "kid")
}

/// A fresh token of the admin, and the key that signed it.
async fn token(test: &TestApp) -> (String, String) {
    let answer = test.grant(&test.admin.id, &test.admin.secret).await.expect(200);
    let token = answer.text_at("/access_token");
    let kid = jwt::header(&token)["kid"].as_str().unwrap().to_owned();
    (token, kid)
}

/// Moves the time, and has the server do what it does every minute.
async fn pass(test: &TestApp, time: Duration) {
    test.clock.advance(time);
    test.app.renew_signing_keys().await;
}

fn by(algorithm: SigningAlgorithm) -> Schedule {
    Schedule::new(algorithm, SIGNING_KEY_LIFETIME_DEFAULT).unwrap()
}

#[tokio::test]
async fn the_next_key_is_published_before_it_signs_and_the_last_one_stays_until_its_tokens_are_dead() {
    let test = TestApp::start().await;
    let day = json!([{ "op": "add", "path": "/accessTokenLifetime", "value": "24h" }]);
    test.patch(&test.super_admin, &test.admin.path(), &day).await.expect(200);
    let (_, first) = token(&test).await;
    pass(&test, SIGNING_KEY_LIFETIME_DEFAULT.saturating_sub(SIGNING_KEY_PUBLISH_AHEAD + SECOND)).await;
    assert_eq!(published(&test).await, [first.as_str()]);

    pass(&test, SECOND).await;
    let both = published(&test).await;
    assert_eq!((both.len(), &both[0]), (2, &first));
    let second = both[1].clone();
    test.clock.advance(SIGNING_KEY_PUBLISH_AHEAD.saturating_sub(SECOND));
    let (last, kid) = token(&test).await;
    assert_eq!(kid, first);

    test.clock.advance(SECOND);
    let (token, kid) = token(&test).await;
    assert_eq!(kid, second);
    assert_eq!(published(&test).await, [second.as_str(), &first]);
    for token in [&last, &token] {
        test.get(As::Bearer(token.clone()), "Project").await.expect(200);
        jwt::verify(token, &jwks(&test).await, &test.base_url);
    }

    pass(&test, TOKEN_LIFETIME_MAX.saturating_sub(SECOND * 2)).await;
    test.get(As::Bearer(last.clone()), "Project").await.expect(200);
    pass(&test, SIGNING_KEY_KEPT.saturating_sub(TOKEN_LIFETIME_MAX) + SECOND).await;
    assert_eq!(published(&test).await.len(), 2);
    pass(&test, SECOND).await;
    assert_eq!(published(&test).await, [second]);
    test.get(As::Bearer(last), "Project").await.refused(401, "login");
}

/// Its time is not over, so only that the key is gone can be what refuses it.
#[tokio::test]
async fn a_token_of_a_forgotten_key_is_refused_also_when_it_was_seen_before() {
    let test = TestApp::start().await;
    let (genuine, first) = token(&test).await;
    let (kid, pair) = test.signing_keys().await.remove(0);
    assert_eq!(kid, first);
    let mut claims = jwt::claims(&genuine);
    claims["exp"] = json!(test.clock.now().epoch_seconds() + 10 * 365 * 86_400);
    let sign = |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    let forged = As::Bearer(jwt::forge(&jwt::header(&genuine), &claims, sign));
    test.get(&forged, "Project").await.expect(200);
    pass(&test, SIGNING_KEY_LIFETIME_DEFAULT).await;
    pass(&test, SIGNING_KEY_PUBLISH_AHEAD).await;
    test.get(&forged, "Project").await.expect(200);
    pass(&test, SIGNING_KEY_KEPT).await;
    assert!(!published(&test).await.contains(&first));
    test.get(&forged, "Project").await.refused(401, "login");
}

#[tokio::test]
async fn what_each_algorithm_signs_is_verified_by_what_is_published() {
    for (algorithm, name, kind) in [
        (SigningAlgorithm::Es256, "ES256", "EC"),
        (SigningAlgorithm::EdDsa, "EdDSA", "OKP"),
        (SigningAlgorithm::Rs256, "RS256", "RSA"),
    ] {
        let test = TestApp::start_configured(|config| config.signing = by(algorithm)).await;
        let keys = jwks(&test).await;
        let key = &keys["keys"][0];
        assert_eq!((&key["alg"], &key["kty"], &key["use"]), (&json!(name), &json!(kind), &json!("sig")));
        for private in ["d", "p", "q", "k"] {
            assert!(key[private].is_null(), "{key}");
        }
        let (token, _) = token(&test).await;
        assert_eq!(jwt::header(&token)["alg"], name);
        assert_eq!(jwt::verify(&token, &keys, &test.base_url)["client_id"], test.admin.id);
        test.get(As::Bearer(token), "Project").await.expect(200);

        people::make_ann(&test, false).await;
        let code = people::log_in(&test, people::PASSWORD).await.expect(200).text_at("/code");
        let id_token = people::redeem(&test, &code).await.expect(200).text_at("/id_token");
        assert_eq!(
            (&jwt::header(&id_token)["alg"], &jwt::header(&id_token)["typ"]),
            (&json!(name), &json!("JWT"))
        );
        jwt::verify(&id_token, &keys, &test.base_url);
        let metadata = well_known(&test, "openid-configuration").await.json();
        assert_eq!(metadata["id_token_signing_alg_values_supported"], json!([name]));
    }
}

#[tokio::test]
async fn another_algorithm_takes_over_when_its_key_has_been_published_and_so_does_the_way_back() {
    let mut test = TestApp::start().await;
    let mut kid = token(&test).await.1;
    for (algorithm, names) in [
        (SigningAlgorithm::Rs256, ["ES256", "RS256"]),
        (SigningAlgorithm::EdDsa, ["RS256", "EdDSA"]),
        (SigningAlgorithm::Es256, ["EdDSA", "ES256"]),
    ] {
        test = test.restart_configured(|config| config.signing = by(algorithm)).await;
        let metadata = well_known(&test, "openid-configuration").await.json();
        let announced = metadata["id_token_signing_alg_values_supported"].as_array().unwrap();
        assert!(announced[0] == names[0] && announced.contains(&json!(names[1])), "{announced:?}");
        assert_eq!(token(&test).await.1, kid, "the old key signs until the new one is known");
        test.clock.advance(SIGNING_KEY_PUBLISH_AHEAD.saturating_sub(SECOND));
        let (last, last_kid) = token(&test).await;
        assert_eq!(last_kid, kid);
        test.clock.advance(SECOND);
        let (fresh, fresh_kid) = token(&test).await;
        assert_eq!(jwt::header(&fresh)["alg"], names[1]);
        assert_ne!(fresh_kid, kid);
        test.get(As::Bearer(last), "Project").await.expect(200);
        kid = fresh_kid;
    }
}

#[tokio::test]
async fn a_server_that_was_off_for_a_year_publishes_the_next_key_before_it_signs() {
    let test = TestApp::start().await;
    let (_, first) = token(&test).await;
    test.clock.advance(Duration::from_hours(365 * 24));
    let base_url = test.base_url.clone();
    let test = test.restart_as(&base_url).await;
    assert_eq!(token(&test).await.1, first);
    let both = published(&test).await;
    assert_eq!((both.len(), &both[0]), (2, &first));
    pass(&test, SIGNING_KEY_PUBLISH_AHEAD).await;
    assert_eq!(token(&test).await.1, both[1]);
}

#[tokio::test]
async fn of_two_servers_on_one_database_one_makes_the_next_key_and_both_use_it() {
    let one = TestApp::start().await;
    let other = one.beside().await;
    let kid = token(&one).await.1;
    for _ in 0..3 {
        one.clock.advance(SIGNING_KEY_LIFETIME_DEFAULT);
        tokio::join!(one.app.renew_signing_keys(), other.app.renew_signing_keys());
        let keys = published(&one).await;
        assert_eq!(published(&other).await, keys);
        assert_eq!(keys.len(), 2, "one that signs, and the next");
        one.clock.advance(SIGNING_KEY_PUBLISH_AHEAD);
        let (fresh, fresh_kid) = token(&other).await;
        assert_eq!(fresh_kid, keys[1]);
        assert_ne!(fresh_kid, kid);
        one.get(As::Bearer(fresh), "Project").await.expect(200);
    }
}

#[tokio::test]
async fn a_running_server_renews_its_keys_by_itself() {
    let test = TestApp::start().await;
    test.clock.advance(SIGNING_KEY_LIFETIME_DEFAULT);
    assert_eq!(published(&test).await.len(), 1);
    tokio::time::pause();
    tokio::time::advance(SIGNING_KEYS_INTERVAL + SECOND).await;
    tokio::time::resume();
    // The connections there were have been idle for too long.
    for _ in 0..1000 {
        let asked = test.request_elsewhere(As::Anonymous, Method::GET, ".well-known/jwks.json");
        if asked.send().await.json()["keys"].as_array().unwrap().len() == 2 {
            return;
        }
    }
    panic!("no key was made");
}

#[tokio::test]
async fn the_published_keys_are_not_kept_for_longer_than_half_the_time_ahead() {
    let test = TestApp::start().await;
    let answer = well_known(&test, "jwks.json").await;
    let age = answer.header("cache-control").strip_prefix("public, max-age=").unwrap().parse().unwrap();
    assert!(Duration::from_secs(age) * 2 <= SIGNING_KEY_PUBLISH_AHEAD);
}
