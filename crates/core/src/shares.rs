//! How tenants share a bounded table. While the table has room, each tenant takes what it needs. When it is full, the
//! tenant with the most entries gives one up. So no tenant can fill the table at the expense of others.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// How one more entry gets its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room<G> {
    /// There is room.
    Free,
    /// The table is full: an entry of this tenant must be removed first. It may be the tenant that asks.
    TakenFrom(G),
}

/// How many entries of a bounded table each tenant has. The table itself is elsewhere.
#[derive(Clone, Debug)]
pub struct Shares<G> {
    max: usize,
    total: usize,
    counts: HashMap<G, usize>,
    by_count: BTreeSet<(usize, G)>,
}

impl<G: Copy + Eq + Hash + Ord> Shares<G> {
    /// Shares of a table with at most so many entries.
    #[must_use]
    pub fn of(max: usize) -> Self {
        Self { max, total: 0, counts: HashMap::new(), by_count: BTreeSet::new() }
    }

    /// How one more entry of a tenant gets its place. A full table takes it from the tenant with the most entries, or
    /// from the tenant that asks if no other would have more.
    #[must_use]
    pub fn room(&self, of: G) -> Room<G> {
        let own = self.count(of);
        match self.by_count.last() {
            Some((most, largest)) if self.total >= self.max => {
                Room::TakenFrom(if own > 0 && *most <= own + 1 { of } else { *largest })
            }
            _ => Room::Free,
        }
    }

    /// How many entries a tenant has.
    #[must_use]
    pub fn count(&self, of: G) -> usize {
        self.counts.get(&of).copied().unwrap_or_default()
    }

    /// How many entries there are.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }

    /// One more entry of a tenant.
    pub fn add(&mut self, of: G) {
        self.set(of, self.count(of) + 1);
    }

    /// So many fewer entries of a tenant.
    pub fn remove(&mut self, of: G, entries: usize) {
        self.set(of, self.count(of).saturating_sub(entries));
    }

    fn set(&mut self, of: G, count: usize) {
        let before = self.count(of);
        self.by_count.remove(&(before, of));
        self.total = self.total - before + count;
        if count == 0 {
            self.counts.remove(&of);
        } else {
            self.counts.insert(of, count);
            self.by_count.insert((count, of));
        }
    }
}

/// The most entries that each tenant may keep so that all together have at most `all`: tenants with fewer keep
/// theirs, and the others share the rest.
#[must_use]
pub fn fair_bound(counts: &[i64], all: i64) -> i64 {
    let mut counts = counts.to_vec();
    counts.sort_unstable();
    let mut left = all.max(0);
    let mut sharing = i64::try_from(counts.len()).unwrap_or(i64::MAX);
    for count in counts {
        let share = left.checked_div(sharing).unwrap_or(i64::MAX);
        if count > share {
            return share;
        }
        left -= count;
        sharing -= 1;
    }
    i64::MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_table_takes_from_the_one_that_has_most() {
        let mut shares = Shares::of(4);
        for of in [1, 1, 1, 2] {
            assert_eq!(shares.room(of), Room::Free);
            shares.add(of);
        }
        assert_eq!((shares.room(1), shares.room(3)), (Room::TakenFrom(1), Room::TakenFrom(1)));
        shares.remove(1, 1);
        shares.add(2);
        // One more of 1 would only move what each has to the other.
        assert_eq!((shares.room(1), shares.room(2)), (Room::TakenFrom(1), Room::TakenFrom(2)));
        shares.remove(1, 5);
        assert_eq!((shares.total(), shares.count(1), shares.room(1)), (2, 0, Room::Free));
    }

    proptest! {
        #[test]
        fn shares_stay_within_the_bound_and_are_fair(
            counts in prop::collection::vec(0_i64..1000, 1..20),
            all in 0_i64..5000,
        ) {
            let bound = fair_bound(&counts, all);
            let kept: i64 = counts.iter().map(|count| (*count).min(bound)).sum();
            prop_assert!(kept <= all);
            let share = all / i64::try_from(counts.len()).unwrap();
            prop_assert!(bound >= share);
            if counts.iter().sum::<i64>() <= all {
                prop_assert_eq!(bound, i64::MAX);
            }
        }

        #[test]
        fn a_table_that_makes_room_as_asked_is_never_over_its_bound(asked in prop::collection::vec(0_u8..5, 0..200)) {
            let mut shares = Shares::of(16);
            for of in asked {
                if let Room::TakenFrom(of) = shares.room(of) {
                    prop_assert!(shares.count(of) > 0);
                    shares.remove(of, 1);
                }
                shares.add(of);
                prop_assert!(shares.total() <= 16);
            }
        }
    }
}
