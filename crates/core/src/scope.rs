//! SMART scopes (SMART App Launch 2.2, "Scopes for requesting FHIR resources"; both the v1 `read`/
//! `write` and the v2 `cruds` spelling). A token that names resource scopes may do what they name
//! and nothing else; one that names none is bound by its membership alone.

use std::fmt;

use crate::fhir::ResourceType;
use crate::limits::SCOPE_BYTES_MAX;
use crate::policy::Interaction;

/// Why a `scope` parameter is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadScope {
    /// Longer than [`SCOPE_BYTES_MAX`].
    #[error("scope is longer than {SCOPE_BYTES_MAX} bytes")]
    TooLong,
    /// A character that RFC 6749 §3.3 does not allow in a scope.
    #[error("scope contains a character that RFC 6749 §3.3 does not allow")]
    Character,
}

/// The scope of a grant, as granted and as it binds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    text: String,
    rules: Vec<Rule>,
    restricted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the five letters of a v2 permission")]
struct Rule {
    /// `None` is `*`.
    resource_type: Option<ResourceType>,
    create: bool,
    read: bool,
    update: bool,
    delete: bool,
    search: bool,
}

impl Scope {
    /// Reads a space-separated list of scopes. Scopes that are not about resources are kept and bind
    /// nothing. A resource scope that cannot be read grants nothing, and restricts all the same.
    pub fn parse(text: &str) -> Result<Self, BadScope> {
        if text.len() > SCOPE_BYTES_MAX {
            return Err(BadScope::TooLong);
        }
        let allowed = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e | b' ');
        if !text.bytes().all(allowed) {
            return Err(BadScope::Character);
        }
        let mut scope = Self::default();
        for word in text.split_ascii_whitespace() {
            if !scope.text.is_empty() {
                scope.text.push(' ');
            }
            scope.text.push_str(word);
            if let Some(resource_scope) = resource_scope(word) {
                scope.restricted = true;
                scope.rules.extend(rule(resource_scope));
            }
        }
        Ok(scope)
    }

    /// The scopes, separated by one space, as the token endpoint answers them.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether no scope was named at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether a scope is named, letter for letter.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.text.split(' ').any(|named| named == word)
    }

    /// Whether everything that is named here is named there.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.text.split(' ').all(|named| named.is_empty() || other.has(named))
    }

    /// Whether the scope lets its bearer do `interaction` on resources of that type.
    #[must_use]
    pub fn allows(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        !self.restricted
            || self.rules.iter().any(|rule| {
                rule.resource_type.is_none_or(|named| named == resource_type)
                    && match interaction {
                        Interaction::Read | Interaction::Vread | Interaction::History => rule.read,
                        Interaction::Search => rule.search,
                        Interaction::Create => rule.create,
                        Interaction::Update => rule.update,
                        Interaction::Delete => rule.delete,
                    }
            })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The part behind `system/`, `user/` or `patient/`.
fn resource_scope(word: &str) -> Option<&str> {
    ["system/", "user/", "patient/"].iter().find_map(|context| word.strip_prefix(context))
}

fn rule(resource_scope: &str) -> Option<Rule> {
    let (name, permissions) = resource_scope.split_once('.')?;
    let resource_type = match name {
        "*" => None,
        name => Some(name.parse::<ResourceType>().ok()?),
    };
    let (read, write) = match permissions {
        "read" => (true, false),
        "write" => (false, true),
        "*" => (true, true),
        cruds => return rule_v2(resource_type, cruds),
    };
    Some(Rule { resource_type, create: write, read, update: write, delete: write, search: read })
}

/// The v2 letters, which must come in the order `c r u d s`. A query behind them would narrow the
/// scope in a way that is not enforced here, so such a scope grants nothing.
fn rule_v2(resource_type: Option<ResourceType>, cruds: &str) -> Option<Rule> {
    let mut rest = cruds;
    let mut take = |letter: char| match rest.strip_prefix(letter) {
        Some(after) => {
            rest = after;
            true
        }
        None => false,
    };
    let rule = Rule {
        resource_type,
        create: take('c'),
        read: take('r'),
        update: take('u'),
        delete: take('d'),
        search: take('s'),
    };
    (rest.is_empty() && !cruds.is_empty()).then_some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Interaction::{Create, Delete, Read, Search, Update};
    use ResourceType::{ClientApplication, Project};

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    #[test]
    fn a_scope_without_resources_restricts_nothing() {
        for text in ["", "openid", "openid fhirUser launch"] {
            assert!(scope(text).allows(Delete, Project), "{text}");
        }
    }

    #[test]
    fn v1_and_v2_name_what_is_allowed() {
        let read = scope("openid system/ClientApplication.read");
        assert!(read.allows(Read, ClientApplication) && read.allows(Search, ClientApplication));
        assert!(!read.allows(Update, ClientApplication) && !read.allows(Read, Project));
        let v2 = scope("system/ClientApplication.ru system/Project.s");
        assert!(v2.allows(Update, ClientApplication) && !v2.allows(Create, ClientApplication));
        assert!(v2.allows(Search, Project) && !v2.allows(Read, Project));
        assert!(scope("system/*.*").allows(Create, Project));
        assert!(scope("user/*.cruds").allows(Delete, Project));
    }

    #[test]
    fn what_cannot_be_enforced_grants_nothing() {
        for text in [
            "system/ClientApplication.sr",
            "system/ClientApplication.rs?name=x",
            "system/ClientApplication.",
            "system/Nonsense.read",
            "system/ClientApplication",
        ] {
            assert!(!scope(text).allows(Read, ClientApplication), "{text}");
        }
    }

    #[test]
    fn odd_characters_and_long_lists_are_refused() {
        assert_eq!(Scope::parse("a\"b"), Err(BadScope::Character));
        assert_eq!(Scope::parse("a\nb"), Err(BadScope::Character));
        assert_eq!(Scope::parse(&"a ".repeat(SCOPE_BYTES_MAX)), Err(BadScope::TooLong));
        assert_eq!(scope("  a   b ").as_str(), "a b");
    }
}
