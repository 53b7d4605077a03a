//! Order keys under which dead letters stand, where what follows a dead letter must not overtake it.

use std::collections::{HashMap, HashSet};

use crate::canal::group::letter::{Head, STREAMS};
use crate::error::Result;
use crate::format::term::Kind;
use crate::log::ledger::Ledger;
use crate::log::terms::Filter;
use crate::store::Store;
use crate::sync::guard;
use crate::sync::primitive::Mutex;

/// The keys that are parked. What tells them is the stream of dead letters itself.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// Dead letters that are neither gone nor on their way again, by order key.
    keys: HashMap<u64, Vec<Letter>>,
    /// Whether the group parks at all.
    parks: bool,
    /// Whether the dead letters have to be read again: some of them are gone.
    is_stale: bool,
}

#[derive(Clone, Copy, Debug)]
struct Letter {
    source: u64,
    /// Its revision among the dead letters. The highest number there is for one that was not written yet.
    number: u64,
}

/// So many dead letters are looked for one by one.
const FEW: usize = 64;

impl Parked {
    /// Not read yet.
    pub(super) fn unread(parks: bool) -> Self {
        Self { keys: HashMap::new(), parks, is_stale: parks }
    }

    /// Dead letters went away.
    pub(super) fn set_stale(&mut self) {
        self.is_stale = self.parks;
    }

    /// These dead letters, by number, source and order key, are on their way again. Few of them are found here: to read all
    /// dead letters again for each would make a slow redrive of many take for ever.
    pub(super) fn redriven(&mut self, all: &[(u64, u64, Option<u64>)]) {
        if all.len() > FEW {
            return self.set_stale();
        }
        for (number, source, key) in all {
            let mut none = Vec::new();
            let letters = key.and_then(|key| self.keys.get_mut(&key)).unwrap_or(&mut none);
            match &letters[..] {
                [one] if one.source == *source => letters.clear(),
                // Which of the others came into being before it has to be known.
                more if more.iter().any(|letter| letter.number == u64::MAX) => return self.set_stale(),
                more => match more.iter().position(|letter| letter.number == *number) {
                    Some(at) => _ = letters.swap_remove(at),
                    None => return self.set_stale(),
                },
            }
        }
    }

    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Whether an event must not be handed out because of a dead letter before it under its key. One that is a dead
    /// letter itself, with this number, and redriven, is held up by those only that came into being after it.
    pub(super) fn holds_up(&self, key: u64, position: u64, number: u64) -> bool {
        let letters = self.keys.get(&key).map_or(&[][..], |letters| letters);
        letters.iter().any(|letter| letter.source < position && letter.number > number)
    }

    /// An event becomes a dead letter.
    pub(super) fn add(&mut self, key: Option<u64>, position: u64) {
        if let Some(key) = key {
            self.keys.entry(key).or_default().push(Letter { source: position, number: u64::MAX });
        }
    }

    /// Reads the dead letters again where that has to be. Everything that was decided must have been written.
    pub(super) fn refresh(&mut self, store: &Store, group: &str, ledger: &Mutex<Ledger>) -> Result<()> {
        if !std::mem::take(&mut self.is_stale) {
            return Ok(());
        }
        self.keys.clear();
        let (gone, on_their_way) = {
            let ledger = guard(ledger);
            let on_their_way: HashSet<u64> = ledger.histories.values().map(|history| history.letter).collect();
            (ledger.gone.clone(), on_their_way)
        };
        let stream = format!("{STREAMS}{group}").into_bytes();
        // A dead letter that cannot be read parks nothing.
        for letter in store.read_filtered(Filter::Exactly(Kind::Stream, stream)).flatten() {
            let number = letter.revision().get();
            if gone.contains(number) || on_their_way.contains(&number) {
                continue;
            }
            if let Some((key, source)) = Head::of(&letter).and_then(|head| Some((head.key?, head.position.get()))) {
                self.keys.entry(key).or_default().push(Letter { source, number });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u64 = 7;

    /// With dead letters of these numbers and sources.
    fn parked(letters: &[(u64, u64)]) -> Parked {
        let letters = letters.iter().map(|(number, source)| Letter { source: *source, number: *number });
        Parked { keys: HashMap::from([(KEY, letters.collect())]), parks: true, is_stale: false }
    }

    #[test]
    fn a_dead_letter_that_is_redriven_holds_up_nothing_and_the_others_need_not_be_read_again() {
        let mut parked = parked(&[(1, 1), (2, 5)]);
        parked.redriven(&[(1, 1, Some(KEY))]);
        assert!(!parked.is_stale() && !parked.holds_up(KEY, 4, 0) && parked.holds_up(KEY, 6, 0));
        parked.redriven(&[(2, 5, Some(KEY))]);
        assert!(!parked.is_stale() && !parked.holds_up(KEY, 6, 0));
        parked.add(Some(KEY), 7);
        parked.redriven(&[(3, 7, Some(KEY))]);
        assert!(!parked.is_stale() && !parked.holds_up(KEY, 9, 0), "the only one needs no number");
    }

    #[test]
    fn where_it_is_not_known_which_ones_came_before_it_all_are_read_again() {
        let mut added = parked(&[(1, 1)]);
        added.add(Some(KEY), 5);
        added.redriven(&[(1, 1, Some(KEY))]);
        assert!(added.is_stale());
        for (number, source, key) in [(2, 2, Some(KEY)), (1, 1, Some(8)), (1, 1, None)] {
            let mut unknown = parked(&[(1, 1)]);
            unknown.redriven(&[(number, source, key)]);
            assert!(unknown.is_stale(), "{source}, {key:?}");
        }
    }
}
