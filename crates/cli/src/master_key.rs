//! `keyrelay master-key`.

use std::path::PathBuf;

use clap::Args;
use keyrelay_core::keyring::Keyring;
use keyrelay_core::random::SystemEntropy;

use crate::files::Entry;
use crate::say::say;

/// The arguments of `keyrelay master-key`.
#[derive(Debug, Args)]
pub struct MasterKeyArgs {
    /// The file to make. One that is there already is left alone.
    file: PathBuf,
}

/// Makes a key and writes it to a file that only its owner can read.
pub fn make(args: &MasterKeyArgs) -> anyhow::Result<()> {
    Entry::find_new(&args.file)?.create(Keyring::new_file(&SystemEntropy).as_bytes())?;
    say!(
        "{} holds a new master key. Give it to every node, and keep a copy away from the database: without it \
         no secret in the database is of any use.",
        args.file.display()
    );
    Ok(())
}
