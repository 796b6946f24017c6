//! Who used which secret, how often and when: the evidence that a retiring secret can go.
//!
//! Counted in memory and written down now and then, in tables and statements of its own: what is
//! written about a secret can never change it (P6). Everything is bounded (P7): past the bounds, uses
//! are still counted, but summed as those of others.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::net::IpAddr;

use hashbrown::{Equivalent, HashMap};

use crate::id::{ClientId, ProjectId, SecretId};
use crate::limits::{
    PRESENTER_TEXT_BYTES_MAX, USAGE_CALLERS_MAX, USAGE_CALLERS_PER_SECRET_MAX, USAGE_MINUTES_MAX,
    USAGE_MINUTES_PER_SECRET_MAX, USAGE_SECRETS_MAX,
};
use crate::names;
use crate::secret::PREFIX;
use crate::shares::{Room, Shares};
use crate::time::Timestamp;

/// Who presented a proof, as far as it shows from outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Presenter {
    /// The client's address.
    pub address: IpAddr,
    /// `User-Agent`; empty where there is none.
    pub agent: String,
    /// `X-Client-Instance`: what one of many workers calls itself; empty where there is none.
    pub instance: String,
}

impl Presenter {
    /// What it says of itself, each under the name that records and answers give it. Anybody may send anything there, so
    /// hidden characters are written as escapes.
    pub fn said(&self) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
        let said = [("userAgent", &self.agent), ("instance", &self.instance)];
        said.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, names::shown(text)))
    }

    /// To be looked at.
    #[must_use]
    pub fn as_ref(&self) -> PresenterRef<'_> {
        PresenterRef { address: self.address, agent: &self.agent, instance: &self.instance }
    }
}

/// A [`Presenter`] that is looked at and not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PresenterRef<'a> {
    address: IpAddr,
    agent: &'a str,
    instance: &'a str,
}

impl<'a> PresenterRef<'a> {
    /// From the address and two header values. Of a long one the beginning is kept, and nothing of one
    /// that has a secret in it: whoever sends one there sends it by mistake (P4).
    #[must_use]
    pub fn new(address: IpAddr, agent: &'a str, instance: &'a str) -> Self {
        Self { address, agent: shown(agent), instance: shown(instance) }
    }

    /// To be kept.
    #[must_use]
    pub fn to_owned(self) -> Presenter {
        Presenter { address: self.address, agent: self.agent.to_owned(), instance: self.instance.to_owned() }
    }
}

fn shown(text: &str) -> &str {
    if text.contains(PREFIX) {
        return "[withheld]";
    }
    if text.len() <= PRESENTER_TEXT_BYTES_MAX {
        return text;
    }
    let end = (0..=PRESENTER_TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or(text)
}

impl Equivalent<Presenter> for PresenterRef<'_> {
    fn equivalent(&self, kept: &Presenter) -> bool {
        self.address == kept.address && self.agent == kept.agent && self.instance == kept.instance
    }
}

/// What uses are counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UsageKey {
    /// The client that the proof was presented for.
    pub client: ClientId,
    /// The secret, key or certificate; [`SecretId::NIL`] for a value that is none of the client's.
    pub secret: SecretId,
}

/// What became of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It let somebody in.
    Accepted,
    /// It did not.
    Refused,
}

/// How often, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Proofs that were accepted.
    pub accepted: i64,
    /// Proofs that were refused.
    pub refused: i64,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
}

impl Tally {
    /// One proof.
    #[must_use]
    pub fn one(outcome: Outcome, at: Timestamp) -> Self {
        let accepted = i64::from(outcome == Outcome::Accepted);
        Self { accepted, refused: 1 - accepted, first: at, last: at }
    }

    /// Takes up what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// The uses of one secret by one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerUsage {
    /// Who; `None` for the sum of those that are no longer told apart.
    pub caller: Option<Presenter>,
    /// How often, and when.
    pub tally: Tally,
}

/// A minute, counted from the epoch: what charts are drawn by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Minute(i64);

impl Minute {
    /// The minute that a moment is in.
    #[must_use]
    pub const fn of(at: Timestamp) -> Self {
        Self(at.epoch_ms().div_euclid(60_000))
    }

    /// The minute of that number.
    #[must_use]
    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// When it begins.
    #[must_use]
    pub const fn start(self) -> Timestamp {
        Timestamp::from_epoch_ms(self.0.saturating_mul(60_000))
    }
}

/// The uses of one secret.
#[derive(Clone, Debug)]
pub struct SecretUsage {
    /// Whose secret it is.
    pub project: ProjectId,
    /// All of them.
    pub total: Tally,
    /// By minute, in no order. Those of an interval between two flushes are few; there are more where nothing
    /// can be written down.
    pub minutes: Vec<(Minute, Tally)>,
    /// By who presented it.
    pub callers: HashMap<Presenter, Tally, RandomState>,
    /// Those of callers past the bound.
    pub others: Option<Tally>,
}

impl SecretUsage {
    fn new(project: ProjectId, at: Timestamp) -> Self {
        Self {
            project,
            total: Tally { accepted: 0, refused: 0, first: at, last: at },
            minutes: Vec::new(),
            callers: HashMap::default(),
            others: None,
        }
    }

    /// The most rows that recording it takes.
    #[must_use]
    pub fn rows(&self) -> usize {
        1 + self.minutes.len() + self.callers.len() + usize::from(self.others.is_some())
    }

    /// The same in parts that take at most so many rows.
    #[must_use]
    pub fn split(self, rows_max: usize) -> Vec<Self> {
        if self.rows() <= rows_max {
            return vec![self];
        }
        let Tally { first, last, .. } = self.total;
        let empty =
            Self { total: Tally { accepted: 0, refused: 0, first, last }, ..Self::new(self.project, first) };
        let (mut parts, mut part) = (Vec::new(), empty.clone());
        let mut make_room = |part: &mut Self| {
            if part.rows() >= rows_max {
                parts.push(std::mem::replace(part, empty.clone()));
            }
        };
        for (caller, tally) in self.callers {
            make_room(&mut part);
            part.total.add(&tally);
            part.callers.insert(caller, tally);
        }
        for minute in self.minutes {
            make_room(&mut part);
            part.minutes.push(minute);
        }
        if let Some(others) = self.others {
            make_room(&mut part);
            part.total.add(&others);
            part.others = Some(others);
        }
        parts.push(part);
        parts
    }

    /// Without room, what was last moves on to this minute. Of those that are told apart the earliest goes.
    fn add_to_minute(&mut self, minute: Minute, tally: &Tally, room: bool) {
        if let Some((_, sum)) = self.minutes.iter_mut().rev().find(|(known, _)| *known == minute) {
            return sum.add(tally);
        }
        if !room && let Some((last, sum)) = self.minutes.last_mut() {
            *last = minute.max(*last);
            return sum.add(tally);
        }
        self.minutes.push((minute, *tally));
        if self.minutes.len() > USAGE_MINUTES_PER_SECRET_MAX {
            let earliest = self.minutes.iter().enumerate().min_by_key(|(_, (minute, _))| *minute);
            if let Some((at, _)) = earliest {
                self.minutes.remove(at);
            }
        }
    }

    fn add_to_others(&mut self, tally: &Tally) {
        match &mut self.others {
            Some(sum) => sum.add(tally),
            None => self.others = Some(*tally),
        }
    }
}

/// Uses that were counted and not recorded yet.
#[derive(Debug)]
pub struct UsageCounts {
    secrets: HashMap<UsageKey, SecretUsage, RandomState>,
    /// The number of callers that are counted separately, of each project.
    callers: Shares<ProjectId>,
    /// The secrets of each project, by which its callers are found.
    of_projects: HashMap<ProjectId, Vec<UsageKey>, RandomState>,
    minutes: usize,
}

impl Default for UsageCounts {
    fn default() -> Self {
        Self {
            secrets: HashMap::default(),
            callers: Shares::of(USAGE_CALLERS_MAX),
            of_projects: HashMap::default(),
            minutes: 0,
        }
    }
}

impl UsageCounts {
    /// Counts one proof of a client of a project.
    pub fn count(
        &mut self,
        project: ProjectId,
        key: UsageKey,
        outcome: Outcome,
        by: PresenterRef<'_>,
        at: Timestamp,
    ) {
        let one = Tally::one(outcome, at);
        let (project, key) = self.place(project, key);
        let is_told_apart = self.secrets.get(&key).is_none_or(|usage| {
            usage.callers.len() < USAGE_CALLERS_PER_SECRET_MAX && !usage.callers.contains_key(&by)
        });
        if is_told_apart && let Room::TakenFrom(of) = self.callers.room(project) {
            self.fold_oldest_callers(of);
        }
        let room_for_minutes = self.minutes < USAGE_MINUTES_MAX;
        let usage = self.of(project, key, at);
        let minutes_before = usage.minutes.len();
        usage.total.add(&one);
        usage.add_to_minute(Minute::of(at), &one, room_for_minutes);
        let minutes = usage.minutes.len() - minutes_before;
        if let Some(sum) = usage.callers.get_mut(&by) {
            sum.add(&one);
        } else if is_told_apart {
            usage.callers.insert(by.to_owned(), one);
            self.callers.add(project);
        } else {
            usage.add_to_others(&one);
        }
        self.minutes += minutes;
    }

    /// Takes back what could not be written down.
    pub fn take_back(&mut self, key: UsageKey, counted: SecretUsage) {
        let mut room = USAGE_CALLERS_MAX.saturating_sub(self.callers.total());
        let mut room_for_minutes = USAGE_MINUTES_MAX.saturating_sub(self.minutes);
        let (project, key) = self.place(counted.project, key);
        let usage = self.of(project, key, counted.total.first);
        let before = usage.callers.len();
        usage.total.add(&counted.total);
        let minutes_before = usage.minutes.len();
        for (minute, tally) in &counted.minutes {
            let known = usage.minutes.len();
            usage.add_to_minute(*minute, tally, room_for_minutes > 0);
            room_for_minutes = room_for_minutes.saturating_sub(usage.minutes.len() - known);
        }
        let minutes = usage.minutes.len() - minutes_before;
        for (presenter, tally) in counted.callers {
            if let Some(sum) = usage.callers.get_mut(&presenter) {
                sum.add(&tally);
            } else if room > 0 && usage.callers.len() < USAGE_CALLERS_PER_SECRET_MAX {
                usage.callers.insert(presenter, tally);
                room -= 1;
            } else {
                usage.add_to_others(&tally);
            }
        }
        if let Some(others) = &counted.others {
            usage.add_to_others(others);
        }
        let added = usage.callers.len() - before;
        for _ in 0..added {
            self.callers.add(project);
        }
        self.minutes += minutes;
    }

    /// Past the bound, uses of further secrets are summed under no secret at all.
    fn place(&self, project: ProjectId, key: UsageKey) -> (ProjectId, UsageKey) {
        if self.secrets.len() >= USAGE_SECRETS_MAX && !self.secrets.contains_key(&key) {
            (ProjectId::NIL, UsageKey { client: ClientId::NIL, secret: SecretId::NIL })
        } else {
            (self.secrets.get(&key).map_or(project, |usage| usage.project), key)
        }
    }

    fn of(&mut self, project: ProjectId, key: UsageKey, at: Timestamp) -> &mut SecretUsage {
        let of_project = &mut self.of_projects;
        self.secrets.entry(key).or_insert_with(|| {
            of_project.entry(project).or_default().push(key);
            SecretUsage::new(project, at)
        })
    }

    /// Makes room: of a project's callers, an eighth that was not seen for longest is summed. A part at a time, so
    /// that its callers are not looked through for each new one.
    fn fold_oldest_callers(&mut self, of: ProjectId) {
        let Some(keys) = self.of_projects.get(&of) else { return };
        let tallies =
            keys.iter().filter_map(|key| self.secrets.get(key)).flat_map(|usage| usage.callers.values());
        let mut seen: Vec<Timestamp> = tallies.map(|tally| tally.last).collect();
        let folded = (seen.len() / 8).max(1);
        if seen.len() < folded {
            return;
        }
        let (_, cut, _) = seen.select_nth_unstable(folded - 1);
        let (cut, mut left) = (*cut, folded);
        for key in keys {
            let Some(usage) = self.secrets.get_mut(key) else { continue };
            let mut others = Vec::new();
            usage.callers.retain(|_, tally| {
                let goes = left > 0 && tally.last <= cut;
                if goes {
                    left -= 1;
                    others.push(*tally);
                }
                !goes
            });
            for tally in &others {
                usage.add_to_others(tally);
            }
        }
        self.callers.remove(of, folded - left);
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// What was counted, always in the same order: of two that write down at once, none waits for the
    /// other in a circle.
    #[must_use]
    pub fn into_ordered(self) -> Vec<(UsageKey, SecretUsage)> {
        let mut all: Vec<_> = self.secrets.into_iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::SeededEntropy;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn key(n: u128) -> UsageKey {
        UsageKey { client: ClientId::NIL, secret: SecretId::from(uuid::Uuid::from_u128(n)) }
    }

    fn sums(counts: UsageCounts) -> Vec<(i64, i64)> {
        counts
            .into_ordered()
            .into_iter()
            .map(|(_, usage)| {
                let callers: i64 = usage.callers.values().map(|tally| tally.accepted + tally.refused).sum();
                let others = usage.others.map_or(0, |tally| tally.accepted + tally.refused);
                let minutes: i64 =
                    usage.minutes.iter().map(|(_, tally)| tally.accepted + tally.refused).sum();
                let total = usage.total.accepted + usage.total.refused;
                assert_eq!((total, total), (callers + others, minutes));
                (usage.total.accepted, usage.total.refused)
            })
            .collect()
    }

    #[test]
    fn a_presenter_is_cut_short_and_shows_no_secret() {
        let long = "é".repeat(PRESENTER_TEXT_BYTES_MAX);
        let secret = format!("agent {PREFIX}0123456789");
        let kept = PresenterRef::new(HERE, &long, &secret).to_owned();
        assert!(kept.agent.len() <= PRESENTER_TEXT_BYTES_MAX && long.starts_with(&kept.agent));
        assert!(!kept.agent.is_empty());
        assert_eq!(kept.instance, "[withheld]");
    }

    #[test]
    fn callers_and_secrets_are_bounded_and_nothing_is_lost() {
        let mut counts = UsageCounts::default();
        let at = Timestamp::from_epoch_ms(1);
        let proofs = USAGE_CALLERS_PER_SECRET_MAX + 10;
        for n in 0..proofs {
            let name = n.to_string();
            counts.count(ProjectId::NIL, key(1), Outcome::Accepted, PresenterRef::new(HERE, &name, ""), at);
        }
        assert_eq!(counts.callers.total(), USAGE_CALLERS_PER_SECRET_MAX);
        assert_eq!(sums(counts), [(i64::try_from(proofs).unwrap(), 0)]);

        let mut counts = UsageCounts::default();
        let entropy = SeededEntropy::new(1);
        let by = PresenterRef::new(HERE, "agent", "");
        for _ in 0..USAGE_SECRETS_MAX + 10 {
            let key = UsageKey { client: ClientId::NIL, secret: SecretId::random(&entropy) };
            counts.count(ProjectId::NIL, key, Outcome::Accepted, by, at);
        }
        assert!(counts.secrets.len() <= USAGE_SECRETS_MAX + 1 && counts.callers.total() <= USAGE_CALLERS_MAX);
        let all: i64 = sums(counts).into_iter().map(|(accepted, _)| accepted).sum();
        assert_eq!(all, i64::try_from(USAGE_SECRETS_MAX).unwrap() + 10);
    }

    #[test]
    fn what_cannot_be_written_down_takes_no_more_room_as_time_goes_by() {
        let by = PresenterRef::new(HERE, "agent", "");
        let at = |minute: usize| Timestamp::from_epoch_ms(i64::try_from(minute).unwrap() * 60_000);
        let mut one = UsageCounts::default();
        let minutes = USAGE_MINUTES_PER_SECRET_MAX + 10;
        for minute in 0..minutes {
            one.count(ProjectId::NIL, key(0), Outcome::Accepted, by, at(minute));
        }
        assert_eq!(one.minutes, USAGE_MINUTES_PER_SECRET_MAX);
        let (_, usage) = one.into_ordered().remove(0);
        assert_eq!(usage.total.accepted, i64::try_from(minutes).unwrap(), "nothing is lost of the sum");
        let told = usage.minutes.iter().map(|(minute, _)| minute.number());
        assert_eq!(told.clone().min(), Some(10), "what would be forgotten at once");
        assert_eq!(told.max(), Some(i64::try_from(minutes).unwrap() - 1));

        let (mut many, secrets) = (UsageCounts::default(), 1000);
        let minutes = USAGE_MINUTES_MAX / secrets + 10;
        for minute in 0..minutes {
            for secret in 0..secrets {
                many.count(
                    ProjectId::NIL,
                    key(u128::try_from(secret).unwrap()),
                    Outcome::Accepted,
                    by,
                    at(minute),
                );
            }
        }
        assert_eq!(many.minutes, USAGE_MINUTES_MAX);
        let late = i64::try_from(minutes).unwrap() - 1;
        for (_, usage) in many.secrets.iter().take(10) {
            assert!(
                usage.minutes.iter().any(|(minute, tally)| minute.number() == late && tally.accepted > 1)
            );
        }
        let all = i64::try_from(minutes).unwrap();
        assert!(sums(many).into_iter().all(|(accepted, _)| accepted == all));
    }

    #[test]
    fn a_project_with_many_callers_costs_another_none() {
        let (few, many) =
            (ProjectId::from(uuid::Uuid::from_u128(1)), ProjectId::from(uuid::Uuid::from_u128(2)));
        let mut counts = UsageCounts::default();
        let at = |ms: usize| Timestamp::from_epoch_ms(i64::try_from(ms).unwrap());
        let count = |counts: &mut UsageCounts, project, secret: usize, name: usize, ms| {
            let name = name.to_string();
            let by = PresenterRef::new(HERE, &name, "");
            counts.count(project, key(u128::try_from(secret).unwrap()), Outcome::Accepted, by, at(ms));
        };
        // Before, while and after the table is filled.
        let secrets = USAGE_CALLERS_MAX / 500;
        for n in 0..2 * USAGE_CALLERS_MAX {
            if n % 1000 == 0 {
                count(&mut counts, few, 0, n, n);
            }
            count(&mut counts, many, 1 + n % secrets, n, n);
        }
        assert!(counts.callers.total() <= USAGE_CALLERS_MAX);
        let of_few = &counts.secrets[&key(0)];
        assert_eq!((of_few.callers.len(), of_few.others), (2 * USAGE_CALLERS_MAX / 1000, None));
        let newest = counts.secrets[&key(1)].callers.values().map(|tally| tally.last).min().unwrap();
        assert!(newest > at(USAGE_CALLERS_MAX / 2), "its own oldest went");
        let all = i64::try_from(2 * USAGE_CALLERS_MAX + 2 * USAGE_CALLERS_MAX / 1000).unwrap();
        assert_eq!(sums(counts).iter().map(|(accepted, _)| accepted).sum::<i64>(), all);
    }

    /// The bound in bytes that the bounds in limits.rs come to: names as long as they are kept, of as many as are.
    #[test]
    fn a_million_callers_take_no_more_room_than_the_bounds_say() {
        let (callers, secrets) = (1_000_000, 1000);
        let long = "n".repeat(PRESENTER_TEXT_BYTES_MAX);
        let (mut one, mut many) = (UsageCounts::default(), UsageCounts::default());
        for n in 0..callers {
            let name = format!("{n}{long}");
            let by = PresenterRef::new(HERE, &name, &long);
            one.count(ProjectId::NIL, key(0), Outcome::Accepted, by, Timestamp::from_epoch_ms(n));
            let secret = u128::try_from(n % secrets).unwrap();
            many.count(ProjectId::NIL, key(secret), Outcome::Accepted, by, Timestamp::from_epoch_ms(n));
        }
        for (counts, known) in [(&one, USAGE_CALLERS_PER_SECRET_MAX), (&many, USAGE_CALLERS_MAX)] {
            let kept: Vec<_> = counts.secrets.values().flat_map(|usage| usage.callers.keys()).collect();
            assert_eq!(kept.len(), counts.callers.total());
            assert!((known * 7 / 8..=known).contains(&kept.len()), "{}", kept.len());
            let texts: usize = kept.iter().map(|by| by.agent.capacity() + by.instance.capacity()).sum();
            assert!(texts <= known * 2 * PRESENTER_TEXT_BYTES_MAX, "{texts} bytes");
        }
        // Seventeen minutes, each counted by itself.
        assert!(one.secrets.values().chain(many.secrets.values()).all(|usage| usage.minutes.len() <= 17));
        for counts in [one, many] {
            assert_eq!(sums(counts).iter().map(|(accepted, _)| accepted).sum::<i64>(), callers);
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_back_is_counted_once(
            proofs in proptest::collection::vec((0_u128..3, 0_u8..4, any::<bool>(), 0_i64..200_000), 0..200),
            split in 0_usize..200,
            rows_max in 2_usize..10,
        ) {
            let count = |counts: &mut UsageCounts, proofs: &[(u128, u8, bool, i64)]| {
                for (secret, caller, accepted, at) in proofs {
                    let outcome = if *accepted { Outcome::Accepted } else { Outcome::Refused };
                    let name = caller.to_string();
                    let by = PresenterRef::new(HERE, &name, "");
                    counts.count(ProjectId::NIL, key(*secret), outcome, by, Timestamp::from_epoch_ms(*at));
                }
            };
            let (before, after) = proofs.split_at(split.min(proofs.len()));
            let (mut whole, mut first, mut second) = (UsageCounts::default(), UsageCounts::default(), UsageCounts::default());
            count(&mut whole, &proofs);
            count(&mut first, before);
            count(&mut second, after);
            for (key, usage) in first.into_ordered() {
                for part in usage.split(rows_max) {
                    prop_assert!(part.rows() <= rows_max);
                    second.take_back(key, part);
                }
            }
            prop_assert_eq!(second.callers.total(), whole.callers.total());
            prop_assert_eq!(second.minutes, whole.minutes);
            let tallies = |counts: UsageCounts| -> Vec<_> {
                counts.into_ordered().into_iter().map(|(key, mut usage)| {
                    usage.minutes.sort_unstable_by_key(|(minute, _)| *minute);
                    (key, usage.total, usage.callers, usage.minutes)
                }).collect()
            };
            prop_assert_eq!(tallies(second), tallies(whole));
        }
    }
}
