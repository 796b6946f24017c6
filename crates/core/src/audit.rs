//! What happened to a secret or to a webhook, as a FHIR AuditEvent in the shape of IHE's Basic Audit Log
//! Patterns. An event names secrets by their ids and never has a value of one to leak (P4).

mod chain;
mod refusals;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::caller::Author;
use crate::id::{ClientId, ProjectId, ResourceId, SecretId, VersionId, WebhookId};
use crate::time::Timestamp;
use crate::usage::Presenter;

pub use self::chain::{AuditBeginning, AuditKey, AuditRoot, Link, LinkMac, RecordDigest, What};
pub use self::refusals::{RefusalLog, Refusals};

/// What moves the secrets of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretAction {
    /// `$rotate-secret` with `secret`.
    Rotate,
    /// The same, where that ended a retiring secret which was still in use.
    Overwrite,
    /// `$rotate-secret` with `retiringSecret`.
    Retire,
    /// A direct write of `secret`.
    Replace,
    /// `$undo-rotation`.
    Undo,
    /// `$revoke-secret`.
    Revoke,
}

impl SecretAction {
    /// The code in `AuditEvent.subtype`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rotate | Self::Overwrite => "rotate-secret",
            Self::Retire => "retire-secret",
            Self::Replace => "replace-secret",
            Self::Undo => "undo-rotation",
            Self::Revoke => "revoke-secret",
        }
    }
}

/// What records.
const OBSERVER: &str = "Keyrelay";
/// The subtype of [`SecretAction::Overwrite`], beside that of any rotation.
const IN_USE: &str = "overwrite-secret-in-use";

/// What is recorded of secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// A client was made with a secret.
    Created,
    /// Its secrets were moved.
    Moved(SecretAction),
    /// A client was deleted, and its secrets with it.
    Deleted,
    /// A value was shown to somebody who read the client.
    Read,
    /// A value was shown to somebody who searched for clients.
    Found,
}

impl Recorded {
    /// The code in `AuditEvent.subtype`.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "create-secret",
            Self::Moved(action) => action.as_str(),
            Self::Deleted => "delete-secret",
            Self::Read | Self::Found => "read-secret",
        }
    }

    const fn interaction(self) -> Interaction {
        match self {
            Self::Created => Interaction::Create,
            Self::Moved(SecretAction::Replace) => Interaction::Update,
            Self::Deleted => Interaction::Delete,
            Self::Read => Interaction::Read,
            Self::Found => Interaction::Search,
            Self::Moved(_) => Interaction::Operation,
        }
    }
}

/// How something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interaction {
    Create,
    Read,
    Update,
    Delete,
    Search,
    Operation,
}

impl Interaction {
    /// Its code in the subtype (<http://hl7.org/fhir/R4/valueset-restful-interaction.html>).
    const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Search => "search-type",
            Self::Operation => "operation",
        }
    }

    /// `AuditEvent.action` (<http://hl7.org/fhir/R4/valueset-audit-event-action.html>).
    const fn action(self) -> &'static str {
        match self {
            Self::Create => "C",
            Self::Read => "R",
            Self::Update => "U",
            Self::Delete => "D",
            Self::Search | Self::Operation => "E",
        }
    }
}

/// Whose secrets an event is about, by their ids.
#[derive(Clone, Copy, Debug)]
pub struct SecretsOf<'a> {
    /// The client application.
    pub client: ClientId,
    /// The active secret from then on, or the one that was shown.
    pub active: Option<SecretId>,
    /// The retiring secret from then on, or the one that was shown.
    pub retiring: Option<SecretId>,
    /// The secrets that ended, by what was done or by their deadline before.
    pub ended: &'a [SecretId],
}

/// Who did something, where and when.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// In which project.
    pub project: ProjectId,
    /// By whom.
    pub by: Author,
    /// From which address.
    pub from: IpAddr,
    /// When.
    pub at: Timestamp,
}

impl Done {
    /// An event of the pattern for `RESTful` interactions, with subtypes of its own and without its entities.
    fn to_resource(self, id: ResourceId, version: VersionId, how: Interaction, what: &[&str]) -> Value {
        let who = self.by.reference();
        let mut event = head(id, version, self.project, self.at);
        event["meta"]["author"] = json!({ "reference": self.by.profile.to_string() });
        event["type"] = json!({
            "system": "http://terminology.hl7.org/CodeSystem/audit-event-type",
            "code": "rest",
            "display": "RESTful Operation"
        });
        let interaction =
            json!({ "system": "http://hl7.org/fhir/restful-interaction", "code": how.as_str() });
        event["subtype"] =
            std::iter::once(interaction).chain(what.iter().map(|code| subtype(code))).collect();
        event["action"] = json!(how.action());
        event["recorded"] = json!(self.at.to_instant());
        event["outcome"] = json!("0");
        event["agent"] = json!([{ "who": who, "requestor": true, "network": network(self.from) }]);
        event["source"] = json!({ "observer": { "display": OBSERVER } });
        event
    }
}

/// What secrets were done to.
#[derive(Clone, Copy, Debug)]
pub struct SecretEvent<'a> {
    /// What was done.
    pub what: Recorded,
    /// To whose secrets: one client's, or those of all that a search has shown.
    pub of: &'a [SecretsOf<'a>],
    /// By whom, where and when.
    pub done: Done,
}

impl SecretEvent<'_> {
    /// The event as a resource.
    #[must_use]
    pub fn to_resource(&self, id: ResourceId, version: VersionId) -> Value {
        let all = [self.what.as_str(), IN_USE];
        let is_overwrite = self.what == Recorded::Moved(SecretAction::Overwrite);
        let what = if is_overwrite { &all[..] } else { &all[..1] };
        let mut event = self.done.to_resource(id, version, self.what.interaction(), what);
        event["entity"] = self.of.iter().map(SecretsOf::entity).collect();
        event
    }
}

/// What an admin does with a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookAction {
    /// Registers it.
    Create,
    /// Has its deliveries signed with another secret.
    RotateSecret,
    /// Has what was given up sent again, also where the receiver was gone.
    Resend,
    /// Ends it.
    Delete,
}

impl WebhookAction {
    /// The code in `AuditEvent.subtype`.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create-webhook",
            Self::RotateSecret => "rotate-webhook-secret",
            Self::Resend => "resend-webhook",
            Self::Delete => "delete-webhook",
        }
    }

    const fn interaction(self) -> Interaction {
        match self {
            Self::Create => Interaction::Create,
            Self::RotateSecret | Self::Resend => Interaction::Operation,
            Self::Delete => Interaction::Delete,
        }
    }
}

/// What was done to a webhook.
#[derive(Clone, Copy, Debug)]
pub struct WebhookEvent<'a> {
    /// What was done.
    pub what: WebhookAction,
    /// To which.
    pub webhook: WebhookId,
    /// Host and port of where it sends. Not the whole URL, which may have a receiver's token in it.
    pub to: &'a str,
    /// By whom, where and when.
    pub done: Done,
}

impl WebhookEvent<'_> {
    /// The event as a resource.
    #[must_use]
    pub fn to_resource(&self, id: ResourceId, version: VersionId) -> Value {
        let mut event = self.done.to_resource(id, version, self.what.interaction(), &[self.what.as_str()]);
        event["entity"] = json!([{
            "what": { "identifier": { "system": "urn:keyrelay:webhook", "value": self.webhook.to_string() } },
            "detail": [detail("to", self.to)],
        }]);
        event
    }
}

impl SecretsOf<'_> {
    fn entity(&self) -> Value {
        let named = [("active", self.active), ("retiring", self.retiring)];
        let ended = self.ended.iter().map(|id| ("ended", Some(*id)));
        let detail: Vec<Value> = named
            .into_iter()
            .chain(ended)
            .filter_map(|(name, id)| Some(detail(name, &id?.to_string())))
            .collect();
        entity(self.client, detail)
    }
}

/// The end of a retiring secret by its deadline, which nobody did.
#[derive(Clone, Copy, Debug)]
pub struct EndedByDeadline {
    /// Whose secret it was.
    pub client: ClientId,
    /// The client's project.
    pub project: ProjectId,
    /// The secret.
    pub secret: SecretId,
    /// The deadline: from then on it let nobody in.
    pub ended: Timestamp,
    /// When this is written down.
    pub at: Timestamp,
}

impl EndedByDeadline {
    /// The event as a resource.
    #[must_use]
    pub fn to_resource(&self, id: ResourceId, version: VersionId) -> Value {
        let mut event = head(id, version, self.project, self.at);
        event["type"] = dicom("110113", "Security Alert");
        event["subtype"] =
            json!([dicom("110137", "User Security Attributes Changed"), subtype("end-secret-by-deadline")]);
        event["action"] = json!("E");
        event["period"] = json!({ "start": self.ended.to_instant(), "end": self.ended.to_instant() });
        event["recorded"] = json!(self.at.to_instant());
        event["outcome"] = json!("0");
        event["agent"] = json!([{ "who": { "display": OBSERVER }, "requestor": false }]);
        event["source"] = json!({ "observer": { "display": OBSERVER } });
        event["entity"] = json!([entity(self.client, vec![detail("ended", &self.secret.to_string())])]);
        event
    }
}

/// Refused proofs of a client, summed up over a time: one record for an attack of any length. It names the client as
/// its subject and never as its agent, because nobody proved to be the client.
#[derive(Clone, Debug)]
pub struct RefusedProofs<'a> {
    /// The client that somebody said to be.
    pub client: ClientId,
    /// Its project.
    pub project: ProjectId,
    /// When the first of them was presented.
    pub since: Timestamp,
    /// When the last of them was.
    pub until: Timestamp,
    /// How many there were.
    pub count: i64,
    /// From where, those with the most first, and how many each; not all, if there were many.
    pub callers: &'a [(&'a Presenter, i64)],
    /// The secrets that were among them: known ones, that let nobody in any more.
    pub secrets: &'a [SecretId],
    /// When this is written down.
    pub at: Timestamp,
}

impl RefusedProofs<'_> {
    /// The event as a resource.
    #[must_use]
    pub fn to_resource(&self, id: ResourceId, version: VersionId) -> Value {
        let mut event = head(id, version, self.project, self.at);
        event["type"] = dicom("110114", "User Authentication");
        event["subtype"] = json!([dicom("110122", "Login"), subtype("refused-proofs")]);
        event["action"] = json!("E");
        event["period"] = json!({ "start": self.since.to_instant(), "end": self.until.to_instant() });
        event["recorded"] = json!(self.at.to_instant());
        event["outcome"] = json!("4");
        // Nothing was proved, so the agents are addresses, and the client is the subject.
        let addresses: BTreeSet<IpAddr> =
            self.callers.iter().map(|(caller, _)| caller.address.to_canonical()).collect();
        event["agent"] = if addresses.is_empty() {
            json!([unknown()])
        } else {
            addresses.into_iter().map(|address| with_network(unknown(), address)).collect()
        };
        event["source"] = json!({ "observer": { "display": OBSERVER } });
        let secrets = self.secrets.iter().map(|secret| detail("secret", &secret.to_string()));
        let details = std::iter::once(detail("refused", &self.count.to_string())).chain(secrets);
        let client = entity(self.client, details.collect());
        let callers = self.callers.iter().map(|(caller, count)| presented(caller, *count));
        event["entity"] = std::iter::once(client).chain(callers).collect();
        event
    }
}

/// A caller that has not authenticated.
fn unknown() -> Value {
    json!({ "who": { "display": "Unknown" }, "requestor": true })
}

fn with_network(mut agent: Value, address: IpAddr) -> Value {
    agent["network"] = network(address);
    agent
}

/// One caller that presented refused proofs, with a detail for each known fact.
fn presented(caller: &Presenter, count: i64) -> Value {
    let address = caller.address.to_canonical().to_string();
    let mut details = vec![detail("address", &address), detail("refused", &count.to_string())];
    details.extend(caller.said().map(|(name, text)| detail(name, &text)));
    json!({ "description": "caller", "detail": details })
}

fn head(id: ResourceId, version: VersionId, project: ProjectId, at: Timestamp) -> Value {
    json!({
        "resourceType": "AuditEvent",
        "id": id.to_string(),
        "meta": {
            "versionId": version.to_string(),
            "lastUpdated": at.to_instant(),
            "project": project.to_string(),
        },
    })
}

fn subtype(code: &str) -> Value {
    json!({ "system": "urn:keyrelay:audit", "code": code })
}

/// A code of DICOM PS3.16 CID 400 or 401.
fn dicom(code: &str, display: &str) -> Value {
    json!({ "system": "http://dicom.nema.org/resources/ontology/DCM", "code": code, "display": display })
}

fn network(address: IpAddr) -> Value {
    json!({ "address": address.to_canonical().to_string(), "type": "2" })
}

fn detail(name: &str, value: &str) -> Value {
    json!({ "type": name, "valueString": value })
}

fn entity(client: ClientId, detail: Vec<Value>) -> Value {
    let mut entity = json!({ "what": { "reference": format!("ClientApplication/{client}") } });
    if !detail.is_empty() {
        entity["detail"] = Value::Array(detail);
    }
    entity
}
