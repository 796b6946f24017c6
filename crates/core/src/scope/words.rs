//! The words of a scope: which are known, and the parts of one about resources:
//! `system/ClientApplication.rs?name=x`.

use std::borrow::Cow;

use super::{Grantee, Rule};
use crate::fhir::ResourceType;
use crate::policy::Interaction;

/// Whether a word that is not about resources is one that this server gives a meaning to.
pub(super) fn is_known(word: &str) -> bool {
    const KNOWN: [&str; 7] =
        ["openid", "profile", "email", "fhirUser", "launch", "online_access", "offline_access"];
    KNOWN.contains(&word) || word.starts_with("launch/")
}

/// Whose data a resource scope is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Context {
    System,
    User,
    Patient,
}

impl Context {
    /// The context of a resource scope; `None` for a word that is not one.
    pub(super) fn of(word: &str) -> Option<Self> {
        [("system/", Self::System), ("user/", Self::User), ("patient/", Self::Patient)]
            .into_iter()
            .find_map(|(prefix, context)| word.starts_with(prefix).then_some(context))
    }

    const fn is_for(self, to: Grantee) -> bool {
        match to {
            Grantee::Client => matches!(self, Self::System),
            Grantee::Person => matches!(self, Self::User | Self::Patient),
        }
    }
}

/// The five letters of a v2 permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the five letters of a v2 permission")]
pub(super) struct Permissions {
    create: bool,
    read: bool,
    update: bool,
    delete: bool,
    search: bool,
}

impl Permissions {
    /// Reads `read`, `write`, `*`, or v2 letters, which must come in the order `c r u d s`.
    fn parse(text: &str) -> Option<Self> {
        let (read, write) = match text {
            "read" => (true, false),
            "write" => (false, true),
            "*" => (true, true),
            cruds => return Self::parse_v2(cruds),
        };
        Some(Self { create: write, read, update: write, delete: write, search: read })
    }

    fn parse_v2(cruds: &str) -> Option<Self> {
        let mut rest = cruds;
        let mut take = |letter: char| match rest.strip_prefix(letter) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        };
        let all = Self {
            create: take('c'),
            read: take('r'),
            update: take('u'),
            delete: take('d'),
            search: take('s'),
        };
        (rest.is_empty() && !cruds.is_empty()).then_some(all)
    }

    pub(super) const fn allow(self, interaction: Interaction) -> bool {
        match interaction {
            Interaction::Read | Interaction::Vread | Interaction::History => self.read,
            Interaction::Search => self.search,
            Interaction::Create => self.create,
            Interaction::Update => self.update,
            Interaction::Delete => self.delete,
        }
    }

    fn within(self, may: impl Fn(Interaction) -> bool) -> Self {
        let reads = || [Interaction::Read, Interaction::Vread, Interaction::History].into_iter().any(&may);
        Self {
            create: self.create && may(Interaction::Create),
            read: self.read && reads(),
            update: self.update && may(Interaction::Update),
            delete: self.delete && may(Interaction::Delete),
            search: self.search && may(Interaction::Search),
        }
    }

    fn letters(self) -> String {
        let all = [
            (self.create, 'c'),
            (self.read, 'r'),
            (self.update, 'u'),
            (self.delete, 'd'),
            (self.search, 's'),
        ];
        all.into_iter().filter_map(|(has, letter)| has.then_some(letter)).collect()
    }
}

/// A scope about resources, taken apart.
pub(super) struct ResourceScope<'a> {
    pub(super) context: Context,
    /// A type of this server or another, or `*`.
    pub(super) name: &'a str,
    pub(super) permissions: Permissions,
    pub(super) query: Option<&'a str>,
}

impl<'a> ResourceScope<'a> {
    pub(super) fn parse(word: &'a str) -> Option<Self> {
        let context = Context::of(word)?;
        let (_, rest) = word.split_once('/')?;
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (name, permissions) = rest.split_once('.')?;
        let is_type = name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|b| b.is_ascii_alphanumeric());
        let permissions = Permissions::parse(permissions)?;
        (name == "*" || is_type).then_some(Self { context, name, permissions, query })
    }

    /// What of it is granted, one word or, of `*`, several; see [`super::Scope::granted`].
    pub(super) fn granted(
        &self,
        word: &'a str,
        to: Grantee,
        may: impl Fn(Interaction, Option<ResourceType>) -> bool,
    ) -> Vec<Cow<'a, str>> {
        if !self.context.is_for(to) {
            return Vec::new();
        }
        let within =
            |kind: Option<ResourceType>| self.permissions.within(|interaction| may(interaction, kind));
        let own = self.name.parse::<ResourceType>().ok();
        if own.is_some() && Rule::read(self).is_none() {
            return Vec::new();
        }
        let granted = within(own);
        let mut words: Vec<_> = self.with(word, self.name, granted).into_iter().collect();
        if self.name == "*" && granted != self.permissions {
            let more = ResourceType::ALL.iter().filter(|kind| within(Some(**kind)) != granted);
            words.extend(more.filter_map(|kind| self.with(word, kind.as_str(), within(Some(*kind)))));
        }
        words
    }

    /// The same about that type, with these permissions; `None` without any.
    fn with(&self, word: &'a str, name: &str, granted: Permissions) -> Option<Cow<'a, str>> {
        let letters = granted.letters();
        if letters.is_empty() {
            return None;
        }
        if granted == self.permissions && name == self.name {
            return Some(Cow::Borrowed(word));
        }
        let (context, _) = word.split_once('/')?;
        let query = self.query.map_or_else(String::new, |query| format!("?{query}"));
        Some(Cow::Owned(format!("{context}/{name}.{letters}{query}")))
    }
}
