//! What a rule is limited to, as a search: `criteria` of an AccessPolicy and the query of a SMART
//! scope. The same filters go into the SQL of a search and are evaluated here on one resource, so
//! that a search finds what a read shows.

use std::cell::OnceCell;

use serde_json::{Map, Value};

use crate::fhir::ResourceType;
use crate::fhir::search::{
    Filter, IndexEntry, IndexRows, Rule, SearchError, SearchQuery, index_entries, matches_rows, parse_query,
};
use crate::id::{ProjectId, ResourceId};
use crate::time::Timestamp;
use crate::weighed_cache::Weighed;

/// One version of a resource, as rules look at it.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Its type.
    pub resource_type: ResourceType,
    id: String,
    project: Option<ProjectId>,
    last_updated: Timestamp,
    /// `None` where it is deleted: then no criteria hold.
    content: Option<&'a Map<String, Value>>,
    entries: OnceCell<IndexRows>,
}

impl<'a> Subject<'a> {
    /// The version with that content; `None` for one that says the resource is deleted.
    #[must_use]
    pub fn new(
        resource_type: ResourceType,
        id: ResourceId,
        project: Option<ProjectId>,
        last_updated: Timestamp,
        content: Option<&'a Map<String, Value>>,
    ) -> Self {
        let entries = OnceCell::new();
        Self { resource_type, id: id.to_string(), project, last_updated, content, entries }
    }

    /// Its rows of the search index. Those of the project come from where the store has them, too.
    fn entries(&self, content: &Map<String, Value>) -> &IndexRows {
        self.entries.get_or_init(|| {
            let mut entries = index_entries(self.resource_type, content);
            entries.retain(|entry| !matches!(entry.code, "_project" | "_compartment"));
            if let Some(project) = self.project {
                let row =
                    |code, value, system| IndexEntry { code, value, system, at_ms: None, until_ms: None };
                let id = project.to_string();
                entries.push(row("_compartment", format!("Project/{id}"), Some(id.clone())));
                entries.push(row("_project", id, None));
            }
            IndexRows::new(entries)
        })
    }
}

/// A search that cannot limit a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCriteria {
    /// It is not of the form `Type?parameter=value` with the type of the rule.
    #[error("must have the form {expected}?parameter=value, with the resource type of its rule")]
    Form {
        /// The type of the rule.
        expected: ResourceType,
    },
    /// A variable such as `%profile`.
    #[error("has a variable such as %profile, and these are not supported; a percent sign is written %25")]
    Variable,
    /// A parameter that shapes an answer and selects nothing.
    #[error("may only have parameters that select resources, not _count, _sort and their like")]
    Control,
    /// Something that the search here does not understand.
    #[error(transparent)]
    Search(#[from] SearchError),
}

/// A search that some resources meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criteria {
    filters: Vec<Filter>,
}

impl Weighed for Criteria {
    fn heap_bytes(&self) -> usize {
        self.filters.heap_bytes()
    }
}

impl Criteria {
    /// Reads `ClientApplication?name=x`, for a rule about that type.
    pub fn parse(resource_type: ResourceType, text: &str) -> Result<Self, BadCriteria> {
        match text.split_once('?') {
            Some((name, query)) if name == resource_type.as_str() => Self::of_query(resource_type, query),
            _ => Err(BadCriteria::Form { expected: resource_type }),
        }
    }

    /// Reads what follows the `?`. All its parameters must hold.
    pub fn of_query(resource_type: ResourceType, query: &str) -> Result<Self, BadCriteria> {
        let is_escape = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
        if query.split('%').skip(1).any(|rest| !is_escape(rest)) {
            return Err(BadCriteria::Variable);
        }
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
        let query = parse_query(resource_type, pairs)?;
        let filters = query.filters.clone();
        if filters.is_empty() {
            return Err(BadCriteria::Form { expected: resource_type });
        }
        if query != (SearchQuery { filters: query.filters.clone(), ..SearchQuery::default() }) {
            return Err(BadCriteria::Control);
        }
        Ok(Self { filters })
    }

    /// The conditions; all must hold.
    #[must_use]
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// How many values it compares with, which is what it costs.
    #[must_use]
    pub fn cost(&self) -> usize {
        let values = self.filters.iter().map(|filter| match &filter.rule {
            Rule::Any(tests) | Rule::None(tests) => tests.len(),
            Rule::Missing(_) => 1,
        });
        values.sum()
    }

    /// The number of values for which a search reads every row of a parameter.
    #[must_use]
    pub fn scans(&self) -> usize {
        self.filters.iter().map(Filter::scans).sum()
    }

    /// Whether a resource meets it. One that is deleted meets none.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        subject.content.is_some_and(|content| {
            let (id, updated_ms) = (&subject.id, subject.last_updated.epoch_ms());
            matches_rows(&self.filters, subject.entries(content), id, updated_ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use ResourceType::{ClientApplication, Project};

    #[test]
    fn criteria_name_the_type_of_their_rule_and_only_what_selects() {
        assert!(Criteria::parse(ClientApplication, "ClientApplication?name=a%20b&status:not=off").is_ok());
        let form = BadCriteria::Form { expected: ClientApplication };
        for text in [
            "",
            "name=x",
            "Project?name=x",
            "ClientApplication",
            "ClientApplication?",
            "/ClientApplication?name=x",
        ] {
            assert_eq!(Criteria::parse(ClientApplication, text), Err(form.clone()), "{text}");
        }
        for text in ["name=x&_sort=name", "name=x&_count=1", "name=x&_summary=count"] {
            assert_eq!(Criteria::of_query(ClientApplication, text), Err(BadCriteria::Control), "{text}");
        }
        for text in ["_id=%profile.id", "name=100%", "name=%a", "name=%\u{e9}"] {
            assert_eq!(Criteria::of_query(ClientApplication, text), Err(BadCriteria::Variable), "{text}");
        }
        for text in ["colour=red", "name:above=x", "user.name=x", "status:exact=off", "_lastUpdated=soon"] {
            let bad = Criteria::of_query(ClientApplication, text);
            assert!(matches!(bad, Err(BadCriteria::Search(_))), "{text}: {bad:?}");
        }
    }

    #[test]
    fn the_project_is_where_the_store_says_and_the_deleted_meet_nothing() {
        let project = ProjectId::from(uuid::Uuid::from_u128(7));
        let content = json!({ "resourceType": "ClientApplication", "meta": { "project": "elsewhere" } });
        let subject = |content| {
            Subject::new(
                ClientApplication,
                ResourceId::NIL,
                Some(project),
                Timestamp::from_epoch_ms(0),
                content,
            )
        };
        let meets = |query: &str, content| {
            Criteria::of_query(ClientApplication, query).unwrap().matches(&subject(content))
        };
        let content = content.as_object();
        for query in [
            format!("_project={project}"),
            format!("_compartment=Project/{project}"),
            format!("_compartment={project}"),
        ] {
            assert!(meets(&query, content), "{query}");
            assert!(!meets(&query, None), "{query}");
        }
        assert!(!meets("_project=elsewhere", content));
        assert!(meets("name:missing=true", content) && !meets("name:missing=true", None));
        assert!(Criteria::of_query(Project, "_project:not=x").is_ok());
    }
}
