//! `/oauth2/userinfo` (OpenID Connect Core §5.3): who a token speaks for, as far as its scope says.

use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method};
use keyrelay_core::caller::Caller;
use serde_json::{Map, Value, json};

use crate::App;
use crate::auth::{self, ClientAddress};
use crate::error::Outcome;
use crate::headers::{JSON, NO_STORE};

pub(crate) async fn userinfo(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if !matches!(method, Method::GET | Method::HEAD | Method::POST) {
        return Outcome::method_not_allowed("GET, POST").into_response();
    }
    let answer = async {
        let caller = auth::caller(&app, &headers, from).await?;
        claims(&app, &caller).await
    };
    match answer.await {
        Ok(body) => ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], Value::Object(body).to_string())
            .into_response(),
        Err(outcome) => outcome.into_response(),
    }
}

async fn claims(app: &App, caller: &Caller) -> Result<Map<String, Value>, Outcome> {
    let mut told = Map::new();
    let subject = match (caller.login, caller.client) {
        (Some(login), _) => login.user.to_string(),
        (None, Some(client)) => client.to_string(),
        (None, None) => return Err(Outcome::login()),
    };
    told.insert("sub".to_owned(), json!(subject));
    if caller.scope.has("fhirUser") || caller.scope.has("profile") {
        told.insert(
            "fhirUser".to_owned(),
            json!(format!("{}/{}", app.config.base_url.fhir(), caller.profile)),
        );
    }
    if caller.scope.has("profile")
        && let Some(name) = &caller.name
    {
        told.insert("name".to_owned(), json!(name));
    }
    if caller.scope.has("email")
        && let Some(login) = caller.login
        && let Some(access) = app.store.session(login.session).await?
    {
        told.insert("email".to_owned(), json!(access.user.email));
        told.insert("email_verified".to_owned(), json!(false));
    }
    Ok(told)
}
