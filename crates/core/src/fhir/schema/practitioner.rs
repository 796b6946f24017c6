//! The elements of R4's `Practitioner`: in whose name a person acts.

use super::codes;
use super::{BOOLEAN, DATE, Element, Kind, datatypes};

pub(super) static ELEMENTS: &[Element] = &[
    Element::many("identifier", Kind::Complex(&datatypes::IDENTIFIER)),
    Element::optional("active", BOOLEAN),
    Element::many("name", Kind::Complex(&datatypes::HUMAN_NAME)),
    Element::many("telecom", Kind::Complex(&datatypes::CONTACT_POINT)),
    Element::many("address", Kind::Complex(&datatypes::ADDRESS)),
    Element::optional("gender", Kind::Enum(&codes::ADMINISTRATIVE_GENDER)),
    Element::optional("birthDate", DATE),
    Element::many("photo", Kind::Complex(&datatypes::ATTACHMENT)),
    Element::many("qualification", Kind::Backbone(QUALIFICATION)),
    Element::many("communication", Kind::Complex(&datatypes::CODEABLE_CONCEPT)),
];

static QUALIFICATION: &[Element] = &[
    Element::many("identifier", Kind::Complex(&datatypes::IDENTIFIER)),
    Element::required("code", Kind::Complex(&datatypes::CODEABLE_CONCEPT)),
    Element::optional("period", Kind::Complex(&datatypes::PERIOD)),
    Element::optional("issuer", Kind::Reference(&["Organization"])),
];
