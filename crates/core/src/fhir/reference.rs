//! Literal references (R4 §2.3.0.1): the `Type/id` inside relative and absolute forms. Shared by
//! the schema, which checks target types, and search, which compares `Type/id`.

use super::schema::is_id;

const TYPE_NAME_BYTES_MAX: usize = 64;

/// Whether `text` looks like the name of a resource type: a capital, then letters.
pub(super) fn is_type_name(text: &str) -> bool {
    text.len() <= TYPE_NAME_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// Type and id of `Type/id` or of an absolute http(s) URL that ends so; a trailing
/// `/_history/version` is ignored.
pub(super) fn type_and_id(text: &str) -> Option<(&str, &str)> {
    let unversioned = text.rsplit_once("/_history/").map_or(text, |(resource, _)| resource);
    let (before, id) = unversioned.rsplit_once('/')?;
    let (service, type_name) = match before.rsplit_once('/') {
        Some((service, type_name)) => (Some(service), type_name),
        None => (None, before),
    };
    let is_here_or_http =
        service.is_none_or(|base| base.starts_with("https://") || base.starts_with("http://"));
    (is_here_or_http && is_type_name(type_name) && is_id(id)).then_some((type_name, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(type_and_id("Project/1"), Some(("Project", "1")));
        assert_eq!(type_and_id("https://example.com/fhir/R4/Project/1/_history/2"), Some(("Project", "1")));
        for text in
            ["", "/", "Project", "project/1", "Project/", "x/Project/1", "Project/a b", "urn:uuid:x/1"]
        {
            assert_eq!(type_and_id(text), None, "{text}");
        }
    }
}
