use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use super::{Entry, Turn};

/// A user that the tests give files to, where they run as root.
const OTHER: u32 = 12345;

fn check(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    Turn::take(Entry::find(path)?)?.check(contents)
}

fn place(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    Turn::take(Entry::find(path)?)?.place(contents)
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    Ok(Entry::find(path)?.read()?.map(|bytes| bytes.to_vec()))
}

/// Whether this runs as root: only root can change the owner of a file.
fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("{test}: skipped, it needs a second user and so root");
    }
    is_root
}

fn give(path: &Path, uid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn mode_and_owner_stay_and_a_new_file_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    place(&path, b"one").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    // Only root can give a file away; others see at least that their own stays theirs.
    let is_root = fs::metadata(&path).unwrap().uid() == 0;
    let owner = if is_root {
        (12345, 54321)
    } else {
        (fs::metadata(&path).unwrap().uid(), fs::metadata(&path).unwrap().gid())
    };
    chown(&path, Some(owner.0), Some(owner.1)).unwrap();
    place(&path, b"two").unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, owner.0, owner.1));
    assert_eq!(names(dir.path()), ["secret"]);
}

#[test]
fn a_link_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("secret"), "old").unwrap();
    let link = dir.path().join("link");
    symlink("inner/secret", &link).unwrap();
    place(&link, b"new").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(inner.join("secret")).unwrap(), b"new");
}

#[test]
fn what_a_killed_attempt_left_is_replaced_and_a_check_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, "old").unwrap();
    let left = dir.path().join(".secret.keyrelay-part");
    fs::write(&left, "half of a sec").unwrap();
    check(&path, b"new").unwrap();
    assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["secret".into()], b"old".to_vec()));
    fs::write(&left, "half of another secret").unwrap();
    fs::set_permissions(&left, fs::Permissions::from_mode(0o400)).unwrap();
    place(&path, b"new").unwrap();
    assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["secret".into()], b"new".to_vec()));
}

#[test]
fn what_somebody_else_put_beside_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let (path, beside) = (dir.path().join("secret"), dir.path().join(".secret.keyrelay-part"));
    let theirs = dir.path().join("theirs");
    fs::write(&theirs, "").unwrap();
    fs::hard_link(&theirs, &beside).unwrap();
    place(&path, b"new").unwrap();
    assert_eq!((fs::read(&path).unwrap(), fs::read(&theirs).unwrap()), (b"new".to_vec(), Vec::new()));
    symlink(&theirs, &beside).unwrap();
    place(&path, b"new").unwrap();
    assert_eq!((fs::read(&path).unwrap(), fs::read(&theirs).unwrap()), (b"new".to_vec(), Vec::new()));
    if fs::metadata(&path).unwrap().uid() == 0 {
        fs::write(&beside, "").unwrap();
        chown(&beside, Some(12345), None).unwrap();
        let reader = File::open(&beside).unwrap();
        place(&path, b"newer").unwrap();
        assert_eq!((fs::read(&path).unwrap(), reader.metadata().unwrap().len()), (b"newer".to_vec(), 0));
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(format!("{:#}", read(dir.path()).unwrap_err()).ends_with("is not a file"));
    assert!(check(&dir.path().join("none/secret"), b"x").is_err());
}

#[test]
fn a_link_is_followed_only_where_nobody_else_can_change_it() {
    let dir = tempfile::tempdir().unwrap();
    let private = dir.path().join("private");
    fs::write(&private, "of root").unwrap();
    let (theirs, inner) = (dir.path().join("theirs"), dir.path().join("inner"));
    for dir in [&theirs, &inner] {
        fs::create_dir(dir).unwrap();
    }
    symlink("../private", theirs.join("secret")).unwrap();
    symlink("../inner", theirs.join("sub")).unwrap();
    place(&theirs.join("sub/secret"), b"as long as the directory is one's own").unwrap();
    if !is_root("a_link_is_followed_only_where_nobody_else_can_change_it") {
        return;
    }
    // The directory is another user's, the links are not.
    give(&theirs, OTHER);
    let refused = |path: &Path| {
        let errors =
            [place(path, b"new").unwrap_err(), read(path).unwrap_err(), check(path, b"").unwrap_err()];
        for error in errors {
            assert!(format!("{error:#}").contains("a link that another user can change"), "{error:#}");
        }
    };
    refused(&theirs.join("secret"));
    refused(&theirs.join("sub/secret"));
    // A directory in which every user may create links, but not replace those of others.
    give(&theirs, 0);
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(read(&theirs.join("secret")).unwrap().unwrap(), b"of root");
    give(&theirs.join("secret"), OTHER);
    refused(&theirs.join("secret"));
    assert_eq!(fs::read(&private).unwrap(), b"of root");
}

#[test]
fn in_a_directory_of_others_a_file_must_be_theirs_alone() {
    if !is_root("in_a_directory_of_others_a_file_must_be_theirs_alone") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (private, theirs) = (dir.path().join("private"), dir.path().join("theirs"));
    fs::write(&private, "of root").unwrap();
    fs::create_dir(&theirs).unwrap();
    give(&theirs, OTHER);
    let path = theirs.join("secret");
    let refused = |expected: &str| {
        let errors = [place(&path, b"new").unwrap_err(), read(&path).unwrap_err()];
        for error in errors {
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
        assert_eq!(names(&theirs), ["secret"], "nothing is made beside it");
        fs::remove_file(&path).unwrap();
    };
    fs::hard_link(&private, &path).unwrap();
    refused("has other names");
    fs::write(&path, "").unwrap();
    give(&path, OTHER + 1);
    refused("belongs to user 12346");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o602)).unwrap();
    refused("everybody can write to");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    refused("is not a file");
    fs::write(&path, "old").unwrap();
    give(&path, OTHER);
    place(&path, b"new").unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), fs::read(&path).unwrap()), (OTHER, b"new".to_vec()));
}

#[test]
fn what_others_can_change_is_no_place_for_what_must_be_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/state");
    let entry = Entry::find_making_dirs(&path).unwrap();
    entry.require_own_dir().unwrap();
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    Entry::find_new(&path).unwrap().create(b"one").unwrap();
    let error = Entry::find_new(&path).unwrap_err().to_string();
    assert!(error.contains("already"), "{error}");
    for (dir, mode, expected) in [("a/b", 0o777, "write to the directory"), ("a", 0o777, "")] {
        let dir = dir_of_test(dir, &path);
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        let own = Entry::find(&path).unwrap().require_own_dir();
        assert_eq!(own.is_err(), !expected.is_empty());
        let error = Entry::find_new(&path.with_extension("new")).unwrap_err().to_string();
        assert!(error.contains("that other users can change"), "{error}");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

fn dir_of_test(name: &str, path: &Path) -> std::path::PathBuf {
    path.ancestors().find(|dir| dir.ends_with(name)).unwrap().to_owned()
}

#[tokio::test]
async fn the_wait_for_a_lock_has_a_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    let entry = || Entry::find(&path).unwrap();
    let held = super::Claim::wait(&entry(), std::time::Duration::ZERO).await.unwrap();
    let error = super::Claim::wait(&entry(), std::time::Duration::ZERO).await.unwrap_err();
    assert!(error.to_string().contains("another process has held the lock on"), "{error}");
    drop(held);
    assert!(names(dir.path()).is_empty(), "nothing is left of it");
    super::Claim::wait(&entry(), std::time::Duration::ZERO).await.unwrap();
}
