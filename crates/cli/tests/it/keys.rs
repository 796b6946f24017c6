//! `keyrelay keys`: an installation moves to another master key while it runs, and nobody notices; what
//! still needs the old one is said.

use std::fs;

use crate::living::{Home, Known, Living};
use crate::process::{grant, http, keyrelay};

fn listed(home: &Home) -> Vec<String> {
    let text = fs::read_to_string(home.key_file()).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn keep_keys(home: &Home, keys: &[String]) {
    fs::write(home.key_file(), keys.join("\n") + "\n").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_server_moves_to_a_new_master_key_and_nobody_notices() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::sqlite(&dir.path().join("home"));
    let server = home.start().await;
    let mut living = Living::fill(&home, &server).await;
    let before = listed(&home);

    let said = home.do_well(&["keys", "rotate"]).await;
    living.finds_no_secret_in(said.as_bytes());
    let after = listed(&home);
    assert_eq!((after.len(), &after[1]), (2, &before[0]), "the new key is before the old one");
    assert!(after.iter().all(|key| !said.contains(key.as_str())), "a key is in what was said");
    let new = said.lines().find(|line| line.starts_with("key ") && line.contains("seals;")).unwrap();
    assert!(new.contains("7 secrets,") && new.contains("1 signing key"), "{said}");
    assert!(said.contains("6 secrets shown once under older keys"), "{said}");
    assert!(said.contains("1 logins that can be refreshed"), "{said}");
    assert!(said.contains("Keep the older keys in the file."), "{said}");
    living.goes_on(&server).await;

    // The secrets that are shown once are under the new key when they have been rotated out.
    for known in living.clients.clone() {
        let mut known = known;
        living.rotate(&server, &mut known).await;
        living.clients.iter_mut().find(|client| client.id == known.id).unwrap().clone_from(&known);
    }
    let said = home.do_well(&["keys", "status"]).await;
    assert!(said.contains("they can be removed once"), "{said}");
    living.goes_on(&server).await;
    assert!(server.terminate().await.success());

    // Without the old key: only what was handed out before is lost.
    keep_keys(&home, &after[..1]);
    let said = home.do_well(&["keys", "status"]).await;
    assert!(said.contains("NOT IN THE FILE") && said.contains("former secrets"), "{said}");
    let server = home.start().await;
    living.lets_everybody_in(&server).await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_needed_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let original = Home::sqlite(&dir.path().join("home"));
    let server = original.start().await;
    Living::fill(&original, &server).await;
    assert!(server.terminate().await.success());
    let file = dir.path().join("export.jsonl");
    original.do_well(&["export", file.to_str().unwrap()]).await;
    let home = Home::beside(&dir.path().join("there"), &original).await;
    home.do_well(&["import", file.to_str().unwrap()]).await;
    let before = listed(&home);
    keyrelay().arg("master-key").arg(dir.path().join("other.key")).output().await.unwrap();
    fs::copy(dir.path().join("other.key"), home.key_file()).unwrap();
    for command in ["status", "rotate"] {
        let (code, said) = home.run(&["keys", command]).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("the master key file lacks key "), "{said}");
    }
    assert_ne!(listed(&home), before, "nothing was written");
    assert_eq!(listed(&home).len(), 1);
}

/// The steps for several servers, and no server at all: the command moves everything itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_added_promoted_and_moved_to() {
    let dir = tempfile::tempdir().unwrap();
    let original = Home::sqlite(&dir.path().join("home"));
    let server = original.start().await;
    let mut living = Living::fill(&original, &server).await;
    assert!(server.terminate().await.success());
    let file = dir.path().join("export.jsonl");
    original.do_well(&["export", file.to_str().unwrap()]).await;
    let home = Home::beside(&dir.path().join("there"), &original).await;
    home.do_well(&["import", file.to_str().unwrap()]).await;

    let before = listed(&home);
    if home.database.is_postgres() {
        let (code, said) = home.run(&["keys", "rotate"]).await;
        assert!(code == Some(1) && said.contains("keyrelay keys add"), "{said}");
        assert_eq!(listed(&home), before);
    }
    home.do_well(&["keys", "add"]).await;
    let added = listed(&home);
    assert_eq!((added.len(), &added[0]), (2, &before[0]));
    home.do_well(&["keys", "promote"]).await;
    assert_eq!(listed(&home), [added[1].clone(), added[0].clone()]);
    let said = home.do_well(&["keys", "status"]).await;
    assert!(said.contains("can be moved: keyrelay keys rotate --use-first"), "{said}");
    let (code, said) = home.run(&["keys", "rotate"]).await;
    assert_eq!(code, Some(1), "a rotation that is under way is not begun anew: {said}");

    // With PostgreSQL the servers go on meanwhile.
    let server = if home.database.is_postgres() { Some(home.start().await) } else { None };
    let said = home.do_well(&["keys", "rotate", "--use-first"]).await;
    assert!(!said.contains("can be moved"), "{said}");
    let server = match server {
        Some(server) => server,
        None => home.start().await,
    };
    living.goes_on(&server).await;
    assert!(server.terminate().await.success());
}

/// The server is killed just when it has begun to move everything; then the command goes on, with nothing
/// lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_killed_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::sqlite(&dir.path().join("home"));
    let data_dir = home.dir.to_str().unwrap();
    let seeded =
        keyrelay().args(["seed", "--data-dir", data_dir, "--clients", "2000"]).output().await.unwrap();
    let seeded: serde_json::Value = serde_json::from_slice(&seeded.stdout).unwrap();
    for step in ["add", "promote"] {
        home.do_well(&["keys", step]).await;
    }
    home.start().await.kill().await;
    let said = home.do_well(&["keys", "rotate", "--use-first"]).await;
    assert!(!said.contains("can be moved") && said.contains("seals; 2000 secrets"), "{said}");
    keep_keys(&home, &listed(&home)[..1]);
    let server = home.start().await;
    for client in seeded["clients"].as_array().unwrap() {
        let (id, secret) = (client["clientId"].as_str().unwrap(), client["clientSecret"].as_str().unwrap());
        assert_eq!(grant(&http(), &server.base, id, secret).await, 200, "{id}");
    }
    assert!(server.terminate().await.success());
}

/// Rotations of secrets and of the master key at the same time: none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rotation_is_lost_while_the_master_key_changes() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::sqlite(&dir.path().join("home"));
    let server = home.start().await;
    let living = Living::fill(&home, &server).await;
    let mut clients: Vec<Known> = living.clients[..4].to_vec();
    let changed = home.clone();
    let changing = tokio::spawn(async move {
        for _ in 0..3 {
            changed.do_well(&["keys", "rotate"]).await;
        }
    });
    while !changing.is_finished() {
        for known in &mut clients {
            living.rotate(&server, known).await;
        }
    }
    changing.await.unwrap();
    for known in &clients {
        living.lets_in(&server, known).await;
    }
    assert_eq!(listed(&home).len(), 4);
    assert!(server.terminate().await.success());
}

/// Concurrent commands fail at once or wait for each other; afterwards the changes of all that succeeded are there.
async fn all_at_once(home: &Home, count: usize, arguments: &[&str]) {
    let runs = (0..count).map(|_| home.run(arguments));
    for (code, said) in futures_util::future::join_all(runs).await {
        assert_eq!(code, Some(0), "{said}");
    }
}

fn distinct(keys: &[String]) -> usize {
    keys.iter().collect::<std::collections::BTreeSet<_>>().len()
}

/// Some use the file, others a link to it in another directory: all use the lock of the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_added_at_once_are_all_there() {
    let dir = tempfile::tempdir().unwrap();
    let original = Home::sqlite(&dir.path().join("home"));
    assert!(keyrelay().arg("master-key").arg(original.key_file()).status().await.unwrap().success());
    let home = Home::beside(&dir.path().join("added"), &original).await;
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(home.key_file(), &link).unwrap();
    let before = listed(&home);
    let by_link = async {
        let runs = (0..3).map(|_| async {
            let mut command = home.command(&["keys", "add"]);
            command.env("KEYRELAY_MASTER_KEY_FILE", &link).output().await.unwrap()
        });
        for output in futures_util::future::join_all(runs).await {
            assert!(output.status.success(), "{output:?}");
        }
    };
    tokio::join!(all_at_once(&home, 3, &["keys", "add"]), by_link);
    let after = listed(&home);
    assert_eq!((after.len(), distinct(&after), &after[0]), (7, 7, &before[0]));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    // The file before the last change remains, and no lock file.
    let previous = fs::read_to_string(home.dir.join("master.key.previous")).unwrap();
    assert_eq!(previous.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(), after[..6]);
    assert_eq!(crate::stage::names(&home.dir), ["master.key", "master.key.previous"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::sqlite(&dir.path().join("home"));
    let server = home.start().await;
    let mut living = Living::fill(&home, &server).await;
    all_at_once(&home, 2, &["keys", "rotate"]).await;
    living.goes_on(&server).await;
    assert!(server.terminate().await.success());
    all_at_once(&home, 3, &["keys", "rotate"]).await;
    let keys = listed(&home);
    assert_eq!((keys.len(), distinct(&keys)), (6, 6));
    let server = home.start().await;
    living.goes_on(&server).await;
    assert!(server.terminate().await.success());
}

/// Hosts that each have a copy of the file, and share only the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_with_copies_of_the_file_move_to_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let original = Home::sqlite(&dir.path().join("home"));
    let server = original.start().await;
    let mut living = Living::fill(&original, &server).await;
    assert!(server.terminate().await.success());
    let file = dir.path().join("export.jsonl");
    original.do_well(&["export", file.to_str().unwrap()]).await;
    let home = Home::beside(&dir.path().join("hosts"), &original).await;
    home.do_well(&["import", file.to_str().unwrap()]).await;
    let other = Home { dir: home.dir.join("other-host"), database: home.database.clone() };
    fs::create_dir(&other.dir).unwrap();
    fs::copy(home.key_file(), other.key_file()).unwrap();
    let database = home.database.url();
    let run = async |home: &Home, arguments: &[&str]| {
        let mut command = home.command(arguments);
        let output = command.env("KEYRELAY_DATABASE_URL", &database).output().await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for home in [&home, &other] {
        for step in ["add", "promote"] {
            assert_eq!(run(home, &["keys", step]).await.0, Some(0));
        }
    }
    let rotate = ["keys", "rotate", "--use-first"];
    let (one, two) = tokio::join!(run(&home, &rotate), run(&other, &rotate));
    let (won, lost) = if one.0 == Some(0) { (&home, two) } else { (&other, one) };
    assert_eq!(lost.0, Some(1), "{}", lost.1);
    assert!(lost.1.contains("the master key file lacks key"), "{}", lost.1);
    fs::copy(won.key_file(), dir.path().join("winner.key")).unwrap();
    fs::copy(dir.path().join("winner.key"), home.key_file()).unwrap();
    let server = home.start().await;
    living.goes_on(&server).await;
    assert!(server.terminate().await.success());
}
