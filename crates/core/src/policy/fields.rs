//! Elements that a rule hides or keeps from being changed: what is left of a resource without them,
//! and how what is stored of them comes back into a body that must not change them.

use serde_json::{Map, Value};

use crate::fhir::ResourceType;
use crate::fhir::schema::{DATATYPE_BASE, DEFINITIONS, Element, Kind, Max, RESOURCE_BASE};
use crate::weighed_cache::Weighed;

/// What `meta` has that is a client's to say. The rest of it, and `id`, show in every answer's headers.
const META: [&str; 4] = ["profile", "security", "source", "tag"];

/// The path of an element below its resource, such as `name` or `identityProvider.clientId`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(String);

impl Weighed for FieldPath {
    fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }
}

impl FieldPath {
    /// Reads a path, if it leads to an element of that type, or, for `None`, of any type. Only its last
    /// step may lead to a list: with several there is no telling which value is which.
    pub fn parse(resource_type: Option<ResourceType>, text: &str) -> Result<Self, &'static str> {
        let (first, rest) = text.split_once('.').map_or((text, None), |(first, rest)| (first, Some(rest)));
        match (first, rest) {
            ("id" | "resourceType", _) | ("meta", None) => {
                return Err("names an element that every answer shows");
            }
            ("meta", Some(name)) if !META.contains(&name) => {
                return Err(
                    "names an element that every answer shows: of meta, only tag, security, profile and source can be named",
                );
            }
            _ => {}
        }
        let mut of_types = DEFINITIONS
            .iter()
            .filter(|definition| resource_type.is_none_or(|named| named == definition.resource_type));
        if of_types.any(|definition| leads_somewhere(definition.elements, RESOURCE_BASE, text)) {
            Ok(Self(text.to_owned()))
        } else {
            Err("names an element that is not there, or that is inside a list: name the whole list")
        }
    }

    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of the two paths leads through the other.
    #[must_use]
    pub fn overlaps(&self, other: &str) -> bool {
        let leads_through = |long: &str, short: &str| {
            long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        leads_through(&self.0, other) || leads_through(other, &self.0)
    }

    /// Whether a resource has a value there, or an extension of one.
    #[must_use]
    pub fn is_in(&self, resource: &Map<String, Value>) -> bool {
        let (parents, name) = self.parts();
        let mut at = resource;
        for parent in parents {
            match at.get(parent) {
                Some(Value::Object(inner)) => at = inner,
                _ => return false,
            }
        }
        at.contains_key(name) || at.contains_key(&extension_of(name))
    }

    /// Takes the element out, and what is left empty by that.
    pub fn remove(&self, resource: &mut Map<String, Value>) {
        remove(resource, &self.0);
    }

    /// Puts there what `stored` has, and nothing where it has nothing.
    pub fn restore(&self, resource: &mut Map<String, Value>, stored: &Map<String, Value>) {
        self.remove(resource);
        if !self.is_in(stored) {
            return;
        }
        let (parents, name) = self.parts();
        let (mut from, mut to) = (stored, resource);
        for parent in parents {
            let Some(Value::Object(inner)) = from.get(parent) else { return };
            from = inner;
            let slot = to.entry(parent).or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            let Value::Object(inner) = slot else { return };
            to = inner;
        }
        for name in [name.to_owned(), extension_of(name)] {
            if let Some(value) = from.get(&name) {
                to.insert(name, value.clone());
            }
        }
    }

    fn parts(&self) -> (impl Iterator<Item = &str>, &str) {
        let (parents, name) = self.0.rsplit_once('.').unwrap_or(("", &self.0));
        (parents.split('.').filter(|parent| !parent.is_empty()), name)
    }
}

/// Where a primitive keeps its `id` and extensions (FHIR R4 §2.6.2.3).
fn extension_of(name: &str) -> String {
    format!("_{name}")
}

fn remove(object: &mut Map<String, Value>, path: &str) {
    let Some((parent, rest)) = path.split_once('.') else {
        object.shift_remove(path);
        object.shift_remove(&extension_of(path));
        return;
    };
    if let Some(Value::Object(inner)) = object.get_mut(parent) {
        remove(inner, rest);
        if inner.is_empty() {
            object.shift_remove(parent);
        }
    }
}

fn leads_somewhere(own: &'static [Element], base: &'static [Element], path: &str) -> bool {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let Some(element) = own.iter().chain(base).find(|element| element.name == name) else { return false };
    match (rest, element.kind, element.max) {
        (None, Kind::Choice(_), _) | (Some(_), _, Max::Many) => false,
        (None, ..) => true,
        (Some(rest), Kind::Complex(datatype), Max::One) => {
            leads_somewhere(datatype.elements, DATATYPE_BASE, rest)
        }
        (Some(rest), Kind::Backbone(elements), Max::One) => leads_somewhere(elements, DATATYPE_BASE, rest),
        (Some(_), _, Max::One) => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use ResourceType::{ClientApplication, Practitioner};

    fn path(text: &str) -> FieldPath {
        FieldPath::parse(Some(ClientApplication), text).unwrap()
    }

    #[test]
    fn a_path_leads_to_an_element_that_can_be_hidden() {
        for good in [
            "name",
            "secret",
            "identityProvider",
            "identityProvider.clientId",
            "redirectUris",
            "meta.tag",
            "extension",
        ] {
            assert!(FieldPath::parse(Some(ClientApplication), good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "id",
            "resourceType",
            "meta",
            "meta.versionId",
            "nmae",
            "name.x",
            "identityProvider.x",
            "_name",
            "launchIdentifierSystems.system",
            ".",
        ] {
            assert!(FieldPath::parse(Some(ClientApplication), bad).is_err(), "{bad}");
        }
        assert!(FieldPath::parse(Some(Practitioner), "name.family").is_err());
        assert!(FieldPath::parse(Some(Practitioner), "secret").is_err());
        assert!(FieldPath::parse(None, "secret").is_ok() && FieldPath::parse(None, "nmae").is_err());
    }

    #[test]
    fn paths_overlap_where_one_leads_through_the_other() {
        let provider = path("identityProvider");
        assert!(provider.overlaps("identityProvider.issuer") && provider.overlaps("identityProvider"));
        assert!(path("identityProvider.clientId").overlaps("identityProvider"));
        assert!(!path("identityProvider.clientId").overlaps("identityProvider.issuer"));
        assert!(!path("name").overlaps("names") && !path("redirectUris").overlaps("redirectUri"));
    }

    #[test]
    fn extensions_go_with_their_element_and_nothing_empty_is_left() {
        let mut client = json!({"name": "n", "_name": {"id": "x"}, "identityProvider": {"clientId": "c"}, "status": "off"});
        let client = client.as_object_mut().unwrap();
        path("name").remove(client);
        path("identityProvider.clientId").remove(client);
        assert_eq!(Value::Object(client.clone()), json!({"status": "off"}));
    }

    fn resource() -> impl Strategy<Value = Map<String, Value>> {
        let text = || prop::option::of("[a-c]");
        let provider = prop::option::of((text(), text()));
        (text(), text(), provider, any::<bool>()).prop_map(|(name, status, provider, odd)| {
            let mut map = Map::new();
            map.extend(name.map(|name| ("name".to_owned(), json!(name))));
            map.extend(status.map(|status| ("_name".to_owned(), json!({ "id": status }))));
            if let Some((client, issuer)) = provider {
                let mut inner = Map::new();
                inner.extend(client.map(|client| ("clientId".to_owned(), json!(client))));
                inner.extend(issuer.map(|issuer| ("issuer".to_owned(), json!(issuer))));
                let value = if odd { json!("odd") } else { Value::Object(inner) };
                map.insert("identityProvider".to_owned(), value);
            }
            map
        })
    }

    proptest! {
        /// Whatever somebody makes of a resource, what was kept from it is as it was.
        #[test]
        fn what_is_restored_is_what_was_stored(stored in resource(), mut written in resource(), nth in 0_usize..3) {
            let path = path(["name", "identityProvider", "identityProvider.clientId"][nth]);
            path.restore(&mut written, &stored);
            let mut without = written.clone();
            path.remove(&mut without);
            prop_assert!(!path.is_in(&without));
            prop_assert_eq!(path.is_in(&written), path.is_in(&stored));
            let mut again = stored.clone();
            path.remove(&mut again);
            path.restore(&mut again, &stored);
            let full = |map: &Map<String, Value>| {
                let mut map = map.clone();
                map.retain(|_, value| value != &json!({}));
                map
            };
            prop_assert_eq!(full(&again), full(&stored));
        }
    }
}
