//! The commands: what they print, which files they make, how they end.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::process::{Process, bootstrap, grant, http, keyrelay};

const ID: &str = "0198c2f0-1111-4222-8333-944455566677";
const SECRET: &str = "a-secret-that-the-operator-chose-for-it";

/// Variables, flags, and what is said.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn the_first_start_makes_private_files_and_sigterm_ends_well() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let server = Process::start(&data_dir).await;
    for file in ["bootstrap.json", "master.key"] {
        let mode = std::fs::metadata(data_dir.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let (id, secret) = bootstrap(&data_dir);
    assert_eq!(grant(&http(), &server.base, &id, &secret).await, 200);
    assert_eq!(server.terminate().await.code(), Some(0));

    let again = Process::start(&data_dir).await;
    assert_eq!(bootstrap(&data_dir), (id.clone(), secret.clone()), "a second start makes no second client");
    assert_eq!(grant(&http(), &again.base, &id, &secret).await, 200);
    assert!(again.terminate().await.success());
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_told_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(dir.path()).await;
    let second = keyrelay()
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path())
        .output()
        .await
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second).contains("another keyrelay process uses the data directory"), "{}", text(&second));
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn the_bootstrap_variables_are_used_and_no_file_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = keyrelay();
    command.env("KEYRELAY_BOOTSTRAP_CLIENT_ID", ID).env("KEYRELAY_BOOTSTRAP_CLIENT_SECRET", SECRET);
    let server = Process::start_with(command, dir.path()).await;
    assert!(!dir.path().join("bootstrap.json").exists());
    assert_eq!(grant(&http(), &server.base, ID, SECRET).await, 200);
    assert!(server.terminate().await.success());
}

#[tokio::test]
async fn a_wrong_setting_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keyrelay.toml");
    std::fs::write(&file, "listn = \"127.0.0.1:0\"\n").unwrap();
    let data_dir = dir.path().join("data");
    let cases: [Case<'_>; 14] = [
        (&[("KEYRELAY_CONFIG", file.to_str().unwrap())], &[], "did you mean \"listen\"?"),
        (&[("KEYRELAY_BOOTSTRAP_CLIENT_ID", ID)], &[], "set both"),
        (
            &[("KEYRELAY_BOOTSTRAP_CLIENT_ID", ID), ("KEYRELAY_BOOTSTRAP_CLIENT_SECRET", "short")],
            &[],
            "at least 32 characters",
        ),
        (&[], &["--database-url", "postgres://user:password@db/keyrelay"], "say sslmode=verify-full"),
        (&[], &["--database-url", "mysql://user:password@db/x"], "--database-url must be sqlite://PATH or"),
        (&[], &["--database-url", "postgres://keyrelay@127.0.0.1/x"], "keyrelay master-key FILE"),
        (&[], &["--base-url", "fhir.example.test"], "is not a base URL"),
        (
            &[("KEYRELAY_TRUSTED_PROXIES", "10.0.0.1,proxy")],
            &[],
            "\"proxy\" is neither an address nor a network",
        ),
        (&[], &["--allowed-origins", "https://app.example.test/"], "is no origin as browsers write it"),
        (&[], &["--tls-certificate", "server.pem"], "set both --tls-certificate and --tls-key"),
        (
            &[("KEYRELAY_TLS_KEY", "server.key")],
            &["--tls-certificate", "server.pem"],
            "cannot read server.pem",
        ),
        (&[], &["--client-certificates", "tls"], "needs --tls-certificate and --tls-key"),
        (&[("KEYRELAY_CLIENT_CERTIFICATES", "header")], &[], "needs --trusted-proxies"),
        (&[], &["--log", "keyrelay=loud"], "cannot be read"),
    ];
    for (variables, flags, expected) in cases {
        let mut command = keyrelay();
        command.envs(variables.iter().copied()).args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
        let output = command.arg(&data_dir).args(flags).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{expected}");
        assert!(text(&output).contains(expected), "{expected}: {}", text(&output));
        assert!(!text(&output).contains("password@"), "a password is repeated");
    }
}

#[tokio::test]
async fn a_lost_master_key_is_not_replaced_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Process::start(dir.path()).await.terminate().await.success());
    std::fs::remove_file(dir.path().join("master.key")).unwrap();
    let output = keyrelay()
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path())
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("put it back"), "{}", text(&output));
    assert!(!dir.path().join("master.key").exists());
}

#[tokio::test]
async fn the_demonstration_locks_nobody_out() {
    let output = keyrelay().args(["demo", "--workers", "4", "--seconds", "3"]).output().await.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    for expected in [
        "0 (must be 0)",
        "refused both times",
        "4 of 4 workers have the new secret",
        "Nobody was locked out.",
    ] {
        assert!(text(&output).contains(expected), "{expected}: {}", text(&output));
    }
}
