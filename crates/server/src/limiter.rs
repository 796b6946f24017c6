//! Counts failed proofs per address and per client id, so that secrets cannot be guessed (RFC 6749
//! §2.3.1). An address that fails too often is turned away before it is heard. A client id that is
//! guessed at too often is *not*: a flood of wrong secrets must not lock the right one out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keyrelay_core::id::ClientId;
use keyrelay_core::limits::{
    FAILURE_FORGIVEN_AFTER, FAILURE_KEYS_MAX, FAILURES_PER_ADDRESS_MAX, FAILURES_PER_CLIENT_MAX,
};
use keyrelay_core::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    Client(ClientId),
}

/// Remembers failures, a bounded number of them.
#[derive(Debug, Default)]
pub(crate) struct FailureLimiter {
    /// When each key will be forgiven all it did. The generic cell rate algorithm.
    forgiven_at: Mutex<HashMap<Key, Timestamp>>,
}

impl FailureLimiter {
    /// Whether an address has failed too often to be heard now.
    pub(crate) fn blocks(&self, from: IpAddr, now: Timestamp) -> bool {
        let forgiven_at = self.forgiven_at.lock().unwrap_or_else(PoisonError::into_inner);
        if forgiven_at.is_empty() {
            return false;
        }
        let debt = forgiven_at.get(&Key::Address(network(from))).map_or(Duration::ZERO, |at| at.since(now));
        debt >= FAILURE_FORGIVEN_AFTER * FAILURES_PER_ADDRESS_MAX
    }

    /// Counts a failure. True if this client id has been guessed at too often.
    pub(crate) fn count(&self, from: IpAddr, client: ClientId, now: Timestamp) -> bool {
        let mut forgiven_at = self.forgiven_at.lock().unwrap_or_else(PoisonError::into_inner);
        if forgiven_at.len() + 2 > FAILURE_KEYS_MAX {
            forgiven_at.retain(|_, at| *at > now);
        }
        if forgiven_at.len() + 2 > FAILURE_KEYS_MAX {
            // A flood from everywhere: keep bounded, start over, and say so.
            tracing::warn!(
                "more than {FAILURE_KEYS_MAX} addresses and client ids failed at once; forgetting them"
            );
            forgiven_at.clear();
        }
        let mut add = |key, max: u32| {
            let at = forgiven_at.entry(key).or_insert(now);
            let debt = at.since(now);
            if debt < FAILURE_FORGIVEN_AFTER * max {
                *at = now.plus(debt + FAILURE_FORGIVEN_AFTER);
            }
            debt >= FAILURE_FORGIVEN_AFTER * max
        };
        add(Key::Address(network(from)), FAILURES_PER_ADDRESS_MAX);
        add(Key::Client(client), FAILURES_PER_CLIENT_MAX)
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
        let limiter = FailureLimiter::default();
        let from = address("192.0.2.1");
        for _ in 0..FAILURES_PER_ADDRESS_MAX {
            assert!(!limiter.blocks(from, START));
            limiter.count(from, ClientId::NIL, START);
        }
        assert!(limiter.blocks(from, START));
        assert!(limiter.blocks(address("::ffff:192.0.2.1"), START));
        assert!(!limiter.blocks(address("192.0.2.2"), START));
        assert!(!limiter.blocks(from, START.plus(FAILURE_FORGIVEN_AFTER)));
    }

    #[test]
    fn a_client_id_guessed_at_from_everywhere_is_noticed() {
        let limiter = FailureLimiter::default();
        let mut throttled = 0;
        for n in 0..FAILURES_PER_CLIENT_MAX + 5 {
            let from = IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
            throttled += u32::from(limiter.count(from, ClientId::NIL, START));
        }
        assert_eq!(throttled, 5);
    }

    #[test]
    fn one_ipv6_network_counts_as_one_address() {
        let limiter = FailureLimiter::default();
        for n in 0..FAILURES_PER_ADDRESS_MAX {
            limiter.count(address(&format!("2001:db8::{n:x}")), ClientId::NIL, START);
        }
        assert!(limiter.blocks(address("2001:db8::ffff"), START));
        assert!(!limiter.blocks(address("2001:db8:0:1::1"), START));
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = FailureLimiter::default();
        for n in 0..u32::try_from(FAILURE_KEYS_MAX).unwrap() * 2 {
            limiter.count(IpAddr::from(n.to_be_bytes()), ClientId::NIL, START);
        }
        assert!(limiter.forgiven_at.lock().unwrap().len() <= FAILURE_KEYS_MAX);
    }
}
