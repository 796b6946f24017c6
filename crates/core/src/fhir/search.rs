//! The pure part of FHIR search (R4 §3.1.1): which parameters exist, what a resource puts into the
//! index, and what a query asks of it.
//!
//! Everything meets in one generic table, `(resource_type, resource_id, code, system, value, low,
//! high)`: [`IndexEntry`] is one row, [`Test`] one condition on one row. The SQL builder and
//! [`matches()`] therefore only translate; neither parses. No parameter reads a secret.

mod index;
mod matching;
mod params;
mod query;
mod value;

pub use index::{IndexEntry, index_entries};
pub use matching::{IndexRows, matches, matches_rows};
pub use params::parameters;
pub use query::{
    COUNT_DEFAULT, COUNT_MAX, Field, Filter, OFFSET_MAX, PARAMETERS_MAX, Rule, SORT_KEYS_MAX, SearchError,
    SearchQuery, SortKey, Summary, Total, parse_query,
};
pub use value::{Comparator, INDEXED_CHARS_MAX, Test, VALUE_CHARS_MAX, VALUES_MAX};

/// How a parameter compares (R4 §3.1.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// A code or identifier, optionally with its system; compared exactly.
    Token,
    /// Free text; matches from its start, whatever the case.
    String,
    /// A reference to another resource.
    Reference,
    /// A moment or a span of time.
    Date,
    /// A URI; compared exactly.
    Uri,
}

impl ParamKind {
    /// The FHIR code (`search-param-type`).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::String => "string",
            Self::Reference => "reference",
            Self::Date => "date",
            Self::Uri => "uri",
        }
    }
}

/// What is taken from the elements that a parameter's paths lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extract {
    /// The value itself.
    Whole,
    /// The type a reference points to, as a token.
    ReferenceType,
    /// References to one of the parameter's targets; others are passed over.
    TargetsOnly,
}

/// One search parameter of one resource type, answered from the index table.
#[derive(Debug, PartialEq, Eq)]
pub struct SearchParam {
    /// The name in a query.
    pub code: &'static str,
    /// How it compares.
    pub kind: ParamKind,
    /// Element paths below the resource, such as `agent.network.address`.
    pub paths: &'static [&'static str],
    /// What is taken from there.
    pub extract: Extract,
    /// For references: the types pointed to; empty means any.
    pub targets: &'static [&'static str],
}
