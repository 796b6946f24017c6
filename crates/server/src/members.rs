//! Small JSON bodies of routes outside FHIR. All their members are known; an unknown one is refused. A route takes the
//! members out one by one, so that the body is not kept while the route waits.

use axum::body::Body;
use http::HeaderMap;
use keyrelay_core::limits::AUTHORIZE_PARAMETER_BYTES_MAX;
use keyrelay_core::password::PlainPassword;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::error::Outcome;
use crate::fhir::Content;

/// The members that have not been taken out yet. Their `Debug` would show secrets, so there is none.
pub(crate) struct Members(Map<String, Value>);

impl Members {
    /// Reads a body, and refuses other members than these.
    pub(crate) async fn read(headers: &HeaderMap, body: Body, known: &[&str]) -> Result<Self, Outcome> {
        let content = Content::Http { headers: headers.clone(), body };
        Self::of(content.into_object().await?, known)
    }

    fn of(members: Map<String, Value>, known: &[&str]) -> Result<Self, Outcome> {
        if members.keys().all(|name| known.contains(&name.as_str())) {
            return Ok(Self(members));
        }
        let known = known.join(", ");
        Err(Outcome::invalid(format!("The body has an unknown member; known are: {known}")))
    }

    /// A text. An empty text, or null, counts as absent.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Outcome> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) if text.len() <= AUTHORIZE_PARAMETER_BYTES_MAX => Ok(Some(text)),
            Some(_) => Err(Outcome::invalid_at(
                name,
                format!("{name} must be a string of at most {AUTHORIZE_PARAMETER_BYTES_MAX} bytes"),
            )),
        }
    }

    /// A required text.
    pub(crate) fn needed(&mut self, name: &str) -> Result<String, Outcome> {
        self.text(name)?.ok_or_else(|| Outcome::invalid_at(name, format!("{name} is missing")))
    }

    /// A required password.
    pub(crate) fn password(&mut self, name: &str) -> Result<PlainPassword, Outcome> {
        let text = Zeroizing::new(self.needed(name)?);
        PlainPassword::presented(text).ok_or_else(|| Outcome::invalid_at(name, format!("{name} is too long")))
    }

    /// `true` or `false`; `false` if absent.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Outcome> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(Outcome::invalid_at(name, format!("{name} must be true or false"))),
        }
    }
}
