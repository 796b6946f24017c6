//! `keyrelay export` and `keyrelay import`: a living installation moves to another database, whole or not
//! at all, and nobody notices.

use std::fs;
use std::path::Path;

use crate::living::{Home, Living};
use crate::process::keyrelay;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installation_moves_and_nobody_notices() {
    let dir = tempfile::tempdir().unwrap();
    let here = Home::sqlite(&dir.path().join("here"));
    let server = here.start().await;
    let mut living = Living::fill(&here, &server).await;

    // While the server runs as ever.
    let early = dir.path().join("early.jsonl");
    let mut said = here.do_well(&["export", early.to_str().unwrap()]).await;
    assert!(server.terminate().await.success());
    // As the guide says: it goes on letting clients in while it is moved, and changes nothing.
    let server = here.start_read_only().await;
    let file = dir.path().join("export.jsonl");
    said += &here.do_well(&["export", file.to_str().unwrap()]).await;
    let (status, answer, says_when) = living.try_to_rotate(&server, &living.clients[1]).await;
    assert_eq!((status, says_when), (503, true), "{answer}");
    assert!(answer["issue"][0]["details"]["text"].as_str().unwrap().contains("nothing was changed"));
    living.lets_everybody_in(&server).await;
    let ready = crate::process::http().get(format!("{}readyz", server.base)).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    assert!(server.terminate().await.success());
    let exported = fs::read(&file).unwrap();
    living.finds_no_secret_in(&fs::read(early).unwrap());
    living.finds_no_secret_in(&exported);
    assert_eq!(mode(&file), 0o600);

    let there = Home::beside(&dir.path().join("there"), &here).await;
    said += &there.do_well(&["import", file.to_str().unwrap()]).await;
    let copy = dir.path().join("copy.jsonl");
    said += &there.do_well(&["export", copy.to_str().unwrap()]).await;
    assert!(fs::read(&copy).unwrap() == exported, "the export of the copy is another one");
    let server = there.start().await;
    living.goes_on(&server).await;
    assert!(server.terminate().await.success());

    // And back into a file, with what has changed.
    let changed = dir.path().join("changed.jsonl");
    said += &there.do_well(&["export", changed.to_str().unwrap()]).await;
    let back = Home::sqlite(&dir.path().join("back"));
    fs::copy(here.key_file(), back.key_file()).unwrap();
    said += &back.do_well(&["import", changed.to_str().unwrap()]).await;
    assert_eq!(mode(&back.dir.join("keyrelay.sqlite")), 0o600);
    assert_eq!(names(&back.dir), ["keyrelay.lock", "keyrelay.sqlite", "master.key"]);
    let server = back.start().await;
    living.goes_on(&server).await;
    assert!(server.terminate().await.success());
    living.finds_no_secret_in(said.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_whole_or_not_ours_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let here = Home::sqlite(&dir.path().join("here"));
    let server = here.start().await;
    let mut living = Living::fill(&here, &server).await;
    assert!(server.terminate().await.success());
    let file = dir.path().join("export.jsonl");
    here.do_well(&["export", file.to_str().unwrap()]).await;
    let good = fs::read_to_string(&file).unwrap();
    let there = Home::beside(&dir.path().join("there"), &here).await;

    let lines: Vec<&str> = good.lines().collect();
    let without = |n: usize| {
        let kept: Vec<&str> =
            lines.iter().enumerate().filter(|(at, _)| *at != n).map(|(_, line)| *line).collect();
        kept.join("\n") + "\n"
    };
    let (_, schema) = good.split_once("\"schema\":").unwrap();
    let (schema, _) = schema.split_once(',').unwrap();
    let cases = [
        (String::new(), "cut short"),
        (good[..good.len() / 2].to_owned(), "cut short"),
        (good[..good.len() - 1].to_owned(), "cut short"),
        (without(lines.len() - 1), "cut short"),
        (without(lines.len() / 2), "line"),
        (good.replacen("Client 2", "Client 9", 1), "the checksum is another one"),
        (good.replacen("\"rows\":", "\"rows\":1", 1), "line"),
        (format!("{good}[]\n"), "something follows"),
        (good.replacen(&format!("\"schema\":{schema},"), "\"schema\":1,", 1), "schema version 1,"),
        (good.replacen("\"version\":1", "\"version\":2", 1), "a version that this program does not know"),
        (good.replacen("retiring_sealed", "retiring_opened", 1), "other tables or columns"),
        ("{\"resourceType\":\"Bundle\"}\n".to_owned(), "no header of an export"),
    ];
    let bad = dir.path().join("bad.jsonl");
    for (text, expected) in cases {
        fs::write(&bad, text).unwrap();
        let (code, said) = there.run(&["import", bad.to_str().unwrap()]).await;
        assert_eq!(code, Some(1), "{expected}");
        assert!(said.contains(expected), "{expected}: {said}");
        living.finds_no_secret_in(said.as_bytes());
        nothing_is_in(&there).await;
    }

    // Another installation's master key.
    let key = fs::read(there.key_file()).unwrap();
    fs::remove_file(there.key_file()).unwrap();
    keyrelay().arg("master-key").arg(there.key_file()).output().await.unwrap();
    let (code, said) = there.run(&["import", file.to_str().unwrap()]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("the master key file lacks key ") && said.contains("signing key"), "{said}");
    nothing_is_in(&there).await;
    fs::write(there.key_file(), key).unwrap();

    // None of it is in the way of a good one; a second one is not let in.
    there.do_well(&["import", file.to_str().unwrap()]).await;
    let (code, said) = there.run(&["import", file.to_str().unwrap()]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("already; nothing was changed"), "{said}");
    let server = there.start().await;
    living.goes_on(&server).await;
    assert!(server.terminate().await.success());
}

/// The import is killed while half of the file has been handed to it, through a pipe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_killed_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let here = Home::sqlite(&dir.path().join("here"));
    let server = here.start().await;
    let mut living = Living::fill(&here, &server).await;
    assert!(server.terminate().await.success());
    let file = dir.path().join("export.jsonl");
    here.do_well(&["export", file.to_str().unwrap()]).await;
    let good = fs::read(&file).unwrap();
    let there = Home::beside(&dir.path().join("there"), &here).await;
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for part in [good.len() / 4, good.len() / 2, good.len() - 1] {
        let mut import = there.command(&["import", pipe.to_str().unwrap()]).spawn().unwrap();
        let (pipe, some) = (pipe.clone(), good[..part].to_vec());
        let feed = tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut pipe = fs::File::options().write(true).open(pipe).unwrap();
            pipe.write_all(&some).unwrap();
            pipe
        });
        let pipe = feed.await.unwrap();
        import.kill().await.unwrap();
        drop(pipe);
        nothing_is_in(&there).await;
    }
    there.do_well(&["import", file.to_str().unwrap()]).await;
    let server = there.start().await;
    living.goes_on(&server).await;
    assert!(server.terminate().await.success());
}

/// No row: what an export of it says, where there is a database at all.
async fn nothing_is_in(home: &Home) {
    if !home.database.is_postgres() {
        assert!(!home.dir.join("keyrelay.sqlite").exists());
        return;
    }
    home.do_well(&["migrate"]).await;
    let file = home.dir.join("empty.jsonl");
    let said = home.do_well(&["export", file.to_str().unwrap()]).await;
    fs::remove_file(file).unwrap();
    assert!(said.contains(": 0 rows,"), "{said}");
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
