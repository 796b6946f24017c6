//! Commands that root runs on files in directories that other users may have prepared.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Stdio;

use crate::process::{grant, http, keyrelay};
use crate::stage::{Said, Stage, end, names};

/// The application's user.
const APP: u32 = 12345;

/// A directory of the application's user; `None` unless the tests run as root, because only root can make it.
fn of_app(stage: &Stage, test: &str) -> Option<std::path::PathBuf> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("{test}: skipped, it needs a second user and so root");
        return None;
    }
    let dir = stage.path("app");
    std::fs::create_dir(&dir).unwrap();
    give(&dir);
    Some(dir)
}

fn give(path: &Path) {
    chown(path, Some(APP), Some(APP)).unwrap();
}

fn is_refused(said: &Said, expected: &str) {
    assert!(said.code == Some(1) && said.text.contains(expected), "{}", said.text);
}

#[tokio::test]
async fn root_follows_no_link_of_the_application() {
    let stage = Stage::set().await;
    let Some(app) = of_app(&stage, "root_follows_no_link_of_the_application") else { return };
    std::fs::write(stage.path("private"), "a line that only root may read").unwrap();
    std::fs::create_dir(stage.path("inner")).unwrap();
    symlink("../private", app.join("token")).unwrap();
    symlink("../inner", app.join("sub")).unwrap();
    let expected = "a link that another user can change";
    for target in ["file:app/token", "dotenv:app/token#SECRET", "file:app/sub/token"] {
        is_refused(&stage.run("rotate", &["--to", target]).await, expected);
    }
    stage.set_project("secretVisibility", "once").await;
    is_refused(&stage.run("rotate", &["--to", "file:app/token"]).await, expected);
    for arguments in [&["--secret-file", "app/token"][..], &["--to", "file:app/sub/token"]] {
        let mut agent = keyrelay();
        agent.current_dir(stage.dir.path()).env("HOME", stage.path("home"));
        agent
            .args(["agent", "--once", "--url", &stage.server.base, "--client", &stage.client])
            .args(arguments);
        is_refused(&end(agent).await, expected);
    }
    is_refused(&stage.run("rotate", &["--to", "file:secret", "--state", "app/token"]).await, expected);
    is_refused(
        &stage.run("rotate", &["--to", "file:secret", "--state", "app/state"]).await,
        "other users can write to the directory of app/state",
    );
    let mut audit = keyrelay();
    audit.current_dir(stage.dir.path()).args([
        "audit",
        "verify",
        "--data-dir",
        "data",
        "--heads",
        "app/token",
    ]);
    is_refused(&end(audit).await, expected);
    std::fs::remove_file(app.join("token")).unwrap();
    std::fs::hard_link(stage.path("private"), app.join("token")).unwrap();
    is_refused(&stage.run("rotate", &["--to", "file:app/token"]).await, "has other names");

    assert_eq!(stage.read("private"), "a line that only root may read");
    assert_eq!((names(&app), names(&stage.path("inner"))), (vec!["sub".into(), "token".into()], vec![]));
    assert_eq!(stage.rotations().await, 0);
}

#[tokio::test]
async fn an_accepted_secret_is_kept_where_no_other_user_can_read_it() {
    let stage = Stage::set().await;
    let name = "an_accepted_secret_is_kept_where_no_other_user_can_read_it";
    let Some(app) = of_app(&stage, name) else { return };
    stage.set_project("secretVisibility", "once").await;
    let token = app.join("token");
    std::fs::write(&token, "a line of another file").unwrap();
    give(&token);
    let waits = ["--to", "file:app/token", "--retire", "--wait-unused", "2h", "--timeout", "1s"];
    is_refused(&stage.run("rotate", &waits).await, "does not hold the current secret");
    assert_eq!((names(&app), stage.kept_file().exists()), (vec!["token".to_owned()], false));

    let old = stage.read("secret");
    std::fs::write(&token, &old).unwrap();
    let said = stage.run("rotate", &waits).await;
    assert_eq!((said.code, names(&app)), (Some(4), vec!["token".to_owned()]), "{}", said.text);
    assert_eq!(std::fs::read_to_string(stage.kept_file()).unwrap(), old);
    assert_eq!(std::fs::metadata(stage.kept_file()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&token).unwrap().uid(), APP);
    let new = std::fs::read_to_string(&token).unwrap();
    assert_eq!(grant(&http(), &stage.server.base, &stage.client, &new).await, 200);
    let said = stage.run("rotate", &["--to", "file:app/token", "--retire", "--wait-unused", "1s"]).await;
    assert_eq!((said.code, stage.kept_file().exists()), (Some(0), false), "{}", said.text);
    assert_eq!(grant(&http(), &stage.server.base, &stage.client, &old).await, 401);
}

#[tokio::test]
async fn a_wait_for_a_lock_of_another_user_can_be_interrupted() {
    let stage = Stage::set().await;
    let Some(app) = of_app(&stage, "a_wait_for_a_lock_of_another_user_can_be_interrupted") else { return };
    let (token, part) = (app.join("token"), app.join(".token.keyrelay-part"));
    for path in [&token, &part] {
        std::fs::write(path, "").unwrap();
        give(path);
    }
    let held = std::fs::File::open(&part).unwrap();
    held.lock().unwrap();
    // It reads its credentials from a pipe, which shows when it handles signals.
    let credentials = stage.path("credentials");
    rustix::fs::mkfifoat(rustix::fs::CWD, &credentials, rustix::fs::Mode::RWXU).unwrap();
    let mut command = stage.command("rotate", &["--to", "file:app/token"]);
    command.env("KEYRELAY_CREDENTIALS", &credentials).stderr(Stdio::piped()).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    let bootstrap = std::fs::read(stage.path("data/bootstrap.json")).unwrap();
    let written = tokio::task::spawn_blocking(move || {
        let mut pipe = std::fs::File::options().write(true).open(&credentials).unwrap();
        pipe.write_all(&bootstrap).unwrap();
        pipe
    });
    let pipe = written.await.unwrap();
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    drop(pipe);
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("interrupted"), "{output:?}");

    // Without a signal, the wait ends by itself.
    let said = stage.run("rotate", &["--to", "file:app/token"]).await;
    is_refused(&said, "another process has held the lock on app/.token.keyrelay-part");
    assert_eq!((stage.rotations().await, std::fs::read(&token).unwrap()), (0, Vec::new()));
}

#[tokio::test]
async fn root_refuses_a_configuration_that_another_user_can_change() {
    let stage = Stage::set().await;
    let name = "root_refuses_a_configuration_that_another_user_can_change";
    let Some(app) = of_app(&stage, name) else { return };
    let theirs = app.join("keyrelay.toml");
    std::fs::write(&theirs, format!("data_dir = {:?}\n", stage.path("data"))).unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = keyrelay();
        command.current_dir(&app).args(["migrate", "--check"]).args(arguments);
        end(command).await
    };
    let said = run(&[]).await;
    assert!(said.code == Some(0) && said.text.contains("up to date"), "{}", said.text);
    give(&theirs);
    is_refused(&run(&[]).await, "./keyrelay.toml is refused: name it with --config");
    std::fs::rename(&theirs, stage.path("named.toml")).unwrap();
    symlink("../named.toml", &theirs).unwrap();
    is_refused(&run(&[]).await, "a link that another user can change");
    assert_eq!(run(&["--config", "../named.toml"]).await.code, Some(0));
}

#[tokio::test]
async fn copies_and_key_files_are_made_only_where_no_other_user_can_change_them() {
    let stage = Stage::set().await;
    let name = "copies_and_key_files_are_made_only_where_no_other_user_can_change_them";
    let Some(app) = of_app(&stage, name) else { return };
    for name in ["all.part", "keyrelay.lock"] {
        symlink("../made", app.join(name)).unwrap();
    }
    let run = async |arguments: &[&str]| {
        let mut command = keyrelay();
        command.current_dir(stage.dir.path()).args(arguments);
        end(command).await
    };
    for arguments in [
        &["backup", "app/all", "--data-dir", "data"][..],
        &["export", "app/all", "--data-dir", "data"],
        &["master-key", "app/all"],
    ] {
        is_refused(&run(arguments).await, "app/all is in a directory that other users can change");
    }
    is_refused(&run(&["migrate", "--data-dir", "app"]).await, "a link that another user can change");
    std::fs::remove_file(app.join("keyrelay.lock")).unwrap();
    for command in ["migrate", "serve"] {
        is_refused(
            &run(&[command, "--data-dir", "app"]).await,
            "app belongs to user 12345: run this as that user",
        );
    }
    let database = ["migrate", "--data-dir", "other", "--database-url", "sqlite://app/keyrelay.sqlite"];
    is_refused(&run(&database).await, "app belongs to user 12345: run this as that user");
    assert_eq!((names(&app), stage.path("made").exists()), (vec!["all.part".to_owned()], false));
    // A leftover of a killed command in an own directory is replaced; the target of a link is not.
    symlink("made", stage.path("all.part")).unwrap();
    let said = run(&["backup", "all", "--data-dir", "data"]).await;
    assert_eq!((said.code, stage.path("made").exists()), (Some(0), false), "{}", said.text);
}
