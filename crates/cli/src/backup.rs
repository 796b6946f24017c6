//! `keyrelay backup`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use keyrelay_store::operations::{Place, backup as copy};

use crate::files::Entry;
use crate::installation::place;
use crate::progress::{Bar, Unit, size_of};
use crate::say::say;
use crate::settings::DataArgs;

/// Why there is no backup of PostgreSQL here.
pub const NATIVE_WAY: &str = "with PostgreSQL, use what it brings along: pg_dump, or pg_basebackup with an archive \
                              of its log, and pg_restore (docs/OPERATIONS.md, \"Backup\")";

/// The arguments of `keyrelay backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to make. It must not be there yet.
    file: PathBuf,
    #[command(flatten)]
    data: DataArgs,
}

/// Copies a SQLite database while its server runs.
pub async fn backup(args: BackupArgs) -> anyhow::Result<()> {
    let settings = args.data.read()?;
    let Place::File(database) = place(&settings)? else { bail!(NATIVE_WAY) };
    // It holds everything, and SQLite opens files by their path.
    Entry::find_new(&args.file)?;
    let mut bar = Bar::new("copying", Unit::Things("pages"));
    let keys = copy(&database, &args.file, &mut |done, total| bar.set(done, total)).await?;
    drop(bar);
    say!("{}: {}, checked", args.file.display(), size_of(&args.file));
    say!("It is of use with the master key file only, which is not in it: {keys}");
    say!("Keep a copy of that file too, in another place than this one.");
    Ok(())
}
