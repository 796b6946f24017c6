//! `keyrelay import`.

use std::path::PathBuf;

use clap::Args;
use keyrelay_store::operations::{Place, import as read_in};

use crate::installation::{keyring, lock_data_dir, lock_database, place};
use crate::progress::{Bar, Unit};
use crate::say::say;
use crate::settings::DataArgs;

/// The arguments of `keyrelay import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file that `keyrelay export` made
    file: PathBuf,
    #[command(flatten)]
    data: DataArgs,
}

/// Fills an empty database from an export: all of it or nothing.
pub async fn import(args: ImportArgs) -> anyhow::Result<()> {
    let settings = args.data.read()?;
    let place = place(&settings)?;
    let keyring = keyring(&settings, false)?;
    let _locks = match &place {
        Place::File(database) => {
            let (data_dir, mut locks) = lock_data_dir(&settings)?;
            locks.extend(lock_database(database, &data_dir)?);
            locks
        }
        Place::Postgres(_) => Vec::new(),
    };
    let mut bar = Bar::new("importing", Unit::Bytes);
    let (rows, keys) = read_in(&place, &args.file, &keyring, &mut |done, total| bar.set(done, total)).await?;
    drop(bar);
    say!("{rows} rows, whole and unchanged; the master key file has what they need: {keys}");
    Ok(())
}
