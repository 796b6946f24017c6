//! `keyrelay completions` and `keyrelay man`: made from the same definitions that arguments are read by.

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

use crate::say;

/// Print a script that completes the commands in a shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Print the manual page of keyrelay, or of one of its commands.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command
    command: Option<String>,
}

/// Prints the script.
pub fn completions(args: &CompletionsArgs, mut command: Command) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "keyrelay", &mut script);
    say::bytes(&script);
}

/// Prints the page.
pub fn man(args: &ManArgs, mut command: Command) -> anyhow::Result<()> {
    command.build();
    let page = match &args.command {
        None => command,
        Some(name) => {
            let found =
                command.find_subcommand(name).with_context(|| format!("there is no command {name:?}"))?;
            found.clone().display_name(format!("keyrelay-{name}"))
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    say::bytes(&text);
    Ok(())
}
