//! `openidconnect`, a client library that knows nothing of Keyrelay, against the binary, configured by
//! discovery alone. It makes no signed assertions, but takes one along; `e2e` has libraries that make them.

use std::collections::HashMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyrelay_core::time::{Clock, SystemClock};
use openidconnect::core::{CoreAuthenticationFlow, CoreClient, CoreErrorResponseType, CoreProviderMetadata};
use openidconnect::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointMaybeSet, EndpointNotSet,
    EndpointSet, HttpRequest, HttpResponse, IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeChallenge,
    RedirectUrl, RequestTokenError, Scope, TokenResponse,
};
use serde_json::{Value, json};

use crate::process::{Process, bootstrap, parameters};

const EMAIL: &str = "ann@example.test";
const PASSWORD: &str = "four plain words here";
const REDIRECT: &str = "https://app.example.test/back";

/// A client as discovery leaves it.
type Discovered = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// A server with a project in it, and its Super Admin.
struct Stage {
    server: Process,
    http: reqwest::Client,
    admin: (String, String),
    project: String,
    _dir: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Process::start(dir.path()).await;
        let admin = bootstrap(dir.path());
        // As the library asks for: a redirect of a token endpoint must not be followed.
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.timeout(std::time::Duration::from_mins(1)).build().unwrap();
        let mut stage = Self { server, http, admin, project: String::new(), _dir: dir };
        let project = json!({ "resourceType": "Project", "name": "Cardiology" });
        stage.project = text(&stage.send("fhir/R4/Project", &project).await, "id");
        stage
    }

    async fn send(&self, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.server.base));
        let request = request.basic_auth(&self.admin.0, Some(&self.admin.1)).json(body);
        let answer = request.send().await.unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn new_client(&self) -> Value {
        let body = json!({ "name": "Robot", "redirectUris": [REDIRECT] });
        self.send(&format!("admin/projects/{}/client", self.project), &body).await
    }

    async fn rotate_secret(&self, client: &Value, slot: &str) -> Value {
        let path = format!("fhir/R4/ClientApplication/{}/$rotate-secret", text(client, "id"));
        self.send(&path, &parameters(slot, &text(client, slot))).await
    }

    async fn invite(&self) {
        let person = json!({
            "resourceType": "Practitioner", "firstName": "Ann", "lastName": "Doe",
            "email": EMAIL, "password": PASSWORD, "sendEmail": false,
        });
        self.send(&format!("admin/projects/{}/invite", self.project), &person).await;
    }

    /// The client of the library.
    async fn discover(&self, id: String, secret: Option<String>) -> Discovered {
        let issuer = IssuerUrl::new(self.server.base.clone()).unwrap();
        let metadata =
            CoreProviderMetadata::discover_async(issuer, &|request| self.call(request)).await.unwrap();
        let redirect = RedirectUrl::new(REDIRECT.to_owned()).unwrap();
        CoreClient::from_provider_metadata(metadata, ClientId::new(id), secret.map(ClientSecret::new))
            .set_redirect_uri(redirect)
    }

    /// The transport of the library.
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, reqwest::Error> {
        let answer = self.http.execute(request.try_into()?).await?;
        let mut response = http::Response::builder().status(answer.status());
        *response.headers_mut().unwrap() = answer.headers().clone();
        Ok(response.body(answer.bytes().await?.to_vec()).unwrap())
    }

    async fn is_let_in(&self, token: &str) -> bool {
        let url = format!("{}fhir/R4/Practitioner", self.server.base);
        let status = self.http.get(url).bearer_auth(token).send().await.unwrap().status().as_u16();
        assert!(matches!(status, 200 | 401), "{status}");
        status == 200
    }

    /// Takes the person through the pages; gives the parameters that the browser is sent back with.
    async fn log_in(&self, url: &str) -> HashMap<String, String> {
        let origin = self.server.base.trim_end_matches('/');
        let mut cookie = String::new();
        let mut request = self.http.get(url);
        for _ in 0..5 {
            let answer = request.header("cookie", &cookie).send().await.unwrap();
            if let Some(set) = answer.headers().get("set-cookie") {
                cookie = set.to_str().unwrap().split(';').next().unwrap().to_owned();
            }
            if answer.status() == 303 {
                let target: reqwest::Url = answer.headers()["location"].to_str().unwrap().parse().unwrap();
                return target.query_pairs().into_owned().collect();
            }
            assert_eq!(answer.status(), 200);
            let html = answer.text().await.unwrap();
            let action = between(&html, "<form method=\"post\" action=\"", "\"").replace("&#38;", "&");
            let hidden = |name: &str| between(&html, &format!("name=\"{name}\" value=\""), "\"");
            let filled = match hidden("step") {
                "sign-in" => vec![("step", "sign-in"), ("email", EMAIL), ("password", PASSWORD)],
                "consent" => vec![("step", "consent"), ("login", hidden("login")), ("decision", "allow")],
                step => panic!("no answer to the step {step}"),
            };
            request = self.http.post(action).header("origin", origin).form(&filled);
        }
        panic!("too many steps")
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}"));
    rest.split_once(after).unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_secrets_of_a_rotation_are_accepted_and_a_retired_one_is_not() {
    let stage = Stage::set().await;
    for way in [AuthType::BasicAuth, AuthType::RequestBody] {
        let client = stage.new_client().await;
        let rotated = stage.rotate_secret(&client, "secret").await;
        let grant = async |secret: String| {
            let known = stage.discover(text(&client, "id"), Some(secret)).await.set_auth_type(way.clone());
            known.exchange_client_credentials().unwrap().request_async(&|request| stage.call(request)).await
        };
        for slot in ["retiringSecret", "secret"] {
            let token = grant(text(&rotated, slot)).await.unwrap();
            assert!(stage.is_let_in(token.access_token().secret()).await, "{slot}");
        }
        stage.rotate_secret(&rotated, "retiringSecret").await;
        match grant(text(&client, "secret")).await {
            Err(RequestTokenError::ServerResponse(refused)) => {
                assert_eq!(refused.error(), &CoreErrorResponseType::InvalidClient);
            }
            other => panic!("a retired secret is answered {other:?}"),
        }
        assert!(grant(text(&rotated, "secret")).await.is_ok());
    }
    assert!(stage.server.terminate().await.success());
}

/// Publishes a key of a client, and gives an assertion of who it is, signed by that key (RFC 7523).
async fn assertion(stage: &Stage, client: &str) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let (x, y) = key.public_key().as_ref()[1..].split_at(48);
    let jwk =
        json!({ "kty": "EC", "crv": "P-384", "x": encode(x), "y": encode(y), "kid": "k1", "use": "sig" });
    let published = json!({ "keys": [jwk] }).to_string();
    let patch = json!([{ "op": "add", "path": "/jwks", "value": published }]).to_string();
    let request = stage.http.patch(format!("{}fhir/R4/ClientApplication/{client}", stage.server.base));
    let request = request.basic_auth(&stage.admin.0, Some(&stage.admin.1)).body(patch);
    let answer = request.header("content-type", "application/json-patch+json").send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());

    let claims = json!({
        "iss": client,
        "sub": client,
        "aud": format!("{}oauth2/token", stage.server.base),
        "exp": SystemClock.now().epoch_seconds() + 240,
        "jti": "once",
    });
    let parts = [json!({ "alg": "ES384", "kid": "k1", "typ": "JWT" }), claims];
    let signed = parts.map(|part| encode(part.to_string().as_bytes())).join(".");
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", encode(signature.as_ref()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assertion_that_it_is_given_is_taken_along_and_accepted_once() {
    let stage = Stage::set().await;
    let id = text(&stage.new_client().await, "id");
    let assertion = assertion(&stage, &id).await;
    let known = stage.discover(id, None).await;
    let grant = async || {
        let request = known.exchange_client_credentials().unwrap();
        let request = request.add_extra_param(
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        );
        let request = request.add_extra_param("client_assertion", &assertion);
        request.request_async(&|request| stage.call(request)).await
    };
    let token = grant().await.unwrap();
    assert!(stage.is_let_in(token.access_token().secret()).await);
    match grant().await {
        Err(RequestTokenError::ServerResponse(refused)) => {
            assert_eq!(refused.error(), &CoreErrorResponseType::InvalidClient);
        }
        other => panic!("an assertion that was used is answered {other:?}"),
    }
    assert!(stage.server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_logs_in_by_code_and_pkce_and_stays() {
    let stage = Stage::set().await;
    stage.invite().await;
    let confidential = stage.new_client().await;
    let viewer = json!({ "resourceType": "ClientApplication", "name": "Viewer", "redirectUris": [REDIRECT],
                         "meta": { "project": stage.project } });
    let public = stage.send("fhir/R4/ClientApplication", &viewer).await;
    for client in [confidential, public] {
        let secret = client["secret"].as_str().map(str::to_owned);
        let known = stage.discover(text(&client, "id"), secret).await;
        let transport = |request| stage.call(request);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, csrf, nonce) = known
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                CsrfToken::new_random,
                Nonce::new_random,
            )
            .add_scopes(["email", "offline_access"].map(|name| Scope::new(name.to_owned())))
            .set_pkce_challenge(challenge)
            .url();
        let back = stage.log_in(url.as_str()).await;
        assert_eq!((&back["state"], &back["iss"]), (csrf.secret(), &stage.server.base));

        let code = AuthorizationCode::new(back["code"].clone());
        let exchange = known.exchange_code(code).unwrap().set_pkce_verifier(verifier);
        let token = exchange.request_async(&transport).await.unwrap();
        // The library checks the signature by the published keys, issuer, audience, times and nonce.
        let id_token = token.id_token().expect("an ID token");
        let verifying = known.id_token_verifier();
        let claims = id_token.claims(&verifying, &nonce).unwrap();
        assert_eq!(claims.email().map(|email| email.as_str()), Some(EMAIL));
        assert!(id_token.claims(&verifying, &Nonce::new("another".to_owned())).is_err());

        let asking = known.user_info(token.access_token().clone(), Some(claims.subject().clone())).unwrap();
        let person: openidconnect::core::CoreUserInfoClaims = asking.request_async(&transport).await.unwrap();
        assert_eq!(person.email().map(|email| email.as_str()), Some(EMAIL));
        let refresh = token.refresh_token().expect("a refresh token");
        let fresh = known.exchange_refresh_token(refresh).unwrap().request_async(&transport).await.unwrap();
        assert_ne!(fresh.refresh_token().unwrap().secret(), refresh.secret());
        assert!(stage.is_let_in(fresh.access_token().secret()).await);
    }
    assert!(stage.server.terminate().await.success());
}
