//! Bounds the open connections: of the server, and of one address, so that no single host takes every place. This
//! machine and trusted proxies forward for many clients, and may have most places. Beyond these bounds, a small
//! reserve
//! answers the health routes, and refuses other requests because the server is full.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use keyrelay_core::limits::{
    CONNECTION_RESERVE_MAX, CONNECTION_RESERVE_PER_ADDRESS_MAX, CONNECTIONS_OF_MANY_PERCENT,
    CONNECTIONS_PER_ADDRESS_MAX,
};

use crate::TrustedProxies;
use crate::limiter::network;

/// What a connection may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything.
    Ordinary,
    /// One request, because the server or the address has no ordinary place left.
    Reserve,
}

#[derive(Debug, Default)]
struct Count {
    ordinary: usize,
    reserve: usize,
}

impl Count {
    const fn of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Ordinary => &mut self.ordinary,
            Kind::Reserve => &mut self.reserve,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    all: Count,
    of_address: HashMap<IpAddr, Count>,
}

/// The places of one server.
#[derive(Debug)]
pub(crate) struct Places {
    counts: Arc<Mutex<Counts>>,
    max: usize,
    proxies: TrustedProxies,
}

/// The place of one connection, free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    address: IpAddr,
    counts: Arc<Mutex<Counts>>,
}

impl Places {
    /// Creates so many ordinary places, and the reserve.
    pub(crate) fn new(max: usize, proxies: TrustedProxies) -> Self {
        Self { counts: Arc::default(), max, proxies }
    }

    /// Takes a place for a connection. `None` if the reserve has no place for it either.
    pub(crate) fn take(&self, peer: IpAddr) -> Option<Place> {
        let peer = peer.to_canonical();
        let of_many = (self.max * CONNECTIONS_OF_MANY_PERCENT).div_ceil(100);
        let (address, most) = if peer.is_loopback() {
            (IpAddr::V4(Ipv4Addr::LOCALHOST), of_many)
        } else if self.proxies.contains(peer) {
            (peer, of_many)
        } else {
            (network(peer), CONNECTIONS_PER_ADDRESS_MAX)
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { all, of_address } = &mut *counts;
        let own = of_address.entry(address).or_default();
        let kind = if all.ordinary < self.max && own.ordinary < most {
            Kind::Ordinary
        } else if all.reserve < CONNECTION_RESERVE_MAX && own.reserve < CONNECTION_RESERVE_PER_ADDRESS_MAX {
            Kind::Reserve
        } else {
            // An address without a place needs no entry.
            if own.ordinary == 0 && own.reserve == 0 {
                of_address.remove(&address);
            }
            return None;
        };
        *own.of(kind) += 1;
        *all.of(kind) += 1;
        Some(Place { kind, address, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.all.of(self.kind) -= 1;
        if let Some(count) = counts.of_address.get_mut(&self.address) {
            *count.of(self.kind) -= 1;
            if count.ordinary == 0 && count.reserve == 0 {
                counts.of_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use keyrelay_core::limits::CONNECTIONS_MAX;

    use super::*;

    fn places(max: usize) -> Places {
        Places::new(max, TrustedProxies::parse(&["10.0.0.0/8"]).unwrap())
    }

    fn take(places: &Places, peer: &str) -> Option<Place> {
        places.take(peer.parse().unwrap())
    }

    fn kind(places: &Places, peer: &str) -> Option<Kind> {
        take(places, peer).map(|place| place.kind)
    }

    /// Takes all that an address gets.
    fn fill(places: &Places, peer: &str) -> Vec<Place> {
        std::iter::from_fn(|| take(places, peer)).collect()
    }

    fn ordinary(taken: &[Place]) -> usize {
        taken.iter().filter(|place| place.kind == Kind::Ordinary).count()
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let places = places(CONNECTIONS_MAX);
        let mut taken = fill(&places, "192.0.2.1");
        assert_eq!(ordinary(&taken), CONNECTIONS_PER_ADDRESS_MAX);
        assert_eq!(taken.len(), CONNECTIONS_PER_ADDRESS_MAX + CONNECTION_RESERVE_PER_ADDRESS_MAX);
        assert!(take(&places, "::ffff:192.0.2.1").is_none());
        assert_eq!(kind(&places, "192.0.2.2"), Some(Kind::Ordinary));
        drop(taken.remove(0));
        assert_eq!(kind(&places, "192.0.2.1"), Some(Kind::Ordinary));
        drop(taken);
        let counts = places.counts.lock().unwrap();
        assert!(counts.of_address.is_empty() && counts.all.ordinary == 0 && counts.all.reserve == 0);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let places = places(CONNECTIONS_MAX);
        let _taken = fill(&places, "2001:db8::1");
        assert!(take(&places, "2001:db8::ffff").is_none());
        assert!(take(&places, "2001:db8:0:1::1").is_some());
    }

    #[test]
    fn this_machine_or_a_proxy_has_most_places_and_leaves_some() {
        let places = places(CONNECTIONS_MAX);
        for (peer, again) in [("127.0.0.1", "127.0.0.2"), ("::1", "127.0.0.1"), ("10.1.2.3", "10.1.2.3")] {
            let taken = fill(&places, peer);
            assert_eq!(ordinary(&taken), CONNECTIONS_MAX / 100 * CONNECTIONS_OF_MANY_PERCENT, "{peer}");
            assert_eq!(kind(&places, again), None, "{peer}");
            assert_eq!(kind(&places, "192.0.2.1"), Some(Kind::Ordinary), "{peer}");
        }
    }

    #[test]
    fn the_reserve_is_shared_between_addresses() {
        let places = places(2);
        let taken = [take(&places, "192.0.2.1"), take(&places, "192.0.2.2")];
        assert!(taken.iter().flatten().all(|place| place.kind == Kind::Ordinary));
        let of_one = fill(&places, "192.0.2.1");
        assert_eq!((of_one.len(), ordinary(&of_one)), (CONNECTION_RESERVE_PER_ADDRESS_MAX, 0));
        for peer in ["127.0.0.1", "10.1.2.3", "192.0.2.9"] {
            assert_eq!(kind(&places, peer), Some(Kind::Reserve), "{peer}");
        }
        let many: Vec<_> = (0..=u8::MAX).filter_map(|n| take(&places, &format!("198.51.100.{n}"))).collect();
        assert_eq!(many.len() + of_one.len(), CONNECTION_RESERVE_MAX);
        drop(taken);
        assert_eq!(kind(&places, "192.0.2.9"), Some(Kind::Ordinary));
    }
}
