//! `GET /auth/me`: who the caller is, in the shape that Medplum's clients read after every login.

use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method};
use keyrelay_core::caller::{Caller, Role};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ResourceId;
use serde_json::{Map, Value, json};

use crate::App;
use crate::auth::{self, ClientAddress};
use crate::error::Outcome;
use crate::fhir::own;
use crate::headers::{JSON, NO_STORE};

pub(crate) async fn me(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if !matches!(method, Method::GET | Method::HEAD) {
        return Outcome::method_not_allowed("GET").into_response();
    }
    let answer = async {
        let caller = auth::caller(&app, &headers, from).await?;
        describe(&app, &caller).await
    };
    match answer.await {
        Ok(body) => ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body.to_string()).into_response(),
        Err(outcome) => outcome.into_response(),
    }
}

async fn describe(app: &App, caller: &Caller) -> Result<Value, Outcome> {
    const MEMBERSHIP: [&str; 7] =
        ["resourceType", "id", "project", "user", "profile", "admin", "accessPolicy"];
    const USER: [&str; 5] = ["resourceType", "id", "email", "firstName", "lastName"];
    const NAMED: [&str; 2] = ["resourceType", "id"];
    let resource = |kind, id, always| resource(app, caller, kind, id, always);
    let project = resource(ResourceType::Project, caller.project.into(), &NAMED).await?;
    let membership = resource(ResourceType::ProjectMembership, caller.membership.into(), &MEMBERSHIP).await?;
    let profile = resource(caller.profile.resource_type, caller.profile.id, &NAMED).await?;
    let pick = |from: &Map<String, Value>, names: &[&str]| -> Map<String, Value> {
        names.iter().filter_map(|name| Some(((*name).to_owned(), from.get(*name)?.clone()))).collect()
    };
    let user = match caller.login {
        Some(login) => {
            let user = resource(ResourceType::User, login.user.into(), &USER).await?;
            Some(pick(&user, &USER))
        }
        None => None,
    };
    let mut told = json!({
        "project": pick(&project, &["resourceType", "id", "name", "superAdmin"]),
        "membership": pick(&membership, &MEMBERSHIP),
        "profile": profile,
        "role": match caller.role {
            Role::SuperAdmin => "super-admin",
            Role::ProjectAdmin => "project-admin",
            Role::Member => "member",
        },
    });
    if let (Some(map), Some(user)) = (told.as_object_mut(), user) {
        map.insert("user".to_owned(), Value::Object(user));
    }
    Ok(told)
}

async fn resource(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    id: ResourceId,
    always: &[&str],
) -> Result<Map<String, Value>, Outcome> {
    let version = app.store.resource(resource_type, id).await?.filter(|version| !version.deleted);
    own(caller, &version.ok_or_else(Outcome::not_found)?, always)
}
