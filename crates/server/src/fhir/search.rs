//! Searching: the query is read and bounded in `core`, answered by the store, and written here as a
//! Bundle of what the caller may see.

use keyrelay_core::audit::Recorded;
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::{Filter, Rule, SearchError, SearchQuery, Summary, Total, parse_query};
use keyrelay_core::id::ResourceId;
use keyrelay_core::limits::{SEARCH_SCANS_MAX, SEARCH_VALUES_MAX};
use keyrelay_core::policy::Interaction;
use keyrelay_store::{Page, ResourceVersion, Search, Turn};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::access::{View, secrets_for, view};
use super::render::{Rendered, ShownSecrets, render};
use super::request::Reply;
use super::versions::Act;
use crate::App;
use crate::audit::Seen;
use crate::budget;
use crate::error::Outcome;

#[cfg(test)]
mod tests;

#[derive(Serialize)]
pub(crate) struct SearchBundle {
    #[serde(rename = "resourceType")]
    resource_type: &'static str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<i64>,
    link: Vec<Link>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entry: Vec<SearchEntry>,
}

#[derive(Serialize)]
pub(super) struct Link {
    pub(super) relation: &'static str,
    pub(super) url: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SearchEntry {
    full_url: String,
    search: Value,
    resource: Box<RawValue>,
}

pub(crate) async fn search(
    act: Act<'_>,
    resource_type: ResourceType,
    query_text: &str,
    extended: bool,
) -> Result<Reply, Outcome> {
    let (app, caller) = (act.app, act.caller);
    let query = read_query_of(caller, resource_type, query_text)?;
    let with_total = query.total != Total::None || query.summary == Summary::Count || query.count == 0;
    let turn = app.store.turn(caller.project).await?;
    let mut page = find(app, caller, resource_type, &query, with_total, &turn).await?;
    if query.summary == Summary::Count {
        page.matches.clear();
    }
    let mut read_bytes = page.matches.iter().map(|version| version.content.len()).sum();
    budget::take(read_bytes)?;
    let states = if resource_type == ResourceType::ClientApplication && caller.is_admin() {
        let ids: Vec<ResourceId> = page.matches.iter().map(|version| version.id).collect();
        let states = app.store.clients(&ids, Some(&turn)).await?;
        let bytes = states.values().map(|state| state.resource.content.len()).sum();
        budget::take(bytes)?;
        read_bytes += bytes;
        Some(states)
    } else {
        None
    };
    let mut entry: Vec<SearchEntry> = Vec::with_capacity(page.matches.len());
    let mut secrets = Seen::default();
    for version in &page.matches {
        // One resource at a time (rules, secrets, JSON), so that other requests get a turn in between.
        tokio::task::yield_now().await;
        let state = states.as_ref().map(|states| states.get(&version.id.into()));
        // Read again with its secrets, a client may have been changed or deleted meanwhile.
        let version = match state {
            None => version,
            Some(Some(state)) if !state.resource.deleted => &state.resource,
            Some(_) => continue,
        };
        let Ok(seen) = view(caller, Interaction::Search, version) else { continue };
        let state = state.flatten();
        let mut shown = match state {
            Some(state) => secrets_for(app, caller, state, &seen.resource)?,
            None => ShownSecrets::default(),
        };
        let next = search_entry(app, version, &seen, &query, &mut shown, extended)?;
        if let Some(state) = state {
            secrets.take_up(state, &shown, act.now);
        }
        entry.push(next);
    }
    drop((std::mem::take(&mut page.matches), states));
    budget::give_back(read_bytes);
    let url = format!("{}/{resource_type}", app.config.base_url.fhir());
    let next = page.more.then_some(query.offset + page.passed);
    let bundle = bundle(&url, query_text, &query, next, page.total, entry);
    secrets.commit(act, Recorded::Found).await?;
    Ok(Reply::ok(Rendered::assemble(&bundle)?))
}

/// Reads a query string.
pub(crate) fn read_query(resource_type: ResourceType, text: &str) -> Result<SearchQuery, Outcome> {
    let pairs =
        form_urlencoded::parse(text.as_bytes()).map(|(name, value)| (name.into_owned(), value.into_owned()));
    let query = parse_query(resource_type, pairs).map_err(|error| match error {
        SearchError::TooDeep => Outcome::search_too_costly(error.to_string()),
        _ => Outcome::invalid(error.to_string()),
    })?;
    let values = query.filters.iter().map(|filter| match &filter.rule {
        Rule::Any(tests) | Rule::None(tests) => tests.len(),
        Rule::Missing(_) => 1,
    });
    if values.sum::<usize>() > SEARCH_VALUES_MAX {
        let text = format!("A search has at most {SEARCH_VALUES_MAX} values in all: divide it");
        return Err(Outcome::search_too_costly(text));
    }
    if query.filters.iter().map(Filter::scans).sum::<usize>() > SEARCH_SCANS_MAX {
        return Err(Outcome::search_too_costly(format!(
            "A search has at most {SEARCH_SCANS_MAX} values that are matched by :contains or by a \
             system alone: use fewer, or whole values"
        )));
    }
    if matches!(query.summary, Summary::True | Summary::Text) {
        return Err(Outcome::not_supported(
            "_summary can be false, data or count; use _elements to name elements",
        ));
    }
    Ok(query)
}

/// Reads the query of a caller. A search by what is hidden from it would tell what that is.
pub(super) fn read_query_of(
    caller: &Caller,
    resource_type: ResourceType,
    text: &str,
) -> Result<SearchQuery, Outcome> {
    let query = read_query(resource_type, text)?;
    let fields = query.filters.iter().map(|filter| filter.field);
    for field in fields.chain(query.sort.iter().map(|key| key.field)) {
        if caller.hides_field(resource_type, field) {
            let code = field.code();
            let text =
                format!("You may not search by {code}: it looks at an element that is hidden from you");
            return Err(Outcome::forbidden(text));
        }
    }
    Ok(query)
}

/// Finds resources within the caller's reach and limits.
pub(crate) async fn find(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    query: &SearchQuery,
    with_total: bool,
    turn: &Turn,
) -> Result<Page, Outcome> {
    let limits = caller.search_limits(resource_type);
    let search = Search { resource_type, project: caller.reach(), query, limits: &limits };
    Ok(app.store.search(search, with_total, turn).await?)
}

fn search_entry(
    app: &App,
    version: &ResourceVersion,
    seen: &View<'_>,
    query: &SearchQuery,
    shown: &mut ShownSecrets,
    extended: bool,
) -> Result<SearchEntry, Outcome> {
    let resource = subset(seen.visible(), query, shown);
    Ok(SearchEntry {
        full_url: format!("{}/{}/{}", app.config.base_url.fhir(), version.resource_type, version.id),
        search: json!({ "mode": "match" }),
        resource: render(resource, shown, extended)?.into_part()?,
    })
}

/// Leaves out what `_elements` and `_summary` do not ask for (FHIR R4 §3.1.1.5.9).
fn subset(
    mut resource: Map<String, Value>,
    query: &SearchQuery,
    shown: &mut ShownSecrets,
) -> Map<String, Value> {
    if query.summary == Summary::Data {
        resource.shift_remove("text");
    }
    if query.elements.is_empty() {
        return resource;
    }
    let wanted = |name: &str| query.elements.iter().any(|element| element == name);
    if !wanted("secret") {
        shown.secret = None;
    }
    if !wanted("retiringSecret") {
        shown.retiring = None;
    }
    resource.retain(|name, _| matches!(name.as_str(), "resourceType" | "id" | "meta") || wanted(name));
    resource
}

/// A `searchset`, with links to this page and the next.
pub(crate) fn bundle(
    url: &str,
    query_text: &str,
    query: &SearchQuery,
    next: Option<u32>,
    total: Option<i64>,
    entry: Vec<SearchEntry>,
) -> SearchBundle {
    let page = |offset: u32| {
        let mut pairs = form_urlencoded::Serializer::new(String::new());
        for (name, value) in
            form_urlencoded::parse(query_text.as_bytes()).filter(|(name, _)| name != "_offset")
        {
            pairs.append_pair(&name, &value);
        }
        if offset > 0 {
            pairs.append_pair("_offset", &offset.to_string());
        }
        let pairs = pairs.finish();
        if pairs.is_empty() { url.to_owned() } else { format!("{url}?{pairs}") }
    };
    let mut link = vec![Link { relation: "self", url: page(query.offset) }];
    if let Some(offset) = next {
        link.push(Link { relation: "next", url: page(offset) });
    }
    SearchBundle { resource_type: "Bundle", r#type: "searchset", total, link, entry }
}

/// An entry for a resource that is written already.
pub(crate) fn plain_entry(full_url: String, resource: &impl Serialize) -> Result<SearchEntry, Outcome> {
    Ok(SearchEntry {
        full_url,
        search: json!({ "mode": "match" }),
        resource: Rendered::serialize(resource)?.into_part()?,
    })
}
