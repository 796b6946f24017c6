//! The elements of Medplum's `User`, the account of a person, with `active` as Keyrelay's own. The
//! peer's `passwordHash` and `mfaSecret` are not here, for credentials are not part of a resource, nor
//! are `admin` and `mfaEnrolled`, which nothing here would obey.

use super::{BOOLEAN, Element, Kind, STRING, datatypes};

pub(super) static ELEMENTS: &[Element] = &[
    Element::many("identifier", Kind::Complex(&datatypes::IDENTIFIER)),
    Element::optional("externalId", STRING),
    Element::optional("active", BOOLEAN),
    Element::required("email", STRING),
    Element::optional("emailVerified", BOOLEAN),
    Element::optional("project", Kind::Reference(&["Project"])),
    Element::required("firstName", STRING),
    Element::required("lastName", STRING),
];
