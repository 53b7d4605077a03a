//! Where the streams stand that were written to lately: one hash table of names, bounded, forgetting the oldest half.

use crate::format::term::Term;
use crate::format::u64_at;
use crate::id::Revision;

/// Bytes of names and revisions that one half may take, about a million streams.
const HALF: usize = 40 << 20;

/// Bytes of an entry before its name: hash, revision, length of the name.
const FIXED: usize = 8 + 8 + 2;

/// A bounded memory of streams and their revisions.
///
/// When the newer half is full it becomes the older one, and what was not used since then is forgotten. Nothing is lost:
/// a stream that is not remembered is looked up in the indexes. `is_complete` says that nothing was ever forgotten or
/// left out, so that a stream which is not here does not exist.
#[derive(Debug)]
pub(crate) struct Streams {
    newer: Half,
    older: Half,
    pub(crate) is_complete: bool,
}

#[derive(Debug, Default)]
struct Half {
    /// High half: the high half of the hash. Low half: where the entry is, in units of eight bytes, plus one. 0: empty.
    slots: Vec<u64>,
    entries: Vec<u8>,
    count: usize,
}

impl Streams {
    /// Empty. `is_complete`: because there are no streams.
    pub(crate) fn new(is_complete: bool) -> Self {
        Self { newer: Half::default(), older: Half::default(), is_complete }
    }

    /// Where a stream stands, if it is remembered.
    pub(crate) fn get(&mut self, term: Term, name: &[u8]) -> Option<Revision> {
        if let Some(at) = self.newer.find(term, name) {
            return Some(self.newer.revision(at));
        }
        let revision = self.older.find(term, name).map(|at| self.older.revision(at))?;
        self.set(term, name, revision);
        Some(revision)
    }

    /// Moves a stream that is remembered one on, and tells where it stands then. The one look-up of a plain append.
    pub(crate) fn advance(&mut self, term: Term, name: &[u8]) -> Option<Revision> {
        if let Some(at) = self.newer.find(term, name) {
            let revision = self.newer.revision(at).next();
            self.newer.set_revision(at, revision);
            return Some(revision);
        }
        let revision = self.get(term, name)?.next();
        self.set(term, name, revision);
        Some(revision)
    }

    /// Remembers where a stream stands.
    pub(crate) fn set(&mut self, term: Term, name: &[u8], revision: Revision) {
        if let Some(at) = self.newer.find(term, name) {
            self.newer.set_revision(at, revision);
            return;
        }
        if self.newer.entries.len() > HALF {
            self.is_complete &= self.older.count == 0;
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(term, name, revision);
    }

    /// Forgets everything: a write failed, and what was remembered may be ahead of the log.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(false);
    }
}

impl Half {
    fn find(&self, term: Term, name: &[u8]) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut slot = term.0 as usize & mask;
        loop {
            let entry = self.slots[slot];
            if entry == 0 {
                return None;
            }
            if entry >> 32 == term.0 >> 32 {
                let at = ((entry as u32 - 1) as usize) * 8;
                if self.name(at) == name {
                    return Some(at);
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    fn insert(&mut self, term: Term, name: &[u8], revision: Revision) {
        if (self.count + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let at = self.entries.len();
        self.entries.extend_from_slice(&term.0.to_le_bytes());
        self.entries.extend_from_slice(&revision.get().to_le_bytes());
        self.entries.extend_from_slice(&(name.len() as u16).to_le_bytes());
        self.entries.extend_from_slice(name);
        self.entries.resize(self.entries.len().next_multiple_of(8), 0);
        self.place(term, at);
        self.count += 1;
    }

    fn place(&mut self, term: Term, at: usize) {
        let mask = self.slots.len() - 1;
        let mut slot = term.0 as usize & mask;
        while self.slots[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = (term.0 >> 32) << 32 | (at as u64 / 8 + 1);
    }

    fn grow(&mut self) {
        self.slots = vec![0; (self.slots.len() * 2).max(1024)];
        let mut at = 0;
        while at < self.entries.len() {
            self.place(Term(u64_at(&self.entries, at)), at);
            at = (at + FIXED + self.name(at).len()).next_multiple_of(8);
        }
    }

    fn name(&self, at: usize) -> &[u8] {
        let len = u16::from_le_bytes([self.entries[at + 16], self.entries[at + 17]]) as usize;
        &self.entries[at + FIXED..at + FIXED + len]
    }

    fn revision(&self, at: usize) -> Revision {
        Revision::new(u64_at(&self.entries, at + 8))
    }

    fn set_revision(&mut self, at: usize, revision: Revision) {
        self.entries[at + 8..at + 16].copy_from_slice(&revision.get().to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::term::Kind;

    #[test]
    fn a_million_streams_are_remembered_and_a_forgotten_one_is_not_made_up() {
        let mut streams = Streams::new(true);
        let name = |i: u32| format!("stream-{i}");
        let term = |name: &str| Term::of(Kind::Stream, name.as_bytes());
        for i in 0..1_000_000 {
            streams.set(term(&name(i)), name(i).as_bytes(), Revision::new(u64::from(i)));
        }
        for i in 0..1_000_000 {
            let found = streams.advance(term(&name(i)), name(i).as_bytes());
            assert_eq!(found, Some(Revision::new(u64::from(i) + 1)));
        }
        assert!(streams.is_complete && streams.get(term("x"), b"x").is_none());
        for i in 1_000_000..4_000_000 {
            streams.set(term(&name(i)), name(i).as_bytes(), Revision::new(1));
        }
        assert!(!streams.is_complete && streams.get(term(&name(0)), name(0).as_bytes()).is_none());
    }

    #[test]
    fn two_names_with_one_hash_are_two_streams() {
        let mut streams = Streams::new(true);
        streams.set(Term(7), b"a", Revision::new(1));
        streams.set(Term(7), b"b", Revision::new(2));
        assert_eq!(streams.get(Term(7), b"a"), Some(Revision::new(1)));
        assert_eq!(streams.get(Term(7), b"b"), Some(Revision::new(2)));
        assert_eq!(streams.get(Term(7), b"c"), None);
    }
}
