//! People's accounts: what a log-in is checked against. Never part of a resource, so that no read of
//! one can show it.

use keyrelay_core::id::{ProjectId, UserId};
use keyrelay_core::keyring::Sealed;
use keyrelay_core::limits::LOGIN_ACCOUNTS_MAX;
use keyrelay_core::time::Timestamp;

use crate::change::args;
use crate::database::{Arg, Row};
use crate::{Change, Conflict, Store, StoreError};

/// What a User resource says that decides.
#[derive(Clone, Debug)]
pub struct UserRow {
    /// The user.
    pub id: UserId,
    /// The project that the account is for; none for an account of the whole server.
    pub project: Option<ProjectId>,
    /// The address to log in with, in lower case.
    pub email: String,
    /// First and last name, for people.
    pub name: Option<String>,
    /// Whether the account may be used.
    pub active: bool,
}

/// An account with all that a log-in is checked against.
#[derive(Clone, Debug)]
pub struct UserAccount {
    /// What the resource says.
    pub row: UserRow,
    /// The password's Argon2id hash, as a PHC string; none if no password was set yet.
    pub password_hash: Option<String>,
    /// Counts the links that set a password; only the latest works.
    pub password_link: u32,
    /// Until when it works; none if there is none, or it was used.
    pub password_link_until: Option<Timestamp>,
    /// What the second factor is computed from.
    pub totp_sealed: Option<Sealed>,
    /// Whether the second factor was confirmed by a code, and is asked for.
    pub totp_confirmed: bool,
    /// The last time step whose code was accepted.
    pub totp_step: Option<i64>,
    /// Failures since the last success.
    pub failures: u32,
    /// When the last of them was.
    pub last_failure: Option<Timestamp>,
}

const COLUMNS: &str = "id, project_id, email, name, active, password_hash, password_link, password_link_until, \
                       totp_sealed, totp_confirmed, totp_step, failures, last_failure";

fn read(row: &Row) -> Result<UserAccount, StoreError> {
    let project = row.text(1)?;
    let corrupt = |what| StoreError::Corrupt { what };
    Ok(UserAccount {
        row: UserRow {
            id: row.id(0, UserId::parse, "user_account.id")?,
            project: match project.as_str() {
                "" => None,
                id => Some(ProjectId::parse(id).ok_or(corrupt("user_account.project_id"))?),
            },
            email: row.text(2)?,
            name: row.opt_text(3)?,
            active: row.boolean(4)?,
        },
        password_hash: row.opt_text(5)?,
        password_link: u32::try_from(row.int(6)?).map_err(|_| corrupt("user_account.password_link"))?,
        password_link_until: row.opt_int(7)?.map(Timestamp::from_epoch_ms),
        totp_sealed: row.opt_blob(8)?.map(Sealed::from_bytes),
        totp_confirmed: row.boolean(9)?,
        totp_step: row.opt_int(10)?,
        failures: u32::try_from(row.int(11)?).unwrap_or(u32::MAX),
        last_failure: row.opt_int(12)?.map(Timestamp::from_epoch_ms),
    })
}

/// How a project stands in `user_account`: an index over NULL would let an address in twice.
fn project_text(project: Option<ProjectId>) -> String {
    project.map_or(String::new(), |id| id.to_string())
}

impl Store {
    /// One account.
    pub async fn user(&self, id: UserId) -> Result<Option<UserAccount>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM user_account WHERE id = $1");
        self.0.database.fetch_access(sql, vec![Arg::from(id)]).await?.first().map(read).transpose()
    }

    /// The account of an address (in lower case) that is for one project.
    pub async fn user_by_email(
        &self,
        email: &str,
        project: ProjectId,
    ) -> Result<Option<UserAccount>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM user_account WHERE email = $1 AND project_id = $2");
        self.0.database.fetch(sql, args![email, project]).await?.first().map(read).transpose()
    }

    /// The accounts of an address (in lower case) that allow a login: active, with a password and an active
    /// membership. If a project is named, only its accounts and those of the whole server. The oldest come first, at
    /// most [`LOGIN_ACCOUNTS_MAX`], so that a new account cannot displace an older one.
    pub async fn accounts_of(
        &self,
        email: &str,
        project: Option<ProjectId>,
    ) -> Result<Vec<UserAccount>, StoreError> {
        let any = project.is_none();
        let sql = format!(
            "SELECT {COLUMNS} FROM user_account u WHERE email = $1 AND ($2 OR project_id = $3 OR project_id = '') \
             AND active AND password_hash IS NOT NULL AND EXISTS (SELECT 1 FROM membership m \
             JOIN project p ON p.id = m.project_id \
             WHERE m.user_id = u.id AND m.active AND p.active AND ($2 OR p.id = $3)) \
             ORDER BY COALESCE(email_since, 0), id LIMIT {LOGIN_ACCOUNTS_MAX}"
        );
        let args = args![email, any, project_text(project)];
        self.0.database.fetch_access(sql, args).await?.iter().map(read).collect()
    }
}

impl Change {
    /// Makes or changes the narrow row of a User, after its resource; password and second factor stay.
    pub fn put_user(&mut self, row: &UserRow) {
        self.push(
            "INSERT INTO user_account (id, project_id, email, name, active, password_link, totp_confirmed, failures, \
             email_since) \
             VALUES ($1, $2, $3, $4, $5, 0, FALSE, 0, (SELECT r.last_updated FROM resource r WHERE r.id = $1)) \
             ON CONFLICT (id) DO UPDATE SET project_id = excluded.project_id, email = excluded.email, \
             name = excluded.name, active = excluded.active, email_since = CASE \
             WHEN user_account.email = excluded.email THEN user_account.email_since ELSE excluded.email_since END",
            args![row.id, project_text(row.project), row.email.clone(), row.name.clone(), row.active],
            Some(Conflict::Email),
        );
    }

    /// Ends an account: all that came from its logins ends with it.
    pub fn delete_user(&mut self, id: UserId) {
        self.push("DELETE FROM user_account WHERE id = $1", args![id], Some(Conflict::Version));
    }

    /// Sets a password, and forgets failures. If `link` is named, it must be the latest, not yet used.
    pub fn set_password(&mut self, id: UserId, hash: String, link: Option<u32>) {
        self.push(
            "UPDATE user_account SET password_hash = $1, password_link_until = NULL, failures = 0, last_failure = NULL \
             WHERE id = $2 AND ($3 < 0 OR (password_link = $3 AND password_link_until IS NOT NULL))",
            args![hash, id, link.map_or(-1, i64::from)],
            Some(Conflict::Version),
        );
    }

    /// Makes a link that sets a password; earlier ones end.
    pub fn open_password_link(&mut self, id: UserId, link: u32, until: Timestamp) {
        self.push(
            "UPDATE user_account SET password_link = $1, password_link_until = $2 \
             WHERE id = $3 AND password_link = $1 - 1",
            args![i64::from(link), until, id],
            Some(Conflict::Version),
        );
    }

    /// Keeps, replaces or (with `None`) removes what the second factor is computed from.
    pub fn set_second_factor(&mut self, id: UserId, sealed: Option<&Sealed>) {
        self.push(
            "UPDATE user_account SET totp_sealed = $1, totp_confirmed = FALSE, totp_step = NULL WHERE id = $2",
            args![sealed.map(|sealed| sealed.as_bytes().to_vec()), id],
            Some(Conflict::Version),
        );
    }

    /// Accepts the code of a time step, once: a step that is not later than the last one is a conflict.
    pub fn accept_second_factor(&mut self, id: UserId, step: i64) {
        self.push(
            "UPDATE user_account SET totp_step = $1, totp_confirmed = TRUE, failures = 0, last_failure = NULL \
             WHERE id = $2 AND totp_sealed IS NOT NULL AND (totp_step IS NULL OR totp_step < $1)",
            args![step, id],
            Some(Conflict::Version),
        );
    }

    /// Writes how many failures in a row an account has, if the stored number is still the known one.
    pub fn write_login_failures(
        &mut self,
        id: UserId,
        known: u32,
        failures: u32,
        last_failure: Option<Timestamp>,
    ) {
        self.push(
            "UPDATE user_account SET failures = $1, last_failure = $2 WHERE id = $3 AND failures = $4",
            args![i64::from(failures), last_failure, id, i64::from(known)],
            Some(Conflict::Version),
        );
    }
}
