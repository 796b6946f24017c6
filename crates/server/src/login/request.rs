//! What an authorization request asks for (RFC 6749 §4.1.1, RFC 7636, SMART App Launch 2.2), read from
//! its query and checked against what the client registered.

use keyrelay_core::id::{ClientId, ProjectId};
use keyrelay_core::limits::{AUTHORIZE_PARAMETER_BYTES_MAX, REFUSED_AFTER};
use keyrelay_core::redirect_uri::RedirectUri;
use keyrelay_core::scope::{BadScope, Grantee, Scope};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use crate::App;
use crate::error::Outcome;
use crate::fhir::stored_resource;
use crate::oauth::can_prove_itself;

/// A client that people log in through.
pub(super) struct LoginClient {
    pub(super) id: ClientId,
    pub(super) name: String,
    pub(super) project: ProjectId,
    /// Only those of an allowed form: older ones of another form are ignored.
    pub(super) redirect_uris: Vec<RedirectUri>,
    pub(super) default_scope: Option<String>,
    /// What its registration bounds it to.
    pub(super) bound: Option<Scope>,
    pub(super) allows_refresh: bool,
    /// Whether it must prove an authorization code to be its own by a verifier.
    pub(super) needs_pkce: bool,
}

impl LoginClient {
    /// The redirect URI that a request names, if the client registered it.
    pub(super) fn registered(&self, named: &str) -> Option<&RedirectUri> {
        self.redirect_uris.iter().find(|registered| registered.as_str() == named)
    }
}

/// The client of that id, if people may log in through it now. A malformed id is looked up too, as an id that no
/// client has.
pub(super) async fn client_of(app: &App, id: &str) -> Result<Option<LoginClient>, Outcome> {
    let id = ClientId::parse(id).unwrap_or(ClientId::NIL);
    let (state, access) = tokio::try_join!(app.store.client(id), app.store.access(id))?;
    let Some((state, access)) = state.zip(access) else { return Ok(None) };
    if !access.active || !access.project.active || !access.allows_grant("authorization_code") {
        return Ok(None);
    }
    let resource = stored_resource(&state.resource)?;
    let many = resource.get("redirectUris").and_then(Value::as_array).into_iter().flatten();
    let all = many.chain(resource.get("redirectUri")).filter_map(Value::as_str);
    let redirect_uris = all.filter_map(|uri| RedirectUri::parse(uri).ok()).collect();
    let is_confidential = state.has_or_had_secret() || can_prove_itself(&resource);
    let pkce_optional = resource.get("pkceOptional").and_then(Value::as_bool).unwrap_or(false);
    Ok(Some(LoginClient {
        id,
        name: access.name.clone().unwrap_or_else(|| "An application without a name".to_owned()),
        project: access.project.id,
        redirect_uris,
        default_scope: access.default_scope.clone(),
        bound: access.scope_bound.clone(),
        allows_refresh: access.allows_grant("refresh_token"),
        needs_pkce: !(is_confidential && pkce_optional),
    }))
}

/// The text for a client that does not exist, is not active, or did not register the redirect URI, so that the caller
/// does not learn which clients exist.
const NOT_THROUGH_IT: &str = "There is no such client application, people do not log in through it, or it has not registered the \
     redirect_uri of the request.";

/// Said of a scope of which nothing is left.
pub(super) const NOTHING: &str =
    "Nothing of the scope can be granted to a person: resource scopes begin with user/ or patient/";

/// The scope of a login that names none, and whose client has no default one.
const SCOPE_DEFAULT: &str = "openid";

/// What of a scope somebody can be asked to agree to: of what the client asks for, or else of its default
/// scope, or of what its registration binds it to. How much of it is granted is decided with each token.
pub(super) fn for_people(
    asked: Option<&str>,
    client: Option<&LoginClient>,
) -> Result<Option<Scope>, BadScope> {
    let bound = client.and_then(|client| client.bound.as_ref());
    let default = client.and_then(|client| client.default_scope.as_deref());
    let asked = asked.or(default).or(bound.map(Scope::as_str)).unwrap_or(SCOPE_DEFAULT);
    let asked = Scope::parse(asked)?;
    let asked = match bound {
        Some(bound) => asked.only(bound),
        None => Some(asked),
    };
    Ok(asked.and_then(|asked| asked.granted(Grantee::Person, |_, _| true)))
}

/// Whether a text can be an S256 challenge: 256 bits in base64url (RFC 7636 §4.2).
pub(super) fn is_challenge(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// An authorization request whose client and redirect are good: its errors can be sent there.
pub(super) struct AuthorizationRequest {
    pub(super) client: LoginClient,
    pub(super) redirect_uri: RedirectUri,
    pub(super) state: Option<String>,
    pub(super) wanted: Result<Wanted, AuthorizationError>,
}

/// The rest of it.
pub(super) struct Wanted {
    pub(super) scope: Scope,
    pub(super) nonce: Option<String>,
    pub(super) code_challenge: Option<String>,
    pub(super) login_hint: String,
    pub(super) refreshable: bool,
}

/// An error that the client is told by way of the redirect (RFC 6749 §4.1.2.1).
#[derive(Debug)]
pub(super) struct AuthorizationError {
    pub(super) code: &'static str,
    pub(super) description: String,
}

fn error(code: &'static str, description: impl Into<String>) -> AuthorizationError {
    AuthorizationError { code, description: description.into() }
}

/// Why a request cannot even be answered by a redirect: the person is told, not the client.
pub(super) enum Unanswerable {
    /// In words for the person.
    Bad(&'static str),
    Failed(Outcome),
}

impl AuthorizationRequest {
    /// Reads a query.
    pub(super) async fn read(app: &App, query: &str) -> Result<Self, Unanswerable> {
        let parameters = Parameters::read(query)?;
        let id = parameters.get("client_id").ok_or(Unanswerable::Bad("The request names no client_id."))?;
        let redirect_uri =
            parameters.get("redirect_uri").ok_or(Unanswerable::Bad("The request names no redirect_uri."))?;
        let answered_at = Instant::now() + REFUSED_AFTER;
        let client = client_of(app, id).await.map_err(Unanswerable::Failed)?;
        let registered =
            client.and_then(|client| client.registered(redirect_uri).cloned().map(|uri| (client, uri)));
        let Some((client, redirect_uri)) = registered else {
            // After the same time too: an existing client takes longer to read than a missing one (P5).
            sleep_until(answered_at).await;
            return Err(Unanswerable::Bad(NOT_THROUGH_IT));
        };
        let state = parameters.get("state").map(str::to_owned);
        let wanted = wanted(app, &client, &parameters);
        Ok(Self { client, redirect_uri, state, wanted })
    }

    /// The redirect with parameters added to it, among them `state` and the issuer (RFC 9207 §2).
    pub(super) fn target(&self, app: &App, parameters: &[(&str, &str)]) -> String {
        let mut added = form_urlencoded::Serializer::new(String::new());
        added.extend_pairs(parameters);
        if let Some(state) = &self.state {
            added.append_pair("state", state);
        }
        added.append_pair("iss", app.config.base_url.as_str());
        self.redirect_uri.with(&added.finish())
    }
}

fn wanted(app: &App, client: &LoginClient, parameters: &Parameters) -> Result<Wanted, AuthorizationError> {
    let get = |name: &str| parameters.get(name);
    if get("request").is_some() {
        return Err(error("request_not_supported", "request is not supported"));
    }
    if get("request_uri").is_some() {
        return Err(error("request_uri_not_supported", "request_uri is not supported"));
    }
    match get("response_type") {
        Some("code") => {}
        Some(_) => return Err(error("unsupported_response_type", "response_type must be code")),
        None => return Err(error("invalid_request", "response_type is missing")),
    }
    if get("response_mode").is_some_and(|mode| mode != "query") {
        return Err(error("invalid_request", "response_mode must be query"));
    }
    let code_challenge = match (get("code_challenge"), get("code_challenge_method")) {
        (Some(challenge), Some("S256")) if is_challenge(challenge) => Some(challenge.to_owned()),
        (Some(_), Some("S256")) => {
            return Err(error("invalid_request", "code_challenge is not 256 bits in base64url"));
        }
        (Some(_), _) => return Err(error("invalid_request", "code_challenge_method must be S256")),
        (None, _) if client.needs_pkce => {
            return Err(error("invalid_request", "code_challenge is missing (PKCE, RFC 7636)"));
        }
        (None, _) => None,
    };
    if let Some(audience) = get("aud") {
        let (base, fhir) = (app.config.base_url.as_str(), app.config.base_url.fhir());
        let same = |known: &str| audience.trim_end_matches('/') == known.trim_end_matches('/');
        if !same(base) && !same(&fhir) {
            return Err(error("invalid_request", "aud is not this server's FHIR base"));
        }
    }
    if get("prompt") == Some("none") {
        return Err(error("login_required", "The person must log in"));
    }
    let scope = for_people(get("scope"), Some(client));
    let scope = scope.map_err(|bad| error("invalid_scope", bad.to_string()))?;
    let scope = scope.ok_or_else(|| error("invalid_scope", NOTHING))?;
    let wants = scope.has("offline_access") || scope.has("online_access");
    Ok(Wanted {
        refreshable: wants && client.allows_refresh,
        scope,
        nonce: get("nonce").map(str::to_owned),
        code_challenge,
        login_hint: get("login_hint").unwrap_or_default().to_owned(),
    })
}

/// The parameters of a query, none twice.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn read(query: &str) -> Result<Self, Unanswerable> {
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if value.len() > AUTHORIZE_PARAMETER_BYTES_MAX {
                return Err(Unanswerable::Bad("A parameter of the request is too long."));
            }
            if all.iter().any(|(known, _)| *known == name) {
                return Err(Unanswerable::Bad("The request gives a parameter more than once."));
            }
            if all.len() >= keyrelay_core::limits::FORM_PARAMETERS_MAX {
                return Err(Unanswerable::Bad("The request has too many parameters."));
            }
            all.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(all))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}
