//! Where the database is, and how it is spoken to.

use std::path::PathBuf;

use keyrelay_core::limits::{DATABASE_CONNECT_MAX, DATABASE_WAIT_MAX};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, NoTls};

use crate::StoreError;

/// A PostgreSQL database, by its connection URL. It never shows its password.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    config: Config,
}

impl PostgresConfig {
    /// Reads `postgres://USER@HOST[:PORT][,HOST…]/DATABASE[?…]`, with the parameters of libpq as far as
    /// they have a meaning here. Several hosts are tried in turn until one can be written to.
    ///
    /// `passfile` names a file whose first line is the password. The error repeats no part of the URL
    /// that could be a password.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut kept = Vec::new();
        let (mut ssl_mode, mut password_file) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => ssl_mode = Some(mode.to_owned()),
                Some(("passfile", path)) => password_file = Some(PathBuf::from(path)),
                _ => kept.push(pair),
            }
        }
        let url = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        let mut config: Config = url.parse().map_err(|_| {
            StoreError::DatabaseUrl("this is not a URL like postgres://user@host:5432/keyrelay")
        })?;
        match ssl_mode.as_deref() {
            Some("disable") => {}
            None if config.get_hosts().iter().all(is_near) => {}
            _ => {
                return Err(StoreError::DatabaseUrl(
                    "this version speaks to PostgreSQL without TLS only: say sslmode=disable if the network between \
                     is trusted, or put a TLS tunnel or a Unix socket there",
                ));
            }
        }
        if let Some(path) = password_file {
            let text = std::fs::read_to_string(&path).map_err(|source| StoreError::File {
                action: "cannot read the database password in",
                path: path.display().to_string(),
                source,
            })?;
            config.password(text.lines().next().unwrap_or_default());
        }
        config
            .ssl_mode(SslMode::Disable)
            .application_name("keyrelay")
            .connect_timeout(DATABASE_CONNECT_MAX)
            .tcp_user_timeout(DATABASE_WAIT_MAX)
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        let ours = format!(
            "-c statement_timeout={0} -c lock_timeout={0} -c idle_in_transaction_session_timeout={0}",
            DATABASE_WAIT_MAX.as_millis()
        );
        let options = config.get_options().map_or(ours.clone(), |given| format!("{given} {ours}"));
        config.options(options);
        Ok(Self { config })
    }

    /// Connects, and gives what has to run for the connection to live.
    pub(super) async fn connect(
        &self,
    ) -> Result<(Client, impl Future<Output = ()> + Send + use<>), tokio_postgres::Error> {
        let (client, connection) = self.config.connect(NoTls).await?;
        let connection = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the database ended");
            }
        };
        Ok((client, connection))
    }
}

/// Whether nothing between here and there could read along.
fn is_near(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_database_is_not_spoken_to_in_clear_by_accident() {
        for url in ["postgres://keyrelay@127.0.0.1/x", "postgres://u@db.example.test/x?sslmode=disable"] {
            assert!(PostgresConfig::parse(url).is_ok(), "{url}");
        }
        for url in
            ["postgres://u:hush@db.example.test/x", "postgres://u:hush@127.0.0.1/x?sslmode=verify-full"]
        {
            let refused = PostgresConfig::parse(url).unwrap_err().to_string();
            assert!(refused.contains("sslmode") && !refused.contains("hush"), "{refused}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = PostgresConfig::parse("postgres://u:hush@localhost/x").unwrap();
        assert!(!format!("{config:?}").contains("hush"));
        let refused = PostgresConfig::parse("postgres://u:hush@local host/x").unwrap_err().to_string();
        assert!(!refused.contains("hush"), "{refused}");
    }
}
