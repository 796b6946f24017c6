//! Refused proofs, summed up for the audit: the first of a client is recorded at once, those that follow
//! together, once in a while. So an attack is seen early, and an attack of any length makes few records.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::RefusedProofs;
use crate::id::{ClientId, ProjectId, SecretId};
use crate::limits::{
    AUDIT_REFUSALS_CALLERS_MAX, AUDIT_REFUSALS_CLIENTS_MAX, AUDIT_REFUSALS_INTERVAL,
    AUDIT_REFUSALS_SECRETS_MAX,
};
use crate::shares::fair_bound;
use crate::time::Timestamp;
use crate::usage::{Presenter, SecretUsage, Tally, UsageKey};

/// The refused proofs of one client that are not recorded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals {
    since: Timestamp,
    until: Timestamp,
    count: i64,
    callers: BTreeMap<Presenter, i64>,
    secrets: BTreeSet<SecretId>,
}

impl Refusals {
    fn of(key: UsageKey, usage: &SecretUsage) -> Self {
        let refused = |(caller, tally): (&Presenter, &Tally)| {
            (tally.refused > 0).then(|| (caller.clone(), tally.refused))
        };
        let mut refusals = Self {
            since: usage.total.first,
            until: usage.total.last,
            count: usage.total.refused,
            callers: usage.callers.iter().filter_map(refused).collect(),
            secrets: Some(key.secret).into_iter().filter(|secret| *secret != SecretId::NIL).collect(),
        };
        refusals.keep_bounds();
        refusals
    }

    fn add(&mut self, other: Self) {
        self.since = self.since.min(other.since);
        self.until = self.until.max(other.until);
        self.count = self.count.saturating_add(other.count);
        for (caller, count) in other.callers {
            *self.callers.entry(caller).or_default() += count;
        }
        self.secrets.extend(other.secrets);
        self.keep_bounds();
    }

    /// Past the bounds, those callers stay that presented most.
    fn keep_bounds(&mut self) {
        if self.callers.len() > AUDIT_REFUSALS_CALLERS_MAX {
            let mut most: Vec<_> = std::mem::take(&mut self.callers).into_iter().collect();
            most.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            most.truncate(AUDIT_REFUSALS_CALLERS_MAX);
            self.callers = most.into_iter().collect();
        }
        while self.secrets.len() > AUDIT_REFUSALS_SECRETS_MAX {
            self.secrets.pop_first();
        }
    }

    /// Gives what an AuditEvent says of them.
    pub fn told<T>(
        &self,
        client: ClientId,
        project: ProjectId,
        at: Timestamp,
        tell: impl FnOnce(&RefusedProofs<'_>) -> T,
    ) -> T {
        let mut callers: Vec<(&Presenter, i64)> =
            self.callers.iter().map(|(caller, count)| (caller, *count)).collect();
        callers.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let secrets: Vec<SecretId> = self.secrets.iter().copied().collect();
        let Self { since, until, count, .. } = *self;
        tell(&RefusedProofs {
            client,
            project,
            since,
            until,
            count,
            callers: &callers,
            secrets: &secrets,
            at,
        })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct RefusalLog(HashMap<ClientId, Watched>);

#[derive(Debug)]
struct Watched {
    project: ProjectId,
    waiting: Option<Refusals>,
    /// When something was recorded last.
    recorded: Option<Timestamp>,
}

impl RefusalLog {
    /// Takes up what was counted of one secret, or of no secret, of a client.
    pub fn count(&mut self, key: UsageKey, usage: &SecretUsage) {
        if usage.total.refused > 0 && key.client != ClientId::NIL {
            self.wait(key.client, usage.project, Refusals::of(key, usage));
        }
    }

    /// Takes back what could not be recorded.
    pub fn take_back(&mut self, client: ClientId, refusals: Refusals) {
        let project = self.0.get(&client).map_or(ProjectId::NIL, |watched| watched.project);
        self.wait(client, project, refusals);
    }

    fn wait(&mut self, client: ClientId, project: ProjectId, refusals: Refusals) {
        match self.0.entry(client) {
            Entry::Vacant(entry) => {
                entry.insert(Watched { project, waiting: Some(refusals), recorded: None });
            }
            Entry::Occupied(mut entry) => match &mut entry.get_mut().waiting {
                Some(waiting) => waiting.add(refusals),
                waiting => *waiting = Some(refusals),
            },
        }
    }

    /// Takes the refusals to record now: of clients without a recent record, or, at the end, of all. If too many
    /// clients wait, also of all clients of the projects with the most.
    pub fn take_due(&mut self, now: Timestamp, all: bool) -> Vec<(ClientId, Refusals)> {
        let crowded = self.crowded();
        let is_due =
            |recorded: Option<Timestamp>| recorded.is_none_or(|at| now.since(at) >= AUDIT_REFUSALS_INTERVAL);
        let mut due = Vec::new();
        self.0.retain(|client, watched| {
            let all = all || crowded.contains(&watched.project);
            if !all && !is_due(watched.recorded) {
                return true;
            }
            // Of whom nothing came meanwhile is forgotten, and recorded at once the next time.
            let Some(refusals) = watched.waiting.take() else { return false };
            due.push((*client, refusals));
            watched.recorded = Some(now);
            !all
        });
        due.sort_unstable_by_key(|(client, _)| *client);
        due
    }

    /// The projects with more than their share, if there are too many clients.
    fn crowded(&self) -> BTreeSet<ProjectId> {
        let mut counts: BTreeMap<ProjectId, i64> = BTreeMap::new();
        if self.0.len() > AUDIT_REFUSALS_CLIENTS_MAX {
            for watched in self.0.values() {
                *counts.entry(watched.project).or_default() += 1;
            }
        }
        let bounds: Vec<i64> = counts.values().copied().collect();
        let bound = fair_bound(&bounds, i64::try_from(AUDIT_REFUSALS_CLIENTS_MAX).unwrap_or(i64::MAX));
        counts.into_iter().filter(|(_, count)| *count > bound).map(|(project, _)| project).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::usage::{Outcome, PresenterRef, UsageCounts};

    const CLIENT: u128 = 7;

    fn counted(proofs: &[(&str, Outcome, i64)]) -> RefusalLog {
        let mut log = RefusalLog::default();
        add(&mut log, proofs);
        log
    }

    fn add(log: &mut RefusalLog, proofs: &[(&str, Outcome, i64)]) {
        let mut counts = UsageCounts::default();
        for (agent, outcome, at) in proofs {
            let client = ClientId::from(uuid::Uuid::from_u128(CLIENT));
            let by = PresenterRef::new(IpAddr::V4(Ipv4Addr::LOCALHOST), agent, "");
            let key = UsageKey { client, secret: SecretId::NIL };
            counts.count(ProjectId::NIL, key, *outcome, by, Timestamp::from_epoch_ms(*at));
        }
        for (key, usage) in counts.into_ordered() {
            log.count(key, &usage);
        }
    }

    fn counts(due: &[(ClientId, Refusals)]) -> Vec<i64> {
        due.iter().map(|(_, refusals)| refusals.count).collect()
    }

    #[test]
    fn the_first_is_recorded_at_once_and_what_follows_together() {
        let at = Timestamp::from_epoch_ms;
        let interval = i64::try_from(AUDIT_REFUSALS_INTERVAL.as_millis()).unwrap();
        let mut log = counted(&[("a", Outcome::Accepted, 1)]);
        assert!(log.take_due(at(1), true).is_empty(), "what was accepted is no refusal");

        add(&mut log, &[("a", Outcome::Refused, 1), ("b", Outcome::Refused, 2), ("b", Outcome::Refused, 3)]);
        let due = log.take_due(at(5), false);
        assert_eq!(counts(&due), [3]);
        due[0].1.told(due[0].0, ProjectId::NIL, at(5), |told| {
            assert_eq!((told.since, told.until), (at(1), at(3)));
            let callers: Vec<_> =
                told.callers.iter().map(|(caller, count)| (caller.agent.as_str(), *count)).collect();
            assert_eq!(callers, [("b", 2), ("a", 1)]);
        });
        for n in 0..4 {
            add(&mut log, &[("a", Outcome::Refused, 10 + n)]);
            assert!(log.take_due(at(10 + n), false).is_empty());
        }
        assert_eq!(counts(&log.take_due(at(5 + interval), false)), [4]);
        add(&mut log, &[("a", Outcome::Refused, 6 + interval)]);
        assert_eq!(counts(&log.take_due(at(6 + interval), true)), [1], "at the end, all");
        assert!(log.0.is_empty());
    }

    #[test]
    fn what_could_not_be_recorded_is_recorded_later() {
        let at = Timestamp::from_epoch_ms;
        let mut log = counted(&[("a", Outcome::Refused, 1)]);
        let (client, refusals) = log.take_due(at(1), false).remove(0);
        log.take_back(client, refusals.clone());
        add(&mut log, &[("a", Outcome::Refused, 2)]);
        assert_eq!(counts(&log.take_due(at(2), true)), [2]);
        assert!(log.take_due(at(3), true).is_empty());
    }

    #[test]
    fn callers_are_bounded_and_all_are_counted() {
        let names: Vec<String> = (0..AUDIT_REFUSALS_CALLERS_MAX + 10).map(|n| n.to_string()).collect();
        let mut proofs: Vec<_> = names.iter().map(|name| (name.as_str(), Outcome::Refused, 1)).collect();
        proofs.extend([("loud", Outcome::Refused, 2); 3]);
        let due = counted(&proofs).take_due(Timestamp::from_epoch_ms(3), false);
        assert_eq!(counts(&due), [i64::try_from(proofs.len()).unwrap()]);
        let callers = &due[0].1.callers;
        assert_eq!(callers.len(), AUDIT_REFUSALS_CALLERS_MAX);
        assert!(callers.iter().any(|(caller, count)| caller.agent == "loud" && *count == 3));
    }
}
