//! The elements of Medplum's `ClientApplication`. `secret` and `retiringSecret` are plain strings
//! on the wire; what may be written to them is decided by the secret policy, not here.

use super::codes;
use super::{BOOLEAN, CODE, Element, Kind, STRING, URI, datatypes};

pub(super) static ELEMENTS: &[Element] = &[
    Element::optional("status", Kind::Enum(&codes::CLIENT_APPLICATION_STATUS)),
    Element::optional("name", STRING),
    Element::optional("description", STRING),
    Element::optional("signInForm", Kind::Backbone(SIGN_IN_FORM)),
    Element::optional("secret", STRING),
    Element::optional("retiringSecret", STRING),
    Element::optional("jwksUri", URI),
    // Keyrelay's own: a JWK Set as JSON text, for a client that proves itself by keys.
    Element::optional("jwks", STRING),
    Element::many("redirectUris", URI),
    Element::optional("launchUri", URI),
    Element::many("launchIdentifierSystems", Kind::Backbone(LAUNCH_IDENTIFIER_SYSTEMS)),
    Element::optional("pkceOptional", BOOLEAN),
    Element::optional("identityProvider", Kind::Complex(&datatypes::IDENTITY_PROVIDER)),
    Element::optional("accessTokenLifetime", Kind::Lifetime),
    Element::optional("refreshTokenLifetime", Kind::Lifetime),
    // Origins as browsers write them; see `core::origin`.
    Element::many("allowedOrigin", STRING),
    Element::many("grantType", STRING),
    Element::many("responseType", STRING),
    Element::many("defaultScope", STRING),
    Element::optional("certificateTrustStore", STRING),
    // Superseded by `redirectUris`, still sent by old clients.
    Element::optional("redirectUri", URI),
];

static SIGN_IN_FORM: &[Element] = &[
    Element::optional("welcomeString", STRING),
    Element::optional("logo", Kind::Complex(&datatypes::ATTACHMENT)),
    Element::optional("showScopeSelection", BOOLEAN),
];

static LAUNCH_IDENTIFIER_SYSTEMS: &[Element] =
    &[Element::required("resourceType", CODE), Element::required("system", URI)];
