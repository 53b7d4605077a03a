//! The index of the newest segment: in memory, made only when somebody asks.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::format::index::Unit;
use crate::format::term::Term;
use crate::log::cost::{self, ReadCost};
use crate::log::index::survey::Survey;
use crate::segment::Segment;

/// No posting comes before this one.
const NONE: u32 = u32::MAX;

/// The index of the frames up to some offset.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) survey: Survey,
    terms: HashMap<Term, Chain, BuildHasherDefault<HashIsKey>>,
    /// Each posting knows the one before it of the same term.
    postings: Vec<(Unit, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    last: u32,
    count: u32,
}

impl Memory {
    pub(super) fn new(segment: &Segment) -> Self {
        Self { survey: Survey::new(segment), terms: HashMap::default(), postings: Vec::new() }
    }

    /// Takes in the frames that have come since.
    pub(super) fn catch_up(&mut self, segment: &Segment, limit: u64) {
        let Self { survey, terms, postings } = self;
        let begun = survey.summary.end;
        survey.catch_up(segment, limit, |term, unit| {
            let at = postings.len() as u32;
            let chain = terms.entry(term).or_insert(Chain { last: NONE, count: 0 });
            postings.push((unit, chain.last));
            *chain = Chain { last: at, count: chain.count + 1 };
        });
        cost::count(&ReadCost { indexed_bytes: survey.summary.end - begun, ..ReadCost::default() });
    }

    /// How many frames bear a term.
    pub(super) fn count(&self, term: Term) -> u64 {
        self.terms.get(&term).map_or(0, |chain| u64::from(chain.count))
    }

    /// The postings of a term, latest first.
    pub(super) fn chain(&self, term: Term) -> impl Iterator<Item = Unit> {
        let mut at = self.terms.get(&term).map_or(NONE, |chain| chain.last);
        std::iter::from_fn(move || {
            let (unit, before) = *self.postings.get(at as usize)?;
            at = before;
            cost::index_bytes(size_of::<(Unit, u32)>());
            Some(unit)
        })
    }

    /// The postings of a term and the places where frames are lost, which might bear it, latest first. Says which is which.
    pub(super) fn latest_first(&self, term: Term) -> impl Iterator<Item = (Unit, bool)> {
        let mut chain = self.chain(term).peekable();
        let mut lost = self.survey.damaged.iter().rev().map(|lost| lost.unit).peekable();
        std::iter::from_fn(move || match (chain.peek(), lost.peek()) {
            (Some(known), Some(gone)) if known > gone => chain.next().map(|unit| (unit, false)),
            (_, Some(_)) => lost.next().map(|unit| (unit, true)),
            (_, None) => chain.next().map(|unit| (unit, false)),
        })
    }

    /// The postings of a term from `from` on and below `limit`, and the damaged places there, rising.
    pub(super) fn postings(&self, term: Term, from: u64, limit: u64) -> Vec<Unit> {
        let mut units: Vec<Unit> = self.chain(term).take_while(|unit| unit.offset() >= from).collect();
        units.extend(self.survey.damaged.iter().map(|lost| lost.unit).filter(|unit| unit.offset() >= from));
        units.retain(|unit| unit.offset() < limit);
        units.sort_unstable();
        units.dedup();
        units
    }
}

/// Terms are hashes already.
#[derive(Default)]
struct HashIsKey(u64);

impl Hasher for HashIsKey {
    fn write(&mut self, _: &[u8]) {
        unreachable!("terms hash as one u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
