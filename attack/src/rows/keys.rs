//! Part 0: master keys that two commands change at once, and weak keys of clients.

use std::time::Duration;

use anyhow::{Context, Result};
use keyrelay_bench::product::Installation;
use serde_json::{Value, json};

use super::{Needs, Row, Verdict};
use crate::api::{Caller, Credentials, DEADLINE, Stays};
use crate::command::{Running, run};
use crate::scene::{Kind, Scene};

pub(super) static ROWS: &[Row] = &[
    Row {
        name: "keys-rotate-twice",
        claim: "two `keys rotate` at once lose nothing",
        scene: Kind::Usual,
        needs: Needs::File,
        run: keys_rotate_twice,
    },
    Row {
        name: "keys-add-twice",
        claim: "two `keys add` at once add two keys, or one says that it did not",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: keys_add_twice,
    },
    Row {
        name: "weak-client-keys",
        claim: "keys that anybody can sign with, or that are none, are refused when they are written",
        scene: Kind::Usual,
        needs: Needs::Nothing,
        run: weak_client_keys,
    },
];

/// How long a command about keys may take.
const COMMAND_WAIT: Duration = Duration::from_mins(1);

fn keys(installation: &Installation, word: &str) -> std::process::Command {
    let mut command = installation.command();
    command.args(["keys", word, "--data-dir"]).arg(installation.data_dir());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command
}

/// Runs a command twice at once, and returns how many succeeded.
fn twice(installation: &Installation, word: &str) -> Result<usize> {
    let mut running =
        [Running::start(&mut keys(installation, word))?, Running::start(&mut keys(installation, word))?];
    let mut succeeded = 0;
    for command in &mut running {
        let (status, _) = command.wait(COMMAND_WAIT)?;
        succeeded += usize::from(status.context("`keyrelay keys` did not end")?.success());
    }
    Ok(succeeded)
}

/// Whether the server starts, and lets its first client in.
fn lets_in(scene: &Scene<'_>, installation: &Installation) -> Result<bool> {
    let Ok(server) = installation.start() else { return Ok(false) };
    let base = format!("http://{}/", server.target().address());
    let here = std::net::Ipv4Addr::LOCALHOST;
    let caller = Caller::new(&base, here, DEADLINE, Stays::No, &scene.setting.handle)?;
    let first = installation.first_client()?;
    let client = Credentials { id: first.client_id, secret: first.client_secret };
    let granted = caller.grant(&client, &[]).status == 200;
    server.stop()?;
    Ok(granted)
}

fn keys_rotate_twice(scene: &Scene<'_>) -> Result<Verdict> {
    let installation = scene.setting.installation()?;
    installation.start()?.stop()?;
    let rounds = scene.setting.pick(3, 12);
    for round in 1..=rounds {
        let succeeded = twice(&installation, "rotate")?;
        // One lost key is enough to fail.
        if !lets_in(scene, &installation)? {
            return Ok(Verdict::Fails(format!(
                "nothing opens any more after round {round}, {succeeded} of 2 succeeded"
            )));
        }
    }
    Ok(Verdict::Holds(format!("{rounds} rounds")))
}

fn keys_add_twice(scene: &Scene<'_>) -> Result<Verdict> {
    let installation = scene.setting.installation()?;
    installation.start()?.stop()?;
    let file = match &scene.setting.postgres {
        Some(_) => installation.master_key(),
        None => installation.data_dir().join("master.key"),
    };
    let count = || -> Result<usize> {
        Ok(std::fs::read_to_string(&file)?.lines().filter(|line| !line.trim().is_empty()).count())
    };
    let rounds = scene.setting.pick(5, 20);
    let (mut lost, mut refused) = (0, 0);
    for _ in 0..rounds {
        let before = count()?;
        let succeeded = twice(&installation, "add")?;
        refused += 2 - succeeded;
        lost += (before + succeeded).saturating_sub(count()?);
    }
    let status = run(keys(&installation, "status"), &scene.setting.scratch, COMMAND_WAIT)?;
    let seen = format!("{lost} keys lost and {refused} refused of {}", 2 * rounds);
    Ok(Verdict::of(lost == 0 && status.is_success(), seen))
}

fn weak() -> Vec<(&'static str, Value)> {
    let x = |bytes: usize| "A".repeat(bytes.div_ceil(3) * 4 - (3 - bytes % 3) % 3);
    // A modulus of 1024 bits, written with zeros before it.
    let padded = format!("{}{}", "A".repeat(172), "w".repeat(171));
    let modulus = format!("w{}w", "A".repeat(340));
    vec![
        (
            "the identity of Ed25519",
            json!({ "kty": "OKP", "crv": "Ed25519", "x": format!("AQ{}", "A".repeat(41)) }),
        ),
        ("a point of low order", json!({ "kty": "OKP", "crv": "Ed25519", "x": x(32) })),
        ("a point that is on no curve", json!({ "kty": "EC", "crv": "P-256", "x": x(32), "y": x(32) })),
        ("a P-384 point that is on no curve", json!({ "kty": "EC", "crv": "P-384", "x": x(48), "y": x(48) })),
        ("RSA with e = 1", json!({ "kty": "RSA", "n": modulus, "e": "AQ", "alg": "RS384" })),
        ("RSA of 1024 bits with zeros", json!({ "kty": "RSA", "n": padded, "e": "AQAB", "alg": "RS384" })),
    ]
}

fn weak_client_keys(scene: &Scene<'_>) -> Result<Verdict> {
    let admin = scene.admin();
    let mut accepted = Vec::new();
    for (name, key) in weak() {
        let mut key = key;
        key["kid"] = json!("k");
        let set = json!({ "keys": [key] }).to_string();
        let reply = admin.add(&scene.a.member.path(), "/jwks", &json!(set));
        if !(400..500).contains(&reply.status) {
            accepted.push(format!("{name}: {}", reply.status));
        }
    }
    let holds = accepted.is_empty();
    Ok(Verdict::of(holds, if holds { "6 weak keys refused".to_owned() } else { accepted.join(", ") }))
}
