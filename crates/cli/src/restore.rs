//! `keyrelay restore`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use keyrelay_store::operations::{Place, restore as put_back};

use crate::backup::NATIVE_WAY;
use crate::installation::{keyring, lock_data_dir, lock_database, master_key_file, place};
use crate::progress::{Bar, Unit};
use crate::say::say;
use crate::settings::DataArgs;

/// The arguments of `keyrelay restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The file that `keyrelay backup` made
    file: PathBuf,
    #[command(flatten)]
    data: DataArgs,
}

/// Puts a backup where no database is.
pub async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let settings = args.data.read()?;
    let Place::File(database) = place(&settings)? else { bail!(NATIVE_WAY) };
    let (data_dir, mut locks) = lock_data_dir(&settings)?;
    locks.extend(lock_database(&database, &data_dir)?);
    let key_file = master_key_file(&settings);
    let keyring = if key_file.exists() { Some(keyring(&settings, false)?) } else { None };
    let mut bar = Bar::new("copying", Unit::Bytes);
    let keys =
        put_back(&args.file, &database, keyring.as_ref(), &mut |done, total| bar.set(done, total)).await?;
    drop(bar);
    say!("{}: restored and checked", database.display());
    if keyring.is_none() {
        say!("Before you start the server, put the master key file to {}.", key_file.display());
        say!("It must have: {keys}");
    }
    Ok(())
}
