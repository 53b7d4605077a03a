//! Counting by reason, with a bound on how many reasons there are.

use std::collections::BTreeMap;

/// How many reasons are told apart. What a service answers is not ours to bound otherwise.
const REASONS: usize = 64;

/// A longer reason is cut here, in bytes.
const REASON_BYTES: usize = 256;

/// Where everything is counted once the table is full.
const OTHERS: &str = "other reasons";

/// Numbers by reason. At most 64 reasons of 256 bytes are told apart; all that come later count as `other reasons`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<String, u64>);

impl Tally {
    /// Counts so many more for a reason.
    pub fn add(&mut self, reason: &str, count: u64) {
        if count == 0 {
            return;
        }
        let reason = cut(reason);
        if let Some(known) = self.0.get_mut(reason) {
            *known = known.saturating_add(count);
        } else if self.0.len() < REASONS {
            self.0.insert(reason.to_owned(), count);
        } else {
            // Takes one entry more than the bound, once.
            let others = self.0.entry(OTHERS.to_owned()).or_default();
            *others = others.saturating_add(count);
        }
    }

    /// How many there are for all reasons together.
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How many there are for a reason.
    pub fn get(&self, reason: &str) -> u64 {
        self.0.get(cut(reason)).copied().unwrap_or(0)
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The reasons, in the order of their text, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(reason, count)| (reason.as_str(), *count))
    }

    /// Adds everything that another one has counted.
    pub fn merge(&mut self, other: &Tally) {
        for (reason, count) in other.iter() {
            self.add(reason, count);
        }
    }
}

/// What a sink did with records other than pass them on whole, and what it met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SinkCounts {
    /// Records whose payload was cut, because they were too large for the sink.
    pub cut: Tally,
    /// Records that another sink took: `first -> second: why`.
    pub fallen: Tally,
    /// Pieces of what was taken earlier that were removed since, as the sink was told to; a file is one piece.
    pub removed: Tally,
    /// What went wrong without a record being lost or late by it, such as a file that could not be compressed yet.
    pub troubles: Tally,
}

impl SinkCounts {
    /// Adds everything that another sink has counted.
    pub fn merge(&mut self, other: &SinkCounts) {
        self.cut.merge(&other.cut);
        self.fallen.merge(&other.fallen);
        self.removed.merge(&other.removed);
        self.troubles.merge(&other.troubles);
    }
}

/// A reason as it is kept.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_without_end_are_counted_together_and_none_is_lost() {
        let mut tally = Tally::default();
        for number in 0..1000 {
            tally.add(&format!("reason {number}"), 1);
        }
        tally.add("reason 0", 1);
        assert_eq!((tally.total(), tally.get("reason 0"), tally.get("reason 999")), (1001, 2, 0));
        assert_eq!((tally.iter().count(), tally.get(OTHERS)), (REASONS + 1, 1000 - REASONS as u64));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut tally = Tally::default();
        let reason = "\u{e9}".repeat(200) + "x";
        tally.add(&reason, 3);
        assert_eq!(tally.get(&reason), 3);
        assert!(tally.iter().all(|(reason, _)| reason.len() <= REASON_BYTES));
    }
}
