//! The key sets that clients publish at a URL (`ClientApplication.jwksUri`): fetched when an assertion
//! comes, kept for a while, and fetched again when they are stale, or when none of the keys verifies.
//! One URL is asked once at a time and once in a while, whoever wants to know and however often, so
//! that this server cannot be made to hammer somebody. A fetch that fails leaves what there was, until
//! that is too old.

mod fetch;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyrelay_core::id::ProjectId;
use keyrelay_core::limits::{
    JWKS_ENTRIES_MAX, JWKS_FETCH_INTERVAL, JWKS_FRESH_DEFAULT, JWKS_FRESH_MAX, JWKS_KEPT_BYTES_MAX,
    JWKS_KEPT_MAX,
};
use keyrelay_core::reach::Reach;
use keyrelay_core::time::{Clock, Timestamp};

use self::fetch::{FetchError, Fetched, Fetcher};
use super::jwks;
use crate::outbound::OutboundUri;

/// What is known of one URL.
#[derive(Default)]
struct Known {
    set: Option<KeptSet>,
    /// When it was last asked.
    tried: Option<Timestamp>,
    /// For the order in which URLs are forgotten.
    used: u64,
    /// The project of the client that used it last; projects share the cache.
    project: Option<ProjectId>,
}

struct KeptSet {
    text: Arc<str>,
    fetched: Timestamp,
    fresh_until: Timestamp,
}

#[derive(Default)]
struct Entry {
    known: Mutex<Known>,
    /// Held by who asks; the others wait for the answer.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl Entry {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The set, unless it is too old to be used at all.
    fn usable(&self, now: Timestamp) -> Option<&KeptSet> {
        self.set.as_ref().filter(|set| now < set.fetched.plus(JWKS_KEPT_MAX))
    }

    fn may_ask(&self, now: Timestamp) -> bool {
        // If the clock was put back, what it said then does not bind.
        self.tried.is_none_or(|tried| now < tried || now.since(tried) >= JWKS_FETCH_INTERVAL)
    }

    fn learn(&mut self, fetched: Fetched, now: Timestamp) {
        let fresh = fetched.max_age.unwrap_or(JWKS_FRESH_DEFAULT).min(JWKS_FRESH_MAX);
        self.set = Some(KeptSet { text: fetched.text.into(), fetched: now, fresh_until: now.plus(fresh) });
    }
}

/// The fetched key sets of a server.
pub(crate) struct RemoteKeys {
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
    entries: Mutex<HashMap<String, Arc<Entry>>>,
    uses: AtomicU64,
}

impl std::fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteKeys({})", self.entries().len())
    }
}

impl RemoteKeys {
    pub(crate) fn new(reach: Reach, clock: Arc<dyn Clock>) -> Self {
        let fetcher = Arc::new(Fetcher::new(reach));
        Self { fetcher, clock, entries: Mutex::default(), uses: AtomicU64::default() }
    }

    /// The key set at a URL, fetched if what is kept is stale. `None` if there is none to be had.
    pub(super) async fn get(&self, uri: &OutboundUri, project: ProjectId) -> Option<Arc<str>> {
        let entry = self.entry(uri, project);
        {
            let (known, now) = (entry.known(), self.clock.now());
            if let Some(set) = known.usable(now).filter(|set| now < set.fresh_until) {
                return Some(Arc::clone(&set.text));
            }
        }
        self.ask(uri, &entry).await;
        let known = entry.known();
        known.usable(self.clock.now()).map(|set| Arc::clone(&set.text))
    }

    /// The key set that is kept of a URL, without a fetch.
    pub(super) fn kept(&self, uri: &OutboundUri) -> Option<Arc<str>> {
        let entry = self.entries().get(&uri.to_string()).map(Arc::clone)?;
        let known = entry.known();
        known.usable(self.clock.now()).map(|set| Arc::clone(&set.text))
    }

    /// The key set, looked at again because `seen` did not help. `None` if it is still the same.
    pub(super) async fn again(
        &self,
        uri: &OutboundUri,
        project: ProjectId,
        seen: &Arc<str>,
    ) -> Option<Arc<str>> {
        let entry = self.entry(uri, project);
        let newer = |entry: &Entry| {
            let known = entry.known();
            let set = known.usable(self.clock.now()).filter(|set| set.text != *seen);
            set.map(|set| Arc::clone(&set.text))
        };
        // Somebody else may have asked meanwhile.
        if let Some(text) = newer(&entry) {
            return Some(text);
        }
        self.ask(uri, &entry).await;
        newer(&entry)
    }

    /// Asks a URL, unless that was done just now. Goes on to its end even if whoever wanted to know has
    /// gone away: others wait for it.
    async fn ask(&self, uri: &OutboundUri, entry: &Arc<Entry>) {
        let turn = Arc::clone(&entry.asking).lock_owned().await;
        {
            let (mut known, now) = (entry.known(), self.clock.now());
            if !known.may_ask(now) {
                return;
            }
            known.tried = Some(now);
        }
        let (source, clock) = (Arc::clone(&self.fetcher), Arc::clone(&self.clock));
        let (asked, uri) = (Arc::clone(entry), uri.clone());
        let asking = tokio::spawn(async move {
            let _turn = turn;
            match source.fetch(&uri).await.and_then(key_set) {
                Ok(fetched) => asked.known().learn(fetched, clock.now()),
                Err(error) => {
                    // The rest of the URL may be nobody's business.
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(host = uri.authority(), %error, cause, "the keys of a client were not fetched");
                }
            }
        });
        let _ = asking.await;
        self.forget_surplus();
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, uri: &OutboundUri, project: ProjectId) -> Arc<Entry> {
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries();
        let name = uri.to_string();
        if entries.len() >= JWKS_ENTRIES_MAX && !entries.contains_key(&name) {
            forget_oldest(&mut entries, |_| 1);
        }
        let entry = Arc::clone(entries.entry(name).or_default());
        {
            let mut known = entry.known();
            (known.used, known.project) = (used, Some(project));
        }
        entry
    }

    /// Keeps the bytes within their bound; the number is, since [`RemoteKeys::entry`].
    fn forget_surplus(&self) {
        let mut entries = self.entries();
        let bytes = |entry: &Arc<Entry>| entry.known().set.as_ref().map_or(0, |set| set.text.len());
        let mut total: usize = entries.values().map(bytes).sum();
        while total > JWKS_KEPT_BYTES_MAX {
            let Some(forgotten) = forget_oldest(&mut entries, bytes) else { return };
            total = total.saturating_sub(bytes(&forgotten));
        }
    }
}

/// Removes the least recently used URL of the project that takes the most by this measure.
fn forget_oldest(
    entries: &mut HashMap<String, Arc<Entry>>,
    weight: impl Fn(&Arc<Entry>) -> usize,
) -> Option<Arc<Entry>> {
    let mut weights: BTreeMap<Option<ProjectId>, usize> = BTreeMap::new();
    for entry in entries.values() {
        let project = entry.known().project;
        *weights.entry(project).or_default() += weight(entry);
    }
    let (most, _) = weights.into_iter().max_by_key(|(_, weight)| *weight)?;
    let of_most = entries.iter().filter(|(_, entry)| entry.known().project == most);
    let oldest = of_most.min_by_key(|(_, entry)| entry.known().used).map(|(name, _)| name.clone())?;
    entries.remove(&oldest)
}

/// What came, if it is a key set at all. One without a key that could be used is: its keys are gone.
fn key_set(fetched: Fetched) -> Result<Fetched, FetchError> {
    if jwks::is_set(&fetched.text) { Ok(fetched) } else { Err(FetchError::NoKeySet) }
}

#[cfg(test)]
mod tests {
    use keyrelay_core::limits::JWKS_BYTES_MAX;
    use keyrelay_core::time::ManualClock;

    use super::*;

    const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);

    fn keys() -> RemoteKeys {
        RemoteKeys::new(Reach::Internet, Arc::new(ManualClock::at(NOW)))
    }

    fn at(n: usize) -> OutboundUri {
        OutboundUri::parse(&format!("https://app.example.org/{n}"), Reach::Internet).unwrap()
    }

    fn is_kept(keys: &RemoteKeys, n: usize) -> bool {
        keys.entries().contains_key(&at(n).to_string())
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_is_forgotten_first() {
        let keys = keys();
        for n in 0..JWKS_ENTRIES_MAX + 10 {
            keys.entry(&at(n), ProjectId::NIL);
            keys.entry(&at(0), ProjectId::NIL);
        }
        assert_eq!(keys.entries().len(), JWKS_ENTRIES_MAX);
        assert!(is_kept(&keys, 0) && !is_kept(&keys, 1) && is_kept(&keys, JWKS_ENTRIES_MAX));
    }

    #[test]
    fn the_project_that_has_most_loses_its_own() {
        let keys = keys();
        let few = ProjectId::from(uuid::Uuid::from_u128(1));
        keys.entry(&at(0), few);
        for n in 1..JWKS_ENTRIES_MAX + 10 {
            keys.entry(&at(n), ProjectId::NIL);
        }
        assert_eq!(keys.entries().len(), JWKS_ENTRIES_MAX);
        assert!(is_kept(&keys, 0) && !is_kept(&keys, 1));
    }

    #[test]
    fn the_bytes_that_are_kept_are_bounded() {
        let keys = keys();
        let fit = JWKS_KEPT_BYTES_MAX / JWKS_BYTES_MAX;
        for n in 0..fit + 3 {
            let fetched = Fetched { text: "x".repeat(JWKS_BYTES_MAX), max_age: None };
            keys.entry(&at(n), ProjectId::NIL).known().learn(fetched, NOW);
            keys.forget_surplus();
        }
        assert_eq!(keys.entries().len(), fit);
        assert!(!is_kept(&keys, 2) && is_kept(&keys, 3));
    }

    #[test]
    fn a_clock_that_was_put_back_does_not_stop_the_asking() {
        let known = Known { tried: Some(NOW), ..Known::default() };
        assert!(!known.may_ask(NOW));
        assert!(known.may_ask(NOW.plus(JWKS_FETCH_INTERVAL)));
        assert!(known.may_ask(Timestamp::from_epoch_ms(NOW.epoch_ms() - 1)));
    }
}
