//! Searches, as SQL put together for one request. The query is parsed and typed already
//! ([`keyrelay_core::fhir::search`]); here it is only translated, every value as an argument.

use std::fmt::Write as _;

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::{Comparator, Field, Filter, ParamKind, Rule, SearchQuery, SortKey, Test};
use keyrelay_core::id::{ProjectId, ResourceId};

use crate::database::Arg;
use crate::pages::{SIZE, fitting};
use crate::{ResourceVersion, Store, StoreError, Turn};

/// Sorts behind every text that starts like the one before it.
const LAST_CHARACTER: char = '\u{10ffff}';

/// A search within what the caller may see.
#[derive(Clone, Copy, Debug)]
pub struct Search<'q> {
    /// What is searched for.
    pub resource_type: ResourceType,
    /// The only project whose resources may be found; `None` for all.
    pub project: Option<ProjectId>,
    /// The conditions.
    pub query: &'q SearchQuery,
    /// What else must be true of everything that may be found: of each list, one of the filters' sets.
    pub limits: &'q [Vec<&'q [Filter]>],
}

/// One page of matches.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The matches, in the order that was asked for.
    pub matches: Vec<ResourceVersion>,
    /// How many matches the page covers: more than its resources if some were deleted meanwhile.
    pub passed: u32,
    /// Whether there are more behind them.
    pub more: bool,
    /// How many there are in all, if that was asked.
    pub total: Option<i64>,
}

impl Store {
    /// Finds resources; deleted ones are not found.
    pub async fn search(
        &self,
        search: Search<'_>,
        with_total: bool,
        turn: &Turn,
    ) -> Result<Page, StoreError> {
        let mut page = Page::default();
        if with_total {
            let mut sql = Sql::new("SELECT COUNT(*) FROM resource r WHERE ");
            sql.conditions(&search);
            let rows = self.0.database.fetch_in_turn(turn, sql.text, sql.args).await?;
            page.total = rows.first().map(|row| row.int(0)).transpose()?;
        }
        if search.query.count == 0 {
            return Ok(page);
        }
        let mut sql = Sql::new(&format!("SELECT r.id, {SIZE} FROM resource r WHERE "));
        sql.conditions(&search);
        sql.order(&search);
        // One more than asked for tells whether there is a next page.
        let limit = sql.arg(i64::from(search.query.count) + 1);
        let offset = sql.arg(i64::from(search.query.offset));
        let _ = write!(sql.text, " LIMIT {limit} OFFSET {offset}");
        let rows = self.0.database.fetch_in_turn(turn, sql.text, sql.args).await?;
        let count = usize::try_from(search.query.count).unwrap_or(usize::MAX);
        let ids = fitting(&rows, count, |row| row.id(0, ResourceId::parse, "resource.id"))?;
        page.more = rows.len() > ids.len();
        page.passed = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        page.matches = self.current(&ids, turn).await?;
        Ok(page)
    }
}

struct Sql {
    text: String,
    args: Vec<Arg>,
    /// The rows of the index that the search may read.
    scope: String,
}

impl Sql {
    fn new(start: &str) -> Self {
        Self { text: start.to_owned(), args: Vec::new(), scope: String::new() }
    }

    /// Adds an argument and gives its placeholder.
    fn arg(&mut self, value: impl Into<Arg>) -> String {
        self.args.push(value.into());
        format!("${}", self.args.len())
    }

    fn conditions(&mut self, search: &Search<'_>) {
        let resource_type = self.arg(search.resource_type.as_str());
        let _ = write!(self.text, "r.resource_type = {resource_type} AND NOT r.deleted");
        self.scope = format!("i.resource_type = {resource_type}");
        if let Some(project) = search.project {
            let project = self.arg(project);
            let _ = write!(self.text, " AND r.project_id = {project}");
            let _ = write!(self.scope, " AND i.project_id = {project}");
        }
        for filter in &search.query.filters {
            let condition = self.filter(filter);
            let _ = write!(self.text, " AND {condition}");
        }
        for limit in search.limits {
            let one_of: Vec<String> = limit.iter().map(|all| self.all(all)).collect();
            let one_of = if one_of.is_empty() { "1 = 0".to_owned() } else { one_of.join(" OR ") };
            let _ = write!(self.text, " AND ({one_of})");
        }
    }

    fn all(&mut self, filters: &[Filter]) -> String {
        let all: Vec<String> = filters.iter().map(|filter| self.filter(filter)).collect();
        format!("({})", all.join(" AND "))
    }

    /// A value that must be present is looked up in the index, among the rows of the project. A value that must be
    /// absent, or a test whether any value is present, reads the rows of each resource.
    fn filter(&mut self, filter: &Filter) -> String {
        let Field::Indexed { code, kind } = filter.field else { return self.column_filter(filter) };
        let code = self.arg(code);
        let found =
            format!("SELECT i.resource_id FROM search_index i WHERE {} AND i.code = {code}", self.scope);
        let own = format!("SELECT 1 FROM search_index i WHERE i.resource_id = r.id AND i.code = {code}");
        match &filter.rule {
            Rule::Any(tests) => format!("r.id IN ({found} AND {})", self.any(tests, kind)),
            Rule::None(tests) => format!("NOT EXISTS ({own} AND {})", self.any(tests, kind)),
            Rule::Missing(true) => format!("NOT EXISTS ({own})"),
            Rule::Missing(false) => format!("EXISTS ({own})"),
        }
    }

    fn any(&mut self, tests: &[Test], kind: ParamKind) -> String {
        let tests: Vec<String> = tests.iter().map(|test| self.row_test(test, kind)).collect();
        if tests.is_empty() { "1 = 0".to_owned() } else { format!("({})", tests.join(" OR ")) }
    }

    /// A test of one row of the index.
    fn row_test(&mut self, test: &Test, kind: ParamKind) -> String {
        match test {
            Test::Value(value) => format!("i.value = {}", self.arg(value.as_str())),
            Test::SystemValue { system, value } => {
                let (system, value) = (self.arg(system.as_str()), self.arg(value.as_str()));
                format!("(i.value = {value} AND i.system = {system})")
            }
            Test::BareValue(value) => format!("(i.value = {} AND i.system = '')", self.arg(value.as_str())),
            // A bare id may be of any type. Spelling them out lets the index by value answer.
            Test::System(id) if kind == ParamKind::Reference => {
                let references: Vec<String> = ResourceType::ALL
                    .iter()
                    .map(|kind| self.arg(format!("{}/{id}", kind.as_str())))
                    .collect();
                format!("i.value IN ({})", references.join(", "))
            }
            Test::System(system) => format!("i.system = {}", self.arg(system.as_str())),
            Test::StartsWith(start) => {
                let end = format!("{start}{LAST_CHARACTER}");
                let (start, end) = (self.arg(start.as_str()), self.arg(end));
                format!("(i.value >= {start} AND i.value < {end})")
            }
            Test::Contains(part) => {
                let escaped = part.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
                format!("i.value LIKE {} ESCAPE '\\'", self.arg(format!("%{escaped}%")))
            }
            Test::Date { comparator, low_ms, high_ms } => {
                self.date_test("i.low", "i.high", *comparator, *low_ms, *high_ms)
            }
        }
    }

    /// Compares the span `[row_low, row_high)` with the span asked for.
    fn date_test(
        &mut self,
        row_low: &str,
        row_high: &str,
        comparator: Comparator,
        low_ms: i64,
        high_ms: i64,
    ) -> String {
        // Only the bound that is compared: PostgreSQL refuses an argument that nothing uses.
        let contained = |sql: &mut Self| {
            let (low, high) = (sql.arg(low_ms), sql.arg(high_ms));
            format!("({low} <= {row_low} AND {row_high} <= {high})")
        };
        match comparator {
            Comparator::Eq => contained(self),
            Comparator::Ne => format!("NOT {}", contained(self)),
            Comparator::Gt => format!("{row_high} > {}", self.arg(high_ms)),
            Comparator::Lt => format!("{row_low} < {}", self.arg(low_ms)),
            Comparator::Ge => format!("({row_high} > {} OR {})", self.arg(high_ms), contained(self)),
            Comparator::Le => format!("({row_low} < {} OR {})", self.arg(low_ms), contained(self)),
            Comparator::Sa => format!("{row_low} >= {}", self.arg(high_ms)),
            Comparator::Eb => format!("{row_high} <= {}", self.arg(low_ms)),
        }
    }

    /// A filter that a column of the resource itself answers.
    fn column_filter(&mut self, filter: &Filter) -> String {
        let tests = match &filter.rule {
            Rule::Any(tests) | Rule::None(tests) => tests,
            // These columns are never missing.
            Rule::Missing(missing) => return if *missing { "1 = 0".to_owned() } else { "1 = 1".to_owned() },
        };
        let tests: Vec<String> = tests.iter().map(|test| self.column_test(filter.field, test)).collect();
        let any = if tests.is_empty() { "1 = 0".to_owned() } else { format!("({})", tests.join(" OR ")) };
        if matches!(filter.rule, Rule::None(_)) { format!("NOT {any}") } else { any }
    }

    fn column_test(&mut self, field: Field, test: &Test) -> String {
        match (field, test) {
            (Field::Id, Test::Value(id)) => format!("r.id = {}", self.arg(id.as_str())),
            (Field::Project, Test::Value(id)) | (Field::Compartment, Test::System(id)) => {
                format!("r.project_id = {}", self.arg(id.as_str()))
            }
            (Field::Compartment, Test::Value(reference)) => {
                let id = reference.strip_prefix("Project/").unwrap_or_default();
                format!("r.project_id = {}", self.arg(id))
            }
            (Field::LastUpdated, Test::Date { comparator, low_ms, high_ms }) => {
                self.date_test("r.last_updated", "(r.last_updated + 1)", *comparator, *low_ms, *high_ms)
            }
            _ => "1 = 0".to_owned(),
        }
    }

    /// The order asked for, then the newest first; the id makes it total, so that pages do not overlap.
    fn order(&mut self, search: &Search<'_>) {
        self.text.push_str(" ORDER BY ");
        for SortKey { field, descending } in &search.query.sort {
            let key = match field {
                Field::Id => "r.id".to_owned(),
                Field::Indexed { code, kind } => {
                    let column = if *kind == ParamKind::Date { "low" } else { "value" };
                    let code = self.arg(*code);
                    format!(
                        "(SELECT MIN(s.{column}) FROM search_index s WHERE s.resource_id = r.id AND s.code = {code})"
                    )
                }
                _ => "r.last_updated".to_owned(),
            };
            // Where the two databases put what is missing by themselves is not the same.
            let _ = write!(
                self.text,
                "{key} {}, ",
                if *descending { "DESC NULLS LAST" } else { "ASC NULLS FIRST" }
            );
        }
        self.text.push_str("r.last_updated DESC, r.id");
    }
}

#[cfg(test)]
mod tests {
    use keyrelay_core::fhir::search::parse_query;
    use keyrelay_core::random::SeededEntropy;

    use super::*;
    use crate::{Change, TestDatabase, sqlite};

    const SEARCHES: [&str; 13] = [
        "user-name:contains=e",
        "user-name=e",
        "user-name:exact=e&_sort=user-name",
        "user=ClientApplication/a",
        "user=a",
        "active=true&admin:not=true",
        "identifier=system|",
        "identifier=system|value",
        "external-id:missing=true",
        "external-id:missing=false&_sort=-_lastUpdated",
        "_lastUpdated=gt2024",
        "_tag=a,b,c&_offset=10000",
        "_id:not=a",
    ];

    /// A search of a project, after a prefix that explains it.
    fn explained(explain: &str, project: ProjectId, text: &str) -> Sql {
        let resource_type = ResourceType::ProjectMembership;
        let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let query = parse_query(resource_type, text.split('&').filter_map(pair)).unwrap();
        let limit = vec![&query.filters[..]];
        let search = Search { resource_type, project: Some(project), query: &query, limits: &[limit] };
        let mut sql = Sql::new(&format!("{explain} SELECT r.id FROM resource r WHERE "));
        sql.conditions(&search);
        sql.order(&search);
        sql
    }

    /// Whatever is asked, no row of another project is looked at.
    #[test]
    fn a_search_of_a_project_starts_from_the_project() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plans.sqlite");
        sqlite::prepare(&path).unwrap();
        let connection = rusqlite::Connection::open(&path).unwrap();
        let project = ProjectId::random(&SeededEntropy::new(1));
        for text in SEARCHES {
            let sql = explained("EXPLAIN QUERY PLAN", project, text);
            let plan = sqlite::fetch_once(&connection, &sql.text, &sql.args).unwrap();
            let steps: Vec<String> = plan.iter().map(|row| row.text(3).unwrap()).collect();
            let looks_at = |step: &&String| step.starts_with("SCAN") || step.starts_with("SEARCH");
            for step in steps.iter().filter(looks_at) {
                let is_bounded = step.contains("project_id=?")
                    || step.contains("(id=?")
                    || step.contains("(resource_id=?");
                assert!(is_bounded, "{text}: {steps:#?}");
            }
        }
    }

    /// On PostgreSQL, no search of a project reads a whole table, which is that of all projects.
    #[tokio::test]
    async fn no_search_of_a_project_reads_a_whole_table_of_postgresql() {
        let dir = tempfile::tempdir().unwrap();
        let store = TestDatabase::new(dir.path()).await.open().await.unwrap();
        if !store.is_shared() {
            return;
        }
        let project = ProjectId::random(&SeededEntropy::new(1));
        let mut change = Change::new();
        let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)";
        for insert in [
            "INSERT INTO resource (id, resource_type, project_id, version_id, revision, last_updated, deleted, content) \
             SELECT 'r' || i, $1, 'p' || (i % 100), 'v', 1, i, FALSE, '' FROM n",
            "INSERT INTO search_index (resource_id, code, value, system, resource_type, project_id) \
             SELECT 'r' || i, 'external-id', 'a', '', $1, 'p' || (i % 100) FROM n",
        ] {
            let resource_type = ResourceType::ProjectMembership.as_str();
            change.push_text(format!("{numbers} {insert}"), vec![resource_type.into()]);
        }
        change.push("ANALYZE resource", Vec::new(), None);
        change.push("ANALYZE search_index", Vec::new(), None);
        store.commit(change).await.unwrap();
        let turn = store.turn(project).await.unwrap();
        for text in SEARCHES {
            let sql = explained("EXPLAIN (COSTS OFF)", project, text);
            let plan = store.0.database.fetch_in_turn(&turn, sql.text, sql.args).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|row| row.text(0).unwrap()).collect();
            assert!(!steps.iter().any(|step| step.contains("Seq Scan")), "{text}: {steps:#?}");
        }
    }
}
