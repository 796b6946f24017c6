//! A server over HTTP, as an admin sees it.
//!
//! `reqwest` with rustls, as everywhere in the product: https is verified by the certificates that the
//! machine trusts (or `SSL_CERT_FILE`), so that an authority of a hospital's own will do. No redirect is
//! followed: what is sent are secrets, and they are for one server.

use std::time::Duration;

use anyhow::Context;
use keyrelay_core::id::ClientId;
use keyrelay_core::limits::COMMAND_ANSWER_BYTES_MAX;
use keyrelay_core::names::shown;
use keyrelay_core::random::{Entropy, random_uuid};
use keyrelay_core::secret::PlainSecret;
use reqwest::header::IF_MATCH;
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::status::SecretStatus;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait before the same is asked again.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the same is asked.
const ASKED_TIMES_MAX: u32 = 3;
/// Longest text of a server's error that is repeated, in characters.
const ERROR_CHARS_MAX: usize = 500;

/// Who asks.
#[derive(Debug)]
pub struct Admin {
    /// The id of its client application.
    pub id: String,
    /// Its secret.
    pub secret: PlainSecret,
}

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Nothing answered, or not to the end: what was asked for may have happened.
    #[error("the server did not answer")]
    Away(#[source] reqwest::Error),
    /// It cannot at the moment.
    #[error("the server cannot answer at the moment ({0})")]
    Unavailable(StatusCode),
    /// It does not want to.
    #[error("the server answered {status}: {text}")]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// What it said.
        text: String,
    },
    /// What answered is no such server.
    #[error("the answer is not what a Keyrelay server says: {0}")]
    Strange(String),
}

impl ServerError {
    /// Whether it may go by itself.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Unavailable(_))
    }
}

/// What an admin sees of a client's secrets. In a project that shows them once, that is nothing.
#[derive(Debug, Default)]
pub struct ClientSecrets {
    /// The current secret.
    pub secret: Option<PlainSecret>,
    /// The retiring one.
    pub retiring: Option<PlainSecret>,
    /// How long the client's tokens live, where it says so.
    pub access_token_lifetime: Option<String>,
    /// When the version was made that has them.
    pub last_updated: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    last_updated: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientResource {
    meta: Meta,
    secret: Option<String>,
    retiring_secret: Option<String>,
    access_token_lifetime: Option<String>,
}

impl TryFrom<ClientResource> for ClientSecrets {
    type Error = ServerError;

    fn try_from(resource: ClientResource) -> Result<Self, ServerError> {
        let secret = |text: Option<String>| {
            let secret = text.map(|text| PlainSecret::presented(Zeroizing::new(text))).transpose();
            secret.map_err(|problem| ServerError::Strange(format!("a secret {problem}")))
        };
        Ok(Self {
            secret: secret(resource.secret)?,
            retiring: secret(resource.retiring_secret)?,
            access_token_lifetime: resource.access_token_lifetime,
            last_updated: resource.meta.last_updated,
        })
    }
}

/// How a secret is rotated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The `Idempotency-Key` that the answer can be asked for again by.
    pub key: String,
    /// Whether a retiring secret that is still in use ends by it even where the project refuses that.
    pub force: bool,
    /// After how long the old secret ends by itself, in milliseconds.
    #[serde(default)]
    pub retire_after_ms: Option<u64>,
}

impl Rotation {
    /// One that nobody has asked for yet.
    pub fn new(force: bool, retire_after: Option<Duration>, entropy: &dyn Entropy) -> Self {
        let retire_after_ms = retire_after.and_then(|after| u64::try_from(after.as_millis()).ok());
        Self { key: random_uuid(entropy).to_string(), force, retire_after_ms }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Rotated {
    /// The new secret.
    pub secret: PlainSecret,
    /// When it was made.
    pub at: String,
}

/// What came of retiring.
#[derive(Debug)]
pub enum Retirement {
    /// The secret is not accepted any more.
    Done,
    /// It was used, for the reason that the server says.
    StillInUse(String),
}

/// Reads an answer, up to a bound, because another program may answer.
async fn read_answer(mut answer: Response) -> Result<Zeroizing<Vec<u8>>, ServerError> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = answer.chunk().await.map_err(|error| ServerError::Away(error.without_url()))? {
        if body.len() + chunk.len() > COMMAND_ANSWER_BYTES_MAX {
            return Err(ServerError::Strange(format!("it has more than {COMMAND_ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// As a string of structured fields, which the header is.
fn keyed(request: RequestBuilder, key: &str) -> RequestBuilder {
    request.header("Idempotency-Key", format!("\"{key}\""))
}

/// The server.
#[derive(Debug)]
pub struct Server {
    base: Url,
    http: reqwest::Client,
    admin: Admin,
}

impl Server {
    /// The server at a base URL, which ends with `/`.
    pub fn new(base: &Url, admin: Admin) -> anyhow::Result<Self> {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("keyrelay/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT);
        // Without TLS there is nothing to verify, and no proxy should read along.
        let builder = if base.scheme() == "http" { builder.no_proxy().tls_certs_only([]) } else { builder };
        let http = builder.build().context("cannot make an HTTP client")?;
        Ok(Self { base: base.clone(), http, admin })
    }

    /// The base URL.
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    /// Whether the secret would go over a network for everybody to read.
    pub fn is_in_clear(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        self.base.scheme() == "http" && !is_here
    }

    /// Goes on with another secret, if it was the admin's own that was rotated.
    pub fn follow(&mut self, client: ClientId, secret: &PlainSecret) {
        if self.admin.id == client.to_string() {
            self.admin.secret = secret.duplicate();
        }
    }

    fn request(&self, method: Method, client: ClientId, rest: &str) -> RequestBuilder {
        self.request_to(method, &format!("ClientApplication/{client}{rest}"))
    }

    fn request_to(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}fhir/R4/{path}", self.base);
        self.http.request(method, url).basic_auth(&self.admin.id, Some(self.admin.secret.reveal()))
    }

    async fn send<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ServerError> {
        let response = request.send().await.map_err(|error| ServerError::Away(error.without_url()))?;
        let status = response.status();
        let body = read_answer(response).await?;
        if status.is_success() {
            // The error of the parser could repeat a value.
            return serde_json::from_slice(&body)
                .map_err(|error| ServerError::Strange(format!("line {} of it", error.line())));
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(ServerError::Unavailable(status));
        }
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = said["issue"][0]["details"]["text"].as_str().unwrap_or("no reason was given");
        let text = shown(text).chars().take(ERROR_CHARS_MAX).collect();
        Err(ServerError::Refused { status, text })
    }

    /// Reads a client's secrets.
    pub async fn secrets(&self, client: ClientId) -> Result<ClientSecrets, ServerError> {
        Self::send::<ClientResource>(self.request(Method::GET, client, "")).await?.try_into()
    }

    /// The version of a client, without being shown its secrets.
    pub async fn version(&self, client: ClientId) -> Result<String, ServerError> {
        let query = format!("ClientApplication?_id={client}&_elements=id");
        let found: Value = Self::send(self.request_to(Method::GET, &query)).await?;
        let version = found["entry"][0]["resource"]["meta"]["versionId"].as_str().map(str::to_owned);
        let text = "there is no such client application, or you may not see it".to_owned();
        version.ok_or(ServerError::Refused { status: StatusCode::NOT_FOUND, text })
    }

    /// Who uses which secret. Callers that did not come for `unused_for` count as gone.
    pub async fn status(
        &self,
        client: ClientId,
        unused_for: Option<Duration>,
    ) -> Result<SecretStatus, ServerError> {
        let query = unused_for.map_or(String::new(), |period| format!("?unusedFor={}ms", period.as_millis()));
        let told: Value =
            Self::send(self.request(Method::GET, client, &format!("/$secret-status{query}"))).await?;
        SecretStatus::read(&told)
            .ok_or_else(|| ServerError::Strange("$secret-status has another form".to_owned()))
    }

    /// Asks again, with the same key and so for the same answer, while no answer comes.
    async fn operate(
        &self,
        client: ClientId,
        operation: &str,
        parameters: &[Value],
        with: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<ClientSecrets, ServerError> {
        let body = json!({ "resourceType": "Parameters", "parameter": parameters });
        let ask =
            || Self::send::<ClientResource>(with(self.request(Method::POST, client, operation).json(&body)));
        for _ in 1..ASKED_TIMES_MAX {
            match ask().await {
                Err(error) if error.may_pass() => tokio::time::sleep(ASK_INTERVAL).await,
                answered => return answered?.try_into(),
            }
        }
        ask().await?.try_into()
    }

    /// Rotates: the answer has the new secret, whatever the project shows, and has it again for the same key.
    pub async fn rotate(
        &self,
        client: ClientId,
        current: &PlainSecret,
        rotation: &Rotation,
    ) -> Result<Rotated, ServerError> {
        let mut parameters = vec![json!({ "name": "secret", "valueString": current.reveal() })];
        if rotation.force {
            parameters.push(json!({ "name": "force", "valueBoolean": true }));
        }
        if let Some(after_ms) = rotation.retire_after_ms {
            parameters.push(json!({ "name": "retireAfter", "valueString": format!("{after_ms}ms") }));
        }
        let with_key = |request| keyed(request, &rotation.key);
        let rotated = self.operate(client, "/$rotate-secret", &parameters, with_key).await?;
        let secret = rotated.secret;
        let secret = secret.ok_or_else(|| ServerError::Strange("there is no new secret in it".to_owned()))?;
        Ok(Rotated { secret, at: rotated.last_updated })
    }

    /// Retires; with `only_if_unused`, only if nobody has used the secret for that long when it ends.
    pub async fn retire(
        &self,
        client: ClientId,
        retiring: &PlainSecret,
        only_if_unused: Option<Duration>,
    ) -> Result<Retirement, ServerError> {
        let mut parameters = vec![json!({ "name": "retiringSecret", "valueString": retiring.reveal() })];
        if let Some(period) = only_if_unused {
            let period = format!("{}ms", period.as_millis());
            parameters.push(json!({ "name": "onlyIfUnused", "valueString": period }));
        }
        let body = json!({ "resourceType": "Parameters", "parameter": parameters });
        let request = self.request(Method::POST, client, "/$rotate-secret").json(&body);
        match Self::send::<ClientResource>(request).await {
            Ok(_) => Ok(Retirement::Done),
            Err(ServerError::Refused { status: StatusCode::CONFLICT, text }) if only_if_unused.is_some() => {
                Ok(Retirement::StillInUse(text))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the retiring secret the current one again, if the client is still of that version.
    pub async fn undo(&self, client: ClientId, version: &str, key: &str) -> Result<(), ServerError> {
        let etag = format!("W/\"{version}\"");
        let with_key = |request| keyed(request, key).header(IF_MATCH, &etag);
        self.operate(client, "/$undo-rotation", &[], with_key).await.map(drop)
    }
}
