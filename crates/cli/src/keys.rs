//! `keyrelay keys`: which master keys are needed, and how the installation moves to a new one.

mod file;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use keyrelay_core::keyring::{KeyId, Keyring};
use keyrelay_core::random::SystemEntropy;
use keyrelay_core::time::{Clock, SystemClock};
use keyrelay_store::operations::{KeyUse, KeysUsed, Place, keys_used, tickets};
use keyrelay_store::{Store, StoreError};

use crate::installation::{keyring, lock_data_dir, lock_database, make_durable, master_key_file, place};
use crate::progress::{Bar, Unit};
use crate::say::say;
use crate::settings::{DataArgs, Settings};
use file::KeyFile;

/// How often a server that moves to another key is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Looks without any progress after which it is given up: the server does not know the key.
const WATCHES_IN_VAIN_MAX: u32 = 30;

/// The arguments of `keyrelay keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Say what each master key is needed for, and whether it can be removed from the file.
    Status(DataArgs),
    /// Add a new key at the end of the file: it opens, and does not seal yet. The first step with several servers.
    Add(DataArgs),
    /// Put the last key of the file first. The second step with several servers.
    Promote(DataArgs),
    /// Move everything to a new master key, while the server runs.
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
struct RotateArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Make no new key: move to the one that is first in the file, which every server knows already
    #[arg(long)]
    use_first: bool,
}

/// Runs one of the commands.
pub async fn keys(args: KeysArgs) -> anyhow::Result<()> {
    match args.command {
        KeysCommand::Status(data) => status(&data.read()?).await,
        KeysCommand::Add(data) => {
            let file = lock(&data.read()?).await?;
            file.change(|text| Keyring::with_new_last(text, &SystemEntropy)).await?;
            say!(
                "{} has a new key at its end. Give the file to every server, and wait until each has",
                file.path().display()
            );
            say!("logged \"the master key file was read again\". Then: keyrelay keys promote");
            Ok(())
        }
        KeysCommand::Promote(data) => {
            let file = lock(&data.read()?).await?;
            file.change(Keyring::with_last_first).await?;
            say!("{} has its last key first. Give the file to every server.", file.path().display());
            say!("Then: keyrelay keys rotate --use-first");
            Ok(())
        }
        KeysCommand::Rotate(args) => rotate(&args.data.read()?, args.use_first).await,
    }
}

/// Waits until no other process changes the master keys of an installation.
async fn lock(settings: &Settings) -> anyhow::Result<KeyFile> {
    KeyFile::lock(master_key_file(settings), &place(settings)?).await
}

async fn rotate(settings: &Settings, use_first: bool) -> anyhow::Result<()> {
    let place = place(settings)?;
    let file = lock(settings).await?;
    let mut keyring = file.keyring()?;
    let used = keys_used(&place).await?;
    used.require(&keyring)?;
    if !use_first {
        if matches!(place, Place::Postgres(_)) {
            bail!(
                "several servers may share this database, and each must know a key before anything is sealed under it: \
                 run `keyrelay keys add`, give the file to every server, then `keyrelay keys promote`, give it to every \
                 server again, then `keyrelay keys rotate --use-first`"
            );
        }
        if movable(&used, keyring.sealing_key()) > 0 {
            bail!(
                "an earlier rotation has not come to its end: go on with `keyrelay keys rotate --use-first`"
            );
        }
        keyring = file.change(|text| Keyring::with_new_first(text, &SystemEntropy)).await?;
        say!("{} has a new first key", file.path().display());
    }
    make_durable(file.path()).with_context(|| format!("cannot sync {}", file.path().display()))?;
    file.require_held()?;
    move_to_first(settings, &place, &keyring).await?;
    status(settings).await
}

/// Moves what can be moved: here, or, where a server owns the SQLite file, by waiting for it.
async fn move_to_first(settings: &Settings, place: &Place, keyring: &Keyring) -> anyhow::Result<()> {
    let total = movable(&keys_used(place).await?, keyring.sealing_key());
    let mut bar = Bar::new("moving to the first key", Unit::Things("values"));
    bar.set(0, total);
    let store = match place {
        Place::Postgres(config) => Store::open_postgres(config).await?,
        Place::File(database) => {
            let locks = lock_data_dir(settings).and_then(|(data_dir, mut locks)| {
                locks.extend(lock_database(database, &data_dir)?);
                Ok(locks)
            });
            match locks {
                Ok(locks) => {
                    let store = Store::open_sqlite(database).await?;
                    let moved =
                        store.reseal(keyring, &SystemEntropy, &mut |moved| bar.set(moved, total)).await?;
                    store.close().await;
                    drop(locks);
                    return refuse_unopened(moved.unopened);
                }
                Err(error) if is_locked(&error) => {
                    return watch(place, keyring.sealing_key(), &mut bar, total).await;
                }
                Err(error) => return Err(error),
            }
        }
    };
    let moved = store.reseal(keyring, &SystemEntropy, &mut |moved| bar.set(moved, total)).await?;
    store.close().await;
    refuse_unopened(moved.unopened)
}

fn is_locked(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<StoreError>(), Some(StoreError::Locked { .. }))
}

fn refuse_unopened(unopened: u64) -> anyhow::Result<()> {
    if unopened > 0 {
        bail!("{unopened} values do not open under any key of the file: they were left as they are");
    }
    Ok(())
}

/// Waits until the server that owns the file has moved everything.
async fn watch(place: &Place, first: KeyId, bar: &mut Bar, total: u64) -> anyhow::Result<()> {
    let (mut before, mut in_vain) = (u64::MAX, 0);
    loop {
        let left = movable(&keys_used(place).await?, first);
        bar.set(total.saturating_sub(left), total);
        if left == 0 {
            return Ok(());
        }
        in_vain = if left < before { 0 } else { in_vain + 1 };
        if in_vain >= WATCHES_IN_VAIN_MAX {
            bail!(
                "the running server does not take up the key: see its log, and whether it has the same master key file; \
                 `keyrelay keys rotate --use-first` goes on"
            );
        }
        before = left;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// How many values are under other keys than the first, of those that can be moved.
fn movable(used: &KeysUsed, first: KeyId) -> u64 {
    let others = used.keys().filter(|(key, _)| *key != first).flat_map(|(_, uses)| uses);
    others.filter(|(what, _)| what.is_movable()).map(|(_, count)| count).sum()
}

async fn status(settings: &Settings) -> anyhow::Result<()> {
    let place = place(settings)?;
    let keyring = keyring(settings, false)?;
    let used = keys_used(&place).await?;
    let ids = keyring.key_ids();
    for (n, key) in ids.iter().enumerate() {
        let role = if n == 0 { "seals; " } else { "" };
        say!("key {key}: {role}{}", needed_for(used.of(*key)));
    }
    for (key, uses) in used.keys().filter(|(key, _)| !ids.contains(key)) {
        say!("key {key}: NOT IN THE FILE; {}", needed_for(Some(uses)));
    }
    if ids.len() > 1 {
        advise(&place, &used, &ids).await?;
    }
    used.require(&keyring)?;
    Ok(())
}

fn needed_for(uses: Option<&BTreeMap<KeyUse, u64>>) -> String {
    let Some(uses) = uses else { return "nothing that is kept needs it".to_owned() };
    uses.iter().map(|(what, count)| what.counted(*count)).collect::<Vec<_>>().join(", ")
}

/// What has to happen before keys can be removed.
async fn advise(place: &Place, used: &KeysUsed, ids: &[KeyId]) -> anyhow::Result<()> {
    let mut older: BTreeMap<KeyUse, u64> = BTreeMap::new();
    for (what, count) in ids.iter().skip(1).filter_map(|key| used.of(*key)).flatten() {
        *older.entry(*what).or_default() += count;
    }
    say!("");
    for (what, count) in &older {
        let why = match what {
            KeyUse::SecretOnce => "only a digest is kept, so it stays until the secret is rotated or retired",
            KeyUse::FormerSecret => {
                "only a digest is kept; without the key the secret is still refused, but no longer known as a former one"
            }
            _ => "can be moved: keyrelay keys rotate --use-first",
        };
        say!("{} under older keys: {why}", what.counted(*count));
    }
    let out = tickets(place, SystemClock.now()).await?;
    let end = out.last_end.map_or(String::new(), |end| format!(", the last until {end}"));
    say!(
        "handed out and not kept: {} logins that can be refreshed, {} links that set a password, {} initial access \
         tokens{end}; {} registration access tokens, without an end",
        out.logins,
        out.password_links,
        out.initial_access,
        out.registrations
    );
    say!("Those from before the first key was put first need the older keys as long as they are to work.");
    let stays = older.iter().any(|(what, _)| *what != KeyUse::FormerSecret);
    say!(
        "{}",
        if stays {
            "Keep the older keys in the file."
        } else {
            "Nothing that lets anybody in is kept under the older keys: they can be removed once what was handed out \
             before is not to work any more. Backups from before need them still: keep a copy of the file with each. \
             Ask `keyrelay doctor` afterwards."
        }
    );
    Ok(())
}
