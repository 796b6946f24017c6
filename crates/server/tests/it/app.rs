//! The stage: a server on a free port with a database of its own, a clock that stands still until it
//! is moved, seeded randomness, and one caller of each kind.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use keyrelay_chaos::proxy::Proxy;
use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::keyring::Keyring;
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::time::{ManualClock, Timestamp};
use keyrelay_server::bootstrap::first_start;
use keyrelay_server::{App, BaseUrl, Config, SecretPolicy, ServeError, Server, Tls};
use keyrelay_store::{ReadBounds, Store, TestDatabase};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::jwt;
use crate::openapi::Asked;

/// A second address of this machine; requests come from 127.0.0.1 unless they say otherwise.
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const JSON_PATCH: &str = "application/json-patch+json";
/// 2026-01-01T00:00:00Z.
pub const START: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);

/// A client application and what lets it in.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub id: String,
    pub secret: String,
}

impl Credentials {
    /// Where the client is, below the FHIR base.
    pub fn path(&self) -> String {
        format!("ClientApplication/{}", self.id)
    }

    /// The same client with another secret.
    pub fn with(&self, secret: &str) -> Self {
        Self { id: self.id.clone(), secret: secret.to_owned() }
    }
}

/// A server with its stage.
pub struct TestApp {
    pub address: SocketAddr,
    pub clock: Arc<ManualClock>,
    /// What answers, to have done at once what a running server does now and then.
    pub app: App,
    /// The store of that server.
    pub store: Store,
    /// The issuer of its tokens; after a restart the address is another.
    pub base_url: String,
    database: TestDatabase,
    dir: Arc<TempDir>,
    /// How many servers were started beside it.
    beside: Arc<AtomicU64>,
    /// The project that `admin` administers and `member` belongs to.
    pub project: String,
    /// The project of `stranger`.
    pub other_project: String,
    pub super_admin: Credentials,
    /// Project Admin of `project`.
    pub admin: Credentials,
    /// A client of `project` that is no admin.
    pub member: Credentials,
    /// Project Admin of `other_project`.
    pub stranger: Credentials,
    http: reqwest::Client,
    /// The same, from [`ELSEWHERE`].
    http_elsewhere: reqwest::Client,
    running: Running,
}

/// A server that can be stopped.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

/// How a server ends.
enum End {
    InOrder,
    Killed,
}

impl Running {
    fn start(server: Server, app: App) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(app, async {
            let _ = stopped.await;
        }));
        Self { stop, task }
    }

    /// Waits until the database is closed.
    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap();
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    /// The body as JSON; `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// A member of the body, by JSON pointer, as text.
    pub fn text_at(&self, pointer: &str) -> String {
        let body = self.json();
        let value = body.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {}", self.text));
        value.as_str().unwrap_or_else(|| panic!("{pointer} is no text in {}", self.text)).to_owned()
    }

    /// Fails the test unless this is an `OperationOutcome` with this status and code; gives its text.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/fhir+json; charset=utf-8");
        assert_eq!(self.text_at("/resourceType"), "OperationOutcome");
        assert_eq!(self.text_at("/issue/0/severity"), "error");
        assert_eq!(self.text_at("/issue/0/code"), code, "{}", self.text);
        self.text_at("/issue/0/details/text")
    }

    /// The resources of a Bundle.
    pub fn resources(&self) -> Vec<Value> {
        let entries = self.json()["entry"].as_array().cloned().unwrap_or_default();
        entries.into_iter().map(|entry| entry["resource"].clone()).collect()
    }

    /// A header as text; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Fails the test, with the body, unless the status is the one expected.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }
}

/// How a request says who it is from.
#[derive(Clone, Debug)]
pub enum As {
    Anonymous,
    Bearer(String),
    Basic(Credentials),
}

impl As {
    /// The token, of who has one.
    pub fn text(&self) -> &str {
        match self {
            Self::Bearer(token) => token,
            other => panic!("no token in {other:?}"),
        }
    }
}

impl From<&Credentials> for As {
    fn from(credentials: &Credentials) -> Self {
        Self::Basic(credentials.clone())
    }
}

impl From<&As> for As {
    fn from(who: &As) -> Self {
        who.clone()
    }
}

/// A request that is being put together.
pub struct Request<'a> {
    app: &'a TestApp,
    builder: reqwest::RequestBuilder,
}

impl Request<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.builder = self.builder.header(name, HeaderValue::from_str(value).unwrap());
        self
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.builder = self.builder.header("content-type", "application/fhir+json").body(body.to_string());
        self
    }

    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.builder = self.builder.header("content-type", content_type).body(body.into());
        self
    }

    pub fn form(mut self, pairs: &[(&str, &str)]) -> Self {
        self.builder = self.builder.form(pairs);
        self
    }

    /// Sends it, and holds what was said on either side against the description of the API.
    pub async fn send(self) -> Answer {
        let (http, request) = self.builder.build_split();
        let request = request.unwrap();
        let asked = Asked::of(&request);
        let response =
            http.execute(request).await.unwrap_or_else(|error| panic!("{}: {error}", self.app.address));
        let answer = Answer {
            status: response.status(),
            headers: response.headers().clone(),
            text: response.text().await.unwrap(),
        };
        asked.check(&answer);
        answer
    }
}

fn grant_form<'a>(id: &'a str, secret: &'a str) -> [(&'static str, &'a str); 3] {
    [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)]
}

fn http_from(address: Ipv4Addr) -> reqwest::Client {
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_mins(1));
    builder.local_address(IpAddr::from(address)).build().unwrap()
}

/// Opens a database, always under the same master key.
async fn open(database: &TestDatabase, config: Config, clock: Arc<ManualClock>, seed: u64) -> (App, Store) {
    let store = database.open().await.unwrap();
    (start(store.clone(), config, clock, seed).await, store)
}

async fn start(store: Store, config: Config, clock: Arc<ManualClock>, seed: u64) -> App {
    App::start(config, store, keyring(), clock, Arc::new(SeededEntropy::new(seed))).await.unwrap()
}

impl TestApp {
    /// A server with `secret_policy = "strong"`.
    pub async fn start() -> Self {
        Self::start_with(SecretPolicy::Strong).await
    }

    pub async fn start_with(secret_policy: SecretPolicy) -> Self {
        Self::start_configured(|config| config.secret_policy = secret_policy).await
    }

    /// A server with other settings.
    pub async fn start_configured(set: impl FnOnce(&mut Config)) -> Self {
        Self::start_within(ReadBounds::default(), set).await
    }

    /// A server with other bounds of reads and other settings.
    pub async fn start_within(bounds: ReadBounds, set: impl FnOnce(&mut Config)) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let database = TestDatabase::new(dir.path()).await;
        let clock = Arc::new(ManualClock::at(START));
        let server = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = server.address();
        let mut config = Config::new(BaseUrl::parse(&format!("http://{address}/")).unwrap());
        set(&mut config);
        let base_url = config.base_url.to_string();
        let store = database.open_within(bounds).await.unwrap();
        let app = start(store.clone(), config, clock.clone(), 1).await;
        let file = dir.path().join("bootstrap.json");
        first_start(&app, None, &file).await.unwrap();
        let first: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let super_admin = Credentials {
            id: first["clientId"].as_str().unwrap().to_owned(),
            secret: first["clientSecret"].as_str().unwrap().to_owned(),
        };
        let nobody = Credentials { id: String::new(), secret: String::new() };
        let mut test = Self {
            address,
            clock,
            app: app.clone(),
            store,
            base_url,
            database,
            dir,
            beside: Arc::default(),
            project: String::new(),
            other_project: String::new(),
            super_admin,
            admin: nobody.clone(),
            member: nobody.clone(),
            stranger: nobody,
            http: http_from(Ipv4Addr::LOCALHOST),
            http_elsewhere: http_from(ELSEWHERE),
            running: Running::start(server, app),
        };
        test.project = test.make_project("Clinic").await;
        test.other_project = test.make_project("Laboratory").await;
        test.admin = test.make_client(&test.project, "Operator").await;
        test.make_admin(&test.admin).await;
        test.member = test.make_client(&test.project, "Reader").await;
        test.stranger = test.make_client(&test.other_project, "Other operator").await;
        test.make_admin(&test.stranger).await;
        test
    }

    /// A request to a path below the base URL, as someone.
    pub fn request(&self, who: impl Into<As>, method: Method, path: &str) -> Request<'_> {
        self.request_by(&self.http, who, method, path)
    }

    /// Like [`TestApp::request`], from [`ELSEWHERE`].
    pub fn request_elsewhere(&self, who: impl Into<As>, method: Method, path: &str) -> Request<'_> {
        self.request_by(&self.http_elsewhere, who, method, path)
    }

    fn request_by(
        &self,
        http: &reqwest::Client,
        who: impl Into<As>,
        method: Method,
        path: &str,
    ) -> Request<'_> {
        let builder = http.request(method, format!("http://{}/{path}", self.address));
        let builder = match who.into() {
            As::Anonymous => builder,
            As::Bearer(token) => builder.bearer_auth(token),
            As::Basic(credentials) => builder.basic_auth(credentials.id, Some(credentials.secret)),
        };
        Request { app: self, builder }
    }

    /// Like [`TestApp::request`], below the FHIR base.
    pub fn fhir(&self, who: impl Into<As>, method: Method, path: &str) -> Request<'_> {
        self.request(who, method, &format!("fhir/R4/{path}"))
    }

    pub async fn get(&self, who: impl Into<As>, path: &str) -> Answer {
        self.fhir(who, Method::GET, path).send().await
    }

    pub async fn post(&self, who: impl Into<As>, path: &str, body: &Value) -> Answer {
        self.fhir(who, Method::POST, path).json(body).send().await
    }

    pub async fn put(&self, who: impl Into<As>, path: &str, body: &Value) -> Answer {
        self.fhir(who, Method::PUT, path).json(body).send().await
    }

    pub async fn patch(&self, who: impl Into<As>, path: &str, body: &Value) -> Answer {
        self.fhir(who, Method::PATCH, path).body(JSON_PATCH, body.to_string()).send().await
    }

    pub async fn delete(&self, who: impl Into<As>, path: &str) -> Answer {
        self.fhir(who, Method::DELETE, path).send().await
    }

    /// Calls `$rotate-secret` with one parameter, as Parameters.
    pub async fn rotate(&self, who: impl Into<As>, id: &str, name: &str, value: &str) -> Answer {
        let body =
            json!({ "resourceType": "Parameters", "parameter": [{ "name": name, "valueString": value }] });
        self.post(who, &format!("ClientApplication/{id}/$rotate-secret"), &body).await
    }

    /// Asks the token endpoint, with a form.
    pub async fn token(&self, who: impl Into<As>, form: &[(&str, &str)]) -> Answer {
        self.request(who, Method::POST, "oauth2/token").form(form).send().await
    }

    /// Asks the token endpoint, with the credentials in the form.
    pub async fn grant(&self, id: &str, secret: &str) -> Answer {
        self.token(As::Anonymous, &grant_form(id, secret)).await
    }

    /// Like [`TestApp::grant`], from [`ELSEWHERE`].
    pub async fn grant_elsewhere(&self, id: &str, secret: &str) -> Answer {
        let request = self.request_elsewhere(As::Anonymous, Method::POST, "oauth2/token");
        request.form(&grant_form(id, secret)).send().await
    }

    /// A token for these credentials.
    pub async fn bearer(&self, who: &Credentials) -> As {
        As::Bearer(self.grant(&who.id, &who.secret).await.expect(200).text_at("/access_token"))
    }

    /// Whether a secret grants access, everywhere it could: by form, by Basic at the token endpoint,
    /// by Basic on the FHIR API. Panics if the three do not agree.
    #[track_caller]
    pub fn lets_in(&self, id: &str, secret: &str) -> impl Future<Output = bool> {
        let caller = std::panic::Location::caller();
        let credentials = Credentials { id: id.to_owned(), secret: secret.to_owned() };
        async move {
            let form = self.grant(&credentials.id, &credentials.secret).await.status;
            let basic = self.token(&credentials, &[("grant_type", "client_credentials")]).await.status;
            let fhir = self.get(&credentials, &credentials.path()).await.status;
            let all = [form.as_u16(), basic.as_u16(), fhir.as_u16()];
            assert!(all == [200; 3] || all == [401; 3], "{caller}: {all:?}");
            all == [200; 3]
        }
    }

    /// Makes a project, as Super Admin, and gives its id.
    pub async fn make_project(&self, name: &str) -> String {
        let body = json!({ "resourceType": "Project", "name": name });
        self.post(&self.super_admin, "Project", &body).await.expect(201).text_at("/id")
    }

    /// Makes a client with a secret and a plain membership.
    pub async fn make_client(&self, project: &str, name: &str) -> Credentials {
        let path = format!("admin/projects/{project}/client");
        let answer =
            self.request(&self.super_admin, Method::POST, &path).json(&json!({ "name": name })).send().await;
        let answer = answer.expect(201);
        Credentials { id: answer.text_at("/id"), secret: answer.text_at("/secret") }
    }

    /// The membership of a client, as a Super Admin reads it.
    pub async fn membership_of(&self, client: &Credentials) -> Value {
        let path = format!("ProjectMembership?profile=ClientApplication/{}", client.id);
        self.get(&self.super_admin, &path).await.expect(200).json()["entry"][0]["resource"].clone()
    }

    /// Changes the membership of a client by JSON Patch operations.
    /// How records name a client called "Operator" that acts in its own name.
    pub async fn author(&self, client: &Credentials) -> Value {
        let membership = self.membership_of(client).await;
        let membership = format!("ProjectMembership/{}", membership["id"].as_str().unwrap());
        let beside = |name: &str, reference: String| json!({ "url": format!("urn:keyrelay:{name}"), "valueReference": { "reference": reference } });
        json!({
            "reference": client.path(),
            "extension": [beside("membership", membership), beside("client", client.path())],
            "display": "Operator",
        })
    }

    pub async fn patch_membership(&self, client: &Credentials, operations: &Value) {
        let id = self.membership_of(client).await["id"].as_str().unwrap().to_owned();
        self.patch(&self.super_admin, &format!("ProjectMembership/{id}"), operations).await.expect(200);
    }

    pub async fn make_admin(&self, client: &Credentials) {
        self.patch_membership(client, &json!([{ "op": "add", "path": "/admin", "value": true }])).await;
    }

    /// Makes an `AccessPolicy` and puts a client's membership under it.
    pub async fn put_under_policy(&self, client: &Credentials, policy: &Value) {
        let project = self.membership_of(client).await["project"]["reference"].as_str().unwrap().to_owned();
        let mut body = json!({ "resourceType": "AccessPolicy", "meta": { "project": project } });
        for (name, value) in policy.as_object().unwrap() {
            body[name] = value.clone();
        }
        let id = self.post(&self.super_admin, "AccessPolicy", &body).await.expect(201).text_at("/id");
        let reference = json!({ "reference": format!("AccessPolicy/{id}") });
        self.patch_membership(client, &json!([{ "op": "add", "path": "/accessPolicy", "value": reference }]))
            .await;
    }

    /// Sets a setting of a project.
    pub async fn set(&self, project: &str, name: &str, value: &str) {
        let setting =
            json!([{ "op": "add", "path": "/setting", "value": [{ "name": name, "valueString": value }] }]);
        self.patch(&self.super_admin, &format!("Project/{project}"), &setting).await.expect(200);
    }

    /// Whether servers beside this one share its database in earnest.
    pub fn is_shared(&self) -> bool {
        self.database.is_postgres()
    }

    /// Stops the server and starts it again on the same database, under another base URL.
    pub async fn restart_as(self, base_url: &str) -> Self {
        let base_url = BaseUrl::parse(base_url).unwrap();
        self.restart_configured(|config| config.base_url = base_url).await
    }

    /// Stops the server and starts it again on the same database, with other settings.
    pub async fn restart_configured(self, set: impl FnOnce(&mut Config)) -> Self {
        self.restart(End::InOrder, None, set).await
    }

    /// Stops the server and starts it again on the same database, with TLS and other settings:
    /// [`TestApp::request`] cannot be used with it.
    pub async fn restart_with_tls(self, tls: Tls, set: impl FnOnce(&mut Config)) -> Self {
        self.restart(End::InOrder, Some(tls), set).await
    }

    /// How the server ends by itself.
    pub async fn ended(self) -> Result<(), ServeError> {
        self.running.task.await.unwrap()
    }

    /// Ends the server without a word, and starts it again on the same database.
    pub async fn kill_and_start_again(self) -> Self {
        self.restart(End::Killed, None, |_| {}).await
    }

    async fn restart(self, end: End, tls: Option<Tls>, set: impl FnOnce(&mut Config)) -> Self {
        match end {
            End::InOrder => self.running.stop().await,
            End::Killed => self.running.task.abort(),
        }
        let server = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = server.address();
        let mut config = Config::new(BaseUrl::parse(&self.base_url).unwrap());
        set(&mut config);
        let base_url = config.base_url.to_string();
        let (app, store) = open(&self.database, config, self.clock.clone(), 2).await;
        let server = match tls {
            Some(tls) => server.with_tls(tls),
            None => server,
        };
        let running = Running::start(server, app.clone());
        Self { address, app, store, base_url, running, ..self }
    }

    /// A second server on the same database, for the same people and clients.
    pub async fn beside(&self) -> Self {
        self.beside_within(ReadBounds::default()).await
    }

    /// Like [`TestApp::beside`], with other bounds of reads.
    pub async fn beside_within(&self, bounds: ReadBounds) -> Self {
        self.beside_on(&self.database, bounds).await
    }

    /// Like [`TestApp::beside`], by a proxy that can fail; none where the database is a file.
    pub async fn beside_through_proxy(&self) -> Option<(Self, Proxy)> {
        if !self.database.is_postgres() {
            return None;
        }
        let proxy = Proxy::start(self.database.address()).await.unwrap();
        let database = self.database.through(proxy.address());
        Some((self.beside_on(&database, ReadBounds::default()).await, proxy))
    }

    async fn beside_on(&self, database: &TestDatabase, bounds: ReadBounds) -> Self {
        let server = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let config = Config::new(BaseUrl::parse(&self.base_url).unwrap());
        // Each with a seed of its own: with one seed they would give the same ids to different things.
        let seed = 3 + self.beside.fetch_add(1, Ordering::Relaxed);
        let store = database.open_within(bounds).await.unwrap();
        let app = start(store.clone(), config, self.clock.clone(), seed).await;
        Self {
            address: server.address(),
            clock: self.clock.clone(),
            app: app.clone(),
            store,
            base_url: self.base_url.clone(),
            database: database.clone(),
            dir: self.dir.clone(),
            beside: Arc::clone(&self.beside),
            project: self.project.clone(),
            other_project: self.other_project.clone(),
            super_admin: self.super_admin.clone(),
            admin: self.admin.clone(),
            member: self.member.clone(),
            stranger: self.stranger.clone(),
            http: self.http.clone(),
            http_elsewhere: self.http_elsewhere.clone(),
            running: Running::start(server, app),
        }
    }

    /// How often the proof that a token was got by (its `sid`) has let a client in, as it is written down.
    pub async fn uses(&self, client: &Credentials, token: &As) -> i64 {
        let proof = jwt::claims(token.text())["sid"].as_str().and_then(SecretId::parse).unwrap();
        self.app.flush_usage().await;
        let client = ClientId::parse(&client.id).unwrap();
        let secrets = [proof, SecretId::NIL, SecretId::NIL];
        let written = self.store().await.usage(client, secrets, START).await.unwrap();
        written.get(&proof).and_then(|used| used.total).map_or(0, |total| total.accepted)
    }

    /// The database, beside the server.
    pub async fn store(&self) -> Store {
        self.database.open().await.unwrap()
    }

    /// The server's own ES256 keys, taken from its database, oldest first: what is signed by one is
    /// wrong in its claims only.
    pub async fn signing_keys(&self) -> Vec<(String, EcdsaKeyPair)> {
        let stored = self.store().await.signing_keys().await.unwrap();
        let pairs = stored.iter().map(|stored| {
            let pkcs8 = keyring().unwrap_signing_key(stored.key.id, &stored.sealed).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).unwrap();
            (stored.key.id.to_string(), pair)
        });
        pairs.collect()
    }
}

/// The keyring that every test server runs under.
fn keyring() -> Keyring {
    Keyring::parse_file(&Keyring::new_file(&SeededEntropy::new(0))).unwrap()
}
