//! Bounds how fast one address, or anybody in the name of one client, can guess (RFC 6749 §2.3.1). An
//! address that fails too often is turned away before it is heard. A client id that is guessed at too
//! often is *not*: a flood of wrong secrets must not lock the right one out. A failure that was not a guess, such
//! as a former secret of the client, is taken back. Where people log in, every
//! attempt counts, the good ones too, for each costs a password's hash.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::Method;
use http::request::Parts;
use keyrelay_core::id::ClientId;
use keyrelay_core::limits::{
    FAILURE_FORGIVEN_AFTER, FAILURE_KEYS_MAX, FAILURES_PER_ADDRESS_MAX, FAILURES_PER_CLIENT_MAX,
    LOGIN_ATTEMPT_FORGIVEN_AFTER, LOGIN_ATTEMPTS_PER_ADDRESS_MAX,
};
use keyrelay_core::time::Timestamp;

use crate::App;
use crate::auth::ClientAddress;
use crate::error::Outcome;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// Failures of clients from an address.
    Address(IpAddr),
    /// Failures of people from an address. Counted separately, so that people who mistype passwords do not block
    /// clients behind the same address, and a guessing client does not block people.
    Person(IpAddr),
    /// Failures for a client id.
    Client(ClientId),
    /// Attempts of people to log in from an address.
    Login(IpAddr),
}

impl Key {
    /// How much may be counted at once, and how long it takes until one is forgotten.
    const fn bound(self) -> (u32, Duration) {
        match self {
            Self::Address(_) | Self::Person(_) => (FAILURES_PER_ADDRESS_MAX, FAILURE_FORGIVEN_AFTER),
            Self::Client(_) => (FAILURES_PER_CLIENT_MAX, FAILURE_FORGIVEN_AFTER),
            Self::Login(_) => (LOGIN_ATTEMPTS_PER_ADDRESS_MAX, LOGIN_ATTEMPT_FORGIVEN_AFTER),
        }
    }
}

/// When each key will be forgiven all it did: the generic cell rate algorithm. A bounded number of them.
#[derive(Debug, Default)]
struct Debts(HashMap<Key, Timestamp>);

impl Debts {
    /// How long a key must wait until one more is within its bound; `None` if it is now.
    fn wait(&self, key: Key, now: Timestamp) -> Option<Duration> {
        let (max, each) = key.bound();
        let debt = self.0.get(&key).map_or(Duration::ZERO, |at| at.since(now));
        (debt + each).checked_sub(each * max).filter(|over| !over.is_zero())
    }

    /// Counts one more, if it is within the key's bound.
    fn add(&mut self, key: Key, now: Timestamp) -> Option<Duration> {
        if let Some(wait) = self.wait(key, now) {
            return Some(wait);
        }
        let at = self.0.entry(key).or_insert(now);
        *at = now.plus(at.since(now) + key.bound().1);
        None
    }

    /// Takes back one counted event.
    fn take_back(&mut self, key: Key, now: Timestamp) {
        if let Some(at) = self.0.get_mut(&key) {
            *at = now.plus(at.since(now).saturating_sub(key.bound().1));
        }
    }

    /// Makes room for some keys.
    fn make_room(&mut self, keys: usize, now: Timestamp) {
        if self.0.len() + keys <= FAILURE_KEYS_MAX {
            return;
        }
        self.0.retain(|_, at| *at > now);
        if self.0.len() + keys > FAILURE_KEYS_MAX {
            // A flood from many addresses. Those that failed most are kept, or the flood would hide a guesser.
            tracing::warn!(
                "more than {FAILURE_KEYS_MAX} addresses and client ids failed at once; forgetting those that failed least"
            );
            let mut debts: Vec<Duration> = self.0.values().map(|at| at.since(now)).collect();
            let middle = debts.len() / 2;
            let (_, median, _) = debts.select_nth_unstable(middle);
            let least = *median;
            self.0.retain(|_, at| at.since(now) > least);
        }
    }
}

/// The keys that one failure was counted against, without those that were beyond their bound already.
#[derive(Debug)]
pub(crate) struct Counted([Option<Key>; 2]);

/// Remembers who did how much.
#[derive(Debug, Default)]
pub(crate) struct Limiter(Mutex<Debts>);

impl Limiter {
    /// How long clients of an address are refused after too many failures; `None` if they are not.
    pub(crate) fn blocks(&self, from: IpAddr, now: Timestamp) -> Option<Duration> {
        self.wait(Key::Address(network(from)), now)
    }

    /// The same for people.
    pub(crate) fn blocks_people(&self, from: IpAddr, now: Timestamp) -> Option<Duration> {
        self.wait(Key::Person(network(from)), now)
    }

    fn wait(&self, key: Key, now: Timestamp) -> Option<Duration> {
        let debts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if debts.0.is_empty() {
            return None;
        }
        debts.wait(key, now)
    }

    /// Counts a failed login of a person.
    pub(crate) fn count_person(&self, from: IpAddr, now: Timestamp) {
        let mut debts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        debts.make_room(1, now);
        // One more than the bound exceeds it either way.
        let _ = debts.add(Key::Person(network(from)), now);
    }

    /// Counts a failure of a client. Returns how long to wait if this client id has failed too often.
    pub(crate) fn count(
        &self,
        from: IpAddr,
        client: ClientId,
        now: Timestamp,
    ) -> (Counted, Option<Duration>) {
        let mut debts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        debts.make_room(2, now);
        let (address, client) = (Key::Address(network(from)), Key::Client(client));
        let is_over = debts.add(address, now).is_some();
        let wait = debts.add(client, now);
        (Counted([(!is_over).then_some(address), wait.is_none().then_some(client)]), wait)
    }

    /// Takes back a failure that was not a guess.
    pub(crate) fn take_back(&self, counted: &Counted, now: Timestamp) {
        let mut debts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in counted.0.iter().flatten() {
            debts.take_back(*key, now);
        }
    }

    /// Counts an attempt to log in. If the address has made too many, for how long.
    fn attempt(&self, from: IpAddr, now: Timestamp) -> Option<Duration> {
        let mut debts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        debts.make_room(1, now);
        debts.add(Key::Login(network(from)), now)
    }
}

/// An attempt to log in, or to do what takes a password, that was counted; and where it came from. Only
/// sending something is an attempt, looking is not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt(pub(crate) IpAddr);

impl FromRequestParts<App> for Attempt {
    type Rejection = Outcome;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Outcome> {
        let ClientAddress(from) = *parts.extensions.get().ok_or_else(Outcome::internal)?;
        if parts.method == Method::POST
            && let Some(wait) = app.limiter.attempt(from, app.now())
        {
            return Err(Outcome::throttled(wait));
        }
        Ok(Self(from))
    }
}

/// What is counted as one address: an IPv4 address, or the /64 that one IPv6 host can choose from.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_epoch_ms(1_000_000);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_blocked_after_its_burst_and_forgiven_with_time() {
        let limiter = Limiter::default();
        let from = address("192.0.2.1");
        for _ in 0..FAILURES_PER_ADDRESS_MAX {
            assert_eq!(limiter.blocks(from, START), None);
            limiter.count(from, ClientId::NIL, START);
        }
        let wait = limiter.blocks(from, START).unwrap();
        assert_eq!(limiter.blocks(address("::ffff:192.0.2.1"), START), Some(wait));
        assert_eq!(limiter.blocks(address("192.0.2.2"), START), None);
        let later = START.plus(Duration::from_millis(400));
        assert_eq!(limiter.blocks(from, later).map(|left| later.plus(left)), Some(START.plus(wait)));
        assert_eq!(limiter.blocks(from, START.plus(wait)), None);
    }

    #[test]
    fn a_client_id_guessed_at_from_everywhere_is_noticed() {
        let limiter = Limiter::default();
        let mut throttled = 0;
        for n in 0..FAILURES_PER_CLIENT_MAX + 5 {
            let from = IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
            throttled += u32::from(limiter.count(from, ClientId::NIL, START).1.is_some());
        }
        assert_eq!(throttled, 5);
    }

    #[test]
    fn taking_back_a_failure_keeps_the_others() {
        let limiter = Limiter::default();
        let from = address("192.0.2.1");
        let guesses: Vec<_> =
            (0..FAILURES_PER_ADDRESS_MAX).map(|_| limiter.count(from, ClientId::NIL, START).0).collect();
        let (beyond, wait) = limiter.count(from, ClientId::NIL, START);
        assert!(wait.is_some() && limiter.blocks(from, START).is_some());
        // It was counted against nothing, so nothing is taken back.
        limiter.take_back(&beyond, START);
        assert!(limiter.blocks(from, START).is_some());
        limiter.take_back(&guesses[0], START);
        assert_eq!(limiter.blocks(from, START), None);
        limiter.count(from, ClientId::NIL, START);
        assert!(limiter.blocks(from, START).is_some());
        // Long after, there is nothing left, and nothing below nothing.
        let later = START.plus(Duration::from_hours(1));
        for counted in &guesses {
            limiter.take_back(counted, later);
        }
        for _ in 0..FAILURES_PER_ADDRESS_MAX {
            assert_eq!(limiter.blocks(from, later), None);
            limiter.count(from, ClientId::NIL, later);
        }
        assert!(limiter.blocks(from, later).is_some());
    }

    #[test]
    fn attempts_to_log_in_come_back_one_by_one_and_are_counted_apart_from_failures() {
        let limiter = Limiter::default();
        let from = address("192.0.2.1");
        for _ in 0..LOGIN_ATTEMPTS_PER_ADDRESS_MAX {
            assert_eq!(limiter.attempt(from, START), None);
        }
        let wait = limiter.attempt(from, START).unwrap();
        assert_eq!((wait, limiter.blocks(from, START)), (LOGIN_ATTEMPT_FORGIVEN_AFTER, None));
        // What was refused was not counted.
        assert_eq!(limiter.attempt(from, START), Some(wait));
        assert_eq!(limiter.attempt(from, START.plus(wait)), None);
        assert_eq!(limiter.attempt(from, START.plus(wait)), Some(wait));
    }

    #[test]
    fn failures_of_people_and_of_clients_block_their_own_kind() {
        let limiter = Limiter::default();
        let (people, clients) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..FAILURES_PER_ADDRESS_MAX {
            limiter.count_person(people, START);
            limiter.count(clients, ClientId::NIL, START);
        }
        assert!(limiter.blocks_people(people, START).is_some() && limiter.blocks(clients, START).is_some());
        assert_eq!((limiter.blocks(people, START), limiter.blocks_people(clients, START)), (None, None));
    }

    #[test]
    fn one_ipv6_network_counts_as_one_address() {
        let limiter = Limiter::default();
        for n in 0..FAILURES_PER_ADDRESS_MAX {
            limiter.count(address(&format!("2001:db8::{n:x}")), ClientId::NIL, START);
        }
        assert!(limiter.blocks(address("2001:db8::ffff"), START).is_some());
        assert_eq!(limiter.blocks(address("2001:db8:0:1::1"), START), None);
    }

    #[test]
    fn a_flood_from_many_addresses_does_not_hide_a_guesser() {
        let limiter = Limiter::default();
        let guesser = address("2001:db8::1");
        for _ in 0..FAILURES_PER_ADDRESS_MAX {
            limiter.count(guesser, ClientId::NIL, START);
        }
        for n in 0..u32::try_from(FAILURE_KEYS_MAX).unwrap() * 2 {
            limiter.attempt(IpAddr::from(n.to_be_bytes()), START);
        }
        assert!(limiter.blocks(guesser, START).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = Limiter::default();
        for n in 0..u32::try_from(FAILURE_KEYS_MAX).unwrap() * 2 {
            limiter.count(IpAddr::from(n.to_be_bytes()), ClientId::NIL, START);
            limiter.attempt(IpAddr::from(n.to_be_bytes()), START);
        }
        assert!(limiter.0.lock().unwrap().0.len() <= FAILURE_KEYS_MAX);
    }
}
