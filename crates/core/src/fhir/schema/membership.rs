//! The elements of Medplum's `ProjectMembership`: who belongs to which project, under which
//! policies.

use super::{ANY_REFERENCE, Alternative, BOOLEAN, CODE, Element, Kind, STRING, datatypes};

/// Who can be a member.
pub(in super::super) static USER_TARGETS: &[&str] = &["Bot", "ClientApplication", "User"];

/// In whose name a member acts.
pub(in super::super) static PROFILE_TARGETS: &[&str] =
    &["Bot", "ClientApplication", "Patient", "Practitioner", "RelatedPerson"];

pub(super) static ELEMENTS: &[Element] = &[
    Element::many("identifier", Kind::Complex(&datatypes::IDENTIFIER)),
    Element::optional("active", BOOLEAN),
    Element::required("project", Kind::Reference(&["Project"])),
    Element::optional("invitedBy", Kind::Reference(USER_TARGETS)),
    Element::required("user", Kind::Reference(USER_TARGETS)),
    Element::required("profile", Kind::Reference(PROFILE_TARGETS)),
    Element::optional("userName", STRING),
    Element::optional("externalId", STRING),
    Element::optional("accessPolicy", Kind::Reference(&["AccessPolicy"])),
    Element::many("access", Kind::Backbone(ACCESS)),
    Element::optional("userConfiguration", Kind::Reference(&["UserConfiguration"])),
    Element::optional("admin", BOOLEAN),
];

static ACCESS: &[Element] = &[
    Element::required("policy", Kind::Reference(&["AccessPolicy"])),
    Element::many("parameter", Kind::Backbone(PARAMETER)),
];

static PARAMETER: &[Element] = &[
    Element::required("name", CODE),
    Element::required(
        "value",
        Kind::Choice(&[
            Alternative { suffix: "String", kind: STRING },
            Alternative { suffix: "Reference", kind: ANY_REFERENCE },
        ]),
    ),
];
