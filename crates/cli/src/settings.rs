//! Where settings come from: `keyrelay.toml`, overridden by `KEYRELAY_*` variables, overridden by
//! flags. An unknown key in the file is an error, for a setting that is misspelt is not set.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use keyrelay_core::change_rates::{ChangeRate, ChangeRates, ResourcesMax};
use keyrelay_core::keyring::SecretVisibility;
use keyrelay_core::limits::{
    BYTES_IN_FLIGHT_DEFAULT, BYTES_IN_FLIGHT_MIN, DATABASE_CONNECTIONS_MAX,
    DATABASE_READ_CONNECTIONS_DEFAULT, DATABASE_READ_CONNECTIONS_MIN, DATABASE_WRITE_CONNECTIONS_DEFAULT,
    DOCUMENT_BYTES_MAX, RESOURCE_BYTES_DEFAULT, RESOURCE_BYTES_MIN, SIGNING_KEY_LIFETIME_DEFAULT,
};
use keyrelay_core::origin::Origin;
use keyrelay_core::secret_rules::{
    MaximumAge, PastMaximumAge, RetireAfter, SecretOverwrite, SecretRules, WarnBefore,
};
use keyrelay_core::signing::{self, Schedule};
use keyrelay_server::{BaseUrl, Config, Tls, TrustedProxies};
use serde::Deserialize;

use crate::files::Entry;
use crate::installation::warn_of_readers;

mod values;

pub use values::{Lifetime, Rule};

/// The file that is read if none is named.
const DEFAULT_FILE: &str = "keyrelay.toml";
const DEFAULT_LISTEN: &str = "127.0.0.1:8103";
const DEFAULT_DATA_DIR: &str = "keyrelay-data";
const DEFAULT_LOG: &str = "info";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Which secrets may be written directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretPolicy {
    /// At least 32 characters.
    Strong,
    /// Any, also short ones.
    Any,
}

/// Where clients' certificates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not looked at.
    Off,
    /// The server asks for them in TLS.
    Tls,
    /// Trusted proxies send them in Client-Cert (RFC 9440).
    Header,
}

/// What tokens are signed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256.
    #[value(name = "ES256")]
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[value(name = "EdDSA")]
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RSA; signing takes many times as long.
    #[value(name = "RS256")]
    #[serde(rename = "RS256")]
    Rs256,
}

const MIB: usize = 1024 * 1024;

/// The settings, as flags, variables and keys of the file.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address to listen on [default: 127.0.0.1:8103; port 0 takes a free one]
    #[arg(long, env = "KEYRELAY_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// The URL under which clients reach this server, the issuer of its tokens [default: from the address to listen on]
    #[arg(long, env = "KEYRELAY_BASE_URL")]
    pub base_url: Option<String>,
    /// Directory of the database, its lock and the master key [default: ./keyrelay-data]
    #[arg(long, env = "KEYRELAY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The database, as `sqlite://PATH` [default: keyrelay.sqlite in the data directory]
    #[arg(long, env = "KEYRELAY_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Connections to PostgreSQL that read, from 6 to 100: a sixth of them for each kind of read on the hot paths (clients, their secrets, people's sessions), the rest for other reads [default: 12]
    #[arg(long, env = "KEYRELAY_DATABASE_READ_CONNECTIONS")]
    pub database_read_connections: Option<usize>,
    /// Connections to PostgreSQL that write, from 1 to 100: as many changes are made at once [default: 8]
    #[arg(long, env = "KEYRELAY_DATABASE_WRITE_CONNECTIONS")]
    pub database_write_connections: Option<usize>,
    /// The file with the master keys; a file named here must exist [default: master.key in the data directory, made on the first start]
    #[arg(long, env = "KEYRELAY_MASTER_KEY_FILE")]
    pub master_key_file: Option<PathBuf>,
    /// Largest resource that may be written, in bytes, from 16384 to 1048576; a larger resource that is stored already may change if it does not grow [default: 65536]
    #[arg(long, env = "KEYRELAY_RESOURCE_BYTES_MAX")]
    pub resource_bytes_max: Option<usize>,
    /// Which secrets an admin may write directly [default: strong]
    #[arg(long, env = "KEYRELAY_SECRET_POLICY")]
    pub secret_policy: Option<SecretPolicy>,
    /// Where a project does not say: whether secrets can be read again (recoverable) or are shown once (once) [default: recoverable]
    #[arg(long, env = "KEYRELAY_SECRET_VISIBILITY")]
    pub secret_visibility: Option<Rule<SecretVisibility>>,
    /// Where a project does not say: what a rotation does that would end a retiring secret in use (allow, warn, refuse) [default: allow]
    #[arg(long, env = "KEYRELAY_SECRET_OVERWRITE")]
    pub secret_overwrite: Option<Rule<SecretOverwrite>>,
    /// Where a project does not say: how old a secret may become, like 90d [default: none]
    #[arg(long, env = "KEYRELAY_SECRET_MAXIMUM_AGE")]
    pub secret_maximum_age: Option<Rule<MaximumAge>>,
    /// Where a project does not say: whether an older secret is reported or refused (report, refuse) [default: report]
    #[arg(long, env = "KEYRELAY_SECRET_PAST_MAXIMUM_AGE")]
    pub secret_past_maximum_age: Option<Rule<PastMaximumAge>>,
    /// Where neither a rotation nor its project says: after how long the old secret ends by itself, like 24h [default: none]
    #[arg(long, env = "KEYRELAY_SECRET_RETIRE_AFTER")]
    pub secret_retire_after: Option<Rule<RetireAfter>>,
    /// Where a project does not say: how long before a secret ends or is too old to warn, like 7d,1d [default: 7d,1d,1h]
    #[arg(long, env = "KEYRELAY_SECRET_WARN_BEFORE")]
    pub secret_warn_before: Option<Rule<WarnBefore>>,
    /// Rate of the changes of one member that is not an admin, in bytes a second; up to 256 s of it at once; off for no bound [default: 16KiB]
    #[arg(long, env = "KEYRELAY_CLIENT_CHANGE_RATE")]
    pub client_change_rate: Option<Rule<ChangeRate>>,
    /// Rate of the changes of all members of one project, in bytes a second, on each server; off for no bound [default: 256KiB]
    #[arg(long, env = "KEYRELAY_PROJECT_CHANGE_RATE")]
    pub project_change_rate: Option<Rule<ChangeRate>>,
    /// Most resources of a project, without audit records and deleted ones; off for no bound [default: 1000000]
    #[arg(long, env = "KEYRELAY_PROJECT_RESOURCES_MAX")]
    pub project_resources_max: Option<Rule<ResourcesMax>>,
    /// Proxies that are believed about the address of a client (`X-Forwarded-For`): addresses and networks, separated by commas [default: none]
    #[arg(long, env = "KEYRELAY_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Option<Vec<String>>,
    /// Origins whose pages may use the API in a browser, beside those that clients name as theirs; separated by commas [default: none]
    #[arg(long, env = "KEYRELAY_ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Option<Vec<String>>,
    /// What tokens are signed by; a new choice takes effect after a day [default: ES256]
    #[arg(long, env = "KEYRELAY_SIGNING_ALGORITHM", ignore_case = true)]
    pub signing_algorithm: Option<SigningAlgorithm>,
    /// How long one key signs tokens, like 90d or 720h [default: 90d]
    #[arg(long, env = "KEYRELAY_SIGNING_KEY_LIFETIME")]
    pub signing_key_lifetime: Option<Lifetime>,
    /// A PEM file with the TLS certificate and those between it and its root; with --tls-key, the server speaks TLS [default: none]
    #[arg(long, env = "KEYRELAY_TLS_CERTIFICATE")]
    pub tls_certificate: Option<PathBuf>,
    /// A PEM file with the private key of the TLS certificate
    #[arg(long, env = "KEYRELAY_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Where clients' certificates come from (RFC 8705) [default: off]
    #[arg(long, env = "KEYRELAY_CLIENT_CERTIFICATES")]
    pub client_certificates: Option<ClientCertificates>,
    /// The URL under which clients with certificates reach this server, if it is another one [default: none]
    #[arg(long, env = "KEYRELAY_MTLS_BASE_URL")]
    pub mtls_base_url: Option<String>,
    /// Memory that all requests together may hold, in MiB, 32 or more: bodies, values parsed from them, answers [default: 64]
    #[arg(long, env = "KEYRELAY_BYTES_IN_FLIGHT_MIB")]
    pub bytes_in_flight_mib: Option<usize>,
    /// Let clients in and refuse every change: while the installation is moved to another database [default: false]
    #[arg(long, env = "KEYRELAY_READ_ONLY", num_args = 0..=1, default_missing_value = "true")]
    pub read_only: Option<bool>,
    /// What is logged, as a tracing filter [default: info]
    #[arg(long, env = "KEYRELAY_LOG")]
    pub log: Option<String>,
    /// How log lines look [default: pretty on a terminal, else json]
    #[arg(long, env = "KEYRELAY_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// The settings that say where an installation is, for commands that work on one beside its server.
#[derive(Clone, Debug, Args)]
pub struct DataArgs {
    /// Directory of the database, its lock and the master key [default: ./keyrelay-data]
    #[arg(long, env = "KEYRELAY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The database, as `sqlite://PATH` or `postgres://…` [default: keyrelay.sqlite in the data directory]
    #[arg(long, env = "KEYRELAY_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// The file with the master keys [default: master.key in the data directory]
    #[arg(long, env = "KEYRELAY_MASTER_KEY_FILE")]
    master_key_file: Option<PathBuf>,
    /// The configuration file of the server [default: ./keyrelay.toml, if it is there]
    #[arg(long, env = "KEYRELAY_CONFIG")]
    config: Option<PathBuf>,
}

impl DataArgs {
    /// The settings that the server of this installation has.
    pub fn read(self) -> anyhow::Result<Settings> {
        let Self { data_dir, database_url, master_key_file, config } = self;
        let flags = Settings { data_dir, database_url, master_key_file, ..Settings::default() };
        flags.or_file(config.as_deref())
    }
}

/// The keys of the file, to suggest the nearest.
const KEYS: [&str; 30] = [
    "listen",
    "base_url",
    "data_dir",
    "database_url",
    "database_read_connections",
    "database_write_connections",
    "master_key_file",
    "resource_bytes_max",
    "secret_policy",
    "secret_visibility",
    "secret_overwrite",
    "secret_maximum_age",
    "secret_past_maximum_age",
    "secret_retire_after",
    "secret_warn_before",
    "client_change_rate",
    "project_change_rate",
    "project_resources_max",
    "trusted_proxies",
    "allowed_origins",
    "signing_algorithm",
    "signing_key_lifetime",
    "tls_certificate",
    "tls_key",
    "client_certificates",
    "mtls_base_url",
    "bytes_in_flight_mib",
    "read_only",
    "log",
    "log_format",
];

impl Settings {
    /// Adds what the file says to what flags and variables have not set.
    pub fn or_file(self, file: Option<&Path>) -> anyhow::Result<Self> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let cannot = || format!("cannot read {}", path.display());
        let text = match file {
            Some(path) => fs::read_to_string(path).with_context(cannot)?,
            None => match default_file()? {
                Some(text) => text,
                None => return Ok(self),
            },
        };
        let file = parse(&text).with_context(|| format!("in {}", path.display()))?;
        Ok(Self {
            listen: self.listen.or(file.listen),
            base_url: self.base_url.or(file.base_url),
            data_dir: self.data_dir.or(file.data_dir),
            database_url: self.database_url.or(file.database_url),
            database_read_connections: self.database_read_connections.or(file.database_read_connections),
            database_write_connections: self.database_write_connections.or(file.database_write_connections),
            master_key_file: self.master_key_file.or(file.master_key_file),
            resource_bytes_max: self.resource_bytes_max.or(file.resource_bytes_max),
            secret_policy: self.secret_policy.or(file.secret_policy),
            secret_visibility: self.secret_visibility.or(file.secret_visibility),
            secret_overwrite: self.secret_overwrite.or(file.secret_overwrite),
            secret_maximum_age: self.secret_maximum_age.or(file.secret_maximum_age),
            secret_past_maximum_age: self.secret_past_maximum_age.or(file.secret_past_maximum_age),
            secret_retire_after: self.secret_retire_after.or(file.secret_retire_after),
            secret_warn_before: self.secret_warn_before.or(file.secret_warn_before),
            client_change_rate: self.client_change_rate.or(file.client_change_rate),
            project_change_rate: self.project_change_rate.or(file.project_change_rate),
            project_resources_max: self.project_resources_max.or(file.project_resources_max),
            trusted_proxies: self.trusted_proxies.or(file.trusted_proxies),
            allowed_origins: self.allowed_origins.or(file.allowed_origins),
            signing_algorithm: self.signing_algorithm.or(file.signing_algorithm),
            signing_key_lifetime: self.signing_key_lifetime.or(file.signing_key_lifetime),
            tls_certificate: self.tls_certificate.or(file.tls_certificate),
            tls_key: self.tls_key.or(file.tls_key),
            client_certificates: self.client_certificates.or(file.client_certificates),
            mtls_base_url: self.mtls_base_url.or(file.mtls_base_url),
            bytes_in_flight_mib: self.bytes_in_flight_mib.or(file.bytes_in_flight_mib),
            read_only: self.read_only.or(file.read_only),
            log: self.log.or(file.log),
            log_format: self.log_format.or(file.log_format),
        })
    }

    /// The address to listen on.
    pub fn listen(&self) -> anyhow::Result<SocketAddr> {
        self.listen.map_or_else(|| DEFAULT_LISTEN.parse().context("the default address"), Ok)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR))
    }

    /// How many connections to PostgreSQL read, and how many write.
    pub fn connections(&self) -> anyhow::Result<(usize, usize)> {
        let reads = self.database_read_connections.unwrap_or(DATABASE_READ_CONNECTIONS_DEFAULT);
        let writes = self.database_write_connections.unwrap_or(DATABASE_WRITE_CONNECTIONS_DEFAULT);
        let most = DATABASE_CONNECTIONS_MAX;
        if !(DATABASE_READ_CONNECTIONS_MIN..=most).contains(&reads) {
            bail!("--database-read-connections must be from {DATABASE_READ_CONNECTIONS_MIN} to {most}");
        }
        if !(1..=most).contains(&writes) {
            bail!("--database-write-connections must be from 1 to {most}");
        }
        Ok((reads, writes))
    }

    /// What is logged.
    pub fn log(&self) -> &str {
        self.log.as_deref().unwrap_or(DEFAULT_LOG)
    }

    /// What the server needs to know.
    pub fn config(&self, base_url: BaseUrl) -> anyhow::Result<Config> {
        let proxies = self.trusted_proxies.as_deref().unwrap_or_default();
        let origins = self.allowed_origins.as_deref().unwrap_or_default();
        let origins = origins.iter().map(|origin| Origin::parse(origin.trim())).collect::<Result<_, _>>();
        let mtls_base_url = self.mtls_base_url.as_deref().map(BaseUrl::parse).transpose();
        Ok(Config {
            resource_bytes_max: self.resource_bytes_max()?,
            secret_policy: self.secret_policy(),
            secrets: self.secret_rules(),
            trusted_proxies: TrustedProxies::parse(proxies).context("--trusted-proxies")?,
            allowed_origins: origins.context("--allowed-origins")?,
            client_certificates: self.client_certificates()?,
            mtls_base_url: mtls_base_url.context("--mtls-base-url")?,
            signing: self.signing()?,
            change_rates: self.change_rates(),
            bytes_in_flight: self.bytes_in_flight()?,
            project_resources_max: self.project_resources_max(),
            ..Config::new(base_url)
        })
    }

    fn bytes_in_flight(&self) -> anyhow::Result<usize> {
        let Some(mib) = self.bytes_in_flight_mib else { return Ok(BYTES_IN_FLIGHT_DEFAULT) };
        let bytes = mib.checked_mul(MIB).filter(|bytes| *bytes >= BYTES_IN_FLIGHT_MIN);
        bytes.with_context(|| format!("--bytes-in-flight-mib must be at least {}", BYTES_IN_FLIGHT_MIN / MIB))
    }

    fn resource_bytes_max(&self) -> anyhow::Result<usize> {
        let bytes = self.resource_bytes_max.unwrap_or(RESOURCE_BYTES_DEFAULT);
        if !(RESOURCE_BYTES_MIN..=DOCUMENT_BYTES_MAX).contains(&bytes) {
            bail!("--resource-bytes-max must be from {RESOURCE_BYTES_MIN} to {DOCUMENT_BYTES_MAX}")
        }
        Ok(bytes)
    }

    fn client_certificates(&self) -> anyhow::Result<keyrelay_server::ClientCertificates> {
        use keyrelay_server::ClientCertificates as From;
        match self.client_certificates {
            Some(ClientCertificates::Tls) if self.tls_certificate.is_none() => {
                bail!("--client-certificates tls needs --tls-certificate and --tls-key")
            }
            Some(ClientCertificates::Header) if self.trusted_proxies.is_none() => {
                bail!("--client-certificates header needs --trusted-proxies: nobody else is believed")
            }
            Some(ClientCertificates::Tls) => Ok(From::Tls),
            Some(ClientCertificates::Header) => Ok(From::Header),
            Some(ClientCertificates::Off) | None => Ok(From::Off),
        }
    }

    /// The certificate and its key, if there are any.
    pub fn tls(&self) -> anyhow::Result<Option<Tls>> {
        match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                warn_of_readers(key, "the TLS key file");
                let clients = self.client_certificates()?;
                Ok(Some(Tls::load(certificate.clone(), key.clone(), clients)?))
            }
            (None, None) => Ok(None),
            _ => bail!("set both --tls-certificate and --tls-key, or neither"),
        }
    }

    /// How clients that come without a proxy begin a URL.
    pub const fn scheme(&self) -> &'static str {
        if self.tls_certificate.is_some() { "https" } else { "http" }
    }

    /// The secret policy, in the server's words.
    pub fn secret_policy(&self) -> keyrelay_server::SecretPolicy {
        match self.secret_policy {
            Some(SecretPolicy::Any) => keyrelay_server::SecretPolicy::Any,
            Some(SecretPolicy::Strong) | None => keyrelay_server::SecretPolicy::Strong,
        }
    }

    /// What holds for the secrets of a project that does not say otherwise.
    fn secret_rules(&self) -> SecretRules {
        fn or_default<T: Clone + Default>(rule: Option<&Rule<T>>) -> T {
            rule.map_or_else(T::default, |Rule(rule)| rule.clone())
        }
        SecretRules {
            visibility: or_default(self.secret_visibility.as_ref()),
            overwrite: or_default(self.secret_overwrite.as_ref()),
            maximum_age: or_default(self.secret_maximum_age.as_ref()),
            past_maximum_age: or_default(self.secret_past_maximum_age.as_ref()),
            retire_after: or_default(self.secret_retire_after.as_ref()),
            warn_before: or_default(self.secret_warn_before.as_ref()),
        }
    }

    /// The most resources that a project may have.
    pub fn project_resources_max(&self) -> ResourcesMax {
        self.project_resources_max.as_ref().map_or_else(ResourcesMax::default, |Rule(most)| *most)
    }

    /// How fast tenants may write to the disk.
    fn change_rates(&self) -> ChangeRates {
        let or = |rule: &Option<Rule<ChangeRate>>, rate| rule.as_ref().map_or(rate, |Rule(rate)| *rate);
        let ChangeRates { client, project } = ChangeRates::default();
        ChangeRates {
            client: or(&self.client_change_rate, client),
            project: or(&self.project_change_rate, project),
        }
    }

    /// What tokens are signed by, and for how long by one key.
    fn signing(&self) -> anyhow::Result<Schedule> {
        let algorithm = match self.signing_algorithm {
            Some(SigningAlgorithm::Es256) | None => signing::SigningAlgorithm::Es256,
            Some(SigningAlgorithm::EdDsa) => signing::SigningAlgorithm::EdDsa,
            Some(SigningAlgorithm::Rs256) => signing::SigningAlgorithm::Rs256,
        };
        let lifetime = self.signing_key_lifetime.map_or(SIGNING_KEY_LIFETIME_DEFAULT, |lifetime| lifetime.0);
        Schedule::new(algorithm, lifetime).context("--signing-key-lifetime")
    }
}

/// The file in the working directory. The caller did not name it, so it is read only if no other user can change it.
fn default_file() -> anyhow::Result<Option<String>> {
    let read = || Entry::find(Path::new(DEFAULT_FILE))?.read_own();
    let read = read().with_context(|| {
        format!(
            "./{DEFAULT_FILE} is refused: name it with --config to use it (--config /dev/null for none), or run \
             this in another directory"
        )
    });
    let text = read?.map(|bytes| String::from_utf8(bytes.to_vec())).transpose();
    text.with_context(|| format!("./{DEFAULT_FILE} is not text"))
}

fn parse(text: &str) -> anyhow::Result<Settings> {
    let table: toml::Table = text.parse()?;
    for key in table.keys() {
        if !KEYS.contains(&key.as_str()) {
            let near = KEYS.iter().max_by(|a, b| strsim::jaro(a, key).total_cmp(&strsim::jaro(b, key)));
            bail!("unknown key {key:?}: did you mean {:?}?", near.unwrap_or(&KEYS[0]));
        }
    }
    Ok(table.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_sets_what_flags_do_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "listen = \"127.0.0.1:1\"\nlog = \"debug\"\nsecret_policy = \"any\"\n")
            .unwrap();
        let flags = Settings { log: Some("warn".to_owned()), ..Settings::default() };
        let settings = flags.or_file(Some(file.path())).unwrap();
        assert_eq!(settings.listen().unwrap().port(), 1);
        assert_eq!(settings.log(), "warn");
        assert_eq!(settings.secret_policy(), keyrelay_server::SecretPolicy::Any);
    }

    #[test]
    fn a_misspelt_key_names_the_nearest() {
        let error = parse("listn = \"127.0.0.1:1\"").unwrap_err().to_string();
        assert_eq!(error, "unknown key \"listn\": did you mean \"listen\"?");
        assert!(parse("listen = \"nowhere\"").is_err());
        assert!(parse("= 1").is_err());
    }

    #[test]
    fn all_keys_are_known() {
        let text = "listen = \"127.0.0.1:1\"\nbase_url = \"x\"\ndata_dir = \"x\"\ndatabase_url = \"x\"\ndatabase_read_connections = 5\ndatabase_write_connections = 5\n\
                    master_key_file = \"x\"\nsecret_policy = \"any\"\ntrusted_proxies = [\"10.0.0.0/8\"]\nallowed_origins = [\"x\"]\ntls_certificate = \"x\"\ntls_key = \"x\"\nclient_certificates = \"tls\"\nmtls_base_url = \"x\"\nread_only = true\nbytes_in_flight_mib = 96\nlog = \"x\"\nlog_format = \"json\"\n\
                    secret_visibility = \"once\"\nsecret_overwrite = \"warn\"\nsecret_maximum_age = \"90d\"\nsecret_past_maximum_age = \"refuse\"\nsecret_retire_after = \"24h\"\nsecret_warn_before = \"7d, 1d\"\n\
                    signing_algorithm = \"EdDSA\"\nsigning_key_lifetime = \"30d\"\nclient_change_rate = \"64KiB\"\nproject_change_rate = \"off\"\nproject_resources_max = \"5000\"\nresource_bytes_max = 20000\n";
        assert_eq!(text.lines().count(), KEYS.len());
        assert!(parse(text).is_ok());
    }

    #[test]
    fn bytes_in_flight_have_a_least_number() {
        let bytes = |text: &str| parse(text).unwrap().bytes_in_flight();
        assert_eq!(bytes("").unwrap(), BYTES_IN_FLIGHT_DEFAULT);
        assert_eq!(bytes("bytes_in_flight_mib = 32").unwrap(), BYTES_IN_FLIGHT_MIN);
        for text in ["bytes_in_flight_mib = 31", "bytes_in_flight_mib = 9223372036854775807"] {
            let error = bytes(text).unwrap_err().to_string();
            assert_eq!(error, "--bytes-in-flight-mib must be at least 32", "{text}");
        }
    }

    #[test]
    fn what_holds_for_secrets_is_the_default_of_projects() {
        let rules = |text: &str| parse(text).unwrap().secret_rules();
        assert_eq!(rules(""), SecretRules::default());
        let day = Duration::from_hours(24);
        let chosen = rules(
            "secret_visibility = \"once\"\nsecret_maximum_age = \"90d\"\nsecret_retire_after = \"none\"",
        );
        let expected = SecretRules {
            visibility: SecretVisibility::Once,
            maximum_age: MaximumAge(Some(90 * day)),
            ..SecretRules::default()
        };
        assert_eq!(chosen, expected);
        let error = parse("secret_maximum_age = \"90\"").unwrap_err().to_string();
        assert!(error.contains("\"90\" is not allowed: write none, or a time from 1h to 3650d"), "{error}");
    }

    #[test]
    fn connections_have_bounds_that_are_named() {
        let connections = |text: &str| parse(text).unwrap().connections();
        assert_eq!(connections("").unwrap(), (12, 8));
        let chosen = "database_read_connections = 6\ndatabase_write_connections = 100";
        assert_eq!(connections(chosen).unwrap(), (6, 100));
        for (text, named) in [
            ("database_read_connections = 5", "--database-read-connections must be from 6 to 100"),
            ("database_write_connections = 0", "--database-write-connections must be from 1 to 100"),
        ] {
            assert_eq!(connections(text).unwrap_err().to_string(), named);
        }
    }

    #[test]
    fn keys_sign_by_the_algorithm_and_for_the_time_that_are_set() {
        let day = Duration::from_hours(24);
        let schedule = |text: &str| parse(text).unwrap().signing();
        assert_eq!(schedule("").unwrap(), Schedule::default());
        let chosen = schedule("signing_algorithm = \"RS256\"\nsigning_key_lifetime = \"30d\"").unwrap();
        assert_eq!(chosen, Schedule::new(signing::SigningAlgorithm::Rs256, 30 * day).unwrap());
        for lifetime in ["1d", "2000d"] {
            assert!(schedule(&format!("signing_key_lifetime = \"{lifetime}\"")).is_err(), "{lifetime}");
        }
        for text in
            ["signing_key_lifetime = \"90\"", "signing_key_lifetime = 90", "signing_algorithm = \"HS256\""]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_named_file_must_be_there() {
        assert!(Settings::default().or_file(Some(Path::new("/nonexistent/keyrelay.toml"))).is_err());
    }
}
