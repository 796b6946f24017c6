//! `keyrelay backup`, `restore` and `migrate`: a copy of one moment, while the server works, and nothing
//! half whenever somebody pulls the plug.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::living::{Home, Known, Living};
use crate::process::keyrelay;

const BACKUPS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_while_secrets_rotate_has_all_that_was_answered_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::sqlite(&dir.path().join("home"));
    let server = home.start().await;
    let living = Arc::new(Living::fill(&home, &server).await);
    let server = Arc::new(server);
    let is_over = Arc::new(AtomicBool::new(false));
    // Recoverable ones, of which the copy can say what they are; none of them has been retired.
    let workers: Vec<_> = (0..3)
        .map(|n| {
            let (living, server, is_over) = (Arc::clone(&living), Arc::clone(&server), Arc::clone(&is_over));
            let (tell, known) = tokio::sync::watch::channel(living.clients[n].clone());
            let work = tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let mut known = tell.borrow().clone();
                    living.rotate(&server, &mut known).await;
                    tell.send_replace(known);
                }
            });
            (known, work)
        })
        .collect();

    let mut backups = Vec::new();
    for n in 0..BACKUPS {
        for (known, _) in &workers {
            // Each has rotated since the last backup.
            known.clone().changed().await.unwrap();
        }
        let answered: Vec<Known> = workers.iter().map(|(known, _)| known.borrow().clone()).collect();
        let file = dir.path().join(format!("backup-{n}"));
        let said = home.do_well(&["backup", file.to_str().unwrap()]).await;
        assert!(said.contains("checked") && said.contains("signing key"), "{said}");
        backups.push((file, answered));
    }
    is_over.store(true, Ordering::Relaxed);
    let mut last = Vec::new();
    for (known, work) in workers {
        work.await.unwrap();
        last.push(known.borrow().clone());
    }
    assert!(Arc::into_inner(server).unwrap().terminate().await.success());

    for (n, (file, answered)) in backups.iter().enumerate() {
        let restored = Home::sqlite(&dir.path().join(format!("restored-{n}")));
        fs::copy(home.key_file(), restored.key_file()).unwrap();
        restored.do_well(&["restore", file.to_str().unwrap()]).await;
        let server = restored.start().await;
        for (before, all) in answered.iter().zip(&last) {
            is_of_one_moment(&living.read(&server, &before.id).await, before, all);
        }
        assert!(server.terminate().await.success());
    }
}

/// The secrets follow each other, none that had been answered is missing, and the resource has as many
/// versions as its secrets say.
fn is_of_one_moment(copy: &(serde_json::Value, usize), before: &Known, all: &Known) {
    let (read, versions) = copy;
    let row: Vec<&str> =
        all.ended.iter().chain(&all.retiring).chain([&all.active]).map(String::as_str).collect();
    let place =
        |secret: &str| row.iter().position(|known| *known == secret).expect("a secret that was given out");
    let active = place(read["secret"].as_str().unwrap());
    assert_eq!(place(read["retiringSecret"].as_str().unwrap()) + 1, active);
    assert!(active >= place(&before.active), "what was answered before the backup is in it");
    assert_eq!(*versions, active + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_wants_a_good_copy_an_empty_place_and_the_right_key() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::sqlite(&dir.path().join("home"));
    let server = home.start().await;
    let mut living = Living::fill(&home, &server).await;
    let file = dir.path().join("backup");
    let name = file.to_str().unwrap();
    let mut said = home.do_well(&["backup", name]).await;
    living.finds_no_secret_in(&fs::read(&file).unwrap());
    assert_eq!(mode(&file), 0o600);
    let (code, twice) = home.run(&["backup", name]).await;
    assert!(code == Some(1) && twice.contains("there is a file"), "{twice}");
    let (code, locked) = home.run(&["restore", name]).await;
    assert!(code == Some(1) && locked.contains("another keyrelay process uses"), "{locked}");
    assert!(server.terminate().await.success());
    let (code, full) = home.run(&["restore", name]).await;
    assert!(code == Some(1) && full.contains("already; nothing was changed"), "{full}");

    let there = Home::sqlite(&dir.path().join("there"));
    let good = fs::read(&file).unwrap();
    let bad = dir.path().join("bad");
    let mut changed = good.clone();
    let middle = changed.len() / 2;
    changed[middle..middle + 4096].fill(0x55);
    for rubbish in [Vec::new(), b"PGDMP".to_vec(), good[..good.len() / 2].to_vec(), changed] {
        fs::write(&bad, rubbish).unwrap();
        let (code, refused) = there.run(&["restore", bad.to_str().unwrap()]).await;
        assert_eq!(code, Some(1), "{refused}");
        assert!(refused.contains("bad is not a good copy of a database"), "{refused}");
        assert!(
            !there.dir.join("keyrelay.sqlite").exists() && !there.dir.join("keyrelay.sqlite.part").exists()
        );
    }
    keyrelay().arg("master-key").arg(there.key_file()).output().await.unwrap();
    let (code, wrong) = there.run(&["restore", name]).await;
    assert!(code == Some(1) && wrong.contains("the master key file lacks key "), "{wrong}");

    fs::remove_file(there.key_file()).unwrap();
    said += &there.do_well(&["restore", name]).await;
    assert!(said.contains("put the master key file to"), "{said}");
    fs::copy(home.key_file(), there.key_file()).unwrap();
    assert_eq!(mode(&there.dir.join("keyrelay.sqlite")), 0o600);
    living.finds_no_secret_in((said + &twice + &locked + &full + &wrong).as_bytes());
    let server = there.start().await;
    living.goes_on(&server).await;
    assert!(server.terminate().await.success());
}

/// Killed at whatever moment after it has begun to write: there is no file, or a whole one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_or_an_export_that_is_killed_leaves_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::sqlite(&dir.path().join("home"));
    let data_dir = home.dir.to_str().unwrap();
    let seeded =
        keyrelay().args(["seed", "--data-dir", data_dir, "--clients", "1000"]).output().await.unwrap();
    assert!(seeded.status.success());
    for task in ["backup", "export"] {
        let mut killed = 0;
        for n in 0..4 {
            let file = dir.path().join(format!("{task}-{n}"));
            let mut child = home.command(&[task, file.to_str().unwrap()]).spawn().unwrap();
            let aside = dir.path().join(format!("{task}-{n}.part"));
            while !aside.exists() && child.try_wait().unwrap().is_none() {
                tokio::task::yield_now().await;
            }
            child.kill().await.unwrap();
            killed += usize::from(!file.exists());
            if !file.exists() {
                // What is left is in nobody's way.
                home.do_well(&[task, file.to_str().unwrap()]).await;
            }
            assert!(!aside.exists());
            let copy = Home::sqlite(&dir.path().join(format!("copy-{task}-{n}")));
            fs::copy(home.key_file(), copy.key_file()).unwrap();
            let back = if task == "backup" { "restore" } else { "import" };
            copy.do_well(&[back, file.to_str().unwrap()]).await;
        }
        assert!(killed > 0, "{task} was never killed in time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrate_says_from_which_version_to_which_and_postgres_is_copied_its_own_way() {
    let dir = tempfile::tempdir().unwrap();
    let original = Home::sqlite(&dir.path().join("home"));
    assert!(original.start().await.terminate().await.success());
    let home = Home::beside(&dir.path().join("there"), &original).await;
    let (code, said) = home.run(&["migrate", "--check"]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("is to be brought from version 0 to "), "{said}");
    assert!(home.do_well(&["migrate"]).await.contains("was brought from version 0 to "));
    for arguments in [&["migrate", "--check"][..], &["migrate"]] {
        assert!(home.do_well(arguments).await.contains("the schema is up to date"));
    }
    if home.database.is_postgres() {
        for task in ["backup", "restore"] {
            let (code, said) = home.run(&[task, dir.path().join("x").to_str().unwrap()]).await;
            assert_eq!(code, Some(1));
            assert!(said.contains("pg_basebackup"), "{said}");
        }
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
