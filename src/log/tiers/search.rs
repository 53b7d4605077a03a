//! Which segments may hold what somebody looks for.

use std::ops::Range;

use crate::format::term::Term;
use crate::id::Position;
use crate::log::checked::Unsound;
use crate::log::terms::{Filter, Ways};
use crate::log::tiers::Covering;
use crate::log::tiers::file::Tier;

/// A look for terms, segment after segment. It remembers what the tier that it asked last has said.
#[derive(Debug)]
pub(crate) struct Search {
    /// `None`: everything.
    wanted: Option<Ways>,
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    covers: Range<Position>,
    /// The first positions of the segments that may bear it, rising.
    firsts: Vec<Position>,
}

impl Search {
    pub(crate) fn of(filter: &Filter) -> Self {
        Self { wanted: filter.ways(), known: None }
    }

    /// For everything: no segment is left out.
    pub(crate) fn everywhere() -> Self {
        Self { wanted: None, known: None }
    }

    pub(crate) fn term(term: Term) -> Self {
        Self { wanted: Some(vec![vec![vec![term]]]), known: None }
    }

    /// How an index finds what is searched for. `None`: it cannot.
    pub(crate) fn ways(&self) -> Option<&Ways> {
        self.wanted.as_ref()
    }

    /// The first positions of the segments of a tier that may bear it. `None`: any of them may.
    pub(crate) fn ask(&mut self, covering: &Covering) -> Result<Option<&[Position]>, Unsound> {
        let Some(wanted) = &self.wanted else { return Ok(None) };
        let (tier, covers) = (&covering.tier, covering.range());
        if self.known.as_ref().is_none_or(|known| known.covers != covers) {
            let segments = bearing(tier, wanted)?;
            let firsts = segments.into_iter().filter_map(|segment| tier.covered.get(segment)).map(|(first, _)| *first);
            self.known = Some(Known { covers, firsts: firsts.collect() });
        }
        Ok(self.known.as_ref().map(|known| &known.firsts[..]))
    }
}

/// The numbers of the segments in which an event could stand that is found every way of one alternative, rising.
fn bearing(tier: &Tier, wanted: &[Vec<Vec<Term>>]) -> Result<Vec<usize>, Unsound> {
    let mut all = Vec::new();
    for ways in wanted {
        let mut of_item: Option<Vec<usize>> = None;
        for way in ways {
            let mut of_way = Vec::new();
            for term in way {
                tier.bearing(*term, |segment| of_way.push(segment))?;
            }
            if way.len() > 1 {
                of_way.sort_unstable();
                of_way.dedup();
            }
            match &mut of_item {
                None => of_item = Some(of_way),
                Some(segments) => segments.retain(|segment| of_way.binary_search(segment).is_ok()),
            }
        }
        all.extend(of_item.unwrap_or_default());
    }
    if wanted.len() > 1 {
        all.sort_unstable();
        all.dedup();
    }
    Ok(all)
}
