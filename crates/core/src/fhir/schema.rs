//! What a resource may contain: static tables of elements and the check against them.
//!
//! The tables hold facts of FHIR R4 and of Medplum's own resource types: names, cardinalities,
//! types, required codes. They are data, so that the validator, the search parameters and the
//! published `StructureDefinitions` cannot disagree. `schema/` holds one table file per resource.

mod access_policy;
mod audit_event;
mod client_application;
mod codes;
mod datatypes;
mod lifetime;
mod membership;
mod practitioner;
mod primitive;
mod project;
mod resource_type;
mod user;
mod validate;

pub(super) use audit_event::{AGENT_TARGETS, OBSERVER_TARGETS};
pub(super) use membership::{PROFILE_TARGETS, USER_TARGETS};
pub(super) use primitive::is_id;

pub use lifetime::{LIFETIME_MAX, LIFETIME_MIN, parse_lifetime};
pub use primitive::{Primitive, STRING_BYTES_MAX};
pub use resource_type::{ResourceType, UnknownResourceType};
pub use validate::{ISSUES_MAX, Issue, IssueCode, LIST_ITEMS_MAX, validate};

/// How often an element may occur at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Max {
    /// At most once; a plain JSON value.
    One,
    /// Any number of times; a JSON array.
    Many,
}

impl Max {
    /// As in `ElementDefinition.max`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Many => "*",
        }
    }
}

/// What an element holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A primitive with its own text format.
    Primitive(Primitive),
    /// A `code` out of a closed list (a required binding).
    Enum(&'static CodeList),
    /// A `string` that [`parse_lifetime`] understands.
    Lifetime,
    /// A named datatype.
    Complex(&'static DataType),
    /// Elements defined inside the resource itself (`BackboneElement`).
    Backbone(&'static [Element]),
    /// A `Reference` to one of these types; an empty list means any type.
    Reference(&'static [&'static str]),
    /// `value[x]`: exactly one of several types, each under its own name.
    Choice(&'static [Alternative]),
    /// Contained resources. Always refused: secrets inside them would escape sealing.
    Contained,
}

/// A closed list of codes.
#[derive(Debug)]
pub struct CodeList {
    /// Canonical url of the value set.
    pub value_set: &'static str,
    /// The codes in it.
    pub codes: &'static [&'static str],
}

/// One type of a `value[x]` element.
#[derive(Debug, Clone, Copy)]
pub struct Alternative {
    /// What follows the stem in the JSON name, such as `String` in `valueString`.
    pub suffix: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// One element of a resource or datatype.
#[derive(Debug, Clone, Copy)]
pub struct Element {
    /// The JSON name; for [`Kind::Choice`] the stem without `[x]`.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it must be present (`min` is 1; no element of these types needs more).
    pub required: bool,
    /// How often it may occur.
    pub max: Max,
}

/// A datatype that several resources share.
#[derive(Debug)]
pub struct DataType {
    /// The FHIR name.
    pub name: &'static str,
    /// The elements besides `id` and `extension`, which every datatype has.
    pub elements: &'static [Element],
}

/// The definition of one resource type.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// The resource type.
    pub resource_type: ResourceType,
    /// Canonical url of the `StructureDefinition`.
    pub url: &'static str,
    /// The elements besides [`RESOURCE_BASE`].
    pub elements: &'static [Element],
}

impl Element {
    const fn new(name: &'static str, kind: Kind, required: bool, max: Max) -> Self {
        Self { name, kind, required, max }
    }

    /// `0..1`
    const fn optional(name: &'static str, kind: Kind) -> Self {
        Self::new(name, kind, false, Max::One)
    }

    /// `1..1`
    const fn required(name: &'static str, kind: Kind) -> Self {
        Self::new(name, kind, true, Max::One)
    }

    /// `0..*`
    const fn many(name: &'static str, kind: Kind) -> Self {
        Self::new(name, kind, false, Max::Many)
    }

    /// `1..*`
    const fn some(name: &'static str, kind: Kind) -> Self {
        Self::new(name, kind, true, Max::Many)
    }
}

impl Kind {
    /// The FHIR type name (`string` for lifetimes, `code` for enums); empty for a choice, whose
    /// alternatives each have their own.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Primitive(primitive) => primitive.as_str(),
            Self::Enum(_) => "code",
            Self::Lifetime => "string",
            Self::Complex(datatype) => datatype.name,
            Self::Backbone(_) => "BackboneElement",
            Self::Reference(_) => "Reference",
            Self::Choice(_) => "",
            Self::Contained => "Resource",
        }
    }
}

const BASE64: Kind = Kind::Primitive(Primitive::Base64Binary);
const BOOLEAN: Kind = Kind::Primitive(Primitive::Boolean);
const CANONICAL: Kind = Kind::Primitive(Primitive::Canonical);
const CODE: Kind = Kind::Primitive(Primitive::Code);
const DATE: Kind = Kind::Primitive(Primitive::Date);
const DATE_TIME: Kind = Kind::Primitive(Primitive::DateTime);
const DECIMAL: Kind = Kind::Primitive(Primitive::Decimal);
const ID: Kind = Kind::Primitive(Primitive::Id);
const INSTANT: Kind = Kind::Primitive(Primitive::Instant);
const INTEGER: Kind = Kind::Primitive(Primitive::Integer);
const MARKDOWN: Kind = Kind::Primitive(Primitive::Markdown);
const POSITIVE_INT: Kind = Kind::Primitive(Primitive::PositiveInt);
const STRING: Kind = Kind::Primitive(Primitive::String);
const UNSIGNED_INT: Kind = Kind::Primitive(Primitive::UnsignedInt);
const URI: Kind = Kind::Primitive(Primitive::Uri);
const URL: Kind = Kind::Primitive(Primitive::Url);
const ANY_REFERENCE: Kind = Kind::Reference(&[]);

/// What every datatype has (`Element`, R4 §2.24.1).
pub static DATATYPE_BASE: &[Element] =
    &[Element::optional("id", STRING), Element::many("extension", Kind::Complex(&datatypes::EXTENSION))];

/// What every element defined inside a resource has (`BackboneElement`).
pub static BACKBONE_BASE: &[Element] = &[
    Element::optional("id", STRING),
    Element::many("extension", Kind::Complex(&datatypes::EXTENSION)),
    Element::many("modifierExtension", Kind::Complex(&datatypes::EXTENSION)),
];

/// What every resource has (`DomainResource`), besides `resourceType`.
pub static RESOURCE_BASE: &[Element] = &[
    Element::optional("id", ID),
    Element::optional("meta", Kind::Complex(&datatypes::META)),
    Element::optional("implicitRules", URI),
    Element::optional("language", CODE),
    Element::optional("text", Kind::Complex(&datatypes::NARRATIVE)),
    Element::many("contained", Kind::Contained),
    Element::many("extension", Kind::Complex(&datatypes::EXTENSION)),
    Element::many("modifierExtension", Kind::Complex(&datatypes::EXTENSION)),
];

/// The definitions of all stored types.
pub static DEFINITIONS: [Definition; 7] = [
    Definition {
        resource_type: ResourceType::Project,
        url: "https://medplum.com/fhir/StructureDefinition/Project",
        elements: project::ELEMENTS,
    },
    Definition {
        resource_type: ResourceType::ClientApplication,
        url: "https://medplum.com/fhir/StructureDefinition/ClientApplication",
        elements: client_application::ELEMENTS,
    },
    Definition {
        resource_type: ResourceType::ProjectMembership,
        url: "https://medplum.com/fhir/StructureDefinition/ProjectMembership",
        elements: membership::ELEMENTS,
    },
    Definition {
        resource_type: ResourceType::AccessPolicy,
        url: "https://medplum.com/fhir/StructureDefinition/AccessPolicy",
        elements: access_policy::ELEMENTS,
    },
    Definition {
        resource_type: ResourceType::User,
        url: "https://medplum.com/fhir/StructureDefinition/User",
        elements: user::ELEMENTS,
    },
    Definition {
        resource_type: ResourceType::Practitioner,
        url: "http://hl7.org/fhir/StructureDefinition/Practitioner",
        elements: practitioner::ELEMENTS,
    },
    Definition {
        resource_type: ResourceType::AuditEvent,
        url: "http://hl7.org/fhir/StructureDefinition/AuditEvent",
        elements: audit_event::ELEMENTS,
    },
];

/// The definition of a stored type; `None` for the conformance types, which are never written.
#[must_use]
pub fn definition(resource_type: ResourceType) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.resource_type == resource_type)
}
