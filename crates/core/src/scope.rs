//! SMART scopes (SMART App Launch 2.2, "Scopes for requesting FHIR resources"; both the v1 `read`/
//! `write` and the v2 `cruds` spelling). A token that names resource scopes may do what they name
//! and nothing else; one that names none is bound by its membership alone.

mod words;

use std::borrow::Cow;
use std::fmt;

use crate::fhir::ResourceType;
use crate::fhir::search::Filter;
use crate::limits::{CRITERIA_VALUES_MAX, SCOPE_BYTES_MAX};
use crate::policy::{Criteria, Interaction, Subject};
use crate::weighed_cache::Weighed;
use words::{Context, Permissions, ResourceScope, is_known};

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

/// Who is granted a scope: `system/` is for clients in their own name, `user/` and `patient/` for
/// people's logins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// A client in its own name.
    Client,
    /// A person who logged in.
    Person,
}

/// The scope of a grant, as granted and as it binds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    text: String,
    rules: Vec<Rule>,
    restricted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// `None` is `*`.
    resource_type: Option<ResourceType>,
    permissions: Permissions,
    /// The query of a granular scope; `None` is every resource of the type.
    criteria: Option<Criteria>,
}

impl Weighed for Rule {
    fn heap_bytes(&self) -> usize {
        self.criteria.heap_bytes()
    }
}

impl Weighed for Scope {
    fn heap_bytes(&self) -> usize {
        self.text.heap_bytes() + self.rules.heap_bytes()
    }
}

impl Rule {
    /// `None` where nothing here is granted: nothing that this server keeps belongs to a patient, and a
    /// query that cannot be evaluated selects nothing.
    fn read(scope: &ResourceScope<'_>) -> Option<Self> {
        if scope.context == Context::Patient {
            return None;
        }
        let resource_type = match scope.name {
            "*" => None,
            name => Some(name.parse::<ResourceType>().ok()?),
        };
        let criteria = match (scope.query, resource_type) {
            (None, _) => None,
            (Some(_), None) => return None,
            (Some(query), Some(named)) => Some(Criteria::of_query(named, query).ok()?),
        };
        Some(Self { resource_type, permissions: scope.permissions, criteria })
    }

    fn covers(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        self.resource_type.is_none_or(|named| named == resource_type) && self.permissions.allow(interaction)
    }

    fn cost(&self) -> usize {
        self.criteria.as_ref().map_or(0, Criteria::cost)
    }
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
        let mut cost = 0;
        for word in text.split_ascii_whitespace() {
            if !scope.text.is_empty() {
                scope.text.push(' ');
            }
            scope.text.push_str(word);
            if Context::of(word).is_some() {
                scope.restricted = true;
                let rule = ResourceScope::parse(word).as_ref().and_then(Rule::read);
                cost += rule.as_ref().map_or(0, Rule::cost);
                scope.rules.extend(rule.filter(|_| cost <= CRITERIA_VALUES_MAX));
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

    /// Whether resource scopes are named, so that the bearer may do no more than they say.
    #[must_use]
    pub const fn is_restricted(&self) -> bool {
        self.restricted
    }

    /// Whether a scope is named, letter for letter.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.text.split(' ').any(|named| named == word)
    }

    /// Whether everything that is named here is named there, and binds no less: without any resource scope
    /// a bearer may do all that its role allows.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        (self.restricted || !other.restricted)
            && self.text.split(' ').all(|named| named.is_empty() || other.has(named))
    }

    /// The scope as it binds a client that is bound from outside: where it names no resource scopes, those
    /// of the bound apply.
    #[must_use]
    pub fn bound_by(self, bound: Option<&Self>) -> Self {
        match bound {
            Some(bound) if bound.restricted && !self.restricted => bound.clone(),
            _ => self,
        }
    }

    /// What of this is granted to somebody who may do what `may` says (RFC 6749 §3.3).
    ///
    /// Resource scopes of the other context are not granted, and of the others as much as `may` allows:
    /// `system/Project.cruds` may become `system/Project.rs`. Types that other FHIR servers keep, of which
    /// `may` is asked as `None`, are judged too: those servers read tokens. What may be had of `*` only for
    /// some types becomes a scope for each of them. Words that are not known are left out.
    ///
    /// `None` if nothing is left. That is so too where resource scopes were asked for and none is left:
    /// without any, the token would be bound less than was asked for.
    #[must_use]
    pub fn granted(
        &self,
        to: Grantee,
        may: impl Fn(Interaction, Option<ResourceType>) -> bool,
    ) -> Option<Self> {
        let mut words: Vec<Cow<'_, str>> = Vec::new();
        for word in self.text.split(' ') {
            let granted = match Context::of(word) {
                None => is_known(word).then_some(Cow::Borrowed(word)).into_iter().collect(),
                Some(_) => {
                    ResourceScope::parse(word).map(|scope| scope.granted(word, to, &may)).unwrap_or_default()
                }
            };
            for word in granted {
                if !words.contains(&word) {
                    words.push(word);
                }
            }
        }
        self.of_these(&words.join(" "))
    }

    /// What of this is named there, too; as with [`Scope::granted`], `None` if nothing is left. A bound
    /// with resource scopes leaves nothing of a scope without any, which would bind less.
    #[must_use]
    pub fn only(&self, of: &Self) -> Option<Self> {
        let words: Vec<&str> = self.text.split(' ').filter(|word| of.has(word)).collect();
        self.of_these(&words.join(" ")).filter(|left| left.restricted || !of.restricted)
    }

    fn of_these(&self, words: &str) -> Option<Self> {
        let left = Self::parse(words).ok()?;
        (!left.is_empty() && left.restricted == self.restricted).then_some(left)
    }

    /// Whether the scope lets its bearer do `interaction` with some resource of that type.
    #[must_use]
    pub fn allows(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        !self.restricted || self.rules.iter().any(|rule| rule.covers(interaction, resource_type))
    }

    /// Whether the scope lets its bearer do `interaction` with that resource. A query selects nothing
    /// if the bearer may not ask it: see `may_ask`.
    #[must_use]
    pub fn allows_resource(
        &self,
        interaction: Interaction,
        subject: &Subject<'_>,
        may_ask: impl Fn(&Filter) -> bool,
    ) -> bool {
        let meets =
            |criteria: &Criteria| criteria.matches(subject) && criteria.filters().iter().all(&may_ask);
        let allows = |rule: &Rule| {
            rule.covers(interaction, subject.resource_type) && rule.criteria.as_ref().is_none_or(meets)
        };
        !self.restricted || self.rules.iter().any(allows)
    }

    /// The queries of which a resource must meet one; `None` if there is a scope without. Those that the
    /// bearer may not ask are not among them: they select nothing.
    #[must_use]
    pub fn criteria(
        &self,
        interaction: Interaction,
        resource_type: ResourceType,
        may_ask: impl Fn(&Filter) -> bool,
    ) -> Option<Vec<&[Filter]>> {
        if !self.restricted {
            return None;
        }
        let asks = |rule: &&Rule| rule.criteria.iter().flat_map(Criteria::filters).all(&may_ask);
        let rules = self.rules.iter().filter(|rule| rule.covers(interaction, resource_type)).filter(asks);
        rules.map(|rule| rule.criteria.as_ref().map(Criteria::filters)).collect()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        let names = |from: u32| (from..from + 70).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let names = [names(0), names(100), names(200)];
        let costly = format!("system/ClientApplication.rs?name={}", names.join("&name="));
        for text in [
            "system/ClientApplication.sr",
            "system/ClientApplication.rs?colour=red",
            "system/ClientApplication.rs?",
            "system/*.rs?_id=x",
            "system/ClientApplication.",
            "system/Nonsense.read",
            "system/ClientApplication",
            "patient/ClientApplication.rs",
            "patient/*.rs",
            &costly,
        ] {
            assert!(!scope(text).allows(Read, ClientApplication), "{text}");
        }
    }

    #[test]
    fn what_is_granted_is_no_more_than_one_may() {
        let reads = |interaction: Interaction, _: Option<ResourceType>| interaction.is_reading();
        let granted = |text: &str| {
            scope(text).granted(Grantee::Client, reads).map(|granted| granted.as_str().to_owned())
        };
        for (asked, expected) in [
            ("", None),
            ("openid", Some("openid")),
            ("openid shoes openid", Some("openid")),
            ("shoes", None),
            ("launch/patient fhirUser", Some("launch/patient fhirUser")),
            ("system/ClientApplication.cruds", Some("system/ClientApplication.rs")),
            ("system/ClientApplication.rs", Some("system/ClientApplication.rs")),
            ("system/ClientApplication.read", Some("system/ClientApplication.read")),
            ("system/ClientApplication.*", Some("system/ClientApplication.rs")),
            ("system/ClientApplication.write", None),
            ("system/ClientApplication.u system/Project.r", Some("system/Project.r")),
            ("system/ClientApplication.crs?name=x", Some("system/ClientApplication.rs?name=x")),
            ("system/ClientApplication.rs?colour=red", None),
            ("system/Patient.cruds?_id=x system/Observation.write", Some("system/Patient.rs?_id=x")),
            ("system/*.cruds", Some("system/*.rs")),
            ("system/*.write", None),
            // Only `openid` would be left, and that binds less than what was asked for.
            ("openid user/ClientApplication.rs", None),
            ("openid system/ClientApplication.sr", None),
            ("user/*.rs system/*.rs", Some("system/*.rs")),
            ("system/x.rs", None),
        ] {
            assert_eq!(granted(asked).as_deref(), expected, "{asked}");
        }
        let person = |text: &str| scope(text).granted(Grantee::Person, |_, _| true);
        assert_eq!(
            person("user/*.rs patient/Patient.rs system/*.rs").unwrap().as_str(),
            "user/*.rs patient/Patient.rs"
        );
    }

    #[test]
    fn what_is_bound_from_outside_is_bound_word_by_word() {
        let bound = scope("openid system/Project.rs");
        let only = |text: &str| scope(text).only(&bound).map(|left| left.as_str().to_owned());
        assert_eq!(only("openid system/Project.rs system/*.*").as_deref(), Some("openid system/Project.rs"));
        assert_eq!(only("openid"), None, "it would bind less than the bound");
        assert_eq!(only("openid system/*.*"), None);
        assert_eq!(only("email"), None);
        let free = scope("openid email");
        assert_eq!(scope("openid").only(&free), Some(scope("openid")));
        assert!(scope("openid").is_within(&free) && !scope("openid").is_within(&bound));
        assert!(scope("system/Project.rs").is_within(&bound));

        assert_eq!(scope("openid").bound_by(Some(&bound)), bound);
        assert_eq!(scope("").bound_by(Some(&bound)), bound);
        assert_eq!(scope("system/Project.rs").bound_by(Some(&bound)), scope("system/Project.rs"));
        assert_eq!(scope("openid").bound_by(Some(&free)), scope("openid"));
        assert_eq!(scope("openid").bound_by(None), scope("openid"));
    }

    #[test]
    fn of_everything_those_types_are_granted_that_may_be_had() {
        let reads_projects = |interaction: Interaction, kind: Option<ResourceType>| {
            interaction.is_reading() && kind == Some(Project)
        };
        let granted = |text: &str| {
            scope(text).granted(Grantee::Client, reads_projects).map(|granted| granted.as_str().to_owned())
        };
        assert_eq!(granted("system/*.cruds").as_deref(), Some("system/Project.rs"));
        assert_eq!(granted("system/*.s").as_deref(), Some("system/Project.s"));
        assert_eq!(granted("system/*.*").as_deref(), Some("system/Project.rs"));
        assert_eq!(granted("system/Patient.rs"), None);
        assert_eq!(granted("system/*.cu"), None);
    }

    #[test]
    fn odd_characters_and_long_lists_are_refused() {
        assert_eq!(Scope::parse("a\"b"), Err(BadScope::Character));
        assert_eq!(Scope::parse("a\nb"), Err(BadScope::Character));
        assert_eq!(Scope::parse(&"a ".repeat(SCOPE_BYTES_MAX)), Err(BadScope::TooLong));
        assert_eq!(scope("  a   b ").as_str(), "a b");
    }

    proptest! {
        /// Whatever is asked for, what is granted allows no more than that, and no more than one may.
        #[test]
        fn granting_only_narrows(
            words in prop::collection::vec("(system|user)/(\\*|Project|ClientApplication|Patient)\\.(read|write|\\*|c?r?u?d?s?)(\\?name=x)?", 1..5),
            may in prop::collection::vec(any::<bool>(), 5),
        ) {
            let asked = scope(&words.join(" "));
            let all = [Create, Read, Update, Delete, Search];
            let may = |interaction: Interaction, _: Option<ResourceType>| {
                let same = |one: &Interaction| *one == interaction;
                all.iter().position(same).is_some_and(|position| may[position])
            };
            let Some(granted) = asked.granted(Grantee::Client, may) else { return Ok(()) };
            for kind in [Project, ClientApplication] {
                for interaction in all {
                    prop_assert!(!granted.allows(interaction, kind) || asked.allows(interaction, kind));
                }
            }
            let again = granted.granted(Grantee::Client, may);
            prop_assert_eq!(again, Some(granted));
        }
    }
}
