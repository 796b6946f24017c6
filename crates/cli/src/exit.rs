//! How the commands end that change the secrets of a client: the exit codes, in one place.

use std::process::ExitCode;

/// Said at the end of `--help`.
pub const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed, or refused: standard error says why and what to do
  2  wrong usage
  3  the retiring secret is still in use, as far as can be told; it was not retired
  4  it was still in use when the time was up; run the same command again to go on";

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything that was asked for is done.
    Done,
    /// The evidence does not allow to retire the secret.
    StillInUse,
    /// It did not until the time was up.
    TimedOut,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Done => Self::SUCCESS,
            Ending::StillInUse => Self::from(3),
            Ending::TimedOut => Self::from(4),
        }
    }
}
