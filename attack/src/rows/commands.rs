//! Section 6: commands that root runs in a directory that another user has prepared.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use super::{Needs, Row, Verdict};
use crate::api::Credentials;
use crate::command::{Ended, Running, run};
use crate::scene::{Kind, Scene};

pub(super) static ROWS: &[Row] = &[
    row("link-file", "`rotate --to file:` writes to no file that a stranger's link leads to", link_file),
    row(
        "link-dotenv",
        "`rotate --to dotenv:` writes to no file that a stranger's link leads to",
        link_dotenv,
    ),
    row("link-agent", "`agent` writes to no file that a stranger's link leads to", link_agent),
    row("link-retiring", "the copy of the old secret is written to no file of somebody else", link_retiring),
    row("copied-file", "no file of root is copied to where the application can read it", copied_file),
    row("part-locked", "a lock that a stranger holds is waited for with a deadline", part_locked),
    Row {
        name: "toml-of-another",
        claim: "a configuration file of a stranger's directory is not obeyed",
        scene: Kind::Usual,
        needs: Needs::RootAndFile,
        run: toml_of_another,
    },
    Row {
        name: "backup-part",
        claim: "`backup` writes to no file that a stranger puts in its way",
        scene: Kind::Usual,
        needs: Needs::RootAndFile,
        run: backup_part,
    },
];

const fn row(name: &'static str, claim: &'static str, run: fn(&Scene<'_>) -> Result<Verdict>) -> Row {
    Row { name, claim, scene: Kind::Usual, needs: Needs::Root, run }
}

/// The owner of the directory: the user `nobody`.
const STRANGER: u32 = 65534;
const COMMAND_WAIT: Duration = Duration::from_mins(1);
/// How long a command may wait for a lock that another user holds.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// How old a secret must be for an agent that rotates every second.
const OLD_ENOUGH: Duration = Duration::from_millis(1500);
/// The contents of root's file.
const OF_ROOT: &str = "only-root-may-read-or-write-this-0001";

/// A directory of a stranger, and a file of root beside it.
struct Trap {
    dir: TempDir,
    victim: PathBuf,
    /// Root's own.
    home: PathBuf,
}

impl Trap {
    fn set(scene: &Scene<'_>, victim: &str) -> Result<Self> {
        let dir = scene.directory()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let trap = Self { victim: dir.path().join("of-root"), home: dir.path().join("home"), dir };
        fs::create_dir(trap.place())?;
        fs::create_dir(&trap.home)?;
        chown(trap.place(), Some(STRANGER), Some(STRANGER))?;
        fs::write(&trap.victim, victim)?;
        fs::set_permissions(&trap.victim, fs::Permissions::from_mode(0o600))?;
        Ok(trap)
    }

    /// The directory of the stranger.
    fn place(&self) -> PathBuf {
        self.dir.path().join("application")
    }

    /// Puts a link of the stranger there, to root's file.
    fn link(&self, name: &str) -> Result<PathBuf> {
        let link = self.place().join(name);
        symlink(&self.victim, &link)?;
        lchown(&link, Some(STRANGER), Some(STRANGER))?;
        Ok(link)
    }

    /// Puts a file of the stranger there.
    fn file(&self, name: &str, contents: &str) -> Result<PathBuf> {
        let file = self.place().join(name);
        fs::write(&file, contents)?;
        chown(&file, Some(STRANGER), Some(STRANGER))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(file)
    }

    /// Whether root's file is unchanged: contents, owner and mode.
    fn is_untouched(&self, victim: &str) -> Result<bool> {
        let meta = fs::metadata(&self.victim)?;
        let is_roots = (meta.uid(), meta.mode() & 0o777) == (0, 0o600);
        Ok(is_roots && fs::read_to_string(&self.victim)? == victim)
    }

    /// The files in the stranger's directory that hold a text, whatever their names.
    fn holding(&self, text: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.place())? {
            let entry = entry?;
            let is_file = entry.file_type()?.is_file();
            if is_file && fs::read_to_string(entry.path()).is_ok_and(|contents| contents.contains(text)) {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(found)
    }

    fn run(&self, mut command: Command, arguments: &[&str]) -> Result<Ended> {
        command.args(arguments);
        run(command, &self.home, COMMAND_WAIT)
    }

    /// The same, with all files of the stranger that held the text at any time: a copy may exist for a moment only.
    fn run_looking_for(
        &self,
        text: &str,
        command: Command,
        arguments: &[&str],
    ) -> Result<(Ended, Vec<String>)> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let found = self.holding(text)?;
                    if !found.is_empty() {
                        return Ok(found);
                    }
                }
                self.holding(text)
            });
            let ended = self.run(command, arguments);
            over.store(true, Ordering::SeqCst);
            let found = looking.join().ok().context("the thread that looks ended early")?;
            Ok((ended?, found?))
        })
    }
}

/// `file:PATH`, or `dotenv:PATH` with what follows.
fn target(kind: &str, path: &Path, rest: &str) -> String {
    format!("{kind}:{}{rest}", path.display())
}

fn judge(trap: &Trap, victim: &str, ended: &Ended) -> Result<Verdict> {
    let untouched = trap.is_untouched(victim)?;
    let words = ended.words();
    Ok(Verdict::of(
        untouched && ended.is_orderly(),
        if untouched { words } else { format!("root's file was changed; {words}") },
    ))
}

fn link_file(scene: &Scene<'_>) -> Result<Verdict> {
    let trap = Trap::set(scene, OF_ROOT)?;
    let to = target("file", &trap.link("secret")?, "");
    let ended = trap.run(scene.command(&trap.home), &["rotate", &scene.a.member.id, "--to", &to])?;
    judge(&trap, OF_ROOT, &ended)
}

fn link_dotenv(scene: &Scene<'_>) -> Result<Verdict> {
    let victim = format!("SECRET={OF_ROOT}\n");
    let trap = Trap::set(scene, &victim)?;
    let to = target("dotenv", &trap.link(".env")?, "#SECRET");
    let ended = trap.run(scene.command(&trap.home), &["rotate", &scene.a.member.id, "--to", &to])?;
    judge(&trap, &victim, &ended)
}

fn itself(scene: &Scene<'_>) -> Result<Credentials> {
    let rules = json!([{ "resourceType": "ClientApplication", "interaction": ["rotate-own-secret"] }]);
    scene.make_client("Rotates itself", Some(rules))
}

fn link_agent(scene: &Scene<'_>) -> Result<Verdict> {
    let trap = Trap::set(scene, OF_ROOT)?;
    let client = itself(scene)?;
    let held = trap.file("secret", &client.secret)?;
    let to = target("file", &trap.link("copy")?, "");
    let held = held.display().to_string();
    let arguments =
        ["agent", "--once", "--every", "1s", "--client", &client.id, "--secret-file", &held, "--to", &to];
    std::thread::sleep(OLD_ENOUGH);
    let ended = trap.run(scene.command(&trap.home), &arguments)?;
    judge(&trap, OF_ROOT, &ended)
}

/// Lets A's project show secrets once.
fn show_once(scene: &Scene<'_>) -> Result<()> {
    let setting = json!([{ "name": "secretVisibility", "valueString": "once" }]);
    scene
        .supers
        .add(&format!("fhir/R4/Project/{}", scene.a.project), "/setting", &setting)
        .expect(200)
        .map(drop)
}

fn link_retiring(scene: &Scene<'_>) -> Result<Verdict> {
    show_once(scene)?;
    let trap = Trap::set(scene, OF_ROOT)?;
    let client = scene.make_client("Shown once", None)?;
    let to = target("file", &trap.file("secret", &client.secret)?, "");
    trap.link("secret.retiring")?;
    let ended = trap.run(scene.command(&trap.home), &["rotate", &client.id, "--to", &to])?;
    judge(&trap, OF_ROOT, &ended)
}

fn copied_file(scene: &Scene<'_>) -> Result<Verdict> {
    show_once(scene)?;
    let mut seen = Vec::new();
    let mut holds = true;
    for rotate in [true, false] {
        let trap = Trap::set(scene, OF_ROOT)?;
        let client = if rotate { scene.make_client("Shown once", None)? } else { itself(scene)? };
        let link = trap.link("secret")?;
        let (ended, copies) = if rotate {
            let to = target("file", &link, "");
            trap.run_looking_for(OF_ROOT, scene.command(&trap.home), &["rotate", &client.id, "--to", &to])?
        } else {
            let held = link.display().to_string();
            let arguments =
                ["agent", "--once", "--every", "1s", "--client", &client.id, "--secret-file", &held];
            trap.run_looking_for(OF_ROOT, scene.command(&trap.home), &arguments)?
        };
        holds &= copies.is_empty() && trap.is_untouched(OF_ROOT)? && ended.is_orderly();
        seen.push(if copies.is_empty() { ended.words() } else { format!("copied to {}", copies.join(", ")) });
    }
    Ok(Verdict::of(holds, seen.join("; ")))
}

fn part_locked(scene: &Scene<'_>) -> Result<Verdict> {
    let trap = Trap::set(scene, OF_ROOT)?;
    let secret = trap.file("secret", &scene.a.member.secret)?;
    let part = trap.file(".secret.keyrelay-part", "")?;
    // As the stranger could hold it, in a process that does not end.
    let lock = File::options().read(true).write(true).open(&part)?;
    lock.lock().context("locking the prepared file")?;
    let mut command = scene.command(&trap.home);
    command.args(["rotate", &scene.a.member.id, "--to", &target("file", &secret, "")]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut running = Running::start(&mut command)?;
    let (status, _) = running.wait(LOCK_WAIT)?;
    if let Some(status) = status {
        return Ok(Verdict::Holds(format!("ended by itself with {status}")));
    }
    let pid = Pid::from_raw(i32::try_from(running.id())?).context("the process of the command")?;
    kill_process(pid, Signal::INT)?;
    let (status, _) = running.wait(Duration::from_secs(5))?;
    let interrupted = status.map_or("nor by SIGINT", |_| "but by SIGINT");
    Ok(Verdict::Fails(format!("did not end by itself in {} s, {interrupted}", LOCK_WAIT.as_secs())))
}

fn toml_of_another(scene: &Scene<'_>) -> Result<Verdict> {
    let trap = Trap::set(scene, OF_ROOT)?;
    let planted = trap.dir.path().join("planted");
    trap.file("keyrelay.toml", &format!("data_dir = \"{}\"\n", planted.display()))?;
    let mut command = scene.installation.command();
    command.current_dir(trap.place()).env("HOME", &trap.home);
    command.arg("migrate");
    let ended = run(command, &trap.home, COMMAND_WAIT)?;
    let obeyed = planted.exists();
    let words = ended.words();
    Ok(Verdict::of(!obeyed && ended.is_orderly(), if obeyed { format!("obeyed: {words}") } else { words }))
}

fn backup_part(scene: &Scene<'_>) -> Result<Verdict> {
    let rounds = scene.setting.pick(5, 40);
    let mut last = String::new();
    for round in 0..rounds {
        let trap = Trap::set(scene, OF_ROOT)?;
        let copy = trap.place().join("copy");
        // It exists before, or appears while the copy is made.
        if round % 2 == 0 {
            trap.link("copy.part")?;
        }
        let stopped = AtomicBool::new(false);
        let ended = std::thread::scope(|scope| {
            scope.spawn(|| {
                let aside = trap.place().join("aside");
                while !stopped.load(Ordering::SeqCst) {
                    for entry in fs::read_dir(trap.place()).into_iter().flatten().flatten() {
                        let is_part = entry.file_name().to_string_lossy().contains("part");
                        if is_part && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                            let _ = symlink(&trap.victim, &aside);
                            let _ = fs::rename(&aside, entry.path());
                        }
                    }
                }
            });
            let mut command = scene.installation.command();
            command.arg("backup").arg(&copy).arg("--data-dir").arg(scene.installation.data_dir());
            let ended = run(command, &trap.home, COMMAND_WAIT);
            stopped.store(true, Ordering::SeqCst);
            ended
        })?;
        if !trap.is_untouched(OF_ROOT)? || !ended.is_orderly() {
            return Ok(Verdict::Fails(format!(
                "root's file was changed in round {round}; {}",
                ended.words()
            )));
        }
        let is_link = fs::symlink_metadata(&copy).is_ok_and(|meta| meta.is_symlink());
        last = format!("{}{}", if is_link { "a link was left; " } else { "" }, ended.words());
    }
    Ok(Verdict::Holds(format!("{rounds} rounds; the last: {last}")))
}
