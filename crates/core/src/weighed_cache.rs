//! A memory of things that others choose the size of, bounded by what it holds in bytes and not by their number.
//! Shared by all threads.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::limits::CACHE_BYTES_MAX;

/// What each entry takes beside its value: its key, its place in the tables, and the counters of its pointer.
const ENTRY_BYTES: usize = 160;
/// Parts that are locked one by one. Few, so that one part has room for the heaviest value.
const SHARDS: usize = 4;
/// About how many values there are; for the size of the tables alone.
const VALUES_EXPECTED: usize = 8192;

/// Something that knows how much memory it holds.
pub trait Weighed {
    /// Bytes on the heap, by what was reserved and not by what is used of it.
    fn heap_bytes(&self) -> usize;
}

impl Weighed for String {
    fn heap_bytes(&self) -> usize {
        self.capacity()
    }
}

impl<T: Weighed> Weighed for Option<T> {
    fn heap_bytes(&self) -> usize {
        self.as_ref().map_or(0, T::heap_bytes)
    }
}

impl<T: Weighed> Weighed for Vec<T> {
    fn heap_bytes(&self) -> usize {
        self.capacity() * size_of::<T>() + self.iter().map(T::heap_bytes).sum::<usize>()
    }
}

/// A value with its weight, which is asked for at every eviction.
struct Entry<V> {
    bytes: u64,
    value: Arc<V>,
}

impl<V> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes, value: Arc::clone(&self.value) }
    }
}

#[derive(Clone)]
struct ByBytes;

impl<K, V> Weighter<K, Entry<V>> for ByBytes {
    fn weight(&self, _: &K, entry: &Entry<V>) -> u64 {
        entry.bytes
    }
}

/// See the module. What was not asked for in a while makes room.
pub struct WeighedCache<K, V>(Cache<K, Entry<V>, ByBytes>);

impl<K, V> fmt::Debug for WeighedCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeighedCache").finish_non_exhaustive()
    }
}

impl<K: Eq + Hash, V: Weighed> Default for WeighedCache<K, V> {
    fn default() -> Self {
        let mut options = OptionsBuilder::new();
        options
            .shards(SHARDS)
            .estimated_items_capacity(VALUES_EXPECTED)
            .weight_capacity(CACHE_BYTES_MAX as u64);
        let hasher = DefaultHashBuilder::default();
        Self(match options.build() {
            Ok(options) => Cache::with_options(options, ByBytes, hasher, DefaultLifecycle::default()),
            // Only where one of the options above is missing.
            Err(_) => Cache::with(
                VALUES_EXPECTED,
                CACHE_BYTES_MAX as u64,
                ByBytes,
                hasher,
                DefaultLifecycle::default(),
            ),
        })
    }
}

impl<K: Eq + Hash, V: Weighed> WeighedCache<K, V> {
    /// What is remembered under a key.
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        self.0.get(key).map(|entry| entry.value)
    }

    /// Remembers a value, unless it alone is too heavy.
    pub fn insert(&self, key: K, value: Arc<V>) {
        let bytes = ENTRY_BYTES + size_of::<K>() + size_of::<V>() + value.heap_bytes();
        self.0.insert(key, Entry { bytes: bytes as u64, value });
    }

    /// How much is held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.weight()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::AccessPolicy;
    use crate::scope::Scope;

    #[test]
    fn the_cache_stays_within_its_bytes_and_keeps_the_newest() {
        for value_bytes in [0, 2048, 300 * 1024] {
            let cache = WeighedCache::<u32, String>::default();
            for n in 0..20_000 {
                cache.insert(n, Arc::new(String::with_capacity(value_bytes)));
                if value_bytes > 2048 && n > 200 {
                    break;
                }
            }
            assert!(cache.bytes() <= CACHE_BYTES_MAX as u64, "{}", cache.bytes());
            assert!(cache.bytes() > CACHE_BYTES_MAX as u64 / 8, "it is used");
        }
        let cache = WeighedCache::<u32, String>::default();
        cache.insert(1, Arc::new(String::with_capacity(CACHE_BYTES_MAX)));
        assert_eq!(cache.bytes(), 0, "one that is heavier than all");
    }

    #[test]
    fn the_weight_is_what_is_reserved() {
        let text = |bytes| String::with_capacity(bytes);
        assert_eq!(Some(text(10)).heap_bytes(), 10);
        let mut texts = Vec::with_capacity(4);
        texts.extend([text(100), text(7)]);
        assert_eq!(texts.heap_bytes(), 4 * size_of::<String>() + 107);
    }

    /// What an outsider can have remembered: many tokens with long scopes, many policies with long rules.
    #[test]
    fn the_weight_of_scopes_and_policies_covers_their_memory() {
        let words =
            (0..28).map(|n| format!("system/ClientApplication.rs?name=a{n},b{n},c{n},d{n},e{n},f{n}&_id=x"));
        let text = words.collect::<Vec<_>>().join(" ");
        let scope = Scope::parse(&text).unwrap();
        assert!(scope.heap_bytes() > 4 * text.len(), "{} of {}", scope.heap_bytes(), text.len());
        let scopes = WeighedCache::<u32, Scope>::default();
        for n in 0..20_000 {
            scopes.insert(n, Arc::new(scope.clone()));
        }
        assert!(scopes.bytes() <= CACHE_BYTES_MAX as u64);

        let rule = json!({
            "resourceType": "ClientApplication",
            "criteria": "ClientApplication?name=x,y",
            "interaction": vec!["read"; 40],
        });
        let resource = json!({ "resourceType": "AccessPolicy", "resource": vec![rule; 90] });
        let policy = AccessPolicy::from_resource(resource.as_object().unwrap()).unwrap();
        let text = resource.to_string();
        assert!(policy.heap_bytes() > 2 * text.len(), "{} of {}", policy.heap_bytes(), text.len());
        let policies = WeighedCache::<u32, AccessPolicy>::default();
        for n in 0..500 {
            policies.insert(n, Arc::new(policy.clone()));
        }
        assert!(policies.bytes() <= CACHE_BYTES_MAX as u64);
        assert!(policies.get(&499).is_some());
    }
}
