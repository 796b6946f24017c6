//! `keyrelay audit verify` beside a server, on whatever database the run is about.

use std::fs;

use serde_json::{Value, json};

use crate::living::{Home, Living};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_records_of_a_living_installation_are_proved_by_a_command() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::sqlite(&dir.path().join("home"));
    let server = home.start().await;
    let mut living = Living::fill(&home, &server).await;
    let heads = dir.path().join("heads");
    let verify = ["audit", "verify", "--heads", heads.to_str().unwrap()];

    let said = home.do_well(&verify).await;
    assert!(said.contains("are as they were written") && said.contains("1 chains have no end"), "{said}");
    living.finds_no_secret_in(said.as_bytes());
    living.goes_on(&server).await;
    home.do_well(&["keys", "rotate"]).await;
    home.do_well(&verify).await;
    assert!(server.terminate().await.success());

    let said = home.do_well(&["audit", "verify", "--json"]).await;
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&report["found"], &report["chainsWithoutEnd"]), (&json!(0), &json!(0)), "{said}");
    let chains = report["chains"].as_u64().unwrap();

    // A server that is killed leaves a chain without an end, and all of its records.
    let server = home.start().await;
    living.goes_on(&server).await;
    server.kill().await;
    let said = home.do_well(&verify).await;
    assert!(said.contains(&format!("in {} chains", chains + 1)), "{said}");

    // A head that is not there any more.
    let text = fs::read_to_string(&heads).unwrap();
    let longer: Vec<String> = text
        .lines()
        .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [chain, nth, mac] if chain != "#" => format!("{chain} {} {mac}", nth.parse::<i64>().unwrap() + 7),
            _ => line.to_owned(),
        })
        .collect();
    fs::write(&heads, longer.join("\n")).unwrap();
    let (code, said) = home.run(&verify).await;
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("is not the one that was noted, or is missing"), "{said}");

    fs::write(&heads, "rubbish\n").unwrap();
    let (code, said) = home.run(&verify).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("line 1 of") && said.contains("is not the head of a chain"), "{said}");
}
