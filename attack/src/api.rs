//! Requests to a server, as one caller, from one address, with a deadline. Blocking, so that a row reads from top to
//! bottom; parallel callers are threads.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::header::HeaderMap;
use reqwest::{Client, redirect};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::clock::Stopwatch;

/// How long an answer may take before the deadline is missed: longer than any wait of the product, even on a busy
/// machine.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How many bytes of an answer are read: more than any answer may have.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How much of a body an error shows.
const SHOWN_CHARS_MAX: usize = 200;
/// Most parallel callers.
const AT_ONCE_MAX: usize = 512;

/// The credentials of a request. No `Debug`, because it holds secrets.
#[derive(Clone)]
pub enum Proof {
    /// None.
    Nobody,
    /// An id and a secret.
    Basic(String, String),
    /// A token.
    Bearer(String),
}

/// The body of a request.
#[derive(Clone)]
pub enum Body {
    /// Nothing.
    Empty,
    /// JSON, for FHIR and the other routes.
    Json(Value),
    /// A JSON Patch.
    Patch(Value),
    /// A form.
    Form(Vec<(&'static str, String)>),
    /// Bytes of a media type.
    Raw(&'static str, Vec<u8>),
}

/// Whether a connection is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// The next request uses it.
    Connected,
    /// The next request opens another one, like a probe or a worker that was just started.
    No,
}

/// A caller.
#[derive(Clone)]
pub struct Caller {
    http: Client,
    base: String,
    proof: Proof,
    handle: Handle,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// The status; 0 if no answer came.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as text.
    pub text: String,
    /// Why no whole answer came.
    pub problem: Option<String>,
    /// From sending to the last byte.
    pub took: Duration,
}

impl Caller {
    /// A caller at a loopback address, for the server at `base` (`http://IP:PORT/`).
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(
        base: &str,
        from: Ipv4Addr,
        deadline: Duration,
        stays: Stays,
        handle: &Handle,
    ) -> Result<Self> {
        ensure!(from.is_loopback() && base.starts_with("http://127.0.0.1:"), "only loopback is attacked");
        let http = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .local_address(IpAddr::from(from))
            .timeout(deadline)
            .pool_max_idle_per_host(if stays == Stays::Connected { usize::MAX } else { 0 })
            .build()?;
        Ok(Self { http, base: base.to_owned(), proof: Proof::Nobody, handle: handle.clone() })
    }

    /// The same, with credentials.
    #[must_use]
    pub fn with(&self, proof: Proof) -> Self {
        Self { proof, ..self.clone() }
    }

    /// The same, as a client application.
    #[must_use]
    pub fn as_client(&self, client: &Credentials) -> Self {
        self.with(Proof::Basic(client.id.clone(), client.secret.clone()))
    }

    /// The base URL.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request and reads the whole answer.
    #[must_use]
    pub fn send(&self, method: &str, path: &str, body: Body) -> Reply {
        self.send_with(method, path, body, &[])
    }

    /// The same, with headers.
    #[must_use]
    pub fn send_with(&self, method: &str, path: &str, body: Body, headers: &[(&str, &str)]) -> Reply {
        let watch = Stopwatch::start();
        let reply = self.handle.block_on(self.exchange(method, path, body, headers));
        let took = watch.elapsed();
        match reply {
            Ok(reply) => Reply { took, ..reply },
            Err(error) => {
                let problem = if error.is_timeout() {
                    "the deadline was missed"
                } else if error.is_connect() {
                    "no connection"
                } else {
                    "the connection ended without a whole answer"
                };
                let problem = Some(problem.to_owned());
                Reply { status: 0, headers: HeaderMap::new(), text: String::new(), problem, took }
            }
        }
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Body,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<Reply> {
        let method = method.parse().unwrap_or_default();
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        request = match &self.proof {
            Proof::Nobody => request,
            Proof::Basic(id, secret) => request.basic_auth(id, Some(secret)),
            Proof::Bearer(token) => request.bearer_auth(token),
        };
        let typed = |request: reqwest::RequestBuilder, media: &str, body: Vec<u8>| {
            request.header("content-type", media).body(body)
        };
        request = match body {
            Body::Empty => request,
            Body::Json(value) => typed(request, "application/json", value.to_string().into()),
            Body::Patch(value) => typed(request, "application/json-patch+json", value.to_string().into()),
            Body::Form(pairs) => request.form(&pairs),
            Body::Raw(media, bytes) => typed(request, media, bytes),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                break;
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Reply { status, headers, text, problem: None, took: Duration::ZERO })
    }

    /// `GET`.
    #[must_use]
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, Body::Empty)
    }

    /// `POST` of JSON.
    #[must_use]
    pub fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, Body::Json(body))
    }

    /// A JSON Patch of one operation that adds a value.
    #[must_use]
    pub fn add(&self, path: &str, element: &str, value: &Value) -> Reply {
        self.send("PATCH", path, Body::Patch(json!([{ "op": "add", "path": element, "value": value }])))
    }

    /// A client credentials grant.
    #[must_use]
    pub fn grant(&self, client: &Credentials, more: &[(&'static str, &str)]) -> Reply {
        self.with(Proof::Nobody).send("POST", "oauth2/token", Body::Form(grant_form(client, more)))
    }

    /// Calls `$rotate-secret` with one parameter.
    #[must_use]
    pub fn rotate(&self, client: &str, slot: &str, value: &str) -> Reply {
        self.post(&format!("fhir/R4/ClientApplication/{client}/$rotate-secret"), json!({ slot: value }))
    }

    /// Opens a stream of events, and returns its status; the stream is open until the value is dropped.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn open_stream(&self, path: &str) -> Result<(u16, reqwest::Response)> {
        let request = self.http.get(format!("{}{path}", self.base));
        let request = match &self.proof {
            Proof::Basic(id, secret) => request.basic_auth(id, Some(secret)),
            Proof::Bearer(token) => request.bearer_auth(token),
            Proof::Nobody => request,
        };
        let response = self.handle.block_on(async { request.send().await }).context("opening a stream")?;
        Ok((response.status().as_u16(), response))
    }
}

fn grant_form(client: &Credentials, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let mut form = vec![
        ("grant_type", "client_credentials".to_owned()),
        ("client_id", client.id.clone()),
        ("client_secret", client.secret.clone()),
    ];
    form.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    form
}

/// A client application and its secret. No `Debug`, so that no report can print one.
#[derive(Clone)]
pub struct Credentials {
    /// The id, not a secret.
    pub id: String,
    /// The secret, in clear.
    pub secret: String,
}

impl Credentials {
    /// The path of the client.
    #[must_use]
    pub fn path(&self) -> String {
        format!("fhir/R4/ClientApplication/{}", self.id)
    }

    /// The same client with another secret.
    #[must_use]
    pub fn with(&self, secret: &str) -> Self {
        Self { id: self.id.clone(), secret: secret.to_owned() }
    }
}

impl Reply {
    /// The body as JSON; `null` if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// A member of the body, by JSON pointer, as text.
    ///
    /// # Errors
    /// When there is none.
    pub fn text_at(&self, pointer: &str) -> Result<String> {
        let body = self.json();
        let found = body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        found.with_context(|| format!("the answer has no {pointer}"))
    }

    /// Returns itself if the status is the expected one.
    ///
    /// # Errors
    /// When it is another one; the error has the text of a refusal. The body of other answers may hold a secret.
    pub fn expect(self, status: u16) -> Result<Self> {
        if self.status == status {
            return Ok(self);
        }
        bail!("expected {status}, got {self}")
    }

    /// Whether the server, and not the request, is at fault: 5xx, or no answer.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.status == 0 || self.status >= 500
    }

    /// Whether this is a documented refusal that changed nothing: 4xx, or a 503 with `Retry-After`.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        (400..500).contains(&self.status)
            || self.status == 503 && self.headers.contains_key(reqwest::header::RETRY_AFTER)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Some(problem) => write!(out, "no answer ({problem} after {:.1} s)", self.took.as_secs_f64()),
            None if self.status < 400 => write!(out, "{} with {} bytes", self.status, self.text.len()),
            None => {
                let shown: String = self.text.chars().take(SHOWN_CHARS_MAX).collect();
                write!(out, "{} {}", self.status, shown.replace(['\n', '\r'], " "))
            }
        }
    }
}

/// Counts of answers by kind.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<String, u64>);

impl Tally {
    /// Counts an answer.
    pub fn count(&mut self, reply: &Reply) {
        self.count_as(&match &reply.problem {
            Some(problem) => problem.clone(),
            None => reply.status.to_string(),
        });
    }

    /// Counts something else.
    pub fn count_as(&mut self, name: &str) {
        *self.0.entry(name.to_owned()).or_default() += 1;
    }

    /// How often something was counted.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// All of a list.
    #[must_use]
    pub fn over<'a>(replies: impl IntoIterator<Item = &'a Reply>) -> Self {
        let mut tally = Self::default();
        replies.into_iter().for_each(|reply| tally.count(reply));
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(name, count)| format!("{count} × {name}")).collect();
        out.write_str(if parts.is_empty() { "none" } else { "" })?;
        out.write_str(&parts.join(", "))
    }
}

/// Runs work so many times in parallel, each in its own thread, and waits for all.
///
/// # Panics
/// When one of them panics, or when they are too many.
pub fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    assert!(count <= AT_ONCE_MAX, "at most {AT_ONCE_MAX} ask at once");
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that asked ended early")).collect()
    })
}
