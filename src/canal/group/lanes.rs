//! Unsettled deliveries that wait to be handed out: the order of each key, and the times before which they may not come.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::id::Timestamp;
use crate::log::ledger::ranges::Ranges;

/// Everything that waits. A delivery with an order key stands in the lane of its key, and a lane moves only when nothing
/// of it is in somebody's hands; one without stands by itself.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Those without a key that may come. After a crash there may be millions, most of them one after the other.
    loose: Ranges,
    keyed: HashMap<u64, Lane>,
    /// Lanes that may move: first position, key.
    ready: BTreeSet<(u64, u64)>,
    /// By time and position. With the key of a lane that waits as a whole.
    delayed: BTreeMap<(Timestamp, u64), Option<u64>>,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: BTreeSet<u64>,
    /// How many are in the hands of the claim.
    in_hand: u32,
    claim: u64,
    /// How many of those that wait may not come yet; the lane waits for them.
    delayed: u32,
    /// The position under which it stands among those that may move.
    listed: Option<u64>,
}

impl Lanes {
    /// Adds a delivery that waits, not before a time if one is given.
    pub(super) fn put(&mut self, position: u64, key: Option<u64>, not_before: Option<Timestamp>) {
        if let Some(time) = not_before {
            self.delayed.insert((time, position), key);
        }
        match key {
            None if not_before.is_none() => self.loose.insert(position),
            None => {}
            Some(key) => {
                let lane = self.keyed.entry(key).or_default();
                lane.waiting.insert(position);
                lane.delayed += u32::from(not_before.is_some());
                self.relist(key);
            }
        }
    }

    /// Lets come what may come by now.
    pub(super) fn pass(&mut self, now: Timestamp) {
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().0 <= now
        {
            let ((_, position), key) = entry.remove_entry();
            match key {
                None => self.loose.insert(position),
                Some(key) => {
                    if let Some(lane) = self.keyed.get_mut(&key) {
                        lane.delayed -= 1;
                    }
                    self.relist(key);
                }
            }
        }
    }

    /// When the next one may come that may not yet.
    pub(super) fn next_time(&self) -> Option<Timestamp> {
        self.delayed.first_key_value().map(|((time, _), _)| *time)
    }

    /// The first that may be handed out, in the order of the log.
    pub(super) fn first(&self) -> Option<(u64, Option<u64>)> {
        let loose = self.loose.first().map(|position| (position, None));
        let keyed = self.ready.first().map(|(position, key)| (*position, Some(*key)));
        match (loose, keyed) {
            (Some(loose), Some(keyed)) => Some(if loose.0 < keyed.0 { loose } else { keyed }),
            (loose, keyed) => loose.or(keyed),
        }
    }

    /// The next of a key that may go to the claim that has what came before.
    pub(super) fn next_of(&self, key: u64, claim: u64) -> Option<u64> {
        let lane = self.keyed.get(&key)?;
        (lane.delayed == 0 && lane.claim == claim).then(|| lane.waiting.first().copied()).flatten()
    }

    /// Takes one that waits out: it is handed out, or it ends.
    pub(super) fn take(&mut self, position: u64, key: Option<u64>) {
        match key {
            None => self.loose.remove(position),
            Some(key) => {
                if let Some(lane) = self.keyed.get_mut(&key) {
                    lane.waiting.remove(&position);
                }
                self.relist(key);
            }
        }
    }

    /// Whether a new event of this key may go to a claim now, or must wait for its turn.
    pub(super) fn is_free(&self, key: u64, claim: u64) -> bool {
        self.keyed.get(&key).is_none_or(|lane| lane.waiting.is_empty() && (lane.in_hand == 0 || lane.claim == claim))
    }

    /// One of this key goes into the hands of a claim.
    pub(super) fn begin(&mut self, key: Option<u64>, claim: u64) {
        let Some(key) = key else { return };
        let lane = self.keyed.entry(key).or_default();
        lane.in_hand += 1;
        lane.claim = claim;
        self.relist(key);
    }

    /// One of this key is in nobody's hands any more.
    pub(super) fn finish(&mut self, key: Option<u64>) {
        let Some(key) = key else { return };
        if let Some(lane) = self.keyed.get_mut(&key) {
            lane.in_hand -= 1;
        }
        self.relist(key);
    }

    fn relist(&mut self, key: u64) {
        let Some(lane) = self.keyed.get_mut(&key) else { return };
        let may_move = lane.in_hand == 0 && lane.delayed == 0;
        let listed = if may_move { lane.waiting.first().copied() } else { None };
        if listed != lane.listed {
            if let Some(position) = lane.listed {
                self.ready.remove(&(position, key));
            }
            if let Some(position) = listed {
                self.ready.insert((position, key));
            }
            lane.listed = listed;
        }
        if lane.in_hand == 0 && lane.waiting.is_empty() {
            self.keyed.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u64 = 7;

    #[test]
    fn a_lane_moves_only_when_nothing_of_it_is_in_hand() {
        let mut lanes = Lanes::default();
        lanes.begin(Some(KEY), 1);
        assert!(lanes.is_free(KEY, 1) && !lanes.is_free(KEY, 2) && lanes.is_free(8, 2));
        lanes.put(5, Some(KEY), None);
        lanes.put(6, None, None);
        assert_eq!((lanes.first(), lanes.is_free(KEY, 1)), (Some((6, None)), false));
        lanes.finish(Some(KEY));
        assert_eq!(lanes.first(), Some((5, Some(KEY))));
        lanes.take(5, Some(KEY));
        lanes.take(6, None);
        assert!(lanes.keyed.is_empty() && lanes.ready.is_empty() && lanes.loose.first().is_none());
    }

    #[test]
    fn what_waits_for_its_time_holds_up_its_key_and_nobody_else() {
        let mut lanes = Lanes::default();
        let soon = Timestamp::from_nanos(10);
        lanes.put(1, Some(KEY), Some(soon));
        lanes.put(2, Some(KEY), None);
        lanes.put(3, None, Some(soon));
        lanes.put(4, None, None);
        assert_eq!((lanes.first(), lanes.next_time()), (Some((4, None)), Some(soon)));
        lanes.pass(Timestamp::from_nanos(9));
        assert_eq!(lanes.first(), Some((4, None)));
        lanes.pass(soon);
        assert_eq!((lanes.first(), lanes.next_time()), (Some((1, Some(KEY))), None));
    }
}
