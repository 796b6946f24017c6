//! The elements of Medplum's `Project`, the tenant. Settings and secrets of a project share one
//! shape, a name and a value of four possible types.

use super::codes;
use super::{Alternative, BOOLEAN, CANONICAL, CODE, DECIMAL, Element, INTEGER, Kind, STRING, datatypes};

pub(super) static ELEMENTS: &[Element] = &[
    Element::many("identifier", Kind::Complex(&datatypes::IDENTIFIER)),
    Element::optional("active", BOOLEAN),
    Element::optional("name", STRING),
    Element::optional("description", STRING),
    Element::optional("superAdmin", BOOLEAN),
    Element::optional("strictMode", BOOLEAN),
    Element::optional("checkReferencesOnWrite", BOOLEAN),
    Element::optional("owner", Kind::Reference(&["User"])),
    Element::many("features", Kind::Enum(&codes::PROJECT_FEATURE)),
    Element::optional("defaultPatientAccessPolicy", Kind::Reference(&["AccessPolicy"])),
    Element::many("setting", Kind::Backbone(SETTING)),
    Element::many("secret", Kind::Backbone(SETTING)),
    Element::many("systemSetting", Kind::Backbone(SETTING)),
    Element::many("systemSecret", Kind::Backbone(SETTING)),
    Element::many("site", Kind::Backbone(SITE)),
    Element::many("link", Kind::Backbone(LINK)),
    Element::many("defaultProfile", Kind::Backbone(DEFAULT_PROFILE)),
    Element::many("defaultAccessPolicies", Kind::Backbone(DEFAULT_ACCESS_POLICIES)),
    Element::many("exportedResourceType", CODE),
];

static SETTING: &[Element] = &[
    Element::required("name", STRING),
    Element::required(
        "value",
        Kind::Choice(&[
            Alternative { suffix: "String", kind: STRING },
            Alternative { suffix: "Boolean", kind: BOOLEAN },
            Alternative { suffix: "Decimal", kind: DECIMAL },
            Alternative { suffix: "Integer", kind: INTEGER },
        ]),
    ),
];

static SITE: &[Element] = &[
    Element::required("name", STRING),
    Element::some("domain", STRING),
    Element::optional("googleClientId", STRING),
    Element::optional("googleClientSecret", STRING),
    Element::optional("recaptchaSiteKey", STRING),
    Element::optional("recaptchaSecretKey", STRING),
];

static LINK: &[Element] = &[Element::required("project", Kind::Reference(&["Project"]))];

static DEFAULT_PROFILE: &[Element] =
    &[Element::required("resourceType", CODE), Element::some("profile", CANONICAL)];

static DEFAULT_ACCESS_POLICIES: &[Element] = &[
    Element::required("profileType", Kind::Enum(&codes::PROFILE_TYPE)),
    Element::required("accessPolicy", Kind::Reference(&["AccessPolicy"])),
];
