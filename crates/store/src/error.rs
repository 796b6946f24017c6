//! What can go wrong in the store, as far as a caller can act on it.

use keyrelay_core::change_rates::OverRate;

/// Somebody else was faster, or the change contradicts what is there. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The resource has another version than the one the change was made from.
    #[error("the resource was changed by somebody else meanwhile")]
    Version,
    /// There is a resource of that id.
    #[error("a resource with this id exists already")]
    Id,
    /// Something that must not exist does.
    #[error("such a resource exists already")]
    Exists,
    /// The author may no longer do this.
    #[error("whoever asked for the change may no longer make it")]
    Caller,
    /// Another account of the project has this address.
    #[error("another user of the project has this email")]
    Email,
    /// The client has a membership already; it can have one.
    #[error("the client application or user has a membership in the project already")]
    Membership,
    /// Another user is a member of the project under this profile.
    #[error("another user of the project has this profile: each person acts under a profile of its own")]
    Profile,
}

impl StoreError {
    /// The same for a read whose cost no caller chooses: the database is slow, the read is not costly.
    pub(crate) fn of_cheap_read(self) -> Self {
        match self {
            Self::TooCostly => {
                tracing::warn!("the database needs too long for a small read");
                Self::Busy
            }
            error => error,
        }
    }
}

/// Longest text of a database's error that is kept, in characters.
const ERROR_CHARS_MAX: usize = 500;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// See [`Conflict`].
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The queue is full or the database did not answer in time: try again later.
    #[error("the database is busy")]
    Busy,
    /// The time limit of this statement in the database has passed.
    #[error("the database needs too long for this")]
    TooCostly,
    /// Too many searches of the project run or wait.
    #[error("too many searches of the project are under way")]
    Crowded,
    /// The project has reached its bound of resources.
    #[error("the project has {most} resources, as many as it may")]
    OverQuota {
        /// The bound.
        most: i64,
    },
    /// The author of the change, or its project, has written too much: retry later.
    #[error("a {} has written more than its rate allows", .0.of.as_str())]
    OverRate(OverRate),
    /// The database did not tell in time, or whatever writes ended before it could: the change may have
    /// happened, may yet happen, or not.
    #[error("it is not known whether the change was written")]
    Unknown,
    /// The store was opened to change nothing.
    #[error("nothing is changed here, because of --read-only")]
    ReadOnly,
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
    /// Another process owns the data directory.
    #[error(
        "another keyrelay process uses the data directory {path}: stop it first, or choose another --data-dir"
    )]
    Locked {
        /// The directory.
        path: String,
    },
    /// A row does not hold what this version of the program writes there.
    #[error("the database holds something unreadable in {what}")]
    Corrupt {
        /// Table and column.
        what: &'static str,
    },
    /// The database was written by a newer version of the program.
    #[error(
        "the database has schema version {found}, but this program knows {known} only: use a newer keyrelay"
    )]
    NewerSchema {
        /// What the database says.
        found: usize,
        /// What this program knows.
        known: usize,
    },
    /// The database was written by an older version of the program, and has to be brought up to date.
    #[error(
        "the database has schema version {found}, but this program wants {known}: run `keyrelay migrate` first"
    )]
    OlderSchema {
        /// What the database says.
        found: usize,
        /// What this program knows.
        known: usize,
    },
    /// There is no database file.
    #[error("there is no database {path}")]
    NoDatabase {
        /// The file.
        path: String,
    },
    /// Something is in the place where a database or a copy should go.
    #[error("{what} already; nothing was changed")]
    NotEmpty {
        /// What is there.
        what: String,
    },
    /// An export cannot be read or written.
    #[error("{action}")]
    Export {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// An export does not hold what it should.
    #[error("line {line} of the export: {problem}")]
    ExportLine {
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An export of another version of the schema.
    #[error(
        "the export has schema version {found}, but this program knows {known}: import it with the version of \
         keyrelay that exported it, or migrate the original first and export again"
    )]
    OtherExport {
        /// What the export says.
        found: usize,
        /// What this program knows.
        known: usize,
    },
    /// A file is not a good copy of a database.
    #[error("{path} is not a good copy of a database: {problem}")]
    BadCopy {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something is sealed under master keys that are not listed.
    #[error(
        "the master key file lacks {keys}: use the one that belongs to this database; nothing was changed"
    )]
    MissingKeys {
        /// Which keys, and what needs them.
        keys: String,
    },
    /// The URL of the database cannot be used. It is not repeated: there may be a password in it.
    #[error("--database-url: {0}")]
    DatabaseUrl(&'static str),
    /// The file system said no.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database said no.
    #[error("the database failed: {0}")]
    Database(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) {
            return Self::TooCostly;
        }
        // The text of a search may be in it, and a log line has an end.
        Self::Database(error.to_string().chars().take(ERROR_CHARS_MAX).collect())
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        // What the server said, without the values that it may repeat in its details.
        let told = match error.as_db_error() {
            Some(told) => format!("{} ({})", told.message(), told.code().code()),
            None => error.to_string(),
        };
        Self::Database(told.chars().take(ERROR_CHARS_MAX).collect())
    }
}
