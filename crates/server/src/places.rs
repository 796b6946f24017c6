//! How many connections may be open: so many in all, and so many from one address, so that no single
//! host takes every place. This machine and trusted proxies speak for many and are bounded in all only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use keyrelay_core::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::TrustedProxies;
use crate::limiter::network;

type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The places of one server.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    of_address: Counts,
    proxies: TrustedProxies,
}

/// The place of one connection, free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    counted: Option<(Counts, IpAddr)>,
}

impl Places {
    pub(crate) fn new(proxies: TrustedProxies) -> Self {
        Self { all: Arc::new(Semaphore::new(CONNECTIONS_MAX)), of_address: Counts::default(), proxies }
    }

    /// Waits until there is a place for anybody.
    pub(crate) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// Gives a place to a connection. `None` if its address has as many as it may.
    pub(crate) fn take(&self, permit: OwnedSemaphorePermit, peer: IpAddr) -> Option<Place> {
        let peer = peer.to_canonical();
        if peer.is_loopback() || self.proxies.contains(peer) {
            return Some(Place { _permit: permit, counted: None });
        }
        let network = network(peer);
        let mut counts = self.of_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { _permit: permit, counted: Some((Arc::clone(&self.of_address), network)) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((counts, network)) = &self.counted else { return };
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(places: &Places, peer: &str) -> Option<Place> {
        let permit = places.free().await.unwrap();
        places.take(permit, peer.parse().unwrap())
    }

    async fn fill(places: &Places, peer: &str) -> Vec<Place> {
        let mut taken = Vec::new();
        while taken.len() < CONNECTIONS_PER_ADDRESS_MAX {
            taken.push(take(places, peer).await.unwrap());
        }
        taken
    }

    #[tokio::test]
    async fn an_address_has_so_many_places_and_gets_them_back() {
        let places = Places::new(TrustedProxies::default());
        let mut taken = fill(&places, "192.0.2.1").await;
        assert!(take(&places, "192.0.2.1").await.is_none());
        assert!(take(&places, "::ffff:192.0.2.1").await.is_none());
        assert!(take(&places, "192.0.2.2").await.is_some());
        taken.pop();
        let again = take(&places, "192.0.2.1").await;
        assert!(again.is_some() && take(&places, "192.0.2.1").await.is_none());
        drop((taken, again));
        assert!(places.of_address.lock().unwrap().is_empty());
        assert_eq!(places.all.available_permits(), CONNECTIONS_MAX);
    }

    #[tokio::test]
    async fn a_network_of_ipv6_counts_as_one_address() {
        let places = Places::new(TrustedProxies::default());
        let _taken = fill(&places, "2001:db8::1").await;
        assert!(take(&places, "2001:db8::ffff").await.is_none());
        assert!(take(&places, "2001:db8:0:1::1").await.is_some());
    }

    #[tokio::test]
    async fn this_machine_and_trusted_proxies_are_bounded_in_all_only() {
        let places = Places::new(TrustedProxies::parse(&["10.0.0.0/8"]).unwrap());
        for peer in ["127.0.0.1", "::1", "10.1.2.3"] {
            let _taken = fill(&places, peer).await;
            assert!(take(&places, peer).await.is_some(), "{peer}");
        }
    }
}
