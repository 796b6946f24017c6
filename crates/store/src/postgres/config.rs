//! Where the database is, and how it is spoken to.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use keyrelay_core::limits::{
    DATABASE_CONNECT_MAX, DATABASE_READ_CONNECTIONS_DEFAULT, DATABASE_STATEMENT_MAX, DATABASE_WAIT_MAX,
    DATABASE_WRITE_CONNECTIONS_DEFAULT,
};
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Sizes;
use crate::StoreError;

/// A PostgreSQL database, by its connection URL. It never shows its password.
#[derive(Clone)]
pub struct PostgresConfig {
    /// One for each host.
    hosts: Vec<Config>,
    /// `None` where nothing between could read along, or where that was said to be so.
    tls: Option<MakeRustlsConnect>,
    sizes: Sizes,
}

impl std::fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { hosts, tls, sizes } = self;
        let tls = tls.is_some();
        f.debug_struct("PostgresConfig")
            .field("hosts", hosts)
            .field("tls", &tls)
            .field("sizes", sizes)
            .finish()
    }
}

/// What keeps a connection alive while it is polled.
pub(super) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
/// A connection that is being made.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<(Client, Running), NotConnected>> + Send>>;
/// What makes connections.
pub(super) type Connect = Arc<dyn Fn() -> Connecting + Send + Sync>;

/// After how long without a word a connection is asked for a sign of life, and how often in vain.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVES_MAX: u32 = 3;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotConnected {
    /// The host, or the way to it, said no.
    #[error(transparent)]
    Refused(#[from] tokio_postgres::Error),
    /// Nothing was said.
    #[error("it does not answer within {} s", DATABASE_CONNECT_MAX.as_secs())]
    Silent,
}

impl PostgresConfig {
    /// Reads `postgres://USER@HOST[:PORT][,HOST…]/DATABASE[?…]`, with the parameters of libpq as far as
    /// they have a meaning here. Several hosts are tried in turn until one can be written to.
    ///
    /// `sslmode` is `verify-full`, against the certificates in the file that `sslrootcert` names or those
    /// that the system trusts, or `disable`, which is what is done by itself on this machine only.
    /// `passfile` names a file whose first line is the password. The error repeats no part of the URL
    /// that could be a password.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut kept = Vec::new();
        let (mut ssl_mode, mut roots, mut password_file) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => ssl_mode = Some(mode.to_owned()),
                Some(("sslrootcert", path)) => roots = Some(PathBuf::from(path)),
                Some(("passfile", path)) => password_file = Some(PathBuf::from(path)),
                _ => kept.push(pair),
            }
        }
        let url = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        let mut hosts = Vec::new();
        for url in one_for_each_host(&url) {
            hosts.push(url.parse::<Config>().map_err(|_| {
                StoreError::DatabaseUrl("this is not a URL like postgres://user@host:5432/keyrelay")
            })?);
        }
        let tls = match ssl_mode.as_deref() {
            Some("verify-full") => Some(tls(roots.as_deref())?),
            Some("disable") => None,
            None if hosts.iter().flat_map(Config::get_hosts).all(is_near) => None,
            _ => {
                return Err(StoreError::DatabaseUrl(
                    "say sslmode=verify-full (and sslrootcert=FILE, if the system does not trust the certificate), \
                     or sslmode=disable if the network between is trusted",
                ));
            }
        };
        if let Some(path) = password_file {
            let text = std::fs::read_to_string(&path).map_err(|source| StoreError::File {
                action: "cannot read the database password in",
                path: path.display().to_string(),
                source,
            })?;
            for host in &mut hosts {
                host.password(text.lines().next().unwrap_or_default());
            }
        }
        for host in &mut hosts {
            set_up(host, if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        }
        let sizes = Sizes::of(DATABASE_READ_CONNECTIONS_DEFAULT, DATABASE_WRITE_CONNECTIONS_DEFAULT);
        Ok(Self { hosts, tls, sizes })
    }

    /// With other numbers of connections that read and that write.
    #[must_use]
    pub fn with_connections(self, reads: usize, writes: usize) -> Self {
        Self { sizes: Sizes::of(reads, writes), ..self }
    }

    pub(super) const fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Makes connections for searches, on which a statement may take that long. A search of a project always uses the
    /// indexes that start with the project, even if scanning a small table would be faster, so that its cost does not
    /// grow with other projects. It runs in one process.
    pub(super) fn connector_within(&self, statement: Duration) -> Connect {
        let mut config = self.clone();
        for host in &mut config.hosts {
            let given = host.get_options().unwrap_or_default().to_owned();
            host.options(format!(
                "{given} -c statement_timeout={} -c enable_seqscan=off -c max_parallel_workers_per_gather=0",
                statement.as_millis().max(1)
            ));
        }
        config.connector()
    }

    /// What makes connections like this.
    pub(super) fn connector(&self) -> Connect {
        let config = self.clone();
        Arc::new(move || {
            let config = config.clone();
            Box::pin(async move { config.connect().await })
        })
    }

    /// Connects to the first host that can be written to, and gives what has to run for the connection
    /// to live. Each host has its own time: one that hangs does not keep the next from being tried.
    pub(super) async fn connect(&self) -> Result<(Client, Running), NotConnected> {
        let mut failed = NotConnected::Silent;
        for host in &self.hosts {
            let attempt = async {
                match &self.tls {
                    Some(tls) => connect(host, tls.clone()).await,
                    None => connect(host, NoTls).await,
                }
            };
            match timeout(DATABASE_CONNECT_MAX, attempt).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => failed = error.into(),
                Err(_) => failed = NotConnected::Silent,
            }
        }
        Err(failed)
    }
}

/// The same URL once for each of its hosts. Hosts among the parameters stay together.
fn one_for_each_host(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else { return vec![url.to_owned()] };
    let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let (user, hosts) = authority.rfind('@').map_or(("", authority), |at| authority.split_at(at + 1));
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{path}")).collect()
}

fn set_up(config: &mut Config, ssl_mode: SslMode) {
    config
        .ssl_mode(ssl_mode)
        .application_name("keyrelay")
        .tcp_user_timeout(DATABASE_WAIT_MAX)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_IDLE)
        .keepalives_retries(KEEPALIVES_MAX)
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    // The later ones count. A commit that is answered is on the disk, whatever is set for the database or
    // its user; whoever wants it otherwise has to say so in the URL.
    let given = config.get_options().unwrap_or_default();
    let options = format!(
        "-c synchronous_commit=on {given} \
         -c statement_timeout={0} -c lock_timeout={0} -c idle_in_transaction_session_timeout={0}",
        DATABASE_STATEMENT_MAX.as_millis()
    );
    config.options(options);
}

async fn connect<T>(config: &Config, tls: T) -> Result<(Client, Running), tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    let running = Box::pin(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
    Ok((client, running))
}

/// TLS to a server whose certificate is good and names the host.
fn tls(roots: Option<&Path>) -> Result<MakeRustlsConnect, StoreError> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => {
            let failed = |source| StoreError::File {
                action: "cannot read the certificates in",
                path: path.display().to_string(),
                source,
            };
            let pem = std::fs::read(path).map_err(failed)?;
            store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(StoreError::DatabaseUrl(
            "sslmode=verify-full needs certificates to trust, and there are none: name a PEM file with sslrootcert",
        ));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| StoreError::DatabaseUrl("TLS cannot be used here"))?;
    Ok(MakeRustlsConnect::new(config.with_root_certificates(store).with_no_client_auth()))
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
        for url in ["postgres://u:hush@db.example.test/x", "postgres://u:hush@127.0.0.1/x?sslmode=prefer"] {
            let refused = PostgresConfig::parse(url).unwrap_err().to_string();
            assert!(refused.contains("sslmode") && !refused.contains("hush"), "{refused}");
        }
    }

    #[test]
    fn each_host_is_spoken_to_by_itself() {
        let url = "postgres://u:p@127.0.0.1:1,[::1]:2,127.0.0.3/x?sslmode=disable&connect_timeout=1";
        let config = PostgresConfig::parse(url).unwrap();
        let ports: Vec<&[u16]> = config.hosts.iter().map(Config::get_ports).collect();
        assert_eq!(ports, [&[1][..], &[2], &[5432]]);
        let all = config.hosts.iter().all(|host| {
            host.get_hosts().len() == 1 && host.get_user() == Some("u") && host.get_dbname() == Some("x")
        });
        assert!(all, "{config:?}");
        assert_eq!(PostgresConfig::parse("postgres:///x?host=127.0.0.1&user=u").unwrap().hosts.len(), 1);
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = PostgresConfig::parse("postgres://u:hush@localhost/x").unwrap();
        assert!(!format!("{config:?}").contains("hush"));
        let refused = PostgresConfig::parse("postgres://u:hush@local host/x").unwrap_err().to_string();
        assert!(!refused.contains("hush"), "{refused}");
    }
}
