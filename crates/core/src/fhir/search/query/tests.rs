//! Tests of query reading; in a file of their own to keep the parser readable.

use proptest::prelude::*;

use super::*;

fn parse(pairs: &[(&str, &str)]) -> Result<SearchQuery, SearchError> {
    let owned = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse_query(ResourceType::ProjectMembership, owned)
}

fn fault(name: &str, value: &str) -> String {
    parse(&[(name, value)]).expect_err(name).to_string()
}

#[test]
fn defaults() {
    let query = parse(&[]).unwrap();
    assert_eq!(query, SearchQuery::default());
    assert_eq!((query.count, query.offset, query.total), (20, 0, Total::None));
}

#[test]
fn controls() {
    let query = parse(&[
        ("_count", "0"),
        ("_offset", "10000"),
        ("_total", "accurate"),
        ("_summary", "count"),
        ("_elements", "id,name"),
        ("_fields", "_lastUpdated"),
        ("_format", "application/fhir+json"),
        ("_pretty", "true"),
        ("_sort", "-_lastUpdated,user-name,_id"),
    ])
    .unwrap();
    assert_eq!((query.count, query.offset), (0, 10_000));
    assert_eq!((query.total, query.summary), (Total::Accurate, Summary::Count));
    assert_eq!(query.elements, ["id", "name", "_lastUpdated"]);
    assert!(query.pretty);
    let user_name = Field::Indexed { code: "user-name", kind: ParamKind::String };
    let sort: Vec<_> = query.sort.iter().map(|key| (key.field, key.descending)).collect();
    assert_eq!(sort, [(Field::LastUpdated, true), (user_name, false), (Field::Id, false)]);
}

#[test]
fn controls_are_bounded() {
    for (name, value) in [
        ("_count", "1001"),
        ("_count", "-1"),
        ("_count", "+1"),
        ("_count", ""),
        ("_offset", "10001"),
        ("_total", "yes"),
        ("_summary", ""),
        ("_format", "xml"),
        ("_pretty", "1"),
        ("_elements", ""),
        ("_elements", "a b"),
        ("_sort", ""),
        ("_sort", "_project"),
        ("_sort", "_id,_id,_id,_id,_id,_id,_id,_id,_id"),
    ] {
        assert!(parse(&[(name, value)]).is_err(), "{name}={value}");
    }
    assert_eq!(
        parse(&[("_count", "1"), ("_count", "2")]).unwrap_err().to_string(),
        "_count may be given only once"
    );
}

#[test]
fn unknown_parameters_name_the_nearest() {
    assert_eq!(fault("user-nmae", "x"), "unknown search parameter 'user-nmae'; did you mean 'user-name'?");
    assert_eq!(fault("_sort", "-usr"), "unknown search parameter in _sort; did you mean 'user'?");
    assert!(fault("colour", "x").contains("; known: project, user"));
    for secret in ["secret", "retiringSecret"] {
        let pairs = [(secret.to_owned(), "krs_x".to_owned())].into_iter();
        let text = parse_query(ResourceType::ClientApplication, pairs).unwrap_err().to_string();
        assert!(text.starts_with("unknown search parameter") && !text.contains("krs_x"));
    }
    assert!(parse(&[("user.name", "x")]).is_err() && parse(&[("_include", "x")]).is_err());
}

#[test]
fn modifiers_fit_their_kind() {
    assert_eq!(
        fault("user:identifier", "x"),
        "the modifier 'identifier' is not supported for user; supported: not, missing, and the types it can point to"
    );
    for (name, value) in [
        ("user-name:not", "x"),
        ("identifier:exact", "x"),
        ("_lastUpdated:not", "2024"),
        ("user:", "x"),
        ("user:Patient", "x"),
        ("user:User", "User/x"),
        ("user:missing", "yes"),
        ("user", ""),
        ("user-name", " "),
        ("_lastUpdated", "soon"),
        ("_id", ""),
        ("_id", "a,"),
        ("identifier", "a|b|c"),
        ("user-name:contains", "%\0"),
        ("_id", "a\0"),
    ] {
        assert!(parse(&[(name, value)]).is_err(), "{name}={value}");
    }
}

#[test]
fn values_are_bounded() {
    let list = |count: usize| vec!["a"; count].join(",");
    assert!(parse(&[("user", &list(VALUES_MAX))]).is_ok());
    assert!(parse(&[("user", &list(VALUES_MAX + 1))]).is_err());
    assert!(parse(&[("user-name", &"a".repeat(600))]).is_ok());
    assert!(parse(&[("user-name", &"a".repeat(601))]).is_err());
    assert!(parse(&[("_id", &"a".repeat(VALUE_CHARS_MAX + 1))]).is_err());
    let mut many = vec![("user", "a"); PARAMETERS_MAX];
    assert!(parse(&many).is_ok());
    many.push(("_offset", "20"));
    assert!(parse(&many).is_ok(), "a link to the next page leads nowhere");
    assert_eq!(parse(&vec![("user", "a"); PARAMETERS_MAX + 1]), Err(SearchError::TooManyParameters));
}

proptest! {
    #[test]
    fn no_query_panics(
        kind in 0_usize..9,
        pairs in prop::collection::vec((
            prop_oneof![
                "(_id|_lastUpdated|_sort|_count|date|user|identifier|user-name|_elements|name)(:[a-zA-Z]{0,8})?",
                any::<String>(),
            ],
            prop_oneof!["[a-z0-9|,\\\\:/TZ-]{0,20}", any::<String>()],
        ), 0..6),
    ) {
        let values: Vec<_> = pairs.iter().map(|(_, value)| value.clone()).collect();
        if let Err(fault) = parse_query(ResourceType::ALL[kind], pairs.into_iter()) {
            let text = fault.to_string();
            prop_assert!(values.iter().all(|value| value.len() < 12 || !text.contains(value)));
        }
    }
}
