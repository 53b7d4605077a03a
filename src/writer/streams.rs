//! Where the streams stand that were written to lately: bounded, and forgetting what was not used for longest.

use std::collections::VecDeque;

use crate::format::term::Term;
use crate::format::{u16_at, u64_at};
use crate::id::{Position, Revision};

/// Bytes of names and revisions: a million streams with names of up to 14 letters.
const RING: usize = if cfg!(test) { 3 << 18 } else { 24 << 20 };
/// The table grows up to so many buckets, 16 MiB.
const BUCKETS_MAX: usize = (RING / 128).next_power_of_two();
const BUCKETS_MIN: usize = 64;
/// Slots of a bucket: one cache line.
const SLOTS: usize = 8;

/// Entries begin at multiples of this.
const UNIT: usize = 8;
const RING_UNITS: u64 = (RING / UNIT) as u64;
/// What was used within half of the ring, less some names, is surely remembered.
const SURE_UNITS: u64 = RING_UNITS / 2 - 1024;
/// How often it is noted which position the ring had come to.
const MARK_UNITS: u64 = SURE_UNITS / 64;

/// Bytes of an entry before its name: revision, length of the name.
const FIXED: usize = 8 + 2;

/// A bounded memory of streams and their revisions.
///
/// Names lie in a ring, in the order in which they came or came again: who is used while in the older half of the ring
/// moves to its front. So a stream that is not remembered has no event within the last half ring, and only the log
/// before that has to be asked for it: see [`since`](Streams::since).
#[derive(Debug)]
pub(crate) struct Streams {
    ring: Vec<u8>,
    /// Units ever put into the ring. The next entry goes there, modulo the ring.
    front: u64,
    /// Each slot: 32 bits of the hash, and where the entry is, in units, of which the lowest 32 bits are kept. 0: empty.
    table: Vec<[u64; SLOTS]>,
    /// Slots that are not empty.
    used: usize,
    /// The bucket that is cleared of old slots next.
    sweep: usize,
    /// Where the front was when a position came, rising.
    marks: VecDeque<(u64, Position)>,
    since: Position,
}

impl Streams {
    /// Empty. Streams have no events from `since` on.
    pub(crate) fn new(since: Position) -> Self {
        Self {
            ring: Vec::new(),
            front: 0,
            table: vec![[0; SLOTS]; BUCKETS_MIN],
            used: 0,
            sweep: 0,
            marks: VecDeque::new(),
            since,
        }
    }

    /// A stream that is not remembered has no event at this position or behind it.
    pub(crate) fn since(&self) -> Position {
        self.since
    }

    /// Where a stream stands, if it is remembered.
    pub(crate) fn get(&self, term: Term, name: &[u8]) -> Option<Revision> {
        let (bucket, slot) = self.find(term, name)?;
        Some(self.revision(self.place(self.table[bucket][slot])))
    }

    /// Moves a stream that is remembered one on, with an event at position `at`, and tells where it stands then.
    pub(crate) fn advance(&mut self, term: Term, name: &[u8], at: Position) -> Option<Revision> {
        let (bucket, slot) = self.find(term, name)?;
        let entry = self.table[bucket][slot];
        let place = self.place(entry);
        let revision = self.revision(place).next();
        if self.age(entry) <= SURE_UNITS {
            self.ring[place..place + 8].copy_from_slice(&revision.get().to_le_bytes());
        } else {
            self.table[bucket][slot] = self.put(term, name, revision, at);
        }
        Some(revision)
    }

    /// Remembers where a stream stands that is not remembered, as of position `at`, the next that is written.
    pub(crate) fn set(&mut self, term: Term, name: &[u8], revision: Revision, at: Position) {
        if self.used * 4 > self.table.len() * SLOTS * 3 && self.table.len() < BUCKETS_MAX {
            self.grow();
        }
        let entry = self.put(term, name, revision, at);
        self.insert(entry, at);
    }

    /// Forgets everything: a write failed, and what was remembered may be ahead of the log, which goes on at `next`.
    pub(crate) fn clear(&mut self, next: Position) {
        *self = Self::new(next);
    }

    fn find(&self, term: Term, name: &[u8]) -> Option<(usize, usize)> {
        let tag = term.0 >> 32;
        for bucket in self.buckets(tag) {
            for (slot, entry) in self.table[bucket].iter().enumerate() {
                if entry >> 32 == tag && self.is_live(*entry) && self.name(self.place(*entry)) == name {
                    return Some((bucket, slot));
                }
            }
        }
        None
    }

    /// The two buckets that a slot may be in.
    fn buckets(&self, tag: u64) -> [usize; 2] {
        let bits = self.table.len().trailing_zeros();
        // Fibonacci hashing of the same 32 bits for the second one.
        let second = (tag as u32).wrapping_mul(0x9e37_79b1);
        [(tag >> (32 - bits)) as usize, (second >> (32 - bits)) as usize]
    }

    /// Puts a slot into the emptier one of its buckets. When both are full another one moves to where it is free, or else
    /// the oldest goes.
    fn insert(&mut self, entry: u64, at: Position) {
        let [first, second] = self.buckets(entry >> 32);
        let free = |bucket: usize| self.table[bucket].iter().filter(|old| !self.is_live(**old)).count();
        let emptier = if free(first) >= free(second) { first } else { second };
        if self.insert_in(emptier, entry) {
            return;
        }
        let (mut oldest, mut oldest_age) = ((first, 0), 0);
        for (bucket, slot) in [first, second].into_iter().flat_map(|bucket| (0..SLOTS).map(move |slot| (bucket, slot)))
        {
            let old = self.table[bucket][slot];
            let [one, other] = self.buckets(old >> 32);
            if self.insert_in(if one == bucket { other } else { one }, old) {
                self.table[bucket][slot] = entry;
                return;
            }
            if self.age(old) > oldest_age {
                (oldest, oldest_age) = ((bucket, slot), self.age(old));
            }
        }
        self.since = self.since.max(self.behind(self.table[oldest.0][oldest.1], at));
        self.table[oldest.0][oldest.1] = entry;
    }

    /// Puts a slot into a bucket, unless that is full.
    fn insert_in(&mut self, bucket: usize, entry: u64) -> bool {
        let Some(free) = (0..SLOTS).find(|slot| !self.is_live(self.table[bucket][*slot])) else { return false };
        self.used += usize::from(self.table[bucket][free] == 0);
        self.table[bucket][free] = entry;
        true
    }

    /// A position behind all events of a stream that is remembered, given `at`, the next that is written.
    fn behind(&self, entry: u64, at: Position) -> Position {
        // Events move an entry, or change it in its place for as long as the front is no further from it than this.
        let changed_until = self.front - self.age(entry) + SURE_UNITS;
        let later = self.marks.partition_point(|(front, _)| *front <= changed_until);
        self.marks.get(later).map_or(at, |(_, position)| *position)
    }

    /// Puts an entry to the front of the ring, over the oldest ones. Gives its slot.
    fn put(&mut self, term: Term, name: &[u8], revision: Revision, at: Position) -> u64 {
        self.clear_old_slots();
        let units = (FIXED + name.len()).div_ceil(UNIT) as u64;
        let left = RING_UNITS - self.front % RING_UNITS;
        if left < units {
            self.front += left; // an entry lies in one piece
        }
        self.front += u64::from(self.front as u32 == 0); // so that no slot is 0
        let start = (self.front % RING_UNITS) as usize * UNIT;
        if self.ring.len() < start + units as usize * UNIT {
            // The first time round. Doubling, as a vector does, would hold the ring twice while it moves.
            self.ring.reserve_exact(RING - self.ring.len());
            self.ring.resize(start + units as usize * UNIT, 0);
        }
        self.ring[start..start + 8].copy_from_slice(&revision.get().to_le_bytes());
        self.ring[start + 8..start + FIXED].copy_from_slice(&(name.len() as u16).to_le_bytes());
        self.ring[start + FIXED..start + FIXED + name.len()].copy_from_slice(name);
        let slot = (term.0 >> 32) << 32 | self.front & u64::from(u32::MAX);
        self.front += units;
        self.note(at);
        slot
    }

    /// Notes how far the ring has come, and with that since when everything is surely remembered.
    fn note(&mut self, at: Position) {
        if self.marks.back().is_none_or(|(front, _)| front + MARK_UNITS <= self.front) {
            self.marks.push_back((self.front, at));
        }
        if self.front <= RING_UNITS {
            return; // nothing was written over
        }
        while self.marks.len() > 1 && self.marks[0].0 + SURE_UNITS < self.front {
            self.marks.pop_front();
        }
        self.since = self.since.max(self.marks[0].1);
    }

    /// Empties the slots of one bucket whose entries were written over, so that none is left when the 32 bits that say
    /// where an entry is begin again.
    fn clear_old_slots(&mut self) {
        self.sweep = (self.sweep + 1) % self.table.len();
        for slot in 0..SLOTS {
            let entry = self.table[self.sweep][slot];
            if entry != 0 && !self.is_live(entry) {
                self.table[self.sweep][slot] = 0;
                self.used -= 1;
            }
        }
    }

    /// Doubles the table. A bucket is chosen by the highest bits of a hash, so what is in one goes into two neighbours.
    fn grow(&mut self) {
        let twice = self.table.len() * 2;
        let old = std::mem::replace(&mut self.table, vec![[0; SLOTS]; twice]);
        (self.used, self.sweep) = (0, 0);
        for (bucket, slots) in old.into_iter().enumerate() {
            let mut filled = [0; 2];
            for entry in slots {
                if !self.is_live(entry) {
                    continue;
                }
                let [first, second] = self.buckets(entry >> 32);
                let into = if first / 2 == bucket { first } else { second };
                self.table[into][filled[into % 2]] = entry;
                filled[into % 2] += 1;
                self.used += 1;
            }
        }
    }

    /// How far the front is from an entry, in units.
    fn age(&self, entry: u64) -> u64 {
        u64::from((self.front as u32).wrapping_sub(entry as u32))
    }

    /// Whether an entry is still there.
    fn is_live(&self, entry: u64) -> bool {
        entry != 0 && self.age(entry) <= RING_UNITS
    }

    /// Where an entry lies in the ring.
    fn place(&self, entry: u64) -> usize {
        ((self.front - self.age(entry)) % RING_UNITS) as usize * UNIT
    }

    fn name(&self, place: usize) -> &[u8] {
        let len = u16_at(&self.ring, place + 8) as usize;
        &self.ring[place + FIXED..place + FIXED + len]
    }

    fn revision(&self, place: usize) -> Revision {
        Revision::new(u64_at(&self.ring, place))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::format::term::Kind;

    fn term(name: &str) -> Term {
        Term::of(Kind::Stream, name.as_bytes())
    }

    /// Appends to streams, and looks up in a log what is not remembered, as the writer does.
    struct Writer {
        streams: Streams,
        log: HashMap<String, (Revision, Position)>,
        next: Position,
        looked_up: u64,
    }

    impl Writer {
        fn new() -> Self {
            let next = Position::new(1);
            Self { streams: Streams::new(next), log: HashMap::new(), next, looked_up: 0 }
        }

        /// Panics when memory and log do not give the right revision.
        fn append(&mut self, term: Term, name: &str) {
            let known = self.log.get(name).copied();
            let revision = self.streams.advance(term, name.as_bytes(), self.next).unwrap_or_else(|| {
                let before = known.filter(|(_, last)| *last < self.streams.since());
                self.looked_up += u64::from(self.streams.since() > Position::new(1));
                let stood = before.map_or(Revision::ABSENT, |(revision, _)| revision);
                self.streams.set(term, name.as_bytes(), stood, self.next);
                self.streams.advance(term, name.as_bytes(), self.next).unwrap()
            });
            let expected = known.map_or(Revision::ABSENT, |(revision, _)| revision).next();
            assert_eq!(revision, expected, "{name}");
            self.log.insert(name.to_owned(), (revision, self.next));
            self.next = self.next.next();
        }
    }

    #[test]
    fn as_many_streams_as_there_is_room_for_are_remembered_round_after_round() {
        let mut writer = Writer::new();
        let names: Vec<String> = (0..RING as u64 / 32).map(|number| format!("stream-{number}")).collect();
        for _ in 0..6 {
            names.iter().for_each(|name| writer.append(term(name), name));
        }
        assert_eq!(writer.looked_up, 0);
    }

    #[test]
    fn what_was_forgotten_lies_before_since_whatever_the_order() {
        let mut writer = Writer::new();
        let mut seed = 7u64;
        for round in 0..300_000u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Some hot ones, many cold ones, and names of all lengths.
            let number = if round % 3 == 0 { seed >> 60 } else { (seed >> 33) % 60_000 };
            let name = format!("{number}-{}", "x".repeat((number % 97) as usize));
            writer.append(term(&name), &name);
        }
        assert!(writer.looked_up > 1_000 && writer.streams.table.len() <= BUCKETS_MAX);
        assert!(writer.streams.since() > Position::new(150_000), "{}", writer.streams.since());
    }

    #[test]
    fn names_with_one_hash_are_streams_of_their_own_even_when_they_are_too_many_for_their_buckets() {
        let mut writer = Writer::new();
        for _ in 0..3 {
            for number in 0..100 {
                writer.append(Term(7 << 32), &format!("{number}"));
            }
        }
        assert!(writer.looked_up > 0);
    }

    #[test]
    fn short_names_that_are_too_many_for_the_table_are_forgotten_no_later_than_since() {
        // So short that a full ring has as many as the table has slots.
        let names: Vec<String> = (0..RING / 16).map(|number| format!("{number}")).collect();
        let mut writer = Writer::new();
        let mut seed = 7u64;
        for _ in 0..4 * names.len() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let name = &names[(seed >> 33) as usize % names.len()];
            writer.append(term(name), name);
        }
        assert!(writer.looked_up > 0);
    }

    #[test]
    fn nothing_is_forgotten_when_the_table_grows() {
        let (small, mut large) = (Streams::new(Position::new(1)), Streams::new(Position::new(1)));
        large.table = vec![[0; SLOTS]; 2 * BUCKETS_MIN];
        let tag = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let buckets = |number| (small.buckets(tag(number)), large.buckets(tag(number)));
        // Two hashes that share a bucket, in the larger table, too. The one that does not need it gets there first.
        let full = (1..).find(|number| buckets(*number).0 == [40, 50]).unwrap();
        let shares = |number: &u64| buckets(*number).0[0] < 40 && buckets(*number).1[1] == buckets(full).1[0];
        let other = (1..).find(shares).unwrap();
        let mut writer = Writer::new();
        let mut names = Vec::new();
        for (number, count) in [(full, 2 * SLOTS), (other, SLOTS)] {
            names.extend((0..count).map(|name| (Term(tag(number) << 32), format!("{number}-{name}"))));
        }
        names.iter().for_each(|(term, name)| writer.append(*term, name));
        let apart = |number: &u64| !buckets(*number).0.iter().any(|one| [40, 50, buckets(other).0[0]].contains(one));
        for number in (1..).filter(apart) {
            if writer.streams.table.len() > BUCKETS_MIN {
                break;
            }
            writer.append(Term(tag(number) << 32), &format!("alone-{number}"));
        }
        assert_eq!(writer.looked_up, 0, "there was room for all so far");
        names.iter().for_each(|(term, name)| writer.append(*term, name));
        assert_eq!(writer.looked_up, 0);
    }

    #[test]
    fn slots_of_what_was_written_over_are_emptied() {
        let mut writer = Writer::new();
        for number in 0..4 * RING as u64 / 24 {
            let name = format!("{number:014}");
            writer.append(term(&name), &name);
        }
        let live = |streams: &Streams| streams.table.iter().flatten().filter(|slot| streams.is_live(**slot)).count();
        let used = writer.streams.table.iter().flatten().filter(|slot| **slot != 0).count();
        assert_eq!(writer.streams.used, used);
        assert!(used <= live(&writer.streams) + writer.streams.table.len() * SLOTS / 2, "{used}");
    }
}
