//! How the commands come to a server: whose secret they take, from where, and over what.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use rcgen::generate_simple_self_signed;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::process::{Process, bootstrap, keyrelay};
use crate::stage::{Stage, end};

#[tokio::test]
async fn an_admin_comes_by_a_private_file_or_by_standard_input() {
    let stage = Stage::set().await;
    let said = stage.run("status", &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.text);

    // The URL is in the file, too.
    let mut command = stage.command("status", &["--json"]);
    command.env_remove("KEYRELAY_URL");
    let said = end(command).await;
    let told: Value = serde_json::from_str(&said.text).unwrap();
    assert_eq!((told["secret"]["uses"].as_i64(), &told["retiringSecret"]), (Some(0), &Value::Null));

    let file = stage.path("data/bootstrap.json");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o604)).unwrap();
    let said = stage.run("status", &[]).await;
    assert!(said.code == Some(1) && said.text.contains("chmod 600 "), "{}", said.text);

    let (id, secret) = bootstrap(&stage.path("data"));
    for (secret, code, expected) in
        [(secret.as_str(), 0, "no retiring secret"), ("wrong-secret-of-nobody", 1, "the server answered 401")]
    {
        let mut command = stage.command("status", &["--client-id", &id, "--secret-file", "-"]);
        command.env_remove("KEYRELAY_CREDENTIALS").stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{secret}\n").as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && text.contains(expected), "{text}");
        assert!(!text.contains(secret));
    }
    let mut command = stage.command("status", &[]);
    command.env_remove("KEYRELAY_CREDENTIALS");
    assert_eq!(end(command).await.code, Some(2));
}

#[tokio::test]
async fn https_is_verified_by_what_the_machine_trusts() {
    let dir = tempfile::tempdir().unwrap();
    let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut command = keyrelay();
    command.env("KEYRELAY_TLS_CERTIFICATE", &certificate).env("KEYRELAY_TLS_KEY", &key);
    let server = Process::start_with(command, &dir.path().join("data")).await;
    let (id, _) = bootstrap(&dir.path().join("data"));
    let url = server.base.replace("127.0.0.1", "localhost");
    for (trusts, code) in [(true, 0), (false, 1)] {
        let mut command = keyrelay();
        command.args(["status", &id, "--url", &url, "--credentials"]);
        command.arg(dir.path().join("data/bootstrap.json"));
        if trusts {
            command.env("SSL_CERT_FILE", &certificate);
        }
        let said = end(command).await;
        assert_eq!(said.code, Some(code), "{}", said.text);
        assert!(trusts || said.text.contains("the server did not answer"), "{}", said.text);
    }
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn watching_tells_of_each_change_until_it_is_interrupted() {
    let stage = Stage::set().await;
    let mut command = stage.command("watch", &["--json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!((&told["event"], &told["retiringSecret"]), (&Value::from("callers"), &Value::Null));
    stage.operate("secret", &stage.read("secret")).await;
    let told: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    // It was made a moment ago: that nobody was seen says nothing yet.
    assert_eq!(told["retiringSecret"]["safeToRetire"], false, "{told}");
    let reason = told["retiringSecret"]["reason"].as_str().unwrap();
    assert!(reason.contains("counted only for") && reason.contains("24 h were asked for"), "{reason}");
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn status_and_watch_tell_until_when_a_secret_is_to_be_rotated() {
    let stage = Stage::set().await;
    let said = stage.run("status", &[]).await.text;
    assert!(!said.contains("rotate before") && said.contains("counted since"), "{said}");
    stage.set_project("secretMaximumAge", "90d").await;
    let said = stage.run("status", &[]).await.text;
    assert!(said.contains("rotate before") && said.contains("(in 89 days)"), "{said}");
    assert!(!said.contains("too old"), "{said}");
    let mut child = stage.command("watch", &["--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert!(said.contains(told["secret"]["dueBy"].as_str().unwrap()), "{told} {said}");
    child.kill().await.unwrap();
}

#[tokio::test]
async fn completions_and_manual_pages_are_printed() {
    for (arguments, expected) in [
        (&["completions", "bash"][..], "--wait-unused"),
        (&["completions", "zsh"], "#compdef keyrelay"),
        (&["man"], "keyrelay\\-rotate"),
        (&["man", "rotate"], "4  it was still in use"),
    ] {
        let mut command = keyrelay();
        command.args(arguments);
        let said = end(command).await;
        assert!(said.code == Some(0) && said.text.contains(expected), "{arguments:?}: {}", said.text);
    }
}
