//! The datatypes the resource tables use, with Medplum's additions to `Meta`. Apart from the
//! resources because they refer to each other (an Identifier has a Reference, which has an
//! Identifier): named statics make such cycles possible.

use super::codes;
use super::{
    ANY_REFERENCE, Alternative, BASE64, BOOLEAN, CANONICAL, CODE, DATE_TIME, DECIMAL, DataType, Element, ID,
    INSTANT, INTEGER, Kind, MARKDOWN, POSITIVE_INT, Primitive, STRING, UNSIGNED_INT, URI, URL,
};

pub(super) static META: DataType = DataType {
    name: "Meta",
    elements: &[
        Element::optional("versionId", ID),
        Element::optional("lastUpdated", INSTANT),
        Element::optional("source", URI),
        Element::many("profile", CANONICAL),
        Element::many("security", Kind::Complex(&CODING)),
        Element::many("tag", Kind::Complex(&CODING)),
        // Medplum's own, served under `X-Medplum: extended`.
        Element::optional("project", URI),
        Element::optional("author", ANY_REFERENCE),
        Element::optional("onBehalfOf", ANY_REFERENCE),
        Element::optional("account", ANY_REFERENCE),
        Element::many("accounts", ANY_REFERENCE),
        Element::many("compartment", ANY_REFERENCE),
        Element::optional("deleted", BOOLEAN),
    ],
};

/// `Reference.reference` is checked by the validator, which knows the allowed targets.
pub(super) static REFERENCE: DataType = DataType {
    name: "Reference",
    elements: &[
        Element::optional("reference", STRING),
        Element::optional("type", URI),
        Element::optional("identifier", Kind::Complex(&IDENTIFIER)),
        Element::optional("display", STRING),
    ],
};

pub(super) static IDENTIFIER: DataType = DataType {
    name: "Identifier",
    elements: &[
        Element::optional("use", Kind::Enum(&codes::IDENTIFIER_USE)),
        Element::optional("type", Kind::Complex(&CODEABLE_CONCEPT)),
        Element::optional("system", URI),
        Element::optional("value", STRING),
        Element::optional("period", Kind::Complex(&PERIOD)),
        Element::optional("assigner", Kind::Reference(&["Organization"])),
    ],
};

pub(super) static CODEABLE_CONCEPT: DataType = DataType {
    name: "CodeableConcept",
    elements: &[Element::many("coding", Kind::Complex(&CODING)), Element::optional("text", STRING)],
};

pub(super) static CODING: DataType = DataType {
    name: "Coding",
    elements: &[
        Element::optional("system", URI),
        Element::optional("version", STRING),
        Element::optional("code", CODE),
        Element::optional("display", STRING),
        Element::optional("userSelected", BOOLEAN),
    ],
};

pub(super) static PERIOD: DataType = DataType {
    name: "Period",
    elements: &[Element::optional("start", DATE_TIME), Element::optional("end", DATE_TIME)],
};

pub(super) static ATTACHMENT: DataType = DataType {
    name: "Attachment",
    elements: &[
        Element::optional("contentType", CODE),
        Element::optional("language", CODE),
        Element::optional("data", BASE64),
        Element::optional("url", URL),
        Element::optional("size", UNSIGNED_INT),
        Element::optional("hash", BASE64),
        Element::optional("title", STRING),
        Element::optional("creation", DATE_TIME),
    ],
};

pub(super) static EXPRESSION: DataType = DataType {
    name: "Expression",
    elements: &[
        Element::optional("description", STRING),
        Element::optional("name", ID),
        Element::required("language", CODE),
        Element::optional("expression", STRING),
        Element::optional("reference", URI),
    ],
};

pub(super) static IDENTITY_PROVIDER: DataType = DataType {
    name: "IdentityProvider",
    elements: &[
        Element::optional("issuer", STRING),
        Element::optional("audience", STRING),
        Element::optional("jwksUrl", STRING),
        Element::optional("authorizeUrl", STRING),
        Element::optional("tokenUrl", STRING),
        Element::optional("tokenAuthMethod", Kind::Enum(&codes::TOKEN_AUTH_METHOD)),
        Element::optional("userInfoUrl", STRING),
        Element::optional("userInfoMode", Kind::Enum(&codes::USER_INFO_MODE)),
        Element::optional("userInfoApiKey", STRING),
        Element::optional("clientId", STRING),
        Element::optional("clientSecret", STRING),
        Element::optional("usePkce", BOOLEAN),
        Element::optional("useSubject", BOOLEAN),
        Element::optional("identitySource", Kind::Enum(&codes::IDENTITY_SOURCE)),
        Element::optional("identityMappingMode", Kind::Enum(&codes::IDENTITY_MAPPING_MODE)),
    ],
};

pub(super) static NARRATIVE: DataType = DataType {
    name: "Narrative",
    elements: &[
        Element::required("status", Kind::Enum(&codes::NARRATIVE_STATUS)),
        Element::required("div", Kind::Primitive(Primitive::Xhtml)),
    ],
};

pub(super) static QUANTITY: DataType = DataType { name: "Quantity", elements: QUANTITY_ELEMENTS };

static DURATION: DataType = DataType { name: "Duration", elements: QUANTITY_ELEMENTS };

static AGE: DataType = DataType { name: "Age", elements: QUANTITY_ELEMENTS };

static QUANTITY_ELEMENTS: &[Element] = &[
    Element::optional("value", DECIMAL),
    Element::optional("comparator", Kind::Enum(&codes::QUANTITY_COMPARATOR)),
    Element::optional("unit", STRING),
    Element::optional("system", URI),
    Element::optional("code", CODE),
];

static MONEY: DataType = DataType {
    name: "Money",
    elements: &[Element::optional("value", DECIMAL), Element::optional("currency", CODE)],
};

static RANGE: DataType = DataType {
    name: "Range",
    elements: &[
        Element::optional("low", Kind::Complex(&QUANTITY)),
        Element::optional("high", Kind::Complex(&QUANTITY)),
    ],
};

static RATIO: DataType = DataType {
    name: "Ratio",
    elements: &[
        Element::optional("numerator", Kind::Complex(&QUANTITY)),
        Element::optional("denominator", Kind::Complex(&QUANTITY)),
    ],
};

static ANNOTATION: DataType = DataType {
    name: "Annotation",
    elements: &[
        Element::optional(
            "author",
            Kind::Choice(&[
                Alternative {
                    suffix: "Reference",
                    kind: Kind::Reference(&["Practitioner", "Patient", "RelatedPerson", "Organization"]),
                },
                Alternative { suffix: "String", kind: STRING },
            ]),
        ),
        Element::optional("time", DATE_TIME),
        Element::required("text", MARKDOWN),
    ],
};

pub(super) static HUMAN_NAME: DataType = DataType {
    name: "HumanName",
    elements: &[
        Element::optional("use", Kind::Enum(&codes::NAME_USE)),
        Element::optional("text", STRING),
        Element::optional("family", STRING),
        Element::many("given", STRING),
        Element::many("prefix", STRING),
        Element::many("suffix", STRING),
        Element::optional("period", Kind::Complex(&PERIOD)),
    ],
};

pub(super) static CONTACT_POINT: DataType = DataType {
    name: "ContactPoint",
    elements: &[
        Element::optional("system", Kind::Enum(&codes::CONTACT_POINT_SYSTEM)),
        Element::optional("value", STRING),
        Element::optional("use", Kind::Enum(&codes::CONTACT_POINT_USE)),
        Element::optional("rank", POSITIVE_INT),
        Element::optional("period", Kind::Complex(&PERIOD)),
    ],
};

pub(super) static ADDRESS: DataType = DataType {
    name: "Address",
    elements: &[
        Element::optional("use", Kind::Enum(&codes::ADDRESS_USE)),
        Element::optional("type", Kind::Enum(&codes::ADDRESS_TYPE)),
        Element::optional("text", STRING),
        Element::many("line", STRING),
        Element::optional("city", STRING),
        Element::optional("district", STRING),
        Element::optional("state", STRING),
        Element::optional("postalCode", STRING),
        Element::optional("country", STRING),
        Element::optional("period", Kind::Complex(&PERIOD)),
    ],
};

pub(super) static EXTENSION: DataType = DataType {
    name: "Extension",
    elements: &[Element::required("url", URI), Element::optional("value", Kind::Choice(EXTENSION_VALUE))],
};

const fn alternative(suffix: &'static str, kind: Kind) -> Alternative {
    Alternative { suffix, kind }
}

/// The types of `Extension.value[x]` that occur in practice; R4 has a few more (such as Timing)
/// that no resource here has a use for.
static EXTENSION_VALUE: &[Alternative] = &[
    alternative("Base64Binary", BASE64),
    alternative("Boolean", BOOLEAN),
    alternative("Canonical", CANONICAL),
    alternative("Code", CODE),
    alternative("Date", Kind::Primitive(Primitive::Date)),
    alternative("DateTime", DATE_TIME),
    alternative("Decimal", DECIMAL),
    alternative("Id", ID),
    alternative("Instant", INSTANT),
    alternative("Integer", INTEGER),
    alternative("Markdown", MARKDOWN),
    alternative("Oid", Kind::Primitive(Primitive::Oid)),
    alternative("PositiveInt", POSITIVE_INT),
    alternative("String", STRING),
    alternative("Time", Kind::Primitive(Primitive::Time)),
    alternative("UnsignedInt", UNSIGNED_INT),
    alternative("Uri", URI),
    alternative("Url", URL),
    alternative("Uuid", Kind::Primitive(Primitive::Uuid)),
    alternative("Address", Kind::Complex(&ADDRESS)),
    alternative("Age", Kind::Complex(&AGE)),
    alternative("Annotation", Kind::Complex(&ANNOTATION)),
    alternative("Attachment", Kind::Complex(&ATTACHMENT)),
    alternative("CodeableConcept", Kind::Complex(&CODEABLE_CONCEPT)),
    alternative("Coding", Kind::Complex(&CODING)),
    alternative("ContactPoint", Kind::Complex(&CONTACT_POINT)),
    alternative("Duration", Kind::Complex(&DURATION)),
    alternative("Expression", Kind::Complex(&EXPRESSION)),
    alternative("HumanName", Kind::Complex(&HUMAN_NAME)),
    alternative("Identifier", Kind::Complex(&IDENTIFIER)),
    alternative("Meta", Kind::Complex(&META)),
    alternative("Money", Kind::Complex(&MONEY)),
    alternative("Period", Kind::Complex(&PERIOD)),
    alternative("Quantity", Kind::Complex(&QUANTITY)),
    alternative("Range", Kind::Complex(&RANGE)),
    alternative("Ratio", Kind::Complex(&RATIO)),
    alternative("Reference", ANY_REFERENCE),
];
