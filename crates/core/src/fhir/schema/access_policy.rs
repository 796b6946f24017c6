//! The elements of Medplum's `AccessPolicy`. Only the shape: criteria, constraints and address
//! ranges have a grammar of their own and are read by the policy code.

use super::codes;
use super::{ANY_REFERENCE, BOOLEAN, Element, Kind, STRING, datatypes};

pub(super) static ELEMENTS: &[Element] = &[
    Element::optional("name", STRING),
    Element::many("basedOn", Kind::Reference(&["AccessPolicy"])),
    Element::optional("compartment", ANY_REFERENCE),
    Element::many("resource", Kind::Backbone(RESOURCE)),
    Element::many("ipAccessRule", Kind::Backbone(IP_ACCESS_RULE)),
];

static RESOURCE: &[Element] = &[
    Element::required("resourceType", STRING),
    Element::optional("compartment", ANY_REFERENCE),
    Element::optional("criteria", STRING),
    Element::optional("readonly", BOOLEAN),
    Element::many("interaction", Kind::Enum(&codes::ACCESS_POLICY_INTERACTION)),
    Element::many("hiddenFields", STRING),
    Element::many("readonlyFields", STRING),
    Element::many("writeConstraint", Kind::Complex(&datatypes::EXPRESSION)),
];

static IP_ACCESS_RULE: &[Element] = &[
    Element::optional("name", STRING),
    Element::required("value", STRING),
    Element::required("action", Kind::Enum(&codes::IP_ACCESS_RULE_ACTION)),
];
