//! From the pairs of a query string to a typed [`SearchQuery`]. Strict, as the peer is: a
//! parameter that is not understood is an error and never ignored, because ignoring a filter
//! answers with too much. Error texts name parameters and never repeat values.

use thiserror::Error;

use super::super::nearest::{nearest, shown};
use super::super::schema::{IssueCode, ResourceType, is_id};
use super::params::parameters;
use super::value::{self, StringMode, Test, VALUE_CHARS_MAX, VALUES_MAX};
use super::{ParamKind, SearchParam};
use crate::weighed_cache::Weighed;

/// How many filters one query may have. What shapes the result comes on top, each once: a link to the next
/// page adds a parameter, and must not become one too many.
pub const PARAMETERS_MAX: usize = 64;

/// Results on a page when `_count` is not given.
pub const COUNT_DEFAULT: u32 = 20;

/// The largest `_count`.
pub const COUNT_MAX: u32 = 1000;

/// The largest `_offset`. A page may link to a larger one, which is refused with an advice.
pub const OFFSET_MAX: u32 = 10_000;

/// How many sort keys `_sort` may list.
pub const SORT_KEYS_MAX: usize = 8;

/// How many names `_elements` and `_fields` may list together.
const ELEMENTS_MAX: usize = 100;

/// What a query is about; each is a column or the index rows of one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `_id`: the resource's id. Its tests are [`Test::Value`].
    Id,
    /// `_lastUpdated`: when the current version was written. Its tests are [`Test::Date`].
    LastUpdated,
    /// `_project`: the id of the project it belongs to. Its tests are [`Test::Value`].
    Project,
    /// `_compartment`: what it belongs to. Its tests are those of a reference.
    Compartment,
    /// A parameter answered from the index table.
    Indexed {
        /// The parameter.
        code: &'static str,
        /// How it compares; dates sort by `low`, everything else by `value`.
        kind: ParamKind,
    },
}

/// When a filter holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Some row meets some test.
    Any(Vec<Test>),
    /// No row meets any test (`:not`); so also a resource without the element.
    None(Vec<Test>),
    /// There is no row (true) or there is one (false).
    Missing(bool),
}

/// One parameter of a query. All filters of a query must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// What is looked at.
    pub field: Field,
    /// What must be true of it.
    pub rule: Rule,
}

impl Weighed for Filter {
    fn heap_bytes(&self) -> usize {
        match &self.rule {
            Rule::Any(tests) | Rule::None(tests) => tests.heap_bytes(),
            Rule::Missing(_) => 0,
        }
    }
}

/// One key of `_sort`. Never [`Field::Project`] or [`Field::Compartment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortKey {
    /// What is sorted by.
    pub field: Field,
    /// Largest first.
    pub descending: bool,
}

/// `_total`: whether the Bundle says how many matches there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Total {
    /// No total.
    #[default]
    None,
    /// An estimate is enough.
    Estimate,
    /// The exact number.
    Accurate,
}

/// `_summary`: how much of each resource is returned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Summary {
    /// Everything.
    #[default]
    False,
    /// Only the elements marked as summary.
    True,
    /// Only text, id, meta and required elements.
    Text,
    /// Everything but the text.
    Data,
    /// No resources, only the total.
    Count,
}

/// A query that needs no more parsing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchQuery {
    /// All of these must hold.
    pub filters: Vec<Filter>,
    /// In order of weight; empty when the query leaves the order to the server.
    pub sort: Vec<SortKey>,
    /// Results on a page, 0 to [`COUNT_MAX`].
    pub count: u32,
    /// Results to pass over, 0 to [`OFFSET_MAX`].
    pub offset: u32,
    /// Whether a total is wanted.
    pub total: Total,
    /// How much of each resource is wanted.
    pub summary: Summary,
    /// Names of the elements wanted (`_elements`, `_fields`); empty means all. Shape checked,
    /// existence not: the peer's console sends column names here.
    pub elements: Vec<String>,
    /// Whether the JSON should be indented.
    pub pretty: bool,
}

/// Why a query was refused; Display is for the client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SearchError {
    /// Over [`PARAMETERS_MAX`].
    #[error("at most {PARAMETERS_MAX} search parameters are allowed")]
    TooManyParameters,
    /// Not a parameter of this type.
    #[error("unknown search parameter {name}{hint}")]
    Unknown {
        /// As given, quoted and bounded.
        name: String,
        /// The nearest known one, or all of them.
        hint: String,
    },
    /// The parameter exists, the modifier does not fit it.
    #[error("the modifier {modifier} is not supported for {code}; supported: {supported}")]
    Modifier {
        /// The parameter.
        code: &'static str,
        /// As given, quoted and bounded.
        modifier: String,
        /// What is supported instead.
        supported: &'static str,
    },
    /// A value that cannot be read.
    #[error("{code} expects {expected}")]
    Value {
        /// The parameter.
        code: &'static str,
        /// What it takes.
        expected: String,
    },
    /// Above [`OFFSET_MAX`]: the database must find all skipped matches too.
    #[error("_offset is at most {OFFSET_MAX}: narrow the search by a filter, for example by _lastUpdated")]
    TooDeep,
    /// A result parameter such as `_count` given twice.
    #[error("{code} may be given only once")]
    Repeated {
        /// The parameter.
        code: &'static str,
    },
}

impl SearchError {
    /// The FHIR issue type of every refused query.
    #[must_use]
    pub const fn issue_code(&self) -> IssueCode {
        IssueCode::Invalid
    }
}

impl Filter {
    /// The number of values that no index finds: for each of them, every row of the parameter is read.
    #[must_use]
    pub fn scans(&self) -> usize {
        let Field::Indexed { kind, .. } = self.field else { return 0 };
        let (Rule::Any(tests) | Rule::None(tests)) = &self.rule else { return 0 };
        let is_scan = |test: &&Test| match test {
            Test::Contains(_) => true,
            // The system of a token; of a reference it is the id, which is looked up.
            Test::System(_) => kind != ParamKind::Reference,
            _ => false,
        };
        tests.iter().filter(is_scan).count()
    }
}

impl Default for SearchQuery {
    fn default() -> Self {
        Self {
            filters: Vec::new(),
            sort: Vec::new(),
            count: COUNT_DEFAULT,
            offset: 0,
            total: Total::default(),
            summary: Summary::default(),
            elements: Vec::new(),
            pretty: false,
        }
    }
}

/// Reads the decoded name and value pairs of a query string or a `_search` body.
///
/// # Errors
///
/// [`SearchError`] for anything that is not understood or exceeds a bound; nothing is ignored.
pub fn parse_query(
    resource_type: ResourceType,
    pairs: impl Iterator<Item = (String, String)>,
) -> Result<SearchQuery, SearchError> {
    let mut query = SearchQuery::default();
    let (mut seen, mut given) = (Vec::new(), 0);
    for (name, value) in pairs {
        if let Some(code) = CONTROLS.iter().find(|code| **code == name) {
            if seen.contains(code) {
                return Err(SearchError::Repeated { code });
            }
            seen.push(code);
            control(&mut query, resource_type, code, &value)?;
        } else {
            if given == PARAMETERS_MAX {
                return Err(SearchError::TooManyParameters);
            }
            given += 1;
            let filter = filter(resource_type, &name, &value)?;
            // All filters must match, so a repeated one changes nothing.
            if !query.filters.contains(&filter) {
                query.filters.push(filter);
            }
        }
    }
    Ok(query)
}

/// Parameters that shape the result instead of filtering it.
const CONTROLS: [&str; 9] =
    ["_count", "_elements", "_fields", "_format", "_offset", "_pretty", "_sort", "_summary", "_total"];

const SPECIAL: [Field; 4] = [Field::Id, Field::LastUpdated, Field::Project, Field::Compartment];

fn control(
    query: &mut SearchQuery,
    resource_type: ResourceType,
    code: &'static str,
    value: &str,
) -> Result<(), SearchError> {
    let expects = |expected: &str| SearchError::Value { code, expected: expected.to_owned() };
    match code {
        "_count" => query.count = number(value, COUNT_MAX).ok_or(expects("0 to 1000"))?,
        "_offset" => {
            let offset = number(value, u32::MAX).ok_or(expects("0 to 10000"))?;
            query.offset = Some(offset).filter(|offset| *offset <= OFFSET_MAX).ok_or(SearchError::TooDeep)?;
        }
        "_total" => {
            query.total = match value {
                "none" => Total::None,
                "estimate" => Total::Estimate,
                "accurate" => Total::Accurate,
                _ => return Err(expects("none, estimate or accurate")),
            }
        }
        "_summary" => {
            query.summary = match value {
                "false" => Summary::False,
                "true" => Summary::True,
                "text" => Summary::Text,
                "data" => Summary::Data,
                "count" => Summary::Count,
                _ => return Err(expects("true, false, text, data or count")),
            }
        }
        "_pretty" => query.pretty = boolean(value).ok_or(expects("true or false"))?,
        // In a query string a '+' that was not percent-encoded arrives as a space.
        "_format" => match value {
            "json" | "application/json" | "application/fhir+json" | "application/fhir json" => {}
            _ => return Err(expects("json; there is no other format")),
        },
        "_sort" => query.sort = sort_keys(resource_type, value)?,
        _ => {
            let names = value.split(',').map(str::to_owned);
            query.elements.extend(names.take(ELEMENTS_MAX + 1));
            let is_name = |name: &String| {
                (1..=64).contains(&name.len())
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
            };
            if query.elements.len() > ELEMENTS_MAX || !query.elements.iter().all(is_name) {
                return Err(expects("at most 100 element names, separated by commas"));
            }
        }
    }
    Ok(())
}

fn number(text: &str, max: u32) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| *number <= max);
    number.filter(|_| is_plain)
}

fn boolean(text: &str) -> Option<bool> {
    text.parse().ok()
}

fn sort_keys(resource_type: ResourceType, value: &str) -> Result<Vec<SortKey>, SearchError> {
    let keys: Vec<&str> = value.split(',').take(SORT_KEYS_MAX + 1).collect();
    if keys.len() > SORT_KEYS_MAX {
        return Err(SearchError::Value {
            code: "_sort",
            expected: format!("at most {SORT_KEYS_MAX} parameters"),
        });
    }
    keys.into_iter()
        .map(|key| {
            let (code, descending) = match key.strip_prefix('-') {
                Some(code) => (code, true),
                None => (key, false),
            };
            match sort_field(resource_type, code)? {
                Field::Project | Field::Compartment => Err(SearchError::Value {
                    code: "_sort",
                    expected: "_id, _lastUpdated or an indexed parameter".to_owned(),
                }),
                field => Ok(SortKey { field, descending }),
            }
        })
        .collect()
}

/// Like [`field`], but a sort key stands in a value, which error texts do not repeat.
fn sort_field(resource_type: ResourceType, code: &str) -> Result<Field, SearchError> {
    match field(resource_type, code) {
        Ok((field, _)) => Ok(field),
        Err(SearchError::Unknown { hint, .. }) => {
            Err(SearchError::Unknown { name: "in _sort".to_owned(), hint })
        }
        Err(other) => Err(other),
    }
}

/// The field a name stands for, with the types a reference may point to.
fn field(resource_type: ResourceType, code: &str) -> Result<(Field, &'static [&'static str]), SearchError> {
    let special = SPECIAL.into_iter().find(|field| field.code() == code);
    let of_param = |param: &'static SearchParam| {
        let (code, kind) = (param.code, param.kind);
        (Field::Indexed { code, kind }, param.targets)
    };
    let indexed = || parameters(resource_type).find(|param| param.code == code);
    special
        .map(|field| (field, NO_TARGETS))
        .or_else(|| indexed().map(of_param))
        .ok_or_else(|| unknown(resource_type, code))
}

const NO_TARGETS: &[&str] = &[];

fn unknown(resource_type: ResourceType, code: &str) -> SearchError {
    let known = || {
        let own = parameters(resource_type).map(|param| param.code);
        own.chain(SPECIAL.map(Field::code)).chain(CONTROLS)
    };
    let hint = match nearest(code, known()) {
        Some(name) => format!("; did you mean '{name}'?"),
        None => format!("; known: {}", known().collect::<Vec<_>>().join(", ")),
    };
    SearchError::Unknown { name: shown(code), hint }
}

fn filter(resource_type: ResourceType, name: &str, value: &str) -> Result<Filter, SearchError> {
    let (code, modifier) = match name.split_once(':') {
        Some((code, modifier)) => (code, Some(modifier)),
        None => (name, None),
    };
    let (field, targets) = field(resource_type, code)?;
    let rule = match modifier {
        Some("missing") => {
            let is_missing = boolean(value).ok_or_else(|| expects(field, "true or false"))?;
            Rule::Missing(is_missing)
        }
        None => Rule::Any(tests(field, StringMode::Start, value)?),
        Some(modifier) => match (field.kind(), modifier) {
            (ParamKind::String, "exact") => Rule::Any(tests(field, StringMode::Exact, value)?),
            (ParamKind::String, "contains") => Rule::Any(tests(field, StringMode::Contains, value)?),
            (ParamKind::Token | ParamKind::Reference | ParamKind::Uri, "not") => {
                Rule::None(tests(field, StringMode::Start, value)?)
            }
            (ParamKind::Reference, type_name) if targets.contains(&type_name) => {
                Rule::Any(typed(field, type_name, value)?)
            }
            (kind, _) => {
                return Err(SearchError::Modifier {
                    code: field.code(),
                    modifier: shown(modifier),
                    supported: modifiers(kind),
                });
            }
        },
    };
    Ok(Filter { field, rule })
}

const fn modifiers(kind: ParamKind) -> &'static str {
    match kind {
        ParamKind::String => "exact, contains, missing",
        ParamKind::Token | ParamKind::Uri => "not, missing",
        ParamKind::Reference => "not, missing, and the types it can point to",
        ParamKind::Date => "missing",
    }
}

fn expects(field: Field, expected: &str) -> SearchError {
    SearchError::Value { code: field.code(), expected: expected.to_owned() }
}

/// The comma-separated values of one parameter.
fn tests(field: Field, mode: StringMode, value: &str) -> Result<Vec<Test>, SearchError> {
    if value.chars().count() > VALUE_CHARS_MAX {
        return Err(expects(field, "at most 4000 characters"));
    }
    // Databases end a pattern there, or refuse it.
    if value.contains('\0') {
        return Err(expects(field, "a text without the character U+0000"));
    }
    let (mut tests, mut given) = (Vec::new(), 0);
    for raw in value::split(value, ',') {
        if given == VALUES_MAX {
            return Err(expects(field, "at most 100 values"));
        }
        given += 1;
        let test = match field {
            Field::Id | Field::Project if raw.is_empty() => Err("a value that is not empty"),
            // Ids have no system: the whole text is the id.
            Field::Id => Ok(Test::Value(value::unescape(raw))),
            Field::Project => Ok(Test::Value(value::project_id(&value::unescape(raw)).to_owned())),
            _ => value::read(field.kind(), mode, raw),
        };
        let test = test.map_err(|expected| expects(field, expected))?;
        if !tests.contains(&test) {
            tests.push(test);
        }
    }
    Ok(tests)
}

/// `user:ClientApplication=id` is `user=ClientApplication/id`.
fn typed(field: Field, type_name: &str, value: &str) -> Result<Vec<Test>, SearchError> {
    let mut tests = tests(field, StringMode::Start, value)?;
    for test in &mut tests {
        *test = match test {
            Test::System(id) if is_id(id) => Test::Value(format!("{type_name}/{id}")),
            _ => return Err(expects(field, "an id without a type after this modifier")),
        };
    }
    Ok(tests)
}

#[cfg(test)]
mod tests;
