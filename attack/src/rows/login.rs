//! Section 5, and consent of part 0: logins, and what their answers reveal to others.

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Needs, Row, Verdict};
use crate::api::{Body, Caller, Reply, Tally};
use crate::clock::unix_seconds;
use crate::scene::{Kind, Scene, invite};
use crate::tenant::PASSWORD;

pub(super) static ROWS: &[Row] = &[
    Row {
        name: "same-address",
        claim: "an account of the same address in another project shuts nobody out",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: same_address,
    },
    Row {
        name: "authorize-unknown",
        claim: "unknown and inactive clients and unregistered redirect URIs look the same",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: authorize_unknown,
    },
    Row {
        name: "consent-of-another",
        claim: "with another person's cookie, another person's consent cannot be given",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: consent_of_another,
    },
    Row {
        name: "redirect-uris",
        claim: "redirect URIs that lead elsewhere than they say are refused",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: redirect_uris,
    },
    Row {
        name: "assertion-audience",
        claim: "an assertion that is also for somebody else is refused",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: assertion_audience,
    },
    Row {
        name: "former-behind-nat",
        claim: "a worker with a former secret shuts out nobody at its address",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: former_behind_nat,
    },
];

const REDIRECT: &str = "https://app.example.test/back";
/// RFC 7636, appendix B.
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn same_address(scene: &Scene<'_>) -> Result<Verdict> {
    let login = json!({ "email": scene.b.email, "password": PASSWORD });
    let before = scene.nobody().post("auth/login", login.clone());
    let user = json!({
        "resourceType": "User", "firstName": "Not", "lastName": "Ann", "email": scene.b.email,
        "project": { "reference": format!("Project/{}", scene.a.project) },
    });
    let made = scene.admin().post("fhir/R4/User", user);
    let body = json!({
        "resourceType": "Practitioner", "firstName": "Not", "lastName": "Ann", "email": scene.b.email,
        "password": "another four plain words",
    });
    let invited = scene.admin().post(&format!("admin/projects/{}/invite", scene.a.project), body);
    let after = scene.nobody().post("auth/login", login);
    let seen =
        format!("user {}, invited {}; before {}, after {after}", made.status, invited.status, before.status);
    Ok(Verdict::of(before.status == 200 && after.status == 200, seen))
}

fn make_app(scene: &Scene<'_>, more: &Value) -> Result<String> {
    let mut body =
        json!({ "resourceType": "ClientApplication", "name": "Viewer", "redirectUris": [REDIRECT] });
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    scene.admin().post("fhir/R4/ClientApplication", body).expect(201)?.text_at("/id")
}

fn authorize_path(client: &str, redirect: &str) -> String {
    format!(
        "oauth2/authorize?response_type=code&client_id={client}&redirect_uri={redirect}&state=xyz&code_challenge={CHALLENGE}&code_challenge_method=S256"
    )
}

fn authorize_unknown(scene: &Scene<'_>) -> Result<Verdict> {
    let (active, off) = (make_app(scene, &json!({}))?, make_app(scene, &json!({ "status": "off" }))?);
    let unknown = "00000000-0000-4000-8000-000000000000";
    let elsewhere = "https://elsewhere.example.test/back";
    let cases = [
        ("unknown client", unknown, REDIRECT),
        ("inactive client", &off, REDIRECT),
        ("unregistered redirect URI", &active, elsewhere),
    ];
    let nobody = scene.nobody();
    let pages = cases.map(|(name, client, redirect)| (name, nobody.get(&authorize_path(client, redirect))));
    let (_, first) = &pages[0];
    let mut apart: Vec<String> = Vec::new();
    for (name, page) in &pages {
        let same = |name: &str| page.headers.get(name) == first.headers.get(name);
        if page.text != first.text
            || page.status != first.status
            || !same("content-length")
            || !same("set-cookie")
        {
            apart.push(format!("authorize: {name} ({})", page.status));
        }
    }
    let login = |client: &str, password: &str| {
        let mut body = json!({ "email": scene.a.email, "password": password });
        body["clientId"] = json!(client);
        nobody.post("auth/login", body)
    };
    // An invented client, a disabled one, and an existing one, for a person without a password.
    for password in ["not the password", PASSWORD] {
        let (unknown, off) = (login(unknown, password), login(&off, password));
        if (unknown.status, &unknown.text) != (off.status, &off.text) {
            apart.push(format!("login: {} and {}", unknown.status, off.status));
        }
    }
    let (unknown, known) = (login(unknown, "not the password"), login(&active, "not the password"));
    if (unknown.status, &unknown.text) != (known.status, &known.text) {
        apart.push(format!("login with a wrong password: {unknown} and {known}"));
    }
    let holds = apart.is_empty();
    Ok(Verdict::of(
        holds,
        if holds { "told apart by nothing".to_owned() } else { format!("told apart: {}", apart.join("; ")) },
    ))
}

fn submit(caller: &Caller, path: &str, cookie: &str, form: Vec<(&'static str, String)>) -> Reply {
    let origin = caller.base().trim_end_matches('/').to_owned();
    caller.send_with("POST", path, Body::Form(form), &[("cookie", cookie), ("origin", &origin)])
}

fn cookie_of(reply: &Reply) -> String {
    let header = reply.headers.get("set-cookie").and_then(|value| value.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().to_owned()
}

/// The hidden inputs of a page.
fn hidden(page: &str) -> Vec<(String, String)> {
    let attribute = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let tags = page.split("<input").skip(1).filter_map(|rest| rest.split_once('>')).map(|(tag, _)| tag);
    tags.filter(|tag| tag.contains("type=\"hidden\""))
        .filter_map(|tag| Some((attribute(tag, "name")?, attribute(tag, "value")?)))
        .collect()
}

fn consent_of_another(scene: &Scene<'_>) -> Result<Verdict> {
    let nobody = scene.nobody();
    invite(&scene.supers, &scene.a.project, "mallory@example.test")?;
    let path = authorize_path(&make_app(scene, &json!({}))?, REDIRECT);
    let sign_in = |email: &str| -> Result<Reply> {
        let page = nobody.get(&path).expect(200)?;
        let mut form = vec![("email", email.to_owned()), ("password", PASSWORD.to_owned())];
        let mut names = vec!["email", "password"];
        for (name, value) in hidden(&page.text) {
            // Names of form fields are few, and live as long as the run.
            let name: &'static str = Box::leak(name.into_boxed_str());
            names.push(name);
            form.push((name, value));
        }
        if !names.contains(&"step") {
            form.push(("step", "sign-in".to_owned()));
        }
        submit(&nobody, &path, &cookie_of(&page), form).expect(200)
    };
    let (own, other) = (sign_in("mallory@example.test")?, sign_in(&scene.a.email)?);
    let form = |page: &Reply| {
        let mut form = vec![("decision", "allow".to_owned())];
        let fields = hidden(&page.text);
        if !fields.iter().any(|(name, _)| name == "step") {
            form.push(("step", "consent".to_owned()));
        }
        form.extend(fields.into_iter().map(|(name, value)| (&*Box::leak(name.into_boxed_str()), value)));
        form
    };
    // The page that Mallory saw, sent with the cookie of another person.
    let forged = submit(&nobody, &path, &cookie_of(&other), form(&own));
    // A form that anybody can write without the page.
    let plain = vec![("decision", "allow".to_owned()), ("step", "consent".to_owned())];
    let guessed = submit(&nobody, &path, &cookie_of(&other), plain);
    let given = |reply: &Reply| {
        let location = reply.headers.get("location").and_then(|value| value.to_str().ok());
        location.is_some_and(|location| location.contains("code="))
    };
    // The person who saw the page still may answer.
    let proper = submit(&nobody, &path, &cookie_of(&own), form(&own));
    let seen = format!("forged {}, guessed {}, proper {}", forged.status, guessed.status, proper.status);
    Ok(Verdict::of(!given(&forged) && !given(&guessed) && given(&proper), seen))
}

fn redirect_uris(scene: &Scene<'_>) -> Result<Verdict> {
    let admin = scene.admin();
    let uris = [
        "ms-msdt:/id",
        "smb://files.example.test/share",
        "chrome://settings",
        "https:app.example.test",
        "https://user@app.example.test/",
        "https://app.example.test@elsewhere.example.test/",
        "https://*.example.test/",
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "https://app.example.test/#fragment",
        "https://app.example.test\\@elsewhere.example.test/",
    ];
    let mut taken = Vec::new();
    for uri in uris {
        let reply = admin.add(&scene.a.member.path(), "/redirectUris", &json!([uri]));
        if !(400..500).contains(&reply.status) {
            taken.push(format!("{uri}: {}", reply.status));
        }
    }
    for uri in ["https://app.example.test/back", "http://127.0.0.1:1234/back", "com.example.app:/back"] {
        let reply = admin.add(&scene.a.member.path(), "/redirectUris", &json!([uri]));
        if reply.status != 200 {
            taken.push(format!("{uri}: {reply}"));
        }
    }
    let holds = taken.is_empty();
    Ok(Verdict::of(holds, if holds { format!("{} refused", uris.len()) } else { taken.join(", ") }))
}

fn assertion_audience(scene: &Scene<'_>) -> Result<Verdict> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok().context("making a key")?;
    let (admin, client) = (scene.admin(), scene.a.member.id.as_str());
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let key =
        json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y), "kid": "k", "use": "sig" });
    let set = json!({ "keys": [key] }).to_string();
    admin.add(&scene.a.member.path(), "/jwks", &json!(set)).expect(200)?;
    let sign = |jti: &str, audience: &Value| -> Result<String> {
        let header = json!({ "alg": "ES256", "kid": "k", "typ": "JWT" });
        let claims = json!({
            "iss": client, "sub": client, "aud": audience, "jti": jti, "exp": unix_seconds() + 120,
        });
        let text =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = pair.sign(&SystemRandom::new(), text.as_bytes()).ok().context("signing")?;
        Ok(format!("{text}.{}", encode(signature.as_ref())))
    };
    let issuer = scene.attacker.base().to_owned();
    let endpoint = format!("{issuer}oauth2/token");
    let other = "https://elsewhere.example.test/oauth2/token";
    let cases = [
        ("ours", json!(endpoint), 200),
        ("both of ours", json!([issuer, endpoint]), 200),
        ("another's", json!(other), 401),
        ("ours and another's", json!([endpoint, other]), 401),
        ("another's and ours", json!([other, issuer]), 401),
        ("ours twice, in another case", json!([endpoint, endpoint.to_uppercase()]), 401),
        ("none", json!([]), 401),
    ];
    let mut wrong = Vec::new();
    for (n, (name, audience, status)) in cases.iter().enumerate() {
        let form = vec![
            ("grant_type", "client_credentials".to_owned()),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned()),
            ("client_assertion", sign(&format!("jti-{n}"), audience)?),
        ];
        let reply = scene.nobody().send("POST", "oauth2/token", Body::Form(form));
        if reply.status != *status {
            wrong.push(format!("{name}: {reply}"));
        }
    }
    Ok(Verdict::of(
        wrong.is_empty(),
        if wrong.is_empty() { "7 audiences".to_owned() } else { wrong.join("; ") },
    ))
}

fn former_behind_nat(scene: &Scene<'_>) -> Result<Verdict> {
    let admin = scene.admin();
    let old = scene.make_client("Was just rotated", None)?;
    let fresh = admin.rotate(&old.id, "secret", &old.secret).expect(200)?.text_at("/secret")?;
    admin.rotate(&old.id, "retiringSecret", &old.secret).expect(200)?;
    let behind = scene.caller_from(77)?;
    let replies: Vec<Reply> = (0..scene.setting.pick(150, 400)).map(|_| behind.grant(&old, &[])).collect();
    // Another client at the same address, the same client with its new secret, and a person.
    let good = [
        behind.grant(&scene.a.member, &[]),
        behind.grant(&old.with(&fresh), &[]),
        behind.as_client(&scene.a.member).get("fhir/R4/metadata"),
        behind.post("auth/login", json!({ "email": scene.a.email, "password": PASSWORD })),
    ];
    let refused = replies.iter().all(|reply| reply.status == 401);
    let let_in = good.iter().all(|reply| reply.status == 200);
    Ok(Verdict::of(
        refused && let_in,
        format!("former: {}; good: {}", Tally::over(&replies), Tally::over(&good)),
    ))
}
