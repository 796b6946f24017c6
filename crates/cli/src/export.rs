//! `keyrelay export`.

use std::path::PathBuf;

use clap::Args;
use keyrelay_store::operations::export as write_out;

use crate::files::Entry;
use crate::installation::place;
use crate::progress::{Bar, Unit, size_of};
use crate::say::say;
use crate::settings::DataArgs;

/// The arguments of `keyrelay export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The file to make. It must not be there yet.
    file: PathBuf,
    #[command(flatten)]
    data: DataArgs,
}

/// Writes a whole installation to a file, for `keyrelay import`.
pub async fn export(args: ExportArgs) -> anyhow::Result<()> {
    let settings = args.data.read()?;
    // It holds everything.
    Entry::find_new(&args.file)?;
    let mut bar = Bar::new("exporting", Unit::Things("rows"));
    let rows = write_out(&place(&settings)?, &args.file, &mut |done, total| bar.set(done, total)).await?;
    drop(bar);
    say!("{}: {rows} rows, {}", args.file.display(), size_of(&args.file));
    say!("What changes from now on is not in it. Import it with the same master key file.");
    Ok(())
}
