//! A resource that somebody wants to have stored, and what is asked of every one of them.

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::schema::validate;
use keyrelay_core::fhir::search::index_entries;
use keyrelay_core::id::{ProjectId, ResourceId};
use keyrelay_core::limits::{INDEX_ROWS_MAX, NAME_CHARS_MAX};
use serde_json::{Map, Value};

use crate::error::Outcome;
use crate::fhir::access::{self, SECRETS, not_to_write};
use crate::fhir::bundle::Links;
use crate::fhir::client_application::{self, WrittenSecrets};
use crate::fhir::names::check_names;
use crate::fhir::versions::Act;

/// A resource as it is to be stored, and the secrets that came with it.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) resource: Map<String, Value>,
    pub(super) secrets: WrittenSecrets,
}

impl Draft {
    /// Takes the secrets out of a body.
    pub(super) fn take(
        resource_type: ResourceType,
        mut resource: Map<String, Value>,
    ) -> Result<Self, Outcome> {
        if resource.get("resourceType").and_then(Value::as_str) != Some(resource_type.as_str()) {
            return Err(Outcome::invalid_at(
                "resourceType",
                format!("The body must be a resource of type {resource_type}"),
            ));
        }
        let secrets = match resource_type {
            ResourceType::ClientApplication => client_application::take_secrets(&mut resource)?,
            _ => WrittenSecrets::default(),
        };
        Ok(Self { resource, secrets })
    }

    /// The same again, for another attempt at the same write.
    pub(super) fn copied(&self) -> Self {
        Self { resource: self.resource.clone(), secrets: self.secrets.copied() }
    }

    /// The same with the links of its transaction put in place.
    pub(super) fn linked(&self, links: &Links<'_>) -> Result<Self, Outcome> {
        let mut draft = self.copied();
        links.put_into_resource(&mut draft.resource)?;
        Ok(draft)
    }

    /// Checks that it can be stored as a new resource.
    pub(super) fn check(&self, resource_type: ResourceType) -> Result<(), Outcome> {
        check_resource(resource_type, &self.resource, None)
    }

    /// Checks what does not depend on what is stored.
    pub(super) fn check_form(&self, resource_type: ResourceType) -> Result<(), Outcome> {
        check_form(resource_type, &self.resource)
    }

    /// Checks the names that an update writes.
    pub(super) fn check_names(&self, before: &Map<String, Value>) -> Result<(), Outcome> {
        check_names(&self.resource, Some(before))
    }

    /// Refuses a secret that the caller must not see: whether it is the right one would tell. What it may
    /// see and not change is compared first, in an update.
    pub(super) fn check_secrets(&self, keeps: impl Fn(&str) -> bool) -> Result<(), Outcome> {
        let written = [self.secrets.secret.is_some(), self.secrets.retiring.is_some()];
        match SECRETS.iter().zip(written).find(|(name, written)| *written && keeps(name)) {
            Some((name, _)) => Err(not_to_write(ResourceType::ClientApplication, name)),
            None => Ok(()),
        }
    }

    /// Leaves out of a new resource what its author must not write.
    pub(super) fn withhold(
        &mut self,
        act: Act<'_>,
        kind: ResourceType,
        id: ResourceId,
        project: ProjectId,
    ) -> Result<(), Outcome> {
        let withheld = access::of_new(act, kind, id, project, &self.resource)?;
        self.check_secrets(|name| withheld.keeps(name))?;
        if kind == ResourceType::ClientApplication {
            client_application::check_proofs(act.caller, project, None, &self.resource, &withheld)?;
        }
        if !act.caller.is_withheld_from(kind) {
            return Ok(());
        }
        for kept in withheld.kept() {
            kept.remove(&mut self.resource);
        }
        self.check(kind)?;
        // Without it, another rule may be the one that decides.
        access::check_new(act, kind, id, project, &self.resource)
    }
}

/// Checks every resource before it is stored, whatever built it. `before` is the stored version, if any.
pub(crate) fn check_resource(
    resource_type: ResourceType,
    resource: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<(), Outcome> {
    check_form(resource_type, resource)?;
    check_names(resource, before)
}

fn check_form(resource_type: ResourceType, resource: &Map<String, Value>) -> Result<(), Outcome> {
    refuse_foreign_credentials(resource_type, resource)?;
    validate(resource).map_err(Outcome::schema)?;
    let name = resource.get("name").and_then(Value::as_str);
    if name.is_some_and(|name| name.chars().count() > NAME_CHARS_MAX) {
        let text = format!("A name has at most {NAME_CHARS_MAX} characters");
        return Err(Outcome::invalid_at(format!("{resource_type}.name"), text));
    }
    if index_entries(resource_type, resource).len() > INDEX_ROWS_MAX {
        let text = format!("The resource has more than {INDEX_ROWS_MAX} values that can be searched for");
        return Err(Outcome::invalid(text));
    }
    Ok(())
}

/// Credentials of other systems would be kept in clear, in every version: they are not taken at all.
fn refuse_foreign_credentials(
    resource_type: ResourceType,
    resource: &Map<String, Value>,
) -> Result<(), Outcome> {
    let paths: &[&[&str]] = match resource_type {
        ResourceType::Project => &[
            &["secret"],
            &["systemSecret"],
            &["site", "googleClientSecret"],
            &["site", "recaptchaSecretKey"],
        ],
        ResourceType::ClientApplication => {
            &[&["identityProvider", "clientSecret"], &["identityProvider", "userInfoApiKey"]]
        }
        _ => &[],
    };
    let is_there = |path: &&&[&str]| {
        let (first, rest) = (path.first().and_then(|name| resource.get(*name)), path.get(1));
        match (first, rest) {
            (Some(Value::Array(list)), Some(name)) => list.iter().any(|item| item.get(name).is_some()),
            (Some(value), Some(name)) => value.get(name).is_some(),
            (value, None) => value.is_some(),
            (None, Some(_)) => false,
        }
    };
    match paths.iter().find(is_there) {
        Some(path) => Err(Outcome::not_supported(
            "Keyrelay keeps no credentials of other systems: leave this element out",
        )
        .at(format!("{resource_type}.{}", path.join(".")))),
        None => Ok(()),
    }
}
