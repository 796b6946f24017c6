//! Which server is asked, and who asks. A secret comes from a file or from standard input: arguments and
//! variables are read by others.

use std::fs::File;
use std::io::{Read, stdin};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use keyrelay_core::id::ClientId;
use keyrelay_core::limits::SECRET_BYTES_MAX;
use keyrelay_core::secret::PlainSecret;
use reqwest::Url;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::server::{Admin, Server};

/// Largest file of credentials that is read, in bytes.
const CREDENTIALS_BYTES_MAX: u64 = 64 * 1024;

/// The server, and the admin that asks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server and admin")]
pub struct ConnectionArgs {
    /// The server's base URL; where it is not given, the `baseUrl` of the credentials file
    #[arg(long, env = "KEYRELAY_URL", value_name = "URL")]
    url: Option<String>,
    /// A JSON file with `clientId` and `clientSecret` of an admin, as bootstrap.json is one
    #[arg(
        long,
        env = "KEYRELAY_CREDENTIALS",
        value_name = "FILE",
        required_unless_present = "client_id",
        conflicts_with = "client_id"
    )]
    credentials: Option<PathBuf>,
    /// The id of an admin's client application; its secret comes by --secret-file
    #[arg(long, env = "KEYRELAY_CLIENT_ID", value_name = "ID", requires_all = ["url", "secret_file"])]
    client_id: Option<String>,
    /// The file with the secret of --client-id; `-` is standard input
    #[arg(long, env = "KEYRELAY_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialsFile {
    client_id: String,
    client_secret: String,
    base_url: Option<String>,
}

impl ConnectionArgs {
    /// The server, as the admin sees it. Asks it nothing yet.
    pub fn open(&self) -> anyhow::Result<Server> {
        let (admin, url) = self.admin()?;
        let url = self.url.clone().or(url).context("name the server with --url or KEYRELAY_URL")?;
        Server::new(&base(&url)?, admin)
    }

    /// Refuses to end the secret that these files let the admin in by, as they are now: nobody could put another one
    /// there afterwards. What came by standard input is kept elsewhere.
    pub fn check_not_own(&self, client: ClientId, ended: &PlainSecret) -> anyhow::Result<()> {
        if self.secret_file.as_deref() == Some(Path::new("-")) {
            return Ok(());
        }
        let (admin, _) = self.admin()?;
        if ClientId::parse(&admin.id) == Some(client) && admin.secret.is_same_as(ended) {
            let file = self.credentials.as_deref().or(self.secret_file.as_deref()).unwrap_or(Path::new(""));
            bail!(
                "nothing was retired: {} has the old secret, by which this command itself is let in; \
                 put the new one there, then run the same command again",
                file.display()
            );
        }
        Ok(())
    }

    /// The admin, and the server that its file names.
    fn admin(&self) -> anyhow::Result<(Admin, Option<String>)> {
        let (id, secret, url) = match (&self.credentials, &self.client_id) {
            (Some(file), _) => {
                let text = read_private(file, CREDENTIALS_BYTES_MAX)?;
                let read: CredentialsFile = serde_json::from_str(&text).map_err(|error| {
                    // The error's own text could repeat a value.
                    anyhow::anyhow!(
                        "{} is not a JSON object with clientId and clientSecret (line {})",
                        file.display(),
                        error.line()
                    )
                })?;
                (read.client_id, Zeroizing::new(read.client_secret), read.base_url)
            }
            (None, Some(id)) => {
                let file = self.secret_file.as_deref().context("--client-id needs --secret-file")?;
                (id.clone(), read_secret(file)?, None)
            }
            (None, None) => bail!("name an admin's credentials with --credentials FILE"),
        };
        let secret = PlainSecret::presented(secret).context("the admin's secret")?;
        Ok((Admin { id, secret }, url))
    }
}

/// Reads a base URL, which ends with `/` afterwards.
pub fn base(text: &str) -> anyhow::Result<Url> {
    let wrong = || format!("{text:?} is not the base URL of a server, such as https://fhir.example.org/");
    let slash = if text.ends_with('/') { "" } else { "/" };
    let url = Url::parse(&format!("{text}{slash}")).with_context(wrong)?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !matches!(url.scheme(), "http" | "https") || !is_plain || url.fragment().is_some() {
        // It may hold a password, so it is not repeated.
        bail!("the base URL is https://HOST/ or http://HOST/, without a user, a query or a fragment");
    }
    Ok(url)
}

/// Reads a secret from a file, or from standard input. One line break at its end does not belong to it.
pub fn read_secret(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let limit = u64::try_from(SECRET_BYTES_MAX).unwrap_or(u64::MAX) + 2;
    let mut text = if file == Path::new("-") {
        read_text(stdin(), limit).context("cannot read the secret from standard input")?
    } else {
        read_private(file, limit)?
    };
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(text)
}

/// Reads a file that not everybody can read.
fn read_private(path: &Path, limit_bytes: u64) -> anyhow::Result<Zeroizing<String>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    let meta = file.metadata().with_context(cannot)?;
    // The group may: systemd and Kubernetes hand credentials over like that. A pipe has no mode that matters.
    if meta.is_file() && meta.mode() & 0o007 != 0 {
        bail!("{0} can be read or written by everybody on this machine: chmod 600 {0}", path.display());
    }
    read_text(file, limit_bytes).with_context(cannot)
}

fn read_text(from: impl Read, limit_bytes: u64) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    from.take(limit_bytes + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > limit_bytes {
        bail!("it is longer than {limit_bytes} bytes");
    }
    Ok(text)
}
