//! `keyrelay migrate`.

use std::process::ExitCode;

use clap::Args;
use keyrelay_store::StoreError;
use keyrelay_store::operations::{Place, migrate as bring_up_to_date, schema};

use crate::installation::{lock_data_dir, lock_database, place};
use crate::say::say;
use crate::settings::DataArgs;

/// The flags of `keyrelay migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Only say what is to do; the exit code is 1 if something is
    #[arg(long)]
    check: bool,
}

/// Brings the schema up to date, as the server does when it starts.
pub async fn migrate(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let settings = args.data.read()?;
    let place = place(&settings)?;
    if args.check {
        let versions = schema(&place).await?;
        if versions.from > versions.to {
            return Err(StoreError::NewerSchema { found: versions.from, known: versions.to }.into());
        }
        if versions.from == versions.to {
            say!("the schema is up to date: version {}", versions.to);
            return Ok(ExitCode::SUCCESS);
        }
        say!("the schema is to be brought from version {} to {}", versions.from, versions.to);
        return Ok(ExitCode::FAILURE);
    }
    let _locks = match &place {
        Place::File(database) => {
            let (data_dir, mut locks) = lock_data_dir(&settings)?;
            locks.extend(lock_database(database, &data_dir)?);
            locks
        }
        // Servers of the version before go on meanwhile.
        Place::Postgres(_) => Vec::new(),
    };
    let done = bring_up_to_date(&place).await?;
    if done.from == done.to {
        say!("the schema is up to date: version {}", done.to);
    } else {
        say!("the schema was brought from version {} to {}", done.from, done.to);
    }
    Ok(ExitCode::SUCCESS)
}
