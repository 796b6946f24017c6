//! Rates at which tenants may write to the disk. Each client and each project has a bucket, which fills with the bytes
//! of its changes and drains at a rate. Versions and audit records stay long, so the rate bounds how fast a tenant can
//! make the database grow. The clock is a parameter, and the number of buckets is bounded.
//!
//! Members of a project fill at most half of its bucket, so an admin can act while a client floods it.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use crate::caller::{Caller, Profile, Role};
use crate::id::ProjectId;
use crate::limits::{
    CHANGE_BURST, CHANGE_RATE_KEYS_MAX, CLIENT_CHANGE_RATE_DEFAULT, PROJECT_CHANGE_RATE_DEFAULT,
    PROJECT_RESOURCES_MAX_DEFAULT,
};
use crate::secret_rules::NotAllowed;
use crate::time::Timestamp;

/// A rate in bytes a second; `None` is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeRate(pub Option<u64>);

const NOT_A_RATE: NotAllowed =
    NotAllowed("off, or bytes a second from 1024 to 1073741824, like 65536, 64KiB or 1MiB");

impl FromStr for ChangeRate {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        if text == "off" {
            return Ok(Self(None));
        }
        let units = [("KiB", 1024), ("MiB", 1024 * 1024), ("", 1)];
        let (number, unit) =
            units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit))).ok_or(NOT_A_RATE)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| number.parse::<u64>().ok()).flatten();
        let bytes = number.and_then(|number| number.checked_mul(*unit)).ok_or(NOT_A_RATE)?;
        if (1024..=1024 * 1024 * 1024).contains(&bytes) { Ok(Self(Some(bytes))) } else { Err(NOT_A_RATE) }
    }
}

/// Most resources of a project; `None` is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourcesMax(pub Option<i64>);

impl Default for ResourcesMax {
    fn default() -> Self {
        Self(Some(PROJECT_RESOURCES_MAX_DEFAULT))
    }
}

impl FromStr for ResourcesMax {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        if text == "off" {
            return Ok(Self(None));
        }
        let number = text.parse().ok().filter(|number| *number > 0);
        number.map(|number| Self(Some(number))).ok_or(NotAllowed("off, or a number of resources above 0"))
    }
}

/// The rates of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeRates {
    /// Of a member that is not an admin.
    pub client: ChangeRate,
    /// Of a project, over all its members.
    pub project: ChangeRate,
}

impl Default for ChangeRates {
    fn default() -> Self {
        Self {
            client: ChangeRate(Some(CLIENT_CHANGE_RATE_DEFAULT)),
            project: ChangeRate(Some(PROJECT_CHANGE_RATE_DEFAULT)),
        }
    }
}

/// Whose buckets a change fills.
#[derive(Clone, Copy, Debug)]
pub struct Payer {
    /// The project of the author.
    pub project: ProjectId,
    /// The author.
    pub author: Profile,
    /// Whether the author is an admin of the project, which only the rate of the project binds.
    pub is_admin: bool,
    /// When the change was decided.
    pub at: Timestamp,
}

impl Payer {
    /// The payer for changes of a caller; `None` for a Super Admin, whom no rate binds.
    #[must_use]
    pub fn of(caller: &Caller, at: Timestamp) -> Option<Self> {
        let Caller { project, profile: author, role, .. } = *caller;
        (role != Role::SuperAdmin).then_some(Self {
            project,
            author,
            is_admin: role == Role::ProjectAdmin,
            at,
        })
    }
}

/// A change is refused because its author or the project has written too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverRate {
    /// Whose bucket is full.
    pub of: RateOf,
    /// How long until there is room for this change.
    pub wait: Duration,
}

/// The owner of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateOf {
    /// One member.
    Client,
    /// All members of a project together.
    Project,
}

impl RateOf {
    /// Its name in metrics and errors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Project => "project",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Client(Profile),
    Project(ProjectId),
}

/// How full a bucket was at a time.
#[derive(Clone, Copy, Debug)]
struct Level {
    bytes: u64,
    at: Timestamp,
}

impl Level {
    fn now(self, rate: u64, now: Timestamp) -> u64 {
        let elapsed_ms = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.bytes.saturating_sub(rate.saturating_mul(elapsed_ms) / 1000)
    }
}

/// The buckets of one server.
#[derive(Debug, Default)]
pub struct ChangeBuckets {
    levels: HashMap<Key, Level>,
}

impl ChangeBuckets {
    /// Charges the buckets of a payer for a change of so many bytes, if all of them have room. An empty bucket has
    /// room for any change.
    pub fn charge(&mut self, rates: ChangeRates, payer: Payer, bytes: u64) -> Result<(), OverRate> {
        let buckets = buckets(rates, payer);
        for (key, of, rate, most) in buckets.iter().flatten() {
            let level = self.level(*key, *rate, payer.at);
            let over = level.saturating_add(bytes).saturating_sub(*most).min(level);
            if over > 0 {
                let wait_ms = over.saturating_mul(1000).div_ceil(*rate);
                return Err(OverRate { of: *of, wait: Duration::from_millis(wait_ms) });
            }
        }
        self.owe(rates, payer, bytes);
        Ok(())
    }

    /// Charges the buckets of a payer for a change of so many bytes, even if they have no room.
    pub fn owe(&mut self, rates: ChangeRates, payer: Payer, bytes: u64) {
        for (key, _, rate, _) in buckets(rates, payer).iter().flatten() {
            self.make_room(rates, payer.at);
            let level = self.level(*key, *rate, payer.at).saturating_add(bytes);
            self.levels.insert(*key, Level { bytes: level, at: payer.at });
        }
    }

    /// Takes back the charge of a change that failed.
    pub fn refund(&mut self, rates: ChangeRates, payer: Payer, bytes: u64) {
        for (key, ..) in buckets(rates, payer).iter().flatten() {
            if let Some(level) = self.levels.get_mut(key) {
                level.bytes = level.bytes.saturating_sub(bytes);
            }
        }
    }

    fn level(&self, key: Key, rate: u64, now: Timestamp) -> u64 {
        self.levels.get(&key).map_or(0, |level| level.now(rate, now))
    }

    /// Removes empty buckets; if too many remain, also the half that is least full.
    fn make_room(&mut self, rates: ChangeRates, now: Timestamp) {
        if self.levels.len() < CHANGE_RATE_KEYS_MAX {
            return;
        }
        let level = |key: &Key, level: &Level| match key {
            Key::Client(_) => rates.client.0.map_or(0, |rate| level.now(rate, now)),
            Key::Project(_) => rates.project.0.map_or(0, |rate| level.now(rate, now)),
        };
        let mut levels: Vec<u64> = self.levels.iter().map(|(key, at)| level(key, at)).collect();
        let middle = levels.len() / 2;
        let (_, median, _) = levels.select_nth_unstable(middle);
        let least = *median;
        self.levels.retain(|key, at| level(key, at) > least);
    }
}

type Bucket = (Key, RateOf, u64, u64);

/// The buckets of a payer: each with its rate and the level that this payer may fill it to.
fn buckets(rates: ChangeRates, payer: Payer) -> [Option<Bucket>; 2] {
    let full = |rate: u64| rate.saturating_mul(CHANGE_BURST.as_secs());
    let client = rates.client.0.filter(|_| !payer.is_admin);
    let client = client.map(|rate| (Key::Client(payer.author), RateOf::Client, rate, full(rate)));
    let project = rates.project.0.map(|rate| {
        let most = if payer.is_admin { full(rate) } else { full(rate) / 2 };
        (Key::Project(payer.project), RateOf::Project, rate, most)
    });
    [client, project]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ClientId;
    use crate::random::SeededEntropy;

    const START: Timestamp = Timestamp::from_epoch_ms(1_000_000);
    const RATES: ChangeRates =
        ChangeRates { client: ChangeRate(Some(1024)), project: ChangeRate(Some(8 * 1024)) };
    const FULL: u64 = 1024 * CHANGE_BURST.as_secs();

    fn member(entropy: &SeededEntropy, project: ProjectId) -> Payer {
        let author = Profile::client(ClientId::random(entropy));
        Payer { project, author, is_admin: false, at: START }
    }

    #[test]
    fn a_rate_is_read_with_its_unit() {
        for (text, bytes) in [("2048", 2048), ("16KiB", 16 * 1024), ("1MiB", 1024 * 1024)] {
            assert_eq!(text.parse(), Ok(ChangeRate(Some(bytes))));
        }
        assert_eq!("off".parse(), Ok(ChangeRate(None)));
        for text in ["", "0", "1", "KiB", "-2048", "+2048", "1GiB", "2048MiB", "1.5MiB"] {
            assert_eq!(text.parse::<ChangeRate>(), Err(NOT_A_RATE), "{text}");
        }
    }

    #[test]
    fn a_client_that_wrote_a_burst_waits_and_an_empty_bucket_takes_anything() {
        let entropy = SeededEntropy::new(1);
        let project = ProjectId::random(&entropy);
        let (one, other) = (member(&entropy, project), member(&entropy, project));
        let mut buckets = ChangeBuckets::default();
        assert_eq!(buckets.charge(RATES, one, FULL), Ok(()));
        let refused = OverRate { of: RateOf::Client, wait: Duration::from_secs(2) };
        assert_eq!(buckets.charge(RATES, one, 2048), Err(refused));
        assert_eq!(buckets.charge(RATES, other, 2048), Ok(()), "another client");
        let later = Payer { at: START.plus(refused.wait), ..one };
        assert_eq!(buckets.charge(RATES, later, 2048), Ok(()));
        buckets.refund(RATES, later, 2048);
        assert_eq!(buckets.charge(RATES, later, 2048), Ok(()), "what was not made costs nothing");
        let much_later = Payer { at: START.plus(CHANGE_BURST * 2), ..one };
        assert_eq!(buckets.charge(RATES, much_later, FULL * 2), Ok(()), "larger than the bucket");
        assert!(buckets.charge(RATES, much_later, 1).is_err());
    }

    #[test]
    fn a_charge_that_must_not_be_refused_makes_later_ones_wait() {
        let entropy = SeededEntropy::new(1);
        let one = member(&entropy, ProjectId::random(&entropy));
        let mut buckets = ChangeBuckets::default();
        buckets.charge(RATES, one, FULL).unwrap();
        buckets.owe(RATES, one, 2048);
        let refused = OverRate { of: RateOf::Client, wait: Duration::from_secs(3) };
        assert_eq!(buckets.charge(RATES, one, 1024), Err(refused));
        assert_eq!(buckets.charge(RATES, Payer { at: START.plus(refused.wait), ..one }, 1024), Ok(()));
    }

    #[test]
    fn members_leave_room_for_an_admin_and_projects_for_each_other() {
        let entropy = SeededEntropy::new(1);
        let project = ProjectId::random(&entropy);
        let mut buckets = ChangeBuckets::default();
        let filled = (0..100).filter(|_| buckets.charge(RATES, member(&entropy, project), FULL).is_ok());
        assert_eq!(filled.count(), 4, "half of what the project may");
        let admin = Payer { is_admin: true, ..member(&entropy, project) };
        assert_eq!(buckets.charge(RATES, admin, FULL * 4), Ok(()));
        let refused = buckets.charge(RATES, admin, 8 * 1024);
        assert_eq!(refused, Err(OverRate { of: RateOf::Project, wait: Duration::from_secs(1) }));
        let elsewhere = member(&entropy, ProjectId::random(&entropy));
        assert_eq!(buckets.charge(RATES, elsewhere, FULL), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_the_heaviest_writers_are_kept() {
        let entropy = SeededEntropy::new(1);
        let mut buckets = ChangeBuckets::default();
        let flooder = member(&entropy, ProjectId::random(&entropy));
        buckets.charge(RATES, flooder, FULL).unwrap();
        for _ in 0..CHANGE_RATE_KEYS_MAX {
            buckets.charge(RATES, member(&entropy, ProjectId::random(&entropy)), 1).unwrap();
            assert!(buckets.levels.len() <= CHANGE_RATE_KEYS_MAX + 1);
        }
        assert!(buckets.charge(RATES, flooder, 1024).is_err());
    }
}
