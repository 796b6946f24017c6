//! The elements of R4's `AuditEvent`, with the targets Medplum adds (Bot, `ClientApplication`) to
//! who acted and who observed.

use super::codes;
use super::{ANY_REFERENCE, Alternative, BASE64, BOOLEAN, Element, INSTANT, Kind, STRING, URI, datatypes};

/// Who can have acted.
pub(in super::super) static AGENT_TARGETS: &[&str] = &[
    "PractitionerRole",
    "Practitioner",
    "Organization",
    "Device",
    "Patient",
    "RelatedPerson",
    "Bot",
    "ClientApplication",
];

/// Who can have observed.
pub(in super::super) static OBSERVER_TARGETS: &[&str] = &[
    "PractitionerRole",
    "Practitioner",
    "Organization",
    "Device",
    "Patient",
    "RelatedPerson",
    "Subscription",
    "Bot",
    "ClientApplication",
];

pub(super) static ELEMENTS: &[Element] = &[
    Element::required("type", Kind::Complex(&datatypes::CODING)),
    Element::many("subtype", Kind::Complex(&datatypes::CODING)),
    Element::optional("action", Kind::Enum(&codes::AUDIT_EVENT_ACTION)),
    Element::optional("period", Kind::Complex(&datatypes::PERIOD)),
    Element::required("recorded", INSTANT),
    Element::optional("outcome", Kind::Enum(&codes::AUDIT_EVENT_OUTCOME)),
    Element::optional("outcomeDesc", STRING),
    Element::many("purposeOfEvent", Kind::Complex(&datatypes::CODEABLE_CONCEPT)),
    Element::some("agent", Kind::Backbone(AGENT)),
    Element::required("source", Kind::Backbone(SOURCE)),
    Element::many("entity", Kind::Backbone(ENTITY)),
];

static AGENT: &[Element] = &[
    Element::optional("type", Kind::Complex(&datatypes::CODEABLE_CONCEPT)),
    Element::many("role", Kind::Complex(&datatypes::CODEABLE_CONCEPT)),
    Element::optional("who", Kind::Reference(AGENT_TARGETS)),
    Element::optional("altId", STRING),
    Element::optional("name", STRING),
    Element::required("requestor", BOOLEAN),
    Element::optional("location", Kind::Reference(&["Location"])),
    Element::many("policy", URI),
    Element::optional("media", Kind::Complex(&datatypes::CODING)),
    Element::optional("network", Kind::Backbone(NETWORK)),
    Element::many("purposeOfUse", Kind::Complex(&datatypes::CODEABLE_CONCEPT)),
];

static NETWORK: &[Element] =
    &[Element::optional("address", STRING), Element::optional("type", Kind::Enum(&codes::NETWORK_TYPE))];

static SOURCE: &[Element] = &[
    Element::optional("site", STRING),
    Element::required("observer", Kind::Reference(OBSERVER_TARGETS)),
    Element::many("type", Kind::Complex(&datatypes::CODING)),
];

static ENTITY: &[Element] = &[
    Element::optional("what", ANY_REFERENCE),
    Element::optional("type", Kind::Complex(&datatypes::CODING)),
    Element::optional("role", Kind::Complex(&datatypes::CODING)),
    Element::optional("lifecycle", Kind::Complex(&datatypes::CODING)),
    Element::many("securityLabel", Kind::Complex(&datatypes::CODING)),
    Element::optional("name", STRING),
    Element::optional("description", STRING),
    Element::optional("query", BASE64),
    Element::many("detail", Kind::Backbone(DETAIL)),
];

static DETAIL: &[Element] = &[
    Element::required("type", STRING),
    Element::required(
        "value",
        Kind::Choice(&[
            Alternative { suffix: "String", kind: STRING },
            Alternative { suffix: "Base64Binary", kind: BASE64 },
        ]),
    ),
];
