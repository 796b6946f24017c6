//! `keyrelay doctor`: what is wrong is named, with what to do, and nothing secret.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyrelay_core::caller::Profile;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{MembershipId, ProjectId, ResourceId, UserId};
use keyrelay_store::{Change, MembershipRow};
use serde_json::Value;

use crate::living::{Home, Living};
use crate::process::keyrelay;

async fn doctor(home: &Home, more: &[&str]) -> (i32, Value, String) {
    let arguments: Vec<&str> = ["doctor", "--json"].iter().chain(more).copied().collect();
    let (code, said) = home.run(&arguments).await;
    (code.unwrap(), serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}")), said)
}

fn status<'a>(report: &'a Value, check: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    let found = checks
        .iter()
        .find(|found| found["check"] == check)
        .unwrap_or_else(|| panic!("no {check} in {report}"));
    assert_eq!(
        found["advice"].is_string(),
        found["status"] != "ok",
        "what to do is said where something is: {found}"
    );
    found["status"].as_str().unwrap()
}

/// Whether the PostgreSQL server of this run survives a power cut: the one that the tests start does not.
async fn keeps_what_it_commits(home: &Home) -> bool {
    let url = home.database.url();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let query = "SELECT current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on'";
    client.query_one(query, &[]).await.unwrap().get(0)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn profile() -> Profile {
    Profile { resource_type: ResourceType::Practitioner, id: ResourceId::NIL }
}

/// As an earlier version of the server allowed it.
async fn share_a_profile(home: &Home) {
    let store = home.database.open().await.unwrap();
    let mut change = Change::new();
    for n in 1..=2 {
        let id = format!("00000000-0000-4000-8000-00000000000{n}");
        change.change_membership(&MembershipRow {
            id: MembershipId::parse(&id).unwrap(),
            project: ProjectId::NIL,
            client: None,
            user: UserId::parse(&id),
            profile: Some(profile()),
            active: true,
            admin: false,
            policy: None,
        });
    }
    store.commit(change).await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_well_is_ok_and_what_is_not_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let original = Home::sqlite(&dir.path().join("home"));
    let server = original.start().await;
    let living = Living::fill(&original, &server).await;
    let address = server.base.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let (code, report, said) = doctor(&original, &["--listen", &address]).await;
    assert_eq!((code, &report["ok"]), (0, &Value::Bool(true)), "{said}");
    for check in [
        "configuration",
        "master key file",
        "database",
        "schema",
        "master keys",
        "profiles",
        "resources",
        "disk space",
        "server",
    ] {
        assert_eq!(status(&report, check), "ok", "{said}");
    }
    assert_eq!(status(&report, "first credentials"), "warn");
    living.finds_no_secret_in(said.as_bytes());
    let (code, report, _) = doctor(&original, &["--ready", "--listen", &address]).await;
    assert_eq!((code, report["checks"].as_array().unwrap().len()), (0, 1));
    assert_eq!(doctor(&original, &["--ready", "--listen", "127.0.0.1:1"]).await.0, 1);
    let file = dir.path().join("export.jsonl");
    original.do_well(&["export", file.to_str().unwrap()]).await;
    assert!(server.terminate().await.success());

    let home = Home::beside(&dir.path().join("there"), &original).await;
    home.do_well(&["import", file.to_str().unwrap()]).await;
    let (code, report, said) = doctor(&home, &["--listen", "127.0.0.1:1"]).await;
    assert_eq!(status(&report, "server"), "warn");
    if home.database.is_postgres() {
        for check in ["clock", "connections"] {
            assert_eq!(status(&report, check), "ok", "{said}");
        }
        let expected = if keeps_what_it_commits(&home).await { ("ok", 0) } else { ("fail", 1) };
        assert_eq!((status(&report, "durability"), code), expected, "{said}");
    } else {
        assert_eq!(code, 0, "{said}");
    }
    share_a_profile(&home).await;
    let (_, report, said) = doctor(&home, &["--listen", "127.0.0.1:1"]).await;
    assert_eq!(status(&report, "profiles"), "warn");
    let named = format!("{} of Project/{} (2 users)", profile(), ProjectId::NIL);
    assert!(said.contains(&named), "{said}");

    chmod(&home.dir, 0o755);
    chmod(&home.key_file(), 0o644);
    let (code, report, _) = doctor(&home, &[]).await;
    assert_eq!(
        (code, status(&report, "data directory"), status(&report, "master key file")),
        (1, "warn", "fail")
    );
    chmod(&home.key_file(), 0o600);

    // The key that everything is under is taken out of the file.
    home.do_well(&["keys", "add"]).await;
    let text = fs::read_to_string(home.key_file()).unwrap();
    fs::write(home.key_file(), text.lines().last().unwrap()).unwrap();
    let (code, report, said) = doctor(&home, &[]).await;
    assert_eq!((code, status(&report, "master keys")), (1, "fail"));
    assert!(said.contains("13 secrets") || said.contains("7 secrets, 6 secrets shown once"), "{said}");
    fs::write(home.key_file(), "rubbish").unwrap();
    assert_eq!(status(&doctor(&home, &[]).await.1, "master key file"), "fail");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_answer_and_a_certificate_at_its_end_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::sqlite(&dir.path().join("home"));
    keyrelay().arg("master-key").arg(home.key_file()).output().await.unwrap();
    let url = "postgres://keyrelay:hush@127.0.0.1:1/keyrelay";
    let (code, report, said) = doctor(&home, &["--database-url", url]).await;
    assert_eq!((code, status(&report, "database")), (1, "fail"));
    assert!(!said.contains("hush"), "{said}");

    let (certificate, key) = (dir.path().join("tls.pem"), dir.path().join("tls.key"));
    for (year, expected) in [(2020, "fail"), (2999, "ok")] {
        let mut parameters = rcgen::CertificateParams::new(vec!["fhir.example.test".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2019, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        let pair = rcgen::KeyPair::generate().unwrap();
        fs::write(&certificate, parameters.self_signed(&pair).unwrap().pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        chmod(&key, 0o600);
        let flags = ["--tls-certificate", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        let (_, report, said) = doctor(&home, &flags).await;
        assert_eq!(status(&report, "TLS certificate"), expected, "{said}");
    }
    let (code, said) = home.run(&["doctor", "--base-url", "fhir.example.test"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("FAIL  configuration") && said.contains("-> "), "{said}");
}
