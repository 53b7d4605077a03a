//! A set of numbers, kept as the stretches that it is made of.

use std::collections::BTreeMap;

/// First number of each stretch, and its last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(crate) fn new(ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self(ranges.into_iter().collect())
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// The lowest number.
    pub(crate) fn first(&self) -> Option<u64> {
        self.0.first_key_value().map(|(first, _)| *first)
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let Some((first, last)) = self.0.range(..=number).next_back().map(|(first, last)| (*first, *last)) else {
            return;
        };
        if last < number {
            return;
        }
        if first < number {
            self.0.insert(first, number - 1);
        } else {
            self.0.remove(&first);
        }
        if number < last {
            self.0.insert(number + 1, last);
        }
    }

    /// How many numbers it has.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(crate) fn insert(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let last = self.0.remove(&number.saturating_add(1)).unwrap_or(number);
        let before = self.0.range(..number).next_back().map(|(first, last)| (*first, *last));
        match before {
            Some((first, end)) if end + 1 == number => self.0.insert(first, last),
            _ => self.0.insert(number, last),
        };
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many stretches it has.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn to_vec(&self) -> Vec<(u64, u64)> {
        self.stretches().collect()
    }

    /// Inserts every number from `first` to `last`.
    pub(crate) fn add(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let (mut from, mut to) = (first, last);
        // What overlaps or touches it grows together with it.
        while let Some((begins, ends)) = self.0.range(..=to.saturating_add(1)).next_back().map(|(a, b)| (*a, *b))
            && ends.saturating_add(1) >= from
        {
            self.0.remove(&begins);
            (from, to) = (from.min(begins), to.max(ends));
        }
        self.0.insert(from, to);
    }

    /// Removes every number from `first` to `last`.
    pub(crate) fn subtract(&mut self, first: u64, last: u64) {
        while let Some((begins, ends)) = self.0.range(..=last).next_back().map(|(a, b)| (*a, *b))
            && ends >= first
        {
            self.0.remove(&begins);
            if ends > last {
                self.0.insert(last + 1, ends);
            }
            if begins < first {
                self.0.insert(begins, first - 1);
            }
        }
    }

    pub(crate) fn stretches(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_grow_together() {
        let mut ranges = Ranges::default();
        for number in [5, 1, 3, 2, 9, 4, 4] {
            ranges.insert(number);
        }
        assert_eq!(ranges.stretches().collect::<Vec<_>>(), [(1, 5), (9, 9)]);
        assert_eq!((ranges.count(), ranges.contains(4), ranges.contains(6)), (6, true, false));
    }

    #[test]
    fn stretches_come_and_go_as_in_any_set() {
        let (mut ranges, mut model) = (Ranges::default(), std::collections::BTreeSet::new());
        let mut seed = 11u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (first, last) = ((seed >> 33) % 60, (seed >> 33) % 60 + (seed >> 50) % 9);
            if seed >> 63 == 0 {
                ranges.add(first, last);
                model.extend(first..=last);
            } else {
                ranges.subtract(first, last);
                model.retain(|number| !(first..=last).contains(number));
            }
            assert_eq!((ranges.count(), ranges.first()), (model.len() as u64, model.first().copied()));
            assert!((0..70).all(|number| ranges.contains(number) == model.contains(&number)));
            let stretches = ranges.to_vec();
            assert!(
                stretches.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0),
                "neighbours grow together: {stretches:?}"
            );
        }
    }

    #[test]
    fn numbers_come_and_go_as_in_any_set() {
        let (mut ranges, mut model) = (Ranges::default(), std::collections::BTreeSet::new());
        let mut seed = 7u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (seed >> 33) % 60;
            if seed >> 63 == 0 {
                ranges.insert(number);
                model.insert(number);
            } else {
                ranges.remove(number);
                model.remove(&number);
            }
            assert_eq!((ranges.count(), ranges.first()), (model.len() as u64, model.first().copied()));
        }
        assert!((0..60).all(|number| ranges.contains(number) == model.contains(&number)));
    }
}
